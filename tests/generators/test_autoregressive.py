"""The decoder of sentences: likelihoods against NumPy, padding, dropout and settings."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import random
from tfebm.generators import BeamSearch
from tfebm.samplers import compilation
from tfebm.tokenizers import END, PAD, START, WordTokenizer

WORDS, EMBEDDING, HIDDEN, LATENT = 7, 5, 4, 3  # the vocabulary: four special ids, a, b and c
TOKENS = np.array([[4, 6, 3, 5, 2], [5, 2, 0, 0, 0], [4, 4, 4, 2, 0], [2, 0, 0, 0, 0]], np.int32)


def make(latent_size=LATENT, spread=1.0, **kwargs):
    """A small built generator; standard normal weights times `spread`, or as they start."""
    settings = {"embedding_size": EMBEDDING, "hidden_size": HIDDEN, "dropout": 0.0, **kwargs}
    generator = tfebm.AutoregressiveGenerator(WordTokenizer(["a", "b", "c"]), **settings)
    generator.build((None, latent_size))
    if spread is not None:
        rng = np.random.default_rng(0)
        for weight in generator.weights:
            weight.assign(spread * rng.normal(size=weight.shape))
    return generator


def latents(rows=4, latent_size=LATENT, seed=1):
    return tf.constant(np.random.default_rng(seed).normal(size=(rows, latent_size)), tf.float32)


def nll(generator, z, tokens, seeds=None):
    return generator.negative_log_likelihood(generator.states(z, tokens, seeds), tokens).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states_by_hand(generator, z, tokens, embedding_mask=1.0):
    """h_1, ..., h_T from the equations of the class, `[B, T, H]`."""
    w = {v.name: v.numpy().astype("float64") for v in generator.weights}
    z = np.asarray(z, "float64")
    h, c = z @ w["latent_kernel"] + w["latent_bias"], np.zeros((len(z), generator.hidden_size))
    if generator.latent_to_cell:
        c = z @ w["cell_kernel"] + w["cell_bias"]
    states, previous = [], np.full(len(z), START)
    for token in np.transpose(tokens):
        inputs = np.concatenate([embedding_mask * w["embedding"][previous], z], axis=1)
        gates = inputs @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
        previous = token
    return np.stack(states, axis=1)


def logits_by_hand(generator, z, tokens):
    kernel, bias = generator.output_kernel.numpy(), generator.output_bias.numpy()
    return states_by_hand(generator, z, tokens) @ kernel + bias


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


class TestLikelihood:
    @pytest.mark.parametrize("latent_to_cell", [False, True])
    @pytest.mark.parametrize("latent_size", [0, LATENT])
    def test_it_is_the_equations(self, latent_size, latent_to_cell):
        generator = make(latent_size, latent_to_cell=latent_to_cell)
        z = latents(latent_size=latent_size)
        logits = logits_by_hand(generator, z, TOKENS)
        np.testing.assert_allclose(generator(z, TOKENS), logits, rtol=1e-4, atol=1e-5)
        each = np.take_along_axis(log_softmax(logits), TOKENS[..., None], axis=2)[..., 0]
        expected = -np.sum(each, axis=1, where=TOKENS != PAD)
        np.testing.assert_allclose(nll(generator, z, TOKENS), expected, rtol=1e-5)

    def test_teacher_forcing_is_decoding_step_by_step(self):
        generator, z = make(latent_to_cell=True), latents()
        state = generator.start(z)
        previous, expected = tf.fill([4], START), np.zeros(4)
        for token in TOKENS.T:
            logits, state = generator.next_logits(previous, state, z)
            each = -np.take_along_axis(log_softmax(logits), token[:, None], axis=1)[:, 0]
            expected += np.where(token == PAD, 0.0, each)
            previous = tf.constant(token)
        np.testing.assert_allclose(nll(generator, z, TOKENS), expected, rtol=1e-5)

    def test_all_sentences_together_have_probability_one(self):
        # Where padding is impossible: those that end within two tokens, and all that go on.
        generator = make()
        generator.output_bias.assign(np.where(np.arange(WORDS) == PAD, -60.0, 0.3))
        words = [token for token in range(WORDS) if token not in (PAD, END)]
        sentences = [
            [END, PAD],
            *([word, END] for word in words),
            *map(list, itertools.product(words, words)),
        ]
        z = tf.repeat(latents(1), len(sentences), axis=0)
        probabilities = np.exp(-nll(generator, z, np.array(sentences, np.int32)))
        assert np.all(probabilities > 0)
        assert np.sum(probabilities, dtype=np.float64) == pytest.approx(1.0, rel=1e-5)

    def test_padding_is_not_counted_and_changes_nothing(self):
        generator, z = make(), latents()
        expected = nll(generator, z, TOKENS)
        longer = np.pad(TOKENS, [[0, 0], [0, 6]])
        np.testing.assert_allclose(nll(generator, z, longer), expected, rtol=1e-6)
        each = generator.token_nll(generator.states(z, longer), longer).numpy()
        assert np.all((each == 0) == (longer == PAD))
        for row, sentence in enumerate(TOKENS):  # alone, without any padding
            alone = nll(generator, z[row : row + 1], sentence[None, sentence != PAD])
            np.testing.assert_allclose(alone, expected[row : row + 1], rtol=1e-6)

    def test_the_end_token_is_counted(self):
        generator, z = make(), latents(1)
        ended, open_ended = np.array([[4, END]], np.int32), np.array([[4, PAD]], np.int32)
        log_end = log_softmax(logits_by_hand(generator, z, ended))[0, 1, END]
        difference = nll(generator, z, ended) - nll(generator, z, open_ended)
        assert float(difference[0]) == pytest.approx(-log_end, rel=1e-5)

    def test_gradients_are_those_of_the_logits_cross_entropy(self):
        generator, z = make(latent_to_cell=True), latents()
        weights = [v.value for v in generator.trainable_variables]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(z)
            rows = generator.negative_log_likelihood(generator.states(z, TOKENS), TOKENS)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(TOKENS, generator(z, TOKENS))
            total = tf.reduce_sum(rows * tf.range(1.0, 5.0))
            expected = tf.reduce_sum(
                tf.where(TOKENS == PAD, 0.0, each) * tf.range(1.0, 5.0)[:, tf.newaxis]
            )
        slopes = tape.gradient(total, [z, *weights])
        for slope, other in zip(slopes, tape.gradient(expected, [z, *weights]), strict=True):
            slope, other = tf.convert_to_tensor(slope), tf.convert_to_tensor(other)
            np.testing.assert_allclose(slope, other, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("jit", [False, True])
    def test_one_graph_serves_every_length(self, jit):
        generator = make()
        specs = [tf.TensorSpec([None, LATENT]), tf.TensorSpec([None, None], tf.int32)]
        compiled = tf.function(
            lambda z, tokens: generator.negative_log_likelihood(
                generator.states(z, tokens), tokens
            ),
            input_signature=specs,
            jit_compile=jit,
        )
        for length, rows in ((5, 4), (3, 2)):
            z, tokens = latents(rows), TOKENS[-rows:, :length]
            np.testing.assert_allclose(compiled(z, tokens), nll(generator, z, tokens), rtol=1e-5)
        assert compiled.experimental_get_tracing_count() == 1


class TestDropout:
    seeds = random.as_row_seeds(0, 4)

    def test_without_seeds_nothing_is_dropped(self):
        z = latents()
        expected = make().states(z, TOKENS)
        np.testing.assert_array_equal(make(dropout=0.5).states(z, TOKENS), expected)
        np.testing.assert_array_equal(make().states(z, TOKENS, self.seeds), expected)

    def test_a_row_depends_neither_on_its_batch_nor_on_padding(self):
        generator, z = make(dropout=0.5), latents()
        states = generator.states(z, TOKENS, self.seeds).numpy()
        alone = generator.states(z[1:2], TOKENS[1:2], self.seeds[1:2])
        np.testing.assert_allclose(alone, states[1:2], rtol=1e-5, atol=1e-6)
        longer = generator.states(z, np.pad(TOKENS, [[0, 0], [0, 4]]), self.seeds)
        np.testing.assert_allclose(longer[:, :5], states, rtol=1e-5, atol=1e-6)

    def test_other_seeds_have_other_masks(self):
        generator, z = make(hidden_size=50, dropout=0.5), latents()
        dropped = [
            generator.states(z, TOKENS, random.as_row_seeds(seed, 4)).numpy() == 0
            for seed in (0, 1)
        ]
        dropped.append(np.roll(dropped[0], 1, axis=0))  # another row's
        for mask in dropped:  # n = 1000 states; 5.5 standard errors of a share of one half
            assert abs(np.mean(mask) - 0.5) < 5.5 * 0.5 / np.sqrt(mask.size)
        for other in dropped[1:]:
            equal = np.mean(dropped[0] == other)
            assert abs(equal - 0.5) < 5.5 * 0.5 / np.sqrt(other.size)

    @pytest.mark.parametrize("dropout", [0.5, 0.2])
    def test_states_and_embeddings_keep_their_means(self, dropout):
        # One token and an embedding of one number, which is dropped or divided by `keep`: the
        # mean of h_1 is that of the two. Dropped states are 0, and others divided by `keep`.
        generator, n, keep = make(embedding_size=1, dropout=dropout), 40_000, 1 - dropout
        z, token = tf.repeat(latents(1), n, axis=0), np.array([[END]], np.int32)
        tokens = np.repeat(token, n, axis=0)
        states = generator.states(z, tokens, random.as_row_seeds(0, n)).numpy()[:, 0]
        off, on = (states_by_hand(generator, z[:1], token, m)[0, 0] for m in (0.0, 1 / keep))
        mean = dropout * off + keep * on
        variance = (dropout * off**2 + keep * on**2) / keep - mean**2
        assert np.all(np.abs(states.mean(0) - mean) < 5.5 * np.sqrt(variance / n))
        assert np.all(np.abs(on - off) / keep > 50 * np.sqrt(variance / n))  # which n can tell
        values = np.unique(np.round(states[:, 0], 4))
        np.testing.assert_allclose(values, np.sort([0.0, off[0] / keep, on[0] / keep]), atol=1e-4)

    def test_the_masks_of_embeddings_and_states_differ(self):
        n = 40_000
        generator = make(embedding_size=1, dropout=0.5)
        z, tokens = tf.repeat(latents(1), n, axis=0), np.full((n, 1), END, np.int32)
        state = generator.states(z, tokens, random.as_row_seeds(0, n)).numpy()[:, 0, 0]
        off, on = (2 * states_by_hand(generator, z[:1], tokens[:1], m)[0, 0, 0] for m in (0.0, 2.0))
        dropped_embedding = np.isclose(state, off, atol=1e-4)
        shown_embedding = np.isclose(state, on, atol=1e-4)
        # Independent masks: a quarter each, of n; the rest of the states are dropped themselves.
        for share in (dropped_embedding.mean(), shown_embedding.mean()):
            assert abs(share - 0.25) < 5.5 * np.sqrt(0.25 * 0.75 / n)

    def test_what_is_dropped_in_a_chain_is_drawn_anew_at_every_step(self):
        generator, z = make(dropout=0.5), latents()

        def energy(z, tokens, masks, step=0):
            states = generator.states(z, tokens, random.fold_in(masks, step))
            return generator.negative_log_likelihood(states, tokens)

        sampler = tfebm.ShortRunLangevin(2, 0.2, 0.0)
        end, trace = sampler(energy, z, TOKENS, self.seeds, with_step=True, trace=True)
        expected = z
        for k in range(3):
            with tf.GradientTape() as tape:
                tape.watch(expected)
                value = energy(expected, TOKENS, self.seeds, k)
            np.testing.assert_allclose(trace.energy[k], value, rtol=1e-4)
            if k < 2:
                expected = expected - 0.02 * tape.gradient(value, expected)
        np.testing.assert_allclose(end, expected, rtol=1e-4, atol=1e-5)


class TestWeights:
    @pytest.mark.parametrize("latent_to_cell", [False, True])
    @pytest.mark.parametrize("latent_size", [0, LATENT])
    def test_their_number(self, latent_size, latent_to_cell):
        generator = make(latent_size, latent_to_cell=latent_to_cell)
        v, e, h, d = WORDS, EMBEDDING, HIDDEN, latent_size
        lstm = (e + d) * 4 * h + h * 4 * h + 4 * h
        starts = (1 + latent_to_cell) * (d * h + h)
        assert generator.count_params() == v * e + lstm + starts + h * v + v

    def test_they_start_uniform_within_a_tenth(self):
        generator = make(spread=None, embedding_size=40, hidden_size=40, latent_to_cell=True)
        for weight in generator.weights:
            values = weight.numpy()
            assert np.abs(values).max() <= 0.1
            assert np.any(values != 0)
        values = np.concatenate([w.numpy().ravel() for w in generator.weights])
        # n = 14,327 values; the square of a uniform within a has mean a^2 / 3, variance 4 a^4 / 45.
        assert abs(values.mean()) < 5.5 * 0.1 / np.sqrt(3 * values.size)
        error = np.sqrt(4 / 45 / values.size)
        assert abs(np.mean((10 * values) ** 2) - 1 / 3) < 5.5 * error

    def test_a_latent_in_the_cell_changes_the_result(self):
        z, plain, other = latents(), make(), make(latent_to_cell=True)
        shared = {v.name: v.numpy() for v in plain.weights}
        added = [v for v in other.weights if v.name not in shared]
        assert [(v.name, v.shape) for v in added] == [
            ("cell_kernel", (LATENT, HIDDEN)),
            ("cell_bias", (HIDDEN,)),
        ]
        for weight in other.weights:
            weight.assign(shared.get(weight.name, tf.zeros(weight.shape)))
        np.testing.assert_allclose(nll(plain, z, TOKENS), nll(other, z, TOKENS), rtol=1e-6)
        for weight in added:
            weight.assign(tf.ones(weight.shape))
            assert np.all(nll(plain, z, TOKENS) != nll(other, z, TOKENS))
            weight.assign(tf.zeros(weight.shape))

    def test_building_twice_adds_nothing(self):
        generator = make()
        before = len(generator.weights)
        generator.build((None, LATENT))
        assert len(generator.weights) == before

    def test_mixed_precision_is_close_to_float32(self):
        generator, plain, z = make(dtype="mixed_bfloat16"), make(), latents()
        assert {w.dtype for w in generator.weights} == {"float32"}
        logits = generator(z, TOKENS)
        assert logits.dtype == tf.float32
        # Factors and the product are rounded, each to 2**-9 of its size.
        kernel, bias = np.abs(plain.output_kernel), np.abs(plain.output_bias)
        bound = 2 * 2**-8 * (np.abs(plain.states(z, TOKENS)) @ kernel + bias).max()
        error = np.abs(logits - plain(z, TOKENS)).max()
        assert 0 < error < bound
        # Each token's -log softmax moves by at most twice that.
        error = np.abs(nll(generator, z, TOKENS) - nll(plain, z, TOKENS))
        assert np.all(error <= 2 * bound * np.sum(TOKENS != PAD, axis=1))
        # The states are float32's own: latents are not rounded.
        np.testing.assert_array_equal(generator.states(z, TOKENS), plain.states(z, TOKENS))


class TestSettings:
    def test_config_round_trip(self):
        generator = make(
            dropout=0.25,
            latent_to_cell=True,
            max_length=9,
            decoding=BeamSearch(3, 0.5),
            dtype="mixed_bfloat16",
            name="decoder",
        )
        config = keras.saving.serialize_keras_object(generator)
        again = keras.saving.deserialize_keras_object(config)
        assert again.get_config() == generator.get_config()
        assert again.tokenizer.vocabulary == ("a", "b", "c")
        assert again.decoding == BeamSearch(3, 0.5)
        assert (again.dropout, again.latent_to_cell, again.max_length) == (0.25, True, 9)
        assert again.compute_dtype == "bfloat16"
        again.build((None, LATENT))
        again.set_weights(generator.get_weights())
        z = latents()
        np.testing.assert_array_equal(again(z, TOKENS), generator(z, TOKENS))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"embedding_size": 0}, "`embedding_size` must be a whole number of at least 1"),
            ({"hidden_size": 2.5}, "`hidden_size` must be a whole number of at least 1"),
            ({"max_length": 0}, "`max_length` must be a whole number of at least 1"),
            ({"dropout": 1.0}, "`dropout` must be at least 0 and less than 1. Received 1.0"),
            ({"dropout": -0.1}, "`dropout` must be"),
            ({"dropout": float("nan")}, "`dropout` must be"),
            ({"tokenizer": ["a", "b"]}, "must be a Tokenizer, .* Received a list"),
        ],
    )
    def test_arguments_that_cannot_be_used(self, arguments, message):
        settings = {"tokenizer": WordTokenizer(["a", "b", "c"]), **arguments}
        with pytest.raises(tfebm.InvalidInputError, match=message):
            tfebm.AutoregressiveGenerator(**settings)

    def test_the_result_has_the_shape_that_is_announced(self):
        generator = make()
        assert generator.compute_output_shape((4, LATENT)) == (4, None, WORDS)
        assert generator(latents(), TOKENS).shape == (4, 5, WORDS)

    def test_on_a_cpu_its_chains_run_plain(self, monkeypatch):
        monkeypatch.setattr(compilation, "accelerator_present", lambda: False)
        generator = make()

        def energy(z, tokens):
            return generator.negative_log_likelihood(generator.states(z, tokens), tokens)

        arguments = latents(), tf.constant(TOKENS)
        assert not compilation.resolve_jit_compile("auto", energy, arguments)

"""How sentences are written, against loops in Python and exhaustive search."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import random
from tfebm.generators import BeamSearch, Greedy, Sampled
from tfebm.tokenizers import END, PAD, START, WordTokenizer

WORDS, LATENT = 7, 3  # the vocabulary: four special ids, a, b and c
ROWS, LENGTH = 10, 6
WAYS = [Greedy(), Sampled(1.3), BeamSearch(3, 0.7)]
ways = pytest.mark.parametrize("decoding", WAYS, ids=["greedy", "sampled", "beam"])


def make(max_length=LENGTH, end_bias=0.0, **kwargs):
    """Weights that are large enough for sentences of several lengths."""
    generator = tfebm.AutoregressiveGenerator(
        WordTokenizer(["a", "b", "c"]), 5, 6, max_length=max_length, **kwargs
    )
    generator.build((None, LATENT))
    rng = np.random.default_rng(2)
    for weight in generator.weights:
        weight.assign(rng.normal(size=weight.shape))
    # Padding and the start token would be the most probable.
    generator.output_bias.assign([5.0, 5.0, end_bias, 0.0, 0.0, 0.0, 0.0])
    return generator


def latents(rows=ROWS):
    return tf.constant(np.random.default_rng(1).normal(size=(rows, LATENT)), tf.float32)


SEEDS = random.as_row_seeds(0, ROWS)


@functools.cache
def written(decoding):
    """By a generator with the default settings here, eagerly."""
    return make().write(latents(), SEEDS, decoding).numpy()


def log_softmax(logits):
    """Of what may be written."""
    logits = np.array(logits, "float64")
    logits[..., [PAD, START]] = -np.inf
    logits -= np.max(logits, axis=-1, keepdims=True)
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def log_probs_of(generator, z, sentences):
    """log p(x_t | x_<t, z), `[N, T, V]`, of sentences for one `z`, or for each its own."""
    z = tf.broadcast_to(z, [len(sentences), LATENT])
    return log_softmax(generator(z, np.asarray(sentences, np.int32)))


def greedy_by_hand(generator, z):
    """Each token the most probable behind those before it, until the end."""
    ids = np.zeros((len(z), generator.max_length), np.int32)
    for t in range(generator.max_length):
        chosen = np.argmax(log_probs_of(generator, z, ids[:, : t + 1])[:, t], axis=-1)
        ids[:, t] = np.where(np.any(ids == END, axis=1), PAD, chosen)
    return ids


def all_sentences(length):
    """Those that end within `length` tokens, and those of `length` tokens that do not end."""
    words = [token for token in range(WORDS) if token not in (PAD, START, END)]
    sentences = []
    for count in range(length + 1):
        for start in itertools.product(words, repeat=count):
            ended = [*start, END] if count < length else [*start]
            sentences.append(ended + [PAD] * (length - len(ended)))
    return np.array(sentences, np.int32)


def totals_of(generator, z, sentences, length_penalty=0.0):
    """log p(x | z) / length**length_penalty of each, `[N]`."""
    log_probs = log_probs_of(generator, z, sentences)
    each = np.take_along_axis(log_probs, sentences[..., None], axis=2)[..., 0]
    lengths = np.sum(sentences != PAD, axis=1)
    return np.sum(each, axis=1, where=sentences != PAD) / lengths**length_penalty


class TestAllWays:
    @ways
    def test_behind_the_end_there_is_padding_alone(self, decoding):
        ids = written(decoding)
        assert ids.shape == (ROWS, LENGTH)
        assert ids.dtype == np.int32
        behind = np.cumsum(ids == END, axis=1) - (ids == END) > 0
        assert np.all(ids[behind] == PAD)
        assert np.all(ids[~behind] != PAD)
        assert len(set(np.sum(~behind, axis=1))) > 2  # sentences of several lengths

    @ways
    def test_padding_and_the_start_are_never_written(self, decoding):
        generator = make()
        generator.output_bias.assign([100.0, 100.0, -50.0, 0.0, 0.0, 0.0, 0.0])
        assert np.all(np.argmax(generator(latents(), tf.fill([ROWS, 1], 4)), -1) <= START)
        ids = generator.write(latents(), SEEDS, decoding).numpy()
        assert np.all(ids > END)  # nor do they take the place of a word: no sentence ends

    @ways
    def test_sentences_that_end_at_once(self, decoding):
        ids = make(end_bias=60.0).write(latents(), SEEDS, decoding)
        np.testing.assert_array_equal(ids, [[END] + [PAD] * (LENGTH - 1)] * ROWS)

    @ways
    def test_a_single_token_and_no_rows_at_all(self, decoding):
        ids = make(max_length=1).write(latents(), SEEDS, decoding)
        assert ids.shape == (ROWS, 1)
        assert make().write(latents()[:0], SEEDS[:0], decoding).shape == (0, LENGTH)

    @ways
    @pytest.mark.parametrize("jit", [False, True])
    def test_graphs_write_what_eager_operations_write(self, decoding, jit):
        generator = make()
        specs = [tf.TensorSpec([None, LATENT]), tf.TensorSpec([None, 2], tf.int32)]

        @tf.function(input_signature=specs, jit_compile=jit)
        def write(z, seeds):
            ids = generator.write(z, seeds, decoding)
            assert ids.shape.as_list() == [None, LENGTH]
            return ids

        np.testing.assert_array_equal(write(latents(), SEEDS), written(decoding))

    @ways
    def test_a_row_is_written_alike_in_any_batch(self, decoding):
        rows = [7, 0, 4]
        moved = make().write(tf.gather(latents(), rows), tf.gather(SEEDS, rows), decoding)
        np.testing.assert_array_equal(moved, written(decoding)[rows])

    def test_a_latent_in_the_cell_and_low_precision_are_seen(self):
        z, greedy = latents(), written(Greedy())
        assert np.any(make(latent_to_cell=True).write(z) != greedy)
        low = make(dtype="mixed_bfloat16")
        assert np.any(low(z, greedy) != make()(z, greedy))
        assert np.mean(low.write(z) == greedy) > 0.5

    def test_the_generators_own_way_is_the_default(self):
        ids = make(decoding=WAYS[1]).write(latents(), SEEDS)
        np.testing.assert_array_equal(ids, written(WAYS[1]))
        assert make().decoding == Greedy()

    @ways
    def test_config_round_trip(self, decoding):
        config = keras.saving.serialize_keras_object(decoding)
        assert keras.saving.deserialize_keras_object(config) == decoding

    @pytest.mark.parametrize("decoding", ["greedy", Greedy, object()])
    def test_another_way_is_refused(self, decoding):
        with pytest.raises(tfebm.InvalidInputError, match=r"Greedy\(\), Sampled\(...\) or Beam"):
            make().write(latents(), SEEDS, decoding)


class TestGreedy:
    def test_it_is_the_argmax_at_every_step(self):
        np.testing.assert_array_equal(written(Greedy()), greedy_by_hand(make(), latents()))

    def test_seeds_do_not_matter(self):
        np.testing.assert_array_equal(make().write(latents()), written(Greedy()))


class TestSampled:
    rows = 20_000

    def drawn(self, temperature):
        """Two tokens of many sentences for one latent, and the probabilities of the first."""
        generator, z = make(max_length=2), latents(1)
        seeds = random.as_row_seeds(5, self.rows)
        ids = generator.write(tf.repeat(z, self.rows, axis=0), seeds, Sampled(temperature))
        logits = generator(z, tf.constant([[PAD]]))[0, 0] / temperature
        return generator, z, ids.numpy(), np.exp(log_softmax(logits))

    def check(self, tokens, probabilities):
        """Shares within 5.5 standard errors, sqrt(p (1 - p) / n), each; one more for rounding."""
        n = len(tokens)
        shares = np.bincount(tokens, minlength=WORDS) / n
        errors = np.sqrt(probabilities * (1 - probabilities) / n)
        assert np.all(np.abs(shares - probabilities) <= 5.5 * errors + 1 / n)

    @pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
    def test_first_tokens_have_the_probabilities_of_the_softmax(self, temperature):
        _, _, ids, probabilities = self.drawn(temperature)
        assert np.sum(probabilities > 0.02) >= 3  # a distribution that n rows can tell from others
        self.check(ids[:, 0], probabilities)

    def test_second_tokens_have_their_probabilities_given_the_first(self):
        generator, z, ids, _ = self.drawn(1.0)
        words, counts = np.unique(ids[ids[:, 0] != END, 0], return_counts=True)
        assert np.sum(counts > 1000) >= 2
        for word in words[counts > 1000]:
            log_probs = log_probs_of(generator, z[0], [[word, PAD]])[0, 1]
            self.check(ids[ids[:, 0] == word, 1], np.exp(log_probs))

    def test_other_seeds_draw_other_sentences(self):
        generator, z = make(), latents()
        other = generator.write(z, random.as_row_seeds(1, ROWS), Sampled())
        assert np.any(other != written(Sampled()))
        together = generator.write(tf.repeat(z[:1], ROWS, axis=0), SEEDS, Sampled())
        assert len(np.unique(together, axis=0)) > 2

    def test_low_temperatures_tend_to_greedy(self):
        np.testing.assert_array_equal(written(Sampled(1e-4)), written(Greedy()))
        assert np.any(written(Sampled(1.0)) != written(Greedy()))

    def test_it_needs_seeds(self):
        with pytest.raises(tfebm.InvalidInputError, match="Sampling needs `seeds`"):
            make().write(latents(), None, Sampled())
        with pytest.raises(tfebm.InvalidInputError, match="int32"):
            make().write(latents(), tf.zeros([ROWS, 3]), Sampled())

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
    def test_temperatures_that_cannot_be_used(self, temperature):
        with pytest.raises(tfebm.InvalidInputError, match="`temperature` must be a positive"):
            Sampled(temperature)


class TestBeamSearch:
    @pytest.mark.parametrize("length_penalty", [0.0, 1.0])
    @pytest.mark.parametrize("end_bias", [0.0, 1.0])
    def test_a_beam_of_all_sentences_finds_the_best(self, length_penalty, end_bias):
        # 1 + 4 + 16 sentences that end within three tokens, and 64 that do not.
        generator, sentences, z = make(3, end_bias), all_sentences(3), latents()
        assert len(sentences) == 85
        best = []
        for row in z:
            totals = totals_of(generator, row, sentences, length_penalty)
            first, second = np.sort(totals)[:-3:-1]
            assert first - second > 1e-5  # no ties
            best.append(sentences[np.argmax(totals)])
        ids = generator.write(z, None, BeamSearch(85, length_penalty))
        np.testing.assert_array_equal(ids, best)

    def test_all_sentences_together_have_probability_one(self):
        # What the search above compares is a distribution.
        totals = totals_of(make(3), latents(1)[0], all_sentences(3))
        assert np.sum(np.exp(totals)) == pytest.approx(1.0, rel=1e-5)

    def test_it_finds_better_sentences_than_greedy_and_a_penalty_longer_ones(self):
        generator, z = make(3, 1.0), latents()
        greedy = generator.write(z, None, Greedy()).numpy()
        best = generator.write(z, None, BeamSearch(85)).numpy()
        longer = generator.write(z, None, BeamSearch(85, 1.0)).numpy()
        gained = [
            np.ptp(totals_of(generator, row, np.stack(pair)))
            for row, pair in zip(z, zip(greedy, best, strict=True), strict=True)
        ]
        assert np.max(gained) > 0.1
        lengths = [np.sum(ids != PAD, axis=1) for ids in (best, longer)]
        assert np.all(lengths[1] >= lengths[0])
        assert np.any(lengths[1] > lengths[0])

    def test_a_width_of_one_is_greedy(self):
        np.testing.assert_array_equal(written(BeamSearch(1, 1.0)), written(Greedy()))

    def test_a_beam_wider_than_all_sentences_changes_nothing(self):
        generator, z = make(2), latents()
        for penalty in (0.0, 1.0):
            ids = generator.write(z, None, BeamSearch(21, penalty))
            np.testing.assert_array_equal(generator.write(z, None, BeamSearch(60, penalty)), ids)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"width": 0}, "`width` must be a whole number of at least 1"),
            ({"width": 2.5}, "`width` must be a whole number"),
            ({"length_penalty": -0.5}, "`length_penalty` must be a number of at least 0"),
            ({"length_penalty": float("nan")}, "`length_penalty` must be"),
        ],
    )
    def test_settings_that_cannot_be_used(self, arguments, message):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            BeamSearch(**arguments)

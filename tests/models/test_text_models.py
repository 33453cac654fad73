"""Models of sentences: the same classes as for images, over an autoregressive generator."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import inferred, weights_of

import tfebm
from tfebm import random
from tfebm.data import sentence_batches
from tfebm.generators import BeamSearch, Greedy, Sampled
from tfebm.models import TEXT_STEP_SIZES, text_sampler

WORDS = ["a", "cat", "dog", "sleeps", "barks", "the"]
SENTENCES = ["a cat sleeps", "the dog barks", "a dog sleeps", "cat", "the the dog sleeps"]


def generator(dropout=0.5, **kwargs):
    tokenizer = tfebm.tokenizers.WordTokenizer(WORDS)
    return tfebm.AutoregressiveGenerator(tokenizer, 5, 7, dropout, max_length=8, **kwargs)


def chain(**kwargs):
    return tfebm.ShortRunLangevin(3, [0.5, 0.3, 0.1], **{"noise_scale": 0.2, **kwargs})


def short_run(dropout=0.5, **kwargs):
    return tfebm.ShortRunModel(
        generator(dropout), **{"latent_size": 3, "posterior_sampler": chain(), **kwargs}
    )


def latent_ebm(dropout=0.5, **kwargs):
    prior = tfebm.ShortRunLangevin(3, 0.3)
    options = {"latent_size": 3, "prior_sampler": prior, "posterior_sampler": chain(), **kwargs}
    return tfebm.LatentEBM(generator(dropout), tfebm.EnergyMLP((4,)), **options)


def vae(dropout=0.5, **kwargs):
    return tfebm.VAE(generator(dropout), **{"latent_size": 3, **kwargs})


def language_model(dropout=0.5, **kwargs):
    return tfebm.LanguageModel(generator(dropout), **kwargs)


MODELS = {
    "short_run": short_run,
    "latent_ebm": latent_ebm,
    "vae": vae,
    "language_model": language_model,
}
# Of the two ways to infer; `latent_ebm` has the chain of `short_run`.
WITH_LATENTS = ["short_run", "vae"]


def ids(model, sentences=SENTENCES):
    return model.generator.tokenizer.tokenize(tf.constant(sentences)).numpy()


# Tracing is most of what these tests cost: inference is asked of one model each, as made.
@pytest.fixture(scope="module", params=WITH_LATENTS)
def with_latents(request):
    keras.utils.set_random_seed(0)
    return MODELS[request.param]()


# ---- Learning -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_learns_a_few_sentences(name):
    model = MODELS[name]()
    model.compile(**{o: keras.optimizers.Adam(0.02) for o in model.optimized})
    x, first = ids(model), weights_of(model)
    before = model.evaluate(x, return_dict=True, verbose=0)
    assert "reconstruction_mse" not in before
    # A sum over the tokens of a sentence, each of which costs about log V with small weights.
    per_token = np.log(model.generator.vocabulary_size)
    expected = np.count_nonzero(x, axis=1).mean() * per_token
    assert before["generator_loss"] == pytest.approx(expected, rel=0.05)
    batches = sentence_batches(x, batch_size=5, seed=0)
    history = model.fit(batches, steps_per_epoch=70, verbose=0, shuffle=False).history
    assert int(model.step.numpy()) == 70
    after = model.evaluate(x, return_dict=True, verbose=0)
    assert after["generator_loss"] < 0.6 * before["generator_loss"]
    assert set(after) == set(history)
    last = weights_of(model)
    still = {path.split()[1] for path, value in first.items() if np.array_equal(value, last[path])}
    # Without a latent its kernels are empty; a chain's step sizes are tuned, not learned; and the
    # last bias of an energy cancels in its contrast.
    cancels = {"bias"} if name == "latent_ebm" else set()
    assert still <= {"posterior_step_size", "latent_kernel"} | cancels


@pytest.mark.parametrize("name", ["short_run", "vae"])
def test_padding_changes_neither_gradients_nor_metrics(name):
    model = MODELS[name]()
    x = tf.constant(ids(model))
    seeds = random.as_row_seeds(0, len(SENTENCES))
    found = []
    for rows in (x, tf.pad(x, [[0, 0], [0, 4]])):
        model.reset_metrics()
        grads, logs = model.learn(rows, seeds, training=True)
        found.append((grads, {metric: float(value) for metric, value in logs.items()}))
    (grads, logs), (of_longer, logs_of_longer) = found
    for network, parts in grads.items():
        for grad, other in zip(parts, of_longer[network], strict=True):
            np.testing.assert_allclose(grad, other, atol=1e-6)
    assert logs == pytest.approx(logs_of_longer, rel=1e-5)


def test_the_chain_of_a_learning_step_has_fresh_masks_at_every_step(monkeypatch):
    model = short_run()
    x, seeds = tf.constant(ids(model)), random.as_row_seeds(0, len(SENTENCES))
    seen = []
    states = model.generator.states

    def record(z, tokens, seeds=None):
        seen.append(None if seeds is None else seeds.numpy())
        return states(z, tokens, seeds)

    monkeypatch.setattr(model.generator, "states", record)
    model.posterior_sampler.jit_compile = False
    tf.config.run_functions_eagerly(True)
    try:
        model.learn(x, seeds, training=True)
        learning, seen[:] = list(seen), []
        model.learn(x, seeds, training=False)
    finally:
        tf.config.run_functions_eagerly(False)
    masks = [of_step for of_step in learning if of_step is not None]
    # Three steps of the chain and the learning pass (the rule of compilation may look once more).
    assert len({of_step.tobytes() for of_step in masks}) == 4
    # Rows differ too, and inference drops nothing.
    assert all(len(np.unique(of_step, axis=0)) == len(SENTENCES) for of_step in masks)
    assert all(of_step is None for of_step in seen)


def test_dropout_in_the_chain_matters_while_learning_alone():
    x = tf.constant(ids(short_run()))
    seeds = random.as_row_seeds(3, len(SENTENCES))
    with_dropout, without = short_run(0.5), short_run(0.0)
    for weight, other in zip(without.weights, with_dropout.weights, strict=True):
        weight.assign(5.0 * other if "step" not in weight.name else other)
        other.assign(weight)

    def ends(training):
        return [inferred(model, x, seeds, training).numpy() for model in (with_dropout, without)]

    np.testing.assert_array_equal(*ends(training=False))
    assert np.abs(np.subtract(*ends(training=True))).max() > 1e-3


def test_the_temperature_is_annealed_while_learning_and_fixed_in_inference():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.0, 3.0])
    model = short_run(0.0, noise_schedule=schedule)
    x, seeds = tf.constant(ids(model)), random.as_row_seeds(0, len(SENTENCES))

    def end(training):
        return inferred(model, x, seeds, training).numpy()

    def by_sampler(noise_scale):
        sampler = chain(noise_scale=noise_scale)
        start, streams = model.inference.first.draw(x, seeds)
        return sampler(model.posterior_energy, start, x, seed=streams).numpy()

    plain = end(False)
    np.testing.assert_allclose(plain, by_sampler(0.2), atol=1e-6)
    np.testing.assert_allclose(end(True), by_sampler(0.0), atol=1e-6)
    traces = model.posterior_sampler.num_traces
    model.step.assign(10)
    np.testing.assert_allclose(end(True), by_sampler(3.0), atol=1e-6)
    np.testing.assert_array_equal(end(False), plain)
    assert model.posterior_sampler.num_traces == traces


def test_the_prior_warms_up_while_learning_and_counts_whole_in_inference():
    class Weight(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return tf.constant(100.0)

    model = short_run(0.0, prior_schedule=Weight())
    x, seeds = tf.constant(ids(model)), random.as_row_seeds(0, len(SENTENCES))
    start = model.inference.first.draw(x, seeds)[0]
    z = inferred(model, x, seeds, training=False)
    assert 0.2 < np.linalg.norm(z) / np.linalg.norm(start) < 1.2
    # 1 - 100 s**2 / 2 = -11.5, -3.5, 0.5
    heavy = inferred(model, x, seeds, training=True)
    np.testing.assert_allclose(
        np.linalg.norm(heavy) / np.linalg.norm(start), 11.5 * 3.5 * 0.5, rtol=0.1
    )


def test_presets_are_the_papers():
    assert text_sampler().get_config()["step_size"] == list(TEXT_STEP_SIZES)
    assert len(TEXT_STEP_SIZES) == 20
    assert text_sampler(3).step_size == [0.8, 0.7, 0.6]
    assert text_sampler(22).step_size[-3:] == [0.05] * 3
    model = tfebm.ShortRunModel(generator(), latent_size=3)
    assert model.posterior_sampler.get_config() == text_sampler().get_config()
    model.compile()
    assert model.optimizer.global_clipnorm == 5.0
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    ebm = tfebm.LatentEBM(generator(), tfebm.EnergyMLP((4,)), latent_size=3)
    ebm.compile()
    samplers = [
        (s.num_steps, s.step_size, s.noise_scale)
        for s in (ebm.prior_sampler, ebm.posterior_sampler)
    ]
    assert samplers == [(40, 0.5, 1.0), (20, 0.5, 0.0)]
    assert ebm.energy_optimizer.global_clipnorm == 1.0
    assert ebm.energy_optimizer.weight_decay == pytest.approx(1e-3)


def test_free_bits_leave_units_below_them_alone():
    x = tf.constant(ids(vae()))
    seeds = random.as_row_seeds(0, len(SENTENCES))
    model, free = vae(0.0), vae(0.0, free_bits=1e9)
    for weight, other in zip(free.weights, model.weights, strict=True):
        weight.assign(other)
    # As if the KL were not there.
    warm = vae(0.0, kl_warmup_steps=10**9)
    for weight, other in zip(warm.weights, model.weights, strict=True):
        weight.assign(other)
    of_free, of_warm, of_vae = (
        m.learn(x, seeds, training=True)[0]["encoder"] for m in (free, warm, model)
    )
    for a, b in zip(of_free, of_warm, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(of_free, of_vae, strict=True))
    # Units above them cost their whole KL; the metric is the KL itself.
    few = vae(0.0, free_bits=1e-9)
    for weight, other in zip(few.weights, model.weights, strict=True):
        weight.assign(other)
    grads, logs = few.learn(x, seeds, training=True)
    for a, b in zip(grads["encoder"], of_vae, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    assert logs["kl"] == model.get_metrics_result()["kl"]


# ---- Inference --------------------------------------------------------------------------------


def test_strings_and_their_ids_have_one_answer(with_latents):
    model = with_latents
    for method in (model.infer, model.score):
        np.testing.assert_allclose(method(SENTENCES), method(ids(model)), atol=1e-5)
    assert model.reconstruct(SENTENCES).shape == (5,)
    assert all(isinstance(text, str) for text in model.reconstruct(SENTENCES))
    assert model.features(SENTENCES, num_chains=2).shape == (5, 3)
    assert model.interpolate(SENTENCES[:2], SENTENCES[2:4], num_steps=3).shape == (2, 3)
    assert model.score([]).shape == (0,)


def test_padding_changes_no_answer(with_latents):
    longer = np.pad(ids(with_latents), [[0, 0], [0, 5]])
    expected = with_latents.score(SENTENCES)
    np.testing.assert_allclose(with_latents.score(longer), expected, rtol=1e-5)


def test_generation_is_keyed_by_row_and_takes_a_decoding(with_latents):
    model = with_latents
    greedy, sampled = model.generate(4, seed=1), model.generate(4, seed=1, decoding=Sampled())
    np.testing.assert_array_equal(model.generate(2, seed=1), greedy[:2])
    np.testing.assert_array_equal(model.generate(2, seed=1, decoding=Sampled()), sampled[:2])
    assert (greedy != sampled).any()
    z = model.sample_prior(random.as_row_seeds(1, 4))
    np.testing.assert_array_equal(model.decode_latents(z, decoding=Greedy()), greedy)
    # The generator's own setting is used where none is given, traced anew when it changes.
    model.generator.decoding = Sampled()
    try:
        np.testing.assert_array_equal(model.generate(4, seed=1), sampled)
    finally:
        model.generator.decoding = Greedy()
    assert model.generate(2, seed=1, decoding=BeamSearch(2)).shape == (2,)


def test_one_trace_serves_all_lengths(with_latents):
    model = with_latents
    model.score(SENTENCES)
    model.score(["cat", "the the the the the cat"], batch_size=1)
    functions = [f for key, f in model.rows._functions.items() if key[0] == "score_rows"]
    assert [f.experimental_get_tracing_count() for f in functions] == [1]


def test_features_are_means_over_chains_or_the_encoders():
    model = short_run()
    z = model.infer(SENTENCES, num_chains=4)
    np.testing.assert_allclose(model.features(SENTENCES, num_chains=4), z.mean(axis=1), atol=1e-6)
    encoder = vae()
    means, _ = tf.split(encoder.encoder(ids(encoder)), 2, axis=-1)
    np.testing.assert_allclose(encoder.features(SENTENCES), means, atol=1e-5)


def test_step_sizes_can_be_tuned_over_sentences():
    model = short_run()
    found = model.tune_step_size(SENTENCES, criterion="ksd", num_values=2, num_chains=2)
    np.testing.assert_allclose(model.posterior_step_size, found.table, rtol=1e-6)


# ---- Saving -----------------------------------------------------------------------------------


def test_schedules_come_back(tmp_path):
    decay = keras.optimizers.schedules.PolynomialDecay(0.1, 10, 1.0)
    model = short_run(noise_schedule=decay, prior_schedule=decay)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.noise_schedule.get_config() == decay.get_config()
    assert again.prior_schedule.get_config() == decay.get_config()


# ---- What cannot be used ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (SENTENCES, "ids of tokens"),
        (np.zeros((2, 3), np.float32), "ids of tokens"),
        (np.full((2, 3), 10), "vocabulary"),
        (np.full((2, 3), -1), "vocabulary"),
        (np.zeros((2, 3), np.int32), "padding alone"),
        (np.array([[4, 2, 0], [4, 0, 2]], np.int32), "Sentence 1 has a 0 before other ids"),
        (np.zeros((0, 3), np.int32), "no sentences"),
        (np.full(3, 2), "ids of tokens"),
    ],
)
def test_data_that_cannot_be_learned(x, message):
    model = language_model()
    model.compile()
    with pytest.raises(tfebm.InvalidInputError, match=message):
        model.fit(x, verbose=0)


def test_arguments_that_have_no_meaning_for_sentences():
    with pytest.raises(tfebm.InvalidInputError, match="own softmax"):
        tfebm.ShortRunModel(generator(), 3, likelihood=tfebm.GaussianLikelihood())
    with pytest.raises(tfebm.InvalidInputError, match="one vector"):
        tfebm.ShortRunModel(generator(), (3, 4))
    with pytest.raises(tfebm.InvalidInputError, match="single string"):
        short_run().score("a cat")
    with pytest.raises(tfebm.InvalidInputError, match="free_bits"):
        vae(free_bits=-1.0)
    with pytest.raises(tfebm.InvalidInputError, match="whole model"):
        tfebm.FlowEBM(short_run(), tfebm.EnergyMLP((4,)))
    images = tfebm.ShortRunModel(tfebm.DeconvGenerator((28, 28, 1), 2), 3)
    with pytest.raises(tfebm.InvalidInputError, match="makes arrays"):
        images.generate(1, decoding=Sampled())


def test_a_language_model_has_no_latents():
    model = language_model()
    for method in (model.infer, model.features, model.reconstruct):
        with pytest.raises(tfebm.InvalidInputError, match="no latents"):
            method(SENTENCES)
    with pytest.raises(tfebm.InvalidInputError, match="no latents"):
        model.interpolate(SENTENCES, SENTENCES)
    with pytest.raises(tfebm.InvalidInputError, match="of its own"):
        tfebm.LanguageModel(short_run().generator)
    with pytest.raises(tfebm.InvalidInputError, match="generator of sentences"):
        tfebm.LanguageModel(tfebm.DeconvGenerator())
    np.testing.assert_allclose(model.predict(ids(model), verbose=0), model.score(SENTENCES))

"""Promises that every model of the table in `tests/zoo.py` keeps.

Tracing is nearly all that these tests cost. So there is one model of each kind, set back to its
start before each test; nothing here may compile it anew.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import graphs, signatures_of
from zoo import LINES, MODELS, examples

import tfebm
from tfebm import random
from tfebm.models import latents
from tfebm.models.parts import chains_of

EVERY = pytest.mark.parametrize("name", MODELS)
ROWS = 11
BATCH = 5
"""Batches of 5, 5 and 1: two replicas halve none of them, and one has no row of the last."""
SAME_FOR_ALL_SEEDS = {"FlowModel"}


def adam():
    """It divides by the size of a gradient: near 0 that would turn rounding into steps. It clips,
    and what is clipped of a part is not the part of what is clipped."""
    return keras.optimizers.Adam(0.01, epsilon=0.01, global_clipnorm=0.5)


def made(name, **options):
    """A compiled model of its own, always with the same weights."""
    keras.utils.set_random_seed(0)
    model = MODELS[name](**options)
    model.compile(**{each: adam() for each in model.optimized})
    return model


def variables_of(model):
    """All that a run depends on: weights, the step, chains, and what the optimizers keep."""
    optimizers = [getattr(model, name) for name in model.optimized]
    return [*model.variables, *(v for each in optimizers for v in each.variables)]


def state_of(model):
    return [v.numpy() for v in variables_of(model)]


def set_state(model, state):
    for variable, value in zip(variables_of(model), state, strict=True):
        variable.assign(value)


def assert_same(found, expected):
    """Bit for bit."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@functools.cache
def _shared(name):
    """The model of a kind, its start, and its state and its traces after a `fit`."""
    model = made(name)
    start = state_of(model)
    history = fit(model, rows(model))
    traces = [each.num_traces for each in chains_of(model)]
    return model, start, state_of(model), history, traces


def fresh(name):
    """The model of a kind as it was made."""
    model, start = _shared(name)[:2]
    set_state(model, start)
    return model


def trained(name):
    """The model of a kind after a `fit`."""
    model, end = _shared(name)[0], _shared(name)[2]
    set_state(model, end)
    return model


def tuned(name):
    """The same, with other step sizes of the chain that infers."""
    model = trained(name)
    chain = model.inference.chain
    if chain is not None:
        chain.step_size.assign(
            tf.random.stateless_uniform(chain.step_size.shape, [0, 1], 0.02, 0.1)
        )
    return model


def rows(model):
    return examples(model)[:ROWS]


def fit(model, data, epochs=2):
    """The history."""
    size = None if isinstance(data, tf.data.Dataset) else BATCH
    return model.fit(data, batch_size=size, epochs=epochs, verbose=0, shuffle=False).history


# ---- Learning -----------------------------------------------------------------------------


@EVERY
def test_arrays_and_data_sets_train_alike(name):
    model, _, end, history, traces = _shared(name)
    x = rows(model)
    assert all(np.isfinite(values).all() for values in history.values())
    assert int(model.step.numpy()) == 6
    assert max(traces, default=0) <= 1  # over epochs with partial batches
    data_set = tf.data.Dataset.from_tensor_slices(x).batch(BATCH)
    for data in (x, data_set):
        found = fit(fresh(name), data)
        assert_same(state_of(model), end)
        assert found == history


@EVERY
def test_weights_of_examples_are_refused_and_nothing_is_learned(name):
    model = fresh(name)
    x, ones, before = rows(model), np.ones(ROWS, "float32"), state_of(model)
    with_weights = tf.data.Dataset.from_tensors((x, x, ones))
    for refused, message in (
        (lambda: model.fit(x, sample_weight=ones), "`sample_weight` is not supported"),
        (lambda: model.fit(x, ones, class_weight={0: 1.0}), "`class_weight` is not supported"),
        (lambda: model.fit(x, validation_data=(x, x, ones), verbose=0), "validation_data"),
        (lambda: model.fit(with_weights, verbose=0), "Drop the third entry"),
        (lambda: model.evaluate(x, sample_weight=ones), "`sample_weight` is not supported"),
        (lambda: model.train_on_batch(x, sample_weight=ones), "`sample_weight` is not supported"),
        (lambda: model.train_on_batch(x, class_weight={0: 1.0}), "`class_weight` is not supp"),
        (lambda: model.test_on_batch(x, sample_weight=ones), "`sample_weight` is not supported"),
    ):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            refused()
    assert_same(state_of(model), before)


@EVERY
def test_every_optimizer_moves_its_own_weights_and_no_others(name):
    model = fresh(name)
    rng = np.random.default_rng(0)
    networks = model.networks_by_name()
    for network in networks.values():  # heads of zeros hide what is before them
        for v in network.trainable_variables:
            v.assign(v.numpy() + 0.1 * rng.normal(size=v.shape))
    optimizers = {network: getattr(model, each) for each, network in model.optimized.items()}

    def moved(rates):
        for network, optimizer in optimizers.items():
            optimizer.learning_rate.assign(rates.get(network, 0.0))
        before = {key: [v.numpy() for v in each.weights] for key, each in networks.items()}
        fit(model, rows(model), epochs=1)
        return {
            key: [np.any(v.numpy() != b) for v, b in zip(each.weights, before[key], strict=True)]
            for key, each in networks.items()
        }

    assert not any(map(any, moved({}).values()))
    for network in optimizers:
        found = moved({network: 0.1})
        kernels = [len(v.shape) > 1 and 0 not in v.shape for v in networks[network].weights]
        assert all(np.array(found.pop(network))[kernels]), network
        assert not any(map(any, found.values())), network


@EVERY
def test_an_evaluation_moves_nothing(name):
    model = trained(name)
    before = state_of(model)
    first = model.evaluate(rows(model), batch_size=BATCH, verbose=0, return_dict=True)
    again = model.evaluate(rows(model), batch_size=BATCH, verbose=0, return_dict=True)
    assert first == again
    assert "loss" in first
    assert_same(state_of(model), before)


@EVERY
def test_seeds_choose_the_noise_and_labels_nothing(name):
    def train(seed, *labels):
        model = fresh(name)
        model.seed = seed
        x = tf.constant(rows(model)[:4])
        model.train_step((x, *labels) if labels else x)
        model.seed = 0
        return [v.numpy() for v in model.trainable_variables]

    assert MODELS[name](seed=7).seed == 7
    one, same, other = train(0), train(0, tf.range(4)), train(1)
    assert_same(one, same)
    differ = any(np.any(a != b) for a, b in zip(one, other, strict=True))
    assert differ == (name not in SAME_FOR_ALL_SEEDS)


@EVERY
def test_layers_of_every_network_are_regularised(name):
    def learned(rate):
        model = made(name)
        model.step.assign(5)
        networks = {network: getattr(model, network) for network in model.optimized.values()}
        weights = {key: each.trainable_variables for key, each in networks.items()}
        for variable in tf.nest.flatten(list(weights.values())):
            variable.regularizer = keras.regularizers.L2(rate) if rate else None
        x = model.as_batch(rows(model)[:4])
        grads, logs = model.learn(x, random.row_seeds(0, tf.constant(5), 4), training=True)
        return weights, grads, float(logs["loss"])

    weights, plain, loss = learned(0.0)
    _, penalised, with_penalties = learned(0.1)
    total = sum(0.1 * np.sum(np.square(v)) for each in weights.values() for v in each)
    assert with_penalties - loss == pytest.approx(total, rel=1e-3, abs=1e-4)
    for network, grads in plain.items():
        for v, grad, found in zip(weights[network], grads, penalised[network], strict=True):
            np.testing.assert_allclose(found - grad, 0.2 * v, rtol=1e-3, atol=1e-4)


# A flow's energy learns alike where the flow learns with it.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "FlowEBM"])
def test_two_replicas_give_the_weights_and_the_figures_of_one_device(name, mirrored):
    model, _, end, history, _ = _shared(name)
    with mirrored.scope():
        two = made(name)
    data = tf.data.Dataset.from_tensor_slices(rows(model)).batch(BATCH)
    of_two = fit(two, data)
    for one, other, variable in zip(end, state_of(two), variables_of(model), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5, rtol=1e-5, err_msg=variable.path)
    for metric, values in history.items():
        np.testing.assert_allclose(of_two[metric], values, rtol=1e-4, atol=1e-4, err_msg=metric)


@pytest.fixture
def _bfloat16():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_global_policy("float32")


@EVERY
@pytest.mark.usefixtures("_bfloat16")
def test_networks_may_compute_in_bfloat16(name):
    model = made(name)
    x = rows(model)
    assert all(np.isfinite(each) for each in model.train_step(tf.constant(x)).values())
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    computed = {
        layer.compute_dtype
        for network in model.networks_by_name().values()
        for layer in network._flatten_layers()
    }
    assert "bfloat16" in computed
    seeds = random.as_row_seeds(0, ROWS)
    found = [model.sample_prior(seeds, compiled=False)]
    if "infer" in model.inference.answers:
        found.append(model.sample_posterior(model.as_batch(x), seeds, compiled=False))
    found.extend(model.inference.scores(model.as_batch(x), seeds, compiled=False))
    assert all(part.dtype == tf.float32 for part in tf.nest.flatten(found))


# ---- Answers ------------------------------------------------------------------------------


def questions(model):
    """The questions that a model answers, as functions of examples, by name."""
    found = {"infer": model.infer, "reconstruct": model.reconstruct}
    for name in ("score", "features"):
        found[name] = functools.partial(getattr(model, name), num_chains=2)
    return {key: ask for key, ask in found.items() if key in {"score", *model.inference.answers}}


def assert_close(found, expected, **options):
    """Compares arrays, tuples of them, or sentences."""
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        if np.asarray(one).dtype == object:
            np.testing.assert_array_equal(one, other, **options)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, **options)


def part(answer, rows):
    return tf.nest.map_structure(lambda array: array[rows], answer)


@EVERY
def test_an_answer_is_of_its_row_and_its_seed_alone(name):
    model = trained(name)
    x = rows(model)
    answers = {key: ask(x) for key, ask in questions(model).items()}
    samples = model.generate(5, seed=2)
    assert len(model.generate(4, seed=2)) == 4
    chains = [each.num_traces for each in chains_of(model)]
    for key, ask in questions(model).items():
        whole = answers[key]
        assert {len(array) for array in tf.nest.flatten(whole)} == {ROWS}
        backwards = ask(x[::-1], batch_size=4)
        assert_close(part(backwards, slice(None, None, -1)), whole, err_msg=key)
        assert_close(ask(x[3:4]), part(whole, slice(3, 4)), err_msg=key)
        assert {len(array) for array in tf.nest.flatten(ask(x[:0]))} == {0}
    if "bound" in model.inference.answers:  # latents with a spread
        for one, other in zip(
            tf.nest.flatten(model.infer(x, seed=1)), tf.nest.flatten(answers["infer"]), strict=True
        ):
            assert np.all(one != other)
    assert_close(model.generate(3, seed=2, batch_size=2), samples[:3])
    assert_close(model.generate(1, seed=random.as_row_seeds(2, 5)[3:4]), samples[3:4])
    if samples.dtype != object:  # greedy sentences of a few words may be alike
        assert np.any(model.generate(5, seed=3) != samples)
    # A trace per question, and none per batch.
    traced = {key: f.experimental_get_tracing_count() for key, f in model.rows._functions.items()}
    assert set(traced.values()) == {1}
    assert [each.num_traces for each in chains_of(model)] == chains


@EVERY
def test_predict_answers_as_a_call_does_in_any_batch(name):
    model = trained(name)
    x = rows(model)
    if name == "FlowModel":  # which is called with latents
        x = model.infer(x)
    expected = model(x)
    if expected.dtype == tf.string:
        expected = np.array([row.decode() for row in expected.numpy()], dtype=object)
    assert_close(model.predict(x, batch_size=4, verbose=0), expected)
    asked = {"FlowModel": model.decode_latents}
    one_per_row = len(expected.shape) == 1 and expected.dtype != object
    ask = asked.get(name, model.score if one_per_row else model.reconstruct)
    assert_close(ask(x), expected)


@EVERY
def test_a_saved_model_answers_and_goes_on_as_if_it_had_not_been_saved(name, tmp_path):
    model = tuned(name)
    x = rows(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.compiled
    assert_same(state_of(loaded), state_of(model))
    seeds = random.as_row_seeds(0, ROWS)
    expected, answer = (m.score_rows(m.as_batch(x), seeds, compiled=False) for m in (model, loaded))
    assert_same([answer], [expected])
    for _ in range(2):
        for each in (model, loaded):
            each.train_step(tf.constant(x))
    assert_same(state_of(loaded), state_of(model))
    model.save_weights(tmp_path / "model.weights.h5")
    other = made(name)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(state_of(other), state_of(model))
    assert int(other.step.numpy()) == 8


# Over sentences a `LatentEBM` is exported in `tests/serving/test_export_text.py`.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "LatentEBM, sentences"])
def test_an_export_answers_like_python(name, tmp_path):
    model = tuned(name)
    endpoints = model.endpoints(num_chains=2)
    target = tfebm.serving.export(model, tmp_path, "model", num_chains=2)
    assert set(signatures_of(target)) == {*endpoints.generator, *endpoints.scorer}
    x = np.array(LINES) if model.examples.served_input().dtype == tf.string else rows(model)[:4]
    seeds = random.as_row_seeds(1, 4)
    z = latents.join(model.sample_prior(seeds)).numpy()
    tensors = model.examples.tensor(x)
    given = {"seed": seeds, "latent": z, model.examples.served_input().name: x}
    expected = {
        "generate": lambda: {"": model.generate(4, seed=seeds), "latent": z},
        "decode": lambda: {"": model.decode_latents(latents.split(z, model.latent_size))},
        "score": lambda: {"score": model.score_rows(tensors, seeds, compiled=False)},
        "infer": lambda: {"latent": latents.join(model.infer(x, seed=seeds))},
        "features": lambda: {"features": model.features(x, seed=seeds, num_chains=2)},
        "reconstruct": lambda: {"": model.reconstruct(x, seed=seeds)},
        "bound": lambda: {"bound": -model.inference.bound(tensors, seeds)[0].numpy()},
    }
    for folder in target:
        served = tf.saved_model.load(str(folder))
        for key, signature in served.signatures.items():
            if key == "serving_default":
                continue
            inputs = graphs(folder).signature_def[key].inputs
            found = signature(**{each: tf.constant(given[each]) for each in inputs})
            for output, value in expected[key]().items():
                if not output:
                    output = "text" if "text" in found else model.examples.spec.name
                if output in found:
                    answer = found[output].numpy()
                    if answer.dtype == object:
                        answer = np.array([row.decode() for row in answer], dtype=object)
                    assert_close(answer, value, err_msg=f"{key} {output}")

"""Promises that every sampler keeps; a new sampler is one line of `CASES`."""

import copy
import gc
import json
import pickle
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import random


class Case(NamedTuple):
    sampler: Any
    """K = 4, in the plain graph, which compiles fastest."""
    in_law: tuple[Any, ...]
    """The same with steps so large that a wrong rule would show (of chains that reject, 30 to 50
    percent)."""
    variance: Callable[[float], float] = lambda step: 1.0
    """Of N(0, 1) as the chain leaves it, by the step size in units of the standard deviation."""


CASES = {
    "langevin": Case(
        tfebm.ShortRunLangevin(4, 0.3, jit_compile=False),
        (tfebm.ShortRunLangevin(12, 0.45),),
        lambda step: 1 / (1 - step**2 / 4),
    ),
    "momentum": Case(
        tfebm.ShortRunLangevin(4, 0.3, momentum=0.6, jit_compile=False),
        (tfebm.ShortRunLangevin(12, 0.45, momentum=0.7),),
        lambda step: 1 / (1 - step**2 / 4),  # as without: leapfrog steps keep x**2 / it + v**2
    ),
    "hmc": Case(
        tfebm.HMC(4, 0.3, 3, jit_compile=False),
        (tfebm.HMC(12, 0.88, 2, jitter=0.0), tfebm.HMC(12, 0.85, 2, jitter=0.3)),
    ),
    "mala": Case(tfebm.MALA(4, 0.3, jit_compile=False), (tfebm.MALA(12, 0.95),)),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
STD = np.array([1.0, 0.5], np.float32)
START = STD * np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
SETTINGS = {
    "step_size": 0.2,
    "noise_scale": 0.5,
    "momentum": 0.5,
    "noise": np.zeros((4, 6, 2)),
    "with_step": True,
}


def energy(z):
    """N(0, diag(STD**2))."""
    return 0.5 * tf.reduce_sum(tf.square(z / tf.cast(STD, z.dtype)), axis=-1)


def energy_of_pair(latents, shift):
    a, b = latents
    return energy(a - shift) + 0.5 * tf.reduce_sum(b**2, axis=[1, 2])


def changed(sampler, **settings):
    return type(sampler).from_config({**sampler.get_config(), **settings})


@ALL
def test_the_law(case):
    """20,000 chains that begin in their law must stay in it: 5.5 standard errors."""
    rows = 20_000
    for sampler in case.in_law:
        std = STD * np.sqrt([case.variance(sampler.step_size / s) for s in STD])
        start = (std * np.random.default_rng(0).normal(size=(rows, 2))).astype("float32")
        z, trace = sampler(energy, start, seed=1, trace=True)
        z = z.numpy() / std
        np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=5.5 / rows**0.5)
        np.testing.assert_allclose(z.var(axis=0), 1.0, atol=5.5 * (2 / rows) ** 0.5)
        np.testing.assert_allclose((z**4).mean(axis=0), 3.0, atol=5.5 * (96 / rows) ** 0.5)
        assert not np.allclose(z, start / std)
        if sampler.adapts:
            accepted = trace.accepted.numpy().mean()
            assert 0.5 < accepted < 0.7
            # The probabilities and the decisions agree: standard error below 0.001.
            assert trace.acceptance.numpy().mean() == pytest.approx(accepted, abs=0.005)


@ALL
def test_compiled_plain_and_eager_see_the_same_noise(case):
    plain = case.sampler.run(energy, START, seed=2)
    for jit in (True, False):
        moved = changed(case.sampler, jit_compile=jit)(energy, START, seed=2)
        np.testing.assert_allclose(moved, plain, atol=1e-5)
    in_graph = tf.function(lambda z: case.sampler(energy, z, seed=2))(START)
    np.testing.assert_allclose(in_graph, plain, atol=1e-5)


@ALL
def test_a_row_depends_on_its_seed_and_on_no_other_row(case):
    seeds = random.as_row_seeds(0, 6)
    together = case.sampler(energy, START, seed=seeds).numpy()
    np.testing.assert_allclose(case.sampler(energy, START, seed=0), together, atol=1e-6)
    alone = case.sampler(energy, START[3:5], seed=seeds[3:5])
    np.testing.assert_allclose(alone, together[3:5], atol=1e-6)
    spoilt = START.copy()
    spoilt[0] = np.nan
    others = case.sampler.run(energy, spoilt, seed=seeds)[1:]
    np.testing.assert_allclose(others, together[1:], atol=1e-6)
    assert np.abs(case.sampler(energy, START, seed=3) - together).max() > 0.01


@ALL
def test_traces_and_draws(case):
    z, trace = case.sampler(energy, START, seed=2, trace=True)
    np.testing.assert_allclose(z, case.sampler(energy, START, seed=2), atol=1e-6)
    assert trace.draws is None
    again, full = case.sampler(energy, START, seed=2, draws=True)
    assert full.draws.shape == (4, 6, 2)
    np.testing.assert_array_equal(full.draws[-1], again)
    assert full.energy.shape == (5, 6)
    positions = np.concatenate([START[None], full.draws])
    np.testing.assert_allclose(full.energy, [energy(z) for z in positions], rtol=1e-5)
    np.testing.assert_allclose(full.energy, trace.energy, rtol=1e-5)
    for name, values in trace._asdict().items():
        if name not in ("energy", "step_size", "draws"):
            assert values.shape == (4, 6)
    if case.sampler.adapts:
        assert float(trace.step_size) == pytest.approx(case.sampler.step_size)
        assert np.all((trace.acceptance >= 0) & (trace.acceptance <= 1))


@ALL
def test_latents_of_several_parts(case):
    position = START, np.zeros((6, 2, 3), "float32")
    shift = np.ones((6, 2), "float32")
    sampler = case.sampler
    (a, b), trace = sampler(energy_of_pair, position, shift, seed=0, draws=True)
    assert (trace.draws[0].shape, trace.draws[1].shape) == ((4, 6, 2), (4, 6, 2, 3))
    np.testing.assert_array_equal(trace.draws[1][-1], b)
    np.testing.assert_allclose(trace.energy[-1], energy_of_pair((a, b), shift), rtol=1e-5)
    # Two parts never share noise.
    assert np.abs(a.numpy()[0] - START[0] - b.numpy()[0, 0, :2]).min() > 1e-6


@ALL
def test_float64(case):
    z, trace = case.sampler(energy, START.astype("float64"), seed=2, draws=True)
    assert z.dtype == trace.draws.dtype == trace.energy.dtype == tf.float64
    single = case.sampler.run(energy, START, seed=2)
    np.testing.assert_allclose(z, single, atol=1e-4)


@ALL
def test_no_steps(case):
    still = changed(case.sampler, num_steps=0)
    np.testing.assert_array_equal(still(energy, START), START)
    _, trace = still(energy, START, draws=True)
    np.testing.assert_allclose(trace.energy, energy(START)[None], rtol=1e-6)
    assert trace.draws.shape == (0, 6, 2)
    for name, values in trace._asdict().items():
        if name not in ("energy", "step_size", "draws"):
            assert values.shape == (0, 6)


@ALL
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_call_work_or_are_refused(case, name):
    sampler, option = case.sampler, {name: SETTINGS[name]}
    if name not in sampler.accepts:
        for chain in (sampler, sampler.run):
            with pytest.raises(tfebm.InvalidInputError, match=f"does not take `{name}`"):
                chain(energy, START, seed=0, **option)
        return
    if name == "with_step":
        seen = []

        def stepped(z, step=None):
            seen.append(step)
            return energy(z)

        sampler.run(stepped, START, seed=0, with_step=True)
        assert sorted({int(step) for step in seen}) == [0, 1, 2, 3]
        seen.clear()
        sampler.run(stepped, START, seed=0)
        assert set(seen) == {None}
        return
    if name == "noise":
        streams = random.as_row_seeds(0, 6)
        noise = tf.stack([random.row_normal(streams, k, 2) for k in range(4)])
        moved, expected = sampler(energy, START, noise=noise), sampler(energy, START, seed=0)
    else:
        moved = sampler(energy, START, seed=0, **option)
        expected = changed(sampler, **option).run(energy, START, seed=0)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@ALL
@pytest.mark.parametrize("jit", [False, True])
def test_compile_counts(case, jit):
    """Other seeds, values and numbers of rows never compile a chain anew."""
    sampler = changed(case.sampler, jit_compile=jit)
    step = tf.function(lambda z, size: sampler(energy, z, seed=0, step_size=size))
    graph = step.get_concrete_function(tf.TensorSpec([None, 2]), tf.TensorSpec([]))
    for rows in (5, 3, 5):
        graph(tf.zeros([rows, 2]), tf.constant(0.1 * rows))
    assert sampler.num_traces == 1
    for rows, size in ((5, 0.1), (3, 0.2), (5, 0.3), (2, 0.4)):
        sampler(energy, tf.zeros([rows, 2]), seed=rows, step_size=tf.constant(size))
    assert sampler.num_traces <= 3  # eager calls: once for a shape, once for any number of rows
    sampler.forget()
    assert sampler.num_traces == 0


@ALL
def test_plain_data(case):
    """A sampler copies, pickles and serialises whatever it has run."""
    expected = case.sampler(energy, START, seed=0)
    config = json.loads(json.dumps(case.sampler.get_config()))
    for again in (
        copy.copy(case.sampler),
        copy.deepcopy(case.sampler),
        pickle.loads(pickle.dumps(case.sampler)),
        type(case.sampler).from_config(config),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(case.sampler)),
    ):
        assert again.num_traces == 0
        assert again.get_config() == case.sampler.get_config()
    np.testing.assert_allclose(again(energy, START, seed=0), expected, atol=1e-6)


@ALL
@pytest.mark.usefixtures("new_objects_alone")
def test_it_keeps_no_energy_alive(case):
    class Model:
        def energy(self, z):
            return energy(z)

    sampler, models = changed(case.sampler), [Model(), Model()]
    for model in models:
        sampler(model.energy, START, seed=0)
    assert sampler.num_traces == 2
    gone = weakref.ref(models.pop(0))
    model = models[0]
    gc.collect()
    assert gone() is None
    assert sampler.num_traces == 1
    sampler(model.energy, START, seed=0)


@ALL
def test_memory_is_constant_and_no_gradient_flows(case):
    def kinds(trace):
        run = tf.function(lambda z: case.sampler.run(energy, z, seed=0, trace=trace))
        graph = run.get_concrete_function(tf.TensorSpec([None, 2])).graph.as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        return {node.op for node in nodes}

    assert not any(kind.startswith("TensorList") for kind in kinds(trace=False))
    assert any(kind.startswith("TensorList") for kind in kinds(trace=True))
    weight, start = tf.Variable(2.0), tf.constant(START)
    with tf.GradientTape() as tape:
        tape.watch(start)
        loss = tf.reduce_sum(case.sampler.run(lambda z: weight * energy(z), start, seed=0))
    assert tape.gradient(loss, [weight, start]) == [None, None]


@ALL
def test_a_setting_that_is_changed_takes_effect(case):
    sampler = changed(case.sampler)
    before = sampler(energy, START, seed=0)
    sampler.step_size = 0.1
    expected = changed(case.sampler, step_size=0.1).run(energy, START, seed=0)
    np.testing.assert_allclose(sampler(energy, START, seed=0), expected, atol=1e-5)
    assert not np.allclose(before, expected)


@ALL
def test_paths_of_what_is_differentiable(case):
    if not case.sampler.is_differentiable:
        with pytest.raises(tfebm.InvalidInputError, match=f"{type(case.sampler).__name__}.*Short"):
            case.sampler.path(energy, START, seed=0)
        return
    path = case.sampler.path(energy, START, seed=0)
    assert path.shape == (5, 6, 2)
    np.testing.assert_allclose(path[-1], case.sampler.run(energy, START, seed=0), atol=1e-6)
    np.testing.assert_array_equal(path[0], START)


@ALL
def test_bad_input_gets_a_sentence(case):
    sampler = case.sampler

    def refused(message, energy_fn=energy, position=START, **options):
        for chain in (sampler, sampler.run):
            with pytest.raises(tfebm.InvalidInputError, match=message):
                chain(energy_fn, position, **{"seed": 0, **options})

    refused("needs `seed`", seed=None)
    refused("3 for 6 rows", seed=random.as_row_seeds(0, 3))
    refused("one energy per row", energy_fn=lambda z: z)
    refused("must be a function", energy_fn=3)
    refused("moves in floats", position=np.zeros((3, 2), "int32"))
    refused("holds no tensor", position=())
    for settings, message in (
        ({"num_steps": -1}, "num_steps"),
        ({"num_steps": 2.5}, "num_steps"),
        ({"num_steps": "abc"}, "num_steps"),
        ({"step_size": float("nan")}, "step_size"),
        ({"step_size": -0.1}, "step_size"),
        ({"jit_compile": "yes"}, "True, False or 'auto'"),
    ):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            changed(sampler, **settings)

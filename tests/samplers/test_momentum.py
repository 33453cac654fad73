"""Chains with momentum: their steps, their determinants and what is tuned of them."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm.samplers import kinetic, log_det, step_size
from tfebm.samplers.candidates import Options, Problem
from tfebm.samplers.langevin import LangevinState
from tfebm.samplers.log_det import log_det_of_map

WIDTH = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, 0.2], [0.1, 0.2, 0.5]])


def two_parts(position, shift=0.0):
    """A quadratic with a quartic part, over parts of 2 and 1 dimensions."""
    z = tf.concat(tf.nest.flatten(position), axis=1) - tf.cast(shift, tf.float64)
    curved = tf.reduce_sum(z @ tf.constant(WIDTH, z.dtype) * z, axis=1) / 2
    return curved + 0.05 * tf.reduce_sum(z**4, axis=1)


def grad(z):
    return z @ WIDTH + 0.2 * z**3


def start(rows=5, seed=0):
    z = np.random.default_rng(seed).normal(size=(rows, 3))
    return tf.constant(z[:, :2]), tf.constant(z[:, 2:])


def join(parts):
    return np.concatenate([np.asarray(part) for part in parts], axis=-1)


def reference(z, noise, steps, momenta, scale, velocity=None):
    """The equations of `ShortRunLangevin`, each step with both of its kicks."""
    v = scale * noise[0] if velocity is None else velocity
    for k, (s, c) in enumerate(zip(steps, momenta, strict=True)):
        if k:
            v = c * v + scale * np.sqrt(1 - c**2) * noise[k]
        v = v - s / 2 * grad(z)
        z = z + s * v
        v = v - s / 2 * grad(z)
    return z, v


STEPS = np.array([[0.3, 0.2], [0.25, 0.15], [0.2, 0.2], [0.1, 0.3]])
MOMENTA = np.array([[0.4, 0.1], [0.9, 0.5], [0.5, 0.7], [0.3, 0.6]])
SPREAD = [0, 0, 1]  # the part of each coordinate


@pytest.mark.parametrize("scale", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("way", ["plain", "compiled", "call"])
def test_the_steps_are_the_equations(way, scale):
    noise = np.random.default_rng(1).normal(size=(4, 5, 3))
    injected = tf.constant(noise[..., :2]), tf.constant(noise[..., 2:])
    expected, _ = reference(join(start()), noise, STEPS[:, SPREAD], MOMENTA[:, SPREAD], scale)
    settings = {} if way == "call" else {"momentum": MOMENTA.tolist()}
    jit = way == "compiled"
    sampler = tfebm.ShortRunLangevin(4, STEPS.tolist(), scale, jit_compile=jit, **settings)
    chain = sampler if way == "compiled" else sampler.run
    given = {"momentum": tf.constant(MOMENTA)} if way == "call" else {}
    end = chain(two_parts, start(), noise=injected, **given)
    np.testing.assert_allclose(join(end), expected, rtol=1e-10)


def test_without_momentum_no_velocity_is_carried_and_the_chain_is_the_one_of_0():
    sampler = tfebm.ShortRunLangevin(4, 0.2, jit_compile=False)
    assert not sampler.has_momentum
    with_zeros = sampler.run(two_parts, start(), seed=0, momentum=0.0)
    without, trace = sampler.run(two_parts, start(), seed=0, trace=True)
    np.testing.assert_allclose(join(with_zeros), join(without), rtol=1e-12)
    assert trace.energy.shape == (5, 5)
    call = sampler._call(two_parts, False, *sampler._arguments(start(), (), seed=0)[0])
    assert sampler.init(call, list(start())).velocity == []


def test_other_momenta_of_a_call_trace_nothing_anew_and_it_samples_the_target():
    sampler = tfebm.ShortRunLangevin(100, 0.25, momentum=0.7)
    z = tf.zeros([4000, 2])
    assert sampler.get_config()["momentum"] == 0.7

    def energy(z):
        return 0.5 * tf.reduce_sum(z**2 / [1.0, 0.25], axis=1)

    for c in (0.2, 0.5, 0.7):
        end = sampler(energy, z, seed=3, momentum=c).numpy()
        # Standard error of a variance: v sqrt(2 / 4000); five of them. The bias of this splitting
        # in the positions is of the order s**2 / (4 variance): 6 % of the narrow one.
        for variance, found in zip([1.0, 0.25], end.var(axis=0), strict=True):
            bias = 1 / (1 - 0.25**2 / (4 * variance))
            assert abs(found / (variance * bias) - 1) < 5 * math.sqrt(2 / 4000)
    assert sampler.num_traces == 1


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_determinant_is_that_of_autodiff(scale):
    sampler = tfebm.ShortRunLangevin(4, STEPS.tolist(), scale, momentum=MOMENTA.tolist())
    position, seeds = start(), tfebm.random.as_row_seeds(5, 5)
    noise = np.random.default_rng(1).normal(size=(4, 5, 3))
    injected = tf.constant(noise[..., :2]), tf.constant(noise[..., 2:])
    velocity = kinetic.start_velocity(position, seeds)
    if scale:
        velocity = tuple(scale * part[0] for part in injected)
    both = tf.concat([*position, *velocity], axis=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(both)
        z, v = (both[:, :2], both[:, 2:3]), (both[:, 3:5], both[:, 5:])
        path, _, last = sampler.follow(two_parts, z, noise=injected, velocity=v)
        # Without the last kick, which is a shear as well.
        end = tf.concat([*(part[-1] for part in path), *last.velocity], axis=1)
    jacobian = tape.batch_jacobian(end, both)
    expected = np.linalg.slogdet(jacobian)[1]
    closed = 2 * np.log(MOMENTA[1:, 0]).sum() + np.log(MOMENTA[1:, 1]).sum()
    np.testing.assert_allclose(expected, closed, rtol=1e-9)
    _, change = kinetic.follow(sampler, two_parts, position, seeds, noise=injected)
    v_0 = join(velocity)
    tables = STEPS[:, SPREAD], MOMENTA[:, SPREAD]
    _, v_end = reference(join(position), noise, *tables, scale, v_0)
    squares = (v_0**2).sum(axis=1) - (v_end**2).sum(axis=1)
    np.testing.assert_allclose(change, closed + squares / 2 / (scale or 1.0) ** 2, rtol=1e-9)


def test_the_bound_is_of_the_chain_that_samples():
    sampler = tfebm.ShortRunLangevin(4, 0.2, [0.5, 0.3, 0.3, 0.0], momentum=0.6, jit_compile=False)
    end, found = log_det_of_map(sampler, two_parts, start(), seed=7)
    np.testing.assert_allclose(join(end), join(sampler(two_parts, start(), seed=7)), rtol=1e-12)
    assert bool(tf.reduce_all(found.valid))


@pytest.mark.parametrize("scale", [0.0, 0.2])
def test_a_report_of_all_criteria_changes_none_of_them(scale):
    sampler = tfebm.ShortRunLangevin(3, 0.1, scale, momentum=0.5)
    z = start(rows=30)
    given = {"seed": 0, "values": [0.15, 0.3], "num_chains": 6}
    for criterion in ("entropy", "ksd"):
        alone, all_of_them = (
            step_size.tune(sampler, two_parts, z, criterion=criterion, report=report, **given)
            for report in ("chosen", "all")
        )
        for one, other in zip(alone.candidates, all_of_them.candidates, strict=True):
            assert getattr(one, criterion) == pytest.approx(getattr(other, criterion), rel=1e-9)
            assert other.kl is not None


def test_momenta_that_were_tuned_to_0_have_the_bound_of_the_chain_without():
    plain, moving = (tfebm.ShortRunLangevin(3, 0.1, 0.5, momentum=c) for c in (0.0, 0.5))
    zeros = tf.constant([[0.7], [0.0], [0.0]])  # that of the first step is not read
    end, found = log_det_of_map(moving, two_parts, start(), seed=0, momentum=zeros)
    expected_end, expected = log_det_of_map(plain, two_parts, start(), seed=0)
    np.testing.assert_allclose(join(end), join(expected_end), rtol=1e-12)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-9)
    assert bool(tf.reduce_all(found.valid))


def kl_of(steps, momenta, precision, mean):
    """KL of the law of (z_K, v_K), without noise, to the posterior and N(0, I): closed form."""
    d = len(mean)
    eye, zero = np.eye(d), np.zeros((d, d))
    matrix, offset, log_det = np.eye(2 * d), np.zeros(2 * d), 0.0

    def apply(block, shift=None):
        nonlocal matrix, offset
        matrix, offset = block @ matrix, block @ offset
        if shift is not None:
            offset = offset + shift

    for k, (s, c) in enumerate(zip(steps, momenta, strict=True)):
        if k:
            apply(np.block([[eye, zero], [zero, c * eye]]))
            log_det += d * math.log(c)
        kick = np.block([[eye, zero], [-s / 2 * precision, eye]])
        shift = np.concatenate([np.zeros(d), s / 2 * precision @ mean])
        apply(kick, shift)
        apply(np.block([[eye, s * eye], [zero, eye]]))
        apply(kick, shift)
    target = np.block([[precision, zero], [zero, eye]])
    off = offset - np.concatenate([mean, np.zeros(d)])
    spread = np.trace(target @ matrix @ matrix.T) + off @ target @ off - 2 * d
    return 0.5 * (spread - np.linalg.slogdet(target)[1]) - log_det


def linear_gaussian(golden):
    numbers = golden("linear_gaussian")
    precision, mean = numbers["posterior_precision"], numbers["posterior_mean"]
    constant = -numbers["log_evidence"] + 2 * math.log(2 * math.pi)
    constant -= np.linalg.slogdet(precision)[1] / 2

    def energy(z):  # -log p(x, z)
        off = z - tf.constant(mean, z.dtype)
        return 0.5 * tf.reduce_sum(off @ tf.constant(precision, z.dtype) * off, axis=1) + constant

    return energy, precision, mean, float(numbers["log_evidence"])


def test_the_bound_of_a_linear_gaussian_problem_is_the_closed_form(golden):
    energy, precision, mean, log_evidence = linear_gaussian(golden)
    n, d = 4000, 4
    z = tf.constant(np.random.default_rng(0).normal(size=(n, d)))
    momenta = [0.1, 0.7, 0.7, 0.6, 0.9, 0.8, 0.7, 0.5, 0.6, 0.7]
    sampler = tfebm.ShortRunLangevin(10, 0.13, 0.0, momentum=momenta)
    end, found = log_det_of_map(sampler, energy, z, seed=1)
    assert bool(tf.reduce_all(found.valid))
    np.testing.assert_allclose(found.smallest_eigenvalue, 0.5)
    log_start = -0.5 * np.sum(z.numpy() ** 2, axis=1) - d / 2 * math.log(2 * math.pi)
    values = -energy(end).numpy() - log_start + found.value.numpy()
    gap = log_evidence - values
    exact = kl_of([0.13] * 10, momenta, precision, mean)
    assert abs(gap.mean() - exact) < 5 * gap.std() / math.sqrt(n)


def test_tuning_finds_bounds_that_langevin_chains_have_not(golden):
    energy, precision, mean, log_evidence = linear_gaussian(golden)
    z = tf.constant(np.random.default_rng(0).normal(size=(512, 4)))
    values = np.geomspace(0.08, 0.16, 5)
    plain = step_size.tune(tfebm.ShortRunLangevin(10, 0.1, 0.0), energy, z, seed=0, values=values)
    options = {"seed": 0, "search": "gradient", "num_iterations": 60, "around": 0.12}
    sampler = tfebm.ShortRunLangevin(10, 0.1, 0.0, momentum=0.7)
    one = step_size.tune(sampler, energy, z, **options)
    each = step_size.tune(sampler, energy, z, family="free", **options)
    assert plain.momentum is None
    found = {
        name: kl_of(tuning.table[:, 0], tuning.momentum[:, 0], precision, mean)
        for name, tuning in (("one", one), ("each", each))
    }
    assert np.ptp(one.momentum) == 0
    # Langevin chains of 10 steps: 11.80 at best; with one step size and one momentum 6.95, with
    # 10 of each 2.14. The search sees 512 starts and ends near them.
    assert plain.candidates[plain.chosen].kl + log_evidence > 11.0
    assert 6.94 < found["one"] < 7.3
    assert 2.13 < found["each"] < 4.0
    assert one.to_record()["momentum"] == one.momentum[0, 0]


def test_a_grid_tries_every_momentum_with_every_step_size(golden):
    energy = linear_gaussian(golden)[0]
    z = tf.constant(np.random.default_rng(0).normal(size=(256, 4)))
    sampler = tfebm.ShortRunLangevin(10, 0.1, 0.0, momentum=0.3)
    found = step_size.tune(
        sampler, energy, z, seed=0, values=[0.06, 0.13], momenta=[0.0, 0.3, 0.68]
    )
    assert len(found.candidates) == 6
    assert [c.usable for c in found.candidates] == [False, False, True, True, True, True]
    assert found.table[0, 0] == 0.13
    assert found.momentum[0, 0] == 0.68
    assert [float(np.max(c.momentum)) for c in found.candidates[::2]] == [0.0, 0.3, 0.68]
    slope = sampler.num_traces
    step_size.tune(sampler, energy, z, seed=0, values=[0.1], momenta=[0.5])
    assert sampler.num_traces == slope


def test_gradients_of_the_bound_against_finite_differences(golden):
    energy = linear_gaussian(golden)[0]
    z = tf.constant(np.random.default_rng(0).normal(size=(8, 4)))
    sampler = tfebm.ShortRunLangevin(3, 0.1, 0.3, momentum=0.5)
    options = Options(("kl",), 1, 1.0, log_det.Options())
    problem = Problem(sampler, energy, z, (), 0, np.zeros(8), options, 0.0)
    tables = np.stack([np.array([[0.1], [0.12], [0.08]]), np.array([[0.5], [0.6], [0.3]])])
    _, slope = problem.evaluate_with_gradient(*tables)
    for which, k in np.ndindex(2, 3):
        moved = []
        for sign in (1, -1):
            changed = tables.copy()
            changed[which, k] += sign * 1e-4
            moved.append(problem.evaluate(*changed).kl)
        difference = (moved[0] - moved[1]) / 2e-4
        assert slope[which, k, 0] == pytest.approx(difference, rel=1e-4, abs=1e-4)


class TestRefusals:
    @pytest.mark.parametrize("momentum", [1.0, -0.1, math.nan, [0.5, 0.5], "much"])
    def test_what_is_no_momentum(self, momentum):
        with pytest.raises(tfebm.InvalidInputError, match="`momentum` must"):
            tfebm.ShortRunLangevin(3, 0.1, momentum=momentum)

    def test_tables_and_velocities_that_do_not_fit(self):
        sampler = tfebm.ShortRunLangevin(3, 0.1, momentum=0.5)
        with pytest.raises(tfebm.InvalidInputError, match="`momentum` of a call must be"):
            sampler.run(two_parts, start(), seed=0, momentum=tf.constant([0.1, 0.2]))
        with pytest.raises(tfebm.InvalidInputError, match="`velocity` must have the type"):
            sampler.run(two_parts, start(), seed=0, velocity=start(rows=3))

    def test_momenta_of_a_search(self):
        z = start()
        plain, moving = (tfebm.ShortRunLangevin(3, 0.1, momentum=c) for c in (0.0, 0.5))
        with pytest.raises(tfebm.InvalidInputError, match="the sampler has none"):
            step_size.tune(plain, two_parts, z, seed=0, momenta=[0.5])
        with pytest.raises(tfebm.InvalidInputError, match="moves the sampler's own"):
            step_size.tune(moving, two_parts, z, seed=0, momenta=[0.5], search="gradient")
        with pytest.raises(tfebm.InvalidInputError, match="less than 1"):
            step_size.tune(moving, two_parts, z, seed=0, momenta=[0.5, 1.0])
        some = tfebm.ShortRunLangevin(2, 0.1, momentum=[0.5, 0.0])
        with pytest.raises(tfebm.InvalidInputError, match="0 is infinitely far"):
            step_size.tune(some, two_parts, z, seed=0, search="gradient")
        some = tfebm.ShortRunLangevin(3, 0.1, momentum=[0.5, 0.0, 0.5])
        with pytest.raises(tfebm.InvalidInputError, match="Give momenta above 0"):
            step_size.tune(some, two_parts, z, seed=0, values=[0.1])

    def test_a_random_energy_has_no_determinant(self):
        def energy(z):
            return tf.reduce_sum(z**2, axis=1) * tf.random.uniform([])

        sampler = tfebm.ShortRunLangevin(3, 0.1, momentum=0.5)
        with pytest.raises(tfebm.InvalidInputError, match="two energies for one point"):
            log_det_of_map(sampler, energy, tf.ones([4, 2]), seed=0)


class HeavyBall(tfebm.samplers.Chain):
    """A sampler of a stranger, whose `momentum` is none of ours."""

    step_size, noise_scale = 0.1, 0.0

    def __init__(self, num_steps, momentum="nesterov"):
        super().__init__(num_steps, jit_compile=False)
        self.momentum = momentum

    def init(self, call, position):
        return LangevinState(position, [])

    def step(self, call, k, state):
        energy, grads = call.energy_and_grads(k, state.position)
        moved = [z - 0.01 * g for z, g in zip(state.position, grads, strict=True)]
        return LangevinState(moved, []), tfebm.samplers.chain.StepInfo(energy, grads)


def test_a_strangers_momentum_is_its_own():
    model = tfebm.ShortRunModel(keras.layers.Dense(4), 2, HeavyBall(3))
    assert model.posterior_momentum is None
    assert model.infer(np.zeros((5, 4), np.float32)).shape == (5, 2)

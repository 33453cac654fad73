"""HMC and MALA: exact in their law where they reject, and keyed by row."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfebm
from tfebm.samplers import HMC, MALA

STD = np.array([1.0, 0.5], np.float32)
CHAINS = 20_000


def energy(z):
    """N(0, diag(STD**2))."""
    return 0.5 * tf.reduce_sum(tf.square(z / STD), axis=-1)


def start(rows=CHAINS):
    return tf.constant(STD * np.random.default_rng(0).normal(size=(rows, 2)), tf.float32)


@pytest.mark.parametrize("name", ["hmc", "mala"])
def test_it_accepts_as_tfp_does_at_the_same_step_size(name):
    # Step sizes that reject 30 to 50 percent: a wrong ratio would show.
    sampler = HMC(3, 0.88, 2, jitter=0.0) if name == "hmc" else MALA(3, 0.95)
    if name == "hmc":
        kernel = tfp.mcmc.HamiltonianMonteCarlo(lambda z: -energy(z), 0.88, 2)
    else:
        kernel = tfp.mcmc.MetropolisAdjustedLangevinAlgorithm(lambda z: -energy(z), 0.95**2)
    position = 0.0 * start()  # away from the law: one transition from the mode
    draws, accepted = tfp.mcmc.sample_chain(
        3, position, kernel=kernel, trace_fn=lambda _, r: r.is_accepted, seed=[1, 2]
    )
    ours, trace = sampler(energy, position, seed=5, trace=True)
    # Shares of 20,000: a standard error of at most 0.0035 each, 0.005 of the difference.
    np.testing.assert_allclose(
        trace.accepted.numpy().mean(axis=1), accepted.numpy().mean(axis=1), atol=0.0275
    )
    theirs = draws[-1].numpy().var(axis=0)
    np.testing.assert_allclose(
        ours.numpy().var(axis=0), theirs, atol=5.5 * 2.5 * theirs.max() * (2 / CHAINS) ** 0.5
    )


def test_mala_is_the_langevin_step_with_a_decision():
    """Where a tiny step is always accepted, MALA and the short run move alike in law."""
    sampler = MALA(1, step_size=0.01)
    z, trace = sampler(energy, start(4), seed=3, trace=True)
    assert trace.accepted.numpy().all()
    langevin = tfebm.ShortRunLangevin(1, step_size=0.01)(energy, start(4), seed=3)
    np.testing.assert_allclose(z, langevin, atol=1e-6)


@pytest.mark.parametrize("target", [0.65, 0.9])
def test_dual_averaging_finds_the_target(target):
    sampler = MALA(200, step_size=0.01, num_adaptation_steps=500, target_acceptance=target)
    _, trace = sampler(energy, start(64), seed=0, trace=True)
    assert trace.acceptance.numpy().mean() == pytest.approx(target, abs=0.06)
    assert float(trace.step_size) > 0.1


def test_jitter_breaks_periods():
    """Three leapfrog steps of 3**0.5 turn N(0, I) by a whole circle: nothing moves without."""

    def gaussian(z):
        return 0.5 * tf.reduce_sum(z**2, axis=-1)

    z = start(500) / STD
    stuck = HMC(10, step_size=3**0.5, num_leapfrog_steps=3, jitter=0.0)(gaussian, z, seed=0)
    np.testing.assert_allclose(stuck, z, atol=1e-3)
    moved = HMC(10, step_size=3**0.5, num_leapfrog_steps=3, jitter=0.2)(gaussian, z, seed=0)
    assert abs(np.corrcoef(moved[:, 0], z[:, 0])[0, 1]) < 0.5


def test_float64_and_a_start_of_infinite_energy():
    position = tf.zeros([4, 2], tf.float64)

    def walled(z):
        inside = tf.reduce_sum(tf.square(z), axis=-1)
        return tf.where(z[:, 0] > -0.5, inside, np.inf)

    z, trace = HMC(4, np.float32(0.3), num_adaptation_steps=4)(walled, position, seed=0, draws=True)
    assert z.dtype == trace.draws.dtype == tf.float64
    away = HMC(20, 0.5)(walled, position - 0.6, seed=0)
    assert (away.numpy()[:, 0] > -0.5).all()


def test_no_steps_and_broken_trajectories():
    np.testing.assert_array_equal(HMC(0)(energy, start(3), seed=0), start(3))

    def cliff(z):
        return tf.where(tf.abs(z[:, 0]) < 3.0, energy(z), np.nan)

    z = HMC(50, step_size=1.0)(cliff, start(50), seed=0)
    assert np.isfinite(z).all()


def test_a_chain_that_does_not_move_names_its_step_size():
    with pytest.raises(tfebm.InvalidInputError, match="step size 50 "):
        HMC(10, step_size=50.0)(energy, start(10), seed=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_steps": 1, "step_size": 0.0}, "step_size"),
        ({"num_steps": 1, "num_leapfrog_steps": 0}, "num_leapfrog_steps"),
        ({"num_steps": 1, "target_acceptance": 1.0}, "target_acceptance"),
        ({"num_steps": 1, "jitter": 1.0}, "jitter"),
        ({"num_steps": 1, "num_adaptation_steps": 1.5}, "num_adaptation_steps"),
    ],
)
def test_numbers_out_of_range(kwargs, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        HMC(**kwargs)

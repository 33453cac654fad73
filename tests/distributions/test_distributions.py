"""Tilts with known answers."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfebm
from tfebm.distributions import (
    ExponentialTilting,
    annealed_log_normalizer,
    importance_log_normalizer,
    pull_back,
)

tfd = tfp.distributions
BASE = tfd.MultivariateNormalDiag(tf.zeros(2))
SHIFT = np.array([1.0, -0.5], np.float32)
X = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")


def linear(x):
    """Tilts N(0, I) to N(SHIFT, I); log Z = |SHIFT|**2 / 2."""
    return -tf.reduce_sum(x * SHIFT, axis=-1)


LINEAR_LOG_Z = float(np.sum(SHIFT**2) / 2)
B = np.array([[1.0, 0.4], [0.4, 3.0]], np.float32)


def quadratic(x):
    """Tilts N(0, I) to N(0, (I + B)^-1); log Z = -log det(I + B) / 2."""
    return 0.5 * tf.einsum("...i,ij,...j->...", x, B, x)


QUADRATIC_LOG_Z = float(-0.5 * np.linalg.slogdet(np.eye(2) + B)[1])


def test_a_linear_energy_shifts_a_gaussian():
    tilt = ExponentialTilting(BASE, linear, log_normalizer=LINEAR_LOG_Z)
    exact = tfd.MultivariateNormalDiag(SHIFT)
    np.testing.assert_allclose(tilt.log_prob(X), exact.log_prob(X), atol=1e-5)
    np.testing.assert_allclose(
        tilt.unnormalized_log_prob(X), tilt.log_prob(X) + LINEAR_LOG_Z, atol=1e-5
    )
    # Samplers of TFP have more leading axes.
    shaped = tilt.log_prob(X.reshape(4, 5, 2))
    np.testing.assert_allclose(shaped, exact.log_prob(X.reshape(4, 5, 2)), atol=1e-5)


def test_a_quadratic_energy_narrows_it():
    tilt = ExponentialTilting(BASE, quadratic, log_normalizer=QUADRATIC_LOG_Z)
    covariance = np.linalg.inv(np.eye(2) + B)
    exact = tfd.MultivariateNormalFullCovariance(tf.zeros(2), tf.constant(covariance, tf.float32))
    np.testing.assert_allclose(tilt.log_prob(X), exact.log_prob(X), atol=1e-5)


def test_the_log_ratio_gives_the_other_density_and_a_constant_gives_the_base():
    other = tfd.MultivariateNormalDiag([0.5, 0.5], [0.7, 1.2])
    tilt = ExponentialTilting(
        BASE, lambda x: BASE.log_prob(x) - other.log_prob(x), log_normalizer=0.0
    )
    np.testing.assert_allclose(tilt.log_prob(X), other.log_prob(X), atol=1e-5)
    constant = ExponentialTilting(BASE, lambda x: 3.0 + 0.0 * x[..., 0], log_normalizer=-3.0)
    np.testing.assert_allclose(constant.log_prob(X), BASE.log_prob(X), atol=1e-5)


@pytest.mark.parametrize("graph", [False, True])
def test_samples_follow_the_tilt(graph):
    """4,000 chains: 5.5 standard errors."""
    sampler = tfebm.HMC(30, step_size=0.8, num_leapfrog_steps=3)
    tilt = ExponentialTilting(BASE, linear, sampler)

    def draw():
        return tilt.sample(4000, seed=[1, 2])

    samples = (tf.function(draw) if graph else draw)().numpy()
    assert samples.shape == (4000, 2)
    np.testing.assert_allclose(samples.mean(axis=0), SHIFT, atol=5.5 / 4000**0.5)
    np.testing.assert_allclose(samples.var(axis=0), 1.0, atol=5.5 * (2 / 4000) ** 0.5)


def test_what_is_missing_is_said():
    tilt = ExponentialTilting(BASE, linear)
    with pytest.raises(tfebm.InvalidInputError, match="needs `log_normalizer`"):
        tilt.log_prob(X)
    with pytest.raises(tfebm.InvalidInputError, match="needs a `sampler`"):
        tilt.sample(3)
    with pytest.raises(tfebm.InvalidInputError, match="without batch shape"):
        ExponentialTilting(tfd.Normal([0.0, 1.0], 1.0), linear)


def test_a_pulled_back_energy():
    flow = tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,))
    flow.build()
    z = tf.constant(X)
    function = pull_back(linear, flow.bijector)
    before = function(z).numpy()
    np.testing.assert_allclose(before, linear(flow(z)), atol=1e-6)
    flow.shift.assign(flow.shift + 1.0)
    assert np.abs(function(z) - before).max() > 0.1  # no stale answer
    bijector = tfp.bijectors.Scale(2.0)
    np.testing.assert_allclose(pull_back(linear, bijector)(z), linear(2.0 * z), atol=1e-6)


class TestLogNormalizer:
    @pytest.mark.parametrize(
        ("energy", "exact"), [(linear, LINEAR_LOG_Z), (quadratic, QUADRATIC_LOG_Z)]
    )
    def test_importance_sampling(self, energy, exact):
        estimate = importance_log_normalizer(
            energy, BASE, seed=1, batch_size=7000, num_samples=20_000
        )
        assert estimate.reliable
        assert estimate.num_samples == 20_000
        assert abs(estimate.value - exact) < 5.5 * estimate.standard_error
        assert estimate.standard_error < 0.02

    def test_its_effective_sample_size(self):
        """exp(1.25 / 2)**2 / exp(2 * 1.25) of the samples: 29 percent; 5 percent of room."""
        estimate = importance_log_normalizer(linear, BASE, num_samples=20_000)
        expected = 20_000 * np.exp(-np.sum(SHIFT**2))
        assert estimate.effective_sample_size == pytest.approx(expected, rel=0.15)

    def test_a_poor_estimate_warns_with_its_effective_sample_size(self):
        with pytest.warns(UserWarning, match=r"are worth \d+\.\d of the tilt"):
            estimate = importance_log_normalizer(lambda x: 10.0 * linear(x), BASE, num_samples=1000)
        assert not estimate.reliable

    def test_annealing_brackets_it(self):
        """64 chains; the means of both directions are off by 5.5 standard errors at most."""
        exact = tfd.MultivariateNormalFullCovariance(
            tf.zeros(2), tf.constant(np.linalg.inv(np.eye(2) + B), tf.float32)
        )
        bounds = annealed_log_normalizer(
            quadratic, BASE, exact.sample(64, seed=[0, 1]), num_temperatures=100, step_size=0.4
        )
        room = 5.5 * bounds.standard_error
        assert bounds.lower - room < QUADRATIC_LOG_Z < bounds.upper + room
        assert bounds.reliable
        assert abs(bounds.gap) < 0.3
        assert bounds.value == pytest.approx(QUADRATIC_LOG_Z, abs=0.1)

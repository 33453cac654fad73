"""Laws that are known in closed form, with tolerances from standard errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import random


@pytest.mark.parametrize("index", range(8))
def test_short_run_posterior_law_of_a_linear_gaussian(golden, index):
    """z_K ~ N(m - A^K m, A^2K + s^2 sum A^2j): mean and covariance over 100,000 chains."""
    numbers = golden("linear_gaussian")
    w, sigma = numbers["W"].astype("float32"), float(numbers["sigma"])
    x = numbers["x"].astype("float32")
    sampler = tfebm.ShortRunLangevin(int(numbers["steps"]), float(numbers["step_sizes"][index]))
    n = 100_000
    start = random.row_normal(random.as_row_seeds(100, n), 0, 4)

    def energy(z):
        residual = x - tf.matmul(z, w, transpose_b=True)
        squares = tf.reduce_sum(residual**2, -1) / (2 * sigma**2)
        return squares + 0.5 * tf.reduce_sum(z**2, -1)

    z = sampler(energy, start, seed=index).numpy().astype(np.float64)
    mean, cov = numbers["mean"][index], numbers["cov"][index]
    variances = np.diag(cov)
    # 8 x (4 + 10) comparisons in all: 6 standard errors each.
    assert np.all(np.abs(z.mean(0) - mean) < 6 * np.sqrt(variances / n))
    error = np.sqrt((np.outer(variances, variances) + cov**2) / n)
    # float32 rounding of the chain adds to the standard error where that is tiny.
    assert np.all(np.abs(np.cov(z.T) - cov) < 6 * error + 1e-7)


def test_prior_chain_of_a_quadratic_energy():
    """N(0, P^-1) with P = I + B, up to the known bias: covariance (P - s^2/4 P^2)^-1."""
    matrix = np.array([[1.0, 0.5], [0.5, 2.0]])
    s, n = 0.4, 100_000
    model = tfebm.LatentEBM(
        keras.layers.Dense(3),
        tfebm.QuadraticEnergy(matrix),
        latent_size=2,
        prior_sampler=tfebm.ShortRunLangevin(60, s),
    )
    z = model.sample_prior(random.as_row_seeds(0, n)).numpy().astype(np.float64)
    precision = np.eye(2) + matrix
    expected = np.linalg.inv(precision - s**2 / 4 * precision @ precision)
    variances = np.diag(expected)
    error = np.sqrt((np.outer(variances, variances) + expected**2) / n)
    assert np.all(np.abs(np.cov(z.T) - expected) < 5.5 * error)
    assert np.all(np.abs(z.mean(0)) < 5.5 * np.sqrt(variances / n))


SIGMA, NUM_ROWS = 0.5, 4000
LOADINGS = np.array([[1.5, 0.0], [0.0, 1.0], [0.5, -0.5], [-1.0, 0.5]], np.float32)  # W


def gaussian_model(energy, generator_learns, prior_steps=40, posterior_steps=40):
    generator = keras.layers.Dense(4, use_bias=False)
    generator.build((None, 2))
    generator.kernel.assign(LOADINGS.T)
    generator.trainable = generator_learns
    return tfebm.LatentEBM(
        generator,
        energy,
        latent_size=2,
        prior_sampler=tfebm.ShortRunLangevin(prior_steps, 0.35, jit_compile=True),
        posterior_sampler=tfebm.ShortRunLangevin(posterior_steps, 0.2, jit_compile=True),
        likelihood=tfebm.GaussianLikelihood(SIGMA),
    )


def gaussian_data(prior_cov):
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal(np.zeros(2), prior_cov, size=NUM_ROWS)
    return (z @ LOADINGS.T + SIGMA * rng.normal(size=(NUM_ROWS, 4))).astype("float32")


def test_learning_the_energy_on_gaussian_data_recovers_b():
    """x = W z + sigma e with z ~ N(0, (I + B)^-1) and W known: the energy learns B.

    4,000 examples fix an entry of the latent covariance to about 2 %, and the step sizes bias
    it by at most s^2 P / 4 = 9 %; 0.3 on entries of B up to 2 covers both.
    """
    matrix = np.array([[2.0, 0.7], [0.7, 0.5]])
    model = gaussian_model(tfebm.QuadraticEnergy(), generator_learns=False)
    rate = keras.optimizers.schedules.CosineDecay(0.05, 240)
    model.compile(energy_optimizer=keras.optimizers.Adam(rate))
    data = gaussian_data(np.linalg.inv(np.eye(2) + matrix))
    model.fit(data, batch_size=500, epochs=30, verbose=0)
    np.testing.assert_allclose(model.energy.matrix, matrix, atol=0.3)
    assert int(model.step.numpy()) == 240


def test_learning_the_generator_on_gaussian_data_recovers_the_loadings():
    """x = W z + sigma e with z ~ N(0, I): the generator learns W W' (W up to a rotation).

    The standard error of an entry of the data's covariance over 4,000 rows is at most
    0.06; the posterior chain's step size biases it by a few percent; 0.3 covers both.
    """
    energy = tfebm.QuadraticEnergy()
    energy.trainable = False
    model = gaussian_model(energy, generator_learns=True, prior_steps=0)
    model.generator.kernel.assign(np.random.default_rng(1).normal(size=(2, 4)) * 0.3)
    rate = keras.optimizers.schedules.CosineDecay(0.05, 240)
    model.compile(optimizer=keras.optimizers.Adam(rate))
    model.fit(gaussian_data(np.eye(2)), batch_size=500, epochs=30, verbose=0)
    kernel = model.generator.kernel.numpy()
    np.testing.assert_allclose(kernel.T @ kernel, LOADINGS @ LOADINGS.T, atol=0.3)

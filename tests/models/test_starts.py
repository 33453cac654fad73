"""Chains that begin at what an encoder says."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import vectors
from scipy import stats

import tfebm
from tfebm import random

SIGMA = 0.5
W = np.array([[1.5, 0.0], [0.0, 1.0], [0.5, -0.5], [-1.0, 0.5]], np.float32)
PRECISION = W.T @ W / SIGMA**2 + np.eye(2)
X = vectors(64, 4)


def linear_model(num_steps=2, step_size=0.1, objective="elbo", scale=1.0, **options):
    """x = W z + sigma e, whose posterior is known, with a linear encoder."""
    generator = keras.layers.Dense(4, use_bias=False)
    generator.build((None, 2))
    generator.kernel.assign(W.T)
    generator.trainable = False
    sampler = tfebm.ShortRunLangevin(num_steps, step_size, jit_compile=False)
    likelihood = tfebm.GaussianLikelihood(SIGMA)
    return tfebm.ShortRunModel(
        generator,
        2,
        sampler,
        likelihood,
        scale,
        encoder=keras.layers.Dense(4),
        encoder_objective=objective,
        **options,
    )


def exact_encoder(model):
    """Sets the encoder to the posterior's means and the best independent spreads."""
    mean = np.linalg.solve(PRECISION, W.T) / SIGMA**2
    kernel = np.concatenate([mean.T, np.zeros((4, 2))], axis=1)
    bias = np.concatenate([np.zeros(2), -np.log(np.diag(PRECISION))])
    model.encoder.set_weights([kernel.astype("float32"), bias.astype("float32")])
    return mean


def test_chains_begin_at_the_encoders_draw():
    model = linear_model(num_steps=0)
    mean = exact_encoder(model)
    seeds = random.as_row_seeds(3, 64)
    z = model.infer(X, seed=seeds)
    noise = (z - X @ mean.T) * np.sqrt(np.diag(PRECISION))
    assert abs(noise.mean()) < 5 / np.sqrt(128)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / 128)
    start, _ = model.inference.first.draw(tf.constant(X), seeds)
    np.testing.assert_allclose(z, start, rtol=1e-6)
    expected = stats.norm(X @ mean.T, 1 / np.sqrt(np.diag(PRECISION))).logpdf(z).sum(axis=1)
    found = model.inference.first.log_prob(start, tf.constant(X))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(("objective", "steps"), [("elbo", 1), ("chain", 30)])
def test_the_encoder_learns_the_posterior(objective, steps):
    model = linear_model(steps, 0.2, objective, num_chains=4)
    model.compile(encoder_optimizer=keras.optimizers.Adam(0.05))
    before = model.generator.get_weights()
    history = model.fit(X, epochs=250, batch_size=64, verbose=0).history
    np.testing.assert_array_equal(model.generator.get_weights(), before)
    means, log_variances = model.inference.first.q.moments(tf.constant(X))[0]
    expected = np.linalg.solve(PRECISION, W.T @ X.T).T / SIGMA**2
    assert np.abs(means - expected).mean() < 0.1
    # "elbo" finds the best independent Gaussians, "chain" the spread of the chains' ends.
    variances = np.exp(log_variances).mean(axis=0)
    ends = model.infer(X[:1], num_chains=2000)[0]
    wanted = 1 / np.diag(PRECISION) if objective == "elbo" else ends.var(axis=0)
    np.testing.assert_allclose(variances, wanted, rtol=0.3)
    assert history["encoder_loss"][-1] < history["encoder_loss"][0]
    assert history["kl"][-1] > 0.5


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_bounds_know_the_density_of_the_start(scale):
    model = linear_model(4, 0.15, scale=scale)
    exact_encoder(model)
    evidence = stats.multivariate_normal(
        np.zeros(4), scale**2 * W @ W.T + SIGMA**2 * np.eye(4)
    ).logpdf(X)
    bound = model.evidence_bound(X, num_chains=50)
    assert bound.valid_share == 1.0
    # A start near the posterior: the weights of 50 chains average to the evidence.
    error = np.std(bound.importance_weighted - evidence) / 8
    assert abs(np.mean(bound.importance_weighted - evidence)) < 5 * error + 0.02
    assert np.mean(bound.elbo) < np.mean(evidence)
    from_prior = tfebm.ShortRunModel(
        model.generator, 2, model.posterior_sampler, model.likelihood, scale
    )
    assert np.mean(from_prior.evidence_bound(X).elbo) < np.mean(bound.elbo) - 1
    chosen = model.evidence_sampler(X[:16], num_steps=4, values=[0.01, 0.15])
    assert np.max(chosen.step_size) in (0.01, 0.15)
    model.tune_step_size(X[:8], criterion="kl", values=[0.05, 0.15])


def test_an_energy_prior_is_in_the_chain_and_in_the_encoders_objective():
    energy = tfebm.QuadraticEnergy(3.0 * np.eye(2, dtype="float32"))
    energy.trainable = False
    base = linear_model()
    sampler = tfebm.ShortRunLangevin(1, 0.1, jit_compile=False)
    model = tfebm.LatentEBM(
        base.generator, energy, 2, sampler, sampler, base.likelihood, encoder=keras.layers.Dense(4)
    )
    model.compile(encoder_optimizer=keras.optimizers.Adam(0.05))
    model.fit(X, epochs=250, batch_size=64, verbose=0)
    means = model.inference.first.q.moments(tf.constant(X))[0][0]
    # The prior is N(0, 1 / (1 + 2 * 3)) or N(0, 1 / (1 + 3)), by the energy's own convention.
    probe = tf.constant([[0.0, 0.0], [1.0, 0.0]])
    curvature = 2 * float(np.diff(model.prior_energy(probe))[0])
    precision = W.T @ W / SIGMA**2 + curvature * np.eye(2)
    expected = np.linalg.solve(precision, W.T @ X.T).T / SIGMA**2
    assert curvature > 2
    assert np.abs(means - expected).mean() < 0.1


@pytest.mark.parametrize("objective", ["elbo", "chain", "vae"])
def test_a_collapsed_encoder_is_said(objective):
    if objective == "vae":
        model = tfebm.VAE(keras.layers.Dense(4), keras.layers.Dense(4), 2)
    else:
        model = linear_model(objective=objective)
    model.encoder.set_weights([np.zeros((4, 4), np.float32), np.zeros(4, np.float32)])
    still = {name: keras.optimizers.SGD(0.0) for name in model.optimized}
    model.compile(**still)
    with pytest.warns(UserWarning, match=r"has collapsed: in epoch 1 .* 0 nats over 2 units"):
        model.fit(X, verbose=0)
    # One unit that says something is enough.
    model.encoder.set_weights([np.zeros((4, 4), np.float32), np.float32([0.3, 0, 0, 0])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, verbose=0)


def test_the_elbo_is_of_the_energy_that_the_step_has():
    heavy = keras.optimizers.schedules.ExponentialDecay(20.0, 1000, 1.0)
    model = linear_model(1, prior_schedule=heavy)
    model.compile(encoder_optimizer=keras.optimizers.Adam(0.05))
    model.fit(X, epochs=250, batch_size=64, verbose=0)
    means = model.inference.first.q.moments(tf.constant(X))[0][0]
    expected, whole = (
        np.linalg.solve(W.T @ W / SIGMA**2 + weight * np.eye(2), W.T @ X.T).T / SIGMA**2
        for weight in (20.0, 1.0)
    )
    assert np.abs(means - expected).mean() < 0.2 * np.abs(whole - expected).mean()


@keras.saving.register_keras_serializable("tests")
class Listening(keras.layers.Dense):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.heard = []

    def call(self, x, training=None):
        self.heard.append(training)
        return super().call(x)


def test_an_encoder_learns_in_one_pass_and_begins_the_chain_as_in_inference():
    model = linear_model()
    model = tfebm.ShortRunModel(model.generator, 2, model.posterior_sampler, encoder=Listening(4))
    model.compile()
    model.encoder.heard.clear()
    model.fit(X[:8], batch_size=8, verbose=0)
    assert model.encoder.heard.count(True) == 1
    assert len(model.encoder.heard) == 2


def test_the_divergence_is_from_the_prior_of_now():
    model = linear_model(scale=1.0)
    model.prior_scale = 3.0
    model.encoder.set_weights([np.zeros((4, 4), np.float32), np.zeros(4, np.float32)])
    model.compile(encoder_optimizer=keras.optimizers.SGD(0.0))
    found = model.fit(X, verbose=0).history["kl"][0]
    # Two units of variance 1 from variance 9.
    assert found == pytest.approx(2 * (np.log(3) + 1 / 18 - 0.5), rel=1e-5)


class TestRefusals:
    def test_what_belongs_to_a_model_from_its_making(self):
        model = linear_model()
        with pytest.raises(tfebm.InvalidInputError, match="Received 'chain'"):
            model.encoder_objective = "chain"
        with pytest.raises(tfebm.InvalidInputError, match="`encoder` is fixed"):
            model.encoder = keras.layers.Dense(4)
        assert model.get_config()["encoder_objective"] == model.encoder_objective == "elbo"
        without = tfebm.ShortRunModel(model.generator, 2)
        with pytest.raises(tfebm.InvalidInputError, match="`encoder` is fixed"):
            without.encoder = keras.layers.Dense(4)

    def test_a_chain_without_noise_has_no_law_to_learn(self):
        still = tfebm.ShortRunLangevin(2, 0.1, noise_scale=0.0)
        given = {"posterior_sampler": still, "encoder": keras.layers.Dense(4)}
        with pytest.warns(UserWarning, match="no noise: every example has one end"):
            tfebm.ShortRunModel(keras.layers.Dense(4), 2, encoder_objective="chain", **given)

    def test_an_objective_without_an_encoder(self):
        with pytest.raises(tfebm.InvalidInputError, match="without an `encoder`"):
            tfebm.ShortRunModel(keras.layers.Dense(4), 2, encoder_objective="elbo")
        with pytest.raises(tfebm.InvalidInputError, match="`encoder_objective` must be 'elbo'"):
            linear_model(objective="kl")

    def test_encoders_that_do_not_fit(self):
        options = {"encoder": keras.layers.Dense(5)}
        with pytest.raises(tfebm.InvalidInputError, match=r"\[B, 4\].*Received \[B, 5\]"):
            tfebm.ShortRunModel(keras.layers.Dense(4), 2, **options)
        other = keras.Sequential([keras.Input((7,)), keras.layers.Dense(4)])
        with pytest.raises(tfebm.InvalidInputError, match="does not take examples"):
            tfebm.ShortRunModel(keras.layers.Dense(4), 2, encoder=other)
        half = keras.layers.Dense(4, dtype="mixed_float16")
        with pytest.raises(tfebm.InvalidInputError, match="float16"):
            tfebm.ShortRunModel(keras.layers.Dense(4), 2, encoder=half)

    def test_an_optimizer_of_no_encoder(self):
        model = tfebm.ShortRunModel(keras.layers.Dense(4), 2)
        with pytest.raises(tfebm.InvalidInputError, match="the model has none"):
            model.compile(encoder_optimizer="adam")

"""Bounds on log p(x) of sentences against the integral over a single latent."""

import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm.models import evidence_bound

SENTENCES = ["a b", "b", "c c a", "b b c a"]


def generator():
    tokenizer = tfebm.tokenizers.WordTokenizer(["a", "b", "c"])
    network = tfebm.AutoregressiveGenerator(tokenizer, 4, 6, dropout=0.5, max_length=6)
    network.build((None, 1))
    for weight in network.weights:  # a posterior that is not the prior
        weight.assign(8.0 * weight)
    return network


def log_evidence(model, tilt=None):
    """log of the integral of p(z) p(x | z), by a sum over a fine grid; and log Z."""
    grid = np.linspace(-8, 8, 4001, dtype=np.float32)[:, np.newaxis]
    energy = 0.5 * grid[:, 0].astype(np.float64) ** 2 + 0.5 * np.log(2 * np.pi)
    if tilt is not None:
        energy = energy + tilt(tf.constant(grid)).numpy()
    width = grid[1, 0] - grid[0, 0]
    log_z = np.log(np.sum(np.exp(-energy)) * width)
    found = []
    for ids in model.as_rows(SENTENCES).numpy():
        x = tf.repeat(tf.constant(ids)[tf.newaxis], len(grid), axis=0)
        nll = model.likelihood.error(model.examples.outputs(tf.constant(grid), x), x).numpy()
        found.append(np.logaddexp.reduce(-energy - nll) + np.log(width))
    return np.array(found) - log_z, log_z


def models():
    chain = tfebm.ShortRunLangevin(8, 0.2, 0.5)
    yield tfebm.ShortRunModel(generator(), posterior_sampler=chain)
    yield tfebm.VAE(generator())
    energy = tfebm.QuadraticEnergy([[1.5]])
    yield tfebm.LatentEBM(generator(), energy, posterior_sampler=chain)


@pytest.mark.parametrize("which", range(3), ids=["short run", "vae", "energy prior"])
def test_bounds_lie_below_the_integral_and_approach_it(which):
    model = list(models())[which]
    tilt = model.tilt if which == 2 else None
    exact, log_z = log_evidence(model, tilt)
    if which == 2:
        estimate = model.estimate_log_normalizer(num_samples=200_000)
        assert abs(estimate.value - log_z) < 5 * estimate.standard_error
    few, many = (
        evidence_bound(model, SENTENCES, num_chains=m, log_normalizer=log_z) for m in (4, 1024)
    )
    assert many.valid.all()
    # 1,024 draws: the mean of the ELBO has a standard error; it lies below for certain.
    assert (many.elbo < exact + 0.05).all()
    gap = exact - many.importance_weighted
    assert (np.abs(gap) < 0.1).all(), gap
    assert (many.importance_weighted >= many.elbo).all()
    assert few.elbo.shape == (len(SENTENCES),)
    np.testing.assert_allclose(many.elbo, -many.reconstruction - many.kl, rtol=1e-5)

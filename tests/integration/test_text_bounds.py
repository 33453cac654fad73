"""Bounds on log p(x) of sentences against the integral over a single latent."""

import numpy as np
import pytest
import tensorflow as tf

import tfebm

CHAIN = tfebm.ShortRunLangevin(8, 0.2, 0.5)
SENTENCES = ["a b", "b", "c c a"]


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
    for ids in model.examples.tensor(SENTENCES).numpy():
        x = tf.repeat(tf.constant(ids)[tf.newaxis], len(grid), axis=0)
        nll = model.likelihood.error(model.examples.outputs(tf.constant(grid), x), x).numpy()
        found.append(np.logaddexp.reduce(-energy - nll) + np.log(width))
    return np.array(found) - log_z, log_z


def short_run():
    return tfebm.ShortRunModel(generator(), posterior_sampler=CHAIN)


def vae():
    return tfebm.VAE(generator())


def latent_ebm():
    energy = tfebm.QuadraticEnergy([[1.5]])
    return tfebm.LatentEBM(generator(), energy, posterior_sampler=CHAIN)


@pytest.mark.parametrize("make", [short_run, vae, latent_ebm])
def test_bounds_lie_below_the_integral_and_approach_it(make):
    model = make()
    tilt = model.tilt if make is latent_ebm else None
    exact, log_z = log_evidence(model, tilt)
    if tilt is not None:
        estimate = model.estimate_log_normalizer(num_samples=200_000)
        assert abs(estimate.value - log_z) < 5 * estimate.standard_error
    bound = model.evidence_bound(SENTENCES, num_chains=256, log_normalizer=log_z)
    assert bound.valid.all()
    # 256 draws: the weights' logarithms spread by less than 1, so that a mean of them has a
    # standard error below 0.06.
    assert (bound.elbo < exact + 0.3).all()
    assert (np.abs(exact - bound.importance_weighted) < 0.3).all()
    assert (bound.importance_weighted >= bound.elbo).all()
    np.testing.assert_allclose(bound.elbo, -bound.reconstruction - bound.kl, rtol=1e-5)


@pytest.mark.parametrize("make", [short_run, vae, latent_ebm])
def test_samples_around_the_chains_find_the_integral(make):
    model = make()
    exact, log_z = log_evidence(model, model.tilt if make is latent_ebm else None)
    found = model.laplace_bound(SENTENCES, num_samples=1000, log_normalizer=log_z)
    size = found.effective_sample_size
    assert (size > 100).all()
    # Relative variance of the mean weight: (1000 / size - 1) / 1000; five standard errors.
    error = 5 * np.sqrt((1000 / size - 1) / 1000)
    assert (np.abs(found.importance_weighted - exact) < error).all()
    np.testing.assert_allclose(found.kl + found.reconstruction, -found.importance_weighted)
    seeds = np.arange(6, dtype=np.int32).reshape(3, 2)
    few = model.laplace_bound(
        SENTENCES, num_samples=2, num_chains=5, seed=seeds, log_normalizer=log_z
    )
    assert np.isfinite(few.importance_weighted).all()


def test_a_chain_is_chosen_for_its_bound_and_invalid_ones_weigh_nothing():
    model = short_run()
    own = model.evidence_bound(SENTENCES, num_chains=8)
    sampler = model.evidence_sampler(SENTENCES, num_steps=4, values=[0.1, 0.5, 30.0])
    assert sampler.noise_scale == 0.0
    assert np.max(sampler.step_size) in (0.1, 0.5)
    chosen = model.evidence_bound(SENTENCES, num_chains=8, sampler=sampler)
    assert chosen.valid.all()
    assert not np.allclose(chosen.elbo, own.elbo)
    # Steps far beyond the limit: no chain is valid, and nothing is claimed.
    wild = model.evidence_bound(SENTENCES, sampler=tfebm.ShortRunLangevin(2, 3.0, 0.0))
    assert wild.invalid_chains == 1.0
    assert np.isneginf(wild.importance_weighted).all()
    assert wild.summary()["importance_weighted"] is None

"""One learning step of the authors' code, reproduced."""

import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import random


@pytest.fixture(params=[False, True], ids=["plain", "compiled"])
def model(request, golden):
    numbers = golden("latent_ebm")
    kwargs = {"noise_scale": 0.0, "jit_compile": request.param}
    model = tfebm.LatentEBM(
        tfebm.DeconvGenerator((32, 32, 3), width=8),
        tfebm.EnergyMLP((32, 32), activation=str(numbers["energy_activation"])),
        latent_size=16,
        likelihood=tfebm.GaussianLikelihood(float(numbers["likelihood_sigma"])),
        prior_sampler=tfebm.ShortRunLangevin(
            int(numbers["prior_steps"]), float(numbers["prior_step_size"]), **kwargs
        ),
        posterior_sampler=tfebm.ShortRunLangevin(
            int(numbers["posterior_steps"]), float(numbers["posterior_step_size"]), **kwargs
        ),
    )
    networks = {"generator": model.generator.layers, "energy": energy_layers(model)}
    for name, layers in networks.items():
        for i, layer in enumerate(layers):
            for weight in ("kernel", "bias"):
                getattr(layer, weight).assign(numbers[f"{name}_{i}_{weight}"])
    return model


def energy_layers(model):
    return [*model.energy.hidden, model.energy.head]


def assert_gradients(layers, gradients, numbers, name):
    by_path = {v.path: g for v, g in gradients}
    for i, layer in enumerate(layers):
        for weight in ("kernel", "bias"):
            expected = numbers[f"grad_{name}_{i}_{weight}"]
            gradient = by_path[getattr(layer, weight).path].numpy()
            bound = 1e-4 * np.linalg.norm(expected) + 1e-6
            assert np.linalg.norm(gradient - expected) < bound, (name, i, weight)


def test_chains(model, golden):
    numbers = golden("latent_ebm")
    prior = model.prior_sampler(model.prior_energy, numbers["z_prior_0"])
    np.testing.assert_allclose(prior, numbers["z_prior_K"], atol=1e-5, rtol=0)
    posterior = model.posterior_sampler(
        model.posterior_energy, numbers["z_posterior_0"], numbers["x"]
    )
    np.testing.assert_allclose(posterior, numbers["z_posterior_K"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.decode(posterior), numbers["x_hat"], atol=1e-5, rtol=0)


def test_losses_and_gradients(model, golden, monkeypatch):
    """Through the model's own step, with only the starts of the chains given."""
    numbers = golden("latent_ebm")
    starts = {random.POSTERIOR: numbers["z_posterior_0"], random.PRIOR: numbers["z_prior_0"]}
    monkeypatch.setattr(
        model.prior, "start", lambda seeds, child: (tf.constant(starts[child]), seeds)
    )
    grads, logs = model.learn(tf.constant(numbers["x"]), tf.zeros([8, 2], tf.int32), True)
    expected = {
        "generator_loss": numbers["generator_loss"],
        "energy_gap": numbers["energy_loss"],
        "energy_posterior": numbers["energy_positive"],
        "energy_prior": numbers["energy_negative"],
    }
    for name, value in expected.items():
        assert float(logs[name]) == pytest.approx(float(value), rel=1e-4), name
    layers = {"generator": model.generator.layers, "energy": energy_layers(model)}
    for name, of_network in layers.items():
        variables = getattr(model, name).trainable_variables
        assert_gradients(of_network, zip(variables, grads[name], strict=True), numbers, name)

"""Short-run inference of sentences by the authors' code, reproduced, with its determinants."""

import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm.samplers import log_det

WEIGHTS = {
    "embedding": "embedding",
    "kernel": "lstm_kernel",
    "recurrent_kernel": "lstm_recurrent_kernel",
    "bias": "lstm_bias",
    "latent_kernel": "latent_hidden_kernel",
    "latent_bias": "latent_hidden_bias",
    "output_kernel": "output_kernel",
    "output_bias": "output_bias",
}


@pytest.fixture(params=[False, True], ids=["plain", "compiled"])
def model(request, golden):
    numbers = golden("text")
    special = [int(numbers[f"{name}_id"]) for name in ("pad", "start", "end")]
    assert special == [0, 1, 2]  # as everywhere here
    tokenizer = tfebm.tokenizers.WordTokenizer([f"w{i}" for i in range(4, 40)])
    generator = tfebm.AutoregressiveGenerator(tokenizer, embedding_size=8, hidden_size=12)
    generator.build((None, 6))
    for weight, name in WEIGHTS.items():
        getattr(generator, weight).assign(numbers[name])
    assert len(generator.weights) == len(WEIGHTS)
    steps = numbers["step_sizes"].tolist()
    sampler = tfebm.ShortRunLangevin(len(steps), steps, 0.0, jit_compile=request.param)
    return tfebm.ShortRunModel(generator, posterior_sampler=sampler)


def test_chain_likelihood_and_determinant(model, golden, monkeypatch):
    numbers = golden("text")
    start = tf.constant(numbers["z_0"])
    x = tf.constant(numbers["tokens"][:, 1:], tf.int32)
    monkeypatch.setattr(model.prior, "start", lambda seeds, _: (start, seeds))
    z = model.sample_posterior(x, tf.zeros([5, 2], tf.int32))
    np.testing.assert_allclose(z, numbers["z_K"], atol=1e-5, rtol=0)
    nll = model.likelihood.error(model.examples.outputs(z, x), x)
    np.testing.assert_allclose(nll, numbers["nll_given_z_K"], atol=1e-4, rtol=0)
    end, found = log_det.log_det_of_map(
        *(model.posterior_sampler, model.joint_energy, start, x),
        **model.inference.current_settings(),
    )
    np.testing.assert_allclose(end, numbers["z_K"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.value, numbers["log_abs_det_jacobian"], atol=1e-4, rtol=0)
    assert found.valid.numpy().all()
    # The bound is put together of these, with the same start.
    log_weight, of_bound, valid = model.inference.bound(x, tf.zeros([5, 2], tf.int32))
    log_normal = -0.5 * np.log(2 * np.pi) * 6

    def log_prior(z):
        return log_normal - 0.5 * np.sum(np.square(z), axis=1)

    expected = -numbers["nll_given_z_K"] + log_prior(numbers["z_K"])
    expected -= log_prior(numbers["z_0"]) - numbers["log_abs_det_jacobian"]
    np.testing.assert_allclose(log_weight, expected, atol=2e-4, rtol=0)
    np.testing.assert_allclose(of_bound, nll, atol=1e-5)
    assert valid.numpy().all()

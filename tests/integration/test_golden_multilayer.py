"""Short-run inference through the authors' five-layer generator, reproduced."""

import numpy as np
import pytest
import tensorflow as tf

import tfebm


def parts_of(generator):
    """Layers by the names that the golden numbers have for them."""
    for i, projection in enumerate(generator.projections):
        yield f"projection_{i}_dense", projection.dense
        yield f"projection_{i}_deconv", projection.deconv
    for i, block in enumerate(generator.blocks):
        yield f"deterministic_{i}_conv5", block.conv5
        yield f"deterministic_{i}_conv3", block.conv3
    for i, heads in enumerate(zip(generator.means, generator.log_variances, strict=True)):
        for name, head in zip(("mean", "var"), heads, strict=True):
            yield f"stochastic_{i}_{name}_conv", head.conv
            yield f"stochastic_{i}_{name}_dense", head.dense
    yield "output_deconv", generator.doublings[-1]


@pytest.fixture
def model(golden):
    numbers = golden("multi_layer")
    generator = tfebm.MultilayerGenerator((32, 32, 3), tuple(numbers["z_dims"]), legacy_std=True)
    generator.build()
    assigned = []
    for name, layer in parts_of(generator):
        for weight in ("kernel", "bias"):
            if f"{name}_{weight}" in numbers:
                getattr(layer, weight).assign(numbers[f"{name}_{weight}"])
                assigned.append(getattr(layer, weight))
    assert len(assigned) == len(generator.weights)
    return tfebm.ShortRunModel(
        generator,
        posterior_sampler=tfebm.ShortRunLangevin(
            int(numbers["steps"]), float(numbers["step_size"]), noise_scale=0.0
        ),
        likelihood=tfebm.GaussianLikelihood(float(numbers["likelihood_sigma"])),
    )


def test_chain_and_gradients(model, golden, monkeypatch):
    numbers = golden("multi_layer")
    start, end = (
        tuple(tf.constant(numbers[f"z_{k}_layer{i}"]) for i in range(5)) for k in ("0", "K")
    )
    monkeypatch.setattr(model.prior, "start", lambda seeds, _: (start, seeds))
    z = model.sample_posterior(tf.constant(numbers["x"]), tf.zeros([4, 2], tf.int32))
    for found, expected in zip(z, end, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.decode(z), numbers["x_hat"], atol=1e-5, rtol=0)

    grads, logs = model.learn(tf.constant(numbers["x"]), tf.zeros([4, 2], tf.int32), True)
    squared_error = 4 * float(logs["generator_loss"])  # a mean over four examples
    assert squared_error == pytest.approx(float(numbers["squared_error"]), rel=1e-4)
    variables = model.generator.trainable_variables
    by_path = {v.path: g for v, g in zip(variables, grads["generator"], strict=True)}
    checked = 0
    for name, layer in parts_of(model.generator):
        if f"gradnorm_{name}_kernel" in numbers:
            norm = 4 * np.linalg.norm(by_path[layer.kernel.path])
            assert norm == pytest.approx(float(numbers[f"gradnorm_{name}_kernel"]), rel=1e-4), name
            checked += 1
    assert checked == 39

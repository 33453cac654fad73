import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfebm

PAPER = {  # image shape, width, stages, latent size: parameters
    "svhn": ((32, 32, 3), 64, None, 100, 3_447_683),
    "cifar10": ((32, 32, 3), 128, tfebm.CIFAR10_STAGES, 128, 18_883_075),
    "celeba64": ((64, 64, 3), 128, None, 100, 12_656_515),
    "mnist": ((28, 28, 1), 16, None, 16, 140_001),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_layouts_have_the_papers_parameters(name):
    image_shape, width, stages, latent_size, parameters = PAPER[name]
    generator = tfebm.DeconvGenerator(image_shape, width, stages)
    generator.build((None, latent_size))
    assert generator.count_params() == parameters


@pytest.mark.parametrize("size", [8, 27, 28, 32, 48, 50, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_size(size, channels):
    generator = tfebm.DeconvGenerator((size, size, channels), width=2)
    images = generator(tf.random.stateless_normal([2, 5], [0, 1]) * 10)
    assert images.shape == (2, size, size, channels)
    assert images.dtype == tf.float32
    assert np.abs(images).max() <= 1.0


def test_mixed_precision_computes_in_bfloat16_and_returns_float32():
    generator = tfebm.DeconvGenerator((28, 28, 1), width=4, dtype="mixed_bfloat16")
    plain = tfebm.DeconvGenerator((28, 28, 1), width=4)
    z = tf.random.stateless_normal([3, 5], [0, 0])
    generator(z), plain(z)
    plain.set_weights(generator.get_weights())
    assert generator(z).dtype == tf.float32
    assert generator.layers[1].compute_dtype == "bfloat16"
    assert generator.layers[1].kernel.dtype == "float32"
    error = np.abs(generator(z) - plain(z)).max()
    assert 0 < error < 0.02


def test_config_round_trip():
    generator = tfebm.DeconvGenerator((32, 32, 3), 2, tfebm.CIFAR10_STAGES, None)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(generator))
    assert again.get_config() == generator.get_config()
    assert again.output_range is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (32, 28, 3)}, "square"),
        ({"image_shape": (7, 7, 3)}, "at least 8 pixels"),
        ({"image_shape": (0, 0, 3)}, "at least 8 pixels"),
        ({"width": 0}, "width"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfebm.DeconvGenerator(**arguments)


def test_a_dense_generator_is_its_layers():
    generator = tfebm.DenseGenerator((5, 4, 3), hidden_units=(7, 6), activation="relu")
    z = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    images = generator(z)
    weights = [layer.get_weights() for layer in generator.layers]
    x = z
    for kernel, bias in weights[:-1]:
        x = np.maximum(x @ kernel + bias, 0)
    kernel, bias = weights[-1]
    np.testing.assert_allclose(
        images, np.tanh(x @ kernel + bias).reshape(8, 5, 4, 3), rtol=1e-4, atol=1e-6
    )
    assert generator.count_params() == 3 * 7 + 8 * 6 + 7 * 60
    assert generator.output_range == (-1.0, 1.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(generator))
    assert again.get_config() == generator.get_config()
    half = tfebm.DenseGenerator((5, 4, 3), (7, 6), "relu", dtype="mixed_bfloat16")
    half(z)
    half.set_weights(generator.get_weights())
    assert half(z).dtype == tf.float32
    assert 0 < np.abs(half(z) - images).max() < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (28, 28)}, r"\(height, width, channels\)"),
        ({"image_shape": (28, 0, 1)}, "`image_shape` must be whole numbers"),
        ({"hidden_units": (2.5,)}, "`hidden_units` must be whole numbers"),
    ],
)
def test_arguments_that_a_dense_generator_cannot_use(arguments, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        tfebm.DenseGenerator(**arguments)


def test_stages_must_end_at_the_image():
    generator = tfebm.DeconvGenerator((64, 64, 3), stages=tfebm.CIFAR10_STAGES)
    with pytest.raises(ValueError, match=r"end at an image of shape \(32, 32, 3\)"):
        generator.build((None, 4))


def test_gaussian_likelihood_is_the_density():
    x, mean = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype("float32")
    likelihood = tfebm.GaussianLikelihood(0.7)
    expected = stats.norm(mean, 0.7).logpdf(x).sum((1, 2))
    np.testing.assert_allclose(likelihood.log_prob(mean, x), expected, rtol=1e-5)
    np.testing.assert_allclose(likelihood.error(mean, x), ((x - mean) ** 2).sum((1, 2)), rtol=1e-5)
    # Up to its constant, the energy of the chains is minus the log density.
    energy = likelihood.energy_scale * likelihood.error(mean, x) + expected
    np.testing.assert_allclose(energy, energy[0] * np.ones(5), rtol=1e-4)


def test_bernoulli_likelihood_is_the_density():
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], size=(5, 4)).astype("float32")
    logits = rng.normal(size=(5, 4)).astype("float32")
    likelihood = tfebm.BernoulliLikelihood()
    p = 1 / (1 + np.exp(-logits))
    expected = np.log(np.where(x > 0, p, 1 - p)).sum(1)
    np.testing.assert_allclose(likelihood.log_prob(logits, x), expected, rtol=1e-5)
    np.testing.assert_allclose(likelihood.mean(logits), 2 * p - 1, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf")])
def test_gaussian_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="scale"):
        tfebm.GaussianLikelihood(scale)

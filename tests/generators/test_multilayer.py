import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfebm
from tfebm.generators import multilayer

SMALL = {"latent_sizes": (2, 3, 4), "width": 4, "upsamplings": 2}


def normal(sizes, rows=3, scale=1.0):
    rng = np.random.default_rng(0)
    return tuple(tf.constant(scale * rng.normal(size=(rows, n)), tf.float32) for n in sizes)


def test_the_papers_generator_has_the_papers_parameters():
    generator = tfebm.MultilayerGenerator((32, 32, 3))
    generator.build()
    assert generator.latent_sizes == (64, 64, 64, 96, 128)
    assert generator.count_params() == 12_162_435


@pytest.mark.parametrize(
    ("shape", "sizes", "upsamplings"),
    [((28, 28, 1), (2, 3, 4), 2), ((32, 32, 3), (5,), 1), ((64, 64, 3), (2, 2), 3)],
)
def test_images_of_any_number_of_layers(shape, sizes, upsamplings):
    generator = tfebm.MultilayerGenerator(shape, sizes, 4, upsamplings=upsamplings)
    images = generator(normal(sizes, scale=10.0))
    assert images.shape == (3, *shape)
    assert images.dtype == tf.float32
    assert np.abs(images).max() <= 1.0


def test_every_layer_reaches_the_image_and_only_through_what_is_below():
    generator = tfebm.MultilayerGenerator((28, 28, 1), **SMALL)
    z = normal(generator.latent_sizes)
    seen = []

    def choose(layer, mean, log_variance):
        seen.append((layer, mean, log_variance))
        return z[layer] if mean is None else mean + tf.exp(0.5 * log_variance) * z[layer]

    np.testing.assert_allclose(generator.descend(choose), generator(z), atol=1e-6)
    assert [layer for layer, *_ in seen] == [0, 1, 2]
    assert seen[0][1:] == (None, None)
    assert seen[2][1].shape == (3, 4)
    with tf.GradientTape() as tape:
        tape.watch(z)
        images = generator(z)
    for grad in tape.gradient(images, z):
        assert np.all(np.abs(grad).max(axis=1) > 0)


@pytest.mark.parametrize(
    ("legacy", "low", "high"), [(False, -7.0, 2.0), (True, 0.0, 10.0)], ids=["clipped", "released"]
)
def test_log_variances_are_bounded(legacy, low, high):
    generator = tfebm.MultilayerGenerator((28, 28, 1), legacy_std=legacy, **SMALL)
    v = np.array([-100.0, 0.0, 1.0, 100.0], np.float32)
    expected = np.minimum(np.log1p(np.exp(np.minimum(v, 50))), 10) if legacy else np.clip(v, -7, 2)
    found = generator._bounded(v)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert (np.min(found), np.max(found)) == (low, high)


def test_config_round_trip_and_bfloat16():
    generator = tfebm.MultilayerGenerator(
        (28, 28, 1), output_activation=None, dtype="mixed_bfloat16", **SMALL
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(generator))
    assert again.get_config() == generator.get_config()
    assert again.output_range is None
    assert generator(normal(generator.latent_sizes)).dtype == tf.float32
    assert generator.blocks[0].conv5.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (32, 28, 3)}, "square"),
        ({"image_shape": (30, 30, 3), "upsamplings": 2}, "whole number of at least 5"),
        ({"image_shape": (16, 16, 3), "upsamplings": 2}, "whole number of at least 5"),
        ({"latent_sizes": ()}, "latent_sizes"),
        ({"latent_sizes": (3, 0)}, "latent_sizes"),
        ({"latent_sizes": (3, 2.5)}, "whole numbers"),
        ({"latent_sizes": 16}, "Received 16"),
        ({"width": 0}, "width"),
        ({"log_variance_range": (1.0, 0.0)}, "log_variance_range"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        tfebm.MultilayerGenerator(**arguments)


def test_latents_of_another_structure():
    generator = tfebm.MultilayerGenerator((28, 28, 1), **SMALL)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\), the top first. Received sizes \(2, 3\)"):
        generator(normal((2, 3)))


def test_gelu_is_the_exact_one_with_its_derivatives():
    x = tf.constant(np.linspace(-8.0, 8.0, 81))  # float64

    def three(activation):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = activation(x)
            first = inner.gradient(y, x)
        return y, first, outer.gradient(first, x)

    law = stats.norm
    exact = x * law.cdf(x), law.cdf(x) + x * law.pdf(x), law.pdf(x) * (2 - np.square(x))
    for found, expected in zip(three(multilayer.gelu), exact, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)

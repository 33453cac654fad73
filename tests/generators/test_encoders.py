import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm


def small_encoder(image_shape=(28, 28, 1), latent_sizes=(3, 5), **kwargs):
    return tfebm.ConvEncoder(image_shape, latent_sizes, width=4, hidden=6, **kwargs)


@pytest.mark.parametrize(
    ("side", "flat"),
    [(28, 7 * 7 * 8), (32, 8 * 8 * 8), (64, 8 * 8 * 16), (5, 3 * 3 * 4)],
)
def test_sides_are_halved_to_at_most_eight(side, flat):
    encoder = small_encoder((side, side, 3))
    outputs = encoder(tf.zeros([2, side, side, 3]))
    assert [each.shape for each in outputs] == [(2, 6), (2, 10)]
    # The bottom of the ladder is the one that sees the image.
    assert [dense.kernel.shape for dense in encoder.ladder] == [(6, 6), (flat, 6)]


def test_one_size_is_one_tensor():
    encoder = small_encoder(latent_sizes=5)
    output = encoder(tf.zeros([2, 28, 28, 1]))
    assert output.shape == (2, 10)
    assert encoder.compute_output_shape((None, 28, 28, 1)) == (None, 10)
    assert small_encoder(latent_sizes=(5,))(tf.zeros([2, 28, 28, 1]))[0].shape == (2, 10)


def test_building_needs_no_data_and_makes_every_weight():
    encoder = small_encoder()
    encoder.build((None, 28, 28, 1))
    built = encoder.count_params()
    encoder(tf.zeros([1, 28, 28, 1]))
    assert encoder.count_params() == built > 0


@pytest.mark.parametrize("latent_sizes", [5, (3, 5)])
def test_a_loaded_encoder_answers_alike(latent_sizes, tmp_path):
    x = keras.Input((28, 28, 1))
    model = keras.Model(x, small_encoder(latent_sizes=latent_sizes)(x))
    model.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    images = tf.random.stateless_normal([3, 28, 28, 1], [0, 0])
    for one, other in zip(model(images), loaded(images), strict=True):
        np.testing.assert_array_equal(one, other)
    config = small_encoder(latent_sizes=latent_sizes).get_config()
    assert tfebm.ConvEncoder.from_config(config).latent_sizes == latent_sizes


def test_mixed_precision_computes_in_bfloat16_and_returns_float32():
    encoder = small_encoder(latent_sizes=3, dtype="mixed_bfloat16")
    plain = small_encoder(latent_sizes=3)
    images = tf.random.stateless_normal([3, 28, 28, 1], [0, 0])
    encoder(images), plain(images)
    plain.set_weights(encoder.get_weights())
    assert encoder(images).dtype == tf.float32
    assert encoder.heads[0].compute_dtype == "bfloat16"
    assert encoder.heads[0].kernel.dtype == "float32"
    assert 0 < np.abs(encoder(images) - plain(images)).max() < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (28, 28)}, r"Received \(28, 28\)"),
        ({"latent_sizes": ()}, "Received none"),
        ({"latent_sizes": (3, 0)}, "`latent_sizes`.*Received 0"),
        ({"width": 0}, "`width`.*Received 0"),
        ({"hidden": 1.5}, "`hidden`.*Received 1.5"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        tfebm.ConvEncoder(**arguments)

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm


def test_mlp_has_the_papers_parameters():
    energy = tfebm.EnergyMLP((200, 200))
    energy.build((None, 100))
    assert energy.count_params() == 60_601


def test_mlp_starts_like_dense_layers_of_the_released_code():
    energy = tfebm.EnergyMLP((50,))
    energy.build((None, 400))
    kernel = energy.hidden[0].kernel.numpy()
    assert np.abs(kernel).max() <= 1 / 20
    # Uniform within 1/20: variance (1/20)^2 / 3, over 20,000 draws.
    assert kernel.var() == pytest.approx(1 / 1200, rel=0.05)


def test_mlp_energy_is_float32_under_mixed_precision():
    energy = tfebm.EnergyMLP((16,), dtype="mixed_bfloat16")
    values = energy(tf.random.stateless_normal([64, 8], [0, 0]))
    assert values.dtype == tf.float32
    assert energy.hidden[0].compute_dtype == "bfloat16"
    # A bfloat16 head would round neighbouring energies to a few values.
    assert len(np.unique(values)) == 64


def test_mlp_refuses_layers_without_units():
    with pytest.raises(ValueError, match="hidden_units"):
        tfebm.EnergyMLP((16, 0))


def test_quadratic_energy():
    energy = tfebm.QuadraticEnergy([[1.0, 2.0], [0.0, 3.0]])
    np.testing.assert_allclose(energy(tf.constant([[1.0, -2.0]])), [(1 - 4 + 12) / 2])
    np.testing.assert_allclose(energy.matrix, [[1, 1], [1, 3]])
    with pytest.raises(ValueError, match="initial_value"):
        tfebm.QuadraticEnergy([[1.0]])(tf.zeros([1, 2]))


@pytest.mark.parametrize(
    "layer", [tfebm.EnergyMLP((5, 4), activation="leaky_relu"), tfebm.QuadraticEnergy(np.eye(3))]
)
def test_config_round_trip(layer):
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == layer.get_config()
    assert layer.compute_output_shape((None, 3)) == (None,)
    assert again(tf.zeros([2, 3])).shape == (2,)


class TestEnergyConv:
    def test_one_value_per_image_and_a_round_trip(self):
        energy = tfebm.EnergyConv((2, 3, 4), dtype="mixed_bfloat16")
        x = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype("float32")
        values = energy(x)
        assert values.shape == (5,)
        assert values.dtype == "float32"
        again = tfebm.EnergyConv.from_config(energy.get_config())
        again.build((None, 16, 16, 3))
        again.set_weights(energy.get_weights())
        np.testing.assert_array_equal(again(x), values)

    def test_images_that_are_too_small(self):
        with pytest.raises(tfebm.InvalidInputError, match="2 x 2 of an image"):
            tfebm.EnergyConv((2, 2, 2, 2))(np.zeros((1, 16, 16, 1), "float32"))
        with pytest.raises(tfebm.InvalidInputError, match="`channels`"):
            tfebm.EnergyConv(())

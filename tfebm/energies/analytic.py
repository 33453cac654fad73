"""Energies with known answers, for tests and for learning how chains behave."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.types import Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class QuadraticEnergy(keras.layers.Layer):
    """E(z) = z' B z / 2 with a trainable symmetric matrix `B = (M + M') / 2`.

    Tilting a standard Gaussian by it gives `N(0, (I + B)^-1)` with
    `log Z = -log det(I + B) / 2`, which holds as long as `I + B` is positive definite.

    Args:
        initial_value: The start of M, `[d, d]`; zeros (no tilt) when left out.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        z: Floats `[B, d]`.

    Returns:
        Energies, float32 `[B]`.

    Example:

        >>> energy = QuadraticEnergy(initial_value=[[1.0, 0.0], [0.0, 3.0]])
        >>> energy(tf.constant([[1.0, 1.0]]))   # (1 + 3) / 2
    """

    def __init__(self, initial_value: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_value = None if initial_value is None else np.asarray(initial_value).tolist()

    def build(self, input_shape: tuple[Any, ...]) -> None:
        if self.built:
            return
        size = input_shape[-1]
        initializer = "zeros"
        if self.initial_value is not None:
            if np.shape(self.initial_value) != (size, size):
                raise InvalidInputError(
                    f"`initial_value` must have shape {(size, size)} for latents of size {size}. "
                    f"Received shape {np.shape(self.initial_value)}."
                )
            initializer = keras.initializers.Constant(self.initial_value)
        self.factor = self.add_weight(name="factor", shape=(size, size), initializer=initializer)
        super().build(input_shape)

    @property
    def matrix(self) -> Tensor:
        """B, `[d, d]`."""
        factor = tf.convert_to_tensor(self.factor)
        return 0.5 * (factor + tf.transpose(factor))

    def call(self, z: Tensor) -> Tensor:
        return 0.5 * tf.reduce_sum(z * tf.matmul(z, self.matrix), axis=-1)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (input_shape[0],)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_value": self.initial_value}

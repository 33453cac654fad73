"""Dense energies over a latent vector."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfebm.errors import InvalidInputError
from tfebm.types import Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class EnergyMLP(keras.layers.Layer):
    """E(z): dense layers with an activation between them, one value per row.

    It tilts a base density: `p(z) = exp(-E(z)) p0(z) / Z`. Papers that write `exp(f)` have
    `f = -E`.

    Args:
        hidden_units: Units of each hidden layer. The paper's are (200, 200), which over a
            latent of 100 make 60,601 parameters.
        activation: A Keras activation. The released code has the exact GELU; "leaky_relu"
            (slope 0.2) is the paper's text.
        **kwargs: Of `keras.layers.Layer`. Under a mixed-precision policy the hidden layers
            compute in 16 bits and the last one in float32, since 16 bits would round energies
            that differ by what the chain lives on.

    Call arguments:
        z: Floats `[B, d]`.

    Returns:
        Energies, float32 `[B]`.

    Raises:
        InvalidInputError: A hidden layer without units.

    Example:

        >>> energy = tfebm.EnergyMLP((200, 200))
        >>> energy(tf.zeros([8, 100])).shape
        TensorShape([8])

    References: B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020,
    section 4; weights start as dense layers of the released code do, uniform within
    `1 / sqrt(fan_in)`.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (200, 200),
        activation: str | Callable[[Tensor], Tensor] = "gelu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if any(int(units) != units or units < 1 for units in hidden_units):
            raise InvalidInputError(
                "`hidden_units` must be whole numbers of at least 1, one per hidden layer. "
                f"Received {tuple(hidden_units)}."
            )
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation = keras.activations.get(activation)

        def dense(units: int, **layer_kwargs: Any) -> keras.layers.Dense:
            initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
            return keras.layers.Dense(units, kernel_initializer=initializer, **layer_kwargs)

        self.hidden = [
            dense(units, activation=self.activation, dtype=self.dtype_policy)
            for units in self.hidden_units
        ]
        self.head = dense(1, dtype="float32")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        for layer in [*self.hidden, self.head]:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        super().build(input_shape)

    def call(self, z: Tensor) -> Tensor:
        for layer in self.hidden:
            z = layer(z)
        return keras.ops.squeeze(self.head(z), axis=-1)  # [B]

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (input_shape[0],)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "activation": keras.activations.serialize(self.activation),
        }

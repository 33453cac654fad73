"""Convolutional energies over images."""

from collections.abc import Sequence
from typing import Any

import keras

from tfebm.errors import InvalidInputError
from tfebm.types import Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class EnergyConv(keras.layers.Layer):
    """E(x): convolutions that halve an image until 4 x 4 values are left, and their weighted sum.

    A 3 x 3 convolution of stride 1, then 4 x 4 convolutions of stride 2, LeakyReLU between
    them, and a 4 x 4 convolution to one channel, summed over what is left of the image.

    Args:
        channels: Of the convolutions; the first has stride 1, every other halves the image.
        negative_slope: Of LeakyReLU.
        **kwargs: Of `keras.layers.Layer`. Under a mixed-precision policy the last convolution
            computes in float32.

    Call arguments:
        x: Floats `[B, height, width, channels]`.

    Returns:
        Energies, float32 `[B]`.

    Raises:
        InvalidInputError: No channels, or an image of fewer than 4 pixels a side at the end.

    Example:

        >>> energy = tfebm.EnergyConv((64, 128, 256, 512))
        >>> energy(tf.zeros([8, 32, 32, 3])).shape
        TensorShape([8])
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512),
        negative_slope: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not channels or any(int(n) != n or n < 1 for n in channels):
            raise InvalidInputError(
                "`channels` must be whole numbers of at least 1, one per convolution. Received "
                f"{tuple(channels)}."
            )
        self.channels = tuple(int(n) for n in channels)
        self.negative_slope = float(negative_slope)
        self.convolutions = [
            keras.layers.Conv2D(
                number,
                3 if i == 0 else 4,
                strides=1 if i == 0 else 2,
                padding="same",
                data_format="channels_last",
                activation=keras.layers.LeakyReLU(self.negative_slope, dtype=self.dtype_policy),
                dtype=self.dtype_policy,
            )
            for i, number in enumerate(self.channels)
        ]
        self.head = keras.layers.Conv2D(1, 4, data_format="channels_last", dtype="float32")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        image = tuple(input_shape[1:])
        for layer in self.convolutions:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        if min(input_shape[1:3]) < 4:
            raise InvalidInputError(
                f"{len(self.channels)} convolutions leave {input_shape[1]} x {input_shape[2]} of "
                f"an image of shape {image}, and at least 4 x 4 are needed. Use fewer "
                "`channels`, or larger images."
            )
        self.head.build(input_shape)
        super().build((None, *image))

    def call(self, x: Tensor) -> Tensor:
        for layer in self.convolutions:
            x = layer(x)
        return keras.ops.sum(self.head(x), axis=(1, 2, 3))  # [B]

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (input_shape[0],)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "channels": self.channels,
            "negative_slope": self.negative_slope,
        }

"""Image generators built from dense layers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class DenseGenerator(keras.layers.Layer):
    """g(z): a latent vector to an image, by dense layers.

    For small images. Its chains hold nothing but matrix products, and are compiled with XLA on a
    CPU too, where convolutions run in the plain graph.

    Args:
        image_shape: (height, width, channels).
        hidden_units: Units of each hidden layer.
        activation: A Keras activation behind each of them.
        output_activation: "tanh" for images in [-1, 1]; None for the logits that a
            `BernoulliLikelihood` takes.
        **kwargs: Of `keras.layers.Layer`. With `dtype="mixed_bfloat16"` the layers compute in
            bfloat16; weights, latents and the returned image stay float32.

    Call arguments:
        z: Floats `[B, d]`.

    Returns:
        float32 `[B, height, width, channels]`.

    Raises:
        InvalidInputError: An image shape of other than three sizes, a hidden layer without units.

    Example:

        >>> generator = tfebm.DenseGenerator(image_shape=(28, 28, 1), hidden_units=(256, 512))
        >>> generator(tf.zeros([8, 16])).shape
        TensorShape([8, 28, 28, 1])

    References: the usual decoder of digits, as in D. P. Kingma, M. Welling. Auto-Encoding
    Variational Bayes. ICLR 2014, appendix C. Kernels start Glorot-uniform.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        hidden_units: Sequence[int] = (256, 512),
        activation: str | Callable[..., Any] = "gelu",
        output_activation: str | Callable[..., Any] | None = "tanh",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_shape = checks.check_counts("image_shape", tuple(image_shape))
        if len(self.image_shape) != 3:
            raise InvalidInputError(
                f"`image_shape` must be (height, width, channels). Received {self.image_shape}."
            )
        self.hidden_units = checks.check_counts("hidden_units", tuple(hidden_units))
        self.activation = keras.activations.get(activation)
        self.output_activation = keras.activations.get(output_activation)
        self.layers = [
            *(
                keras.layers.Dense(units, activation=self.activation, dtype=self.dtype_policy)
                for units in self.hidden_units
            ),
            keras.layers.Dense(math.prod(self.image_shape), dtype=self.dtype_policy),
        ]
        self.to_image = keras.layers.Reshape(self.image_shape, dtype="float32")

    @property
    def output_range(self) -> tuple[float, float] | None:
        """The interval that pixels can take, where the last activation bounds them."""
        return (-1.0, 1.0) if self.output_activation is keras.activations.tanh else None

    def build(self, input_shape: Shape) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        shape = input_shape
        for layer in self.layers:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        super().build(input_shape)

    def call(self, z: Tensor) -> Tensor:
        for layer in self.layers:
            z = layer(z)
        return self.to_image(self.output_activation(keras.ops.cast(z, "float32")))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self.image_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "hidden_units": self.hidden_units,
            "activation": keras.activations.serialize(self.activation),
            "output_activation": keras.activations.serialize(self.output_activation),
        }

"""The top-down image generator with a latent at every layer."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.types import Choose, Shape, Tensor

PAPER_SIZES = (64, 64, 64, 96, 128)
_HEAD = 5  # side of the heads' kernel, which no padding surrounds


@keras.saving.register_keras_serializable(package="tfebm")
class MultilayerGenerator(keras.layers.Layer):
    """g(u_1, ..., u_L): one latent vector per layer, from the top down, to an image.

        z_1 = u_1,    z_l = m_l(h_{l-1}) + exp(v_l(h_{l-1}) / 2) * u_l
        h_l = block_l(project_l(z_l)) + h_{l-1},    x = output(block(h_L))

    The latents u_l are whitened: all are N(0, I) a priori, and every z_l below the top is a
    deterministic function of u_l and of what is above. `project`: dense, GELU, a transposed 5 x 5
    convolution, GELU. `block`: residual, 5 x 5 and 3 x 3 convolutions with GELU. m and v: a 5 x 5
    convolution without padding, GELU, dense. No normalisation.

    Args:
        image_shape: (height, width, channels), square.
        latent_sizes: Of u_1 (the top) to u_L; as many layers as there are sizes.
        width: Channels of the feature maps.
        channels: Channels in which a latent enters its first feature map.
        upsamplings: How often the side of the feature maps is doubled behind the last layer: 1 in
            the paper. Each one more divides the cost of the layers by four.
        log_variance_range: v is clipped to it.
        legacy_std: Use `min(softplus(v), 10)` as the log-variance, as the released code does, so
            that no standard deviation is below 1.
        output_activation: "tanh" for images in [-1, 1]; None for the logits that a
            `BernoulliLikelihood` takes.
        **kwargs: Of `keras.layers.Layer`. With `dtype="mixed_bfloat16"` the layers compute in
            bfloat16; weights, latents and the returned image stay float32.

    Call arguments:
        latents: A tuple of floats, `[B, latent_sizes[l]]` each.

    Returns:
        float32 `[B, height, width, channels]`.

    Raises:
        InvalidInputError: An image that cannot be halved so often or is left too small, sizes
            that are not positive whole numbers, or latents of another structure.

    Example:

        >>> generator = tfebm.MultilayerGenerator((32, 32, 3))       # the paper's
        >>> generator.build([(None, size) for size in generator.latent_sizes])
        >>> generator.count_params()
        12162435
        >>> small = tfebm.MultilayerGenerator((28, 28, 1), (8, 16, 24), width=16, upsamplings=2)
        >>> small((tf.zeros([2, 8]), tf.zeros([2, 16]), tf.zeros([2, 24]))).shape
        TensorShape([2, 28, 28, 1])

    References: E. Nijkamp, B. Pang, T. Han, S.-C. Zhu, Y. N. Wu. Learning Multi-layer Latent
    Variable Model via Variational Optimization of Short Run MCMC for Approximate Inference. ECCV
    2020, section 4 and the released code. The clip of v is ours.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (32, 32, 3),
        latent_sizes: Sequence[int] = PAPER_SIZES,
        width: int = 64,
        channels: int = 4,
        upsamplings: int = 1,
        log_variance_range: Sequence[float] = (-7.0, 2.0),
        legacy_std: bool = False,
        output_activation: str | Callable[..., Any] | None = "tanh",
        **kwargs: Any,
    ) -> None:
        # The layers cast for themselves; latents are not rounded to their precision before.
        super().__init__(**{"autocast": False, **kwargs})
        self.image_shape = tuple(int(n) for n in image_shape)
        self.latent_sizes = _checked_sizes(latent_sizes)
        self.width, self.channels = int(width), int(channels)
        self.upsamplings = int(upsamplings)
        self.log_variance_range = tuple(float(v) for v in log_variance_range)
        self.legacy_std = bool(legacy_std)
        self.output_activation = keras.activations.get(output_activation)
        self._check()
        side = self.image_shape[0] // 2**self.upsamplings
        policy = {"dtype": self.dtype_policy}
        maps = {**policy, "data_format": "channels_last"}
        layers = range(len(self.latent_sizes))
        self.projections = [Projection(side, self.channels, self.width, **policy) for _ in layers]
        # One more block than layers: the last stands before the output.
        self.blocks = [ResidualBlock(self.width, **policy) for _ in [*layers, None]]
        self.means = [Head(size, **policy) for size in self.latent_sizes[1:]]
        self.log_variances = [Head(size, **policy) for size in self.latent_sizes[1:]]
        self.doublings = [
            *(
                keras.layers.Conv2DTranspose(
                    self.width, 4, 2, "same", activation=gelu, kernel_initializer=KERNELS, **maps
                )
                for _ in range(self.upsamplings - 1)
            ),
            keras.layers.Conv2DTranspose(
                # Small, so that tanh does not start where it is flat.
                self.image_shape[-1],
                4,
                2,
                "same",
                kernel_initializer="glorot_normal",
                **maps,
            ),
        ]

    def _check(self) -> None:
        height, width, *rest = (*self.image_shape, 0, 0)
        if len(self.image_shape) != 3 or height != width or rest[0] < 1:
            raise InvalidInputError(
                "`image_shape` must be (height, width, channels) of a square image. Received "
                f"{self.image_shape}."
            )
        for name in ("width", "channels", "upsamplings"):
            if getattr(self, name) < 1:
                raise InvalidInputError(
                    f"`{name}` must be at least 1. Received {getattr(self, name)}."
                )
        side, odd = divmod(height, 2**self.upsamplings)
        if odd or side < _HEAD:
            raise InvalidInputError(
                f"The feature maps have a side of the image's, {height}, halved {self.upsamplings} "
                f"times, which must be a whole number of at least {_HEAD}. Change `upsamplings`, "
                "or resize the images."
            )
        low, high = self.log_variance_range
        if not low < high:
            raise InvalidInputError(
                f"`log_variance_range` must be (low, high). Received {self.log_variance_range}."
            )

    @property
    def output_range(self) -> tuple[float, float] | None:
        """The interval that pixels can take, where the last activation bounds them."""
        return (-1.0, 1.0) if self.output_activation is keras.activations.tanh else None

    def build(self, input_shape: Any = None) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        side = self.image_shape[0] // 2**self.upsamplings
        features = (None, side, side, self.width)
        for size, projection in zip(self.latent_sizes, self.projections, strict=True):
            projection.build((None, size))
        layers: list[keras.layers.Layer] = [*self.blocks, *self.means, *self.log_variances]
        for block in layers:
            block.build(features)
        for layer in self.doublings:
            layer.build(features)
            features = layer.compute_output_shape(features)
        super().build([(None, size) for size in self.latent_sizes])

    def call(self, latents: tuple[Tensor, ...]) -> Tensor:
        latents = tuple(latents) if isinstance(latents, (tuple, list)) else (latents,)
        sizes = tuple(part.shape[-1] for part in latents)
        if sizes != self.latent_sizes:
            raise InvalidInputError(
                "The latents do not have the structure of the generator: it takes a tuple of sizes "
                f"{self.latent_sizes}, the top first. Received sizes {sizes}."
            )

        def choose(layer: int, mean: Tensor | None, log_variance: Tensor | None) -> Tensor:
            if mean is None or log_variance is None:
                return latents[layer]
            return mean + keras.ops.exp(0.5 * log_variance) * latents[layer]

        return self.descend(choose)

    def descend(self, choose: Choose) -> Tensor:
        """The image of latents that are chosen on the way down.

        Args:
            choose: `choose(layer, mean, log_variance) -> z`, called for the layers 0 (the top) to
                L - 1 with the moments of `p(z_l | z_{l-1})`, float32 `[B, latent_sizes[layer]]`
                each, or None for both at the top, whose prior is N(0, I).
        """
        if not self.built:
            self.build()
        features, mean, log_variance = None, None, None
        for i, projection in enumerate(self.projections):
            if features is not None:
                mean = keras.ops.cast(self.means[i - 1](features), "float32")
                log_variance = self._bounded(self.log_variances[i - 1](features))
            below = self.blocks[i](projection(choose(i, mean, log_variance)))
            features = below if features is None else below + features
        x = self.blocks[-1](features)
        for layer in self.doublings:
            x = layer(x)
        return self.output_activation(keras.ops.cast(x, "float32"))

    def _bounded(self, v: Tensor) -> Tensor:
        v = keras.ops.cast(v, "float32")
        if self.legacy_std:
            return keras.ops.minimum(keras.ops.softplus(v), 10.0)
        return keras.ops.clip(v, *self.log_variance_range)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        first = input_shape[0]
        return (first[0] if isinstance(first, (tuple, list)) else first, *self.image_shape)

    def get_config(self) -> dict[str, Any]:
        names = ("image_shape", "latent_sizes", "width", "channels", "upsamplings")
        switches = ("log_variance_range", "legacy_std")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in (*names, *switches)},
            "output_activation": keras.activations.serialize(self.output_activation),
        }


def _checked_sizes(latent_sizes: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(latent_sizes) if isinstance(latent_sizes, (tuple, list)) else ()
    if not sizes or not all(checks.is_whole(n) for n in sizes):
        raise InvalidInputError(
            "`latent_sizes` must hold a size of at least 1 for every layer, the top first, whole "
            f"numbers. Received {latent_sizes!r}."
        )
    return tuple(int(n) for n in sizes)


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), the exact GELU, as the paper's code has it, with its derivative Phi(x) + x phi(x).

    TensorFlow differentiates each operation of the product, which makes twice as many; on small
    maps their number is what they cost.
    """
    return _gelu(x)


@tf.custom_gradient
def _gelu(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    below = 0.5 * tf.math.erfc(-math.sqrt(0.5) * x)

    def grad(upstream: Tensor) -> Tensor:
        density = tf.exp(-0.5 * tf.square(x)) / math.sqrt(2 * math.pi)
        return upstream * (below + x * density)

    return x * below, grad


# Variance survives a GELU with these. With Keras' default a generator of three layers starts with
# hardly any dependence on its latents, learns the mean image first, and never leaves it.
KERNELS = "he_normal"


class Projection(keras.layers.Layer):
    """A latent vector to a feature map."""

    def __init__(self, side: int, channels: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = {"dtype": self.dtype_policy}
        # Channels come first in the vector, as in the published code, whose weights then fit.
        self.to_map = keras.layers.Reshape((channels, side, side), **policy)
        self.channels_last = keras.layers.Permute((2, 3, 1), **policy)
        self.dense = keras.layers.Dense(
            channels * side * side, gelu, kernel_initializer=KERNELS, **policy
        )
        self.deconv = keras.layers.Conv2DTranspose(
            width,
            5,
            1,
            "same",
            activation=gelu,
            use_bias=False,
            kernel_initializer=KERNELS,
            data_format="channels_last",
            **policy,
        )
        self.map_shape = (None, side, side, channels)

    def build(self, input_shape: Shape) -> None:
        self.dense.build(input_shape)
        self.deconv.build(self.map_shape)
        super().build(input_shape)

    def call(self, z: Tensor) -> Tensor:
        return self.deconv(self.channels_last(self.to_map(self.dense(z))))


class ResidualBlock(keras.layers.Layer):
    """Two convolutions beside an identity."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv5, self.conv3 = (
            keras.layers.Conv2D(
                width,
                side,
                1,
                "same",
                activation=gelu,
                kernel_initializer=KERNELS,
                data_format="channels_last",
                dtype=self.dtype_policy,
            )
            for side in (5, 3)
        )

    def build(self, input_shape: Shape) -> None:
        self.conv5.build(input_shape)
        self.conv3.build(input_shape)
        super().build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        return x + self.conv3(self.conv5(x))


class Head(keras.layers.Layer):
    """A feature map to a vector of `size`."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = {"dtype": self.dtype_policy}
        maps = {**policy, "data_format": "channels_last"}
        self.conv = keras.layers.Conv2D(
            size, _HEAD, activation=gelu, kernel_initializer=KERNELS, **maps
        )
        self.channels_first = keras.layers.Permute((3, 1, 2), **policy)
        self.flatten = keras.layers.Flatten(**maps)
        self.dense = keras.layers.Dense(size, kernel_initializer=KERNELS, **policy)

    def build(self, input_shape: Shape) -> None:
        self.conv.build(input_shape)
        _, height, width, size = self.conv.compute_output_shape(input_shape)
        self.dense.build((None, height * width * size))
        super().build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        return self.dense(self.flatten(self.channels_first(self.conv(x))))

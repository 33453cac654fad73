"""Encoders: Keras layers from examples to the moments of q(z | x)."""

from collections.abc import Sequence
from typing import Any

import keras

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.generators.multilayer import ResidualBlock, gelu
from tfebm.types import Moments, Shape, Tensor

_SMALLEST = 8  # sides above this are halved: 28 to 7, 32 and 64 to 8


@keras.saving.register_keras_serializable(package="tfebm")
class ConvEncoder(keras.layers.Layer):
    """Images to a mean and a log-variance for every latent layer, from the bottom up.

        y   = stages(x)                         convolutions, each halves the side, and blocks
        h_L = GELU(dense(y)),    h_l = GELU(dense(h_{l+1}))
        (mean_l, log_variance_l) = dense_l(h_l)

    A stage is a 4 x 4 convolution of stride 2 with GELU and a residual block of a 5 x 5 and a
    3 x 3 convolution; every stage has twice the channels of the one before. There are as many as
    bring the sides to at most 8 pixels, and at least one. No normalisation.

    Args:
        image_shape: (height, width, channels).
        latent_sizes: d, or the tuple of sizes of a generator with several layers, the top first.
        width: Channels of the first stage.
        hidden: Units of every dense layer h_l.
        **kwargs: Of `keras.layers.Layer`. With `dtype="mixed_bfloat16"` the layers compute in
            bfloat16; weights and the returned moments stay float32.

    Call arguments:
        x: Floats `[B, height, width, channels]`.

    Returns:
        float32 `[B, 2 * d]`, the mean and beside it the log-variance, unbounded; of several layers
        a tuple of such tensors, the top first.

    Raises:
        InvalidInputError: A shape that is not an image's, or sizes that are not positive whole
            numbers.

    Example:

        >>> encoder = tfebm.ConvEncoder((28, 28, 1), latent_sizes=(8, 16))
        >>> top, bottom = encoder(tf.zeros([5, 28, 28, 1]))
        >>> top.shape, bottom.shape
        (TensorShape([5, 16]), TensorShape([5, 32]))

    References: The ladder of dense layers is that of C. K. Sonderby et al. Ladder Variational
    Autoencoders. NeurIPS 2016, figure 2. The convolutions are ours, in the style of
    `MultilayerGenerator`.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (32, 32, 3),
        latent_sizes: int | Sequence[int] = 100,
        width: int = 32,
        hidden: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_shape = tuple(int(n) for n in image_shape)
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise InvalidInputError(
                "`image_shape` must be (height, width, channels). Received "
                f"{tuple(image_shape)}. Give examples of another form an encoder of your own."
            )
        several = isinstance(latent_sizes, Sequence)
        given = tuple(latent_sizes) if isinstance(latent_sizes, Sequence) else (latent_sizes,)
        if not given:
            raise InvalidInputError(
                "`latent_sizes` must be a size, or hold one for every layer, the top first. "
                "Received none."
            )
        sizes = tuple(checks.check_count("latent_sizes", size) for size in given)
        self.latent_sizes = sizes if several else sizes[0]
        self.width = checks.check_count("width", width)
        self.hidden = checks.check_count("hidden", hidden)
        policy = {"dtype": self.dtype_policy}
        maps = {**policy, "data_format": "channels_last"}
        stages, side = 1, -(-max(self.image_shape[:2]) // 2)
        while side > _SMALLEST:
            stages, side = stages + 1, -(-side // 2)
        widths = [self.width * 2**i for i in range(stages)]
        self.halvings = [
            keras.layers.Conv2D(n, 4, 2, "same", activation=gelu, **maps) for n in widths
        ]
        self.blocks = [ResidualBlock(n, **policy) for n in widths]
        self.flatten = keras.layers.Flatten(**maps)
        # Both in the order of the latents, the top first.
        self.ladder = [keras.layers.Dense(self.hidden, gelu, **policy) for _ in sizes]
        self.heads = [keras.layers.Dense(2 * size, **policy) for size in sizes]

    def build(self, input_shape: Any = None) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        shape = (None, *self.image_shape)
        for halving, block in zip(self.halvings, self.blocks, strict=True):
            halving.build(shape)
            shape = halving.compute_output_shape(shape)
            block.build(shape)
        shape = self.flatten.compute_output_shape(shape)
        for dense in reversed(self.ladder):
            dense.build(shape)
            shape = (None, self.hidden)
        for head in self.heads:
            head.build(shape)
        super().build((None, *self.image_shape))

    def call(self, x: Tensor) -> Moments:
        for halving, block in zip(self.halvings, self.blocks, strict=True):
            x = block(halving(x))
        h = self.flatten(x)
        moments = []
        for dense, head in zip(reversed(self.ladder), reversed(self.heads), strict=True):
            h = dense(h)
            moments.append(keras.ops.cast(head(h), "float32"))
        return tuple(reversed(moments)) if isinstance(self.latent_sizes, tuple) else moments[0]

    def compute_output_shape(self, input_shape: Shape) -> Any:
        rows = input_shape[0]
        if isinstance(self.latent_sizes, tuple):
            return tuple((rows, 2 * size) for size in self.latent_sizes)
        return rows, 2 * self.latent_sizes

    def get_config(self) -> dict[str, Any]:
        names = ("image_shape", "latent_sizes", "width", "hidden")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

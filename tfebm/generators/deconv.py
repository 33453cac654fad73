"""Image generators built from transposed convolutions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.types import Shape, Tensor


class Stage(NamedTuple):
    """One transposed convolution."""

    multiple: int
    """Output channels as a multiple of the generator's width; 0 for the image's channels."""
    kernel: int
    stride: int
    padding: str
    """"valid", or "same" with the padding split evenly (PyTorch's `padding`)."""


_SMALLEST = 8  # pixels of a side
_FIRST = 4  # the fewest pixels of a side behind the first stage


def default_stages(side: int) -> tuple[Stage, ...]:
    """The layout for images of `side` pixels, 8 or more.

    The side is halved, rounded up, as long as at least 4 pixels are left: that many the first
    stage makes of one. A 4 x 4 kernel then takes n pixels to 2 n, a 3 x 3 kernel to 2 n - 1. For
    28, 32, 64 and 128 pixels these are the layouts of the papers.

    Example:

        >>> [stage.kernel for stage in default_stages(28)]     # 1 -> 4 -> 7 -> 14 -> 28
        [4, 3, 4, 4]
    """
    sides = [side]
    while -(-sides[0] // 2) >= _FIRST:
        sides.insert(0, -(-sides[0] // 2))
    doublings = len(sides) - 1
    multiples = [2**i for i in reversed(range(max(doublings, 4)))][:doublings]
    first, *rest = [*multiples, 0]
    return (
        Stage(first, sides[0], 1, "valid"),
        *(
            Stage(multiple, 3 if below % 2 else 4, 2, "same")
            for multiple, below in zip(rest, sides[1:], strict=True)
        ),
    )


# CIFAR-10's layout at 32 pixels: 1 -> 8 -> 16 -> 32 -> 32.
CIFAR10_STAGES: tuple[Stage, ...] = (
    Stage(8, 8, 1, "valid"),
    Stage(4, 4, 2, "same"),
    Stage(2, 4, 2, "same"),
    Stage(0, 3, 1, "same"),
)


@keras.saving.register_keras_serializable(package="tfebm")
class DeconvGenerator(keras.layers.Layer):
    """g(z): a latent vector to an image, by transposed convolutions without normalisation.

    The latent is a 1 x 1 image of d channels. LeakyReLU with slope 0.2 follows every stage but
    the last, whose output passes through `output_activation`.

    Args:
        image_shape: (height, width, channels); square, 8 pixels or more unless `stages` says
            otherwise.
        width: The paper's `ngf`; every stage has a multiple of it as channels. 64 for SVHN,
            128 for CIFAR-10 and CelebA, 16 for MNIST.
        stages: The layout, a sequence of `Stage`. Default: `default_stages(height)`, the papers'
            for 28, 32, 64 and 128 pixels; `CIFAR10_STAGES` is the other published one.
        output_activation: "tanh" for images in [-1, 1]; None for the logits that a
            `BernoulliLikelihood` takes.
        **kwargs: Of `keras.layers.Layer`. With `dtype="mixed_bfloat16"` the convolutions
            compute in bfloat16; weights, latents and the returned image stay float32.

    Call arguments:
        z: Floats `[B, d]`.

    Returns:
        float32 `[B, height, width, channels]`.

    Raises:
        InvalidInputError: Images that are not square or too small, or stages that end at another
            size.

    Example:

        >>> generator = tfebm.DeconvGenerator(image_shape=(32, 32, 3), width=64)
        >>> generator(tf.zeros([8, 100])).shape
        TensorShape([8, 32, 32, 3])
        >>> generator.count_params()
        3447683

    References: B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020,
    supplementary tables of architectures, and the released code. Convolution kernels start
    Glorot-normal, as there.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (32, 32, 3),
        width: int = 64,
        stages: Sequence[Sequence[Any]] | None = None,
        output_activation: str | Callable[..., Any] | None = "tanh",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_shape = tuple(int(n) for n in image_shape)
        height, across, channels = (*self.image_shape, 0, 0, 0)[:3]
        if len(self.image_shape) != 3 or height != across or channels < 1:
            raise InvalidInputError(
                "`image_shape` must be (height, width, channels) of a square image. Received "
                f"{self.image_shape}. Crop or resize the images to a square."
            )
        if stages is None and height < _SMALLEST:
            raise InvalidInputError(
                f"Images need at least {_SMALLEST} pixels a side. Received {height}. Enlarge the "
                "images; in Python, `stages` may also describe another layout, and "
                "`tfebm.DenseGenerator` takes any size."
            )
        self.width = checks.check_count("width", width)
        self.stages = tuple(Stage(*stage) for stage in stages or default_stages(height))
        self.output_activation = keras.activations.get(output_activation)
        self.to_pixel = keras.layers.Reshape((1, 1, -1), dtype=self.dtype_policy)
        last = len(self.stages) - 1
        self.layers = [
            keras.layers.Conv2DTranspose(
                self.width * stage.multiple or self.image_shape[-1],
                stage.kernel,
                stage.stride,
                stage.padding,
                # "same" at an odd kernel would double 4 to 8; 0 makes it 7, as in the papers.
                output_padding=0 if stage.kernel % 2 and stage.stride > 1 else None,
                activation=None
                if i == last
                else keras.layers.LeakyReLU(negative_slope=0.2, dtype=self.dtype_policy),
                kernel_initializer="glorot_normal",
                data_format="channels_last",
                dtype=self.dtype_policy,
            )
            for i, stage in enumerate(self.stages)
        ]

    @property
    def output_range(self) -> tuple[float, float] | None:
        """The interval that pixels can take, where the last activation bounds them."""
        return (-1.0, 1.0) if self.output_activation is keras.activations.tanh else None

    def build(self, input_shape: Shape) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        shape: Shape = (None, 1, 1, input_shape[-1])
        for layer in self.layers:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        if tuple(shape[1:]) != self.image_shape:
            raise InvalidInputError(
                f"`stages` end at an image of shape {tuple(shape[1:])}, but `image_shape` is "
                f"{self.image_shape}. The last stage needs multiple 0."
            )
        super().build(input_shape)

    def call(self, z: Tensor) -> Tensor:
        x = self.to_pixel(z)  # [B, 1, 1, d]
        for layer in self.layers:
            x = layer(x)
        return self.output_activation(keras.ops.cast(x, "float32"))  # [B, H, W, C]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self.image_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "width": self.width,
            "stages": tuple(tuple(stage) for stage in self.stages),
            "output_activation": keras.activations.serialize(self.output_activation),
        }

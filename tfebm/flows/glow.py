"""Glow: a multi-scale flow over images."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.flows import base
from tfebm.types import Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class Glow(base.Flow):
    """Squeeze, K steps of flow, split; L times.

    A step is, from x to z: activation normalisation (initialised from data), an invertible
    1 x 1 convolution (`P L U`, started as a rotation), and an affine coupling. At a split half
    of the channels leaves as z, normalised by a convolution of the half that goes on. Scales
    are bounded, `s = log_scale_bound * tanh(raw / log_scale_bound)`.

    (`tfb.Glow` has the same pieces. It keeps the normalisations and the 1 x 1 matrices as
    variables of its own, which Keras neither trains nor saves.)

    Args:
        image_shape: (height, width, channels); sides divisible by 2**levels.
        levels: L.
        steps: K, steps per level.
        width: Channels of the hidden layers of each coupling (3 x 3, 1 x 1, 3 x 3).
        log_scale_bound: The largest |s| of a coupling.
        seed: Of the rotations.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        InvalidInputError: Sides that are not divisible by 2**levels.

    Example:

        >>> flow = tfebm.Glow(image_shape=(32, 32, 1), levels=2, steps=8, width=64)
        >>> model = tfebm.FlowModel(flow, num_levels=256)
        >>> model.compile()
        >>> model.fit(x_train, epochs=10, batch_size=50)       # float32 in [-1, 1]

    References: D. Kingma, P. Dhariwal. Glow: Generative Flow with Invertible 1x1 Convolutions.
    NeurIPS 2018, section 3.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int = 3,
        steps: int = 8,
        width: int = 256,
        log_scale_bound: float = 2.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.event_shape = tuple(int(n) for n in image_shape)
        for name, value in (("levels", levels), ("steps", steps), ("width", width)):
            if int(value) != value or value < 1:
                raise InvalidInputError(
                    f"`{name}` must be a whole number of at least 1. Received {value!r}."
                )
        if len(self.event_shape) != 3 or any(n % 2**levels or n < 1 for n in self.event_shape[:2]):
            raise InvalidInputError(
                "`image_shape` must be (height, width, channels) with sides divisible by "
                f"2**levels = {2**levels}, since every level halves them. Received "
                f"{self.event_shape}. Pad the images, or use fewer levels."
            )
        self.levels, self.steps, self.width = int(levels), int(steps), int(width)
        self.log_scale_bound = float(log_scale_bound)
        self.seed = int(seed)
        height, width, channels = self.event_shape
        self.flow_steps: list[_Step] = []  # of all levels, in the order from x to z
        self.splits: list[_Split] = []
        self._parts: list[tuple[int, int, int]] = []  # shapes of what leaves as z
        for level in range(self.levels):
            height, width, channels = height // 2, width // 2, 4 * channels
            for i in range(self.steps):
                name = f"level_{level}_step_{i}"
                rotation_seed = (self.seed * self.levels + level) * self.steps + i
                self.flow_steps.append(
                    _Step((height, width, channels), self, rotation_seed, name=name)
                )
            if level < self.levels - 1:
                channels //= 2
                self.splits.append(_Split((height, width, channels), self, name=f"split_{level}"))
                self._parts.append((height, width, channels))
        self._parts.append((height, width, channels))

    def build_weights(self) -> None:
        layers: list[keras.layers.Layer] = [*self.flow_steps, *self.splits]
        for layer in layers:
            layer.build()

    def inverse_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._inverse(x, initialize=False)

    def initialize(self, x: Tensor) -> None:
        self._inverse(tf.cast(x, self.compute_dtype), initialize=True)
        self.initialized.assign(1)

    def _inverse(self, x: Tensor, initialize: bool) -> tuple[Tensor, Tensor]:
        log_det, parts = 0.0, []
        for level in range(self.levels):
            x = tf.nn.space_to_depth(x, 2)
            for step in self.flow_steps[level * self.steps : (level + 1) * self.steps]:
                if initialize:
                    step.initialize(x)
                x, added = step.inverse_and_log_det(x)
                log_det += added
            if level < self.levels - 1:
                leaving, x = tf.split(x, 2, axis=-1)
                leaving, added = self.splits[level].inverse_and_log_det(leaving, x)
                log_det += added
                parts.append(leaving)
        parts.append(x)
        sizes = [math.prod(shape) for shape in self._parts]
        flat = [tf.reshape(p, [-1, n]) for p, n in zip(parts, sizes, strict=True)]
        return tf.concat(flat, axis=1), log_det

    def forward(self, z: Tensor) -> Tensor:
        sizes = [math.prod(shape) for shape in self._parts]
        parts = [
            tf.reshape(part, [-1, *shape])
            for part, shape in zip(tf.split(z, sizes, axis=1), self._parts, strict=True)
        ]
        x = parts[-1]
        for level in reversed(range(self.levels)):
            if level < self.levels - 1:
                x = tf.concat([self.splits[level].forward(parts[level], x), x], axis=-1)
            for step in reversed(self.flow_steps[level * self.steps : (level + 1) * self.steps]):
                x = step.forward(x)
            x = tf.nn.depth_to_space(x, 2)
        return x

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_shape": self.event_shape,
            "levels": self.levels,
            "steps": self.steps,
            "width": self.width,
            "log_scale_bound": self.log_scale_bound,
            "seed": self.seed,
        }


def _affine_head(channels: int, name: str, flow: Glow) -> keras.layers.Conv2D:
    """Shifts and raw log scales for `channels`, from zeros: the identity at the start."""
    return keras.layers.Conv2D(
        2 * channels,
        3,
        padding="same",
        data_format="channels_last",
        kernel_initializer="zeros",
        dtype=flow.dtype_policy,
        name=name,
    )


def _shift_and_log_scale(outputs: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    shift, raw = tf.split(outputs, 2, axis=-1)
    return shift, bound * tf.tanh(raw / bound)


class _Step(keras.layers.Layer):
    """Activation normalisation, 1 x 1 convolution, coupling."""

    built: bool

    def __init__(self, shape: tuple[int, int, int], flow: Glow, seed: int, name: str) -> None:
        super().__init__(name=name, dtype=flow.dtype_policy)
        self.shape, self.seed, self.bound = shape, seed, flow.log_scale_bound
        kept = shape[-1] // 2
        moved = shape[-1] - kept

        def hidden(kernel: int, name: str) -> keras.layers.Conv2D:
            return keras.layers.Conv2D(
                flow.width,
                kernel,
                padding="same",
                data_format="channels_last",
                activation="relu",
                kernel_initializer="he_normal",
                dtype=flow.dtype_policy,
                name=name,
            )

        self.hidden_3x3, self.hidden_1x1 = hidden(3, "hidden_3x3"), hidden(1, "hidden_1x1")
        self.head = _affine_head(moved, "head", flow)
        self.kept = kept

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        height, width, channels = self.shape
        self.hidden_3x3.build((None, height, width, self.kept))
        hidden = self.hidden_3x3.compute_output_shape((None, height, width, self.kept))
        self.hidden_1x1.build(hidden)
        self.head.build(hidden)
        for name in ("shift", "log_scale"):
            weight = self.add_weight(name=name, shape=(channels,), initializer="zeros")
            setattr(self, name, weight)
        # x to z multiplies by P L U. The permutation stays as it was drawn.
        normal = np.random.default_rng(self.seed).normal(size=(channels, channels))
        lower_upper, permutation = tf.linalg.lu(np.linalg.qr(normal)[0])
        self.lower_upper = self.add_weight(
            name="lower_upper",
            shape=(channels, channels),
            initializer=keras.initializers.Constant(lower_upper.numpy()),
        )
        self.permutation = self.add_weight(
            name="permutation",
            shape=(channels,),
            dtype="int32",
            initializer=keras.initializers.Constant(permutation.numpy()),
            trainable=False,
        )
        self.built = True

    def initialize(self, x: Tensor) -> None:
        mean, log_std = base.moments(x)
        self.shift.assign(mean)
        self.log_scale.assign(log_std)

    def inverse_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lower_upper, log_scale = self.lower_upper.value, self.log_scale.value
        matrix = tf.linalg.lu_reconstruct(lower_upper, self.permutation.value)
        # Normalisation and matrix are one product per pixel.
        x = _per_pixel(x - self.shift.value, tf.exp(-log_scale)[:, tf.newaxis] * matrix)
        log_diagonal = tf.math.log(tf.abs(tf.linalg.diag_part(lower_upper)))
        of_pixel = tf.reduce_sum(log_diagonal) - tf.reduce_sum(log_scale)
        kept, moved = tf.split(x, [self.kept, -1], axis=-1)
        shift, log_s = self._coupling(kept)
        moved = (moved - shift) * tf.exp(-log_s)
        log_det = math.prod(self.shape[:2]) * of_pixel - tf.reduce_sum(log_s, axis=[1, 2, 3])
        return tf.concat([kept, moved], axis=-1), log_det

    def forward(self, z: Tensor) -> Tensor:
        kept, moved = tf.split(z, [self.kept, -1], axis=-1)
        shift, log_s = self._coupling(kept)
        z = tf.concat([kept, moved * tf.exp(log_s) + shift], axis=-1)
        inverse = tf.linalg.lu_matrix_inverse(self.lower_upper.value, self.permutation.value)
        return _per_pixel(z, inverse * tf.exp(self.log_scale.value)) + self.shift.value

    def _coupling(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        return _shift_and_log_scale(self.head(self.hidden_1x1(self.hidden_3x3(kept))), self.bound)


class _Split(keras.layers.Layer):
    """Normalises the channels that leave as z, given those that go on."""

    built: bool

    def __init__(self, shape: tuple[int, int, int], flow: Glow, name: str) -> None:
        super().__init__(name=name, dtype=flow.dtype_policy)
        self.shape, self.bound = shape, flow.log_scale_bound
        self.head = _affine_head(shape[-1], "head", flow)

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.head.build((None, *self.shape))
        self.built = True

    def inverse_and_log_det(self, x: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_s = _shift_and_log_scale(self.head(given), self.bound)
        return (x - shift) * tf.exp(-log_s), -tf.reduce_sum(log_s, axis=[1, 2, 3])

    def forward(self, z: Tensor, given: Tensor) -> Tensor:
        shift, log_s = _shift_and_log_scale(self.head(given), self.bound)
        return z * tf.exp(log_s) + shift


def _per_pixel(x: Tensor, matrix: Tensor) -> Tensor:
    """Rows of channels times `matrix`, at every pixel."""
    channels = matrix.shape[0]
    rows = tf.matmul(tf.reshape(x, [-1, channels]), matrix)
    return tf.reshape(rows, [-1, *x.shape[1:]])

"""What every flow is: a Keras layer that owns its weights and hands out TFP objects."""

import itertools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfebm.errors import InvalidInputError
from tfebm.types import Tensor


class Flow(keras.layers.Layer):
    """An invertible map x = g(z) with a tractable Jacobian, of a latent vector z ~ N(0, I).

        log q(x) = log N(g^-1(x); 0, I) + log |det dg^-1(x)/dx|

    A TFP bijector does not report the variables of Keras 3 layers, and a Keras 3 model does
    not look into a bijector: one that holds a bijector trains and saves none of its weights,
    without a word. Here the layer owns the networks, and `bijector()` makes a fresh view of
    them at each call, since a bijector that is kept answers from a cache after its weights
    have changed.

    Subclasses set `event_shape` in `__init__` and write `build_weights`, `forward`,
    `inverse_and_log_det`, and `initialize` where something depends on data.

    Call arguments:
        z: Floats `[B, d]`.

    Returns:
        x = g(z), `[B, *event_shape]`.
    """

    event_shape: tuple[int, ...]
    built: bool

    def __init__(self, **kwargs: Any) -> None:
        # Whatever Keras' default is: fewer bits do not invert, and the models hand over float32.
        super().__init__(**{"dtype": "float32", **kwargs})

    def build_weights(self) -> None:
        """Creates the weights; every flow knows its own shape."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """x = g(z): `[B, d]` to `[B, *event_shape]`."""
        raise NotImplementedError

    def inverse_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = g^-1(x), `[B, d]`, and log |det dz/dx|, `[B]`, in one pass."""
        raise NotImplementedError

    def initialize(self, x: Tensor) -> None:
        """Sets what depends on data (activation normalisation) from a batch `x`, if anything.

        `FlowModel.initialize` calls it once, before the first step.
        """

    @property
    def latent_size(self) -> int:
        """d, which is the number of dimensions of an event."""
        return math.prod(self.event_shape)

    def build(self, input_shape: Any = None) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        self.build_weights()
        # Whether `initialize` has been called: a weight, so that it is saved with the others.
        self.initialized = self.add_weight(
            name="initialized", shape=(), dtype="int32", initializer="zeros", trainable=False
        )
        self.built = True

    def bijector(self) -> tfp.bijectors.Bijector:
        """A fresh `tfb.Bijector` from `[..., d]` to `[..., *event_shape]`."""
        return FlowBijector(self)

    def distribution(self) -> tfp.distributions.Distribution:
        """q(x), a fresh `tfd.TransformedDistribution` of a standard Gaussian."""
        return tfp.distributions.TransformedDistribution(self.base_distribution(), self.bijector())

    def base_distribution(self) -> tfp.distributions.Distribution:
        """q0(z) = N(0, I)."""
        return tfp.distributions.MultivariateNormalDiag(
            tf.zeros([self.latent_size], self.compute_dtype)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x), in nats, `[B]`: that of `distribution()`, by a single inverse pass."""
        z, log_det = self.inverse_and_log_det(x)
        return self.base_distribution().log_prob(z) + log_det

    def call(self, z: Tensor) -> Tensor:
        return self.forward(z)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (input_shape[0], *self.event_shape)

    @property
    def is_initialized(self) -> bool:
        """Whether the flow has seen data."""
        return bool(self.initialized.numpy())

    def check_inverse(self, x: Any, *, tolerance: float = 1e-3) -> float:
        """The largest error of g(g^-1(x)), in standard deviations of x.

        Args:
            x: Examples `[B, *event_shape]`.
            tolerance: The largest error that is allowed.

        Raises:
            InvalidInputError: The flow has not seen data, or does not invert to `tolerance`.
        """
        if not self.is_initialized:
            raise InvalidInputError(
                f"The flow '{self.name}' has not been trained: its normalisation has not seen "
                "data. Train it with `FlowModel(flow).fit(x)`, or load its weights."
            )
        x = tf.cast(x, self.compute_dtype)
        if not len(x):  # oneDNN's convolutions return wrong shapes for empty batches
            return 0.0
        again = self.forward(self.inverse_and_log_det(x)[0])
        scale = float(np.std(x)) or 1.0
        error = float(np.max(np.abs((again - x).numpy()), initial=0.0)) / scale
        if not error <= tolerance:  # NaN as well
            raise InvalidInputError(
                f"The flow '{self.name}' does not invert: g(g^-1(x)) is off by {error:.2g} "
                f"standard deviations of x, and at most {tolerance:g} is allowed. It may have "
                "diverged: train it again with a lower learning rate, or bound its scales more "
                "tightly."
            )
        return error


class FlowBijector(tfp.bijectors.Bijector):
    """A TFP view of a flow with the weights as they are; make a new one when they change.

    `serial` keeps views of one flow apart: TFP's cache is common to bijectors of equal parameters,
    and would answer for a new view from before its weights changed.
    """

    _serials = itertools.count()

    def __init__(self, flow: Flow, serial: int | None = None, name: str = "flow") -> None:
        serial = next(self._serials) if serial is None else serial
        parameters = {"flow": flow, "serial": serial, "name": name}
        self._flow = flow
        super().__init__(
            forward_min_event_ndims=1,
            inverse_min_event_ndims=len(flow.event_shape),
            dtype=tf.as_dtype(flow.compute_dtype),
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
        return {}

    def _forward(self, z: Tensor) -> Tensor:
        rows = tf.reshape(z, [-1, self._flow.latent_size])
        return self._restore(self._flow.forward(rows), z, 1, self._flow.event_shape)

    def _inverse(self, x: Tensor) -> Tensor:
        z, _ = self._flow.inverse_and_log_det(self._rows(x))
        return self._restore(z, x, len(self._flow.event_shape), (self._flow.latent_size,))

    def _inverse_log_det_jacobian(self, x: Tensor) -> Tensor:
        _, log_det = self._flow.inverse_and_log_det(self._rows(x))
        return self._restore(log_det, x, len(self._flow.event_shape), ())

    def _rows(self, x: Tensor) -> Tensor:
        return tf.reshape(x, [-1, *self._flow.event_shape])

    @staticmethod
    def _restore(rows: Tensor, like: Tensor, event_ndims: int, event: tuple[int, ...]) -> Tensor:
        """The leading axes of `like`, then `event`."""
        leading = like.shape[: like.shape.rank - event_ndims]
        shape = tf.concat([tf.shape(like)[: len(leading)], list(event)], axis=0)
        restored = tf.reshape(rows, tf.cast(shape, tf.int32))
        restored.set_shape([*leading, *event])
        return restored

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return shape[:-1].concatenate(self._flow.event_shape)

    def _forward_event_shape_tensor(self, shape: Tensor) -> Tensor:
        return tf.concat([shape[:-1], list(self._flow.event_shape)], axis=0)

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return shape[: -len(self._flow.event_shape)].concatenate([self._flow.latent_size])

    def _inverse_event_shape_tensor(self, shape: Tensor) -> Tensor:
        return tf.concat([shape[: -len(self._flow.event_shape)], [self._flow.latent_size]], axis=0)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation per channel (the last axis) of a batch."""
    axes = list(range(x.shape.rank - 1))
    mean, variance = tf.nn.moments(x, axes)
    # A channel that is constant in this batch (the black border of digits) keeps a finite scale.
    return mean, 0.5 * tf.math.log(variance + 1e-6)

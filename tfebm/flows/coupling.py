"""Flows over vectors: affine couplings (RealNVP) and spline couplings."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.flows import base, splines
from tfebm.types import Tensor

# No bin narrower than this share of the interval and no slope below it: float32 must be able to
# invert every one of them.
_LEAST = 1e-3


class CouplingFlow(base.Flow):
    """Couplings with an activation normalisation and a reversal each.

    Of the halves (a, b) of its input a coupling keeps a, and maps b by an invertible function
    whose parameters are a network of a. The reversal makes the next one map the other half.

    Args:
        size: d, the dimensions of x and z; even.
        num_couplings: How many couplings; at least 2, since one leaves half of x untouched.
        hidden_units: Units of the hidden layers of each network.
        activation: A Keras activation.
        **kwargs: Of `keras.layers.Layer`; `dtype="float64"` computes in float64.
    """

    def __init__(
        self,
        size: int,
        num_couplings: int,
        hidden_units: Sequence[int],
        activation: str | Callable[[Tensor], Tensor],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if int(size) != size or size < 2 or size % 2:
            raise InvalidInputError(
                "A coupling maps one half of a vector given the other: `size` must be even and at "
                f"least 2. Received {size!r}. Append a column of noise to data of another size."
            )
        if int(num_couplings) != num_couplings or num_couplings < 2:
            raise InvalidInputError(
                "`num_couplings` must be at least 2, since one coupling leaves half of x as it "
                f"is. Received {num_couplings!r}."
            )
        self.size = int(size)
        self.event_shape = (self.size,)
        self.num_couplings = int(num_couplings)
        self.hidden_units = tuple(int(units) for units in hidden_units)
        self.activation = keras.activations.get(activation)
        self.nets = [
            keras.Sequential(
                [
                    *(
                        keras.layers.Dense(units, self.activation, dtype=self.dtype_policy)
                        for units in self.hidden_units
                    ),
                    # From zeros: every coupling starts as the identity.
                    keras.layers.Dense(
                        self.num_parameters * self.size // 2,
                        kernel_initializer="zeros",
                        dtype=self.dtype_policy,
                    ),
                ],
                name=f"net_{i}",
            )
            for i in range(self.num_couplings)
        ]

    num_parameters: int
    """Parameters of the map of one dimension."""

    def elementwise(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Maps `x` `[B, d / 2]` by `parameters` `[B, d / 2, num_parameters]`."""
        raise NotImplementedError

    def elementwise_inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `elementwise`, and the log derivative of it, both `[B, d / 2]`."""
        raise NotImplementedError

    def build_weights(self) -> None:
        for net in self.nets:
            net.build((None, self.size // 2))
        shape = (self.num_couplings, self.size)
        self.shift = self.add_weight(name="shift", shape=shape, initializer="zeros")
        self.log_scale = self.add_weight(name="log_scale", shape=shape, initializer="zeros")

    def forward(self, z: Tensor) -> Tensor:
        for i in reversed(range(self.num_couplings)):
            kept, moved = tf.split(z[:, ::-1], 2, axis=1)
            moved = self.elementwise(moved, self._parameters(i, kept))
            scale = tf.exp(self.log_scale.value[i])
            z = tf.concat([kept, moved], axis=1) * scale + self.shift.value[i]
        return z

    def inverse_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = -tf.reduce_sum(self.log_scale.value)
        for i in range(self.num_couplings):
            x, added = self._inverse_step(i, x)
            log_det += added
        return x, log_det

    def initialize(self, x: Tensor) -> None:
        x = tf.cast(x, self.compute_dtype)
        for i in range(self.num_couplings):
            for weight, value in zip((self.shift, self.log_scale), base.moments(x), strict=True):
                weight.assign(tf.tensor_scatter_nd_update(weight.value, [[i]], [value]))
            x, _ = self._inverse_step(i, x)
        self.initialized.assign(1)

    def _inverse_step(self, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """One coupling towards z, and the log-determinant but for the normalisation's."""
        x = (x - self.shift.value[i]) * tf.exp(-self.log_scale.value[i])
        kept, moved = tf.split(x, 2, axis=1)
        moved, log_slope = self.elementwise_inverse(moved, self._parameters(i, kept))
        return tf.concat([kept, moved], axis=1)[:, ::-1], tf.reduce_sum(log_slope, axis=1)

    def _parameters(self, i: int, kept: Tensor) -> Tensor:
        return tf.reshape(self.nets[i](kept), [-1, self.size // 2, self.num_parameters])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "size": self.size,
            "num_couplings": self.num_couplings,
            "hidden_units": self.hidden_units,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="tfebm")
class RealNVP(CouplingFlow):
    """Affine couplings: (a, b) to (a, b * exp(s(a)) + t(a)), with s bounded.

    `s = log_scale_bound * tanh(raw / log_scale_bound)`: a chain that wanders off cannot meet a
    scale that overflows.

    Args:
        size: d, even.
        num_couplings: At least 2.
        hidden_units: Units of the hidden layers of each network.
        activation: A Keras activation.
        log_scale_bound: The largest |s|.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        InvalidInputError: An odd or one-dimensional `size`, or fewer than 2 couplings.

    Example:

        >>> flow = tfebm.RealNVP(size=2)
        >>> flow.build()
        >>> flow.distribution().sample(8).shape
        TensorShape([8, 2])

    References: L. Dinh et al. Density estimation using Real NVP. ICLR 2017. Activation
    normalisation: D. Kingma, P. Dhariwal. Glow. NeurIPS 2018, section 3.1.
    """

    num_parameters = 2

    def __init__(
        self,
        size: int,
        num_couplings: int = 8,
        hidden_units: Sequence[int] = (64, 64),
        activation: str | Callable[[Tensor], Tensor] = "tanh",
        log_scale_bound: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(size, num_couplings, hidden_units, activation, **kwargs)
        if not 0 < log_scale_bound < math.inf:
            raise InvalidInputError(
                f"`log_scale_bound` must be a positive number. Received {log_scale_bound!r}."
            )
        self.log_scale_bound = float(log_scale_bound)

    def elementwise(self, x: Tensor, parameters: Tensor) -> Tensor:
        shift, log_scale = self._shift_and_log_scale(parameters)
        return x * tf.exp(log_scale) + shift

    def elementwise_inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(parameters)
        return (y - shift) * tf.exp(-log_scale), -log_scale

    def _shift_and_log_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = tf.unstack(parameters, axis=-1)
        return shift, self.log_scale_bound * tf.tanh(raw / self.log_scale_bound)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "log_scale_bound": self.log_scale_bound}


@keras.saving.register_keras_serializable(package="tfebm")
class SplineFlow(CouplingFlow):
    """Couplings by monotone rational-quadratic splines on [-bound, bound], identity outside.

    A spline can open a gap in a density, which an affine map can only stretch: with the same
    number of couplings the backbone has far less mass between separate modes, and its latent
    space is easier to cross.

    Args:
        size: d, even.
        num_couplings: At least 2.
        num_bins: Bins of each spline.
        bound: The half width of the interval that is mapped onto itself, in units of the
            normalised activations (their standard deviation at the start).
        hidden_units: Units of the hidden layers of each network.
        activation: A Keras activation.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        InvalidInputError: An odd or one-dimensional `size`, fewer than 2 couplings or bins.

    Example:

        >>> model = tfebm.FlowModel(tfebm.SplineFlow(size=2))
        >>> model.compile()
        >>> model.fit(points, epochs=10, batch_size=256)       # float32 [N, 2]

    References: C. Durkan et al. Neural Spline Flows. NeurIPS 2019, section 3.1 and appendix A.
    """

    def __init__(
        self,
        size: int,
        num_couplings: int = 6,
        num_bins: int = 16,
        bound: float = 4.0,
        hidden_units: Sequence[int] = (64, 64),
        activation: str | Callable[[Tensor], Tensor] = "relu",
        **kwargs: Any,
    ) -> None:
        if int(num_bins) != num_bins or num_bins < 2 or not 0 < bound < math.inf:
            raise InvalidInputError(
                "`num_bins` must be at least 2 and `bound` a positive number. Received "
                f"{num_bins!r} and {bound!r}."
            )
        self.num_bins = int(num_bins)
        self.bound = float(bound)
        self.num_parameters = 3 * self.num_bins - 1
        super().__init__(size, num_couplings, hidden_units, activation, **kwargs)

    def elementwise(self, x: Tensor, parameters: Tensor) -> Tensor:
        return splines.spline(x, *self._knots(parameters))

    def elementwise_inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return splines.spline_inverse(y, *self._knots(parameters))

    def _knots(self, parameters: Tensor) -> tuple[Tensor, ...]:
        """Widths and heights of the bins, and slopes at the knots between them."""
        bins = self.num_bins
        widths, heights, slopes = tf.split(parameters, [bins, bins, bins - 1], axis=-1)
        # The offset makes zeros the identity.
        offset = math.log(math.expm1(1.0 - _LEAST))
        interval = 2.0 * self.bound

        def sizes(raw: Tensor) -> Tensor:
            return interval * (_LEAST + (1.0 - _LEAST * bins) * tf.nn.softmax(raw))

        return sizes(widths), sizes(heights), _LEAST + tf.nn.softplus(slopes + offset)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_bins": self.num_bins, "bound": self.bound}

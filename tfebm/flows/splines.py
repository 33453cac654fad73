"""Monotone rational-quadratic splines, value and slope in one pass.

The map is that of `tfb.RationalQuadraticSpline` (the tests hold one against the other). TFP's
finds the bin twice for a value and its slope, by `searchsorted` and gathers: a flow of six
couplings was 18,000 nodes and took 9 seconds to trace. Here a bin is a row of comparisons, which
costs a sixth of the nodes and runs as fast, compiled and not.

References: C. Durkan et al. Neural Spline Flows. NeurIPS 2019, section 3.1 and appendix A.
"""

from typing import NamedTuple

import tensorflow as tf

from tfebm.types import Tensor


class _Bin(NamedTuple):
    """What a value needs of its bin."""

    inside: Tensor
    """Whether the value lies in the interval of the spline at all."""
    value: Tensor
    """The value, or 0 outside."""
    x: Tensor
    y: Tensor
    """The lower left corner."""
    width: Tensor
    height: Tensor
    slope: Tensor
    """At the left knot."""
    next_slope: Tensor
    """At the right one."""


def spline(x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor) -> Tensor:
    """Maps `x` by a spline on [-b, b], the identity outside.

    Args:
        x: `[...]`.
        widths: Of the K bins, `[..., K]`, positive, of sum 2 b.
        heights: Likewise.
        slopes: At the inner knots, `[..., K - 1]`, positive; at the ends the slope is 1.
    """
    cell = _find(x, widths, heights, slopes, by_height=False)
    mean = cell.height / cell.width
    t = (cell.value - cell.x) / cell.width
    rest = t * (1.0 - t)
    bend = cell.slope + cell.next_slope - 2.0 * mean
    y = cell.y + cell.height * (mean * t**2 + cell.slope * rest) / (mean + bend * rest)
    return tf.where(cell.inside, y, x)


def spline_inverse(
    y: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor
) -> tuple[Tensor, Tensor]:
    """The inverse of `spline`, and the log derivative of the inverse; both `[...]`."""
    cell = _find(y, widths, heights, slopes, by_height=True)
    mean = cell.height / cell.width
    above = cell.value - cell.y
    bend = cell.slope + cell.next_slope - 2.0 * mean
    a = cell.height * (mean - cell.slope) + above * bend
    b = cell.height * cell.slope - above * bend
    # The form of the root that is stable for small a; rounding must not make it complex.
    root = tf.sqrt(tf.maximum(b**2 + 4.0 * a * mean * above, 0.0) + _TINY)
    t = 2.0 * mean * above / (b + root)
    rest = t * (1.0 - t)
    log_slope = (
        2.0 * tf.math.log(mean)
        + tf.math.log(cell.next_slope * t**2 + 2.0 * mean * rest + cell.slope * (1.0 - t) ** 2)
        - 2.0 * tf.math.log(mean + bend * rest)
    )
    x = cell.x + t * cell.width
    return tf.where(cell.inside, x, y), tf.where(cell.inside, -log_slope, 0.0)


_TINY = 1e-20  # keeps the gradient of the square root finite


def _find(value: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, by_height: bool) -> _Bin:
    ends = tf.ones_like(slopes[..., :1])
    left, right = tf.concat([ends, slopes], axis=-1), tf.concat([slopes, ends], axis=-1)
    x, y = _lower_knots(widths), _lower_knots(heights)
    sizes, knots = (heights, y) if by_height else (widths, x)
    bound = -knots[..., 0]
    inside = tf.abs(value) < bound
    safe = tf.where(inside, value, tf.zeros_like(value))
    # The last bin also takes what rounding puts beyond its upper knot.
    upper = tf.concat([knots[..., 1:], (bound + sizes[..., -1])[..., tf.newaxis]], axis=-1)
    above, below = safe[..., tf.newaxis] >= knots, safe[..., tf.newaxis] < upper
    chosen = tf.cast(above & below, value.dtype)

    def pick(values: Tensor) -> Tensor:
        return tf.reduce_sum(chosen * values, axis=-1)

    return _Bin(inside, safe, *(pick(v) for v in (x, y, widths, heights, left, right)))


def _lower_knots(sizes: Tensor) -> Tensor:
    """Where the bins begin, centred on 0: `[..., K]`."""
    return tf.cumsum(sizes, axis=-1, exclusive=True) - 0.5 * tf.reduce_sum(
        sizes, axis=-1, keepdims=True
    )

"""Diagonal Gaussians by their means and log-variances, as encoders give them."""

import math

import tensorflow as tf

from tfebm.types import Tensor


def unit_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of every unit: `[B, d]` twice to `[B, d]`."""
    return 0.5 * (tf.exp(log_variance) + tf.square(mean) - 1.0 - log_variance)


def kl(mean: Tensor, log_variance: Tensor, scale: float) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, scale**2)) of every unit: `[B, d]`."""
    return unit_kl(mean / scale, log_variance - 2.0 * math.log(scale))


def log_prob(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x; mean, exp(log_variance)) over all units: `[B]`."""
    squares = tf.square(x - mean) * tf.exp(-log_variance)
    return -0.5 * tf.reduce_sum(squares + log_variance + math.log(2 * math.pi), axis=1)


def merge(
    mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """The normalised product N(z; mean, exp(log_variance)) N(z; m, exp(v)), whitened by (m, v).

    With r = log_variance - v and u = (z - m) / exp(v / 2) the product is N(u; a, s), where

        s = exp(r) / (1 + exp(r)),    a = (mean - m) / exp(v / 2) / (1 + exp(r))

    Args:
        mean: Of the encoder, `[B, d]`.
        log_variance: Of the encoder, `[B, d]`.
        prior_mean: m, `[B, d]`.
        prior_log_variance: v, `[B, d]`.

    Returns:
        a and log s, `[B, d]` each.
    """
    ratio = log_variance - prior_log_variance
    whitened = (mean - prior_mean) * tf.exp(-0.5 * prior_log_variance)
    # Sigmoids, which neither overflow nor lose the small one of two precisions.
    return whitened * tf.sigmoid(-ratio), tf.math.log_sigmoid(ratio)

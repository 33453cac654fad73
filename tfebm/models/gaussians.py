"""Diagonal Gaussians by their means and log-variances, as encoders give them."""

import tensorflow as tf

from tfebm.types import Tensor


def unit_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of every unit: `[B, d]` twice to `[B, d]`."""
    return 0.5 * (tf.exp(log_variance) + tf.square(mean) - 1.0 - log_variance)


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

"""The Gaussians of latents that an encoder makes of examples."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.models import gaussians, latents
from tfebm.models.parts import Examples
from tfebm.types import Latents, Tensor

# Standard deviations from 0.007 to 12: beyond them exp overflows in early steps, and a variance
# on its way to 0 makes the KL's gradient as large as the data's.
LOG_VARIANCE_RANGE = (-10.0, 5.0)

_COLLAPSED = 0.01  # nats a unit

Moments = list[tuple[Tensor, Tensor]]
"""Means and log-variances of each layer, float32 `[B, d_l]`."""


class GaussianEncoder:
    """q(u | x), a Gaussian of independent units in every layer.

    Args:
        examples: Of the model.
        latent_size: d, or the tuple of sizes.
        network: Examples `[B, ...]` to a mean and beside it a log-variance of each layer,
            `[B, 2 * d_l]`.
        remedy: What helps where it collapses, as a sentence.

    Raises:
        InvalidInputError: A network that does not take the examples, or returns another shape.
    """

    def __init__(
        self,
        examples: Examples,
        latent_size: latents.LatentSize,
        network: keras.layers.Layer,
        remedy: str,
    ) -> None:
        self._examples, self._latent_size, self.network = examples, latent_size, network
        self._num_units, self._remedy = sum(latents.sizes(latent_size)), remedy
        self._build()

    def _build(self) -> None:
        shape = ("B", *self._examples.shape)
        try:
            if not self.network.built:
                self.network.build((None, *self._examples.shape))
            output = self.network(self._examples.two())
        except (InvalidInputError, MemoryError, tf.errors.ResourceExhaustedError):
            raise  # a network that is too large takes the examples all the same
        except Exception as error:
            raise InvalidInputError(
                f"The encoder does not take examples of shape [{', '.join(map(str, shape))}], as "
                f"the generator makes them: {error} Change the encoder's input, or the generator."
            ) from error
        parts = list(output) if isinstance(output, (tuple, list)) else [output]
        found = [tuple(getattr(part, "shape", ())) for part in parts]
        sizes = latents.sizes(self._latent_size)
        if found != [(2, 2 * size) for size in sizes]:
            needed = " and ".join(f"[B, {2 * size}]" for size in sizes)
            received = " and ".join(
                f"[{', '.join(map(str, ('B', *each[1:])))}]" if each else type(part).__name__
                for each, part in zip(found, parts, strict=True)
            )
            raise InvalidInputError(
                "The encoder must return a mean and beside it a log-variance for latents of size "
                f"{self._latent_size}: {needed}"
                f"{', the top first' if len(sizes) > 1 else ''}. "
                f"Received {received}. Change its last layer, or `latent_size`."
            )

    def moments(self, x: Tensor, training: bool | None = None) -> Moments:
        """Mean and log-variance of each layer."""
        output = self.network(x, training=training)
        found = []
        for part in output if isinstance(output, (tuple, list)) else [output]:
            mean, log_variance = tf.split(tf.cast(part, tf.float32), 2, axis=-1)
            found.append((mean, tf.clip_by_value(log_variance, *LOG_VARIANCE_RANGE)))
        return found

    def draw(self, moments: Moments, streams: Tensor) -> Latents:
        """u ~ q, by reparametrisation; `streams` int32 `[B, 2]`."""
        noise = tf.nest.flatten(latents.standard_normal(streams, self._latent_size))
        draws = [
            mean + tf.exp(0.5 * log_variance) * e
            for (mean, log_variance), e in zip(moments, noise, strict=True)
        ]
        return latents.pack(draws, self._latent_size)

    def warn_of_collapse(self, epoch: int, metrics: Mapping[str, Any] | None) -> None:
        """Warns where the mean KL of an epoch's examples, the metric `kl`, is nearly 0."""
        kl, num_units = float((metrics or {}).get("kl", math.inf)), self._num_units
        if kl < _COLLAPSED * num_units:
            warnings.warn(
                f"The encoder has collapsed: in epoch {epoch + 1} its KL from the prior was "
                f"{kl:.2g} nats over {num_units} units, so that it says the same of every example. "
                f"{self._remedy}",
                stacklevel=2,
            )

    @staticmethod
    def log_prob(moments: Moments, u: Latents) -> Tensor:
        """log q(u | x), `[B]`."""
        parts = zip(tf.nest.flatten(u), moments, strict=True)
        return tf.add_n([gaussians.log_prob(part, *each) for part, each in parts])


def total(units: list[Tensor]) -> Tensor:
    """`[B]`: the sum over all units `[B, d_l]` of all layers."""
    return tf.add_n([tf.reduce_sum(each, axis=1) for each in units])

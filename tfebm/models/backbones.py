"""What an energy over examples tilts: a flow, a model of latents, or any other network."""

from typing import Any, Protocol

import keras
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.flows import Flow
from tfebm.models import latents
from tfebm.types import Tensor


class Backbone(Protocol):
    """x = g(z), with a law of z that chains start from."""

    start_scale: float
    """Standard deviation of the chains' start, N(0, start_scale**2 I)."""
    flow: Flow | None
    """The backbone itself where it has a density."""

    def decode(self, z: Tensor) -> Tensor:
        """g(z), float32."""

    def base_energy(self, z: Tensor) -> Tensor:
        """-log of the law of z, up to a constant: `[B]`."""

    def sample(self, streams: Tensor) -> Tensor:
        """z for each stream, by the law of z."""


class NetworkBackbone:
    """Any network over latents that are N(0, I)."""

    start_scale = 1.0
    flow: Flow | None = None

    def __init__(self, network: keras.layers.Layer, latent_size: int) -> None:
        self._network, self._latent_size = network, latent_size

    def decode(self, z: Tensor) -> Tensor:
        return tf.cast(self._network(z, training=False), tf.float32)

    def base_energy(self, z: Tensor) -> Tensor:
        return 0.5 * tf.reduce_sum(tf.square(z), axis=-1)

    def sample(self, streams: Tensor) -> Tensor:
        return latents.standard_normal(streams, self._latent_size)


class FlowBackbone(NetworkBackbone):
    """A flow, whose density is known."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow, flow.latent_size)
        self.flow = flow


class ModelBackbone:
    """The generator of a trained model, with the model's own prior of its latents."""

    flow: Flow | None = None

    def __init__(self, model: Any) -> None:
        self.decode, self.base_energy = model.decode_rows, model.prior_energy
        self.sample, self.start_scale = model.sample_prior, model.prior_scale


def of_network(backbone: keras.layers.Layer, latent_size: int) -> Backbone:
    """What a layer or a model is as a backbone."""
    if isinstance(backbone, Flow):
        return FlowBackbone(backbone)
    as_backbone = getattr(backbone, "as_backbone", None)
    return as_backbone() if as_backbone else NetworkBackbone(backbone, latent_size)


def needed_flow(backbone: Backbone, name: str, what: str) -> Flow:
    """The flow of a backbone.

    Raises:
        InvalidInputError: There is none; `what` needs it.
    """
    if backbone.flow is None:
        raise InvalidInputError(
            f"{what} needs a flow, whose density is known. Received the backbone {name}, which has "
            "none."
        )
    return backbone.flow

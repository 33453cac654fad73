"""Fitting a user's own networks together: sizes, shapes, and what to say when they do not fit."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.generators.likelihoods import BernoulliLikelihood
from tfebm.types import Tensor

DEFAULT_LATENT_SIZE = 100  # the paper's, for SVHN and CelebA


def latent_size(
    requested: int | None, generator: keras.layers.Layer, energy: keras.layers.Layer
) -> int:
    """The requested size, else the one that a network was built for, else 100.

    Raises:
        InvalidInputError: A network was built for another size.
    """
    built = {
        name: size
        for name, layer in (("generator", generator), ("energy", energy))
        if (size := _built_size(layer)) is not None
    }
    if requested is not None and (int(requested) != requested or requested < 1):
        raise InvalidInputError(
            f"`latent_size` must be a whole number of at least 1. Received {requested!r}."
        )
    size = requested or next(iter(built.values()), DEFAULT_LATENT_SIZE)
    for name, other in built.items():
        if other != size:
            raise InvalidInputError(
                f"The {name} was built for latents of size {other}, but the latent size is "
                f"{size}. Give both networks and `latent_size` one size."
            )
    return int(size)


def _built_size(layer: keras.layers.Layer) -> int | None:
    if not layer.built:
        return None
    shape = getattr(layer, "input_shape", None) or (layer.get_build_config() or {}).get(
        "input_shape"
    )
    if not shape or not isinstance(shape[-1], (int, np.integer)):
        return None
    return int(shape[-1])


def build(generator: keras.layers.Layer, energy: keras.layers.Layer, size: int) -> tuple:
    """Builds both networks and returns the shape of one example, as the generator makes it.

    Raises:
        InvalidInputError: A network that does not take latents `[B, size]`, or does not return what
            is needed.
    """
    outputs = {}
    for name, layer in (("generator", generator), ("energy", energy)):
        try:
            if not layer.built:
                layer.build((None, size))
            outputs[name] = layer(tf.zeros([2, size]))
        except InvalidInputError:
            raise
        except Exception as error:
            raise InvalidInputError(
                f"The {name} does not take latents of shape [B, {size}]: {error} Change "
                f"`latent_size`, or the {name}'s input."
            ) from error
    for name, output in outputs.items():
        if not tf.is_tensor(output):
            raise InvalidInputError(
                f"The {name} must return one tensor. Received {type(output).__name__}."
            )
    shape = tuple(outputs["energy"].shape)
    if shape not in ((2,), (2, 1)):
        raise InvalidInputError(
            "`energy` must return one value per row, shape [B] or [B, 1]. Received shape "
            f"{('B', *shape[1:])} for latents of shape {('B', size)}. Sum or squeeze the other "
            "axes, or end with one unit."
        )
    shape = tuple(outputs["generator"].shape)
    if len(shape) < 2 or shape[0] != 2:
        raise InvalidInputError(
            "`generator` must return one example per row, shape [B, ...]. Received shape "
            f"{shape} for latents of shape {(2, size)}."
        )
    return shape[1:]


def check_likelihood(likelihood: Any, generator: keras.layers.Layer) -> None:
    """Refuses logits out of a tanh, which would never reach black or white."""
    bounded = getattr(generator, "output_range", None) is not None
    if isinstance(likelihood, BernoulliLikelihood) and bounded:
        raise InvalidInputError(
            "A BernoulliLikelihood takes logits, but the generator ends in tanh. Received "
            f"{type(generator).__name__} with a bounded output. Pass `output_activation=None` "
            "to it."
        )


def regularization(network: keras.layers.Layer) -> Tensor | float:
    """This replica's share of the penalties on a network's weights (`kernel_regularizer`, ...).

    Divided by the replicas, whose gradients Keras sums.
    """
    penalties = [v.regularizer(v) for v in network.trainable_variables if v.regularizer]
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return tf.add_n(penalties) / replicas if penalties else 0.0


def per_row(energy: Tensor) -> Tensor:
    """`[B]` or `[B, 1]` as float32 `[B]`."""
    energy = tf.cast(energy, tf.float32)
    return tf.squeeze(energy, axis=1) if energy.shape.rank == 2 else energy


def latent_path(
    z_from: np.ndarray, z_to: np.ndarray, num_steps: int, spherical: bool
) -> np.ndarray:
    """`num_steps` points between rows of `[N, d]`: `[N, num_steps, d]`, ends included.

    A straight line, or for `spherical` the great circle with the lengths interpolated
    linearly, which keeps to the shell where a Gaussian has its mass.
    """
    t = np.linspace(0.0, 1.0, num_steps, dtype=np.float32)[np.newaxis, :, np.newaxis]
    a, b = z_from[:, np.newaxis], z_to[:, np.newaxis]
    if not spherical:
        return (1 - t) * a + t * b
    length_a = np.linalg.norm(a, axis=-1, keepdims=True)
    length_b = np.linalg.norm(b, axis=-1, keepdims=True)
    tiny = np.finfo(np.float32).tiny
    unit_a, unit_b = a / np.maximum(length_a, tiny), b / np.maximum(length_b, tiny)
    angle = np.arccos(np.clip(np.sum(unit_a * unit_b, axis=-1, keepdims=True), -1, 1))
    sine = np.sin(angle)
    near = sine < 1e-4  # (anti)parallel: the circle is not defined or is the line
    safe = np.where(near, 1.0, sine)
    on_circle = (np.sin((1 - t) * angle) * unit_a + np.sin(t * angle) * unit_b) / safe
    path = ((1 - t) * length_a + t * length_b) * on_circle
    return np.where(near, (1 - t) * a + t * b, path).astype(np.float32)

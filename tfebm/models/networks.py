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
        outputs[name] = _output(name, layer, (size,), "latents", "Change `latent_size`")
    _check_energy(outputs["energy"], "latents", (size,))
    return _example_shape("generator", outputs["generator"], size)


def build_backbone(backbone: keras.layers.Layer, requested: int | None) -> tuple[int, tuple]:
    """Builds a flow, a `LatentEBM` or another generator; its latent size and example shape.

    Raises:
        InvalidInputError: A network that does not take latents, another size than was asked for,
            or a size that is not known.
    """
    known = getattr(backbone, "latent_size", None) or _built_size(backbone)
    size = requested or known
    if size is None:
        raise InvalidInputError(
            f"The backbone {type(backbone).__name__} does not say which latents it takes. Give "
            "`latent_size`."
        )
    if known not in (None, size):
        raise InvalidInputError(
            f"The backbone takes latents of size {known}. Received `latent_size={size}`."
        )
    shape = getattr(backbone, "event_shape", None) or getattr(backbone, "data_shape", None)
    if shape is not None:
        if not backbone.built:
            backbone.build((None, size))
        return int(size), tuple(shape)
    output = _output("backbone", backbone, (size,), "latents", "Change `latent_size`")
    return int(size), _example_shape("backbone", output, size)


def build_energy(energy: keras.layers.Layer, data_shape: tuple[int, ...]) -> None:
    """Builds an energy over examples.

    Raises:
        InvalidInputError: It does not take them, or does not return one value per row.
    """
    output = _output("energy", energy, data_shape, "examples", "Change the backbone")
    _check_energy(output, "examples", data_shape)


def _output(
    name: str, layer: keras.layers.Layer, shape: tuple[int, ...], of: str, remedy: str
) -> Tensor:
    """What a network returns for zeros of `[2, *shape]`; it is built where it was not."""
    try:
        if not layer.built:
            layer.build((None, *shape))
        output = layer(tf.zeros([2, *shape]))
    except InvalidInputError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"The {name} does not take {of} of shape [B, {', '.join(map(str, shape))}]: {error} "
            f"{remedy}, or the {name}'s input."
        ) from error
    if not tf.is_tensor(output):
        raise InvalidInputError(
            f"The {name} must return one tensor. Received {type(output).__name__}."
        )
    return output


def _check_energy(output: Tensor, of: str, shape: tuple[int, ...]) -> None:
    if tuple(output.shape) not in ((2,), (2, 1)):
        raise InvalidInputError(
            "`energy` must return one value per row, shape [B] or [B, 1]. Received shape "
            f"{('B', *output.shape[1:])} for {of} of shape {('B', *shape)}. Sum or squeeze the "
            "other axes, or end with one unit."
        )


def _example_shape(name: str, output: Tensor, size: int) -> tuple[int, ...]:
    shape = tuple(output.shape)
    if len(shape) < 2 or shape[0] != 2:
        raise InvalidInputError(
            f"`{name}` must return one example per row, shape [B, ...]. Received shape {shape} "
            f"for latents of shape {(2, size)}."
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

"""Latents of one part, a tensor `[B, d]`, and of several, a tuple of them, in one language."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.types import Latents, Tensor

LatentSize = int | tuple[int, ...]
"""d, or the sizes of a tuple of latents."""


def sizes(latent_size: LatentSize) -> tuple[int, ...]:
    """The sizes of the parts; one for a single tensor."""
    return latent_size if isinstance(latent_size, tuple) else (latent_size,)


def pack(parts: Sequence[Any], latent_size: LatentSize) -> Any:
    """Parts as what a generator with `latent_size` takes."""
    return tuple(parts) if isinstance(latent_size, tuple) else parts[0]


def join(z: Latents) -> Tensor:
    """All parts side by side, `[B, d_1 + ... + d_P]`."""
    parts = tf.nest.flatten(z)
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)


def split(z: Tensor, latent_size: LatentSize) -> Latents:
    """The inverse of `join`."""
    if not isinstance(latent_size, tuple):
        return z
    return tuple(tf.split(z, latent_size, axis=-1))


def standard_normal(seeds: Tensor, latent_size: LatentSize) -> Latents:
    """N(0, I) from the start streams of `seeds`, int32 `[B, 2]`."""
    # As in the chains: a single part uses the row's own stream, further parts children of it.
    parts = [
        random.row_normal(seeds if i == 0 else random.fold_in(seeds, i), random.START_STREAM, size)
        for i, size in enumerate(sizes(latent_size))
    ]
    return pack(parts, latent_size)


def by_example(z: Latents, num_chains: int) -> Latents:
    """`[B * num_chains, d]` to `[B, num_chains, d]`."""
    return tf.nest.map_structure(lambda part: tf.reshape(part, [-1, num_chains, part.shape[-1]]), z)


def as_latents(z: Any, latent_size: LatentSize) -> Latents:
    """A user's arrays as float32 latents, checked.

    Raises:
        InvalidInputError: Another structure, other sizes, or parts of different lengths.
    """
    if not isinstance(latent_size, tuple):
        return tf.constant(checks.as_examples(z, (latent_size,)))
    parts = [np.asarray(part) for part in z] if isinstance(z, (tuple, list)) else [np.asarray(z)]
    shapes = [part.shape for part in parts]
    fits = len(parts) == len(latent_size) and all(
        len(shape) == 2 and shape[1] == size and shape[0] == shapes[0][0]
        for shape, size in zip(shapes, latent_size, strict=True)
    )
    if not fits:
        raise InvalidInputError(
            "The latents do not have the structure of the generator: it takes a tuple of "
            f"{', '.join(f'[N, {size}]' for size in latent_size)}. Received "
            f"{', '.join(map(str, shapes))}."
        )
    return tuple(
        tf.constant(checks.as_examples(part, (size,)))
        for part, size in zip(parts, latent_size, strict=True)
    )

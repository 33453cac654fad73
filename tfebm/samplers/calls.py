"""What one call of a sampler is given, checked: positions, an energy, noise and settings."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.errors import InvalidInputError, received
from tfebm.types import EnergyFn, Latents, Tensor


class Call:
    """One call, as the steps of a chain see it.

    A position is here a list of its parts, each `[B, ...]`: one for a tensor, several for a tuple.

    Args:
        energy_fn: The energy.
        context: Its further arguments.
        position: z_0, in the caller's structure.
        seeds: int32 `[B, 2]`, one stream per row; None for a chain without noise.
        noise: Injected noise, or None.
        step_sizes: `[K, P]` for K steps and P parts; a scalar for a sampler that adapts it.
        noise_scales: `[K]`.
        with_step: Whether the energy takes the number of the step.
        momenta: `[K, P]`; None for a chain without momentum.
        velocity: v_0 in the structure of `position`; None where the first step draws it.
    """

    def __init__(
        self,
        energy_fn: EnergyFn,
        context: tuple[Any, ...],
        position: Latents,
        seeds: Tensor | None,
        noise: Latents | None,
        step_sizes: Tensor,
        noise_scales: Tensor,
        with_step: bool = False,
        momenta: Tensor | None = None,
        velocity: Latents | None = None,
    ) -> None:
        self.energy_fn, self.context, self.with_step = energy_fn, context, with_step
        self.position, self.seeds = position, seeds
        self.step_sizes, self.noise_scales = step_sizes, noise_scales
        self.momenta: Any = momenta
        self.velocity = velocity
        self._injected = None if noise is None else tf.nest.flatten(noise)
        # A single part uses the row's own stream, further parts children of it.
        number = 0 if seeds is None else len(tf.nest.flatten(position))
        self._streams = [seeds if i == 0 else random.fold_in(seeds, i) for i in range(number)]

    def pack(self, parts: Sequence[Tensor]) -> Latents:
        """Parts in the structure of the caller's position."""
        return tf.nest.pack_sequence_as(self.position, list(parts))

    def energy(self, k: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """E, `[B]`, as step `k` sees it."""
        return row_energy(self._at(k), self.pack(parts), self.context)

    def energy_and_grads(self, k: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """E, `[B]`, and dE/dz, a list of the parts."""
        return energy_and_grads(self._at(k), self.pack(parts), self.context)

    @property
    def has_noise(self) -> bool:
        """False for a chain without noise."""
        return self._injected is not None or self.seeds is not None

    def noise(self, k: Tensor) -> list[Tensor]:
        """The noise of step `k`, N(0, I) in the shapes of the parts.

        Drawn, it is a function of (seed of the row, `k`) alone.
        """
        if self._injected is not None:
            return [tf.gather(values, k) for values in self._injected]
        parts = tf.nest.flatten(self.position)
        return [_normal(stream, k, z) for stream, z in zip(self._streams, parts, strict=True)]

    def _at(self, k: Tensor) -> EnergyFn:
        return functools.partial(self.energy_fn, step=k) if self.with_step else self.energy_fn


def _normal(stream: Tensor, k: Tensor, like: Tensor) -> Tensor:
    flat = random.row_normal(stream, k, math.prod(like.shape[1:]))
    return tf.cast(tf.reshape(flat, tf.shape(like)), like.dtype)


def to_tensors(*structures: Any) -> list[Any]:
    """Tensors in tuples stay in them; a list is one tensor's rows."""
    tensors = []
    for structure in structures:
        structure = tf.convert_to_tensor(structure) if isinstance(structure, list) else structure
        tensors.append(
            tf.nest.map_structure(
                lambda x: None if x is None else tf.convert_to_tensor(x), structure
            )
        )
    return tensors


def check_position(position: Latents) -> None:
    """Raises `InvalidInputError` unless a chain can move in `position`."""
    parts = tf.nest.flatten(position)
    for part in parts:
        if not part.dtype.is_floating or part.shape.rank == 0:
            raise InvalidInputError(
                "A chain moves in floats with one row per chain, shape `[B, ...]`. Received a "
                f"position of dtype {part.dtype.name} and shape {part.shape}. Cast it "
                "(`tf.cast(position, tf.float32)`), or give it a leading axis."
            )
        if part.shape.rank is None or None in part.shape[1:]:
            raise InvalidInputError(
                f"A position must have a known shape behind its rows. Received {part.shape}. Set "
                "it with `tf.ensure_shape`."
            )
    if not parts:
        raise InvalidInputError("The position holds no tensor. Give one, or a tuple of them.")


def check_noise(position: Latents, noise: Latents, num_steps: int) -> None:
    """Raises `InvalidInputError` unless `noise` holds the noise of every step."""
    tf.nest.assert_same_structure(position, noise)
    for part, values in zip(tf.nest.flatten(position), tf.nest.flatten(noise), strict=True):
        # XLA would clamp a step that is missing to the last one, without a word.
        if not values.shape.is_compatible_with([num_steps, *part.shape]):
            raise InvalidInputError(
                "`noise` must have the shape of the position behind an axis of one entry per "
                f"step, {[num_steps, *part.shape]}. Received {values.shape.as_list()}."
            )


def check_velocity(position: Latents, velocity: Latents) -> None:
    """Raises `InvalidInputError` unless `velocity` fits `position`."""
    tf.nest.assert_same_structure(position, velocity)
    for part, values in zip(tf.nest.flatten(position), tf.nest.flatten(velocity), strict=True):
        if values.dtype != part.dtype or not values.shape.is_compatible_with(part.shape):
            raise InvalidInputError(
                "`velocity` must have the type and the shape of the position, "
                f"{part.dtype.name} {part.shape}. Received {values.dtype.name} {values.shape}."
            )


def table_of(name: str, values: Any, num_steps: int, position: Latents, of: str) -> Tensor:
    """A setting of every step and part as a table `[K, P]`, in `float_dtype`.

    Args:
        name: "step_size" or "momentum", for the error.
        values: One number, `[K]`, `[1, P]` or `[K, P]`.
        num_steps: K.
        position: P parts.
        of: Whose they are, for the error.
    """
    num_parts = len(tf.nest.flatten(position))
    if not tf.is_tensor(values):  # TensorFlow would round Python's numbers to float32
        values = np.asarray(values, np.float64)
    steps = tf.cast(values, float_dtype(position))
    # One table here, before any compiled function: it then sees a single shape.
    columns = steps[:, tf.newaxis] if steps.shape.rank == 1 else steps
    sizes = columns.shape.as_list()
    if len(sizes) not in (0, 2) or any(
        had not in (None, 1, needed)
        for had, needed in zip(sizes, [num_steps, num_parts][: len(sizes)], strict=True)
    ):
        raise InvalidInputError(
            f"`{name}` of {of} must be one number, one per step (`[K]`), or a table with a "
            f"column for each latent part (`[1, P]` or `[K, P]`), here K = {num_steps} and "
            f"P = {num_parts}. Received shape {steps.shape}."
        )
    return tf.broadcast_to(columns, [num_steps, num_parts])


def check_energy_fn(energy_fn: Any) -> None:
    """Raises `InvalidInputError` unless it can be called."""
    if not callable(energy_fn) or isinstance(energy_fn, type):
        raise InvalidInputError(
            "`energy_fn` must be a function of positions to energies `[B]`. Received "
            f"{received(energy_fn)}. Give a function, a "
            "method such as `model.prior_energy`, or a Keras layer."
        )


def num_rows(position: Latents) -> Tensor:
    """B, of a tensor or a tuple of them."""
    return tf.shape(tf.nest.flatten(position)[0])[0]


def float_dtype(position: Latents) -> Any:
    """Of step sizes and traces: float64 for latents in float64, else float32."""
    return tf.float64 if tf.nest.flatten(position)[0].dtype == tf.float64 else tf.float32


def row_energy(energy_fn: EnergyFn, latents: Latents, context: tuple[Any, ...]) -> Tensor:
    """`energy_fn(latents, *context)`, checked to be `[B]`."""
    energy = tf.convert_to_tensor(energy_fn(latents, *context))
    if energy.shape.rank is None:  # as `tf.numpy_function` leaves it
        energy = tf.ensure_shape(energy, [None])
    if energy.shape.rank != 1:
        shapes = [tuple(part.shape) for part in tf.nest.flatten(latents)]
        raise InvalidInputError(
            "`energy_fn` must return one energy per row, shape `[B]`. Received shape "
            f"{tuple(energy.shape)} for latents of shape {', '.join(map(str, shapes))}. Sum or "
            "squeeze the other axes."
        )
    return energy


def energy_and_grads(
    energy_fn: EnergyFn, latents: Latents, context: tuple[Any, ...]
) -> tuple[Tensor, list[Tensor]]:
    """Energies `[B]` and their gradients, one per part of the latents."""
    parts = tf.nest.flatten(latents)
    # Only the latents are watched: no gradient towards weights is ever built in a chain.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(parts)
        energy = row_energy(energy_fn, tf.nest.pack_sequence_as(latents, parts), context)
        total = tf.reduce_sum(energy)
    grads = tape.gradient(total, parts, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return energy, grads


def row_norm(parts: Sequence[Tensor]) -> Tensor:
    """`[B]`: the Euclidean norm over all parts of a row."""
    dtype = float_dtype(list(parts))
    flat = [tf.reshape(tf.cast(p, dtype), [-1, math.prod(p.shape[1:])]) for p in parts]
    return tf.norm(tf.concat(flat, axis=1), axis=1)

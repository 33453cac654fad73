"""What all chains share: how they are called, compiled and cached, and how energies are read."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.errors import InvalidInputError, received
from tfebm.samplers import compilation
from tfebm.samplers.cache import FunctionCache
from tfebm.types import EnergyFn, Latents, Tensor

# Compiled chains kept per sampler; the least recently used one is dropped. A model needs one.
_CACHE_SIZE = 8


class Chain:
    """The contract of all samplers.

        z = sampler(energy_fn, position, *context, seed=seed)
        z, trace = sampler(energy_fn, position, *context, seed=seed, trace=True)

    `__call__` compiles once per `energy_fn`; `run` is the same chain as plain operations. Noise
    is a function of (seed of the row, step) alone, so that a row's chain depends neither on its
    batch-mates, nor on the number of replicas, nor on compilation (but for a step size that adapts
    within the call, to all rows together). A sampler is serialisable
    settings: it holds no weights and no state.
    """

    num_steps: int
    """K, the steps (or transitions) of one call."""
    gradients_per_step: int = 1
    """Gradients of the energy per step."""
    jit_compile: compilation.JitCompile

    def __init__(self, num_steps: int, jit_compile: compilation.JitCompile) -> None:
        self.num_steps = whole_number("num_steps", num_steps)
        self.jit_compile = compilation.check_jit_compile(jit_compile)
        self._functions = FunctionCache(_CACHE_SIZE)

    @property
    def num_traces(self) -> int:
        """How often the cached chains were traced: at most once per kind of input."""
        return sum(f.experimental_get_tracing_count() for f in self._functions.values())

    def forget(self) -> None:
        """Drops what was compiled, for energies that have changed behind their function."""
        self._functions.clear()

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: what was compiled cannot be copied, and is compiled again."""
        return {k: v for k, v in self.__dict__.items() if k != "_functions"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._functions = FunctionCache(_CACHE_SIZE)

    def get_config(self) -> dict[str, Any]:
        """The settings, as JSON."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Chain":
        return cls(**config)

    @tf.autograph.experimental.do_not_convert
    def _compiled(
        self, loop: Callable, energy_fn: EnergyFn, arguments: tuple, static: tuple
    ) -> tf.types.experimental.PolymorphicFunction:
        """`loop(energy_fn, *static, ...)`, compiled for the kind of `arguments` of the energy."""
        check_energy_fn(energy_fn)
        key = (static, repr(self.get_config()), _kinds(arguments), compilation.situation())

        def make(energy_fn: EnergyFn) -> tf.types.experimental.PolymorphicFunction:
            def compiled(position: Latents, *context: Tensor) -> tuple:
                return energy_and_grads(energy_fn, position, context)

            jit = compilation.resolve_jit_compile(self.jit_compile, energy_fn, arguments, compiled)
            return _graph_of(functools.partial(loop, energy_fn, *static), jit)

        return self._functions.get(energy_fn, key, make)

    @tf.autograph.experimental.do_not_convert
    def plain_graph(
        self, loop: Callable, energy_fn: EnergyFn, arguments: tuple, static: tuple
    ) -> tf.types.experimental.PolymorphicFunction:
        """`loop(self, energy_fn, *static, ...)` as a graph without XLA, cached with the chains.

        For computations about the chain that are handed their step sizes: changing those of
        the settings makes no new function.
        """
        settings = {k: v for k, v in self.get_config().items() if k != "step_size"}
        key = (loop, static, repr(settings), _kinds(arguments))

        def make(energy_fn: EnergyFn) -> tf.types.experimental.PolymorphicFunction:
            bound = functools.partial(loop, self, energy_fn, *static)
            return _graph_of(bound, jit_compile=False)

        return self._functions.get(energy_fn, key, make)


def _kinds(arguments: tuple) -> str:
    """What a function may depend on; only the batch size differs within one."""
    return repr([(x.dtype, tuple(x.shape[1:])) for x in tf.nest.flatten(arguments)])


def _graph_of(function: Callable, jit_compile: bool) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(function, jit_compile=jit_compile, reduce_retracing=True, autograph=False)


def whole_number(name: str, value: Any, least: int = 0) -> int:
    """`value` as an int of at least `least`, or a sentence."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise InvalidInputError(
            f"`{name}` must be a whole number of at least {least}. Received {value!r}."
        )
    return int(value)


def to_tensors(*structures: Any) -> list:
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


def num_rows(position: Latents) -> Tensor:
    """B, of a tensor or a tuple of them."""
    return tf.shape(tf.nest.flatten(position)[0])[0]


def drawn_noise(parts: Sequence[Tensor], seeds: Tensor) -> Callable[[Tensor, int], Tensor]:
    """Standard normal noise as a function of (step, part), in the shape of the part."""
    # A single part uses the row's own stream, further parts children of it.
    streams = [seeds if i == 0 else random.fold_in(seeds, i) for i in range(len(parts))]

    def draw(k: Tensor, i: int) -> Tensor:
        flat = random.row_normal(streams[i], k, math.prod(parts[i].shape[1:]))
        return tf.cast(tf.reshape(flat, tf.shape(parts[i])), parts[i].dtype)

    return draw


def check_energy_fn(energy_fn: Any) -> None:
    """Raises `InvalidInputError` unless it can be called."""
    if not callable(energy_fn) or isinstance(energy_fn, type):
        raise InvalidInputError(
            "`energy_fn` must be a function of positions to energies `[B]`. Received "
            f"{received(energy_fn)}. Give a function, a "
            "method such as `model.prior_energy`, or a Keras layer."
        )


def row_energy(energy_fn: EnergyFn, latents: Latents, context: tuple) -> Tensor:
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


def energy_and_grads(energy_fn: EnergyFn, latents: Latents, context: tuple) -> tuple:
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
    flat = [tf.reshape(tf.cast(p, tf.float32), [-1, math.prod(p.shape[1:])]) for p in parts]
    return tf.norm(tf.concat(flat, axis=1), axis=1)


def schedule(name: str, value: Any, num_steps: int, max_rank: int) -> Any:
    """`value` as a float or nested list of floats (JSON's types), checked."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.asarray(np.nan)  # text, or rows of several lengths
    if array.ndim > max_rank or not np.all(np.isfinite(array)) or np.any(array < 0):
        raise InvalidInputError(
            f"`{name}` must hold finite numbers of at least 0, at most {max_rank} axes. "
            f"Received {value!r}."
        )
    if array.ndim and array.shape[0] != num_steps and not (array.ndim == 2 and len(array) == 1):
        raise InvalidInputError(
            f"`{name}` must be one number or one per step. Received {array.shape[0]} of them "
            f"for {num_steps} steps."
        )
    return array.tolist()

"""Arrays in, arrays out: graph functions of rows, run in batches, with one trace per question."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.models import latents
from tfebm.models.parts import Parts, settings_of
from tfebm.samplers import compilation
from tfebm.types import Latents, Seed, Tensor


class Rows:
    """Runs a model's functions of rows, each a method by its name, on a user's arrays.

    Args:
        model: Whose they are.
    """

    def __init__(self, model: Parts) -> None:
        self._model = model
        self._functions: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def on_examples(
        self,
        method: str,
        x: Any,
        *,
        seed: Seed,
        batch_size: int,
        num_chains: int | None = None,
        **static: Any,
    ) -> Any:
        """`model.<method>(x, seeds, **static)` for a user's examples; arrays."""
        check_eager(method)
        examples = self._model.examples
        x, seed = examples.tensor(x), random.single_seed(seed)
        if not isinstance(seed, int):
            seed = random.as_row_seeds(seed, len(x))
        if num_chains is not None:
            checks.check_count("num_chains", num_chains)
            static["num_chains"] = int(num_chains)
        order = examples.order(x)
        if order is None or not len(x):
            return self.in_batches(method, [x], batch_size=batch_size, seed=seed, **static)
        if not isinstance(seed, int):
            seed = tf.gather(seed, order)
        x = tf.gather(x, order)
        found = self.in_batches(method, [x], batch_size=batch_size, seed=seed, **static)
        back = np.argsort(order)
        return tf.nest.map_structure(lambda array: array[back], found)

    def in_batches(
        self,
        method: str,
        arrays: list[Latents],
        *,
        batch_size: int,
        seed: Seed | None = None,
        **static: Any,
    ) -> Any:
        """`model.<method>` over slices of `arrays`; with `seed`, those are examples."""
        checks.check_count("batch_size", batch_size)
        mapped = tf.nest.map_structure
        num_rows = len(tf.nest.flatten(arrays)[0])
        if not num_rows:
            # oneDNN's convolutions return wrong shapes for empty batches.
            row = mapped(lambda array: tf.zeros([1, *array.shape[1:]], array.dtype), arrays)
            one = None if seed is None else 0
            answer = self.in_batches(method, row, batch_size=batch_size, seed=one, **static)
            return mapped(lambda array: array[:0], answer)
        pieces = []
        for start in range(0, num_rows, batch_size):
            part = slice(start, start + batch_size)
            batch = mapped(lambda array, part=part: array[part], arrays)
            if seed is not None:
                batch[0] = self._model.examples.trim(batch[0])
                row_seed = seed if isinstance(seed, (int, np.integer)) else seed[part]
                batch.append(random.content_seeds(row_seed, batch[0]))
            function = self._function(method, static, batch)
            pieces.append(mapped(to_numpy, function(*batch)))
        return mapped(lambda *parts: np.concatenate(parts), *pieces)

    def _function(
        self, method: str, static: dict[str, Any], batch: list[Latents]
    ) -> Callable[..., Any]:
        # A sampler or likelihood that is replaced or changed must not be answered for by the old
        # trace.
        model = self._model
        key = (method, tuple(static.items()), settings_of(model), compilation.situation())
        if key not in self._functions:
            # Any number of rows is one trace.
            signature = tf.nest.map_structure(
                lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), batch
            )
            if len(batch) == 2:  # examples, whose length may differ, and streams
                signature[0] = model.examples.spec
            self._functions[key] = tf.function(
                functools.partial(getattr(model, method), **static),
                input_signature=signature,
                autograph=False,
            )
        return self._functions[key]


def repeated(x: Tensor, seeds: Tensor, num_chains: int) -> tuple[Tensor, Tensor]:
    """Every row `num_chains` times in a row, each copy with a stream of its own."""
    if num_chains == 1:
        return x, seeds
    chain = tf.tile(tf.range(num_chains, dtype=tf.int32), [tf.shape(x)[0]])
    seeds = random.fold_in(tf.repeat(seeds, num_chains, axis=0), chain)
    return tf.repeat(x, num_chains, axis=0), seeds


def mean_of_draws(
    sample: Callable[..., Latents],
    x: Tensor,
    seeds: Tensor,
    num_chains: int,
    compiled: bool = True,
) -> Tensor:
    """Means of `num_chains` draws of the latents of each row, all layers side by side: `[B, d]`.

    Args:
        sample: `(x, seeds, compiled)` to latents.
        x: Examples.
        seeds: int32 `[B, 2]`.
        num_chains: Draws of each row.
        compiled: False takes one draw after the other, with the memory of a single chain.
    """
    if compiled or num_chains == 1:
        z = latents.join(sample(*repeated(x, seeds, num_chains), compiled))
        return tf.reduce_mean(tf.reshape(z, [-1, num_chains, z.shape[-1]]), axis=1)

    def draw(chain: Tensor) -> Tensor:
        return latents.join(sample(x, random.fold_in(seeds, chain), compiled))

    total = draw(tf.constant(0))
    _, total = tf.while_loop(
        lambda chain, _: chain < num_chains,
        lambda chain, total: (chain + 1, total + draw(chain)),
        (tf.constant(1), total),
        parallel_iterations=1,
    )
    return total / num_chains


def check_eager(rows: str = "") -> None:
    """Raises `InvalidInputError` in a graph, where nothing can answer with arrays.

    Args:
        rows: The method that does the same there, if there is one.
    """
    if tf.inside_function():
        instead = (
            f", or use `{rows}` inside: the same as operations of the graph, with a stream per "
            "row, `tfebm.random.as_row_seeds(seed, num_rows)`"
        )
        raise InvalidInputError(
            "This method answers with arrays or numbers, and was called inside of a `tf.function`. "
            f"Call it outside{instead if rows else ''}."
        )


def to_numpy(array: tf.Tensor | np.ndarray) -> np.ndarray:
    """An array; TensorFlow's strings as Python's."""
    array = np.asarray(array)
    if array.dtype != object:
        return array
    return np.array([row.decode() for row in array.ravel()], dtype=object).reshape(array.shape)

"""Batches of sentences of like length, in an order that a resumed run can take up again."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfebm import checks
from tfebm.data.pipeline import steps_per_epoch
from tfebm.errors import InvalidInputError
from tfebm.tokenizers import PAD
from tfebm.types import Array, Tensor


def lengths(x: Array) -> Array:
    """Tokens of each sentence of ids `[N, L]`, the end included and padding not: int64 `[N]`."""
    real = np.asarray(x) != PAD
    places = np.arange(1, real.shape[1] + 1)
    return (real * places).max(axis=1, initial=0)


def trim(x: Array) -> Array:
    """Ids `[N, L]` without the columns behind the longest sentence."""
    return x[:, : lengths(x).max(initial=0)]


def sentence_batches(
    x: Array, *, seed: int, batch_size: int, first_step: int = 0
) -> tf.data.Dataset:
    """Endless shuffled batches of sentences of like length, int32 `[B, T]`.

    An epoch sorts the sentences by length, those of one length in random order, cuts them into
    batches, trims each to its longest sentence, and shuffles the batches. All of it is drawn
    from (seed, epoch) alone, so that step t of a run sees the same batch whether the run was
    interrupted before it or not. Use it with
    `fit(..., steps_per_epoch=steps_per_epoch(len(x), batch_size))`.

    Args:
        x: Ids `[N, L]`, padded with 0, kept in memory once.
        seed: Of the order.
        batch_size: Of the global batch; the batch of the longest sentences may be smaller.
        first_step: Steps to skip, counted from the start of training.

    Raises:
        InvalidInputError: `x` holds no sentences or no ids, or counts below 1.
    """
    checks.check_count("first_step", first_step, 0)
    sizes, to_batch = _prepared(x, batch_size)
    num, per_epoch = len(sizes), steps_per_epoch(len(sizes), batch_size)

    def epoch(number: Tensor) -> tf.data.Dataset:
        def shuffled(values: Tensor, stream: int) -> Tensor:
            key = [tf.constant(seed, tf.int64), 2 * number + stream]
            return tf.random.experimental.stateless_shuffle(values, seed=key)

        rows = shuffled(tf.range(num, dtype=tf.int64), 0)
        rows = tf.gather(rows, tf.argsort(tf.gather(sizes, rows), stable=True))
        firsts = shuffled(tf.range(0, num, batch_size), 1)
        return tf.data.Dataset.from_tensor_slices(firsts).map(
            lambda first: rows[first : first + batch_size]
        )

    epochs = tf.data.Dataset.range(first_step // per_epoch, tf.int64.max).flat_map(epoch)
    return (
        epochs.skip(first_step % per_epoch)
        .map(to_batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_batches(x: Array, *, batch_size: int) -> tf.data.Dataset:
    """Every sentence once, the shortest first, int32 `[B, T]`, each batch trimmed.

    The rows are in the order of `np.argsort(lengths(x), kind="stable")`.

    Args:
        x: Ids `[N, L]`, padded with 0.
        batch_size: The last batch may be smaller.

    Raises:
        InvalidInputError: `x` holds no sentences or no ids, or `batch_size` is below 1.
    """
    sizes, to_batch = _prepared(x, batch_size)
    rows = np.argsort(sizes, kind="stable")
    return (
        tf.data.Dataset.from_tensor_slices(rows)
        .batch(batch_size)
        .map(to_batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _prepared(x: Array, batch_size: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Lengths `[N]`, and a function of rows to their ids."""
    checks.check_count("batch_size", batch_size)
    x = np.asarray(x)
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.integer):
        raise InvalidInputError(
            f"Sentences must be integer ids of shape [N, L], padded with 0. Received {x.dtype} of "
            f"shape {list(x.shape)}. Use `tokenizer.tokenize`, or the arrays of `load_text`."
        )
    if not len(x):
        raise InvalidInputError("There are no sentences to batch. At least one is needed.")
    with tf.device("CPU"):
        ids = tf.constant(x, tf.int32)
        sizes = tf.constant(lengths(x))

    def to_batch(rows: Tensor) -> Tensor:
        return tf.gather(ids, rows)[:, : tf.reduce_max(tf.gather(sizes, rows))]

    return sizes, to_batch

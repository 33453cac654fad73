"""Images from memory to training batches, in an order that a resumed run can take up again."""

import numpy as np
import tensorflow as tf

from tfebm.types import Tensor


def to_float(images: np.ndarray | Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]; floats pass as float32."""
    images = tf.convert_to_tensor(images)
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) / 127.5 - 1.0
    return tf.cast(images, tf.float32)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Batches of an epoch; the last one may be smaller."""
    return -(-num_examples // batch_size)


def training_batches(
    images: np.ndarray, batch_size: int, seed: int, first_step: int = 0
) -> tf.data.Dataset:
    """Endless shuffled batches, float32 in [-1, 1].

    Each epoch is a permutation drawn from (seed, epoch) alone, so that step t of a run sees
    the same examples whether the run was interrupted before it or not. Use it with
    `fit(..., steps_per_epoch=steps_per_epoch(len(images), batch_size))`.

    Args:
        images: `[N, ...]`, uint8 or float32, kept in memory once.
        batch_size: Of the global batch.
        seed: Of the order.
        first_step: Steps to skip, counted from the start of training.
    """
    per_epoch = steps_per_epoch(len(images), batch_size)
    with tf.device("CPU"):
        images = tf.constant(images)

    def epoch(number: Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(images), dtype=tf.int64), seed=[tf.constant(seed, tf.int64), number]
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    epochs = tf.data.Dataset.range(first_step // per_epoch, tf.int64.max).flat_map(epoch)
    return (
        epochs.skip(first_step % per_epoch)
        .map(lambda rows: to_float(tf.gather(images, rows)), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )

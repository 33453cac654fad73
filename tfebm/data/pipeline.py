"""Images from memory to training batches, in an order that a resumed run can take up again."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfebm import checks
from tfebm.data.images import ImageData
from tfebm.errors import InvalidInputError
from tfebm.types import Array, Tensor


def to_float(images: Array | Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]; floats pass as float32."""
    images = tf.convert_to_tensor(images)
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) / 127.5 - 1.0
    return tf.cast(images, tf.float32)


def validation_split(data: ImageData, *, num_examples: int, seed: int = 0) -> ImageData:
    """Puts some of the training images in the place of the test images.

    For choices: settings that are compared on images of the training set have not seen the test
    images, which are in neither part of what is returned.

    The draw is a permutation of all training images by the seed, whatever their labels are: records
    of earlier comparisons stand on it.

    Args:
        data: Images; `x_test` and `y_test` are left out.
        num_examples: How many are drawn, without regard to their labels.
        seed: Of the draw. With one seed the parts are the same for every run.

    Returns:
        `ImageData` whose `x_test` are `num_examples` training images of `data`, and whose `x_train`
        are the others, in their order.

    Raises:
        InvalidInputError: A number that leaves nothing to learn from.

    Example:

        >>> digits = validation_split(load_images("mnist5k"), num_examples=500)
        >>> len(digits.x_train), len(digits.x_test)
        (4000, 500)
    """
    checks.check_count("num_examples", num_examples)
    checks.check_count("seed", seed, least=0)
    number = len(data.x_train)
    if num_examples >= number:
        raise InvalidInputError(
            f"Validation must leave images to learn from. Received {num_examples} of the {number} "
            f"training images of {data.name}."
        )
    order = np.random.default_rng(seed).permutation(number)
    kept_back, learned = np.sort(order[:num_examples]), np.sort(order[num_examples:])
    x, y = data.x_train, data.y_train
    left_out = f"the {len(data.x_test)} images {data.purpose} left out"
    return dataclasses.replace(
        data,
        purpose="to validate with",
        notes=(left_out, *data.notes) if len(data.x_test) else data.notes,
        x_train=x[learned],
        x_test=x[kept_back],
        y_train=None if y is None else y[learned],
        y_test=None if y is None else y[kept_back],
    )


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Batches of an epoch; the last one may be smaller."""
    return -(-num_examples // batch_size)


def training_batches(
    images: Array, *, seed: int, batch_size: int, first_step: int = 0
) -> tf.data.Dataset:
    """Endless shuffled batches, float32 in [-1, 1].

    Each epoch is a permutation drawn from (seed, epoch) alone, so that step t of a run sees
    the same examples whether the run was interrupted before it or not. Use it with
    `fit(..., steps_per_epoch=steps_per_epoch(len(images), batch_size))`.

    Args:
        images: `[N, ...]`, uint8 or float32, kept in memory once.
        seed: Of the order.
        batch_size: Of the global batch.
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

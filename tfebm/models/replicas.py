"""What a training step does about the rows of other replicas, and about having none itself."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.models import workers
from tfebm.types import Tensor


def add_step(model: keras.Model) -> keras.Variable:
    """The training step that keys the noise, as a weight of `model`.

    An optimizer's `iterations` would stand still for a frozen network and start again at every
    `compile`; this is saved and restored with the weights.
    """
    return model.add_weight(
        name="step",
        shape=(),
        dtype="int64",
        initializer="zeros",
        trainable=False,
        aggregation="only_first_replica",
    )


def global_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over the replicas in sync; itself outside a strategy."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def examples(data: Any, dtype: tf.DType = tf.float32) -> Tensor:
    """x of a batch x, (x,) or (x, y); a third entry would be weights, which are refused."""
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, tf.Tensor):
        raise InvalidInputError(
            f"A batch must be one tensor of examples, or (x, y). Received {type(x).__name__}."
        )
    if sample_weight is not None:
        raise InvalidInputError(
            "Sample weights are not supported: the likelihood counts every example the same. "
            "Received batches of (x, y, sample_weight). Drop the third entry."
        )
    return tf.cast(x, dtype)


def fill_empty(x: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One row of zeros and of weight 0 where a replica has none, weights of 1 elsewhere.

    The end of an epoch can leave a replica without rows, and oneDNN's convolutions return
    wrong shapes for empty batches.
    """
    rows = tf.shape(x)[0]
    missing = tf.cast(tf.equal(rows, 0), tf.int32)
    x, seeds = (
        tf.pad(tensor, [[0, missing], *[[0, 0]] * (tensor.shape.rank - 1)]) for tensor in (x, seeds)
    )
    return x, seeds, tf.cast(tf.range(rows + missing) < rows, tf.float32)


def update(
    trackers: Mapping[str, keras.metrics.Mean], values: Mapping[str, Tensor], weights: Tensor
) -> dict[str, Tensor]:
    """Adds per-row `values` `[B]` to their trackers, a row of weight 0 not at all."""
    rows = tf.reduce_sum(weights)
    for name, of_rows in values.items():
        mean = tf.math.divide_no_nan(tf.reduce_sum(weights * of_rows), rows)
        trackers[name].update_state(mean, sample_weight=rows)
    logs = {name: trackers[name].result() for name in values}
    if workers.count(tf.distribute.get_strategy()) > 1:
        # Keras averages the logs of workers along their first axis, which a scalar lacks.
        logs = {name: tf.reshape(value, [1]) for name, value in logs.items()}
    return logs

"""What a training step does about the rows of other replicas, and about having none itself."""

from collections.abc import Mapping

import keras
import tensorflow as tf

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


def global_max(value: Tensor) -> Tensor:
    """The largest of a scalar over the replicas in sync; itself outside a strategy."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    number = context.num_replicas_in_sync
    # Only sums are common to all strategies. A product with 0 would spread infinities.
    mine = tf.equal(tf.range(number), context.replica_id_in_sync_group)
    return tf.reduce_max(global_sum(tf.where(mine, value, tf.zeros([], value.dtype))))


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
    return {name: trackers[name].result() for name in values}


def as_logs(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a step returns of its figures."""
    if workers.count(tf.distribute.get_strategy()) > 1:
        # Keras averages the logs of workers along their first axis, which a scalar lacks.
        return {name: tf.reshape(value, [1]) for name, value in values.items()}
    return dict(values)

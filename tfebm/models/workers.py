"""Workers on several machines: how they share a batch, and how they come to agree.

A function that is said to speak with the other workers waits for them: all of them must call it,
in the same order. With one worker, mirrored or not, there is nobody to speak with.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.types import Tensor


def count(strategy: tf.distribute.Strategy) -> int:
    """How many workers train together under a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    cluster = strategy.cluster_resolver.cluster_spec().as_dict()
    return max(1, len(cluster.get("chief", ())) + len(cluster.get("worker", ())))


def place(strategy: tf.distribute.Strategy) -> int:
    """This worker's place among them, the chief's being 0."""
    if count(strategy) == 1:
        return 0
    resolver = strategy.cluster_resolver
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return resolver.task_id + (0 if resolver.task_type == "chief" else chiefs)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this worker writes what the job leaves behind."""
    return place(strategy) == 0


def share_batches(
    batches: Any, steps: int | None, strategy: tf.distribute.Strategy
) -> tuple[tf.distribute.DistributedDataset, int]:
    """This worker's rows of every global batch, in the order of the replicas.

    TensorFlow's own way reads whole batches per worker, or cuts a batch that does not divide
    evenly in another place on each of them. Here every worker reads the same batches and keeps its
    own rows, so that a row has the noise that it has on one device.

    Args:
        batches: A `tf.data.Dataset` of global batches, in the same order on all workers.
        steps: Batches of an epoch, where they are known.
        strategy: Of several workers.

    Returns:
        What `fit` and `evaluate` take, and the steps of an epoch.

    Raises:
        InvalidInputError: What is not a data set, or one whose number of batches nobody knows.
    """
    if not isinstance(batches, tf.data.Dataset):
        raise InvalidInputError(
            "Several workers need a `tf.data.Dataset` of global batches in an order that all of "
            f"them share, such as `tfebm.data.training_batches`. Received {type(batches).__name__}."
        )
    known = int(batches.cardinality())
    if known >= 0:
        batches, steps = batches.repeat(), known if steps is None else steps
    if steps is None:
        raise InvalidInputError(
            "Several workers must know together when an epoch ends. Received a data set whose "
            "number of batches is not known. Give `steps_per_epoch` (of `evaluate`: `steps`)."
        )

    def rows_of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        replicas = context.num_replicas_in_sync
        local = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def part(batch: tuple[Any, ...], replica: tf.Tensor) -> Any:
            rows = tf.shape(tf.nest.flatten(batch)[0], out_type=tf.int64)[0]
            start, stop = rows * replica // replicas, rows * (replica + 1) // replicas
            parts = tf.nest.map_structure(lambda values: values[start:stop], batch)
            return parts if len(parts) > 1 else parts[0]

        def parts(*batch: Any) -> tf.data.Dataset:
            numbers = tf.data.Dataset.range(first, first + local)
            return numbers.map(lambda replica: part(batch, replica))

        # Endless, and known to be: at an end TensorFlow would ask all workers at every step, and
        # has been seen to count a step that had no batch.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return batches.flat_map(parts).apply(endless).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(rows_of_worker), steps


def without_strategy(model: keras.Model) -> keras.Model:
    """A compiled copy of a model, with its optimizers' state, that needs no other worker."""
    copy = type(model).from_config(model.get_config())
    copy.compile_from_config(model.get_compile_config())
    pairs = [(copy.weights, model.weights)]
    pairs += [(getattr(copy, n).variables, getattr(model, n).variables) for n in model.optimized]
    for ours, theirs in pairs:
        for variable, value in zip(ours, theirs, strict=True):
            variable.assign(value.numpy())
    return copy


# ---- Speaking with the other workers --------------------------------------------------------


def wait(strategy: tf.distribute.Strategy) -> None:
    """Returns when all workers have called it."""
    if count(strategy) > 1:
        _sum([np.zeros(1, "int32")], strategy)


def from_chief(arrays: Sequence[np.ndarray], strategy: tf.distribute.Strategy) -> list[np.ndarray]:
    """The chief's arrays, on all workers; theirs have the same shapes."""
    if count(strategy) == 1:
        return list(arrays)
    mine = arrays if is_chief(strategy) else [np.zeros_like(array) for array in arrays]
    return _sum(mine, strategy)


def copy_from_chief(model: Any) -> None:
    """Gives a model the chief's weights on every worker.

    What a worker computes from data by itself, such as a flow's normalisation, may differ in the
    last bit on another machine, and nothing in training would bring the copies together again.
    """
    strategy = model.distribute_strategy
    if count(strategy) > 1:
        values = from_chief([weight.numpy() for weight in model.weights], strategy)
        for weight, value in zip(model.weights, values, strict=True):
            weight.assign(value)


def lists(numbers: Sequence[int], strategy: tf.distribute.Strategy) -> list[list[int]]:
    """The whole numbers that each worker gave, on all workers, in their places."""
    if count(strategy) == 1:
        return [list(numbers)]
    lengths = np.zeros(count(strategy), "int64")
    lengths[place(strategy)] = len(numbers)
    lengths = _sum([lengths], strategy)[0]
    table = np.zeros((len(lengths), max(1, lengths.max())), "int64")
    table[place(strategy), : len(numbers)] = numbers
    table = _sum([table], strategy)[0]
    return [row[:length].tolist() for row, length in zip(table, lengths, strict=True)]


def texts(text: str, strategy: tf.distribute.Strategy) -> list[str]:
    """The text that each worker gave, on all workers, in their places."""
    return [bytes(codes).decode() for codes in lists(list(text.encode()), strategy)]


def _sum(arrays: Sequence[np.ndarray], strategy: tf.distribute.Strategy) -> list[np.ndarray]:
    """Sums over the workers, whatever their number of replicas."""
    # All of a type at once: many small sums take long, and an empty one crashes the process.
    sums: list[Any] = [None] * len(arrays)
    for dtype in sorted({array.dtype.str for array in arrays}):
        places = [i for i, array in enumerate(arrays) if array.dtype.str == dtype]
        joined = _sum_vector(np.concatenate([arrays[i].ravel() for i in places]), strategy)
        ends = np.cumsum([arrays[i].size for i in places])
        for i, part in zip(places, np.split(joined, ends[:-1]), strict=True):
            sums[i] = part.reshape(arrays[i].shape)
    return sums


def _sum_vector(vector: np.ndarray, strategy: tf.distribute.Strategy) -> np.ndarray:
    if not vector.size:
        return vector
    local = strategy.num_replicas_in_sync // count(strategy)

    def share(values: Tensor) -> Tensor:
        context = tf.distribute.get_replica_context()
        counts = tf.equal(context.replica_id_in_sync_group % local, 0)
        mine = tf.where(counts, values, tf.zeros_like(values))
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    @tf.function(autograph=False)
    def total(values: Tensor) -> Any:
        return strategy.run(share, args=(values,))

    # Concrete: TensorFlow warns of functions that are traced time and again.
    sums = total.get_concrete_function(tf.TensorSpec(vector.shape, vector.dtype))
    return strategy.experimental_local_results(sums(tf.constant(vector)))[0].numpy()

"""What a batch must be, wherever it comes from.

What is in a graph says its type while a step is traced. What Python makes batch by batch is checked
as it comes, in the thread that makes it; of a data set the first batch shows its values.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks
from tfebm.errors import InvalidInputError, received
from tfebm.types import Tensor

_KINDS = (
    "an array, a `tf.data.Dataset` of batches, a `keras.utils.PyDataset` or a Python generator "
    "of batches"
)


def unpack(data: Any) -> Any:
    """x of a batch x, (x,) or (x, y); a third entry would be weights, which are refused."""
    if isinstance(data, (tuple, list)) and len(data) not in (1, 2, 3):
        raise InvalidInputError(
            f"Batches must be one tensor of examples, or (x, y). Received {received(data)}. Yield "
            "x alone, as an array."
        )
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if sample_weight is not None:
        raise InvalidInputError(
            "Sample weights are not supported: the likelihood counts every example the same. "
            "Received batches of (x, y, sample_weight). Drop the third entry."
        )
    return x


def floats(x: Any, shape: tuple[int, ...]) -> Tensor:
    """A batch of examples as float32 `[B, *shape]`, also where its shape was not known.

    Raises:
        InvalidInputError: What is not one tensor of floats that may have this shape.
    """
    x = _tensor(x)
    checks.check_batch(x.dtype, x.shape, shape)
    return tf.cast(tf.ensure_shape(x, [None, *shape]), tf.float32)


def ids(x: Any) -> Tensor:
    """A batch of sentences as int32 `[B, T]`, also where its rank was not known.

    Raises:
        InvalidInputError: What is not one tensor of integers that may have rank 2.
    """
    x = _tensor(x)
    checks.check_token_batch(x.dtype, x.shape)
    return tf.cast(tf.ensure_shape(x, [None, None]), tf.int32)


Rows = tuple[Any, ...] | list[Any]
"""A batch as Keras takes it."""


class Reading:
    """What Keras reads in the place of `source`.

    A Python generator of bare batches becomes one of tuples, which Keras needs, and so does any
    other iterator. Batches that Python makes are checked one by one: Keras would cast them to the
    type of the first.

    Args:
        source: What `plain` returns.
        check: Called with x of such batches, and with that of a data set's first batch.
        look: Whether to read a data set's first batch.

    Raises:
        InvalidInputError: No batches, or what no batches can be read from.
    """

    def __init__(self, source: Any, check: Callable[[Any], Any], look: bool = True) -> None:
        self.source, self.first = source, None
        """What Keras is given, and x of a data set's first batch."""
        self._check = check
        self._fault: InvalidInputError | None = None
        if isinstance(source, keras.utils.PyDataset):
            self.first = check(first(source))
            # Another process can neither use TensorFlow nor say here what it found.
            if not source.use_multiprocessing:
                self.source = _Checked(source, self._checked)
        elif isinstance(source, tf.data.Dataset):
            self.first = check(first(source)) if look else None
        elif isinstance(source, Iterator):
            self.source = self._tuples(source)
        elif not is_array(source) and not _is_of_batches(source):
            raise InvalidInputError(f"Data must be {_KINDS}. Received {received(source)}.")

    def _tuples(self, source: Iterator[Any]) -> Iterator[Rows]:
        empty = True
        for batch in source:
            empty = False
            yield self._checked(batch)
        if empty:
            self._fault = InvalidInputError(
                "The generator yields no batches. At least one is needed. If it was read before, "
                "make it again."
            )
            raise self._fault

    def _checked(self, batch: Any) -> Rows:
        try:
            self._check(unpack(batch))
        except InvalidInputError as error:
            self._fault = error  # TensorFlow, which reads in threads, raises an error of its own
            raise
        return batch if isinstance(batch, (tuple, list)) else (batch,)

    @contextlib.contextmanager
    def said(self, vocabulary_size: int | None = None) -> Iterator[None]:
        """Turns TensorFlow's errors about what shows only as a batch is read into sentences."""
        try:
            yield
        except tf.errors.OpError as error:
            if self._fault is not None:
                raise self._fault from None
            sentence = _in_words(str(error), vocabulary_size)
            if sentence is None:
                raise
            raise InvalidInputError(sentence) from None


def _in_words(error: str, vocabulary_size: int | None) -> str | None:
    shape = re.search(
        r"Shape of tensor .*?(\[.*?\]) is not compatible with expected shape (\[.*?\])", error
    )
    if shape:
        came, needed = shape.groups()
        return (
            f"A batch must have shape {needed.replace('?', 'B')}. Received one of shape "
            f"{came}. Reshape what the data set yields."
        )
    lookup = re.search(r"indices\S* = (-?\d+) is not in \[0, (\d+)\)", error)
    if lookup and int(lookup[2]) == vocabulary_size:
        return checks.of_ids(vocabulary_size, f"a batch with the id {lookup[1]}")
    missing = re.findall(r"No registered '(\w+)' OpKernel for XLA", error)
    if missing:
        return (
            "`compile(jit_compile=True)` asks XLA for the whole step, and XLA has no operation "
            f"{', '.join(dict.fromkeys(missing))}. Leave it out: what XLA can compile of the "
            "chains is compiled all the same."
        )
    return None


class _Checked(keras.utils.PyDataset):
    """A `PyDataset` with a look at every batch."""

    def __init__(self, inner: keras.utils.PyDataset, check: Callable[[Any], Any]) -> None:
        super().__init__(inner.workers, False, inner.max_queue_size)
        self._inner, self._look = inner, check

    def __len__(self) -> int:
        return len(self._inner)

    @property
    def num_batches(self) -> int | None:
        return self._inner.num_batches

    def __getitem__(self, index: int) -> Rows:
        return self._look(self._inner[index])

    def on_epoch_begin(self) -> None:
        self._inner.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._inner.on_epoch_end()


def first(x: Any) -> Any:
    """x of the first batch of a data set or a `PyDataset`; None of all else.

    Raises:
        InvalidInputError: There is none.
    """
    if isinstance(x, keras.utils.PyDataset):
        if x.num_batches == 0:
            raise InvalidInputError("The `PyDataset` holds no batches. At least one is needed.")
        return unpack(x[0])
    if not isinstance(x, tf.data.Dataset):
        return None
    batch = next(iter(x), None)
    if batch is None:
        raise InvalidInputError("The data set holds no batches. At least one is needed.")
    return unpack(batch)


def plain(x: Any, method: str) -> Any:
    """What `method` takes, a table of pandas as its array.

    Raises:
        InvalidInputError: Nothing, tensors that are not dense, or a data set or a batch whose
            examples have several parts. Of what cannot be known before it is read nothing is said.
    """
    if x is None:
        raise InvalidInputError(f"`{method}` needs data: {_KINDS}. Received None.")
    if isinstance(x, tf.data.Dataset):
        spec = x.element_spec
        _refuse_mapping(spec[0] if isinstance(spec, tuple) and spec else spec, "Elements")
        return x
    if hasattr(x, "to_numpy"):
        x = x.to_numpy()
    _refuse_sparse(x)
    if isinstance(x, (Mapping, tuple)) or (isinstance(x, list) and any(map(is_array, x))):
        _tensor(x)
    return x


def refuse_weights(given: Mapping[str, Any]) -> None:
    """Raises `InvalidInputError` for weights of examples or classes among arguments."""
    for name in ("sample_weight", "class_weight"):
        if given.get(name) is not None:
            raise InvalidInputError(
                f"`{name}` is not supported: the likelihood counts every example the same. "
                f"Received `{name}`. To weigh examples, resample them in the data set."
            )


def is_array(x: Any) -> bool:
    """Whether it has a shape and a type of its own."""
    return hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, tf.data.Dataset)


def _is_of_batches(x: Any) -> bool:
    """Whether Keras knows how to read batches from an object of another library, or of several
    workers."""
    known = "DistributedDataset", "DistributedDatasetsFromFunction", "DataLoader", "MapDataset"
    return any(kind.__name__ in known or "grain" in kind.__module__ for kind in type(x).__mro__)


def _tensor(x: Any) -> Tensor:
    _refuse_mapping(x, "Batches")
    _refuse_sparse(x)
    if is_array(x):
        try:
            x = tf.convert_to_tensor(x)
        except (ValueError, TypeError):
            checks.check_batch(np.dtype(object), tf.TensorShape(None), ())
    if not isinstance(x, tf.Tensor):
        raise InvalidInputError(
            f"A batch must be one tensor of examples, or (x, y). Received {received(x)}. Make it "
            "an array: `np.asarray(batch, 'float32')`, or of ids of tokens `'int32'`."
        )
    return x


def _refuse_sparse(x: Any) -> None:
    """Raises `InvalidInputError` for tensors that are not dense."""
    if isinstance(x, tf.RaggedTensor):
        kind, remedy = "a tf.RaggedTensor", "`x.to_tensor()`, where all rows have one length"
    elif isinstance(x, tf.SparseTensor):
        kind, remedy = "a tf.SparseTensor", "`tf.sparse.to_dense(x)`"
    elif hasattr(x, "toarray"):
        kind, remedy = "a sparse matrix", "`x.toarray()`"
    else:
        return
    raise InvalidInputError(f"Examples must be dense. Received {kind}. Give {remedy}.")


def _refuse_mapping(x: Any, what: str) -> None:
    if not isinstance(x, Mapping):
        return
    names = [str(name) for name in x]
    likely = [name for name in names if name in ("image", "images", "x", "text", "tokens")]
    name = (likely or names or ["image"])[0]
    raise InvalidInputError(
        f"{what} must be one tensor of examples, or (x, y). Received a dict with the keys "
        f"{', '.join(map(repr, names))}. Take the part that is learned: of a data set by "
        f'`ds.map(lambda d: d["{name}"])`, of one batch by `batch["{name}"]`.'
    )

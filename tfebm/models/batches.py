"""What a batch must be, wherever it comes from: said from its type, while a step is traced."""

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfebm.data import checks
from tfebm.errors import InvalidInputError
from tfebm.types import Tensor


def unpack(data: Any) -> Any:
    """x of a batch x, (x,) or (x, y); a third entry would be weights, which are refused."""
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


@contextlib.contextmanager
def shapes_are_said() -> Iterator[None]:
    """Turns TensorFlow's error about a shape that shows only as a batch is read into a sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(
            r"Shape of tensor .*?(\[.*?\]) is not compatible with expected shape (\[.*?\])",
            str(error),
        )
        if found is None:
            raise
        received, needed = found.groups()
        raise InvalidInputError(
            f"A batch must have shape {needed.replace('?', 'B')}. Received one of shape "
            f"{received}. Reshape what the data set yields."
        ) from None


def first(x: Any) -> Any:
    """x of the first batch of a data set or a `PyDataset`; None of all else.

    Raises:
        InvalidInputError: There is none.
    """
    if isinstance(x, keras.utils.PyDataset):
        return unpack(x[0])
    if not isinstance(x, tf.data.Dataset):
        return None
    batch = next(iter(x), None)
    if batch is None:
        raise InvalidInputError("The data set holds no batches. At least one is needed.")
    return unpack(batch)


def as_tuples(x: Any, check: Callable[[Any], Any] = lambda _: None) -> Any:
    """A Python generator of bare batches as one of tuples, which Keras needs; all else as it is.

    Args:
        x: What `fit` takes.
        check: Called with the first batch that a generator yields.
    """
    if not inspect.isgenerator(x):
        return x

    def tuples() -> Iterator[tuple | list]:
        for number, batch in enumerate(x):
            if not number:
                check(unpack(batch))
            yield batch if isinstance(batch, (tuple, list)) else (batch,)

    return tuples()


def refuse_parts(x: Any) -> None:
    """Raises `InvalidInputError` for a data set, or a batch, whose examples have several parts.

    Args:
        x: What `fit` takes; of what cannot be known before it is read nothing is said.
    """
    if isinstance(x, tf.data.Dataset):
        spec = x.element_spec
        _refuse_mapping(spec[0] if isinstance(spec, tuple) and spec else spec, "Elements")
    elif isinstance(x, (Mapping, tuple)) or (isinstance(x, list) and any(map(_is_array, x))):
        _tensor(x)


def _tensor(x: Any) -> Tensor:
    _refuse_mapping(x, "Batches")
    if _is_array(x):
        x = tf.convert_to_tensor(x)
    if not isinstance(x, tf.Tensor):
        raise InvalidInputError(
            f"A batch must be one tensor of examples, or (x, y). Received {type(x).__name__}."
        )
    return x


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


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, tf.data.Dataset)

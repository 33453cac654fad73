"""What can be learned from: shapes, types and ranges, each refused in a sentence."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfebm.errors import InvalidInputError

_ROWS = 4096  # rows that are checked at a time, so that a large array is not copied whole


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether `value` is a whole number of at least `least`; True and False are not."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and bool(value >= least)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int; raises `InvalidInputError` unless it is whole and at least `least`."""
    if not is_whole(value, least):
        raise InvalidInputError(
            f"`{name}` must be a whole number of at least {least}. Received {value!r}."
        )
    return int(value)


def check_counts(name: str, values: Any, least: int = 1, of: str = "") -> tuple[int, ...]:
    """`values` as a tuple of ints, each checked as `check_count` does.

    `of` says what each of them is for, such as ", one per hidden layer".
    """
    several = isinstance(values, (tuple, list))
    if not several or not all(is_whole(value, least) for value in values):
        shown = tuple(values) if several else repr(values)
        raise InvalidInputError(
            f"`{name}` must be whole numbers of at least {least}{of}. Received {shown}."
        )
    return tuple(int(value) for value in values)


def check_number(
    name: str, value: Any, least: float = 0.0, above: bool = False, most: float = math.inf
) -> float:
    """`value` as a float; raises `InvalidInputError` unless it is finite, at least `least`, or
    above it, and at most `most`."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    fits = real and math.isfinite(value) and (value > least if above else value >= least)
    if not fits or value > most:
        wanted = f"a number of at least {least:g}"
        if above:
            wanted = "a positive number" if least == 0 else f"a number above {least:g}"
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise InvalidInputError(f"`{name}` must be {wanted}{limit}. Received {value!r}.")
    return float(value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises `InvalidInputError` unless `value` is one of `choices`."""
    known = tuple(choices)
    if value not in known:
        listed = [repr(choice) for choice in known]
        wanted = " or ".join(listed) if len(listed) < 3 else f"one of {', '.join(listed)}"
        raise InvalidInputError(f"`{name}` must be {wanted}. Received {value!r}.")


def check_per_step(
    name: str, value: Any, num_steps: int, max_rank: int, below: float = math.inf
) -> Any:
    """`value` as a float or nested list of floats (JSON's types): one number, one for each of
    `num_steps` steps, or for `max_rank` 2 also a table of them; finite, at least 0 and less than
    `below`."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.asarray(np.nan)  # text, or rows of several lengths
    fits = array.ndim <= max_rank and np.all(np.isfinite(array))
    if not fits or np.any((array < 0) | (array >= below)):
        limit = f" and less than {below:g}" if below < math.inf else ""
        raise InvalidInputError(
            f"`{name}` must hold finite numbers of at least 0{limit}, at most {max_rank} axes. "
            f"Received {value!r}."
        )
    if array.ndim and array.shape[0] != num_steps and not (array.ndim == 2 and len(array) == 1):
        raise InvalidInputError(
            f"`{name}` must be one number or one per step. Received {array.shape[0]} of them "
            f"for {num_steps} steps."
        )
    return array.tolist()


def as_examples(x: Any, data_shape: tuple[int, ...]) -> np.ndarray:
    """`x` as float32 `[N, *data_shape]`, for inference.

    NaN and infinite values pass: they spoil the answer of their own row and of no other.
    """
    if isinstance(x, tf.data.Dataset):
        raise InvalidInputError(
            "Examples must be an array here. Received a tf.data.Dataset; call this for each of its "
            "batches, or use `predict` or `evaluate`."
        )
    x = np.asarray(x)
    _check_floats(x.dtype)
    _check_shape(x.shape, data_shape)
    return x.astype(np.float32, copy=False)


def check_training_data(
    x: Any, data_shape: tuple[int, ...], value_range: tuple[float, float] | None = None
) -> None:
    """Raises `InvalidInputError` where `x` cannot be trained on.

    Arrays are checked whole: type, shape, NaN and infinities, and the range that the generator
    can reach. Of a `tf.data.Dataset` the type and shape of its batches are checked; of any
    other iterator nothing is known before it is read. Models show their first batches too.
    """
    if isinstance(x, tf.data.Dataset):
        spec = _spec_of(x, "batches x or (x, y) of tensors")
        check_batch(spec.dtype, spec.shape, data_shape)
        return
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        return
    x = np.asarray(x)
    _check_floats(x.dtype)
    _check_shape(x.shape, data_shape)
    if not len(x):
        raise InvalidInputError("The training data hold no examples. At least one is needed.")
    check_values(x, value_range)


def check_batch(dtype: Any, shape: tf.TensorShape, data_shape: tuple[int, ...]) -> None:
    """Raises `InvalidInputError` where a batch, as far as its type is known, cannot be learned."""
    _check_floats(dtype)
    if shape.rank is not None:
        _check_shape(tuple(shape), data_shape)


def check_token_batch(dtype: Any, shape: tf.TensorShape) -> None:
    """`check_batch` of sentences."""
    _check_token_type(dtype, [None, None] if shape.rank is None else shape)


def check_values(x: np.ndarray, value_range: tuple[float, float] | None) -> None:
    """Raises `InvalidInputError` for NaN, infinities, or values outside `value_range`."""
    for start in range(0, len(x), _ROWS):
        part = x[start : start + _ROWS]
        bad = np.flatnonzero(~np.isfinite(part).all(axis=tuple(range(1, part.ndim))))
        if len(bad):
            raise InvalidInputError(
                f"The data hold NaN or infinite values; the first is in example {start + bad[0]}. "
                "Finite numbers are needed: drop or repair such examples."
            )
        if value_range is None:
            continue
        low, high = float(part.min()), float(part.max())
        # A little room for resizing filters and for the rounding of 16-bit files.
        if low < value_range[0] - 0.01 or high > value_range[1] + 0.01:
            raise InvalidInputError(
                f"Values must lie within [{value_range[0]:g}, {value_range[1]:g}]. Received "
                f"values from {low:g} to {high:g}. For 8-bit images use `x / 127.5 - 1`."
            )


def as_labels(labels: Any, number: int, where: str) -> np.ndarray:
    """Labels of images, `[number]` or, as Keras' sets have them, `[number, 1]`, as `[number]`;
    raises `InvalidInputError` for others, in a sentence that begins with `where`."""
    labels = np.asarray(labels)
    if labels.shape not in ((number,), (number, 1)):
        raise InvalidInputError(
            f"{where} there must be one label for each image. Received shape {list(labels.shape)} "
            f"for {number} images."
        )
    return labels.reshape(number)


def as_tokens(x: Any, vocabulary_size: int) -> np.ndarray:
    """`x` as int32 `[N, T]`, ids of tokens for inference.

    Raises:
        InvalidInputError: No integers of rank 2, or ids outside the vocabulary.
    """
    if isinstance(x, tf.data.Dataset):
        raise InvalidInputError(
            "Sentences must be strings or an array of ids here. Received a tf.data.Dataset; call "
            "this for each of its batches, or use `predict` or `evaluate`."
        )
    try:
        x = np.asarray(x)
    except ValueError:  # rows of several lengths
        x = np.asarray(x, dtype=object)
    _check_token_type(x.dtype, x.shape)
    _check_ids(x, vocabulary_size)
    return x.astype(np.int32, copy=False)


def check_token_data(x: Any, vocabulary_size: int) -> None:
    """Raises `InvalidInputError` where `x` cannot be learned as sentences.

    Arrays are checked whole: type, shape, ids, rows without a token. Of a `tf.data.Dataset` the
    type and shape of its batches are checked.
    """
    if isinstance(x, tf.data.Dataset):
        spec = _spec_of(x, "batches of ids")
        check_token_batch(spec.dtype, spec.shape)
        return
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        if isinstance(x, (str, list, tuple)):
            _check_token_type(np.dtype(object), (len(x),))
        return
    x = np.asarray(x)
    _check_token_type(x.dtype, x.shape)
    if not len(x):
        raise InvalidInputError("The training data hold no sentences. At least one is needed.")
    _check_ids(x, vocabulary_size)
    empty = np.flatnonzero(~(x != 0).any(axis=1))
    if len(empty):
        raise InvalidInputError(
            f"Sentence {empty[0]} holds padding alone. Every sentence needs its end token at "
            "least: make ids with the tokenizer, or drop such rows."
        )


def of_ids(vocabulary_size: int, received: str) -> str:
    """What is said of ids outside of a vocabulary."""
    return (
        f"Ids must lie within [0, {vocabulary_size - 1}], the generator's vocabulary. Received "
        f"{received}. Use the model's own tokenizer: `model.generator.tokenizer`."
    )


def _spec_of(data: tf.data.Dataset, needed: str) -> tf.TensorSpec:
    """Of the examples in a batch."""
    spec = data.element_spec
    spec = spec[0] if isinstance(spec, tuple) else spec
    if not isinstance(spec, tf.TensorSpec):
        raise InvalidInputError(
            f"A data set must yield {needed}. Received elements of {type(spec).__name__}."
        )
    return spec


def _check_ids(x: np.ndarray, vocabulary_size: int) -> None:
    if x.size and (x.min() < 0 or x.max() >= vocabulary_size):
        raise InvalidInputError(of_ids(vocabulary_size, f"ids from {x.min()} to {x.max()}"))
    inside = np.flatnonzero(((x[:, :-1] == 0) & (x[:, 1:] != 0)).any(axis=1))
    if len(inside):
        raise InvalidInputError(
            f"Padding, id 0, must lie behind a sentence. Sentence {inside[0]} has a 0 before other "
            "ids. Make ids with the tokenizer, or move its padding to the end."
        )


def _check_token_type(dtype: Any, shape: Any) -> None:
    try:
        integer = tf.as_dtype(dtype).is_integer
    except TypeError:  # NumPy's objects
        integer = False
    if not integer or len(shape) != 2:
        name = getattr(dtype, "name", dtype)
        raise InvalidInputError(
            "Sentences must be ids of tokens here, integers [N, T] padded with 0. Received "
            f"{name} of shape {list(shape)}. `tfebm.data.load_text` and `sentence_batches` make "
            "them from a file, `tokenizer.tokenize` from strings."
        )


def _check_floats(dtype: Any) -> None:
    try:
        floating = tf.as_dtype(dtype).is_floating
    except TypeError:  # NumPy's objects
        floating = False
    if not floating:
        name = getattr(dtype, "name", dtype)
        remedy = "For 8-bit images use `x.astype('float32') / 127.5 - 1`."
        if name == "bool":
            remedy = "Use `2 * x.astype('float32') - 1`."
        elif name == "object":
            remedy = (
                "Rows of several shapes, or what is not a number, make no array of floats: bring "
                "all examples to one shape, and stack them with `np.stack`."
            )
        elif name == "string" or name.startswith(("str", "bytes")):
            remedy = "Texts are for a model of sentences, whose generator has a tokenizer."
        elif name.startswith("complex"):
            remedy = "Split real and imaginary parts: `np.stack([x.real, x.imag], axis=-1)`."
        raise InvalidInputError(f"Examples must be floats. Received {name}. {remedy}")


def _check_shape(shape: tuple[int | None, ...], data_shape: tuple[int, ...]) -> None:
    fits = len(shape) == len(data_shape) + 1 and all(
        found in (None, needed) for found, needed in zip(shape[1:], data_shape, strict=True)
    )
    if not fits:
        needed = ", ".join(map(str, ("N", *data_shape)))
        hint = ""
        if tuple(shape) == tuple(data_shape):
            hint = " Add the batch axis: `x[None]`, or `.batch(...)` for a data set."
        elif len(shape) == len(data_shape):
            hint = " Add the channel axis: `x[..., None]`."
        raise InvalidInputError(
            f"Examples must have shape [{needed}], as the generator makes them. Received shape "
            f"{list(shape)}.{hint} Reshape or resize the data, or give the generator their shape."
        )

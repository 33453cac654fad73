"""An export as a bulk job sees it: what it takes and gives, without loading it; and loaded."""

import contextlib
import glob
import json
import os
import posixpath
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import files
from tfebm.errors import InvalidInputError
from tfebm.serving import extras

EXAMPLES = ("image", "text", "example")
"""Names of what goes in and comes out: arrays of height, width and channels, strings, and arrays of
another shape."""
_LARGEST_SEED = 2**63


class Served(NamedTuple):
    """One signature of one version of an export."""

    path: str
    """The version's folder."""
    signature: str
    input: str
    """What its examples are, of `EXAMPLES`; "" where it draws them."""
    shape: tuple[int, ...]
    """Of an example; `()` for a text."""
    takes_seed: bool
    columns: dict[str, str]
    """Outputs of one value a row, their dtypes by name; "score" first."""
    outputs: dict[str, tuple[int, ...]]
    """Shapes of all outputs, of a row."""
    needs_tensorflow_text: bool


def find(directory: str, part: str, signature: str) -> Served:
    """Looks up a signature of an export; its graph is not loaded.

    Args:
        directory: `<directory>/<name>` as `tfebm.serving.export` writes it, whose newest version is
            taken, or the folder of a version itself.
        part: "scorer" or "generator".
        signature: Of that part.

    Raises:
        InvalidInputError: No export there, or one without that part or signature.
    """
    path = _version(str(files.local_path(directory, "The model")), part)
    try:
        with tf.io.gfile.GFile(posixpath.join(path, extras.SAVED_MODEL), "rb") as file:
            signatures = extras.parse_signatures(file.read())
    except (tf.errors.OpError, ValueError) as error:
        raise InvalidInputError(
            f"{path} cannot be read as a SavedModel: {error}. Export the model again."
        ) from None
    found = signatures.get(signature)
    own = sorted(set(signatures) - {extras.DEFAULT_SIGNATURE})
    if found is None:
        raise InvalidInputError(
            f"{path} has no signature {signature!r}. It has {', '.join(own) or 'none'}. Give one "
            f"of these, or the export of a {part}."
        )
    examples = [name for name in found.inputs if name != "seed"]
    unknown = [name for name in examples if name not in EXAMPLES]
    if unknown or len(examples) != (part == "scorer"):
        raise InvalidInputError(
            f"A signature of a {part} takes "
            f"{'an image, a text or an example' if part == 'scorer' else 'nothing but a seed'} "
            f"here. {signature!r} of {path} takes {', '.join(found.inputs)}. Its signatures are "
            f"{', '.join(own)}."
        )
    name = examples[0] if examples else ""

    def row_shape(info: Any) -> tuple[int, ...]:
        return tuple(dim.size for dim in info.tensor_shape.dim[1:])

    columns = {
        key: tf.as_dtype(info.dtype).name
        for key, info in sorted(
            found.outputs.items(), key=lambda item: (item[0] != "score", item[0])
        )
        if len(info.tensor_shape.dim) == 1 and info.dtype != tf.string.as_datatype_enum
    }
    return Served(
        path,
        signature,
        name,
        row_shape(found.inputs[name]) if name else (),
        "seed" in found.inputs,
        columns,
        {key: row_shape(info) for key, info in found.outputs.items()},
        _needs_tensorflow_text(path),
    )


class Loaded:
    """A signature of an export in memory, called with arrays.

    An export is data: a graph of TensorFlow's own operations, and weights.

    Args:
        served: Which.
    """

    def __init__(self, served: Served) -> None:
        if served.needs_tensorflow_text:
            import tensorflow_text  # noqa: F401
        self._served = served
        with plain_path(served.path) as path:
            self._loaded = tf.saved_model.load(path)  # owns the variables
        self._function = self._loaded.signatures[served.signature]

    def __call__(self, values: Any, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by their names.

        Args:
            values: `[B, *shape]` float32, or B strings as bytes; ignored where none are taken.
            seeds: int32 `[B, 2]`; ignored where none are taken.
        """
        served, given = self._served, {}
        if served.input:
            dtype = tf.string if served.input == "text" else tf.float32
            given[served.input] = tf.constant(values, dtype)
        if served.takes_seed:
            given["seed"] = tf.constant(seeds, tf.int32)
        return {name: value.numpy() for name, value in self._function(**given).items()}


@contextlib.contextmanager
def plain_path(path: str) -> Iterator[str]:
    """A path without brackets and stars that leads to `path`.

    TensorFlow's loader in Python takes them for a pattern of names, and finds no weights.
    """
    if glob.escape(path) == path:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "version")
        os.symlink(os.path.abspath(path), link, target_is_directory=True)
        yield link


def check_seed(seed: int) -> None:
    """Raises `InvalidInputError` unless `seed` fits into 64 bits."""
    if not -_LARGEST_SEED <= seed < _LARGEST_SEED:
        raise InvalidInputError(
            f"The seed must be a whole number of 64 bits, within +-2**63. Received {seed}."
        )


def _version(directory: str, part: str) -> str:
    directory = directory.rstrip("/") or "/"
    if _is_version(directory):
        return directory
    for folder in (posixpath.join(directory, part), directory):
        try:
            # TensorFlow reads no names that are not UTF-8, as others in the folder may be.
            names = tf.io.gfile.listdir(folder) if "://" in folder else os.listdir(folder)
        except (tf.errors.OpError, OSError):
            continue
        names = [name.rstrip("/") for name in names]
        versions = sorted((int(name) for name in names if name.isdigit()), reverse=True)
        for number in versions:
            path = posixpath.join(folder, str(number))
            if _is_version(path):
                return path
    raise InvalidInputError(
        f"There is no export of a {part} in {directory}. Give the folder <directory>/<name> that "
        f"`tfebm.serving.export` wrote, with {part}/<version> in it, or the folder of a version."
    )


def _is_version(path: str) -> bool:
    return tf.io.gfile.exists(posixpath.join(path, extras.SAVED_MODEL))


def _needs_tensorflow_text(path: str) -> bool:
    about = posixpath.join(path, extras.METADATA.as_posix())
    try:
        with tf.io.gfile.GFile(about) as file:
            return bool(json.loads(file.read()).get("needs_tensorflow_text"))
    except (tf.errors.OpError, ValueError):  # a SavedModel of somebody else
        return False

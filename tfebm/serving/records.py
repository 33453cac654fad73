"""Records of files for bulk jobs. What cannot be read says why, and nothing is left out in silence.

A record's key is the name of its file below the fixed part of the glob, with ":" and its number in
the file, from 1, where a file holds several; or what a feature of the record itself says.
"""

import dataclasses
import gzip
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfebm.data import arrays, pixels, sentences
from tfebm.errors import InvalidInputError
from tfebm.names import IMAGE_SUFFIXES

KINDS = ("tfrecord", "image", "text")
_SUFFIXES = {  # of the name without ".gz", and without the number of a shard
    "image": IMAGE_SUFFIXES,
    "text": (".txt", ".text"),
    "tfrecord": (".tfrecord", ".tfrecords", ".tfrec"),
}
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
# What a file that is cut off or damaged raises while it is read and unpacked.
_DAMAGED = (OSError, EOFError, zlib.error)
_LARGEST_RECORD = 2**31  # bytes; protocol buffers end there


class Record(NamedTuple):
    """The bytes of a record, as they lie in their file."""

    key: str
    data: bytes


class Broken(NamedTuple):
    """A record that cannot be used."""

    key: str
    reason: str


def kind_of(path: str) -> str | None:
    """Which of `KINDS` a file is by its name; None where the name does not say."""
    name = _SHARD.sub("", path.rsplit("/", 1)[-1].lower()).removesuffix(".gz")
    return next((kind for kind, ends in _SUFFIXES.items() if name.endswith(ends)), None)


def key_seeds(seed: int, keys: Iterable[str]) -> np.ndarray:
    """One stream of noise a row, keyed by (seed, the row's key): int32 `[N, 2]`.

    8 bytes of BLAKE2b of the key's UTF-8, keyed with the 8 bytes of the seed, all little-endian. A
    row's stream therefore depends on no other row, and on no order, batch or machine.

    Example:

        >>> key_seeds(0, ["digits/0001.png", "digits/0002.png"]).shape
        (2, 2)
    """
    secret = int(seed).to_bytes(8, "little", signed=True)
    digests = [hashlib.blake2b(key.encode(), digest_size=8, key=secret).digest() for key in keys]
    return np.frombuffer(b"".join(digests), "<i4").reshape(-1, 2).astype(np.int32)


# ---- Records of a file --------------------------------------------------------------------


def read(kind: str, file: BinaryIO, name: str) -> Iterator[Record | Broken]:
    """The records of an open file, in their order.

    A record whose bytes do not match its checksum is broken, and those behind it are read. Where
    the damage hides the start of the next record, one `Broken` stands for the rest of the file.

    Args:
        kind: Of `KINDS`.
        file: Open for reading bytes, as stored: what is packed with gzip, by its name or its first
            bytes, is unpacked here.
        name: The file's part of the keys.
    """
    if kind != "text":
        stream: Any = file  # `BinaryIO` does not name what a buffer reads by
        buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(stream)
        if name.lower().endswith(".gz") or _is_packed(kind, buffered.peek(12)[:12]):
            # The standard library's: it says when a file is cut off.
            buffered = io.BufferedReader(gzip.GzipFile(fileobj=buffered))
        file = buffered
    if kind == "image":
        try:
            yield Record(name, file.read())
        except _DAMAGED as error:
            yield Broken(name, f"the file cannot be read: {error}")
        return
    number = 0
    try:
        for item in _frames(file) if kind == "tfrecord" else sentences.read_lines(file):
            number += 1
            key = f"{name}:{number}"
            yield Record(key, item) if isinstance(item, bytes) else Broken(key, str(item))
    except sentences.NotSentencesError as error:
        reason = f"the file is {error.what}, and a sentence a line is needed. {error.do}"
        yield Broken(f"{name}:1", reason)
    except _DAMAGED as error:
        yield Broken(f"{name}:{number + 1}", f"the file cannot be read from here on: {error}")


def _is_packed(kind: str, head: bytes) -> bool:
    """Whether a file begins as gzip's do, and not as a TFRecord whose length has those bytes."""
    if not head.startswith(b"\x1f\x8b\x08"):
        return False
    return kind != "tfrecord" or len(head) < 12 or _is_damaged(head[:8], head[8:])


class _Unreadable(Exception):
    """Why a record cannot be used."""


def _frames(file: BinaryIO) -> Iterator[bytes | _Unreadable]:
    """Of a TFRecord file: length, its checksum, the bytes, their checksum."""
    while head := file.read(12):
        if len(head) < 12:
            yield _Unreadable("the file ends within the length of this record")
            return
        (length,) = struct.unpack("<Q", head[:8])
        if _is_damaged(head[:8], head[8:]) or length > _LARGEST_RECORD:
            yield _Unreadable(
                "the length of this record is damaged, or the file is not a TFRecord file; what "
                "follows in it cannot be found"
            )
            return
        data, tail = file.read(length), file.read(4)
        if len(data) < length or len(tail) < 4:
            yield _Unreadable(f"the file ends within this record of {length} bytes")
            return
        if _is_damaged(data, tail):
            yield _Unreadable("its bytes do not match their checksum")
        else:
            yield data


def _is_damaged(data: bytes, checksum: bytes) -> bool:
    import google_crc32c

    crc = google_crc32c.value(data)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<I", masked) != checksum


# ---- What a record holds ------------------------------------------------------------------


class Decoded(NamedTuple):
    """Records that a model can be given, and the others."""

    keys: list[str]
    values: np.ndarray
    """`[B, *shape]` float32, or B objects of bytes."""
    broken: list[Broken]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Makes a model's input of records.

    Images are decoded as `tfebm.data.pixels.decode` does it, with the channels of the model, and
    mapped to [-1, 1]. Whole numbers of a feature are pixels from 0 to 255. Floats are taken as they
    are; those of an image must lie within [-1, 1], and some of them well below 0, since an image
    without such is most likely scaled to [0, 1].

    Args:
        kind: Of `KINDS`.
        input: What the model takes, of `tfebm.serving.served.EXAMPLES`.
        shape: Of an array.
        feature: Of the `tf.train.Example`: an encoded image, whole numbers or floats for an image,
            bytes for a text, numbers for another array.
        key_feature: A feature with the record's key, bytes or a whole number.
        resize: Cut and resample images of another size, as `tfebm.data.load_images` does.
        background: The colour behind transparent pixels.
    """

    kind: str
    input: str
    shape: tuple[int, ...] = ()
    feature: str = ""
    key_feature: str | None = None
    resize: bool = False
    background: str = pixels.WHITE

    def __call__(self, records: Sequence[Record]) -> Decoded:
        """Every record is in `keys` and `values`, or in `broken`."""
        keys, values, broken = [], [], []
        for key, data in records:
            try:
                if self.kind == "tfrecord":
                    example = _parse(data)
                    key = self._key(key, example)
                    value = self._of_example(example)
                elif self.input == "text":
                    value = _text(data)
                else:
                    value = self._image(data)
            except _Unreadable as error:
                broken.append(Broken(key, str(error)))
            else:
                keys.append(key)
                values.append(value)
        if self.input == "text":
            return Decoded(keys, np.array(values, object), broken)
        return Decoded(keys, np.reshape(np.array(values, np.float32), (-1, *self.shape)), broken)

    def _key(self, key: str, example: Any) -> str:
        if self.key_feature is None:
            return key
        kind, values = _feature(example, self.key_feature)
        if len(values) != 1 or kind == "float_list":
            raise _Unreadable(
                f"its feature {self.key_feature!r} must be one text or one whole number to be its "
                f"key; it has {_counted(kind, values)}"
            )
        return values[0].decode("utf-8", "replace") if kind == "bytes_list" else str(values[0])

    def _of_example(self, example: Any) -> Any:
        kind, values = _feature(example, self.feature)
        if kind == "bytes_list":
            if len(values) != 1:
                raise _Unreadable(
                    f"its feature {self.feature!r} must be one string; it has {len(values)}"
                )
            return _text(values[0]) if self.input == "text" else self._image(values[0])
        size = int(np.prod(self.shape))
        if self.input == "text" or len(values) != size:
            needed = "one string" if self.input == "text" else f"{size} numbers or an encoded image"
            raise _Unreadable(
                f"its feature {self.feature!r} must be {needed}; it has {_counted(kind, values)}"
            )
        array = _as_array(example.features.feature[self.feature], kind)
        if self.input != "image":
            return array.astype(np.float32).reshape(self.shape)
        _check_range(array, kind)
        array = array.reshape(self.shape)
        if kind == "int64_list":
            return arrays.as_floats(array.astype(np.uint8))
        return array.astype(np.float32)

    def _image(self, data: bytes) -> np.ndarray:
        size = self.shape[0] if self.resize else None
        channels = self.shape[2] if len(self.shape) == 3 and self.shape[2] in (1, 3) else None
        try:
            image = pixels.decode(data, size, channels, self.background)
        except pixels.UnreadableImage as error:
            raise _Unreadable(str(error)) from None
        if image.shape != self.shape:
            hint = ""
            if image.shape[:2] != self.shape[:2] and len(self.shape) == 3:
                hint = "; with --resize it is cut and resized"
            raise _Unreadable(
                f"it has {_size(image.shape)}; the model takes {_size(self.shape)}{hint}"
            )
        return arrays.as_floats(image)


def _check_range(array: np.ndarray, kind: str) -> None:
    """Raises `_Unreadable` where the numbers of a feature are not those of an image.

    NaN passes, and its score says so.
    """
    known = array[~np.isnan(array)] if kind == "float_list" else array
    if not known.size:
        return
    low, high = known.min(), known.max()
    if kind == "int64_list":
        if low < 0 or high > 255:
            raise _Unreadable(f"its values must lie within 0 to 255; they lie from {low} to {high}")
        return
    if low < -1.01 or high > 1.01:
        bytes_like = low >= 0 and 1.01 < high <= 255
        hint = "; they look like 8-bit pixels: save x / 127.5 - 1, or whole numbers"
        raise _Unreadable(
            f"its floats must lie within [-1, 1]; they lie from {low:g} to {high:g}"
            f"{hint if bytes_like else ''}"
        )
    if arrays.LEAST_BELOW < low < high:
        raise _Unreadable(
            f"its floats must span [-1, 1]; none is far below 0 (from {low:g} to {high:g}), as if "
            "they were scaled to [0, 1]: save 2 * x - 1, or whole numbers"
        )


def check_resize(shape: tuple[int, ...]) -> None:
    """Raises `InvalidInputError` where images cannot be resized to `shape`."""
    if len(shape) != 3 or shape[0] != shape[1]:
        raise InvalidInputError(
            f"Images are resized to squares. The model takes {_size(shape)}; resize the files, or "
            "leave --resize out."
        )


def _parse(data: bytes) -> Any:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        return tf.train.Example.FromString(data)
    except DecodeError:
        raise _Unreadable("it is not a tf.train.Example") from None


def _feature(example: Any, name: str) -> tuple[str, Any]:
    features = example.features.feature
    if name not in features:
        others = sorted(features)
        raise _Unreadable(
            f"it has no feature {name!r}; it has {', '.join(map(repr, others[:8])) or 'none'}"
            f"{', ...' if len(others) > 8 else ''}"
        )
    kind = features[name].WhichOneof("kind")
    if kind is None:
        raise _Unreadable(f"its feature {name!r} is empty")
    return kind, getattr(features[name], kind).value


def _as_array(feature: Any, kind: str) -> np.ndarray:
    if kind == "int64_list":
        return np.array(feature.int64_list.value[:])
    # Packed floats end their message; one by one they would take thirty times as long.
    size = len(feature.float_list.value)
    return np.frombuffer(feature.float_list.SerializeToString()[-4 * size :], "<f4")


def _text(data: bytes) -> bytes:
    try:
        text = sentences.sentence(sentences.decode(data))
    except sentences.NotTextError as error:
        raise _Unreadable(str(error)) from None
    if not text:
        raise _Unreadable("it is empty")
    return text.encode("utf-8")


def _size(shape: tuple[int, ...]) -> str:
    if len(shape) != 3:
        return f"{shape[0]} numbers" if shape else "texts"
    return f"{shape[0]} x {shape[1]} pixels of {shape[2]} channel{'s' if shape[2] != 1 else ''}"


def _counted(kind: str, values: Sequence[Any]) -> str:
    words = {"bytes_list": "strings", "int64_list": "whole numbers", "float_list": "floats"}
    return f"{len(values)} {words[kind]}"

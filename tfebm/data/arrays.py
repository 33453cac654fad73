"""Arrays as images: which shapes, types and ranges can be told apart, and which are refused."""

import collections
import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfebm.data import pixels
from tfebm.errors import InvalidInputError
from tfebm.types import Array

_DARK = 16  # the highest value of 4 bits, and of most classes' numbers
LEAST_BELOW = -0.1
"""Resampling in [0, 1] rings a little below 0; what spans [-1, 1] goes further."""
_LARGEST_LABEL = 2**31 - 1
_FEW = 4  # images that may all be dark, or bright, for a good reason
_ROWS = 4096  # looked at at a time, so that a large array is not copied whole


@dataclasses.dataclass
class _Seen:
    """What is known of the numbers of one kind, whole or floats, of one part."""

    images: int = 0
    all: tuple[float, float] = (np.inf, -np.inf)
    """Least and highest."""
    shown: tuple[float, float] = (np.inf, -np.inf)
    """The same, without alpha channels."""
    alpha: tuple[float, float] = (np.inf, -np.inf)

    def add(self, part: Array) -> None:
        self.images += len(part)
        self.all = _wider(self.all, part)
        if part.shape[-1] in (2, 4):
            self.shown = _wider(self.shown, part[..., :-1])
            self.alpha = _wider(self.alpha, part[..., -1:])
        else:
            self.shown = _wider(self.shown, part)

    def __or__(self, other: "_Seen") -> "_Seen":
        pairs = zip(
            (self.all, self.shown, self.alpha), (other.all, other.shown, other.alpha), strict=True
        )
        wide = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs]
        return _Seen(self.images + other.images, *wide)


class Values:
    """The numbers of a set, judged together, and each part beside the others.

    A dark image is an image. A set without a bright one has another range than it should have, and
    so has a part of several images without one where other parts have some. So all parts of a set
    are shown to this before it judges.

    Args:
        name: Of the set, for its sentences.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._whole: dict[str, _Seen] = collections.defaultdict(_Seen)
        self._float: dict[str, _Seen] = collections.defaultdict(_Seen)

    def add(self, images: Array, where: str = "") -> None:
        """Looks at images `[N, H, W, C]`.

        Raises:
            InvalidInputError: Of a type that holds no pixels, or with NaN.
        """
        if images.dtype.kind not in "iuf":
            raise InvalidInputError(f"{self._of(where)}{_wrong_type(images.dtype)}")
        is_float = images.dtype.kind == "f"
        for start in range(0, len(images), _ROWS):
            part = images[start : start + _ROWS]
            if not part.size:
                continue
            if is_float:
                self._check_finite(part, start, where)
            (self._float if is_float else self._whole)[where].add(part)

    def _of(self, where: str) -> str:
        return f"{self._name}: {where}: " if where else f"{self._name}: "

    def _check_finite(self, part: Array, start: int, where: str) -> None:
        bad = np.flatnonzero(~np.isfinite(part).all(axis=(1, 2, 3)))
        if len(bad):
            raise InvalidInputError(
                f"{self._of(where)}the pixels hold NaN or infinite values; the first is in image "
                f"{start + bad[0]}. Finite numbers are needed: drop or repair such images."
            )

    def check_limits(self) -> None:
        """Raises `InvalidInputError` for values that no pixel may have."""
        low, high = _together(self._whole).all
        if low < 0 or high > 255:
            raise InvalidInputError(
                f"{self._name}: whole-number pixels must lie within 0 to 255. Received values "
                f"from {int(low)} to {int(high)}. {_how_to_scale(int(low), int(high))}"
            )
        low, high = _together(self._float).all
        # A little room for resizing filters and for the rounding of 16-bit files.
        if low < -1.01 or high > 1.01:
            raise InvalidInputError(
                f"{self._name}: float pixels must lie within [-1, 1]. Received values from {low:g} "
                f"to {high:g}. Of 8-bit images save `x / 127.5 - 1`, or uint8."
            )

    def check(self) -> list[str]:
        """What a person should know of parts that are dark or bright throughout.

        Raises:
            InvalidInputError: What is not 0 to 255, or not [-1, 1].
        """
        self.check_limits()
        whole, floats = _together(self._whole), _together(self._float)
        if 0 < whole.shown[1] <= _DARK:
            raise InvalidInputError(f"{self._name}: {_too_dark(whole)}")
        if LEAST_BELOW < floats.shown[0] < np.inf:
            raise InvalidInputError(f"{self._name}: {_too_bright(floats)}")
        remarks = []
        for where, part in self._whole.items():
            if 0 < part.alpha[1] <= _DARK:
                raise InvalidInputError(
                    f"{self._of(where)}alpha channels must span 0 to 255. Received none above "
                    f"{int(part.alpha[1])}, and the images would be almost the background alone. "
                    f"Save alpha times {255 // int(part.alpha[1])}."
                )
            if 0 < part.shown[1] <= _DARK:
                # A mask is of 0 and 1, however few images there are.
                if part.images >= _FEW or part.shown == (0, 1):
                    raise InvalidInputError(f"{self._of(where)}{_too_dark(part)}")
                remarks.append(f"{where}: no pixel is brighter than {int(part.shown[1])} of 255")
        for where, part in self._float.items():
            if LEAST_BELOW < part.alpha[0] < 0.99:
                raise InvalidInputError(
                    f"{self._of(where)}alpha channels of floats must span [-1, 1], as their "
                    f"colours do. Received none below {part.alpha[0]:g}, as if scaled to [0, 1]. "
                    "Save `2 * alpha - 1`."
                )
            if LEAST_BELOW < part.shown[0] < np.inf:
                # 8-bit pixels are never that near to 0 in [-1, 1]; in [0, 1] that is black.
                black = abs(part.shown[0]) < 0.003 and part.shown[0] < part.shown[1]
                if part.images >= _FEW or black:
                    raise InvalidInputError(f"{self._of(where)}{_too_bright(part)}")
                remarks.append(f"{where}: no pixel is below {part.shown[0]:g} of [-1, 1]")
        return remarks


def _together(parts: Mapping[str, _Seen]) -> _Seen:
    return functools.reduce(operator.or_, parts.values(), _Seen())


def _too_dark(seen: _Seen) -> str:
    high = int(seen.shown[1])
    return (
        f"whole-number pixels must span 0 to 255. Received none above {high}, and the images would "
        f"be almost black. Save `x * {255 // high}`, if {high} is white."
    )


def _too_bright(seen: _Seen) -> str:
    low, high = seen.shown
    none = "none below 0" if low >= 0 else "almost none below 0"
    return (
        f"float pixels must span [-1, 1]. Received {none} (from {low:g} to {high:g}), as if scaled "
        "to [0, 1]. Save `2 * x - 1`, or uint8."
    )


def _wider(known: tuple[float, float], part: Array) -> tuple[float, float]:
    return min(known[0], float(part.min())), max(known[1], float(part.max()))


def _wrong_type(dtype: np.dtype) -> str:
    what = "pixels must be uint8 in 0 to 255 or floats in [-1, 1]. Received "
    if dtype.kind == "b":
        return f"{what}dtype bool. Save `x.astype('uint8') * 255`."
    if dtype.kind == "O":
        return f"{what}Python objects. Give all images one shape, and save `numpy.stack(images)`."
    return f"{what}dtype {dtype}. Save plain numbers."


def _how_to_scale(low: int, high: int) -> str:
    if low < 0:
        return "Shift and scale them, or save floats in [-1, 1]."
    bits = max(12, high.bit_length())
    if bits > 16:
        return "Scale them to 0 to 255, or save floats in [-1, 1]."
    return (
        f"Scale them, by `(x >> {bits - 8}).astype('uint8')` if they have {bits} bits, or save "
        "floats in [-1, 1]."
    )


def with_channel_axis(images: Array, where: str) -> Array:
    """Images as `[N, H, W, C]`, C being 1 to 4.

    Raises:
        InvalidInputError: Another shape, or one that can be read in two ways.
    """
    shape = images.shape
    hint = ""
    if images.ndim == 3:
        if shape[2] <= 4 < shape[1] and shape[0] > 4:
            hint = (
                " It looks like one image with its channels: put the images first, as with "
                "`x[numpy.newaxis]`."
            )
        elif shape[0] != shape[1] or shape[1] == shape[2]:
            return images[..., np.newaxis]
        else:
            hint = (
                " Its first two axes are alike, as of [height, width, N] or of one image: put "
                "the images first with `numpy.moveaxis(x, -1, 0)`, add an axis with "
                "`x[numpy.newaxis]`, or say the channels with `x[..., numpy.newaxis]`."
            )
    elif images.ndim == 4:
        if shape[1] in (1, 3, 4) and shape[2] == shape[3] != shape[1]:
            hint = " Its channels come first: save `numpy.moveaxis(x, 1, -1)`."
        elif shape[2] in (1, 3, 4) and shape[0] == shape[1] != shape[2]:
            hint = " Its images come last: save `numpy.moveaxis(x, -1, 0)`."
        elif shape[-1] in (1, 2, 3, 4):
            return images
    elif images.ndim == 2 and shape[1] > 1:
        side = round(shape[1] ** 0.5)
        if side**2 == shape[1]:
            hint = f" Each row looks like one image: save `x.reshape(-1, {side}, {side})`."
    raise InvalidInputError(
        f"{where}: images must have shape [N, height, width] or [N, height, width, 1 or 3], or 2 "
        f"or 4 with an alpha channel. Received shape {list(shape)}.{hint}"
    )


def as_images(
    parts: Mapping[str, Any],
    name: str,
    background: str = pixels.WHITE,
    channels: int | None = None,
    remarks: list[str] | None = None,
) -> dict[str, Array]:
    """The parts of a set as `[N, H, W, 1 or 3]`, all uint8 or all float32 in [-1, 1].

    Args:
        parts: Arrays by name, judged together.
        name: Of the set.
        background: Behind transparent pixels.
        channels: 1 or 3; as they are by default.
        remarks: Takes what a person should know of the values.

    Raises:
        InvalidInputError: Shapes, types and ranges that cannot be used.
    """
    values = Values(name)
    _check_order(parts, name)
    found = {}
    for part, images in parts.items():
        found[part] = with_channel_axis(np.asarray(images), f"{name}: {part}")
        values.add(found[part], part)
    remarks = [] if remarks is None else remarks
    remarks += values.check()
    for part, images in found.items():
        kind = np.uint8 if images.dtype.kind in "iu" else np.float32
        plain = pixels.composite(images.astype(kind, copy=False), background)
        found[part] = pixels.with_channels(plain, channels)
    return dict(zip(found, of_one_type(*found.values()), strict=True))


def _check_order(parts: Mapping[str, Any], name: str) -> None:
    """Raises `InvalidInputError` where parts differ in nothing but what would be their width."""
    shapes = [np.shape(images) for images in parts.values()]
    heads = {shape[:-1] for shape in shapes}
    if len(heads) == 1 and len(set(shapes)) > 1 and {len(shape) for shape in shapes} == {3}:
        raise InvalidInputError(
            f"{name}: images must come first, as [N, height, width]. Received the shapes "
            f"{' and '.join(str(list(shape)) for shape in shapes)}, whose last axes alone differ, "
            "as of [height, width, N]. Save `numpy.moveaxis(x, -1, 0)` of each."
        )


def of_one_type(*parts: Array) -> tuple[Array, ...]:
    """uint8 images become floats in [-1, 1] where others of their set are floats already."""
    kinds = {part.dtype for part in parts if part.size}
    if len(kinds) < 2:
        kind = kinds.pop() if kinds else np.dtype(np.uint8)
        return tuple(part if part.size else part.astype(kind) for part in parts)
    return tuple(as_floats(part) for part in parts)


def as_floats(images: Array) -> Array:
    """uint8 in 0 to 255 as float32 in [-1, 1], as `tfebm.data.to_float` does it."""
    if images.dtype != np.uint8:
        return images.astype(np.float32, copy=False)
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def check_labels(labels: Any, where: str) -> Array:
    """Labels as whole numbers.

    Raises:
        InvalidInputError: Words, fractions, objects, or numbers that are too large.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind in "iuf" and labels.size:
        with np.errstate(invalid="ignore"):
            bad = labels[~(np.abs(labels.astype(np.float64)) <= _LARGEST_LABEL)]
        if bad.size:
            raise InvalidInputError(
                f"{where}: labels must be whole numbers of 32 bits. Received {bad.flat[0]}. Number "
                "the classes from 0 on, and leave out images without a label."
            )
    if labels.dtype.kind == "f" and labels.size and np.array_equal(labels, np.rint(labels)):
        return labels.astype(np.int64)
    if labels.size and labels.dtype.kind not in "iub":
        what = {"U": "words", "S": "words", "O": "Python objects", "f": "fractions"}
        raise InvalidInputError(
            f"{where}: labels must be whole numbers. Received "
            f"{what.get(labels.dtype.kind, labels.dtype.name)}. Number them, such as by "
            "`numpy.unique(labels, return_inverse=True)[1]` over all labels at once."
        )
    return labels.astype(np.int64) if labels.dtype.kind == "b" else labels

"""Arrays as images: which shapes, types and ranges can be told apart, and which are refused."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfebm.data import pixels
from tfebm.errors import InvalidInputError

_DARK = 16  # the highest value of 4 bits, and of most classes' numbers
_ROWS = 4096  # looked at at a time, so that a large array is not copied whole


class Values:
    """The numbers of a set, judged together.

    A dark image is an image. A set without a bright one has another range than it should have. So
    all parts of a set are shown to this before it judges.

    Args:
        name: Of the set, for its sentences.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._whole: tuple[float, float] | None = None
        self._float: tuple[float, float] | None = None
        self._brightest = 0
        self._least: float | None = None

    def add(self, images: np.ndarray, where: str = "") -> None:
        """Looks at images `[N, H, W, C]`.

        Raises:
            InvalidInputError: Of a type that holds no pixels, or with NaN.
        """
        if images.dtype.kind not in "iuf":
            raise InvalidInputError(f"{self._of(where)}{_wrong_type(images.dtype)}")
        colours = slice(None, -1 if images.shape[-1] in (2, 4) else None)
        for start in range(0, len(images), _ROWS):
            part = images[start : start + _ROWS]
            if not part.size:
                continue
            shown = part[..., colours]
            if images.dtype.kind == "f":
                self._check_finite(part, start, where)
                self._float = _wider(self._float, part)
                least = float(shown.min())
                self._least = least if self._least is None else min(self._least, least)
            else:
                self._whole = _wider(self._whole, part)
                self._brightest = max(self._brightest, int(shown.max()))

    def _of(self, where: str) -> str:
        return f"{self._name}: {where}: " if where else f"{self._name}: "

    def _check_finite(self, part: np.ndarray, start: int, where: str) -> None:
        bad = np.flatnonzero(~np.isfinite(part).all(axis=(1, 2, 3)))
        if len(bad):
            raise InvalidInputError(
                f"{self._of(where)}the pixels hold NaN or infinite values; the first is in image "
                f"{start + bad[0]}. Finite numbers are needed: drop or repair such images."
            )

    def check_limits(self) -> None:
        """Raises `InvalidInputError` for values that no pixel may have."""
        if self._whole is not None and (self._whole[0] < 0 or self._whole[1] > 255):
            low, high = map(int, self._whole)
            raise InvalidInputError(
                f"{self._name}: whole-number pixels must lie within 0 to 255. Received values "
                f"from {low} to {high}. {_how_to_scale(low, high)}"
            )
        # A little room for resizing filters and for the rounding of 16-bit files.
        if self._float is not None and (self._float[0] < -1.01 or self._float[1] > 1.01):
            low, high = self._float
            raise InvalidInputError(
                f"{self._name}: float pixels must lie within [-1, 1]. Received values from {low:g} "
                f"to {high:g}. Of 8-bit images save `x / 127.5 - 1`, or uint8."
            )

    def check(self) -> None:
        """Raises `InvalidInputError` for what is not 0 to 255, or not [-1, 1]."""
        self.check_limits()
        if self._whole is not None and 0 < self._brightest <= _DARK:
            raise InvalidInputError(
                f"{self._name}: whole-number pixels must span 0 to 255. Received none above "
                f"{self._brightest}, and the images would be almost black. Save `x * "
                f"{255 // self._brightest}`, if {self._brightest} is white."
            )
        if self._float is not None and self._least is not None and self._least >= 0:
            raise InvalidInputError(
                f"{self._name}: float pixels must span [-1, 1]. Received none below 0 (from "
                f"{self._float[0]:g} to {self._float[1]:g}), as if scaled to [0, 1]. Save "
                "`2 * x - 1`, or uint8."
            )


def _wider(known: tuple[float, float] | None, part: np.ndarray) -> tuple[float, float]:
    low, high = float(part.min()), float(part.max())
    return (low, high) if known is None else (min(known[0], low), max(known[1], high))


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
    return (
        f"Scale them, by `(x >> {bits - 8}).astype('uint8')` if they have {bits} bits, or save "
        "floats in [-1, 1]."
    )


def with_channel_axis(images: np.ndarray, where: str) -> np.ndarray:
    """Images as `[N, H, W, C]`, C being 1 to 4.

    Raises:
        InvalidInputError: Another shape, or one that can be read in two ways.
    """
    shape = images.shape
    hint = ""
    if images.ndim == 3:
        if shape[0] != shape[1] or shape[1] == shape[2]:
            return images[..., np.newaxis]
        hint = (
            " Its first two axes are alike, as of [height, width, N] or of one image: put the "
            "images first with `numpy.moveaxis(x, -1, 0)`, add an axis with `x[numpy.newaxis]`, or "
            "say the channels with `x[..., numpy.newaxis]`."
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
) -> dict[str, np.ndarray]:
    """The parts of a set as `[N, H, W, 1 or 3]`, all uint8 or all float32 in [-1, 1].

    Args:
        parts: Arrays by name, judged together.
        name: Of the set.
        background: Behind transparent pixels.
        channels: 1 or 3; as they are by default.

    Raises:
        InvalidInputError: Shapes, types and ranges that cannot be used.
    """
    values = Values(name)
    found = {}
    for part, images in parts.items():
        found[part] = with_channel_axis(np.asarray(images), f"{name}: {part}")
        values.add(found[part], part)
    values.check()
    for part, images in found.items():
        kind = np.uint8 if images.dtype.kind in "iu" else np.float32
        plain = pixels.composite(images.astype(kind, copy=False), background)
        found[part] = pixels.with_channels(plain, channels)
    return dict(zip(found, of_one_type(*found.values()), strict=True))


def of_one_type(*parts: np.ndarray) -> tuple[np.ndarray, ...]:
    """uint8 images become floats in [-1, 1] where others of their set are floats already."""
    kinds = {part.dtype for part in parts if part.size}
    if len(kinds) < 2:
        kind = kinds.pop() if kinds else np.dtype(np.uint8)
        return tuple(part if part.size else part.astype(kind) for part in parts)
    return tuple(as_floats(part) for part in parts)


def as_floats(images: np.ndarray) -> np.ndarray:
    """uint8 in 0 to 255 as float32 in [-1, 1], as `tfebm.data.to_float` does it."""
    if images.dtype != np.uint8:
        return images.astype(np.float32, copy=False)
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def check_labels(labels: Any, where: str) -> np.ndarray:
    """Labels as whole numbers.

    Raises:
        InvalidInputError: Words, fractions or objects.
    """
    labels = np.asarray(labels)
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

"""Image files as pixels: the one place that decodes, so that all readers see the same.

`savedmodels/client.py` is a single file without tfebm and repeats these rules; a test holds both
against each other.
"""

import contextlib
import functools
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from tfebm import colours
from tfebm.errors import InvalidInputError
from tfebm.types import Array

WHITE = "white"
"""What lies behind transparent pixels, unless another colour is asked for."""

# Only the kinds that the suffixes promise: others of Pillow's decoders start programs.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF")
_GREY = ("1", "L", "LA", "La")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_SIXTEEN_BITS = re.compile(r";16[BLN]")  # how Pillow names the files' layouts
_FEW_BITS = re.compile(r"'L;([24])'")
_LEAST_OF_16_BITS = 2**12  # what holds 12 bits or fewer stays below
# Programs that make images write their settings into them. The limit for all texts of a file stays.
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
_lock = threading.Lock()
_readers: list[Any] = []


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Silences Pillow while files are read here: what it warns of, large or odd files, is read or
    refused in a sentence. The filters of warnings are the process's: the first reader of all
    threads puts one in, and the last takes it out."""
    with _lock:
        if not _readers:
            _readers.append(warnings.catch_warnings())
            _readers[0].__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        else:
            _readers.append(_readers[0])
    try:
        yield
    finally:
        with _lock:
            last = _readers.pop()
            if not _readers:
                last.__exit__(None, None, None)


class UnreadableImage(InvalidInputError):
    """A file that has no pixels to give; the message is the reason, in words that follow "it"."""


parse_colour = functools.lru_cache(colours.parse_colour)
"""Red, green and blue of a background, as `tfebm.colours.parse_colour` reads it."""


def decode(
    source: str | os.PathLike[str] | bytes,
    size: int | None = None,
    channels: int | None = None,
    background: str = WHITE,
) -> Array:
    """An image file as uint8 `[height, width, 1 or 3]`.

    The first frame of an animation, turned upright as its EXIF data say. Transparent pixels lie on
    the background. 16 bits become 8 by their range; a file whose 16-bit values fill 12 bits at
    most is refused, since it would be almost black. Grey comes from colours as Pillow's luma.

    Args:
        source: A path, or the bytes of the file.
        size: The largest centred square is cut out and resampled to so many pixels a side.
        channels: 1 or 3. Default: 1 for files of grey, 3 for others.
        background: The colour behind transparent pixels.

    Raises:
        UnreadableImage: Not an image of a kind that is read, damaged, or of pixels that have no
            8-bit meaning.
    """
    behind = parse_colour(background)
    try:
        # Of a path Pillow maps raw TIFF files into memory, and scrambles those that lie on a side.
        file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
        with reading(), file, Image.open(file, formats=_FORMATS) as opened:
            picture = _plain(opened, channels, behind)
            return _to_array(square(picture, size) if size else picture)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        empty = not (source if isinstance(source, bytes) else os.path.getsize(source))
        raise UnreadableImage(
            "it is empty"
            if empty
            else "it is not an image of a known format, or its start is damaged"
        ) from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImage(
            f"it has more than {most:,} pixels, the most that are read; make it smaller"
        ) from None
    except Exception as error:  # damaged bytes raise whatever their decoder stumbles over
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableImage(f"it cannot be opened: {error.strerror}") from None
        # Words for a person are in some errors only; others speak of Pillow's own code.
        words = str(error) if isinstance(error, (OSError, EOFError, SyntaxError)) else ""
        reason = f": {words}" if words else ""
        raise UnreadableImage(f"its image is damaged{reason}") from None


def _plain(picture: Any, channels: int | None, behind: tuple[int, int, int]) -> Any:
    """Upright, of mode L or RGB, without transparency."""
    layout = str(getattr(picture, "tile", ""))  # which loading clears
    if 0 in picture.size:
        raise UnreadableImage("it has no pixels")
    picture.load()
    # EXIF data that are damaged do not turn an image, and it needs no others.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode in ("P", "PA") and picture.palette is None:
        raise UnreadableImage("its image is damaged: its palette is missing")
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        picture = _eight_bits(picture)
    elif picture.mode in ("I", "F"):
        raise UnreadableImage(
            f"its pixels are of mode {picture.mode}, 32 bits each, whose range nobody knows; save "
            "it with 8 or 16 bits"
        )
    else:
        if _SIXTEEN_BITS.search(layout):
            _check_filled(picture)
        _scale_transparency(picture, layout)
    grey = picture.mode in _GREY or _has_grey_palette(picture)
    if _is_transparent(picture):
        if picture.mode == "La":
            picture = picture.convert("LA")  # the only way out of it
        front = picture.convert("RGBA")
        back = Image.new("RGBA", front.size, (*behind, 255))
        picture = Image.alpha_composite(back, front).convert("RGB")
        grey = grey and len(set(behind)) == 1
    mode = "L" if (channels or (1 if grey else 3)) == 1 else "RGB"
    if mode == "L" and picture.mode not in ("1", "L"):
        picture = picture.convert("RGB")  # not every mode has a way to L
    return picture if picture.mode == mode else picture.convert(mode)


def _is_transparent(picture: Any) -> bool:
    if picture.mode in _WITH_ALPHA or "transparency" in picture.info:
        return True
    return picture.mode == "P" and picture.palette.mode.endswith("A")


def _has_grey_palette(picture: Any) -> bool:
    if picture.mode not in ("P", "PA"):
        return False
    colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _eight_bits(picture: Any) -> Any:
    """Grey of 16 bits as L or, with a transparent value, LA; `convert` would clip."""
    values = np.asarray(picture)
    high = int(values.max())
    if 0 < high < _LEAST_OF_16_BITS:
        raise UnreadableImage(_dark(high))
    scaled = Image.fromarray((values >> 8).astype(np.uint8))
    clear = picture.info.get("transparency")
    if clear is not None:
        scaled.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return scaled


def _check_filled(picture: Any) -> None:
    """Of colours of 16 bits, which Pillow has cut to their upper 8."""
    high = [band[1] for band in _bands(picture)]
    of_colours = max(high[:-1] if picture.mode in _WITH_ALPHA else high)
    # Black with a full alpha is a drawing, black without one is what was lost.
    least = _LEAST_OF_16_BITS >> 8
    if max(high) < least or 0 < of_colours < least:
        raise UnreadableImage(_dark(256 * of_colours + 255))


def _bands(picture: Any) -> list[tuple[int, int]]:
    found = picture.getextrema()
    return list(found) if isinstance(found[0], tuple) else [found]


def _dark(high: int) -> str:
    return (
        f"its 16-bit pixels reach {high} at most, as if they held fewer bits, and would be almost "
        "black; save them scaled to 0 to 65535, or with 8 bits"
    )


def _scale_transparency(picture: Any, layout: str) -> None:
    """Pillow scales pixels of other depths to 8 bits, but not the value that is transparent."""
    clear = picture.info.get("transparency")
    few = _FEW_BITS.search(layout)
    if isinstance(clear, int) and few and picture.mode == "L":
        picture.info["transparency"] = clear * 255 // (2 ** int(few[1]) - 1)
    elif isinstance(clear, tuple) and _SIXTEEN_BITS.search(layout):
        picture.info["transparency"] = tuple(value >> 8 for value in clear)


def square(picture: Any, size: int) -> Any:
    """The largest centred square, resampled to `size` x `size` pixels."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    # Cut before it is resampled: the filter would reach over the edges of a `box`.
    return picture.crop(box).resize((size, size), Image.Resampling.LANCZOS)


def _to_array(picture: Any) -> Array:
    array = np.asarray(picture, np.uint8)
    return array[..., np.newaxis] if array.ndim == 2 else array


def resize(images: Array, size: int | None) -> Array:
    """Images `[N, H, W, 1 or 3]`, uint8 or floats in [-1, 1], as `decode` resizes: as uint8."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    if images.dtype != np.uint8:
        # Resampled with 8 bits, the precision of every image file.
        images = np.rint((images + 1.0) * 127.5).clip(0, 255).astype(np.uint8)
    resized = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
    for i, image in enumerate(images):
        resized[i] = _to_array(square(_picture(image), size))
    return resized


def composite(images: Array, background: str = WHITE) -> Array:
    """Images whose last channel, of 2 or 4, is their alpha, without it; others as they are.

    uint8, as `decode` does it, or floats in [-1, 1], where an alpha of -1 is transparent.
    """
    channels = images.shape[-1]
    if channels not in (2, 4):
        return images
    behind = np.array(parse_colour(background), np.uint8)
    kept = channels - 1 if len(set(behind.tolist())) == 1 else 3
    if images.dtype != np.uint8:
        alpha = (images[..., -1:] + 1.0) / 2.0
        back = behind[:kept] / np.float32(127.5) - np.float32(1.0)
        return (images[..., :-1] * alpha + back * (1.0 - alpha)).astype(np.float32)
    result = np.empty((*images.shape[:-1], kept), np.uint8)
    for i, image in enumerate(images):
        front = _picture(image).convert("RGBA")
        back = Image.new("RGBA", front.size, (*behind.tolist(), 255))
        result[i] = np.asarray(Image.alpha_composite(back, front))[..., :kept]
    return result


def with_channels(images: Array, channels: int | None) -> Array:
    """Images `[N, H, W, 1 or 3]` with so many channels: grey is repeated, colours give luma."""
    if channels is None or images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    if images.dtype != np.uint8:
        return images @ np.array([[0.299], [0.587], [0.114]], images.dtype)
    result = np.empty((*images.shape[:-1], 1), np.uint8)
    for i, image in enumerate(images):
        result[i] = _to_array(_picture(image).convert("L"))
    return result


def _picture(image: Array) -> Any:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)

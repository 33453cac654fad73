"""Pictures of a run. Drawn with matplotlib's object interface, which needs no screen."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfebm import files

_MARGIN = 2  # pixels between images of a grid
_SHORT_SIDE = 640  # small grids are enlarged to about this many pixels, each pixel a square
_LONG_SIDE = 1600  # but a row of them to no more than this many
_CELL, _LARGEST = 240, (318, 600)  # pixels that an image with a caption is wide, and at most
_FONT, _LINE = 13, 18  # sizes of a caption's letters and lines


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] as uint8; NaN pixels, of a run that went wrong, are black."""
    return np.rint(np.nan_to_num((images + 1.0) * 127.5)).clip(0, 255).astype(np.uint8)


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images `[N, H, W, C]` in [-1, 1] as one uint8 picture, row by row, white between."""
    rows = math.ceil(len(images) / columns)
    _, height, width, channels = images.shape
    picture = np.full(
        (rows * (height + _MARGIN) + _MARGIN, columns * (width + _MARGIN) + _MARGIN, channels),
        255,
        np.uint8,
    )
    for i, image in enumerate(to_pixels(images)):
        top = _MARGIN + (i // columns) * (height + _MARGIN)
        left = _MARGIN + (i % columns) * (width + _MARGIN)
        picture[top : top + height, left : left + width] = image
    return picture


def save_grid(path: str | os.PathLike[str], images: np.ndarray, columns: int) -> None:
    """Writes images `[N, H, W, C]` in [-1, 1] as a grid; PNG."""
    picture = grid(np.asarray(images), min(columns, len(images)))
    short, long = sorted(picture.shape[:2])
    zoom = max(1, min(_SHORT_SIDE // short, _LONG_SIDE // long))
    picture = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    files.replace_file(pathlib.Path(path), _as_image(picture).save)


def _as_image(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def save_captioned(
    path: str | os.PathLike[str],
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
) -> None:
    """Writes images with a caption below each; PNG.

    Args:
        path: PNG.
        images: `[N, k, H, W, C]` in [-1, 1]: k images stand side by side over a caption.
        captions: N, of a line or several. A line that has no room loses its beginning, since files
            of a folder differ at the end.
        columns: Captions in a row.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT)
    cells = []
    for group in images:
        cell = _as_image(grid(np.asarray(group), len(group))).convert("RGB")
        scale = min(_LARGEST[0] / cell.width, _LARGEST[1] / cell.height)
        if scale >= 2:  # by whole pixels, which stay squares
            scale = min(int(scale), math.ceil(_CELL / cell.width))
        scale = 1 if 1 < scale < 2 else scale
        if scale != 1:
            size = [max(1, round(scale * side)) for side in cell.size]
            how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            cell = cell.resize(size, how)
        cells.append(cell)
    width, height = cells[0].size
    lines = max(caption.count("\n") + 1 for caption in captions)
    full = height + lines * _LINE + 2 * _MARGIN
    columns = min(columns, len(cells))
    picture = Image.new("RGB", (columns * width, math.ceil(len(cells) / columns) * full), "white")
    draw = ImageDraw.Draw(picture)
    for i, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
        left, top = (i % columns) * width, (i // columns) * full
        picture.paste(cell, (left, top))
        for number, line in enumerate(caption.split("\n")):
            line = _shortened(line, width - 3 * _MARGIN, font)
            draw.text((left + _MARGIN, top + height + number * _LINE), line, "black", font)
    files.replace_file(pathlib.Path(path), picture.save)


def _shortened(line: str, width: float, font: Any) -> str:
    """The end of a line that is too long; names of files need not be UTF-8."""
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    whole = line
    while line and font.getlength(line if line == whole else f"...{line}") > width:
        line = line[1:]
    return line if line == whole else f"...{line}"


def save_curves(
    path: str | os.PathLike[str],
    epochs: Sequence[dict[str, Any]] | dict[str, Sequence[dict[str, Any]]],
    panels: dict[str, Sequence[str]],
) -> None:
    """Draws records of epochs, one panel per entry of `panels`: title to metric names.

    `epochs` are the records of all panels, or those of each by its title.
    """
    from matplotlib.figure import Figure

    columns = 2
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(10, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for (title, names), axis in zip(panels.items(), axes, strict=False):
        records = epochs[title] if isinstance(epochs, dict) else epochs
        numbers = [record["epoch"] + 1 for record in records]
        for name in names:
            values = [record["metrics"][name] for record in records]
            axis.plot(numbers, values, marker="o", markersize=3, label=name.replace("_", " "))
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if len(set(numbers)) == 1:  # as a single point, with room beside it
            axis.set(xlim=(numbers[0] - 1, numbers[0] + 1), xticks=numbers[:1])
        else:
            axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.legend(fontsize="small")
    for axis in axes:  # what is left over
        axis.set_visible(False)
    files.replace_file(pathlib.Path(path), lambda p: figure.savefig(p, dpi=110))

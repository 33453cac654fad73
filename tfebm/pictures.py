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


def save_grid(path: str | os.PathLike, images: np.ndarray, columns: int) -> None:
    """Writes images `[N, H, W, C]` in [-1, 1] as a grid; PNG."""
    from PIL import Image

    picture = grid(np.asarray(images), columns)
    zoom = max(1, _SHORT_SIDE // min(picture.shape[:2]))
    picture = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    files.replace_file(pathlib.Path(path), image.save)


def save_curves(
    path: str | os.PathLike,
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
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize="small")
    for axis in axes:  # what is left over
        axis.set_visible(False)
    files.replace_file(pathlib.Path(path), lambda p: figure.savefig(p, dpi=110))

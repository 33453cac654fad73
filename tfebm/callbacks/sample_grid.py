"""Draws what the model generates while it learns."""

import os
import pathlib
from typing import Any

import keras

from tfebm import pictures


class SampleGrid(keras.callbacks.Callback):
    """Writes a square grid of `model.generate` at the end of epochs.

    The same streams are drawn each time, so that a person sees each picture take shape.

    Args:
        path: The PNG file, replaced in one piece.
        side: Images per row and per column.
        seed: Of the samples.
    """

    def __init__(self, path: str | os.PathLike[str], side: int = 10, seed: int = 0) -> None:
        super().__init__()
        self.path = pathlib.Path(path)
        self.side = side
        self.seed = seed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.draw(self.model)

    def draw(self, model: keras.Model) -> None:
        """Writes the picture of `model` as it is now."""
        images = model.generate(self.side**2, seed=self.seed)
        pictures.save_grid(self.path, images, self.side)

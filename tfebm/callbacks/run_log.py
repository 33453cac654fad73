"""The records of a run's epochs, on the disk after each."""

import math
import os
import pathlib
import time
from typing import Any

import keras

from tfebm import files


class RunLog(keras.callbacks.Callback):
    """Keeps `metrics.json`: one object with "settings", "epochs" and "final".

    A record per epoch: its number from 0, the step at its end, its seconds, and its metrics (None
    for one that is not finite); in a run of several stages the stage too, each of which counts its
    epochs from 0. The file is replaced in one piece.

    Args:
        path: Of `metrics.json`; None keeps the records without writing them.
        settings: The run's settings, as JSON.
        epochs: Records of an earlier part of the run, from its checkpoint.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        settings: dict[str, Any],
        epochs: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.path = None if path is None else pathlib.Path(path)
        self.settings = settings
        self.epochs = list(epochs or [])
        self.stage: str | None = None
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        record = {
            **({"stage": self.stage} if self.stage else {}),
            "epoch": epoch,
            "step": int(self.model.step.numpy()),
            "seconds": round(time.monotonic() - self._started, 3),
            "metrics": {name: _number(value) for name, value in (logs or {}).items()},
        }
        # An epoch that a resumed run completes replaces its first part.
        place = (self.stage, epoch)
        others = (r for r in self.epochs if (r.get("stage"), r["epoch"]) != place)
        self.epochs = [*others, record]
        self.write(final=None)

    def write(self, final: dict[str, Any] | None) -> None:
        """Writes the file; `final` holds the figures of the finished run."""
        if self.path is None:
            return
        record = {"settings": self.settings, "epochs": self.epochs, "final": final}
        files.write_json(self.path, record)


def _number(value: Any) -> float | None:
    """JSON has no name for NaN and the infinities."""
    return float(value) if math.isfinite(value) else None

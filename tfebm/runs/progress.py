"""How far a run is, on the screen: one line at a time, with the time that is left of it."""

import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import keras

_BETWEEN = 0.2  # seconds from one look of the line to the next
_WIDTH = 80  # of a screen that does not say its own
_BAR = 10
_NUMBER = 9  # room for one, so that a line keeps its metrics from one look to the next


class Progress(keras.callbacks.Callback):
    """Prints a line per epoch: epoch, time left of the whole run, and the metrics that matter.

    On a terminal the line is written again and again while the epoch lasts, with a bar of the
    whole run, and never wraps: metrics that have no room are left out, the last ones first. All
    metrics are in the logs.

    It lasts for several calls of `fit`, as a run that goes on within an epoch has. The time left
    is that of the steps at the pace so far, pictures and checkpoints included, without the first
    step, which traces.

    Args:
        first_step: Steps that were done before.
        last_step: Of the run.
        per_epoch: Steps of an epoch.
        shown: Names of metrics to what they are called on the line.
        name: Of the stage, in a run of several: each has its own pace, and its own time left.
        stream: Default: the standard output.

    Example:

        >>> progress = Progress(0, 60, per_epoch=20, shown={"reconstruction_mse": "error"})
        >>> model.fit(batches, epochs=3, verbose=0, callbacks=[progress])
        epoch 1/3, 0:12 left, error 0.231
    """

    def __init__(
        self,
        first_step: int,
        last_step: int,
        per_epoch: int,
        shown: Mapping[str, str],
        name: str = "",
        stream: TextIO | None = None,
    ) -> None:
        super().__init__()
        self.last_step = last_step
        self.per_epoch = per_epoch
        self.shown = dict(shown)
        self.name = name
        self._of = " of this stage" if name else ""
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._step = self._first_of_fit = first_step
        self._epoch = 0
        self._paced: tuple[float, int] | None = None
        self._looked = -math.inf
        self._open = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._first_of_fit = self._step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step = self._first_of_fit + batch + 1
        now = time.monotonic()
        if self._paced is None:
            self._paced = (now, self._step)
        if self._live and now - self._looked >= _BETWEEN:
            self._looked = now
            self._write(self._line(logs or {}), "")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._write(self._line(logs or {}), "\n")

    def close(self) -> None:
        """Ends a line that was cut short, by an error or an interrupt."""
        if self._open:
            self._stream.write("\n")
            self._open = False

    def _write(self, line: str, end: str) -> None:
        if self._live:
            line = f"\r{line:<{_columns() - 1}}"
        self._stream.write(line + end)
        self._stream.flush()
        self._open = not end

    def _line(self, logs: dict[str, Any]) -> str:
        epochs = math.ceil(self.last_step / self.per_epoch)
        line = f"{self.name}: " if self.name else ""
        line += f"epoch {self._epoch + 1}/{epochs}"
        if self._live:
            full = _BAR * self._step // max(1, self.last_step)
            line += f" [{'=' * full}{'.' * (_BAR - full)}] {self._left():<8}"
        else:
            within = self._step % self.per_epoch
            line += f", step {self._step} of {self.last_step}" if within else ""
            line += f", {self._left()}"
        room = _columns() - 1 - len(line)
        for name, label in self.shown.items():
            if name not in logs:
                continue
            room -= len(f", {label} ") + _NUMBER
            if room < 0:
                break
            line += f", {label} {float(logs[name]):.3g}"
        return line[: _columns() - 1]

    def _left(self) -> str:
        """The time that the remaining steps take."""
        remaining = self.last_step - self._step
        if remaining <= 0:
            return "done"
        if self._paced is None or self._step <= self._paced[1]:
            return "? left"
        began, step = self._paced
        return (
            f"{_clock(remaining * (time.monotonic() - began) / (self._step - step))} left{self._of}"
        )


def _columns() -> int:
    return max(20, min(shutil.get_terminal_size((_WIDTH, 24)).columns or _WIDTH, 100))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

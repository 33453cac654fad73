"""Stops a training run whose numbers have gone."""

import math
from typing import Any

import keras
import numpy as np

from tfebm.errors import InvalidInputError, TrainingDiverged


class StopOnDivergence(keras.callbacks.Callback):
    """Raises `TrainingDiverged` as soon as a metric is not finite, or beyond `limit`.

    (`keras.callbacks.TerminateOnNaN` looks at `loss` alone, and ends `fit` as if all were well.)
    The message names the step and the term. Put this callback before the one that saves
    checkpoints, so that none is written of a run that is lost.

    Args:
        limit: The largest absolute value that a metric may take; per-example losses and
            energies of a healthy run stay many orders of magnitude below the default.
        every: Look at the metrics each so many batches. Looking waits for the device; a few
            hundred is cheap on a GPU whose steps are short.

    Raises:
        InvalidInputError: A limit or an interval that is not positive.
    """

    def __init__(self, limit: float = 1e8, every: int = 1) -> None:
        super().__init__()
        if not limit > 0 or every < 1:
            raise InvalidInputError(
                f"`limit` and `every` must be positive. Received {limit!r} and {every!r}."
            )
        self.limit = limit
        self.every = every
        self._first_step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._first_step = int(self.model.step.numpy())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if (batch + 1) % self.every == 0:
            self._check(batch, logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {k: v for k, v in (logs or {}).items() if not k.startswith("val_")}
        self._check(int(self.model.step.numpy()) - self._first_step - 1, logs)

    def _check(self, batch: int, logs: dict[str, Any]) -> None:
        values = {name: float(value) for name, value in logs.items()}
        bad = {
            name: value
            for name, value in values.items()
            if not math.isfinite(value) or abs(value) > self.limit
        }
        if bad:
            terms = ", ".join(f"{name} = {value:g}" for name, value in bad.items())
            raise TrainingDiverged(
                f"Training diverged at step {self._first_step + batch + 1}: {terms}. Lower the "
                "step sizes of the chains or the learning rates, or raise sigma."
            )


def check_weights(model: keras.Model) -> None:
    """Raises `TrainingDiverged` where a weight is NaN or infinite.

    The update of a step can spoil weights whose losses were still finite; without this look a
    checkpoint of them would be kept as the last good one.
    """
    for weight in model.weights:
        value = weight.numpy()
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise TrainingDiverged(
                f"Training diverged at step {int(model.step.numpy())}: the weight "
                f"'{weight.path}' is no longer finite. Lower the learning rates."
            )

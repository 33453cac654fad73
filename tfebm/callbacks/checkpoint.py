"""Checkpoints that survive a kill at any moment, and restore a run bit for bit."""

import hashlib
import io
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfebm import files
from tfebm.callbacks.divergence import check_weights
from tfebm.errors import InvalidInputError
from tfebm.models import workers

_PREFIX = "step-"
_WEIGHTS, _STATE = "state.weights.h5", "state.json"


class Checkpoint(keras.callbacks.Callback):
    """Saves weights, both optimizers, metrics, step and epoch; keeps the newest ones.

    A checkpoint is a folder `step-XXXXXXXX` that is filled under another name, flushed to the
    disk and renamed: it is complete or it is not there. (`keras.callbacks.BackupAndRestore`
    forgets the batch within the epoch, writes in place, and deletes itself at the end.)

    Under several workers each of them has this callback, with a directory of its own.

    Args:
        directory: Where the folders go; made when missing.
        every: Also save each so many steps within an epoch; 0 saves at the ends of epochs only.
        keep: How many of the newest to keep.
        extra_state: Returns what else belongs to the state, as JSON; `restore` gives it back.

    Example:

        >>> checkpoint = Checkpoint("run/checkpoints", every=100)
        >>> state = checkpoint.restore(model)            # None when there is nothing yet
        >>> model.fit(batches, callbacks=[checkpoint], ...)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        every: int = 0,
        keep: int = 2,
        extra_state: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self.directory = pathlib.Path(directory)
        if every < 0 or keep < 1:
            raise InvalidInputError(
                f"`every` must be at least 0 and `keep` at least 1. Received {every} and {keep}."
            )
        self.every = every
        self.keep = keep
        self.extra_state = extra_state or (lambda: None)
        self._epoch = 0
        self._saved = 0
        self._restored: dict[str, Any] | None = None
        self._metrics: list[Any] | None = None

    def restore(self, model: keras.Model) -> dict[str, Any] | None:
        """Loads the newest checkpoint into a compiled model.

        Of several workers, which must all call it, the newest that each of them has; those after
        it are removed.

        Returns:
            Its `step`, `epoch` and `extra`; None when there is none.

        Raises:
            InvalidInputError: The newest checkpoint is damaged, or of another model; workers
                whose checkpoints have no step in common.
        """
        path = newest_checkpoint(self.directory, model.distribute_strategy)
        if workers.count(model.distribute_strategy) > 1:
            for later in complete_checkpoints(self.directory):
                if path is None or later > path:
                    files.discard(later)
        if path is None:
            return None
        state = _read_state(path)
        try:
            model.load_weights(path / _WEIGHTS)
        except (ValueError, KeyError, OSError) as error:
            raise InvalidInputError(
                f"The checkpoint {path} does not fit the model: {error} Resume with the "
                "settings that it was saved with."
            ) from None
        self._restored = state
        return state

    def continue_epoch(self) -> None:
        """Has the next epoch begin with the restored metrics instead of none.

        `fit` resets the metrics at the start of an epoch; a run that goes on in the middle of
        one would otherwise report its second part as the whole.
        """
        self._metrics = self._restored["metrics"] if self._restored else None

    def on_train_begin(self, logs: Any = None) -> None:
        if self.keep < 2 and workers.count(self.model.distribute_strategy) > 1:
            raise InvalidInputError(
                "Several workers do not save at the same moment, and need two checkpoints to have "
                f"one in common. Received `keep={self.keep}`; give at least 2."
            )
        self._saved = int(self.model.step.numpy())

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        if self._metrics is not None:
            for metric, values in zip(self.model.metrics, self._metrics, strict=True):
                for variable, value in zip(metric.variables, values, strict=True):
                    variable.assign(value)
            self._metrics = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        last = self.params.get("steps") is not None and batch + 1 >= self.params["steps"]
        if not self.every or last:
            return
        # Several steps may lie between two looks (`steps_per_execution`).
        step = int(self.model.step.numpy())
        if step // self.every > self._saved // self.every:
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.save()

    def save(self) -> None:
        """Writes a checkpoint of the model as it is now.

        Raises:
            TrainingDiverged: Weights that are not finite.
            WriteFailed: As on a full disk; the checkpoints before are kept.
        """
        check_weights(self.model)
        step = int(self.model.step.numpy())
        weights = _WeightsInMemory()
        self.model.save_weights(weights)
        state = {
            "step": step,
            "epoch": self._epoch,
            "metrics": [
                [variable.numpy().tolist() for variable in metric.variables]
                for metric in self.model.metrics
            ],
            "sha256": hashlib.sha256(weights.getbuffer()).hexdigest(),
            "extra": self.extra_state(),
        }

        def fill(folder: pathlib.Path) -> None:
            (folder / _WEIGHTS).write_bytes(weights.getbuffer())
            files.write_json(folder / _STATE, state)

        # It may be there: by `every`, at the end of an epoch of unknown length.
        files.replace_folder(self.directory / f"{_PREFIX}{step:08d}", fill)
        self._saved = step
        for path in complete_checkpoints(self.directory)[: -self.keep]:
            files.discard(path)
        files.sweep(self.directory)


class _WeightsInMemory(io.BytesIO):
    """A file of weights to Keras, which looks at the name and takes a buffer.

    HDF5 does not get over a full disk: it holds on to the file, tries again when the process ends
    and brings it down by a segmentation fault. So it does not see the disk.
    """

    def __str__(self) -> str:
        return _WEIGHTS


def complete_checkpoints(directory: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The finished checkpoints of a folder, oldest first; half-written ones are never among
    them."""
    found = pathlib.Path(directory).glob(f"{_PREFIX}*")
    return sorted(p for p in found if p.is_dir() and p.name.removeprefix(_PREFIX).isdecimal())


def step_of(path: pathlib.Path) -> int:
    """The training step of a checkpoint."""
    return int(path.name.removeprefix(_PREFIX))


def newest_checkpoint(
    directory: str | os.PathLike[str], strategy: tf.distribute.Strategy | None = None
) -> pathlib.Path | None:
    """The newest finished checkpoint of a folder; None where there is none.

    Args:
        directory: Of several workers, this one's.
        strategy: Under one of several workers, which must all call this, the newest checkpoint is
            that of the largest step that all of them have.

    Raises:
        InvalidInputError: Workers whose checkpoints have no step in common.
    """
    paths = {step_of(path): path for path in complete_checkpoints(directory)}
    steps = workers.lists(list(paths), strategy or tf.distribute.get_strategy())
    common = set(steps[0]).intersection(*steps[1:])
    if common:
        return paths[max(common)]
    # A worker saves its second checkpoint when all have saved their first: with fewer, the job was
    # stopped at its very first save, and nothing is lost but that.
    if max(map(len, steps)) > 1:
        held = "; ".join(
            f"worker {i} has {', '.join(map(str, sorted(each))) or 'none'}"
            for i, each in enumerate(steps)
        )
        raise InvalidInputError(
            f"The workers have no checkpoint in common, by step: {held}. Give each its own folder "
            "of the run back, or start another run in another --output."
        )
    return None


def _read_state(path: pathlib.Path) -> dict[str, Any]:
    try:
        state = files.read_json(path / _STATE)
        intact = _digest(path / _WEIGHTS) == state["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise InvalidInputError(
            f"The checkpoint {path} is damaged: its files are missing or differ from what was "
            "written. Delete this folder to resume from the one before it."
        )
    return state


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

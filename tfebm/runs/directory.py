"""The folder of a run: what it holds, when it may be written, how it is read back."""

import dataclasses
import os
import pathlib
import shutil
import tempfile
import zipfile
from typing import Any

import keras

from tfebm import files
from tfebm.errors import InvalidInputError
from tfebm.version import __version__

_FILES = ("config.json", "metrics.json", "model.keras")
_FOLDERS = ("checkpoints", "logs", "workers")
# What a script may leave beside them, and its successor in the folder might not overwrite.
_PICTURES = ("chains", "chains_data_space", "curves", "density", "interpolation", "latents")
_PICTURES += ("layers", "mixing", "precision_recall", "reconstructions", "samples", "steps")
_PICTURES += ("worst",)
_OTHERS = ("diagnostics.json", "tuning.json", "vocabulary.txt", "samples.txt")
_OTHERS += ("reconstructions.txt", "interpolations.txt", "scores.csv")


def check_writable(path: pathlib.Path, flag: str) -> None:
    """Raises `InvalidInputError` where a folder, given by `flag`, cannot be made or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # has no name that a kill could leave behind
    except OSError as error:
        raise InvalidInputError(
            f"The folder {path} cannot be written: {error.strerror}. Give another {flag}."
        ) from None


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths of a run's files.

    `config.json` (settings), `metrics.json` (settings, a record per epoch, a final record),
    `model.keras`, `checkpoints/`, `logs/` (TensorBoard), and pictures. Of several workers the
    chief has all of it, and the others their settings and checkpoints, in `workers/`.
    """

    path: pathlib.Path

    def __post_init__(self) -> None:
        files.local_path(self.path, "The folder of a run")

    @property
    def config(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> pathlib.Path:
        return self.path / "metrics.json"

    @property
    def model(self) -> pathlib.Path:
        return self.path / "model.keras"

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def logs(self) -> pathlib.Path:
        return self.path / "logs"

    def of_worker(self, place: int) -> "RunDirectory":
        """The folder of one of several workers; the chief's, 0, is this one."""
        return RunDirectory(self.path / "workers" / str(place)) if place else self

    def picture(self, name: str) -> pathlib.Path:
        return self.path / f"{name}.png"

    def check_free(self, overwrite: bool) -> None:
        """Raises `InvalidInputError` where a run is there and may not be replaced."""
        try:
            present = [name for name in (*_FILES, *_FOLDERS) if self._holds(name)]
        except OSError as error:
            raise InvalidInputError(
                f"The folder {self.path} cannot be read: {error.strerror}. Give another --output."
            ) from None
        if present and not overwrite:
            raise InvalidInputError(
                f"The folder {self.path} already holds a run ({', '.join(present)}). Resume it "
                "with --resume, replace it with --overwrite, or give another --output."
            )

        if present and not self._is_run():
            raise InvalidInputError(
                f"The folder {self.path} holds {', '.join(present)}, but not of a run that could "
                "be replaced: there is no config.json of one. Give another --output."
            )

    def _holds(self, name: str) -> bool:
        # A worker has a folder before it has begun a run in it.
        if name == "workers":
            return any((self.path / name).glob("*/config.json"))
        return (self.path / name).exists()

    def _is_run(self) -> bool:
        try:
            return "tfebm" in files.read_json(self.config)
        except (OSError, ValueError, TypeError):
            return False

    def begin(self, program: str, settings: dict[str, Any]) -> None:
        """Removes an earlier run and writes `config.json`, the start of a new one."""
        # Only what a run writes is removed, whatever else a user keeps there.
        for folder in (self.checkpoints, self.path / "workers"):
            files.discard(folder)
        shutil.rmtree(self.logs, ignore_errors=True)
        others = (self.path / name for name in _OTHERS)
        for path in (self.metrics, self.model, *map(self.picture, _PICTURES), *others):
            path.unlink(missing_ok=True)
        self.write_settings(program, settings)

    def write_settings(self, program: str, settings: dict[str, Any]) -> None:
        """Writes `config.json`, after what a killed process left half done is removed."""
        for folder in (self.path, self.checkpoints, *self.checkpoints.glob("*/")):
            files.sweep(folder)
        record = {"program": program, "tfebm": __version__, "settings": settings}
        files.write_json(self.config, record)

    def save_model(self, model: keras.Model) -> None:
        """Writes `model.keras` in one piece."""
        files.replace_file(self.model, model.save)

    def read_settings(self) -> dict[str, Any]:
        """The settings in `config.json`.

        Raises:
            InvalidInputError: There is no run, or its settings cannot be read.
        """
        try:
            return dict(files.read_json(self.config)["settings"])
        except FileNotFoundError:
            raise InvalidInputError(
                f"The folder {self.path} holds no run to resume: there is no config.json. Start "
                "one without --resume, or check --output."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"{self.config} cannot be read: {error!r}.") from None


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, brought back."""

    model: keras.Model
    """The trained model, compiled, with both optimizers' state."""
    settings: dict[str, Any]
    """The settings of `config.json`."""
    metrics: dict[str, Any]
    """`metrics.json`: "settings", "epochs", "final"."""
    directory: RunDirectory


def load_run(directory: str | os.PathLike) -> Run:
    """Brings back what a training script left in its output folder.

    Nothing is unpickled, and Keras' safe mode stays on: a file with code in it is refused. A
    model with layers of your own needs them registered with
    `keras.saving.register_keras_serializable` before.

    Args:
        directory: The `--output` of the script.

    Raises:
        InvalidInputError: No finished run, or files that cannot be read.

    Example:

        >>> run = tfebm.load_run("runs/latent_ebm")
        >>> images = run.model.generate(16, seed=1)
        >>> run.metrics["final"]["test"]["reconstruction_mse"]
    """
    run = RunDirectory(files.local_path(directory, "The folder of a run"))
    missing = [p.name for p in (run.config, run.metrics, run.model) if not p.is_file()]
    if missing:
        raise InvalidInputError(
            f"The folder {run.path} holds no finished run: {', '.join(missing)} missing. Train "
            "one, or let it finish with --resume."
        )
    settings = run.read_settings()
    try:
        model = keras.saving.load_model(run.model, safe_mode=True)
        metrics = files.read_json(run.metrics)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"The run in {run.path} cannot be loaded: {error}") from error
    if not metrics.get("final"):
        raise InvalidInputError(
            f"The run in {run.path} is not finished: its model is of an earlier state. Let it "
            "finish with --resume."
        )
    return Run(model, settings, metrics, run)

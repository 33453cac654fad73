"""The folder of a run: what it holds, when it may be written, how it is read back."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfebm import files
from tfebm.callbacks import complete_checkpoints
from tfebm.errors import InvalidInputError
from tfebm.files import printable
from tfebm.names import RUN_RECORD
from tfebm.runs import record
from tfebm.version import __version__

_CORE = (RUN_RECORD, "metrics.json", "model.keras")
_FOLDERS = ("checkpoints", "logs", "workers")
_PICTURES = (
    *("chains", "chains_data_space", "curves", "density", "interpolation", "latents", "layers"),
    *("mixing", "precision_recall", "reconstructions", "samples", "steps", "worst"),
)
_OTHERS = (
    *("diagnostics.json", "tuning.json", "scores.csv", "vocabulary.txt"),
    *("samples.txt", "reconstructions.txt", "interpolations.txt"),
)
WRITTEN = (*(f"{name}.png" for name in _PICTURES), *_OTHERS)
"""Files that scripts leave beside model and records. A new run goes into no folder that holds a
file of such a name; a script that writes another one adds it here."""


def check_writable(path: pathlib.Path, flag: str) -> None:
    """Raises `InvalidInputError` where a folder, given by `flag`, cannot be made or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # has no name that a kill could leave behind
    except OSError as error:
        raise InvalidInputError(
            f"The folder {printable(path)} cannot be written: {error.strerror}. Give another "
            f"{flag}."
        ) from None


def check_name(path: pathlib.Path, flag: str) -> None:
    """Raises `InvalidInputError` for a folder, given by `flag`, that TensorFlow cannot name."""
    try:
        os.path.abspath(path).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"TensorFlow writes into folders alone whose path is UTF-8. Received "
            f"{printable(path)}. Give another {flag}."
        ) from None


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths of a run's files.

    `config.json` (settings), `metrics.json` (settings, a record per epoch, a final record),
    `model.keras`, `checkpoints/`, `logs/` (TensorBoard), and pictures. Of several workers the
    chief has all of it, and the others their settings and checkpoints, in `workers/`.

    `config.json` also lists the files that the run has written or is about to write, and whether
    there have been checkpoints: what is not on the list is somebody else's, and stays.
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
    def vocabulary(self) -> pathlib.Path:
        """Of a run that learns sentences: a word a line, in the order of their ids."""
        return self.path / "vocabulary.txt"

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
        """Where a picture is to be written; as `file`."""
        return self.file(f"{name}.png")

    def file(self, name: str) -> pathlib.Path:
        """Where a file of the run is to be written, after `config.json` says that it is the run's.

        Raises:
            InvalidInputError: A file of that name is there, and the run did not write it.
        """
        path = self.path / name
        found = self._record()
        written = _names(found, "files")
        if not found or name in written:
            return path
        if path.exists() and name not in _names(found, "replaces"):
            raise InvalidInputError(
                f"The file {printable(path)} would be overwritten, and this run did not write it. "
                "Move it elsewhere, and go on with --resume."
            )
        files.write_json(self.config, {**found, "files": [*written, name]})
        return path

    def keep(self, stage: str) -> None:
        """Has `config.json` say that there are checkpoints of a stage ("": of the only one)."""
        self._set_kept(lambda kept: kept if stage in kept else [*kept, stage])

    def forget(self, stage: str) -> None:
        """Has `config.json` say no longer that there are checkpoints of a stage."""
        self._set_kept(lambda kept: [each for each in kept if each != stage])

    def _set_kept(self, change: Callable[[list[str]], list[str]]) -> None:
        found = self._record()
        kept = _kept(found)
        if found and change(kept) != kept:
            files.write_json(self.config, {**found, "kept": change(kept)})

    def lost_checkpoints(self) -> list[str]:
        """Folders of checkpoints of which the run had some, and has none any more."""
        folders = [self.checkpoints / stage for stage in _kept(self._record())]
        return [
            printable(folder.relative_to(self.path))
            for folder in folders
            if not complete_checkpoints(folder)
        ]

    def _record(self) -> dict[str, Any]:
        """`config.json`; empty where no run has begun here."""
        try:
            found = files.read_json(self.config)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"{printable(self.config)} cannot be read: {error!r}. Restore it."
            ) from None
        return found if isinstance(found, dict) else {}

    def is_run(self) -> bool:
        """Whether a run has begun here: on this worker, or on another one."""
        begun = [self.path]
        with contextlib.suppress(OSError):  # a path that no folder can have
            begun += [path.parent for path in self.path.glob(f"workers/*/{RUN_RECORD}")]
        return any(map(files.is_run, begun))

    def check_free(self, overwrite: bool) -> None:
        """Raises `InvalidInputError` where a new run would replace a run or somebody's files."""
        try:
            parts = [name for name in (*_CORE, *_FOLDERS) if self._holds(name)]
            others = [name for name in WRITTEN if self._holds(name)]
        except OSError as error:
            raise InvalidInputError(
                f"The folder {printable(self.path)} cannot be read: {error.strerror}. Give another "
                "--output."
            ) from None
        shown = printable(self.path)
        if self.is_run():
            if not overwrite:
                raise InvalidInputError(
                    f"The folder {shown} already holds a run ({', '.join(parts)}). Resume it with "
                    "--resume, replace it with --overwrite, or give another --output."
                )
        elif parts:
            raise InvalidInputError(
                f"The folder {shown} holds {', '.join(parts)}, but not of a run that could be "
                f"replaced: there is no {RUN_RECORD} of one. Give another --output."
            )
        elif others and not overwrite:
            raise InvalidInputError(
                f"The folder {shown} holds {', '.join(others)}, which no run has written and a run "
                "may write anew. Give another --output, or have them replaced with --overwrite."
            )

    def _holds(self, name: str) -> bool:
        # A worker has a folder before it has begun a run in it.
        if name == "workers":
            return any((self.path / name).glob(f"*/{RUN_RECORD}"))
        try:
            (self.path / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def begin(self, program: str, settings: dict[str, Any], **more: Any) -> None:
        """Removes an earlier run and writes `config.json`, the start of a new one.

        What no run has written stays. Where `check_free` allowed its names they may be replaced,
        each when the run comes to write it.

        Args:
            program: Its name.
            settings: The settings that determine the result.
            **more: Further entries of `config.json`.
        """
        if self.is_run():
            for folder in (self.checkpoints, self.path / "workers"):
                files.discard(folder)
            shutil.rmtree(self.logs, ignore_errors=True)
            self._sweep()
            for name in (*_CORE[1:], *_names(self._record(), "files")):
                (self.path / name).unlink(missing_ok=True)
        foreign = [name for name in WRITTEN if self._holds(name)]
        more = {"files": [], "kept": [], **({"replaces": foreign} if foreign else {}), **more}
        self._write(program, settings, more)

    def write_settings(self, program: str, settings: dict[str, Any], **more: Any) -> None:
        """Writes `config.json` of a run that goes on, as `begin` does."""
        found = self._record()
        entries = ("data", "files", "kept", "replaces")
        kept: dict[str, Any] = {name: found[name] for name in entries if name in found}
        self._sweep()
        self._write(program, settings, {**kept, **more})

    def _sweep(self) -> None:
        """Removes what a killed process left half done."""
        for folder in (self.path, self.checkpoints, *self.checkpoints.glob("*/")):
            files.sweep(folder)

    def _write(self, program: str, settings: dict[str, Any], more: dict[str, Any]) -> None:
        found = {"program": program, "tfebm": __version__, "settings": settings, **more}
        files.write_json(self.config, found)

    def save_model(self, model: keras.Model) -> None:
        """Writes `model.keras` in one piece."""
        files.replace_file(self.model, model.save)

    def read_settings(self) -> dict[str, Any]:
        """The settings in `config.json`.

        Raises:
            InvalidInputError: There is no run, or its settings cannot be read.
        """
        return record.read(self.path)["settings"]


def _kept(found: Mapping[str, Any]) -> list[str]:
    """The stages of which a record says that there are checkpoints; "" is the only one of a run."""
    return _names(found, "kept", but=(".", ".."))


def _names(
    found: Mapping[str, Any], entry: str, but: tuple[str, ...] = ("", ".", "..")
) -> list[str]:
    """The names under `entry` of a record, but for those that no file in the folder can have."""
    listed = found.get(entry)
    names = listed if isinstance(listed, list) else []
    return [name for name in names if isinstance(name, str) and name not in but and "/" not in name]


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


def load_run(directory: str | os.PathLike[str]) -> Run:
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

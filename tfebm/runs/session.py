"""How a training script begins and ends."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tfebm import files, serving
from tfebm.data import ImageData, load_images, validation_split
from tfebm.errors import InvalidInputError
from tfebm.files import printable
from tfebm.models import workers
from tfebm.runs import lock, paths, record, training
from tfebm.runs.cluster import read_cluster
from tfebm.runs.directory import RunDirectory, check_name, check_writable
from tfebm.runs.fingerprint import differences, fingerprint
from tfebm.runs.resuming import resumed
from tfebm.runs.settings import ImageRunSettings, RunSettings
from tfebm.runs.strategy import interruptible, make_strategy
from tfebm.version import __version__

M = TypeVar("M", bound=keras.Model)


class Session(NamedTuple):
    """A run that has begun: its settings, its folder, its data."""

    name: str
    """Of the program and of its exports."""
    settings: RunSettings
    run: RunDirectory
    """Of several workers, this one's."""
    strategy: tf.distribute.Strategy
    data: Any
    asked: Mapping[str, Any]
    """The settings that were given, by a flag or by a preset."""

    def announce(self, trained: bool = False) -> None:
        """Writes the settings, into the folder and on the screen: from here on there is a run.

        Args:
            trained: Whether the model of the run is used as it is, and needs no checkpoint.

        Raises:
            InvalidInputError: A run to go on with that has lost its checkpoints.
        """
        if self.settings.resume and not trained:
            self._check_checkpoints()
        start = self.run.write_settings if self.settings.resume else self.run.begin
        others = not workers.is_chief(self.strategy)
        # The chief removes an earlier run, the other workers' part too, before they begin theirs.
        if others:
            workers.wait(self.strategy)
            lock.acquire(self.run.path, wait=_lock_timeout(self.settings))
        more = {"remembered": self.settings.remembered()}
        if not self.settings.resume:
            more["data"] = fingerprint(self.data)
        start(self.name, self.settings.to_record(), **more)
        if not others:
            workers.wait(self.strategy)
        print(f"tfebm {__version__}, {self.name}:\n{self.settings.describe()}", flush=True)

    def _check_checkpoints(self) -> None:
        lost = self.run.lost_checkpoints()
        if not any(each for (each,) in workers.lists([len(lost)], self.strategy)):
            return
        where = ", ".join(lost) or "of another worker"
        raise InvalidInputError(
            f"The checkpoints that the run in {printable(self.run.path)} has saved are gone "
            f"({where}), and it would begin at step 0. Restore them, or begin anew with "
            "--overwrite instead of --resume."
        )

    def chief_says(self, yes: bool) -> bool:
        """The answer of the chief, on every worker."""
        answer = workers.from_chief([np.array([yes], "int32")], self.strategy)
        return bool(answer[0][0])

    def alone(self, model: M) -> M:
        """The model for all that comes after training, which the chief does alone.

        It is `model` itself where there is one worker. Of several the chief goes on, with a copy
        that needs nobody else. The others wait until it calls `close`, so that a chief that dies
        is missed and the whole job started again, and then end: for them this does not return.
        """
        if workers.count(self.strategy) == 1:
            return model
        self.leave_to_chief()
        return workers.without_strategy(model)

    def leave_to_chief(self) -> None:
        """Returns to the chief alone; the other workers wait until it is done, and end."""
        if not workers.is_chief(self.strategy):
            with interruptible():
                workers.wait(self.strategy)
            raise SystemExit(0)

    def close(self) -> None:
        """Lets the other workers go, and others write in the folder."""
        with contextlib.suppress(tf.errors.OpError):  # one that has died has nothing left to do
            workers.wait(self.strategy)
        lock.release()

    def export(self, model: keras.Model) -> None:
        """Writes the SavedModels that `--export` asks for."""
        if self.settings.export:
            version = serving.next_version(self.settings.export, self.name)
            target = serving.export(
                model, self.settings.export, self.name, version, xla=self.settings.xla
            )
            print(f"Exported {target.generator} and {target.scorer}.")


def load_image_set(settings: ImageRunSettings) -> ImageData:
    """The images of `--dataset`, split again where `--validation` asks for it."""
    data = load_images(
        settings.dataset,
        image_size=settings.image_size,
        data_dir=settings.data_dir,
        background=settings.background,
        channels=settings.channels,
    )
    if not settings.validation:
        return data
    return validation_split(data, num_examples=settings.validation)


def begin_session(
    name: str,
    settings_class: type[RunSettings],
    settings: RunSettings,
    asked: Mapping[str, Any],
    load: Callable[[Any], Any],
    examples: Callable[[Any], Any],
) -> Session:
    """Reads the data, and checks all that a run could fail on later.

    Args:
        name: Of the program.
        settings_class: Its settings.
        settings: Those of the command line.
        asked: Of them, those that were given.
        load: Settings to data.
        examples: Data to what is trained on.

    Raises:
        InvalidInputError: Data or folders that cannot be used; workers whose flags or data are not
            the same.
        WorkerLost: A worker that has not come.
    """
    run, strategy_name = _own_directory(settings, asked)
    settings = dataclasses.replace(settings, strategy=strategy_name)
    settings = paths.with_absolute_paths(settings)
    _take_folder(settings, run)
    if settings.resume_or_begin and not settings.resume:
        settings = dataclasses.replace(settings, resume=files.is_run(run.path))
    if settings.resume:
        settings = resumed(settings_class, run.read_settings(), settings, asked)
    else:
        run.check_free(settings.overwrite)
    strategy = make_strategy(settings.strategy, settings.virtual_devices, settings.worker_timeout)
    if not workers.is_chief(strategy):
        place, others = workers.place(strategy), workers.count(strategy)
        print(f"Worker {place} of {others}, counted from 0: worker 0 reports.", flush=True)
        sys.stdout = open(os.devnull, "w", errors="ignore")  # noqa: SIM115, to the end
    # The chief first: a set that is downloaded to a folder of all would come several times at once.
    if not workers.is_chief(strategy):
        workers.wait(strategy)
    # What needs no data is said before they are read.
    training.check_batch_size(settings, settings.batch_size, strategy.num_replicas_in_sync)
    if settings.export and workers.is_chief(strategy):
        check_writable(pathlib.Path(settings.export), "--export")
    data = _read(settings, load, run)
    if workers.is_chief(strategy):
        workers.wait(strategy)
    training.check_batch_size(settings, len(examples(data)), strategy.num_replicas_in_sync)
    check_writable(run.path, "--output")
    if workers.count(strategy) > 1:
        _check_backups(settings, run, strategy)
        _check_alike(settings, examples(data), strategy)
    training.make_deterministic(settings.seed)
    return Session(name, settings, run, strategy, data, asked)


def _take_folder(settings: RunSettings, run: RunDirectory) -> None:
    """Locks the output folder, once it is known that the run may write there."""
    output = pathlib.Path(settings.output)
    if run.path == output:  # the other workers begin when the chief has locked theirs
        check_name(output, "--output")
        lock.acquire(output, make=not settings.resume, wait=_lock_timeout(settings))
    paths.check_apart(settings, run.is_run())
    _check_lasting(output, "--output")
    if settings.export:
        check_name(pathlib.Path(settings.export), "--export")
        _check_lasting(pathlib.Path(settings.export), "--export", run)


def _lock_timeout(settings: RunSettings) -> float:
    return settings.worker_timeout if settings.resume_or_begin else 0.0


def _check_lasting(folder: pathlib.Path, flag: str, *runs: RunDirectory) -> None:
    """Raises `InvalidInputError` for a folder in what `runs` or a run around it would remove."""
    target = paths.real(folder)
    around = [RunDirectory(parent) for parent in target.parents if files.is_run(parent)]
    for run in (*runs, *around):
        for inside in (run.checkpoints, run.logs, run.path / "workers"):
            if paths.real(inside) in (target, *target.parents):
                raise InvalidInputError(
                    f"{flag} {printable(folder)} lies in {inside.name} of the run in "
                    f"{printable(run.path)}, which is removed with it. Give another folder."
                )


def _read(settings: RunSettings, load: Callable[[Any], Any], run: RunDirectory) -> Any:
    """The data, with a line on the screen before and one after.

    Raises:
        InvalidInputError: As `load`; other data than those of the run that is resumed.
    """
    if settings.sources:
        print(f"Reading {' and '.join(settings.sources)} ...", flush=True)
    data = load(settings)
    sentence = getattr(data, "report_sentence", None)
    if sentence:
        print(sentence, flush=True)
    before = record.read(run.path).get("data") if settings.resume else None
    if before:
        changed = differences(before, fingerprint(data))
        if changed:
            raise InvalidInputError(
                f"What is read now does not match the data that the run in {printable(run.path)} "
                f"began with. {'; '.join(changed)}. Restore the data, or start another run in "
                "another folder."
            )
    return data


def _own_directory(settings: RunSettings, asked: Mapping[str, Any]) -> tuple[RunDirectory, str]:
    """The folder of the run, or of this worker's part in it, and the run's strategy."""
    run = RunDirectory(pathlib.Path(settings.output))
    strategy = settings.strategy
    if (settings.resume or settings.resume_or_begin) and "strategy" not in asked:
        begun = [run]
        with contextlib.suppress(InvalidInputError):  # no cluster, or none of several workers
            begun.append(run.of_worker(read_cluster().place))  # whose disk may be its own
        saved = [each.read_settings() for each in begun if os.path.exists(each.config)]
        strategy = saved[0].get("strategy", strategy) if saved else strategy
    if strategy == "multiworker":
        run = run.of_worker(read_cluster().place)
    return run, strategy


def _check_backups(
    settings: RunSettings, run: RunDirectory, strategy: tf.distribute.Strategy
) -> None:
    """Raises `InvalidInputError`, on all workers, where one would begin what others go on with."""
    kept = len(list(run.checkpoints.rglob("step-*"))) if settings.resume else 0
    table = workers.lists([int(settings.resume), kept], strategy)
    new = [str(i) for i, (resumes, _) in enumerate(table) if not resumes]
    if new and any(kept for _, kept in table):
        raise InvalidInputError(
            f"Worker {', '.join(new)} has no part of the run that the others go on with. Give it "
            "its folder back, or copy the chief's config.json and checkpoints into workers/<i> of "
            "its output folder."
        )


def _check_alike(settings: RunSettings, x: np.ndarray, strategy: tf.distribute.Strategy) -> None:
    """Raises `InvalidInputError`, on all workers, unless they compute the same on the same data."""
    digest = hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()
    places = {field.name for field in dataclasses.fields(settings) if paths.is_path(field)}
    known = {
        # Each worker may have the data at a place of its own.
        **{name: value for name, value in settings.to_record().items() if name not in places},
        "checkpoint_every": settings.checkpoint_every,  # saving waits for all
        "the training data": f"{x.dtype} {list(x.shape)} {digest[:16]}",
    }
    first, *others = map(json.loads, workers.texts(json.dumps(known), strategy))
    differences = [
        f"{name}: {first[name]} on worker 0, {other.get(name)} on worker {i}"
        for i, other in enumerate(others, 1)
        for name in first
        if other.get(name) != first[name]
    ]
    if differences:
        raise InvalidInputError(
            "All workers must be given the same flags and the same data. Received "
            f"{'; '.join(differences)}."
        )

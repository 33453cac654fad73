"""One training run: data, checkpoints, logs, resumption and the figures at its end."""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfebm import callbacks, files
from tfebm.data import steps_per_epoch, training_batches
from tfebm.errors import InvalidInputError
from tfebm.models import workers
from tfebm.runs.directory import RunDirectory
from tfebm.runs.progress import Progress
from tfebm.runs.settings import RunSettings

SHOWN = {"reconstruction_mse": "error"}
"""Metrics on the screen of models that reconstruct images."""


def check_batch_size(settings: RunSettings, num_examples: int, num_replicas: int) -> None:
    """Raises `InvalidInputError` for a batch that the data or the replicas cannot fill."""
    if settings.batch_size > num_examples:
        raise InvalidInputError(
            f"--batch-size must be at most the number of training examples, {num_examples}. "
            f"Received {settings.batch_size}."
        )
    if settings.batch_size < num_replicas:
        raise InvalidInputError(
            f"--batch-size is the global batch and must hold an example for each of the "
            f"{num_replicas} replicas. Received {settings.batch_size}."
        )


def num_steps(settings: RunSettings, num_examples: int, epochs: int | None = None) -> int:
    """Steps of the whole run or stage: all epochs, or `--steps` where that is less.

    `epochs` are the settings' where it is not given.
    """
    epochs = settings.epochs if epochs is None else epochs
    total = epochs * steps_per_epoch(num_examples, settings.batch_size)
    return min(total, settings.steps) if settings.steps else total


def segments(first_step: int, last_step: int, per_epoch: int) -> list[tuple[int, int, int]]:
    """The calls of `fit` that lead from `first_step` to `last_step`.

    Returns:
        Triples (first epoch, epochs after it, steps per epoch): the rest of an epoch that was
        interrupted, the whole epochs, and the part of an epoch at the end, as far as each is
        needed.
    """
    plan, step = [], first_step
    while step < last_step:
        epoch, within = divmod(step, per_epoch)
        whole = (last_step - step) // per_epoch
        if within == 0 and whole > 0:
            plan.append((epoch, epoch + whole, per_epoch))
            step += whole * per_epoch
        else:
            count = min(per_epoch - within, last_step - step)
            plan.append((epoch, epoch + 1, count))
            step += count
    return plan


def saved_step(run: RunDirectory, stage: str, strategy: tf.distribute.Strategy) -> int:
    """The step that a stage goes on from, of several workers that of all; 0 at its beginning."""
    found = callbacks.newest_checkpoint(run.checkpoints / stage, strategy)
    return callbacks.step_of(found) if found else 0


class Examples(Protocol):
    """Data that a model is trained on."""

    @property
    def x_train(self) -> np.ndarray:
        """`[N, ...]`."""


class Stage(NamedTuple):
    """One of several models that a run trains one after the other."""

    name: str
    """Of its folders in `checkpoints` and `logs`, and in the records."""
    epochs: int
    """Passes over the data."""


def train(
    model: keras.Model,
    data: Examples,
    settings: RunSettings,
    run: RunDirectory,
    *,
    extra_callbacks: Sequence[keras.callbacks.Callback] = (),
    looks: Sequence[keras.callbacks.Callback] = (),
    stage: Stage | None = None,
    log: callbacks.RunLog | None = None,
    shown: Mapping[str, str] | None = None,
    make_batches: Callable[..., tf.data.Dataset] = training_batches,
) -> callbacks.RunLog:
    """Trains a compiled model to the end of its settings, from its newest checkpoint if any.

    A run that was interrupted, by a kill too, ends with the weights of one that was not, bit
    for bit, on the same machine with the same flags. Several workers go on from the newest
    checkpoint that all of them have.

    Args:
        model: With a weight `step`.
        data: `x_train` is trained on.
        settings: Of the run.
        run: Its folder; of several workers this one's.
        extra_callbacks: Beside those for divergence, records, TensorBoard and checkpoints; they
            come first, so that what they add to the logs is recorded.
        looks: Further ones, before these, that change nothing in the model: pictures, figures. Of
            several workers the chief has them alone.
        stage: Of a run of several; the whole run otherwise.
        log: Of the stages before.
        shown: The two or three metrics that matter, to what they are called on the screen.
            Default: the reconstruction error.
        make_batches: `training_batches`, or another function of its arguments, such as
            `sentence_batches`.

    Returns:
        The log, with the records of this stage.
    """
    name = stage.name if stage else ""
    epochs = stage.epochs if stage else settings.epochs
    strategy = model.distribute_strategy
    is_chief = workers.is_chief(strategy)
    log = log or callbacks.RunLog(run.metrics if is_chief else None, settings.to_record())
    log.stage = name or None
    checkpoint = _Checkpoint(
        run, name, every=settings.checkpoint_every, extra_state=lambda: log.epochs
    )
    per_epoch = steps_per_epoch(len(data.x_train), settings.batch_size)
    # Several workers find out together; one that begins has none.
    several = workers.count(strategy) > 1
    state = checkpoint.restore(model) if settings.resume or several else None
    first_step = 0
    if state is not None:
        first_step = state["step"]
        log.epochs = list(state["extra"])
        if first_step % per_epoch:
            checkpoint.continue_epoch()
        print(f"Resumed {f'the stage {name} ' if name else ''}at step {first_step}.", flush=True)
    workers.copy_from_chief(model)
    writers = [checkpoint]
    if is_chief:
        writers = [_Board(run.logs / name, write_graph=False), checkpoint]
        extra_callbacks = [*looks, *extra_callbacks]
    every = [callbacks.StopOnDivergence(), *extra_callbacks, log]
    last_step = num_steps(settings, len(data.x_train), epochs)
    progress = Progress(first_step, last_step, per_epoch, shown or SHOWN, name)
    every += [progress, *writers] if is_chief else writers
    try:
        for first_epoch, last_epoch, steps in segments(first_step, last_step, per_epoch):
            batches = make_batches(
                data.x_train,
                batch_size=settings.batch_size,
                seed=settings.seed,
                first_step=first_step,
            )
            model.fit(
                batches,
                initial_epoch=first_epoch,
                epochs=last_epoch,
                steps_per_epoch=steps,
                shuffle=False,
                callbacks=every,
                verbose=0,  # there is `progress`
            )
            first_step += (last_epoch - first_epoch) * steps
    finally:
        progress.close()
    return log


class _Checkpoint(callbacks.Checkpoint):
    """The record of the run says that there is one: a resume without any would begin anew."""

    def __init__(self, run: RunDirectory, stage: str, **options: Any) -> None:
        super().__init__(run.checkpoints / stage, **options)
        self._keep: Callable[[], None] | None = lambda: run.keep(stage)

    def save(self) -> None:
        super().save()
        if self._keep:
            self._keep()
            self._keep = None


class _Board(keras.callbacks.TensorBoard):
    """Keras' own; a full disk is told in a sentence."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        with files.writing(self.log_dir):
            super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        with files.writing(self.log_dir):
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        with files.writing(self.log_dir):
            super().on_train_end(logs)


def finish(
    model: keras.Model,
    log: callbacks.RunLog,
    test: dict[str, Any] | None,
    started: float,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the final record of a run.

    Args:
        model: The trained model.
        log: Of its epochs.
        test: Figures on test data, which nothing before has seen; None where there are none.
        started: `time.monotonic()` at the start of the session.
        extra: Further entries.

    Returns:
        The record: steps, epochs, seconds of this session, peak memory, `extra` and `test`.
    """
    final = {
        "steps": int(model.step.numpy()),
        "epochs": len([r for r in log.epochs if r.get("stage") == log.stage]),
        "session_seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": round(_peak_memory_mib()),
        **(extra or {}),
        "test": test,
    }
    log.write(final)
    return final


def cost(final: dict[str, Any]) -> str:
    """Steps, seconds and memory of a run, in a sentence."""
    return (
        f"{final['steps']} steps, {final['session_seconds']} s in this session, "
        f"{final['peak_memory_mib']} MiB at most."
    )


def make_deterministic(seed: int) -> None:
    """Seeds the weights, and has TensorFlow's kernels repeat themselves bit for bit."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0**2 if sys.platform == "darwin" else 1024.0)

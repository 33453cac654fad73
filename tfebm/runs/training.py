"""One training run: data, checkpoints, logs, resumption and the figures at its end."""

import math
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import callbacks
from tfebm.data import ImageData, steps_per_epoch, to_float, training_batches
from tfebm.errors import InvalidInputError
from tfebm.runs.directory import RunDirectory
from tfebm.runs.settings import RunSettings


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


def num_steps(settings: RunSettings, num_examples: int) -> int:
    """Steps of the whole run: all epochs, or `--steps` where that is less."""
    total = settings.epochs * steps_per_epoch(num_examples, settings.batch_size)
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


def train(
    model: keras.Model,
    data: ImageData,
    settings: RunSettings,
    run: RunDirectory,
    extra_callbacks: Sequence[keras.callbacks.Callback] = (),
) -> callbacks.RunLog:
    """Trains a compiled model to the end of its settings, from its newest checkpoint if any.

    A run that was interrupted, by a kill too, ends with the weights of one that was not, bit
    for bit, on the same machine with the same flags.
    """
    log = callbacks.RunLog(run.metrics, settings.to_record())
    checkpoint = callbacks.Checkpoint(
        run.checkpoints, every=settings.checkpoint_every, extra_state=lambda: log.epochs
    )
    per_epoch = steps_per_epoch(len(data.x_train), settings.batch_size)
    state = checkpoint.restore(model) if settings.resume else None
    first_step = 0
    if state is not None:
        first_step = state["step"]
        log.epochs = list(state["extra"])
        if first_step % per_epoch:
            checkpoint.continue_epoch()
        print(f"Resumed at step {first_step}.", flush=True)
    board = keras.callbacks.TensorBoard(run.logs, write_graph=False)
    every = [callbacks.StopOnDivergence(), log, *extra_callbacks, board, checkpoint]
    for first_epoch, epochs, steps in segments(
        first_step, num_steps(settings, len(data.x_train)), per_epoch
    ):
        batches = training_batches(data.x_train, settings.batch_size, settings.seed, first_step)
        model.fit(
            batches,
            initial_epoch=first_epoch,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,
            callbacks=every,
            # A bar with the time left for a person, a line per epoch for a log file.
            verbose=1 if sys.stdout.isatty() else 2,
        )
        first_step += (epochs - first_epoch) * steps
    return log


def finish(
    model: keras.Model,
    data: ImageData,
    settings: RunSettings,
    log: callbacks.RunLog,
    run: RunDirectory,
    started: float,
) -> dict[str, Any]:
    """Evaluates on the test images, which nothing before has seen, and writes the final record.

    Returns:
        The record: steps, seconds of this session, peak memory, and test figures (None where
        the data have no test images): every metric of the model, the reconstruction error on
        the [0, 1] scale, and mean and standard deviation of the anomaly score.
    """
    test = None
    if len(data.x_test):
        x = to_float(data.x_test)
        batches = tf.data.Dataset.from_tensor_slices(x).batch(settings.batch_size)
        figures = model.evaluate(batches, return_dict=True, verbose=0)
        scores = model.score(x, seed=settings.seed)
        test = {
            "num_examples": len(x),
            **{name: float(value) for name, value in figures.items()},
            "reconstruction_mse_unit_range": float(figures["reconstruction_mse"]) / 4.0,
            "score_mean": float(np.mean(scores)),
            "score_std": float(np.std(scores)),
        }
    final = {
        "steps": int(model.step.numpy()),
        "epochs": len(log.epochs),
        "session_seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": round(_peak_memory_mib()),
        "test": test,
    }
    log.write(final)
    return final


def summary(final: dict[str, Any]) -> str:
    """The final record in a few lines for a person."""
    lines = [
        f"{final['steps']} steps, {final['session_seconds']} s in this session, "
        f"{final['peak_memory_mib']} MiB at most."
    ]
    test = final["test"]
    if test is None:
        lines.append("There are no test images, and so no test figures.")
    else:
        lines.append(
            f"On {test['num_examples']} test images: reconstruction error "
            f"{test['reconstruction_mse']:.4f} per pixel on [-1, 1] "
            f"({test['reconstruction_mse_unit_range']:.4f} on [0, 1]), anomaly score "
            f"{test['score_mean']:.1f} +- {test['score_std']:.1f}."
        )
    return "\n".join(lines)


def make_deterministic(seed: int) -> None:
    """Seeds the weights, and has TensorFlow's kernels repeat themselves bit for bit."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0**2 if sys.platform == "darwin" else 1024.0)


def decay_schedule(
    learning_rate: float, decay: float, per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """`learning_rate * decay ** epoch`, as a function of the optimizer's own step."""
    if not math.isfinite(decay) or not 0 < decay <= 1:
        raise InvalidInputError(f"A decay per epoch must lie in (0, 1]. Received {decay}.")
    return keras.optimizers.schedules.ExponentialDecay(
        learning_rate, per_epoch, decay, staircase=True
    )

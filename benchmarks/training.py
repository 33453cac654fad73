"""What `fit` costs beyond the learning steps themselves, and what a first step costs.

  python -m benchmarks training                 a table
  python -m benchmarks training --json FILE     and a record

The default model of `train/latent_ebm.py` (28 x 28, batches of 50). "fit": an epoch of 20 steps by
`model.fit` on a `tf.data.Dataset`, metrics and progress off; "bare": the same train function called
on the same dataset 20 times, in the same process. "First step": tracing and compiling included, in
a new process each time, imports not counted. Every number is the median of at least five, after a
warm-up but for the first steps; both sides in turns. CPU only.
"""

import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

import tfebm
from benchmarks import images, timing

STEPS = 20
PRESET = images.PRESETS["laptop"]
CHILD = "from benchmarks import training; training.first_step()"


def make() -> tuple[tfebm.LatentEBM, tf.data.Dataset]:
    """The model and an epoch."""
    shape = (STEPS * PRESET.batch, *PRESET.image_shape)
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    model = images.make_model(PRESET, "float32", 20)
    return model, tf.data.Dataset.from_tensor_slices(x).batch(PRESET.batch).cache()


def first_step() -> None:
    """Prints the seconds of a first step and of a second one."""
    timing.use_cpu_only()
    model, batches = make()
    for _ in range(2):
        started = time.perf_counter()
        model.fit(batches.take(1), verbose=0)
        print(time.perf_counter() - started)


def main() -> None:
    options = timing.options(__doc__)
    timing.use_cpu_only()
    machine = timing.machine()
    model, batches = make()
    model.make_train_function()

    def bare() -> None:
        iterator = iter(batches)
        for _ in range(STEPS):
            logs = model.train_function(iterator)
        # As `fit` does at the end of an epoch.
        _ = {name: float(value) for name, value in logs.items()}

    sides = {"bare": bare, "fit": lambda: model.fit(batches, verbose=0)}
    found = {k: timing.summary(t) for k, t in timing.seconds(sides, options.repeats).items()}
    over = found["fit"]["median_seconds"] / found["bare"]["median_seconds"] - 1
    print(f"\n{STEPS} steps, bare: {found['bare']['median_seconds']:.3f} s")
    print(f"{STEPS} steps by fit: {found['fit']['median_seconds']:.3f} s, {over:+.1%}")
    pairs = []
    for _ in range(options.repeats):
        command = [sys.executable, "-c", CHILD]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        pairs.append([float(line) for line in output.split()])
    first, second = (timing.summary(times) for times in zip(*pairs, strict=True))
    print(
        f"first step: {first['median_seconds']:.1f} s; the second: {second['median_seconds']:.2f} s"
    )
    steps = {"steps": STEPS, **found, "fit_over_bare": over}
    record = {"machine": machine, "fit": steps, "first_step": first, "second_step": second}
    timing.write(options.json, record)


if __name__ == "__main__":
    main()

"""What choosing step sizes while training costs, against the training itself.

  python -m benchmarks step_size                 a table
  python -m benchmarks step_size --json FILE     and a record

The generator of `train/short_run.py` on random images of the size of digits, with chains of 10
steps (half the script's): an epoch is 90 training steps of 50 examples. A search is what
`tfebm.callbacks.StepSizeTuner` does between epochs: 32 examples (4 for "entropy"), five values
around the last choice, for "kl" the stochastic log-determinant. Every number is the median of at
least five runs after a warm-up, all taken in turns.
"""

import statistics

import keras
import numpy as np
import tensorflow as tf

import tfebm
from benchmarks import timing

STEPS_PER_EPOCH, BATCH = 90, 50
EVERY = 3  # epochs, the script's default
STEPS_TIMED = 9


def targets() -> dict:
    """A part of an epoch, and a search by each criterion, as functions without arguments."""
    x = np.random.default_rng(0).uniform(-1, 1, (STEPS_TIMED * BATCH, 28, 28, 1)).astype("float32")
    generator = tfebm.MultilayerGenerator((28, 28, 1), (8, 8, 16), width=16, upsamplings=2)
    model = tfebm.ShortRunModel(generator, posterior_sampler=tfebm.ShortRunLangevin(10, 0.05))
    model.compile("adam")
    batches = tf.data.Dataset.from_tensor_slices(x).batch(BATCH).cache()
    timed = {"training": lambda: model.fit(batches, verbose=0, shuffle=False)}
    for criterion in ("kl", "ksd", "entropy"):
        tuner = tfebm.callbacks.StepSizeTuner(x, criterion=criterion, apply=False)
        tuner.set_model(model)
        tuner.tune(epoch=0)  # the search over the whole range; later ones are around a choice
        timed[criterion] = lambda tuner=tuner: tuner.tune(epoch=1)
    return timed


def main() -> None:
    options = timing.options(__doc__)
    keras.utils.set_random_seed(0)
    machine = timing.machine()
    times = timing.seconds(targets(), options.repeats)
    epoch = statistics.median(times.pop("training")) * STEPS_PER_EPOCH / STEPS_TIMED
    print(f"\nan epoch of training: {epoch:.2f} s\n")
    print(f"{'criterion':<12}{'a search, s':>12}{f'of training, every {EVERY} epochs':>36}")
    rows = []
    for criterion, measured in times.items():
        median = statistics.median(measured)
        row = {
            "criterion": criterion,
            "median_seconds": median,
            "spread_seconds": [min(measured), max(measured)],
            "share_of_training": median / (EVERY * epoch),
        }
        rows.append(row)
        print(f"{criterion:<12}{median:>12.2f}{row['share_of_training']:>36.1%}", flush=True)
    record = {"machine": machine, "epoch_seconds": epoch, "rows": rows}
    timing.write(options.json, record)


if __name__ == "__main__":
    main()

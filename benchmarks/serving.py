"""How fast an exported scorer and generator answer, against the same calls in Python.

  python -m benchmarks serving                 a table
  python -m benchmarks serving --json FILE     and a record

The default model of `train/latent_ebm.py` (28 x 28 digits, K_1 = 20, K_0 = 60), untrained, scores
and draws batches of 1, 8 and 64 images: through a session of TensorFlow 1 on the export, which is
what a server runs; through `tf.saved_model.load`; and in Python by a `tf.function` of the same row
function, the plain graph. All of them must give the same before anything is timed. Every number is
the median of at least five runs of several calls after a warm-up, all sides taken in turns.
"""

import functools
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "train"))
import latent_ebm

from benchmarks import timing
from tfebm import random, serving

SHAPE = (28, 28, 1)
BATCHES = {1: 40, 8: 20, 64: 5}
"""Sizes, and calls in a run."""
SPECS = {
    "image": tf.TensorSpec([None, *SHAPE]),
    "seed": tf.TensorSpec([None, 2], tf.int32),
}
HERE = "Python, plain graph"


def sides(
    version: pathlib.Path, signature: str, output: str, row_function: Callable
) -> dict[str, Callable]:
    """`output` of a signature for its inputs, by who gives it."""
    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session()
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(version))
    found = meta.signature_def[signature]
    names = [name for name in ("image", "seed") if name in found.inputs]
    served = session.make_callable(
        found.outputs[output].name, [found.inputs[name].name for name in names]
    )
    loaded = tf.saved_model.load(version)
    specs = [SPECS[name] for name in names]
    here = tf.function(row_function, input_signature=specs, autograph=False)

    def by_object(*arrays: np.ndarray) -> np.ndarray:
        # `loaded` is named here, since its variables live only as long as it does.
        inputs = {name: tf.constant(array) for name, array in zip(names, arrays, strict=True)}
        return loaded.signatures[signature](**inputs)[output].numpy()

    return {
        "export, session": served,
        "export, saved_model.load": by_object,
        HERE: lambda *arrays: here(*map(tf.constant, arrays)).numpy(),
    }


def calls(function: Callable, arrays: list[np.ndarray], count: int) -> Callable[[], None]:
    """A run of `count` calls."""

    def run() -> None:
        for _ in range(count):
            function(*arrays)

    return run


def measure(what: str, functions: dict[str, Callable], repeats: int) -> list[dict]:
    """The rows of `what`, "score" or "generate", in all sizes of batches."""
    rows = []
    for size, count in BATCHES.items():
        image = np.random.default_rng(0).uniform(-1, 1, (size, *SHAPE)).astype("float32")
        seed = random.as_row_seeds(0, size).numpy()
        arrays = [image, seed] if what == "score" else [seed]
        expected = functions[HERE](*arrays)
        for function in functions.values():
            # Images in [-1, 1] after 60 steps, and scores of hundreds of nats after 20.
            np.testing.assert_allclose(function(*arrays), expected, rtol=1e-5, atol=1e-4)
        times = timing.seconds(
            {name: calls(f, arrays, count) for name, f in functions.items()}, repeats
        )
        reference = statistics.median(times[HERE])
        for name, measured in times.items():
            median = statistics.median(measured)
            row = {
                "signature": what,
                "batch": size,
                "side": name,
                "calls_in_a_run": count,
                **timing.summary(measured),
                "rows_per_second": size * count / median,
                "speed_of_python": reference / median,
            }
            rows.append(row)
            low, high = (1e3 * x / count for x in row["spread_seconds"])
            print(
                f"{what:<10}{size:>6}  {name:<26}{row['rows_per_second']:>9.0f}"
                f"{row['speed_of_python']:>11.2f}{low:>11.2f} .. {high:.2f}",
                flush=True,
            )
    return rows


def main() -> None:
    options = timing.options(__doc__)
    keras.utils.set_random_seed(0)
    machine = timing.machine()
    model = latent_ebm.make_model(latent_ebm.Settings(), SHAPE, 5000)
    print(
        f"\n{'signature':<10}{'batch':>6}  {'side':<26}{'rows/s':>9}{'of Python':>11}"
        f"{'ms, min .. max':>20}"
    )
    with tempfile.TemporaryDirectory() as folder:
        export = serving.export(model, folder, "digits")
        score = functools.partial(model.score_rows, compiled=False)
        generate = functools.partial(model.generate_rows, compiled=False)
        rows = [
            *measure("score", sides(export.scorer, "score", "score", score), options.repeats),
            *measure(
                "generate", sides(export.generator, "generate", "image", generate), options.repeats
            ),
        ]
    timing.write(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()

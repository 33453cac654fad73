"""How fast an exported scorer answers, against the same call in Python.

  python -m benchmarks serving                 a table
  python -m benchmarks serving --json FILE     and a record

The default model of `train/latent_ebm.py` (28 x 28 digits, K = 20), untrained, scores batches of
1, 8 and 64 images: through a session of TensorFlow 1 on the export, which is what a server runs;
through `tf.saved_model.load`; and in Python by a `tf.function` of `model.score_rows`, the plain
graph. All of them must give the same scores before anything is timed. Every number is the median of
at least five runs of several calls after a warm-up, all sides taken in turns.
"""

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

import tfebm
from benchmarks import timing
from tfebm import random, serving

SHAPE = (28, 28, 1)
BATCHES = {1: 40, 8: 20, 64: 5}
"""Sizes, and calls in a run."""
HERE = "Python, plain graph"


def sides(model: tfebm.LatentEBM, scorer: pathlib.Path) -> dict[str, Callable]:
    """The scores of images `[B, 28, 28, 1]` for seeds `[B, 2]`, by who gives them."""
    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session()
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(scorer))
    signature = meta.signature_def["score"]
    feeds = [signature.inputs[key].name for key in ("image", "seed")]
    served = session.make_callable(signature.outputs["score"].name, feeds)
    loaded = tf.saved_model.load(scorer)
    specs = [tf.TensorSpec([None, *SHAPE]), tf.TensorSpec([None, 2], tf.int32)]

    @tf.function(input_signature=specs, autograph=False)
    def here(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return model.score_rows(image, seed, compiled=False)

    def by_object(image: np.ndarray, seed: np.ndarray) -> np.ndarray:
        # `loaded` is named here, since its variables live only as long as it does.
        score = loaded.signatures["score"]
        return score(image=tf.constant(image), seed=tf.constant(seed))["score"].numpy()

    return {
        "export, session": served,
        "export, saved_model.load": by_object,
        HERE: lambda image, seed: here(tf.constant(image), tf.constant(seed)).numpy(),
    }


def calls(score: Callable, image: np.ndarray, seed: np.ndarray, count: int) -> Callable[[], None]:
    """A run of `count` calls."""

    def run() -> None:
        for _ in range(count):
            score(image, seed)

    return run


def main() -> None:
    options = timing.options(__doc__)
    keras.utils.set_random_seed(0)
    machine = timing.machine()
    model = latent_ebm.make_model(latent_ebm.Settings(), SHAPE, 5000)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        functions = sides(model, serving.export(model, folder, "digits").scorer)
        print(f"\n{'batch':>6}  {'scorer':<26}{'rows/s':>9}{'of Python':>11}{'ms, min .. max':>20}")
        for size, count in BATCHES.items():
            image = np.random.default_rng(0).uniform(-1, 1, (size, *SHAPE)).astype("float32")
            seed = random.as_row_seeds(0, size).numpy()
            expected = functions[HERE](image, seed)
            for score in functions.values():
                np.testing.assert_allclose(score(image, seed), expected, rtol=1e-5)
            runs = {name: calls(f, image, seed, count) for name, f in functions.items()}
            times = timing.seconds(runs, options.repeats)
            reference = statistics.median(times[HERE])
            for name, measured in times.items():
                median = statistics.median(measured)
                row = {
                    "batch": size,
                    "scorer": name,
                    "calls_in_a_run": count,
                    "median_seconds": median,
                    "spread_seconds": [min(measured), max(measured)],
                    "rows_per_second": size * count / median,
                    "speed_of_python": reference / median,
                }
                rows.append(row)
                low, high = (1e3 * x / count for x in row["spread_seconds"])
                print(
                    f"{size:>6}  {name:<26}{row['rows_per_second']:>9.0f}"
                    f"{row['speed_of_python']:>11.2f}{low:>11.2f} .. {high:.2f}",
                    flush=True,
                )
    timing.write(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()

"""What a bulk job costs beyond the scorer itself.

  python -m benchmarks bulk                 a table
  python -m benchmarks bulk --json FILE     and a record

100,000 rows through `tfebm.serving.bulk.score` with Beam's direct runner, from the files to the
CSV, loading the export included; and through the bare scorer: the loaded export called on batches
of the same size, of arrays that lie in memory decoded, with their seeds. Digits are PNGs in a
TFRecord file, for a `tfebm.LatentEBM` with a chain of 3 steps on a small generator; sentences of
the grammar are lines of a text file, for a `tfebm.LanguageModel`, which has no chain at all. Both
are much cheaper a row than what one would score in earnest, so that the job itself shows.

The scores of the job have to be those of the bare scorer. Every number is the median of at least
five runs after a warm-up, both sides taken in turns. CPU only.
"""

import io
import logging
import pathlib
import statistics
import tempfile

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from pyarrow import csv

import tfebm
from benchmarks import timing
from tfebm import data
from tfebm.serving import bulk, records, served

ROWS, TOLERANCE = 100_000, 1e-4


def digits(folder: pathlib.Path) -> tuple[str, np.ndarray]:
    """Exports a model, and writes images that it scores; the glob, and the images."""
    keras.utils.set_random_seed(0)
    model = tfebm.LatentEBM(
        tfebm.DeconvGenerator((28, 28, 1), 4),
        tfebm.EnergyMLP((200, 200)),
        latent_size=16,
        posterior_sampler=tfebm.ShortRunLangevin(3, 0.1),
    )
    tfebm.serving.export(model, folder, "digits")
    images = data.load_images("mnist5k").x_train
    images = images[np.arange(ROWS) % len(images)]
    with tf.io.TFRecordWriter(str(folder / "digits.tfrecord")) as writer:
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image[..., 0]).save(file, "PNG")
            value = tf.train.BytesList(value=[file.getvalue()])
            features = {"image": tf.train.Feature(bytes_list=value)}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return "digits.tfrecord", data.to_float(images).numpy()


def sentences(folder: pathlib.Path) -> tuple[str, np.ndarray]:
    """The same of sentences."""
    keras.utils.set_random_seed(0)
    lines = data.default_grammar().derive(10_000, seed=0).sentences
    tokenizer = tfebm.tokenizers.WordTokenizer.learn(lines)
    lines = [lines[row % len(lines)] for row in range(ROWS)]
    model = tfebm.LanguageModel(tfebm.AutoregressiveGenerator(tokenizer, 64, 128))
    tfebm.serving.export(model, folder, "sentences")
    (folder / "sentences.txt").write_text("\n".join(lines) + "\n")
    return "sentences.txt", np.array([line.encode() for line in lines], object)


class Sides:
    """The job and the bare scorer, as functions without arguments that keep their last scores."""

    def __init__(
        self, folder: pathlib.Path, name: str, file: str, values: np.ndarray, batch_size: int
    ) -> None:
        self.model, self.file, self.output = folder / name, folder / file, folder / "scores"
        self.values, self.batch_size = values, batch_size
        self.scorer = served.Loaded(served.find(str(self.model), "scorer", "score"))
        self.seeds = records.key_seeds(0, [f"{file}:{number + 1}" for number in range(ROWS)])
        self.scores = np.zeros(0)

    def bare(self) -> None:
        size = self.batch_size
        starts = range(0, ROWS, size)
        parts = [self.scorer(self.values[s : s + size], self.seeds[s : s + size]) for s in starts]
        self.scores = np.concatenate([part["score"] for part in parts])

    def job(self) -> None:
        given = (str(self.model), str(self.file), str(self.output))
        counts = bulk.score(*given, batch_size=self.batch_size, overwrite=True)
        if counts["scored"] != ROWS:
            raise SystemExit(f"All {ROWS} rows must be scored. The counts are {counts}.")

    def apart(self) -> float:
        """How far the scores in the job's file are from the bare ones, relatively."""
        (shard,) = self.output.parent.glob("scores-[0-9]*.csv")
        table = csv.read_csv(shard)
        numbers = [int(key.rsplit(":", 1)[1]) - 1 for key in table["key"].to_pylist()]
        scores = np.full(ROWS, np.nan)
        scores[numbers] = table["score"].to_numpy()
        apart = np.max(np.abs(scores - self.scores) / np.maximum(1.0, np.abs(self.scores)))
        if not apart < TOLERANCE:
            raise SystemExit(f"Scores must agree to {TOLERANCE:g}. They are {apart:.1e} apart.")
        return float(apart)


def measure(sides: Sides, repeats: int) -> dict:
    """A row of the table."""
    times = timing.seconds({"bare": sides.bare, "job": sides.job}, repeats)
    apart = sides.apart()
    medians = {side: statistics.median(measured) for side, measured in times.items()}
    row = {
        "rows": sides.model.name,
        "batch_size": sides.batch_size,
        "median_seconds": medians,
        "spread_seconds": {side: [min(t), max(t)] for side, t in times.items()},
        "ratio": medians["job"] / medians["bare"],
        "scores_apart": apart,
    }
    print(
        f"{row['rows']:<12}{sides.batch_size:>6}{medians['bare']:>10.1f}{medians['job']:>10.1f}"
        f"{row['ratio']:>8.2f}{apart:>10.1e}",
        flush=True,
    )
    return row


def main() -> None:
    options = timing.options(__doc__)
    logging.getLogger().setLevel(logging.ERROR)
    tf.config.set_visible_devices([], "GPU")
    machine = {**timing.machine(), "apache_beam": bulk.beam.__version__}
    print(f"Apache Beam {machine['apache_beam']}, {ROWS} rows\n")
    print(f"{'':<12}{'batch':>6}{'bare, s':>10}{'job, s':>10}{'ratio':>8}{'apart':>10}")
    rows = []
    for make, batch_sizes in ((sentences, (64, 256)), (digits, (64,))):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            file, values = make(folder)
            for batch_size in batch_sizes:
                sides = Sides(folder, make.__name__, file, values, batch_size)
                rows.append(measure(sides, options.repeats))
    record = {"machine": machine, "num_rows": ROWS, "rows": rows}
    timing.write(options.json, record)


if __name__ == "__main__":
    main()

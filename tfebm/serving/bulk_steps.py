"""Steps of bulk jobs in Apache Beam: reading, decoding, `RunInference`, writing.

What flows is blocks of rows, not rows: a row then costs none of a runner's steps.
"""

import collections
import dataclasses
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.utils.windowed_value import WindowedValue
from pyarrow import csv

from tfebm import files, pictures, random
from tfebm.serving import records, served
from tfebm.serving.served import Served

# Beam makes a regular expression of a glob, and of the "[[]" that stands for a bracket one at which
# Python wonders.
warnings.filterwarnings("ignore", "Possible nested set", FutureWarning)

CHANNELS = (1, 2, 3, 4)
"""Of a PNG: grey, and colours, each with transparency and without."""
TAGS = ("broken", "counts")
"""Side outputs of `Read` and `Decode`: lists of `records.Broken`; pairs of a name and a number."""
_BLOCKS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Rows:
    """A block of what a model is given."""

    keys: list[str]
    values: np.ndarray | None
    """`[N, *shape]` float32, N objects of bytes, or None for a generator."""
    seeds: np.ndarray
    """int32 `[N, 2]`."""

    def __len__(self) -> int:
        return len(self.keys)


@dataclasses.dataclass(frozen=True)
class Answers:
    """A block of what a model gave."""

    keys: list[str]
    columns: dict[str, np.ndarray]
    """`[N, ...]` each, by the names of the signature's outputs."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_flagged(self) -> int:
        """Rows with a NaN or an infinity in them."""
        bad = np.zeros(len(self), bool)
        for column in self.columns.values():
            if column.dtype.kind == "f":
                bad |= ~np.isfinite(column.reshape(len(self), -1)).all(axis=1)
        return int(bad.sum())


class SavedModelHandler(ModelHandler[Rows, Answers, served.Loaded]):
    """Runs a signature of an export on blocks; loaded once a process.

    Args:
        found: Of `tfebm.serving.served.find`.
        columns: The outputs that are kept.
    """

    def __init__(self, found: Served, columns: Sequence[str]) -> None:
        super().__init__()
        self._served, self._columns = found, tuple(columns)

    def load_model(self) -> served.Loaded:
        """Loads the export."""
        return served.Loaded(self._served)

    def run_inference(
        self, batch: Rows, model: served.Loaded, inference_args: Mapping[str, Any] | None = None
    ) -> list[Answers]:
        """A block's answers."""
        found = model(batch.values, batch.seeds)
        return [Answers(batch.keys, {name: found[name] for name in self._columns})]

    def get_num_bytes(self, batch: Rows) -> int:
        """For Beam's metrics."""
        return batch.seeds.nbytes + (0 if batch.values is None else batch.values.nbytes)

    def get_metrics_namespace(self) -> str:
        """Where Beam's metrics of this are."""
        return "tfebm"


class Read(beam.DoFn):
    """Paths, as bytes, to blocks of `records.Record`s, which go on over the ends of files.

    Args:
        base: The part of the paths that is no part of the keys.
        kind: Of `records.KINDS`.
        batch_size: Of a block; the last one of a bundle may be smaller.
    """

    def __init__(self, base: str, kind: str, batch_size: int) -> None:
        self._base, self._kind, self._batch_size = base, kind, batch_size

    def start_bundle(self) -> None:
        self._block: list[records.Record] = []

    def process(self, encoded_path: bytes) -> Iterator[Any]:
        """The records of a file; those that cannot be read go to "broken"."""
        path = os.fsdecode(encoded_path)
        name = files.storable(path.removeprefix(self._base))
        num_read = 0
        for record in self._records(path, name):
            num_read += 1
            if isinstance(record, records.Broken):
                yield beam.pvalue.TaggedOutput("broken", [record])
                continue
            self._block.append(record)
            if len(self._block) == self._batch_size:
                yield self._block
                self._block = []
        yield beam.pvalue.TaggedOutput("counts", ("read", num_read))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._block:
            yield _in_global_window(self._block)

    def _records(self, path: str, name: str) -> Iterator[records.Record | records.Broken]:
        try:
            file = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        except (OSError, BeamIOError) as error:
            yield records.Broken(name, f"the file cannot be opened: {error}")
            return
        with file:
            yield from records.read(self._kind, file, name)


class Decode(beam.DoFn):
    """Blocks of records to `Rows`, some blocks ahead of the model.

    A runner hands a block on as soon as it is there, and comes back when the model is done with it.
    The next ones are decoded meanwhile, in a thread.

    Args:
        decoder: What a record becomes.
        seed: Of the rows' streams, with their keys.
    """

    def __init__(self, decoder: records.Decoder, seed: int) -> None:
        self._decoder, self._seed = decoder, seed

    def setup(self) -> None:
        self._thread = futures.ThreadPoolExecutor(1)

    def teardown(self) -> None:
        self._thread.shutdown()

    def start_bundle(self) -> None:
        self._ahead: collections.deque[futures.Future[records.Decoded]] = collections.deque()

    def process(self, block: Sequence[records.Record]) -> Iterator[Any]:
        """The rows of an earlier block; what cannot be used goes to "broken"."""
        self._ahead.append(self._thread.submit(self._decoder, block))
        if len(self._ahead) > _BLOCKS_AHEAD:
            for tag, rows in self._next():
                yield beam.pvalue.TaggedOutput(tag, rows) if tag else rows

    def finish_bundle(self) -> Iterator[Any]:
        """The last blocks."""
        while self._ahead:
            for tag, rows in self._next():
                value = _in_global_window(rows)
                yield beam.pvalue.TaggedOutput(tag, value) if tag else value

    def _next(self) -> Iterator[tuple[str | None, Any]]:
        keys, values, broken = self._ahead.popleft().result()
        if broken:
            yield "broken", broken
        if keys:
            yield None, Rows(keys, values, records.key_seeds(self._seed, keys))


def _in_global_window(value: Any) -> WindowedValue:
    window = beam.transforms.window.GlobalWindow()
    return WindowedValue(value, window.max_timestamp(), [window])


def ranges(number: int, size: int) -> Iterator[range]:
    """0, 1, ..., `number` - 1 in parts of `size`."""
    for start in range(0, number, size):
        yield range(start, min(start + size, number))


def numbered(numbers: range, seed: int, width: int) -> Rows:
    """Rows of a generator: their numbers as keys, and the streams of `random.as_row_seeds`."""
    keys = [f"{number:0{width}d}" for number in numbers]
    seeds = random.fold_in(random.root_seed(seed), np.array(numbers, np.int32))
    return Rows(keys, None, seeds.numpy())


def count_answers(answers: Answers, name: str) -> list[tuple[str, int]]:
    """How many there are, under `name`, and how many of them are flagged."""
    return [(name, len(answers)), ("flagged", answers.num_flagged)]


def as_json(counts: Mapping[str, int], names: Sequence[str]) -> str:
    """The counts of a job; those of which there was nothing to count are 0."""
    return json.dumps({name: counts.get(name, 0) for name in names}, indent=2)


# ---- Files --------------------------------------------------------------------------------


def write_table(
    answers: beam.PCollection, output: str, table: str, columns: Mapping[str, str]
) -> None:
    """Writes keys and columns, whose types are given by their names, as "csv" or "parquet"."""
    schema = pa.schema(
        [("key", pa.string()), *((k, pa.type_for_alias(v)) for k, v in columns.items())]
    )
    if table == "csv":
        _ = answers | "Write" >> lines_to(output, schema.names, _answers_as_csv, schema)
        return
    _ = (
        answers
        | "Tables" >> beam.Map(_as_table, schema)
        | "Write"
        >> beam.io.WriteToParquetBatched(
            output, schema, codec="snappy", file_name_suffix=".parquet"
        )
    )


@beam.ptransform_fn
def lines_to(
    blocks: beam.PCollection, prefix: str, header: Iterable[str], as_csv: Any, *arguments: Any
) -> beam.PCollection:
    """Writes blocks as CSV files; `as_csv` makes a block's lines, without the end of the last."""
    return (
        blocks
        | beam.Map(as_csv, *arguments)
        | beam.io.WriteToText(prefix, file_name_suffix=".csv", header=",".join(header))
    )


def _as_table(answers: Answers, schema: pa.Schema) -> pa.Table:
    columns: list[Any] = [answers.keys]
    for name in schema.names[1:]:
        values = answers.columns[name]
        if values.dtype == object:
            columns.append([text.decode("utf-8", "replace") for text in values])
        else:
            columns.append(values)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _answers_as_csv(answers: Answers, schema: pa.Schema) -> bytes:
    return _table_as_csv(_as_table(answers, schema))


def broken_as_csv(block: Sequence[records.Broken]) -> bytes:
    """Keys and reasons, as lines."""
    names = records.Broken._fields
    return _table_as_csv(
        pa.table(dict(zip(names, map(list, zip(*block, strict=True)), strict=True)))
    )


def _table_as_csv(table: pa.Table) -> bytes:
    """Lines without a header, and without the end of the last one."""
    lines = io.BytesIO()
    csv.write_csv(table, lines, csv.WriteOptions(include_header=False))
    return lines.getvalue().removesuffix(b"\n")


def _pngs(answers: Answers) -> Iterator[tuple[str, bytes]]:
    from PIL import Image

    pixels = pictures.to_pixels(answers.columns["image"])
    for key, image in zip(answers.keys, pixels, strict=True):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
        yield key, file.getvalue()


def write_pngs(answers: Answers, output: str) -> None:
    """Writes images as `<output>-<key>.png`."""
    for key, png in _pngs(answers):
        with FileSystems.create(
            f"{output}-{key}.png", "image/png", CompressionTypes.UNCOMPRESSED
        ) as file:
            file.write(png)


def as_examples(answers: Answers, name: str) -> Iterator[bytes]:
    """`tf.train.Example`s with a feature `name`: encoded PNGs of images, or floats where there is
    no PNG of them."""
    arrays = answers.columns[name]
    if name == "image" and arrays.shape[-1] in CHANNELS:
        pairs = ((k, {"bytes_list": tf.train.BytesList(value=[png])}) for k, png in _pngs(answers))
    else:
        pairs = (
            (key, {"float_list": tf.train.FloatList(value=array.ravel())})
            for key, array in zip(answers.keys, arrays, strict=True)
        )
    for key, value in pairs:
        features = {
            "key": tf.train.Feature(bytes_list=tf.train.BytesList(value=[key.encode()])),
            name: tf.train.Feature(**value),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        yield example.SerializeToString(deterministic=True)

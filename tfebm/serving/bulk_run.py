"""Running a bulk job to its end on a Beam runner, and counting what it left."""

import argparse
import difflib
import errno
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from pyarrow import csv

from tfebm.errors import InvalidInputError, JobFailed, WriteFailed
from tfebm.serving import bulk_steps, records

IN_PROCESS = "DirectRunner"
"""The default runner: this process, or several of this machine with Beam's `--direct_...` flags."""
# Beam's own DirectRunner would first download another runner, Prism, and else take this one.
_IN_PROCESS_CLASS = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
SUMMARY = "-summary.json"
"""End of the name of a job's file of counts."""
_SHARD = f"-{'[0-9]' * 5}-of-{'[0-9]' * 5}"
_ENDINGS = {
    "csv": f"{_SHARD}.csv",
    "parquet": f"{_SHARD}.parquet",
    "tfrecord": f"{_SHARD}.tfrecord",
    "png": f"-{'[0-9]' * 8}*.png",
    "errors": f"-errors{_SHARD}.csv",
}
_BLOCK = 2**26  # bytes of a table that are read at a time; a row must fit
_TEMPORARY = re.compile("[0-9a-f]{32}")
# The last line of a traceback, in the text of an error that came from a worker.
_RAISED = re.compile(r"^(?:[A-Za-z_][\w.]*: )(.+?)(?: \[while running .*)?$", re.MULTILINE)
_FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def make_pipeline(runner: str, flags: Sequence[str]) -> beam.Pipeline:
    """A pipeline for a runner, with flags that it knows.

    Raises:
        InvalidInputError: A runner or flags that cannot be used.
    """

    def refuse(message: str) -> NoReturn:
        raise InvalidInputError(
            f"A flag of Beam's cannot be used: {message}. See its documentation."
        )

    parsers = []

    def keep(parser: argparse.ArgumentParser) -> None:
        vars(parser)["error"] = refuse  # which would print the usage of every flag, and exit
        parsers.append(parser)

    name = _IN_PROCESS_CLASS if runner == IN_PROCESS else runner
    try:
        options = PipelineOptions(list(flags), runner=name)
        options.get_all_options(add_extra_args_fn=keep)
        unknown = parsers[0].parse_known_args(list(flags))[1]
        # Other runners have flags that are known only where they run.
        if unknown and runner == IN_PROCESS:
            known = [o for action in parsers[0]._actions for o in action.option_strings]
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {near[0]}?" if near else " See --help, and Beam's documentation."
            raise InvalidInputError(
                f"Neither this program nor Beam's pipeline options know {' '.join(unknown)}.{hint}"
            )
        pipeline = beam.Pipeline(options=options)
    except InvalidInputError:
        raise
    except Exception as error:  # a runner raises whatever its own start stumbles over
        raise InvalidInputError(
            f"The runner {runner!r} cannot be used with these flags: {_reason(error)} Give another "
            f"one, or leave it out for {IN_PROCESS}."
        ) from None
    if any(kind.__name__ == "DaskRunner" for kind in type(pipeline.runner).__mro__):
        raise InvalidInputError(
            f"The runner {runner!r} cannot be used: it computes the last step of a pipeline alone, "
            "and a job writes in several. Take another one, such as "
            f"{IN_PROCESS} with --direct_num_workers."
        )
    return pipeline


class Job:
    """A pipeline that is complete but for its counts.

    Args:
        pipeline: Of `make_pipeline`.
        output: The start of the names of what it writes.
        runner: As it was asked for.
    """

    def __init__(self, pipeline: beam.Pipeline, output: str, runner: str) -> None:
        self._pipeline, self._output, self._runner = pipeline, output, runner

    def run(self, counts: Sequence[beam.PCollection], names: Sequence[str]) -> dict[str, int]:
        """Runs it to its end; the sums of the counts, which are also in a file.

        Raises:
            JobFailed: A runner that gave up.
            WriteFailed: A full disk.
        """
        summary = f"{self._output}{SUMMARY}"
        _ = (
            counts
            | "Counts" >> beam.Flatten()
            | beam.CombinePerKey(sum)
            | beam.combiners.ToDict()
            | "Summary" >> beam.Map(bulk_steps.as_json, names)
            | "Write summary" >> beam.io.WriteToText(summary, shard_name_template="")
        )
        try:
            state = self._pipeline.run().wait_until_finish()
        except Exception as error:  # whatever a runner, its server and its workers raise
            self._tidy()
            if any(text in str(error) for text in _FULL):
                raise WriteFailed(
                    f"{self._output}-* cannot be written: {_reason(error)}"
                ) from error
            raise self._failed(f"gave up: {_reason(error)}") from error
        if state != PipelineState.DONE:
            raise self._failed(f"ended the job as {state}, and its log says why.")
        if not FileSystems.exists(summary):
            raise self._failed(f"ended the job without writing {summary}.")
        with FileSystems.open(summary) as file:
            return json.loads(file.read())

    def check(self, kind: str, expected: int, what: str) -> None:
        """Counts what lies there.

        Some runners pass over steps that nothing depends on, and say that all went well.

        Args:
            kind: "csv", "parquet", "tfrecord", "png" or "errors".
            expected: How many there must be.
            what: Their name in a sentence.

        Raises:
            JobFailed: More or fewer.
        """
        pattern = f"{self._output}{_ENDINGS[kind]}"
        found = [file.path for file in FileSystems.match([pattern])[0].metadata_list]
        try:
            number = sum(_count(kind, path) for path in found)
        except (OSError, pa.ArrowException) as error:
            raise self._failed(
                f"ended the job, and {self._output}-* cannot be read again: {_reason(error)}"
            ) from error
        if number != expected:
            raise self._failed(
                f"ended the job, but {number} of {expected} {what} are in {self._output}-*."
            )

    def _failed(self, what: str) -> JobFailed:
        return JobFailed(
            f"The runner {self._runner} {what} Run the job again with --overwrite, or with another "
            f"--runner; without one it is {IN_PROCESS}."
        )

    def _tidy(self) -> None:
        """Removes the folders in which Beam had begun to write."""
        output = pathlib.Path(self._output)
        start = "beam-temp-"
        for path in output.parent.glob(f"{start}*"):
            name, _, number = path.name.removeprefix(start).rpartition("-")
            ours = name in (output.name, f"{output.name}-errors", f"{output.name}{SUMMARY}")
            if ours and _TEMPORARY.fullmatch(number):
                shutil.rmtree(path, ignore_errors=True)


def _count(kind: str, path: str) -> int:
    """The rows of a file; a picture is one."""
    if kind == "png":
        return 1
    with FileSystems.open(path) as file:
        if kind == "parquet":
            return pyarrow.parquet.ParquetFile(file).metadata.num_rows
        if kind == "tfrecord":
            rows = records.read("tfrecord", file, path)
            return sum(isinstance(row, records.Record) for row in rows)
        return sum(batch.num_rows for batch in _batches(file))


def _batches(file: Any) -> Iterator[pa.RecordBatch]:
    yield from csv.open_csv(
        file,
        csv.ReadOptions(block_size=_BLOCK),
        csv.ParseOptions(newlines_in_values=True),
        csv.ConvertOptions(include_columns=["key"], column_types={"key": pa.string()}),
    )


def _reason(error: Exception) -> str:
    """What an error says, without the traceback that its text holds where a worker raised it."""
    text = str(error).strip()
    raised = _RAISED.findall(text) if "Traceback" in text else []
    lines = raised[-1:] or text.splitlines()[:1] or [f"{type(error).__name__} without a message"]
    return f"{lines[0].strip()[:500].rstrip('. ')}."

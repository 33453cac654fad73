"""Scores files in bulk, and draws in bulk, with an export and Apache Beam's `RunInference`.

The answer for a row depends on its key and the seed alone, to float rounding: on no batch, no
bundle, no order and no runner.
"""

import glob
import os
import pathlib
import re
from collections.abc import Sequence

try:
    import apache_beam as beam
    import google_crc32c  # noqa: F401
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.ml.inference.base import RunInference

    from tfebm.serving import bulk_run, bulk_steps
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Bulk jobs run on Apache Beam, and {error.name} is not installed. Install it with "
        "`pip install -e '.[beam]'`, in the checkout.",
        name=error.name,
    ) from None

from tfebm import checks, files
from tfebm.data import pixels
from tfebm.errors import InvalidInputError, JobFailed
from tfebm.serving import records, served

IN_PROCESS = bulk_run.IN_PROCESS
"""The default runner."""
TABLES = ("csv", "parquet")
_FORMATS = {"text": TABLES, "image": ("png", "tfrecord"), "example": ("tfrecord",)}
_NUMBER = "[0-9]" * 5
# All that jobs write, behind their output.
_WRITTEN = (
    *(f"-{_NUMBER}-of-{_NUMBER}.{ending}" for ending in ("csv", "parquet", "tfrecord")),
    f"-errors-{_NUMBER}-of-{_NUMBER}.csv",
    f"-{'[0-9]' * 8}.png",
    bulk_run.SUMMARY,
)


def score(
    model: str,
    pattern: str,
    output: str,
    *,
    format: str = "csv",
    seed: int = 0,
    batch_size: int = 64,
    signature: str = "score",
    input_format: str | None = None,
    feature: str | None = None,
    key_feature: str | None = None,
    resize: bool = False,
    background: str = "white",
    overwrite: bool = False,
    runner: str = IN_PROCESS,
    flags: Sequence[str] = (),
) -> dict[str, int]:
    """Scores the records of files.

    Writes `<output>-*.csv` (or `.parquet`) with a row for each record, its key and the signature's
    outputs of one value a row; `<output>-errors-*.csv` with the key and the reason of each record
    that cannot be read; and `<output>-summary.json`. Rows are in no order.

    A row's noise is keyed by (seed, key): `tfebm.serving.records.key_seeds`. Keys are
    "file:number", the file below the fixed part of the glob and the number from 1 on; of images
    "file"; or what `key_feature` holds, which then also survives that records move to other files.

    Args:
        model: The folder of an export, or of one of its versions.
        pattern: A glob of files, all of one kind; `.gz` is unpacked. A folder or a file that exists
            under its name as written is meant, whatever brackets are in it.
        output: The common start of the files written, on this machine; its folder is made.
        format: "csv" or "parquet".
        seed: Of the noise, 64 bits.
        batch_size: Records that are read and scored at a time.
        signature: Of the scorer.
        input_format: "tfrecord", "image" or "text"; by default as the files' names say.
        feature: Of the `tf.train.Example`s in TFRecord files; by default the name of what the model
            takes, "image", "text" or "example".
        key_feature: Likewise, one with the record's key.
        resize: Cut and resize images of another size rather than report them.
        background: The colour behind transparent pixels, a name or `#rrggbb`.
        overwrite: Delete what an earlier job wrote under `output`.
        runner: A Beam runner; the default one works in this process.
        flags: For Beam's `PipelineOptions`.

    Returns:
        Counts: "read", "scored", "unreadable", and "flagged", those of the scored whose score is
        NaN or infinite. Read is scored and unreadable.

    Raises:
        InvalidInputError: A model, files or flags that cannot be used.
        JobFailed: A runner that gave up, or that did not write all.

    Example:

        >>> counts = score("savedmodels/mnist5k", "photos/*.png", "scores/photos", seed=1)
    """
    checks.check_count("batch_size", batch_size)
    served.check_seed(seed)
    _check_choice("format", format, TABLES)
    found = served.find(model, "scorer", signature)
    if not found.columns:
        raise InvalidInputError(
            f"The signature {signature!r} gives no single value a row; it gives "
            f"{', '.join(sorted(found.outputs))}. Take another one, such as 'score'."
        )
    pattern, base = _literal_start(_absolute(pattern))
    paths = _matching(pattern)
    kind = _kind(paths, input_format, found.input)
    if resize:
        records.check_resize(found.shape)
    pixels.parse_colour(background)
    decoder = records.Decoder(
        kind, found.input, found.shape, feature or found.input, key_feature, resize, background
    )
    pipeline = bulk_run.make_pipeline(runner, flags)
    output = _prepare(output, overwrite, keep=paths)

    read = (
        pipeline
        # As bytes: the names of files need not be UTF-8, which Beam's strings are.
        | "List" >> beam.Create([os.fsencode(path) for path in paths])
        | "Spread files" >> beam.Reshuffle()
        | "Read"
        >> beam.ParDo(bulk_steps.Read(base, kind, batch_size)).with_outputs(
            *bulk_steps.TAGS, main="blocks"
        )
    )
    blocks = read.blocks
    if runner != IN_PROCESS:
        # Here a block would only be copied, and all of them held in memory.
        blocks = blocks | "Spread blocks" >> beam.Reshuffle()
    decoded = blocks | "Decode" >> beam.ParDo(bulk_steps.Decode(decoder, seed)).with_outputs(
        *bulk_steps.TAGS, main="rows"
    )
    answers = decoded.rows | RunInference(
        bulk_steps.SavedModelHandler(found, list(found.columns)).with_no_batching()
    )
    bulk_steps.write_table(answers, output, format, found.columns)
    broken = (read.broken, decoded.broken) | "Broken" >> beam.Flatten()
    _ = broken | "Errors" >> bulk_steps.lines_to(
        f"{output}-errors", ("key", "reason"), bulk_steps.broken_as_csv
    )
    counts = [
        read.counts,
        answers | "Count scored" >> beam.FlatMap(bulk_steps.count_answers, "scored"),
        broken | "Count broken" >> beam.Map(lambda block: ("unreadable", len(block))),
    ]
    job = bulk_run.Job(pipeline, output, runner)
    counted = job.run(counts, ("read", "scored", "unreadable", "flagged"))
    job.check(format, counted["scored"], "scores")
    job.check("errors", counted["unreadable"], "reasons for records that cannot be read")
    if counted["read"] != counted["scored"] + counted["unreadable"]:
        raise JobFailed(f"Records were lost: {counted}. Run the job again, with --overwrite.")
    return counted


def generate(
    model: str,
    number: int,
    output: str,
    *,
    format: str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    overwrite: bool = False,
    runner: str = IN_PROCESS,
    flags: Sequence[str] = (),
) -> dict[str, int]:
    """Draws images, texts or other examples from an export's generator.

    Keys are the numbers 0, 1, ... as "00000000"; number i is row i of the model's own
    `generate(number, seed=seed)`. Images are written as `<output>-<key>.png`, or as TFRecord files
    of `tf.train.Example`s with the features "key" and "image" (an encoded PNG), other arrays as
    such files with "key" and "example" (their floats), texts as a table of keys and texts;
    `<output>-summary.json` besides.

    Args:
        model: The folder of an export, or of one of its versions.
        number: How many.
        output: The common start of the files written, on this machine; its folder is made.
        format: "png" or "tfrecord" for images, "tfrecord" for other arrays, "csv" or "parquet" for
            texts; the first by default.
        seed: 64 bits.
        batch_size: Drawn at a time.
        overwrite: Delete what an earlier job wrote under `output`.
        runner: A Beam runner; the default one works in this process.
        flags: For Beam's `PipelineOptions`.

    Returns:
        Counts: "generated", and "flagged", those with a NaN or an infinity in them.

    Raises:
        InvalidInputError: A model or flags that cannot be used.
        JobFailed: A runner that gave up, or that did not write all.

    Example:

        >>> counts = generate("savedmodels/mnist5k", 1000, "samples/digits", seed=1)
    """
    checks.check_count("number", number)
    if number >= 2**31:
        raise InvalidInputError(f"At most 2**31 - 1 can be drawn. Received {number}.")
    checks.check_count("batch_size", batch_size)
    served.check_seed(seed)
    found = served.find(model, "generator", "generate")
    kind = next((name for name in served.EXAMPLES if name in found.outputs), None)
    if kind is None:
        raise InvalidInputError(
            f"{found.path} draws {', '.join(found.outputs)}, and none of "
            f"{', '.join(served.EXAMPLES)}, of which files are written. Ask it from a program."
        )
    forms = _FORMATS[kind]
    format = format or forms[0]
    _check_choice("format", format, forms)
    channels = found.outputs[kind][-1:]
    if format == "png" and channels[0] not in bulk_steps.CHANNELS:
        raise InvalidInputError(
            f"A PNG has 1 to 4 channels; the model's images have {channels[0]}. Take 'tfrecord'."
        )
    pipeline = bulk_run.make_pipeline(runner, flags)
    output = _prepare(output, overwrite)

    answers = (
        pipeline
        | beam.Create([number])
        | "Ranges" >> beam.FlatMap(bulk_steps.ranges, batch_size)
        | "Spread" >> beam.Reshuffle()
        | "Seeds" >> beam.Map(bulk_steps.numbered, seed, max(8, len(str(number - 1))))
        | RunInference(bulk_steps.SavedModelHandler(found, [kind]).with_no_batching())
    )
    if kind == "text":
        bulk_steps.write_table(answers, output, format, {"text": "string"})
    elif format == "png":
        _ = answers | "Write" >> beam.Map(bulk_steps.write_pngs, output)
    else:
        _ = (
            answers
            | "Examples" >> beam.FlatMap(bulk_steps.as_examples, kind)
            | "Write" >> beam.io.WriteToTFRecord(output, file_name_suffix=".tfrecord")
        )
    counts = [answers | "Count" >> beam.FlatMap(bulk_steps.count_answers, "generated")]
    job = bulk_run.Job(pipeline, output, runner)
    counted = job.run(counts, ("generated", "flagged"))
    job.check(format, number, f"{kind}s")
    if counted["generated"] != number:
        raise JobFailed(f"{number} were asked for: {counted}. Run the job again, with --overwrite.")
    return counted


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _literal_start(pattern: str) -> tuple[str, str]:
    """A pattern in which a folder or file that exists under its name as written is meant, whatever
    brackets are in it; and the folder below which keys begin."""
    if "://" in pattern:
        literal = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        return pattern, literal[: literal.rindex("/") + 1]
    if os.path.isfile(pattern):
        return glob.escape(pattern), f"{os.path.dirname(pattern)}/"
    folder, rest = os.path.split(pattern)
    while not os.path.isdir(folder):
        folder, part = os.path.split(folder)
        rest = f"{part}/{rest}"
    folder = folder.rstrip("/")
    return f"{glob.escape(folder)}/{rest}", f"{folder}/"


def _matching(pattern: str) -> list[str]:
    try:
        paths = [file.path for file in FileSystems.match([pattern])[0].metadata_list]
    except (BeamIOError, ValueError) as error:
        raise InvalidInputError(f"{pattern} cannot be listed: {error}. Check the path.") from None
    folder = next(filter(os.path.isdir, glob.iglob(pattern)), None)
    if folder is not None:
        raise InvalidInputError(
            f"{files.printable(folder)} is a folder, and files are scored. Give a glob of its "
            "files, in quotes, such as 'photos/*.png'."
        )
    if not paths:
        raise InvalidInputError(
            f"No file matches {pattern}. Give the path of a file or a glob of files, in quotes, "
            "such as 'photos/*.png'."
        )
    return paths


def _kind(paths: Sequence[str], kind: str | None, needed: str) -> str:
    """What the files are, where the model can take it."""
    if kind is None:
        kinds = {path: records.kind_of(path) for path in paths}
        kind = kinds[paths[0]]
        other = next((path for path in paths if kinds[path] != kind), None)
        if kind is None or other is not None:
            raise InvalidInputError(
                f"The names do not say what kind of files these are, or say several: {paths[0]}"
                f"{f', {other}' if other else ''}. Give the input format, one of "
                f"{', '.join(records.KINDS)}, or a glob of files of one kind."
            )
    _check_choice("input_format", kind, records.KINDS)
    if kind not in ("tfrecord", needed):
        raise InvalidInputError(
            f"The model scores {needed}s, and {paths[0]} is to be read as {kind}. Give files of "
            f"{needed}s, or TFRecord files."
        )
    return kind


def _prepare(output: str, overwrite: bool, keep: Sequence[str] = ()) -> str:
    """The start of the output's names, where nothing lies yet."""
    if not output or output.endswith("/"):
        raise InvalidInputError(
            "The output is the start of the names of files, such as scores/photos. Received "
            f"{output!r}."
        )
    output = _absolute(str(files.local_path(output, "The output")))
    if glob.escape(output) != output:
        raise InvalidInputError(
            f"The output is {output}, and Beam takes '*', '?' and '[' in it for a pattern of "
            "names. Give an output without them, in a folder without them."
        )
    try:
        pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"The folder of {output} cannot be made: {error.strerror}. Give another output."
        ) from None
    found = [
        file.path
        for match in FileSystems.match([output + ending for ending in _WRITTEN])
        for file in match.metadata_list
    ]
    kept = set(keep).intersection(found)
    if kept:
        raise InvalidInputError(
            f"The files to be scored have names that the output will have, {min(kept)} for one. "
            "Give another output."
        )
    if found and not overwrite:
        raise InvalidInputError(
            f"An earlier job wrote {found[0]}{f' and {len(found) - 1} more' if found[1:] else ''}. "
            "Give another output, or --overwrite."
        )
    if found:
        FileSystems.delete(found)
    return output


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidInputError(
            f"`{name}` must be one of {', '.join(choices)} here. Received {value!r}."
        )

"""Whether a stock TensorFlow Serving would serve an export, found out without one."""

import base64
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from tfebm import files
from tfebm.errors import InvalidInputError
from tfebm.serving import extras

_PROBE = pathlib.Path(__file__).with_name("probe.py")
_ROUNDING = 1e-4  # relative, between two readers of one graph
_TIMEOUT = 900  # seconds, for each version


@dataclasses.dataclass(frozen=True)
class VersionReport:
    """What a server would find in one version of a generator or a scorer."""

    path: pathlib.Path
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    signatures: dict[str, Any] = dataclasses.field(default_factory=dict)
    """`SignatureDef`s by name."""
    calls: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Requests that are replayed."""
    probed: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of `probe.py`; empty where it was not reached."""
    problems: list[str] = dataclasses.field(default_factory=list)
    """Sentences; none where it would be served."""


def check_versions(
    paths: Sequence[pathlib.Path],
    batch_sizes: Sequence[int] = extras.ALLOWED_BATCH_SIZES,
    seconds: float = 1.0,
) -> list[VersionReport]:
    """Looks at versions as a server does.

    Their functions must not need XLA, their warm-up requests are replayed in a process that has
    neither tfebm nor Keras, with XLA off, through a session of TensorFlow 1 and through the C
    API, which must agree; every variable must hold something, every output a row per row of the
    input.

    Args:
        paths: Folders of versions.
        batch_sizes: For the timings.
        seconds: Spent on each.
    """
    reports = [_read(files.local_path(path, "A version")) for path in paths]
    # What one version has imported is there for all of its process.
    for needs_text in (False, True):
        group = [
            report
            for report in reports
            if report.signatures
            and bool(report.metadata.get("needs_tensorflow_text")) is needs_text
        ]
        for report, found in zip(
            group, _probe(group, needs_text, batch_sizes, seconds), strict=True
        ):
            if "failure" in found:
                report.problems.append(
                    f"A process without tfebm and with XLA off cannot use it: {found['failure']}"
                )
            else:
                report.probed.update(found)
                report.problems.extend(_of_probe(found))
    return reports


def _read(path: pathlib.Path) -> VersionReport:
    """What the files of a version say."""
    try:
        signatures = extras.read_signatures(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        problem = f"It cannot be read as a SavedModel: {extras.SAVED_MODEL}: {why}."
        return VersionReport(path, problems=[problem])
    if not signatures:
        problem = (
            "It has no signature, and a server could not be asked for anything. Save it with "
            "`signatures=`, or export the model with `tfebm.serving.export`."
        )
        return VersionReport(path, problems=[problem])
    problems = []
    compiled = must_compile(path)
    if compiled:
        problems.append(
            f"{len(compiled)} functions must be compiled with XLA, {compiled[0]!r} for one, which "
            "a server refuses by default. Export without it."
        )
    if extras.DEFAULT_SIGNATURE not in signatures:
        problems.append(
            f"It has no signature {extras.DEFAULT_SIGNATURE!r}, which a request without a name "
            "asks for. Export it again."
        )
    metadata, requests = {}, []
    try:
        metadata = dict(files.read_json(path / extras.METADATA))
        requests = extras.read_warmup_requests(path)
    except (OSError, ValueError, TypeError, DecodeError, tf.errors.OpError):
        problems.append(
            f"It has no {extras.WARMUP} or no {extras.METADATA}: the first requests would wait for "
            "the graph to be optimised. Export it again, or write them with "
            "`python -m tfebm extras`."
        )
    guessed: set[str] = set()
    if not requests:
        plain = [name for name in sorted(signatures) if not name.endswith(extras.XLA)]
        for name in plain:
            try:
                requests.append((name, extras.example_inputs(signatures[name], 1)))
            except ValueError as error:
                problems.append(f"The signature {name!r} cannot be asked for: {error}.")
        guessed = {name for name in plain if extras.is_open(signatures[name])}
    for name in sorted({name for name, _ in requests} - set(signatures)):
        problems.append(f"A warm-up request asks for the signature {name!r}, which it lacks.")
    calls = [
        {
            "signature": name,
            "inputs": {key: _as_json(value) for key, value in inputs.items()},
            # A first size that is given takes batches of that size alone.
            "timed": bool(inputs)
            and name not in extras.ONCE
            and not _has_fixed_rows(signatures[name]),
            "guessed": name in guessed,
        }
        for name, inputs in requests
        if name in signatures
    ]
    return VersionReport(path, metadata, signatures, calls, problems=problems)


def must_compile(path: pathlib.Path) -> list[str]:
    """Names of the functions and nodes that ask to be compiled with XLA."""
    saved = saved_model_pb2.SavedModel.FromString((path / extras.SAVED_MODEL).read_bytes())
    found = []
    for meta in saved.meta_graphs:
        graph = meta.graph_def
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        found += [node.name for node in nodes if node.attr["_XlaMustCompile"].b]
        found += [f.signature.name for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    return found


def newest_versions(directory: pathlib.Path) -> list[pathlib.Path]:
    """The newest version of the generator and of the scorer under `<directory>/<name>`; of a
    version's own folder that one.

    Raises:
        InvalidInputError: No export there.
    """
    directory = files.local_path(directory, "DIR")
    if (directory / extras.SAVED_MODEL).is_file():
        return [directory]
    found = []
    for part in extras.PARTS:
        folders = (directory / part).iterdir() if (directory / part).is_dir() else ()
        versions = [p for p in folders if extras.version_number(p) is not None and p.is_dir()]
        if not versions:
            raise InvalidInputError(
                f"{directory} has no version of a {part}. Give a folder that `--export` or "
                "`tfebm.serving.export` made: <directory>/<name>, with generator/<version> and "
                f"scorer/<version> in it; or the folder of a version, with a {extras.SAVED_MODEL}."
            )
        found.append(max(versions, key=lambda p: int(p.name)))
    return found


def _has_fixed_rows(signature: Any) -> bool:
    shapes = [info.tensor_shape for info in signature.inputs.values()]
    return any(not s.unknown_rank and (not s.dim or s.dim[0].size >= 0) for s in shapes)


def _probe(
    reports: Sequence[VersionReport],
    needs_text: bool,
    batch_sizes: Sequence[int],
    seconds: float,
) -> list[dict[str, Any]]:
    """What `probe.py` finds in each version; one that ends its process costs no other."""
    found: list[dict[str, Any]] = []
    while len(found) < len(reports):
        waiting = reports[len(found) :]
        with tempfile.TemporaryDirectory() as folder:
            # TensorFlow's loader in Python takes brackets in a path for a pattern of names.
            links = [pathlib.Path(folder, f"version_{i}") for i in range(len(waiting))]
            for link, report in zip(links, waiting, strict=True):
                link.symlink_to(report.path.absolute(), target_is_directory=True)
            request = {
                "versions": [
                    {"path": str(link), "calls": report.calls}
                    for link, report in zip(links, waiting, strict=True)
                ],
                "needs_tensorflow_text": needs_text,
                "batch_sizes": list(batch_sizes),
                "seconds": seconds,
            }
            output, why = _run_probe(request, pathlib.Path(folder), _TIMEOUT * len(waiting))
        answers = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        for answer, link, report in zip(answers, links, waiting, strict=False):
            if "failure" in answer:
                answer["failure"] = answer["failure"].replace(str(link), str(report.path))
            found.append(answer)
        if len(found) < len(reports):
            found.append({"failure": why})
    return found


def _run_probe(request: dict[str, Any], folder: pathlib.Path, timeout: float) -> tuple[str, str]:
    """The output of `probe.py`, and why it ended before its end, if it did."""
    file = folder / "request.json"
    file.write_text(json.dumps(request), encoding="utf-8")
    output, errors = folder / "output", folder / "errors"
    command = [sys.executable, str(_PROBE), str(file)]
    with output.open("w") as out, errors.open("w") as err:
        try:
            code = subprocess.run(
                command, stdout=out, stderr=err, timeout=timeout, cwd=folder
            ).returncode
            why = f"the process ended with {code}"
        except subprocess.TimeoutExpired:
            why = f"it did not answer its warm-up requests within {timeout:g} seconds"
    texts = [path.read_text("utf-8", "replace") for path in (output, errors)]
    said = [line for line in texts[1].splitlines() if line.strip()]
    return texts[0], said[-1][:500] if said else why


def _of_probe(probed: dict[str, Any]) -> list[str]:
    problems = []
    if probed["uninitialised"]:
        problems.append(f"The variable {probed['uninitialised'][0]!r} holds nothing.")
    for name, record in probed["signatures"].items():
        if record["failure"] and not record["guessed"]:
            problems.append(f"The signature {name!r} does not answer: {record['failure']}")
        if record["difference"] > _ROUNDING:
            problems.append(
                f"The C API and a session disagree on {name!r} by {record['difference']:.1e}."
            )
        if not record["batch_axis"]:
            problems.append(f"An output of {name!r} has not one row per row of the input.")
    return problems


def _as_json(value: np.ndarray) -> dict[str, Any]:
    if value.dtype.kind in "OSU":
        items = [x if isinstance(x, bytes) else str(x).encode() for x in value.ravel()]
        return {
            "dtype": "string",
            "value": [base64.b64encode(item).decode() for item in items],
            "shape": value.shape,
        }
    content = base64.b64encode(value.tobytes()).decode()
    return {"dtype": value.dtype.name, "value": content, "shape": value.shape}


# ---- For a person -------------------------------------------------------------------------


def describe(report: VersionReport) -> str:
    """A version's report in lines."""
    lines = [str(report.path)]
    about = {k: v for k, v in report.metadata.items() if v not in (None, {}, False)}
    if about:
        lines.append("  " + ", ".join(f"{key} {value}" for key, value in about.items()))
    timed = []
    for name, signature in sorted(report.signatures.items()):
        sides = [
            ", ".join(f"{key} {_kind(info)}" for key, info in sorted(side.items()))
            for side in (signature.inputs, signature.outputs)
        ]
        lines.append(f"  {name}: {sides[0]} -> {sides[1]}")
        record = report.probed.get("signatures", {}).get(name)
        for row in record["timings"] if record else ():
            timed.append(
                f"  {name:<16}{row['batch_size']:>6}{row['rows_per_second']:>12.0f}"
                f"{1e3 * row['p50']:>10.2f}{1e3 * row['p99']:>10.2f}"
            )
    if report.probed:
        replayed = sum(r["replayed"] for r in report.probed["signatures"].values())
        lines.append(
            f"  loaded in {report.probed['load_seconds']:.2f} s without tfebm, Keras and XLA; "
            f"{replayed} warm-up requests replayed, by a session and by the C API"
        )
    for name, record in sorted(report.probed.get("signatures", {}).items()):
        if record["failure"] and record["guessed"]:
            lines.append(
                f"  {name} was not tried: it leaves sizes open, and 1 for each was answered by: "
                f"{record['failure']}"
            )
    if timed:
        lines.append(f"  {'signature':<16}{'batch':>6}{'rows/s':>12}{'p50 ms':>10}{'p99 ms':>10}")
        lines += timed
    lines += [f"  PROBLEM: {problem}" for problem in report.problems]
    if not report.problems:
        lines.append("  A stock server would serve it.")
    return "\n".join(lines)


def _kind(info: Any) -> str:
    if info.tensor_shape.unknown_rank:
        return f"{tf.as_dtype(info.dtype).name} of any shape"
    sizes = ["?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim]
    if sizes and sizes[0] == "?":
        sizes[0] = "B"
    return f"{tf.as_dtype(info.dtype).name} [{', '.join(sizes)}]"

"""Whether a stock TensorFlow Serving would serve an export, found out without one."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
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
_TIMEOUT = 900  # seconds, of a version


@dataclasses.dataclass(frozen=True)
class VersionReport:
    """What a server would find in one version of a generator or a scorer."""

    path: pathlib.Path
    metadata: dict[str, Any]
    signatures: dict[str, Any]
    """`SignatureDef`s by name."""
    probed: dict[str, Any]
    """Of `probe.py`; empty where it was not reached."""
    problems: list[str]
    """Sentences; none where it would be served."""


def check_version(
    path: pathlib.Path, batch_sizes: tuple[int, ...] = extras.ALLOWED_BATCH_SIZES, seconds=1.0
) -> VersionReport:
    """Looks at a version as a server does.

    Its functions must not need XLA, its warm-up requests are replayed in a process that has
    neither tfebm nor Keras, with XLA off, through a session of TensorFlow 1 and through the C
    API, which must agree; every variable must hold something, every output a row per row of the
    input.

    Args:
        path: A version's folder.
        batch_sizes: For the timings.
        seconds: Spent on each.
    """
    try:
        signatures = extras.read_signatures(path)
    except (OSError, ValueError) as error:
        return VersionReport(path, {}, {}, {}, [f"It cannot be read as a SavedModel: {error}"])
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
        metadata = files.read_json(path / extras.METADATA)
        requests = extras.read_warmup_requests(path)
    except (OSError, ValueError, DecodeError, tf.errors.OpError):
        problems.append(
            f"It has no {extras.WARMUP} or no {extras.METADATA}: the first requests would wait for "
            "the graph to be optimised. Export it again, or write them with "
            "`python -m tfebm.serving extras`."
        )
    if not requests:
        plain = [name for name in sorted(signatures) if not name.endswith(extras.XLA)]
        requests = [(name, extras.example_inputs(signatures[name], 1)) for name in plain]
    for name in sorted({name for name, _ in requests} - set(signatures)):
        problems.append(f"A warm-up request asks for the signature {name!r}, which it lacks.")
    requests = [(name, inputs) for name, inputs in requests if name in signatures]
    probed, failure = _probe(path, metadata, requests, batch_sizes, seconds)
    problems += [failure] if failure else _of_probe(probed)
    return VersionReport(path, metadata, signatures, probed, problems)


def must_compile(path: pathlib.Path) -> list[str]:
    """Names of the functions and nodes that ask to be compiled with XLA."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    found = []
    for meta in saved.meta_graphs:
        graph = meta.graph_def
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        found += [node.name for node in nodes if node.attr["_XlaMustCompile"].b]
        found += [f.signature.name for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    return found


def newest_versions(directory: pathlib.Path) -> list[pathlib.Path]:
    """The newest version of the generator and of the scorer under `<directory>/<name>`.

    Raises:
        InvalidInputError: No export there.
    """
    found = []
    for part in extras.PARTS:
        versions = [p for p in (directory / part).glob("*") if p.name.isdigit() and p.is_dir()]
        if not versions:
            raise InvalidInputError(
                f"{directory} has no version of a {part}. Give a folder that `--export` or "
                "`tfebm.serving.export` made: <directory>/<name>, with generator/<version> and "
                "scorer/<version> in it."
            )
        found.append(max(versions, key=lambda p: int(p.name)))
    return found


def _probe(
    path: pathlib.Path,
    metadata: dict[str, Any],
    requests: list,
    batch_sizes: tuple[int, ...],
    seconds: float,
) -> tuple[dict[str, Any], str | None]:
    request = {
        "path": str(path.absolute()),
        "seconds": seconds,
        "needs_tensorflow_text": bool(metadata.get("needs_tensorflow_text")),
        "calls": [
            {
                "signature": name,
                "inputs": {key: _as_json(value) for key, value in inputs.items()},
                "sizes": [] if name in extras.ONCE else list(batch_sizes),
            }
            for name, inputs in requests
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, str(_PROBE), str(file)],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return {}, f"It did not answer its warm-up requests within {_TIMEOUT} seconds."
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1][:500] if lines else f"the process ended with {done.returncode}"
        return {}, f"A process without tfebm and with XLA off cannot use it: {why}"
    return json.loads(done.stdout.splitlines()[-1]), None


def _of_probe(probed: dict[str, Any]) -> list[str]:
    problems = []
    if probed["uninitialised"]:
        problems.append(f"The variable {probed['uninitialised'][0]!r} holds nothing.")
    for name, record in probed["signatures"].items():
        if record["difference"] > _ROUNDING:
            problems.append(
                f"The C API and a session disagree on {name!r} by {record['difference']:.1e}."
            )
        if not record["batch_axis"]:
            problems.append(f"An output of {name!r} has not one row per row of the input.")
    return problems


def _as_json(value: np.ndarray) -> dict[str, Any]:
    if value.dtype.kind in "OSU":
        items = [item.decode() if isinstance(item, bytes) else item for item in value.ravel()]
        return {"dtype": "string", "value": items}
    return {"dtype": value.dtype.name, "value": value.ravel().tolist(), "shape": value.shape}


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
    if timed:
        lines.append(f"  {'signature':<16}{'batch':>6}{'rows/s':>12}{'p50 ms':>10}{'p99 ms':>10}")
        lines += timed
    lines += [f"  PROBLEM: {problem}" for problem in report.problems]
    if not report.problems:
        lines.append("  A stock server would serve it.")
    return "\n".join(lines)


def _kind(info: Any) -> str:
    sizes = ", ".join("B" if d.size < 0 else str(d.size) for d in info.tensor_shape.dim)
    return f"{tf.as_dtype(info.dtype).name} [{sizes}]"

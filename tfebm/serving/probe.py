"""Runs versions of exports as a stock server does, and prints what it found in each as a line of
JSON.

A script of its own, `python probe.py REQUEST`, so that neither tfebm nor Keras is there to help,
and XLA is switched off for the whole process, as `tensorflow_model_server` has it.
"""

import base64
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

modules: dict[str, Any] = sys.modules
modules.update(tfebm=None, keras=None)  # importing either fails

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

if TYPE_CHECKING:
    from tfebm.serving import c_api
else:
    import c_api  # of the same folder

_CALLS = 200  # at most, for each batch size
_LEAST_CALLS = 5
# Lines around what TensorFlow has to say: where, not what.
_PLACE = re.compile(
    r"Graph execution error|\d+ root error|\d+ successful op|\d+ derived error|\[\[|Detected at|"
    r"Defined at|Original stack|Errors may have|Input Source|Stack trace|File |node \S+ defined"
)
_CODE = re.compile(r"^\(\d+\) [A-Z_ ]+: ")


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    if request["needs_tensorflow_text"]:
        import tensorflow_text  # noqa: F401
    library = c_api.load_library()
    c_api.disable_xla(library)
    for version in request["versions"]:
        try:
            found = _probe(version, request, library)
        except Exception as error:  # whatever a strange graph raises is what is asked for
            found = {"failure": _reason(error)}
        print(json.dumps(found), flush=True)


def _probe(version: dict[str, Any], request: dict[str, Any], library: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"signatures": {}}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        started = time.perf_counter()
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], version["path"])
        found["load_seconds"] = time.perf_counter() - started
        signatures = {c["signature"]: meta.signature_def[c["signature"]] for c in version["calls"]}
        found["uninitialised"] = _uninitialised(session, signatures)
        if found["uninitialised"]:
            return found
        other = c_api.Session(version["path"], library)
        asked: dict[str, _Signature] = {}
        for call in version["calls"]:
            record = found["signatures"].setdefault(
                call["signature"],
                {
                    "replayed": 0,
                    "difference": 0.0,
                    "batch_axis": True,
                    "timings": [],
                    "failure": None,
                    "guessed": call["guessed"],
                },
            )
            try:
                ask = asked.get(call["signature"])
                if ask is None:  # what a session optimises it does once for each of these
                    ask = _Signature(session, meta.signature_def[call["signature"]])
                    asked[call["signature"]] = ask
                inputs = {name: _array(value) for name, value in call["inputs"].items()}
                _replay(ask, other, inputs, record)
                if call["timed"] and not record["timings"]:
                    record["timings"] = [
                        _timing(ask, inputs, size, request["seconds"])
                        for size in request["batch_sizes"]
                    ]
            except Exception as error:
                record["failure"] = record["failure"] or _reason(error)
        other.close()
    return found


class _Signature:
    """A signature of a session, called with arrays by name."""

    def __init__(self, session: tf.compat.v1.Session, signature: Any) -> None:
        self.feeds = {name: info.name for name, info in sorted(signature.inputs.items())}
        self.fetches = {name: info.name for name, info in sorted(signature.outputs.items())}
        self._run = session.make_callable(list(self.fetches.values()), list(self.feeds.values()))

    def __call__(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self._run(*(inputs[name] for name in self.feeds))


def _replay(
    ask: _Signature, other: c_api.Session, inputs: dict[str, np.ndarray], record: dict[str, Any]
) -> None:
    answer = ask(inputs)
    try:
        feeds = {ask.feeds[name]: value for name, value in inputs.items()}
        again = other.run(list(ask.fetches.values()), feeds)
    except c_api.UnknownTypeError:  # of the reader here, and of no server
        again = answer
    record["replayed"] += 1
    differences = [_difference(one, two) for one, two in zip(answer, again, strict=True)]
    record["difference"] = max([record["difference"], *differences])
    rows = {value.shape[:1] for value in inputs.values()} - {()}
    if len(rows) == 1:  # what takes no rows gives none
        record["batch_axis"] &= all(np.shape(value)[:1] in rows for value in answer)


def _reason(error: Exception) -> str:
    """TensorFlow's message, without the places in graphs and programs around it."""
    text = getattr(error, "message", None) or str(error)
    lines = [_CODE.sub("", line.strip()) for line in text.splitlines()]
    said = [line for line in lines if line and not _PLACE.match(line)]
    return (said[0] if said else f"{type(error).__name__} without a message")[:500]


def _uninitialised(session: tf.compat.v1.Session, signatures: dict[str, Any]) -> list[str]:
    """Variables that a signature reads and that hold nothing.

    A SavedModel has others too, with which TensorFlow restores and which stay empty.
    """
    graph = session.graph
    outputs = [info.name for s in signatures.values() for info in s.outputs.values()]
    waiting = [graph.get_tensor_by_name(name).op for name in outputs]
    seen = set(waiting)
    while waiting:
        for tensor in waiting.pop().inputs:
            if tensor.op not in seen:
                seen.add(tensor.op)
                waiting.append(tensor.op)
    handles = [operation for operation in seen if operation.type == "VarHandleOp"]
    with graph.as_default():
        ready = [tf.raw_ops.VarIsInitializedOp(resource=h.outputs[0]) for h in handles]
    found = session.run(ready)
    return sorted(h.name for h, is_ready in zip(handles, found, strict=True) if not is_ready)


def _array(value: dict[str, Any]) -> np.ndarray:
    if value["dtype"] == "string":
        items = [base64.b64decode(item) for item in value["value"]]
        return np.array(items, object).reshape(value["shape"])
    dtype = tf.as_dtype(value["dtype"]).as_numpy_dtype
    return np.frombuffer(base64.b64decode(value["value"]), dtype).reshape(value["shape"])


def _difference(one: np.ndarray, two: np.ndarray) -> float:
    """Largest relative difference; 0 or 1 for what has no numbers."""
    one, two = np.asarray(one), np.asarray(two)
    if one.shape != two.shape:
        return 1.0
    if one.dtype.kind not in "fiu":
        return 0.0 if np.array_equal(one, two) else 1.0
    scale = 1.0 + np.abs(one.astype(np.float64))
    gap = np.abs(one.astype(np.float64) - two.astype(np.float64)) / scale
    same = (one == two) | (np.isnan(one) & np.isnan(two)) if one.dtype.kind == "f" else one == two
    return float(np.where(same, 0.0, gap).max(initial=0.0))


def _timing(
    ask: _Signature, inputs: dict[str, np.ndarray], size: int, seconds: float
) -> dict[str, Any]:
    batch = {
        name: np.concatenate([value] * -(-size // len(value)))[:size]
        for name, value in inputs.items()
    }
    ask(batch)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _LEAST_CALLS or (
        len(times) < _CALLS and time.perf_counter() - started < seconds
    ):
        before = time.perf_counter()
        ask(batch)
        times.append(time.perf_counter() - before)
    return {
        "batch_size": size,
        "calls": len(times),
        "p50": float(np.percentile(times, 50)),
        "p99": float(np.percentile(times, 99)),
        "rows_per_second": size / float(np.median(times)),
    }


if __name__ == "__main__":
    main()

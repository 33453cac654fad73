"""What lies beside an export for a server: warm-up requests, settings, what was exported."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from tfebm import files

WARMUP = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")
METADATA = pathlib.PurePath("assets.extra", "tfebm.json")
SAVED_MODEL = "saved_model.pb"
SERVE = "serve"
"""The tag of the graph that servers load."""
DEFAULT_SIGNATURE = "serving_default"
XLA = "_xla"
"""End of the names of signatures that must be compiled."""
PARTS = ("generator", "scorer")

ALLOWED_BATCH_SIZES = (1, 8, 64)
_WARMUP_SIZES = (1, 8)
ONCE = ("bound",)  # signatures of seconds a row, warmed up with a single one
_SERVER_ROOT = "/models"
_WORDS = "the"  # any string is a sentence

_BATCHING = """\
# --enable_batching --batching_parameters_file=...: a row's answer does not depend on its
# batch-mates, and batches are filled up to the next of these sizes.
max_batch_size {{ value: {largest} }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 2 }}
{sizes}
"""


def write_version_extras(path: pathlib.Path, model_name: str, metadata: Mapping[str, Any]) -> None:
    """Writes `assets.extra` of a version.

    Args:
        path: The version's folder.
        model_name: As the server will know it.
        metadata: JSON: what was exported.
    """
    (path / WARMUP).parent.mkdir(exist_ok=True)
    files.write_json(path / METADATA, dict(metadata))
    with tf.io.TFRecordWriter(str(path / WARMUP)) as writer:
        for record in warmup_requests(read_signatures(path), model_name):
            writer.write(record)


def write_configs(base: pathlib.Path) -> None:
    """Writes `models.config` and `batching.config` of `<directory>/<name>`."""
    models = "\n".join(
        "  config {\n"
        f'    name: "{server_name(base.name, part)}"\n'
        f'    base_path: "{_SERVER_ROOT}/{base.name}/{part}"\n'
        '    model_platform: "tensorflow"\n'
        "  }"
        for part in PARTS
    )
    sizes = "\n".join(f"allowed_batch_sizes: {size}" for size in ALLOWED_BATCH_SIZES)
    texts = {
        "models.config": f"model_config_list {{\n{models}\n}}\n",
        "batching.config": _BATCHING.format(largest=ALLOWED_BATCH_SIZES[-1], sizes=sizes),
    }
    for name, text in texts.items():
        files.replace_file(base / name, functools.partial(pathlib.Path.write_text, data=text))


def version_number(path: pathlib.PurePath) -> int | None:
    """The version that a folder's name stands for; None where it does not."""
    return int(path.name) if path.name.isascii() and path.name.isdecimal() else None


def server_name(name: str, part: str) -> str:
    """What a server calls the generator or the scorer of a model."""
    return f"{name}_{part}"


def read_signatures(path: pathlib.Path) -> dict[str, Any]:
    """`SignatureDef`s by name, read from the file alone: nothing is loaded."""
    return parse_signatures((path / SAVED_MODEL).read_bytes())


def parse_signatures(saved_model: bytes) -> dict[str, Any]:
    """`SignatureDef`s by name of the content of a `saved_model.pb`, of its graph for servers.

    Raises:
        ValueError: It is not one, or has no such graph.
    """
    try:
        graphs = saved_model_pb2.SavedModel.FromString(saved_model).meta_graphs
    except DecodeError as error:
        raise ValueError(str(error)) from None
    if not graphs:
        raise ValueError("it holds no graph")
    tags = [sorted(graph.meta_info_def.tags) for graph in graphs]
    if [SERVE] not in tags:
        others = "; ".join(", ".join(each) or "none" for each in tags)
        raise ValueError(f"it holds no graph with the tag {SERVE!r}; its graphs have {others}")
    return {
        name: signature
        for name, signature in graphs[tags.index([SERVE])].signature_def.items()
        if not name.startswith("__")
    }


def example_inputs(signature: Any, num_rows: int) -> dict[str, np.ndarray]:
    """Valid inputs of a `SignatureDef`, seeds that differ by row and data that do not.

    Sizes that a signature leaves open, rows aside, are 1 here, which it need not take.

    Raises:
        ValueError: An input that no request can hold.
    """
    return {name: _example(name, info, num_rows) for name, info in sorted(signature.inputs.items())}


def is_open(signature: Any) -> bool:
    """Whether a `SignatureDef` leaves more open than the number of rows."""
    shapes = [info.tensor_shape for info in signature.inputs.values()]
    return any(s.unknown_rank or any(d.size < 0 for d in s.dim[1:]) for s in shapes)


def _example(name: str, info: Any, num_rows: int) -> np.ndarray:
    dtype = tf.as_dtype(info.dtype)
    if dtype in (tf.resource, tf.variant):
        raise ValueError(f"its input {name!r} is a {dtype.name}, which no request can hold")
    sizes = [dim.size for dim in info.tensor_shape.dim]
    if info.tensor_shape.unknown_rank:
        sizes = [-1]
    # A first size that is given is not a number of rows that a request may choose.
    shape = [num_rows if i == 0 and size < 0 else max(size, 1) for i, size in enumerate(sizes)]
    if dtype == tf.string:
        return np.full(shape, _WORDS.encode(), object)
    array = np.zeros(shape, dtype.as_numpy_dtype)
    if name == "seed":
        array[:, -1] = np.arange(num_rows)
    return array


def warmup_requests(signatures: Mapping[str, Any], model_name: str) -> list[bytes]:
    """Serialised `PredictionLog`s: each signature with a few rows.

    Not those for XLA: a server that has it off would not load the others either.
    """
    log = _prediction_log()
    records = []
    for name, signature in sorted(signatures.items()):
        if name.endswith(XLA):
            continue
        for size in _WARMUP_SIZES[:1] if name in ONCE else _WARMUP_SIZES:
            request = log().predict_log.request.__class__()
            request.model_spec.name = model_name
            request.model_spec.signature_name = name
            for key, value in example_inputs(signature, size).items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            record = log()
            record.predict_log.request.CopyFrom(request)
            records.append(record.SerializeToString(deterministic=True))
    return records


def read_warmup_requests(path: pathlib.Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Signature names and inputs of a version's warm-up requests, in their order."""
    log, requests = _prediction_log(), []
    for record in tf.data.TFRecordDataset(str(path / WARMUP)):
        request = log.FromString(record.numpy()).predict_log.request
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    return requests


def _prediction_log() -> Any:
    """The part of TensorFlow Serving's `PredictionLog` that warm-up requests use.

    Its own package would be one more for everybody who exports. Names are ours, so that both can
    be loaded at once; on the wire only the numbers of the fields count.
    """
    pool = descriptor_pool.Default()
    prefix = "tfebm.serving"
    try:
        return message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{prefix}.PredictionLog")
        )
    except KeyError:
        pass
    file = descriptor_pb2.FileDescriptorProto(
        name="tfebm/serving/prediction_log.proto", package=prefix, syntax="proto3"
    )
    file.dependency.append("tensorflow/core/framework/tensor.proto")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(parent: Any, title: str, **fields: tuple[int, Any]) -> Any:
        found = parent.add(name=title)
        for field, (number, kind) in fields.items():
            entry = found.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if kind is str:
                entry.type = kinds.TYPE_STRING
            else:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, kind
        return found

    types = file.message_type
    message(types, "ModelSpec", name=(1, str), signature_name=(3, str))
    request = message(types, "PredictRequest", model_spec=(1, f".{prefix}.ModelSpec"))
    entry = message(
        request.nested_type, "InputsEntry", key=(1, str), value=(2, ".tensorflow.TensorProto")
    )
    entry.options.map_entry = True
    inputs = request.field.add(name="inputs", number=2, label=kinds.LABEL_REPEATED)
    inputs.type, inputs.type_name = (
        kinds.TYPE_MESSAGE,
        f".{prefix}.PredictRequest.InputsEntry",
    )
    message(types, "PredictLog", request=(1, f".{prefix}.PredictRequest"))
    message(types, "PredictionLog", predict_log=(6, f".{prefix}.PredictLog"))
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{prefix}.PredictionLog"))

"""What lies beside an export, read with TensorFlow Serving's own protocol buffers."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tfebm.serving import extras

pytest.importorskip("tensorflow_serving", reason="the extra `client` is not installed")

import grpc
from prediction_server import serve
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

pytestmark = pytest.mark.extras


@pytest.fixture
def base(root):
    return root / "savedmodels" / "mnist5k"


def read(records):
    return [prediction_log_pb2.PredictionLog.FromString(record) for record in records]


def batching_parameters():
    """`BatchingParameters` of TensorFlow Serving's `session_bundle_config.proto`, which its Python
    package lacks."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="batching_parameters.proto", package="tensorflow.serving.test", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="BatchingParameters")
    settings = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches")
    for number, name in enumerate((*settings, "num_batch_threads"), 1):
        field = message.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
        field.type, field.type_name = kinds.TYPE_MESSAGE, ".google.protobuf.Int64Value"
    message.field.add(
        name="allowed_batch_sizes", number=6, label=kinds.LABEL_REPEATED, type=kinds.TYPE_INT64
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found = pool.FindMessageTypeByName("tensorflow.serving.test.BatchingParameters")
    return message_factory.GetMessageClass(found)()


@pytest.mark.parametrize("part", extras.PARTS)
def test_warmup_requests_are_prediction_logs(base, part):
    version = base / part / "1"
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(version / extras.WARMUP))]
    logs = read(records)
    ours = extras.read_warmup_requests(version)
    assert len(logs) == len(ours) == 2 * len(extras.read_signatures(version))
    for log, (name, inputs) in zip(logs, ours, strict=True):
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == f"mnist5k_{part}"
        assert request.model_spec.signature_name == name
        assert set(request.inputs) == set(inputs)
        for key, value in request.inputs.items():
            np.testing.assert_array_equal(tf.make_ndarray(value), inputs[key])
    # Nothing in them that it would not know.
    assert [log.SerializeToString(deterministic=True) for log in logs] == records
    assert extras.warmup_requests(extras.read_signatures(version), f"mnist5k_{part}") == records


def test_warmup_requests_of_sentences():
    def tensor(dtype, *sizes):
        dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in sizes]
        shape = tensor_shape_pb2.TensorShapeProto(dim=dims)
        return meta_graph_pb2.TensorInfo(dtype=dtype.as_datatype_enum, tensor_shape=shape)

    inputs = {"text": tensor(tf.string, -1), "seed": tensor(tf.int32, -1, 2)}
    signature = meta_graph_pb2.SignatureDef(inputs=inputs)
    logs = read(extras.warmup_requests({"score": signature, "bound": signature}, "text_scorer"))
    sizes = {}
    for log in logs:
        request = log.predict_log.request
        text, seed = (tf.make_ndarray(request.inputs[key]) for key in ("text", "seed"))
        assert text.dtype == object
        assert all(isinstance(word, bytes) for word in text)
        assert len(set(map(tuple, seed))) == len(text) == len(seed)
        sizes.setdefault(request.model_spec.signature_name, []).append(len(text))
    assert sizes == {"bound": [1], "score": [1, 8]}


def test_a_server_answers_its_warmup_requests(base, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    version = base / "generator" / "1"
    logs = read(extras.warmup_requests(extras.read_signatures(version), "mnist5k_generator"))
    with serve({"mnist5k_generator": version}) as (address, server):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))
        for log in logs:
            answer = stub.Predict(log.predict_log.request, timeout=60)
            image = tf.make_ndarray(answer.outputs["image"])
            assert image.shape[1:] == (28, 28, 1)
    assert server.sizes == [1, 8] * 3


def test_settings_are_a_servers(base, tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    extras.write_configs(folder)
    for name, where in {"digits": folder, "mnist5k": base}.items():
        text = (where / "models.config").read_text("utf-8")
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        found = {c.name: (c.base_path, c.model_platform) for c in config.model_config_list.config}
        assert found == {
            f"{name}_generator": (f"/models/{name}/generator", "tensorflow"),
            f"{name}_scorer": (f"/models/{name}/scorer", "tensorflow"),
        }
        text = (where / "batching.config").read_text("utf-8")
        batching = text_format.Parse(text, batching_parameters())
        sizes = list(batching.allowed_batch_sizes)
        # As the server demands.
        assert sizes == sorted(sizes)
        assert sizes[-1] == batching.max_batch_size.value == 64
        assert batching.num_batch_threads.value >= 1

"""The part of TensorFlow Serving that a client sees, over real exports."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)


class PredictionServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Loads SavedModels as a server does, into sessions, and answers and refuses as it does.

    Args:
        models: Folders of versions by the models' names.
        max_batch_size: More rows at once are refused, as with batching.
    """

    def __init__(self, models: Mapping[str, pathlib.Path], max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.sizes: list[int] = []
        """Rows of the requests so far."""
        self._loaded = {}
        for name, path in models.items():
            session = tf.compat.v1.Session(graph=tf.Graph())
            with session.graph.as_default():
                meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
            self._loaded[name] = session, meta.signature_def

    def close(self) -> None:
        for session, _ in self._loaded.values():
            session.close()

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        _, signatures = self._find(request.model_spec, context)
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in signatures.items():
            found.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(found)
        return response

    def Predict(self, request: Any, context: Any) -> Any:
        _, signatures = self._find(request.model_spec, context)
        name = request.model_spec.signature_name or "serving_default"
        signature = signatures[name]
        if set(request.inputs) != set(signature.inputs):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input size does not match signature")
        arrays = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        rows = len(next(iter(arrays.values())))
        self.sizes.append(rows)
        if rows > self.max_batch_size:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Task size {rows} is larger than maximum input batch size {self.max_batch_size}",
            )
        try:
            answer = self.run(request.model_spec.name, name, arrays)
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = predict_pb2.PredictResponse()
        for key, value in answer.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    def run(
        self, model: str, signature: str, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The answer without a request."""
        session, signatures = self._loaded[model]
        found = signatures[signature]
        fetch = {name: info.name for name, info in found.outputs.items()}
        return session.run(fetch, {found.inputs[k].name: v for k, v in arrays.items()})

    def _find(self, spec: Any, context: Any) -> tuple:
        if spec.name not in self._loaded:
            reason = f"Servable not found for request: Latest({spec.name})"
            context.abort(grpc.StatusCode.NOT_FOUND, reason)
        return self._loaded[spec.name]


@contextlib.contextmanager
def serve(
    models: Mapping[str, pathlib.Path], max_batch_size: int = 64
) -> Iterator[tuple[str, PredictionServer]]:
    """A running server: its address, and itself."""
    servicer = PredictionServer(models, max_batch_size)
    server = grpc.server(
        futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)]
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(grace=None).wait()
        servicer.close()

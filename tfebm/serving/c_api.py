"""SavedModels through TensorFlow's C API, as programs without Python read them.

Imports nothing of the package: `probe.py` runs it where the package cannot be imported.
"""

import ctypes
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

# TF_DataType; the last two are laid out by TensorFlow itself, not as in NumPy.
_FLOAT, _DOUBLE, _INT32, _STRING, _INT64, _BOOL = 1, 2, 3, 7, 9, 10
_DTYPES = {
    _FLOAT: np.float32,
    _DOUBLE: np.float64,
    _INT32: np.int32,
    _INT64: np.int64,
    _BOOL: np.bool_,
}
_STRING_BYTES = 24  # sizeof(TF_TString)

_pointer = ctypes.c_void_p


class _Output(ctypes.Structure):
    _fields_ = (("operation", _pointer), ("index", ctypes.c_int))


class _Buffer(ctypes.Structure):
    _fields_ = (("data", _pointer), ("length", ctypes.c_size_t), ("deallocator", _pointer))


def load_library(path: str | os.PathLike[str] | None = None) -> ctypes.CDLL:
    """TensorFlow's C library, that of the Python package by default.

    Args:
        path: Of `libtensorflow_cc.so.2` or `libtensorflow.so`.
    """
    if path is None:
        import tensorflow as tf

        path = os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2")
    library = ctypes.CDLL(os.fspath(path))
    returns = {
        "TF_NewStatus": _pointer,
        "TF_Message": ctypes.c_char_p,
        "TF_NewGraph": _pointer,
        "TF_NewSessionOptions": _pointer,
        "TF_NewBuffer": ctypes.POINTER(_Buffer),
        "TF_LoadSessionFromSavedModel": _pointer,
        "TF_GraphOperationByName": _pointer,
        "TF_AllocateTensor": _pointer,
        "TF_TensorData": _pointer,
        "TF_TensorByteSize": ctypes.c_size_t,
        "TF_Dim": ctypes.c_int64,
        "TF_StringGetDataPointer": _pointer,
        "TF_StringGetSize": ctypes.c_size_t,
    }
    for name, kind in returns.items():
        getattr(library, name).restype = kind
    return library


def disable_xla(library: ctypes.CDLL) -> None:
    """What `tensorflow_model_server` does when it starts; for the whole process, for good."""
    library._ZN10tensorflow21DisableXlaCompilationEv()


class CApiError(Exception):
    """What TensorFlow said."""


class UnknownTypeError(CApiError):
    """A type of numbers that is not read or written here."""


class Session:
    """A loaded SavedModel.

    Args:
        path: Its folder, a version.
        library: Of `load_library`.

    Raises:
        CApiError: It cannot be loaded.
    """

    def __init__(self, path: str | os.PathLike[str], library: ctypes.CDLL) -> None:
        self._library, self._status = library, _pointer(library.TF_NewStatus())
        self._graph = _pointer(library.TF_NewGraph())
        meta = library.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = _pointer(
            library.TF_LoadSessionFromSavedModel(
                _pointer(library.TF_NewSessionOptions()),
                None,
                os.fsencode(path),
                tags,
                1,
                self._graph,
                meta,
                self._status,
            )
        )
        self._check()
        self.meta_graph = ctypes.string_at(meta.contents.data, meta.contents.length)
        """A serialised `MetaGraphDef`, with the signatures."""

    def run(self, fetches: list[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Values of the tensors `fetches`, such as "name:0"; strings are bytes in object arrays.

        Raises:
            CApiError: A name that is not there, a value of another type or shape, or whatever the
                model itself finds wrong.
        """
        library = self._library
        inputs = (_Output * len(feeds))(*map(self._output, feeds))
        outputs = (_Output * len(fetches))(*map(self._output, fetches))
        values = (_pointer * len(feeds))()
        results = (_pointer * len(fetches))()
        try:
            for i, value in enumerate(feeds.values()):
                values[i] = self._tensor(np.asarray(value))
            library.TF_SessionRun(
                *(self._session, None, inputs, values, len(feeds), outputs, results),
                *(len(fetches), None, 0, None, self._status),
            )
            self._check()
            return [self._array(_pointer(result)) for result in results]
        finally:
            for tensor in (*values, *results):
                if tensor:
                    library.TF_DeleteTensor(_pointer(tensor))

    def close(self) -> None:
        """Frees the session."""
        self._library.TF_CloseSession(self._session, self._status)
        self._library.TF_DeleteSession(self._session, self._status)

    def _check(self) -> None:
        if self._library.TF_GetCode(self._status):
            message = self._library.TF_Message(self._status).decode(errors="replace")
            raise CApiError(message)

    def _output(self, name: str) -> _Output:
        operation, _, index = name.rpartition(":")
        found = self._library.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise CApiError(f"The graph has no operation {operation!r}.")
        return _Output(found, int(index))

    def _tensor(self, value: np.ndarray) -> Any:
        library = self._library
        dims = (ctypes.c_int64 * max(1, value.ndim))(*value.shape)
        if value.dtype.kind in "SUO":
            size = _STRING_BYTES * value.size
            tensor = library.TF_AllocateTensor(_STRING, dims, value.ndim, ctypes.c_size_t(size))
            start = library.TF_TensorData(_pointer(tensor)) or 0
            for i, item in enumerate(value.ravel()):
                text = item if isinstance(item, bytes) else str(item).encode()
                string = _pointer(start + i * _STRING_BYTES)
                library.TF_StringInit(string)
                library.TF_StringCopy(string, text, ctypes.c_size_t(len(text)))
            return tensor
        kinds = [number for number, dtype in _DTYPES.items() if value.dtype == dtype]
        if not kinds:
            raise UnknownTypeError(f"Arrays of {value.dtype} are not supported here.")
        number = ctypes.c_size_t(value.nbytes)
        tensor = library.TF_AllocateTensor(kinds[0], dims, value.ndim, number)
        if value.nbytes:
            data = library.TF_TensorData(_pointer(tensor))
            ctypes.memmove(data, np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return tensor

    def _array(self, tensor: Any) -> np.ndarray:
        library = self._library
        shape = [library.TF_Dim(tensor, i) for i in range(library.TF_NumDims(tensor))]
        kind, data = library.TF_TensorType(tensor), library.TF_TensorData(tensor)
        if kind == _STRING:
            values = np.empty(shape, object)
            flat = values.reshape(-1)
            for i in range(flat.size):
                string = _pointer(data + i * _STRING_BYTES)
                text = library.TF_StringGetDataPointer(string)
                flat[i] = ctypes.string_at(text, library.TF_StringGetSize(string))
            return values
        if kind not in _DTYPES:
            raise UnknownTypeError(f"Tensors of type {kind} are not supported here.")
        size = library.TF_TensorByteSize(tensor)
        content = ctypes.string_at(data, size) if size else b""
        return np.frombuffer(content, _DTYPES[kind]).reshape(shape).copy()

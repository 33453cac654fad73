"""Signatures for runtimes that know no gradients: OpenVINO, ONNX Runtime.

A chain's graph holds the gradients that TensorFlow derived, and those hold operations which other
runtimes have no kernels for (`BroadcastGradientArgs`, `LeakyReluGrad`, `TanhGrad`, ...). The graph
is traced again from a SavedModel, at a fixed batch size and with those written out: no model is
needed, and the numbers stay, to float rounding.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# What converters of TensorFlow's own and of others freeze graphs with; no public name exists.
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from tfebm import checks, files
from tfebm.errors import InvalidInputError
from tfebm.serving import served
from tfebm.types import Tensor

_LOOPS = ("While", "StatelessWhile")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_BRANCHES = ("cond", "body")
_SMALL = 64  # entries of a constant that a loop's body may need the value of: shapes, indices


def make_portable(
    version: str | os.PathLike[str],
    signature: str,
    directory: str | os.PathLike[str],
    batch_size: int = 1,
) -> pathlib.Path:
    """Writes one signature as a SavedModel of plain operations and of a fixed batch size.

    Its only signature, `serving_default`, has the inputs and outputs of the original and answers
    as it does, to float rounding. Weights are constants in it. An output with the name of an input
    (the "image" of `reconstruct`) becomes "image_out": elsewhere a name stands for one tensor.

    Args:
        version: The folder of a generator's or scorer's version, as `export` writes it.
        signature: One of its signatures. Sentences have none that can be written so.
        directory: `<directory>/<signature>` is written; a SavedModel that is there is replaced.
        batch_size: Rows of every input and output.

    Returns:
        `<directory>/<signature>`.

    Raises:
        InvalidInputError: No SavedModel, a signature that it lacks or that other runtimes cannot
            have, or a folder that is not a SavedModel.
        WriteFailed: A folder that cannot be written.

    Example:

        >>> path = make_portable("savedmodels/mnist5k/generator/1", "generate", "portable", 8)
        >>> network = openvino.convert_model(path)
    """
    checks.check_count("batch_size", batch_size)
    path = files.local_path(directory, "`directory`") / signature
    if path.exists() and not (path / "saved_model.pb").is_file():
        raise InvalidInputError(
            f"{path} exists and is not a SavedModel, which would be replaced. Give another folder."
        )
    module = tf.Module()
    module.function = _trace(version, signature, batch_size)

    def write(folder: pathlib.Path) -> None:
        tf.saved_model.save(module, folder, {"serving_default": module.function})

    files.replace_folder(path, write)
    return path


def _trace(version: str | os.PathLike[str], signature: str, batch_size: int) -> Any:
    """The signature as a concrete function of plain operations."""
    version = files.local_path(version, "`version`")
    try:
        with served.plain_path(str(version)) as path:
            loaded = tf.saved_model.load(path)  # holds the variables until they are constants
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise InvalidInputError(f"{version} cannot be loaded as a SavedModel: {error}") from None
    found = loaded.signatures
    if signature not in found:
        raise InvalidInputError(
            f"{version} has no signature {signature!r}. Give one of {', '.join(sorted(found))}."
        )
    frozen = convert_variables_to_constants_v2(found[signature], lower_control_flow=False)
    tensors = [*frozen.inputs, *frozen.outputs]
    if any(tensor.dtype == tf.string for tensor in tensors):
        raise InvalidInputError(
            f"The signature {signature!r} of {version} is of strings. Only numbers can be written "
            "for other runtimes: serve it with TensorFlow."
        )
    specs = [
        tf.TensorSpec([batch_size, *tensor.shape[1:]], tensor.dtype, tensor.op.name)
        for tensor in frozen.inputs
    ]
    taken = {spec.name for spec in specs}
    names = [
        f"{name}_out" if name in taken else name
        for name in sorted(found[signature].structured_outputs)
    ]

    def answer(*values: Tensor) -> dict[str, Tensor]:
        known = _by_reference(frozen.inputs, values)
        outputs = _Tracer(frozen.graph).replay(frozen.graph, known, frozen.outputs)
        return dict(zip(names, map(tf.identity, outputs), strict=True))

    return tf.function(answer, input_signature=specs, autograph=False).get_concrete_function()


class _Tracer:
    """Traces a graph again into the current one."""

    def __init__(self, graph: tf.Graph) -> None:
        self._graph = graph  # has all functions, of loops within loops too
        library = graph.as_graph_def().library
        self._functions = {function.signature.name: function for function in library.function}

    def replay(
        self, graph: tf.Graph, values: Mapping[Any, Tensor], outputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """`outputs` of a graph, by what stands for some of its tensors.

        Only what they depend on, which checks of the input (control dependencies) are no part of:
        at a fixed batch size there is nothing left to check.
        """
        known, needed, waiting = dict(values), set(), [tensor.op for tensor in outputs]
        while waiting:
            operation = waiting.pop()
            if operation not in needed:
                needed.add(operation)
                waiting += [tensor.op for tensor in operation.inputs if tensor.ref() not in values]
        for operation in graph.get_operations():  # in the order in which they were created
            if operation in needed and not all(t.ref() in known for t in operation.outputs):
                results = self._operation(operation, [known[t.ref()] for t in operation.inputs])
                known.update(_by_reference(operation.outputs, results))
        return [known[tensor.ref()] for tensor in outputs]

    def _operation(self, operation: tf.Operation, arguments: list[Tensor]) -> list[Tensor]:
        if operation.type in _LOOPS:
            return self._loop(operation, arguments)
        if operation.type in _CALLS:  # what TensorFlow did not inline when it froze the graph
            function = self._function(operation.get_attr("f").name)
            known = _by_reference(function.inputs, arguments)
            return self.replay(function, known, function.outputs)
        if operation.type in _RULES:
            return _RULES[operation.type](operation, *arguments)
        if operation.type.endswith("Grad"):
            raise InvalidInputError(
                f"The signature holds {operation.name!r}, of type {operation.type!r}: a derivative "
                "that other runtimes have no kernel for, and that is not written out here."
            )
        attributes = {k: v for k, v in operation.node_def.attr.items() if not k.startswith("_")}
        if any(value.HasField("func") for value in attributes.values()):
            raise InvalidInputError(
                f"The signature holds {operation.name!r}, of type {operation.type!r}. Of what "
                "runs functions only loops and plain calls can be written for other runtimes."
            )
        current = tf.compat.v1.get_default_graph()
        return current.create_op(operation.type, arguments, attrs=attributes).outputs

    def _loop(self, operation: tf.Operation, arguments: list[Tensor]) -> list[Tensor]:
        condition, body = (self._function(operation.get_attr(name).name) for name in _BRANCHES)
        pairs = zip(body.inputs, body.outputs, strict=True)
        moving = [i for i, (start, end) in enumerate(pairs) if _source(end) is not start]

        def all_of(values: Sequence[Tensor]) -> list[Tensor]:
            # What does not move comes from outside; small constants are made again in the body,
            # where shapes are derived from them.
            found = [_small_constant(argument) for argument in arguments]
            for i, value in zip(moving, values, strict=True):
                found[i] = value
            return found

        def goes_on(*values: Tensor) -> Tensor:
            known = _by_reference(condition.inputs, all_of(values))
            return self.replay(condition, known, condition.outputs)[0]

        def step(*values: Tensor) -> list[Tensor]:
            known = _by_reference(body.inputs, all_of(values))
            return self.replay(body, known, [body.outputs[i] for i in moving])

        return all_of(tf.while_loop(goes_on, step, [arguments[i] for i in moving]))

    def _function(self, name: str) -> Any:
        with self._graph.as_default():
            return function_def_to_graph(self._functions[name])


def _by_reference(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> dict[Any, Tensor]:
    return {tensor.ref(): value for tensor, value in zip(tensors, values, strict=True)}


def _source(tensor: Tensor) -> Tensor:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _small_constant(tensor: Tensor) -> Tensor:
    value = tf.get_static_value(tensor)
    return tensor if value is None or value.size > _SMALL else tf.constant(value, tensor.dtype)


# ---- Operations written out ---------------------------------------------------------------


def _broadcast_gradient_args(operation: tf.Operation, *shapes: Tensor) -> list[Tensor]:
    one, two = (_value(operation, shape) for shape in shapes)
    with tf.init_scope():
        axes = [each.numpy() for each in tf.raw_ops.BroadcastGradientArgs(s0=one, s1=two)]
    return [tf.constant(each) for each in axes]


def _strided_slice(
    operation: tf.Operation, x: Tensor, begin: Tensor, *rest: Tensor
) -> list[Tensor]:
    masks = _masks(operation)
    rank = begin.shape[0]
    one_entry = {**dict.fromkeys(masks, 0), "shrink_axis_mask": 2**rank - 1}
    # `table[k, i]` at a step k; OpenVINO cannot slice a scalar there.
    if masks == one_entry and tf.get_static_value(begin) is None:
        return [tf.gather_nd(x, tf.math.floormod(begin, x.shape[:rank].as_list()))]
    return [tf.raw_ops.StridedSlice(input=x, begin=begin, end=rest[0], strides=rest[1], **masks)]


def _strided_slice_grad(operation: tf.Operation, *arguments: Tensor) -> list[Tensor]:
    """Every entry of the result is one of the slice's, or 0: the entry before its first."""
    *numbers, grad = arguments
    shape, begin, end, strides = (_value(operation, number) for number in numbers)
    size = int(np.prod(shape))
    with tf.init_scope():
        places = tf.reshape(tf.range(size), shape)
        places = tf.raw_ops.StridedSlice(
            input=places, begin=begin, end=end, strides=strides, **_masks(operation)
        ).numpy()
    sources = np.zeros(size, np.int32)
    sources[places.ravel()] = 1 + np.arange(places.size)
    entries = tf.concat([tf.zeros([1], grad.dtype), tf.reshape(grad, [-1])], axis=0)
    return [tf.reshape(tf.gather(entries, sources), shape)]


def _masks(operation: tf.Operation) -> dict[str, int]:
    names = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    return {f"{name}_mask": operation.get_attr(f"{name}_mask") for name in names}


def _value(operation: tf.Operation, shape: Tensor) -> np.ndarray:
    value = tf.get_static_value(shape)
    if value is None:
        raise InvalidInputError(
            f"A shape at {operation.name!r} depends on more than the batch size. Such a signature "
            "cannot be written for other runtimes."
        )
    return value


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

_RULES: dict[str, Callable[..., list[Tensor]]] = {
    "BroadcastGradientArgs": _broadcast_gradient_args,
    "StridedSlice": _strided_slice,
    "StridedSliceGrad": _strided_slice_grad,
    "Shape": lambda operation, x: [tf.shape(x, operation.get_attr("out_type"))],
    # Nothing left to do:
    **dict.fromkeys(
        ("EnsureShape", "Identity", "PlaceholderWithDefault", "StopGradient"),
        lambda operation, x: [x],
    ),
    # Derivatives of activations:
    "EluGrad": lambda operation, grad, y: [tf.where(y < 0.0, grad * (y + 1.0), grad)],
    "LeakyReluGrad": lambda operation, grad, x: [
        tf.where(x > 0.0, grad, operation.get_attr("alpha") * grad)
    ],
    "ReciprocalGrad": lambda operation, y, grad: [-grad * y * y],
    "Relu6Grad": lambda operation, grad, x: [
        tf.where((x > 0.0) & (x < 6.0), grad, tf.zeros_like(grad))
    ],
    "ReluGrad": lambda operation, grad, x: [tf.where(x > 0.0, grad, tf.zeros_like(grad))],
    "RsqrtGrad": lambda operation, y, grad: [-0.5 * grad * y * y * y],
    "SeluGrad": lambda operation, grad, y: [
        tf.where(y < 0.0, grad * (y + _SELU_SCALE * _SELU_ALPHA), grad * _SELU_SCALE)
    ],
    "SigmoidGrad": lambda operation, y, grad: [grad * y * (1.0 - y)],
    "SoftplusGrad": lambda operation, grad, x: [grad * tf.sigmoid(x)],
    "SoftsignGrad": lambda operation, grad, x: [grad / tf.square(1.0 + tf.abs(x))],
    "SqrtGrad": lambda operation, y, grad: [0.5 * grad / y],
    "TanhGrad": lambda operation, y, grad: [grad * (1.0 - y * y)],
    # Of "gelu":
    "Erfc": lambda operation, x: [1.0 - tf.math.erf(x)],
}

"""The graphs of an export: its endpoints, each traced once, with the weights that they read."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

# As `tf.saved_model.save` does; no public name exists.
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from tfebm.endpoints import Endpoint, Outputs
from tfebm.serving import extras
from tfebm.types import Tensor


class Traced(NamedTuple):
    """A generator or a scorer, ready to be written."""

    signatures: dict[str, Any]
    """Concrete functions by name."""
    holder: tf.Module
    """Holds the variables and tables that they read."""

    def write(self, path: pathlib.Path) -> None:
        """Writes the SavedModel.

        The functions are signatures and nothing else: one that is an attribute of a module as well
        would be traced a second time while it is saved, and be in the file twice.
        """
        # The gradients that the chains need are in the graphs. Those of whoever differentiates an
        # export would be as large again.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(self.holder, str(path), signatures=self.signatures, options=options)
        _forget_custom_gradients(path)


def trace(
    endpoints: Mapping[str, Endpoint],
    default: str,
    resources: Sequence[Any] = (),
    xla: bool = False,
) -> Traced:
    """Traces endpoints.

    Args:
        endpoints: By name.
        default: The one that answers a request without a name.
        resources: Tables that they read.
        xla: Add the default one compiled with XLA.
    """
    signatures = {name: _trace(name, endpoint) for name, endpoint in endpoints.items()}
    if xla:
        name = f"{default}{extras.XLA}"
        signatures[name] = _trace(name, _compiled(endpoints[default]))
    signatures[extras.DEFAULT_SIGNATURE] = signatures[default]
    holder = tf.Module()
    holder.weights = _variables(signatures.values())
    holder.resources = list(resources)
    return Traced(signatures, holder)


def _trace(name: str, endpoint: Endpoint) -> Any:
    """A concrete function that refuses other sizes, and inputs that do not have as many rows each.

    A server checks types, and the rank that it batches by. Anything else would be broadcast, cut,
    or found wrong somewhere deep in the graph. A request without rows is refused as well, since
    convolutions answer it with wrong shapes.
    """
    specs = endpoint.inputs
    names = [spec.name for spec in specs]

    def checked(*values: Tensor) -> Outputs:
        given = [tf.ensure_shape(v, spec.shape) for v, spec in zip(values, specs, strict=True)]
        rows = [tf.shape(value)[0] for value in given]
        checks = [
            tf.debugging.assert_equal(
                number, rows[0], f"`{name}` must have as many rows as `{names[0]}`."
            )
            for name, number in zip(names[1:], rows[1:], strict=True)
        ]
        checks.append(
            tf.debugging.assert_positive(rows[0], f"`{names[0]}` must have at least one row.")
        )
        with tf.control_dependencies(checks):
            return endpoint.function(*map(tf.identity, given))

    checked.__name__ = name  # the graph's
    function = tf.function(checked, input_signature=specs, autograph=False)
    return function.get_concrete_function()


def _compiled(endpoint: Endpoint) -> Endpoint:
    """The same, compiled with XLA; its checks belong before it."""
    function = tf.function(endpoint.function, autograph=False, jit_compile=True)
    return Endpoint(function, endpoint.inputs)


def _forget_custom_gradients(path: pathlib.Path) -> None:
    """Removes the names of gradients that were not saved, of which each loader would warn; an
    operation then has the gradient of what it does."""
    file = path / extras.SAVED_MODEL
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta in saved.meta_graphs:
        graph = meta.graph_def
        for node in (*graph.node, *(n for f in graph.library.function for n in f.node_def)):
            node.attr.pop("_gradient_op_type", None)
    file.write_bytes(saved.SerializeToString(deterministic=True))
    write_fingerprint(str(path))


def _variables(functions: Any) -> list[tf.Variable]:
    """The variables that functions read, in the order in which they read them."""
    found = {}
    for function in functions:
        known = {id(variable.handle): variable for variable in function.variables}
        handles = [id(tensor) for tensor in function.captured_inputs]
        found.update({handle: known[handle] for handle in handles if handle in known})
    return list(found.values())

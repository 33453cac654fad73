"""Whether a chain is compiled with XLA.

The rule for `jit_compile="auto"`, and why:

- With a GPU or a TPU: XLA.
- On a CPU, an energy whose graph holds a convolution: the plain graph, where oneDNN computes it.
  XLA's own CPU convolutions took 1.6 times as long for the 28-pixel generator of width 16, and 2.9
  times for the 32-pixel generator of width 64 (in bfloat16, 2.1 and 4.9 times). On x86 processors
  where TensorFlow leaves oneDNN off, set TF_ENABLE_ONEDNN_OPTS=1 before it is imported: without,
  the plain graph of the second took 2.9 times as long as with it, and 1.2 times as long as XLA
  (`benchmarks/records/langevin_without_onednn.json`).
- On a CPU, an energy with a loop in it (recurrent, over sentences): the plain graph. XLA took .84
  to .91 of its time (`benchmarks/records/text_chain.json`, `text_chain_run_1.json`), but compiles
  anew, for seconds, for every length of sentence.
- On a CPU, any other energy (dense): XLA. The plain graph took 1.2 times as long for the paper's
  energy network at a batch of 100, and 2.1 times at 1,000.
- Wherever XLA would be taken, it is tried first: the energy and its gradient are translated for it
  (a fraction of a second, nothing is compiled). What it has no operation for runs in the plain
  graph: lookup tables, `tf.numpy_function`, bicubic upsampling, the checks of
  `tf.debugging.enable_check_numerics`.

Measured on two cores of an AMD EPYC, sentences on one without AVX-512, the others with
(`benchmarks/records/langevin_avx512.json`; without, in `langevin.json`, the order is the same);
`python -m benchmarks langevin text_chain` measures them on the machine at hand.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import tensorflow as tf
from tensorflow.python.eager import context as eager_context

from tfebm.errors import InvalidInputError

JitCompile = bool | Literal["auto"]

_FAILED = "Failed getting HLO text: '"  # how TensorFlow begins when XLA cannot compile

# Conv2D, Conv2DBackpropInput, Conv3D, DepthwiseConv2dNative, ...; While, StatelessWhile.
_PLAIN_ON_CPU = ("Conv", "While")


def check_jit_compile(jit_compile: JitCompile) -> JitCompile:
    """Returns the switch, or says which values it may have."""
    if jit_compile not in (True, False, "auto"):
        raise InvalidInputError(
            f"`jit_compile` must be True, False or 'auto'. Received {jit_compile!r}."
        )
    return jit_compile


def accelerator_present() -> bool:
    """Whether TensorFlow sees a GPU or a TPU."""
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


def runs_plain_on_cpu(fn: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Whether the graph of `fn(*arguments)` holds a convolution or a loop, in nested functions
    too."""
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), arguments)
    graph = tf.function(fn, autograph=False).get_concrete_function(*specs).graph.as_graph_def()
    nodes = [
        *graph.node,
        *(node for function in graph.library.function for node in function.node_def),
    ]
    return any(kind in node.op for node in nodes for kind in _PLAIN_ON_CPU)


def why_not_xla(fn: Callable[..., Any], arguments: tuple[Any, ...]) -> str | None:
    """What keeps XLA from compiling `fn(*arguments)`, in TensorFlow's words; None if nothing does.

    The graph is translated for XLA and not compiled. None also where that cannot be tried, since
    a size is not known and no other will do.
    """
    specs = [_known_size(x) for x in tf.nest.flatten(arguments)]

    def of_flat(*flat: Any) -> Any:  # TensorFlow translates no functions of tuples
        return fn(*tf.nest.pack_sequence_as(arguments, flat))

    function = tf.function(of_flat, autograph=False, jit_compile=True)
    try:
        traced = function.get_concrete_function(*specs)
    except Exception:  # an error of `fn` itself; whoever calls it meets it at the real arguments
        return None
    outside = [x for x in traced.captured_inputs if not _is_eager(x)]
    if outside:
        function = _with_arguments_for(traced, len(outside))
        specs += map(_known_size, outside)
    if not all(spec.shape.is_fully_defined() for spec in specs):
        return None
    try:
        with tf.init_scope() if outside else contextlib.nullcontext():
            function.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")
    except (ValueError, tf.errors.OpError) as error:
        if isinstance(error, tf.errors.OpError) or _FAILED in str(error):
            return _in_short(str(error))
    return None


def _with_arguments_for(
    traced: tf.types.experimental.ConcreteFunction, number: int
) -> tf.types.experimental.PolymorphicFunction:
    """`traced` with the `number` tensors that it takes from a graph around it as arguments."""
    graph = traced.graph.as_graph_def()
    placeholders = {tensor.op.name for tensor in traced.inputs}
    nodes = [node for node in graph.node if node.name not in placeholders]
    del graph.node[:]
    graph.node.extend(nodes)

    def function(*values: Any) -> list[Any]:
        given, lifted = list(values[: len(values) - number]), list(values[len(values) - number :])
        capture = tf.compat.v1.get_default_graph().capture
        given += [capture(x) if _is_eager(x) else lifted.pop(0) for x in traced.captured_inputs]
        inputs = {tensor.name: x for tensor, x in zip(traced.inputs, given, strict=True)}
        outputs = [tensor.name for tensor in traced.outputs]
        return tf.graph_util.import_graph_def(graph, inputs, outputs)

    return tf.function(function, autograph=False, jit_compile=True)


def _is_eager(x: Any) -> bool:
    return isinstance(x, tf.__internal__.EagerTensor)


def _known_size(x: Any) -> tf.TensorSpec:
    """A spec like `x`, two where a size is not known."""
    shape = x.shape
    if shape.rank is not None:
        shape = [2 if size is None else size for size in shape]
    return tf.TensorSpec(shape, x.dtype)


def _in_short(message: str) -> str:
    """The operations that an error of the translation names, else its first line."""
    missing = re.findall(r"No registered '(\w+)' OpKernel", message)
    if missing:
        return f"it has no operation {', '.join(dict.fromkeys(missing))}"
    return message.strip().splitlines()[0].removeprefix(_FAILED)[:200]


def situation() -> tuple[bool, ...]:
    """What compilation depends on beside the function and its arguments; it is part of the
    identity of what is compiled."""
    return _plain.on, tf.config.functions_run_eagerly(), bool(eager_context.context().op_callbacks)


class _Plain(threading.local):
    on = False


_plain = _Plain()


@contextlib.contextmanager
def without_xla() -> Iterator[None]:
    """Chains that are called inside run in the plain graph, whatever their `jit_compile` is.

    For exports: a stock TensorFlow Serving refuses functions that must be compiled with XLA.
    """
    before, _plain.on = _plain.on, True
    try:
        yield
    finally:
        _plain.on = before


def resolve_jit_compile(
    jit_compile: JitCompile,
    energy_fn: Callable[..., Any],
    arguments: tuple[Any, ...],
    compiled_fn: Callable[..., Any] | None = None,
) -> bool:
    """Applies the rule at the top of this file to `energy_fn(*arguments)`.

    Args:
        jit_compile: The switch.
        energy_fn: By whose graph the rule goes.
        arguments: Its arguments.
        compiled_fn: What is to be compiled of it, with the same arguments (its gradient, say).

    Raises:
        InvalidInputError: True, for what XLA cannot compile.
    """
    if jit_compile is False or _plain.on or tf.config.functions_run_eagerly():
        return False
    by_rule = jit_compile == "auto" and not accelerator_present()
    if by_rule and runs_plain_on_cpu(energy_fn, arguments):
        return False
    problem = why_not_xla(compiled_fn or energy_fn, arguments)
    if problem and jit_compile is True:
        raise InvalidInputError(
            f"`jit_compile=True` asks for XLA, which cannot compile this energy: {problem}. Pass "
            "`jit_compile=False` for the plain graph, or 'auto', which takes it by itself."
        )
    return problem is None

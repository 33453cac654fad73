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

Measured on two cores of an AMD EPYC, sentences on one without AVX-512, the others with
(`benchmarks/records/langevin_avx512.json`; without, in `langevin.json`, the order is the same);
`python -m benchmarks langevin text_chain` measures them on the machine at hand.
"""

from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf

from tfebm.errors import InvalidInputError

JitCompile = bool | Literal["auto"]

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


def runs_plain_on_cpu(fn: Callable[..., Any], arguments: tuple) -> bool:
    """Whether the graph of `fn(*arguments)` holds a convolution or a loop, in nested functions
    too."""
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), arguments)
    graph = tf.function(fn, autograph=False).get_concrete_function(*specs).graph.as_graph_def()
    nodes = [
        *graph.node,
        *(node for function in graph.library.function for node in function.node_def),
    ]
    return any(kind in node.op for node in nodes for kind in _PLAIN_ON_CPU)


def resolve_jit_compile(
    jit_compile: JitCompile, energy_fn: Callable[..., Any], arguments: tuple
) -> bool:
    """Applies the rule at the top of this file to `energy_fn(*arguments)`."""
    if jit_compile != "auto":
        return jit_compile
    return accelerator_present() or not runs_plain_on_cpu(energy_fn, arguments)

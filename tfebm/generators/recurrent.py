"""The LSTM over a sentence, with a gradient written for chains.

Automatic differentiation of a loop saves and restores every intermediate tensor step by step; on
two CPU cores it took twice as long as the two loops below, which leave to each step only what
depends on the step before.
"""

from typing import Any

import keras
import tensorflow as tf

from tfebm.types import Tensor


def uniform_weight(layer: keras.layers.Layer, name: str, shape: tuple[int, ...]) -> keras.Variable:
    """A new weight of `layer`, uniform within 0.1, as in the released code of sentence models."""
    uniform = keras.initializers.RandomUniform(-0.1, 0.1)
    # float32 whatever the policy: a recurrence adds up over the words.
    options = {"dtype": "float32", "autocast": False, "initializer": uniform}
    return layer.add_weight(name=name, shape=shape, **options)


@tf.custom_gradient
def lstm(
    gates: Tensor, recurrent_kernel: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Any]:
    """Runs an LSTM over T steps.

        i, f, g, o = split(gates[t] + h_{t-1} R)
        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),    h_t = sigmoid(o) tanh(c_t)

    Gates are in Keras' order: input, forget, candidate, output. Gradients of any order towards all
    arguments are exact; the first is a loop of its own, whose reverse is differentiated as usual.

    Args:
        gates: What the inputs contribute, bias included, `[T, B, 4 H]`.
        recurrent_kernel: R, `[H, 4 H]`.
        hidden: h_0, `[B, H]`.
        cell: c_0, `[B, H]`.

    Returns:
        h_1, ..., h_T, `[T, B, H]`.

    References: S. Hochreiter, J. Schmidhuber. Long Short-Term Memory. Neural Computation 1997.
    """
    length = tf.shape(gates)[0]

    def forward(t: Tensor, h: Tensor, c: Tensor, *records: tf.TensorArray) -> tuple[Any, ...]:
        i, f, g, o = tf.split(gates[t] + tf.matmul(h, recurrent_kernel), 4, axis=-1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        c = f * c + i * g
        h = o * tf.tanh(c)
        values = (h, c, tf.concat([i, f, g, o], axis=-1))
        return t + 1, h, c, *(r.write(t, v) for r, v in zip(records, values, strict=True))

    records = [tf.TensorArray(gates.dtype, length, element_shape=None) for _ in range(3)]
    _, _, _, *records = tf.while_loop(
        lambda t, *_: t < length,
        forward,
        (0, hidden, cell, *records),
        maximum_iterations=length,
        parallel_iterations=1,
    )
    outputs, cells, activations = (record.stack() for record in records)
    outputs, cells, activations = (
        tf.ensure_shape(tensor, [gates.shape[0], *like.shape])
        for tensor, like in ((outputs, hidden), (cells, cell), (activations, gates[0]))
    )

    def gradient(upstream: Tensor) -> tuple[Any, ...]:
        # All that does not depend on the step behind, for all steps at once.
        i, f, g, o = tf.split(activations, 4, axis=-1)
        before = tf.concat([cell[tf.newaxis], cells[:-1]], axis=0)
        tanh = tf.tanh(cells)
        of_cell = tf.concat(
            [g * i * (1.0 - i), before * f * (1.0 - f), i * (1.0 - tf.square(g))], axis=-1
        )
        of_output = tanh * o * (1.0 - o)
        into_cell = o * (1.0 - tf.square(tanh))
        transposed = tf.transpose(recurrent_kernel)

        def backward(t: Tensor, dh: Tensor, dc: Tensor, record: tf.TensorArray) -> tuple[Any, ...]:
            dh = dh + upstream[t]
            dc = dc + dh * into_cell[t]
            of_gates = tf.concat([tf.tile(dc, [1, 3]) * of_cell[t], dh * of_output[t]], axis=-1)
            return t - 1, tf.matmul(of_gates, transposed), dc * f[t], record.write(t, of_gates)

        zeros = tf.zeros_like(hidden)
        record = tf.TensorArray(gates.dtype, length, element_shape=None)
        _, dh, dc, record = tf.while_loop(
            lambda t, *_: t >= 0,
            backward,
            (length - 1, zeros, zeros, record),
            maximum_iterations=length,
            parallel_iterations=1,
        )
        of_gates = tf.ensure_shape(record.stack(), gates.shape)
        before = tf.concat([hidden[tf.newaxis], outputs[:-1]], axis=0)
        of_kernel = tf.einsum("tbh,tbg->hg", before, of_gates)
        return of_gates, of_kernel, dh, dc

    return outputs, gradient

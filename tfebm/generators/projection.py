"""Log-likelihoods of tokens under a softmax over the vocabulary.

The projection onto the vocabulary is most of the work of a sentence model. In a chain only its
gradient towards the hidden states is asked for, which is

    d(-log p(y)) / dh = W (softmax(h W + b) - onehot(y)):

two matrix products and one softmax, and nothing of the size of the logits besides.
"""

from typing import Any

import tensorflow as tf

from tfebm.types import Tensor


@tf.custom_gradient
def token_nll(hidden: Tensor, kernel: Tensor, bias: Tensor, tokens: Tensor) -> tuple[Tensor, Any]:
    """-log softmax(h W + b)[y] of each row, in float32 whatever the matrices' precision.

    Args:
        hidden: h, `[N, H]`.
        kernel: W, `[H, V]`, of the same type.
        bias: b, `[V]`, float32.
        tokens: y, int32 `[N]`.

    Returns:
        Nats, float32 `[N]`.
    """
    # `bias_add`, which TensorFlow fuses with the product before it.
    logits = tf.nn.bias_add(tf.cast(tf.matmul(hidden, kernel), tf.float32), bias)
    largest = tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
    # Of use to the value and to all gradients: the softmax times its denominator.
    weights = tf.exp(logits - largest)
    total = tf.reduce_sum(weights, axis=-1)
    nll = tf.math.log(total) + largest[:, 0] - tf.gather(logits, tokens, batch_dims=1)

    def gradient(upstream: Tensor) -> tuple[Any, ...]:
        scale = upstream / total
        of_hidden = tf.matmul(tf.cast(weights, kernel.dtype), kernel, transpose_b=True)
        of_hidden = tf.cast(of_hidden, tf.float32) * scale[:, tf.newaxis]
        width, size = tf.unstack(tf.shape(kernel))
        # The tokens' columns, by their places: a gather along the second axis is slower.
        places = tokens[:, tf.newaxis] + size * tf.range(width)
        columns = tf.gather(tf.reshape(kernel, [-1]), places)
        of_hidden -= tf.cast(columns, tf.float32) * upstream[:, tf.newaxis]
        rows = tf.range(tf.shape(tokens)[0])
        of_logits = tf.tensor_scatter_nd_sub(weights, tf.stack([rows, tokens], axis=1), total)
        scaled = tf.cast(hidden, tf.float32) * scale[:, tf.newaxis]
        of_kernel = tf.matmul(
            tf.cast(scaled, kernel.dtype), tf.cast(of_logits, kernel.dtype), transpose_a=True
        )
        of_bias = tf.linalg.matvec(of_logits, scale, transpose_a=True)
        return tf.cast(of_hidden, hidden.dtype), of_kernel, of_bias, None

    return nll, gradient

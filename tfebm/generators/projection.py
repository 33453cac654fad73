"""Log-likelihoods of tokens under a softmax over the vocabulary.

The projection onto the vocabulary is most of the work of a sentence model. In a chain only its
gradient towards the hidden states is asked for, which is

    d(-log p(y)) / dh = W (softmax(h W + b) - onehot(y)):

two matrix products and one softmax, and nothing of the size of the logits besides.
"""

import tensorflow as tf

from tfebm.types import Tensor


@tf.custom_gradient
def token_nll(hidden: Tensor, kernel: Tensor, bias: Tensor, tokens: Tensor) -> tuple:
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
    nll = tf.reduce_logsumexp(logits, axis=-1) - tf.gather(logits, tokens, batch_dims=1)

    def gradient(upstream: Tensor) -> tuple:
        probabilities = tf.cast(tf.nn.softmax(logits), kernel.dtype)
        scale = upstream[:, tf.newaxis]
        of_hidden = tf.matmul(probabilities, kernel, transpose_b=True)
        of_hidden -= tf.transpose(tf.gather(kernel, tokens, axis=1))
        of_hidden = tf.cast(of_hidden, tf.float32) * scale
        weighted = tf.cast(hidden, tf.float32) * scale
        of_kernel = tf.matmul(tf.cast(weighted, kernel.dtype), probabilities, transpose_a=True)
        size = tf.shape(kernel)[1]
        at_tokens = tf.math.unsorted_segment_sum(weighted, tokens, size)  # [V, H]
        of_kernel = tf.cast(of_kernel, tf.float32) - tf.transpose(at_tokens)
        of_bias = tf.linalg.matvec(tf.cast(probabilities, tf.float32), upstream, transpose_a=True)
        of_bias -= tf.math.unsorted_segment_sum(upstream, tokens, size)
        return (
            tf.cast(of_hidden, hidden.dtype),
            tf.cast(of_kernel, kernel.dtype),
            of_bias,
            None,
        )

    return nll, gradient

"""An encoder of sentences, of a `VAE` and of a chain's start."""

from typing import Any

import keras
import tensorflow as tf

from tfebm import checks
from tfebm.generators.recurrent import lstm, uniform_weight
from tfebm.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class SentenceEncoder(keras.layers.Layer):
    """Sentences to a mean and a log-variance: an LSTM, and a dense layer on its last state.

        h_t, c_t = LSTM(embedding(x_t), h_{t-1}, c_{t-1}),    (mean, log_variance) = h_n M + m

    with h_n the state behind the end token; padding is not read.

    Args:
        vocabulary_size: V, special tokens included.
        latent_size: d.
        embedding_size: Of the embedding.
        hidden_size: H, units of the LSTM.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        tokens: int32 `[B, T]`, padded with 0.

    Returns:
        float32 `[B, 2 * d]`, the mean and beside it the log-variance, unbounded.

    Raises:
        InvalidInputError: Sizes that are not positive whole numbers.

    Example:

        >>> encoder = tfebm.SentenceEncoder(vocabulary_size=10_002, latent_size=32)
        >>> encoder(tf.constant([[5, 9, 2, 0]])).shape
        TensorShape([1, 64])

    References: S. Bowman et al. Generating Sentences from a Continuous Space. CoNLL 2016, figure
    1. All weights start uniform within 0.1, as the decoder's.
    """

    def __init__(
        self,
        vocabulary_size: int,
        latent_size: int = 32,
        embedding_size: int = 256,
        hidden_size: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        self.vocabulary_size = checks.check_count("vocabulary_size", vocabulary_size)
        self.latent_size = checks.check_count("latent_size", latent_size)
        self.embedding_size = checks.check_count("embedding_size", embedding_size)
        self.hidden_size = checks.check_count("hidden_size", hidden_size)

    def build(self, input_shape: Any = None) -> None:
        if self.built:  # loading a model builds its layers twice
            return

        def weight(name: str, *shape: int) -> keras.Variable:
            return uniform_weight(self, name, shape)

        gates = 4 * self.hidden_size
        self.embedding = weight("embedding", self.vocabulary_size, self.embedding_size)
        self.kernel = weight("kernel", self.embedding_size, gates)
        self.recurrent_kernel = weight("recurrent_kernel", self.hidden_size, gates)
        self.bias = weight("bias", gates)
        self.head_kernel = weight("head_kernel", self.hidden_size, 2 * self.latent_size)
        self.head_bias = weight("head_bias", 2 * self.latent_size)
        super().build((None, None))

    def call(self, tokens: Tensor) -> Tensor:
        inputs = tf.gather(self.embedding.value, tf.transpose(tokens))  # [T, B, E]
        gates = tf.tensordot(inputs, tf.convert_to_tensor(self.kernel), 1) + self.bias
        zeros = tf.zeros([tf.shape(tokens)[0], self.hidden_size], gates.dtype)
        states = lstm(gates, tf.convert_to_tensor(self.recurrent_kernel), zeros, zeros)
        # A row without tokens fills up a batch and has weight 0: any state will do.
        last = tf.maximum(tf.reduce_sum(tf.cast(tokens != 0, tf.int32), axis=1) - 1, 0)
        state = tf.gather(tf.transpose(states, [1, 0, 2]), last, batch_dims=1)
        return tf.matmul(state, self.head_kernel) + self.head_bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], 2 * self.latent_size

    def get_config(self) -> dict[str, Any]:
        names = ("vocabulary_size", "latent_size", "embedding_size", "hidden_size")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

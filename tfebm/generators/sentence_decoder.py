"""What all decoders of sentences share: embeddings, a softmax over the vocabulary, dropout."""

from typing import Any, Self

import keras
import tensorflow as tf

from tfebm import checks, random, types
from tfebm.errors import InvalidInputError, received
from tfebm.generators.decoding import Greedy, checked
from tfebm.generators.projection import token_nll
from tfebm.generators.recurrent import uniform_weight
from tfebm.tokenizers import Tokenizer
from tfebm.types import State, Tensor

# Streams of the dropout masks of a row's seed.
_EMBEDDING_MASK, _OUTPUT_MASK = range(2)


class SentenceDecoder(keras.layers.Layer):
    """p(x | z) of sentences, one token after another.

        p(x | z) = prod_t p(x_t | x_1, ..., x_{t-1}, z)
        h_t, s_t = step(embedding(x_{t-1}), s_{t-1}, z),   s_0 = start(z),   x_0 = the start token
        p(x_t | ...) = softmax(h_t W + b)

    A sentence is its tokens and the end token, which is counted; the start token is not. Ids of 0
    are padding and are never counted.

    Subclassing guide: `build_core` makes the weights, `start` and `step` say what is remembered
    between two tokens, a nest of tensors `[B, ...]`. `run` does all steps of known sentences; the
    one here is a loop over `step`, whose gradient TensorFlow makes. A network that sees all steps
    at once, or has a quicker gradient, overrides it.

    Args:
        tokenizer: As of `tfebm.AutoregressiveGenerator`, like all others.
        embedding_size: E.
        hidden_size: H, of what the logits are made of.
        dropout: Of embeddings and of h_t.
        max_length: Of what is written.
        decoding: How it is written.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        InvalidInputError: Sizes or a dropout that cannot be used.

    Example:

        >>> @keras.saving.register_keras_serializable()
        ... class GRUGenerator(tfebm.generators.SentenceDecoder):
        ...     def build_core(self, latent_size):
        ...         self.cell = keras.layers.GRUCell(self.hidden_size)
        ...         self.cell.build((None, self.embedding_size + latent_size))
        ...         self.first = self.weight("first", latent_size, self.hidden_size)
        ...     def start(self, z):
        ...         return tf.matmul(z, self.first)
        ...     def step(self, inputs, state, z):
        ...         hidden, _ = self.cell(tf.concat([inputs, z], axis=1), [state])
        ...         return hidden, hidden
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        embedding_size: int = 256,
        hidden_size: int = 256,
        dropout: float = 0.5,
        max_length: int = 64,
        decoding: types.Decoding | None = None,
        **kwargs: Any,
    ) -> None:
        # The layer casts for itself; latents are not rounded to its precision before.
        super().__init__(**{"autocast": False, **kwargs})
        if not 0.0 <= dropout < 1.0:
            raise InvalidInputError(
                f"`dropout` must be at least 0 and less than 1. Received {dropout!r}."
            )
        if not isinstance(tokenizer, Tokenizer):
            raise InvalidInputError(
                "`tokenizer` must be a Tokenizer, such as `tfebm.tokenizers.WordTokenizer`. "
                f"Received {received(tokenizer)}."
            )
        self.tokenizer = tokenizer
        self.embedding_size = checks.check_count("embedding_size", embedding_size)
        self.hidden_size = checks.check_count("hidden_size", hidden_size)
        self.dropout = float(dropout)
        self.max_length = checks.check_count("max_length", max_length)
        self.decoding: types.Decoding = Greedy() if decoding is None else checked(decoding)

    # ---- What a subclass says -----------------------------------------------------------

    def build_core(self, latent_size: int) -> None:
        """Makes the weights between the embedding and the softmax, see `weight`."""
        raise NotImplementedError

    def start(self, z: Tensor) -> State:
        """s_0 of latents `[B, d]`: any nest of tensors `[B, ...]`."""
        raise NotImplementedError

    def step(self, inputs: Tensor, state: State, z: Tensor) -> tuple[Tensor, State]:
        """h_t, `[B, H]`, and s_t from an embedding `[B, E]` and s_{t-1}.

        s_t has the structure, the types and the shapes of s_{t-1}.
        """
        raise NotImplementedError

    def run(self, inputs: Tensor, z: Tensor) -> Tensor:
        """h_1, ..., h_T, `[T, B, H]`, of embeddings `[T, B, E]`."""
        length = tf.shape(inputs)[0]

        def body(t: Tensor, state: State, outputs: Any) -> tuple[Any, ...]:
            hidden, state = self.step(inputs[t], state, z)
            return t + 1, state, outputs.write(t, hidden)

        record = tf.TensorArray(tf.float32, length, element_shape=[None, self.hidden_size])
        *_, record = tf.while_loop(
            lambda t, state, outputs: t < length,
            body,
            (tf.constant(0), self.start(z), record),
            maximum_iterations=length,
            parallel_iterations=1,
        )
        return record.stack()

    def weight(self, name: str, *shape: int) -> keras.Variable:
        """A float32 weight of this shape, uniform within 0.1 at first."""
        return uniform_weight(self, name, shape)

    # ---- Teacher forcing ----------------------------------------------------------------

    @property
    def vocabulary_size(self) -> int:
        """V, special tokens included."""
        return self.tokenizer.vocabulary_size

    def build(self, input_shape: types.Shape) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        self.embedding = self.weight("embedding", self.vocabulary_size, self.embedding_size)
        self.build_core(int(input_shape[-1]))
        self.output_kernel = self.weight("output_kernel", self.hidden_size, self.vocabulary_size)
        self.output_bias = self.weight("output_bias", self.vocabulary_size)
        super().build(input_shape)

    def states(self, z: Tensor, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """h_1, ..., h_T of a known sentence, float32 `[B, T, H]`, after dropout if any.

        Args:
            z: `[B, d]`.
            tokens: int32 `[B, T]`, padded with 0.
            seeds: int32 `[B, 2]`, of dropout masks; without them nothing is dropped.
        """
        # Time first, as the loop runs.
        previous = tf.pad(
            tf.transpose(tokens)[:-1], [[1, 0], [0, 0]], constant_values=self.tokenizer.start_id
        )
        inputs = tf.gather(self.embedding.value, previous)  # [T, B, E]
        hidden = self.run(self._drop(inputs, seeds, _EMBEDDING_MASK), z)
        return tf.transpose(self._drop(hidden, seeds, _OUTPUT_MASK), [1, 0, 2])

    def negative_log_likelihood(self, states: Tensor, tokens: Tensor) -> Tensor:
        """-log p(x | z) of each sentence, the end token included: nats, `[B]`.

        Args:
            states: Of `states`, `[B, T, H]`.
            tokens: The same sentences.
        """
        return tf.reduce_sum(self.token_nll(states, tokens), axis=1)

    def token_nll(self, states: Tensor, tokens: Tensor) -> Tensor:
        """-log p(x_t | x_<t, z), `[B, T]`; 0 for padding."""
        flat = tf.reshape(tf.cast(states, self.compute_dtype), [-1, self.hidden_size])
        kernel, bias = self._output()
        nll = token_nll(flat, kernel, bias, tf.reshape(tokens, [-1]))
        nll = tf.reshape(nll, tf.shape(tokens))
        return tf.where(tokens == self.tokenizer.pad_id, 0.0, nll)

    def call(self, z: Tensor, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        return self.logits(self.states(z, tokens, seeds))

    # ---- Writing ------------------------------------------------------------------------

    def logits(self, states: Tensor) -> Tensor:
        """`[..., H]` to float32 `[..., V]`."""
        kernel, bias = self._output()
        return tf.cast(tf.tensordot(tf.cast(states, kernel.dtype), kernel, 1), tf.float32) + bias

    def next_logits(self, previous: Tensor, state: State, z: Tensor) -> tuple[Tensor, State]:
        """Logits `[B, V]` behind the tokens `[B]`, and the next state."""
        hidden, state = self.step(tf.gather(self.embedding.value, previous), state, z)
        return self.logits(hidden), state

    def write(
        self, z: Tensor, seeds: Tensor | None = None, decoding: types.Decoding | None = None
    ) -> Tensor:
        """Sentences of latents: ids, int32 `[B, max_length]`, padded behind their end token.

        Args:
            z: `[B, d]`.
            seeds: int32 `[B, 2]`, for `Sampled`.
            decoding: Default: the generator's own.

        Raises:
            InvalidInputError: Sampling without seeds, or what is not a way to write.
        """
        way = self.decoding if decoding is None else checked(decoding)
        return way.write(self, z, seeds)

    def _output(self) -> tuple[Tensor, Tensor]:
        kernel = tf.cast(self.output_kernel.value, self.compute_dtype)
        return kernel, tf.convert_to_tensor(self.output_bias)

    def _drop(self, values: Tensor, seeds: Tensor | None, stream: int) -> Tensor:
        """Inverted dropout of `[T, B, n]`."""
        if seeds is None or not self.dropout:
            return values
        size, keep = values.shape[-1], 1.0 - self.dropout
        return values * random.row_keep_mask(seeds, stream, tf.shape(values)[0], size, keep)

    # ---- Keras --------------------------------------------------------------------------

    def compute_output_shape(self, input_shape: types.Shape, *args: Any) -> types.Shape:
        return (input_shape[0], None, self.vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        names = ("embedding_size", "hidden_size", "dropout", "max_length")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            **{
                name: keras.saving.serialize_keras_object(getattr(self, name))
                for name in ("tokenizer", "decoding")
            },
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        loaded = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("tokenizer", "decoding")
        }
        return cls(**{**config, **loaded})

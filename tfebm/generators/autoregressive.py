"""The decoder of sentences: a recurrent network that sees the latent at every step."""

from typing import Any

import keras
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError, received
from tfebm.generators.decoding import Decoding, Greedy, write
from tfebm.generators.projection import token_nll
from tfebm.generators.recurrent import lstm
from tfebm.tokenizers import Tokenizer
from tfebm.types import Tensor

# Streams of the dropout masks of a row's seed.
_EMBEDDING_MASK, _OUTPUT_MASK = range(2)


@keras.saving.register_keras_serializable(package="tfebm")
class AutoregressiveGenerator(keras.layers.Layer):
    """p(x | z) of sentences: an LSTM over their words, with z in every input and at the start.

        p(x | z) = prod_t p(x_t | x_1, ..., x_{t-1}, z)
        h_t, c_t = LSTM([embedding(x_{t-1}), z], h_{t-1}, c_{t-1}),   x_0 = the start token
        h_0 = z A + a,   c_0 = 0 or z C + c,   p(x_t | ...) = softmax(h_t W + b)

    A sentence is its tokens and the end token, which is counted; the start token is not. Ids of 0
    are padding and are never counted.

    Args:
        tokenizer: Strings to ids and back, `tfebm.tokenizers.WordTokenizer` or another
            `Tokenizer`. It is saved and exported with the generator.
        embedding_size: Of the embedding; 256 in the paper.
        hidden_size: H, units of the LSTM; 256 in the paper.
        dropout: Share of embeddings and of LSTM outputs that are dropped while learning, in the
            chain as well, with fresh masks at every step; 0.5 in the paper.
        latent_to_cell: Whether z also makes c_0, as in the decoder of the latent-space EBM prior.
        max_length: Most tokens that are generated, the end token included.
        decoding: How sentences are written: `Greedy()`, `Sampled(temperature)` or
            `BeamSearch(width)` of `tfebm.generators.decoding`.
        **kwargs: Of `keras.layers.Layer`. With `dtype="mixed_bfloat16"` the matrix products
            with the vocabulary compute in bfloat16; everything else stays float32.

    Call arguments:
        z: Floats `[B, d]`; `[B, 0]` makes it a plain language model.
        tokens: int32 `[B, T]`, padded with 0.
        seeds: int32 `[B, 2]`, of dropout masks; without them nothing is dropped.

    Returns:
        Logits of every token, float32 `[B, T, V]`.

    Raises:
        InvalidInputError: Sizes or a dropout that cannot be used.

    Example:

        >>> tokenizer = tfebm.tokenizers.WordTokenizer.learn(["a cat sleeps", "the dog barks"])
        >>> generator = tfebm.AutoregressiveGenerator(tokenizer, 32, 64)
        >>> model = tfebm.ShortRunModel(generator, latent_size=8)
        >>> model.generate(2)                       # sentences

    References: B. Pang, E. Nijkamp, T. Han, Y. N. Wu. Generative Text Modeling through Short Run
    Inference. EACL 2021, section 4 and the released code. All weights start uniform within 0.1, as
    there.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        embedding_size: int = 256,
        hidden_size: int = 256,
        dropout: float = 0.5,
        latent_to_cell: bool = False,
        max_length: int = 64,
        decoding: Decoding | None = None,
        **kwargs: Any,
    ) -> None:
        # The layer casts for itself; latents are not rounded to its precision before.
        super().__init__(**{"autocast": False, **kwargs})
        checks.check_count("embedding_size", embedding_size)
        checks.check_count("hidden_size", hidden_size)
        checks.check_count("max_length", max_length)
        if not 0.0 <= dropout < 1.0:
            raise InvalidInputError(
                f"`dropout` must be at least 0 and less than 1. Received {dropout!r}."
            )
        if not isinstance(tokenizer, Tokenizer):
            raise InvalidInputError(
                "`tokenizer` must be a Tokenizer, such as `tfebm.tokenizers.WordTokenizer`. "
                f"Received {received(tokenizer)}."
            )
        if decoding is not None and not isinstance(decoding, Decoding):
            raise InvalidInputError(
                "`decoding` must be `Greedy()`, `Sampled(temperature)` or `BeamSearch(width)` of "
                f"`tfebm.generators.decoding`. Received {received(decoding)}."
            )
        self.tokenizer = tokenizer
        self.embedding_size, self.hidden_size = int(embedding_size), int(hidden_size)
        self.dropout = float(dropout)
        self.latent_to_cell = bool(latent_to_cell)
        self.max_length = int(max_length)
        self.decoding = decoding or Greedy()

    @property
    def vocabulary_size(self) -> int:
        """V, special tokens included."""
        return self.tokenizer.vocabulary_size

    def build(self, input_shape: tuple) -> None:
        if self.built:  # loading a model builds its layers twice
            return
        d, h, v = int(input_shape[-1]), self.hidden_size, self.vocabulary_size

        def weight(name: str, *shape: int) -> keras.Variable:
            # float32 whatever the policy: the recurrence adds up over the words.
            uniform = keras.initializers.RandomUniform(-0.1, 0.1)
            options = {"dtype": "float32", "autocast": False, "initializer": uniform}
            return self.add_weight(name=name, shape=shape, **options)

        self.embedding = weight("embedding", v, self.embedding_size)
        self.kernel = weight("kernel", self.embedding_size + d, 4 * h)
        self.recurrent_kernel = weight("recurrent_kernel", h, 4 * h)
        self.bias = weight("bias", 4 * h)
        self.latent_kernel = weight("latent_kernel", d, h)
        self.latent_bias = weight("latent_bias", h)
        if self.latent_to_cell:
            self.cell_kernel = weight("cell_kernel", d, h)
            self.cell_bias = weight("cell_bias", h)
        self.output_kernel = weight("output_kernel", h, v)
        self.output_bias = weight("output_bias", v)
        super().build(input_shape)

    # ---- Teacher forcing --------------------------------------------------------------

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
        inputs = self._drop(inputs, seeds, _EMBEDDING_MASK)
        gates = self.gates(inputs, self.latent_gates(z))
        hidden = lstm(gates, tf.convert_to_tensor(self.recurrent_kernel), *self.start(z))
        hidden = self._drop(hidden, seeds, _OUTPUT_MASK)
        return tf.transpose(hidden, [1, 0, 2])

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

    # ---- Parts, which decoding uses one step at a time ------------------------------------

    def start(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """h_0 and c_0, `[B, H]` each."""
        hidden = _product(z, self.latent_kernel) + self.latent_bias
        if not self.latent_to_cell:
            return hidden, tf.zeros_like(hidden)
        return hidden, _product(z, self.cell_kernel) + self.cell_bias

    def latent_gates(self, z: Tensor) -> Tensor:
        """What z contributes to the gates at every step, with their bias: `[B, 4 H]`."""
        return _product(z, self.kernel[self.embedding_size :]) + self.bias

    def gates(self, inputs: Tensor, latent_gates: Tensor) -> Tensor:
        """Embeddings `[..., B, E]` to gates `[..., B, 4 H]`, all but what h contributes."""
        return tf.tensordot(inputs, self.kernel[: self.embedding_size], 1) + latent_gates

    def logits(self, states: Tensor) -> Tensor:
        """`[..., H]` to float32 `[..., V]`."""
        kernel, bias = self._output()
        return tf.cast(tf.tensordot(tf.cast(states, kernel.dtype), kernel, 1), tf.float32) + bias

    def next_logits(
        self, previous: Tensor, latent_gates: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of decoding: logits `[B, V]` and the next h and c, from tokens `[B]`."""
        gates = self.gates(tf.gather(self.embedding.value, previous), latent_gates)
        gates += tf.matmul(hidden, self.recurrent_kernel)
        i, f, g, o = tf.split(gates, 4, axis=-1)
        cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
        hidden = tf.sigmoid(o) * tf.tanh(cell)
        return self.logits(hidden), hidden, cell

    def write(
        self, z: Tensor, seeds: Tensor | None = None, decoding: Decoding | None = None
    ) -> Tensor:
        """Sentences of latents: ids, int32 `[B, max_length]`, padded behind their end token.

        Args:
            z: `[B, d]`.
            seeds: int32 `[B, 2]`, for `Sampled`.
            decoding: Default: the generator's own.
        """
        return write(self, z, seeds, decoding or self.decoding)

    def _output(self) -> tuple[Tensor, Tensor]:
        kernel = tf.cast(self.output_kernel.value, self.compute_dtype)
        return kernel, tf.convert_to_tensor(self.output_bias)

    def _drop(self, values: Tensor, seeds: Tensor | None, stream: int) -> Tensor:
        """Inverted dropout of `[T, B, n]`."""
        if seeds is None or not self.dropout:
            return values
        size, keep = values.shape[-1], 1.0 - self.dropout
        return values * random.row_keep_mask(seeds, stream, tf.shape(values)[0], size, keep)

    # ---- Keras ------------------------------------------------------------------------

    def compute_output_shape(self, input_shape: tuple, *args: Any) -> tuple:
        return (input_shape[0], None, self.vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        names = ("embedding_size", "hidden_size", "dropout", "latent_to_cell", "max_length")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            **{
                name: keras.saving.serialize_keras_object(getattr(self, name))
                for name in ("tokenizer", "decoding")
            },
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AutoregressiveGenerator":
        loaded = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("tokenizer", "decoding")
        }
        return cls(**{**config, **loaded})


def _product(z: Tensor, kernel: Tensor) -> Tensor:
    """z W, and 0 of a latent of size 0, whose product ended the process where oneDNN was on."""
    if z.shape[-1] == 0:
        return tf.zeros([tf.shape(z)[0], 1], kernel.dtype) + tf.reduce_sum(kernel, axis=0)
    return tf.matmul(z, kernel)

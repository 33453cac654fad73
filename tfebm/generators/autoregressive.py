"""The decoder of sentences: a recurrent network that sees the latent at every step."""

from typing import Any

import keras
import tensorflow as tf

from tfebm import types
from tfebm.generators.recurrent import lstm
from tfebm.generators.sentence_decoder import SentenceDecoder
from tfebm.tokenizers import Tokenizer
from tfebm.types import Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class AutoregressiveGenerator(SentenceDecoder):
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
            `BeamSearch(width)` of `tfebm.generators`.
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
        decoding: types.Decoding | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tokenizer, embedding_size, hidden_size, dropout, max_length, decoding, **kwargs
        )
        self.latent_to_cell = bool(latent_to_cell)

    def build_core(self, latent_size: int) -> None:
        d, h = latent_size, self.hidden_size
        self.kernel = self.weight("kernel", self.embedding_size + d, 4 * h)
        self.recurrent_kernel = self.weight("recurrent_kernel", h, 4 * h)
        self.bias = self.weight("bias", 4 * h)
        self.latent_kernel = self.weight("latent_kernel", d, h)
        self.latent_bias = self.weight("latent_bias", h)
        if self.latent_to_cell:
            self.cell_kernel = self.weight("cell_kernel", d, h)
            self.cell_bias = self.weight("cell_bias", h)

    def start(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """h_0 and c_0, `[B, H]` each."""
        hidden = _product(z, self.latent_kernel) + self.latent_bias
        if not self.latent_to_cell:
            return hidden, tf.zeros_like(hidden)
        return hidden, _product(z, self.cell_kernel) + self.cell_bias

    def step(
        self, inputs: Tensor, state: tuple[Tensor, Tensor], z: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = state
        gates = self._gates(inputs, z) + tf.matmul(hidden, self.recurrent_kernel)
        i, f, g, o = tf.split(gates, 4, axis=-1)
        cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
        hidden = tf.sigmoid(o) * tf.tanh(cell)
        return hidden, (hidden, cell)

    def run(self, inputs: Tensor, z: Tensor) -> Tensor:
        recurrent_kernel = tf.convert_to_tensor(self.recurrent_kernel)
        return lstm(self._gates(inputs, z), recurrent_kernel, *self.start(z))

    def _gates(self, inputs: Tensor, z: Tensor) -> Tensor:
        """Embeddings `[..., B, E]` to gates `[..., B, 4 H]`, all but what h contributes."""
        of_latent = _product(z, self.kernel[self.embedding_size :]) + self.bias
        return tf.tensordot(inputs, self.kernel[: self.embedding_size], 1) + of_latent

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "latent_to_cell": self.latent_to_cell}


def _product(z: Tensor, kernel: Tensor) -> Tensor:
    """z W, and 0 of a latent of size 0, whose product ended the process where oneDNN was on."""
    if z.shape[-1] == 0:
        return tf.zeros([tf.shape(z)[0], 1], kernel.dtype) + tf.reduce_sum(kernel, axis=0)
    return tf.matmul(z, kernel)

"""The three kinds of examples: arrays under a likelihood, arrays that a flow makes, sentences."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.endpoints import Outputs, text_spec
from tfebm.errors import InvalidInputError
from tfebm.generators import ConvEncoder, GaussianLikelihood, Sampled, SentenceEncoder
from tfebm.models import arguments, batches, defaults, latents, networks
from tfebm.models.parts import Examples
from tfebm.types import Latents, SentenceGenerator, Tensor

# Logits of all sentences at once: 64 MB for each of several tensors, for 10,000 words and as many
# rows as fill them; more at once is no faster.
_LOGITS, _TYPICAL_LENGTH = 2**24, 25
_BEYOND = 0.01  # by which served pixels may leave their range, as resampled ones do


class _Floats(Examples):
    """Floats of one shape."""

    defaults = defaults.ARRAYS
    shape: tuple[int, ...]

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Where values lie; None where any number may be one of them."""
        raise NotImplementedError

    def check(self, x: Any) -> None:
        checks.check_training_data(x, self.shape, self.value_range)

    def as_batch(self, x: Any) -> Tensor:
        return batches.floats(x, self.shape)

    def tensor(self, x: Any) -> Tensor:
        return tf.constant(checks.as_examples(x, self.shape))

    def reads(
        self, function: Callable[..., Outputs], max_length: int | None
    ) -> Callable[..., Outputs]:
        """`function`, which answers NaN for a row with values outside the range.

        Pixels from 0 to 255 would else have a score like any other, only a thousand times too high.
        An error would take it out on all whose rows share the batch.
        """
        known = self.value_range
        if known is None:
            return function
        low, high = known[0] - _BEYOND, known[1] + _BEYOND

        def checked(x: Tensor, *rest: Tensor) -> Outputs:
            axes = list(range(1, x.shape.rank))
            outside = tf.reduce_any((x < low) | (x > high), axis=axes, keepdims=True)
            return function(tf.where(outside, float("nan"), x), *rest)

        return checked


class Arrays(_Floats):
    """Floats of one shape, such as images or rows of a table, under a likelihood.

    Args:
        generator: Of the model.
        latent_size: That it is built for.
        decode: The model's, latents to what the generator returns.
        likelihood: p(x | z); None for the default.
    """

    metric_names = ("reconstruction_mse",)

    def __init__(
        self,
        generator: keras.layers.Layer,
        latent_size: latents.LatentSize,
        decode: Callable[..., Tensor],
        likelihood: Any,
    ) -> None:
        super().__init__(networks.build_generator(generator, latent_size))
        self._generator, self._latent_size, self._decode = generator, latent_size, decode
        self.likelihood = GaussianLikelihood() if likelihood is None else likelihood

    @property
    def likelihood(self) -> Any:
        """p(x | z)."""
        return self._likelihood

    @likelihood.setter
    def likelihood(self, likelihood: Any) -> None:
        arguments.check_likelihood(likelihood)
        arguments.check_logits(likelihood, self._generator, self._latent_size)
        self._likelihood = likelihood

    @property
    def value_range(self) -> tuple[float, float] | None:
        of_likelihood = getattr(self.likelihood, "data_range", None)
        return of_likelihood or getattr(self._generator, "output_range", None)

    @property
    def saved_likelihood(self) -> Any:
        return self.likelihood

    def check(self, x: Any) -> None:
        super().check(x)
        if batches.is_array(x):
            arguments.check_signs(self.likelihood, np.asarray(x))

    def tensor(self, x: Any) -> Tensor:
        x = checks.as_examples(x, self.shape)
        arguments.check_signs(self.likelihood, x)
        return tf.constant(x)

    def default_encoder(self, latent_size: latents.LatentSize) -> keras.layers.Layer:
        if len(self.shape) != 3:
            size = 2 * sum(latents.sizes(latent_size))
            raise InvalidInputError(
                "Without an encoder, examples must be images of shape (height, width, channels). "
                f"The generator makes {self.shape}. Give an `encoder`, for instance "
                f"`keras.layers.Dense({size})`."
            )
        return ConvEncoder(self.shape, latent_size)

    def outputs(
        self, z: Latents, x: Tensor, training: bool | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        return self._decode(z, training)

    def seen(self, outputs: Tensor, x: Tensor) -> dict[str, Tensor]:
        squared = tf.square(x - self.likelihood.mean(outputs))
        axes = list(range(1, squared.shape.rank))
        return {"reconstruction_mse": tf.reduce_mean(squared, axis=axes)}

    def render(self, z: Latents, seeds: Tensor | None = None, decoding: Any = None) -> Tensor:
        if decoding is not None:
            raise InvalidInputError(
                "`decoding` says how sentences are written, but this generator makes arrays. Leave "
                "it out."
            )
        return self.likelihood.mean(self._decode(z))


class Decoded(_Floats):
    """Floats that latents decode to exactly: x = g(z), of a flow or another backbone.

    Of discrete images the density is one over pixels with uniform noise of the width of a level.

    Args:
        shape: Of one example.
        decode: The model's, g.
        num_levels: How many values a pixel can take, evenly spaced over [-1, 1]; None for
            continuous data.
    """

    likelihood = None

    def __init__(
        self, shape: tuple[int, ...], decode: Callable[..., Tensor], num_levels: int | None
    ) -> None:
        if num_levels is not None:
            checks.check_count("num_levels", num_levels, least=2)
        super().__init__(shape)
        self._decode, self.num_levels = decode, num_levels

    @property
    def value_range(self) -> tuple[float, float] | None:
        return (-1.0, 1.0) if self.num_levels else None

    @property
    def log_bin_width(self) -> float:
        """log of the volume of a cell of discrete data: it makes a density a probability."""
        if self.num_levels is None:
            return 0.0
        return math.prod(self.shape) * math.log(2.0 / (self.num_levels - 1))

    def dequantize(self, x: Tensor, seeds: Tensor) -> Tensor:
        """`x` with uniform noise of the width of a level, `2 / (num_levels - 1)` on [-1, 1]."""
        if self.num_levels is None:
            return x
        size = math.prod(self.shape)
        uniform = random.row_uniform(seeds, random.DEQUANTIZE_STREAM, size) - 0.5
        return x + tf.reshape(uniform, tf.shape(x)) * (2.0 / (self.num_levels - 1))

    def default_encoder(self, latent_size: latents.LatentSize) -> keras.layers.Layer:
        raise InvalidInputError("A flow is inverted exactly, and has no encoder. Leave it out.")

    def outputs(
        self, z: Latents, x: Tensor, training: bool | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        return self._decode(z)

    def render(self, z: Latents, seeds: Tensor | None = None, decoding: Any = None) -> Tensor:
        if decoding is not None:
            raise InvalidInputError(
                "`decoding` says how sentences are written, but a flow makes arrays. Received "
                f"{decoding!r}. Leave it out."
            )
        x = self._decode(z)
        return tf.clip_by_value(x, *self.value_range) if self.value_range else x


class SequenceLikelihood:
    """p(x | z) of sentences, from the states of the generator that it belongs to."""

    energy_scale = 1.0

    def __init__(self, generator: SentenceGenerator) -> None:
        self._generator = generator

    def error(self, outputs: Any, x: Tensor) -> Tensor:
        """-log p(x | z), summed over tokens: `[B]`."""
        return self._generator.negative_log_likelihood(outputs, x)

    def log_prob(self, outputs: Any, x: Tensor) -> Tensor:
        return -self.error(outputs, x)

    def get_config(self) -> dict[str, Any]:
        return {"decoding": repr(self._generator.decoding)}


class Sentences(Examples):
    """Ids of tokens, int32 `[B, T]`, padded with 0 behind their end tokens.

    Args:
        generator: Of the model.
        latent_size: That it is built for, one number.
        likelihood: None: the generator's own softmax is the likelihood.
        seed: The model's, of words that are drawn for latents alone.
    """

    defaults = defaults.SENTENCES
    served_answers = frozenset({"infer", "reconstruct", "features", "errors", "bound"})
    shape = (None,)
    spec = tf.TensorSpec([None, None], tf.int32, name="tokens")

    def __init__(
        self,
        generator: Any,
        latent_size: latents.LatentSize,
        likelihood: Any,
        seed: int,
    ) -> None:
        if isinstance(latent_size, tuple):
            raise InvalidInputError(
                "A generator of sentences takes one vector of latents. Received "
                f"`latent_size={latent_size}`. Give one whole number."
            )
        if not generator.built:
            generator.build((None, latent_size))
        self._generator, self._seed = generator, seed
        self._likelihood = SequenceLikelihood(generator)
        if likelihood is not None:
            self.likelihood = likelihood

    @property
    def likelihood(self) -> SequenceLikelihood:
        """p(x | z), the generator's own."""
        return self._likelihood

    @likelihood.setter
    def likelihood(self, likelihood: Any) -> None:
        raise InvalidInputError(
            "The likelihood of sentences is the generator's own softmax. Received "
            f"{type(likelihood).__name__}. Leave `likelihood` out."
        )

    @property
    def draws_masks(self) -> bool:
        return self._generator.dropout > 0

    @property
    def vocabulary_size(self) -> int:
        return self._generator.vocabulary_size

    @property
    def rows_at_once(self) -> int:
        return max(1, min(256, _LOGITS // (self.vocabulary_size * _TYPICAL_LENGTH)))

    def check(self, x: Any) -> None:
        checks.check_token_data(x, self.vocabulary_size)

    def holds(self, x: Any) -> bool:
        return batches.is_array(x) or isinstance(x, (str, list))

    def as_batch(self, x: Any) -> Tensor:
        return batches.ids(x)

    def tensor(self, x: Any) -> Tensor:
        if isinstance(x, (str, bytes)):
            raise InvalidInputError(
                "Sentences must be a list, or ids [N, T]. Received a single string. Put it into a "
                "list."
            )
        text = _strings(x)
        if text is None:
            return tf.constant(checks.as_tokens(x, self.vocabulary_size))
        return self._generator.tokenizer.tokenize(tf.constant(text, tf.string, shape=[len(text)]))

    def two(self) -> Tensor:
        return tf.fill([2, 3], self._generator.tokenizer.end_id)

    def default_encoder(self, latent_size: Any) -> keras.layers.Layer:
        sizes = [getattr(self._generator, f"{what}_size", 256) for what in ("embedding", "hidden")]
        return SentenceEncoder(self.vocabulary_size, latent_size, *sizes)

    def served_input(self) -> tf.TensorSpec:
        return text_spec()

    def checked_length(self, max_length: int | None) -> int:
        length = self._generator.max_length if max_length is None else max_length
        checks.check_count("max_length", length)
        return length

    def reads(
        self, function: Callable[..., Outputs], max_length: int | None
    ) -> Callable[..., Outputs]:
        """`function` of ids as one of sentences, none longer than `max_length`.

        One long sentence would be padding, time and memory for all that share its batch.
        """

        def of_text(text: Tensor, *rest: Tensor) -> Outputs:
            ids = self._generator.tokenizer.tokenize(text)
            cut = tf.reduce_any(ids[:, max_length:] != 0, axis=1)
            return {**function(ids[:, :max_length], *rest), "cut": cut}

        return of_text

    def served(self, z: Latents, seeds: Tensor | None = None) -> Outputs:
        text = {"text": self.render(z, seeds)}
        if seeds is not None:
            return text
        # Words have no NaN to say it with.
        return {**text, "valid": tf.reduce_all(tf.math.is_finite(z), axis=1)}

    @property
    def needs_tensorflow_text(self) -> bool:
        return self._generator.tokenizer.needs_tensorflow_text

    @property
    def resources(self) -> Sequence[Any]:
        return self._generator.tokenizer.resources

    def order(self, x: Tensor) -> np.ndarray | None:
        return np.argsort(_lengths(x), kind="stable")

    def trim(self, x: Tensor) -> Tensor:
        longest = int(_lengths(x).max(initial=0))
        # A column at least, also where no sentence came, for the loops over words.
        return x[:, :longest] if longest else tf.zeros([len(x), 1], tf.int32)

    def outputs(
        self, z: Latents, x: Tensor, training: bool | None = None, seeds: Tensor | None = None
    ) -> Any:
        return self._generator.states(z, x, seeds if training else None)

    def render(self, z: Latents, seeds: Tensor | None = None, decoding: Any = None) -> Tensor:
        if seeds is None:
            seeds = random.content_seeds(self._seed, z)
        if decoding is None and not z.shape[-1]:
            decoding = Sampled()  # without a latent all greedy ones are alike
        ids = self._generator.write(z, random.fold_in(seeds, random.WRITING), decoding)
        return self._generator.tokenizer.detokenize(ids)


def of_generator(
    generator: keras.layers.Layer,
    latent_size: latents.LatentSize,
    decode: Callable[..., Tensor],
    likelihood: Any,
    seed: int,
) -> Examples:
    """What a generator makes: sentences if it has a tokenizer, else arrays."""
    if isinstance(generator, SentenceGenerator):
        return Sentences(generator, latent_size, likelihood, seed)
    return Arrays(generator, latent_size, decode, likelihood)


def _strings(x: Any) -> list[Any] | None:
    """`x` as a list of strings; None where it is none."""
    if tf.is_tensor(x):
        return list(x.numpy()) if x.dtype == tf.string else None
    if isinstance(x, np.ndarray) and x.dtype.kind not in "OSU":
        return None
    if not isinstance(x, Iterable) or isinstance(x, tf.data.Dataset):
        return None
    rows = list(x)
    return rows if all(isinstance(row, (str, bytes)) for row in rows) else None


def _lengths(x: Tensor) -> np.ndarray:
    return np.count_nonzero(x.numpy(), axis=1)

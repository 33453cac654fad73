"""What the examples of a model are: arrays of one shape, or sentences.

The models ask one of these two for all that differs: how examples are checked and handed over, how
p(x | z) reads what the generator returns, and how latents become examples again.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.generators.likelihoods import GaussianLikelihood
from tfebm.models import arguments, batches, networks
from tfebm.types import Latents, Tensor


class Arrays:
    """Floats of one shape, such as images, under the likelihood of the model."""

    dtype: ClassVar = tf.float32
    metric_names: ClassVar[tuple[str, ...]] = ("reconstruction_mse",)
    drops: ClassVar[bool] = False
    """Whether the chain of a learning step draws dropout masks."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.shape = networks.build_generator(model.generator, model.latent_size)

    def likelihood(self, requested: Any) -> Any:
        """p(x | z) where the user asked for `requested`, or for None."""
        return GaussianLikelihood() if requested is None else requested

    def check(self, x: Any) -> None:
        """Raises `InvalidInputError` for what cannot be learned."""
        of_likelihood = getattr(self._model.likelihood, "data_range", None)
        of_generator = getattr(self._model.generator, "output_range", None)
        checks.check_training_data(x, self.shape, of_likelihood or of_generator)
        if batches.is_array(x):
            arguments.check_signs(self._model.likelihood, np.asarray(x))

    def tensor(self, x: Any) -> Tensor:
        """A user's examples for inference, `[N, ...]`."""
        x = checks.as_examples(x, self.shape)
        arguments.check_signs(self._model.likelihood, x)
        return tf.constant(x)

    def two(self) -> Tensor:
        """A batch of two examples, to build networks with."""
        return tf.zeros([2, *self.shape])

    def order(self, x: Tensor) -> np.ndarray | None:
        """An order of rows that makes good batches; None where any does."""
        return None

    def trim(self, x: Tensor) -> Tensor:
        """A batch without what all its rows lack."""
        return x

    @property
    def spec(self) -> tf.TensorSpec:
        """Of a batch."""
        return tf.TensorSpec([None, *self.shape], tf.float32, name="image")

    def outputs(
        self, z: Latents, x: Tensor, training: bool | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """What the likelihood takes."""
        return self._model.decode(z, training)

    def seen(self, outputs: Tensor, x: Tensor) -> dict[str, Tensor]:
        """`metric_names` of each row."""
        squared = tf.square(x - self._model.likelihood.mean(outputs))
        return {
            "reconstruction_mse": tf.reduce_mean(squared, axis=list(range(1, squared.shape.rank)))
        }

    def render(self, z: Latents, seeds: Tensor | None, decoding: Any) -> Tensor:
        """One example per latent."""
        if decoding is not None:
            raise InvalidInputError(
                "`decoding` says how sentences are written, but this generator makes arrays. Leave "
                "it out."
            )
        return self._model.likelihood.mean(self._model.decode(z))


class SequenceLikelihood:
    """p(x | z) of sentences, from the states of the generator that it belongs to."""

    energy_scale = 1.0

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z), summed over tokens: `[B]`."""
        return self._generator.negative_log_likelihood(outputs, x)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return -self.error(outputs, x)

    def get_config(self) -> dict[str, Any]:
        return {"decoding": repr(self._generator.decoding)}


class Sentences:
    """Ids of tokens, int32 `[B, T]`, padded with 0 behind their end tokens.

    The generator has a `tokenizer`, `states(z, tokens, seeds)`,
    `negative_log_likelihood(states, tokens)`, `write(z, seeds, decoding)`, `dropout`, `decoding`
    and `max_length`, as `tfebm.AutoregressiveGenerator` has.
    """

    dtype: ClassVar = tf.int32
    metric_names: ClassVar[tuple[str, ...]] = ()
    shape: ClassVar = (None,)

    def __init__(self, model: Any) -> None:
        self._generator, self._seed = model.generator, model.seed
        if isinstance(model.latent_size, tuple):
            raise InvalidInputError(
                "A generator of sentences takes one vector of latents. Received "
                f"`latent_size={model.latent_size}`. Give one whole number."
            )
        if not model.generator.built:
            model.generator.build((None, model.latent_size))

    @property
    def drops(self) -> bool:
        return self._generator.dropout > 0

    def likelihood(self, requested: Any) -> Any:
        if requested is not None:
            raise InvalidInputError(
                "The likelihood of sentences is the generator's own softmax. Received "
                f"{type(requested).__name__}. Leave `likelihood` out."
            )
        return SequenceLikelihood(self._generator)

    def check(self, x: Any) -> None:
        checks.check_token_data(x, self._generator.vocabulary_size)

    def tensor(self, x: Any) -> Tensor:
        if isinstance(x, (str, bytes)):
            raise InvalidInputError(
                "Sentences must be a list, or ids [N, T]. Received a single string. Put it into a "
                "list."
            )
        text = _strings(x)
        if text is None:
            return tf.constant(checks.as_tokens(x, self._generator.vocabulary_size))
        return self._generator.tokenizer.tokenize(tf.constant(text, tf.string, shape=[len(text)]))

    def two(self) -> Tensor:
        return tf.fill([2, 3], self._generator.tokenizer.end_id)

    def order(self, x: Tensor) -> np.ndarray | None:
        return np.argsort(_lengths(x), kind="stable")

    def trim(self, x: Tensor) -> Tensor:
        longest = int(_lengths(x).max(initial=0))
        # A column at least, also where no sentence came, for the loops over words.
        return x[:, :longest] if longest else tf.zeros([len(x), 1], tf.int32)

    @property
    def spec(self) -> tf.TensorSpec:
        return tf.TensorSpec([None, None], tf.int32, name="tokens")

    def outputs(
        self, z: Latents, x: Tensor, training: bool | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        return self._generator.states(z, x, seeds if training else None)

    def seen(self, outputs: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {}

    def render(self, z: Latents, seeds: Tensor | None, decoding: Any) -> Tensor:
        if seeds is None:
            seeds = random.content_seeds(self._seed, z)
        ids = self._generator.write(z, random.fold_in(seeds, random.WRITING), decoding)
        return self._generator.tokenizer.detokenize(ids)


def kind_of(model: Any) -> Arrays | Sentences:
    """Sentences for a generator with a tokenizer, arrays for any other."""
    return Sentences(model) if hasattr(model.generator, "tokenizer") else Arrays(model)


def _strings(x: Any) -> list | None:
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

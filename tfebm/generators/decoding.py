"""How sentences are written from p(x_t | x_<t, z): greedily, by sampling, or by beam search.

All three are loops of the graph, which end when every sentence has. Padding and the start token
are never written.
"""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.types import Tensor

_IMPOSSIBLE = -1e9


class Decoding:
    """Settings of one way to write."""

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Decoding":
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfebm")
@dataclasses.dataclass(frozen=True)
class Greedy(Decoding):
    """The most probable token at every step."""


@keras.saving.register_keras_serializable(package="tfebm")
@dataclasses.dataclass(frozen=True)
class Sampled(Decoding):
    """A draw from softmax(logits / temperature) at every step.

    Token t of a row is a function of (the row's seed, t) and its probabilities alone.

    Args:
        temperature: Positive; 1 draws from the model itself.

    Raises:
        InvalidInputError: A temperature that is not positive.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InvalidInputError(
                f"`temperature` must be a positive number. Received {self.temperature!r}. For "
                "the most probable tokens use `Greedy()`."
            )


@keras.saving.register_keras_serializable(package="tfebm")
@dataclasses.dataclass(frozen=True)
class BeamSearch(Decoding):
    """The best sentence of a beam, by log p(x | z) / length**length_penalty.

    Args:
        width: Sentences that are kept at every step; 1 is `Greedy`.
        length_penalty: 0 compares log-likelihoods, 1 those per token.

    Raises:
        InvalidInputError: A width below 1, or a negative penalty.
    """

    width: int = 5
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        checks.check_count("width", self.width)
        if not (math.isfinite(self.length_penalty) and self.length_penalty >= 0):
            raise InvalidInputError(
                "`length_penalty` must be a number of at least 0. Received "
                f"{self.length_penalty!r}."
            )


def write(generator: Any, z: Tensor, seeds: Tensor | None, decoding: Decoding) -> Tensor:
    """Ids, int32 `[B, max_length]`, of sentences for `z`; see `AutoregressiveGenerator.write`.

    Raises:
        InvalidInputError: Sampling without seeds, or settings of another kind.
    """
    if isinstance(decoding, BeamSearch):
        return _beam_search(generator, z, decoding)
    if isinstance(decoding, Greedy):
        return _one_by_one(generator, z, _most_probable)
    if not isinstance(decoding, Sampled):
        raise InvalidInputError(
            "`decoding` must be Greedy(), Sampled(...) or BeamSearch(...). Received "
            f"{type(decoding).__name__}."
        )
    if seeds is None:
        raise InvalidInputError(
            "Sampling needs `seeds`, int32 `[B, 2]`, one stream per row. Received none; "
            "`tfebm.random.as_row_seeds(0, num_rows)` makes them."
        )
    seeds = random.as_row_seeds(seeds, tf.shape(z)[0])

    def draw(logits: Tensor, t: Tensor) -> Tensor:
        # The inverse of the distribution function: one uniform a token, whatever the vocabulary.
        cumulated = tf.cumsum(tf.nn.softmax(logits / decoding.temperature), axis=-1)
        threshold = random.row_uniform(seeds, t, 1) * cumulated[:, -1:]
        below = tf.reduce_sum(tf.cast(cumulated < threshold, tf.int32), axis=-1)
        return tf.minimum(below, tf.shape(logits)[-1] - 1)

    return _one_by_one(generator, z, draw)


def _most_probable(logits: Tensor, t: Tensor) -> Tensor:
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def _never(generator: Any) -> Tensor:
    """`[V]`: added to logits, it rules padding and the start token out."""
    tokenizer = generator.tokenizer
    ids = [tokenizer.pad_id, tokenizer.start_id]
    return tf.reduce_sum(tf.one_hot(ids, generator.vocabulary_size, _IMPOSSIBLE, 0.0), axis=0)


def _one_by_one(generator: Any, z: Tensor, choose: Any) -> Tensor:
    tokenizer, length = generator.tokenizer, generator.max_length
    gates, never = generator.latent_gates(z), _never(generator)
    rows = tf.shape(z)[0]

    def step(t, previous, hidden, cell, done, ids):
        logits, hidden, cell = generator.next_logits(previous, gates, hidden, cell)
        chosen = tf.where(done, tokenizer.pad_id, choose(logits + never, t))
        return (
            t + 1,
            chosen,
            hidden,
            cell,
            done | (chosen == tokenizer.end_id),
            ids.write(t, chosen),
        )

    ids = tf.TensorArray(tf.int32, length, element_shape=[None])
    # What the loop leaves unwritten is padding.
    ids = ids.unstack(tf.fill([length, rows], tokenizer.pad_id))
    *_, ids = tf.while_loop(
        lambda t, previous, hidden, cell, done, ids: ~tf.reduce_all(done),
        step,
        (
            tf.constant(0),
            tf.fill([rows], tokenizer.start_id),
            *generator.start(z),
            tf.fill([rows], False),
            ids,
        ),
        maximum_iterations=length,
        parallel_iterations=1,
    )
    return tf.ensure_shape(tf.transpose(ids.stack()), [None, length])


def _beam_search(generator: Any, z: Tensor, settings: BeamSearch) -> Tensor:
    tokenizer, length, width = generator.tokenizer, generator.max_length, settings.width
    size, rows = generator.vocabulary_size, tf.shape(z)[0]
    gates, never = tf.repeat(generator.latent_gates(z), width, axis=0), _never(generator)
    # A sentence that has ended goes on with padding, at no cost.
    padding = tf.one_hot(tokenizer.pad_id, size, 0.0, _IMPOSSIBLE)

    def of_beams(x: Tensor, parents: Tensor) -> Tensor:
        """Rows of `[B * W, ...]` by their parents `[B, W]`."""
        return tf.gather(x, tf.reshape(parents + tf.range(rows)[:, tf.newaxis] * width, [-1]))

    def step(t, previous, hidden, cell, done, scores, ids):
        logits, hidden, cell = generator.next_logits(previous, gates, hidden, cell)
        log_probs = tf.nn.log_softmax(logits + never)
        log_probs = tf.where(done[:, tf.newaxis], padding, log_probs)
        totals = tf.reshape(scores[:, :, tf.newaxis] + _by_row(log_probs, width), [rows, -1])
        best_scores, best = tf.math.top_k(totals, width)
        scores = tf.ensure_shape(best_scores, scores.shape)
        parents, chosen = best // size, tf.reshape(best % size, [-1])
        # A static number of rows, which the loop insists on, is lost in the indices.
        chosen = tf.ensure_shape(chosen, previous.shape)
        hidden, cell, done, ids = (
            tf.ensure_shape(of_beams(x, parents), x.shape) for x in (hidden, cell, done, ids)
        )
        ids = tf.where(tf.range(length) == t, chosen[:, tf.newaxis], ids)
        return t + 1, chosen, hidden, cell, done | (chosen == tokenizer.end_id), scores, ids

    start = [tf.repeat(x, width, axis=0) for x in generator.start(z)]
    # All beams start alike: all but one are worth nothing.
    scores = tf.tile(tf.one_hot([0], width, 0.0, _IMPOSSIBLE), [rows, 1])
    *_, scores, ids = tf.while_loop(
        lambda t, previous, hidden, cell, done, scores, ids: ~tf.reduce_all(done),
        step,
        (
            tf.constant(0),
            tf.fill([rows * width], tokenizer.start_id),
            *start,
            tf.fill([rows * width], False),
            scores,
            tf.fill([rows * width, length], tokenizer.pad_id),
        ),
        maximum_iterations=length,
        parallel_iterations=1,
    )
    ids = _by_row(ids, width)
    lengths = tf.reduce_sum(tf.cast(ids != tokenizer.pad_id, tf.float32), axis=-1)
    best = tf.argmax(scores / lengths**settings.length_penalty, axis=-1, output_type=tf.int32)
    return tf.ensure_shape(tf.gather(ids, best, batch_dims=1), [None, length])


def _by_row(x: Tensor, width: int) -> Tensor:
    """`[B * W, n]` to `[B, W, n]`."""
    return tf.reshape(x, [-1, width, x.shape[-1]])

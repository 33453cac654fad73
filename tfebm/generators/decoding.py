"""How sentences are written from p(x_t | x_<t, z): greedily, by sampling, or by beam search.

All three are loops of the graph, which end when every sentence has. Padding and the start token
are never written. They write for any `tfebm.types.SentenceWriter`, whatever it remembers between
two tokens.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self

import keras
import tensorflow as tf

from tfebm import checks, random, types
from tfebm.errors import InvalidInputError, received
from tfebm.types import SentenceWriter, State, Tensor

_IMPOSSIBLE = -1e9
_Choose = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Settings that Keras saves."""

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfebm")
@dataclasses.dataclass(frozen=True)
class Greedy(_Settings):
    """The most probable token at every step."""

    def write(self, writer: SentenceWriter, z: Tensor, seeds: Tensor | None = None) -> Tensor:
        """See `tfebm.types.Decoding`."""
        return _one_by_one(writer, z, _most_probable)


@keras.saving.register_keras_serializable(package="tfebm")
@dataclasses.dataclass(frozen=True)
class Sampled(_Settings):
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

    def write(self, writer: SentenceWriter, z: Tensor, seeds: Tensor | None = None) -> Tensor:
        """See `tfebm.types.Decoding`.

        Raises:
            InvalidInputError: No seeds.
        """
        if seeds is None:
            raise InvalidInputError(
                "Sampling needs `seeds`, int32 `[B, 2]`, one stream per row. Received none; "
                "`tfebm.random.as_row_seeds(0, num_rows)` makes them."
            )
        seeds = random.as_row_seeds(seeds, tf.shape(z)[0])

        def draw(logits: Tensor, t: Tensor) -> Tensor:
            # The inverse of the distribution function: one uniform a token, whatever the
            # vocabulary.
            cumulated = tf.cumsum(tf.nn.softmax(logits / self.temperature), axis=-1)
            threshold = random.row_uniform(seeds, t, 1) * cumulated[:, -1:]
            below = tf.reduce_sum(tf.cast(cumulated < threshold, tf.int32), axis=-1)
            return tf.minimum(below, tf.shape(logits)[-1] - 1)

        return _one_by_one(writer, z, draw)


@keras.saving.register_keras_serializable(package="tfebm")
@dataclasses.dataclass(frozen=True)
class BeamSearch(_Settings):
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
        checks.check_number("length_penalty", self.length_penalty)

    def write(self, writer: SentenceWriter, z: Tensor, seeds: Tensor | None = None) -> Tensor:
        """See `tfebm.types.Decoding`."""
        return _beam_search(writer, z, self)


def checked(decoding: Any) -> types.Decoding:
    """`decoding`, or `InvalidInputError` where it does not write."""
    if isinstance(decoding, type) or not isinstance(decoding, types.Decoding):
        raise InvalidInputError(
            "`decoding` must be Greedy(), Sampled(...) or BeamSearch(...) of `tfebm.generators`, "
            f"or have their methods. Received {received(decoding)}."
        )
    return decoding


def _most_probable(logits: Tensor, t: Tensor) -> Tensor:
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def _never(tokenizer: types.Tokenizer) -> Tensor:
    """`[V]`: added to logits, it rules padding and the start token out."""
    ids = [tokenizer.pad_id, tokenizer.start_id]
    return tf.reduce_sum(tf.one_hot(ids, tokenizer.vocabulary_size, _IMPOSSIBLE, 0.0), axis=0)


def _alike(state: State, before: State) -> State:
    """A state whose static shapes are those that the loop began with, as it insists on."""
    return tf.nest.map_structure(lambda x, like: tf.ensure_shape(x, like.shape), state, before)


def _one_by_one(writer: SentenceWriter, z: Tensor, choose: _Choose) -> Tensor:
    tokenizer, length = writer.tokenizer, writer.max_length
    never, rows = _never(tokenizer), tf.shape(z)[0]

    def step(t: Tensor, previous: Tensor, state: State, done: Tensor, ids: Any) -> tuple[Any, ...]:
        logits, after = writer.next_logits(previous, state, z)
        chosen = tf.where(done, tokenizer.pad_id, choose(logits + never, t))
        done |= chosen == tokenizer.end_id
        return t + 1, chosen, _alike(after, state), done, ids.write(t, chosen)

    ids = tf.TensorArray(tf.int32, length, element_shape=[None])
    # What the loop leaves unwritten is padding.
    ids = ids.unstack(tf.fill([length, rows], tokenizer.pad_id))
    start = tf.constant(0), tf.fill([rows], tokenizer.start_id), writer.start(z)
    *_, ids = tf.while_loop(
        lambda t, previous, state, done, ids: ~tf.reduce_all(done),
        step,
        (*start, tf.fill([rows], False), ids),
        maximum_iterations=length,
        parallel_iterations=1,
    )
    return tf.ensure_shape(tf.transpose(ids.stack()), [None, length])


def _beam_search(writer: SentenceWriter, z: Tensor, settings: BeamSearch) -> Tensor:
    tokenizer, length, width = writer.tokenizer, writer.max_length, settings.width
    size, rows = tokenizer.vocabulary_size, tf.shape(z)[0]
    beams, never = tf.repeat(z, width, axis=0), _never(tokenizer)
    # A sentence that has ended goes on with padding, at no cost.
    padding = tf.one_hot(tokenizer.pad_id, size, 0.0, _IMPOSSIBLE)

    def step(
        t: Tensor, previous: Tensor, state: State, done: Tensor, scores: Tensor, ids: Tensor
    ) -> tuple[Any, ...]:
        logits, after = writer.next_logits(previous, state, beams)
        log_probs = tf.nn.log_softmax(logits + never)
        log_probs = tf.where(done[:, tf.newaxis], padding, log_probs)
        totals = tf.reshape(scores[:, :, tf.newaxis] + _by_row(log_probs, width), [rows, -1])
        best_scores, best = tf.math.top_k(totals, width)
        scores = tf.ensure_shape(best_scores, scores.shape)
        parents, chosen = best // size, tf.reshape(best % size, [-1])
        # A static number of rows, which the loop insists on, is lost in the indices.
        chosen = tf.ensure_shape(chosen, previous.shape)
        # Rows of `[B * W, ...]` by their parents `[B, W]`.
        places = tf.reshape(parents + tf.range(rows)[:, tf.newaxis] * width, [-1])
        state, done, ids = _alike(
            tf.nest.map_structure(lambda x: tf.gather(x, places), (after, done, ids)),
            (state, done, ids),
        )
        ids = tf.where(tf.range(length) == t, chosen[:, tf.newaxis], ids)
        return t + 1, chosen, state, done | (chosen == tokenizer.end_id), scores, ids

    state = tf.nest.map_structure(lambda x: tf.repeat(x, width, axis=0), writer.start(z))
    # All beams start alike: all but one are worth nothing.
    scores = tf.tile(tf.one_hot([0], width, 0.0, _IMPOSSIBLE), [rows, 1])
    *_, scores, ids = tf.while_loop(
        lambda t, previous, state, done, scores, ids: ~tf.reduce_all(done),
        step,
        (
            tf.constant(0),
            tf.fill([rows * width], tokenizer.start_id),
            state,
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

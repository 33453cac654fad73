"""What every tokenizer is: a vocabulary, four special ids, and two functions of tensors."""

import collections
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import tensorflow as tf

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.tokenizers.characters import IGNORED, join_accents
from tfebm.types import Tensor

PAD, START, END, UNKNOWN = range(4)
"""Ids: behind a sentence, before it (the generator puts it there), its end, any other word."""

SPECIAL_WORDS = ("<pad>", "<s>", "</s>", "<unk>")
"""How the special ids are written, in the order of the ids; none is a word of a vocabulary."""

SPLITS = ("whitespace", "words")
_CHUNK = 4096  # sentences that are split at a time
# What `str.split` splits at; `tf.strings.split` knows white space of ASCII only.
_SPACES = r"[\t-\r\x{1c}-\x{20}\x{85}\pZ]+"
_CONTROLS = r"[\p{Cc}\x{200b}]+"  # as a space without width, and codes of terminals: no words
# In order. An apostrophe inside a word is a part of it, and any other is a word of its own; an
# accent stays with what it stands on.
_SEPARATIONS = (
    (r"\x{2019}", "'"),
    (r"[^\pL\pM\pN_'\s]\pM*", r" \0 "),
    (r"(^|\s)('+)", r"\1\2 "),
    (r"('+)(\s|$)", r" \1\2"),
    (r"<\s+unk\s+>", SPECIAL_WORDS[UNKNOWN]),
)


class Tokenizer:
    """Sentences to ids and back, as operations of a graph.

    Ids 0 to 3 are special: padding, start, end, unknown. Those of the vocabulary follow in its
    order. Equal settings make equal tokenizers: `get_config` holds the whole vocabulary.

    Subclassing guide: `_to_ids` and `_to_text`, `_learned` for `learn`, and `resources` where an
    export has tables to track.

    Args:
        vocabulary: Words, or pieces of them, without the special ones.
        split: How a sentence falls into words. "whitespace": at white space alone, for text
            that is tokenised already. "words": it is lower-cased, and every punctuation mark
            becomes a word; apostrophes inside a word stay. What cannot be seen (joiners, soft
            hyphens, marks of direction and variation) is left out, and a space without width
            parts words. Both ways join accents to their letters, so that a word is the same
            however a keyboard writes it; white space alone keeps all other characters.

    Raises:
        InvalidInputError: A vocabulary that is empty, has a word twice, or a word that is
            special or has white space in it.
    """

    pad_id: ClassVar[int] = PAD
    start_id: ClassVar[int] = START
    end_id: ClassVar[int] = END
    unknown_id: ClassVar[int] = UNKNOWN
    default_max_size: ClassVar[int | None] = None
    """What `learn` takes for `max_size`, where nobody says otherwise."""
    needs_tensorflow_text: ClassVar[bool] = False
    """Whether whoever loads an export needs the operations of tensorflow-text."""

    def __init__(self, vocabulary: Sequence[str], split: str = "whitespace") -> None:
        self.vocabulary = _checked_vocabulary(vocabulary)
        self.split = check_split(split)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, the four special ones included."""
        return len(SPECIAL_WORDS) + len(self.vocabulary)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits, another for every other kind, vocabulary, order or setting.

        Data and a saved model whose digests differ do not speak of the same words.
        """
        settings = json.dumps([type(self).__name__, self.get_config()], sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    @property
    def resources(self) -> list[Any]:
        """What `keras.export.ExportArchive.track` has to be given for an export."""
        return []

    def tokenize(self, text: Tensor) -> Tensor:
        """Ids of sentences: each word's, then the end, then padding.

        Args:
            text: Strings `[B]`, UTF-8. An empty one is an end alone.

        Returns:
            int32 `[B, T]`, T the longest sentence's length, its end included.

        Raises:
            InvalidInputError: `text` is not of rank 1.
        """
        text = tf.convert_to_tensor(text, tf.string)
        _check_rank("Text", text, 1, "`tf.reshape(text, [-1])`")
        ids = self._to_ids(split_words(text, self.split))
        end = tf.fill([tf.shape(text)[0], 1], END)
        return tf.concat([ids, tf.RaggedTensor.from_tensor(end)], axis=1).to_tensor(PAD)

    def detokenize(self, ids: Tensor) -> Tensor:
        """Sentences of ids, their words with one space between them.

        A sentence stops at its first end; padding and starts are left out; what is unknown, or
        outside the vocabulary, is written "<unk>".

        Args:
            ids: Integers `[B, T]`.

        Returns:
            Strings `[B]`, UTF-8.

        Raises:
            InvalidInputError: `ids` is not of rank 2, or holds no integers.
        """
        ids = tf.convert_to_tensor(ids)
        _check_rank("Ids", ids, 2, "`ids[None]` for one sentence")
        if not ids.dtype.is_integer:
            raise InvalidInputError(f"Ids must be integers. Received {ids.dtype.name}.")
        ids = tf.cast(ids, tf.int32)
        before_end = tf.cumsum(tf.cast(ids == END, tf.int32), axis=1) == 0
        # The kernel behind wordpieces ends the process at an id that it does not know.
        known = (ids >= 0) & (ids < self.vocabulary_size)
        words = tf.where(known, ids, UNKNOWN)
        return self._to_text(
            tf.ragged.boolean_mask(words, before_end & (words != PAD) & (words != START))
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"vocabulary": list(self.vocabulary), "split": self.split}

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles are made anew: the tables of TensorFlow cannot be copied.
        return type(self).from_config, (self.get_config(),)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The tokenizer of a `get_config`."""
        return cls(**config)

    @classmethod
    def learn(
        cls,
        sentences: Iterable[str],
        *,
        max_size: int | None = None,
        min_count: int = 1,
        split: str = "whitespace",
    ) -> Self:
        """A tokenizer whose vocabulary is that of `sentences`.

        Args:
            sentences: Text to learn from; special words in it are not learned.
            max_size: Largest `vocabulary_size`, the four special ids included; the rarest are
                left out. Default: `default_max_size`, no limit for None.
            min_count: Words seen less often are left out.
            split: As the constructor's.

        Raises:
            InvalidInputError: Nothing to learn from, or a size that leaves no room for words.
        """
        max_size = cls.default_max_size if max_size is None else max_size
        if max_size is not None and not checks.is_whole(max_size, least=len(SPECIAL_WORDS) + 1):
            raise InvalidInputError(
                "`max_size` must be a whole number above 4, since it counts the four special ids. "
                f"Received {max_size!r}."
            )
        checks.check_count("min_count", min_count)
        counts = count_words(sentences, split, min_count)
        room = None if max_size is None else int(max_size) - len(SPECIAL_WORDS)
        return cls(cls._learned(counts, room)[:room], split)

    @classmethod
    def _learned(cls, counts: collections.Counter[str], room: int | None) -> list[str]:
        """The vocabulary of words that were counted, the rarest last; it is cut to `room`."""
        raise NotImplementedError

    def _to_ids(self, words: tf.RaggedTensor) -> tf.RaggedTensor:
        """Words, `[B, None]`, to int32 ids `[B, None]`."""
        raise NotImplementedError

    def _to_text(self, ids: tf.RaggedTensor) -> Tensor:
        """int32 `[B, None]`, each unknown or of the vocabulary, to strings `[B]`."""
        raise NotImplementedError


def check_split(split: str) -> str:
    """`split`, or `InvalidInputError` where there is no such way."""
    checks.check_choice("split", split, SPLITS)
    return split


def split_words(text: Tensor, split: str) -> tf.RaggedTensor:
    """Strings `[B]` to their words, `[B, None]`."""
    if split == "words":
        text = tf.strings.lower(text, encoding="utf-8")
        text = tf.strings.regex_replace(text, IGNORED, "")
        text = tf.strings.regex_replace(text, _CONTROLS, " ")
    text = join_accents(text)
    text = tf.strings.regex_replace(text, _SPACES, " ")
    if split == "words":
        for pattern, rewrite in _SEPARATIONS:
            text = tf.strings.regex_replace(text, pattern, rewrite)
    return tf.strings.split(text)


def count_words(sentences: Iterable[str], split: str, min_count: int) -> collections.Counter[str]:
    """How often each word is seen, of those seen `min_count` times; special ones aside.

    Words are split in the graph's way, so that what is learned is what is later found.
    """
    check_split(split)
    if isinstance(sentences, (str, bytes)):
        raise InvalidInputError(
            "`sentences` must be a list of sentences, or another iterable of them. Received one "
            "string; put it into a list."
        )
    found: collections.Counter[bytes] = collections.Counter()
    rest = iter(sentences)
    while chunk := list(itertools.islice(rest, _CHUNK)):
        with tf.device("CPU"):
            words = split_words(tf.constant(chunk, tf.string), split)
        found.update(words.flat_values.numpy().tolist())
    counts = collections.Counter({w.decode("utf-8", "replace"): n for w, n in found.items()})
    for word in SPECIAL_WORDS:
        counts.pop(word, None)
    counts = collections.Counter({w: n for w, n in counts.items() if n >= min_count})
    if not counts:
        raise InvalidInputError(
            f"There are no words to learn: the sentences hold none that is seen {min_count} or "
            "more times and is not special. Give more text, or a lower `min_count`."
        )
    return counts


def _checked_vocabulary(vocabulary: Sequence[str]) -> tuple[str, ...]:
    if isinstance(vocabulary, (str, bytes)):
        raise InvalidInputError(
            "`vocabulary` must be a list of words. Received one string; split it, or put it "
            "into a list."
        )
    words = tuple(vocabulary)
    if not words:
        raise InvalidInputError("The vocabulary is empty. At least one word is needed.")
    for word in words:
        if not isinstance(word, str):
            raise InvalidInputError(
                f"The vocabulary must hold strings. Received {word!r}, a {type(word).__name__}."
            )
        if word.split() != [word]:
            raise InvalidInputError(
                f"A word must not be empty or have white space in it. Received {word!r}. Split "
                "it into words, or leave it out."
            )
        if word in SPECIAL_WORDS:
            raise InvalidInputError(
                f"The word {word!r} is special, and its id is fixed. Leave "
                f"{', '.join(SPECIAL_WORDS)} out of the vocabulary."
            )
    if len(set(words)) < len(words):
        word, count = collections.Counter(words).most_common(1)[0]
        raise InvalidInputError(
            f"Each word of a vocabulary must be there once. Received {word!r} {count} times. "
            "Leave the repetitions out."
        )
    return words


def _check_rank(name: str, value: Tensor, rank: int, remedy: str) -> None:
    if value.shape.rank not in (rank, None):
        shape = "[B]" if rank == 1 else "[B, T]"
        raise InvalidInputError(
            f"{name} must have shape {shape}. Received shape {value.shape.as_list()}; use {remedy}."
        )

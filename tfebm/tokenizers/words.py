"""Whole words."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.tokenizers import base
from tfebm.types import Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class WordTokenizer(base.Tokenizer):
    """One id for a word: 0 padding, 1 start, 2 end, 3 unknown, then the vocabulary.

    Made of TensorFlow's own operations only, so that a SavedModel with it loads anywhere.

    Args:
        vocabulary: Words, in the order of their ids, without the special ones. The word "<unk>"
            of a text is the unknown one; "<pad>", "<s>" and "</s>" in a text are unknown words.
        split: "whitespace" splits at white space alone, for text that is tokenised already.
            "words" lower-cases, and makes a word of every punctuation mark; apostrophes inside
            a word stay, and what cannot be seen is left out.

    Raises:
        InvalidInputError: A vocabulary that is empty, has a word twice, a special word, a word
            with white space, or one that its `split` takes apart or writes otherwise.

    Example:

        >>> tokenizer = WordTokenizer.learn(["the cat sat", "the dog sat down"])
        >>> tokenizer.vocabulary
        ('sat', 'the', 'cat', 'dog', 'down')
        >>> ids = tokenizer.tokenize(["the cat sat", "the bird"])
        >>> ids.numpy().tolist()
        [[5, 6, 4, 2], [5, 3, 2, 0]]
        >>> tokenizer.detokenize(ids).numpy().tolist()
        [b'the cat sat', b'the <unk>']
    """

    def __init__(self, vocabulary: Sequence[str], split: str = "whitespace") -> None:
        super().__init__(vocabulary, split)
        # Eagerly even where a function is being traced: both outlive its graph. Strings live on
        # the CPU.
        with tf.init_scope(), tf.device("CPU"):
            words = tf.constant(self.vocabulary, tf.string)
            self._check_found(words)
            self._words = tf.concat([base.SPECIAL_WORDS, words], axis=0)
            ids = tf.range(len(base.SPECIAL_WORDS), self.vocabulary_size, dtype=tf.int64)
            self._table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(words, ids), base.UNKNOWN
            )

    @property
    def resources(self) -> list[Any]:
        """What `keras.export.ExportArchive.track` has to be given for an export: a table."""
        return [self._table]

    @classmethod
    def _learned(cls, counts: Counter[str], room: int | None) -> list[str]:
        return sorted(counts, key=lambda word: (-counts[word], word))

    def _to_ids(self, words: tf.RaggedTensor) -> tf.RaggedTensor:
        ids = self._table.lookup(words.flat_values)
        return words.with_flat_values(tf.cast(ids, tf.int32))

    def _to_text(self, ids: tf.RaggedTensor) -> Tensor:
        words = ids.with_flat_values(tf.gather(self._words, ids.flat_values))
        return tf.strings.reduce_join(words, axis=1, separator=" ")

    def _check_found(self, words: Tensor) -> None:
        found = base.split_words(words, self.split)
        for word, pieces in zip(self.vocabulary, found.to_list(), strict=True):
            if pieces != [word.encode()]:
                shown = " ".join(piece.decode("utf-8", "replace") for piece in pieces)
                raise InvalidInputError(
                    f"The word {word!r} is never found in a text, which `split={self.split!r}` "
                    f"turns into {shown!r}. Leave it out, or give another `split`."
                )

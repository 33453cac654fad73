"""Pieces of words, for vocabularies that leave nothing unknown."""

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from tfebm.tokenizers import base
from tfebm.types import Tensor

SUFFIX = "##"  # before a piece that continues a word
# White space, which no word has: a text cannot write a special id.
_UNREACHABLE = (" <pad>", " <s>", " </s>", base.SPECIAL_WORDS[base.UNKNOWN])


@keras.saving.register_keras_serializable(package="tfebm")
class WordpieceTokenizer(base.Tokenizer):
    """A word is its longest known beginning, then the longest known continuation, and so on.

    Ids are as `WordTokenizer`'s: 0 padding, 1 start, 2 end, 3 unknown, then the vocabulary.

    Its operations are those of tensorflow-text, which is imported when a tokenizer is made (it
    takes seconds). Whoever loads an export needs them: a Python process imports
    `tensorflow_text` of the TensorFlow's own release, or gives the path of its
    `python/ops/_fast_wordpiece_tokenizer.so` to `tf.load_op_library`; TensorFlow Serving must be
    one that is built with them, as its own build rules do. `WordTokenizer` needs nothing.

    `learn` takes pieces of words, and every letter of them as far as `max_size` goes (8,000 where
    it is not given; what comes out may be some per cent smaller). Ten thousand different words
    take it some seconds to a minute.

    Args:
        vocabulary: Pieces, in the order of their ids, without the special ones; "##" before
            those that continue a word. A word that cannot be put together is unknown as a
            whole, as is one of more than 100 bytes.
        split: How a sentence falls into words, as `WordTokenizer`'s.

    Raises:
        InvalidInputError: A vocabulary that is empty, has a piece twice, a special word, or a
            piece with white space.

    Example:

        >>> tokenizer = WordpieceTokenizer(["play", "##ing", "##s", "the"])
        >>> ids = tokenizer.tokenize(["playing the plays"])
        >>> ids.numpy().tolist()
        [[4, 5, 7, 4, 6, 2]]
        >>> tokenizer.detokenize(ids).numpy().tolist()
        [b'playing the plays']

    References: X. Song et al. Fast WordPiece Tokenization. EMNLP 2021.
    """

    default_max_size: ClassVar[int | None] = 8000
    needs_tensorflow_text = True

    def __init__(self, vocabulary: Sequence[str], split: str = "whitespace") -> None:
        super().__init__(vocabulary, split)
        import tensorflow_text

        # Eagerly even where a function is being traced: the model outlives its graph.
        with tf.init_scope(), tf.device("CPU"):
            self._pieces = tensorflow_text.FastWordpieceTokenizer(
                [*_UNREACHABLE, *self.vocabulary],
                suffix_indicator=SUFFIX,
                token_out_type=tf.int32,
                unknown_token=base.SPECIAL_WORDS[base.UNKNOWN],
                no_pretokenization=True,
                support_detokenization=True,
            )

    @classmethod
    def _learned(cls, counts: Counter[str], room: int | None) -> list[str]:
        from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib

        pieces = wordpiece_tokenizer_learner_lib.learn(
            counts, room, reserved_tokens=[], lower_thresh=1, joiner=SUFFIX
        )
        # The rarest stand last. Where no threshold fits, the learner returns too many.
        return [piece for piece in pieces if piece not in base.SPECIAL_WORDS]

    def _to_ids(self, words: tf.RaggedTensor) -> tf.RaggedTensor:
        return self._pieces.tokenize(words).merge_dims(1, 2)

    def _to_text(self, ids: tf.RaggedTensor) -> Tensor:
        return self._pieces.detokenize(ids)

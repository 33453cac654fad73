"""Tokenizers: sentences to ids and back, inside the graph, so that an export takes text."""

from tfebm.tokenizers.base import END, PAD, SPECIAL_WORDS, START, UNKNOWN, Tokenizer
from tfebm.tokenizers.wordpieces import WordpieceTokenizer
from tfebm.tokenizers.words import WordTokenizer

__all__ = [
    "END",
    "PAD",
    "SPECIAL_WORDS",
    "START",
    "UNKNOWN",
    "Tokenizer",
    "WordTokenizer",
    "WordpieceTokenizer",
]

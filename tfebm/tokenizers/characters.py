"""Characters that cannot be seen, and letters whose accents stand apart."""

import functools
import unicodedata

import numpy as np
import tensorflow as tf

from tfebm.types import Tensor

# Unicode's default ignorable code points, less U+200B, a space without width.
_RANGES = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200C, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F)),
    *((0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
INVISIBLE = "\u200b" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _RANGES)
"""Inside of a class of a regular expression of Python: what has no width and is not a control."""
IGNORED = "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in _RANGES) + "]+"
"""A regular expression of TensorFlow: joiners, soft hyphens, marks of direction and variation."""

# Letters of Korean: a syllable is a leading one, a vowel, and perhaps a trailing one.
_LEAD, _VOWEL, _TRAIL, _SYLLABLE = 0x1100, 0x1161, 0x11A7, 0xAC00
_LEADS, _VOWELS, _TRAILS = 19, 21, 28
_JOINING = r"(?s).*[\pM\x{1161}-\x{11c2}].*"


@tf.autograph.experimental.do_not_convert  # it would take seconds, and there is nothing to convert
def join_accents(text: Tensor) -> Tensor:
    """Strings `[B]` with every letter and the accents behind it as one character, if there is one.

    Unicode's form NFC, but for accents behind others that join no letter, and for characters that
    it writes as another one; `unicodedata.normalize` does these too. A text without accents that
    stand apart is taken as it is.
    """
    apart = tf.reduce_any(tf.strings.regex_full_match(text, _JOINING))
    return tf.cond(apart, lambda: _joined(text), lambda: tf.identity(text))


@functools.cache
def _pairs() -> tuple[np.ndarray, np.ndarray]:
    """Letter and accent as one number, ascending, and what they are joined to."""
    found = {}
    for code in range(0xC0, 0x30000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (int(part, 16) for part in parts)
            if unicodedata.normalize("NFC", chr(code)) == chr(code):
                found[first << 21 | second] = code
    keys = np.array(sorted(found), np.int64)
    return keys, np.array([found[int(key)] for key in keys], np.int32)


def _joined(text: Tensor) -> Tensor:
    codes = tf.strings.unicode_decode(text, "UTF-8")
    rows, num_rows = codes.value_rowids(), codes.nrows()

    def join(codes: Tensor, rows: Tensor, more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined = _join_pairs(codes[:-1], codes[1:])
        join = (joined > 0) & (rows[:-1] == rows[1:])
        # Of three that join in a row the first two do first.
        before = tf.concat([[False], join[:-1]], axis=0)
        first = join & ~before
        taken = tf.concat([[False], first], axis=0)
        kept = tf.concat([tf.where(first, joined, codes[:-1]), codes[-1:]], axis=0)
        return (
            tf.boolean_mask(kept, ~taken),
            tf.boolean_mask(rows, ~taken),
            tf.reduce_any(first),
        )

    values, rows, _ = tf.while_loop(
        lambda codes, rows, more: more,
        join,
        (codes.flat_values, rows, tf.size(codes.flat_values) > 1),
        shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None]), tf.TensorShape([])),
    )
    ragged = tf.RaggedTensor.from_value_rowids(values, rows, num_rows)
    return tf.strings.unicode_encode(ragged, "UTF-8")


def _join_pairs(first: Tensor, second: Tensor) -> Tensor:
    """What pairs of code points are joined to, int32 `[N]`; 0 where they are not."""
    keys, values = _pairs()
    key = tf.bitwise.left_shift(tf.cast(first, tf.int64), 21) | tf.cast(second, tf.int64)
    place = tf.minimum(tf.searchsorted(keys, key), len(keys) - 1)
    joined = tf.where(tf.gather(keys, place) == key, tf.gather(values, place), 0)
    lead, vowel, trail = first - _LEAD, second - _VOWEL, second - _TRAIL
    syllable = first - _SYLLABLE
    is_syllable = (lead >= 0) & (lead < _LEADS) & (vowel >= 0) & (vowel < _VOWELS)
    open_ = (syllable >= 0) & (syllable < _LEADS * _VOWELS * _TRAILS) & (syllable % _TRAILS == 0)
    joined = tf.where(is_syllable, _SYLLABLE + (lead * _VOWELS + vowel) * _TRAILS, joined)
    return tf.where(open_ & (trail > 0) & (trail < _TRAILS), first + trail, joined)

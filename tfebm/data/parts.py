"""The parts of a set: how folders, files and splits name them, and what is held out for testing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfebm.types import Array

NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of parts, in any case, to "train", "valid" and "test"."""
HELD_OUT = 10
"""Where there is no test set, one of so many examples is held out."""


def tenth(rows: Array, labels: Sequence[Any] | Array | None = None, seed: int = 0) -> Array:
    """Every tenth of `rows` in an order that is drawn by `seed`, alike from each label if any.

    Args:
        rows: Row numbers.
        labels: Of all rows of the set, not of `rows` alone.
        seed: Not a run's: all runs on a set are measured on the same examples.
    """
    order = np.random.default_rng(seed).permutation(rows)
    if labels is not None:
        classes = np.unique(np.asarray(labels), return_inverse=True)[1]
        order = order[np.argsort(classes[order], kind="stable")]
    return order[HELD_OUT - 1 :: HELD_OUT]


def held_out(number: int, labels: Sequence[Any] | Array | None = None) -> Array:
    """`[number]` bool: a tenth, see `tenth`."""
    chosen = np.zeros(number, bool)
    chosen[tenth(np.arange(number), labels)] = True
    return chosen


def held_out_note(number: int) -> str:
    """What to say of a tenth that was held out, of so many."""
    if not number:
        return f"no test images: a tenth would be held out of {HELD_OUT} or more"
    return "a tenth, drawn by a fixed seed, is held out to test"

"""Checks of arguments: what they return, and what they say."""

import numpy as np
import pytest

from tfebm import InvalidInputError, checks


def test_what_they_return():
    assert checks.check_count("n", np.int64(3)) == 3
    assert type(checks.check_count("n", np.int64(3))) is int
    assert checks.check_counts("n", [1, np.int32(2)]) == (1, 2)
    assert type(checks.check_number("x", 1)) is float
    assert checks.check_per_step("s", [1, 2], num_steps=2, max_rank=1) == [1.0, 2.0]
    assert checks.check_per_step("s", [[1, 2]], num_steps=5, max_rank=2) == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.check_count("n", True), "`n` must be a whole number of at least 1. Re"),
        (lambda: checks.check_count("n", 2.0), "whole number"),
        (lambda: checks.check_counts("n", (2, 0), of=", one per layer"), "1, one per layer. Re"),
        (lambda: checks.check_counts("n", 3), "whole numbers of at least 1. Received 3"),
        (lambda: checks.check_number("x", float("nan")), "a number of at least 0. Received nan"),
        (lambda: checks.check_number("x", 0, above=True), "a positive number"),
        (lambda: checks.check_number("x", 1, 1, above=True), "a number above 1"),
        (lambda: checks.check_number("x", 2, most=1), "of at least 0 and at most 1. Received 2"),
        (lambda: checks.check_number("x", "1"), "Received '1'"),
        (lambda: checks.check_choice("c", "x", ("a", "b")), "must be 'a' or 'b'. Received 'x'"),
        (lambda: checks.check_choice("c", 1, "abc"), "one of 'a', 'b', 'c'. Received 1"),
        (lambda: checks.check_per_step("s", -1, 2, 1), "finite numbers of at least 0"),
        (lambda: checks.check_per_step("s", [[1], [2, 3]], 2, 2), "finite numbers"),
        (lambda: checks.check_per_step("s", [1, 2, 3], 2, 1), "one per step. Received 3 of them"),
    ],
)
def test_what_they_say(check, message):
    with pytest.raises(InvalidInputError, match=message):
        check()

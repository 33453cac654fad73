"""Batches of sentences of like length."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfebm import InvalidInputError
from tfebm.data import evaluation_batches, lengths, sentence_batches, steps_per_epoch, trim
from tfebm.tokenizers import END


def some_ids(num=23, longest=9):
    """Row i starts with id 4 + i; the lengths differ."""
    x = np.zeros((num, longest + 3), np.int32)
    for i in range(num):
        size = 2 + (5 * i) % (longest - 1)
        x[i, :size] = [4 + i, *[7] * (size - 2), END]
    return x


def without_padding(x):
    return [row[:size].tolist() for row, size in zip(x, lengths(x), strict=True)]


class TestBatches:
    def epoch(self, x, first_step=0, count=6, batch_size=4, seed=0):
        batches = sentence_batches(x, seed=seed, batch_size=batch_size, first_step=first_step)
        return [batch.numpy() for batch in batches.take(count)]

    def test_lengths_and_trim(self):
        x = np.array([[5, 2, 0, 0], [5, 0, 2, 0], [0, 0, 0, 0]])
        assert lengths(x).tolist() == [2, 3, 0]
        assert trim(x).shape == (3, 3)
        assert trim(x[:0]).shape == (0, 0)
        assert lengths(np.zeros((2, 0), int)).tolist() == [0, 0]

    def test_an_epoch_has_every_sentence_once(self):
        x = some_ids()
        batches = self.epoch(x, count=12)
        assert steps_per_epoch(len(x), 4) == 6
        for batches_of_epoch in (batches[:6], batches[6:]):
            assert sorted(map(len, batches_of_epoch)) == [3, 4, 4, 4, 4, 4]
            rows = [row for batch in batches_of_epoch for row in without_padding(batch)]
            assert sorted(rows) == sorted(without_padding(x))
        assert [b.tolist() for b in batches[:6]] != [b.tolist() for b in batches[6:]]

    def test_batches_hold_sentences_of_like_length_and_no_spare_column(self):
        x = some_ids()
        batches = self.epoch(x)
        spans = sorted((lengths(b).min(), lengths(b).max()) for b in batches)
        assert all(low[1] <= high[0] for low, high in itertools.pairwise(spans))
        assert all(b.shape[1] == lengths(b).max() for b in batches)
        assert [b.shape[1] for b in batches] != sorted(b.shape[1] for b in batches)

    def test_sentences_of_one_length_change_their_batch(self):
        x = np.stack([np.arange(4, 24), np.full(20, END)], axis=1)
        batches = self.epoch(x, count=10)
        assert {frozenset(b[:, 0]) for b in batches[:5]} != {
            frozenset(b[:, 0]) for b in batches[5:]
        }

    @pytest.mark.parametrize("first_step", [1, 5, 6, 9])
    def test_a_later_start_sees_the_same_batches(self, first_step):
        x = some_ids()
        whole = self.epoch(x, count=15)
        rest = self.epoch(x, first_step, 15 - first_step)
        for batch, expected in zip(rest, whole[first_step:], strict=True):
            np.testing.assert_array_equal(batch, expected)

    def test_the_seed_decides_the_order(self):
        one, other = ([b.tolist() for b in self.epoch(some_ids(), seed=s)] for s in (0, 1))
        assert one != other

    def test_batch_sizes_beyond_the_sentences(self):
        x = some_ids(3)
        assert [len(b) for b in self.epoch(x, batch_size=10, count=2)] == [3, 3]

    def test_specification(self):
        for batches in (
            sentence_batches(some_ids(), seed=0, batch_size=4),
            evaluation_batches(some_ids(), batch_size=4),
        ):
            assert batches.element_spec == tf.TensorSpec([None, None], tf.int32)

    def test_evaluation_goes_through_once_the_shortest_first(self):
        x = some_ids()
        batches = list(evaluation_batches(x, batch_size=4).as_numpy_iterator())
        sizes = np.concatenate([lengths(b) for b in batches])
        assert sizes.tolist() == sorted(lengths(x))
        order = np.argsort(lengths(x), kind="stable")
        assert np.concatenate([b[:, 0] for b in batches]).tolist() == x[order, 0].tolist()
        assert all(b.shape[1] == lengths(b).max() for b in batches)

    @pytest.mark.parametrize(
        ("x", "arguments", "message"),
        [
            (some_ids()[0], {}, r"Received int32 of shape \[12\]"),
            (np.zeros((2, 3)), {}, "must be integer ids"),
            (some_ids()[:0], {}, "no sentences to batch"),
            (some_ids(), {"batch_size": 0}, "`batch_size` must be"),
            (some_ids(), {"first_step": -1}, "`first_step` must be"),
        ],
    )
    def test_what_cannot_be_batched(self, x, arguments, message):
        with pytest.raises(InvalidInputError, match=message):
            sentence_batches(x, **{"batch_size": 4, "seed": 0, **arguments})

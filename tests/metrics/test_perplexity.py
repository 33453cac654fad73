import math

import numpy as np
import pytest

import tfebm
from tfebm.metrics import distinct_ngrams, generation_perplexity, perplexity


def test_perplexity_of_a_uniform_guess_is_the_size_of_the_vocabulary():
    assert perplexity(700 * math.log(50), 700) == pytest.approx(50)
    assert perplexity(0.0, 3) == 1.0
    assert perplexity(1e6, 1) == math.inf


def test_perplexity_is_over_tokens_not_over_sentences():
    """Nine tokens at 2 and one at 8 in the geometric mean."""
    assert perplexity(9 * math.log(2) + math.log(8), 10) == pytest.approx(2**1.2)


@pytest.mark.parametrize(
    ("nll", "tokens", "message"),
    [
        (math.nan, 3, "finite number of at least 0"),
        (-1.0, 3, "negative of the log-likelihood"),
        (1.0, 0, "`num_tokens` must be a whole number of at least 1"),
        (1.0, 2.5, "`num_tokens`"),
    ],
)
def test_perplexities_that_there_are_not(nll, tokens, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        perplexity(nll, tokens)


def test_distinct_ngrams_counted_by_hand():
    sentences = ["the food was good", "the food was bad", "good"]
    assert distinct_ngrams(sentences, n=1) == 5 / 9
    assert distinct_ngrams(sentences, n=2) == 4 / 6  # none from "bad" to "good"
    assert distinct_ngrams(sentences, n=4) == 1.0
    assert distinct_ngrams(["a a a a a"], n=2) == 1 / 4


@pytest.mark.parametrize(
    ("sentences", "n", "message"),
    [
        ("the food was good", 2, "Received one string"),
        (["the food", ""], 3, "None of the 2 sentences has 3 tokens"),
        ([], 1, "None of the 0 sentences"),
        (["the food"], 0, "`n` must be a whole number of at least 1"),
    ],
)
def test_sentences_that_cannot_be_counted(sentences, n, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        distinct_ngrams(sentences, n=n)


class TestGenerationPerplexity:
    def test_forward_and_reverse(self):
        """A model that gives every token its share of those it learned from."""

        def learn(x):
            counts = np.bincount(x[x > 0], minlength=9)
            shares = counts / counts.sum()
            return lambda ids: -np.sum(np.log(shares[ids]) * (ids > 0), axis=1)

        real = np.array([[4, 2], [5, 2]])
        generated = np.array([[4, 2], [4, 2], [4, 2], [5, 2]])
        found = generation_perplexity(learn(real), learn, generated, real)
        # Tokens: 2 with share 1/2 each time; 4 and 5 with 1/4 each, or with 3/8 and 1/8.
        assert found.forward == pytest.approx(np.exp((np.log(2) + np.log(4)) / 2))
        assert found.reverse == pytest.approx(
            np.exp((2 * np.log(2) - np.log(3 / 8) - np.log(1 / 8)) / 4)
        )

    def test_no_sentences(self):
        with pytest.raises(tfebm.InvalidInputError, match="`x_generated` holds no sentences"):
            generation_perplexity(len, len, np.zeros((0, 3), int), np.ones((1, 2), int))

"""Numbers of text: perplexity, and how much sentences repeat each other."""

import math
from collections.abc import Sequence

import numpy as np

from tfebm.data import checks
from tfebm.errors import InvalidInputError


def perplexity(total_nll: float, num_tokens: int) -> float:
    """`exp(total_nll / num_tokens)`, over a whole test set.

    The mean is over tokens, not over the perplexities of sentences or batches. An upper bound on
    the negative log-likelihood gives an upper bound on the perplexity.

    Args:
        total_nll: Negative log-likelihood, summed over all predicted tokens, in nats.
        num_tokens: How many were predicted: ends of sentences are, padding and starts are not.

    Returns:
        At least 1; the size of the vocabulary for a uniform guess.

    Raises:
        InvalidInputError: A likelihood that is negative or no number, or no tokens.

    Example:

        >>> perplexity(10 * np.log(50.0), 10)        # about 50
    """
    checks.check_count("num_tokens", num_tokens)
    total_nll = float(total_nll)
    if not (math.isfinite(total_nll) and total_nll >= 0):
        raise InvalidInputError(
            "`total_nll` must be a finite number of at least 0, since tokens have probabilities of "
            f"at most 1. Received {total_nll}. Give the negative of the log-likelihood, in nats."
        )
    with np.errstate(over="ignore"):  # a model that gives its tokens no probability: infinite
        return float(np.exp(total_nll / num_tokens))


def distinct_ngrams(sentences: Sequence[str], n: int) -> float:
    """Share of n-grams that are distinct: different ones over all.

    1 where no n-gram comes twice, near 0 for a generator that repeats itself. It falls with the
    number of sentences: compare figures of equally many only, those of real text among them.

    Args:
        sentences: Tokens parted by white space; n-grams do not run from one to the next.
        n: Tokens in an n-gram.

    Raises:
        InvalidInputError: One string instead of a list, or no sentence of n tokens.

    Example:

        >>> distinct_ngrams(["the food was good", "the food was bad"], 2)     # 4 of 6
        0.6666666666666666

    References: J. Li et al. A Diversity-Promoting Objective Function for Neural Conversation
    Models. NAACL 2016 (which divides by tokens instead).
    """
    checks.check_count("n", n)
    if isinstance(sentences, str):
        raise InvalidInputError(
            "`sentences` must be a list of strings. Received one string. Split it into sentences."
        )
    seen, total = set(), 0
    for sentence in sentences:
        tokens = sentence.split()
        grams = list(zip(*(tokens[i:] for i in range(n)), strict=False))
        seen.update(grams)
        total += len(grams)
    if not total:
        raise InvalidInputError(
            f"None of the {len(sentences)} sentences has {n} tokens. At least one is needed: take "
            "a smaller `n` or other sentences."
        )
    return len(seen) / total

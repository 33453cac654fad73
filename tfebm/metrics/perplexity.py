"""Numbers of text: perplexity, and how much sentences repeat each other."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tfebm import checks
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


class GenerationPerplexity(NamedTuple):
    """What language models think of generated sentences, and learn from them."""

    forward: float
    """Of the generated sentences, by a model of real ones: low where they read like real ones."""
    reverse: float
    """Of real sentences, by a model of generated ones: low where they also cover the real ones."""


def generation_perplexity(
    judge: Callable[[np.ndarray], np.ndarray],
    learn: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    x_generated: np.ndarray,
    x_test: np.ndarray,
) -> GenerationPerplexity:
    """Forward and reverse perplexity of generated sentences.

    Both depend on the language models and on how long they learn: compare figures of one `learn`
    and of equally many sentences only, beside `judge`'s perplexity of the test sentences.

    Args:
        judge: Ids `[N, T]` to the NLL of each in nats, learned from the training sentences.
        learn: Learns such a function from ids, in the way in which `judge` was learned.
        x_generated: Ids of generated sentences.
        x_test: Ids of real ones that nothing was learned from.

    Raises:
        InvalidInputError: No sentences.

    Example:

        >>> def learn(x):
        ...     model = tfebm.LanguageModel(tfebm.AutoregressiveGenerator(tokenizer, 64, 128))
        ...     model.compile()
        ...     model.fit(x, epochs=5, batch_size=32)
        ...     return model.score
        >>> generation_perplexity(learn(x_train), learn, x_generated, x_test)

    References: J. Zhao, Y. Kim, K. Zhang, A. Rush, Y. LeCun. Adversarially Regularized
    Autoencoders. ICML 2018.
    """
    for name, x in (("x_generated", x_generated), ("x_test", x_test)):
        if not len(x):
            raise InvalidInputError(f"`{name}` holds no sentences. At least one is needed.")
    learner = learn(x_generated)
    return GenerationPerplexity(_perplexity(judge, x_generated), _perplexity(learner, x_test))


def _perplexity(nll_fn: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> float:
    return perplexity(float(np.sum(nll_fn(x), dtype=np.float64)), int(np.count_nonzero(x)))


def distinct_ngrams(sentences: Sequence[str], *, n: int) -> float:
    """Share of n-grams that are distinct: different ones over all.

    1 where no n-gram comes twice, near 0 for a generator that repeats itself. It falls with the
    number of sentences: compare figures of equally many only, those of real text among them.

    Args:
        sentences: Tokens parted by white space; n-grams do not run from one to the next.
        n: Tokens in an n-gram.

    Raises:
        InvalidInputError: One string instead of a list, or no sentence of n tokens.

    Example:

        >>> distinct_ngrams(["the food was good", "the food was bad"], n=2)     # 4 of 6
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

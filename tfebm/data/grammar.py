"""A small language of known entropy, to measure models of text against."""

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfebm import checks
from tfebm.errors import InvalidInputError

Rules = Mapping[str, Sequence[tuple[float, Sequence[str]]]]
"""Of each symbol, what it may become: (probability, symbols and words in their order)."""


class GrammarSample(NamedTuple):
    """Sentences, and how they were derived."""

    sentences: list[str]
    log_probs: np.ndarray
    """float64 `[N]`: of the derivation, the sentence's own where it has no other one."""
    labels: np.ndarray
    """int64 `[N]`: which rule of the start symbol was drawn."""


class Grammar:
    """A probabilistic context-free grammar without recursion: finitely many sentences.

    A sentence starts as the first symbol, and each symbol is replaced by what one of its rules
    says until only words are left. What is not a symbol is a word.

    Args:
        rules: Of each symbol its (probability, symbols and words). The first is the start.

    Raises:
        InvalidInputError: Probabilities that are not positive or do not sum to one, a rule that
            says nothing, a word with white space, a symbol that leads back to itself or that
            the start never leads to.

    Example:

        >>> grammar = Grammar({"S": [(0.5, ("N", "runs")), (0.5, ("the", "N", "sleeps"))],
        ...                    "N": [(0.25, ("cat",)), (0.75, ("dog",))]})
        >>> grammar.sample(2, seed=0)
        ['the dog sleeps', 'cat runs']
        >>> grammar.log_prob("dog runs"), math.log(0.5 * 0.75)
        (-0.9808292530117262, -0.9808292530117262)
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = _checked(rules)
        self.start = next(iter(self.rules))
        self._bounds = {
            symbol: list(itertools.accumulate(p for p, _ in choices))
            for symbol, choices in self.rules.items()
        }
        order = _children_first(self.rules, self.start)
        # Sums over what a symbol's rules lead to, the deepest symbols first.
        self._entropies: dict[str, float] = {}
        self._firsts: dict[str, frozenset[str]] = {}
        for symbol in order:
            choices = self.rules[symbol]
            self._entropies[symbol] = math.fsum(
                p * (sum(self._entropies.get(part, 0.0) for part in parts) - math.log(p))
                for p, parts in choices
            )
            self._firsts[symbol] = frozenset().union(
                *(self._first(parts[0]) for _, parts in choices)
            )

    @property
    def entropy(self) -> float:
        """Nats per sentence, exact where no sentence has two derivations, and else too large."""
        return self._entropies[self.start]

    @property
    def words(self) -> list[str]:
        """Every word, sorted."""
        parts = {p for choices in self.rules.values() for _, rule in choices for p in rule}
        return sorted(parts - set(self.rules))

    def sample(self, num: int, *, seed: int) -> list[str]:
        """`num` sentences, independent, words with one space between them.

        Raises:
            InvalidInputError: `num` is below 1.
        """
        return self.derive(num, seed=seed).sentences

    def derive(self, num: int, *, seed: int | np.random.SeedSequence) -> GrammarSample:
        """`sample`, with the log-probability of each derivation and the start's rule.

        Raises:
            InvalidInputError: `num` is below 1.
        """
        checks.check_count("num", num)
        uniforms = _uniforms(np.random.default_rng(seed))
        sentences, log_probs, labels = [], np.zeros(num), np.zeros(num, np.int64)
        for i in range(num):
            words, choices, log_prob = [], [], 0.0
            pending = [self.start]
            while pending:
                part = pending.pop()
                if part not in self.rules:
                    words.append(part)
                    continue
                rules = self.rules[part]
                # The last bound may round to less than one.
                choice = min(bisect.bisect(self._bounds[part], next(uniforms)), len(rules) - 1)
                probability, parts = rules[choice]
                choices.append(choice)
                log_prob += math.log(probability)
                pending.extend(reversed(parts))
            labels[i], log_probs[i] = choices[0], log_prob
            sentences.append(" ".join(words))
        return GrammarSample(sentences, log_probs, labels)

    def log_prob(self, sentence: str) -> float:
        """Log-probability of a sentence, all its derivations summed; -inf outside the language.

        References: F. Jelinek, J. Lafferty, R. Mercer. Basic Methods of Probabilistic Context
        Free Grammars. 1992 (the inside algorithm).
        """
        words = sentence.split()
        known: dict[tuple[str, int], dict[int, float]] = {}

        def ends(part: str, begin: int) -> dict[int, float]:
            """Where `part` may end if it begins there: the inside probability of each end."""
            if begin == len(words) or words[begin] not in self._first(part):
                return {}
            if part not in self.rules:
                return {begin + 1: 1.0}
            if (part, begin) not in known:
                total: dict[int, float] = {}
                for probability, parts in self.rules[part]:
                    reached = {begin: probability}
                    for each in parts:
                        following: dict[int, float] = {}
                        for middle, before in reached.items():
                            for end, inside in ends(each, middle).items():
                                following[end] = following.get(end, 0.0) + before * inside
                        reached = following
                    for end, inside in reached.items():
                        total[end] = total.get(end, 0.0) + inside
                known[part, begin] = total
            return known[part, begin]

        inside = ends(self.start, 0).get(len(words), 0.0)
        return math.log(inside) if inside > 0 else -math.inf

    def _first(self, part: str) -> frozenset[str]:
        """The words that `part` may begin with."""
        return self._firsts.get(part) or frozenset((part,))


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(4096).tolist()


def _checked(rules: Rules) -> dict[str, tuple[tuple[float, tuple[str, ...]], ...]]:
    if not rules:
        raise InvalidInputError("A grammar needs at least one symbol with rules. Received none.")
    checked = {}
    for symbol, choices in rules.items():
        checked[symbol] = tuple((float(p), tuple(parts)) for p, parts in choices)
        total = math.fsum(p for p, _ in checked[symbol])
        if not all(p > 0 for p, _ in checked[symbol]) or not abs(total - 1.0) < 1e-9:
            raise InvalidInputError(
                f"The probabilities of {symbol!r} must be positive and sum to one. Received "
                f"{', '.join(f'{p:g}' for p, _ in checked[symbol]) or 'none'}, which sum to "
                f"{total:g}."
            )
        for _, parts in checked[symbol]:
            if not parts:
                raise InvalidInputError(
                    f"A rule of {symbol!r} says nothing. Give it at least one word or symbol; "
                    "what may be left out needs a rule with it and one without."
                )
            for part in parts:
                if part not in rules and part.split() != [part]:
                    raise InvalidInputError(
                        f"A word must not be empty or have white space in it. A rule of "
                        f"{symbol!r} has {part!r}; write its words one by one."
                    )
    return checked


def _children_first(rules: Rules, start: str) -> list[str]:
    """The symbols, each behind those that its rules name."""
    order: dict[str, None] = {}
    open_symbols: set[str] = set()

    def visit(symbol: str) -> None:
        if symbol in open_symbols:
            raise InvalidInputError(
                f"The symbol {symbol!r} leads back to itself. A grammar must not be recursive, "
                "so that its entropy is a finite sum: give what it leads to another name."
            )
        if symbol in order:
            return
        open_symbols.add(symbol)
        for _, parts in rules[symbol]:
            for part in parts:
                if part in rules:
                    visit(part)
        open_symbols.remove(symbol)
        order[symbol] = None

    visit(start)
    lost = [symbol for symbol in rules if symbol not in order]
    if lost:
        raise InvalidInputError(
            f"The start {start!r} never leads to {', '.join(map(repr, lost))}. Remove "
            f"{'it' if len(lost) == 1 else 'them'}, or look for a misspelt symbol, which would "
            "be taken for a word."
        )
    return list(order)

"""Grammars: two by hand, and the one that ships with the package."""

import itertools
import math

import numpy as np
import pytest

from tfebm import InvalidInputError
from tfebm.data import Grammar, default_grammar

TOY = {
    "S": [(0.5, ("N", "runs")), (0.5, ("the", "N", "sleeps"))],
    "N": [(0.25, ("cat",)), (0.75, ("dog",))],
}


@pytest.fixture(scope="module")
def grammar():
    return default_grammar()


class TestByHand:
    def test_every_sentence_has_its_probability(self):
        toy = Grammar(TOY)
        known = {
            "cat runs": 0.125,
            "dog runs": 0.375,
            "the cat sleeps": 0.125,
            "the dog sleeps": 0.375,
        }
        for sentence, p in known.items():
            assert toy.log_prob(sentence) == pytest.approx(math.log(p), abs=1e-12)
        expected = -sum(p * math.log(p) for p in known.values())
        assert toy.entropy == pytest.approx(expected, abs=1e-12)
        assert toy.words == ["cat", "dog", "runs", "sleeps", "the"]

    @pytest.mark.parametrize(
        "sentence", ["", "cat", "runs cat", "the cat runs", "cat runs runs", "cow runs", "N runs"]
    )
    def test_nothing_else_is_in_the_language(self, sentence):
        assert Grammar(TOY).log_prob(sentence) == -math.inf

    def test_derivations_are_summed(self):
        # "a b c" falls into (a b) c and a (b c).
        rules = {
            "S": [(0.6, ("L", "c")), (0.4, ("a", "R"))],
            "L": [(0.5, ("a", "b")), (0.5, ("a",))],
            "R": [(1.0, ("b", "c"))],
        }
        ambiguous = Grammar(rules)
        assert ambiguous.log_prob("a b c") == pytest.approx(math.log(0.6 * 0.5 + 0.4))
        assert ambiguous.log_prob("a c") == pytest.approx(math.log(0.3))
        assert ambiguous.entropy > -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))

    def test_samples_have_their_frequencies(self):
        """20,000 samples: each frequency within 5 standard errors."""
        toy = Grammar(TOY)
        drawn = toy.derive(20_000, seed=0)
        for words in itertools.product(("cat", "dog"), ("runs", "sleeps")):
            sentence = " ".join(words) if words[1] == "runs" else f"the {' '.join(words)}"
            p = math.exp(toy.log_prob(sentence))
            share = drawn.sentences.count(sentence) / 20_000
            assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 20_000))
        starts = [sentence.startswith("the") for sentence in drawn.sentences]
        assert drawn.labels.tolist() == starts


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "at least one symbol"),
        ({"S": []}, "Received none, which sum to 0"),
        ({"S": [(0.5, ("a",)), (0.4, ("b",))]}, "Received 0.5, 0.4, which sum to 0.9"),
        ({"S": [(1.5, ("a",)), (-0.5, ("b",))]}, "must be positive"),
        ({"S": [(float("nan"), ("a",))]}, "must be positive"),
        ({"S": [(1.0, ())]}, "says nothing"),
        ({"S": [(1.0, ("a b",))]}, "write its words one by one"),
        ({"S": [(1.0, ("",))]}, "must not be empty"),
        ({"S": [(0.5, ("a", "S")), (0.5, ("a",))]}, "'S' leads back to itself"),
        ({"S": [(1.0, ("T",))], "T": [(1.0, ("S",))]}, "must not be recursive"),
        ({"S": [(1.0, ("noum",))], "noun": [(1.0, ("a",))]}, "never leads to 'noun'.*misspelt"),
    ],
)
def test_rules_that_cannot_be_used(rules, message):
    with pytest.raises(InvalidInputError, match=message):
        Grammar(rules)


class TestDefaultGrammar:
    def test_probabilities_sum_to_one(self, grammar):
        for symbol, choices in grammar.rules.items():
            assert math.fsum(p for p, _ in choices) == pytest.approx(1, abs=1e-12), symbol

    def test_it_is_small_english(self, grammar):
        assert 150 <= len(grammar.words) <= 250
        drawn = grammar.derive(20_000, seed=0)
        lengths = [len(sentence.split()) for sentence in drawn.sentences]
        assert (min(lengths), max(lengths)) == (4, 16)
        assert {word for s in drawn.sentences for word in s.split()} == set(grammar.words)
        assert set(drawn.labels) == set(range(6))

    def test_a_sentence_has_one_derivation(self, grammar):
        """2,000 samples: all derivations together are as likely as the drawn one."""
        drawn = grammar.derive(2_000, seed=1)
        inside = [grammar.log_prob(sentence) for sentence in drawn.sentences]
        np.testing.assert_allclose(inside, drawn.log_probs, atol=1e-9)

    def test_entropy_is_what_samples_cost(self, grammar):
        """20,000 samples: the mean of -log p lies within 5 standard errors of the entropy."""
        log_probs = grammar.derive(20_000, seed=2).log_probs
        error = log_probs.std() / math.sqrt(20_000)
        assert error < 0.03
        assert -log_probs.mean() == pytest.approx(grammar.entropy, abs=5 * error)

    def test_agreement(self, grammar):
        assert grammar.log_prob("the cooks taste the soup gladly .") > -math.inf
        for wrong in (
            "the cook taste the soup gladly .",  # number
            "the cooks taste the net gladly .",  # topic
            "gladly the sad cooks taste the soup .",  # tone
            "the cooks taste the soup gladly while the waiters ate .",  # tense
            "do the cooks taste the soup gladly .",  # mood
        ):
            assert grammar.log_prob(wrong) == -math.inf

    def test_the_seed_decides(self, grammar):
        assert grammar.sample(50, seed=3) == grammar.sample(50, seed=3)
        assert grammar.sample(50, seed=3) != grammar.sample(50, seed=4)
        # Written out: data of a seed must not change from one version to the next.
        assert grammar.sample(1, seed=0) == ["do we rehearse my long waltz gladly near the hall ?"]
        with pytest.raises(InvalidInputError, match="`num` must be"):
            grammar.sample(0, seed=0)

"""The grammar that ships with the package."""

import functools
import itertools
import math
from typing import NamedTuple

from tfebm.data.grammar import Grammar


class _Topic(NamedTuple):
    """The words of a topic; none is another topic's, so that a sentence shows its own."""

    singular: str
    plural: str
    objects: str
    places: str
    adjectives: str
    base: str  # of verbs with an object
    third: str
    past: str
    lone_base: str  # of verbs without
    lone_third: str
    lone_past: str


_TOPICS = {
    "kitchen": _Topic(
        *("cook baker waiter guest", "cooks bakers waiters guests"),
        *("soup bread sauce cake", "kitchen pantry", "fresh salty warm"),
        *("stir taste serve", "stirs tastes serves", "stirred tasted served"),
        *("eat bake", "eats bakes", "ate baked"),
    ),
    "sea": _Topic(
        *("sailor captain fisher diver", "sailors captains fishers divers"),
        *("net boat bucket lantern", "harbour beach", "wet rusty blue"),
        *("mend pull lift", "mends pulls lifts", "mended pulled lifted"),
        *("sail swim", "sails swims", "sailed swam"),
    ),
    "garden": _Topic(
        *("gardener neighbour farmer child", "gardeners neighbours farmers children"),
        *("hedge lawn rose pond", "greenhouse shed", "green young thorny"),
        *("water plant trim", "waters plants trims", "watered planted trimmed"),
        *("dig rest", "digs rests", "dug rested"),
    ),
    "music": _Topic(
        *("singer drummer pianist dancer", "singers drummers pianists dancers"),
        *("song tune waltz chorus", "hall theatre", "quiet loud long"),
        *("play rehearse hum", "plays rehearses hums", "played rehearsed hummed"),
        *("dance sing", "dances sings", "danced sang"),
    ),
    "mountain": _Topic(
        *("climber guide shepherd skier", "climbers guides shepherds skiers"),
        *("rope tent map sledge", "summit valley", "heavy frozen torn"),
        *("carry fold drop", "carries folds drops", "carried folded dropped"),
        *("climb camp", "climbs camps", "climbed camped"),
    ),
    "market": _Topic(
        *("merchant buyer tailor thief", "merchants buyers tailors thieves"),
        *("coat carpet basket clock", "market square", "cheap silk woven"),
        *("sell buy weigh", "sells buys weighs", "sold bought weighed"),
        *("haggle wait", "haggles waits", "haggled waited"),
    ),
}
_SHARED = {
    "singular determiner": "the a my this our every",
    "plural determiner": "the some my these our many",
    "singular pronoun": "she he",
    "plural pronoun": "they we",
    "glad adjective": "happy cheerful proud",
    "grim adjective": "tired sad grumpy",
    "glad adverb": "gladly happily proudly merrily",
    "grim adverb": "sadly wearily grimly slowly",
    "preposition": "in near behind",
}
_Choices = list[tuple[float, tuple[str, ...]]]
_Rules = dict[str, _Choices]
_TONES = (("glad", 0.5), ("grim", 0.5))
_TENSES = (("present", 0.6), ("past", 0.4))
_NUMBERS = (("singular", 0.6), ("plural", 0.4))
_MOODS = (("statement", 0.7), ("question", 0.3))


@functools.cache
def default_grammar() -> Grammar:
    """English-like sentences of 4 to 16 words, each with one derivation.

    Topic, tone, tense, number and mood are drawn first and decide which words can follow, to
    the last one: what a latent of the whole sentence is for. The topic, one of six, is the label
    of `Grammar.derive`.

    Example:

        >>> default_grammar().sample(1, seed=0)
        ['do we rehearse my long waltz gladly near the hall ?']
    """
    rules: _Rules = {"sentence": [(1 / len(_TOPICS), (f"{topic} sentence",)) for topic in _TOPICS]}
    for symbol, shared in _SHARED.items():
        rules[symbol] = _rarer_and_rarer(shared)
    for topic, words in _TOPICS.items():
        for field, value in words._asdict().items():
            rules[f"{topic} {field}"] = _rarer_and_rarer(value)
        rules[f"{topic} sentence"] = _add_sentences(rules, topic)
        _add_phrases(rules, topic)
    return Grammar(rules)


def _rarer_and_rarer(words: str) -> _Choices:
    choices = words.split()
    weights = [1 / (rank + 2) for rank in range(len(choices))]
    return [(w / sum(weights), (word,)) for w, word in zip(weights, choices, strict=True)]


def _verb_form(tense: str, number: str) -> str:
    return "past" if tense == "past" else {"singular": "third", "plural": "base"}[number]


def _add_sentences(rules: _Rules, topic: str) -> _Choices:
    drawn: _Choices = []
    for each in itertools.product(_TONES, _TENSES, _NUMBERS, _MOODS):
        tone, tense, number, mood = (word for word, _ in each)
        symbol = f"{topic} {tone} {tense} {number} {mood}"
        drawn.append((math.prod(probability for _, probability in each), (symbol,)))
        subject, adverb = f"{topic} {tone} {number} subject", f"{tone} adverb"
        if mood == "question":
            do = {"past": "did", "third": "does", "base": "do"}[_verb_form(tense, number)]
            predicate = f"{topic} base predicate"
            rules[symbol] = [(1.0, (do, subject, predicate, adverb, f"{topic} question end"))]
        else:
            predicate = f"{topic} {_verb_form(tense, number)} predicate"
            end = f"{topic} {tense} end"
            rules[symbol] = [
                (0.75, (subject, predicate, adverb, end)),
                (0.25, (adverb, subject, predicate, end)),
            ]
    return drawn


def _add_phrases(rules: _Rules, topic: str) -> None:
    place, thing = f"{topic} place", f"{topic} thing"
    rules[place] = [(1.0, ("preposition", "the", f"{topic} places"))]
    rules[thing] = [
        (0.6, ("singular determiner", f"{topic} objects")),
        (0.4, ("singular determiner", f"{topic} adjectives", f"{topic} objects")),
    ]
    rules[f"{topic} question end"] = [(0.6, ("?",)), (0.4, (place, "?"))]
    for (number, _), (tone, _) in itertools.product(_NUMBERS, _TONES):
        determiner, noun = f"{number} determiner", f"{topic} {number}"
        rules[f"{topic} {tone} {number} subject"] = [
            (0.2, (f"{number} pronoun",)),
            (0.5, (determiner, noun)),
            (0.3, (determiner, f"{tone} adjective", noun)),
        ]
    for form in ("base", "third", "past"):
        rules[f"{topic} {form} predicate"] = [
            (0.25, (f"{topic} lone_{form}",)),
            (0.75, (f"{topic} {form}", thing)),
        ]
    for tense, _ in _TENSES:
        meanwhile = f"{topic} {tense} meanwhile"
        rules[meanwhile] = []
        for number, probability in _NUMBERS:
            noun, verb = f"{topic} {number}", f"{topic} lone_{_verb_form(tense, number)}"
            rules[meanwhile].append((probability, ("while", f"{number} determiner", noun, verb)))
        rules[f"{topic} {tense} end"] = [
            (0.5, (".",)),
            (0.25, (place, ".")),
            (0.15, (meanwhile, ".")),
            (0.1, (place, meanwhile, ".")),
        ]

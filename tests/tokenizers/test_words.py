"""Whole words to ids and back: known answers, what is learned, and exports."""

import functools
import subprocess
import sys
import unicodedata

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfebm import InvalidInputError
from tfebm.tokenizers import (
    END,
    PAD,
    START,
    UNKNOWN,
    Tokenizer,
    WordpieceTokenizer,
    WordTokenizer,
    base,
)
from tfebm.tokenizers.characters import join_accents

# Runs in a process of its own; as TensorFlow Serving does, it refuses to compile with XLA.
STRANGER = """
import ctypes, os, sys
for name in ("tfebm", "keras", "tensorflow_text"):
    sys.modules[name] = None  # importing any of them would fail
import numpy as np
import tensorflow as tf

library = os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2")
ctypes.CDLL(library)._ZN10tensorflow21DisableXlaCompilationEv()
text = np.array(["the Cat sat", "", "the bird <unk>"], object)
loaded = tf.saved_model.load(sys.argv[1]).signatures["echo"](text=tf.constant(text))
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], sys.argv[1])
    signature = meta.signature_def["echo"]
    fetch = {k: v.name for k, v in signature.outputs.items()}
    ran = session.run(fetch, {signature.inputs["text"].name: text})
for key in ("ids", "text"):
    assert loaded[key].numpy().tolist() == ran[key].tolist()
print(ran["ids"].tolist(), ran["text"].tolist())
"""


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer(["the", "cat", "sat", "."])


def ids_of(tokenizer, *sentences):
    return tokenizer.tokenize(list(sentences)).numpy().tolist()


def texts_of(tokenizer, *ids):
    return [text.decode() for text in tokenizer.detokenize(np.array(ids)).numpy()]


nfc = functools.partial(unicodedata.normalize, "NFC")


def words(text):
    """How `split="words"` divides a text."""
    learned = WordTokenizer.learn([text], split="words")
    return texts_of(learned, *learned.tokenize([text]).numpy())[0].split()


class TestIds:
    def test_special_ids_come_first(self, tokenizer):
        assert (PAD, START, END, UNKNOWN) == (0, 1, 2, 3)
        for kind in (Tokenizer, tokenizer):
            assert (kind.pad_id, kind.start_id, kind.end_id, kind.unknown_id) == (0, 1, 2, 3)
        assert tokenizer.vocabulary_size == 8
        assert not tokenizer.needs_tensorflow_text

    def test_words_end_and_padding(self, tokenizer):
        ids = tokenizer.tokenize(tf.constant(["the cat sat .", "sat", ""]))
        assert ids.dtype == tf.int32
        assert ids.numpy().tolist() == [[4, 5, 6, 7, 2], [6, 2, 0, 0, 0], [2, 0, 0, 0, 0]]

    def test_unseen_words_are_unknown(self, tokenizer):
        assert ids_of(tokenizer, "the dog <unk> Cat") == [[4, 3, 3, 3, 2]]

    def test_a_text_cannot_write_special_ids(self, tokenizer):
        assert ids_of(tokenizer, "<pad> <s> </s> cat") == [[3, 3, 3, 5, 2]]

    def test_no_sentences(self, tokenizer):
        assert tokenizer.tokenize(tf.zeros([0], tf.string)).shape[0] == 0
        assert tokenizer.detokenize(tf.zeros([0, 4], tf.int32)).shape == (0,)
        assert texts_of(tokenizer, *np.zeros([2, 0], int)) == ["", ""]

    def test_every_white_space_of_python_separates(self, tokenizer):
        spaces = [c for c in map(chr, range(0x110000)) if c.isspace()]
        texts = [f"{space}the{space}{space}cat{space}" for space in spaces]
        assert len(texts) > 20
        assert ids_of(tokenizer, *texts) == [[4, 5, 2]] * len(texts)

    @pytest.mark.parametrize("dtype", ["int32", "int64"])
    def test_back_to_text(self, tokenizer, dtype):
        ids = np.array([[1, 4, 5, 2, 6, 6], [4, 0, 3, 7, 0, 0], [2, 4, 4, 4, 4, 4]], dtype)
        # What stands behind the end does not count, nor do padding and starts.
        assert texts_of(tokenizer, *ids) == ["the cat", "the <unk> .", ""]

    def test_ids_outside_the_vocabulary_are_unknown(self, tokenizer):
        assert texts_of(tokenizer, [4, 8, 10**6, -1, 2]) == ["the <unk> <unk> <unk>"]

    def test_there_and_back(self, tokenizer):
        text = "the cat sat . the <unk>"
        assert texts_of(tokenizer, *ids_of(tokenizer, text)) == [text]

    def test_bytes_that_are_no_utf8_are_unknown(self):
        bad = b"the \xe9t\xe9 cat"
        assert ids_of(WordTokenizer(["the", "cat"]), bad) == [[4, 3, 5, 2]]
        # Lower-casing writes the replacement mark for a bad byte, and that is a symbol.
        assert ids_of(WordTokenizer(["the", "cat"], "words"), bad) == [[4, 3, 3, 3, 5, 2]]


class TestWords:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("The CAT, sat.", "the cat , sat ."),
            ("Isn't it?!", "isn't it ? !"),
            ("the dogs' 'home'", "the dogs ' ' home '"),
            ("''quoted''", "'' quoted ''"),
            ("don\u2019t", "don't"),
            ("ÉTÉ à l\u2019Île…", "été à l'île …"),
            ("3.5% of $10", "3 . 5 % of $ 10"),
            ("well-known _num_", "well - known _num_"),
        ],
    )
    def test_punctuation_is_separated(self, text, expected):
        assert words(text) == expected.split()
        assert words(expected) == expected.split()

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("co\u00adoperate", "cooperate"),
            (
                "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
                "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645",
            ),
            ("\U0001f468\u200d\U0001f469 \u2764\ufe0f!", "\U0001f468 \U0001f469 \u2764 !"),
            ("1\ufe0f\u20e3 a\u20dd", "1\u20e3 a\u20dd"),
            ("\ufeffthe\ufeff\u2060 \u200ecat\u202c\u2069\u061c", "the cat"),
            ("word\u200bword", "word word"),
            ("!\u0301 \x1b[0mthe\x07", "!\u0301 [ 0mthe"),
            ("\u0915\u094d\u200d\u0937\u093f", "\u0915\u094d\u0937\u093f"),
            ("\u180e\u034f\u3164\U000e0101", ""),
        ],
    )
    def test_what_cannot_be_seen_is_no_word(self, text, expected):
        learned = WordTokenizer(["the"], split="words")
        found = base.split_words(tf.constant([text]), learned.split).to_list()[0]
        assert b" ".join(found).decode() == expected

    @pytest.mark.parametrize("split", ["whitespace", "words"])
    def test_a_word_is_the_same_however_its_accents_are_written(self, split):
        words = ["\u00e9t\u00e9", "vi\u1ec7t", "\ud55c\uad6d", "\u01f0", "\u0958", "o\u0308\u0301"]
        words = [unicodedata.normalize("NFC", word) for word in words]
        apart = [unicodedata.normalize("NFD", word) for word in words]
        assert apart != words
        tokenizer = WordTokenizer(words, split)
        assert (
            ids_of(tokenizer, *apart) == ids_of(tokenizer, *words) == [[i, 2] for i in range(4, 10)]
        )
        assert WordTokenizer.learn(apart, split=split).vocabulary_size == 4 + len(words)
        assert set(WordTokenizer.learn(apart, split=split).vocabulary) == set(words)
        assert WordpieceTokenizer.learn(apart, split=split).digest == (
            WordpieceTokenizer.learn(words, split=split).digest
        )

    def test_accents_join_as_unicode_says(self):
        marks = range(0x300, 0x340)
        texts = [unicodedata.normalize("NFD", chr(c)) for c in range(0xC0, 0x2000)]
        texts += [f"{letter}{chr(mark)}x" for letter in "aeosuAEOSU'!" for mark in marks]
        texts += ["", "a", "\u1112\u1161\u11ab\u1100"]
        found = join_accents(tf.constant(texts)).numpy()
        different = [t for t, f in zip(texts, found, strict=True) if f.decode() != nfc(t)]
        assert different == []

    def test_the_unknown_word_stays_whole(self):
        tokenizer = WordTokenizer(["the"], split="words")
        assert ids_of(tokenizer, "The <unk>.", "<UNK> the") == [[4, 3, 3, 2], [3, 4, 2, 0]]

    def test_white_space_alone_leaves_words_as_they_are(self):
        tokenizer = WordTokenizer.learn(["The end. The"])
        assert tokenizer.vocabulary == ("The", "end.")


class TestLearning:
    def test_most_frequent_first_then_alphabetical(self):
        learned = WordTokenizer.learn(["b a c", "c b", "c d <unk> <s>"])
        assert learned.vocabulary == ("c", "b", "a", "d")
        assert learned.vocabulary_size == 8

    def test_limits(self):
        sentences = ["b a c", "c b", "c d"]
        assert WordTokenizer.learn(sentences, max_size=6).vocabulary == ("c", "b")
        assert WordTokenizer.learn(sentences, min_count=2).vocabulary == ("c", "b")
        assert WordTokenizer.learn(sentences, max_size=5, min_count=2).vocabulary == ("c",)
        assert WordTokenizer.learn(iter(sentences), max_size=100).vocabulary_size == 8

    def test_what_is_learned_is_found(self):
        sentences = ["L\u2019été\u00a0's  \u2028 İzmir ǅ", "x\x1cy \x85 STRASSE ß"]
        for split in ("whitespace", "words"):
            learned = WordTokenizer.learn(sentences, split=split)
            assert UNKNOWN not in np.ravel(ids_of(learned, *sentences))

    def test_more_sentences_than_are_split_at_a_time(self):
        learned = WordTokenizer.learn(f"w{i % 7} x" for i in range(10_000))
        assert learned.vocabulary[0] == "x"
        assert learned.vocabulary_size == 4 + 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WordTokenizer([]), "vocabulary is empty"),
        (lambda: WordTokenizer("the cat"), "must be a list of words"),
        (lambda: WordTokenizer([3]), "must hold strings. Received 3, a int"),
        (lambda: WordTokenizer(["a", "b", "a"]), "'a' 2 times"),
        (lambda: WordTokenizer(["a b"]), "white space in it. Received 'a b'"),
        (lambda: WordTokenizer([""]), "must not be empty"),
        (lambda: WordTokenizer(["a", "<unk>"]), "'<unk>' is special"),
        (lambda: WordTokenizer(["a"], split="letters"), "`split` must be 'whitespace' or 'words'"),
        (lambda: WordTokenizer(["Cat"], split="words"), "'Cat' is never found .* into 'cat'"),
        (lambda: WordTokenizer(["x.y"], split="words"), r"turns into 'x \. y'"),
        (lambda: WordTokenizer.learn([]), "no words to learn"),
        (lambda: WordTokenizer.learn(["", "<unk>"]), "no words to learn"),
        (lambda: WordTokenizer.learn(["a b"], min_count=2), "seen 2 or more times"),
        (lambda: WordTokenizer.learn("the cat"), "Received one string"),
        (lambda: WordTokenizer.learn(["a"], max_size=4), "above 4.* Received 4"),
        (lambda: WordTokenizer.learn(["a"], max_size=9.5), "Received 9.5"),
        (lambda: WordTokenizer.learn(["a"], min_count=0), "`min_count` must be a whole number"),
        (lambda: WordTokenizer.learn(["a"], split="no"), "`split` must be"),
        (lambda: WordTokenizer(["a"]).tokenize("a"), r"Text must have shape \[B\]"),
        (lambda: WordTokenizer(["a"]).detokenize([4]), r"Ids must have shape \[B, T\]"),
        (lambda: WordTokenizer(["a"]).detokenize([[4.0]]), "must be integers. Received float32"),
    ],
)
def test_what_cannot_be_used_is_said(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


class TestConfig:
    def test_round_trip(self):
        tokenizer = WordTokenizer(["the", "é", "cat"], split="words")
        config = keras.saving.serialize_keras_object(tokenizer)
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is WordTokenizer
        assert copy.vocabulary == tokenizer.vocabulary
        assert copy.split == "words"
        assert copy.digest == tokenizer.digest
        assert ids_of(copy, "The É") == [[4, 5, 2]]
        assert WordTokenizer.from_config(tokenizer.get_config()).digest == tokenizer.digest

    def test_digest_is_fixed_and_tells_vocabularies_apart(self, tokenizer):
        # Written into runs and exports: it must not change from one version to the next.
        assert tokenizer.digest == "9c394a5f6d54619c"
        others = [
            WordTokenizer(["cat", "the", "sat", "."]),
            WordTokenizer(["the", "cat", "sat"]),
            WordTokenizer(["the", "cat", "sat", "."], split="words"),
        ]
        assert len({tokenizer.digest, *(other.digest for other in others)}) == 4


class TestGraphs:
    def test_lengths_are_dynamic(self, tokenizer):
        echo = tf.function(
            lambda text: tokenizer.detokenize(tokenizer.tokenize(text)),
            input_signature=[tf.TensorSpec([None], tf.string)],
        )
        assert echo(tf.constant(["the cat", "sat"])).numpy().tolist() == [b"the cat", b"sat"]
        assert echo(tf.constant(["the"] * 5)).shape == (5,)
        assert echo.experimental_get_tracing_count() == 1

    def test_made_while_a_function_is_traced(self):
        made = []

        @tf.function
        def ids(text):
            made.append(WordTokenizer(["a", "b"]))
            return made[-1].tokenize(text)

        assert ids(tf.constant(["b a"])).numpy().tolist() == [[5, 4, 2]]
        assert ids_of(made[-1], "b") == [[5, 2]]

    def test_in_a_data_set(self, tokenizer):
        batches = tf.data.Dataset.from_tensor_slices(["the cat", "sat"]).batch(2)
        (ids,) = batches.map(tokenizer.tokenize).as_numpy_iterator()
        assert ids.tolist() == [[4, 5, 2], [6, 2, 0]]

    def test_on_two_replicas(self, mirrored):
        with mirrored.scope():
            tokenizer = WordTokenizer(["the", "cat"])

        @tf.function
        def run(text):
            return mirrored.run(lambda t: tokenizer.detokenize(tokenizer.tokenize(t)), (text,))

        results = mirrored.experimental_local_results(run(tf.constant(["the cat sat"])))
        assert [r.numpy().tolist() for r in results] == [[b"the cat <unk>"]] * 2


def test_strangers_load_an_export(tmp_path):
    tokenizer = WordTokenizer(["the", "cat"], split="words")

    def echo(text):
        ids = tokenizer.tokenize(text)
        return {"ids": ids, "text": tokenizer.detokenize(ids)}

    archive = keras.export.ExportArchive()
    for resource in tokenizer.resources:
        archive.track(resource)
    archive.add_endpoint("echo", echo, [tf.TensorSpec([None], tf.string, name="text")])
    archive.write_out(str(tmp_path / "export"), verbose=False)
    output = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "export")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    ids = [[4, 5, 3, 2], [2, 0, 0, 0], [4, 3, 3, 2]]
    text = [b"the cat <unk>", b"", b"the <unk> <unk>"]
    assert output.splitlines()[-1] == f"{ids} {text}"

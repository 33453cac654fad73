"""Pieces of words. The operations are tensorflow-text's, whose import takes seconds."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfebm import InvalidInputError
from tfebm.tokenizers import UNKNOWN, WordpieceTokenizer, WordTokenizer

SENTENCES = ["the player plays", "playing the game", "games are played", "the gamer plays games"]
PIECES = ["play", "##ing", "##s", "the", "é"]

# Runs in a process of its own; the operations of tensorflow-text are all that it loads.
STRANGER = """
import ctypes, os, sys
for name in ("tfebm", "keras", "tensorflow_text"):
    sys.modules[name] = None  # importing any of them would fail
import numpy as np
import tensorflow as tf

library = os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2")
ctypes.CDLL(library)._ZN10tensorflow21DisableXlaCompilationEv()
tf.load_op_library(sys.argv[2])
text = np.array(["playing the plays", "", "games"], object)
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
    return WordpieceTokenizer(PIECES)


def ids_of(tokenizer, *sentences):
    return tokenizer.tokenize(list(sentences)).numpy().tolist()


def texts_of(tokenizer, *ids):
    return [text.decode() for text in tokenizer.detokenize(np.array(ids)).numpy()]


def test_pieces_end_and_padding(tokenizer):
    ids = tokenizer.tokenize(["playing the plays", "é", ""])
    assert ids.dtype == tf.int32
    assert ids.numpy().tolist() == [[4, 5, 7, 4, 6, 2], [8, 2, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]]
    assert tokenizer.vocabulary_size == 9
    assert tokenizer.needs_tensorflow_text
    assert tokenizer.resources == []


def test_words_that_cannot_be_put_together_are_unknown_as_a_whole(tokenizer):
    assert ids_of(tokenizer, "player the <unk>") == [[3, 7, 3, 2]]
    assert ids_of(tokenizer, "the" * 40) == [[3, 2]]


def test_a_text_cannot_write_special_ids(tokenizer):
    assert ids_of(tokenizer, "<pad> <s> </s> the") == [[3, 3, 3, 7, 2]]


def test_back_to_text(tokenizer):
    ids = [[1, 4, 5, 2, 6, 6], [7, 0, 3, 4, 6, 0], [2, 4, 4, 4, 4, 4], [7, 9, -1, 10**6, 2, 0]]
    assert texts_of(tokenizer, *ids) == [
        "playing",
        "the <unk> plays",
        "",
        "the <unk> <unk> <unk>",  # ids outside the vocabulary, which would end the process
    ]
    assert texts_of(tokenizer, *np.zeros([1, 0], int)) == [""]


def test_words_are_split_as_word_tokenizers_do():
    tokenizer = WordpieceTokenizer(PIECES, split="words")
    assert ids_of(tokenizer, "THE É <unk>") == [[7, 8, 3, 2]]
    with pytest.raises(InvalidInputError, match="`split` must be"):
        WordpieceTokenizer(PIECES, split="letters")
    with pytest.raises(InvalidInputError, match="2 times"):
        WordpieceTokenizer(["a", "a"])


class TestLearning:
    def test_nothing_of_what_was_seen_is_unknown(self):
        learned = WordpieceTokenizer.learn(SENTENCES, max_size=60)
        assert 30 < learned.vocabulary_size <= 60
        ids = ids_of(learned, *SENTENCES)
        assert UNKNOWN not in np.ravel(ids)
        assert texts_of(learned, *ids) == SENTENCES
        # Of letters that were seen, so are words that were not.
        assert texts_of(learned, *ids_of(learned, "pays the box")) == ["pays the <unk>"]
        assert learned.digest == WordpieceTokenizer.learn(SENTENCES, max_size=60).digest

    def test_sizes_are_kept(self):
        assert WordpieceTokenizer.learn(SENTENCES, max_size=20).vocabulary_size <= 20
        assert WordpieceTokenizer.learn(SENTENCES).vocabulary_size < 8000
        rare = WordpieceTokenizer.learn(["aa aa bb", "<unk> <s>"], min_count=2)
        assert not any("b" in piece or piece == "<unk>" for piece in rare.vocabulary)

    @pytest.mark.parametrize(
        ("sentences", "settings", "message"),
        [
            ([], {}, "no words to learn"),
            ("text", {}, "Received one string"),
            (["a"], {"max_size": 3}, "above 4"),
            (["a"], {"min_count": 0}, "`min_count`"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, sentences, settings, message):
        with pytest.raises(InvalidInputError, match=message):
            WordpieceTokenizer.learn(sentences, **settings)


def test_config_round_trip(tokenizer):
    config = keras.saving.serialize_keras_object(tokenizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is WordpieceTokenizer
    assert copy.get_config() == tokenizer.get_config()
    assert ids_of(copy, "plays") == [[4, 6, 2]]
    assert copy.digest == tokenizer.digest
    assert copy.digest != WordTokenizer(PIECES).digest


def test_made_while_a_function_is_traced():
    made = []

    @tf.function
    def echo(text):
        made.append(WordpieceTokenizer(PIECES))
        return made[-1].detokenize(made[-1].tokenize(text))

    assert echo(tf.constant(["the plays", ""])).numpy().tolist() == [b"the plays", b""]
    assert ids_of(made[-1], "the") == [[7, 2]]


def test_an_export_needs_one_library(tokenizer, tmp_path):
    import tensorflow_text

    def echo(text):
        ids = tokenizer.tokenize(text)
        return {"ids": ids, "text": tokenizer.detokenize(ids)}

    archive = keras.export.ExportArchive()
    for resource in tokenizer.resources:
        archive.track(resource)
    archive.add_endpoint("echo", echo, [tf.TensorSpec([None], tf.string, name="text")])
    archive.write_out(str(tmp_path / "export"), verbose=False)
    operations = pathlib.Path(tensorflow_text.__file__).parent / "python" / "ops"
    library = operations / "_fast_wordpiece_tokenizer.so"
    output = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "export"), str(library)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    ids = [[4, 5, 7, 4, 6, 2], [2, 0, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0]]
    text = [b"playing the plays", b"", b"<unk>"]
    assert output.splitlines()[-1] == f"{ids} {text}"

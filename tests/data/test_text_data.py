"""Sentences from files and from the grammar."""

import gzip
import itertools
import os

import numpy as np
import pytest

from tfebm import InvalidInputError
from tfebm.data import default_grammar, lengths, load_text, text_data
from tfebm.tokenizers import END, UNKNOWN, WordpieceTokenizer, WordTokenizer

LINES = ["the cat sat", "the dog", "", "a cat and a dog sat", " \t ", "the end"]


def write(path, lines, labels=None):
    if labels is not None:
        lines = [f"{label}\t{line}" for label, line in zip(labels, lines, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def texts(loaded, x):
    return [text.decode() for text in loaded.tokenizer.detokenize(x).numpy()]


def numbered(num):
    return [f"w{i}" for i in range(1, num + 1)]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "set" / "train.txt", LINES)
    write(tmp_path / "set" / "valid.txt.gz", ["the cow sat", "the dog"])
    write(tmp_path / "set" / "test.txt", ["sat"])
    return str(tmp_path / "set")


@pytest.fixture(scope="module")
def sentences():
    return load_text("grammar", labels=True)


class TestGrammar:
    def test_it_is_the_languages(self, sentences):
        assert [len(x) for x in (sentences.x_train, sentences.x_valid, sentences.x_test)] == [
            10_000,
            1_000,
            1_000,
        ]
        assert sentences.x_train.dtype == np.int32
        assert sentences.tokenizer.vocabulary_size == 4 + len(default_grammar().words)
        assert sentences.entropy == default_grammar().entropy
        tested = texts(sentences, sentences.x_test[:100])
        assert all(default_grammar().log_prob(s) > -np.inf for s in tested)
        assert set(sentences.y_train) == set(range(6))
        assert "market" in " ".join(texts(sentences, sentences.x_test[sentences.y_test == 5]))
        assert sentences.report["train"]["kept"] == sentences.report["train"]["read"] == 10_000
        assert sentences.report_sentence == (
            "grammar: 10,000 sentences to train on, 1,000 to validate with, 1,000 to test with; "
            "vocabulary of 232 ids, 4 of them special; unknown words: train 0.0%, valid 0.0%, test "
            "0.0%"
        )

    @pytest.fixture
    def few(self, monkeypatch):
        """Fewer sentences, as quickly made."""
        monkeypatch.setattr(text_data, "GRAMMAR_SIZES", {"train": 3_000, "valid": 30, "test": 30})

    def test_the_seed_decides(self, few):
        one, same, other = (
            load_text("grammar", **how) for how in ({"labels": True}, {}, {"seed": 1})
        )
        np.testing.assert_array_equal(same.x_test, one.x_test)
        assert texts(other, other.x_test) != texts(one, one.x_test)
        assert other.y_test is None

    def test_its_entropy_holds_for_whole_sentences_alone(self, few):
        assert load_text("grammar").entropy == default_grammar().entropy
        assert load_text("grammar", max_length=12).entropy is None
        assert load_text("grammar", max_vocabulary=100).entropy is None


class TestFolders:
    def test_known_answer(self, folder):
        loaded = load_text(folder)
        assert loaded.name == "set"
        assert loaded.tokenizer.vocabulary == ("the", "a", "cat", "dog", "sat", "and", "end")
        assert loaded.x_train.tolist() == [
            [4, 6, 8, 2, 0, 0, 0],
            [4, 7, 2, 0, 0, 0, 0],
            [5, 6, 9, 5, 7, 8, 2],
            [4, 10, 2, 0, 0, 0, 0],
        ]
        # Seen in training or unknown.
        assert loaded.x_valid.tolist() == [[4, UNKNOWN, 8, 2], [4, 7, 2, 0]]
        assert loaded.x_test.tolist() == [[8, END]]
        assert loaded.y_train is None
        assert loaded.x_unlabelled is None
        assert loaded.entropy is None

    def test_what_became_of_every_sentence(self, folder):
        kept = {"empty": 0, "duplicate": 0, "too_long_cut": 0, "too_long_skipped": 0}
        loaded = load_text(folder)
        assert loaded.report == {
            "train": {**kept, "read": 6, "empty": 2, "kept": 4, "words": 13, "unknown_words": 0},
            "valid": {**kept, "read": 2, "kept": 2, "words": 5, "unknown_words": 1},
            "test": {**kept, "read": 1, "kept": 1, "words": 1, "unknown_words": 0},
        }
        assert loaded.report_sentence == (
            "set: 4 sentences to train on, 2 to validate with, 1 to test with; vocabulary of 11 "
            "ids, 4 of them special; skipped empty lines: train 2; unknown words: train 0.0%, "
            "valid 20.0%, test 0.0%"
        )

    def test_too_long_ones_are_cut(self, folder):
        loaded = load_text(folder, max_length=4)
        assert loaded.x_train.shape == (4, 4)
        assert texts(loaded, loaded.x_train) == ["the cat sat", "the dog", "a cat and", "the end"]
        assert loaded.x_train[2, -1] == END
        assert loaded.report["train"]["too_long_cut"] == 1
        # The three words and the end of a sentence fit.
        assert loaded.report["valid"]["too_long_cut"] == 0

    def test_too_long_ones_are_skipped(self, folder):
        loaded = load_text(folder, max_length=3, too_long="skip")
        assert texts(loaded, loaded.x_train) == ["the dog", "the end"]
        assert loaded.report["train"]["too_long_skipped"] == 2
        assert texts(loaded, loaded.x_valid) == ["the dog"]
        assert "skipped empty lines: train 2; skipped as too long: train 2, valid 1" in (
            loaded.report_sentence
        )
        counts = loaded.report["valid"]
        # Of what was left out no words are counted.
        assert (counts["kept"], counts["unknown_words"]) == (1, 0)

    def test_more_sentences_than_are_read_at_a_time(self, tmp_path):
        lines = [" ".join(["w"] * (1 + i % 5)) if i % 7 else "" for i in range(5_000)]
        write(tmp_path / "train.txt", lines, np.arange(5_000))
        loaded = load_text(str(tmp_path), labels=True, max_length=5, too_long="skip")
        kept = 0
        for part in ("train", "valid", "test"):
            x, y = getattr(loaded, f"x_{part}"), getattr(loaded, f"y_{part}")
            np.testing.assert_array_equal(lengths(x), 2 + y % 5)
            assert np.all(y % 7)
            assert np.all(y % 5 < 4)
            counts = loaded.report[part]
            assert counts["kept"] == len(x)
            parts = ("empty", "duplicate", "too_long_skipped", "kept")
            assert counts["read"] == sum(counts[part] for part in parts)
            kept += len(x)
        assert kept == sum(1 for i in range(5_000) if i % 7 and i % 5 < 4)

    @pytest.mark.parametrize(
        ("present", "drawn"), [((), (5, 5)), (("valid",), (1, 10)), (("test",), (10, 1))]
    )
    def test_what_is_missing_is_drawn(self, tmp_path, present, drawn):
        write(tmp_path / "train.txt", ["", *numbered(105)])
        for split in present:
            write(tmp_path / f"{split}.txt", ["other"])
        tokenizer = WordTokenizer([*numbered(105), "other"])
        loaded = load_text(str(tmp_path), tokenizer=tokenizer)
        found = [texts(loaded, x) for x in (loaded.x_train, loaded.x_valid, loaded.x_test)]
        assert (len(found[1]), len(found[2])) == drawn
        everything = [*numbered(105), *["other"] * len(present)]
        assert sorted(itertools.chain(*found)) == sorted(everything)
        # In the file's order, and no pattern in it: gaps differ.
        places = sorted(int(text[1:]) for part in found[1:] for text in part if text != "other")
        assert len(set(np.diff(places))) > 3
        again = load_text(str(tmp_path), tokenizer=tokenizer, seed=7)
        np.testing.assert_array_equal(again.x_test, loaded.x_test)
        assert ("drawn from the training sentences" in loaded.report_sentence) == (len(present) < 2)

    def test_each_class_gives_its_share(self, tmp_path):
        labels = [0 if i % 2 else 1 + (i % 20 == 0) for i in range(1_000)]
        path = write(tmp_path / "a.txt", [f"w{i}" for i in range(1_000)], labels)
        loaded = load_text(path, labels=True)
        counts = [np.bincount(y).tolist() for y in (loaded.y_valid, loaded.y_test)]
        assert counts == [[25, 23, 2], [25, 22, 3]]
        assert np.bincount(loaded.y_train).tolist() == [450, 405, 45]

    def test_held_out_words_are_not_learned(self, tmp_path):
        loaded = load_text(write(tmp_path / "a.txt", numbered(20)))
        assert loaded.name == "a"
        assert loaded.tokenizer.vocabulary_size == 4 + 18
        assert loaded.x_valid.tolist() == loaded.x_test.tolist() == [[UNKNOWN, END]]
        assert "unknown words: train 0.0%, valid 100.0%, test 100.0%" in loaded.report_sentence

    @pytest.mark.parametrize(
        ("train", "valid", "test"),
        [
            ("Train.TXT", "dev.txt", "TEST.txt.gz"),
            ("training.txt.gz", "val.text", "testing.txt"),
            ("TRAINING.text.GZ", "Validation.txt.gz", "Testing.TXT"),
        ],
    )
    def test_names_of_splits(self, tmp_path, train, valid, test):
        for name, word in ((train, "a"), (valid, "b"), (test, "c"), ("vocab.txt", "d")):
            write(tmp_path / "set" / name, [word])
        (tmp_path / "set" / ".train.txt").write_bytes(b"\0hidden")
        (tmp_path / "set" / "._test.txt").write_bytes(b"\0hidden")
        (tmp_path / "set" / "train").mkdir()
        loaded = load_text(str(tmp_path / "set"), tokenizer=WordTokenizer(["a", "b", "c"]))
        found = [texts(loaded, x) for x in (loaded.x_train, loaded.x_valid, loaded.x_test)]
        assert found == [["a"], ["b"], ["c"]]
        assert loaded.report_sentence.endswith("; not read: train, vocab.txt")

    def test_links_are_followed_and_no_test_set_is_learned(self, tmp_path):
        write(tmp_path / "lines", ["a", "b"])
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "train.txt").symlink_to(tmp_path / "lines")
        (tmp_path / "set" / "dev.txt").symlink_to(tmp_path / "nowhere")
        loaded = load_text(str(tmp_path / "set"))
        assert texts(loaded, loaded.x_train) == ["a", "b"]
        assert "not read: dev.txt" in loaded.report_sentence
        (tmp_path / "set" / "test.txt").symlink_to("train.txt")
        with pytest.raises(InvalidInputError, match="what is learned would be tested"):
            load_text(str(tmp_path / "set"))

    @pytest.mark.parametrize("other", ["val.txt", "valid.txt.gz", "DEV.text"])
    def test_two_files_for_one_split(self, tmp_path, other):
        for name in ("train.txt", "validation.txt", other):
            write(tmp_path / name, ["a"])
        with pytest.raises(InvalidInputError, match=f"two files for one split: .*{other}"):
            load_text(str(tmp_path))

    def test_a_file_is_of_one_split(self, tmp_path):
        write(tmp_path / "train.txt", ["a"])
        write(tmp_path / "valid.txt", ["b"])
        os.link(tmp_path / "valid.txt", tmp_path / "test.txt")
        with pytest.raises(InvalidInputError, match=r"are one file.*what is chosen by would be"):
            load_text(str(tmp_path))

    def test_few_lines_leave_nothing_to_hold_out(self, tmp_path):
        loaded = load_text(write(tmp_path / "a.txt.gz", numbered(3)))
        assert (loaded.name, len(loaded.x_train), len(loaded.x_test)) == ("a", 3, 0)
        assert loaded.report_sentence.endswith("too few sentences to draw valid and test")
        loaded = load_text(write(tmp_path / "b.txt", numbered(12)))
        assert (len(loaded.x_valid), len(loaded.x_test)) == (1, 0)
        said = "valid drawn from the training sentences; too few sentences to draw test"
        assert loaded.report_sentence.endswith(said)
        sentence = load_text(write(tmp_path / "c.txt", ["a"])).report_sentence
        assert sentence.startswith("c: 1 sentence to train on, 0 to")

    @pytest.mark.parametrize("split", ["whitespace", "words"])
    def test_very_long_lines_are_cut_before_they_become_ids(self, tmp_path, monkeypatch, split):
        lines = ["a b c . " * 10_000, "x" * 5_000 + " y z " * 5_000, "\u200c " * 900 + "d e", "f"]
        path = write(tmp_path / "a.txt", lines)
        tokenizer = WordTokenizer.learn(lines, split=split)
        whole = tokenizer.tokenize(lines).numpy()[:, :6]
        whole[lengths(whole) == 6, -1] = END
        seen = []

        def tokenize(self, text):
            seen.append(max(map(len, text)))
            return real(self, text)

        real = WordTokenizer.tokenize
        monkeypatch.setattr(WordTokenizer, "tokenize", tokenize)
        loaded = load_text(path, split=split, max_length=6)
        np.testing.assert_array_equal(loaded.x_train, whole)
        assert texts(loaded, loaded.x_train)[1].endswith("x y z y z")
        assert loaded.report["train"]["too_long_cut"] == (2 if split == "words" else 3)
        seen.clear()
        load_text(write(tmp_path / "b.txt", lines[:1]), split=split, max_length=6)
        assert max(seen) < 1_000

    def test_marks_and_line_ends_of_editors(self, tmp_path):
        (tmp_path / "a.txt").write_bytes("\ufeffthe cat\r\nthe\u2028end\r\n\r\ncat".encode())
        loaded = load_text(str(tmp_path / "a.txt"))
        assert texts(loaded, loaded.x_train) == ["the cat", "the end", "cat"]


class TestVocabularies:
    def test_limits(self, folder):
        assert load_text(folder, max_vocabulary=6).tokenizer.vocabulary == ("the", "a")
        loaded = load_text(folder, min_count=2)
        assert loaded.tokenizer.vocabulary == ("the", "a", "cat", "dog", "sat")
        assert loaded.report["train"]["unknown_words"] == 2

    def test_of_a_file(self, folder, tmp_path):
        words = ["<pad>", "<s>", "</s>", "<unk>", "sat", "the", ""]
        path = write(tmp_path / "vocab.txt.gz", words)
        loaded = load_text(folder, vocabulary=path)
        assert loaded.tokenizer.vocabulary == ("sat", "the")
        assert loaded.x_train[0].tolist() == [5, UNKNOWN, 4, END, 0, 0, 0]

    def test_of_a_tokenizer(self, folder):
        tokenizer = WordTokenizer(["dog"])
        assert load_text(folder, tokenizer=tokenizer).tokenizer is tokenizer

    def test_words_of_untokenised_text(self, tmp_path):
        loaded = load_text(write(tmp_path / "a.txt", ["The Cat, sat."]), split="words")
        assert texts(loaded, loaded.x_train) == ["the cat , sat ."]

    def test_pieces(self, folder, tmp_path):
        loaded = load_text(folder, wordpieces=True, max_vocabulary=40)
        assert isinstance(loaded.tokenizer, WordpieceTokenizer)
        assert loaded.tokenizer.vocabulary_size <= 40
        assert texts(loaded, loaded.x_train)[0] == "the cat sat"
        path = write(tmp_path / "pieces.txt", ["the", "c", "##at", "s"])
        loaded = load_text(folder, wordpieces=True, vocabulary=path)
        assert loaded.x_train[0, :7].tolist() == [4, 5, 6, 7, 6, END, 0]


class TestLabels:
    def test_labels_are_those_of_the_kept(self, tmp_path):
        write(tmp_path / "train.txt", ["a b", "", "a b c", "b"], [3, 1, 2, -1])
        write(tmp_path / "valid.txt", ["a"], [5])
        write(tmp_path / "test.txt", ["b"], [6])
        loaded = load_text(str(tmp_path), labels=True, max_length=3, too_long="skip")
        assert loaded.y_train.tolist() == [3, -1]
        assert loaded.y_train.dtype == np.int64
        assert (loaded.y_valid.tolist(), loaded.y_test.tolist()) == ([5], [6])
        assert texts(loaded, loaded.x_train) == ["a b", "b"]

    def test_without_labels(self, tmp_path, folder):
        more = [
            write(tmp_path / "more.txt", ["new words", "the"], [0, 1]),
            write(tmp_path / "plain.txt.gz", ["", "7 the"]),
        ]
        loaded = load_text(folder, unlabelled=more)
        assert texts(loaded, loaded.x_unlabelled) == ["new words", "the", "7 the"]
        assert loaded.report["unlabelled"]["read"] == 4
        assert loaded.report["unlabelled"]["empty"] == 1
        # Training text as well: learned from.
        assert "new" in loaded.tokenizer.vocabulary

    def test_nothing_that_is_held_out_is_learned(self, tmp_path, folder):
        alone = write(tmp_path / "alone.txt", numbered(50))
        (tmp_path / "link.txt").symlink_to("alone.txt")
        os.link(alone, tmp_path / "hard.txt")
        for source, more in (
            (folder, f"{folder}/test.txt"),
            (folder, f"{folder}/../set/valid.txt.gz"),
            (alone, alone),
            (alone, str(tmp_path / "link.txt")),
            (str(tmp_path / "link.txt"), str(tmp_path / "hard.txt")),
        ):
            with pytest.raises(InvalidInputError, match="is a file of the data set itself"):
                load_text(source, unlabelled=[more])
        with pytest.raises(InvalidInputError, match=r"link\.txt is in `unlabelled` twice"):
            load_text(folder, unlabelled=[alone, str(tmp_path / "link.txt")])

    def test_further_files_hold_sentences_too(self, tmp_path, folder):
        with pytest.raises(InvalidInputError, match="no sentences in the unlabelled lines"):
            load_text(folder, unlabelled=[write(tmp_path / "blank.txt", [""])])

    @pytest.mark.parametrize(
        ("lines", "labels", "message"),
        [
            (["1\ta", "b"], True, "Line 2 is 'b'"),
            (["1\ta", "1.5\tb"], True, r"Line 2 is '1\.5\\tb'.*Number the classes"),
            (["1.0\ta", "0.0\tb"], True, r"Line 1 is '1\.0\\ta'; line 2 is '0\.0\\tb'"),
            (["good\ta"] * 7, True, r"a whole number, a tab and a sentence.*; and 2 more\. Number"),
            (["1\ta", f"{2**70}\tb"], True, "Line 2 has the label 1180591620717411303424, above"),
            (["1\ta", f"{'7' * 5_000}\tb"], True, r"Line 2 has the label 7{37}\.\.\., above"),
            (["1\ta", f"-{2**40}\tb"], True, "Line 2 has the label -1099511627776, above"),
            (["", "1\ta"], False, r"a.txt is a table of labels and sentences.*`labels=True`"),
            (["label\ttext", "1\ta"], True, "first line names its columns.*tail -n"),
            (["label\ttext", "1\ta"], False, "a table of 2 columns with tabs"),
            (["1\t0\ta", "2\t1\tb", "3\t1\tb"], True, "a table of 3 columns.*cut -f2,3"),
        ],
    )
    def test_lines_that_are_not_as_asked(self, tmp_path, lines, labels, message):
        with pytest.raises(InvalidInputError, match=message):
            load_text(write(tmp_path / "a.txt", lines), labels=labels)

    def test_a_label_column_is_whole_or_missing(self, tmp_path, folder):
        path = write(tmp_path / "more.txt", ["1\ta", "b"])
        with pytest.raises(InvalidInputError, match=r"Line 2 is 'b'\. .* repair it\.$"):
            load_text(folder, unlabelled=[path])


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.txt").write_bytes("fine\ncaf\xe9\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "plain.txt.gz").write_bytes(b"no archive")  # some browsers unpack without a word
    loaded = load_text(str(tmp_path / "plain.txt.gz"))
    assert texts(loaded, loaded.x_train) == ["no archive"]
    packed = bytearray(gzip.compress(b"".join(b"word%d\n" % i for i in range(500))))
    (tmp_path / "cut.txt.gz").write_bytes(packed[:300])
    packed[40:80] = b"?" * 40
    (tmp_path / "damaged.txt.gz").write_bytes(packed)
    write(tmp_path / "blank.txt", ["", " "])
    write(tmp_path / "long.txt", ["a b c", "d e f"])
    (tmp_path / "none").mkdir()
    write(tmp_path / "wrong" / "learn.txt", ["a"])
    for name, message in {
        "latin.txt": r"latin.txt must be UTF-8. Line 2 is not UTF-8 \(unexpected end of.*CP1251, ",
        "empty.txt": "empty.txt is empty",
        "cut.txt.gz": "cannot be read: Compressed file ended",
        "damaged.txt.gz": "damaged.txt.gz cannot be read",
        "blank.txt": "no sentences in the train lines; each of 2 is empty",
        "long.txt": "each of the 2 train sentences has more than 3 tokens",
        "latin.text": "no file or folder .*Did you mean 'latin.txt'",
        "no/such/folder": "There is no file or folder",
        "none": "must hold train.txt or train.txt.gz.* It holds nothing",
        "wrong": "It holds learn.txt",
    }.items():
        with pytest.raises(InvalidInputError, match=message):
            load_text(str(tmp_path / name), max_length=3, too_long="skip")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_files_without_permission(tmp_path):
    path = write(tmp_path / "a.txt", ["a"])
    os.chmod(path, 0)
    with pytest.raises(InvalidInputError, match="Permission denied"):
        load_text(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 1}, "`max_length` must be a whole number of at least 2"),
        ({"too_long": "drop"}, "`too_long` must be 'cut' or 'skip'. Received 'drop'"),
        ({"max_vocabulary": 4}, "`max_vocabulary` must be a whole number of at least 5"),
        ({"min_count": 0}, "`min_count` must be a whole number"),
        ({"split": "letters"}, "`split` must be 'whitespace' or 'words'"),
        ({"tokenizer": str.split}, "must be a `WordTokenizer` or .* Received a method_descriptor"),
        ({"tokenizer": WordTokenizer(["a"]), "vocabulary": "v"}, "Give one of them"),
        ({"vocabulary": "v", "min_count": 2}, "only where the vocabulary is learned"),
        ({"vocabulary": "."}, r"\. is a folder, and one file is needed here"),
        ({"unlabelled": ["."]}, r"\. is a folder, and one file is needed here"),
        ({"vocabulary": "vocabulary.txt"}, "no file or folder 'vocabulary.txt'"),
        ({"unlabelled": "file.txt"}, "`unlabelled` must be a list of files"),
        ({"unlabelled": ["file.txt"]}, "no file or folder 'file.txt'"),
    ],
)
def test_arguments_that_cannot_be_used(folder, arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        load_text(folder, **arguments)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["<pad>", "<unk>", ""], "holds no words"),
        (["a", "a"], "vocab.txt: Each word of a vocabulary must be there once"),
        (["a\t12"], "vocab.txt: A word must not .* white space"),
    ],
)
def test_vocabulary_files_that_cannot_be_used(folder, tmp_path, words, message):
    path = write(tmp_path / "vocab.txt", words)
    with pytest.raises(InvalidInputError, match=message):
        load_text(folder, vocabulary=path)


def test_accents_join_their_letters_in_files_of_words_too(tmp_path):
    lines = ["cafe\u0301 caf\u00e9", "\ufeffcaf\u00e9 co\u00adop"]
    path = write(tmp_path / "a.txt", lines)
    assert load_text(path).tokenizer.vocabulary == ("caf\u00e9", "co\u00adop")
    assert load_text(path, split="words").tokenizer.vocabulary == ("caf\u00e9", "coop")
    words = write(tmp_path / "vocab.txt", ["cafe\u0301", "{", "1,2", "a"])
    assert load_text(path, vocabulary=words).tokenizer.vocabulary == ("caf\u00e9", "{", "1,2", "a")


def test_names_of_any_bytes(tmp_path):
    path = tmp_path / "caf\udce9.txt"
    write(path, ["a"])
    load_text(str(path)).report_sentence.encode()
    with pytest.raises(InvalidInputError) as caught:
        load_text(write(path, ["a", "\0"]))
    str(caught.value).encode()
    loaded = load_text(write(tmp_path / "red\x1b[31m\nline.txt", ["a"]))
    assert loaded.report_sentence.startswith(r"red\x1b[31m\nline: 1 sentence")

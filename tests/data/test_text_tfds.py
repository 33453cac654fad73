"""Sentences of TensorFlow Datasets."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfebm import InvalidInputError
from tfebm.data import load_text


def texts(loaded, x):
    return [text.decode() for text in loaded.tokenizer.detokenize(x).numpy()]


def prepared(*names):
    """What a download leaves in the builder: the names of its splits."""

    def prepare(builder):
        split_info = tfds.core.SplitInfo
        splits = [split_info(name=name, shard_lengths=[40], num_bytes=0) for name in names]
        builder.info.set_splits(tfds.core.SplitDict(splits))

    return prepare


class TestTensorFlowDatasets:
    """The real loading code, on TFDS' own stand-in for downloaded files."""

    def load(
        self, monkeypatch, name, splits=("train", "validation", "test"), examples=None, **more
    ):
        def as_dataset(builder, split, **kwargs):
            return tf.data.Dataset.from_tensor_slices(examples)

        with tfds.testing.mock_data(num_examples=40, as_dataset_fn=examples and as_dataset):
            prepare = prepared(*splits)
            with monkeypatch.context() as patch:  # undone before TFDS undoes its own
                patch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
                return load_text(name, **more)

    def test_pairs_give_their_premises_once(self, monkeypatch):
        premises = ["a man sits", "a man sits", "a dog runs", "a man sits"]
        examples = {"premise": premises, "hypothesis": ["x"] * 4, "label": [0, 1, -1, 2]}
        loaded = self.load(monkeypatch, "snli", examples=examples)
        assert texts(loaded, loaded.x_train) == ["a man sits", "a dog runs"]
        assert loaded.report["train"]["duplicate"] == 2
        assert loaded.report["train"]["read"] == 4
        assert "skipped repetitions: train 2, valid 2, test 2" in loaded.report_sentence
        assert "texts of 'premise', not of hypothesis" in loaded.report_sentence
        with pytest.raises(InvalidInputError, match="a label for each pair"):
            self.load(monkeypatch, "snli", labels=True)

    def test_text_and_labels(self, monkeypatch):
        examples = {"text": [f"the {i}\n\nend" for i in range(40)], "label": list(range(40))}
        loaded = self.load(monkeypatch, "imdb_reviews", ("train", "test"), examples, labels=True)
        assert loaded.y_valid.tolist() == [9, 19, 29, 39]  # a label each, and every tenth of them
        assert texts(loaded, loaded.x_train)[:2] == ["the 0 end", "the 1 end"]
        assert len(loaded.x_train) == 36
        assert loaded.y_test.tolist() == list(range(40))
        # Without labels the parts are the same: a task may ask for them later.
        plain = self.load(monkeypatch, "imdb_reviews", ("train", "test"), examples)
        assert plain.y_train is plain.y_valid is None
        assert texts(plain, plain.x_valid) == texts(loaded, loaded.x_valid)
        assert "valid drawn from the training sentences" in plain.report_sentence

    def test_texts_are_those_of_a_file(self, monkeypatch):
        examples = {"text": ["cafe\u0301", "\ufeffcaf\u00e9", "\u200b"], "label": [0, 1, 1]}
        loaded = self.load(monkeypatch, "imdb_reviews", examples=examples)
        assert texts(loaded, loaded.x_train) == ["caf\u00e9", "caf\u00e9"]
        assert loaded.report["train"]["empty"] == 1

    def test_splits_by_other_names(self, monkeypatch):
        examples = {"text": ["a", "b"], "label": [0, 1]}
        loaded = self.load(monkeypatch, "imdb_reviews", ("training", "dev", "Test"), examples)
        assert [len(x) for x in (loaded.x_train, loaded.x_valid, loaded.x_test)] == [2, 2, 2]

    @pytest.mark.parametrize("name", ["snli", "lm1b", "ag_news_subset", "glue/sst2"])
    def test_sets_by_name(self, name, monkeypatch):
        loaded = self.load(monkeypatch, name)
        assert len(loaded.x_train) == loaded.report["train"]["kept"] > 0
        assert loaded.name == name

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("lm1b", {"labels": True}, "has no labels. Do not ask for labels"),
            ("mnist", {}, "no feature that is a text. It has image, label"),
            ("lm1b", {"splits": ("test",)}, "no split 'train' to learn from. It has test"),
            ("snli", {"text_feature": "title"}, "no text 'title'. It has hypothesis, premise"),
            ("glue/nothing", {}, "could not be loaded.*nothing"),
            ("snli:9.9.9", {}, "could not be loaded.*9.9.9"),
            ("snly", {}, "no data set, file or folder 'snly'. Did you mean 'snli'"),
            ("gramar", {}, "Did you mean 'grammar'"),
        ],
    )
    def test_sets_that_cannot_be_used(self, name, arguments, message, monkeypatch):
        with pytest.raises(InvalidInputError, match=message):
            self.load(monkeypatch, name, **arguments)

    def test_what_cannot_be_downloaded_is_said(self, monkeypatch, tmp_path):
        def refuse(self):
            raise ConnectionError("no network")

        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
        with pytest.raises(InvalidInputError, match="could not be loaded: ConnectionError"):
            load_text("snli", data_dir=str(tmp_path))

    def test_what_is_missing_is_not_the_networks_fault(self, monkeypatch):
        def refuse(*_, **__):
            raise RuntimeError("Failed to construct dataset") from ModuleNotFoundError(
                "No module named 'importlib_resources'", name="importlib_resources"
            )

        monkeypatch.setattr(tfds, "builder", refuse)
        for name in ("snli", "glue/sst2"):
            with pytest.raises(InvalidInputError, match="pip install importlib_resources") as found:
                load_text(name)
            assert "network" not in str(found.value)

    def test_a_folder_may_have_the_name_of_a_set(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "glue").mkdir()
        assert len(self.load(monkeypatch, "glue/sst2").x_train) > 0
        for name in ("glue/train.txt", "glue/../sst2", "glue/one/two"):
            with pytest.raises(InvalidInputError, match=f"no .*file or folder '{name}'"):
                load_text(name)


class TestPreparedSets:
    """Sets that TFDS reads from their files, without code of their own."""

    @pytest.fixture
    def prepare(self, tmp_path):
        """Makes a set called `mine`, and its folder of sets."""
        pytest.importorskip("importlib_resources", reason="TFDS needs it, and does not require it")

        def make(split, **values):
            features = {
                key: np.int64 if isinstance(value[0], int) else tfds.features.Text()
                for key, value in values.items()
            }
            tfds.dataset_builders.store_as_tfds_dataset(
                name="mine",
                version="1.0.0",
                data_dir=tmp_path,
                features=tfds.features.FeaturesDict(features),
                split_datasets={split: tf.data.Dataset.from_tensor_slices(values)},
            )
            return {"data_dir": str(tmp_path)}

        return make

    def test_several_texts(self, prepare):
        numbers = range(40)
        folder = prepare(
            "train",
            first=[f"a {i}" for i in numbers],
            second=[f"b {i}" for i in numbers],
            label=[i % 2 for i in numbers],
        )
        with pytest.raises(
            InvalidInputError, match=r"several texts: first, second.*`text_feature`"
        ):
            load_text("mine", **folder)
        for name in ("mine", "mine:1.0.0", "mine:1.*.*"):
            loaded = load_text(name, text_feature="second", labels=True, **folder)
            assert all(text.startswith("b ") for text in texts(loaded, loaded.x_train))
            # Periodic labels are held out in equal shares.
            assert [np.bincount(y).tolist() for y in (loaded.y_valid, loaded.y_test)] == [
                [1, 1]
            ] * 2
            assert "texts of 'second', not of first" in loaded.report_sentence

    def test_labels_that_are_texts_and_no_training_sentences(self, prepare):
        folder = prepare("test", review=["the cat"] * 3, label=["pos"] * 3)
        with pytest.raises(InvalidInputError, match="labels that are not whole numbers"):
            load_text("mine", labels=True, **folder)
        with pytest.raises(
            InvalidInputError, match=r"no split 'train' to learn from\. It has test"
        ):
            load_text("mine", **folder)

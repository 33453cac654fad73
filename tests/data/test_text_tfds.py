"""Sentences of TensorFlow Datasets."""

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
            monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
            return load_text(name, **more)

    def test_pairs_give_their_premises_once(self, monkeypatch):
        premises = ["a man sits", "a man sits", "a dog runs", "a man sits"]
        examples = {"premise": premises, "hypothesis": ["x"] * 4, "label": [0, 1, -1, 2]}
        loaded = self.load(monkeypatch, "snli", examples=examples)
        assert texts(loaded, loaded.x_train) == ["a man sits", "a dog runs"]
        assert loaded.report["train"]["duplicate"] == 2
        assert loaded.report["train"]["read"] == 4
        assert "Repetitions left out: train 2, valid 2, test 2" in loaded.report_sentence
        with pytest.raises(InvalidInputError, match="a label for each pair"):
            self.load(monkeypatch, "snli", labels=True)

    def test_text_and_labels(self, monkeypatch):
        examples = {"text": [f"the {i}\n\nend" for i in range(40)], "label": list(range(40))}
        loaded = self.load(monkeypatch, "imdb_reviews", ("train", "test"), examples, labels=True)
        assert loaded.y_valid.tolist() == [9, 19, 29, 39]
        assert texts(loaded, loaded.x_train)[:2] == ["the 0 end", "the 1 end"]
        assert len(loaded.x_train) == 36
        assert loaded.y_test.tolist() == list(range(40))

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
            ("lm1b", {"splits": ("test",)}, "no split 'train'. It has test"),
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

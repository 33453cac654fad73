"""Splits, for anomaly detection and for choices: nothing is on both sides, nothing is lost."""

import numpy as np
import pytest
from PIL import Image

import tfebm
from tfebm.data import ImageData, hold_out_class, load_normal_and_test, validation_split


def numbered(count, labels):
    """Images whose pixels say which one they are."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    first = count - count // 3
    return ImageData("some", images[:first], images[first:], labels[:first], labels[first:])


def ids(images):
    return images[:, 0, 0, 0].tolist()


def test_a_class_is_held_out_and_the_rest_is_shared_by_one_split():
    labels = np.arange(100) % 5
    split = hold_out_class(numbered(100, labels), label=3, seed=1)
    train, test = ids(split.images.x_train), ids(split.images.x_test)
    assert sorted(train + test) == list(range(100))
    assert len(train) == 64  # 80 percent of 80
    np.testing.assert_array_equal(split.images.y_train, labels[train])
    np.testing.assert_array_equal(split.images.y_test, labels[test])
    np.testing.assert_array_equal(split.is_anomaly, labels[test] == 3)
    assert split.is_anomaly.sum() == 20
    assert 3 not in split.images.y_train
    assert split.names == [f"some:{row}" for row in test]


def test_the_seed_chooses_the_split():
    data = numbered(100, np.arange(100) % 5)
    found = [ids(hold_out_class(data, label=3, seed=seed).images.x_train) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert len(hold_out_class(data, label=3, train_share=0.5).images.x_train) == 40


@pytest.mark.parametrize(
    ("labels", "label", "share", "message"),
    [
        (np.arange(12) % 3, 7, 0.8, "some has 0, 1, 2. Received 7"),
        (np.zeros(12, int), 0, 0.8, "one of several"),
        (np.arange(12) % 3, 1, 1.0, "Received 1.0 of 8"),
    ],
)
def test_what_cannot_be_held_out(labels, label, share, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        hold_out_class(numbered(12, labels), label=label, train_share=share)


def test_validation_images_come_from_the_training_set_alone():
    data = numbered(30, np.arange(30) % 5)  # 0 to 19 are for training
    split = validation_split(data, num_examples=6)
    train, validation = ids(split.x_train), ids(split.x_test)
    assert (len(train), len(validation)) == (14, 6)
    assert sorted(train + validation) == list(range(20))
    assert sorted(train) == train
    np.testing.assert_array_equal(split.y_train, np.array(train) % 5)
    np.testing.assert_array_equal(split.y_test, np.array(validation) % 5)
    assert ids(validation_split(data, num_examples=6).x_test) == validation
    assert ids(validation_split(data, num_examples=6, seed=1).x_test) != validation
    without = validation_split(ImageData("plain", data.x_train, data.x_test), num_examples=6)
    assert without.y_train is None
    assert without.y_test is None


@pytest.mark.parametrize("count", [20, 21])
def test_validation_leaves_images_to_learn_from(count):
    data = numbered(30, np.arange(30) % 5)
    with pytest.raises(tfebm.InvalidInputError, match=f"Received {count} of the 20 training"):
        validation_split(data, num_examples=count)
    with pytest.raises(tfebm.InvalidInputError, match="num_examples"):
        validation_split(data, num_examples=0)


def test_floats_and_bytes_become_one_kind():
    x = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8)
    floats = x[:8].astype(np.float32) / 127.5 - 1
    data = ImageData("some", floats, x[8:], np.arange(8) % 3, np.arange(4) % 3)
    split = hold_out_class(data, label=1).images
    assert split.x_train.dtype == split.x_test.dtype == np.float32
    both = np.concatenate([split.x_train, split.x_test])
    assert both.min() >= -1
    assert both.max() <= 1


def test_labels_of_one_part_alone():
    data = numbered(12, np.arange(12) % 3)
    half = ImageData("half", data.x_train, data.x_test, data.y_train)
    with pytest.raises(tfebm.InvalidInputError, match="half has no y_test, and one label"):
        hold_out_class(half, label=1)


def test_images_without_labels():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    with pytest.raises(tfebm.InvalidInputError, match="plain has no labels"):
        hold_out_class(ImageData("plain", images, images[:0]), label=1)


class TestFolders:
    def write(self, folder, names, value, size=(4, 4)):
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(size, value, np.uint8)).save(path)

    def test_files_of_both_with_the_names_of_those_to_be_judged(self, tmp_path):
        self.write(tmp_path / "good", ["b.png", "a.png"], 10)
        self.write(tmp_path / "new", ["deep/er.png", "c.png", "x.png"], 200)
        data = load_normal_and_test(str(tmp_path / "good"), str(tmp_path / "new"))
        assert ids(data.images.x_train) == [10, 10]
        assert ids(data.images.x_test) == [200] * 3
        assert data.names == ["c.png", "deep/er.png", "x.png"]
        assert data.is_anomaly is None
        assert data.images.name == "new"

    def test_sizes(self, tmp_path):
        self.write(tmp_path / "good", ["a.png"], 10)
        self.write(tmp_path / "new", ["b.png"], 10, size=(6, 8))
        folders = str(tmp_path / "good"), str(tmp_path / "new")
        with pytest.raises(tfebm.InvalidInputError, match="one size"):
            load_normal_and_test(*folders)
        assert load_normal_and_test(*folders, image_size=5).images.x_test.shape == (1, 5, 5, 1)
        self.write(tmp_path / "good", ["a.png"], 10, size=(6, 8))
        with pytest.raises(tfebm.InvalidInputError, match=r"square\. Received 6 x 8"):
            load_normal_and_test(*folders)

    def test_folders_within_each_other(self, tmp_path):
        self.write(tmp_path / "good", ["a.png"], 10)
        good, both = str(tmp_path / "good"), str(tmp_path)
        for folders in ((good, good), (good, both), (both, good)):
            with pytest.raises(tfebm.InvalidInputError, match="must lie apart"):
                load_normal_and_test(*folders)

    def test_a_folder_without_images(self, tmp_path):
        self.write(tmp_path / "good", ["a.png"], 10)
        with pytest.raises(tfebm.InvalidInputError, match="new holds no images"):
            load_normal_and_test(str(tmp_path / "good"), str(tmp_path / "new"))

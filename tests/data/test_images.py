import gzip
import hashlib
import importlib.util
import os
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tfebm import InvalidInputError
from tfebm.data import load_images, pixels, steps_per_epoch, to_float, training_batches


def grey(num, size=28, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, size, size), dtype=np.uint8)


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def digits():
    return load_images("mnist5k")


def test_mnist5k_is_real_stratified_and_disjoint(digits):
    assert digits.x_train.shape == (4500, 28, 28, 1)
    assert digits.x_test.shape == (500, 28, 28, 1)
    assert digits.x_train.dtype == np.uint8
    assert np.bincount(digits.y_train).tolist() == [450] * 10
    assert np.bincount(digits.y_test).tolist() == [50] * 10
    train = {image.tobytes() for image in digits.x_train}
    assert not any(image.tobytes() in train for image in digits.x_test)
    assert 0.05 < digits.x_train.mean() / 255 < 0.2  # white strokes on black


def test_mnist5k_split_is_fixed(digits):
    # Any other split has another digest.
    digest = hashlib.sha256(digits.x_test.tobytes()).hexdigest()
    assert digest == "d0c3b56aa468f2b17878bca7ee277d54aef7296be0dd48be1a32bac1b5214195"


@pytest.mark.parametrize("labels", [np.arange(7), np.zeros((8, 2), int)])
def test_labels_are_one_for_each_image(tmp_path, labels):
    x = np.zeros((8, 4, 4), np.uint8)
    path = save(tmp_path / "a.npz", x_train=x, x_test=x, y_train=labels, y_test=np.arange(8))
    with pytest.raises(InvalidInputError, match="a: y_train: there must be one label"):
        load_images(path)
    path = save(tmp_path / "b.npz", x_train=x, x_test=x, y_train=np.arange(8)[:, None])
    assert load_images(path).y_train.tolist() == list(range(8))


def test_npz_with_and_without_channels_and_labels(tmp_path):
    x = grey(12)
    path = save(tmp_path / "a.npz", x_train=x[:8], x_test=x[8:, ..., None], y_train=np.arange(8))
    data = load_images(path)
    assert data.image_shape == (28, 28, 1)
    np.testing.assert_array_equal(data.x_train[..., 0], x[:8])
    assert data.y_train.tolist() == list(range(8))
    assert data.y_test is None


def test_npz_of_wider_integers_and_of_floats(tmp_path):
    x = grey(4)
    wide = load_images(save(tmp_path / "i.npz", x_train=x.astype(np.int64), x_test=x))
    assert wide.x_train.dtype == np.uint8
    floats = x.astype(np.float64) / 127.5 - 1
    data = load_images(save(tmp_path / "f.npz", x_train=floats, x_test=floats))
    assert data.x_train.dtype == np.float32
    np.testing.assert_allclose(to_float(data.x_train), to_float(wide.x_train), atol=1e-6)


def test_what_is_transparent_throughout_is_said(tmp_path):
    clear = np.stack([grey(6)] * 3 + [np.zeros((6, 28, 28), np.uint8)], axis=-1)
    seen = np.where(np.arange(4) == 3, np.uint8(255), clear)
    path = save(tmp_path / "a.npz", x_train=seen, x_test=clear)
    assert load_images(path).report_sentence.endswith("; every pixel to test is alike: 255 255 255")
    for part, images in (("train", clear), ("test", seen)):
        (tmp_path / part).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / part / f"{i}.png")
    sentence = load_images(str(tmp_path), background="#204060").report_sentence
    assert sentence.endswith("; every pixel to train on is alike: 32 64 96")


def test_remarks_on_values_are_in_the_report(tmp_path):
    path = save(tmp_path / "a.npz", x_train=grey(6), x_test=grey(2) % 9)
    sentence = load_images(path).report_sentence
    assert sentence.endswith("; x_test: no pixel is brighter than 8 of 255")


@pytest.mark.parametrize(
    ("x_train", "message"),
    [
        (np.zeros((3, 28), np.uint8), r"Received shape \[3, 28\]"),
        (np.zeros((3, 28, 28, 5), np.uint8), "1 or 3"),
        (np.zeros((3, 3, 28, 28), np.uint8), r"channels come first: save `numpy.moveaxis\(x, 1"),
        (np.zeros((28, 28, 3, 9), np.uint8), "images come last"),
        (np.zeros((28, 28, 40), np.uint8), r"of \[height, width, N\]"),
        (np.zeros((9, 784), np.uint8), r"x.reshape\(-1, 28, 28\)"),
        (np.full((3, 28, 28), 4095, np.uint16), r"\(x >> 4\).*12 bits"),
        (np.array([["a", "b"]]), "shape"),
        (np.full((3, 28, 28), "a"), "dtype <U1"),
        (np.zeros((0, 28, 28), np.uint8), "no training images"),
        (np.zeros((3, 28, 20), np.uint8), "must be square"),
        (np.full((3, 28, 28), 300), "0 to 255"),
        (np.full((3, 28, 28), -1), "0 to 255"),
        (np.zeros((3, 28, 28), bool), "bool"),
        (np.full((3, 28, 28), np.nan), "NaN"),
        (np.linspace(-1, 255, 3 * 784).reshape(3, 28, 28), r"within \[-1, 1\]"),
        (np.linspace(0, 1, 3 * 784).reshape(3, 28, 28), r"scaled to \[0, 1\]"),
        (np.zeros((3, 32, 32), np.uint8), "images of one shape"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, x_train, message):
    path = save(tmp_path / "a.npz", x_train=x_train, x_test=grey(2))
    with pytest.raises(InvalidInputError, match=message):
        load_images(path)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut off")
    np.savez_compressed(tmp_path / "bytes.npz", x_train=grey(9), x_test=grey(2))
    corrupt = bytearray((tmp_path / "bytes.npz").read_bytes())
    corrupt[200:400] = b"?" * 200
    (tmp_path / "bytes.npz").write_bytes(corrupt)
    np.save(tmp_path / "array.npy", grey(2))
    pickled = np.array([{"a": 1}], dtype=object)
    save(tmp_path / "objects.npz", x_train=pickled, x_test=pickled)
    save(tmp_path / "names.npz", images=grey(2))
    (tmp_path / "empty").mkdir()
    Image.fromarray(grey(1)[0]).save(tmp_path / "photo.jpg")
    (tmp_path / "photos.tar.gz").write_bytes(gzip.compress(b"of images"))
    with tarfile.open(tmp_path / "photos.tar", "w") as packed:
        packed.add(tmp_path / "photo.jpg", "photo.jpg")
    (tmp_path / "page.npz").write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")
    (tmp_path / "table.csv").write_text("id,label\n1,2\n")
    (tmp_path / "nothing.npz").write_bytes(b"")
    for name, message in {
        "text.npz": "cannot be read",
        "cut.npz": "cannot be read",
        "bytes.npz": "cannot be read",
        "array.npy": "a single array",
        "objects.npz": "objects.npz: x_train holds Python objects, which are not read",
        "photo.jpg": "it is an image, and not an archive of arrays. Give the folder",
        "photos.tar.gz": "a packed file.*unpack it and give",
        "photos.tar": "a packed file.*unpack it and give",
        "page.npz": "a web page",
        "table.csv": "it is a text",
        "nothing.npz": "an empty file",
        "names.npz": "It holds images",
        "missing.npz": "no file",
        "no/such/folder": "no file or folder",
        "empty": "holds no images",
    }.items():
        with pytest.raises(InvalidInputError, match=message) as caught:
            load_images(str(tmp_path / name))
        assert "trust" not in str(caught.value)
        assert "pickle" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_files_without_permission(tmp_path):
    path = save(tmp_path / "a.npz", x_train=grey(2), x_test=grey(2))
    os.chmod(path, 0)
    with pytest.raises(InvalidInputError, match="Permission denied"):
        load_images(path)


class TestFolder:
    def write(self, folder, num, size=(40, 30), mode="RGB"):
        folder.mkdir(parents=True)
        for i in range(num):
            pixels = np.full((size[1], size[0], 3), 10 * i, np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / f"{i:03d}.png")

    def test_a_tenth_is_drawn_alike_from_each_folder(self, tmp_path):
        self.write(tmp_path / "a" / "left", 20)
        self.write(tmp_path / "a" / "right", 20)
        data = load_images(str(tmp_path / "a"), image_size=32)
        assert data.x_train.shape == (36, 32, 32, 3)
        held = data.x_test[:, 0, 0, 0] // 10
        assert len(held) == 4
        assert held.tolist() != [9, 19, 9, 19]
        again = load_images(str(tmp_path / "a"), image_size=32)
        np.testing.assert_array_equal(again.x_test, data.x_test)
        sentence = "a: 36 to train on, 4 to test, 32 x 32 x 3; a tenth, drawn by a fixed seed, is"
        assert data.report_sentence.startswith(sentence)

    def test_subfolders_are_the_splits(self, tmp_path):
        self.write(tmp_path / "train" / "deeper", 3, size=(28, 28), mode="L")
        self.write(tmp_path / "test", 2, size=(28, 28), mode="L")
        data = load_images(str(tmp_path))
        assert data.x_train.shape == (3, 28, 28, 1)
        assert data.x_test.shape == (2, 28, 28, 1)

    def test_several_sizes_need_an_image_size(self, tmp_path):
        self.write(tmp_path / "a", 2)
        self.write(tmp_path / "a" / "b", 2, size=(50, 50))
        with pytest.raises(InvalidInputError, match="2 sizes"):
            load_images(str(tmp_path / "a"))
        assert load_images(str(tmp_path / "a"), image_size=28).image_shape == (28, 28, 3)

    def test_sixteen_bits_are_scaled_and_floats_refused(self, tmp_path):
        (tmp_path / "a").mkdir()
        pixels = np.full((28, 28), 128 * 256, np.uint16)
        Image.fromarray(pixels).save(tmp_path / "a" / "deep.png")
        data = load_images(str(tmp_path / "a"))
        assert data.image_shape == (28, 28, 1)
        assert np.all(data.x_train == 128)
        (tmp_path / "b").mkdir()
        # A TIFF by content; what a file is called does not decide what it is.
        Image.fromarray(np.zeros((28, 28), np.float32)).save(tmp_path / "b" / "x.png", "TIFF")
        with pytest.raises(InvalidInputError, match="mode F"):
            load_images(str(tmp_path / "b"))

    def test_a_broken_image_is_named(self, tmp_path):
        self.write(tmp_path / "a", 2)
        (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG")
        with pytest.raises(InvalidInputError, match=r"broken\.png cannot be read"):
            load_images(str(tmp_path / "a"), image_size=28)


def test_resizing_cuts_out_the_middle(tmp_path):
    image = np.zeros((1, 40, 60, 3), np.uint8)
    image[:, :, 10:50] = 200  # the largest centred square
    resized = pixels.resize(image, 20)
    assert resized.shape == (1, 20, 20, 3)
    assert resized.min() == resized.max() == 200
    same = grey(2, 28)[..., None]
    assert pixels.resize(same, 28) is same


def test_unknown_names_get_near_matches():
    with pytest.raises(InvalidInputError, match="Did you mean 'mnist5k'"):
        load_images("mnist5")
    with pytest.raises(InvalidInputError, match="svhn_cropped"):
        load_images("svhn_croped")


def store(folder, name):
    """A prepared set of 30 examples, as TensorFlow Datasets itself writes it."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
    image = tfds.features.Image(shape=(8, 8, 1))
    words = np.array(["cat", "dog", "owl"] * 10)
    kinds = {
        "texts": {"image": (image, x), "label": (tfds.features.Text(), words)},
        "fractions": {"image": (image, x), "label": (np.float32, np.arange(30) / 7)},
        "odd": {"image": (image, x)},
        "two": {"left": (image, x), "right": (image, x)},
        "deep": {
            "image": (
                tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16),
                x.astype(np.uint16) * 257,
            )
        },
        "unit": {
            "image": (
                tfds.features.Tensor(shape=(8, 8, 1), dtype=np.float32),
                (x / 255).astype(np.float32),
            )
        },
        "clear": {
            "picture": (tfds.features.Image(shape=(8, 8, 4)), np.zeros((30, 8, 8, 4), np.uint8))
        },
    }
    splits = {"texts": ["Training"], "odd": ["a", "b"]}.get(name, ["train"])
    values = tf.data.Dataset.from_tensor_slices({k: v for k, (_, v) in kinds[name].items()})
    tfds.dataset_builders.store_as_tfds_dataset(
        name,
        "1.0.0",
        features=tfds.features.FeaturesDict({k: f for k, (f, _) in kinds[name].items()}),
        split_datasets=dict.fromkeys(splits, values),
        data_dir=str(folder),
        disable_shuffling=True,
    )


@pytest.mark.skipif(
    importlib.util.find_spec("importlib_resources") is None, reason="TFDS cannot prepare a set"
)
class TestPreparedSets:
    """Sets that are written and read by TensorFlow Datasets itself.

    Before the tests with its stand-in, which leaves it unable to find prepared sets.
    """

    def load(self, name, tmp_path, **how):
        if not (tmp_path / name).exists():
            store(tmp_path, name)
        return load_images(name, data_dir=str(tmp_path), **how)

    def test_words_as_labels_and_a_split_of_another_name(self, tmp_path):
        data = self.load("texts", tmp_path)
        assert (len(data.x_train), len(data.x_test)) == (27, 3)
        assert np.bincount(data.y_test).tolist() == [1, 1, 1]
        assert "its split 'Training'" in data.report_sentence
        assert self.load("fractions", tmp_path).y_train is None

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("odd", "no split to train on; it has a, b"),
            ("two", "several, left, right"),
            ("deep", r"within 0 to 255.*\(x >> 8\).*16 bits"),
            ("unit", r"scaled to \[0, 1\]"),
        ],
    )
    def test_what_cannot_be_used(self, tmp_path, name, message):
        # Judged before they are resized, which would make 8 bits of anything.
        with pytest.raises(InvalidInputError, match=message):
            self.load(name, tmp_path, image_size=4)

    def test_transparent_pixels_are_white(self, tmp_path):
        data = self.load("clear", tmp_path)
        assert data.image_shape == (8, 8, 3)
        assert np.all(data.x_train == 255)
        assert np.all(self.load("clear", tmp_path, background="black").x_train == 0)


def prepared(builder):
    """What a download leaves in the builder: the names of its splits."""
    split_info = tfds.core.SplitInfo
    names = ("train", "validation", "test")
    splits = [split_info(name=name, shard_lengths=[6], num_bytes=0) for name in names]
    builder.info.set_splits(tfds.core.SplitDict(splits))


class TestTensorFlowDatasets:
    """The real loading code, on TFDS' own stand-in for downloaded files."""

    @pytest.mark.parametrize(
        ("name", "shape", "size"),
        [
            ("mnist", (28, 28, 1), None),
            ("svhn_cropped", (32, 32, 3), None),
            ("cifar10", (32, 32, 3), None),
            ("celeb_a", (64, 64, 3), 64),
        ],
    )
    def test_sets_of_the_paper(self, name, shape, size, monkeypatch):
        with tfds.testing.mock_data(num_examples=6), monkeypatch.context() as patch:
            # Undone before TFDS undoes its own.
            patch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepared)
            data = load_images(name, image_size=size)
        assert data.image_shape == shape
        assert len(data.x_train) == len(data.x_test) == 6
        assert data.x_train.dtype == np.uint8

    def test_what_cannot_be_downloaded_is_said(self, monkeypatch, tmp_path):
        def refuse(self):
            raise ConnectionError("no network")

        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
        with pytest.raises(InvalidInputError, match="could not be loaded: ConnectionError"):
            load_images("mnist", data_dir=str(tmp_path))

    def test_a_package_that_is_missing_is_named(self, monkeypatch, tmp_path):
        def refuse(self):
            raise RuntimeError("while reading") from ModuleNotFoundError(
                "No module named 'importlib_resources'", name="importlib_resources"
            )

        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
        with pytest.raises(InvalidInputError, match="pip install importlib_resources") as caught:
            load_images("mnist", data_dir=str(tmp_path))
        assert "network" not in str(caught.value)

    def test_versions_configurations_and_near_misses(self, monkeypatch):
        with tfds.testing.mock_data(num_examples=6), monkeypatch.context() as patch:
            patch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepared)
            data = load_images("mnist:3.0.1")
            assert data.report_sentence == "mnist:3.0.1: 6 to train on, 6 to test, 28 x 28 x 1"
            assert load_images("imagenet_resized/32x32").image_shape == (32, 32, 3)
        with pytest.raises(
            InvalidInputError, match=r"no file or folder .mnits/x.*Did you mean .mni"
        ):
            load_images("mnits/x")


class TestBatches:
    def epoch(self, images, first_step=0, count=4, batch_size=4, seed=0):
        batches = training_batches(images, seed=seed, batch_size=batch_size, first_step=first_step)
        return [batch.numpy() for batch in batches.take(count)]

    def images(self, num=10):
        return np.arange(num, dtype=np.uint8).reshape(num, 1, 1, 1)

    def test_every_epoch_is_another_permutation(self):
        batches = self.epoch(self.images(), count=6)
        assert [len(batch) for batch in batches] == [4, 4, 2] * 2
        orders = np.rint((np.concatenate(batches).ravel() + 1) * 127.5).reshape(2, 10)
        assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
        assert orders[0].tolist() != orders[1].tolist()

    @pytest.mark.parametrize("first_step", [1, 3, 5])
    def test_a_later_start_sees_the_same_batches(self, first_step):
        whole = self.epoch(self.images(), count=8)
        for batch, expected in zip(
            self.epoch(self.images(), first_step, 8 - first_step), whole[first_step:], strict=True
        ):
            np.testing.assert_array_equal(batch, expected)

    def test_the_seed_decides_the_order(self):
        one, other = (self.epoch(self.images(), seed=s)[0].tolist() for s in (0, 1))
        assert one != other

    def test_pixels_become_floats_in_the_unit_range(self):
        x = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
        assert to_float(x).numpy().ravel().tolist() == [-1.0, 1.0]
        assert steps_per_epoch(10, 4) == 3

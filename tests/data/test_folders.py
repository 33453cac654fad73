"""Folders of image files: what belongs to a set, what is for what, and what is said of it."""

import os

import numpy as np
import pytest
from PIL import Image

from tfebm import InvalidInputError
from tfebm.data import load_images, load_normal_and_test, load_text, validation_split


def write(folder, *names, value=None, size=(8, 8), kind=None):
    """Noise, or one value; of any suffix."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(str(name).encode()[-8:], "little")
        noise = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        pixels = noise if value is None else np.full(size, value, np.uint8)
        Image.fromarray(pixels).save(
            path, kind or Image.registered_extensions()[path.suffix.lower()]
        )


def numbered(count, suffix=".png", start=0):
    return [f"{i}{suffix}" for i in range(start, start + count)]


def values(images):
    return sorted({int(value) for value in images.ravel()})


def test_every_kind_in_any_case_is_read_and_the_others_are_counted(tmp_path):
    names = ["a.png", "b.JPG", "c.jpeg", "d.Gif", "e.webp", "f.bmp", "g.tif", "h.TIFF"]
    write(tmp_path / "ph", *names)
    write(tmp_path / "ph", "jpeg.png", kind="JPEG")
    for name in ("x.heic", "y.heic", "z.txt", "README", ".hidden.png", "._a.png"):
        (tmp_path / "ph" / name).write_bytes(b"\0\5\x16\7")
    data = load_images(str(tmp_path / "ph"))
    assert len(data.x_train) + len(data.x_test) == 9
    sentence = "skipped 2 .heic, 2 hidden files, 1 .txt, 1 file without a suffix"
    assert data.report_sentence.endswith(sentence)


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Training", "TESTING"), ("deep/Train", "deep/Test")]
)
def test_folders_say_what_is_for_what_whatever_their_files_are(tmp_path, train, test):
    write(tmp_path / train, *numbered(6, ".tif"), value=50)
    write(tmp_path / test / "deeper", *numbered(3), value=99)
    data = load_images(str(tmp_path))
    assert (len(data.x_train), values(data.x_train)) == (6, [50])
    assert (len(data.x_test), values(data.x_test)) == (3, [99])
    assert "6 to train on, 3 to test, 8 x 8 x 1" in data.report_sentence


def test_each_class_may_have_its_parts(tmp_path):
    for kind in ("cats", "dogs"):
        write(tmp_path / kind / "train", *numbered(4), value=50)
        write(tmp_path / kind / "test", *numbered(2), value=99)
    data = load_images(str(tmp_path))
    assert (len(data.x_train), len(data.x_test)) == (8, 4)
    assert values(data.x_train) == [50]


@pytest.mark.parametrize("name", ["val", "Valid", "VALIDATION", "dev"])
def test_validation_is_the_test_where_there_is_none_and_is_left_out_else(tmp_path, name):
    write(tmp_path / "train", *numbered(5), value=50)
    write(tmp_path / name, *numbered(4), value=70)
    data = load_images(str(tmp_path))
    assert (values(data.x_train), values(data.x_test)) == ([50], [70])
    assert "the test images are those of validation" in data.report_sentence
    write(tmp_path / "test", *numbered(3), value=99)
    data = load_images(str(tmp_path))
    assert (values(data.x_train), values(data.x_test)) == ([50], [99])
    assert "4 of validation left out" in data.report_sentence


def test_what_lies_beside_its_parts(tmp_path):
    write(tmp_path, *numbered(5), value=50)
    write(tmp_path / "test", *numbered(3), value=99)
    data = load_images(str(tmp_path))
    assert (len(data.x_train), values(data.x_train), values(data.x_test)) == (5, [50], [99])
    write(tmp_path / "train", *numbered(2), value=60)
    data = load_images(str(tmp_path))
    assert values(data.x_train) == [60]
    assert "5 outside of its training and test folders left out" in data.report_sentence
    write(tmp_path / "only" / "test", *numbered(2))
    with pytest.raises(InvalidInputError, match="no training images: all 2 lie in folders named"):
        load_images(str(tmp_path / "only"))


def test_links_are_followed_once(tmp_path):
    write(tmp_path / "far", *numbered(3), value=70)
    write(tmp_path / "set" / "train", *numbered(4), value=50)
    write(tmp_path / "set" / "test", *numbered(2), value=99)
    inside = tmp_path / "set" / "train"
    (inside / "one").symlink_to(tmp_path / "far")
    (inside / "two").symlink_to(tmp_path / "far")
    (inside / "loop").symlink_to(tmp_path / "set")
    (inside / "held").symlink_to(tmp_path / "set" / "test")  # must not be learned
    (inside / "again.png").symlink_to(inside / "0.png")
    (inside / "lost.png").symlink_to(tmp_path / "nothing.png")
    data = load_images(str(tmp_path / "set"))
    assert (len(data.x_train), values(data.x_train)) == (7, [50, 70])
    assert values(data.x_test) == [99]
    assert "2 in training and held out, by links, are not learned" in data.report_sentence
    assert "skipped 3 repeated links, 1 broken link" in data.report_sentence


def link(folder, *paths):
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (folder / path.name).symlink_to(path)


@pytest.mark.parametrize("whole_folders", [True, False])
def test_parts_made_of_links_are_kept_apart(tmp_path, whole_folders):
    for part, value in (("a", 50), ("b", 99)):
        write(tmp_path / "set" / "pool" / part, *numbered(6), value=value)
    write(tmp_path / "set" / "pool", *numbered(3), value=7)
    pool, parts = tmp_path / "set" / "pool", (("Train", "a"), ("test", "b"))
    for split, part in parts:
        if whole_folders:
            (tmp_path / "set" / split).symlink_to(pool / part)
        else:
            link(tmp_path / "set" / split, *(pool / part / name for name in numbered(6)))
    data = load_images(str(tmp_path / "set"))
    assert (len(data.x_train), values(data.x_train)) == (6, [50])
    assert (len(data.x_test), values(data.x_test)) == (6, [99])
    assert "3 outside of its training and test folders left out" in data.report_sentence


def test_what_is_linked_into_test_alone_is_not_learned(tmp_path):
    write(tmp_path / "pool", *numbered(9), value=50)
    write(tmp_path / "pool", "held.png", value=99)
    link(tmp_path / "dev", tmp_path / "pool" / "held.png")
    data = load_images(str(tmp_path))
    assert (values(data.x_train), values(data.x_test)) == ([50], [99])


@pytest.mark.parametrize("connect", [os.link, os.symlink])
@pytest.mark.parametrize("held", ["test", "val", "deep/TESTING"])
def test_what_is_in_both_parts_is_not_learned(tmp_path, connect, held):
    write(tmp_path / "train", *numbered(5), value=50)
    write(tmp_path / "train", "both.png", value=99)
    (tmp_path / held).mkdir(parents=True)
    connect(tmp_path / "train" / "both.png", tmp_path / held / "other.png")
    data = load_images(str(tmp_path))
    assert (len(data.x_train), values(data.x_train), values(data.x_test)) == (5, [50], [99])
    assert "1 in training and held out, by links, are not learned" in data.report_sentence


def test_hard_links_within_one_part_are_files_of_their_own(tmp_path):
    write(tmp_path, *numbered(9))
    os.link(tmp_path / "0.png", tmp_path / "again.png")
    data = load_images(str(tmp_path))
    assert len(data.x_train) + len(data.x_test) == 10


def test_parts_that_are_one_are_refused(tmp_path):
    write(tmp_path / "out", *numbered(6))
    for part in ("train", "test"):
        link(tmp_path / "set" / part, *(tmp_path / "out" / name for name in numbered(6)))
    with pytest.raises(InvalidInputError, match="the 6 in its training folder are held out too"):
        load_images(str(tmp_path / "set"))


def test_links_that_lead_nowhere_are_counted(tmp_path):
    write(tmp_path, *numbered(10))
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "one.png").symlink_to("other.png")
    (tmp_path / "other.png").symlink_to("one.png")
    data = load_images(str(tmp_path))
    assert len(data.x_train) + len(data.x_test) == 10
    assert "skipped 3 broken links, 1 file without a suffix" in data.report_sentence


def test_folders_named_almost_as_parts_are_said(tmp_path):
    write(tmp_path / "train_images", *numbered(6))
    write(tmp_path / "Test Set", *numbered(6))
    write(tmp_path / "latest", *numbered(2))
    sentence = load_images(str(tmp_path)).report_sentence
    assert "; Test Set, train_images: not named train, test or validation, and so not" in sentence
    assert "latest" not in sentence


def test_where_nothing_can_be_held_out_that_is_said(tmp_path):
    write(tmp_path, *numbered(9))
    sentence = load_images(str(tmp_path)).report_sentence
    assert "9 to train on, 0 to test" in sentence
    assert "no test images: a tenth would be held out of 10 or more" in sentence
    write(tmp_path, "10.png")
    assert "a tenth, drawn by a fixed seed" in load_images(str(tmp_path)).report_sentence


def test_hidden_checkpoint_and_run_folders_are_left_out(tmp_path):
    write(tmp_path, *numbered(12))
    folders = (".ipynb_checkpoints", "checkpoints", "__MACOSX", ".git", "runs/a", "runs/b/worse")
    for name in folders:
        write(tmp_path / name, "0.png")
    record = '{"program": "x", "tfebm": "0.1", "settings": {}}'
    (tmp_path / "runs" / "a" / "config.json").write_text(record)
    (tmp_path / "runs" / "b" / "config.json").write_text('{"a dataset": "of others"}')
    data = load_images(str(tmp_path))
    assert len(data.x_train) + len(data.x_test) == 13
    sentence = "skipped 2 checkpoint folders, 2 hidden folders, 1 .json, 1 run folder"
    assert data.report_sentence.endswith(sentence)
    with pytest.raises(InvalidInputError, match="holds a run"):
        load_images(str(tmp_path / "runs" / "a"))


def test_names_need_not_be_utf_8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for i in range(3):
        Image.new("L", (8, 8), 40 * i).save(f"{os.fsdecode(folder)}/{i}.png")
    open(folder + b"/\xff.\xfe", "wb").close()
    data = load_images(os.fsdecode(folder))
    assert data.report_sentence.encode().startswith(b"caf\\udce9: 3 to train on")
    open(folder + b"/\xff.png", "wb").close()
    with pytest.raises(
        InvalidInputError, match=r"caf\\udce9/\\udcff\.png cannot be read: it is em"
    ):
        load_images(os.fsdecode(folder))


def test_damaged_files_are_listed(tmp_path):
    write(tmp_path, *numbered(6, start=8))
    for name in numbered(8):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\njunk")
    with pytest.raises(InvalidInputError, match="8 of 14 images cannot be read") as caught:
        load_images(str(tmp_path))
    assert str(caught.value).count(".png: it is not an image") == 5
    assert str(caught.value).endswith("; and 3 more.")


def test_grey_and_colour_files(tmp_path):
    write(tmp_path, *numbered(3))
    for i in range(3):
        Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / f"c{i}.png")
    data = load_images(str(tmp_path))
    assert data.image_shape == (8, 8, 3)
    assert sum(np.ptp(image, axis=-1).max() == 0 for image in data.x_train) == 3
    grey = load_images(str(tmp_path), channels=1)
    assert grey.image_shape == (8, 8, 1)
    assert 124 in values(grey.x_train)


def test_masks_are_refused_and_dark_sets_are_noted(tmp_path):
    for i in range(3):
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 2).save(tmp_path / f"{i}.png")
    with pytest.raises(InvalidInputError, match="only 0 and 1, as in a mask"):
        load_images(str(tmp_path))
    write(tmp_path, "3.png", value=12)
    assert "no pixel is brighter than 12 of 255" in load_images(str(tmp_path)).report_sentence


def test_validation_is_said(tmp_path):
    write(tmp_path, *numbered(20))
    sentence = validation_split(load_images(str(tmp_path)), num_examples=5).report_sentence
    assert (
        "13 to train on, 5 to validate with, 8 x 8 x 1; the 2 images to test left out" in sentence
    )


class TestNormalAndTest:
    def test_folders_of_defects_are_labels(self, tmp_path):
        write(tmp_path / "train" / "good", *numbered(6))
        write(tmp_path / "test" / "Good", *numbered(2))
        write(tmp_path / "test" / "hole", *numbered(3))
        write(tmp_path / "ground_truth" / "hole", *numbered(3))
        data = load_normal_and_test(str(tmp_path / "train"), str(tmp_path / "test"))
        assert data.names == ["Good/0.png", "Good/1.png", *(f"hole/{i}.png" for i in range(3))]
        assert data.is_anomaly.tolist() == [False, False, True, True, True]
        sentence = "test: 6 normal to train on, 5 to test (3 of them anomalies), 8 x 8 x 1"
        assert data.report_sentence == sentence

    @pytest.mark.parametrize("names", [("good",), ("hole", "crack"), ("good", "hole", ".")])
    def test_what_is_not_known_stays_so(self, tmp_path, names):
        write(tmp_path / "normal", *numbered(3))
        for name in names:
            write(tmp_path / "test" / name, *numbered(2))
        data = load_normal_and_test(str(tmp_path / "normal"), str(tmp_path / "test"))
        assert data.is_anomaly is None

    def test_damaged_files_are_left_out_of_what_is_judged(self, tmp_path):
        write(tmp_path / "good", *numbered(3))
        write(tmp_path / "new", "a.tif", "c.gif")
        (tmp_path / "new" / "b.png").write_bytes(b"junk")
        folders = str(tmp_path / "good"), str(tmp_path / "new")
        data = load_normal_and_test(*folders)
        assert data.names == ["a.tif", "c.gif"]
        assert len(data.images.x_test) == 2
        assert data.report_sentence.endswith("test: skipped 1 damaged file: b.png")
        (tmp_path / "good" / "d.png").write_bytes(b"junk")
        with pytest.raises(InvalidInputError, match=r"good/d\.png cannot be read"):
            load_normal_and_test(*folders)

    def test_nothing_that_is_judged_is_learned(self, tmp_path):
        write(tmp_path / "set" / "train", *numbered(3), value=50)
        write(tmp_path / "set" / "test", *numbered(3), value=99)
        write(tmp_path / "new", *numbered(2))
        data = load_normal_and_test(str(tmp_path / "set"), str(tmp_path / "new"))
        assert values(data.images.x_train) == [50]
        assert "normal: 3 outside of its training folder left out" in data.report_sentence
        (tmp_path / "good").mkdir()
        (tmp_path / "good" / "link").symlink_to(tmp_path / "new")
        with pytest.raises(InvalidInputError, match="2 images that are in both folders by links"):
            load_normal_and_test(str(tmp_path / "good"), str(tmp_path / "new"))

    def test_nothing_that_a_link_puts_into_both_parts_is_learned(self, tmp_path):
        write(tmp_path / "pool", *numbered(4), value=50)
        write(tmp_path / "pool", "4.png", value=99)
        for part, names in (("train", numbered(5)), ("test", ["4.png"])):
            link(tmp_path / "set" / part, *(tmp_path / "pool" / name for name in names))
        write(tmp_path / "new", *numbered(2))
        data = load_normal_and_test(str(tmp_path / "set"), str(tmp_path / "new"))
        assert (len(data.images.x_train), values(data.images.x_train)) == (4, [50])
        assert "normal: 1 in training and held out, by links, are not" in data.report_sentence
        link(tmp_path / "set" / "test", *(tmp_path / "pool" / name for name in numbered(4)))
        with pytest.raises(InvalidInputError, match="the 5 in its training folder are held out"):
            load_normal_and_test(str(tmp_path / "set"), str(tmp_path / "new"))


def test_paths_that_lead_nowhere(tmp_path):
    lost = tmp_path / "lost.npz"
    lost.symlink_to("lost.npz")
    for path, message in (
        (str(lost), "is a link that leads to nothing"),
        ("x" * 300, "more characters than"),
    ):
        for load in (load_images, load_text, lambda p: load_normal_and_test(p, str(tmp_path))):
            with pytest.raises(InvalidInputError, match=message):
                load(path)

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageFont

from tfebm import pictures


def test_a_grid_goes_row_by_row():
    images = np.linspace(-1, 1, 5, dtype="float32")[:, None, None, None] * np.ones((5, 3, 4, 1))
    picture = pictures.grid(images, columns=3)
    assert picture.shape == (2 * 5 + 2, 3 * 6 + 2, 1)
    assert [picture[2, 2 + 6 * i, 0] for i in range(3)] == [0, 64, 128]
    assert [picture[7, 2 + 6 * i, 0] for i in range(2)] == [191, 255]
    assert np.all(picture[0] == 255)


def test_nan_is_drawn_black_and_values_are_clipped(tmp_path):
    images = np.array([np.nan, -7.0, 7.0]).reshape(3, 1, 1, 1) * np.ones((3, 2, 2, 3))
    picture = pictures.grid(images, columns=3)
    assert [picture[2, 2 + 4 * i, 0] for i in range(3)] == [0, 0, 255]
    pictures.save_grid(tmp_path / "a.png", images, 3)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "RGB"


def test_curves(tmp_path):
    epochs = [{"epoch": i, "metrics": {"a": i, "b": -i}} for i in range(3)]
    pictures.save_curves(
        tmp_path / "c.png", epochs, {"one": ("a", "b"), "two": ("b",), "x": ("a",)}
    )
    with Image.open(tmp_path / "c.png") as saved:
        assert saved.size[0] > 800


def test_a_single_row_is_no_banner(tmp_path):
    pictures.save_grid(tmp_path / "a.png", np.zeros((6, 28, 28, 1)), columns=10)
    with Image.open(tmp_path / "a.png") as saved:
        assert 600 < saved.size[0] <= 1600  # no room is kept for the four that are missing
        assert saved.size[1] < 400
    pictures.save_grid(tmp_path / "a.png", np.zeros((64, 28, 28, 1)), columns=8)
    with Image.open(tmp_path / "a.png") as saved:
        assert min(saved.size) > 400


@pytest.mark.parametrize(
    ("number", "height", "width", "channels"),
    [(1, 28, 28, 1), (11, 256, 256, 3), (3, 300, 2, 1), (3, 2, 300, 3), (40, 64, 48, 3)],
)
def test_captioned_images_have_a_size_to_look_at(tmp_path, number, height, width, channels):
    images = np.zeros((number, 2, height, width, channels))
    names = [f"photos/{i}.png\nscore {i}" for i in range(number)]
    pictures.save_captioned(tmp_path / "a.png", images, names, columns=5)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "RGB"
        assert 8 <= saved.size[0] <= 1600
        assert saved.size[1] <= -(-number // 5) * 650


def test_captions_can_be_read_and_are_cut_at_their_beginnings(tmp_path):
    images = np.full((2, 1, 28, 28, 1), -1.0)
    pictures.save_captioned(tmp_path / "a.png", images, ["x" * 300, "caf\udce9.png"], columns=5)
    with Image.open(tmp_path / "a.png") as saved:
        pixels = np.asarray(saved.convert("L"))
    below = pixels[-18:]
    assert below.min() < 100  # ink
    assert np.all(pixels[-2:, -2:] == 255)
    font = ImageFont.load_default(13)
    line = pictures._shortened("folder/" * 30 + "end.png", 200, font)
    assert line.startswith("...")
    assert line.endswith("end.png")
    assert font.getlength(line) <= 200


def test_curves_of_one_epoch_have_one_tick(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    for number in (1, 2):
        epochs = [{"epoch": i, "metrics": {"a": 708.9}} for i in range(number)]
        pictures.save_curves(tmp_path / "c.png", epochs, {"one": ("a",)})
        axis = figures[-1].axes[0]
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks == list(range(1, number + 1))
        assert axis.lines[0].get_marker() == "o"

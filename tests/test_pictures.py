import numpy as np
from PIL import Image

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

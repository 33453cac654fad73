"""Pixels of image files by what they must be, whatever their kind, mode and depth."""

import io
import struct
import warnings
import zlib
from concurrent import futures

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tfebm import InvalidInputError, runs
from tfebm.data import arrays, pixels

BLUE = "#0000ff"


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunked(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def png(depth, colour, rows, *chunks):
    """A PNG of a depth that Pillow does not write."""
    body = b"".join(b"\0" + bytes(row) for row in rows)
    width = len(rows[0]) * 8 // depth // {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    return chunked((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b""))


def drawing(mode):
    """Black, where it is not transparent: a pixel of each, and one of half."""
    picture = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 128))
    return picture.convert("LA").convert(mode) if mode in ("LA", "PA") else picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "PNG"), ("LA", "TIFF")],
)
def test_transparent_pixels_lie_on_the_background(mode, kind):
    data = encoded(drawing(mode), kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = pixels.decode(data)
    assert image.shape == (1, 3, 1 if mode == "LA" else 3)
    assert image[0, :, 0].tolist() == [0, 255, 127]
    coloured = pixels.decode(data, background=BLUE)
    assert coloured[0].tolist() == [[0, 0, 0], [0, 0, 255], [0, 0, 127]]
    assert pixels.decode(data, channels=1, background="black").max() == 0


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_colours_of_palettes(kind):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9])
    image = pixels.decode(encoded(picture, kind, transparency=1))
    assert image[0].tolist() == [[255, 0, 0], [255, 255, 255], [9, 9, 9]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # One value of grey or one colour is transparent; depths from 1 to 16 bits.
        (png(8, 0, [[0, 7, 200]], (b"tRNS", b"\0\7")), [0, 255, 200]),
        (png(4, 0, [[0x5F, 0x00]], (b"tRNS", b"\0\5")), [255, 255, 0, 0]),
        (png(2, 0, [[0b01100011]], (b"tRNS", b"\0\2")), [85, 255, 0, 255]),
        (png(1, 0, [[0b10101111]], (b"tRNS", b"\0\0")), [255] * 8),
        (png(16, 0, [[0xF0, 0, 0x12, 0x34, 0, 0]], (b"tRNS", b"\x12\x34")), [240, 255, 0]),
        (png(8, 2, [[1, 2, 3, 9, 9, 9]], (b"tRNS", b"\0\1\0\2\0\3")), [255, 9]),
        (
            png(16, 2, [[1, 0, 2, 0, 3, 0, 99, 0, 99, 0, 99, 0]], (b"tRNS", b"\1\0\2\0\3\0")),
            [255, 99],
        ),
        (png(16, 4, [[0, 0, 255, 255, 0, 0, 0, 0]]), [0, 255]),
        (png(16, 6, [[0] * 6 + [255, 255] + [0] * 8]), [0, 255]),
    ],
)
def test_depths_and_transparent_values(data, expected):
    assert pixels.decode(data)[0, :, 0].tolist() == expected


def sixteen(values, kind="PNG", mode="I;16"):
    dtype = ">u2" if mode.endswith("B") else "<u2"
    values = np.array([values], dtype)
    return encoded(Image.frombytes(mode, values.shape[::-1], values.tobytes()), kind)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B")])
def test_sixteen_bits_become_eight(kind, mode):
    values = [0, 255, 256, 32768, 65535]
    assert pixels.decode(sixteen(values, kind, mode))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert pixels.decode(sixteen([0, 0], kind, mode)).max() == 0  # a black image is one


@pytest.mark.parametrize(
    "data",
    [
        sixteen([0, 4095]),
        sixteen([0, 255], "TIFF"),
        png(16, 2, [[15, 255, 0, 0, 3, 3]]),
        png(16, 4, [[15, 255, 255, 255]]),
        png(16, 6, [[0, 0, 9, 9, 0, 0, 15, 255]]),
    ],
)
def test_twelve_bits_in_sixteen_are_refused(data):
    with pytest.raises(pixels.UnreadableImage, match=r"at most, as if they held fewer bits.*save"):
        pixels.decode(data)


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("CMYK", "TIFF", [200, 100, 50]),
        ("CMYK", "JPEG", [200, 100, 50]),
        ("YCbCr", "JPEG", [200, 100, 50]),
        ("P", "GIF", [204, 102, 51]),
        ("P", "BMP", [204, 102, 51]),
        ("LAB", "TIFF", [185, 185, 185]),
    ],
)
def test_colours_are_red_green_and_blue(mode, kind, expected):
    colour = Image.new("RGB", (8, 8), (200, 100, 50))
    picture = Image.new("LAB", (8, 8), (190, 128, 128)) if mode == "LAB" else colour.convert(mode)
    data = encoded(picture, kind)
    np.testing.assert_allclose(pixels.decode(data)[4, 4], expected, atol=3)
    grey = np.array(expected) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(pixels.decode(data, channels=1)[4, 4], [grey], atol=3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_grey_is_of_one_channel_and_is_repeated(mode):
    picture = Image.fromarray(np.array([[0, 255]], np.uint8)).convert(mode)
    if mode == "P":
        picture.putpalette([0, 0, 0, 255, 255, 255] + [255] * 762)
    if mode == "I;16":
        picture = Image.frombytes(mode, (2, 1), b"\0\0\xff\xff")
    data = encoded(picture)
    assert pixels.decode(data).shape == (1, 2, 1)
    assert pixels.decode(data, channels=3)[0].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_several(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (pixels.decode(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_upright_as_the_exif_data_say(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    picture = Image.fromarray(np.repeat([[0] * 16 + [255] * 16], 8, axis=0).astype(np.uint8))
    data = encoded(picture, kind, exif=exif)
    (tmp_path / "file").write_bytes(data)
    for source in (data, tmp_path / "file"):  # which Pillow reads in two ways
        image = pixels.decode(source)
        assert image.shape[:2] == (32, 8)
        assert image[:14].max() < 30
        assert image[18:].min() > 225


def test_long_texts_are_passed_over():
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "x" * 3_000_000, zip=True)
    info.add_itxt("parameters", "ä" * 2_000_000, zip=True)
    data = encoded(Image.new("RGB", (4, 4), "red"), pnginfo=info)
    assert (pixels.decode(data) == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"<html></html>", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (encoded(Image.new("RGB", (64, 64)), "JPEG")[:200], "its image is damaged"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "mode F"),
        (encoded(Image.new("I", (4, 4)), "TIFF"), "mode I, 32 bits"),
        (
            png(1, 0, [[0] * 4000] * 2).replace(
                struct.pack(">II", 32000, 2), struct.pack(">II", 32000, 32000)
            ),
            "damaged",
        ),
    ],
)
def test_what_has_no_pixels_says_why(data, reason):
    with pytest.raises(pixels.UnreadableImage, match=reason):
        pixels.decode(data)


def test_a_huge_image_is_not_unpacked():
    head = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    bomb = chunked((b"IHDR", head), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    with pytest.raises(pixels.UnreadableImage, match=r"more than 178,956,970 pixels, .* smaller$"):
        pixels.decode(bomb)


def test_large_and_odd_images_are_read_without_a_warning(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    data = encoded(Image.new("L", (6, 6)))
    warnings.simplefilter("always")
    filters = list(warnings.filters)

    def others_are_warned():
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.size == (6, 6)
        assert "DecompressionBombWarning" in str(recwarn.pop())

    others_are_warned()
    assert pixels.decode(data).shape == (6, 6, 1)
    with futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: pixels.decode(data).shape, range(200))) == {(6, 6, 1)}
    assert not recwarn.list
    assert warnings.filters == filters
    others_are_warned()


JUNK = b"not a TIFF file at all"


def odd_png(*chunks):
    return png(8, 0, [[0, 7, 200]], *chunks)


def test_exif_data_that_are_junk_do_not_spoil_an_image():
    for data in (
        odd_png((b"eXIf", JUNK)),
        odd_png((b"eXIf", b"MM\0*\0\0\0\x08\xff\xff")),
        odd_png((b"eXIf", b"")),
        odd_png((b"tEXt", b"Raw profile type exif\0\nexif\n 4\nzzzz\n")),
    ):
        assert pixels.decode(data)[0, :, 0].tolist() == [0, 7, 200]
    for kind in ("JPEG", "WEBP"):
        data = encoded(Image.new("RGB", (4, 3), "red"), kind, exif=b"Exif\0\0" + JUNK)
        assert pixels.decode(data).shape == (3, 4, 3)


def test_a_palette_that_is_missing_is_said():
    body = zlib.compress(b"\0\0\1")
    head = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
    for more in ([], [(b"tRNS", b"\0")]):
        with pytest.raises(pixels.UnreadableImage, match="damaged: its palette is missing"):
            pixels.decode(chunked((b"IHDR", head), *more, (b"IDAT", body), (b"IEND", b"")))


def test_no_reason_speaks_of_the_code_of_a_decoder(monkeypatch):
    def fail(*_):
        raise AttributeError("'NoneType' object has no attribute 'mode'")

    monkeypatch.setattr(pixels, "_plain", fail)
    with pytest.raises(pixels.UnreadableImage, match=r"^its image is damaged$"):
        pixels.decode(odd_png())


def test_the_background_is_a_colour():
    assert pixels.parse_colour("#102030") == (16, 32, 48)
    assert pixels.parse_colour("hsl(0, 100%, 50%)") == pixels.parse_colour("#f00f") == (255, 0, 0)
    with pytest.raises(InvalidInputError, match=r"Received 'whiet'\. Give a name"):
        pixels.decode(b"", background="whiet")


@pytest.mark.parametrize(
    ("colour", "message"),
    [
        ("whiet", "Give a name"),
        ("rgb(300,0,0)", "which is 300, 0, 0"),
        ("hsl(0,100%,500%)", "from 0 to 255"),
        ("hsv(0,0%,200%)", "from 0 to 255"),
        ("#ff000080", r"transparent\. Give it without alpha, as #ff0000"),
        ("rgba(1,2,3,0)", "as #010203"),
        ("#f008", "transparent"),
    ],
)
def test_every_reader_refuses_what_is_no_colour_to_lie_behind(colour, message):
    clear = np.zeros((2, 4, 4, 4), np.uint8)
    for use in (
        lambda: arrays.as_images({"x": clear}, "some", colour),
        lambda: pixels.decode(odd_png(), background=colour),
        lambda: runs.check_colour(colour),
    ):
        with pytest.raises(InvalidInputError, match=message):
            use()


class TestArrays:
    def load(self, channels=None, background="white", **parts):
        return arrays.as_images(parts, "some", background, channels)

    def test_alpha_channels_are_composited_as_in_files(self):
        rng = np.random.default_rng(0)
        for shape in ((3, 5, 5, 4), (3, 5, 5, 2)):
            x = rng.integers(0, 256, shape, dtype=np.uint8)
            found = self.load(x=x, background=BLUE)["x"]
            for image, expected in zip(x, found, strict=True):
                data = encoded(Image.fromarray(image))
                np.testing.assert_array_equal(pixels.decode(data, background=BLUE), expected)
            floats = self.load(x=x / np.float32(127.5) - 1, background=BLUE)["x"]
            np.testing.assert_allclose(floats, found / 127.5 - 1, atol=0.02)

    def test_a_dark_part_of_a_bright_set_stays(self):
        dark = np.full((2, 4, 4), 3, np.uint8)
        bright = np.full((2, 4, 4), 200, np.uint8)
        assert self.load(x_train=bright, x_test=dark)["x_test"].max() == 3
        light = np.linspace(0.1, 0.9, 32).reshape(2, 4, 4)
        full = np.linspace(-1, 1, 32).reshape(2, 4, 4)
        assert self.load(x_train=full, x_test=light)["x_test"].min() > 0
        assert self.load(x=np.zeros((2, 4, 4), np.uint8))["x"].max() == 0

    @pytest.mark.parametrize("high", [1, 9, 16])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int64])
    def test_a_set_without_bright_pixels_is_refused(self, high, dtype):
        x = np.arange(64).reshape(4, 4, 4) % (high + 1)
        with pytest.raises(InvalidInputError, match=f"above {high}, .* almost black. Save `x \\*"):
            self.load(x=x.astype(dtype))
        clear = np.stack([x, x, x, np.full_like(x, 255)], axis=-1)
        with pytest.raises(InvalidInputError, match="almost black"):
            self.load(x=clear.astype(dtype))

    @pytest.mark.parametrize(
        ("train", "test", "message"),
        [
            (lambda x: x, lambda x: x // 129, "x_test: whole-number pixels must .* above 1,"),
            (lambda x: x, lambda x: x[2:4] // 129, "x_test: whole-number pixels must .* above 1,"),
            (lambda x: x // 16, lambda x: x, "x_train: whole-number pixels must .* above 15,"),
            (lambda x: x / 127.5 - 1, lambda x: x / 255, "x_test: float pixels .* none below 0 "),
            (lambda x: x / 127.5 - 1, lambda x: x[:1] / 255, "x_test: float pixels must span"),
            (lambda x: x / 127.5 - 1, lambda x: x / 500 + 0.3, r"x_test: float .* \(from 0\.3 to"),
            (lambda x: x / 255, lambda x: x / 127.5 - 1, "x_train: float pixels must span"),
            (lambda x: x / 254 - 0.002, lambda x: x / 255, "almost none below 0"),
            (lambda x: x / 127.5 - 1, lambda x: x / 254 - 0.002, "x_test: .*almost none below 0"),
        ],
    )
    def test_a_part_of_another_scale_is_refused(self, train, test, message):
        x = np.arange(6 * 64, dtype=np.float64).reshape(6, 8, 8) % 256
        x[:, 0, 0] = 0
        parts = {"x_train": train(x), "x_test": test(x)}
        if "whole" in message:
            parts = {name: part.astype(np.uint8) for name, part in parts.items()}
        with pytest.raises(InvalidInputError, match=message):
            self.load(**parts)

    def test_few_dark_or_bright_images_are_said(self):
        x = np.arange(6 * 64).reshape(6, 8, 8) % 256
        remarks = []
        dark = {"x_train": x, "x_test": x[:3] // 20}
        arrays.as_images(dark, "some", remarks=remarks)
        bright = {"x_train": x / 127.5 - 1, "x_test": x[:3] / 600 + 0.3}
        arrays.as_images(bright, "some", remarks=remarks)
        assert remarks == [
            "x_test: no pixel is brighter than 9 of 255",
            "x_test: no pixel is below 0.3 of [-1, 1]",
        ]

    @pytest.mark.parametrize("channels", [2, 4])
    def test_alpha_channels_have_a_range_too(self, channels):
        x = np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels))
        ones = x.copy()
        ones[..., -1] %= 2
        with pytest.raises(InvalidInputError, match=r"x: alpha .* above 1, .* alpha times 255\."):
            self.load(x=ones)
        unit = x / 127.5 - 1
        unit[..., -1] = x[..., -1] / 255
        with pytest.raises(InvalidInputError, match=r"alpha .* floats must span .*`2 \* alpha - 1"):
            self.load(x=unit)
        unit[..., -1] = 1  # opaque in both ranges
        np.testing.assert_allclose(self.load(x=unit)["x"], unit[..., :-1], atol=1e-6)

    @pytest.mark.parametrize(
        ("train", "test", "message"),
        [
            ((28, 20, 400), (28, 20, 40), r"whose last axes alone differ.*moveaxis\(x, -1, 0\)"),
            ((28, 28, 400), (28, 28, 40), "whose last axes alone differ"),
            ((48, 64, 3), (48, 64, 3), "x_train: .* looks like one image with its channels"),
            ((64, 48, 4), (9, 64, 48), "x_train: .* looks like one image with its channels"),
        ],
    )
    def test_axes_in_another_order(self, train, test, message):
        x_train, x_test = (np.arange(np.prod(s)).reshape(s) % 256 for s in (train, test))
        with pytest.raises(InvalidInputError, match=message):
            self.load(x_train=x_train, x_test=x_test)

    def test_whole_numbers_of_any_size_are_told_how_to_scale(self):
        for high, remedy in ((65535, r"\(x >> 8\)"), (2**64 - 1, "Scale them to 0 to 255, or")):
            with pytest.raises(InvalidInputError, match=remedy):
                self.load(x=np.full((2, 8, 8), high, np.uint64))

    def test_floats_and_bytes_of_one_set_become_floats(self):
        x = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
        found = self.load(x_train=x / np.float64(127.5) - 1, x_test=x)
        assert {part.dtype for part in found.values()} == {np.dtype(np.float32)}
        np.testing.assert_allclose(found["x_train"], found["x_test"], atol=1e-6)

    def test_channels(self):
        x = np.arange(192, dtype=np.uint8).reshape(4, 4, 4, 3)
        grey = self.load(x=x, channels=1)["x"]
        np.testing.assert_allclose(grey[..., 0], x @ [0.299, 0.587, 0.114], atol=1)
        assert self.load(x=x[..., 0], channels=3)["x"].shape == (4, 4, 4, 3)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [(np.array(["a", "b"]), "words"), (np.array([0.5, 1.0]), "fractions")],
    )
    def test_labels_are_whole_numbers(self, labels, message):
        with pytest.raises(InvalidInputError, match=f"Received {message}.*numpy.unique"):
            arrays.check_labels(labels, "some")
        assert arrays.check_labels(np.array([1.0, 2.0]), "some").tolist() == [1, 2]

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("label", [np.inf, -np.inf, np.nan, 1e30, -(2**40), 2**64 - 1])
    def test_labels_are_of_32_bits(self, label):
        labels = np.array([0, 1, label], None if isinstance(label, int) else np.float64)
        with pytest.raises(
            InvalidInputError, match=r"whole numbers of 32 bits\. Received .*Number"
        ):
            arrays.check_labels(labels, "some")

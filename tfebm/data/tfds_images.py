"""Image sets of TensorFlow Datasets."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from tfebm.data import arrays, parts, pixels, tfds
from tfebm.errors import InvalidInputError, near
from tfebm.types import Array

NAMES = ("mnist", "fashion_mnist", "svhn_cropped", "cifar10", "celeb_a")
"""Any other of its names that has an image is taken as well."""
_NAME = re.compile(r"[A-Za-z]\w*(/[\w.+-]+)?(:[\w.*]+)?(/[\w.+-]+)?")
_INSTEAD = "'mnist5k', an .npz or a folder of images"


class Loaded(NamedTuple):
    """A set, `x` and `y` as in `ImageData`."""

    x_train: Array
    y_train: Array | None
    x_test: Array
    y_test: Array | None
    notes: list[str]


def is_name(source: str) -> bool:
    """Whether a set may be called so, with a configuration and a version where one asks for them,
    such as "imagenet_resized/32x32" or "mnist:3.0.1"."""
    return _NAME.fullmatch(source) is not None


def load(
    source: str,
    data_dir: str | None,
    image_size: int | None,
    background: str,
    channels: int | None,
    known: Iterable[str],
) -> Loaded:
    """Loads a set, which is downloaded at first use.

    Args:
        source: Its name.
        data_dir: Where TensorFlow Datasets keeps its files.
        image_size: As of `load_images`, like the next two.
        background: Behind transparent pixels.
        channels: 1 or 3; as stored by default.
        known: Names of sets that are not of TensorFlow Datasets, for the message.

    Raises:
        InvalidInputError: A set that is not known, cannot be loaded, or has no images or no
            examples to train on.
    """
    builder = tfds.find(
        source, data_dir, _INSTEAD, lambda names: _unknown(source, [*known, *(names or NAMES)])
    )
    feature = _image_feature(builder)  # before a long download
    tfds.prepare(builder, source, _INSTEAD)
    splits = {name: split for name, split in builder.info.splits.items() if split.num_examples}
    train_split, test_split, notes = _choose(builder.name, list(splits))
    values = arrays.Values(source)
    reader = _Reader(builder, feature, image_size, background, channels, values)
    x_train, labels = reader.read(train_split)
    if test_split:
        x_test, test_labels = reader.read(test_split)
    notes += values.check()
    if test_split:
        y_train, y_test = _as_numbers(labels, test_labels)
        return Loaded(x_train, y_train, x_test, y_test, notes)
    (y,) = _as_numbers(labels)
    out = parts.held_out(len(x_train), y)
    notes.append(parts.held_out_note(int(out.sum())))
    y_train, y_test = (None, None) if y is None else (y[~out], y[out])
    return Loaded(x_train[~out], y_train, x_train[out], y_test, notes)


def _image_feature(builder: Any) -> str:
    from tensorflow_datasets.core.features import Image

    features = builder.info.features or {}
    if "image" in features:
        return "image"
    found = sorted(n for n in features if isinstance(features[n], Image))
    if len(found) == 1:
        return found[0]
    which = f"has several, {', '.join(found)}, and none" if found else "has no image and none"
    raise InvalidInputError(
        f"Of the data set {builder.name!r} of TensorFlow Datasets one feature must be the image. "
        f"It {which} that is called 'image'. Choose a set of single images, or save the images as "
        "files and give their folder."
    )


def _choose(name: str, splits: list[str]) -> tuple[str, str | None, list[str]]:
    """The splits to train on and to test with, and what to say of it."""
    if not splits:
        raise InvalidInputError(f"The data set {name!r} holds no examples. Choose another one.")
    kinds: dict[str, str] = {}
    for split in splits:
        kinds.setdefault(parts.NAMES.get(split.lower(), split), split)
    train = kinds.get("train") or (splits[0] if len(splits) == 1 else None)
    if train is None:
        raise InvalidInputError(
            f"The data set {name!r} has no split to train on; it has {', '.join(splits)}. Save the "
            "images that are to be learned as files, and give their folder."
        )
    test = next((kinds[k] for k in ("test", "valid") if k in kinds and kinds[k] != train), None)
    notes = []
    if train != "train":
        notes.append(f"the training images are its split {train!r}")
    if test not in (None, "test"):
        notes.append(f"the test images are its split {test!r}")
    return train, test, notes


class _Reader(NamedTuple):
    builder: Any
    feature: str
    image_size: int | None
    background: str
    channels: int | None
    values: arrays.Values

    def read(self, split: str) -> tuple[Array, list[Any] | None]:
        """A split's images and its labels."""
        images: list[Any] = []
        labels: list[Any] = []
        for example in self.builder.as_dataset(split=split).as_numpy_iterator():
            images.append(self._image(example[self.feature], split))
            label = example.get("label")
            if label is not None and np.ndim(label) == 0:
                labels.append(label)
        shapes = {image.shape[:2] for image in images}
        if len(shapes) > 1:
            raise InvalidInputError(
                f"The images of {self.builder.name!r} have {len(shapes)} sizes. Give an image size "
                "to have them cut and resized."
            )
        most = max(image.shape[-1] for image in images)
        stacked = np.empty((len(images), *images[0].shape[:2], most), images[0].dtype)
        for i in range(len(images)):
            stacked[i], images[i] = images[i], None  # no second copy of a large set
        return stacked, labels if len(labels) == len(images) else None

    def _image(self, image: Any, split: str) -> Array:
        if np.ndim(image) == 2:
            image = image[..., np.newaxis]
        if np.ndim(image) != 3 or image.shape[-1] not in (1, 2, 3, 4):
            raise InvalidInputError(
                f"{self.builder.name}: images must have shape [height, width, 1 or 3]. Received "
                f"shape {list(np.shape(image))}. Choose another set."
            )
        images = np.asarray(image)[np.newaxis]
        # Judged before it is resized, which makes 8 bits of everything.
        self.values.add(images, split)
        self.values.check_limits()
        kind = np.uint8 if images.dtype.kind in "iu" else np.float32
        plain = pixels.composite(images.astype(kind, copy=False), self.background)
        # One by one: the originals of a large set would not fit into memory.
        return pixels.resize(pixels.with_channels(plain, self.channels), self.image_size)[0]


def _as_numbers(*labels: list[Any] | None) -> list[Array | None]:
    """Labels as whole numbers, words in their order; None where they are neither."""
    given = [part for part in labels if part is not None]
    found = [np.asarray(part) for part in given]
    kinds = {part.dtype.kind for part in found}
    if len(found) == len(labels) and kinds & set("OSU"):
        known = {word: i for i, word in enumerate(sorted({w for part in given for w in part}))}
        return [np.array([known[word] for word in part], np.int64) for part in given]
    if len(found) < len(labels) or not kinds <= set("iub"):
        return [None] * len(labels)
    return [part.astype(np.int64) for part in found]


def _unknown(name: str, known: Iterable[str]) -> InvalidInputError:
    hint = near(tfds.base(name), known)
    if "/" in name:
        return InvalidInputError(
            f"There is no file or folder {name!r}, and no data set of this name.{hint} Give the "
            "path of an .npz or of a folder of images, or the name of a data set."
        )
    return InvalidInputError(
        f"There is no data set {name!r}.{hint} Give {', '.join(('mnist5k', *NAMES))}, another "
        "image set of TensorFlow Datasets, the path of an .npz, or a folder of images."
    )

"""Data for anomaly detection: a class that training never sees, or two folders of files."""

import pathlib
from typing import NamedTuple

import numpy as np

from tfebm import checks
from tfebm.data import arrays, folders, pixels
from tfebm.data.images import ImageData, of_files
from tfebm.errors import InvalidInputError
from tfebm.files import check_readable_path, local_path, printable
from tfebm.types import Array

_NORMAL = ("good", "normal", "ok")  # what folders of normal images among others are called
_SHOWN = 5  # damaged files in a note, at most


class AnomalyData(NamedTuple):
    """Normal images to learn from, and others to be judged."""

    images: ImageData
    """`x_train` is normal; `x_test` is what is judged, with its labels where there are any."""
    is_anomaly: Array | None
    """`[N]` bool, of `x_test`; None where it is not known."""
    names: list[str]
    """Of the test images."""

    @property
    def report_sentence(self) -> str:
        """What was read, in one line."""
        data, known = self.images, ""
        if self.is_anomaly is not None:
            known = f" ({int(self.is_anomaly.sum())} of them anomalies)"
        counts = f"{len(data.x_train)} normal to train on, {len(data.x_test)} to test{known}"
        shape = " x ".join(map(str, data.image_shape))
        return "; ".join([f"{data.name}: {counts}, {shape}", *data.notes])


def hold_out_class(
    data: ImageData, *, label: int, seed: int = 0, train_share: float = 0.8
) -> AnomalyData:
    """Makes one class the anomaly: the benchmark of the papers, with a clean split.

    Training and test images are pooled. `train_share` of those of the other classes, drawn once by
    `seed`, are for training; the rest of them and all images of `label` are the test set. There is
    one split for both sides, so that no image is in both.

    Args:
        data: Images with labels.
        label: Of the anomalies.
        seed: Of the split.
        train_share: Between 0 and 1.

    Raises:
        InvalidInputError: Data without labels, a label that does not occur or is the only one, or a
            share that leaves one side without normal images.

    Example:

        >>> split = hold_out_class(load_images("mnist5k"), label=9)
        >>> model.fit(to_float(split.images.x_train))

    References: H. Zenati, C. S. Foo, B. Lecouat, G. Manek, V. R. Chandrasekhar. Efficient GAN-Based
    Anomaly Detection. 2018; B. Pang, T. Han, E. Nijkamp, S.-C. Zhu, Y. N. Wu. Learning Latent Space
    Energy-Based Prior Model. NeurIPS 2020, section 4.4.
    """
    checks.check_count("seed", seed, least=0)
    lacking = [
        f"y_{split}"
        for split, images, labels in (
            ("train", data.x_train, data.y_train),
            ("test", data.x_test, data.y_test),
        )
        if len(images) and labels is None
    ]
    if lacking:
        has_some = data.y_train is not None or data.y_test is not None
        what = f"no {lacking[0]}" if has_some else "no labels"
        raise InvalidInputError(
            f"{data.name} has {what}, and one label is to be held out of all images. Give a set "
            "with y_train and y_test, or folders of normal and of test images."
        )
    images = np.concatenate(arrays.of_one_type(data.x_train, data.x_test))
    labels = np.concatenate([data.y_train, *([data.y_test] if len(data.x_test) else [])])
    classes = np.unique(labels)
    if label not in classes or len(classes) < 2:
        raise InvalidInputError(
            f"The label that is held out must be one of several. {data.name} has "
            f"{', '.join(map(str, classes[:20]))}. Received {label}."
        )
    normal = np.flatnonzero(labels != label)
    number = round(train_share * len(normal))
    if not 0 < number < len(normal):
        raise InvalidInputError(
            f"`train_share` must leave normal images on both sides. Received {train_share} of "
            f"{len(normal)}."
        )
    order = np.random.default_rng(seed).permutation(normal)
    train = np.sort(order[:number])
    test = np.sort(np.concatenate([order[number:], np.flatnonzero(labels == label)]))
    split = ImageData(
        data.name, images[train], images[test], labels[train], labels[test], data.notes
    )
    names = [f"{data.name}:{row}" for row in test]
    return AnomalyData(split, labels[test] == label, names)


def load_normal_and_test(
    normal: str,
    test: str,
    *,
    image_size: int | None = None,
    background: str = pixels.WHITE,
    channels: int | None = None,
) -> AnomalyData:
    """Reads two folders of image files, with their subfolders.

    Where the test folder holds a folder named `good`, `normal` or `ok` beside others, as the sets
    of industrial inspection do, the images of the others are the anomalies.

    Args:
        normal: To learn from. Where it has parts as of `load_images`, its training part.
        test: To be judged. Files that cannot be read are left out, and said in the notes.
        image_size: As of `load_images`, for both, like the next two.
        background: Behind transparent pixels.
        channels: 1 or 3.

    Raises:
        InvalidInputError: Folders without images, within each other or with a file in common,
            files to learn from that cannot be read, or images of several sizes without an
            `image_size`.
    """
    given = (("normal", normal), ("test", test))
    places = [local_path(folder, f"`{name}`").expanduser() for name, folder in given]
    for place in places:
        check_readable_path(place)
    resolved = [place.resolve() for place in places]
    if any(a == b or a in b.parents for a, b in (resolved, resolved[::-1])):
        raise InvalidInputError(
            "What is learned from must not be judged: the folders must lie apart. Received "
            f"{printable(places[0])} and {printable(places[1])}, one of which holds the other."
        )
    notes, wholes = [], []
    for place, (purpose, _) in zip(places, given, strict=True):
        if not place.is_dir():
            raise InvalidInputError(
                f"The folder {printable(place)} holds no images, since there is none. "
                "Check the path."
            )
        wholes.append(folders.find_images(place))
        skipped = folders.skipped_sentence(wholes[-1].skipped)
        notes += [f"{purpose}: {skipped}"] if skipped else []
    learned, left_out = _to_learn(places[0], wholes[0])
    notes += left_out
    to_judge = wholes[1].files
    shared = folders.in_both(learned, to_judge)
    if shared:
        raise InvalidInputError(
            f"What is learned from must not be judged. Received {len(shared)} images that are in "
            f"both folders by links, {printable(shared[0])} for one. Remove them from one."
        )
    number = len(learned)
    read = folders.read_files(
        [*learned, *to_judge], image_size, background, channels, num_needed=number
    )
    height, width = read.images.shape[1:3]
    if height != width:
        raise InvalidInputError(
            f"Images must be square. Received {height} x {width} pixels. Give an image size, and "
            "the middle is cut out and resized."
        )
    damaged = {i - number for i in read.damaged}
    judged = [path for i, path in enumerate(to_judge) if i not in damaged]
    if not judged:
        raise InvalidInputError(
            f"None of the {len(to_judge)} images in {printable(places[1])} can be read. At least "
            "one is needed: repair them, or give another folder."
        )
    if damaged:
        notes.append(_damaged([path for i, path in enumerate(to_judge) if i in damaged], places[1]))
    images = of_files(resolved[1], read.images, number, notes)
    names = [str(path.relative_to(places[1])) for path in judged]
    return AnomalyData(images, _by_folder(places[1], judged), names)


def _to_learn(folder: pathlib.Path, whole: folders.Found) -> tuple[list[pathlib.Path], list[str]]:
    """The training part of a folder, and what to say of the rest."""
    parts = folders.by_split(folder, whole.files)
    learned = parts.get("train") or ([] if whole.shared else parts.get(""))
    if not learned:
        raise InvalidInputError(folders.nothing_to_learn(folder, whole))
    notes = [f"normal: {folders.shared_note(whole.shared)}"] if whole.shared else []
    number = len(whole.files) - len(learned)
    if number:
        notes.append(f"normal: {number} outside of its training folder left out")
    return learned, notes


def _damaged(paths: list[pathlib.Path], folder: pathlib.Path) -> str:
    some = ", ".join(printable(path.relative_to(folder)) for path in paths[:_SHOWN])
    plural = "s" if len(paths) > 1 else ""
    return (
        f"test: skipped {len(paths)} damaged file{plural}: {some}"
        f"{', ...' if len(paths) > _SHOWN else ''}"
    )


def _by_folder(folder: pathlib.Path, files: list[pathlib.Path]) -> Array | None:
    """Which files are anomalies, where a folder of normal ones stands beside others."""
    tops = [path.relative_to(folder).parts[0].lower() for path in files]
    if any(path.parent == folder for path in files):
        return None
    known = np.array([top not in _NORMAL for top in tops])
    return known if known.any() and not known.all() else None

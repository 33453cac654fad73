"""Data for anomaly detection: a class that training never sees, or two folders of files."""

from typing import NamedTuple

import numpy as np

from tfebm.data import checks
from tfebm.data.images import ImageData, image_files, read_files
from tfebm.errors import InvalidInputError
from tfebm.files import local_path


class AnomalyData(NamedTuple):
    """Normal images to learn from, and others to be judged."""

    images: ImageData
    """`x_train` is normal; `x_test` is what is judged, with its labels where there are any."""
    is_anomaly: np.ndarray | None
    """`[N]` bool, of `x_test`; None where it is not known."""
    names: list[str]
    """Of the test images."""


def hold_out_class(
    data: ImageData, label: int, seed: int = 0, train_share: float = 0.8
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
    if data.y_train is None or (len(data.x_test) and data.y_test is None):
        raise InvalidInputError(
            f"{data.name} has no labels, of which one could be held out. Give a set with y_train "
            "and y_test, or folders of normal and of test images."
        )
    images = np.concatenate([data.x_train, data.x_test])
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
    split = ImageData(data.name, images[train], images[test], labels[train], labels[test])
    names = [f"{data.name}:{row}" for row in test]
    return AnomalyData(split, labels[test] == label, names)


def load_normal_and_test(normal: str, test: str, image_size: int | None = None) -> AnomalyData:
    """Reads two folders of image files, with their subfolders.

    Args:
        normal: To learn from.
        test: To be judged; whether they are anomalies is not known.
        image_size: As of `load_images`, for both.

    Raises:
        InvalidInputError: Folders without images or within each other, files that cannot be read,
            or images of several sizes without an `image_size`.
    """
    given = (("normal", normal), ("test", test))
    folders = [local_path(folder, f"`{name}`").expanduser() for name, folder in given]
    resolved = [folder.resolve() for folder in folders]
    if any(a == b or a in b.parents for a, b in (resolved, resolved[::-1])):
        raise InvalidInputError(
            "What is learned from must not be judged: the folders must lie apart. Received "
            f"{folders[0]} and {folders[1]}, one of which holds the other."
        )
    paths = [image_files(folder) for folder in folders]
    for folder, found in zip(folders, paths, strict=True):
        if not found:
            raise InvalidInputError(f"The folder {folder} holds no images. Check the path.")
    arrays = read_files([*paths[0], *paths[1]], image_size)
    height, width = arrays.shape[1:3]
    if height != width:
        raise InvalidInputError(
            f"Images must be square. Received {height} x {width} pixels. Give an image size, and "
            "the middle is cut out and resized."
        )
    number = len(paths[0])
    images = ImageData(folders[1].resolve().name, arrays[:number], arrays[number:])
    return AnomalyData(images, None, [str(path.relative_to(folders[1])) for path in paths[1]])

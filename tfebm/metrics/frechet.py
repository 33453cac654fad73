"""The Fréchet distance between two sets of images, in features that are named."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfebm.errors import InvalidInputError

_FEATURES = 64
_BATCH = 64


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The squared 2-Wasserstein distance between Gaussians fitted to two sets of features.

        |m1 - m2|**2 + trace(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))

    It depends on the features and falls with the number of rows (the covariances' bias): compare
    figures of the same features, the same numbers of rows and the same reference only.

    Args:
        features: `[N, n]`, N of at least 2; fewer rows than n make it less exact, not wrong.
        reference: `[M, n]`.

    Returns:
        At least 0 up to rounding, in the square of the features' unit; float64 throughout.

    Raises:
        InvalidInputError: Sets of other shapes, of fewer than two rows, or with NaN.

    Example:

        >>> frechet_distance(extract(samples), extract(x_train))

    References: D. Dowson, B. Landau. The Fréchet distance between multivariate normal
    distributions. 1982. M. Heusel et al. GANs Trained by a Two Time-Scale Update Rule. NeurIPS
    2017 (with the features of another network, so that no figure here compares with theirs).
    """
    sets = [np.asarray(rows, np.float64) for rows in (features, reference)]
    shapes = [rows.shape for rows in sets]
    if any(len(s) != 2 or s[0] < 2 for s in shapes) or shapes[0][1] != shapes[1][1]:
        raise InvalidInputError(
            "`features` and `reference` must be [N, n] and [M, n] with at least two rows each. "
            f"Received shapes {shapes[0]} and {shapes[1]}."
        )
    if not all(np.isfinite(rows).all() for rows in sets):
        raise InvalidInputError("The features hold NaN or infinite values. Look at the samples.")
    means = [rows.mean(axis=0) for rows in sets]
    covs = [np.atleast_2d(np.cov(rows, rowvar=False)) for rows in sets]
    values, vectors = np.linalg.eigh(covs[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    # The eigenvalues of C1 C2, through a symmetric matrix that has the same.
    mixed = np.linalg.eigvalsh(root @ covs[1] @ root)
    cross = np.sqrt(np.maximum(mixed, 0.0)).sum()
    shift = np.sum((means[0] - means[1]) ** 2)
    return float(shift + np.trace(covs[0]) + np.trace(covs[1]) - 2.0 * cross)


class ClassifierFeatures(NamedTuple):
    """Features of a small classifier, and how well it classifies."""

    extract: Callable[[np.ndarray], np.ndarray]
    """Images `[N, H, W, C]` in [-1, 1] to features `[N, 64]`."""
    test_accuracy: float | None
    """On the test images of known classes; None without any."""


def classifier_features(
    x_train: Any,
    y_train: np.ndarray,
    x_test: Any = None,
    y_test: np.ndarray | None = None,
    epochs: int = 6,
    seed: int = 0,
) -> ClassifierFeatures:
    """Trains a small convolutional classifier and returns its last hidden layer.

    Where the usual feature network cannot be had, or has never seen such images, the classes of
    the set itself say which differences matter. The same data and seed give the same features.

    Args:
        x_train: Images in [-1, 1], `[N, H, W, C]`.
        y_train: Their labels `[N]`, of at least two classes.
        x_test: Images to measure the accuracy on.
        y_test: Their labels.
        epochs: Passes over the data.
        seed: Of weights and order; nothing else is seeded or disturbed.

    Raises:
        InvalidInputError: Labels of fewer than two classes.

    Example:

        >>> classifier = classifier_features(x_train, digits.y_train, x_test, digits.y_test)
        >>> distance = frechet_distance(
        ...     classifier.extract(model.generate(5000)), classifier.extract(x_train))
    """
    classes = np.unique(y_train)
    if len(classes) < 2:
        raise InvalidInputError(
            f"The classifier needs labels of at least two classes. Received {len(classes)}."
        )

    def layer(kind: type, size: int, *args: Any, **kwargs: Any) -> keras.layers.Layer:
        layer.count += 1
        start = keras.initializers.GlorotUniform(seed=1000 * seed + layer.count)
        return kind(size, *args, kernel_initializer=start, **kwargs)

    layer.count = 0
    convolution = {"padding": "same", "activation": "relu"}
    features = keras.Sequential(
        [
            layer(keras.layers.Conv2D, 32, 3, 2, **convolution),
            layer(keras.layers.Conv2D, 64, 3, 2, **convolution),
            layer(keras.layers.Conv2D, 64, 3, 2, **convolution),
            keras.layers.Flatten(),
            layer(keras.layers.Dense, _FEATURES, activation="relu"),
        ]
    )
    classifier = keras.Sequential([features, layer(keras.layers.Dense, len(classes))])
    classifier.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y = np.asarray(x_train, np.float32), np.searchsorted(classes, y_train)
    # An order of its own: those of tf.data and Keras depend on the global seed as well.
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(x))
        classifier.fit(x[order], y[order], batch_size=_BATCH, shuffle=False, verbose=0)
    accuracy = None
    known = np.isin(y_test, classes) if y_test is not None else np.zeros(0, bool)
    if known.any():
        labels = np.searchsorted(classes, np.asarray(y_test)[known])
        x = np.asarray(x_test, np.float32)[known]
        accuracy = classifier.evaluate(x, labels, batch_size=256, verbose=0)[1]

    def extract(images: np.ndarray) -> np.ndarray:
        return features.predict(tf.cast(images, tf.float32), batch_size=256, verbose=0)

    return ClassifierFeatures(extract, None if accuracy is None else float(accuracy))

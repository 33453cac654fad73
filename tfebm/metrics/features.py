"""Features of images, by which sets of them are compared; each is named for its network."""

import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks
from tfebm.errors import InvalidInputError

Extract = Callable[[np.ndarray], np.ndarray]
"""Images `[N, H, W, C]` in [-1, 1] to features `[N, n]`."""

_FEATURES = 64
_BATCH = 64
_INCEPTION_SIDE = 299


class ClassifierFeatures(NamedTuple):
    """Features of a small classifier, and how well it classifies."""

    extract: Extract
    """Images `[N, H, W, C]` in [-1, 1] to features `[N, 64]`."""
    test_accuracy: float | None
    """On the test images of known classes; None without any."""


def classifier_features(
    x_train: Any,
    y_train: np.ndarray,
    x_test: Any = None,
    y_test: np.ndarray | None = None,
    *,
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
        y_test: Their labels, without which nothing is measured.
        epochs: Passes over the data, at least 1.
        seed: Of weights and order; nothing else is seeded or disturbed.

    Raises:
        InvalidInputError: Images of another shape, beyond [-1, 1] or with NaN, labels that are not
            one for each of them or are of fewer than two classes; and from `extract`, images of
            another shape or with NaN.

    Example:

        >>> classifier = classifier_features(x_train, digits.y_train, x_test, digits.y_test)
        >>> distance = frechet_distance(
        ...     classifier.extract(model.generate(5000)), classifier.extract(x_train))
    """
    checks.check_count("epochs", epochs)
    x, y_train = _labelled(x_train, y_train, "y_train")
    if x_test is None and y_test is not None:
        raise InvalidInputError(
            "Received `y_test` without `x_test`. Give the images too, or neither."
        )
    shape, accuracy = x.shape[1:], None
    if y_test is not None:
        x_test, y_test = _labelled(x_test, y_test, "y_test", shape)
    classes = np.unique(y_train)
    if len(classes) < 2:
        raise InvalidInputError(
            f"The classifier needs labels of at least two classes. Received {len(classes)}."
        )

    starts = (keras.initializers.GlorotUniform(seed=1000 * seed + i) for i in itertools.count(1))

    def layer(kind: type[Any], size: int, *args: Any, **kwargs: Any) -> keras.layers.Layer:
        return kind(size, *args, kernel_initializer=next(starts), **kwargs)

    channels = {"data_format": "channels_last"}
    convolution = {**channels, "padding": "same", "activation": "relu"}
    features = keras.Sequential(
        [
            layer(keras.layers.Conv2D, 32, 3, 2, **convolution),
            layer(keras.layers.Conv2D, 64, 3, 2, **convolution),
            layer(keras.layers.Conv2D, 64, 3, 2, **convolution),
            keras.layers.Flatten(**channels),
            layer(keras.layers.Dense, _FEATURES, activation="relu"),
        ]
    )
    classifier = keras.Sequential([features, layer(keras.layers.Dense, len(classes))])
    classifier.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    y = np.searchsorted(classes, y_train)
    # An order of its own: those of tf.data and Keras depend on the global seed as well.
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(x))
        classifier.fit(x[order], y[order], batch_size=_BATCH, shuffle=False, verbose=0)
    if y_test is not None:
        known = np.isin(y_test, classes)
        if known.any():
            labels = np.searchsorted(classes, y_test[known])
            accuracy = float(classifier.evaluate(x_test[known], labels, 256, verbose=0)[1])

    def extract(images: np.ndarray) -> np.ndarray:
        return features.predict(_finite_images(images, shape), batch_size=256, verbose=0)

    return ClassifierFeatures(extract, accuracy)


def inception_features(weights: str | os.PathLike[str] = "imagenet") -> Extract:
    """The 2,048 pooled features of Keras' InceptionV3.

    Images are resized to 299 x 299 (bilinear, antialiased), grey ones repeated over three channels.
    Keras' weights are not those of the network behind published FIDs: name a distance in these
    features for them, and never compare it with an FID.

    Args:
        weights: "imagenet", which Keras downloads once, or a file of weights of
            `keras.applications.InceptionV3(include_top=False)`, which is read as data only.

    Raises:
        InvalidInputError: A file that is not there or holds other weights; and from what is
            returned, images without one or three channels, or with NaN.

    Example:

        >>> extract = inception_features("inception_v3_weights_notop.h5")
        >>> frechet_distance(extract(samples), extract(x_train))

    References: C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna. Rethinking the Inception
    Architecture for Computer Vision. CVPR 2016.
    """
    weights = os.fspath(weights)
    if weights != "imagenet" and not os.path.isfile(weights):
        raise InvalidInputError(
            f"`weights` must be 'imagenet' or a file of weights. There is no file {weights}."
        )
    # Keras' builder reads the setting of the whole program.
    data_format = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        network = keras.applications.InceptionV3(
            include_top=False,
            weights=weights,
            pooling="avg",
            input_shape=(_INCEPTION_SIDE, _INCEPTION_SIDE, 3),
        )
    except Exception as error:  # Keras raises no narrower one where there is no network
        if weights == "imagenet":
            raise InvalidInputError(
                "Keras could not download the weights of InceptionV3. Download them where there is "
                f"a network, and give the file: {error}"
            ) from error
        raise InvalidInputError(
            f"The weights {weights} cannot be taken for InceptionV3 without its top: {error}"
        ) from error
    finally:
        keras.config.set_image_data_format(data_format)

    def extract(images: np.ndarray) -> np.ndarray:
        images = _finite_images(images)
        if images.shape[-1] not in (1, 3):
            raise InvalidInputError(
                f"Images must be [N, H, W, 1] or [N, H, W, 3]. Received shape {images.shape}."
            )
        found = [np.zeros((0, network.output_shape[-1]), np.float32)]
        for i in range(0, len(images), _BATCH):
            batch = tf.image.resize(images[i : i + _BATCH], [_INCEPTION_SIDE] * 2, antialias=True)
            if images.shape[-1] == 1:
                batch = tf.repeat(batch, 3, axis=-1)
            found.append(network.predict_on_batch(batch))
        return np.concatenate(found)

    return extract


def _finite_images(
    images: Any,
    shape: tuple[int, ...] | None = None,
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Images as float32. An activation may turn NaN into 0 (oneDNN's ReLU does), and a network of
    them has features for anything: what is asked of features must be asked of images first."""
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or shape not in (None, images.shape[1:]):
        needed = "H, W, C" if shape is None else ", ".join(map(str, shape))
        raise InvalidInputError(
            f"Images must have shape [N, {needed}]. Received shape {list(images.shape)}."
        )
    checks.check_values(images, value_range)
    return images


def _labelled(
    x: Any, y: Any, y_name: str, shape: tuple[int, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images in [-1, 1] and a label for each."""
    x = _finite_images(x, shape, (-1.0, 1.0))
    y = checks.as_labels(y, len(x), f"For `{y_name}`")
    if (y != y).any():
        raise InvalidInputError(f"`{y_name}` must be labels. Received NaN among them.")
    return x, y

"""Pictures and test figures of a run of a generator with latents."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfebm import callbacks, pictures
from tfebm.data import ImageData, to_float
from tfebm.metrics import classifier_features, frechet_distance, kernel_distance
from tfebm.models import latents
from tfebm.models.latent_variable import LatentVariableModel
from tfebm.runs.directory import RunDirectory
from tfebm.runs.settings import ImageRunSettings, RunSettings

_COLUMNS = 10
_SAMPLES = 5000  # for the distances from the training set


def draw_images(model: LatentVariableModel, data: ImageData, run: RunDirectory) -> None:
    """`samples.png`, `reconstructions.png` and `interpolation.png` of a finished run."""
    callbacks.SampleGrid(run.picture("samples")).draw(model)
    x = _shown(data)
    # Each original with its reconstruction to the right of it.
    pairs = np.stack([x, model.reconstruct(x)], axis=1).reshape(-1, *x.shape[1:])
    pictures.save_grid(run.picture("reconstructions"), pairs, columns=_COLUMNS)
    half = len(x) // 2
    if half:
        paths = model.interpolate(x[:half:2], x[half : 2 * half : 2], num_steps=_COLUMNS)
        pictures.save_grid(run.picture("interpolation"), _flat(paths), _COLUMNS)


def draw_layers(
    model: LatentVariableModel, data: ImageData, run: RunDirectory, num_pairs: int = 4
) -> None:
    """`layers.png`: what each layer holds.

    For each pair of images a row per layer, the top first: that layer's latents go from the
    first image's to the second's while the others stay the first's.
    """
    x = _shown(data)
    num_pairs = min(num_pairs, len(x) // 2)
    if not num_pairs:
        return
    first, second = x[:num_pairs], x[-num_pairs:]
    layers = range(len(latents.sizes(model.latent_size)))
    paths = [
        model.interpolate(first, second, num_steps=_COLUMNS, layers=[layer]) for layer in layers
    ]
    pictures.save_grid(run.picture("layers"), _flat(np.stack(paths, axis=1)), _COLUMNS)


def _shown(data: ImageData) -> np.ndarray:
    """Up to 40 test images, or else training images, spread over a set that may be sorted."""
    images = data.x_test if len(data.x_test) >= 2 else data.x_train
    rows = np.linspace(0, len(images) - 1, min(40, len(images))).astype(int)
    return to_float(images[rows]).numpy()


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, *images.shape[-3:])


def test_figures(
    model: LatentVariableModel, data: ImageData, settings: ImageRunSettings
) -> dict[str, Any] | None:
    """On the test images, which nothing before has seen; None where there are none.

    Which images they are (`"test"`, or `"validation"` of the training set), every metric of the
    model, the reconstruction error on the [0, 1] scale, and mean and standard deviation of the
    anomaly score.
    """
    if not len(data.x_test):
        return None
    x = to_float(data.x_test)
    batches = tf.data.Dataset.from_tensor_slices(x).batch(settings.batch_size)
    figures = model.evaluate(batches, return_dict=True, verbose=0)
    scores = model.score(x, seed=settings.seed)
    return {
        "examples": settings.judged_on,
        "num_examples": len(x),
        **{name: float(value) for name, value in figures.items()},
        "reconstruction_mse_unit_range": float(figures["reconstruction_mse"]) / 4.0,
        "score_mean": float(np.mean(scores)),
        "score_std": float(np.std(scores)),
    }


def sample_distances(
    model: LatentVariableModel, data: ImageData, settings: RunSettings
) -> dict[str, dict[str, Any]] | None:
    """The Fréchet and the kernel distance of samples from the training set; None without labels.

    The features are those of a classifier trained on the training set itself (seed 0, whatever the
    run's is, so that runs compare).
    """
    if data.y_train is None or len(np.unique(data.y_train)) < 2:
        return None
    x = to_float(data.x_train).numpy()
    classifier = classifier_features(
        x, data.y_train, to_float(data.x_test).numpy(), data.y_test, seed=0
    )
    number = min(_SAMPLES, len(x))
    features = classifier.extract(model.generate(number, seed=settings.seed))
    reference = classifier.extract(x)
    return {
        "frechet_distance": {
            "value": frechet_distance(features, reference),
            "features": "64 of a classifier trained on this training set",
            "classifier_test_accuracy": classifier.test_accuracy,
            "num_samples": number,
        },
        "kernel_distance": kernel_distance(features, reference)._asdict(),
    }


def reconstruction_sentence(test: dict[str, Any] | None) -> str:
    """The figures that every model has, for a person."""
    if test is None:
        return "There are no test images, and so no test figures."
    return (
        f"On {test['num_examples']} {test['examples']} images: reconstruction error "
        f"{test['reconstruction_mse']:.4f} per pixel on [-1, 1] "
        f"({test['reconstruction_mse_unit_range']:.4f} on [0, 1]), anomaly score "
        f"{test['score_mean']:.1f} +- {test['score_std']:.1f}."
    )

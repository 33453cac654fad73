"""Pictures and test figures of all scripts over images that have a generator with latents."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfebm import callbacks, pictures
from tfebm.data import ImageData, to_float
from tfebm.models import LatentModel
from tfebm.runs.directory import RunDirectory
from tfebm.runs.settings import ImageRunSettings

COLUMNS = 10


def draw_images(model: LatentModel, data: ImageData, run: RunDirectory) -> None:
    """`samples.png`, `reconstructions.png` and `interpolation.png` of a finished run."""
    callbacks.SampleGrid(run.picture("samples")).draw(model)
    x = shown(data)
    # Each original with its reconstruction to the right of it.
    pairs = np.stack([x, model.reconstruct(x)], axis=1).reshape(-1, *x.shape[1:])
    pictures.save_grid(run.picture("reconstructions"), pairs, columns=COLUMNS)
    half = len(x) // 2
    if half:
        paths = model.interpolate(x[:half:2], x[half : 2 * half : 2], num_steps=COLUMNS)
        pictures.save_grid(run.picture("interpolation"), in_rows(paths), COLUMNS)


def shown(data: ImageData) -> np.ndarray:
    """Up to 40 test images, or else training images, spread over a set that may be sorted."""
    images = data.x_test if len(data.x_test) >= 2 else data.x_train
    rows = np.linspace(0, len(images) - 1, min(40, len(images))).astype(int)
    return to_float(images[rows]).numpy()


def in_rows(images: np.ndarray) -> np.ndarray:
    """`[..., H, W, C]` as one list of images."""
    return images.reshape(-1, *images.shape[-3:])


def test_figures(
    model: LatentModel, data: ImageData, settings: ImageRunSettings
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

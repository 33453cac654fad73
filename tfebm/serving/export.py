"""SavedModels for TensorFlow Serving and everything else that reads them."""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from tfebm.data import checks
from tfebm.errors import InvalidInputError
from tfebm.models import FlowEBM, latents
from tfebm.models.latent_variable import LatentVariableModel
from tfebm.types import Tensor

DEFAULT_SIGNATURE = "serving_default"

Exportable = LatentVariableModel | FlowEBM
"""`LatentEBM`, `ShortRunModel`, `VAE`, `FlowEBM`."""


class Export(NamedTuple):
    """Where an export lies."""

    generator: pathlib.Path
    scorer: pathlib.Path


def export(model: Exportable, directory: str | os.PathLike, name: str, version: int = 1) -> Export:
    """Writes `<directory>/<name>/generator/<version>` and `<directory>/<name>/scorer/<version>`.

    Both load without tfebm. Every input and output has a leading batch axis, seeds included,
    so that a row's answer does not depend on its batch-mates (but for the rounding of matrix
    products, whose order of summation depends on the batch).

    | model     | signature          | inputs           | outputs       |
    |-----------|--------------------|------------------|---------------|
    | generator | generate (default) | seed             | image, latent |
    | generator | decode             | latent           | image         |
    | scorer    | score (default)    | image, seed      | score         |
    | scorer    | infer              | image, seed      | latent        |
    | scorer    | reconstruct        | image, seed      | image         |

    `seed` is int32 `[B, 2]`, `image` float32 `[B, height, width, channels]`, `latent` float32
    `[B, d]`, all layers of a generator with several side by side (the top first), `score` float32
    `[B]`.

    Of a `FlowEBM` (over images or over points, `[B, 2]` for "image") the scorer has `score`, whose
    seed draws the noise between the levels of pixels, and `infer`, the exact inverse of the
    flow; over a backbone that is no flow it has `score` alone.

    Images are in the range of the training data, [-1, 1]. The numbers are those of
    `generate_rows`, `infer_rows` and `score_rows` for the same seeds. The number of steps of
    each chain is fixed in the graph. No function must be compiled with XLA, which a stock
    TensorFlow Serving would refuse.

    Args:
        model: A `LatentEBM`, `ShortRunModel`, `VAE` or `FlowEBM`.
        directory: The model base folder.
        name: The model's folder in it.
        version: A positive integer, as TensorFlow Serving counts; an existing version is
            never overwritten.

    Raises:
        InvalidInputError: A version that exists or is not positive, a name that is no plain
            folder name, or a folder that cannot be written.

    Example:

        >>> tfebm.serving.export(model, "savedmodels", "digits", version=1)
        >>> served = tf.saved_model.load("savedmodels/digits/generator/1")
        >>> served.signatures["serving_default"](seed=tf.constant([[0, 1], [0, 2]]))["image"]
    """
    checks.check_count("version", version)
    if not name or pathlib.PurePath(name).name != name:
        raise InvalidInputError(
            f"`name` must be a plain folder name, without separators. Received {name!r}."
        )
    base = pathlib.Path(directory) / name
    target = Export(base / "generator" / str(version), base / "scorer" / str(version))
    for path in target:
        if path.exists():
            raise InvalidInputError(
                f"The export {path} exists, and a served version must not change. Give a higher "
                "`version`, or remove it."
            )
    archives = (_generator_archive(model), _scorer_archive(model))
    for archive, path in zip(archives, target, strict=True):
        _write(archive, path)
    return target


def next_version(directory: str | os.PathLike, name: str) -> int:
    """1, or one more than the highest version of `<directory>/<name>`."""
    base = pathlib.Path(directory) / name
    versions = [int(p.name) for p in base.glob("*/*") if p.name.isdigit()]
    return max(versions, default=0) + 1


def _generator_archive(model: Exportable) -> keras.export.ExportArchive:
    def generate(seed: Tensor) -> dict[str, Tensor]:
        sample = model.sample_latents if isinstance(model, FlowEBM) else model.sample_prior
        latent = sample(seed, compiled=False)
        return {"image": model.decode_rows(latent), "latent": latents.join(latent)}

    def decode(latent: Tensor) -> dict[str, Tensor]:
        return {"image": model.decode_rows(latents.split(latent, model.latent_size))}

    total = sum(latents.sizes(model.latent_size))
    latent = tf.TensorSpec([None, total], tf.float32, name="latent")
    return _archive(
        model, {"generate": (generate, [_seed_spec()]), "decode": (decode, [latent])}, "generate"
    )


def _scorer_archive(model: Exportable) -> keras.export.ExportArchive:
    image = tf.TensorSpec([None, *model.data_shape], tf.float32, name="image")
    functions = _flow_scores(model) if isinstance(model, FlowEBM) else _latent_scores(model)
    endpoints = {name: (fn, [image, _seed_spec()]) for name, fn in functions.items()}
    return _archive(model, endpoints, "score")


def _flow_scores(model: FlowEBM) -> dict[str, Callable]:
    def score(image: Tensor, seed: Tensor) -> dict[str, Tensor]:
        return {"score": model.score_rows(image, seed)}

    def infer(image: Tensor, seed: Tensor) -> dict[str, Tensor]:
        return {"latent": model.infer_rows(image, seed)}

    return {"score": score, "infer": infer} if model.is_flow else {"score": score}


def _latent_scores(model: LatentVariableModel) -> dict[str, Callable]:
    def score(image: Tensor, seed: Tensor) -> dict[str, Tensor]:
        return {"score": model.score_rows(image, seed, compiled=False)}

    def infer(image: Tensor, seed: Tensor) -> dict[str, Tensor]:
        return {"latent": latents.join(model.infer_rows(image, seed, compiled=False))[:, 0]}

    def reconstruct(image: Tensor, seed: Tensor) -> dict[str, Tensor]:
        return {"image": model.reconstruct_rows(image, seed, compiled=False)}

    return {"score": score, "infer": infer, "reconstruct": reconstruct}


def _seed_spec() -> tf.TensorSpec:
    return tf.TensorSpec([None, 2], tf.int32, name="seed")


def _archive(model: Exportable, endpoints: dict, default: str) -> keras.export.ExportArchive:
    archive = keras.export.ExportArchive()
    # The networks alone: optimizers are no part of what is served.
    for network in model.networks_by_name().values():
        archive.track(network)
    step_size = "step_size" if isinstance(model, FlowEBM) else "posterior_step_size"
    if getattr(model, step_size, None) is not None:
        archive.track(_Weight(getattr(model, step_size)))
    for name, (function, inputs) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=inputs)
        if name == default:
            archive.add_endpoint(DEFAULT_SIGNATURE, function, input_signature=inputs)
    return archive


class _Weight(keras.layers.Layer):
    """A layer around a single weight, which an archive can track."""

    def __init__(self, weight: keras.Variable) -> None:
        super().__init__()
        self.weight = weight
        self.built = True


def _write(archive: keras.export.ExportArchive, path: pathlib.Path) -> None:
    # A server polls this folder: the version appears when it is complete. Names that are no
    # numbers are not versions to it.
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        archive.write_out(str(temporary), verbose=False)
        os.rename(temporary, path)
    except OSError as error:
        raise InvalidInputError(
            f"The export folder {path.parent} cannot be written: {error}. Give another one."
        ) from None

"""SavedModels for TensorFlow Serving and everything else that reads them."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tfebm import checks, files
from tfebm.endpoints import Endpoints, Servable
from tfebm.errors import InvalidInputError
from tfebm.serving import extras
from tfebm.serving.tracing import trace
from tfebm.version import __version__

_LARGEST_VERSION = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Export(NamedTuple):
    """Where an export lies."""

    generator: pathlib.Path
    scorer: pathlib.Path


def export(
    model: Servable,
    directory: str | os.PathLike[str],
    name: str,
    version: int = 1,
    *,
    num_chains: int = 10,
    max_length: int | None = None,
    xla: bool = False,
) -> Export:
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
    | scorer    | features           | image, seed      | features      |

    `seed` is int32 `[B, 2]`, `image` float32 `[B, height, width, channels]`, `latent` float32
    `[B, d]`, all layers of a generator with several side by side (the top first), `score` float32
    `[B]`.

    Arrays that are not images (points `[B, 2]`, rows of a table) are called "example" in its place.

    Of a `FlowModel` or a `FlowEBM` the scorer has `score`, whose seed draws the noise between the
    levels of pixels, and `infer`, the exact inverse of the flow; over a backbone that is not a flow
    it has `score` alone. The score of a `FlowModel` is -log q(x) in nats.

    Of models of sentences:

    | model     | signature          | inputs     | outputs                               |
    |-----------|--------------------|------------|---------------------------------------|
    | generator | generate (default) | seed       | text, latent                          |
    | generator | decode             | latent     | text, valid                           |
    | scorer    | score (default)    | text, seed | score, reconstruction_nll, cut        |
    | scorer    | infer              | text, seed | latent, cut                           |
    | scorer    | features           | text, seed | features, cut                         |
    | scorer    | reconstruct        | text, seed | text, cut                             |
    | scorer    | bound              | text, seed | bound, reconstruction_nll, valid, cut |

    `text` is strings `[B]`, tokenised and put together again inside the graph; of one with more
    than `max_length` tokens those are read, and `cut` (bool `[B]`) says so. `score` is the
    unnormalised -log p(x, z+), `reconstruction_nll` its part -log p(x | z+), and `bound` the upper
    bound on -log p(x) by the chain's log-determinant where `valid` (bool), nats without the
    prior's log Z; it takes K d Hessian-vector products, seconds rather than milliseconds. A
    `LanguageModel` has `generate` without a latent, and `score` without a seed. `decode` is `valid`
    (bool) where the latent is finite. A tokenizer with
    `needs_tensorflow_text` asks for the operations of tensorflow-text wherever it is served.

    Images are in the range of the training data, [-1, 1]. A row with NaN is answered by NaN, and no
    other row by anything else. So is a row with pixels that leave the range by more than 0.01, such
    as pixels from 0 to 255, where the generator's last activation or its likelihood says that the
    range is [-1, 1], and of flows over images with levels. A request with no rows, or whose inputs
    have another shape than the signature's or not as many rows each, is refused with a sentence.
    The numbers are those of `generate_rows`, `infer_rows` and `score_rows` for the same seeds. The
    number of steps of each chain is fixed in the graph. No function must be compiled with XLA,
    which a stock TensorFlow Serving would refuse, unless `xla` asks for it.

    Args:
        model: A `LatentEBM`, `ShortRunModel`, `VAE`, `LanguageModel`, `FlowEBM` or `FlowModel`, or
            whatever else has a method `endpoints`, see `tfebm.endpoints.Servable`.
        directory: The model base folder, on this machine.
        name: The model's folder in it: letters, digits, `_`, `-` and `.`, and not `.` or `-` first.
        version: From 1 to 2**63 - 1, as TensorFlow Serving counts; an existing version is never
            overwritten.
        num_chains: Chains of each example whose ends `features` averages.
        max_length: Most tokens of a sentence that a scorer reads, its end included. Default: the
            generator's `max_length`.
        xla: Add "generate_xla" and "score_xla", which are compiled with XLA, once for each number
            of rows. A server refuses them unless it was started with XLA on.

    Raises:
        InvalidInputError: A model without endpoints, a version that exists or is out of
            its range, a name that a server would not take, `xla` over sentences, or a folder that
            cannot be made.
        WriteFailed: As on a full disk; neither version appears.

    Example:

        >>> tfebm.serving.export(model, "savedmodels", "digits", version=1)
        >>> served = tf.saved_model.load("savedmodels/digits/generator/1")
        >>> served.signatures["serving_default"](seed=tf.constant([[0, 1], [0, 2]]))["image"]
    """
    answers = _endpoints(model, num_chains, max_length)
    folder = files.local_path(directory, "`directory`")
    check_name(name)
    checks.check_count("version", version)
    if version > _LARGEST_VERSION:
        raise InvalidInputError(
            "`version` must be at most 2**63 - 1, which is the largest that a server counts to. "
            f"Received {version}. Give a smaller one."
        )
    if xla and any(spec.dtype == tf.string for spec in answers.scorer["score"].inputs):
        raise InvalidInputError("`xla` cannot compile strings. Leave it out.")
    base = folder / name
    target = Export(base / "generator" / str(version), base / "scorer" / str(version))
    for path in target:
        if path.exists():
            raise InvalidInputError(
                f"The export {path} exists, and a served version must not change. Give a higher "
                "`version`, or remove it."
            )
    # A server polls these folders: a version appears when it is complete, and the other part's is
    # too. A name that is not a number is not a version to it.
    beside = [files.temporary(path) for path in target]
    with _folders(*(path.parent for path in target)):
        parts = (
            trace(answers.generator, "generate", answers.resources, xla),
            trace(answers.scorer, "score", answers.resources, xla),
        )
        with files.writing(base), files.filling(*beside):
            about = {"tfebm": __version__, **answers.about}
            for name_of_part, part, filled in zip(extras.PARTS, parts, beside, strict=True):
                part.write(filled)
                server_name = extras.server_name(name, name_of_part)
                extras.write_version_extras(filled, server_name, about)
                files.sync_folder(filled)
            extras.write_configs(base)
            for filled, path in zip(beside, target, strict=True):
                files.put(filled, path)
    return target


def next_version(directory: str | os.PathLike[str], name: str) -> int:
    """1, or one more than the highest version of `<directory>/<name>`."""
    base = files.local_path(directory, "`directory`") / name
    numbers = [extras.version_number(path) for path in base.glob("*/*")]
    return max((number for number in numbers if number is not None), default=0) + 1


def check_name(name: str) -> None:
    """Raises `InvalidInputError` unless a server, its settings and a shell take `name` as it is."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise InvalidInputError(
            "`name` must be made of the letters a to z and A to Z, digits, '_', '-' and '.', begin "
            "with none of the last two, and have at most 100 characters. Received "
            f"{str(name)[:200]!r}. Give such a name, which folders, shells and the settings of "
            "servers take as it is."
        )


def _endpoints(model: Any, num_chains: int, max_length: int | None) -> Endpoints:
    if isinstance(model, Servable):
        return model.endpoints(num_chains=num_chains, max_length=max_length)
    came = "None" if model is None else f"an object of the type {type(model).__name__}"
    raise InvalidInputError(
        "`model` must be a model of tfebm: LatentEBM, ShortRunModel, VAE, LanguageModel, FlowEBM "
        "or FlowModel, or have a method `endpoints` of its own (`tfebm.endpoints.Servable`). "
        f"Received {came}. Give one, such as `tfebm.load_run(folder).model`; Keras exports its own "
        "models and layers with `keras.export.ExportArchive`."
    )


@contextlib.contextmanager
def _folders(*folders: pathlib.Path) -> Iterator[None]:
    """Makes folders; where the block fails, those that are new and empty are removed again."""
    new: list[pathlib.Path] = []
    try:
        for folder in folders:
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            new += [path for path in missing if path not in new]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                files.sweep(folder)
            except OSError as error:
                raise InvalidInputError(
                    f"The export folder {folder} cannot be written: {error.strerror}. Give "
                    "another one."
                ) from None
        yield
    except BaseException:
        for path in sorted(new, key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):  # one that is not empty stays
                path.rmdir()
        raise

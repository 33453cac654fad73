"""SavedModels for TensorFlow Serving and everything else that reads them."""

import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import keras

from tfebm import files
from tfebm.data import checks
from tfebm.errors import InvalidInputError
from tfebm.serving import extras, signatures
from tfebm.serving.signatures import Exportable, Signature


class Export(NamedTuple):
    """Where an export lies."""

    generator: pathlib.Path
    scorer: pathlib.Path


def export(
    model: Exportable,
    directory: str | os.PathLike,
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

    Of a `FlowEBM` (over images or over points, `[B, 2]` for "image") the scorer has `score`, whose
    seed draws the noise between the levels of pixels, and `infer`, the exact inverse of the
    flow; over a backbone that is no flow it has `score` alone.

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
    other row by anything else; a request with no rows, or whose inputs have another shape than
    the signature's or not as many rows each, is refused with a sentence. The numbers are those of
    `generate_rows`, `infer_rows` and `score_rows` for the same seeds. The number of steps of
    each chain is fixed in the graph. No function must be compiled with XLA, which a stock
    TensorFlow Serving would refuse, unless `xla` asks for it.

    Args:
        model: A `LatentEBM`, `ShortRunModel`, `VAE`, `LanguageModel` or `FlowEBM`.
        directory: The model base folder.
        name: The model's folder in it.
        version: A positive integer, as TensorFlow Serving counts; an existing version is
            never overwritten.
        num_chains: Chains of each example whose ends `features` averages.
        max_length: Most tokens of a sentence that a scorer reads, its end included. Default: the
            generator's `max_length`.
        xla: Add "generate_xla" and "score_xla", which are compiled with XLA, once for each number
            of rows. A server refuses them unless it was started with XLA on.

    Raises:
        InvalidInputError: A version that exists or is not positive, a name that is no plain
            folder name, `xla` over sentences, or a folder that cannot be made.
        WriteFailed: As on a full disk; neither version appears.

    Example:

        >>> tfebm.serving.export(model, "savedmodels", "digits", version=1)
        >>> served = tf.saved_model.load("savedmodels/digits/generator/1")
        >>> served.signatures["serving_default"](seed=tf.constant([[0, 1], [0, 2]]))["image"]
    """
    checks.check_count("version", version)
    checks.check_count("num_chains", num_chains)
    if signatures.is_text(model):
        max_length = model.generator.max_length if max_length is None else max_length
        checks.check_count("max_length", max_length)
    elif max_length is not None:
        raise InvalidInputError(
            "`max_length` is of sentences, but this model's examples are arrays. Leave it out."
        )
    if xla and signatures.is_text(model):
        raise InvalidInputError("`xla` cannot compile strings. Leave it out.")
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
    for path in target:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.sweep(path.parent)
        except OSError as error:
            raise InvalidInputError(
                f"The export folder {path.parent} cannot be written: {error.strerror}. Give "
                "another one."
            ) from None
    archives = (
        _archive(model, signatures.of_generator(model), "generate", xla),
        _archive(model, signatures.of_scorer(model, num_chains, max_length), "score", xla),
    )
    about = signatures.about(model, num_chains, max_length)
    # A server polls these folders: a version appears when it is complete, and the other part's is
    # too. Names that are no numbers are not versions to it.
    beside = [files.temporary(path) for path in target]
    with files.writing(base), files.filling(*beside):
        for part, archive, folder in zip(target._fields, archives, beside, strict=True):
            archive.write_out(str(folder), verbose=False)
            extras.write_version_extras(folder, extras.server_name(name, part), about)
            files.sync_folder(folder)
        extras.write_configs(base)
        for folder, path in zip(beside, target, strict=True):
            files.put(folder, path)
    return target


def next_version(directory: str | os.PathLike, name: str) -> int:
    """1, or one more than the highest version of `<directory>/<name>`."""
    base = pathlib.Path(directory) / name
    versions = [int(p.name) for p in base.glob("*/*") if p.name.isdigit()]
    return max(versions, default=0) + 1


def _archive(
    model: Exportable, endpoints: Mapping[str, Signature], default: str, xla: bool
) -> keras.export.ExportArchive:
    archive = keras.export.ExportArchive()
    # The networks alone: optimizers are no part of what is served.
    for network in model.networks_by_name().values():
        archive.track(network)
    for weight in signatures.step_sizes(model):
        archive.track(_Weight(weight))
    if signatures.is_text(model):
        for table in model.generator.tokenizer.resources:
            archive.track(table)
    # Keras gives the first another name, `extras.DEFAULT_SIGNATURE`; an endpoint of that name would
    # be traced again, and its graph be in the file twice.
    for name in sorted(endpoints, key=lambda name: name != default):
        function, inputs = signatures.guarded(endpoints[name])
        archive.add_endpoint(name, function, input_signature=inputs)
    if xla:
        function, inputs = signatures.guarded(signatures.compiled(endpoints[default]))
        archive.add_endpoint(f"{default}{extras.XLA}", function, input_signature=inputs)
    return archive


class _Weight(keras.layers.Layer):
    """A layer around a single weight, which an archive can track."""

    def __init__(self, weight: keras.Variable) -> None:
        super().__init__()
        self.weight = weight
        self.built = True

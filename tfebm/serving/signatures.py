"""What exports answer: functions of tensors and their inputs, by the name of the signature."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfebm import random
from tfebm.errors import InvalidInputError
from tfebm.models import VAE, FlowEBM, FlowModel, LanguageModel, latents
from tfebm.models.latent_variable import LatentVariableModel
from tfebm.models.posterior_chain import PosteriorChainModel
from tfebm.types import Tensor
from tfebm.version import __version__

Exportable = LatentVariableModel | FlowEBM | FlowModel
"""`LatentEBM`, `ShortRunModel`, `VAE`, `LanguageModel`, `FlowEBM`, `FlowModel`."""

Outputs = dict[str, Tensor]

_SEED = tf.TensorSpec([None, 2], tf.int32, name="seed")
_TEXT = tf.TensorSpec([None], tf.string, name="text")
_BEYOND = 0.01  # by which pixels may leave their range, as resampled ones do


class Signature(NamedTuple):
    """One of them."""

    function: Callable[..., Outputs]
    inputs: list[tf.TensorSpec]


def of_generator(model: Exportable) -> Mapping[str, Signature]:
    """Those of the generator; "generate" is its default."""
    if not is_text(model):
        return _of_image_generator(model)

    if isinstance(model, LanguageModel):
        return {"generate": Signature(lambda seed: {"text": model.generate_rows(seed)}, [_SEED])}

    def generate(seed: Tensor) -> Outputs:
        latent = model.sample_prior(seed, compiled=False)
        return {"text": model.decode_rows(latent, seed), "latent": latent}

    def decode(latent: Tensor) -> Outputs:
        # Words have no NaN to say it with.
        valid = tf.reduce_all(tf.math.is_finite(latent), axis=1)
        return {"text": model.decode_rows(latent), "valid": valid}

    return {
        "generate": Signature(generate, [_SEED]),
        "decode": Signature(decode, [_latent_spec(model)]),
    }


def _of_image_generator(model: Exportable) -> Mapping[str, Signature]:
    def generate(seed: Tensor) -> Outputs:
        if isinstance(model, FlowModel):
            latent = model.sample_latents(seed)
        else:
            sample = model.sample_latents if isinstance(model, FlowEBM) else model.sample_prior
            latent = sample(seed, compiled=False)
        return {"image": model.decode_rows(latent), "latent": latents.join(latent)}

    def decode(latent: Tensor) -> Outputs:
        return {"image": model.decode_rows(latents.split(latent, model.latent_size))}

    return {
        "generate": Signature(generate, [_SEED]),
        "decode": Signature(decode, [_latent_spec(model)]),
    }


def of_scorer(
    model: Exportable, num_chains: int, max_length: int | None
) -> Mapping[str, Signature]:
    """Those of the scorer; "score" is its default.

    Args:
        model: What is exported.
        num_chains: Whose ends "features" averages.
        max_length: Most tokens of a sentence that are read.
    """
    if is_text(model):
        return _of_text_scorer(model, num_chains, max_length)
    image = tf.TensorSpec([None, *model.data_shape], tf.float32, name="image")
    if isinstance(model, FlowEBM | FlowModel):
        functions = _of_flow_scorer(model)
    else:
        functions = _of_image_scorer(model, num_chains)
    known = pixel_range(model)
    if known:
        functions = {name: _in_range(function, known) for name, function in functions.items()}
    return {name: Signature(function, [image, _SEED]) for name, function in functions.items()}


def pixel_range(model: Exportable) -> tuple[float, float] | None:
    """Where the values of a model's examples lie; None where any number may be one of them."""
    if isinstance(model, FlowEBM | FlowModel):
        return (-1.0, 1.0) if model.num_levels else None
    if is_text(model):
        return None
    of_likelihood = getattr(model.likelihood, "data_range", None)
    return of_likelihood or getattr(model.generator, "output_range", None)


def _in_range(function: Callable, known: tuple[float, float]) -> Callable:
    """`function` of examples, which answers NaN for a row with values outside the range.

    Pixels from 0 to 255 would else have a score like any other, only a thousand times too high. An
    error would take it out on all whose rows share the batch.
    """
    low, high = known[0] - _BEYOND, known[1] + _BEYOND

    def checked(image: Tensor, seed: Tensor) -> Outputs:
        axes = list(range(1, image.shape.rank))
        outside = tf.reduce_any((image < low) | (image > high), axis=axes, keepdims=True)
        return function(tf.where(outside, float("nan"), image), seed)

    return checked


def _of_flow_scorer(model: FlowEBM | FlowModel) -> Mapping[str, Callable]:
    def score(image: Tensor, seed: Tensor) -> Outputs:
        if isinstance(model, FlowModel):
            return {"score": -model.log_prob_rows(image, seed)}
        return {"score": model.score_rows(image, seed)}

    def infer(image: Tensor, seed: Tensor) -> Outputs:
        return {"latent": model.infer_rows(image, seed)}

    inverts = isinstance(model, FlowModel) or model.is_flow
    return {"score": score, "infer": infer} if inverts else {"score": score}


def _of_image_scorer(model: LatentVariableModel, num_chains: int) -> Mapping[str, Callable]:
    def score(image: Tensor, seed: Tensor) -> Outputs:
        return {"score": model.score_rows(image, seed, compiled=False)}

    def infer(image: Tensor, seed: Tensor) -> Outputs:
        return {"latent": latents.join(model.infer_rows(image, seed, compiled=False))[:, 0]}

    def reconstruct(image: Tensor, seed: Tensor) -> Outputs:
        return {"image": model.reconstruct_rows(image, seed, compiled=False)}

    functions = {"score": score, "infer": infer, "reconstruct": reconstruct}
    # The lower layers of a ladder have no mean without a draw of those above.
    if not (isinstance(model, VAE) and model.inference == "ladder"):
        functions["features"] = lambda image, seed: {
            "features": _features(model, image, seed, num_chains)
        }
    return functions


def _of_text_scorer(
    model: LatentVariableModel, num_chains: int, max_length: int
) -> Mapping[str, Signature]:
    def score(x: Tensor, seed: Tensor) -> Outputs:
        energy, nll = model.scores_and_errors(x, seed, compiled=False)
        return {"score": energy, "reconstruction_nll": nll}

    def infer(x: Tensor, seed: Tensor) -> Outputs:
        return {"latent": model.infer_rows(x, seed, compiled=False)[:, 0]}

    def features(x: Tensor, seed: Tensor) -> Outputs:
        return {"features": _features(model, x, seed, num_chains)}

    def reconstruct(x: Tensor, seed: Tensor) -> Outputs:
        return {"text": model.reconstruct_rows(x, seed, compiled=False)}

    def bound(x: Tensor, seed: Tensor) -> Outputs:
        log_weight, nll, valid = model.bound_rows(x, seed)
        return {
            "bound": tf.cast(-log_weight, tf.float32),
            "reconstruction_nll": nll,
            "valid": valid,
        }

    def reads(function: Callable) -> Callable:
        """`function` of ids as one of sentences, none longer than `max_length`.

        One long sentence would be padding, time and memory for all that share its batch.
        """

        def of_text(text: Tensor, *rest: Tensor) -> Outputs:
            ids = model.generator.tokenizer.tokenize(text)
            cut = tf.reduce_any(ids[:, max_length:] != 0, axis=1)
            return {**function(ids[:, :max_length], *rest), "cut": cut}

        return of_text

    if isinstance(model, LanguageModel):
        nll = reads(lambda x: {"score": model.nll_rows(x)})
        return {"score": Signature(nll, [_TEXT])}
    functions = (score, infer, features, reconstruct, bound)
    return {f.__name__: Signature(reads(f), [_TEXT, _SEED]) for f in functions}


def _features(model: LatentVariableModel, x: Tensor, seeds: Tensor, num_chains: int) -> Tensor:
    """What `model.features` gives, `[B, d]`, with the memory of a single chain."""
    if isinstance(model, VAE):
        return model.mean_rows(x, seeds)
    if num_chains == 1:
        return latents.join(model.infer_rows(x, seeds, compiled=False))[:, 0]

    def of_chain(chain: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        own = random.fold_in(seeds, chain)
        return chain + 1, total + latents.join(model.infer_rows(x, own, compiled=False))[:, 0]

    size = sum(latents.sizes(model.latent_size))
    _, total = tf.while_loop(
        lambda chain, total: chain < num_chains,
        of_chain,
        (0, tf.zeros([tf.shape(x)[0], size])),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, size])),
        parallel_iterations=1,
    )
    return total / num_chains


def guarded(signature: Signature) -> Signature:
    """The same, which refuses other sizes and inputs that have not as many rows each.

    A server checks types, and the rank that it batches by. Anything else would be broadcast, cut,
    or found wrong somewhere deep in the graph. A request without rows is refused as well, since
    convolutions answer it with wrong shapes.
    """
    function, specs = signature

    def checked(*values: Tensor) -> Outputs:
        names = [spec.name for spec in specs]
        values = [tf.ensure_shape(v, spec.shape) for v, spec in zip(values, specs, strict=True)]
        rows = [tf.shape(value)[0] for value in values]
        checks = [
            tf.debugging.assert_equal(
                number, rows[0], f"`{name}` must have as many rows as `{names[0]}`."
            )
            for name, number in zip(names[1:], rows[1:], strict=True)
        ]
        checks.append(
            tf.debugging.assert_positive(rows[0], f"`{names[0]}` must have at least one row.")
        )
        with tf.control_dependencies(checks):
            return function(*map(tf.identity, values))

    return Signature(checked, specs)


def compiled(signature: Signature) -> Signature:
    """The same, compiled with XLA; its checks belong before it."""
    function = tf.function(signature.function, autograph=False, jit_compile=True)
    return Signature(function, signature.inputs)


def check_exportable(model: Any) -> None:
    """Raises `InvalidInputError` for what has no signatures."""
    if not isinstance(model, Exportable):
        *names, last = (
            "LatentEBM",
            "ShortRunModel",
            "VAE",
            "LanguageModel",
            "FlowEBM",
            "FlowModel",
        )
        came = "None" if model is None else f"an object of the type {type(model).__name__}"
        raise InvalidInputError(
            f"`model` must be a model of tfebm: {', '.join(names)} or {last}. Received {came}. "
            "Give one, such as `tfebm.load_run(folder).model`; Keras exports its own models and "
            "layers with `keras.export.ExportArchive`."
        )


def is_text(model: Exportable) -> bool:
    """Whether the model's examples are sentences."""
    return isinstance(model, LatentVariableModel) and model.reads_sentences


def step_sizes(model: Exportable) -> list:
    """Weights of the samplers, which are not weights of the networks."""
    if isinstance(model, FlowEBM):
        return [model.step_size]
    if isinstance(model, PosteriorChainModel) and model.posterior_step_size is not None:
        return [model.posterior_step_size]
    return []


def about(model: Exportable, num_chains: int, max_length: int | None) -> dict[str, Any]:
    """What an export is of: numbers that are fixed in its graphs, as JSON."""
    steps = {
        name: getattr(model, name).num_steps
        for name in ("prior_sampler", "posterior_sampler", "sampler")
        if hasattr(model, name)
    }
    if isinstance(model, FlowEBM):  # its sampler's own are of a training step
        steps = {"sampler": model.generation_steps}
    tokenizer = model.generator.tokenizer if is_text(model) else None
    return {
        "tfebm": __version__,
        "model": type(model).__name__,
        "latent_size": getattr(model, "latent_size", None),
        "num_steps": steps,
        "feature_chains": num_chains if isinstance(model, PosteriorChainModel) else None,
        "max_length": max_length,
        "needs_tensorflow_text": tokenizer is not None and tokenizer.needs_tensorflow_text,
    }


def _latent_spec(model: Exportable) -> tf.TensorSpec:
    total = sum(latents.sizes(model.latent_size))
    return tf.TensorSpec([None, total], tf.float32, name="latent")

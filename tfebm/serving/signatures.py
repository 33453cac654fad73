"""What exports answer: functions of tensors and their inputs, by the name of the signature."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from tfebm.models import FlowEBM, LanguageModel, latents
from tfebm.models.latent_variable import LatentVariableModel
from tfebm.models.posterior_chain import PosteriorChainModel
from tfebm.types import Tensor

Exportable = LatentVariableModel | FlowEBM
"""`LatentEBM`, `ShortRunModel`, `VAE`, `LanguageModel`, `FlowEBM`."""

Outputs = dict[str, Tensor]

_SEED = tf.TensorSpec([None, 2], tf.int32, name="seed")
_TEXT = tf.TensorSpec([None], tf.string, name="text")


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
        return {"text": model.decode_rows(latent)}

    return {
        "generate": Signature(generate, [_SEED]),
        "decode": Signature(decode, [_latent_spec(model)]),
    }


def _of_image_generator(model: Exportable) -> Mapping[str, Signature]:
    def generate(seed: Tensor) -> Outputs:
        sample = model.sample_latents if isinstance(model, FlowEBM) else model.sample_prior
        latent = sample(seed, compiled=False)
        return {"image": model.decode_rows(latent), "latent": latents.join(latent)}

    def decode(latent: Tensor) -> Outputs:
        return {"image": model.decode_rows(latents.split(latent, model.latent_size))}

    return {
        "generate": Signature(generate, [_SEED]),
        "decode": Signature(decode, [_latent_spec(model)]),
    }


def of_scorer(model: Exportable) -> Mapping[str, Signature]:
    """Those of the scorer; "score" is its default."""
    if isinstance(model, FlowEBM):
        functions = _of_flow_scorer(model)
    elif isinstance(model, LanguageModel):
        tokenize = model.generator.tokenizer.tokenize
        nll = Signature(lambda text: {"score": model.nll_rows(tokenize(text))}, [_TEXT])
        return {"score": nll}
    elif is_text(model):
        return {
            name: Signature(function, [_TEXT, _SEED])
            for name, function in _of_text_scorer(model).items()
        }
    else:
        functions = _of_image_scorer(model)
    image = tf.TensorSpec([None, *model.data_shape], tf.float32, name="image")
    return {name: Signature(function, [image, _SEED]) for name, function in functions.items()}


def _of_flow_scorer(model: FlowEBM) -> Mapping[str, Callable]:
    def score(image: Tensor, seed: Tensor) -> Outputs:
        return {"score": model.score_rows(image, seed)}

    def infer(image: Tensor, seed: Tensor) -> Outputs:
        return {"latent": model.infer_rows(image, seed)}

    return {"score": score, "infer": infer} if model.is_flow else {"score": score}


def _of_image_scorer(model: LatentVariableModel) -> Mapping[str, Callable]:
    def score(image: Tensor, seed: Tensor) -> Outputs:
        return {"score": model.score_rows(image, seed, compiled=False)}

    def infer(image: Tensor, seed: Tensor) -> Outputs:
        return {"latent": latents.join(model.infer_rows(image, seed, compiled=False))[:, 0]}

    def reconstruct(image: Tensor, seed: Tensor) -> Outputs:
        return {"image": model.reconstruct_rows(image, seed, compiled=False)}

    return {"score": score, "infer": infer, "reconstruct": reconstruct}


def _of_text_scorer(model: LatentVariableModel) -> Mapping[str, Callable]:
    tokenize = model.generator.tokenizer.tokenize

    def score(text: Tensor, seed: Tensor) -> Outputs:
        energy, nll = model.scores_and_errors(tokenize(text), seed, compiled=False)
        return {"score": energy, "reconstruction_nll": nll}

    def infer(text: Tensor, seed: Tensor) -> Outputs:
        return {"latent": model.infer_rows(tokenize(text), seed, compiled=False)[:, 0]}

    def reconstruct(text: Tensor, seed: Tensor) -> Outputs:
        return {"text": model.reconstruct_rows(tokenize(text), seed, compiled=False)}

    def bound(text: Tensor, seed: Tensor) -> Outputs:
        log_weight, nll, valid = model.bound_rows(tokenize(text), seed)
        return {
            "bound": tf.cast(-log_weight, tf.float32),
            "reconstruction_nll": nll,
            "valid": valid,
        }

    return {"score": score, "infer": infer, "reconstruct": reconstruct, "bound": bound}


def is_text(model: Exportable) -> bool:
    """Whether the model's examples are sentences."""
    return isinstance(model, LatentVariableModel) and model.reads_sentences


def step_sizes(model: Exportable) -> list:
    """Weights of the samplers, which are no weights of the networks."""
    if isinstance(model, FlowEBM):
        return [model.step_size]
    if isinstance(model, PosteriorChainModel) and model.posterior_step_size is not None:
        return [model.posterior_step_size]
    return []


def _latent_spec(model: Exportable) -> tf.TensorSpec:
    total = sum(latents.sizes(model.latent_size))
    return tf.TensorSpec([None, total], tf.float32, name="latent")

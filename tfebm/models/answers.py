"""The endpoints of a model, put together from what its parts can answer."""

from typing import Any

import tensorflow as tf

from tfebm import checks
from tfebm.endpoints import SEED, Endpoint, Endpoints, Outputs, latent_spec
from tfebm.models import latents
from tfebm.models.parts import Parts
from tfebm.types import Tensor


def endpoints(model: Parts, *, num_chains: int = 10, max_length: int | None = None) -> Endpoints:
    """What the model answers at a server; see `tfebm.endpoints.Servable`."""
    checks.check_count("num_chains", num_chains)
    length = model.examples.checked_length(max_length)
    chains = {**model.prior.samplers, **model.inference.samplers}
    resources = model.examples.resources
    about = {
        "model": type(model).__name__,
        "latent_size": model.prior.latent_size,
        "num_steps": {name: chain.num_steps for name, chain in chains.items()},
        "feature_chains": num_chains if model.inference.samplers else None,
        "max_length": length,
        "needs_tensorflow_text": model.examples.needs_tensorflow_text,
    }
    return Endpoints(_generator(model), _scorer(model, num_chains, length), about, resources)


def _generator(model: Parts) -> dict[str, Endpoint]:
    size = sum(latents.sizes(model.prior.latent_size))

    def generate(seed: Tensor) -> Outputs:
        latent = model.prior.sample(seed, compiled=False)
        made = model.examples.served(latent, seed)
        return {**made, "latent": latents.join(latent)} if size else made

    def decode(latent: Tensor) -> Outputs:
        return model.examples.served(latents.split(latent, model.prior.latent_size))

    found = {"generate": Endpoint(generate, [SEED])}
    return {**found, "decode": Endpoint(decode, [latent_spec(size)])} if size else found


def _scorer(model: Parts, num_chains: int, max_length: int | None) -> dict[str, Endpoint]:
    examples, inference = model.examples, model.inference
    answers = inference.answers & examples.served_answers

    def score(x: Tensor, seed: Tensor | None = None) -> Outputs:
        total, error = inference.scores(x, seed, compiled=False)
        return {"score": total, **({"reconstruction_nll": error} if "errors" in answers else {})}

    def infer(x: Tensor, seed: Tensor) -> Outputs:
        return {"latent": latents.join(inference.sample(x, seed, compiled=False))}

    def reconstruct(x: Tensor, seed: Tensor) -> Outputs:
        return examples.served(inference.sample(x, seed, compiled=False), seed)

    def features(x: Tensor, seed: Tensor) -> Outputs:
        return {"features": inference.features(x, seed, num_chains, compiled=False)}

    def bound(x: Tensor, seed: Tensor) -> Outputs:
        log_weight, nll, valid = inference.bound(x, seed)
        nats = tf.cast(-log_weight, tf.float32)
        return {"bound": nats, "reconstruction_nll": nll, "valid": valid}

    inputs = [examples.served_input(), *([SEED] if inference.takes_seed else [])]
    functions: dict[str, Any] = {
        "score": score,
        "infer": infer,
        "features": features,
        "reconstruct": reconstruct,
        "bound": bound,
    }
    return {
        name: Endpoint(examples.reads(function, max_length), inputs)
        for name, function in functions.items()
        if name == "score" or name in answers
    }

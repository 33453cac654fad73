"""Bounds on the likelihood of test sentences, for the record of `text.py`."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from experiments.text_data import shown
from experiments.text_settings import Settings
from tfebm.data import TextData, lengths
from tfebm.metrics import perplexity
from tfebm.models import (
    EvidenceBound,
    LaplaceBound,
)
from tfebm.samplers import ShortRunLangevin

_SCALES = tuple(0.5**i for i in range(7))  # of step sizes, for the bound
_TRIED = 10  # validation sentences that a scale is tried on
_VALID = 0.9  # of them; the chains that are left weigh nothing in the bound


def evidence_figures(
    model: keras.Model, data: TextData, settings: Settings
) -> dict[str, Any] | None:
    """Bounds on the likelihood of fixed test sentences; None where none are asked for.

    Means over sentences in nats with their standard errors. `nll` is the importance-weighted
    bound and `nll_of_each` that of each sentence, to compare models by; `perplexity` is what it
    makes of the sentences' words, ends counted. All bounds are on the same likelihood; which one
    is taken, `--evidence` says. Through a map, `elbo` and `kl` are None where it is no
    diffeomorphism for one of the sentences, and `nll` where all chains of a sentence are none.
    Wherever the prior's log Z is not known well enough, all are None that hold it.
    """
    rows = shown(data, settings.evidence_examples)
    x = data.x_test[rows]
    if not len(x):
        return None
    normalizer = None
    if settings.model == "latent_ebm":
        normalizer = _log_normalizer(model, settings.seed)
    log_z = normalizer["value"] if normalizer else 0.0
    bound, figures = _bound(model, data, x, settings, 0.0 if log_z is None else log_z)
    if log_z is None:
        figures |= dict.fromkeys({"elbo", "importance_weighted", "kl"} & set(figures))
    weighted = figures.pop("importance_weighted")
    figures["nll"] = None if weighted is None else -weighted
    values = {"nll": -bound.importance_weighted, "kl": bound.kl}
    values["reconstruction"] = bound.reconstruction
    if isinstance(bound, EvidenceBound):
        values["elbo"] = bound.elbo
    for name, of_rows in values.items():
        known = figures[name] is not None
        figures[f"{name}_standard_error"] = standard_error(of_rows) if known else None
    _add_error_of_log_z(figures, normalizer)
    tokens = int(lengths(x).sum())
    figures |= {"num_chains": settings.evidence_chains, "num_tokens": tokens, "perplexity": None}
    figures |= {"rows": rows.tolist(), "nll_of_each": None}
    if figures["nll"] is not None:
        figures["perplexity"] = perplexity_or_none(figures["nll"] * len(x), tokens)
        figures["nll_of_each"] = values["nll"].round(4).tolist()
    if normalizer:
        figures["log_normalizer"] = normalizer
    return figures


def _bound(
    model: keras.Model, data: TextData, x: np.ndarray, settings: Settings, log_z: float
) -> tuple[EvidenceBound | LaplaceBound, dict[str, Any]]:
    method, num_chains, seed = settings.evidence, settings.evidence_chains, settings.seed
    if method == "laplace":
        num_samples = settings.evidence_samples
        laplace = model.laplace_bound(
            x, num_samples=num_samples, num_chains=num_chains, seed=seed, log_normalizer=log_z
        )
        about = {"method": method, "num_samples": num_samples}
        about["centres"] = "draws of the encoder" if settings.model == "vae" else "ends of chains"
        return laplace, {**laplace.summary(), **about}
    chain, scale = _evidence_chain(model, data, settings)
    with _scaled(model, scale):
        bound = model.evidence_bound(
            x, num_chains=num_chains, seed=seed, log_normalizer=log_z, sampler=chain
        )
    return bound, {**bound.summary(), "method": method, "step_scale": scale}


def _evidence_chain(
    model: keras.Model, data: TextData, settings: Settings
) -> tuple[ShortRunLangevin | None, float | None]:
    """The chain of the bound, None for the model's own; and the factor on its step sizes."""
    x = data.x_valid[shown(data, _TRIED, "valid")]
    if settings.model == "vae":
        return None, None
    if settings.evidence == "own" or not len(x):
        return None, 1.0
    if settings.evidence == "tuned":
        return model.evidence_sampler(
            x, num_steps=model.posterior_sampler.num_steps, seed=settings.seed
        ), None
    for scale in _SCALES:
        with _scaled(model, scale):
            bound = model.evidence_bound(x, seed=settings.seed)
        if bound.valid_share >= _VALID:
            break
    return None, scale


@contextlib.contextmanager
def _scaled(model: keras.Model, scale: float | None) -> Iterator[None]:
    """The model with `scale` times its chain's step sizes; they are a weight, so that nothing is
    traced anew."""
    if scale in (None, 1.0):
        yield
        return
    table = model.posterior_step_size.numpy()
    model.posterior_step_size.assign(scale * table)
    try:
        yield
    finally:
        model.posterior_step_size.assign(table)


def _log_normalizer(model: keras.Model, seed: int) -> dict[str, Any]:
    """Of a learned prior: by importance sampling, or where that is not to be trusted the upper
    bound of annealed chains, which leaves the NLL's bound one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the record says how far it can be trusted
        estimate = model.estimate_log_normalizer(method="importance", seed=seed)
        found = {"method": "importance", "effective_sample_size": estimate.effective_sample_size}
        found["num_samples"] = estimate.num_samples
        value = estimate.value
        if not estimate.reliable:
            estimate = model.estimate_log_normalizer(method="annealed", seed=seed)
            bounds = {"lower": estimate.lower, "upper": estimate.upper}
            found |= {"method": "annealed", **bounds, "num_chains": estimate.num_chains}
            value = estimate.upper
    reliable = bool(estimate.reliable)
    return {
        **found,
        "value": value if reliable else None,
        "standard_error": estimate.standard_error if reliable else None,
        "reliable": reliable,
    }


def _add_error_of_log_z(figures: dict[str, Any], normalizer: dict[str, Any] | None) -> None:
    """log Z shifts all sentences alike: its error joins that of their mean."""
    shift = normalizer["standard_error"] if normalizer else None
    for name in ("elbo", "nll", "kl"):
        error = figures.get(f"{name}_standard_error")
        if shift and error:
            figures[f"{name}_standard_error"] = math.hypot(error, shift)


def standard_error(values: np.ndarray) -> float | None:
    """Of their mean."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def perplexity_or_none(total: float, tokens: int) -> float | None:
    """None where the estimate of a likelihood is none of words, or of a model that excludes one."""
    if not (math.isfinite(total) and total >= 0):
        return None
    value = perplexity(total, tokens)
    return value if math.isfinite(value) else None

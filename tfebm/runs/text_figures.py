"""Test figures of a run of a text model."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfebm.data import TextData, evaluation_batches, lengths, sentence_batches, steps_per_epoch
from tfebm.generators import AutoregressiveGenerator, Greedy, Sampled
from tfebm.metrics import perplexity
from tfebm.models import (
    VAE,
    EvidenceBound,
    LanguageModel,
    LaplaceBound,
    LatentEBM,
    evidence_bound,
    evidence_sampler,
    laplace_bound,
)
from tfebm.runs.text import LatentView, shown, training_set
from tfebm.runs.text_settings import TextRunSettings
from tfebm.samplers import ShortRunLangevin

_SCALES = tuple(0.5**i for i in range(7))  # of step sizes, for the bound
_TRIED = 10  # validation sentences that a scale is tried on
_VALID = 0.9  # of them; the chains that are left weigh nothing in the bound
# Of the language models that judge sentences, the same for every model that is judged.
_JUDGE = {"embedding_size": 256, "hidden_size": 512, "dropout": 0.5}
_JUDGE_SEED = 0
_CHUNK = 1024  # sentences that are turned into ids at a time


def test_figures(
    model: keras.Model,
    data: TextData,
    settings: TextRunSettings,
    view: LatentView | None,
) -> dict[str, Any] | None:
    """On the test sentences, which nothing before has seen; None where there are none.

    Every metric of the model on the whole set. Of a language model its likelihood; of the others
    the bound of `evidence_figures` and the active units. With `--quality` what
    `quality_figures` says.
    """
    x = data.x_test
    if not len(x):
        return None
    batches = evaluation_batches(x, settings.batch_size)
    metrics = model.evaluate(batches, return_dict=True, verbose=0)
    figures = {
        "num_examples": len(x),
        "num_tokens": int(lengths(x).sum()),
        **{name: float(value) for name, value in metrics.items()},
    }
    if data.entropy is not None:
        figures["entropy"] = data.entropy
    if isinstance(model, LanguageModel):
        figures |= _likelihood(model.score(x), x)
    else:
        figures["evidence"] = evidence_figures(model, data, settings)
        figures["active_units"] = view.record() if view and view.split == "test" else None
    if settings.quality:
        figures["quality"] = quality_figures(model, data, settings)
    return figures


def evidence_figures(
    model: keras.Model, data: TextData, settings: TextRunSettings
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
        figures[f"{name}_standard_error"] = _standard_error(of_rows) if known else None
    tokens = int(lengths(x).sum())
    figures |= {"num_chains": settings.evidence_chains, "num_tokens": tokens, "perplexity": None}
    figures |= {"rows": rows.tolist(), "nll_of_each": None}
    if figures["nll"] is not None:
        figures["perplexity"] = _perplexity(figures["nll"] * len(x), tokens)
        figures["nll_of_each"] = values["nll"].round(4).tolist()
    if normalizer:
        figures["log_normalizer"] = normalizer
    return figures


def _bound(
    model: keras.Model, data: TextData, x: np.ndarray, settings: TextRunSettings, log_z: float
) -> tuple[EvidenceBound | LaplaceBound, dict[str, Any]]:
    method, num_chains, seed = settings.evidence, settings.evidence_chains, settings.seed
    if method == "laplace":
        num_samples = settings.evidence_samples
        laplace = laplace_bound(model, x, num_samples, num_chains, seed, log_z)
        return laplace, {**laplace.summary(), "method": method, "num_samples": num_samples}
    chain, scale = _evidence_chain(model, data, settings)
    with _scaled(model, scale):
        bound = evidence_bound(model, x, num_chains, seed, log_z, sampler=chain)
    return bound, {**bound.summary(), "method": method, "step_scale": scale}


def _evidence_chain(
    model: keras.Model, data: TextData, settings: TextRunSettings
) -> tuple[ShortRunLangevin | None, float | None]:
    """The chain of the bound, None for the model's own; and the factor on its step sizes."""
    x = data.x_valid[shown(data, _TRIED, "valid")]
    if isinstance(model, VAE):
        return None, None
    if settings.evidence == "own" or not len(x):
        return None, 1.0
    if settings.evidence == "tuned":
        return evidence_sampler(model, x, model.posterior_sampler.num_steps, settings.seed), None
    for scale in _SCALES:
        with _scaled(model, scale):
            bound = evidence_bound(model, x, seed=settings.seed)
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


def _log_normalizer(model: keras.Model, seed: int) -> dict[str, Any] | None:
    if not isinstance(model, LatentEBM):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the record says how far it can be trusted
        estimate = model.estimate_log_normalizer(method="importance", seed=seed)
    return {
        "value": estimate.value if estimate.reliable else None,
        "standard_error": estimate.standard_error if estimate.reliable else None,
        "effective_sample_size": estimate.effective_sample_size,
        "num_samples": estimate.num_samples,
        "reliable": bool(estimate.reliable),
    }


def quality_figures(
    model: keras.Model, data: TextData, settings: TextRunSettings
) -> dict[str, Any]:
    """Forward and reverse perplexity of generated sentences, by language models.

    Forward: of the generated sentences, by a model of the training sentences. Reverse: of the
    test sentences, by the same model trained on generated ones. `real` is the test sentences'
    own by the first.
    """
    print(f"A language model learns the {data.name} training sentences, to judge by.", flush=True)
    judge = _train_judge(training_set(data).x_train, data, settings)
    figures: dict[str, Any] = {
        "num_sentences": settings.quality,
        "epochs": settings.quality_epochs,
        "real": _likelihood(judge.score(data.x_test), data.x_test)["perplexity"],
    }
    ways = {"greedy": Greedy(), "sampled": Sampled()}
    if isinstance(model, LanguageModel):
        del ways["greedy"]  # without latents all greedy sentences are one
    for name, decoding in ways.items():
        print(f"Another learns {settings.quality} {name} sentences.", flush=True)
        x = _ids(data, model.generate(settings.quality, settings.seed, decoding=decoding))
        learner = _train_judge(x, data, settings)
        figures[name] = {
            "forward_perplexity": _likelihood(judge.score(x), x)["perplexity"],
            "reverse_perplexity": _likelihood(learner.score(data.x_test), data.x_test)[
                "perplexity"
            ],
        }
    return figures


def _train_judge(x: np.ndarray, data: TextData, settings: TextRunSettings) -> LanguageModel:
    keras.utils.set_random_seed(_JUDGE_SEED)
    judge = LanguageModel(AutoregressiveGenerator(data.tokenizer, **_JUDGE), seed=_JUDGE_SEED)
    judge.compile()
    size = min(settings.batch_size, len(x))
    judge.fit(
        sentence_batches(x, size, _JUDGE_SEED),
        epochs=settings.quality_epochs,
        steps_per_epoch=steps_per_epoch(len(x), size),
        shuffle=False,
        verbose=0,
    )
    return judge


def _ids(data: TextData, sentences: np.ndarray) -> np.ndarray:
    chunks = [
        data.tokenizer.tokenize(list(sentences[i : i + _CHUNK])).numpy()
        for i in range(0, len(sentences), _CHUNK)
    ]
    width = max(chunk.shape[1] for chunk in chunks)
    return np.concatenate([np.pad(c, [(0, 0), (0, width - c.shape[1])]) for c in chunks])


def _likelihood(nll: np.ndarray, x: np.ndarray) -> dict[str, float | None]:
    nll = np.asarray(nll, np.float64)
    return {
        "nll": float(nll.mean()),
        "nll_standard_error": _standard_error(nll),
        "perplexity": _perplexity(float(nll.sum()), int(lengths(x).sum())),
    }


def _standard_error(values: np.ndarray) -> float | None:
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _perplexity(total: float, tokens: int) -> float | None:
    """None where the estimate of a likelihood is none of words, or of a model that excludes one."""
    if not (math.isfinite(total) and total >= 0):
        return None
    value = perplexity(total, tokens)
    return value if math.isfinite(value) else None


# ---- For a person -------------------------------------------------------------------------


def summary(test: dict[str, Any] | None) -> str:
    """The test figures in sentences."""
    if test is None:
        return "There are no test sentences, and so no test figures."
    lines = []
    if "nll" in test:
        lines.append(
            f"On {test['num_examples']} test sentences: NLL {_with_error(test, 'nll')} nats, "
            f"perplexity {_number(test['perplexity'])} (exact)."
        )
    else:
        lines.append(
            f"On {test['num_examples']} test sentences: -log p(x | z) "
            f"{test['generator_loss']:.2f} nats."
        )
        lines += _of_bound(test["evidence"])
    if "entropy" in test:
        lines.append(
            f"Best possible NLL: {test['entropy']:.2f} nats, the entropy of the grammar (the "
            "sentences tested are a sample of it)."
        )
    active = test.get("active_units")
    if active:
        lines.append(
            f"Active units: {active['count']} of {active['of']}, on {active['num_examples']} test "
            "sentences."
        )
    quality = test.get("quality")
    if quality:
        lines.append(
            f"Perplexity of the test sentences by a language model of the training sentences: "
            f"{_number(quality['real'])}."
        )
        lines += [
            f"{quality['num_sentences']} sentences, {name}: forward perplexity "
            f"{_number(quality[name]['forward_perplexity'])}, reverse "
            f"{_number(quality[name]['reverse_perplexity'])}."
            for name in ("greedy", "sampled")
            if name in quality
        ]
    return "\n".join(lines)


def _of_bound(bound: dict[str, Any] | None) -> list[str]:
    if bound is None:
        return []
    lines = []
    normalizer = bound.get("log_normalizer")
    if normalizer:
        ess = f"effective sample size {normalizer['effective_sample_size']:.0f} of "
        ess += f"{normalizer['num_samples']}"
        lines.append(
            f"log Z of the prior: {normalizer['value']:.3f} ({ess})."
            if normalizer["reliable"]
            else f"log Z of the prior is not known well enough for a bound ({ess})."
        )
    chains = f"{bound['num_chains']} chain{'s' if bound['num_chains'] > 1 else ''} each"
    if bound.get("step_scale") not in (None, 1.0):
        chains += f" of {bound['step_scale']:g} times the step sizes"
    if bound["method"] == "laplace":
        chains = f"{bound['num_samples']} samples each around the ends of {chains[:-5]}"
    figures = [f"reconstruction {_with_error(bound, 'reconstruction')}"]
    if bound["kl"] is not None:
        figures.append(f"KL {_with_error(bound, 'kl')}")
    if bound["nll"] is not None:
        figures.append(
            f"NLL at most {_with_error(bound, 'nll')} nats, perplexity "
            f"{_number(bound['perplexity'])}"
        )
    lines.append(f"Bound on {bound['num_examples']} of them, {chains}: {', '.join(figures)}.")
    if bound.get("invalid_chains"):
        lines.append(
            f"{bound['invalid_chains']:.1%} of the chains are no diffeomorphisms, and have no KL. "
            + (
                "The NLL leaves them out."
                if bound["nll"] is not None
                else "Some sentence has no others, and there is no NLL: give more "
                "--evidence-chains, or another --evidence."
            )
        )
    return lines


def _with_error(figures: dict[str, Any], name: str) -> str:
    error = figures[f"{name}_standard_error"]
    return f"{figures[name]:.2f}" + ("" if error is None else f" +- {error:.2f}")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"

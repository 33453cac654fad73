"""Test figures of a run of a text model."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from experiments.text_bounds import evidence_figures, perplexity_or_none, standard_error
from experiments.text_data import shown, training_set
from experiments.text_latents import LatentView
from experiments.text_settings import Settings
from tfebm.data import TextData, evaluation_batches, lengths, sentence_batches, steps_per_epoch
from tfebm.generators import AutoregressiveGenerator, Greedy, Sampled
from tfebm.metrics import generation_perplexity
from tfebm.models import LanguageModel

# Of the language models that judge sentences, the same for every model that is judged.
_JUDGE = {"embedding_size": 256, "hidden_size": 512, "dropout": 0.5}
_JUDGE_SEED = 0
_CHUNK = 1024  # sentences that are turned into ids at a time


def asked_for(asked: Iterable[str]) -> bool:
    """Whether flags that were given, by their settings' names, ask for figures."""
    return any(name.startswith(("evidence", "quality", "au_")) for name in asked)


def measure(
    model: keras.Model,
    data: TextData,
    settings: Settings,
    view: LatentView | None,
    before: dict[str, Any] | None = None,
    asked: Iterable[str] = (),
) -> dict[str, Any] | None:
    """On the test sentences, which nothing before has seen; None where there are none.

    Every metric of the model on the whole set. Of a language model its likelihood, and as
    "evidence" that of the sentences of the others' bounds; of the others the bound of
    `evidence_figures` and the active units. With `--quality` what `quality_figures` says.

    Args:
        model: Trained.
        data: With test sentences.
        settings: Of the run.
        view: Of `look_at_latents`; None where it was not asked for.
        before: Figures that an earlier call found of the same model. They stay, but for those
            that `asked` names; another kind of bound joins them as "other_evidence".
        asked: Settings that were given.
    """
    x = data.x_test
    if not len(x):
        return None
    figures = dict(before) if before else _metrics(model, data, settings)
    has_latents = settings.has_latents
    if not before or any(name.startswith("evidence") for name in asked):
        former = [figures.pop("evidence", None), *figures.pop("other_evidence", [])]
        find = evidence_figures if has_latents else _exact_evidence
        figures["evidence"] = find(model, data, settings)
        others = [f for f in former if f and _protocol(f) != _protocol(figures["evidence"])]
        if others:
            figures["other_evidence"] = others
    if has_latents and (not before or view):
        figures["active_units"] = view.record() if view and view.split == "test" else None
    if settings.quality:
        figures["quality"] = quality_figures(model, data, settings)
    return figures


def _metrics(model: keras.Model, data: TextData, settings: Settings) -> dict[str, Any]:
    x = data.x_test
    batches = evaluation_batches(x, batch_size=settings.batch_size)
    metrics = model.evaluate(batches, return_dict=True, verbose=0)
    figures = {
        "num_examples": len(x),
        "num_tokens": int(lengths(x).sum()),
        **{name: float(value) for name, value in metrics.items()},
    }
    if data.entropy is not None:
        figures["entropy"] = data.entropy
    if not settings.has_latents:
        figures |= _likelihood(model.score(x, batch_size=model.rows_at_once), x)
    return figures


def _exact_evidence(
    model: LanguageModel, data: TextData, settings: Settings
) -> dict[str, Any] | None:
    """Of a language model, on the sentences of `evidence_figures`: what those bounds bound."""
    rows = shown(data, settings.evidence_examples)
    x = data.x_test[rows]
    if not len(x):
        return None
    nll = np.asarray(model.score(x, batch_size=model.rows_at_once), np.float64)
    return {
        "method": "exact",
        "num_examples": len(x),
        **_likelihood(nll, x),
        "rows": rows.tolist(),
        "nll_of_each": nll.round(4).tolist(),
    }


def _protocol(evidence: dict[str, Any] | None) -> tuple:
    """Two bounds of a model with the same one are comparable, and the later replaces the other."""
    names = ("method", "num_examples", "num_chains", "num_samples")
    return tuple((evidence or {}).get(name) for name in names)


def quality_figures(model: keras.Model, data: TextData, settings: Settings) -> dict[str, Any]:
    """Forward and reverse perplexity of generated sentences, by language models.

    Forward: of the generated sentences, by a model of the training sentences. Reverse: of the
    test sentences, by the same model trained on generated ones. `real` is the test sentences'
    own by the first.
    """
    train, test = training_set(data).x_train, data.x_test
    print(f"A language model learns the {data.name} training sentences, to judge by.", flush=True)

    def learn(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        learned = _train_judge(x, data, settings)
        return functools.partial(learned.score, batch_size=learned.rows_at_once)

    judge = learn(train)
    figures: dict[str, Any] = {
        "num_sentences": settings.quality,
        "epochs": settings.quality_epochs,
        "real": perplexity_or_none(float(judge(test).sum()), int(lengths(test).sum())),
    }
    ways = {"greedy": Greedy(), "sampled": Sampled()}
    if not settings.has_latents:
        del ways["greedy"]  # without latents all greedy sentences are one
    for name, decoding in ways.items():
        print(f"Another learns {settings.quality} {name} sentences.", flush=True)
        x = _ids(data, model.generate(settings.quality, seed=settings.seed, decoding=decoding))
        found = generation_perplexity(judge, learn, x, test)
        both = {"forward_perplexity": found.forward, "reverse_perplexity": found.reverse}
        figures[name] = {k: v if math.isfinite(v) else None for k, v in both.items()}
    return figures


def _train_judge(x: np.ndarray, data: TextData, settings: Settings) -> LanguageModel:
    keras.utils.set_random_seed(_JUDGE_SEED)
    judge = LanguageModel(AutoregressiveGenerator(data.tokenizer, **_JUDGE), seed=_JUDGE_SEED)
    judge.compile()
    size = min(settings.batch_size, len(x))
    judge.fit(
        sentence_batches(x, seed=_JUDGE_SEED, batch_size=size),
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
        "nll_standard_error": standard_error(nll),
        "perplexity": perplexity_or_none(float(nll.sum()), int(lengths(x).sum())),
    }


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
        exact = test["evidence"]
        if exact and exact["num_examples"] < test["num_examples"]:
            lines.append(
                f"On the {exact['num_examples']} that bounds of other models are of: NLL "
                f"{_with_error(exact, 'nll')} nats."
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
        lines.append(_of_log_z(normalizer))
    chains = f"{bound['num_chains']} chain{'s' if bound['num_chains'] > 1 else ''} each"
    if bound.get("step_scale") not in (None, 1.0):
        chains += f" of {bound['step_scale']:g} times the step sizes"
    if bound["method"] == "laplace":
        chains = f"{bound['num_samples']} samples each, from around {bound['num_chains']} "
        chains += f"{bound['centres']} (effective size {bound['effective_sample_size']:.1f}, at "
        chains += f"least {bound['smallest_effective_sample_size']:.1f})"
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
            f"{bound['invalid_chains']:.1%} of the chains are not diffeomorphisms, and have no KL. "
            + (
                "The NLL leaves them out."
                if bound["nll"] is not None
                else "Some sentence has no others, and there is no NLL: give more "
                "--evidence-chains, or another --evidence."
            )
        )
    return lines


def _of_log_z(normalizer: dict[str, Any]) -> str:
    if normalizer["method"] == "importance":
        known = f"effective sample size {normalizer['effective_sample_size']:.0f} of "
        known += f"{normalizer['num_samples']}"
    else:
        known = f"annealed chains, between {normalizer['lower']:.3f} and {normalizer['upper']:.3f}"
    if normalizer["reliable"]:
        return f"log Z of the prior: {normalizer['value']:.3f} ({known})."
    return f"log Z of the prior is not known well enough for a bound ({known})."


def _with_error(figures: dict[str, Any], name: str) -> str:
    error = figures[f"{name}_standard_error"]
    return f"{figures[name]:.2f}" + ("" if error is None else f" +- {error:.2f}")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"

"""What a run of a text model writes, and how a finished one is taken up again."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tfebm import files, plots
from tfebm.callbacks import RunLog
from tfebm.data import TextData, lengths, steps_per_epoch
from tfebm.errors import InvalidInputError
from tfebm.generators import Greedy, Sampled
from tfebm.metrics import ActiveUnits, active_units
from tfebm.models import VAE, LanguageModel, networks
from tfebm.runs import training
from tfebm.runs.directory import RunDirectory
from tfebm.runs.settings import RunSettings
from tfebm.runs.text_settings import TextRunSettings, read_text

SHOWN = 20  # sentences of each kind in the text files
_PATHS, _POINTS = 5, 8  # pairs that every run interpolates, and sentences on a path
_CHAINS = 10  # whose mean places a sentence

CURVES = {"-log p(x | z), nats per sentence": ("generator_loss",)}
_CHAIN_CURVES = {
    **CURVES,
    "displacement of the chain": ("displacement_posterior",),
    "gradient norm of the likelihood at its end": ("likelihood_grad_norm",),
}
CURVES_OF = {
    "short_run": _CHAIN_CURVES,
    "latent_ebm": {**_CHAIN_CURVES, "energy": ("energy_posterior", "energy_prior")},
    "vae": {
        **CURVES,
        "KL divergence from the prior, nats": ("kl",),
        "evidence lower bound, nats": ("elbo",),
    },
    "lm": {"-log p(x), nats per sentence": ("generator_loss",)},
}
"""Panels of `curves.png` by the name of the model."""


# ---- Data and earlier runs ----------------------------------------------------------------


def load(settings: TextRunSettings) -> TextData:
    """The sentences of a run, the same words as before where it goes on with one.

    Raises:
        InvalidInputError: As `read_text`; a vocabulary that is not that of the run's model.
    """
    data = read_text(settings)
    if settings.resume:
        _check_vocabulary(RunDirectory(pathlib.Path(settings.output)), data)
    return data


def begin(run: RunDirectory, data: TextData) -> None:
    """Writes the vocabulary, which `--vocabulary` reads."""
    _write(run.file(run.vocabulary.name), data.tokenizer.vocabulary)


def _check_vocabulary(run: RunDirectory, data: TextData) -> None:
    try:
        text = run.vocabulary.read_text(encoding="utf-8")
    except OSError:
        return  # stopped before it was written, or not by this script: the weights will tell
    saved = text.split("\n")[:-1]
    if saved != list(data.tokenizer.vocabulary):
        raise _other_vocabulary(run, data, len(saved) + 4)


def _other_vocabulary(run: RunDirectory, data: TextData, saved_size: int) -> InvalidInputError:
    return InvalidInputError(
        f"The vocabulary of {data.name}, {data.tokenizer.vocabulary_size:,} ids, does not match "
        f"that of the model saved in {run.path}, {saved_size:,} ids: the data have changed. "
        "Restore them, or train anew on these in another --output."
    )


def training_set(data: TextData) -> TextData:
    """`data` with the sentences of further files in `x_train`, and without labels."""
    if data.x_unlabelled is None:
        return data
    parts = (data.x_train, data.x_unlabelled)
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(part, [(0, 0), (0, width - part.shape[1])]) for part in parts]
    return dataclasses.replace(data, x_train=np.concatenate(padded), y_train=None)


def finished(run: RunDirectory, settings: TextRunSettings, data: TextData) -> dict | None:
    """`metrics.json` of a run that is resumed and has no step left; None for all others."""
    if not settings.resume or not run.model.is_file():
        return None
    try:
        metrics = files.read_json(run.metrics)
        steps = (metrics["final"] or {}).get("steps")
    except (OSError, ValueError, KeyError):
        return None
    complete = steps == training.num_steps(settings, len(training_set(data).x_train))
    return metrics if complete else None


def saved_model(run: RunDirectory, data: TextData) -> keras.Model:
    """The model of a finished run.

    Raises:
        InvalidInputError: A file that cannot be read, or a model of other words.
    """
    try:
        model = keras.saving.load_model(run.model, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{run.model} cannot be loaded: {error}") from error
    if model.generator.tokenizer.digest != data.tokenizer.digest:
        raise _other_vocabulary(run, data, model.generator.vocabulary_size)
    return model


def saved_log(run: RunDirectory, settings: RunSettings, metrics: dict[str, Any]) -> RunLog:
    """The log of a finished run, to extend its final record with."""
    return RunLog(run.metrics, settings.to_record(), metrics["epochs"])


def schedule_steps(settings: RunSettings, data: TextData, epochs: float) -> int:
    """Training steps of so many epochs."""
    per_epoch = steps_per_epoch(len(training_set(data).x_train), settings.batch_size)
    return round(epochs * per_epoch)


# ---- What is written ----------------------------------------------------------------------


def shown(data: TextData, number: int, split: str = "test") -> np.ndarray:
    """Rows of fixed sentences of a split, spread over a set that may be sorted."""
    total = len(getattr(data, f"x_{split}"))
    return np.linspace(0, total - 1, min(number, total)).astype(int)


def _held_out(data: TextData) -> str:
    return "test" if len(data.x_test) >= 2 else "train"


def write_sentences(
    model: keras.Model, data: TextData, run: RunDirectory, settings: TextRunSettings
) -> None:
    """`samples.txt`, and of a model with latents `reconstructions.txt` and
    `interpolations.txt`."""
    write_samples(model, run, settings.seed)
    if isinstance(model, LanguageModel):
        return
    split = _held_out(data)
    x = getattr(data, f"x_{split}")[shown(data, SHOWN, split)]
    lines = [f"Sentences of the {split} set, and what is written of their latents", ""]
    for original, again in zip(_strings(data, x), model.reconstruct(x), strict=True):
        lines += [f"original        {original}", f"reconstruction  {again}", ""]
    _write(run.file("reconstructions.txt"), lines[:-1])
    write_interpolations(model, data, run, settings, _PATHS)


def write_samples(model: keras.Model, run: RunDirectory, seed: int) -> None:
    """`samples.txt`: sampled words, and of a model with latents the most probable ones too."""
    of_language_model = isinstance(model, LanguageModel)
    if of_language_model:
        ways = {"Words sampled": Sampled()}
    else:
        ways = {
            "Latents from the prior, words sampled": Sampled(),
            "Latents from the prior, each word the most probable one": Greedy(),
        }
    lines = []
    for title, decoding in ways.items():
        sentences = model.generate(SHOWN, seed=seed, decoding=decoding)
        lines += [*_heading(title), *(_visible(s) for s in sentences), ""]
    _write(run.file("samples.txt"), lines[:-1])


def write_interpolations(
    model: keras.Model,
    data: TextData,
    run: RunDirectory,
    settings: TextRunSettings,
    number: int,
) -> int:
    """`interpolations.txt`: paths between posterior means, each word the most probable one.

    Returns:
        How many pairs there are; fewer than `number` where the data have fewer sentences.
    """
    split = _held_out(data)
    x = getattr(data, f"x_{split}")[shown(data, 2 * number, split)]
    number = len(x) // 2
    # The far half, so that neighbours in a sorted set are not paired.
    x_from, x_to = x[:number], x[number : 2 * number]
    ends = [posterior_means(model, part, _CHAINS, settings.seed) for part in (x_from, x_to)]
    written = {}
    for name, spherical in (("straight", False), ("spherical", True)):
        path = networks.latent_path(*ends, _POINTS, spherical)
        rows = model.decode_latents(path.reshape(-1, path.shape[-1]), decoding=Greedy())
        written[name] = rows.reshape(number, _POINTS)
    lines = []
    pairs = zip(_strings(data, x_from), _strings(data, x_to), strict=True)
    for i, (first, last) in enumerate(pairs):
        lines += _heading(f"Pair {i + 1}")
        lines += [f"from  {_visible(first)}", f"to    {_visible(last)}"]
        for name, rows in written.items():
            lines += ["", f"{name} path", *(f"  {_visible(sentence)}" for sentence in rows[i])]
        lines.append("")
    _write(run.file("interpolations.txt"), lines[:-1])
    return number


class LatentView(NamedTuple):
    """Posterior means of held-out sentences."""

    split: str
    rows: np.ndarray
    """Of the split."""
    means: np.ndarray
    """`[N, d]`."""
    active: ActiveUnits
    num_chains: int
    """Behind every mean; 0 where an encoder knows it."""

    def record(self) -> dict[str, Any]:
        """The active units, for `metrics.json`."""
        return {
            "count": self.active.count,
            "of": len(self.active.variances),
            "threshold": self.active.threshold,
            "variances": self.active.variances.tolist(),
            "num_examples": len(self.rows),
            "num_chains": self.num_chains,
        }


def look_at_latents(
    model: keras.Model, data: TextData, settings: TextRunSettings
) -> LatentView | None:
    """Posterior means of `--au-examples` fixed sentences; None for a model without latents, and
    where there are fewer than two sentences."""
    split = _held_out(data)
    rows = shown(data, settings.au_examples, split)
    if isinstance(model, LanguageModel) or len(rows) < 2:
        return None
    x = getattr(data, f"x_{split}")[rows]
    if isinstance(model, VAE):
        means = posterior_means(model, x, 1, settings.seed)
        return LatentView(split, rows, means, active_units(means, means=True), 0)
    at_once = max(1, model.rows_at_once // _CHAINS)
    z = model.infer(x, settings.seed, _CHAINS, batch_size=at_once)
    return LatentView(split, rows, z.mean(axis=1), active_units(z), _CHAINS)


def draw_latents(view: LatentView | None, data: TextData, run: RunDirectory) -> None:
    """`latents.png`: posterior means in the plane, and how much each unit depends on x."""
    if view is None:
        return
    x, y = (getattr(data, f"{name}_{view.split}") for name in "xy")
    values, name = (lengths(x), "words") if y is None else (y, "label")
    active = view.active
    plots.save_latents(
        run.picture("latents"),
        *(view.means, values[view.rows], name),
        active.variances,
        active.threshold,
    )


def posterior_means(model: keras.Model, x: np.ndarray, num_chains: int, seed: int) -> np.ndarray:
    """`model.features`, few enough rows at a time for a large vocabulary."""
    rows = max(1, model.rows_at_once // num_chains)
    return model.features(x, num_chains, seed, batch_size=rows)


def _strings(data: TextData, x: np.ndarray) -> list[str]:
    return [row.decode() for row in data.tokenizer.detokenize(x).numpy()]


def _heading(title: str) -> list[str]:
    return [title, "-" * len(title)]


def _visible(sentence: str) -> str:
    return sentence or "(no words)"


def _write(path: pathlib.Path, lines: Iterable[str] | Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    files.replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

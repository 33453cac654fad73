"""Files that `text.py` writes, and how it takes a finished run up again."""

import pathlib
import zipfile
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from experiments.text_data import held_out, other_vocabulary, shown, training_set
from experiments.text_latents import CHAINS, posterior_means
from experiments.text_settings import Settings
from tfebm import files
from tfebm.callbacks import RunLog
from tfebm.data import TextData
from tfebm.errors import InvalidInputError
from tfebm.generators import Greedy, Sampled
from tfebm.models import networks
from tfebm.runs import RunDirectory, training

SHOWN = 20  # sentences of each kind in the text files
_PATHS, _POINTS = 5, 8  # pairs that every run interpolates, and sentences on a path


def begin(run: RunDirectory, data: TextData) -> None:
    """Writes the vocabulary, which `--vocabulary` reads."""
    _write(run.file(run.vocabulary.name), data.tokenizer.vocabulary)


def finished(run: RunDirectory, settings: Settings, data: TextData) -> dict | None:
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
        raise other_vocabulary(run, data, model.generator.vocabulary_size)
    return model


def saved_log(run: RunDirectory, settings: Settings, metrics: dict[str, Any]) -> RunLog:
    """The log of a finished run, to extend its final record with."""
    return RunLog(run.metrics, settings.to_record(), metrics["epochs"])


def write_sentences(
    model: keras.Model, data: TextData, run: RunDirectory, settings: Settings
) -> None:
    """`samples.txt`, and of a model with latents `reconstructions.txt` and
    `interpolations.txt`."""
    write_samples(model, run, settings)
    if not settings.has_latents:
        return
    split = held_out(data)
    x = getattr(data, f"x_{split}")[shown(data, SHOWN, split)]
    lines = [f"Sentences of the {split} set, and what is written of their latents", ""]
    for original, again in zip(_strings(data, x), model.reconstruct(x), strict=True):
        lines += [f"original        {original}", f"reconstruction  {again}", ""]
    _write(run.file("reconstructions.txt"), lines[:-1])
    write_interpolations(model, data, run, settings, _PATHS)


def write_samples(model: keras.Model, run: RunDirectory, settings: Settings) -> None:
    """`samples.txt`: sampled words, and of a model with latents the most probable ones too."""
    ways = {"Words sampled": Sampled()}
    if settings.has_latents:
        ways = {
            "Latents from the prior, words sampled": Sampled(),
            "Latents from the prior, each word the most probable one": Greedy(),
        }
    lines = []
    for title, decoding in ways.items():
        sentences = model.generate(SHOWN, seed=settings.seed, decoding=decoding)
        lines += [*_heading(title), *(_visible(s) for s in sentences), ""]
    _write(run.file("samples.txt"), lines[:-1])


def write_interpolations(
    model: keras.Model,
    data: TextData,
    run: RunDirectory,
    settings: Settings,
    number: int,
) -> int:
    """`interpolations.txt`: paths between posterior means, each word the most probable one.

    Returns:
        How many pairs there are; fewer than `number` where the data have fewer sentences.
    """
    split = held_out(data)
    x = getattr(data, f"x_{split}")[shown(data, 2 * number, split)]
    number = len(x) // 2
    # The far half, so that neighbours in a sorted set are not paired.
    x_from, x_to = x[:number], x[number : 2 * number]
    ends = [posterior_means(model, part, CHAINS, settings.seed) for part in (x_from, x_to)]
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


def _strings(data: TextData, x: np.ndarray) -> list[str]:
    return [row.decode() for row in data.tokenizer.detokenize(x).numpy()]


def _heading(title: str) -> list[str]:
    return [title, "-" * len(title)]


def _visible(sentence: str) -> str:
    return sentence or "(no words)"


def _write(path: pathlib.Path, lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    files.replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

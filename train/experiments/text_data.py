"""The sentences of `text.py`: what is read, learned from, and shown."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import TYPE_CHECKING

from experiments.text_settings import LABEL_COUNTS, Settings
from tfebm import runs
from tfebm.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np

    from tfebm.data import TextData
    from tfebm.runs import RunDirectory

_NOT_INCLUDED = {
    "ptb": "Penn Treebank",
    "yelp": "short Yelp sentences, with label<TAB>sentence lines",
}


def load(settings: Settings) -> TextData:
    """The sentences of a run, the same words as before where it goes on with one.

    Raises:
        InvalidInputError: As `read_text`; a preset whose data do not come with the package; a
            vocabulary that is not that of the run's model.
    """
    corpus = _NOT_INCLUDED.get(settings.dataset)
    if corpus and not pathlib.Path(settings.dataset).exists():
        raise InvalidInputError(
            f"--preset {settings.dataset} needs --dataset: a folder with train.txt, valid.txt and "
            f"test.txt (.gz too) of the {corpus}, which cannot be downloaded from here."
        )
    data = read_text(settings)
    if settings.resume:
        _check_vocabulary(runs.RunDirectory(pathlib.Path(settings.output)), data)
    return data


def _check_vocabulary(run: RunDirectory, data: TextData) -> None:
    try:
        text = run.vocabulary.read_text(encoding="utf-8")
    except OSError:
        return  # stopped before it was written, or not by this script: the weights will tell
    saved = text.split("\n")[:-1]
    if saved != list(data.tokenizer.vocabulary):
        raise other_vocabulary(run, data, len(saved) + 4)


def other_vocabulary(run: RunDirectory, data: TextData, saved_size: int) -> InvalidInputError:
    return InvalidInputError(
        f"The vocabulary of {data.name}, {data.tokenizer.vocabulary_size:,} ids, does not match "
        f"that of the model saved in {run.path}, {saved_size:,} ids: the data have changed. "
        "Restore them, or train anew on these in another --output."
    )


def read_text(settings: Settings) -> TextData:
    """The sentences of the settings, with labels where the task needs them.

    Raises:
        InvalidInputError: As `load_text`; no labels, or fewer than are asked for.
    """
    if settings.unlabelled is not None and not settings.unlabelled.strip(", "):
        raise InvalidInputError(
            f"--unlabelled must be files, with commas between. Received {settings.unlabelled!r}."
        )
    from tfebm.data import load_text  # behind the flags: it imports TensorFlow

    extra = [part.strip() for part in (settings.unlabelled or "").split(",") if part.strip()]
    labels = settings.labels or settings.needs_labels
    try:
        data = load_text(
            settings.dataset,
            max_length=settings.max_length,
            too_long=settings.too_long,
            labels=labels,
            max_vocabulary=settings.max_vocabulary,
            min_count=settings.min_count,
            vocabulary=settings.vocabulary,
            split=settings.split,
            wordpieces=settings.wordpieces,
            unlabelled=extra,
            data_dir=settings.data_dir,
            text_feature=settings.text_feature,
            seed=settings.seed,
        )
    except InvalidInputError as error:
        why = "" if settings.labels or not labels else f"--task {settings.task} needs labels. "
        raise InvalidInputError(why + _in_flags(str(error))) from None
    if settings.needs_labels:
        _check_labels(settings, data)
    return data


def _in_flags(message: str) -> str:
    """A message about arguments of `load_text`, about the flags of the same names."""
    names = {field.name for field in dataclasses.fields(Settings)}

    def flagged(match: re.Match) -> str:
        return f"--{match[1].replace('_', '-')}" if match[1] in names else match[0]

    return re.sub(r"`([a-z_]+)(?:=True)?`", flagged, message)


def _check_labels(settings: Settings, data: TextData) -> None:
    for split in ("train", "valid", "test"):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        if y is None or not len(x):
            raise InvalidInputError(
                f"--task {settings.task} needs labelled sentences to train, validate and test "
                f"with. {data.name} has none to {split}. Give a set with label<TAB>sentence "
                "lines in each of its splits, or another --task."
            )
    if len(set(data.y_train.tolist())) < 2:
        raise InvalidInputError(
            f"--task {settings.task} needs at least two classes. The labels of {data.name} are all "
            f"{data.y_train[0]}. Give another set, or another --task."
        )
    if settings.task == "cluster":
        classes = len(set(data.y_train.tolist()))
        if 0 < settings.task_examples < classes:
            raise InvalidInputError(
                f"--task-examples must be at least the {classes} classes of {data.name}, or 0 for "
                f"all sentences. Received {settings.task_examples}."
            )
        return
    largest = max(settings.counts or (0,))
    if largest > len(data.y_train):
        raise InvalidInputError(
            f"--label-counts must be at most the labelled training sentences of {data.name}, "
            f"{len(data.y_train)}. Received {largest}."
        )
    least = min(label_counts(settings, data))
    for seed in range(settings.task_seeds):
        if len(set(data.y_train[labelled_rows(data, least, seed)].tolist())) < 2:
            raise InvalidInputError(
                f"{least} labels are too few for a classifier: with seed {seed} all of them are "
                "of one class. Give larger --label-counts, or fewer --task-seeds."
            )


def labelled_rows(data: TextData, number: int, seed: int) -> np.ndarray:
    """Rows of the training set in a random order, the first `number` of them."""
    import numpy as np

    return np.random.default_rng(seed).permutation(len(data.y_train))[:number]


def label_counts(settings: Settings, data: TextData) -> tuple[int, ...]:
    """The numbers of labels to classify with: those asked for, or those usual that there are."""
    if settings.counts:
        return settings.counts
    there = tuple(count for count in LABEL_COUNTS if count <= len(data.y_train))
    return there or (len(data.y_train),)


def training_set(data: TextData) -> TextData:
    """`data` with the sentences of further files in `x_train`, and without labels."""
    if data.x_unlabelled is None:
        return data
    import numpy as np

    parts = (data.x_train, data.x_unlabelled)
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(part, [(0, 0), (0, width - part.shape[1])]) for part in parts]
    return dataclasses.replace(data, x_train=np.concatenate(padded), y_train=None)


def shown(data: TextData, number: int, split: str = "test") -> np.ndarray:
    """Rows of fixed sentences of a split, spread over a set that may be sorted."""
    import numpy as np

    total = len(getattr(data, f"x_{split}"))
    return np.linspace(0, total - 1, min(number, total)).astype(int)


def held_out(data: TextData) -> str:
    """The split whose sentences are shown: test, or train where that is empty."""
    return "test" if len(data.x_test) >= 2 else "train"

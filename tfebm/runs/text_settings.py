"""Flags of what a text run reads, and of what it does beside training."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, ClassVar

from tfebm.errors import InvalidInputError
from tfebm.runs.settings import RunSettings, flag

if TYPE_CHECKING:
    import numpy as np

    from tfebm.data import TextData

TASKS = ("generate", "classify", "cluster", "interpolate")
LABEL_COUNTS = (100, 500, 1000, 2000, 10_000)


@dataclasses.dataclass(frozen=True)
class _TextSource:
    # A base of its own: fields of the last base are the first flags.
    GROUP: ClassVar[str] = "data"

    dataset: str = flag(
        "grammar",
        "sentences: grammar, a text set of TensorFlow Datasets, a file with one a line, or a "
        "folder with train.txt, valid.txt, test.txt (packed with gzip or not)",
        metavar="NAME|PATH",
        path=True,
        names=("grammar",),
    )
    max_length: int = flag(64, "most words of a sentence, its end included", least=2, most=10**5)
    too_long: str = flag("cut", "what happens to longer ones", choices=("cut", "skip"))
    labels: bool = flag(
        False, "lines are label<TAB>sentence; labels are never trained on, only for --task"
    )
    vocabulary: str | None = flag(
        None,
        "file with a word a line (default: learned from the data)",
        type=str,
        metavar="FILE",
        path=True,
    )
    max_vocabulary: int | None = flag(
        None, "most ids of a learned one, 4 special ones included", type=int, least=5
    )
    min_count: int = flag(1, "words seen less often are unknown", least=1)
    split: str = flag(
        "whitespace",
        "how a line falls into words; words: lower-cased, punctuation apart",
        choices=("whitespace", "words"),
    )
    wordpieces: bool = flag(False, "pieces of words instead, with tensorflow-text")
    unlabelled: str | None = flag(
        None, "further files to train on", type=str, metavar="FILE,FILE", path="several"
    )
    text_feature: str | None = flag(
        None, "which text of a set that has several", type=str, metavar="NAME", before=None
    )


@dataclasses.dataclass(frozen=True)
class TextRunSettings(RunSettings, _TextSource):
    """What a script that learns sentences has: its data, and what it measures and writes.

    What it does beside training is operational: a finished run can be asked for more.
    """

    GROUP: ClassVar[str] = "task"

    task: str = flag("generate", "done with the trained model", choices=TASKS, operational=True)
    chains: int = flag(
        20,
        "chains whose mean is a feature, of tasks with labels",
        least=1,
        most=10**6,
        operational=True,
    )
    label_counts: str | None = flag(
        None,
        "labels that classifiers see (default: "
        f"{','.join(map(str, LABEL_COUNTS))}, as far as there are so many)",
        type=str,
        metavar="N,N",
        operational=True,
    )
    task_seeds: int = flag(
        10,
        "repetitions of classify and cluster, for the spread",
        least=2,
        most=10**4,
        operational=True,
    )
    task_examples: int = flag(
        0,
        "most validation and most test sentences of classify and cluster, and of cluster's "
        "training ones (0: all)",
        least=0,
        operational=True,
    )
    interpolations: int = flag(
        20, "pairs of sentences of --task interpolate", least=1, operational=True
    )
    evidence: str = flag(
        "laplace",
        "bound on the likelihood: by importance samples around the chains' ends (laplace), or "
        "through the short-run map and its determinant, of the model's own chain, of that with "
        "step sizes halved until nine of ten validation sentences have a bound (scaled), or of one "
        "tuned on those for the best bound",
        choices=("laplace", "own", "scaled", "tuned"),
        operational=True,
    )
    evidence_examples: int = flag(
        64,
        "test sentences of the bound, and of lm's likelihood to compare it with (0: none)",
        least=0,
        operational=True,
    )
    evidence_chains: int = flag(
        4,
        "chains of each of them; those of a map are its importance samples",
        least=1,
        most=10**6,
        operational=True,
    )
    evidence_samples: int = flag(
        100, "importance samples of laplace", least=2, most=10**6, operational=True
    )
    au_examples: int = flag(
        500, "test sentences of latents.png and of the active units", least=2, operational=True
    )
    quality: int = flag(
        0,
        "sentences to generate for forward and reverse perplexity (0: none)",
        least=0,
        operational=True,
    )
    quality_epochs: int = flag(
        10, "passes of the language models that judge them", least=1, operational=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.xla:
            raise InvalidInputError("--xla cannot compile strings. Leave it out.")
        _ = self.counts

    @property
    def needs_labels(self) -> bool:
        """Whether the task does."""
        return self.task in ("classify", "cluster")

    @property
    def counts(self) -> tuple[int, ...] | None:
        """`--label-counts` as numbers; None where it was not given."""
        if self.label_counts is None:
            return None
        parts = [part.strip() for part in self.label_counts.split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise InvalidInputError(
                "--label-counts must be whole numbers of at least 1, with commas between. Received "
                f"{self.label_counts!r}."
            )
        return tuple(sorted({int(part) for part in parts}))


def read_text(settings: TextRunSettings) -> TextData:
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
    names = {field.name for field in dataclasses.fields(TextRunSettings)}

    def flagged(match: re.Match) -> str:
        return f"--{match[1].replace('_', '-')}" if match[1] in names else match[0]

    return re.sub(r"`([a-z_]+)(?:=True)?`", flagged, message)


def _check_labels(settings: TextRunSettings, data: TextData) -> None:
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


def label_counts(settings: TextRunSettings, data: TextData) -> tuple[int, ...]:
    """The numbers of labels to classify with: those asked for, or those usual that there are."""
    if settings.counts:
        return settings.counts
    there = tuple(count for count in LABEL_COUNTS if count <= len(data.y_train))
    return there or (len(data.y_train),)

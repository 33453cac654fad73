"""Sentences from files and from TensorFlow Datasets, with their labels."""

import dataclasses
import difflib
import gzip
import pathlib
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfebm.errors import InvalidInputError
from tfebm.files import local_path

SUFFIXES = (".txt", ".txt.gz")
# Of TensorFlow Datasets; any other of its names that has a text is taken as well.
TFDS_NAMES = ("snli", "imdb_reviews", "ag_news_subset", "lm1b", "yelp_polarity_reviews")
_LABEL = re.compile(r"\s*(-?\d+)\t")
_LARGEST_LABEL = 2**31 - 1
_HOLD_OUT = 10  # where there is no split for it, every tenth line is held out
_REPEATED = "premise"  # of pairs of sentences: TensorFlow Datasets has it once for each pair


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Lines of a split, in their order; empty ones are there still."""

    lines: Sequence[str]
    labels: Sequence[int] | None = None
    duplicates: int = 0
    """Repetitions that were left out already."""

    def rows(self, keep: np.ndarray) -> "Sentences":
        """Those where `keep`, `[N]`, is true."""
        rows = np.flatnonzero(keep)
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        return Sentences([self.lines[row] for row in rows], labels)


Splits = dict[str, Sentences]
"""Of "train", "valid" and "test"."""


def load_splits(source: str, labels: bool, data_dir: str | None) -> tuple[str, Splits]:
    """A name, and the splits of a folder, a file, or a set of TensorFlow Datasets."""
    path = local_path(source, "The data set").expanduser()
    if path.is_dir():
        return path.resolve().name, _load_folder(path, labels)
    if path.is_file():
        return _stem(path), hold_out({"train": read_sentences(path, labels)})
    # "glue/sst2" is a name; a path has a suffix, or a folder that exists.
    in_folder = len(path.parts) > 1 and path.parent.is_dir()
    if in_folder or path.is_absolute() or path.name.endswith((*SUFFIXES, ".gz")):
        raise _missing(path)
    return source, _load_tfds(source, labels, data_dir)


def hold_out(splits: Splits) -> Splits:
    """Splits that are missing are held out of the training lines, whole tens of them.

    Both missing: lines 10, 30, 50, ... validate and 20, 40, 60, ... test. One missing: every
    tenth line.
    """
    missing = [split for split in ("valid", "test") if split not in splits]
    if not missing:
        return splits
    train = splits["train"]
    number = np.arange(1, len(train.lines) + 1)
    held = number % _HOLD_OUT == 0
    turn = (number // _HOLD_OUT - 1) % len(missing)
    parts = {split: train.rows(held & (turn == i)) for i, split in enumerate(missing)}
    kept = dataclasses.replace(train.rows(~held), duplicates=train.duplicates)
    return {**splits, **parts, "train": kept}


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file, UTF-8, unpacked where it ends in `.gz`.

    Raises:
        InvalidInputError: A file that is missing, empty, damaged, or not UTF-8.
    """
    if not path.is_file():
        raise _missing(path)
    lines = []
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for line in file:
                lines.append(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path} must be UTF-8. Line {len(lines) + 1} is not ({error.reason}). Convert the "
            "file, or repair the line."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInputError(
            f"{path} cannot be read: {error}. Give a text file, or one packed with gzip whose "
            "name ends in .gz."
        ) from None
    if not lines:
        raise InvalidInputError(f"{path} is empty. A file of sentences, one a line, is needed.")
    lines[0] = lines[0].removeprefix("\ufeff")  # the mark some editors put first
    return lines


def read_sentences(path: pathlib.Path, labels: bool | None) -> Sentences:
    """The sentences of a file, one a line.

    Args:
        path: Of the file.
        labels: Whether lines are `label<TAB>sentence`. None: they may be, and labels are dropped.

    Raises:
        InvalidInputError: Lines that are not as `labels` says, or a file that cannot be read.
    """
    lines = read_lines(path)
    first = next((line for line in lines if line.strip()), "")
    labelled = _LABEL.match(first) is not None
    if not labels and not labelled:
        return Sentences(lines)
    if labels is False:
        raise InvalidInputError(
            f"{path} has labels: its first line is {_shown(first)}. Ask for them with "
            "`labels=True`, or remove the column."
        )
    sentences, numbers = [], []
    for number, line in enumerate(lines, 1):
        match = _LABEL.match(line)
        if match is None and line.strip():
            raise InvalidInputError(
                f"{path}: a line must be a whole number, a tab and a sentence. Received "
                f"{_shown(line)} in line {number}. Repair it"
                + (", or do not ask for labels." if labels else ".")
            )
        label = int(match[1]) if match else 0  # of an empty line, which is left out
        if abs(label) > _LARGEST_LABEL:
            raise InvalidInputError(
                f"{path}: a label must be within +-{_LARGEST_LABEL}. Received {label} in line "
                f"{number}. Number the classes from 0 on."
            )
        sentences.append(line[match.end() :] if match else "")
        numbers.append(label)
    return Sentences(sentences, numbers if labels else None)


def _load_folder(path: pathlib.Path, labels: bool) -> Splits:
    splits = {}
    for split in ("train", "valid", "test"):
        files = [path / f"{split}{suffix}" for suffix in SUFFIXES]
        file = next((file for file in files if file.is_file()), None)
        if file is not None:
            splits[split] = read_sentences(file, labels)
    if "train" not in splits:
        inside = sorted(file.name for file in path.iterdir())
        raise InvalidInputError(
            f"The folder {path} must hold train.txt or train.txt.gz (and may hold valid and test "
            f"alike). It holds {', '.join(inside[:8]) or 'nothing'}"
            f"{', ...' if len(inside) > 8 else ''}."
        )
    return hold_out(splits)


def _load_tfds(name: str, labels: bool, data_dir: str | None) -> Splits:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise InvalidInputError(_unknown(name, tfds.list_builders())) from None
    except Exception as error:  # a registry that cannot be reached raises what its client raises
        if name not in TFDS_NAMES:
            raise InvalidInputError(_unknown(name, TFDS_NAMES)) from None
        raise InvalidInputError(_not_loaded(name, error)) from None
    feature = _text_feature(name, builder.info.features or {}, labels)
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise InvalidInputError(_not_loaded(name, error)) from None
    splits = {
        ours: _read_tfds(builder, theirs, feature, labels)
        for ours, theirs in (("train", "train"), ("valid", "validation"), ("test", "test"))
        if theirs in builder.info.splits
    }
    if "train" not in splits:
        raise InvalidInputError(
            f"The data set {name!r} of TensorFlow Datasets has no split 'train'. It has "
            f"{', '.join(builder.info.splits) or 'none'}. Choose another one."
        )
    return hold_out(splits)


def _text_feature(name: str, features: Any, labels: bool) -> str:
    texts = [key for key, value in features.items() if value.tf_dtype == "string"]
    if not texts:
        raise InvalidInputError(
            f"The data set {name!r} of TensorFlow Datasets has no feature that is a text. It has "
            f"{', '.join(features) or 'none'}. Choose one of sentences."
        )
    feature = "text" if "text" in texts else texts[0]
    if labels and (feature == _REPEATED or "label" not in features):
        reason = "a label for each pair of sentences" if "label" in features else "no labels"
        raise InvalidInputError(
            f"The data set {name!r} of TensorFlow Datasets has {reason}. Do not ask for labels, "
            "or choose another set."
        )
    return feature


def _read_tfds(builder: Any, split: str, feature: str, labels: bool) -> Sentences:
    lines, numbers = [], []
    for example in builder.as_dataset(split=split).as_numpy_iterator():
        lines.append(example[feature].decode("utf-8", "replace"))
        numbers.append(int(example["label"]) if labels else 0)
    if feature != _REPEATED:
        return Sentences(lines, numbers if labels else None)
    distinct = list(dict.fromkeys(lines))
    return Sentences(distinct, None, len(lines) - len(distinct))


def _stem(path: pathlib.Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".txt")


def _shown(line: str) -> str:
    line = line.rstrip("\r\n")
    return repr(line if len(line) <= 40 else f"{line[:37]}...")


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _missing(path: pathlib.Path) -> InvalidInputError:
    folder = path.parent
    hint = _near(path.name, (p.name for p in folder.iterdir())) if folder.is_dir() else ""
    return InvalidInputError(
        f"There is no file or folder {str(path)!r}.{hint} Give the path of a text file, or of a "
        "folder with train.txt or train.txt.gz."
    )


def _unknown(name: str, known: Iterable[str]) -> str:
    return (
        f"There is no data set, file or folder {name!r}.{_near(name, ['grammar', *known])} Give "
        f"{', '.join(('grammar', *TFDS_NAMES))}, another text set of TensorFlow Datasets, a text "
        "file, or a folder with train.txt."
    )


def _not_loaded(name: str, error: Exception) -> str:
    return (
        f"The data set {name!r} of TensorFlow Datasets could not be loaded: "
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} Prepare it "
        "where there is a network and give its folder as the data folder, or use 'grammar' or a "
        "text file."
    )

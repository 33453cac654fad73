"""Sentences from files and folders, with their labels."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfebm.data import parts, sentences
from tfebm.errors import InvalidInputError, near
from tfebm.files import check_readable_path, printable
from tfebm.types import Array

SUFFIXES = (".txt", ".text")
"""Of files in a folder, packed ones with `.gz` behind."""
_LARGEST_LABEL = 2**31 - 1
_HOLD_OUT_SEED = 20_260_101  # not the run's: all runs on a file are measured on the same lines
_SHOWN = 5  # lines that cannot be used, in a message
_NEEDED = "A text file, UTF-8, with one sentence a line is needed."


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Lines of a split, in their order; empty ones are there still."""

    lines: Sequence[str]
    labels: Sequence[int] | None = None
    duplicates: int = 0
    """Repetitions that were left out already."""

    def rows(self, rows: Array) -> "Sentences":
        """Those of the row numbers `rows`."""
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        return Sentences([self.lines[row] for row in rows], labels)


Splits = dict[str, Sentences]
"""Of "train", "valid" and "test"."""


def hold_out(splits: Splits) -> Splits:
    """Splits that are missing are drawn from the training lines, a tenth of those not empty.

    The draw is the same in every run, whatever its seed, and each class gives its share. Both
    missing: half of the tenth validates, and the other half tests.
    """
    missing = [split for split in ("valid", "test") if split not in splits]
    if not missing:
        return splits
    train = splits["train"]
    full = np.array([row for row, line in enumerate(train.lines) if line], np.int64)
    drawn = parts.tenth(full, train.labels, _HOLD_OUT_SEED)
    new = {name: train.rows(np.sort(drawn[i :: len(missing)])) for i, name in enumerate(missing)}
    rest = np.setdiff1d(np.arange(len(train.lines)), drawn)
    kept = dataclasses.replace(train.rows(rest), duplicates=train.duplicates)
    return {**splits, **new, "train": kept}


class Folder(NamedTuple):
    """What a folder of text files holds."""

    splits: Splits
    files: list[pathlib.Path]
    """Of the splits."""
    others: list[str]
    """Names in it that are not read."""


def load_folder(path: pathlib.Path, labels: bool) -> Folder:
    """The splits of a folder."""
    files: dict[str, pathlib.Path] = {}
    others = []
    for file in sorted(path.iterdir()):
        if file.name.startswith("."):
            continue
        split = _split_of(file.name) if file.is_file() else None
        if split is None:
            others.append(file.name)
        elif split in files:
            raise InvalidInputError(
                f"The folder {printable(path)} has two files for one split: "
                f"{printable(files[split].name)} and {printable(file.name)}. Leave one of "
                "them there, or join them."
            )
        else:
            files[split] = file
    if "train" not in files:
        held = listed([*(file.name for file in files.values()), *others], 8)
        raise InvalidInputError(
            f"The folder {printable(path)} must hold train.txt or train.txt.gz (and may hold "
            f"valid and test alike). It holds {held or 'nothing'}. Name the file to learn from "
            "so, or give its path instead of the folder's."
        )
    for one, other in itertools.combinations(files, 2):
        if files[one].samefile(files[other]):
            learned = "train" in (one, other)
            remedy = ", and a tenth of the lines is held out" if learned else ""
            raise InvalidInputError(
                f"In the folder {printable(path)} {printable(files[one].name)} and "
                f"{printable(files[other].name)} are one file, by a link: what is "
                f"{'learned' if learned else 'chosen by'} would be tested. Remove one of "
                f"them{remedy}."
            )
    order: list[str] = [split for split in ("train", "valid", "test") if split in files]
    splits = {split: read_sentences(files[split], labels) for split in order}
    return Folder(splits, [files[split] for split in order], others)


def _split_of(name: str) -> str | None:
    name = name.lower().removesuffix(".gz")
    stem = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), None)
    return parts.NAMES.get(stem or "")


def read_lines(path: pathlib.Path, labels: bool | None = False, table: bool = True) -> list[str]:
    """The lines of a text file as `tfebm.data.sentences` divides and cleans them, not yet cut.

    Args:
        path: Of the file, UTF-8, packed with gzip or not.
        labels: Whether lines are `label<TAB>sentence`. None: they may be.
        table: Whether a table is refused.

    Raises:
        InvalidInputError: A file that is missing, empty, damaged, of another kind, or with lines
            that are not UTF-8.
    """
    check_readable_path(path)
    if not path.is_file():
        raise missing(path)
    lines, bad = [], []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(sentences.read_lines(file, labels, table), 1):
                try:
                    lines.append(sentences.decode(line))
                except sentences.NotTextError as error:
                    bad.append((number, str(error)))
    except sentences.NotSentencesError as error:
        asked = ", or ask for its labels with `labels=True`"
        more = asked if isinstance(error, sentences.LabelledError) else ""
        raise InvalidInputError(
            f"{printable(path)} is {error.what}. {_NEEDED} {error.do}{more}."
        ) from None
    except sentences.DAMAGED as error:
        raise InvalidInputError(
            f"{printable(path)} cannot be read: {error}. {_NEEDED} It may be packed with gzip; "
            "copy or download it again if it is damaged."
        ) from None
    if bad:
        raise InvalidInputError(
            f"{printable(path)} must be UTF-8. {_these_lines(bad)}. Repair "
            f"{'it' if len(bad) == 1 else 'them'}, or convert the file from its encoding, such as "
            "CP1252, CP1251, GB18030 or SHIFT_JIS: iconv -f CP1252 -t UTF-8 FILE > sentences.txt, "
            "for one."
        )
    if not lines:
        raise InvalidInputError(f"{printable(path)} is empty. {_NEEDED} Give another one.")
    return lines


def read_sentences(path: pathlib.Path, labels: bool | None) -> Sentences:
    """The sentences of a file, one a line.

    Args:
        path: Of the file.
        labels: Whether lines are `label<TAB>sentence`. None: they may be, and labels are dropped.

    Raises:
        InvalidInputError: Lines that are not as `labels` says, or a file that cannot be read.
    """
    lines = read_lines(path, labels)
    first = next((line for line in lines if line.strip()), "")
    if not labels and sentences.LABEL.match(first) is None:
        return Sentences([sentences.sentence(line) for line in lines])
    texts, numbers, bad = [], [], []
    for number, line in enumerate(lines, 1):
        match = sentences.LABEL.match(line)
        label = _label(match[1]) if match else 0  # of an empty line, which is left out
        if match is None and sentences.sentence(line):
            bad.append((number, f"is {_quoted(line)}"))
        elif match and abs(label) > _LARGEST_LABEL:
            bad.append(
                (number, f"has the label {_short(match[1])}, above {_LARGEST_LABEL} in size")
            )
        texts.append(sentences.sentence(line[match.end() :]) if match else "")
        numbers.append(label)
    if bad:
        raise InvalidInputError(
            f"{printable(path)}: a line must be a whole number, a tab and a sentence. "
            f"{_these_lines(bad)}. Number the classes, from 0 on, and repair "
            f"{'it' if len(bad) == 1 else 'them'}"
            + (", or do not ask for labels." if labels else ".")
        )
    return Sentences(texts, numbers if labels else None)


def _label(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python does not read thousands of digits
        return _LARGEST_LABEL + 1


# ---- Words of messages --------------------------------------------------------------------


def stem(path: pathlib.Path) -> str:
    """The name of a file without what says its kind."""
    name = path.name.removesuffix(".gz")
    return printable(next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name))


def listed(names: Sequence[str], most: int = _SHOWN) -> str:
    """Names with commas between, the first ones of many."""
    return ", ".join(map(printable, names[:most])) + (", ..." if len(names) > most else "")


def missing(path: pathlib.Path) -> InvalidInputError:
    """That there is no such file."""
    if path.is_dir():
        return InvalidInputError(
            f"{printable(path)} is a folder, and one file is needed here. Give the path of a "
            "text file."
        )
    folder = path.parent
    hint = near(path.name, (p.name for p in folder.iterdir())) if folder.is_dir() else ""
    return InvalidInputError(
        f"There is no file or folder {printable(path)!r}.{hint} Give the path of a text file, or "
        "of a folder with train.txt or train.txt.gz."
    )


def _these_lines(bad: Sequence[tuple[int, str]]) -> str:
    said = "; ".join(f"line {number} {_about(why)}" for number, why in bad[:_SHOWN])
    more = f"; and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
    return said[:1].upper() + said[1:] + more


def _about(why: str) -> str:
    return why.removeprefix("it ")


def _quoted(line: str) -> str:
    return repr(_short(line.rstrip("\r\n")))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."

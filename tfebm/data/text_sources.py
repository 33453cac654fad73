"""Sentences by the name of what holds them: a file, a folder, a set of TensorFlow Datasets."""

import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from tfebm.data import parts, sentences, text_files, tfds
from tfebm.data.text_files import Sentences, Splits
from tfebm.errors import InvalidInputError, near
from tfebm.files import check_readable_path, local_path, printable

TFDS_NAMES = ("snli", "imdb_reviews", "ag_news_subset", "lm1b", "yelp_polarity_reviews")
"""Of TensorFlow Datasets; any other of its names that has a text is taken as well."""
_INSTEAD = "'grammar' or a text file"
_REPEATED = "premise"  # of pairs of sentences: TensorFlow Datasets has it once for each pair
# What is read where there are several texts and none is named.
_PREFERRED = ("text", "sentence", _REPEATED, "description")
# name, name/config, name:version, name/config:version; a path may look alike.
_TFDS_NAME = re.compile(r"\w+(/[\w.+-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?")


class Source(NamedTuple):
    """What a name stands for."""

    name: str
    splits: Splits
    remarks: tuple[str, ...] = ()
    """What was chosen or left out, for a person."""
    files: tuple[pathlib.Path, ...] = ()
    """That were read, where there are any."""


def load_splits(
    source: str, labels: bool, data_dir: str | None, text_feature: str | None = None
) -> Source:
    """The splits of a folder, a file, or a set of TensorFlow Datasets; missing ones held out."""
    path = local_path(source, "The data set").expanduser()
    check_readable_path(path)
    files: list[pathlib.Path] = []
    remarks: list[str] = []
    if text_feature is not None and path.exists():
        raise InvalidInputError(
            "`text_feature` names one of several texts of a set of TensorFlow Datasets. "
            f"{printable(path)} is a file or a folder; leave it out."
        )
    if path.is_dir():
        splits, files, others = text_files.load_folder(path, labels)
        remarks = [f"not read: {text_files.listed(others)}"] if others else []
        name = printable(path.resolve().name)
    elif path.is_file():
        name, files = text_files.stem(path), [path]
        splits = {"train": text_files.read_sentences(path, labels)}
    else:
        in_folder = len(path.parts) > 1 and path.parent.is_dir()
        endings = (*text_files.SUFFIXES, ".gz")
        if not _TFDS_NAME.fullmatch(source) or path.name.endswith(endings):
            if in_folder or path.is_absolute() or path.name.endswith(endings):
                raise text_files.missing(path)
            raise _unknown(source)
        name = source
        splits, remarks = _load_tfds(source, labels, data_dir, text_feature, in_folder)
    drawn = [split for split in ("valid", "test") if split not in splits]
    splits = text_files.hold_out(splits)
    if drawn:
        remarks = [*_of_drawn(splits, drawn), *remarks]
    if not labels:
        splits = {part: Sentences(s.lines, None, s.duplicates) for part, s in splits.items()}
    return Source(name, splits, tuple(remarks), tuple(files))


def _of_drawn(splits: Splits, drawn: list[str]) -> list[str]:
    """What became of the parts that were to be drawn."""
    some = [split for split in drawn if splits[split].lines]
    none = [split for split in drawn if not splits[split].lines]
    said = [f"{' and '.join(some)} drawn from the training sentences"] if some else []
    return [*said, *([f"too few sentences to draw {' and '.join(none)}"] if none else [])]


# ---- TensorFlow Datasets ------------------------------------------------------------------


def _load_tfds(
    name: str, labels: bool, data_dir: str | None, text_feature: str | None, in_folder: bool
) -> tuple[Splits, list[str]]:
    def unknown(names: Iterable[str]) -> InvalidInputError:
        return text_files.missing(pathlib.Path(name)) if in_folder else _unknown(name, names)

    builder = tfds.find(name, data_dir, _INSTEAD, unknown)
    feature, remarks = _text_feature(name, builder.info.features, labels, text_feature)
    tfds.prepare(builder, name, _INSTEAD)
    found: dict[str, str] = {}
    there = {split.lower(): split for split in builder.info.splits}
    for word, part in parts.NAMES.items():
        if word in there:
            found.setdefault(part, there[word])
    if "train" not in found:
        raise InvalidInputError(
            f"The data set {name!r} of TensorFlow Datasets has no split 'train' to learn from. It "
            f"has {', '.join(builder.info.splits) or 'none'}. Choose another set, or write the "
            "sentences to learn from into a text file."
        )
    try:
        splits = {
            ours: _read_tfds(builder, theirs, feature, labels) for ours, theirs in found.items()
        }
    except Exception as error:  # files that are damaged, or of another version
        raise tfds.not_loaded(name, error, _INSTEAD) from None
    return splits, remarks


def _text_feature(
    name: str, features: Any, labels: bool, asked: str | None
) -> tuple[str, list[str]]:
    """The feature whose texts are read, and a remark where there are several."""
    known = {key: features[key] for key in sorted(features)} if hasattr(features, "keys") else {}
    texts = [key for key, value in known.items() if value.tf_dtype == "string" and not value.shape]
    about = f"The data set {name!r} of TensorFlow Datasets"
    if not texts:
        raise InvalidInputError(
            f"{about} has no feature that is a text. It has {', '.join(known) or 'none'}. Choose "
            "one of sentences."
        )
    if asked is not None and asked not in texts:
        raise InvalidInputError(
            f"{about} has no text {asked!r}. It has {', '.join(texts)}. Give one of them as "
            "`text_feature`."
        )
    labels_apart = [key for key in texts if key != "label"] or texts
    chosen = [asked] if asked else [key for key in _PREFERRED if key in texts] or labels_apart
    if len(chosen) > 1 and not any(key in texts for key in _PREFERRED):
        raise InvalidInputError(
            f"{about} has several texts: {', '.join(texts)}. One is needed. Name it with "
            "`text_feature`."
        )
    feature = chosen[0]
    if labels and (feature == _REPEATED or "label" not in known):
        reason = "a label for each pair of sentences" if "label" in known else "no labels"
        raise InvalidInputError(
            f"{about} has {reason}. Do not ask for labels, or choose another set."
        )
    if labels and not _is_label(known["label"]):
        raise InvalidInputError(
            f"{about} has labels that are not whole numbers: {known['label'].tf_dtype!r} of shape "
            f"{list(known['label'].shape)}. Do not ask for labels, or write lines of "
            "label<TAB>sentence with numbered classes into a text file."
        )
    others = [key for key in texts if key != feature]
    return feature, [f"texts of {feature!r}, not of {', '.join(others)}"] if others else []


def _is_label(feature: Any) -> bool:
    return not feature.shape and "int" in str(getattr(feature.tf_dtype, "name", feature.tf_dtype))


def _read_tfds(builder: Any, split: str, feature: str, labels: bool) -> Sentences:
    # Labels that nobody asked for still stratify what is held out: with and without them a run
    # has the same parts.
    known = builder.info.features
    labelled = feature != _REPEATED and "label" in known and _is_label(known["label"])
    lines, numbers = [], []
    for example in builder.as_dataset(split=split).as_numpy_iterator():
        text = sentences.clean(example[feature].decode("utf-8", "replace"))
        lines.append(sentences.sentence(text))
        numbers.append(int(example["label"]) if labelled else 0)
    if feature != _REPEATED:
        return Sentences(lines, numbers if labelled else None)
    distinct = list(dict.fromkeys(lines))
    return Sentences(distinct, None, len(lines) - len(distinct))


def _unknown(name: str, known: Iterable[str] = ()) -> InvalidInputError:
    return InvalidInputError(
        f"There is no data set, file or folder {printable(name)!r}."
        f"{near(tfds.base(name), ['grammar', *(known or TFDS_NAMES)])} Give "
        f"{', '.join(('grammar', *TFDS_NAMES))}, another text set of TensorFlow Datasets, a text "
        "file, or a folder with train.txt."
    )

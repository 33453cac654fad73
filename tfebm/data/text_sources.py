"""Sentences by the name of what holds them: a file, a folder, a set of TensorFlow Datasets."""

import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from tfebm.data import sentences, text_files
from tfebm.data.text_files import SPLIT_NAMES, Sentences, Splits, near
from tfebm.errors import InvalidInputError
from tfebm.files import check_readable_path, local_path, printable

TFDS_NAMES = ("snli", "imdb_reviews", "ag_news_subset", "lm1b", "yelp_polarity_reviews")
"""Of TensorFlow Datasets; any other of its names that has a text is taken as well."""
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
    if text_feature is not None and path.exists():
        raise InvalidInputError(
            "`text_feature` names one of several texts of a set of TensorFlow Datasets. "
            f"{printable(path)} is a file or a folder; leave it out."
        )
    if path.is_dir():
        splits, files, others = text_files.load_folder(path, labels)
        remarks = (f"not read: {text_files.listed(others)}",) if others else ()
        name = printable(path.resolve().name)
    elif path.is_file():
        name, remarks, files = text_files.stem(path), (), [path]
        splits = {"train": text_files.read_sentences(path, labels)}
    else:
        in_folder = len(path.parts) > 1 and path.parent.is_dir()
        endings = (*text_files.SUFFIXES, ".gz")
        if not _TFDS_NAME.fullmatch(source) or path.name.endswith(endings):
            if in_folder or path.is_absolute() or path.name.endswith(endings):
                raise text_files.missing(path)
            raise InvalidInputError(_unknown(source, TFDS_NAMES))
        name = source
        splits, remarks = _load_tfds(source, labels, data_dir, text_feature, in_folder)
    drawn = [split for split in ("valid", "test") if split not in splits]
    splits = text_files.hold_out(splits)
    if drawn:
        remarks = (*_of_drawn(splits, drawn), *remarks)
    if not labels:
        splits = {part: Sentences(s.lines, None, s.duplicates) for part, s in splits.items()}
    return Source(name, splits, remarks, tuple(files))


def _of_drawn(splits: Splits, drawn: list[str]) -> list[str]:
    """What became of the parts that were to be drawn."""
    some = [split for split in drawn if splits[split].lines]
    none = [split for split in drawn if not splits[split].lines]
    said = [f"{' and '.join(some)} drawn from the training sentences"] if some else []
    return [*said, *([f"too few sentences to draw {' and '.join(none)}"] if none else [])]


# ---- TensorFlow Datasets ------------------------------------------------------------------


def _load_tfds(
    name: str, labels: bool, data_dir: str | None, text_feature: str | None, in_folder: bool
) -> tuple[Splits, tuple[str, ...]]:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InvalidInputError(_not_loaded(name, error)) from None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        if in_folder:
            raise text_files.missing(pathlib.Path(name)) from None
        raise InvalidInputError(_unknown(name, tfds.list_builders())) from None
    except Exception as error:  # a registry that cannot be reached raises what its client raises
        hint = "" if _base(name) in TFDS_NAMES else near(_base(name), ("grammar", *TFDS_NAMES))
        raise InvalidInputError(_not_loaded(name, error, hint)) from None
    feature, remarks = _text_feature(name, builder.info.features, labels, text_feature)
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise InvalidInputError(_not_loaded(name, error)) from None
    there = {split.lower(): split for split in builder.info.splits}
    found = {
        ours: there[next(word for word in words if word in there)]
        for ours, words in SPLIT_NAMES.items()
        if any(word in there for word in words)
    }
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
        raise InvalidInputError(_not_loaded(name, error)) from None
    return splits, remarks


def _text_feature(
    name: str, features: Any, labels: bool, asked: str | None
) -> tuple[str, tuple[str, ...]]:
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
    return feature, (f"texts of {feature!r}, not of {', '.join(others)}",) if others else ()


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


def _base(name: str) -> str:
    return re.split("[/:]", name)[0]


def _unknown(name: str, known: Iterable[str]) -> str:
    return (
        f"There is no data set, file or folder {printable(name)!r}."
        f"{near(name, ['grammar', *known])} Give "
        f"{', '.join(('grammar', *TFDS_NAMES))}, another text set of TensorFlow Datasets, a text "
        "file, or a folder with train.txt."
    )


def _not_loaded(name: str, error: Exception, hint: str = "") -> str:
    about = f"The data set {name!r} of TensorFlow Datasets could not be loaded"
    cause = error
    while not isinstance(cause, ImportError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ImportError):
        module = (cause.name or "").split(".")[0]
        remedy = f"Install it: pip install {module}" if module else "Repair the installation"
        return (
            f"{about}, since a module is missing or broken: {type(cause).__name__}: {cause}. "
            f"{remedy}."
        )
    said = " ".join(str(error).split()).rstrip(".")
    said = said if len(said) <= 300 else f"{said[:297]}..."
    return (
        f"{about}: {type(error).__name__}: {said}.{hint} Where there is no network, prepare it on "
        "another machine and give its folder as the data folder (`data_dir`), or use 'grammar' or "
        "a text file."
    )

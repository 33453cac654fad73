"""Sentences by name or path, as ids."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from tfebm import checks
from tfebm.data import sentences as text_lines
from tfebm.data import text_files, text_sources
from tfebm.data.small_english import default_grammar
from tfebm.data.text_batches import lengths, trim
from tfebm.errors import InvalidInputError
from tfebm.files import local_path, printable
from tfebm.tokenizers import (
    END,
    PAD,
    SPECIAL_WORDS,
    UNKNOWN,
    Tokenizer,
    WordpieceTokenizer,
    WordTokenizer,
)
from tfebm.types import Array

GRAMMAR_SIZES = {"train": 10_000, "valid": 1_000, "test": 1_000}
_CHUNK = 1024  # sentences that are turned into ids at a time
_CHARACTERS = 64  # of a sentence, for each token it may have, are looked at first


@dataclasses.dataclass(frozen=True)
class TextData:
    """Sentences as ids: to train on, to validate and to test with, and without labels."""

    name: str
    tokenizer: Tokenizer
    x_train: Array
    """int32 `[N, L]`: ids, the end, then padding; L is the longest sentence's length."""
    x_valid: Array
    """As `x_train`, of its own length; may hold no sentences."""
    x_test: Array
    """As `x_valid`."""
    y_train: Array | None = None
    """int64 labels `[N]`, where they were asked for."""
    y_valid: Array | None = None
    y_test: Array | None = None
    x_unlabelled: Array | None = None
    """As `x_train`: the sentences of further files."""
    report: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    """Of each split what became of its sentences: `read` is the sum of `empty`, `duplicate`,
    `too_long_skipped` and `kept`; of those kept `too_long_cut` lost their ends, `words` is how
    many words they have, and `unknown_words` how many of these are unknown, "<unk>" itself
    included."""
    entropy: float | None = None
    """Nats per sentence, where the source is a grammar and nothing was cut, skipped or unknown."""
    remarks: tuple[str, ...] = ()
    """What else was chosen or left out on the way, for a person."""

    @property
    def report_sentence(self) -> str:
        """What was read, cut, left out and is unknown, in one line for a person."""

        def counted(count: str) -> str:
            found = {split: counts[count] for split, counts in self.report.items()}
            return ", ".join(f"{split} {number:,}" for split, number in found.items() if number)

        one = self.report.get("train", {}).get("kept") == 1
        uses = {
            "train": "sentence to train on" if one else "sentences to train on",
            "valid": "to validate with",
            "test": "to test with",
            "unlabelled": "more to train on",
        }
        kept = (f"{self.report[split]['kept']:,} {uses[split]}" for split in self.report)
        unknown = (
            f"{split} {100 * counts['unknown_words'] / counts['words']:.1f}%"
            for split, counts in self.report.items()
            if counts["words"]
        )
        remarks = {
            "skipped empty lines": counted("empty"),
            "skipped repetitions": counted("duplicate"),
            "skipped as too long": counted("too_long_skipped"),
            "cut as too long": counted("too_long_cut"),
            "unknown words": ", ".join(unknown),
        }
        said = (
            f"{self.name}: {', '.join(kept)}",
            f"vocabulary of {self.tokenizer.vocabulary_size:,} ids, 4 of them special",
            *(f"{remark}: {where}" for remark, where in remarks.items() if where),
            *self.remarks,
        )
        return "; ".join(said)


def load_text(
    source: str,
    *,
    max_length: int = 64,
    too_long: Literal["cut", "skip"] = "cut",
    labels: bool = False,
    max_vocabulary: int | None = None,
    min_count: int = 1,
    vocabulary: str | None = None,
    tokenizer: Tokenizer | None = None,
    split: str = "whitespace",
    wordpieces: bool = False,
    unlabelled: Sequence[str] = (),
    data_dir: str | None = None,
    text_feature: str | None = None,
    seed: int = 0,
) -> TextData:
    """Loads sentences into memory, as ids.

    Args:
        source: `"grammar"` (10,000 sentences of `default_grammar` to train on, 1,000 to validate
            and 1,000 to test; nothing is downloaded); a folder with `train.txt`, `valid.txt` and
            `test.txt` (or `training`; `val`, `validation`, `dev`; `testing`; in any case), plain
            or packed with gzip; one such file; or a name of TensorFlow Datasets, downloaded at
            first use (`snli`, of which the premises are read, each once; `imdb_reviews`, ...).
            One sentence a line, UTF-8, as `tfebm.data.sentences` divides a file. What has no
            split to validate or to test with has a tenth of the sentences drawn for it, the
            same ones whatever the seed, with each label's share.
        max_length: Most tokens of a sentence, the end included.
        too_long: "cut" keeps the beginning of a longer one, "skip" leaves it out.
        labels: Whether lines are `label<TAB>sentence` with a whole number first; of the grammar,
            the label is the topic.
        max_vocabulary: Most ids, the four special ones included; the rarest words go first.
            Default: no limit for words, 8,000 for pieces.
        min_count: Words that are seen less often are unknown.
        vocabulary: A file with one word a line, in the order of their ids, to use instead of
            what the sentences hold. The special names in it are left out.
        tokenizer: Of a saved model, say: used as it is, and nothing is learned.
        split: How a sentence falls into words, where no tokenizer is given: "whitespace" for
            text that is tokenised, "words" for any other.
        wordpieces: Pieces of words instead of words, with tensorflow-text.
        unlabelled: Further files whose sentences become `x_unlabelled`; labels in them are
            dropped.
        data_dir: Where TensorFlow Datasets keeps its files; its own default otherwise.
        text_feature: Which text of such a set is read, where it has several.
        seed: Of the sentences of the grammar.

    The vocabulary is learned from the training sentences and those without labels, too long
    ones included.

    Returns:
        `TextData`, whose `report` counts what was cut, left out and is unknown.

    Raises:
        InvalidInputError: A source that is not known (with near matches), a file that is
            missing, empty, damaged, not UTF-8 or of another kind (a table, JSON, an archive),
            lines without labels where they are asked for and with labels where not, nothing
            left to train on, or arguments that exclude each other.

    Example:

        >>> data = load_text("grammar")
        >>> data.x_train.shape, data.tokenizer.vocabulary_size
        ((10000, 17), 232)
        >>> data.tokenizer.detokenize(data.x_train[:1]).numpy()[0].decode()
        'she sold the silk clock gladly in the market while the buyers haggled .'
    """
    checks.check_count("max_length", max_length, 2)
    _check_choices(too_long, max_vocabulary, min_count, vocabulary, tokenizer, unlabelled)
    embedded = source == "grammar"
    if embedded:
        found = text_sources.Source(source, _sample_grammar(seed, labels))
    else:
        found = text_sources.load_splits(str(source), labels, data_dir, text_feature)
    name, splits, remarks, own = found
    if unlabelled:
        paths = [local_path(path, "`unlabelled`").expanduser() for path in unlabelled]
        _check_apart(paths, own)
        files = [text_files.read_sentences(path, None) for path in paths]
        splits["unlabelled"] = text_files.Sentences([s for file in files for s in file.lines])
    needed = {part: s.lines for part, s in splits.items() if part in ("train", "unlabelled")}
    for part, lines in needed.items():
        if not any(lines):
            raise InvalidInputError(
                f"{name}: there are no sentences in the {part} lines; each of {len(lines):,} is "
                "empty. At least one is needed. Give another file."
            )
    if tokenizer is None:
        kind = WordpieceTokenizer if wordpieces else WordTokenizer
        if vocabulary is not None:
            tokenizer = _read_vocabulary(kind, vocabulary, split)
        else:
            every = itertools.chain.from_iterable(needed.values())
            tokenizer = kind.learn(every, max_size=max_vocabulary, min_count=min_count, split=split)
    fields: dict[str, Array] = {}
    report: dict[str, dict[str, int]] = {}
    for part, sentences in splits.items():
        x, kept, report[part] = _encode(tokenizer, sentences, max_length, too_long)
        if part in needed and not len(x):
            raise InvalidInputError(
                f"{name}: each of the {report[part]['too_long_skipped']:,} {part} sentences has "
                f"more than {max_length} tokens, and none is left. Raise `max_length`, or cut them."
            )
        fields[f"x_{part}"] = x
        if sentences.labels is not None:
            fields[f"y_{part}"] = np.asarray(sentences.labels, np.int64)[kept]
    changed = ("too_long_cut", "too_long_skipped", "unknown_words")
    same = not any(report[part][count] for part in GRAMMAR_SIZES for count in changed)
    entropy = default_grammar().entropy if embedded and same else None
    return TextData(
        name,
        tokenizer,
        x_train=fields["x_train"],
        x_valid=fields["x_valid"],
        x_test=fields["x_test"],
        y_train=fields.get("y_train"),
        y_valid=fields.get("y_valid"),
        y_test=fields.get("y_test"),
        x_unlabelled=fields.get("x_unlabelled"),
        report=report,
        entropy=entropy,
        remarks=remarks,
    )


def _sample_grammar(seed: int, labels: bool) -> text_files.Splits:
    seeds = np.random.SeedSequence(seed).spawn(len(GRAMMAR_SIZES))
    splits = {}
    for (split, num), each in zip(GRAMMAR_SIZES.items(), seeds, strict=True):
        drawn = default_grammar().derive(num, seed=each)
        numbers = drawn.labels.tolist() if labels else None
        splits[split] = text_files.Sentences(drawn.sentences, numbers)
    return splits


def _encode(
    tokenizer: Tokenizer, sentences: text_files.Sentences, max_length: int, too_long: str
) -> tuple[Array, Array, dict[str, int]]:
    """Ids of those that are kept, which those are, and what became of all."""
    full = np.array([line != "" for line in sentences.lines], bool)
    kept = full.copy()
    chunks, num_long, words, unknown = [], 0, 0, 0
    rows = np.flatnonzero(full)
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        ids = _tokenized(tokenizer, [sentences.lines[row] for row in some], max_length)
        long = lengths(ids) > max_length
        num_long += long.sum()
        if too_long == "skip":
            kept[some] = ~long
            ids = ids[~long]
        else:
            ids = np.array(ids[:, :max_length])
            ids[long, -1] = END
        ids = trim(ids)
        words += np.sum((ids != PAD) & (ids != END))
        unknown += np.sum(ids == UNKNOWN)
        chunks.append(ids)
    x = np.full((kept.sum(), max((c.shape[1] for c in chunks), default=0)), PAD, np.int32)
    row = 0
    for ids in chunks:
        x[row : row + len(ids), : ids.shape[1]] = ids
        row += len(ids)
    report = {
        "read": len(full) + sentences.duplicates,
        "empty": int(np.sum(~full)),
        "duplicate": sentences.duplicates,
        "too_long_cut": int(num_long) if too_long == "cut" else 0,
        "too_long_skipped": int(num_long) if too_long == "skip" else 0,
        "words": int(words),
        "unknown_words": int(unknown),
        "kept": len(x),
    }
    return x, kept, report


def _tokenized(tokenizer: Tokenizer, lines: Sequence[str], max_length: int) -> Array:
    """Ids of sentences, of very long ones only those of their beginning, but too many still."""
    most = _CHARACTERS * max_length
    short = [line if len(line) <= most else line[:most].rsplit(maxsplit=1)[0] for line in lines]
    with tf.device("CPU"):
        ids = tokenizer.tokenize(short).numpy()
        cut = np.array([len(a) < len(b) for a, b in zip(short, lines, strict=True)])
        if np.any(cut & (lengths(ids) <= max_length + 4)):  # of long words, or of what is not seen
            ids = tokenizer.tokenize(lines).numpy()
    return ids


def _read_vocabulary(kind: type[Tokenizer], path: str, split: str) -> Tokenizer:
    file = local_path(path, "The vocabulary").expanduser()
    lines = text_files.read_lines(file, table=False)
    words = [text_lines.sentence(line) for line in lines]
    words = [word for word in words if word and word not in SPECIAL_WORDS]
    if not words:
        raise InvalidInputError(
            f"The vocabulary file {path} holds no words. One word a line is needed, special ones "
            "aside."
        )
    try:
        return kind(words, split)
    except InvalidInputError as error:
        raise InvalidInputError(f"The vocabulary file {path}: {error}") from None


def _check_apart(paths: Sequence[pathlib.Path], own: Sequence[pathlib.Path]) -> None:
    """Raises `InvalidInputError` where a file of further sentences is the data set's, or twice."""
    there = [path for path in paths if path.is_file()]  # others are missed when they are read
    for i, path in enumerate(there):
        if any(path.samefile(other) for other in own):
            raise InvalidInputError(
                f"What is held out must not be learned: {printable(path)} in `unlabelled` "
                "is a file of the data set itself. Leave it out."
            )
        if any(path.samefile(other) for other in there[:i]):
            raise InvalidInputError(
                f"The file {printable(path)} is in `unlabelled` twice. Give it once."
            )


def _check_choices(
    too_long: str,
    max_vocabulary: int | None,
    min_count: int,
    vocabulary: str | None,
    tokenizer: Tokenizer | None,
    unlabelled: Sequence[str],
) -> None:
    checks.check_choice("too_long", too_long, ("cut", "skip"))
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        raise InvalidInputError(
            "`tokenizer` must be a `WordTokenizer` or a `WordpieceTokenizer`. Received a "
            f"{type(tokenizer).__name__}."
        )
    checks.check_count("min_count", min_count)
    if max_vocabulary is not None:
        checks.check_count("max_vocabulary", max_vocabulary, len(SPECIAL_WORDS) + 1)
    if vocabulary is not None and tokenizer is not None:
        raise InvalidInputError(
            "Both `vocabulary` and `tokenizer` say what the words are. Give one of them."
        )
    if vocabulary is not None and (max_vocabulary is not None or min_count != 1):
        raise InvalidInputError(
            "The words of a vocabulary file are used as they are. Give `max_vocabulary` and "
            "`min_count` only where the vocabulary is learned."
        )
    if isinstance(unlabelled, str):
        raise InvalidInputError(
            "`unlabelled` must be a list of files. Received one string; put it into a list."
        )

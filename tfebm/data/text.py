"""Sentences by name or path, as ids, and batches of sentences of like length."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from tfebm import checks
from tfebm.data import sentences as text_lines
from tfebm.data import text_files, text_sources
from tfebm.data.pipeline import steps_per_epoch
from tfebm.data.small_english import default_grammar
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
from tfebm.types import Tensor

GRAMMAR_SIZES = {"train": 10_000, "valid": 1_000, "test": 1_000}
_CHUNK = 1024  # sentences that are turned into ids at a time
_CHARACTERS = 64  # of a sentence, for each token it may have, are looked at first


@dataclasses.dataclass(frozen=True)
class TextData:
    """Sentences as ids: to train on, to validate and to test with, and without labels."""

    name: str
    tokenizer: Tokenizer
    x_train: np.ndarray
    """int32 `[N, L]`: ids, the end, then padding; L is the longest sentence's length."""
    x_valid: np.ndarray
    """As `x_train`, of its own length; may hold no sentences."""
    x_test: np.ndarray
    """As `x_valid`."""
    y_train: np.ndarray | None = None
    """int64 labels `[N]`, where they were asked for."""
    y_valid: np.ndarray | None = None
    y_test: np.ndarray | None = None
    x_unlabelled: np.ndarray | None = None
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
        name, splits, remarks, own = source, _sample_grammar(seed, labels), (), ()
    else:
        found = text_sources.load_splits(str(source), labels, data_dir, text_feature)
        name, splits, remarks, own = found
    if unlabelled:
        paths = [local_path(path, "`unlabelled`").expanduser() for path in unlabelled]
        _check_apart(paths, own)
        files = [text_files.read_sentences(path, None) for path in paths]
        splits["unlabelled"] = text_files.Sentences([s for file in files for s in file.lines])
    needed = {part: splits[part].lines for part in ("train", "unlabelled") if part in splits}
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
            sentences = itertools.chain.from_iterable(needed.values())
            tokenizer = kind.learn(sentences, max_vocabulary, min_count, split)
    fields, report = {}, {}
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
    return TextData(name, tokenizer, **fields, report=report, entropy=entropy, remarks=remarks)


def lengths(x: np.ndarray) -> np.ndarray:
    """Tokens of each sentence of ids `[N, L]`, the end included and padding not: int64 `[N]`."""
    real = np.asarray(x) != PAD
    places = np.arange(1, real.shape[1] + 1)
    return (real * places).max(axis=1, initial=0)


def trim(x: np.ndarray) -> np.ndarray:
    """Ids `[N, L]` without the columns behind the longest sentence."""
    return x[:, : lengths(x).max(initial=0)]


def sentence_batches(
    x: np.ndarray, batch_size: int, seed: int, first_step: int = 0
) -> tf.data.Dataset:
    """Endless shuffled batches of sentences of like length, int32 `[B, T]`.

    An epoch sorts the sentences by length, those of one length in random order, cuts them into
    batches, trims each to its longest sentence, and shuffles the batches. All of it is drawn
    from (seed, epoch) alone, so that step t of a run sees the same batch whether the run was
    interrupted before it or not. Use it with
    `fit(..., steps_per_epoch=steps_per_epoch(len(x), batch_size))`.

    Args:
        x: Ids `[N, L]`, padded with 0, kept in memory once.
        batch_size: Of the global batch; the batch of the longest sentences may be smaller.
        seed: Of the order.
        first_step: Steps to skip, counted from the start of training.

    Raises:
        InvalidInputError: `x` holds no sentences or no ids, or counts below 1.
    """
    checks.check_count("first_step", first_step, 0)
    sizes, to_batch = _prepared(x, batch_size)
    num, per_epoch = len(sizes), steps_per_epoch(len(sizes), batch_size)

    def epoch(number: Tensor) -> tf.data.Dataset:
        def shuffled(values: Tensor, stream: int) -> Tensor:
            key = [tf.constant(seed, tf.int64), 2 * number + stream]
            return tf.random.experimental.stateless_shuffle(values, seed=key)

        rows = shuffled(tf.range(num, dtype=tf.int64), 0)
        rows = tf.gather(rows, tf.argsort(tf.gather(sizes, rows), stable=True))
        firsts = shuffled(tf.range(0, num, batch_size), 1)
        return tf.data.Dataset.from_tensor_slices(firsts).map(
            lambda first: rows[first : first + batch_size]
        )

    epochs = tf.data.Dataset.range(first_step // per_epoch, tf.int64.max).flat_map(epoch)
    return (
        epochs.skip(first_step % per_epoch)
        .map(to_batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_batches(x: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Every sentence once, the shortest first, int32 `[B, T]`, each batch trimmed.

    The rows are in the order of `np.argsort(lengths(x), kind="stable")`.

    Args:
        x: Ids `[N, L]`, padded with 0.
        batch_size: The last batch may be smaller.

    Raises:
        InvalidInputError: `x` holds no sentences or no ids, or `batch_size` is below 1.
    """
    sizes, to_batch = _prepared(x, batch_size)
    rows = np.argsort(sizes, kind="stable")
    return (
        tf.data.Dataset.from_tensor_slices(rows)
        .batch(batch_size)
        .map(to_batch, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _prepared(x: np.ndarray, batch_size: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Lengths `[N]`, and a function of rows to their ids."""
    checks.check_count("batch_size", batch_size)
    x = np.asarray(x)
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.integer):
        raise InvalidInputError(
            f"Sentences must be integer ids of shape [N, L], padded with 0. Received {x.dtype} of "
            f"shape {list(x.shape)}. Use `tokenizer.tokenize`, or the arrays of `load_text`."
        )
    if not len(x):
        raise InvalidInputError("There are no sentences to batch. At least one is needed.")
    with tf.device("CPU"):
        ids = tf.constant(x, tf.int32)
        sizes = tf.constant(lengths(x))

    def to_batch(rows: Tensor) -> Tensor:
        return tf.gather(ids, rows)[:, : tf.reduce_max(tf.gather(sizes, rows))]

    return sizes, to_batch


def _sample_grammar(seed: int, labels: bool) -> text_files.Splits:
    seeds = np.random.SeedSequence(seed).spawn(len(GRAMMAR_SIZES))
    splits = {}
    for (split, num), each in zip(GRAMMAR_SIZES.items(), seeds, strict=True):
        drawn = default_grammar().derive(num, each)
        numbers = drawn.labels.tolist() if labels else None
        splits[split] = text_files.Sentences(drawn.sentences, numbers)
    return splits


def _encode(
    tokenizer: Tokenizer, sentences: text_files.Sentences, max_length: int, too_long: str
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
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


def _tokenized(tokenizer: Tokenizer, lines: Sequence[str], max_length: int) -> np.ndarray:
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
    if too_long not in ("cut", "skip"):
        raise InvalidInputError(f"`too_long` must be 'cut' or 'skip'. Received {too_long!r}.")
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

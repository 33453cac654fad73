"""Bytes of a text file to its sentences: one rule for training, for `score.py` and for the client.

A file is UTF-8, plain or packed with gzip, whatever its name. A line ends at LF, CR LF or CR; any
other mark that parts lines or pages is white space within a line. Of a line the byte-order marks
are dropped, accents are joined to their letters (NFC), and white space at both ends is cut off;
what has nothing visible is empty. `savedmodels/client.py` repeats these rules, and a test compares
the two.
"""

import codecs
import csv
import gzip
import io
import json
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from tfebm.tokenizers.characters import INVISIBLE

HEAD_SIZE = 1 << 16
"""Bytes by which a file is judged: whether it holds sentences, or something else."""
DAMAGED = (OSError, EOFError, zlib.error)
"""What a file that is cut off or damaged raises while it is read and unpacked."""
LABEL = re.compile(r"\s*(-?\d+)\t")
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
_EMPTY = re.compile(rf"[\s{INVISIBLE}]*")
_NUL = "it holds a NUL byte"
_CONTROLS = bytes([*range(9), *range(14, 27)])  # of ASCII, white space and escapes aside

# How files of other kinds begin, what they are, and what to do.
_CONVERT = "Convert it: iconv -f {} -t UTF-8 FILE > sentences.txt"
_SAVE = "Save its text as plain text, UTF-8, one sentence a line"
_UNPACK = "Unpack it first"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\0\0", "UTF-32", _CONVERT.format("UTF-32")),
    (b"\0\0\xfe\xff", "UTF-32", _CONVERT.format("UTF-32")),
    (b"\xff\xfe", "UTF-16", _CONVERT.format("UTF-16")),
    (b"\xfe\xff", "UTF-16", _CONVERT.format("UTF-16")),
    (b"PK\x03\x04", "a zip archive, as .docx, .odt, .xlsx and .npz files are", _SAVE),
    (b"\xd0\xcf\x11\xe0", "a document of an office program", _SAVE),
    (b"%PDF-", "a PDF", _SAVE),
    (b"{\\rtf", "a document in RTF", _SAVE),
    (_GZIP, "packed with gzip twice", _UNPACK),
    (b"BZh91AY&SY", "packed with bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "packed with xz", _UNPACK),
    (b"7z\xbc\xaf", "packed with 7-Zip", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", _UNPACK),
)
_NO_TEXT = ("Cc", "Cn", "Co")  # controls, unassigned, private
_MARKUP = re.compile(rb"\s*<(!doctype\b|html\b|\?xml\b|svg\b)", re.IGNORECASE)
# Sentences have spaces behind their commas; names of columns have none.
_NAME = r'"?[A-Za-z_][\w.-]*(?: [\w.-]+)?"?'
_HEADER = re.compile(rf"{_NAME}(?:[,;]{_NAME})+")
_COLUMNS = {
    *("body", "category", "class", "comment", "content", "id", "label", "polarity", "rating"),
    *("review", "score", "sentence", "sentiment", "target", "text", "title", "tweet"),
}
_NUMBERED = re.compile(r'"?-?\d+(\.\d+)?"?[,;]\s*\D|.*[,;]\s*"?-?\d+(\.\d+)?"?$', re.DOTALL)
_FEW = 3  # lines that must look like rows before they are taken for a table
_JUDGED = 1000  # lines at most


class NotSentencesError(ValueError):
    """A file that is something else than sentences. `what` it is, and what to `do`."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(f"{what}. {do}")
        self.what, self.do = what, do


class LabelledError(NotSentencesError):
    """A file of labels and sentences where sentences alone are needed."""


class NotTextError(ValueError):
    """A line that is not text; the message says why."""


class _Joined(io.RawIOBase):
    # Bytes that were read already, then the rest of their file.
    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = head, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or self._file.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def unpacked(file: BinaryIO) -> "io.BufferedReader[Any] | gzip.GzipFile":
    """`file`, unpacked where its bytes are those of gzip, whatever its name."""
    head = file.read(len(_GZIP))
    whole = io.BufferedReader(_Joined(head, file))
    # The standard library's: it says when a file is cut off.
    return gzip.GzipFile(fileobj=whole) if head == _GZIP else whole


def read_lines(file: BinaryIO, labels: bool | None = False, table: bool = True) -> Iterator[bytes]:
    """The lines of an open file, without their ends and the mark that some editors put first.

    Args:
        file: Open for reading bytes, as stored: it is unpacked here.
        labels: Whether lines are `label<TAB>sentence`; None: they may be.
        table: Whether a table is refused; a list of words may look like one.

    Raises:
        NotSentencesError: Another kind of file.
        OSError, EOFError, zlib.error: A file that is damaged; the lines before come first.
    """
    plain = unpacked(file)
    head, late = b"", None
    try:
        while len(head) < HEAD_SIZE and (more := plain.read1(HEAD_SIZE - len(head))):
            head += more
    except DAMAGED as error:
        late = error
    judge(head, labels, table)
    parts: list[bytes] = []
    chunk = head.removeprefix(_BOM)
    while chunk:
        # A line end may go on in the next chunk; a long line is put together once.
        ends = b"\n" in chunk or b"\r" in chunk or (parts and parts[-1].endswith(b"\r"))
        parts.append(chunk)
        if ends:
            lines, rest = _divided(b"".join(parts))
            yield from lines
            parts = [rest] if rest else []
        if late is not None:
            break
        chunk = plain.read1(_CHUNK)
    if late is not None:
        raise late
    if parts:
        yield b"".join(parts).rstrip(b"\r")


def _divided(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole lines of some bytes, and what may go on behind them."""
    held = 1 if data.endswith(b"\r") else 0
    lines = data[: len(data) - held].splitlines(keepends=True)
    last = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
    return [line.rstrip(b"\r\n") for line in lines], last + data[len(data) - held :]


def decode(line: bytes) -> str:
    """A line as text: accents joined to their letters, without byte-order marks.

    Raises:
        NotTextError: Bytes that are not UTF-8, or a NUL.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotTextError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
    if "\0" in text:
        raise NotTextError(_NUL)
    return clean(text)


def clean(text: str) -> str:
    """Text with accents joined to their letters (NFC), and without byte-order marks."""
    return unicodedata.normalize("NFC", text.replace("\ufeff", ""))


def sentence(text: str) -> str:
    """A line without the white space around it; "" where nothing of it is visible."""
    return "" if _EMPTY.fullmatch(text) else text.strip()


# ---- What is not a file of sentences ------------------------------------------------------


def judge(head: bytes, labels: bool | None = False, table: bool = True) -> None:
    """Raises `NotSentencesError` where the first bytes of a file are those of another kind.

    Args:
        head: At most `HEAD_SIZE` bytes, unpacked.
        labels: As `read_lines`'s.
        table: As `read_lines`'s.
    """
    for start, what, do in _KINDS:
        if head.startswith(start):
            raise NotSentencesError(what, do)
    nuls, even, odd = (part.count(b"\0") for part in (head, head[::2], head[1::2]))
    if max(even, odd) > max(len(head) // 8, 8 * min(even, odd)):
        order = "UTF-16LE" if odd > even else "UTF-16BE"
        raise NotSentencesError(f"{order} without a mark", _CONVERT.format(order))
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if nuls > len(head) // 100 or controls > len(head) // 20:
        if name := _wide(head):
            raise NotSentencesError(f"{name} without a mark", _CONVERT.format(name))
        raise NotSentencesError("binary, not text", "Give a text file")
    head = head.removeprefix(_BOM)
    if _MARKUP.match(head):
        raise NotSentencesError("a page of HTML or XML", _SAVE)
    lines = head.splitlines()
    if len(head) >= HEAD_SIZE - len(_BOM) and len(lines) > 1:
        lines.pop()  # cut off
    rows = [line.decode("utf-8", "replace") for line in lines[:_JUDGED] if line.strip()]
    if not rows or not table:
        return
    if _is_json(rows):
        raise NotSentencesError("JSON", _json_way(rows))
    _judge_tabs(rows, labels)
    if _is_csv(rows):
        raise NotSentencesError(
            "a table with commas or semicolons (CSV)",
            "Write its column of sentences into a text file, one a line; Python's `csv` reads it",
        )


def _wide(head: bytes) -> str | None:
    """The encoding of text with two or four bytes a character and without a mark."""
    found = []
    for name in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        try:
            text = codecs.getincrementaldecoder(name)().decode(head)
        except UnicodeDecodeError:
            continue
        odd = sum(unicodedata.category(c) in _NO_TEXT and c not in "\t\n\r" for c in text)
        if text and odd <= len(text) // 50:
            # In the wrong order a text is of all of Unicode.
            found.append((len({ord(c) >> 8 for c in text}), name))
    return min(found)[1] if found else None


def _judge_tabs(rows: Sequence[str], labels: bool | None) -> None:
    tabs = min(row.strip().count("\t") for row in rows)
    labelled = LABEL.match(rows[0]) is not None
    if labelled and labels is False:
        raise LabelledError(
            "a table of labels and sentences", "Take its sentences alone: cut -f2- does"
        )
    if labelled:
        if tabs > 1 and len(rows) >= _FEW:
            raise NotSentencesError(
                f"a table of {tabs + 1} columns with tabs",
                "A label and a sentence are needed: cut -f2,3 takes the second and third column",
            )
        return
    below = any(LABEL.match(row) for row in rows[1:2])
    if labels and below:
        raise NotSentencesError(
            "a table whose first line names its columns", "Remove that line: tail -n +2 does"
        )
    if labels is not True and tabs and (len(rows) >= _FEW or below):
        raise NotSentencesError(
            f"a table of {tabs + 1} columns with tabs",
            "Write its column of sentences into a text file: cut -f2 takes the second, tail -n +2 "
            "drops a line of names. Where tabs only part words, put spaces there: tr '\\t' ' '",
        )


def _is_json(rows: Sequence[str]) -> bool:
    if rows[0].strip() in ("{", "[", "[{"):  # over several lines
        return (
            len(rows) > 1 and re.match(r'\s*("[^"]*"\s*[:,]|[{\[]|"[^"]*"$)', rows[1]) is not None
        )
    if not all(row.lstrip().startswith(("{", "[")) for row in rows):
        return False
    try:
        values = [json.loads(row) for row in rows[:100]]
    except (ValueError, RecursionError):
        # One long line that is cut off here.
        return len(rows) == 1 and re.match(r'\s*(\{|\[\s*\{)\s*"[^"]*"\s*:', rows[0]) is not None
    return all(isinstance(v, dict) or (isinstance(v, list) and len(v) > 1) for v in values)


def _json_way(rows: Sequence[str]) -> str:
    """How to take the sentences out of JSON, which is an object, a list, or one in each line."""
    first = rows[0].strip()
    way = ".text"
    if first.startswith("["):
        inside = (first[1:] + "".join(rows[1:2])).lstrip()
        of_lists = ".[][0]" if inside.startswith("[") else ".[]"
        way = ".[].text" if inside.startswith("{") else of_lists
        if len(rows) > 1 and first not in ("[", "[{"):
            way = ".[0]"
    named = ", with the name of their field for text" if "text" in way else ""
    return f"Write its sentences out first: jq -r '{way}' FILE > sentences.txt{named}"


def _is_csv(rows: Sequence[str]) -> bool:
    header = _HEADER.fullmatch(rows[0].strip()) is not None
    names = {name.strip().lower() for name in re.split("[,;]", rows[0].replace('"', ""))}
    if header and len(names & _COLUMNS) > 1:  # even where commas of its texts are not quoted
        return True
    if len(rows) < _FEW:
        return False
    for mark in ",;":
        try:
            table = list(csv.reader(rows, delimiter=mark))
        except csv.Error:
            continue
        table = table if len(rows) < _JUDGED else table[:-1]
        width = len(table[0])
        if width < 2 or len(table) < 2 or any(len(row) != width for row in table):
            continue
        quoted = all(row.startswith('"') and f'"{mark}"' in row for row in rows)
        if header or quoted or all(_NUMBERED.match(row.strip()) for row in rows):
            return True
    return False

"""What training, bulk jobs and the client take from a text file: the same sentences, or none."""

import gzip
import importlib.util
import io
import json
import random
import sys
import time
import unicodedata
from unittest import mock

import pytest

from tfebm import InvalidInputError
from tfebm.data import sentences, text_files
from tfebm.serving import records

PROSE = ["the cat sat .", "Well, I go.", "Yes, he said.", "1,000 men", "[laughs]", "{", "a;b"]
FILES_OF_OTHER_KINDS = {
    "UTF-16": "the cat\nsat\n".encode("utf-16"),
    "UTF-16LE without a mark": "the cat\nsat\n".encode("utf-16-le"),
    "UTF-16BE without a mark": "the cat\nsat\n".encode("utf-16-be"),
    "UTF-32": "the cat\n".encode("utf-32"),
    "a zip archive": b"PK\x03\x04\x14\0\x06\0word/document.xml",
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n",
    "a document in RTF": b"{\\rtf1\\ansi the cat}\n",
    "a document of an office": b"\xd0\xcf\x11\xe0\xa1\xb1",
    "packed with xz": b"\xfd7zXZ\0\0",
    "packed with gzip twice": gzip.compress(gzip.compress(b"the cat\n", mtime=0), mtime=0),
    "binary, not text": bytes(range(256)) * 4,
    "a page of HTML or XML": b"\n<!DOCTYPE html>\n<p>the cat\n",
    "JSON": b'{"text": "the cat"}\n{"text": "sat"}\n',
    "a table of 2 columns": b"text\tlabel\nthe cat\tpos\nsat\tneg\n",
    "a table of 3 columns": b"id\tlabel\ttext\n7\t1\tthe cat\n",
    "a table of labels and sentences": b"1\tthe cat\n0\tsat\n",
    "CSV": b"text,label\nthe cat, sat,1\nsat,0\n",
}
TABLES = {
    "names and texts": ("name;comment\na;b\nc;d\n", "CSV"),
    "other names": ("film,opinion\na,good\nb,so so\n", "CSV"),
    "numbers first": ("1,the cat\n0,sat\n1,the end\n", "CSV"),
    "numbers last": ("the cat,1\nsat,0\nthe end,1\n", "CSV"),
    "all quoted": ('"the cat","pos"\n"sat, then","neg"\n"the end","pos"\n', "CSV"),
    "a list of lists": ('["the", "cat"]\n["sat", "."]\n', "JSON"),
    "a document": ('{\n  "text": "the cat",\n  "label": 1\n}\n', "JSON"),
    "a list of texts": ('[\n  "the cat",\n  "sat"\n]\n', "JSON"),
    "one long line": ('[{"text": "' + "the cat " * 20_000 + '"}]', "JSON"),
    "a byte-order mark": ("\ufefftext,label\na,1\nb,0\n", "CSV"),
}
NO_TABLES = {
    "a comma each": "Well, I go.\nYes, he said.\nNo, she did.\n",
    "no spaces": "yes,no\nperhaps\nno\n",
    "thousands": "1,000 men\n2,000 men\n3,000 men\n",
    "braces": "{ he said\nnothing }\n",
    "a brace alone": "{\nthe cat\n}\n",
    "footnotes": "[1]\n[2]\n[3]\n",
    "speech": '"Go," he said.\n"Why," she said.\n"So," he said.\n',
    "a tab": "the\tcat sat\nthe dog\nthe end\n",
    "one line with a tab": "the\tcat\n",
    "tags": "<s> the cat </s>\n<s> sat </s>\n",
    "code": 'PK is a name\n"x" : 1\n',
}


@pytest.fixture(scope="module")
def client(root):
    """The client's file, also where the packages that it talks to a server with are missing."""
    missing = ("grpc", "tensorflow_serving", "tensorflow_serving.apis")
    stand_ins = {n: mock.MagicMock() for n in missing if importlib.util.find_spec("grpc") is None}
    with mock.patch.dict(sys.modules, stand_ins):
        spec = importlib.util.spec_from_file_location(
            "one_file", root / "savedmodels" / "client.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def trained(path):
    """Sentences that training reads, or why it reads none."""
    try:
        return [text for line in text_files.read_lines(path) if (text := sentences.sentence(line))]
    except InvalidInputError as error:
        return str(error)


def scored(content):
    """Sentences that a bulk job reads, and what it cannot: numbers of lines with reasons."""
    read = list(records.read("text", io.BytesIO(content), "f"))
    good = [record for record in read if isinstance(record, records.Record)]
    _, values, broken = records.Decoder("text", "text")(good)
    broken = [*broken, *(record for record in read if isinstance(record, records.Broken))]
    return [v.decode() for v in values], {int(key[2:]): reason for key, reason in broken}


def asked(client, path):
    """Sentences that the client reads, and the lines that it leaves out; or why it reads none."""
    left_out = {}
    try:
        rows = [
            text for text, data in client.read_sentences(path, left_out) if data.decode() == text
        ]
    except client.ClientError as error:
        return str(error), []
    return rows, [int(name.removeprefix("line ")) for name in left_out]


def compare(client, path, content):
    """Asserts that the three readers agree on a file; the sentences, or None."""
    path.write_bytes(content)
    learned, (values, broken), (rows, left_out) = (
        trained(path),
        scored(content),
        asked(client, path),
    )
    if isinstance(rows, str):
        assert isinstance(learned, str)
        reasons = [reason for reason in broken.values() if reason.startswith("the file ")]
        assert reasons or (not values and not broken and "is empty" in learned)
        for reason in reasons:
            what = reason.removeprefix("the file is ").split(",")[0]
            damaged = "cannot be read" in reason or "cannot be read" in rows
            assert damaged or (what in rows and what in learned)
        return None
    assert rows == values
    assert left_out == sorted(broken)
    bad = [number for number, reason in broken.items() if reason != "it is empty"]
    if bad:
        assert f"ine {min(bad)} " in learned
    else:
        assert learned == rows
    return None if bad else rows


@pytest.mark.parametrize("what", FILES_OF_OTHER_KINDS)
def test_what_is_not_a_file_of_sentences_says_what_it_is(what, client, tmp_path):
    for content in {FILES_OF_OTHER_KINDS[what], gzip.compress(FILES_OF_OTHER_KINDS[what])}:
        assert compare(client, tmp_path / "a.txt", content) is None
        message = trained(tmp_path / "a.txt")
        assert what in message
        assert "one sentence a line is needed" in message


@pytest.mark.parametrize("name", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
@pytest.mark.parametrize(
    "text", ["the cat\nsat\n", "Πού είναι\nη γάτα;\n", "猫坐在那里。\n它很高兴。\n"]
)
def test_wide_characters_without_a_mark_are_named(name, text, client, tmp_path):
    assert compare(client, tmp_path / "a.txt", text.encode(name) * 20) is None
    assert f"is {name} without a mark" in trained(tmp_path / "a.txt")
    assert f"iconv -f {name} -t UTF-8" in trained(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "way"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', ".text"),
        ('{\n  "text": "a"\n}\n', ".text"),
        ('[{"text": "a"}, {"text": "b"}]', ".[].text"),
        ('[\n  {"text": "a"}\n]\n', ".[].text"),
        ('[{\n  "text": "a"\n}]\n', ".[].text"),
        ('[\n  "a",\n  "b"\n]\n', ".[]"),
        ('["a", "b"]', ".[]"),
        ('["a", 1]\n["b", 2]\n', ".[0]"),
        ('[["a", 1], ["b", 2]]', ".[][0]"),
    ],
)
def test_sentences_can_be_taken_out_of_json(content, way, client, tmp_path):
    assert compare(client, tmp_path / "a.txt", content.encode()) is None
    assert f"jq -r '{way}' FILE > sentences.txt" in trained(tmp_path / "a.txt")
    assert f"jq -r '{way}' FILE > sentences.txt" in asked(client, tmp_path / "a.txt")[0]


def test_a_long_line_is_put_together_once(monkeypatch):
    # Of so many chunks that putting each behind the others would take a minute.
    monkeypatch.setattr(sentences, "_CHUNK", 64)
    line = b"ab " * 1_000_000
    content = line + b"\r" + line + b"\r\nc"
    start = time.process_time()
    assert list(sentences.read_lines(io.BytesIO(content))) == [line, line, b"c"]
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_no_sentences(name, client, tmp_path):
    content, what = TABLES[name]
    assert compare(client, tmp_path / "a.txt", content.encode()) is None
    assert what in trained(tmp_path / "a.txt")


@pytest.mark.parametrize("name", NO_TABLES)
def test_sentences_are_no_tables(name, client, tmp_path):
    content = NO_TABLES[name]
    rows = compare(client, tmp_path / "a.txt", content.encode())
    assert rows == [line.strip() for line in content.splitlines()]


def test_one_rule_for_the_ends_of_lines(client, tmp_path):
    content = "a\rb\r\nc\n\nd\u2028e\x0bf\x0cg\u0085h\x1ci\r\r\nj"
    rows = compare(client, tmp_path / "a.txt", content.encode())
    assert rows == ["a", "b", "c", "d\u2028e\x0bf\x0cg\u0085h\x1ci", "j"]
    assert scored(content.encode())[1] == {4: "it is empty", 6: "it is empty"}


def test_one_rule_for_what_cannot_be_seen(client, tmp_path):
    lines = [
        "\ufeff\u00a0cafe\u0301\u3000",
        "\u200b",
        "\u00a0\u2060",
        "\ufeffthe\ufeff cat\t",
        "\u0085a",
    ]
    rows = compare(client, tmp_path / "a.txt", "\n".join(lines).encode())
    assert rows == ["caf\u00e9", "the cat", "a"]


def test_lines_do_not_depend_on_how_a_file_is_read(monkeypatch):
    rng = random.Random(0)
    for _ in range(200):
        content = b"".join(
            rng.choice([b"a", b"\r", b"\n", b" b"]) for _ in range(rng.randrange(30))
        )
        monkeypatch.setattr(sentences, "HEAD_SIZE", rng.choice([1, 2, 3, 1 << 16]))
        monkeypatch.setattr(sentences, "_CHUNK", rng.choice([1, 2, 5]))
        assert list(sentences.read_lines(io.BytesIO(content))) == content.splitlines()


def test_bad_lines_behind_the_beginning_are_listed(client, tmp_path):
    lines = [b"the cat sat on the mat"] * 8_000
    for number in (11, 5_000, 5_001, 6_000, 7_000, 7_998, 7_999):
        lines[number - 1] = b"caf\xe9" if number % 2 else b"the \0 cat"
    assert compare(client, tmp_path / "a.txt", b"\n".join(lines)) is None
    message = trained(tmp_path / "a.txt")
    assert (
        "Line 11 is not UTF-8 (unexpected end of data at byte 3); line 5000 holds a NUL" in message
    )
    assert "line 7000 holds a NUL byte; and 2 more. Repair them" in message


def random_file(rng):
    """Bytes of any kind, and whether they are prose and nothing else."""
    words = [
        "the",
        "cat",
        "cafe\u0301",
        "a\u0323\u0302",
        "\u1112\u1161",
        "1,",
        "x;",
        '"y"',
        "{",
        "<s>",
    ]
    spaces = [
        " ",
        " ",
        " ",
        "\u00a0",
        "\u3000",
        "\x0b",
        "\x0c",
        "\u2028",
        "\u0085",
        "\u200b",
        "\ufeff",
    ]
    ends = rng.choice([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n", "\r", "\n\n"]])
    text = rng.choice(["", "", "\ufeff"])
    for _ in range(rng.choice([0, 1, 3, 40])):
        for _ in range(rng.randrange(6)):
            text += rng.choice(words) + rng.choice(spaces)
        text += rng.choice(ends)
    kind = rng.choice(
        ["prose"] * 3 + ["other", "table", "json", "csv", "encoding", "damage", "nul"]
    )
    content = text.encode()
    if kind == "other":
        content = rng.choice(list(FILES_OF_OTHER_KINDS.values())) + content
    elif kind == "table":
        content = text.replace(" ", "\t").encode()
    elif kind == "json":
        lines = text.splitlines()
        content = "\n".join(json.dumps({"text": line}) for line in lines).encode()
    elif kind == "csv":
        content = ("text,label\n" + text.replace(" ", ",")).encode()
    elif kind == "encoding":
        content = text.encode(
            rng.choice(["latin-1", "utf-16", "utf-16-be", "utf-32-le"]), "replace"
        )
    packed = rng.random() < 0.4
    if packed:
        content = gzip.compress(content, mtime=0)
    content = bytearray(content)
    if kind in ("damage", "nul") and content:
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = 0 if kind == "nul" else rng.randrange(256)
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
    return bytes(content), text if kind == "prose" else None


def fuzz(client, folder, number, seed):
    rng, taken = random.Random(seed), 0
    for _ in range(number):
        content, prose = random_file(rng)
        rows = compare(client, folder / f"a{rng.choice(['.txt', '.txt.gz', ''])}", content)
        if prose is not None and prose.removeprefix("\ufeff"):
            lines = prose.encode().splitlines()
            expected = [
                unicodedata.normalize("NFC", x.decode().replace("\ufeff", "")) for x in lines
            ]
            expected = [
                line.strip()
                for line in expected
                if line.strip(" \t\x0b\x0c\u0085\u200b\u2028\u00a0\u3000")
            ]
            assert rows == expected
            taken += 1
    assert taken > number // 5


def test_all_readers_agree_on_any_file(client, tmp_path):
    fuzz(client, tmp_path, 200, 0)


@pytest.mark.slow
def test_all_readers_agree_on_many_files(client, tmp_path):
    fuzz(client, tmp_path, 2_000, 1)

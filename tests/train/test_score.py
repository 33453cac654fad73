"""The script of bulk jobs, as a person runs it."""

import json
import pathlib
import subprocess
import sys

import pytest
import score

import tfebm
from tfebm import runs, serving

SCRIPT = pathlib.Path(score.__file__)


def call(monkeypatch, *flags):
    """In this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["score.py", *map(str, flags)])
    try:
        runs.run_command(score.main)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def lines(tmp_path):
    """The flags of a job over three lines, one of them empty."""
    pytest.importorskip("apache_beam", reason="comes with the extra `beam`")
    tokenizer = tfebm.tokenizers.WordTokenizer(["a", "cat", "sleeps"])
    model = tfebm.LanguageModel(tfebm.AutoregressiveGenerator(tokenizer, 4, 5, max_length=6))
    serving.export(model, tmp_path, "lm")
    (tmp_path / "in.txt").write_text("a cat sleeps\n\na cat\n")
    return ["--model", tmp_path / "lm", "--input", tmp_path / "in.txt", "--output", tmp_path / "o"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--model is needed"),
        (["--model", "m"], "--output is needed"),
        (["--model", "m", "--output", "o"], "Give --input to score files, or --generate to draw"),
        (["--model", "m", "--output", "o", "--input", "i", "--generate", "3"], "Give --input"),
        (["--model", "m", "--output", "o", "--generate", "-3"], "--generate must be at least 0"),
        (
            ["--model", "m", "--output", "o", "--generate", "3", "--resize"],
            "--resize is for scoring",
        ),
        (["--format", "xlsx"], "invalid choice: 'xlsx'"),
        (["--seed", str(2**63)], "--seed must be at most"),
    ],
)
def test_flags_that_cannot_be_used(monkeypatch, capsys, flags, message):
    assert call(monkeypatch, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_beam_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "tfebm.serving.bulk", raising=False)
    monkeypatch.delattr(serving, "bulk", raising=False)
    assert call(monkeypatch, "--model", "m", "--input", "i", "--output", "o") == 2
    assert "apache_beam is not installed. Install it with `pip install -e '.[beam]'`" in (
        capsys.readouterr().err
    )


@pytest.mark.extras
def test_a_job_prints_its_counts(lines, monkeypatch, capsys, tmp_path):
    # The last flag is Beam's.
    assert call(monkeypatch, *lines, "--direct_num_workers", "1") == 0
    assert capsys.readouterr().out.startswith("3 read, 2 scored, 1 unreadable, 0 flagged\n")
    assert json.loads((tmp_path / "o-summary.json").read_text())["scored"] == 2
    (tmp_path / "in.txt").write_text("\n\n")
    assert call(monkeypatch, *lines) == 2
    assert "An earlier job wrote" in capsys.readouterr().err
    assert call(monkeypatch, *lines, "--overwrite") == 2
    assert "None of the 2 records could be scored" in capsys.readouterr().err
    assert call(monkeypatch, *lines[:2], *lines[4:], "--generate", "2", "--overwrite") == 0
    assert capsys.readouterr().out.startswith("2 generated, 0 flagged\n")


@pytest.mark.extras
@pytest.mark.slow
def test_a_process_of_its_own_says_nothing_else(lines):
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 2
    assert "WARNING:root" not in done.stderr

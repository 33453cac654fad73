"""Runs that are killed, interrupted, or out of disk space; each ends like one that was not.

The longer ones kill 100 runs and interrupt 30, and print where each of them was:

    python -m pytest -m slow -n 0 tests/train/test_faults.py

TFEBM_KILLS and TFEBM_INTERRUPTS set other numbers.
"""

import collections
import json
import os
import pathlib
import re
import resource
import signal
import time

import faults
import numpy as np
import pytest
from faults import FORKS, Folder, Process, assert_same_end

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICK = ROOT / "tests" / "quick_run.py"
IMAGES = ROOT / "train" / "latent_ebm.py"
KILLED, INTERRUPTED = 128 + signal.SIGKILL, 128 + signal.SIGINT


class Job:
    """A script with the flags of a run, and that run without interruption."""

    def __init__(self, script, flags, base):
        self.script, self.flags, self.path = script, flags, base / "run"
        self.watched = self.folder(base)
        started = time.monotonic()
        process = self.start(base)
        assert process.wait(self.watched.look) == 0, process.text
        self.seconds = time.monotonic() - started

    def folder(self, base):
        if self.script == IMAGES:
            return Folder(base / "run", "curves.png", base / "savedmodels")
        return Folder(base / "run")

    def start(self, base, *more, **options):
        """The same run in another place."""
        flags = [*self.flags, "--checkpoint-every", "1", "--output", base / "run", *more]
        if self.script == IMAGES:
            flags += ["--export", base / "savedmodels"]
        return Process(self.script, flags, base / "log", **options)

    def resume(self, base):
        """Goes on to the end, if there is something to go on from."""
        folder = self.folder(base)
        started = (folder.path / "config.json").exists()
        kept = list(folder.path.glob("checkpoints/step-*"))
        process = self.start(base, *(["--resume"] if started else []))
        assert process.wait(folder.look) == 0, process.text
        assert ("Resumed at step" in process.text) == bool(kept)
        assert folder.left_over() == []
        assert_same_end(folder.path, self.path)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Two epochs of three steps."""
    return Job(QUICK, [], tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two epochs of three steps, and an export."""
    base = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (14, 28, 28), dtype=np.uint8)
    np.savez(base / "images.npz", x_train=pixels[:11], x_test=pixels[11:])
    flags = [
        *("--dataset", base / "images.npz", "--batch-size", "4", "--epochs", "2", "--width", "2"),
        *("--latent-size", "3", "--energy-width", "8", "--prior-steps", "3", "--jit", "off"),
        *("--posterior-steps", "3", "--posterior-step-size", "0.02"),
    ]
    return Job(IMAGES, flags, base)


def test_everything_is_whole_all_the_time(quick):
    assert quick.watched.looks > 50
    assert {path.name for path in quick.path.iterdir()} == {
        *("config.json", "metrics.json", "model.keras", "samples.png", "checkpoints", "logs")
    }


KILLS = {
    "run/config.json": {"tracing, first step"},
    "run/checkpoints/.tmp-step-*": {"writing a checkpoint", "steps"},
    "run/.tmp-model.keras": {"writing model.keras", "drawing"},
}


def test_a_killed_run_ends_like_one_that_was_not(quick, tmp_path):
    """kill -9 in three places, each time of the run that goes on from the last. (It is done to the
    image script in `test_latent_ebm.py`.)"""
    rng, bases = np.random.default_rng(0), (tmp_path / str(i) for i in range(10))
    base = next(bases)
    base.mkdir()
    for pattern, places in KILLS.items():
        while True:
            folder = quick.folder(base)
            more = ["--resume"] if (folder.path / "config.json").exists() else []
            process = quick.start(base, *more)
            code = process.cut(folder, pattern, rng.uniform(0, 0.01), signal.SIGKILL)
            assert code in (0, KILLED), process.text
            if code == KILLED and folder.place() in places:
                break
            # A busy machine may not look while a temporary file is there, or send too late.
            base = next(bases)
            base.mkdir()
        folder.load()
    quick.resume(base)


def assert_interrupted(process, code):
    assert code == INTERRUPTED, process.text
    assert re.search(r"Interrupted. To finish, go on .*with --resume\.", process.text)
    assert "Traceback" not in process.text


def test_an_interrupt_while_tracing_in_a_step_and_in_the_evaluation(quick, tmp_path):
    """Ctrl-C: code 130, a sentence, and a run that can be resumed, each by the next."""
    folder, more = quick.folder(tmp_path), []
    for pattern, delay, place in (
        ("run/config.json", 0.3, "tracing, first step"),
        ("run/checkpoints/step-*", 0.0, None),
        ("run/samples.png", 0.05, "evaluation"),
    ):
        process = quick.start(tmp_path, *more)
        assert_interrupted(process, process.cut(folder, pattern, delay, signal.SIGINT))
        assert folder.place() == place or place is None
        more = ["--resume"]
    quick.resume(tmp_path)


class TestFullDisk:
    """Code 3, a sentence, and a run that can be resumed when there is room again."""

    def check(self, text, code, left_over):
        assert code == 3, text
        message = text[text.rindex(".py: ") :]
        assert "cannot be written: " in message
        assert "Make room for it, and go on from the newest checkpoint with --resume" in message
        assert message.count("\n") == 1
        assert "Traceback" not in text
        assert left_over == []

    @pytest.mark.parametrize(
        ("name", "pattern"),
        [
            ("quick", "checkpoints/step-*"),
            pytest.param("quick", "metrics.json", marks=pytest.mark.slow),
            pytest.param("quick", "model.keras", marks=pytest.mark.slow),
            pytest.param("images", "checkpoints/step-00000005", marks=pytest.mark.slow),
            pytest.param("images", "curves.png", marks=pytest.mark.slow),  # before the export
        ],
    )
    def test_no_more_room(self, request, tmp_path, name, pattern):
        job = request.getfixturevalue(name)
        flags = [*job.flags, "--checkpoint-every", "1"]
        if job.script == IMAGES:
            flags += ["--export", tmp_path / "disk" / "savedmodels"]
        process = FORKS.Process(
            target=faults.on_a_full_disk, args=(job.script, flags, tmp_path, pattern)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
        report = json.loads((tmp_path / "report.json").read_text())
        if "refused" in report:
            pytest.skip(f"no file system can be mounted here: {report['refused']}")
        assert report["room"] == 0
        text = (tmp_path / "full.log").read_text()
        assert "No space left on device" in text
        self.check(text, report["code"], report["left over"])
        assert report["code of the resumed"] == 0
        assert "Resumed at step" in (tmp_path / "again.log").read_text()
        assert_same_end(tmp_path / "run", job.path)

    def test_files_that_may_not_grow(self, quick, tmp_path):
        """The same by a limit on the size of files, which needs no file system of one's own."""
        folder, limits = quick.folder(tmp_path), []
        process = quick.start(tmp_path)

        def look():
            if not limits and next(folder.path.glob("checkpoints/step-*"), None):
                limits.append(resource.prlimit(process.pid, resource.RLIMIT_FSIZE))
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (5000, limits[0][1]))
            folder.look()

        code = process.wait(look)
        assert "File too large" in process.text
        self.check(process.text, code, folder.left_over())
        quick.resume(tmp_path)

    def test_nothing_can_be_printed(self, quick, tmp_path):
        process = quick.start(tmp_path, printed="/dev/full")
        assert process.wait(quick.folder(tmp_path).look) == 3
        assert "The output cannot be written: No space left on device" in process.text
        assert "Traceback" not in process.text
        assert "Exception ignored" not in process.text


# Where to strike (None: at any time), and how long after it at most, in seconds.
STRIKES = [
    *([(None, None)] * 6),
    *[(f"run/checkpoints/{name}", 0.02) for name in (".tmp-step-*", ".tmp-old-*")],
    *[(f"run/.tmp-{name}", 0.02) for name in ("metrics.json", "model.keras", "samples.png")],
    ("run/model.keras", 1.0),
]
OF_EXPORTS = [
    ("run/curves.png", 4.0),
    ("savedmodels/latent_ebm/*/.tmp-1", 1.0),
    ("savedmodels/latent_ebm/scorer/1", 1.0),
]


def strike(number, jobs, base, rng, fresh):
    """Cuts a run short, once or, every fourth of them, twice, and resumes it.

    Returns:
        Names of the script and of the places that were hit.
    """
    job = jobs[int(rng.integers(len(jobs)))]
    folder, hits = job.folder(base), []
    options = {"context": None} if fresh else {}
    strikes = STRIKES + (OF_EXPORTS if job.script == IMAGES else [])
    for _ in range(2 if rng.random() < 0.25 else 1):
        pattern, longest = strikes[int(rng.integers(len(strikes)))]
        delay = rng.uniform(0, longest or job.seconds)
        more = ["--resume"] if (folder.path / "config.json").exists() else []
        process = job.start(base, *more, **options)
        code = process.cut(folder, pattern, delay, number)
        if code == 0 and json.loads((folder.path / "metrics.json").read_text())["final"]:
            break  # it was through before
        assert code == 128 + number, process.text
        if folder.place() == "all is done":  # the interpreter was about to end
            assert "Traceback" not in process.text
        elif number == signal.SIGINT and f", {job.script.stem}:\n" in process.text:
            assert_interrupted(process, code)
        hits.append(folder.place())
        folder.load()
    job.resume(base)
    return job.script.stem + (" (new interpreter)" if fresh else ""), hits


def strike_often(number, total, jobs, tmp_path, capsys):
    """Prints where it hit; fails at the end, with all that went wrong."""
    table, wrong = collections.Counter(), []
    trial = 0
    while table.total() < total:
        base = tmp_path / str(trial)
        base.mkdir()
        rng = np.random.default_rng([int(number), trial])
        try:
            name, hits = strike(number, jobs, base, rng, fresh=trial % 10 == 9)
            table.update((name, place) for place in hits)
        except AssertionError as error:
            wrong.append(f"trial {trial}: {error}")
            table["failed", ""] += 1
        trial += 1
    with capsys.disabled():
        print(f"\n{total} times signal {int(number)}, in {trial} runs:")
        for (name, place), count in sorted(table.items()):
            print(f"{count:6d}  {name:30s} {place}")
    assert not wrong, "\n\n".join(wrong)
    return {place for _, place in table}


@pytest.mark.slow
def test_kills_at_random_moments(quick, images, tmp_path, capsys):
    total = int(os.environ.get("TFEBM_KILLS", "100"))
    jobs = [quick, quick, quick, images]
    places = strike_often(signal.SIGKILL, total, jobs, tmp_path, capsys)
    if total >= 100:
        assert {"writing a checkpoint", "writing model.keras", "tracing, first step"} <= places


@pytest.mark.slow
def test_interrupts_at_random_moments(quick, images, tmp_path, capsys):
    total = int(os.environ.get("TFEBM_INTERRUPTS", "30"))
    jobs = [quick, images]
    places = strike_often(signal.SIGINT, total, jobs, tmp_path, capsys)
    if total >= 30:
        assert {"tracing, first step", "evaluation", "tracing the export"} <= places

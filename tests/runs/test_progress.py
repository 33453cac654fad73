"""The line on the screen."""

import io
import itertools
import os
import re

import pytest

from tfebm.runs import progress
from tfebm.runs.progress import Progress

SHOWN = {"reconstruction_mse": "error", "energy_posterior": "energy", "energy_prior": "of samples"}
LOGS = {"reconstruction_mse": 0.0123456, "energy_posterior": -12.3456, "energy_prior": 1e-9}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on by two seconds with every look."""
    monkeypatch.setattr(progress.time, "monotonic", itertools.count(0.0, 2.0).__next__)


@pytest.fixture
def columns(monkeypatch):
    def set_to(number):
        monkeypatch.setattr(
            progress.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((number, 24))
        )

    set_to(80)
    return set_to


def run(bar, plan):
    """As `fit` calls it: pairs of the epoch and its steps."""
    for epoch, steps in plan:
        bar.on_epoch_begin(epoch)
        for batch in range(steps):
            bar.on_train_batch_end(batch, LOGS)
        bar.on_epoch_end(epoch, LOGS)


def test_a_log_file_has_a_line_per_epoch_with_the_time_left(clock):
    stream = io.StringIO()
    run(Progress(0, 12, 5, SHOWN, stream=stream), [(0, 5), (1, 5), (2, 2)])
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    # 4 steps in 10 seconds, the look at the end included, without the first step.
    assert lines[0] == "epoch 1/3, 0:18 left, error 0.0123, energy -12.3, of samples 1e-09"
    assert "step 12 of 12, done" in lines[2]
    assert max(map(len, lines)) <= 80


def test_a_resumed_run_counts_on_through_several_fits(clock):
    stream = io.StringIO()
    bar = Progress(7, 20, 5, SHOWN, stream=stream)
    run(bar, [(1, 3)])
    run(bar, [(2, 5), (3, 5)])
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch 2/4", "epoch 3/4", "epoch 4/4"]
    assert "0:30 left" in lines[0]  # 10 steps, 2 in 6 seconds


@pytest.mark.parametrize("width", [80, 60, 40, 0, 200])
def test_a_terminal_has_a_bar_that_never_wraps(clock, columns, width):
    columns(width)
    stream = Terminal()
    bar = Progress(0, 10_000, 5000, SHOWN, stream=stream)
    run(bar, [(0, 3)])
    looks = stream.getvalue().split("\r")[1:]
    assert len(looks) == 4
    assert {len(look.rstrip("\n")) for look in looks} == {min(width or 80, 100) - 1}
    assert re.search(r"epoch 1/2 \[\.{10}\] ", looks[0])
    assert stream.getvalue().endswith("\n")
    if width >= 80:
        assert "error 0.0123, energy -12.3" in looks[-1]
    # Whether a metric has room does not change from one look to the next.
    assert len({look.count(", ") for look in looks}) == 1


def test_the_bar_is_that_of_the_run(clock, columns):
    stream = Terminal()
    bar = Progress(6, 10, 5, {}, stream=stream)
    run(bar, [(1, 4)])
    looks = stream.getvalue().split("\r")[1:]
    assert [look.count("=") for look in looks] == [7, 8, 9, 10, 10]


def test_what_is_cut_short_ends_its_line(clock, columns):
    stream = Terminal()
    bar = Progress(0, 10, 5, SHOWN, stream=stream)
    bar.on_epoch_begin(0)
    bar.on_train_batch_end(0, LOGS)
    bar.close()
    bar.close()
    assert stream.getvalue().count("\n") == 1


def test_a_stage_has_a_time_of_its_own(clock):
    stream = io.StringIO()
    run(Progress(0, 12, 6, {"nats": "nats"}, "flow", stream), [(0, 6)])
    assert stream.getvalue() == "flow: epoch 1/2, 0:15 left of this stage\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0:01"), (75, "1:15"), (3700, "1:01:40"), (200_000, "2 days 7 h")],
)
def test_times(seconds, text):
    assert progress._clock(seconds) == text

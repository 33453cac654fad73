"""What the benchmarks compare with: processes that answer, are not there, or disagree."""

import argparse
import importlib
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as command
from benchmarks import figures, images, peer, time_to_quality, timing

ROOT = pathlib.Path(__file__).resolve().parents[1]
FAKE = """
import serve

def load(given):
    z = given["z"]

    def broken():
        raise RuntimeError("no compiler here\\nand more")

    return {
        "right": serve.Variant(lambda: {"z": 2 * z}, lambda: None, lambda: {"x": z + 1}),
        "wrong": serve.Variant(lambda: {"z": 3 * z}, lambda: None),
        "broken": serve.Variant(broken, broken),
    }

serve.serve({"fake": "1.0"}, load)
"""
ABSENT = """
import serve

try:
    import a_package_that_nobody_has
except ImportError as error:
    serve.missing(error)
"""


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    shutil.copy(peer.FOLDER / "serve.py", tmp_path)
    for name, text in {"fake": FAKE, "absent": ABSENT, "dies": "raise SystemExit(7)"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(peer, "FOLDER", tmp_path)


def ours(z):
    return {"ours": peer.Side(lambda: 2 * z, lambda: 1.0)}


def test_peers_answer_or_say_why_not(scripts, capsys):
    z = np.arange(3.0)
    names = {"fake": "Fake", "absent": "Absent", "dies": "Dead"}
    with peer.Peers(names, {"z": z}, sys.executable) as peers:
        assert peers.facts == {"fake": "1.0"}
        sides = ours(z) | peers.sides("Fake", ["right", "broken"]) | peers.sides("Absent", ["x"])
        assert peers.check(sides, 1e-6) == {"Fake, right": 0.0}
        assert list(sides) == ["ours", "Fake, right"]
        all_sides = sides | peers.sides("Fake", ["broken"])
        late = {}
        times = timing.turns({k: side.seconds for k, side in all_sides.items()}, 5, late)
        looked = peers.found["Fake"].look("right")
    assert list(times) == list(sides)
    assert late == {"Fake, broken": "RuntimeError: no compiler here"}
    assert times["ours"] == [1.0] * 5
    assert all(0.0 < seconds < 1.0 for seconds in times["Fake, right"])
    assert looked["x"].tolist() == [1.0, 2.0, 3.0]
    missing = {row["side"]: row["missing"] for row in peers.missing_rows()}
    assert missing == {
        "Absent": "No module named 'a_package_that_nobody_has'",
        "Dead": "its process ended with exit code 7",
        "Fake, broken": "RuntimeError: no compiler here",
    }
    assert "Dead: missing (its process ended with exit code 7)" in capsys.readouterr().out


def test_nothing_is_timed_that_computes_something_else(scripts):
    z = np.arange(3.0)
    with peer.Peers({"fake": "Fake"}, {"z": z}, sys.executable) as peers:
        sides = ours(z) | peers.sides("Fake", ["wrong"])
        with pytest.raises(SystemExit, match="ours and of Fake, wrong must agree to 1e-06"):
            peers.check(sides, 1e-6)
        sides = ours(z) | peers.sides("Fake", ["wrong"], inexact=["wrong"])  # bfloat16, say
        assert peers.check(sides, 1e-6) == {"Fake, wrong": 0.5}


def test_an_aim_is_reached_at_the_first_epoch_that_has_it():
    aims = argparse.Namespace(error=0.05, distance=60.0)
    course = [
        {"seconds": 10.0, "error": 0.06, "distance": 50.0},
        {"seconds": 20.0, "error": 0.05, "distance": 70.0},
        {"seconds": 30.0, "error": 0.04, "distance": 60.0},
    ]
    found = time_to_quality.reached(course, aims)
    assert found == {"seconds_to_error": 20.0, "seconds_to_distance": 10.0, "seconds_to_both": 30.0}
    assert time_to_quality.reached(course[:2], aims)["seconds_to_both"] is None
    rows = time_to_quality.table({"ours": course, images.BASELINE: course[:2]}, aims)
    assert rows[0]["speed_of_pytorch_eager_to_error"] == 1.0
    assert rows[0]["speed_of_pytorch_eager_to_both"] is None


def test_a_python_that_is_not_there(tmp_path):
    with peer.Peers({"prior_chain_jax": "JAX"}, {}, tmp_path / "python") as peers:
        assert peers.sides("JAX", ["jit"]) == {}
    assert "No such file" in peers.missing["JAX"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "prior_chain"),
        (["nonsense"], 2, "there is no nonsense; there are prior_chain, images"),
    ],
)
def test_the_command_line(arguments, code, text):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert text in done.stdout + done.stderr


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.extras) if name == "bulk" else name
        for name in {**command.NAMES, **command.ON_REQUEST}
    ],
)
def test_each_says_what_it_measures_and_how(name, monkeypatch, capsys):
    if name == "bulk":
        pytest.importorskip("apache_beam")
    benchmark = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == 0
    assert f"python -m benchmarks {name}" in capsys.readouterr().out


def test_pictures_of_what_records_there_are(tmp_path, monkeypatch):
    assert figures.draw(tmp_path, tmp_path) == []
    monkeypatch.setattr(sys, "argv", ["figures", str(tmp_path)])
    with pytest.raises(SystemExit):
        figures.main()
    shutil.copy(ROOT / "benchmarks" / "records" / "prior_chain.json", tmp_path)
    assert [path.name for path in figures.draw(tmp_path, tmp_path)] == ["speed.png"]
    records = ROOT / "benchmarks" / "records"
    paths = figures.draw(records, tmp_path)
    assert [path.name for path in paths] == ["speed.png", "scaling.png"]
    for path in paths:
        with Image.open(path) as picture:
            assert np.asarray(picture).std() > 5

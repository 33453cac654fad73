"""Random flags of all scripts, made from their own definitions: code 0 or 2, never a traceback."""

import collections
import contextlib
import dataclasses
import importlib
import os
import random
import resource
import sys

import anomaly
import flow_ebm
import latent_ebm
import launch
import numpy as np
import pytest
import score
import short_run
import text
from PIL import Image

import tfebm
from tfebm import __main__ as package_command

# Values that no flag is meant for, or few.
ODD = ["", " ", "nan", "inf", "-inf", "1e400", "-1", "0", "-0.0", "9" * 25, "two", "½"]
ODD += [
    "1,2,",
    "\uff11\uff12",
    "\udcff",
    "ünï/cödé",
    "None",
    "--",
    "-",
    "0x10",
    "1_000",
    "*" * 300,
    "a\nb",
]
ODD += ["%s", "0,0", "1e308", "-1e-320"]
STRAY = ["--", "--epochz", "-h", "stray", "--help", "--seed", "--no-resume"]
# As small as it gets; what is drawn comes behind and wins.
TINY = {
    "batch_size": 4,
    "width": 2,
    "energy_width": 4,
    "latent_size": 2,
    "hidden_units": 4,
    "hidden_size": 4,
    "embedding_size": 4,
    "latent_sizes": "2,2",
    "prior_steps": 1,
    "posterior_steps": 2,
    "num_points": 12,
    "flow_width": 4,
    "flow_steps": 1,
    "levels": 1,
    "couplings": 2,
    "chains": 2,
    "generation_steps": 1,
    "score_steps": 2,
}
ADDRESS_SPACE = 16 * 2**30  # bytes that a combination may take beyond what there is


class TrainingBeginsError(BaseException):
    """Flags and data are good, and the model is built."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Small sets of every kind, and what is none."""
    base = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (24, 28, 28), dtype=np.uint8), np.arange(24) % 3
    split = {"x_train": pixels[:18], "x_test": pixels[18:]}
    np.savez(base / "plain.npz", **split)
    np.savez(base / "labelled.npz", **split, y_train=labels[:18], y_test=labels[18:])
    np.savez(base / "other.npz", something=pixels)
    (base / "garbage.npz").write_bytes(b"PK" + bytes(50))
    for name in ("photos", "empty"):
        (base / name).mkdir()
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(
            base / "photos" / f"{i}.png"
        )
    words = ["a", "cat", "the", "dog", "sleeps", "runs", "here"]
    lines = [" ".join(rng.choice(words, 1 + i % 5)) for i in range(40)]
    (base / "lines.txt").write_text("\n".join(lines))
    (base / "labelled.txt").write_text("\n".join(f"{i % 2}\t{s}" for i, s in enumerate(lines)))
    (base / "nothing.txt").write_text("")
    return base


def field_value(rng, field, sources):
    """A value that the flag may have: within its bounds, at them, or a path."""
    rules, default = field.metadata, field.default
    if rules["choices"] is not None:
        return rng.choice(rules["choices"])
    kind = rules.get("type") or type(default)
    if kind in (int, float):
        low = rules.get("least", rules.get("above", 0))
        high = min(rules.get("most", 16), 16)
        near = [low, low + 1, 3, 8, default, rng.uniform(low, high)]
        if "most" in rules:
            near += [rules["most"]] if kind is float or rules["most"] <= 16 else []
        return kind(rng.choice([value for value in near if value is not None]))
    if kind is str and rules.get("metavar") in ("DIR", "NAME|PATH", "FILE", "FILE,FILE", "GLOB"):
        return rng.choice([str(path) for path in sources.iterdir()] + [str(sources / "none")])
    if rules.get("metavar") in ("N,N", "X,X"):
        return ",".join(str(rng.choice([1, 2, 3, 0.5, 7])) for _ in range(rng.randint(1, 3)))
    return rng.choice(["paper", "0.3", default or "x"])


def words(rng, settings_class, presets, sources, output):
    """A command line."""
    fields = {field.name: field for field in dataclasses.fields(settings_class)}
    argv = []
    for name, value in TINY.items():
        if name in fields and isinstance(fields[name].default, type(value)):
            argv += [f"--{name.replace('_', '-')}", str(value)]
    if "dataset" in fields:
        kind = ".txt" if "vocabulary" in fields else ".npz"
        toys = ["rings", "eight_gaussians"] if "pad" in fields else []
        argv += ["--dataset", rng.choice([*toys, str(sources / f"labelled{kind}")])]
    if "held_out" in fields and rng.random() < 0.8:
        argv += ["--held-out", rng.choice("012")]
    argv += ["--output", str(output)]
    if presets and rng.random() < 0.3:
        argv += ["--preset", rng.choice([*presets, "none"])]
    drawn = rng.sample(list(fields), rng.randint(0, 5))
    odd = rng.choice(drawn) if drawn and rng.random() < 0.4 else None
    for name in drawn:
        flag = f"--{name.replace('_', '-')}"
        if isinstance(fields[name].default, bool):
            argv.append(flag)
        elif name == odd:
            argv.append(f"{flag}={rng.choice(ODD)}")
        elif name != "output":
            argv.append(f"{flag}={field_value(rng, fields[name], sources)}")
    if rng.random() < 0.05:
        argv.append(rng.choice(STRAY))
    return argv


def launch_words(rng, sources):
    argv = []
    for flag in ("--workers", "--restarts", "--gpus"):
        if rng.random() < 0.6:
            argv += [flag, *([] if flag == "--gpus" else [rng.choice([*ODD, "2", "3"])])]
    argv += [rng.choice(["nothing.py", str(sources), "", latent_ebm.__file__])]
    return argv + rng.sample(["--overwrite", "--epochs", "2", "--resume"], 2)


def serving_words(rng, sources, output):
    folder = str(rng.choice([sources, sources / "none", sources / "plain.npz", ""]))
    argv = [rng.choice(["export", "check", "extras", "portable", "chek"])]
    argv += [folder, str(output / "model")] if argv[0] == "export" else [folder]
    for flag in ("--seconds", "--batch-size", "--output"):
        if rng.random() < 0.3:
            argv.append(f"{flag}={rng.choice([*ODD, '1'])}")
    return argv


SCRIPTS = {
    "latent_ebm": latent_ebm,
    "short_run": short_run,
    "flow_ebm": flow_ebm,
    "text": text,
    "anomaly": anomaly,
    "score": score,
}


def combination(seed, sources, output):
    """The name of a program, what it is called as, its `main`, and its words."""
    rng = random.Random(seed)
    name = rng.choice([*SCRIPTS, *("latent_ebm", "short_run", "text", "launch", "serving")])
    if name == "launch":
        return name, "launch.py", launch._arguments, launch_words(rng, sources)
    if name == "serving":
        argv = serving_words(rng, sources, output)
        return name, "__main__.py", package_command.main, argv
    script = SCRIPTS[name]
    argv = words(rng, script.Settings, getattr(script, "PRESETS", {}), sources, output / str(seed))
    return name, f"{name}.py", script.main, argv


@contextlib.contextmanager
def limited_memory():
    """A combination that asks for too much fails, and the machine does not."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESS_SPACE, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def outcome(main, argv):
    """The exit code; "begins" where training would."""
    if main is launch._arguments:
        try:
            launch._arguments(argv)
        except SystemExit as stop:
            return stop.code
        return "begins"
    try:
        tfebm.runs.run_command(main)
    except SystemExit as stop:
        return stop.code or 0
    except TrainingBeginsError:
        return "begins"
    return 0


def run_all(seeds, sources, tmp_path, monkeypatch, capsys):
    """Runs the combinations; fails at the end, with all that went wrong."""

    def begins(*_):
        raise TrainingBeginsError

    session = importlib.import_module("tfebm.runs.session")
    monkeypatch.setattr(session.Session, "announce", begins)
    monkeypatch.chdir(tmp_path)
    found, wrong = collections.Counter(), []
    for seed in seeds:
        name, program, main, argv = combination(seed, sources, tmp_path)
        monkeypatch.setattr(sys, "argv", [program, *argv])
        try:
            with limited_memory():
                code = outcome(main, argv)
        except Exception as error:
            code = repr(error)
        error = capsys.readouterr().err
        found[name, code if code in (0, 2, "begins") else "wrong"] += 1
        last = error.strip().rpartition("\n")[2]
        told = code != 2 or last.startswith((f"{program}: ", "python -m tfebm"))
        if code not in (0, 2, "begins") or "Traceback" in error or not told:
            wrong.append(f"{seed}: {program} {' '.join(argv)}\n    {code}\n    {error[-500:]}")
    with capsys.disabled():
        print(f"\n{dict(sorted(found.items(), key=str))}")
    assert not wrong, "\n".join(wrong)
    assert {code for _, code in found} >= {2, "begins"}


def test_random_flags(sources, tmp_path, monkeypatch, capsys):
    run_all(range(50), sources, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_many_random_flags(sources, tmp_path, monkeypatch, capsys):
    run_all(range(50, 1050), sources, tmp_path, monkeypatch, capsys)

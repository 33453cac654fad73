"""Every script as two workers, as a person starts them, against the same run on one device."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import launch
import numpy as np
import pytest
from helpers import weights_of

import tfebm
from tfebm.data import default_grammar

TRAIN = pathlib.Path(launch.__file__).parent
IMAGES = [
    *("--batch-size", "5", "--width", "2", "--posterior-steps", "2", "--epochs", "2"),
    *("--prior-steps", "2", "--energy-width", "4"),
]
SHORT = [*IMAGES, "--latent-sizes", "2,3", "--halve-at", "0", "--tune-every", "1"]
FLOW = [
    *("--num-points", "40", "--batch-size", "16", "--flow", "realnvp", "--couplings", "2"),
    *("--flow-width", "4", "--energy-width", "4", "--flow-epochs", "2", "--epochs", "2"),
    *("--contrastive-steps", "3", "--burn-in-steps", "1", "--leapfrog-steps", "2"),
    *("--chains", "4", "--generation-steps", "2", "--diagnosis-chains", "4"),
    *("--diagnosis-steps", "10", "--jit", "off"),
]
GLOW = [
    *("--batch-size", "6", "--levels", "1", "--flow-steps", "1", "--flow-width", "2", "--pad"),
    *("28", "--energy-width", "1", "--chains", "2", "--contrastive-steps", "1", "--steps", "2"),
    *("--burn-in-steps", "1", "--generation-steps", "1", "--diagnosis-chains", "2"),
    *("--diagnosis-steps", "8", "--leapfrog-steps", "1"),
]
TEXT = [
    *("--batch-size", "7", "--embedding-size", "4", "--hidden-size", "6", "--latent-size", "3"),
    *("--posterior-steps", "2", "--prior-steps", "2", "--energy-width", "4", "--max-length", "20"),
    *("--epochs", "2", "--evidence-examples", "2", "--evidence-samples", "4"),
    *("--au-examples", "4"),
]
# Seconds, and figures of chains whose proposals are taken or not by the last bit of a weight.
NOT_COMPARED = ("tuning_seconds", "r_hat", "r_hat_energy", "ess", "autocorrelation_time")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images, whose last batch has 3 rows, and sentences."""
    folder = tmp_path_factory.mktemp("data")
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 28), dtype=np.uint8)
    labels = np.arange(28) % 2
    sets = {"x_train": pixels[:23], "x_test": pixels[23:]}
    np.savez(folder / "images.npz", **sets, y_train=labels[:23], y_test=labels[23:])
    (folder / "text").mkdir()
    for seed, (split, number) in enumerate({"train": 24, "valid": 8, "test": 8}.items()):
        sentences = default_grammar().derive(number, seed=seed).sentences
        (folder / "text" / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return {"images": str(folder / "images.npz"), "text": str(folder / "text")}


def run(*words, code=0):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout


def launched(script, *flags):
    return [TRAIN / "launch.py", "--workers", "2", "--restarts", "1", TRAIN / script, *flags]


def read_metrics(output):
    return json.loads((output / "metrics.json").read_text())


def assert_same_run(output, expected, atol):
    """Weights to `atol`, and the figures of every epoch."""
    one, other = (tfebm.load_run(path) for path in (output, expected))
    for name, value in weights_of(other.model).items():
        if name.endswith("digest"):  # of the weights, to the last bit
            continue
        found = weights_of(one.model)[name]
        np.testing.assert_allclose(found, value, atol=atol, rtol=atol, err_msg=name)
    pairs = zip(one.metrics["epochs"], other.metrics["epochs"], strict=True)
    for mine, theirs in pairs:
        assert mine["step"] == theirs["step"]
        for name, value in theirs["metrics"].items():
            if name not in NOT_COMPARED:
                assert mine["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize(
    ("script", "dataset", "flags"),
    [
        ("latent_ebm.py", "images", [*IMAGES, "--latent-size", "3"]),
        ("anomaly.py", "images", [*IMAGES, "--held-out", "1", "--batch-size", "4"]),
        ("short_run.py", "images", SHORT),
        ("short_run.py", "images", [*SHORT, "--model", "ladder_vae"]),
        ("flow_ebm.py", None, FLOW),
        ("flow_ebm.py", "images", GLOW),
        ("text.py", "text", TEXT),
        ("text.py", "text", [*TEXT, "--model", "latent_ebm"]),
        ("text.py", "text", [*TEXT, "--model", "vae"]),
        ("text.py", "text", [*TEXT, "--model", "lm"]),
    ],
)
def test_two_workers_leave_the_run_of_one_device(data, tmp_path, script, dataset, flags):
    flags = [*flags, *(["--dataset", data[dataset]] if dataset else [])]
    two, one, served = tmp_path / "two", tmp_path / "one", tmp_path / "savedmodels"
    printed = run(*launched(script, *flags, "--output", two, "--export", served))
    assert printed.count("Everything is in") == 1
    run(TRAIN / script, *flags, "--output", one)
    # Adam divides by the size of a gradient; near zero it turns rounding into a part of a step.
    assert_same_run(two, one, atol=1e-4)
    files = {path.name for path in two.iterdir()}
    assert files == {path.name for path in one.iterdir()} | {"workers"}
    kept = {path.name for path in (two / "workers" / "1").iterdir()}
    assert {"config.json", "checkpoints"} <= kept
    assert not kept & {"metrics.json", "model.keras", "logs", "samples.png", "samples.txt"}
    assert len(list(served.rglob("saved_model.pb"))) == 2


def processes_of(launcher):
    """The workers that a launcher has started, the chief first."""
    listed = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    return [int(number) for number in listed.split()]


def wait_for(path, process):
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, "the job ended too early"
        assert time.monotonic() < deadline, f"there is no {path}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "whole"
    flags = [*IMAGES, "--latent-size", "3", "--dataset", data["images"], "--epochs", "4"]
    run(*launched("latent_ebm.py", *flags, "--output", output))
    return output


@pytest.mark.parametrize("place", [0, 1])
def test_a_killed_worker_restarts_the_job(data, uninterrupted, tmp_path, place):
    """kill -9 in the middle of the second epoch; the launcher does the rest."""
    output = tmp_path / "killed"
    flags = [*IMAGES, "--latent-size", "3", "--dataset", data["images"], "--epochs", "4"]
    flags += ["--output", output, "--checkpoint-every", "1"]
    words = [sys.executable, *map(str, launched("latent_ebm.py", *flags))]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        folder = output / "workers" / "1" if place else output
        wait_for(folder / "checkpoints" / "step-00000007", process)
        os.kill(processes_of(process)[place], signal.SIGKILL)
        printed, _ = process.communicate(timeout=400)
    finally:
        process.terminate()
    assert process.returncode == 0
    assert f"worker {place} was ended by SIGKILL" in printed
    assert "Resumed at step " in printed
    assert_same_run(output, uninterrupted, atol=0.0)


def test_by_hand_a_finished_run_is_raised(data, uninterrupted, tmp_path):
    """The other flags are the saved ones, the strategy too."""
    configs = launch.cluster_configs(2)
    command = [sys.executable, str(TRAIN / "latent_ebm.py"), "--resume", "--epochs", "5"]
    command += ["--output", str(uninterrupted), "--dataset", data["images"]]
    processes = [
        subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config}, stdout=subprocess.PIPE)
        for config in configs
    ]
    printed = [process.communicate(timeout=400)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "Resumed at step 20" in printed[0]
    assert printed[1] == "Worker 1 of 2, counted from 0: worker 0 reports.\n"
    assert read_metrics(uninterrupted)["final"]["steps"] == 25


def start_both(flags, *, code):
    """Two workers as an operator starts them; what they say."""
    command = [sys.executable, str(TRAIN / "latent_ebm.py"), *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config}, **pipes)
        for config in launch.cluster_configs(2)
    ]
    said = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [code, code], said[0][1][-3000:]
    return ["".join(each) for each in said]


def test_a_backup_that_is_gone_is_not_begun_anew(data, uninterrupted, tmp_path):
    """Without `--strategy`: it is the saved one."""
    output = tmp_path / "run"
    shutil.copytree(uninterrupted, output)
    shutil.move(output / "workers", tmp_path / "workers")
    before = sorted(path.name for path in (output / "checkpoints").iterdir())
    flags = ["--resume-or-begin", "--epochs", "6", "--dataset", data["images"], *IMAGES]
    flags += ["--latent-size", "3", "--epochs", "6", "--output", output]
    for text in start_both(flags, code=2):
        assert "Worker 1 has no part of the run that the others go on with" in text
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == before
    shutil.rmtree(output / "workers")
    shutil.move(tmp_path / "workers", output / "workers")
    start_both(flags, code=0)
    assert read_metrics(output)["final"]["steps"] == 30


def test_a_finished_text_run_is_asked_for_more(data, tmp_path):
    output = tmp_path / "run"
    flags = ["--dataset", data["text"], "--output", output]
    run(*launched("text.py", *TEXT, *flags, "--steps", "2"))
    more = ["--resume", "--task", "interpolate", "--interpolations", "2"]
    printed = run(*launched("text.py", *flags, *more))
    assert "finished, and its model is used as it is" in printed


def test_workers_that_were_given_different_flags(data, tmp_path):
    processes = []
    for seed, config in enumerate(launch.cluster_configs(2)):
        command = [sys.executable, str(TRAIN / "latent_ebm.py"), "--strategy", "multiworker"]
        command += ["--dataset", data["images"], "--output", str(tmp_path / "run")]
        command += ["--seed", str(seed), "--batch-size", "5"]
        environ = {**os.environ, "TF_CONFIG": config}
        processes.append(
            subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        )
    for process in processes:
        errors = process.communicate(timeout=200)[1].decode()
        assert process.returncode == 2
        assert "Received seed: 0 on worker 0, 1 on worker 1." in errors
    assert not (tmp_path / "run" / "config.json").exists()
    # And in the same folder with the same ones:
    flags = [*IMAGES, "--latent-size", "3", "--epochs", "1", "--dataset", data["images"]]
    run(*launched("latent_ebm.py", *flags, "--output", tmp_path / "run"))


def test_a_worker_that_does_not_come(data, tmp_path):
    config = launch.cluster_configs(2)[0]
    command = [sys.executable, str(TRAIN / "latent_ebm.py"), "--strategy", "multiworker"]
    command += ["--dataset", data["images"], "--output", str(tmp_path / "run")]
    command += ["--worker-timeout", "7", "--batch-size", "5"]
    environ = {**os.environ, "TF_CONFIG": config}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    address = json.loads(config)["cluster"]["worker"][1]
    assert done.returncode == 138
    assert f"Worker 0 is waiting for worker 1 at {address} (Connection refused)" in done.stdout
    assert f"has waited 7 s for worker 1 at {address}" in done.stderr

"""The main script, as a person runs it."""

import contextlib
import io
import json
import pathlib
import shutil
import signal
import sys
import time
import zipfile

import faults
import keras
import latent_ebm
import numpy as np
import pytest
import scripts
import tensorflow as tf
from helpers import weights_of
from PIL import Image

import tfebm
from tfebm import files

SCRIPT = pathlib.Path(latent_ebm.__file__)
# A network that is quick, on 23 images: six batches an epoch, the last one of 3.
TINY = [
    *("--batch-size", "4", "--width", "2", "--latent-size", "3", "--energy-width", "8"),
    *("--prior-steps", "3", "--posterior-steps", "3", "--posterior-step-size", "0.02"),
    *("--jit", "off"),
]
FILES = {
    "config.json",
    "metrics.json",
    "model.keras",
    "checkpoints",
    "logs",
    "samples.png",
    "reconstructions.png",
    "interpolation.png",
    "curves.png",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 28), dtype=np.uint8)
    np.savez(path, x_train=pixels[:23], x_test=pixels[23:])
    return str(path)


def run(images, output, *flags, **options):
    flags = ["--dataset", images, "--output", output, *flags]
    return scripts.run(latent_ebm, *flags, **options)


def read_metrics(output):
    return json.loads((output / "metrics.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    """Three epochs of six steps; the runs that are cut short must end like it."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    flags = [*TINY, "--epochs", "3", "--export", output.parent / "savedmodels"]
    run(images, output, *flags, export=True)
    return output


def test_a_run_leaves_what_it_promises(uninterrupted):
    assert {p.name for p in uninterrupted.iterdir()} == FILES
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(uninterrupted / name) as picture:
                assert min(picture.size) > 100
    config = json.loads((uninterrupted / "config.json").read_text())
    assert config["settings"]["width"] == 2
    metrics = read_metrics(uninterrupted)
    assert metrics["settings"] == config["settings"]
    assert [record["step"] for record in metrics["epochs"]] == [6, 12, 18]
    final = metrics["final"]
    assert final["steps"] == 18
    assert final["test"]["num_examples"] == 5
    assert np.isfinite(final["test"]["reconstruction_mse"])
    events = list((uninterrupted / "logs").rglob("events*"))
    assert events
    assert len(list((uninterrupted / "checkpoints").iterdir())) == 2


def test_a_finished_run_is_brought_back(uninterrupted, images):
    loaded = tfebm.load_run(uninterrupted)
    assert loaded.settings["latent_size"] == 3
    with zipfile.ZipFile(uninterrupted / "model.keras") as archive:  # elsewhere, too
        assert b"experiments" not in archive.read("config.json")
    assert loaded.metrics["final"]["steps"] == 18
    x = tfebm.data.to_float(np.load(images)["x_test"][..., None])
    assert loaded.model.score(x).mean() == pytest.approx(
        loaded.metrics["final"]["test"]["score_mean"], rel=1e-4
    )


def test_a_run_that_is_not_finished_is_not_brought_back(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "copy")
    metrics = read_metrics(tmp_path / "copy")
    (tmp_path / "copy" / "metrics.json").write_text(json.dumps({**metrics, "final": None}))
    with pytest.raises(tfebm.InvalidInputError, match="is not finished"):
        tfebm.load_run(tmp_path / "copy")
    model = tmp_path / "copy" / "model.keras"
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(tfebm.InvalidInputError, match="cannot be loaded"):
        tfebm.load_run(tmp_path / "copy")


def test_the_export_holds_the_trained_model(uninterrupted):
    path = uninterrupted.parent / "savedmodels" / "latent_ebm" / "generator" / "1"
    generate = tf.saved_model.load(path).signatures["generate"]
    model = tfebm.load_run(uninterrupted).model
    images = generate(seed=tfebm.random.as_row_seeds(3, 2))["image"]
    np.testing.assert_allclose(images, model.generate(2, seed=3), atol=1e-5)


def test_a_killed_run_ends_like_one_that_was_not(uninterrupted, images, tmp_path):
    """kill -9 of a process in the middle of the second epoch; resumed in another one, with its
    epochs raised."""
    flags = ["--dataset", images, "--output", tmp_path / "run", *TINY]
    flags += ["--checkpoint-every", "1", "--epochs", "2"]
    process = faults.Process(SCRIPT, flags, tmp_path / "log", as_traced=True)
    folder = faults.Folder(tmp_path / "run", "curves.png")
    code = process.cut(folder, "run/checkpoints/step-00000008", 0.0, signal.SIGKILL)
    assert code == 128 + signal.SIGKILL, process.text
    output = folder.path
    assert not (output / "model.keras").exists()
    done = run(images, output, "--resume", "--epochs", "3")
    assert "Resumed at step " in done.stdout
    faults.assert_same_end(output, uninterrupted)


def test_mirrored_over_virtual_devices(uninterrupted, images, mirrored, tmp_path):
    output = tmp_path / "mirrored"
    flags = ["--strategy", "mirrored", "--virtual-devices", "2", "--epochs", "1"]
    run(images, output, *TINY, *flags, strategy=mirrored)
    assert {p.name for p in output.iterdir()} == FILES
    # Two replicas see one device's noise: the epoch's figures agree to float rounding.
    one, two = (read_metrics(path)["epochs"][0]["metrics"] for path in (uninterrupted, output))
    assert two == pytest.approx(one, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_a_mirrored_run_is_resumed_within_an_epoch(uninterrupted, images, mirrored, tmp_path):
    output = tmp_path / "mirrored"
    # Eleven steps: the resumed run begins with the last batch of an epoch, of 3 images, which
    # two replicas cannot share evenly.
    flags = ["--strategy", "mirrored", "--virtual-devices", "2", "--steps", "11", "--epochs", "3"]
    run(images, output, *TINY, *flags, strategy=mirrored)
    # The steps can be raised later; the second epoch, begun before, is reported as one.
    run(images, output, "--resume", "--steps", "12", strategy=mirrored)
    metrics = read_metrics(output)
    assert [record["step"] for record in metrics["epochs"]] == [6, 12]
    assert metrics["final"]["steps"] == 12
    one = read_metrics(uninterrupted)["epochs"][1]["metrics"]
    assert metrics["epochs"][1]["metrics"] == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_a_run_that_diverges_stops_and_keeps_what_was_good(images, tmp_path):
    output = tmp_path / "diverged"
    flags = [*TINY, "--checkpoint-every", "1", "--learning-rate", "1e30"]
    done = run(images, output, *flags, code=1)
    assert "Training diverged at step" in done.stderr
    assert "Traceback" not in done.stderr
    kept = tfebm.callbacks.complete_checkpoints(output / "checkpoints")
    model = latent_ebm.make_model(latent_ebm.Settings(**_settings(output)), (28, 28, 1), 23)
    if kept:
        tfebm.callbacks.Checkpoint(output / "checkpoints").restore(model)
        assert all(np.isfinite(value).all() for value in weights_of(model).values())


def _settings(output):
    return json.loads((output / "config.json").read_text())["settings"]


@pytest.fixture
def heard():
    """Ctrl-C as in the foreground: a shell has what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("end", ["goes on", "fails", "is done"])
def test_an_interrupt_that_a_library_swallows_gets_through(monkeypatch, tmp_path, capsys, end):
    monkeypatch.setattr(tfebm.runs.command, "_SECONDS", 0.1)
    path, again = tmp_path / "a.json", []

    def swallows_one():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if end == "goes on":
            time.sleep(30)
            again.append("not")
        elif end == "fails":
            raise TypeError("a tensor that is none")
        else:
            with contextlib.suppress(KeyboardInterrupt):
                files.write_json(path, {})

    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(SystemExit) as stop:
        tfebm.runs.run_command(swallows_one)
    assert stop.value.code == 130
    assert "Interrupted. To finish, start again." in capsys.readouterr().err
    assert not again
    assert not path.exists()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is handler
    files.write_json(path, {})  # as before


def test_what_cannot_be_encoded_is_printed_all_the_same(monkeypatch):
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        tfebm.runs.run_command(lambda: print("caf\udce9 caf\u00e9"))
        screen.flush()
        assert screen.buffer.getvalue() == b"caf\\udce9 caf\\xe9\n"


def test_a_file_that_cannot_be_written_ends_the_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        tfebm.runs.run_command(lambda: files.write_json(tmp_path / "gone" / "a.json", {}))
    assert stop.value.code == 3
    error = capsys.readouterr().err
    assert "a.json cannot be written: No such file or directory. Mend that, and start" in error
    assert error.count("\n") == 1


class TestBadInput:
    """Code 2, one sentence, nothing written, before any training."""

    def fail(self, monkeypatch, capsys, *flags):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, flags)])
        monkeypatch.setattr(
            keras.Model, "fit", lambda *_, **__: pytest.fail("training was started")
        )
        with pytest.raises(SystemExit) as stop:
            tfebm.runs.run_command(latent_ebm.main)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("latent_ebm.py: ")
        assert error.count("\n") == 1
        return error

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ("--dataset mnist5", "Did you mean 'mnist5k'"),
            ("--dataset nothing/here.npz", "There is no file"),
            ("--batch-size 24", "number of training examples, 23. Received 24"),
            ("--batch-size 0", "--batch-size must be at least 1"),
            ("--posterior-step-size -0.1", "--posterior-step-size must be at least 0.0"),
            ("--sigma 0", "--sigma must be greater than 0.0"),
            ("--latent-size 0", "--latent-size must be at least 1"),
            ("--learning-rate nan", "--learning-rate must be a finite number"),
            ("--preset laptap", "laptop, no_encoder, svhn"),
            ("--image-size 4", "8 pixels"),
            ("--layout cifar10", "`stages` end at an image of shape (32, 32, 1)"),
            ("--strategy multiworker", "TF_CONFIG, which is not set"),
            ("--resume-or-begin --overwrite", "Received both"),
            ("--xla", "Give --export, too"),
            ("--resume", "no run to resume"),
        ],
    )
    def test_flags(self, images, tmp_path, monkeypatch, capsys, flags, message):
        output = tmp_path / "run"
        error = self.fail(
            monkeypatch, capsys, "--dataset", images, "--output", output, *TINY, *flags.split()
        )
        assert message in error
        assert not (output / "config.json").exists()

    def test_an_existing_run_and_other_settings(self, uninterrupted, images, monkeypatch, capsys):
        before = (uninterrupted / "metrics.json").read_bytes()
        error = self.fail(monkeypatch, capsys, "--output", uninterrupted)
        assert "already holds a run" in error
        flags = ("--resume", "--epochs", 2, "--sigma", 0.5, "--output", uninterrupted)
        error = self.fail(monkeypatch, capsys, *flags)
        assert "--epochs 3 was saved, 2 is asked for" in error
        assert "--sigma 0.3 was saved, 0.5 is asked for" in error
        assert (uninterrupted / "metrics.json").read_bytes() == before

    @pytest.mark.parametrize("place", ["file", "file/folder", "/proc/folder"])
    @pytest.mark.parametrize("flag", ["--output", "--export"])
    def test_folders_that_cannot_be_written(
        self, images, tmp_path, monkeypatch, capsys, flag, place
    ):
        (tmp_path / "file").write_text("")
        folders = {"--output": tmp_path / "run", "--export": tmp_path / "export"}
        folders[flag] = tmp_path / place
        flags = [word for pair in folders.items() for word in pair]
        error = self.fail(monkeypatch, capsys, "--dataset", images, *TINY, *flags)
        assert "cannot be written" in error
        assert flag in error

    def test_nan_in_the_data(self, tmp_path, monkeypatch, capsys):
        pixels = np.zeros((8, 28, 28), "float32")
        pixels[5, 0, 0] = np.nan
        np.savez(tmp_path / "nan.npz", x_train=pixels, x_test=pixels)
        error = self.fail(
            monkeypatch, capsys, "--dataset", tmp_path / "nan.npz", "--output", tmp_path / "run"
        )
        assert "NaN" in error
        assert "image 5" in error


@pytest.mark.parametrize("name", latent_ebm.PRESETS)
def test_presets_are_the_papers(name):
    settings = latent_ebm.Settings(**latent_ebm.PRESETS[name])
    size = settings.image_size or 28
    on_digits = name in ("laptop", "no_encoder")
    channels = 1 if on_digits else 3
    model = latent_ebm.make_model(settings, (size, size, channels), 1000)
    parameters = model.generator.count_params()
    expected = {
        "laptop": 140_001,
        "svhn": 3_447_683,
        "cifar10": 18_883_075,
        "celeba64": 12_656_515,
    }
    assert parameters == expected.get(name, parameters)
    if name != "laptop":
        assert model.encoder is None
        assert settings.posterior_steps == (40 if name == "celeba128" else 20)
        sampler = model.posterior_sampler
        assert (sampler.step_size, sampler.momentum) == (0.1, 0.0)
    if not on_digits:
        assert (settings.prior_steps, settings.prior_step_size) in ((60, 0.4), (80, 0.4))
        rates = model.optimizer.learning_rate, model.energy_optimizer.learning_rate
        assert [float(r) for r in rates] == pytest.approx([1e-4, 2e-5])
        assert model.optimizer.beta_1 == 0.5

"""The script of flows with an energy, as a person runs it."""

import json
import pathlib
import sys

import flow_ebm
import keras
import numpy as np
import pytest
import scripts
from helpers import weights_of
from PIL import Image

import tfebm

SCRIPT = pathlib.Path(flow_ebm.__file__)
TINY = [
    *("--num-points", "40", "--batch-size", "16", "--flow", "realnvp", "--couplings", "2"),
    *("--flow-width", "4", "--energy-width", "4", "--flow-epochs", "2", "--chains", "4"),
    *("--contrastive-steps", "3", "--burn-in-steps", "1", "--leapfrog-steps", "2"),
    *("--generation-steps", "2", "--diagnosis-chains", "4", "--diagnosis-steps", "10"),
    *("--jit", "off"),
]
TINY_IMAGES = [
    *("--batch-size", "8", "--levels", "1", "--flow-steps", "1", "--flow-width", "2"),
    *("--energy-width", "1", "--chains", "2", "--contrastive-steps", "1", "--burn-in-steps", "1"),
    *("--generation-steps", "1", "--diagnosis-chains", "2", "--diagnosis-steps", "8"),
    *("--steps", "2", "--leapfrog-steps", "1"),
]
FILES = {
    *("config.json", "metrics.json", "diagnostics.json", "model.keras", "checkpoints", "logs"),
    *("mixing.png", "curves.png"),
}


def run(output, *flags, **options):
    return scripts.run(flow_ebm, "--output", output, *flags, **options)


def read(output, name="metrics.json"):
    return json.loads((output / name).read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Two epochs of three steps for the flow, three for the energy."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    done = run(output, *TINY, "--epochs", "3", "--export", output.parent / "savedmodels")
    assert [each[1:] for each in done.exports] == [
        (str(output.parent / "savedmodels"), "flow_ebm", 1)
    ]
    return output


def test_a_run_leaves_what_it_promises(uninterrupted):
    assert {p.name for p in uninterrupted.iterdir()} == {*FILES, "density.png"}
    for picture in uninterrupted.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 300
    metrics = read(uninterrupted)
    assert [(r["stage"], r["step"]) for r in metrics["epochs"]] == [
        *(("flow", 3), ("flow", 6)),
        *(("energy", 3), ("energy", 6), ("energy", 9)),
    ]
    test = metrics["final"]["test"]
    assert test["num_examples"] == 40
    assert test["log_normalizer"]["effective_sample_size"] > 100
    assert test["kl_flow"] > 0
    assert test["log_normalizer"]["by_quadrature"] == pytest.approx(
        test["log_normalizer"]["value"], abs=0.1
    )
    found = read(uninterrupted, "diagnostics.json")
    assert found["latent"]["num_gradients"] == found["data_space"]["num_gradients"] == 30
    assert len(found["latent"]["r_hat"]) == 2
    assert found["latent"]["total_variation"] is not None
    assert read(uninterrupted, "config.json")["settings"]["flow"] == "realnvp"


def test_it_is_brought_back(uninterrupted):
    loaded = tfebm.load_run(uninterrupted)
    x = tfebm.data.load_points("eight_gaussians", num_train=40, num_test=40).x_test
    nats = loaded.metrics["final"]["test"]["tilted_nats"]
    assert -loaded.model.log_prob(x).mean() == pytest.approx(nats, rel=1e-4)


@pytest.mark.slow
def test_resumed_in_both_stages_it_ends_the_same(uninterrupted, tmp_path):
    """Stopped after one step of each stage; the flow goes on, the energy starts anew."""
    output = tmp_path / "resumed"
    run(output, *TINY, "--epochs", "2", "--steps", "1")
    done = run(output, "--resume", "--steps", "0", "--epochs", "3")
    assert "Resumed the stage flow at step 1" in done.stdout
    assert "the energy over it starts anew" in done.stdout
    one, other = (tfebm.load_run(path) for path in (output, uninterrupted))
    for name, value in weights_of(one.model).items():
        np.testing.assert_array_equal(value, weights_of(other.model)[name], err_msg=name)
    ends = [[(r["stage"], r["step"]) for r in each.metrics["epochs"]] for each in (one, other)]
    assert ends[0] == ends[1]


def test_images_over_virtual_devices(mirrored, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 12, 12), dtype=np.uint8)
    labels = np.arange(30) % 3
    np.savez(
        tmp_path / "images.npz",
        x_train=pixels[:22],
        x_test=pixels[22:],
        y_train=labels[:22],
        y_test=labels[22:],
    )
    output = tmp_path / "run"
    flags = ("--strategy", "mirrored", "--virtual-devices", "2")
    images = ("--dataset", str(tmp_path / "images.npz"), "--pad", "14")
    done = run(output, *images, *TINY_IMAGES, *flags, "--validation", "6", strategy=mirrored)
    assert "On 6 validation examples the flow has" in done.stdout
    pictures = {"samples.png", "chains.png", "chains_data_space.png", "interpolation.png"}
    assert {p.name for p in output.iterdir()} == {*FILES, *pictures}
    assert read(output, "config.json")["settings"]["flow"] == "glow"
    found = read(output, "diagnostics.json")
    assert 0 <= found["classifier_test_accuracy"] <= 1
    assert found["latent"]["mode_switches"] >= 0
    test = read(output)["final"]["test"]
    assert np.isfinite(test["flow_bits_per_dimension"])
    normalizer = test["log_normalizer"]
    assert (test["tilted_nats"] is None) == (not normalizer["reliable"])
    assert tfebm.load_run(output).model.data_shape == (14, 14, 1)  # padded


class TestBadInput:
    """Code 2, one sentence, nothing written, before any training."""

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ("--dataset eight_gausians", "Did you mean 'eight_gaussians'"),
            ("--flow glow", "--flow glow is for images"),
            ("--dataset mnist5k --flow spline", "use glow"),
            ("--validation 5", "--validation is for images"),
            ("--dataset mnist5k --pad 30", "divisible by 2**levels = 4"),
            ("--dataset mnist5k --pad 20", "padded to at least their own size"),
            ("--batch-size 50001", "number of training examples, 50000. Received 50001"),
            ("--couplings 1", "--couplings must be at least 2"),
            ("--flow-learning-rate 0", "--flow-learning-rate must be greater than 0.0"),
            ("--diagnosis-chains 1", "--diagnosis-chains must be at least 2"),
            ("--chains 7 --strategy mirrored --virtual-devices 2", "multiple of the 2 replicas"),
            ("--preset pionts", "points, images, paper"),
            ("--resume", "no run to resume"),
        ],
    )
    def test_flags(self, tmp_path, monkeypatch, capsys, flags, message):
        output = tmp_path / "run"
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--output", str(output), *flags.split()])
        monkeypatch.setattr(
            keras.Model, "fit", lambda *_, **__: pytest.fail("training was started")
        )
        with pytest.raises(SystemExit) as stop:
            tfebm.runs.run_command(flow_ebm.main)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("flow_ebm.py: ")
        assert error.count("\n") == 1
        assert message in error
        assert not (output / "config.json").exists()

    def test_an_existing_run_and_other_settings(self, uninterrupted, monkeypatch, capsys):
        for flags, message in (
            ([], "already holds a run"),
            (["--resume", "--flow", "spline"], "--flow realnvp was saved, spline is asked for"),
        ):
            monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--output", str(uninterrupted), *flags])
            with pytest.raises(SystemExit) as stop:
                tfebm.runs.run_command(flow_ebm.main)
            assert stop.value.code == 2
            assert message in capsys.readouterr().err


def test_a_run_that_diverges_stops(tmp_path):
    done = run(tmp_path / "run", *TINY, "--flow-learning-rate", "1e30", code=1)
    assert "Training diverged at step" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_preset_follows_the_data():
    assert flow_ebm.default_preset({}) == "points"
    assert flow_ebm.default_preset({"dataset": "rings"}) == "points"
    assert flow_ebm.default_preset({"dataset": "photos/"}) == "images"
    for name, values in flow_ebm.PRESETS.items():
        settings = flow_ebm.Settings(**values)
        assert (settings.flow == "glow") == (name != "points")

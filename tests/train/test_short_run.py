"""The script of multi-layer generators, as a person runs it."""

import json
import sys

import keras
import numpy as np
import pytest
import scripts
import short_run
from experiments import shared

import tfebm

# Small and quick, on 24 images: three batches an epoch.
TINY = [
    *("--batch-size", "8", "--width", "2", "--latent-sizes", "2,3", "--posterior-steps", "2"),
    *("--halve-at", "1", "--tune-every", "1", "--schedule", "constant", "--jit", "off"),
]
PICTURES = ("samples", "reconstructions", "interpolation", "curves", "layers", "steps")
FILES = {
    *(f"{name}.png" for name in PICTURES),
    *("config.json", "metrics.json", "model.keras", "checkpoints", "logs", "tuning.json"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (28, 28, 28), dtype=np.uint8)
    labels = np.arange(28) % 2
    np.savez(path, x_train=pixels[:24], x_test=pixels[24:], y_train=labels[:24], y_test=labels[24:])
    return str(path)


def run(images, output, *flags):
    return scripts.run(short_run, "--dataset", images, "--output", output, *flags)


def test_a_run_leaves_what_it_promises(images, tmp_path):
    output, served = tmp_path / "run", tmp_path / "savedmodels"
    done = run(images, output, *TINY, "--steps", "4", "--export", served)
    assert "Distances of 24 samples" in done.stdout
    assert {p.name for p in output.iterdir()} == FILES
    assert [each[1:] for each in done.exports] == [(str(served), "short_run", 1)]
    loaded = tfebm.load_run(output)
    searches = json.loads((output / "tuning.json").read_text())
    assert [(record["step"], record["epoch"]) for record in searches] == [(0, 0), (3, 1), (4, 2)]
    np.testing.assert_allclose(
        loaded.model.posterior_step_size, searches[-1]["schedule"], rtol=1e-4
    )
    final = loaded.metrics["final"]
    assert final["test"]["frechet_distance"]["value"] > 0
    assert final["test"]["kernel_distance"]["value"] > 0
    assert final["test"]["evidence"]["num_examples"] == 4
    criteria = final["step_sizes"]["criteria"]["candidates"]
    assert all(c["entropy"] is not None and c["ksd"] is not None for c in criteria)
    in_use = final["step_sizes"]["in_use"]
    assert any(np.isclose(np.mean(c["step_size"]), np.mean(in_use)) for c in criteria)


def test_one_layer_by_the_convolutional_generator(images, tmp_path):
    output = tmp_path / "run"
    flags = ("--generator", "deconv", "--layers", "1", "--validation", "6", "--jit", "auto")
    done = run(images, output, *TINY, *flags, "--model", "latent_ebm", "--steps", "2")
    assert "On 6 validation images" in done.stdout
    loaded = tfebm.load_run(output)
    model, test = loaded.model, loaded.metrics["final"]["test"]
    assert (test["examples"], test["num_examples"]) == ("validation", 6)
    assert test["frechet_distance"]["num_samples"] == 18
    assert isinstance(model.generator, tfebm.DeconvGenerator)
    assert model.latent_size == 3
    settings = short_run.Settings(model="vae", generator="deconv", layers=1, width=2)
    model = short_run.make_model(settings, (28, 28, 1), 16)
    x = np.random.default_rng(0).uniform(-1, 1, (16, 28, 28, 1)).astype("float32")
    model.fit(x, batch_size=8, verbose=0)
    assert np.shape(model.infer(x)) == (16, 16)


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        *((name, "none") for name in ("vae", "ladder_vae", "latent_ebm")),
        *(("latent_ebm", "elbo"), ("short_run", "chain")),
    ],
)
def test_the_other_models_learn_and_come_back(name, encoder, tmp_path):
    sizes = {"width": 2, "latent_sizes": "2,3", "energy_width": 4}
    settings = short_run.Settings(
        model=name, encoder=encoder, posterior_steps=2, prior_steps=2, **sizes
    )
    model = short_run.make_model(settings, (28, 28, 1), 16)
    x = np.random.default_rng(0).uniform(-1, 1, (16, 28, 28, 1)).astype("float32")
    model.fit(x, batch_size=8, verbose=0)
    if name not in ("vae", "ladder_vae"):
        assert model.encoder_objective == (None if encoder == "none" else encoder)
    for names in shared.curves(settings, short_run.CURVES[name]).values():
        assert all(n in model.get_metrics_result() or n.startswith("step_size") for n in names)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.score(x[:2]), model.score(x[:2]))


def test_presets_build_the_papers_model():
    settings = short_run.Settings(**short_run.PRESETS["svhn"])
    model = short_run.make_model(settings, (32, 32, 3), 1000)
    assert model.generator.count_params() == 12_162_435
    assert model.posterior_step_size.shape == (25, 5)
    rates = model.optimizer._learning_rate
    # 10 steps an epoch: halved after 50, 100 and 300 epochs.
    seen = [float(rates(step)) for step in (499, 500, 1000, 2999, 3000)]
    np.testing.assert_allclose(seen, np.array([1, 0.5, 0.25, 0.25, 0.125]) * 8e-5, rtol=1e-6)
    assert short_run.Settings(layers=2).sizes == (8, 16)
    settings = short_run.Settings(halve_at="0.75,0.5", latent_sizes="4")
    rates = short_run.make_model(settings, (28, 28, 1), 1000).optimizer._learning_rate
    seen = [float(rates(step)) for step in (9, 10, 14, 15)]  # 20 steps an epoch
    np.testing.assert_allclose(seen, np.array([1, 0.5, 0.5, 0.25]) * 1e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "4"], "--layers 4 needs as many sizes"),
        (["--latent-sizes", "8,x"], "--latent-sizes must be whole numbers"),
        (["--latent-sizes", ","], "--latent-sizes must be whole numbers"),
        (["--halve-at", "-1"], "--halve-at must be numbers above 0"),
        (["--halve-at", "0.5,nan"], "--halve-at must be numbers above 0"),
        (["--halve-at", ","], "or 0 alone"),
        (["--halve-at", "0.01"], "begins before the first step; an epoch has 3"),
        (["--generator", "deconv"], "Received the sizes 2,3; give --layers 1"),
        (["--generator", "deconv", "--layers", "1", "--model", "ladder_vae"], "another --model"),
        (["--schedule", "free"], "--step-size gradient"),
        (["--model", "vae", "--encoder", "elbo"], "--model vae has none. Leave it out, or give"),
        (["--criterion", "fid"], "invalid choice"),
        (["--validation", "24"], "Received 24 of the 24 training images of images"),
        (["--upsamplings", "3", "--dataset", "mnist5k"], "at least 5"),
        (["--step-size", "fixed", "--posterior-step-size", "50"], "not stable: the limit"),
    ],
)
def test_flags_that_cannot_be_used(flags, message, images, tmp_path, monkeypatch, capsys):
    data = [] if "--dataset" in flags else ["--dataset", images]
    arguments = ["short_run.py", *data, "--output", str(tmp_path / "run"), *TINY, *flags]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        tfebm.runs.run_command(short_run.main)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()

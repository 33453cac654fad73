"""The script of anomaly detection, as a person runs it."""

import csv
import os
import types

import anomaly
import numpy as np
import pytest
import scripts
from experiments import anomaly_figures
from PIL import Image

import tfebm
from tfebm.metrics import anomaly_detection
from tfebm.models import ScoreParts

TINY = [
    *("--batch-size", "8", "--width", "2", "--latent-size", "2", "--epochs", "2"),
    *("--prior-steps", "2", "--posterior-steps", "2", "--energy-width", "4", "--jit", "off"),
    *("--score-steps", "3", "--hidden-units", "4"),
]
FILES = {
    *("config.json", "metrics.json", "model.keras", "checkpoints", "logs", "scores.csv"),
    *(f"{name}.png" for name in ("samples", "reconstructions", "interpolation", "curves", "worst")),
}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Grey images, which even a beginner draws well, and bright ones of class 1."""
    path = tmp_path_factory.mktemp("data") / "tiny_mnist.npz"
    rng = np.random.default_rng(0)
    labels = np.arange(36) % 3
    pixels = rng.integers(100, 150, (36, 28, 28)) + 100 * (labels == 1)[:, None, None]
    pixels = pixels.astype(np.uint8)
    np.savez(path, x_train=pixels[:30], x_test=pixels[30:], y_train=labels[:30], y_test=labels[30:])
    return str(path)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_class_that_is_held_out(labelled, tmp_path):
    output = tmp_path / "run"
    flags = ["--dataset", labelled, "--held-out", "1", "--score-chains", "2", *TINY]
    flags += ["--output", output, "--export", tmp_path / "served"]
    done = scripts.run(anomaly, *flags)
    assert "12 anomalies among 17 test images" in done.stdout
    assert {p.name for p in output.iterdir()} == {*FILES, "precision_recall.png"}
    ((exported, *where),) = done.exports
    assert where == [str(tmp_path / "served"), "anomaly", 1]
    assert exported.posterior_sampler.num_steps == 3
    rows = read(output / "scores.csv")
    assert len(rows) == 17  # 5 of the 24 normal ones, and 12
    labels = [int(row["is_anomaly"]) for row in rows]
    final = tfebm.load_run(output).metrics["final"]["test"]
    assert final["areas"]["joint"]["auprc"] > 0.95
    for kind in anomaly_figures.KINDS:
        scores = [float(row[kind]) for row in rows]
        expected = anomaly_detection(scores, labels).auprc
        assert final["areas"][kind]["auprc"] == pytest.approx(expected, abs=1e-6)
        assert final["over_epochs"][kind]["num_epochs"] == 2
    joint, *parts = (
        np.array([float(row[kind]) for row in rows]) for kind in anomaly_figures.KINDS[:3]
    )
    np.testing.assert_allclose(joint, sum(parts), rtol=1e-4)
    model = tfebm.load_run(output).model
    images = np.load(labelled)
    pool = np.concatenate([images["x_train"], images["x_test"]])
    places = [int(row["image"].split(":")[1]) for row in rows]
    x = tfebm.data.to_float(pool[places][..., np.newaxis])
    assert model.posterior_sampler.num_steps == 3  # it comes back as what scored
    np.testing.assert_allclose(model.score(x, num_chains=2), joint, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        *((name, "none") for name in anomaly.CURVES),
        *(("latent_ebm", "elbo"), ("latent_ebm_layers", "chain")),
    ],
)
def test_every_model_has_all_scores(labelled, name, encoder):
    settings = anomaly.Settings(
        dataset=labelled,
        held_out=1,
        model=name,
        encoder=encoder,
        latent_size=2,
        num_layers=2,
        width=2,
        energy_width=4,
        prior_steps=2,
        posterior_steps=2,
        score_steps=3,
        generator="deconv" if name == "short_run" else "dense",
        hidden_units=4,
        jit="off",
    )
    data = anomaly.load(settings)
    model = anomaly.make_model(settings, data.images.image_shape, 24)
    chain = anomaly.scoring_chain(settings)
    scores = anomaly_figures.Scores(data, num_chains=1, seed=3, sampler=chain)
    found = scores(model)
    assert tuple(found) == anomaly_figures.KINDS
    if name == "vae":
        assert np.all(found["energy"] > 0)  # a divergence
    else:
        assert model.posterior_sampler.num_steps == 2  # goes on to learn with its own
        model.posterior_sampler = chain
    x, x_train = (tfebm.data.to_float(a) for a in (data.images.x_test, data.images.x_train))
    np.testing.assert_allclose(found["joint"], model.score(x, seed=3), rtol=1e-5)
    if name != "vae":
        energy = model.prior_energy(model.infer(x, seed=3))
        np.testing.assert_allclose(found["energy"], energy, rtol=1e-2, atol=1e-2)

    def unexplained(images):
        if name == "vae":  # its reconstruction is drawn otherwise than its score
            parts = model.score_parts(images, seed=3)
            constant = 784 * np.log(settings.sigma * np.sqrt(2 * np.pi))
            error = 2 * settings.sigma**2 * (parts.reconstruction - constant)
        else:
            error = np.sum((model.reconstruct(images, seed=3) - images) ** 2, axis=(1, 2, 3))
        return error / (784 * np.var(images, axis=(1, 2, 3)))

    # Training images are all that says in which units the parts are added.
    energies = model.score_parts(x_train, seed=3).energy
    expected = unexplained(x) / np.std(unexplained(x_train)) + found["energy"] / np.std(energies)
    np.testing.assert_allclose(found["standardized"], expected, rtol=1e-3)


def test_one_training_image_without_a_score_spoils_no_other(labelled):
    settings = anomaly.Settings(dataset=labelled, held_out=1, model="short_run", jit="off")
    data = anomaly.load(settings)
    scores = anomaly_figures.Scores(data, num_chains=1, seed=0)

    class Model:
        likelihood = tfebm.GaussianLikelihood(0.5)
        inference = types.SimpleNamespace(chain="a chain")

        def score_parts(self, x, **how):
            rng = np.random.default_rng(len(x))
            parts = rng.uniform(1, 2, (2, len(x)))
            if len(x) == len(data.images.x_train):
                parts[:, 3] = np.nan
            return ScoreParts(parts.sum(axis=0), *parts)

    assert np.isfinite(scores(Model())["standardized"]).all()


@pytest.mark.parametrize("number", [1, 12])
def test_normal_images_that_are_alike_have_no_unit(number):
    """Neither one image, nor images of one grey, which a VAE draws all alike."""
    flat = np.full((number, 28, 28, 1), 100, np.uint8)
    others = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    others[0] = 100
    data = tfebm.data.AnomalyData(tfebm.data.ImageData("a", flat, others), None, list("abcde"))
    settings = anomaly.Settings(held_out=1, model="vae", width=2, hidden_units=4)
    model = anomaly.make_model(settings, (28, 28, 1), number)
    found = anomaly_figures.Scores(data, num_chains=1, seed=0)(model)["standardized"]
    assert np.isfinite(found).all()
    assert found.max() < 1e5


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    names = [os.fsdecode(b"caf\xe9.png"), "b\n.png"]
    images = tfebm.data.ImageData("a", np.zeros((1, 2, 2, 1)), np.zeros((2, 2, 2, 1)))
    scores = dict.fromkeys(anomaly_figures.KINDS, np.zeros(2))
    data = tfebm.data.AnomalyData(images, None, names)
    anomaly_figures.write_scores(tmp_path / "scores.csv", data, scores)
    assert [row["image"] for row in read(tmp_path / "scores.csv")] == ["caf\\udce9.png", "b\n.png"]


@pytest.mark.parametrize(
    ("asked", "preset"),
    [
        ({"held_out": 9}, "digits"),
        ({"dataset": "data/mnist.npz"}, "digits"),
        ({"dataset": "fashion_mnist"}, "digits"),
        ({"dataset": "mnist/photos/"}, "images"),
        ({"dataset": "cifar10"}, "images"),
        ({"normal": "a", "test": "b"}, "images"),
    ],
)
def test_small_digits_have_a_dense_generator(asked, preset):
    assert anomaly.default_preset(asked) == preset


def test_folders_of_files(tmp_path):
    rng = np.random.default_rng(1)
    for folder, number, level in (("good", 12, 0), ("new", 5, 100)):
        (tmp_path / folder).mkdir()
        for i in range(number):
            pixels = rng.integers(100, 150, (28, 28)) + (level if i == 3 else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    output = tmp_path / "run"
    folders = ["--normal", str(tmp_path / "good"), "--test", str(tmp_path / "new")]
    done = scripts.run(anomaly, *folders, *TINY, "--epochs", "1", "--output", output)
    assert "5 images are scored; which are anomalies is not known" in done.stdout
    rows = read(output / "scores.csv")
    assert [row["image"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert "is_anomaly" not in rows[0]
    assert max(rows, key=lambda row: float(row["joint"]))["image"] == "3.png"
    assert {p.name for p in output.iterdir()} == FILES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Received neither; give one of them"),
        ({"held_out": 1, "normal": "a", "test": "b"}, "Received both"),
        ({"normal": "a"}, "Received --normal alone"),
        ({"held_out": 12}, "mnist5k has 0, 1, 2"),
        ({"held_out": 1, "validation": 5}, "--validation has no anomalies"),
    ],
)
def test_what_is_normal_has_to_be_said(settings, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        anomaly.load(anomaly.Settings(**settings))

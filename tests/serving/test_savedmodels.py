"""The models in `savedmodels/`: small, complete, and good at what they are for."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfebm
from tfebm import pictures, random

ROOT = pathlib.Path(__file__).parents[2] / "savedmodels"
SIGNATURES = {
    "mnist5k": (
        {"generate", "decode"},
        {"score", "infer", "reconstruct", "features"},
    ),
    "eight_gaussians": ({"generate", "decode"}, {"score", "infer"}),
    "grammar": (
        {"generate", "decode"},
        {"score", "infer", "reconstruct", "features", "bound"},
    ),
}


def load(name):
    return tuple(tf.saved_model.load(ROOT / name / part / "1") for part in ("generator", "scorer"))


def seeds(number):
    return tf.stack([tf.fill([number], 7), tf.range(number)], axis=1)


def test_these_are_all():
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} == {*SIGNATURES}


@pytest.mark.parametrize("name", SIGNATURES)
def test_sizes_and_signatures(name):
    assert sum(f.stat().st_size for f in (ROOT / name).rglob("*") if f.is_file()) < 5e6
    for part, names in zip(("generator", "scorer"), SIGNATURES[name], strict=True):
        folder = ROOT / name / part / "1"
        assert (folder / "assets.extra" / "tf_serving_warmup_requests").is_file()
        found = {n for n in tf.saved_model.load(folder).signatures if n != "serving_default"}
        assert found == names
        readme = (ROOT / "README.md").read_text("utf-8")
        assert all(f"`{n}`" in readme for n in names)


def test_digits():
    """A trained model reconstructs digits, and finds them likelier than turned ones."""
    digits = tfebm.data.to_float(tfebm.data.load_images("mnist5k").x_test[::10])
    generator, scorer = load("mnist5k")
    seed = seeds(len(digits))
    drawn = generator.signatures["generate"](seed=seed)["image"]
    assert drawn.shape == digits.shape
    ink = [float(tf.reduce_mean(tf.cast(x > 0, tf.float32))) for x in (drawn, digits)]
    assert ink[0] == pytest.approx(ink[1], rel=0.25)
    found = scorer.signatures["reconstruct"](image=digits, seed=seed)["image"]
    assert float(tf.reduce_mean((found - digits) ** 2)) < 0.06
    score = scorer.signatures["score"]
    turned = score(image=digits[:, ::-1, ::-1], seed=seed)["score"]
    assert np.mean(turned > score(image=digits, seed=seed)["score"]) > 0.6


def test_the_digits_are_those_of_the_gallery(tmp_path):
    generator, _ = load("mnist5k")
    drawn = generator.signatures["generate"](seed=random.as_row_seeds(0, 100))["image"]
    pictures.save_grid(tmp_path / "samples.png", drawn, 10)
    found, shown = (
        np.asarray(Image.open(path), np.float32)
        for path in (tmp_path / "samples.png", ROOT.parent / "docs" / "gallery" / "samples.png")
    )
    # A chain of 60 steps in another graph, to float rounding; other digits are at 12 of 255.
    assert np.abs(found - shown).mean() < 0.5


def test_points():
    """All eight modes are drawn, and nearly all points lie as near to one as data do."""
    generator, scorer = load("eight_gaussians")
    density = tfebm.data.toy_density("eight_gaussians")
    drawn = generator.signatures["generate"](seed=seeds(400))["example"].numpy()
    modes = density.nearest_mode(drawn)
    assert {*modes} == {*range(8)}
    data = density.sample(4000, seed=1)
    far = np.linalg.norm(data - density.modes[density.nearest_mode(data)], axis=1).max()
    assert np.mean(np.linalg.norm(drawn - density.modes[modes], axis=1) < far) > 0.97
    score = scorer.signatures["score"]
    near, off = (
        score(example=tf.constant(x[:400]), seed=seeds(400))["score"].numpy()
        for x in (data, 0.5 * data)
    )
    assert np.median(off) > np.quantile(near, 0.99)


def test_sentences():
    """Most sentences are of the grammar; mixed words are odder than sentences."""
    generator, scorer = load("grammar")
    grammar = tfebm.data.default_grammar()
    drawn = generator.signatures["generate"](seed=seeds(100))["text"].numpy()
    right = [np.isfinite(grammar.log_prob(row.decode())) for row in drawn]
    assert np.mean(right) > 0.5
    sentences = grammar.sample(100, seed=3)
    rng = np.random.default_rng(0)
    mixed = [" ".join(rng.permutation(sentence.split())) for sentence in sentences]
    score = scorer.signatures["score"]
    plain, odd = (
        score(text=tf.constant(x), seed=seeds(100))["score"].numpy() for x in (sentences, mixed)
    )
    assert np.mean(odd > plain) > 0.9
    kept = scorer.signatures["reconstruct"](text=tf.constant(sentences), seed=seeds(100))["text"]
    shared, by_chance = (
        np.mean([len({*a.split()} & {*b.decode().split()}) for a, b in zip(x, y, strict=True)])
        for x, y in ((sentences, kept.numpy()), (sentences[1:], kept.numpy()[:-1]))
    )
    assert shared > 1.5 * by_chance

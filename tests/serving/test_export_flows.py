"""A flow, alone and with an energy, as SavedModels."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import compiled_functions, strangers_visit

import tfebm
from tfebm.serving import check, extras

KINDS = [(over, levels) for over in ("flow", "energy") for levels in (None, 256)]


def make(over, num_levels):
    """A model over points or over images with levels, and examples that it was initialised with."""
    keras.utils.set_random_seed(0)
    flow = (
        tfebm.Glow((4, 4, 1), levels=2, steps=1, width=4)
        if num_levels
        else tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,))
    )
    flow.build()
    x = np.random.default_rng(0).uniform(-1, 1, (8, *flow.event_shape)).astype("float32")
    if over == "flow":
        model = tfebm.FlowModel(flow, num_levels)
        model.initialize(x)
        return model, x
    flow.initialize(x)
    energy = tfebm.EnergyConv((2,)) if num_levels else tfebm.EnergyMLP((4,))
    model = tfebm.FlowEBM(
        *(flow, energy, tfebm.HMC(2, 0.2, 1)),
        num_chains=2,
        num_levels=num_levels,
        generation_steps=2,
    )
    model.step_size.assign(0.35)
    return model, x


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Models, examples and exports by kind."""
    folder = tmp_path_factory.mktemp("flows")
    found = {}
    for over, levels in KINDS:
        model, x = make(over, levels)
        export = tfebm.serving.export(model, folder, f"{over}_{levels}")
        found[over, levels] = model, x, export
    return found


@pytest.mark.parametrize(("over", "num_levels"), KINDS)
def test_an_export_answers_like_the_model(exports, over, num_levels):
    model, x, export = exports[over, num_levels]
    name = "image" if num_levels else "example"
    generator, scorer = (tf.saved_model.load(path).signatures for path in export)
    seeds = tfebm.random.as_row_seeds(3, 8)
    sample = generator["generate"](seed=seeds)
    np.testing.assert_allclose(sample[name], model.generate(8, seed=3), atol=1e-5)
    decoded = generator["decode"](latent=sample["latent"])[name]
    np.testing.assert_allclose(decoded, sample[name], atol=1e-6)
    # Its batch-mates do not matter.
    alone = generator["generate"](seed=seeds[2:3])[name]
    np.testing.assert_allclose(alone[0], sample[name][2], atol=1e-5)
    found = scorer["score"](**{name: tf.constant(x)}, seed=seeds)["score"]
    np.testing.assert_allclose(found, model.score(x, seed=seeds), rtol=1e-5)
    latent = scorer["infer"](**{name: tf.constant(x)}, seed=seeds)["latent"]
    np.testing.assert_allclose(latent, model.infer(x), atol=1e-5)
    # Only pixels have a range.
    spoilt = x.copy()
    spoilt[3] *= 127.5
    found = scorer["score"](**{name: tf.constant(spoilt)}, seed=seeds)["score"].numpy()
    assert np.isnan(found).tolist() == [bool(num_levels) and i == 3 for i in range(8)]
    about = json.loads((export.generator / extras.METADATA).read_text())
    assert about["num_steps"] == ({"sampler": 2} if over == "energy" else {})


def test_a_server_would_take_them_and_malformed_requests_harm_nobody(exports, tmp_path):
    versions, paths = {}, []
    for (over, levels), (model, x, export) in exports.items():
        rng = np.random.default_rng(1)
        arrays = {
            "seed": rng.integers(-(2**31), 2**31, (8, 2), dtype=np.int32),
            "latent": rng.normal(size=(8, model.latent_size)).astype("float32"),
            "image" if levels else "example": x,
        }
        for part, path in zip(export._fields, export, strict=True):
            assert not compiled_functions(path)
            versions[f"{over}_{levels}_{part}"] = path, arrays
            paths.append(path)
    strangers_visit({k: v for k, v in versions.items() if k.startswith("energy")}, tmp_path)
    reports = check.check_versions(paths, batch_sizes=(1,), seconds=0.0)
    assert [report.problems for report in reports] == [[]] * len(paths)

"""A flow with an energy, as SavedModels."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import survives_malformed_requests

import tfebm
from tfebm.serving import check


@pytest.mark.parametrize("num_levels", [None, 256])
def test_an_export_answers_like_the_model(tmp_path, num_levels):
    keras.utils.set_random_seed(0)
    if num_levels:
        flow = tfebm.Glow((4, 4, 1), levels=2, steps=1, width=4)
        energy = tfebm.EnergyConv((2,))
    else:
        flow = tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,))
        energy = tfebm.EnergyMLP((4,))
    flow.build()
    x = np.random.default_rng(0).uniform(-1, 1, (8, *flow.event_shape)).astype("float32")
    flow.initialize(x)
    sampler = tfebm.HMC(2, 0.2, 2)
    model = tfebm.FlowEBM(
        flow, energy, sampler, num_chains=2, num_levels=num_levels, generation_steps=4
    )
    model.step_size.assign(0.35)
    target = tfebm.serving.export(model, tmp_path, "flow")
    about = json.loads((target.generator / "assets.extra" / "tfebm.json").read_text())
    assert about["num_steps"] == {"sampler": 4}
    generator = tf.saved_model.load(target.generator)
    scorer = tf.saved_model.load(target.scorer)
    seeds = tfebm.random.as_row_seeds(3, 5)
    sample = generator.signatures["generate"](seed=seeds)
    np.testing.assert_allclose(sample["image"], model.generate(5, seed=3), atol=1e-5)
    decoded = generator.signatures["decode"](latent=sample["latent"])["image"]
    np.testing.assert_allclose(decoded, sample["image"], atol=1e-6)
    # Its batch-mates do not matter.
    alone = generator.signatures["generate"](seed=seeds[2:3])["image"]
    np.testing.assert_allclose(alone[0], sample["image"][2], atol=1e-5)
    seeds = tfebm.random.as_row_seeds(0, 8)
    scores = scorer.signatures["score"](image=tf.constant(x), seed=seeds)["score"]
    np.testing.assert_allclose(scores, model.score(x, seed=seeds), rtol=1e-5)
    latents = scorer.signatures["infer"](image=tf.constant(x), seed=seeds)["latent"]
    np.testing.assert_allclose(latents, model.infer(x), atol=1e-5)
    for path in target:
        assert survives_malformed_requests(path, tmp_path, 150)
        data = (path / "saved_model.pb").read_bytes()
        assert b"_XlaMustCompile\x12\x02(\x01" not in data


@pytest.mark.parametrize("num_levels", [None, 256])
def test_a_flow_alone(tmp_path, num_levels):
    keras.utils.set_random_seed(0)
    if num_levels:
        flow = tfebm.Glow((4, 4, 1), levels=2, steps=1, width=4)
    else:
        flow = tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,))
    model = tfebm.FlowModel(flow, num_levels)
    x = np.random.default_rng(0).uniform(-1, 1, (8, *flow.event_shape)).astype("float32")
    model.initialize(x)
    target = tfebm.serving.export(model, tmp_path, "flow")
    generator, scorer = (tf.saved_model.load(path).signatures for path in target)
    seeds = tfebm.random.as_row_seeds(3, 8)
    sample = generator["generate"](seed=seeds)
    np.testing.assert_allclose(sample["image"], model.generate_rows(seeds), atol=1e-5)
    decoded = generator["decode"](latent=sample["latent"])["image"]
    np.testing.assert_allclose(decoded, sample["image"], atol=1e-6)
    found = scorer["score"](image=tf.constant(x), seed=seeds)["score"]
    np.testing.assert_allclose(found, -model.log_prob(x, seed=seeds), rtol=1e-5)
    latent = scorer["infer"](image=tf.constant(x), seed=seeds)["latent"]
    np.testing.assert_allclose(latent, model.infer(x), atol=1e-5)
    # Only pixels have a range.
    x[3] *= 127.5
    found = scorer["score"](image=tf.constant(x), seed=seeds)["score"].numpy()
    assert np.isnan(found).tolist() == [bool(num_levels) and i == 3 for i in range(8)]
    problems = [check.check_version(path, (1,), 0.0).problems for path in target]
    assert problems == [[], []]

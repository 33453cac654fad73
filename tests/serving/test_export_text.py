"""Exports of sentence models take and give strings, in a process without tfebm."""

import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    WAYS,
    compiled_functions,
    graphs,
    rest_inputs,
    shell_commands,
    signatures_of,
    strangers_visit,
)

import tfebm
from tfebm import random, serving

SENTENCES = ["a cat sleeps", "the dog barks", "the zebra the", ""]


def generator():
    tokenizer = tfebm.tokenizers.WordTokenizer(["a", "cat", "dog", "sleeps", "barks", "the"])
    return tfebm.AutoregressiveGenerator(tokenizer, 4, 5, max_length=6)


@pytest.fixture(scope="module")
def model():
    chain = tfebm.ShortRunLangevin(2, [0.5, 0.2], 0.3)
    model = tfebm.ShortRunModel(generator(), 3, posterior_sampler=chain)
    for weight in model.generator.weights:
        weight.assign(6.0 * weight)
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    # Compiled with XLA in training, plain in the export.
    plain, fast = (tfebm.ShortRunLangevin(2, [0.5, 0.2], 0.3, jit_compile=j) for j in (False, True))
    model.posterior_sampler = fast
    found = serving.export(model, tmp_path_factory.mktemp("savedmodels"), "text", num_chains=3)
    model.posterior_sampler = plain
    return found


def test_signatures_are_strings_and_hold_no_function_to_compile(exported):
    assert signatures_of(exported) == {
        "generate": ({"seed"}, {"text", "latent"}),
        "decode": ({"latent"}, {"text", "valid"}),
        "score": ({"text", "seed"}, {"score", "reconstruction_nll", "cut"}),
        "infer": ({"text", "seed"}, {"latent", "cut"}),
        "features": ({"text", "seed"}, {"features", "cut"}),
        "reconstruct": ({"text", "seed"}, {"text", "cut"}),
        "bound": ({"text", "seed"}, {"bound", "reconstruction_nll", "valid", "cut"}),
    }
    assert not any(compiled_functions(path) for path in exported)


@pytest.mark.parametrize("repeats", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_a_stranger_gets_pythons_answers_and_malformed_requests_harm_nobody(
    model, exported, tmp_path, repeats
):
    rng = np.random.default_rng(0)
    arrays = {
        "seed": rng.integers(-(2**31), 2**31, (4, 2), dtype=np.int32),
        "latent": rng.normal(size=(4, 3)).astype("float32"),
        "text": np.array(SENTENCES),
    }
    versions = {part: (getattr(exported, part), arrays) for part in exported._fields}
    results, seen = strangers_visit(versions, tmp_path, repeats)
    seed = tf.constant(arrays["seed"])
    x = model.examples.tensor(SENTENCES)
    log_weight, nll, valid = model.inference.bound(x, seed)
    expected = {
        "generate text": model.generate(4, seed=seed),
        "generate latent": model.sample_prior(seed),
        "decode text": model.decode_latents(arrays["latent"]),
        "decode valid": np.ones(4, bool),
        "score score": model.score(SENTENCES, seed=seed),
        "score reconstruction_nll": nll,
        "score cut": np.zeros(4, bool),
        "infer latent": model.infer(SENTENCES, seed=seed),
        "features features": model.features(SENTENCES, num_chains=3, seed=seed),
        "reconstruct text": model.reconstruct(SENTENCES, seed=seed),
        "bound bound": -log_weight.numpy(),
        "bound reconstruction_nll": nll,
        "bound valid": valid,
    }
    for how in WAYS:
        for key, value in expected.items():
            part = "generator" if key.split()[0] in ("generate", "decode") else "scorer"
            found, value = results[f"{part} {how} {key}"], np.asarray(value)
            if value.dtype == object:
                assert found.tolist() == value.tolist(), (how, key)
            else:
                np.testing.assert_allclose(
                    found, value, rtol=1e-4, atol=1e-5, err_msg=f"{how} {key}"
                )
    for kinds in (*seen["generator"].values(), *seen["scorer"].values()):
        assert {"type", "rank", "empty"} <= set(kinds)
    for part in seen.values():
        assert "missing" in next(iter(part.values()))


def test_a_row_does_not_depend_on_its_batch_mates(exported):
    score = tf.saved_model.load(exported.scorer).signatures["score"]
    seed = random.as_row_seeds(0, 4)
    together = score(text=tf.constant(SENTENCES), seed=seed)
    alone = score(text=tf.constant(SENTENCES[3:4]), seed=seed[3:4])
    for name, value in together.items():
        np.testing.assert_allclose(alone[name], value[3:4], rtol=1e-5)


def test_long_sentences_are_read_up_to_the_limit(model, exported):
    infer = tf.saved_model.load(exported.scorer).signatures["infer"]
    words = "the cat barks a dog sleeps the"
    texts = [words, " ".join(words.split()[:5]), "the " * 5000]
    seed = random.as_row_seeds(0, 3)
    found = infer(text=tf.constant(texts), seed=seed)
    assert found["cut"].numpy().tolist() == [True, False, True]  # six tokens, the end included
    ids = model.generator.tokenizer.tokenize(tf.constant(texts[:2]))[:, :6]
    np.testing.assert_allclose(
        found["latent"][:2], model.infer(ids.numpy(), seed=seed[:2]), atol=1e-5
    )


def test_the_readme_s_rest_request(exported, root):
    commands = shell_commands(root / "savedmodels" / "README.md", "curl")
    (request,) = [words[-1] for words in commands if "/grammar_scorer:" in words[1]]
    body = json.loads(request)
    name = body["signature_name"]
    inputs = rest_inputs(body, graphs(exported.scorer).signature_def[name])
    signature = tf.saved_model.load(exported.scorer).signatures[name]
    answer = signature(**{key: tf.constant(value) for key, value in inputs.items()})
    assert answer["score"].shape == [1]


def test_strings_are_not_compiled(tmp_path):
    model = tfebm.LanguageModel(generator())
    with pytest.raises(tfebm.InvalidInputError, match="`xla` cannot compile strings"):
        serving.export(model, tmp_path, "lm", xla=True)


def test_a_language_model_needs_no_seed_to_score(tmp_path):
    model = tfebm.LanguageModel(generator())
    target = serving.export(model, tmp_path, "lm")
    seed = random.as_row_seeds(1, 3)
    generate = tf.saved_model.load(target.generator).signatures["generate"]
    texts = [text.decode() for text in generate(seed=seed)["text"].numpy()]
    assert texts == model.generate(3, seed=1).tolist()
    score = tf.saved_model.load(target.scorer).signatures["serving_default"]
    found = score(text=tf.constant(SENTENCES))["score"]
    np.testing.assert_allclose(found, model.score(SENTENCES), rtol=1e-5)

"""Exports are loaded as strangers load them: no tfebm, no Keras, no XLA."""

import json
import re
import shutil
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    WAYS,
    compiled_functions,
    graphs,
    signatures_of,
    small_model,
    strangers_visit,
    vectors,
)

import tfebm
from tfebm import random, serving
from tfebm.endpoints import SEED, Endpoint, Endpoints, example_spec, text_spec
from tfebm.serving import check, extras


@pytest.fixture(scope="module")
def model():
    model = tfebm.LatentEBM(
        tfebm.DeconvGenerator((28, 28, 1), 2),
        tfebm.EnergyMLP((6,)),
        latent_size=3,
        prior_sampler=tfebm.ShortRunLangevin(3, 0.3),
        posterior_sampler=tfebm.ShortRunLangevin(2, 0.05),
    )
    model.compile()
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    # Compiled in training, plain in the export.
    plain = model.prior_sampler, model.posterior_sampler
    model.prior_sampler = tfebm.ShortRunLangevin(3, 0.3, jit_compile=True)
    model.posterior_sampler = tfebm.ShortRunLangevin(2, 0.05, jit_compile=True)
    found = serving.export(model, tmp_path_factory.mktemp("savedmodels"), "digits", num_chains=3)
    model.prior_sampler, model.posterior_sampler = plain
    return found


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "seed": rng.integers(-(2**31), 2**31, (4, 2), dtype=np.int32),
        "image": rng.uniform(-1, 1, (4, 28, 28, 1)).astype("float32"),
        "latent": rng.normal(size=(4, 3)).astype("float32"),
    }


def test_the_layout_is_tensorflow_servings(exported):
    for part in ("generator", "scorer"):
        path = getattr(exported, part)
        assert path.parts[-3:] == ("digits", part, "1")
        assert (path / "saved_model.pb").is_file()
    assert sorted(p.name for p in exported.scorer.parent.iterdir()) == ["1"]


def test_no_function_must_be_compiled(exported):
    for path in exported:
        assert not compiled_functions(path)


def test_every_tensor_has_a_leading_batch_axis(exported):
    assert signatures_of(exported) == {
        "generate": ({"seed"}, {"image", "latent"}),
        "decode": ({"latent"}, {"image"}),
        "score": ({"image", "seed"}, {"score"}),
        "infer": ({"image", "seed"}, {"latent"}),
        "reconstruct": ({"image", "seed"}, {"image"}),
        "features": ({"image", "seed"}, {"features"}),
    }


@pytest.mark.parametrize("repeats", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_stranger_gets_pythons_numbers_and_malformed_requests_harm_nobody(
    model, exported, arrays, tmp_path, repeats
):
    versions = {part: (getattr(exported, part), arrays) for part in exported._fields}
    results, seen = strangers_visit(versions, tmp_path, repeats)
    seed, image = tf.constant(arrays["seed"]), tf.constant(arrays["image"])
    expected = {
        "generate image": model.generate(4, seed=seed),
        "generate latent": model.sample_prior(seed),
        "decode image": model.decode_rows(tf.constant(arrays["latent"])),
        "score score": model.score(image, seed=seed),
        "infer latent": model.infer(image, seed=seed),
        "reconstruct image": model.reconstruct(image, seed=seed),
        "features features": model.features(image, num_chains=3, seed=seed),
    }
    for how in WAYS:
        for key, value in expected.items():
            part = "generator" if key.split()[0] in ("generate", "decode") else "scorer"
            found = results[f"{part} {how} {key}"]
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5, err_msg=f"{how} {key}")
    for kinds in (*seen["generator"].values(), *seen["scorer"].values()):
        assert {"type", "rank", "size", "empty"} <= set(kinds)
    for part in seen.values():
        assert "missing" in next(iter(part.values()))


def test_a_row_does_not_depend_on_its_batch_mates(exported, arrays):
    score = tf.saved_model.load(exported.scorer).signatures["score"]
    image, seed = arrays["image"].copy(), arrays["seed"]
    together = score(image=tf.constant(image), seed=tf.constant(seed))["score"].numpy()
    image[0] = np.nan
    alone = score(image=tf.constant(image[2:3]), seed=tf.constant(seed[2:3]))["score"].numpy()
    spoilt = score(image=tf.constant(image), seed=tf.constant(seed))["score"].numpy()
    np.testing.assert_allclose(alone, together[2:3], rtol=1e-5)
    np.testing.assert_allclose(spoilt[1:], together[1:], rtol=1e-5)
    assert np.isnan(spoilt[0])


def test_a_seed_is_the_row_seed_of_python(model, exported):
    generate = tf.saved_model.load(exported.generator).signatures["serving_default"]
    images = generate(seed=random.as_row_seeds(7, 3))["image"]
    np.testing.assert_allclose(images, model.generate(3, seed=7), atol=1e-5)


def test_versions_count_up_and_never_change(model, exported):
    directory = exported.generator.parents[2]
    assert serving.next_version(directory, "digits") == 2
    assert serving.next_version(directory, "letters") == 1
    with pytest.raises(tfebm.InvalidInputError, match="must not change"):
        serving.export(model, directory, "digits", 1)


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        *(
            (name, 1, "`name` must be made of")
            for name in ("a/b", "", "..", ".a", "-a", "a b", "\u00e9")
        ),
        *((name, 1, "`name` must be made of") for name in ('a"', "a'", "a\n", "a" * 101, None)),
        ("a", 0, "`version` must be a whole number"),
        ("a", 2**63, "`version` must be at most"),
    ],
)
def test_arguments_that_cannot_be_used(model, tmp_path, name, version, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        serving.export(model, tmp_path / "new", name, version)
    assert not list(tmp_path.iterdir())


def test_sentences_of_arrays_have_no_length(model, tmp_path):
    with pytest.raises(tfebm.InvalidInputError, match="examples are arrays"):
        serving.export(model, tmp_path, "a", max_length=3)


@pytest.mark.parametrize("address", ["gs://b/models", "s3://b", "hdfs://h/x", "file:///tmp/x"])
def test_addresses_are_no_folders(model, tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tfebm.InvalidInputError, match=f"path on this machine.*{address}"):
        serving.export(model, address, "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other", [keras.Sequential([keras.layers.Dense(2)]), keras.layers.Dense(2), "model.keras", None]
)
def test_what_cannot_be_exported_leaves_nothing(tmp_path, other):
    with pytest.raises(tfebm.InvalidInputError, match="must be a model of tfebm"):
        serving.export(other, tmp_path / "new", "a")
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_traced_leaves_nothing(model, tmp_path, monkeypatch):
    def trace(*_):
        raise RuntimeError("no graph")

    monkeypatch.setattr(sys.modules["tfebm.serving.export"], "trace", trace)
    with pytest.raises(RuntimeError, match="no graph"):
        serving.export(model, tmp_path / "new", "a")
    assert not list(tmp_path.iterdir())


def test_pixels_outside_the_range_are_answered_by_nan(exported, arrays):
    """As those from 0 to 255 are, which nobody has mapped to [-1, 1]."""
    scorer = tf.saved_model.load(exported.scorer)
    image, seed = arrays["image"].copy(), tf.constant(arrays["seed"])
    image[1] = 127.5 * (image[1] + 1.0)
    image[2, 0, 0, 0] = 1.009  # as resampling leaves it
    for name in ("score", "infer", "reconstruct", "features"):
        (answer,) = scorer.signatures[name](image=tf.constant(image), seed=seed).values()
        (plain,) = scorer.signatures[name](image=tf.constant(arrays["image"]), seed=seed).values()
        assert np.isnan(answer[1]).all(), name
        assert np.isfinite(answer[2]).all(), name
        np.testing.assert_allclose(answer[::3], plain[::3], rtol=1e-5, atol=1e-5, err_msg=name)


def test_signatures_for_servers_with_xla(tmp_path):
    target = serving.export(small_model(steps=2), tmp_path, "vectors", xla=True)
    arrays = {"example": vectors(4), "seed": random.as_row_seeds(5, 4)}
    for path, name in zip(target, ("generate", "score"), strict=True):
        assert compiled_functions(path)
        # Asked for by nobody who does not name them.
        requests = {name for name, _ in extras.read_warmup_requests(path)}
        assert requests == set(extras.read_signatures(path)) - {f"{name}_xla"}
        loaded = tf.saved_model.load(path)
        plain, fast = (loaded.signatures[each] for each in (name, f"{name}_xla"))
        given = {key: tf.constant(arrays[key]) for key in plain.structured_input_signature[1]}
        expected = plain(**given)
        for key, value in fast(**given).items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-4, atol=1e-5, err_msg=key)
        with pytest.raises(tf.errors.InvalidArgumentError, match="at least one row"):
            fast(**{key: value[:0] for key, value in given.items()})
    (report,) = check.check_versions([target.scorer], batch_sizes=(1,), seconds=0.0)
    (problem,) = report.problems
    assert "must be compiled with XLA" in problem


def test_a_folder_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tfebm.InvalidInputError, match="cannot be written"):
        serving.export(model, tmp_path / "file", "digits")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        # In TensorFlow's words, of the code that a GPU without memory has too.
        (
            tf.errors.ResourceExhaustedError(None, None, "x/variables; No space left on device"),
            tfebm.WriteFailed,
        ),
    ],
)
def test_an_export_that_is_cut_short_leaves_neither_part(
    model, exported, tmp_path, monkeypatch, error, raised
):
    written = []

    class Traced:
        def write(self, path):
            shutil.copytree(exported.generator, path)
            written.append(path)
            if len(written) == 2:
                raise error

    monkeypatch.setattr(sys.modules["tfebm.serving.export"], "trace", lambda *_: Traced())
    with pytest.raises(raised):
        serving.export(model, tmp_path, "digits")
    assert len(written) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert serving.next_version(tmp_path, "digits") == 1


class Doubles:
    """A servable object that is not a model of tfebm, over rows of two numbers."""

    def __init__(self):
        self.weight = tf.Variable(2.0)
        self.words = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["two"], [2.0]), default_value=0.0
        )

    def endpoints(self, *, num_chains=10, max_length=None):
        two = self.words.lookup
        return Endpoints(
            {"generate": Endpoint(lambda seed: {"example": tf.cast(seed, tf.float32)}, [SEED])},
            {
                "score": Endpoint(
                    lambda x: {"score": tf.reduce_sum(self.weight * x, axis=1)},
                    [example_spec((2,))],
                ),
                "named": Endpoint(lambda text: {"number": two(text)}, [text_spec()]),
            },
            {"chains": num_chains},
            [self.words],
        )


def test_whatever_has_endpoints_is_exported(tmp_path):
    doubles = Doubles()
    target = serving.export(doubles, tmp_path, "doubles", num_chains=7)
    signatures = tf.saved_model.load(target.scorer).signatures
    rows = tf.constant([[1.0, 2.0], [0.0, -1.0]])
    assert signatures["serving_default"](example=rows)["score"].numpy().tolist() == [6.0, -2.0]
    words = tf.constant(["two", "three"])
    assert signatures["named"](text=words)["number"].numpy().tolist() == [2.0, 0.0]
    about = json.loads((target.scorer / extras.METADATA).read_text())
    assert about == {"tfebm": tfebm.__version__, "chains": 7}
    reports = check.check_versions(target, batch_sizes=(1,), seconds=0.0)
    assert [report.problems for report in reports] == [[], []]
    # Each graph is in the file once, and each weight that is read.
    functions = [f.signature.name for f in graphs(target.scorer).graph_def.library.function]
    assert sum("inference_score" in name for name in functions) == 1
    stored = tf.train.list_variables(str(target.scorer / "variables" / "variables"))
    assert [shape for name, shape in stored if "VARIABLE_VALUE" in name] == [[]]
    stored = tf.train.list_variables(str(target.generator / "variables" / "variables"))
    assert not [name for name, _ in stored if "VARIABLE_VALUE" in name]


def test_the_model_that_the_page_shows(root, tmp_path, monkeypatch):
    (program,) = re.findall(
        r"```python\n(.*?)```", (root / "docs" / "serving.md").read_text("utf-8"), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    score = tf.saved_model.load(tmp_path / "savedmodels/triangle/scorer/1").signatures["score"]
    found = score(example=tf.constant([[1.0], [1.5]]))["score"]
    np.testing.assert_allclose(found, [0.0, np.log(2.0)], atol=1e-6)

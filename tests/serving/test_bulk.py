"""Jobs over files with broken records among them, against the export called row by row."""

import csv
import gzip
import io
import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfebm
from tfebm import random, serving
from tfebm.data import to_float
from tfebm.serving.records import key_seeds

pytest.importorskip("apache_beam", reason="comes with the extra `beam`")

import pyarrow.parquet
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from tfebm.serving import bulk, bulk_steps

pytestmark = pytest.mark.extras

SENTENCES = ["a cat sleeps", "the dog barks", "the zebra the", 'a "cat", a dog']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("savedmodels")


@pytest.fixture(scope="module")
def digits(folder):
    """A model of images and its export."""
    model = tfebm.LatentEBM(
        keras.Sequential([keras.layers.Dense(36, "tanh"), keras.layers.Reshape((6, 6, 1))]),
        tfebm.EnergyMLP((6,)),
        latent_size=3,
        prior_sampler=tfebm.ShortRunLangevin(3, 0.3, jit_compile=False),
        posterior_sampler=tfebm.ShortRunLangevin(3, 0.05, jit_compile=False),
    )
    serving.export(model, folder, "digits")
    return model


def text_generator():
    tokenizer = tfebm.tokenizers.WordTokenizer(["a", "cat", "dog", "sleeps", "barks", "the"])
    return tfebm.AutoregressiveGenerator(tokenizer, 4, 5, max_length=6)


@pytest.fixture(scope="module")
def texts(folder):
    """A model of sentences and its export."""
    model = tfebm.LanguageModel(text_generator())
    serving.export(model, folder, "texts")
    return model


@pytest.fixture(scope="module")
def chains(folder):
    """The folder of a model of sentences with a chain."""
    chain = tfebm.ShortRunLangevin(2, [0.5, 0.2], 0.3, jit_compile=False)
    model = tfebm.ShortRunModel(text_generator(), 3, posterior_sampler=chain)
    serving.export(model, folder, "chains")
    return str(folder / "chains")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (9, 6, 6), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def example(**features):
    made = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, bytes)
        else tf.train.Feature(float_list=tf.train.FloatList(value=value))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def write_records(path, data):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in data:
            writer.write(record)


def read_csv(path):
    """The rows of all shards by their keys."""
    rows = {}
    for shard in sorted(path.parent.glob(f"{path.name}-[0-9]*.csv")):
        with shard.open(newline="") as file:
            for row in csv.DictReader(file):
                assert row["key"] not in rows
                rows[row.pop("key")] = row
    return rows


def read_parquet(path):
    tables = [
        pyarrow.parquet.read_table(shard)
        for shard in path.parent.glob(f"{path.name}-[0-9]*.parquet")
    ]
    return {row.pop("key"): row for table in tables for row in table.to_pylist()}


def bare_scores(folder, name, keys, seed, **values):
    """The export's answer for each row alone."""
    loaded = tf.saved_model.load(str(folder / name / "scorer" / "1"))
    signature = loaded.signatures["score"]
    inputs = {key: tf.constant(value) for key, value in values.items()}
    if "seed" in signature.structured_input_signature[1]:
        inputs["seed"] = tf.constant(key_seeds(seed, keys))
    answers = [
        signature(**{key: value[i : i + 1] for key, value in inputs.items()})
        for i in range(len(keys))
    ]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def test_image_files(folder, digits, images, tmp_path):
    inside = tmp_path / "photos" / "of a day"
    inside.mkdir(parents=True)
    for i, image in enumerate(images):
        (inside / f"{i}.png").write_bytes(png(image))
    whole = png(np.tile(images[0], (9, 9)))
    (inside / "cut.png").write_bytes(whole[: len(whole) // 2])
    (inside / "none.jpg").write_bytes(b"no image")
    Image.fromarray(images[0]).resize((8, 9)).save(inside / "large.png")
    # Colour for a grey model, of another kind, under a name that is not UTF-8.
    Image.fromarray(images[0]).convert("RGBA").save(inside / os.fsdecode(b"caf\xe9.tif"))
    given = (str(folder / "digits"), str(tmp_path / "photos" / "*" / "*"))
    counts = bulk.score(*given, str(tmp_path / "out"), seed=3, batch_size=4)
    assert counts == {"read": 13, "scored": 10, "unreadable": 3, "flagged": 0}
    assert json.loads((tmp_path / "out-summary.json").read_text()) == counts
    found = read_csv(tmp_path / "out")
    keys = [f"of a day/{i}.png" for i in range(9)]
    odd = "of a day/caf\\udce9.tif"
    assert set(found) == {*keys, odd}
    odd_score = bare_scores(folder, "digits", [odd], 3, image=to_float(images[:1, ..., np.newaxis]))
    np.testing.assert_allclose(float(found[odd]["score"]), odd_score["score"][0], rtol=1e-5)
    expected = bare_scores(folder, "digits", keys, 3, image=to_float(images[..., np.newaxis]))
    scores = [float(found[key]["score"]) for key in keys]
    np.testing.assert_allclose(scores, expected["score"], rtol=1e-5)
    reasons = read_csv(tmp_path / "out-errors")
    assert {key: row["reason"].split(";")[0] for key, row in reasons.items()} == {
        "of a day/cut.png": "its image is damaged: image file is truncated",
        "of a day/none.jpg": "it is not an image of a known format, or its start is damaged",
        "of a day/large.png": "it has 9 x 8 pixels of 1 channel",
    }
    # Another batch size, another order: the same scores. And with --resize one more.
    again = bulk.score(*given, str(tmp_path / "again"), seed=3, batch_size=64, resize=True)
    assert again == {"read": 13, "scored": 11, "unreadable": 2, "flagged": 0}
    other = read_csv(tmp_path / "again")
    other_scores = [float(other[key]["score"]) for key in keys]
    np.testing.assert_allclose(other_scores, scores, rtol=1e-5)
    with pytest.raises(tfebm.InvalidInputError, match=r"An earlier job wrote .* and 2 more"):
        bulk.score(*given, str(tmp_path / "out"))


def test_tables_are_equal_and_what_is_no_number_is_flagged(folder, digits, images, tmp_path):
    path = tmp_path / "digits.tfrecord"
    spoilt = to_float(images[1]).numpy().ravel()
    spoilt[5] = np.nan
    data = [
        example(image=png(images[0]), id=b"zero"),
        example(image=spoilt, id=b"one"),
        example(image=png(images[2]), id=b"two"),
        b"no example",
        example(image=png(images[3]), id=b"three"),
    ]
    write_records(path, data)
    content = path.read_bytes()
    damaged = content.replace(png(images[2])[-20:], b"x" * 20)
    path.write_bytes(damaged)
    given = (str(folder / "digits" / "scorer" / "1"), str(path))
    options = {"seed": 5, "key_feature": "id"}
    counts = bulk.score(*given, str(tmp_path / "a"), **options)
    assert counts == {"read": 5, "scored": 3, "unreadable": 2, "flagged": 1}
    assert bulk.score(*given, str(tmp_path / "b"), format="parquet", **options) == counts
    rows, table = read_csv(tmp_path / "a"), read_parquet(tmp_path / "b")
    assert set(rows) == set(table) == {"zero", "one", "three"}
    for key, row in rows.items():
        np.testing.assert_array_equal(np.float32(row["score"]), np.float32(table[key]["score"]))
    assert np.isnan(table["one"]["score"])
    keys = ["zero", "three"]
    expected = bare_scores(
        folder, "digits", keys, 5, image=to_float(images[[0, 3]][..., np.newaxis])
    )
    np.testing.assert_allclose([table[k]["score"] for k in keys], expected["score"], rtol=1e-5)
    reasons = read_csv(tmp_path / "a-errors")
    assert reasons["digits.tfrecord:3"]["reason"] == "its bytes do not match their checksum"
    assert reasons["digits.tfrecord:4"]["reason"] == "it is not a tf.train.Example"


def test_texts(folder, texts, tmp_path):
    lines = [*SENTENCES[:2], "", *SENTENCES[2:]]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    packed = gzip.compress("\n".join(lines).encode())
    (tmp_path / "in.txt.gz").write_bytes(packed[:-9])
    counts = bulk.score(str(folder / "texts"), str(tmp_path / "in.*"), str(tmp_path / "o" / "ut"))
    # Of the packed file the last line has no end, and the file none: both lines before it count.
    found, reasons = read_csv(tmp_path / "o" / "ut"), read_csv(tmp_path / "o" / "ut-errors")
    assert counts["unreadable"] == len(reasons)
    assert counts["scored"] == len(found)
    assert counts["read"] == counts["scored"] + counts["unreadable"]
    assert reasons["in.txt:3"]["reason"] == "it is empty"
    assert any("cannot be read from here on" in row["reason"] for row in reasons.values())
    keys = ["in.txt:1", "in.txt:2", "in.txt:4", "in.txt:5"]
    expected = bare_scores(folder, "texts", keys, 0, text=SENTENCES)
    assert set(keys) <= set(found)
    assert {found[k]["cut"] for k in keys} == {"false"}
    assert not expected.pop("cut").any()
    for name, values in expected.items():
        np.testing.assert_allclose([float(found[k][name]) for k in keys], values, rtol=1e-5)


def test_images_are_drawn_and_read_again(folder, digits, tmp_path):
    model = str(folder / "digits")
    drawn = np.asarray(digits.generate(7, seed=11))
    expected = np.rint((drawn[..., 0] + 1) * 127.5).clip(0, 255)
    counts = bulk.generate(model, 7, str(tmp_path / "png"), seed=11, batch_size=3)
    assert counts == {"generated": 7, "flagged": 0}
    for i, image in enumerate(expected):
        found = np.asarray(Image.open(tmp_path / f"png-{i:08d}.png"), np.float64)
        np.testing.assert_allclose(found, image, atol=1)  # a level, where it is rounded otherwise
    bulk.generate(model, 7, str(tmp_path / "rec"), format="tfrecord", seed=11)
    pattern = str(tmp_path / "rec-*.tfrecord")
    with pytest.raises(tfebm.InvalidInputError, match="names that the output will have"):
        bulk.score(model, pattern, str(tmp_path / "rec"), overwrite=True)
    counts = bulk.score(model, pattern, str(tmp_path / "scores"), key_feature="key")
    assert counts == {"read": 7, "scored": 7, "unreadable": 0, "flagged": 0}
    assert sorted(read_csv(tmp_path / "scores")) == [f"{i:08d}" for i in range(7)]


def test_points_are_drawn_and_read_again(folder, tmp_path):
    flow = tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,))
    model = tfebm.FlowModel(flow)
    model.initialize(np.random.default_rng(0).normal(size=(8, 2)).astype("float32"))
    serving.export(model, folder, "points")
    points = str(folder / "points")
    counts = bulk.generate(points, 7, str(tmp_path / "rec"), seed=11)
    assert counts == {"generated": 7, "flagged": 0}
    pattern = str(tmp_path / "rec-*.tfrecord")
    counts = bulk.score(points, pattern, str(tmp_path / "scores"), key_feature="key")
    assert counts == {"read": 7, "scored": 7, "unreadable": 0, "flagged": 0}
    found = read_csv(tmp_path / "scores")
    drawn = model.generate(7, seed=11)
    for i, nats in enumerate(model.log_prob(drawn)):
        np.testing.assert_allclose(float(found[f"{i:08d}"]["score"]), -nats, rtol=1e-4)
    with pytest.raises(tfebm.InvalidInputError, match="one of tfrecord here"):
        bulk.generate(points, 7, str(tmp_path / "png"), format="png")


def test_texts_are_drawn(folder, texts, tmp_path):
    counts = bulk.generate(str(folder / "texts"), 5, str(tmp_path / "t"), seed=2, batch_size=2)
    assert counts == {"generated": 5, "flagged": 0}
    found = read_csv(tmp_path / "t")
    drawn = [found[f"{i:08d}"]["text"] for i in range(5)]
    assert drawn == texts.generate(5, seed=random.as_row_seeds(2, 5)).tolist()
    assert len(set(drawn)) > 1


@pytest.fixture(scope="module")
def files(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.png").write_bytes(png(images[0]))
    (folder / "a.txt").write_text("a cat\n")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nowhere"}, "no export of a scorer in nowhere"),
        ({"model": "gs://b/m"}, "model must be a path on this machine.*gs://b/m"),
        ({"output": "s3://b/o"}, "output must be a path on this machine.*s3://b/o"),
        ({"pattern": "s3://b/*.png"}, "s3://b/.* cannot be listed"),
        ({"pattern": "nothing-*.png"}, "No file matches .*nothing-"),
        ({"pattern": ""}, "is a folder"),
        ({"pattern": "a.*"}, "or say several"),
        ({"pattern": "a.txt"}, "scores images, and .*a.txt is to be read as text"),
        (
            {"signature": "guess"},
            "no signature 'guess'. It has features, infer",
        ),
        ({"signature": "infer"}, "no single value a row; it gives latent"),
        ({"format": "xlsx"}, "one of csv, parquet here. Received 'xlsx'"),
        ({"input_format": "pickle"}, "one of tfrecord, image, text"),
        ({"batch_size": 0}, "at least 1"),
        ({"seed": 2**63}, "64 bits"),
        ({"output": "scores/"}, "start of the names of files"),
        ({"output": "a.png/scores"}, "cannot be made"),
        ({"flags": ["--direct_num_wokers", "2"]}, "Did you mean --direct_num_workers"),
        ({"flags": ["--direct_num_workers", "two"]}, "invalid int value: 'two'"),
        ({"flags": ["stray"]}, "know stray"),
        ({"runner": "SlowRunner"}, "runner 'SlowRunner' cannot be used"),
        ({"runner": "no.such.module.Runner"}, "cannot be used .* No module named"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(folder, digits, files, monkeypatch, changes, message):
    monkeypatch.chdir(files)
    given = {"model": str(folder / "digits"), "pattern": "a.png", "output": "scores", **changes}
    with pytest.raises(tfebm.InvalidInputError, match=message):
        bulk.score(**given)
    assert sorted(path.name for path in files.iterdir()) == ["a.png", "a.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 0}, "at least 1"),
        ({"number": 2**31}, "At most"),
        ({"format": "csv"}, "one of png, tfrecord here. Received 'csv'"),
        ({"model": "texts", "format": "png"}, "one of csv, parquet here"),
        ({"model": "digits/scorer/1"}, "no signature 'generate'. It has features, infer"),
    ],
)
def test_drawing_what_cannot_be_drawn(folder, digits, texts, tmp_path, changes, message):
    given = {"number": 3, "output": str(tmp_path / "x"), **changes}
    given["model"] = str(folder / changes.get("model", "digits"))
    with pytest.raises(tfebm.InvalidInputError, match=message):
        bulk.generate(**given)


class GivesUp(FnApiRunner):
    """As one whose server is not there."""

    def run_pipeline(self, pipeline, options):
        raise RuntimeError("Traceback (most recent call last):\n  File x\nOSError: no server")


class DaskRunner(FnApiRunner):
    """By its name: Beam's own needs a package of its own."""


def test_what_a_runner_leaves_out_is_counted(folder, digits, texts, files, tmp_path, monkeypatch):
    model = str(folder / "digits")
    with pytest.raises(tfebm.JobFailed, match=r"GivesUp gave up: no server"):
        bulk.generate(model, 3, str(tmp_path / "a"), runner=f"{__name__}.GivesUp")
    # Where steps that nothing depends on are passed over.
    monkeypatch.setattr(bulk_steps, "write_pngs", lambda answers, output: None)
    with pytest.raises(tfebm.JobFailed, match=r"ended the job, but 0 of 3 images are in .*/b-\*"):
        bulk.generate(model, 3, str(tmp_path / "b"))
    monkeypatch.setattr(bulk_steps, "write_table", lambda *_: None)
    for table in ("csv", "parquet"):
        with pytest.raises(tfebm.JobFailed, match="but 0 of 1 scores are in"):
            bulk.score(model, str(files / "a.png"), str(tmp_path / table), format=table)
    assert not list(tmp_path.glob("beam-temp-*"))


def test_runners_that_would_be_wrong_are_refused(folder, digits, tmp_path):
    with pytest.raises(tfebm.InvalidInputError, match="computes the last step of a pipeline alone"):
        bulk.generate(
            str(folder / "digits"), 3, str(tmp_path / "c"), runner=f"{__name__}.DaskRunner"
        )
    assert not list(tmp_path.iterdir())


def test_brackets_in_paths(folder, digits, images, tmp_path):
    inside = tmp_path / "photos [1]"
    inside.mkdir()
    for i in range(3):
        (inside / f"{i}[x].png").write_bytes(png(images[i]))
    (tmp_path / "photos 1").mkdir()
    (tmp_path / "photos 1" / "other.png").write_bytes(png(images[0]))
    (folder / "run[1]").mkdir()
    shutil.copytree(folder / "digits", folder / "run[1]" / "digits")
    model = str(folder / "run[1]" / "digits")
    counts = bulk.score(model, str(inside / "*.png"), str(tmp_path / "all"))
    assert counts["scored"] == 3
    assert set(read_csv(tmp_path / "all")) == {f"{i}[x].png" for i in range(3)}
    bulk.score(model, str(inside / "1[x].png"), str(tmp_path / "one"))
    assert set(read_csv(tmp_path / "one")) == {"1[x].png"}
    for output in ("run[2]/d", "run*/d", "d?"):
        with pytest.raises(tfebm.InvalidInputError, match=r"takes .* for a pattern"):
            bulk.score(model, str(inside / "*.png"), str(tmp_path / output))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("run", "beam"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        {"flags": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]},
        {"flags": ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]},
        {
            "runner": "PortableRunner",
            "flags": ["--job_endpoint=embed", "--environment_type=LOOPBACK"],
        },
    ],
)
def test_the_runner_does_not_matter(folder, chains, tmp_path, where):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("\n".join([*SENTENCES, ""] * 3) + "\n")
    given = (chains, str(tmp_path / "*.txt"))
    counts = bulk.score(*given, str(tmp_path / "here"), seed=1, batch_size=8)
    assert counts == {"read": 60, "scored": 48, "unreadable": 12, "flagged": 0}
    assert bulk.score(*given, str(tmp_path / "there"), seed=1, batch_size=5, **where) == counts
    here, there = read_csv(tmp_path / "here"), read_csv(tmp_path / "there")
    keys = sorted(here)
    assert keys == sorted(there)
    sentences = [SENTENCES[(int(key.split(":")[1]) - 1) % 5] for key in keys]
    for name, values in bare_scores(folder, "chains", keys, 1, text=sentences).items():
        for rows in (here, there):
            found = [float(json.loads(rows[key][name])) for key in keys]  # booleans too
            np.testing.assert_allclose(found, values, rtol=1e-5, err_msg=name)

"""The client of a server, against a server in this process that holds real exports."""

import csv
import importlib.util
import io
import os
import re
import runpy
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import shell_commands
from PIL import Image

import tfebm
from tfebm import pictures, serving

pytest.importorskip("tensorflow_serving", reason="the extra `client` is not installed")

from prediction_server import serve

pytestmark = pytest.mark.extras

SENTENCES = ["a cat sleeps", "the dog barks", "the zebra the"]

# Runs the client where neither tfebm nor Keras can be imported.
STRANGER = """
import runpy, sys

for name in ("tfebm", "keras", "tf_keras"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Colours(tf.Module):
    """Small colour images whose scores tell their pixels."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4, 4, 3], tf.float32, name="image"),
            tf.TensorSpec([None, 2], tf.int32, name="seed"),
        ]
    )
    def score(self, image, seed):
        checked = tf.debugging.assert_non_negative(seed[:, 0], "no negative seeds")
        with tf.control_dependencies([checked]):
            return {"score": tf.reduce_mean(image, [1, 2, 3]), "blue": image[:, 1, 2, 2]}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, name="seed")])
    def generate(self, seed):
        colour = tf.stack([seed[:, 0], seed[:, 1], -seed[:, 1]], axis=1)
        colour = tf.cast(colour, tf.float32)[:, tf.newaxis, tf.newaxis] / 127.5
        return {"image": tf.broadcast_to(colour, [tf.shape(seed)[0], 6, 4, 3])}


class Points(tf.Module):
    """Neither images nor sentences."""

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, name="seed")])
    def generate(self, seed):
        return {"example": tf.cast(seed, tf.float32)}


class Words(tf.Module):
    """Inputs and outputs of a sentence model's scorer; its scores tell the inputs."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="text"),
            tf.TensorSpec([None, 2], tf.int32, name="seed"),
        ]
    )
    def score(self, text, seed):
        length = tf.cast(tf.strings.length(text, unit="UTF8_CHAR"), tf.float32)
        return {"reconstruction_nll": tf.cast(seed[:, 1], tf.float32), "score": length}


@pytest.fixture(scope="module")
def text_model():
    tokenizer = tfebm.tokenizers.WordTokenizer(["a", "cat", "dog", "sleeps", "barks", "the"])
    model = tfebm.LanguageModel(tfebm.AutoregressiveGenerator(tokenizer, 4, 5, max_length=6))
    for weight in model.generator.weights:
        weight.assign(6.0 * weight)
    return model


@pytest.fixture(scope="module")
def models(text_model, root, tmp_path_factory):
    """Folders of versions by name."""
    folder = tmp_path_factory.mktemp("served")
    text = serving.export(text_model, folder, "text")
    found = {
        "mnist5k_generator": root / "savedmodels/mnist5k/generator/1",
        "mnist5k_scorer": root / "savedmodels/mnist5k/scorer/1",
        "text_generator": text.generator,
        "text_scorer": text.scorer,
    }
    for name, module in {"colours": Colours(), "words": Words(), "points": Points()}.items():
        signatures = {n: getattr(module, n) for n in ("generate", "score") if hasattr(module, n)}
        tf.saved_model.save(module, folder / name, signatures=signatures)
        found[name] = folder / name
    return found


@pytest.fixture(scope="module")
def server(models):
    with serve(models, max_batch_size=64) as running:
        yield running


@pytest.fixture(scope="module")
def module(root):
    """The script."""
    spec = importlib.util.spec_from_file_location("client", root / "savedmodels" / "client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(module, server, monkeypatch):
    """Runs the command against the server."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def call(command, model, *flags, address=server[0]):
        module.main([command, "--server", address, "--model", model, *map(str, flags)])

    return call


def table(text):
    """CSV as its header and its rows."""
    header, *rows = csv.reader(io.StringIO(text))
    return header, rows


def test_generated_images_are_those_of_their_seeds(run, server, tmp_path):
    path, sizes = tmp_path / "grid.png", server[1].sizes
    before = len(sizes)
    run("generate", "mnist5k_generator", "--count", 10, "--seed", -7, "--output", path)
    run(
        *("generate", "mnist5k_generator", "--count", 11, "--seed", -7),
        *("--batch-size", 4, "--output", tmp_path / "more.png"),
    )
    assert sizes[before:] == [10, 4, 4, 3]
    seeds = np.array([[-7, i] for i in range(10)], np.int32)
    images = server[1].run("mnist5k_generator", "generate", {"seed": seeds})["image"]
    found, more = np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "more.png"))
    np.testing.assert_allclose(found, pictures.grid(images, 8)[..., 0], atol=1)
    # Other batches, and one digit more: nothing else moves, but for rounding.
    place = (slice(2 + 30, 2 + 58), slice(2 + 2 * 30, 2 + 2 * 30 + 28))
    assert (found[place] == 255).all()
    assert not (more[place] == 255).all()
    more = more.copy()
    more[place] = 255
    np.testing.assert_allclose(more, found, atol=1)


def test_colours_lie_where_they_belong(run, tmp_path):
    path = tmp_path / "grid.png"
    run("generate", "colours", "--count", 3, "--seed", 100, "--output", path)
    picture = np.asarray(Image.open(path))
    assert picture.shape == (2 + 8, 2 + 3 * 6, 3)
    # 127.5 * (x + 1) of (100, i, -i) / 127.5, with halves to the even number.
    expected = [[228, 128, 128], [228, 128, 126], [228, 130, 126]]
    assert picture[4, [3, 9, 15]].tolist() == expected


def test_generated_sentences_are_lines(run, text_model, capsys, tmp_path):
    run("generate", "text_generator", "--count", 5, "--seed", 3)
    seeds = tf.constant([[3, i] for i in range(5)])
    expected = text_model.generate(5, seed=seeds).tolist()
    assert capsys.readouterr().out.splitlines() == expected
    assert len(set(expected)) > 1
    run("generate", "text_generator", "--count", 5, "--seed", 3, "--output", tmp_path / "new.txt")
    assert (tmp_path / "new.txt").read_text("utf-8").splitlines() == expected


def test_scored_images(run, module, server, tmp_path, capsys):
    digits = tfebm.data.load_images("mnist5k").x_test[:6]
    (tmp_path / "deep").mkdir()
    names = [f"{i}.png" for i in range(5)] + ["deep/5.png"]
    for name, digit in zip(names, digits, strict=True):
        Image.fromarray(digit[..., 0]).save(tmp_path / name)
    (tmp_path / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:120])
    (tmp_path / "words.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("not asked for")
    run("score", "mnist5k_scorer", "--input", tmp_path, "--seed", 2, "--batch-size", 4)
    assert server[1].sizes[-2:] == [4, 2]
    captured = capsys.readouterr()
    skipped, left_out = captured.err.splitlines()
    assert skipped == "Skipped 1 .txt."
    assert left_out.startswith("2 of 8 images were left out. torn.png: ")
    assert left_out.endswith("; words.jpg: not an image of a known format.")
    header, rows = table(captured.out)
    assert header == ["file", "score"]
    assert [row[0] for row in rows] == sorted(names)
    x = tfebm.data.to_float(digits).numpy()
    inputs = {"image": x, "seed": module.row_seeds(x, 2)}
    scores = server[1].run("mnist5k_scorer", "score", inputs)["score"]
    expected = dict(zip(names, scores, strict=True))
    for name, value in rows:
        np.testing.assert_allclose(float(value), expected[name], rtol=1e-4, err_msg=name)
    # A single file, whatever else was in its batch.
    run("score", "mnist5k_scorer", "--input", tmp_path / "deep/5.png", "--seed", 2)
    _, [[name, value]] = table(capsys.readouterr().out)
    assert name == "5.png"
    np.testing.assert_allclose(float(value), expected["deep/5.png"], rtol=1e-4)


def test_damage_of_any_kind_is_left_out(run, module, tmp_path, monkeypatch, capsys):
    name = os.fsdecode(b"caf\xe9.png")  # as in archives of another age
    for file, colour in {name: "black", "odd.png": "red"}.items():
        Image.new("RGB", (4, 4), colour).save(tmp_path / file)
    plain = module._plain

    def stumble(picture, behind):  # as Pillow does over what it has not foreseen
        if picture.getpixel((0, 0)) == (255, 0, 0):
            raise struct.error("required argument is not an integer")
        return plain(picture, behind)

    monkeypatch.setattr(module, "_plain", stumble)
    run("score", "colours", "--input", tmp_path, "--output", tmp_path / "scores.csv")
    assert "1 of 2 images were left out. odd.png: damaged." in capsys.readouterr().err
    _, [[found, *_]] = table((tmp_path / "scores.csv").read_text("utf-8"))
    assert found == "caf\\udce9.png"


def test_what_is_scored_is_not_replaced(run, module, tmp_path):
    text, image = tmp_path / "lines.txt", tmp_path / "one.png"
    text.write_text("a cat sleeps\n")
    Image.new("RGB", (4, 4)).save(image)
    (tmp_path / "link.csv").symlink_to(text)
    before = text.read_bytes(), image.read_bytes()
    for model, source, output in (
        ("text_scorer", text, text),
        ("text_scorer", text, tmp_path / "link.csv"),
        ("colours", image, image),
        ("colours", tmp_path, tmp_path / "new.PNG"),
    ):
        with pytest.raises(module.ClientError, match=r"Received .*image|is the --input"):
            run("score", model, "--input", source, "--output", output)
    assert (text.read_bytes(), image.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 3


def test_flags_come_before_the_imports(root):
    script = root / "savedmodels" / "client.py"
    for flags, code in ((["--help"], 0), (["score", "--inp", "x"], 2), (["fly"], 2)):
        command = [sys.executable, "-X", "importtime", script, *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stderr.splitlines()
        assert done.returncode == code
        assert not [line for line in lines if re.search(r"\| +(tensorflow|numpy|grpc)$", line)]
        said = [line for line in lines if not line.startswith("import time:")]
        assert len(said) == (1 if code else 0), said


def test_names_that_the_terminal_cannot_show(models, server, root, tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "caf\u00e9.png")
    command = [sys.executable, root / "savedmodels" / "client.py", "score", "--model", "colours"]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [*command, "--server", server[0], "--input", tmp_path, "--resize"],
        capture_output=True,
        text=True,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    assert "caf\\xe9.png," in done.stdout
    assert done.stderr == ""


def test_a_server_that_is_busy(module, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "_PAUSES", (0.01, 0.01))
    model = module.ServedModel(server[0], "colours")
    refusals = []
    answer = model._service.Predict

    class Full(module.grpc.RpcError):
        def code(self):
            return module.grpc.StatusCode.UNAVAILABLE

        def details(self):
            return "The batch scheduling queue is full"

    def predict(request, timeout):
        if refusals:
            raise refusals.pop()
        return answer(request, timeout=timeout)

    model._service.Predict = predict
    seed = {"seed": np.zeros((1, 2), np.int32)}
    refusals[:] = [Full(), Full()]
    assert model.ask("generate", seed)["image"].shape == (1, 6, 4, 3)
    refusals[:] = [Full(), Full(), Full()]
    with pytest.raises(module.ClientError, match=r"is busy, or has gone: The batch.*--batch-size"):
        model.ask("generate", seed)


def test_pixels_are_those_of_training(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels[1]).save(tmp_path / "1.png", exif=turned)
    grey = (rng.integers(0, 256, (9, 7)) * 257).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "2.png")
    with pytest.raises(Exception, match=r"0\.png has 7 x 9 pixels.*images of 4 x 4.*--resize"):
        run("score", "colours", "--input", tmp_path)
    Image.fromarray(np.dstack([pixels[2], pixels[0, ..., 0]])).save(tmp_path / "3.tif")
    run("score", "colours", "--input", tmp_path, "--resize", "--background", "#204060")
    header, rows = table(capsys.readouterr().out)
    assert header == ["file", "score", "blue"]
    x = tfebm.data.to_float(
        tfebm.data.load_images(str(tmp_path), image_size=4, background="#204060").x_train
    ).numpy()
    found = np.array([[float(value) for value in row[1:]] for row in rows])
    np.testing.assert_allclose(found[:, 0], x.mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(found[:, 1], x[:, 1, 2, 2], atol=1e-6)


def test_scored_sentences(run, module, text_model, tmp_path, capsys):
    path, scores = tmp_path / "some.txt", tmp_path / "scores.csv"
    lines = [b"\xef\xbb\xbfa cat sleeps\r", b"", b"  ", b"the dog barks", b"\xff", b"the zebra the"]
    path.write_bytes(b"\n".join(lines))
    run("score", "text_scorer", "--input", path, "--output", scores, "--batch-size", 2)
    message = "3 of 6 lines were left out. line 2: empty; line 3: empty; line 5: not UTF-8.\n"
    assert capsys.readouterr().err == message
    header, rows = table(scores.read_text("utf-8"))
    assert header == ["text", "score", "cut"]
    assert [(row[0], row[2]) for row in rows] == [(text, "False") for text in SENTENCES]
    found = [float(row[1]) for row in rows]
    np.testing.assert_allclose(found, text_model.score(SENTENCES), rtol=1e-5)


def test_a_sentence_has_its_seed_wherever_it_stands(run, module, tmp_path, capsys):
    texts = ['so-called "words", ähnlich', "a", "b", "a"]
    (tmp_path / "some.txt").write_text("\n".join(texts), "utf-8")
    run("score", "words", "--input", tmp_path / "some.txt", "--seed", 5, "--batch-size", 2)
    header, rows = table(capsys.readouterr().out)
    assert header == ["text", "score", "reconstruction_nll"]
    assert [row[0] for row in rows] == texts
    assert [float(row[1]) for row in rows] == [len(text) for text in texts]
    seeds = [row[2] for row in rows]
    assert seeds[1] == seeds[3]
    assert len(set(seeds)) == 3


def test_the_readme_s_commands(root, server, module, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "photos").mkdir()
    digit = tfebm.data.load_images("mnist5k").x_test[0]
    Image.fromarray(digit[..., 0]).save(tmp_path / "photos" / "digit.png")
    commands = shell_commands(root / "savedmodels" / "README.md", "python savedmodels/client.py")
    for words in commands:
        module.main([*words[2:], "--server", server[0]])
    assert capsys.readouterr().out == "64 images are in grid.png.\n"
    assert [words[2] for words in commands] == ["generate", "score"]
    assert Image.open("grid.png").size == (2 + 8 * 30, 2 + 8 * 30)
    assert (tmp_path / "scores.csv").read_text().startswith("file,score\ndigit.png,")


def test_a_machine_without_tfebm_and_keras(root, server, tmp_path):
    command = [sys.executable, "-c", STRANGER, str(root / "savedmodels" / "client.py"), "generate"]
    flags = ["--server", server[0], "--model", "mnist5k_generator", "--count", "2"]
    done = subprocess.run(
        [*command, *flags], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 images are in grid.png.\n"
    assert Image.open(tmp_path / "grid.png").size == (2 + 2 * 30, 2 + 30)


def test_the_command_says_why_in_a_sentence(root, server, monkeypatch, capsys):
    flags = ["generate", "--server", server[0], "--model", "letters_generator"]
    monkeypatch.setattr(sys, "argv", ["client.py", *flags])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(root / "savedmodels" / "client.py"), run_name="__main__")
    error = capsys.readouterr().err
    assert error.startswith(f"The server at {server[0]} has no model 'letters_generator': Servable")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "model", "flags", "message"),
    [
        ("generate", "letters", (), "no model 'letters'.*Servable not found.*models.config"),
        ("generate", "mnist5k_scorer", (), "no signature 'generate', only features, .*_generator"),
        ("score", "text_generator", ("--input", "a.txt"), "no signature 'score'.*_scorer"),
        ("generate", "points", (), "neither images nor sentences"),
        ("generate", "colours", ("--count", 65, "--batch-size", 65), "refused.*INVALID.*size 65"),
        ("generate", "colours", ("--output", "no/where.png"), "no folder 'no' for --output"),
        ("generate", "text_generator", ("--output", "empty"), "empty cannot be written: Is a dir"),
        ("score", "colours", ("--input", "a.png", "--seed", -1), "(?s)refused.*no negative seeds"),
        ("score", "colours", ("--input", "nothing"), "There is no 'nothing'"),
        ("score", "colours", ("--input", "empty"), "empty holds no images"),
        ("score", "colours", ("--input", "torn.png"), "Nothing in torn.png can be scored"),
        ("score", "text_scorer", ("--input", "empty"), "empty cannot be read: Is a directory"),
        ("score", "text_scorer", ("--input", "empty.txt"), "empty.txt is empty"),
    ],
)
def test_what_cannot_be_had(run, module, tmp_path, monkeypatch, command, model, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "a.txt").write_text("a cat sleeps")
    (tmp_path / "torn.png").write_text("no image")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(module.ClientError, match=message):
        run(command, model, *flags)


def test_a_server_that_is_not_there(run, module):
    with pytest.raises(module.ClientError, match=r"No server answers at 127.0.0.1:1: .*--server"):
        run("generate", "colours", address="127.0.0.1:1")


def test_a_server_that_is_too_slow(run, module):
    with pytest.raises(module.ClientError, match=r"within 0.001 seconds.*--timeout"):
        run("generate", "mnist5k_generator", "--timeout", 0.001)


@pytest.mark.parametrize(
    "flags", [["--count", "0"], ["--seed", "2147483648"], ["--timeout", "nan"]]
)
def test_flags_out_of_range(run, capsys, flags):
    with pytest.raises(SystemExit):
        run("generate", "colours", *flags)
    assert "is not within" in capsys.readouterr().err

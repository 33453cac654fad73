"""The script of sentences, as a person runs it."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import scripts
import text
from experiments import shared, text_data, text_figures, text_files, text_latents
from helpers import weights_of
from PIL import Image

import tfebm
from tfebm.data import default_grammar, sentence_batches

SCRIPT = pathlib.Path(text.__file__)
# Small and quick, on 24 sentences: three batches an epoch.
SIZES = {
    "batch_size": 8,
    "embedding_size": 4,
    "hidden_size": 6,
    "latent_size": 3,
    "posterior_steps": 2,
    "prior_steps": 2,
    "energy_width": 4,
    "max_length": 20,
}
TINY = [
    *(word for name, size in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(size))),
    *("--evidence-examples", "0", "--au-examples", "4", "--jit", "off"),
]
FILES = {
    *("config.json", "metrics.json", "model.keras", "checkpoints", "logs", "vocabulary.txt"),
    *("samples.txt", "curves.png"),
}
OF_LATENTS = {"reconstructions.txt", "interpolations.txt", "latents.png"}


def write_corpus(folder, labels):
    folder.mkdir(exist_ok=True)
    for seed, (split, number) in enumerate({"train": 24, "valid": 8, "test": 8}.items()):
        drawn = default_grammar().derive(number, seed=seed)
        lines = [
            f"{label % 2}\t{sentence}" if labels else sentence
            for label, sentence in zip(drawn.labels, drawn.sentences, strict=True)
        ]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "plain", labels=False)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "labelled", labels=True)


def run(dataset, output, *flags):
    """What the script prints."""
    return scripts.run(text, "--dataset", dataset, "--output", output, *flags).stdout


@pytest.fixture(scope="module")
def finished(labelled, tmp_path_factory):
    """A run of two epochs, with all that is measured by default."""
    output = tmp_path_factory.mktemp("runs") / "run"
    bound = ["--evidence-examples", "2", "--evidence-samples", "4"]
    run(labelled, output, "--labels", *TINY, *bound, "--epochs", "2")
    return output


def read_metrics(output):
    return json.loads((output / "metrics.json").read_text())


def settings_of(model, **changes):
    return text.Settings(model=model, **{**SIZES, **changes})


def test_the_command_with_mirrored_virtual_devices(corpus, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), "--dataset", corpus, "--output", str(output), *TINY]
    command += ["--strategy", "mirrored", "--virtual-devices", "2", "--steps", "4", "--jit", "auto"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "24 sentences to train on" in done.stdout
    assert "On 8 test sentences" in done.stdout
    assert {p.name for p in output.iterdir()} == FILES | OF_LATENTS
    loaded = tfebm.load_run(output)
    assert len(loaded.model.generate(3)) == 3
    assert loaded.settings["latent_size"] == 3
    assert "task" not in loaded.settings
    assert loaded.metrics["final"]["steps"] == 4
    assert np.isfinite(loaded.metrics["epochs"][0]["metrics"]["generator_loss"])


class TestRun:
    def test_what_is_written_and_measured(self, finished):
        assert {p.name for p in finished.iterdir()} == FILES | OF_LATENTS
        final = read_metrics(finished)["final"]
        assert final["data"]["train"]["kept"] == 24
        assert len(final["tokenizer_digest"]) == 16
        test = final["test"]
        assert test["num_examples"] == 8
        assert {"generator_loss", "num_tokens", "evidence", "active_units"} <= set(test)
        names = ("kl", "nll", "reconstruction")
        assert {*names, *(f"{name}_standard_error" for name in names)} <= set(test["evidence"])
        assert test["evidence"]["num_samples"] == 4
        assert len(test["active_units"]["variances"]) == 3
        for name in ("latents", "curves"):
            with Image.open(finished / f"{name}.png") as picture:
                assert min(picture.size) > 100
        samples = (finished / "samples.txt").read_text()
        assert samples.count("\n") == 2 * (20 + 2) + 1
        reconstructions = (finished / "reconstructions.txt").read_text()
        assert len(re.findall(r"^original ", reconstructions, re.MULTILINE)) == 8
        paths = (finished / "interpolations.txt").read_text()
        assert paths.count("straight path") == paths.count("spherical path") == 4
        words = (finished / "vocabulary.txt").read_text().split()
        assert tuple(words) == tfebm.load_run(finished).model.generator.tokenizer.vocabulary

    def test_a_finished_run_is_asked_for_more(self, finished, labelled, tmp_path, monkeypatch):
        output = tmp_path / "run"
        shutil.copytree(finished, output)
        before = read_metrics(output)
        monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained again"))
        more = ["--resume", "--task-seeds", "2", "--chains", "2"]
        printed = run(labelled, output, *more, "--task", "classify", "--label-counts", "8,16")
        assert "bag of words" in printed
        run(labelled, output, *more, "--task", "cluster")
        printed = run(labelled, output, *more, "--task", "interpolate", "--interpolations", "2")
        assert "2 pairs" in printed
        assert (output / "interpolations.txt").read_text().count("straight path") == 2
        after = read_metrics(output)
        assert after["epochs"] == before["epochs"]
        assert before["final"].items() <= after["final"].items()
        accuracy = after["final"]["classification"]["accuracy"]
        assert [row["labels"] for row in accuracy] == [8, 16]
        assert len(accuracy[0]["features"]["of_seeds"]) == 2
        assert 0 <= after["final"]["clustering"]["accuracy"]["mean"] <= 1
        # The figures can be had again, and what the tasks found stays.
        run(labelled, output, "--resume", "--evidence-examples", "0", "--au-examples", "3")
        again = read_metrics(output)["final"]
        assert again["test"]["active_units"]["num_examples"] == 3
        assert again["classification"] == after["final"]["classification"]

    def test_a_language_model(self, corpus, tmp_path):
        output = tmp_path / "run"
        printed = run(corpus, output, "--model", "lm", *TINY, "--steps", "2")
        assert "(exact)" in printed
        assert {p.name for p in output.iterdir()} == FILES
        test = read_metrics(output)["final"]["test"]
        assert test["nll"] == pytest.approx(test["generator_loss"], rel=1e-4)
        assert test["perplexity"] > 1
        assert test["evidence"] is None
        # On the sentences of the other models' bounds, to compare: here on all of them.
        run(corpus, output, "--resume", "--evidence-examples", "8")
        evidence = read_metrics(output)["final"]["test"]["evidence"]
        assert evidence["rows"] == list(range(8))
        assert evidence["nll"] == pytest.approx(np.mean(evidence["nll_of_each"]), abs=1e-4)
        assert evidence["nll"] == pytest.approx(test["nll"], rel=1e-5)
        assert evidence["nll_standard_error"] == pytest.approx(test["nll_standard_error"], rel=1e-4)

    def test_a_resumed_run_ends_like_one_that_was_not(
        self, finished, labelled, tmp_path, monkeypatch
    ):
        """Stopped in the middle of an epoch, after which it is a finished run of fewer steps."""
        for module, name in (
            (text_files, "write_sentences"),
            (text_latents, "look_at_latents"),
            (text_figures, "measure"),
        ):
            monkeypatch.setattr(module, name, lambda *_: None)
        parts = tmp_path / "parts"
        run(labelled, parts, "--labels", *TINY, "--epochs", "2", "--steps", "4")
        printed = run(labelled, parts, "--resume", "--steps", "0")
        assert "Resumed at step 4" in printed
        one, other = (tfebm.load_run(path).model for path in (parts, finished))
        for name, value in weights_of(one).items():
            np.testing.assert_array_equal(value, weights_of(other)[name], err_msg=name)
        for a, b in zip(one.optimizer.variables, other.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a, b)
        first, last = (read_metrics(path)["epochs"] for path in (parts, finished))
        assert [r["step"] for r in first] == [r["step"] for r in last] == [3, 6]


@pytest.mark.parametrize(
    ("name", "encoder"), [*((name, "none") for name in text.CURVES), ("short_run", "chain")]
)
def test_models_learn_and_come_back(name, encoder, corpus, tmp_path):
    settings = settings_of(name, dataset=corpus, encoder=encoder)
    data = text.load(settings)
    model = text.make_model(settings, data)
    batches = sentence_batches(data.x_train, seed=0, batch_size=8)
    history = model.fit(batches, epochs=6, steps_per_epoch=3, verbose=0).history
    assert history["generator_loss"][-1] < history["generator_loss"][0]
    for names in shared.curves(settings, text.CURVES[name]).values():
        assert set(names) <= set(history)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.score(data.x_test), model.score(data.x_test))


class TestSettings:
    def test_presets_are_the_papers(self, corpus):
        settings = text.Settings(**{**text.PRESETS["ptb"], "dataset": corpus})
        data = text.load(settings)
        model = text.make_model(settings, data)
        generator = model.generator
        assert (model.latent_size, generator.embedding_size, generator.hidden_size) == (
            *(32, 256, 256),
        )
        step_sizes = model.posterior_step_size.numpy()[:, 0]
        np.testing.assert_allclose(step_sizes[:9], [0.8, 0.7, 0.6, 0.5, 0.2, 0.2, 0.1, 0.1, 0.05])
        assert len(step_sizes) == 20
        assert model.optimizer.global_clipnorm == 5.0
        # One step an epoch, of 24 sentences.
        seen = [float(model.noise_schedule(step)) for step in (0, 14, 15, 16, 17, 59)]
        np.testing.assert_allclose(seen, [0.05, 0.05, 0.1, 0.15, 0.2, 0.2], rtol=1e-6)
        assert model.posterior_sampler.noise_scale == 0.2
        yelp = text.Settings(**{**text.PRESETS["yelp"], "dataset": corpus, "labels": False})
        model = text.make_model(yelp, data)
        np.testing.assert_allclose(model.posterior_step_size.numpy()[:, 0], [0.4] * 40)
        assert model.noise_schedule is None
        assert model.posterior_sampler.noise_scale == 0.0
        weights = [float(model.prior_schedule(step)) for step in (0, 3, 6, 9)]
        np.testing.assert_allclose(weights, [0.1, 0.55, 1.0, 1.0], rtol=1e-6)

    def test_the_energy_based_prior(self, corpus):
        settings = settings_of("latent_ebm", dataset=corpus, noise_scale=0.1)
        model = text.make_model(settings, text.load(settings))
        np.testing.assert_allclose(model.posterior_step_size.numpy()[:, 0], [0.5, 0.5])
        assert model.posterior_sampler.noise_scale == 0.1
        assert model.generator.latent_to_cell
        settings = settings_of("latent_ebm", dataset=corpus, step_sizes="paper")
        model = text.make_model(settings, text.load(settings))
        np.testing.assert_allclose(model.posterior_step_size.numpy()[:, 0], [0.8, 0.7])
        assert model.posterior_sampler.noise_scale == 0.0

    def test_further_files_are_trained_on(self, labelled, tmp_path):
        extra = tmp_path / "extra.txt"
        extra.write_text("the cook sings a song of many more words than there were before it .\n")
        settings = settings_of("lm", dataset=labelled, labels=True, unlabelled=str(extra))
        data = text.load(settings)
        merged = text_data.training_set(data)
        assert merged.x_train.shape == (25, max(data.x_train.shape[1], 16))
        assert merged.y_train is None
        assert len(data.y_train) == 24


class TestBadInput:
    """Code 2, one sentence, nothing written, before any training."""

    @pytest.fixture
    def fail(self, monkeypatch, capsys):
        def call(*flags):
            monkeypatch.setattr(sys, "argv", ["text.py", *map(str, flags)])
            monkeypatch.setattr(
                keras.Model, "fit", lambda *_, **__: pytest.fail("training was started")
            )
            with pytest.raises(SystemExit) as stop:
                tfebm.runs.run_command(text.main)
            assert stop.value.code == 2
            error = capsys.readouterr().err
            assert error.startswith("text.py: ")
            assert error.count("\n") == 1
            return error

        return call

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ("--model rnn", "invalid choice"),
            ("--dropout 1", "--dropout must be less than 1"),
            ("--step-sizes small", "--step-sizes must be paper or a positive number"),
            ("--step-sizes 0", "--step-sizes must be paper or a positive number"),
            ("--noise-scale -1", "--noise-scale must be at least 0"),
            ("--max-length 1", "--max-length must be at least 2"),
            ("--max-length 2 --too-long skip", "Raise --max-length, or cut them"),
            ("--max-vocabulary 4", "--max-vocabulary must be at least 5"),
            ("--batch-size 25", "number of training examples, 24"),
            ("--label-counts 10,x", "--label-counts must be whole numbers"),
            ("--model lm --task classify", "--task classify needs latents"),
            ("--model lm --task interpolate", "--task interpolate needs latents"),
            ("--model lm --decoding beam", "would write one sentence always"),
            ("--task classify", "--task classify needs labels. "),
            ("--labels", "a line must be a whole number, a tab and a sentence"),
            ("--unlabelled nowhere.txt", "There is no file"),
            ("--unlabelled ,", "--unlabelled must be files"),
            ("--vocabulary nowhere.txt", "There is no file"),
            ("--preset ptb --dataset ptb", "--preset ptb needs --dataset: a folder"),
            ("--dataset grammr", "grammar"),
            ("--resume", "no run to resume"),
        ],
    )
    def test_flags(self, fail, corpus, tmp_path, flags, message):
        output = tmp_path / "run"
        error = fail("--dataset", corpus, "--output", output, *TINY, *flags.split())
        assert message in error
        assert not (output / "config.json").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"\n \n", "no sentences in the train lines"),
            (b"a cat\nthe dog\nb\xff\n", "must be UTF-8. Line 3 is not"),
            (b"1\ta cat\n", "table of labels and sentences"),
        ],
    )
    def test_files(self, fail, tmp_path, content, message):
        (tmp_path / "lines.txt").write_bytes(content)
        flags = ("--dataset", tmp_path / "lines.txt", "--output", tmp_path / "run")
        assert message in fail(*flags, *TINY)

    def test_labels(self, fail, labelled, tmp_path):
        flags = ("--dataset", labelled, "--output", tmp_path / "run", *TINY)
        error = fail(*flags, "--labels", "--task", "classify", "--label-counts", "16,25")
        assert "at most the labelled training sentences of labelled, 24. Received 25" in error
        error = fail(*flags)
        assert "ask for its labels with --labels" in error

    def test_another_vocabulary_than_the_saved_model(self, fail, finished, tmp_path):
        corpus = write_corpus(tmp_path / "corpus", labels=True)
        shutil.copytree(finished, tmp_path / "run")
        config = tmp_path / "run" / "config.json"
        record = json.loads(config.read_text())
        record["settings"]["dataset"] = corpus
        config.write_text(json.dumps(record))
        with open(f"{corpus}/train.txt", "a") as file:
            file.write("1\tzebras\n")
        error = fail("--output", tmp_path / "run", "--resume")
        assert "does not match that of the model saved in" in error
        assert "--output" in error
        # Found by the model itself as well.
        (tmp_path / "run" / "vocabulary.txt").unlink()
        shutil.copy(f"{corpus}/test.txt", f"{corpus}/valid.txt")
        (pathlib.Path(corpus) / "train.txt").write_text("1\tzebras\n" * 24)
        assert "does not match" in fail("--output", tmp_path / "run", "--resume")

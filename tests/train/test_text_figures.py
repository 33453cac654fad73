"""What `text.py` writes and measures, with models that know the answer."""

import dataclasses
import types

import numpy as np
import pytest
from experiments import (
    text_bounds,
    text_data,
    text_figures,
    text_files,
    text_latents,
    text_tasks,
)
from experiments.text_settings import Settings
from PIL import Image

import tfebm
from tfebm.data import TextData
from tfebm.models import EvidenceBound, LatentModel
from tfebm.runs import RunDirectory
from tfebm.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer(["good", "bad", "food", "the"])


def sentences(number, seed):
    """Two classes by their first word, which a third of the sentences lack."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, number)
    first = np.where(rng.uniform(size=number) < 1 / 3, 7, 4 + y)
    rows = [[word, 6, 2, 0] if i % 2 else [7, word, 6, 2] for i, word in enumerate(first)]
    return np.array(rows, np.int32), y


def data(number=60, **changes):
    splits = {split: sentences(number, i) for i, split in enumerate(("train", "valid", "test"))}
    fields = {f"x_{split}": x for split, (x, _) in splits.items()}
    fields |= {f"y_{split}": y for split, (_, y) in splits.items()}
    return TextData("reviews", TOKENIZER, **{**fields, **changes})


class Oracle:
    """Features that are the class of a sentence, known to the test alone."""

    latent_size = 3
    rows_at_once = 8

    def __init__(self, known):
        self.known = {}
        for split in ("train", "valid", "test"):
            x, y = getattr(known, f"x_{split}"), getattr(known, f"y_{split}")
            self.known |= {row.tobytes(): label for row, label in zip(x, y, strict=True)}
        self.asked = 0

    def features(self, x, num_chains, seed, batch_size):
        self.asked += len(x)
        y = np.array([self.known[row.tobytes()] for row in x])
        noise = np.random.default_rng(seed).normal(size=(len(x), 3))
        return (np.eye(3)[y] + 0.01 * noise).astype(np.float32)


def distinct(number=60):
    """`data` in which no sentence comes twice, so that the oracle is one."""
    found = data(number)
    fields = {}
    for i, split in enumerate(("train", "valid", "test")):
        x = getattr(found, f"x_{split}")
        tail = np.arange(number)[:, None] // 2 ** np.arange(6) % 2 + 4
        marks = np.full((number, 1), 4 + i)
        fields[f"x_{split}"] = np.concatenate([x, marks, tail], axis=1).astype(np.int32)
    return dataclasses.replace(found, **fields)


class TestTasks:
    def test_classification_learns_from_features_and_from_words(self):
        known = distinct()
        model = Oracle(known)
        settings = Settings(task="classify", label_counts="8,20", task_seeds=3)
        record = text_tasks.classification(model, known, settings)
        small, large = record["accuracy"]
        assert (small["labels"], large["labels"]) == (8, 20)
        assert large["features"]["mean"] == 1.0
        assert len(small["bag_of_words"]["of_seeds"]) == 3
        assert small["bag_of_words"]["mean"] < small["features"]["mean"]
        # Only sentences whose labels are used are inferred, beside those of the other splits.
        assert model.asked <= 120 + 3 * 20
        table = text_tasks.classification_table(record)
        assert table.count("\n") == 3
        assert "100.0% +- 0.0%" in table

    def test_clusters_are_found(self):
        known = distinct()
        settings = Settings(task="cluster", task_seeds=2)
        record = text_tasks.clustering(Oracle(known), known, settings)
        assert record["accuracy"]["mean"] == 1.0
        assert record["num_components"] == 2
        few = dataclasses.replace(settings, task_examples=30)
        model = Oracle(known)
        assert text_tasks.clustering(model, known, few)["num_test"] == 30
        assert model.asked == 90
        assert "Clustering into 2: accuracy 100.0%" in text_tasks.clustering_sentence(record)


class TestSettings:
    def test_counts_of_labels(self):
        small = data(150)
        assert text_data.label_counts(Settings(), small) == (100,)
        assert text_data.label_counts(Settings(), data(20)) == (20,)
        asked = Settings(label_counts="20, 5,20")
        assert text_data.label_counts(asked, small) == (5, 20)

    def test_data_without_what_a_task_needs(self, monkeypatch):
        def read(found):
            monkeypatch.setattr("tfebm.data.load_text", lambda *_, **__: found)
            return text_data.read_text(Settings(task="cluster"))

        with pytest.raises(tfebm.InvalidInputError, match="has none to valid"):
            read(data(x_valid=np.zeros((0, 4), np.int32)))
        with pytest.raises(tfebm.InvalidInputError, match="at least two classes"):
            read(data(y_train=np.zeros(60, int)))
        assert read(data()).name == "reviews"

    def test_labels_of_a_single_class(self, monkeypatch):
        found = data(200)
        monkeypatch.setattr("tfebm.data.load_text", lambda *_, **__: found)
        settings = Settings(task="classify", label_counts="1,50")
        with pytest.raises(tfebm.InvalidInputError, match="1 labels are too few"):
            text_data.read_text(settings)
        assert text_data.read_text(Settings(task="classify")) is found
        settings = Settings(task="cluster", task_examples=1)
        with pytest.raises(tfebm.InvalidInputError, match="at least the 2 classes"):
            text_data.read_text(settings)

    def test_what_is_done_with_a_model_is_not_saved(self):
        record = Settings(task="classify", chains=3).to_record()
        assert "dataset" in record
        assert not {"task", "chains", "evidence_examples", "quality"} & set(record)


class TestFigures:
    def model(self, **changes):
        """A real one, small."""
        generator = tfebm.AutoregressiveGenerator(TOKENIZER, 3, 4, max_length=5)
        sampler = tfebm.ShortRunLangevin(2, 0.1)
        return tfebm.ShortRunModel(generator, 2, **{"posterior_sampler": sampler, **changes})

    def test_bounds_with_their_errors(self):
        settings = Settings(evidence_examples=5, evidence_chains=2, evidence="own")
        figures = text_bounds.evidence_figures(self.model(), data(), settings)
        assert figures["num_examples"] == 5
        assert figures["nll"] <= -figures["elbo"] + 1e-6
        assert figures["elbo"] == pytest.approx(-figures["reconstruction"] - figures["kl"])
        # Hardly trained, every word is about as likely as every other.
        assert figures["perplexity"] == pytest.approx(8, rel=0.2)
        assert figures["nll_standard_error"] > 0
        said = text_figures.summary(_test(evidence=figures))
        assert "5 of them, 2 chains each" in said
        assert text_bounds.evidence_figures(self.model(), data(), _no_figures()) is None

    def test_bounds_by_samples_around_the_chains(self):
        settings = Settings(evidence_examples=5, evidence_chains=2, evidence_samples=20)
        figures = text_bounds.evidence_figures(self.model(), data(), settings)
        assert figures["nll"] == pytest.approx(figures["reconstruction"] + figures["kl"])
        assert figures["nll"] == pytest.approx(np.mean(figures["nll_of_each"]), abs=1e-3)
        assert figures["rows"] == [0, 14, 29, 44, 59]
        # Hardly trained, z matters little: the posterior is the prior, and the weights are even.
        assert figures["kl"] == pytest.approx(0.0, abs=0.1)
        assert 10 < figures["effective_sample_size"] <= 20
        assert figures["perplexity"] == pytest.approx(8, rel=0.2)
        said = text_figures.summary(_test(evidence=figures))
        assert "5 of them, 20 samples each, from around 2 ends of chains" in said

    def test_what_is_no_bound_is_no_number(self, monkeypatch):
        rows, valid = np.ones(5), np.arange(5) > 0
        bound = EvidenceBound(-rows, -rows, rows, rows, valid, 0.1)
        monkeypatch.setattr(LatentModel, "evidence_bound", lambda *_, **__: bound)
        settings = Settings(evidence_examples=5, evidence="own")
        figures = text_bounds.evidence_figures(self.model(), data(), settings)
        assert figures["invalid_share"] == pytest.approx(0.2)
        assert [figures[name] for name in ("elbo", "kl", "kl_standard_error")] == [None] * 3
        assert figures["reconstruction"] == figures["nll"] == 1.0
        said = text_figures.summary(_test(evidence=figures))
        assert "KL" not in said.replace("no KL", "")
        assert "10.0% of the chains" in said
        assert "leaves them out" in said
        lost = bound._replace(importance_weighted=np.where(valid, -rows, -np.inf))
        monkeypatch.setattr(LatentModel, "evidence_bound", lambda *_, **__: lost)
        figures = text_bounds.evidence_figures(self.model(), data(), settings)
        assert figures["nll"] is figures["nll_standard_error"] is figures["perplexity"] is None
        assert "give more --evidence-chains" in text_figures.summary(_test(evidence=figures))

    def test_chains_of_a_bound_are_found_on_validation_sentences(self, monkeypatch):
        model, known, seen = self.model(), data(), []

        def bound(model, x, seed):
            size = float(model.posterior_step_size.numpy()[0, 0])
            seen.append((size, len(x)))
            return EvidenceBound(*[np.ones(len(x))] * 4, np.full(len(x), size < 0.03), 0.0)

        monkeypatch.setattr(LatentModel, "evidence_bound", bound)
        monkeypatch.setattr(LatentModel, "evidence_sampler", lambda *_, **__: "the tuned one")

        def find(**changes):
            return text_bounds._evidence_chain(model, known, Settings(**changes))

        assert find(evidence="tuned") == ("the tuned one", None)
        assert find(evidence="scaled") == (None, 0.25)
        np.testing.assert_allclose(seen, [(0.1, 10), (0.05, 10), (0.025, 10)], rtol=1e-6)
        np.testing.assert_allclose(model.posterior_step_size, [[0.1], [0.1]], rtol=1e-6)
        assert find(evidence="own") == (None, 1.0)
        known = data(x_valid=np.zeros((0, 4), np.int32))
        assert find(evidence="tuned") == (None, 1.0)

    def test_an_unknown_normalizer_makes_no_bound(self, monkeypatch):
        model = tfebm.LatentEBM(
            tfebm.AutoregressiveGenerator(TOKENIZER, 3, 4),
            tfebm.EnergyMLP((4,)),
            2,
            posterior_sampler=tfebm.ShortRunLangevin(2, 0.1),
        )
        settings = Settings(model="latent_ebm", evidence_examples=3, evidence="own")
        known = text_bounds.evidence_figures(model, data(), settings)
        assert known["log_normalizer"]["reliable"]
        assert known["nll"] > 0
        assert "log Z of the prior: " in text_figures.summary(_test(evidence=known))
        poor = tfebm.distributions.LogNormalizer(1.0, 1.0, 3.0, 100)
        bounds = tfebm.distributions.NormalizerBounds(0.1, 0.3, 0.2, 0.05, 64, 1000)
        found = {"importance": poor, "annealed": bounds}
        monkeypatch.setattr(
            tfebm.LatentEBM, "estimate_log_normalizer", lambda _, method, seed: found[method]
        )
        annealed = text_bounds.evidence_figures(model, data(), settings)
        # The upper bound of log Z leaves that of the NLL one; its error joins the sentences'.
        shift = 0.3 - known["log_normalizer"]["value"]
        assert annealed["nll"] - known["nll"] == pytest.approx(shift, abs=1e-4)
        assert annealed["nll_standard_error"] > known["nll_standard_error"]
        said = text_figures.summary(_test(evidence=annealed))
        assert "annealed chains, between 0.100 and 0.300" in said
        found["annealed"] = bounds._replace(upper=9.0)
        unknown = text_bounds.evidence_figures(model, data(), settings)
        assert unknown["nll"] is unknown["perplexity"] is unknown["log_normalizer"]["value"] is None
        assert unknown["reconstruction"] == pytest.approx(known["reconstruction"])
        assert "not known well enough" in text_figures.summary(_test(evidence=unknown))

    def test_language_models_judge_sentences(self, monkeypatch):
        monkeypatch.setattr(text_figures, "_JUDGE", {"embedding_size": 4, "hidden_size": 8})
        settings = Settings(quality=6, quality_epochs=1, batch_size=8)
        model = self.model()
        model.compile()
        figures = text_figures.quality_figures(model, data(), settings)
        assert set(figures) == {"num_sentences", "epochs", "real", "greedy", "sampled"}
        assert all(figures[way]["forward_perplexity"] > 1 for way in ("greedy", "sampled"))
        assert all(figures[way]["reverse_perplexity"] > 1 for way in ("greedy", "sampled"))
        assert text_figures.summary(_test(quality=figures)).count("reverse") == 2
        # Without latents all greedy sentences are one.
        judge = types.SimpleNamespace(score=lambda x, batch_size: np.ones(len(x)), rows_at_once=8)
        monkeypatch.setattr(text_figures, "_train_judge", lambda *_: judge)
        model = tfebm.LanguageModel(tfebm.AutoregressiveGenerator(TOKENIZER, 3, 4))
        settings = dataclasses.replace(settings, model="lm")
        assert "greedy" not in text_figures.quality_figures(model, data(), settings)

    def test_what_was_measured_before_stays_unless_it_is_asked_for(self, monkeypatch):
        monkeypatch.setattr(text_figures, "evidence_figures", lambda *_: {"method": "own"})
        model = self.model()
        before = {"generator_loss": 3.0, "evidence": {"method": "laplace"}, "quality": {"real": 2}}
        settings = Settings()
        same = text_figures.measure(model, data(), settings, None, before, {"export": "somewhere"})
        assert same == before
        more = text_figures.measure(model, data(), settings, None, before, {"evidence": "own"})
        assert more["evidence"] == {"method": "own"}
        assert more["other_evidence"] == [{"method": "laplace"}]
        assert more["quality"] == {"real": 2}
        again = text_figures.measure(model, data(), settings, None, more, {"evidence": "own"})
        assert again == more
        assert text_figures.asked_for(["evidence_chains"])
        assert not text_figures.asked_for(["task", "chains", "export"])

    def test_nothing_to_test_with(self):
        empty = data(x_test=np.zeros((0, 4), np.int32), y_test=None)
        assert text_figures.measure(self.model(), empty, Settings(), None) is None
        assert "no test figures" in text_figures.summary(None)


def _test(**changes):
    return {"num_examples": 8, "generator_loss": 3.0, "evidence": None, **changes}


def _no_figures():
    return Settings(evidence_examples=0)


class TestFiles:
    def test_further_sentences_join_the_training_set(self):
        found = data(x_unlabelled=np.array([[4, 2]], np.int32))
        merged = text_data.training_set(found)
        assert merged.x_train.shape == (61, 4)
        assert merged.x_train[-1].tolist() == [4, 2, 0, 0]
        assert merged.y_train is None
        assert text_data.training_set(data()).y_train is not None

    def test_finished_runs(self, tmp_path):
        run, settings = RunDirectory(tmp_path), Settings(resume=True, epochs=2, batch_size=8)
        assert text_files.finished(run, settings, data()) is None
        run.model.write_text("")
        for final, expected in ((None, False), ({"steps": 15}, False), ({"steps": 16}, True)):
            run.metrics.write_text(
                f'{{"final": {"null" if final is None else final}}}'.replace("'", '"')
            )
            assert (text_files.finished(run, settings, data()) is not None) == expected
        assert text_files.finished(run, Settings(epochs=2, batch_size=8), data()) is None
        run.metrics.write_text("{")
        assert text_files.finished(run, settings, data()) is None

    def test_fixed_sentences(self):
        assert text_data.shown(data(), 3).tolist() == [0, 29, 59]
        assert text_data.shown(data(), 100).tolist() == list(range(60))
        assert text_data.shown(data(x_test=np.zeros((0, 4), np.int32)), 3).tolist() == []

    def test_interpolations_say_where_they_end(self, tmp_path):
        def decode(z, decoding):
            return np.array([f"at {row[0]:.1f}" for row in z], dtype=object)

        ends = types.SimpleNamespace(
            rows_at_once=8,
            features=lambda x, *_, **__: np.full((len(x), 2), float(x[0, 0] == 7), np.float32),
            decode_latents=decode,
        )
        found = data(x_test=np.array([[4, 2], [7, 2]], np.int32), y_test=None)
        number = text_files.write_interpolations(
            ends, found, RunDirectory(tmp_path), Settings(), number=5
        )
        assert number == 1
        lines = (tmp_path / "interpolations.txt").read_text().split("\n")
        assert lines[2:4] == ["from  good", "to    the"]
        straight = lines.index("straight path")
        assert lines[straight + 1].strip() == "at 0.0"
        assert lines[straight + 8].strip() == "at 1.0"


@pytest.mark.parametrize(("size", "name"), [(1, "words"), (5, "label")])
def test_latents_are_drawn(size, name, tmp_path):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(30, size))
    variances = np.abs(rng.normal(size=size)) - 0.01
    path = tmp_path / "latents.png"
    text_latents.save_latents(path, means, rng.integers(0, 3, 30), name, variances, 0.01)
    with Image.open(path) as picture:
        assert picture.size == (1300, 500)
    text_latents.save_latents(path, means, rng.integers(0, 3, 30), name)
    with Image.open(path) as picture:
        assert picture.size == (650, 500)

import json
import os

import keras
import numpy as np
import pytest
from helpers import assert_weights_equal, small_model, vectors, weights_of
from PIL import Image

import tfebm
from tfebm import files, metrics
from tfebm.callbacks import (
    ActiveUnits,
    AnomalyCurves,
    Checkpoint,
    RunLog,
    SampleGrid,
    SampleQuality,
    StopOnDivergence,
    complete_checkpoints,
)
from tfebm.callbacks import checkpoint as checkpoint_module

X = vectors(12)


def compiled(rate=1e-2):
    keras.utils.set_random_seed(0)
    model = small_model()
    model.compile(keras.optimizers.Adam(rate), keras.optimizers.Adam(rate))
    return model


def fit(model, *callbacks, epochs=1):
    model.fit(X, batch_size=4, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks)


class TestCheckpoint:
    def test_everything_is_restored(self, tmp_path):
        model = compiled()
        fit(model, Checkpoint(tmp_path, extra_state=lambda: {"note": 7}), epochs=2)
        other = compiled()
        state = Checkpoint(tmp_path).restore(other)
        assert (state["step"], state["epoch"], state["extra"]) == (6, 1, {"note": 7})
        assert_weights_equal(other, model)
        for name in ("optimizer", "energy_optimizer"):
            for a, b in zip(
                getattr(other, name).variables, getattr(model, name).variables, strict=True
            ):
                np.testing.assert_array_equal(a, b)

    def test_the_newest_two_are_kept(self, tmp_path):
        fit(compiled(), Checkpoint(tmp_path, every=1), epochs=2)
        assert [p.name for p in complete_checkpoints(tmp_path)] == [
            "step-00000005",
            "step-00000006",
        ]
        assert len(os.listdir(tmp_path)) == 2

    def test_several_steps_at_a_time_and_arguments(self, tmp_path):
        model = small_model()
        model.compile(steps_per_execution=3)
        data = vectors(40)
        model.fit(data, batch_size=4, verbose=0, callbacks=[Checkpoint(tmp_path, 2, keep=9)])
        steps = [int(p.name[5:]) for p in complete_checkpoints(tmp_path)]
        assert steps == [3, 6, 9, 10]
        with pytest.raises(ValueError, match="keep"):
            Checkpoint(tmp_path, keep=0)

    def test_nothing_to_restore(self, tmp_path):
        assert Checkpoint(tmp_path / "none").restore(compiled()) is None

    def test_a_save_that_is_cut_short_leaves_the_one_before(self, tmp_path, monkeypatch):
        model, other = compiled(), compiled()
        fit(model, Checkpoint(tmp_path))
        kept = weights_of(model)

        class Killed(BaseException):
            pass

        def die(*args, **kwargs):
            raise Killed

        for owner, name in ((model, "save_weights"), (files, "write_json"), (os, "replace")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, die)
                with pytest.raises(Killed):
                    fit(model, Checkpoint(tmp_path))
            assert Checkpoint(tmp_path).restore(other)["step"] == 3
            for path, value in weights_of(other).items():
                np.testing.assert_array_equal(value, kept[path])
        fit(model, Checkpoint(tmp_path))  # and what was left of them is swept away
        assert not list(tmp_path.glob(".tmp-*"))

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        model = compiled()
        fit(model, Checkpoint(tmp_path / "checkpoints"))
        (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
        (tmp_path / "checkpoints").write_text("in its place")
        with pytest.raises(tfebm.WriteFailed, match="step-00000006 cannot be written: Not a dir"):
            fit(model, Checkpoint(tmp_path / "checkpoints"))
        assert Checkpoint(tmp_path / "elsewhere").restore(compiled())["step"] == 3

    def test_damage_is_named_and_not_loaded(self, tmp_path):
        fit(compiled(), Checkpoint(tmp_path))
        path = complete_checkpoints(tmp_path)[-1]
        weights = path / "state.weights.h5"
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        with pytest.raises(tfebm.InvalidInputError, match=r"is damaged.*Delete this folder"):
            Checkpoint(tmp_path).restore(compiled())
        (path / "state.json").write_bytes(b"\xff\xfe")
        with pytest.raises(tfebm.InvalidInputError, match="is damaged"):
            Checkpoint(tmp_path).restore(compiled())
        (path / "state.json").unlink()
        with pytest.raises(tfebm.InvalidInputError, match="is damaged"):
            Checkpoint(tmp_path).restore(compiled())

    def test_a_checkpoint_of_another_model_is_refused(self, tmp_path):
        fit(compiled(), Checkpoint(tmp_path))
        other = small_model(latent_size=5)
        other.compile()
        with pytest.raises(tfebm.InvalidInputError, match="does not fit the model"):
            Checkpoint(tmp_path).restore(other)

    def test_weights_that_are_not_finite_are_not_saved(self, tmp_path):
        model = compiled()
        fit(model, Checkpoint(tmp_path))
        model.energy.hidden[0].kernel.assign(np.full((3, 8), np.nan))
        checkpoint = Checkpoint(tmp_path)
        checkpoint.set_model(model)
        with pytest.raises(tfebm.TrainingDiverged, match=r"step 3.*kernel"):
            checkpoint.save()
        assert len(complete_checkpoints(tmp_path)) == 1

    def test_metrics_of_an_interrupted_epoch_are_those_of_the_whole(self, tmp_path):
        whole = compiled().fit(X, batch_size=4, verbose=0, shuffle=False).history

        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 1:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(compiled(), Checkpoint(tmp_path, every=2), Stop())
        model = compiled()
        checkpoint = Checkpoint(tmp_path)
        assert checkpoint.restore(model)["step"] == 2
        checkpoint.continue_epoch()
        rest = model.fit(
            X[8:], batch_size=4, verbose=0, shuffle=False, callbacks=[checkpoint]
        ).history
        for name, values in whole.items():
            assert rest[name] == pytest.approx(values, rel=1e-6), name

    def test_loading_is_by_content_and_never_by_pickle(self):
        source = checkpoint_module.__file__
        with open(source, encoding="utf-8") as file:
            assert "pickle" not in file.read()


class TestDivergence:
    def test_the_step_and_the_term_are_named(self):
        model = compiled()
        data = np.concatenate([X[:8], np.full((4, 6), 3e19, "float32")])
        with pytest.raises(tfebm.TrainingDiverged, match=r"step 3: .*generator_loss = inf"):
            model.fit(data, batch_size=4, verbose=0, shuffle=False, callbacks=[StopOnDivergence()])

    def test_large_numbers_count_too(self):
        model = compiled()
        with pytest.raises(tfebm.TrainingDiverged, match=r"step 1: .*generator_loss"):
            fit(model, StopOnDivergence(limit=1e-3))

    def test_looking_less_often_still_sees_the_end_of_the_epoch(self):
        data = np.concatenate([X[:8], np.full((4, 6), 3e19, "float32")])
        with pytest.raises(tfebm.TrainingDiverged, match="step 3"):
            compiled().fit(
                data,
                batch_size=4,
                verbose=0,
                shuffle=False,
                callbacks=[StopOnDivergence(every=100)],
            )

    def test_a_healthy_run_goes_on(self):
        model = compiled()
        fit(model, StopOnDivergence())
        assert int(model.step.numpy()) == 3

    def test_arguments_that_cannot_be_used(self):
        with pytest.raises(ValueError, match="positive"):
            StopOnDivergence(limit=0)


def test_run_log_keeps_a_record_per_epoch(tmp_path):
    path = tmp_path / "metrics.json"
    log = RunLog(path, {"seed": 1}, [{"epoch": 0, "old": True}])
    fit(compiled(), log, epochs=2)
    written = json.loads(path.read_text())
    assert written["settings"] == {"seed": 1}
    assert [r["epoch"] for r in written["epochs"]] == [0, 1]
    assert "old" not in written["epochs"][0]
    assert written["epochs"][1]["step"] == 6
    assert written["final"] is None
    assert written["epochs"][1]["metrics"]["generator_loss"] > 0


def test_sample_grid_draws_every_epoch(tmp_path):
    model = tfebm.LatentEBM(
        tfebm.DeconvGenerator((28, 28, 1), 2),
        tfebm.EnergyMLP((4,)),
        latent_size=2,
        prior_sampler=tfebm.ShortRunLangevin(2, 0.1),
        posterior_sampler=tfebm.ShortRunLangevin(2, 0.01),
    )
    model.compile()
    x = np.zeros((2, 28, 28, 1), "float32")
    model.fit(x, verbose=0, callbacks=[SampleGrid(tmp_path / "samples.png", side=3)])
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size[0] == picture.size[1] >= 320


def test_a_json_file_is_replaced_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"a": 1}


class TestSampleQuality:
    def test_figures_of_the_samples_join_the_records(self):
        model, looks = compiled(), []

        def extract(rows):
            looks.append(len(rows))
            return np.asarray(rows)

        quality = SampleQuality(extract, X, num_samples=50, every=2, seed=3)
        found = model.fit(X, batch_size=4, epochs=4, verbose=0, callbacks=[quality]).history
        assert looks == [12, 50, 50]  # the reference once, and samples of the second and the last
        samples = model.generate(50, seed=3)
        first, last = found["frechet_distance"]
        assert first != last == pytest.approx(metrics.frechet_distance(samples, X))
        kernel = metrics.kernel_distance(samples, X, seed=3).value
        assert found["kernel_distance"][-1] == pytest.approx(kernel)

    @pytest.mark.parametrize("setting", [{"num_samples": 1}, {"every": 0}])
    def test_counts_below_their_bound(self, setting):
        (name,) = setting
        with pytest.raises(tfebm.InvalidInputError, match=name):
            SampleQuality(np.asarray, X, **setting)

    def test_samples_that_are_not_finite_have_no_figure(self):
        model = compiled()
        quality = SampleQuality(np.nan_to_num, X, num_samples=20)  # as features of a ReLU may be
        assert np.isfinite(list(quality.measure(model).values())).all()
        model.generator.layers[-1].bias.assign(np.full(6, np.nan))
        assert np.isnan(list(quality.measure(model).values())).all()

    def test_a_figure_that_is_none_can_be_recorded(self, tmp_path):
        model = compiled()
        model.generator.layers[-1].bias.assign(np.full(6, np.nan))
        log = RunLog(tmp_path / "metrics.json", {})
        fit(model, SampleQuality(np.nan_to_num, X, num_samples=20), log)
        (record,) = files.read_json(tmp_path / "metrics.json")["epochs"]
        assert record["metrics"]["frechet_distance"] is None

    def test_a_reference_that_cannot_be_compared(self):
        with pytest.raises(tfebm.InvalidInputError, match="at least two rows"):
            SampleQuality(np.asarray, X[:1])


class TestActiveUnits:
    def test_the_count_joins_the_records(self):
        model = compiled()
        units = ActiveUnits(X, num_chains=3, threshold=0.005, every=2, seed=1)
        found = model.fit(X, batch_size=4, epochs=4, verbose=0, callbacks=[units]).history
        z = model.infer(X, seed=1, num_chains=3)
        assert len(found["active_units"]) == 2
        assert found["active_units"][-1] == metrics.active_units(z, threshold=0.005).count
        model.generator.layers[-1].bias.assign(np.full(6, np.nan))
        assert np.isnan(units.measure(model)["active_units"])

    def test_layers_count_together(self):
        generator = tfebm.MultilayerGenerator((12, 12, 1), (2, 3), width=2, upsamplings=1)
        model = tfebm.ShortRunModel(generator, posterior_sampler=tfebm.ShortRunLangevin(3, 0.1))
        x = np.random.default_rng(0).uniform(-1, 1, (8, 12, 12, 1)).astype("float32")
        everything = ActiveUnits(x, num_chains=2, threshold=0.0).measure(model)["active_units"]
        layers = model.infer(x, seed=0, num_chains=2)
        assert everything == sum(metrics.active_units(z, threshold=0.0).count for z in layers) > 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((X[:1],), "number of examples"),
            ((X, 1), "num_chains"),
            ((X, 2, -0.1), "threshold"),
            ((X, 2, 0.01, 0), "every"),
        ],
    )
    def test_settings_below_their_bound(self, arguments, message):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            ActiveUnits(*arguments)


class TestAnomalyCurves:
    def test_areas_join_the_records_from_an_epoch_on(self):
        model, labels = compiled(), np.arange(len(X)) % 2

        def scores(model):
            parts = model.score_parts(X, num_chains=2, seed=0)._asdict()
            return {**parts, "lost": np.where(labels, np.nan, 1.0), "right": -1.0 * labels}

        curves = AnomalyCurves(scores, labels, first_epoch=1)
        found = model.fit(X, batch_size=4, epochs=3, verbose=0, callbacks=[curves]).history
        assert len(found["auprc_joint"]) == 2
        for kind, values in model.score_parts(X, num_chains=2, seed=0)._asdict().items():
            expected = metrics.anomaly_detection(values, labels).auprc
            assert found[f"auprc_{kind}"][-1] == pytest.approx(expected)
        assert found["auprc_lost"] == [1.0, 1.0]
        assert found["auprc_right"][-1] < 0.5  # higher is odder

    def test_labels_that_are_no_two_classes(self):
        with pytest.raises(tfebm.InvalidInputError, match=r"Received the values \[0, 2\]"):
            AnomalyCurves(dict, [0, 2])
        with pytest.raises(tfebm.InvalidInputError, match="first_epoch"):
            AnomalyCurves(dict, [0, 1], first_epoch=-1)

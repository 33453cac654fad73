import dataclasses
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm.runs import (
    RunDirectory,
    RunSettings,
    check_writable,
    flag,
    make_strategy,
    parse,
    resumed,
    training,
)


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    size: int = flag(3, "a size", least=1)
    rate: float = flag(0.5, "a rate", above=0.0, most=1.0)
    weight: float = flag(0.1, "a weight", least=0.0)


PRESETS = {"small": {}, "large": {"size": 100, "epochs": 9}}


def read(*argv):
    return parse(Settings, PRESETS, "small", "A program.", argv)


class TestSettings:
    def test_flags_win_over_presets_and_presets_over_defaults(self):
        settings, asked = read("--preset", "large", "--size", "7")
        assert (settings.size, settings.epochs, settings.rate) == (7, 9, 0.5)
        assert asked == {"size": 7, "epochs": 9}
        assert read()[0] == Settings()
        assert read()[1] == {}

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--size", "0"], "--size must be at least 1. Received 0."),
            (["--rate", "0"], "--rate must be greater than 0.0"),
            (["--rate", "1.5"], "--rate must be at most 1.0"),
            (["--rate", "nan"], "finite"),
            (["--size", "two"], "invalid int value: 'two'"),
            (["--strategy", "tpu"], "invalid choice: 'tpu'"),
            (["--preset", "huge"], "small, large. Received 'huge'"),
            (["--siez", "3"], "Did you mean --size?"),
            (["--unheard-of-thing"], "See --help"),
            (["--resume", "--overwrite"], "Received both"),
            (["--output", ""], "--output must not be empty"),
        ],
    )
    def test_what_cannot_be_used_is_one_line_and_code_2(self, argv, message, capsys):
        with pytest.raises(SystemExit) as stop:
            read(*argv)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_help_shows_every_flag_with_its_default(self, capsys):
        with pytest.raises(SystemExit) as stop:
            read("--help")
        assert stop.value.code == 0
        text = capsys.readouterr().out
        for field in dataclasses.fields(Settings):
            assert "--" + field.name.replace("_", "-") in text
        assert "(default: 0.5)" in text

    def test_the_record_leaves_out_how_a_run_is_carried_out(self):
        record = Settings(output="elsewhere", overwrite=True).to_record()
        assert not {"output", "resume", "overwrite", "export", "data_dir"} & set(record)
        assert record["size"] == 3


class TestResume:
    saved = Settings(epochs=5, steps=20).to_record()

    def resume(self, *argv, saved=None):
        settings, asked = read("--resume", *argv)
        return resumed(Settings, saved or self.saved, settings, asked)

    def test_saved_settings_are_taken(self):
        settings = self.resume("--output", "there")
        assert settings.to_record() == self.saved
        assert settings.output == "there"
        assert settings.resume

    def test_epochs_and_steps_may_be_raised(self):
        settings = self.resume("--epochs", "7", "--steps", "0")
        assert (settings.epochs, settings.steps) == (7, 0)
        assert self.resume("--steps", "30").steps == 30

    @pytest.mark.parametrize(
        ("argv", "differences"),
        [
            (["--epochs", "4"], ["--epochs 5 was saved, 4 is asked for"]),
            (["--steps", "10"], ["--steps 20 was saved, 10 is asked for"]),
            (["--size", "4", "--seed", "1"], ["--size 3", "--seed 0"]),
            (["--preset", "large"], ["--size 3 was saved, 100 is asked for"]),
        ],
    )
    def test_everything_else_is_listed(self, argv, differences):
        with pytest.raises(tfebm.InvalidInputError) as error:
            self.resume(*argv)
        for difference in differences:
            assert difference in str(error.value)

    def test_saved_settings_of_the_wrong_type(self):
        with pytest.raises(tfebm.InvalidInputError, match="saved settings cannot be used"):
            self.resume(saved={**self.saved, "size": "three"})

    @pytest.mark.parametrize("more", [{}, {"height": 3}])
    def test_saved_settings_that_are_not_those_of_the_program(self, more):
        saved = {name: value for name, value in self.saved.items() if name != "size" or more}
        wrong = "height" if more else "size"
        with pytest.raises(
            tfebm.InvalidInputError, match=f"cannot be used: {wrong} is missing, or"
        ):
            self.resume(saved={**saved, **more})

    def test_no_limit_cannot_be_lowered_to_one(self):
        saved = Settings(steps=0).to_record()
        with pytest.raises(tfebm.InvalidInputError, match="--steps 0 was saved, 9"):
            self.resume("--steps", "9", saved=saved)


class TestDirectory:
    def test_a_run_is_not_overwritten_unasked(self, tmp_path):
        run = RunDirectory(tmp_path / "run")
        run.check_free(overwrite=False)
        check_writable(run.path, "--output")
        run.begin("test", {"a": 1})
        with pytest.raises(tfebm.InvalidInputError, match=r"config\.json.*--overwrite"):
            run.check_free(overwrite=False)
        run.check_free(overwrite=True)
        run.config.unlink()
        (run.path / "logs").mkdir()  # somebody else's
        with pytest.raises(tfebm.InvalidInputError, match="not of a run"):
            run.check_free(overwrite=True)
        with pytest.raises(tfebm.InvalidInputError, match="cannot be read"):
            RunDirectory(tmp_path / ("x" * 300)).check_free(overwrite=False)

    def test_folders_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "run", pathlib.Path("/proc/run")):
            with pytest.raises(tfebm.InvalidInputError, match=r"cannot be written.*--export"):
                check_writable(path, "--export")
        check_writable(tmp_path / "run", "--export")
        assert list((tmp_path / "run").iterdir()) == []

    def test_a_beginning_that_is_cut_short_leaves_no_half_of_a_checkpoint(
        self, tmp_path, monkeypatch
    ):
        run = RunDirectory(tmp_path)
        run.begin("test", {"a": 1})
        for name in ("checkpoints/step-00000001", "checkpoints/flow/step-00000001"):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "state.json").write_text("{}")
        (tmp_path / ".tmp-model.keras").write_text("half")
        rmtree = shutil.rmtree

        def die(path, **options):
            if path.exists():
                (path / "step-00000001" / "state.json").unlink()
                raise KeyboardInterrupt
            rmtree(path, **options)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", die)
            with pytest.raises(KeyboardInterrupt):
                run.begin("test", {"a": 1})
        assert not run.checkpoints.exists()
        run.begin("test", {"a": 1})
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"]

    def test_a_resumed_run_sweeps_what_a_kill_left(self, tmp_path):
        run = RunDirectory(tmp_path)
        for folder in ("", "checkpoints", "checkpoints/flow"):
            half = tmp_path / folder / ".tmp-step-00000001"
            half.mkdir(parents=True)
            (half / "state.json").write_text("{")
        run.write_settings("test", {})
        assert not list(tmp_path.rglob(".tmp-*"))
        assert (tmp_path / "checkpoints" / "flow").is_dir()

    @pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_end", "on_train_end"])
    def test_logs_on_a_full_disk(self, tmp_path, monkeypatch, hook):
        def full(*_):  # in TensorFlow's words
            message = f"{tmp_path}/events.out.tfevents; No space left on device"
            raise tf.errors.ResourceExhaustedError(None, None, message)

        monkeypatch.setattr(keras.callbacks.TensorBoard, hook, full)
        board = training._Board(tmp_path)
        with pytest.raises(tfebm.WriteFailed, match="cannot be written: No space left on device"):
            getattr(board, hook)(*([0] if hook == "on_epoch_end" else []))

    def test_a_worker_that_has_not_begun_is_no_run(self, tmp_path):
        run = RunDirectory(tmp_path / "run")
        other = run.of_worker(1)
        other.path.mkdir(parents=True)
        run.check_free(overwrite=False)
        other.begin("program", {})
        with pytest.raises(tfebm.InvalidInputError, match=r"already holds a run \(workers\)"):
            run.check_free(overwrite=False)

    def test_nothing_to_resume_or_load(self, tmp_path):
        with pytest.raises(tfebm.InvalidInputError, match="no run to resume"):
            RunDirectory(tmp_path).read_settings()
        with pytest.raises(
            tfebm.InvalidInputError, match=r"config\.json, metrics\.json, model\.keras"
        ):
            tfebm.load_run(tmp_path)
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(tfebm.InvalidInputError, match="cannot be read"):
            RunDirectory(tmp_path).read_settings()


class TestSteps:
    @pytest.mark.parametrize(
        ("first", "last", "plan"),
        [
            (0, 10, [(0, 1, 5), (1, 2, 5)]),
            (0, 3, [(0, 1, 3)]),
            (0, 13, [(0, 2, 5), (2, 3, 3)]),
            (3, 13, [(0, 1, 2), (1, 2, 5), (2, 3, 3)]),
            (6, 8, [(1, 2, 2)]),
            (10, 10, []),
        ],
    )
    def test_segments_cover_the_steps(self, first, last, plan):
        if plan == [(0, 1, 5), (1, 2, 5)]:
            plan = [(0, 2, 5)]
        found = training.segments(first, last, per_epoch=5)
        assert found == plan
        assert sum((to - start) * steps for start, to, steps in found) == last - first

    def test_the_number_of_steps(self):
        assert training.num_steps(Settings(epochs=3, batch_size=4), 10) == 9
        assert training.num_steps(Settings(epochs=3, batch_size=4, steps=5), 10) == 5
        assert training.num_steps(Settings(epochs=3, batch_size=4, steps=50), 10) == 9

    def test_batches_that_cannot_be_filled(self):
        with pytest.raises(tfebm.InvalidInputError, match=r"at most.*examples, 10"):
            training.check_batch_size(Settings(batch_size=11), 10, 1)
        with pytest.raises(tfebm.InvalidInputError, match="each of the 4 replicas"):
            training.check_batch_size(Settings(batch_size=3), 10, 4)


class TestStrategy:
    def test_replicas(self):
        assert make_strategy("none").num_replicas_in_sync == 1
        assert make_strategy("mirrored", 2).num_replicas_in_sync == 2

    @pytest.mark.parametrize(
        ("name", "devices", "message"),
        [
            ("multiworker", 0, "TF_CONFIG, which is not set"),
            ("multiworker", 2, "Use 'mirrored'"),
            ("none", 2, "Use 'mirrored'"),
            ("mirrored", -1, "at least 0"),
            ("tpu", 0, "one of"),
            ("mirrored", 3, "already started"),  # the tests have two
        ],
    )
    def test_what_cannot_be_had(self, name, devices, message):
        np.zeros(1)
        with pytest.raises(tfebm.InvalidInputError, match=message):
            make_strategy(name, devices)

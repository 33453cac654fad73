"""What runs write, delete, refuse and lock in their output folders; nothing is trained."""

import ast
import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest
from experiments import text_settings
from PIL import Image

import tfebm
from tfebm.runs import (
    ImageRunSettings,
    RunDirectory,
    RunSettings,
    directory,
    flag,
    lock,
    open_session,
    parse,
    paths,
    resumed,
)
from tfebm.runs.fingerprint import differences, fingerprint

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _released():
    yield
    lock.release()


@dataclasses.dataclass(frozen=True)
class Data:
    x_train: np.ndarray = dataclasses.field(default_factory=lambda: np.arange(8.0))
    y_train: np.ndarray | None = None
    report_sentence = "points: 8 to train on."


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    dataset: str = flag("points", "data", path=True, names=("points",))
    extra: str | None = flag(None, "files", type=str, path="several")
    needed: int | None = flag(None, "a setting without which there is no run", type=int)
    batch_size: int = flag(2, "batch", least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.needed is None:
            raise tfebm.InvalidInputError("--needed is needed.")


def open_at(monkeypatch, *argv, name="one", data=None, begin=True):
    """A session of a script, as far as to its announcement."""
    monkeypatch.setattr(sys, "argv", ["one.py", *map(str, argv)])
    monkeypatch.setattr("tfebm.runs.training.make_deterministic", lambda _: None)
    session = open_session(name, Settings, {"usual": {}}, "usual", "", lambda _: data or Data())
    if begin:
        session.announce()
    return session


def contents(folder):
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def refusal(monkeypatch, capsys, output, *argv, **options):
    """What is said by a session that changes nothing."""
    before = contents(output)
    with pytest.raises((tfebm.InvalidInputError, SystemExit)) as stop:
        open_at(monkeypatch, "--output", output, *argv, **options)
    lock.release()
    assert contents(output) == before
    if stop.type is SystemExit:
        assert stop.value.code == 2
        return capsys.readouterr().err
    return str(stop.value)


def names_written(path):
    """Arguments of `run.picture` and `run.file` in a source file; places of `run.path / ...`."""
    written, others = set(), []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_run = isinstance(node.func.value, ast.Name) and node.func.value.id == "run"
            if of_run and node.func.attr in ("picture", "file"):
                suffix = ".png" if node.func.attr == "picture" else ""
                written.add(ast.unparse(node.args[0]).strip("'") + suffix)
        elif isinstance(node, ast.BinOp) and ast.unparse(node.left).endswith("run.path"):
            others.append(f"{path.name}:{node.lineno}")
    return written, others


def test_there_is_one_list_of_what_scripts_write():
    sources = [*ROOT.glob("train/**/*.py"), *ROOT.glob("tfebm/runs/*.py")]
    written, others = set(), []
    for path in sources:
        if path.name not in ("directory.py", "session.py"):
            found = names_written(path)
            written |= found[0]
            others += found[1]
    assert others == [], "a path that the list cannot know"
    # In flow_ebm_pictures.py a loop over two pictures of chains, in text_files.py a property.
    written -= {"name.png", "run.vocabulary.name"}
    written |= {"chains.png", "chains_data_space.png", "vocabulary.txt"}
    assert written == set(directory.WRITTEN)


class TestForeignFiles:
    def test_a_folder_with_such_names_is_refused(self, tmp_path, monkeypatch, capsys):
        for name in ("0.png", "worst.png", "scores.csv"):
            (tmp_path / name).write_text("mine")
        said = refusal(monkeypatch, capsys, tmp_path, "--needed", 1)
        assert "worst.png, scores.csv, which no run has written" in said
        for name in ("checkpoints", "logs"):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "notes").write_text("mine")
            for more in ([], ["--overwrite"]):
                said = refusal(monkeypatch, capsys, folder.parent, "--needed", 1, *more)
                assert "not of a run" in said
        for name in ("config.json", "metrics.json", "model.keras"):
            other = tmp_path / f"with {name}"
            other.mkdir()
            (other / name).write_text("{}")
            for more in ([], ["--overwrite"], ["--resume-or-begin"]):
                said = refusal(monkeypatch, capsys, other, "--needed", 1, *more)
                assert name in said

    def test_to_overwrite_replaces_what_is_written_and_deletes_nothing(self, tmp_path, monkeypatch):
        for name in ("0.png", "worst.png", "samples.png"):
            (tmp_path / name).write_text("mine")
        run = open_at(monkeypatch, "--needed", 1, "--overwrite", "--output", tmp_path).run
        run.picture("samples").write_text("the run's")
        for _ in range(2):  # the second one replaces a run, and still not somebody's files
            open_at(monkeypatch, "--needed", 1, "--overwrite", "--output", tmp_path)
            assert (tmp_path / "worst.png").read_text() == "mine"
            assert not (tmp_path / "samples.png").exists()

    def test_a_run_deletes_what_runs_have_written_and_nothing_else(self, tmp_path):
        run = RunDirectory(tmp_path)
        run.begin("test", {"a": 1})
        run.metrics.write_text("{}")
        run.file("interpolations.txt").write_text("the run's")
        run.checkpoints.mkdir()
        for name in ("notes.txt", "latents.png"):
            (tmp_path / name).write_text("mine")
        run.begin("test", {"a": 2})
        assert {p.name for p in tmp_path.iterdir()} == {"config.json", "notes.txt", "latents.png"}
        assert run.read_settings() == {"a": 2}
        # A list that somebody has edited leads nowhere else.
        (tmp_path / "run").mkdir()
        inner = RunDirectory(tmp_path / "run")
        inner.begin("test", {})
        record = json.loads(inner.config.read_text())
        inner.config.write_text(json.dumps({**record, "files": ["../notes.txt", "..", "", 3]}))
        inner.begin("test", {})
        assert (tmp_path / "notes.txt").exists()

    @pytest.mark.parametrize(
        "record",
        [
            *(["tfebm"], "for tfebm", {"tfebm": {"settings": {}}}),
            {"program": "a", "tfebm": "1", "settings": []},
        ],
    )
    def test_a_record_of_somebody_else_makes_no_run(self, tmp_path, monkeypatch, capsys, record):
        (tmp_path / "config.json").write_text(json.dumps(record))
        for name in ("metrics.json", "worst.png", "scores.csv"):
            (tmp_path / name).write_text("mine")
        assert not tfebm.runs.directory.files.is_run(tmp_path)
        for more in ((), ("--overwrite",), ("--resume-or-begin",)):
            refusal(monkeypatch, capsys, tmp_path, "--needed", 1, *more)

    def test_a_record_without_its_list_lets_nothing_be_removed(self, tmp_path):
        run = RunDirectory(tmp_path)
        run.config.write_text(json.dumps({"program": "a", "tfebm": "0", "settings": {}}))
        (tmp_path / "samples.png").write_text("mine")
        run.begin("test", {})
        assert (tmp_path / "samples.png").read_text() == "mine"

    def test_a_file_that_came_later_is_not_overwritten(self, tmp_path, monkeypatch):
        run = open_at(monkeypatch, "--needed", 1, "--output", tmp_path).run
        run.picture("samples").write_text("the run's")
        (tmp_path / "curves.png").write_text("mine")
        resumed_run = open_at(monkeypatch, "--resume", "--output", tmp_path).run
        assert resumed_run.picture("samples").exists()
        with pytest.raises(tfebm.InvalidInputError, match=r"curves\.png would be overwritten"):
            resumed_run.picture("curves")
        assert (tmp_path / "curves.png").read_text() == "mine"

    def test_a_name_is_on_the_list_before_there_is_the_file(self, tmp_path):
        run = RunDirectory(tmp_path)
        run.begin("test", {})
        for name in ("samples.png", "of my own.txt"):
            run.file(name)
        assert json.loads(run.config.read_text())["files"] == ["samples.png", "of my own.txt"]


class TestInputs:
    def test_what_is_read_does_not_lie_in_the_output_folder(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "0.png").write_text("")
        (tmp_path / "samples.txt").write_text("")
        (tmp_path / "link").symlink_to(tmp_path / "photos")
        for more in ([], ["--overwrite"], ["--resume-or-begin"]):
            for output, flags in (
                (tmp_path / "photos", ["--dataset", tmp_path / "link"]),
                (tmp_path / "link", ["--dataset", tmp_path / "photos"]),
                (tmp_path, ["--dataset", tmp_path / "photos"]),
                (tmp_path, ["--extra", f"{tmp_path}/photos/0.png,{tmp_path}/samples.txt"]),
            ):
                said = refusal(monkeypatch, capsys, output, "--needed", 1, *flags, *more)
                assert f"must not write where it reads: {flags[0]}" in said
        # Readers leave a run's folder within the data out, but not the user's own files in it.
        flags = ("--needed", 1, "--dataset", tmp_path)
        assert "0.png" in refusal(monkeypatch, capsys, tmp_path / "photos", *flags)
        open_at(monkeypatch, *flags, "--output", tmp_path / "run")

    def test_at_a_resume_as_well(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "data").mkdir()
        flags = ("--needed", 1, "--dataset", tmp_path / "data")
        open_at(monkeypatch, *flags, "--output", tmp_path / "run")
        lock.release()
        (tmp_path / "data").rmdir()
        (tmp_path / "data").symlink_to(tmp_path / "run")
        assert "where it reads" in refusal(monkeypatch, capsys, tmp_path / "run", "--resume")

    def test_exports_do_not_go_where_a_run_is_removed(self, tmp_path, monkeypatch, capsys):
        flags = ("--needed", 1, "--export", tmp_path / "run" / "logs" / "served")
        assert "lies in logs" in refusal(monkeypatch, capsys, tmp_path / "run", *flags)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("inside", ["logs", "checkpoints", "workers/1"])
    def test_runs_do_not_go_where_another_run_is_removed(
        self, tmp_path, monkeypatch, capsys, inside
    ):
        open_at(monkeypatch, "--needed", 1, "--output", tmp_path / "run")
        lock.release()
        within = tmp_path / "run" / inside / "deep"
        for flags in (("--output", within), ("--output", tmp_path / "b", "--export", within)):
            said = refusal(monkeypatch, capsys, tmp_path / "run", "--needed", 1, *flags)
            assert f"{flags[-2]} {within} lies in" in said
        open_at(monkeypatch, "--needed", 1, "--output", tmp_path / "run" / "more")

    def test_home_is_not_a_folder_named_for_a_tilde(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        session = open_at(monkeypatch, "--needed", 1, "--output=~/run")
        assert session.run.path == tmp_path / "run"
        assert [p.name for p in tmp_path.iterdir()] == ["run"]

    @pytest.mark.parametrize("flags", [("--output",), ("--needed", "1", "--export")])
    def test_a_name_that_tensorflow_cannot_write(self, tmp_path, monkeypatch, flags):
        place = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
        with pytest.raises(tfebm.InvalidInputError, match=r"caf\\udce9. Give another --"):
            open_at(monkeypatch, "--needed", 1, "--output", tmp_path, *flags, place)


class TestResume:
    def begin(self, monkeypatch, output, *flags, **options):
        session = open_at(monkeypatch, "--needed", 7, "--output", output, *flags, **options)
        lock.release()
        return session

    def test_no_other_flag_is_needed(self, tmp_path, monkeypatch, capsys):
        self.begin(monkeypatch, tmp_path, "--data-dir", ROOT, "--epochs", 3)
        session = open_at(monkeypatch, "--resume", "--output", tmp_path, "--epochs", 4)
        assert (session.settings.needed, session.settings.epochs) == (7, 4)
        assert session.settings.data_dir == str(ROOT)
        session = open_at(monkeypatch, "--resume-or-begin", "--output", tmp_path)
        assert session.settings.needed == 7
        assert session.settings.resume
        session = open_at(monkeypatch, "--resume", "--output", tmp_path, "--data-dir", tmp_path)
        assert session.settings.data_dir == str(tmp_path)
        lock.release()
        said = refusal(monkeypatch, capsys, tmp_path, "--resume", "--needed", 8)
        assert "--needed 7 was saved, 8 is asked for" in said
        assert "--needed is needed" in refusal(monkeypatch, capsys, tmp_path, "--overwrite")
        said = refusal(monkeypatch, capsys, tmp_path / "nothing", "--resume")
        assert "holds no run to resume" in said

    @pytest.mark.parametrize(
        ("script", "flags"),
        [
            ("latent_ebm", "--layout cifar10 --dataset cifar10"),
            ("short_run", "--generator deconv --layers 1"),
            ("anomaly", "--normal good --test new"),
            ("anomaly", "--held-out 9 --dataset mnist"),
            ("flow_ebm", "--dataset mnist5k --pad 32"),
            ("text", "--model lm --vocabulary words.txt --unlabelled a.txt,b.txt"),
        ],
    )
    def test_of_every_script(self, tmp_path, script, flags):
        module = __import__(script)
        default = getattr(module, "default_preset", "laptop")

        def read(*words):
            words = [*words, "--output", str(tmp_path)]
            shared = (module.Settings, module.PRESETS, default, "", words, module.NAME)
            return parse(*shared)[0]

        settings = read(*flags.split())
        RunDirectory(tmp_path).begin(module.NAME, settings.to_record())
        assert read("--resume").to_record() == settings.to_record()
        words = flags.split()[:2]  # that the others go without saying
        assert read("--resume", *words).to_record() == settings.to_record()
        with pytest.raises(SystemExit):
            read("--resume", "--batch-size", "3")

    @pytest.mark.parametrize("more", [("--resume",), ("--resume-or-begin", "--epochs", "9")])
    def test_by_another_program(self, tmp_path, monkeypatch, capsys, more):
        self.begin(monkeypatch, tmp_path, name="latent_ebm")
        said = refusal(monkeypatch, capsys, tmp_path, *more)
        assert "is a run of latent_ebm, and one cannot go on with it" in said
        assert "Resume it with train/latent_ebm.py" in said

    def test_with_other_data(self, tmp_path, monkeypatch, capsys):
        self.begin(monkeypatch, tmp_path)
        for x, difference in (
            (np.arange(9.0), "x_train: 8 then, 9 now"),
            (np.arange(8.0)[::-1], "x_train: 8 as before, but with other contents"),
            (np.arange(8), "x_train: float64 then, int64 now"),
        ):
            said = refusal(monkeypatch, capsys, tmp_path, "--resume", data=Data(x))
            assert "does not match the data" in said
            assert difference in said
        # Labels may come to be needed later.
        open_at(monkeypatch, "--resume", "--output", tmp_path, data=Data(y_train=np.ones(8)))
        capsys.readouterr()

    def test_with_checkpoints_that_are_gone(self, tmp_path, monkeypatch, capsys):
        run = self.begin(monkeypatch, tmp_path).run
        open_at(monkeypatch, "--resume", "--output", tmp_path)  # killed before the first one
        lock.release()
        run.keep("flow")
        said = refusal(monkeypatch, capsys, tmp_path, "--resume")
        assert "(checkpoints/flow), and it would begin at step 0" in said
        session = open_at(monkeypatch, "--resume", "--output", tmp_path, begin=False)
        session.announce(trained=True)
        lock.release()
        step = run.checkpoints / "flow" / "step-00000001"
        step.mkdir(parents=True)
        (step / "state.json").write_text("{}")
        open_at(monkeypatch, "--resume", "--output", tmp_path)
        run.forget("flow")
        assert run.lost_checkpoints() == []

    def test_a_beginning_leaves_no_folder_behind_where_it_fails(self, tmp_path, monkeypatch):
        with pytest.raises(tfebm.InvalidInputError, match="must be at most the number"):
            open_at(
                *(monkeypatch, "--needed", 1, "--output", tmp_path / "a" / "b"),
                *("--batch-size", 9),
            )
        lock.release()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("more", [(), ("--resume",), ("--resume-or-begin",)])
    def test_places_where_no_run_can_be(self, tmp_path, monkeypatch, capsys, more):
        (tmp_path / "file").write_text("")
        (tmp_path / "circle").symlink_to("circle")
        for name in ("x" * 300, "file", "file/run", "circle", "circle/run"):
            with pytest.raises((tfebm.InvalidInputError, SystemExit)) as stop:
                open_at(monkeypatch, "--needed", 1, "--output", tmp_path / name, *more)
            said = str(stop.value) + capsys.readouterr().err
            assert "cannot be written" in said or "no run to resume" in said, name
        assert {p.name for p in tmp_path.iterdir()} == {"file", "circle"}

    @pytest.mark.parametrize(
        "content",
        [
            *("", "[]", '{"tfebm": "1"}', '{"program": 1, "settings": 3}', "[" * 100_000),
            '{"program": "one", "tfebm": "1", "settings": []}',
            '{"program": "one", "tfebm": "1", "settings": {}, "remembered": [1]}',
        ],
    )
    def test_a_record_that_cannot_be_read(self, tmp_path, monkeypatch, capsys, content):
        (tmp_path / "config.json").write_text(content)
        for more in ((), ("--resume",), ("--resume-or-begin",)):
            said = refusal(monkeypatch, capsys, tmp_path, "--needed", 1, *more)
            assert "config.json" in said

    def test_says_what_is_read(self, tmp_path, monkeypatch, capsys):
        self.begin(monkeypatch, tmp_path)
        lines = capsys.readouterr().out.splitlines()
        assert lines[1:3] == ["Reading points ...", "points: 8 to train on."]


class TestPaths:
    def test_a_resume_from_another_folder(self, tmp_path, monkeypatch, capsys):
        for name in ("data", "elsewhere"):
            (tmp_path / name).mkdir()
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text("")
        (tmp_path / "link").symlink_to("data")
        monkeypatch.chdir(tmp_path)
        given = ("--dataset", "data", "--extra", "a.txt, b.txt")
        open_at(monkeypatch, "--needed", 1, *given, "--output", "run")
        lock.release()
        saved = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
        assert saved["dataset"] == str(tmp_path / "data")
        assert saved["extra"] == f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}"
        monkeypatch.chdir(tmp_path / "elsewhere")
        output = ("--resume", "--output", "../run")
        for spelling in ((), ("../data",), (tmp_path / "link",), ("../elsewhere/../data/",)):
            flags = ["--dataset", *spelling] if spelling else []
            session = open_at(monkeypatch, *output, *flags)
            assert session.settings.dataset == str(tmp_path / "data")
        open_at(monkeypatch, *output, "--extra", "../a.txt,../b.txt")
        lock.release()
        run = tmp_path / "run"
        for flags in (["--extra", "../b.txt,../a.txt"], ["--dataset", "data"]):
            said = refusal(monkeypatch, capsys, run, "--resume", *flags)
            assert f"{flags[1]} is asked for" in said

    def test_data_that_were_moved(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "here").mkdir()
        flags = ("--output", tmp_path / "run")
        open_at(monkeypatch, "--needed", 1, "--dataset", tmp_path / "here", *flags)
        lock.release()
        (tmp_path / "there").mkdir()
        flags = ("--resume", "--dataset", tmp_path / "there")
        said = refusal(monkeypatch, capsys, tmp_path / "run", *flags)
        assert "there is asked for" in said
        (tmp_path / "here").rmdir()
        said = refusal(monkeypatch, capsys, tmp_path / "run", *flags, data=Data(np.ones(8)))
        assert "does not match" in said
        session = open_at(monkeypatch, *flags, "--output", tmp_path / "run")
        assert session.settings.dataset == str(tmp_path / "there")

    def test_names_of_data_sets_are_no_paths(self, tmp_path, monkeypatch):
        """But of a set that comes with nothing, a folder of its name."""
        for name in ("mnist5k", "grammar", "mnist"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        for settings in (ImageRunSettings(), text_settings.Settings()):
            assert paths.with_absolute_paths(settings) == settings
        settings = paths.with_absolute_paths(ImageRunSettings(dataset="mnist", data_dir="grammar"))
        assert settings.dataset == str(tmp_path / "mnist")
        assert settings.data_dir == str(tmp_path / "grammar")
        settings = paths.with_absolute_paths(ImageRunSettings(dataset="cifar10"))
        assert settings.dataset == "cifar10"

    @pytest.mark.parametrize("script", ["latent_ebm", "short_run", "anomaly", "flow_ebm", "text"])
    def test_every_flag_that_is_a_path_is_one_of_them(self, script):
        module = __import__(script)
        for field in dataclasses.fields(module.Settings):
            words = str(field.metadata.get("metavar"))
            looks_like_one = re.search("PATH|FILE|DIR", words) is not None
            written = field.name in ("output", "export")
            assert paths.is_path(field) == (looks_like_one and not written), field.name
        assert resumed is not parse

    def test_embedded_names(self):
        import flow_ebm

        names = {f.name: f.metadata.get("names") for f in dataclasses.fields(flow_ebm.Settings)}
        assert set(tfebm.data.images.EMBEDDED) <= set(names["dataset"])
        assert set(tfebm.data.TOY_DENSITIES) <= set(names["dataset"])
        names = {f.name: f.metadata.get("names") for f in dataclasses.fields(ImageRunSettings)}
        assert names["dataset"] == tfebm.data.images.EMBEDDED


def hold(folder, ready):
    """In a process of its own."""
    lock.acquire(pathlib.Path(folder))
    ready.set()
    time.sleep(60)


class TestLock:
    @pytest.fixture
    def other(self, tmp_path):
        """A process that writes into a folder."""
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        process = context.Process(target=hold, args=(str(tmp_path / "run"), ready))
        process.start()
        assert ready.wait(60)
        yield process
        process.kill()
        process.join()

    def test_a_second_run_is_refused_and_a_killed_one_holds_nothing(
        self, other, tmp_path, monkeypatch, capsys
    ):
        run = tmp_path / "run"
        for flags in (["--needed", 1], ["--needed", 1, "--overwrite"], ["--resume-or-begin"]):
            said = refusal(monkeypatch, capsys, run, *flags, "--needed", 1)
            assert f"Process {other.pid} on " in said
            assert "is writing a run into the folder" in said
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        assert (run / lock.NAME).exists()
        session = open_at(monkeypatch, "--needed", 1, "--output", run)
        assert json.loads((run / lock.NAME).read_text())["process"] == os.getpid()
        session.close()
        assert {p.name for p in run.iterdir()} == {"config.json"}

    def test_a_job_that_restarts_waits_for_another_machine_to_be_missed(
        self, other, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(lock.socket, "gethostname", lambda: "another machine")
        with pytest.raises(tfebm.InvalidInputError, match="is writing a run"):
            lock.acquire(tmp_path / "run", wait=0.1)
        threading.Timer(0.2, other.kill).start()
        lock.acquire(tmp_path / "run", wait=60.0)
        assert json.loads((tmp_path / "run" / lock.NAME).read_text())["host"] == "another machine"

    def test_readers_of_folders_do_not_count_it(self, tmp_path):
        lock.acquire(tmp_path / "run")
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "0.png")
        sentence = tfebm.data.load_images(str(tmp_path)).report_sentence
        assert "skipped" not in sentence

    def test_the_holder_may_ask_again(self, tmp_path):
        for _ in range(2):
            lock.acquire(tmp_path / "run")
        lock.release()
        assert not (tmp_path / "run").exists()
        lock.acquire(tmp_path / "run", make=False)
        assert not (tmp_path / "run").exists()

    def test_a_file_system_without_locks(self, tmp_path, monkeypatch, capsys):
        def refuse(*_):
            raise OSError(lock.errno.ENOLCK, "No locks available")

        monkeypatch.setattr(lock.fcntl, "flock", refuse)
        lock.acquire(tmp_path)
        assert "cannot be locked: No locks available. Make sure" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_a_file_system_without_links(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise PermissionError(lock.errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        lock.acquire(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [lock.NAME]

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(tfebm.InvalidInputError, match="cannot be written: Not a directory"):
            lock.acquire(tmp_path / "file" / "run")


class TestFingerprint:
    def test_arrays_at_any_depth(self):
        data = tfebm.data.AnomalyData(
            tfebm.data.ImageData("a", np.zeros((3, 2, 2, 1), np.uint8), np.ones((1, 2, 2, 1))),
            np.array([True]),
            ["0.png"],
        )
        found = fingerprint(data)
        assert set(found) == {"images.x_train", "images.x_test", "is_anomaly"}
        assert json.loads(json.dumps(found)) == found
        assert differences(found, found) == []
        other = fingerprint(data._replace(is_anomaly=np.array([False])))
        assert differences(found, other) == ["is_anomaly: 1 as before, but with other contents"]
        more = data.images.x_train[:2]
        other = fingerprint(data._replace(images=dataclasses.replace(data.images, x_train=more)))
        assert differences(found, other) == [
            "images.x_train: 3 of 2 x 2 x 1 then, 2 of 2 x 2 x 1 now"
        ]

    def test_words_count_and_strings_can(self):
        assert fingerprint({"a": np.array(["x", None], object)}).keys() == {"a"}
        tokenizer = tfebm.tokenizers.WordTokenizer
        one, other = (fingerprint({"tokenizer": tokenizer([word])}) for word in ("cat", "dog"))
        assert differences(one, other) == ["tokenizer: other words"]

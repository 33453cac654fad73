"""The launcher, with scripts that end in every way that a worker can."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import launch
import pytest

SCRIPT = pathlib.Path(launch.__file__)
# Notes how it was started, and ends as `plan.json` says: a list of codes for each attempt.
WORKER = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
place = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
attempt = len(list(here.glob(f"seen-{place}-*")))
(here / f"seen-{place}-{attempt}").write_text(json.dumps(
    {"flags": sys.argv[1:], "config": os.environ["TF_CONFIG"],
     "devices": os.environ["CUDA_VISIBLE_DEVICES"]}
))
codes = json.loads((here / "plan.json").read_text())[attempt]
while len(list(here.glob(f"seen-*-{attempt}"))) < len(codes):  # none ends before all have begun
    time.sleep(0.01)
code = codes[place]
if isinstance(code, list):  # ends later
    time.sleep(code[0])
    code = code[1]
if code == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
if code < 0:
    if code == -signal.SIGINT:  # a shell has what it runs in the background ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def seen(folder, place, attempt):
    return json.loads((folder / f"seen-{place}-{attempt}").read_text())


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_LAST_WORDS", 0.3)
    monkeypatch.setattr(launch, "_FAREWELL", 0.5)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of this process
    (tmp_path / "script.py").write_text(WORKER)

    def run(plan, *flags, options=("--workers", "2")):
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        return launch.main([*options, str(tmp_path / "script.py"), *flags])

    return run


class TestEnds:
    def test_all_finish(self, job, tmp_path):
        assert job([[0, 0]], "--epochs", "2", "--strategy", "none") == 0
        for place in (0, 1):
            found = seen(tmp_path, place, 0)
            # The last one counts.
            expected = ["--epochs", "2", "--strategy", "none", "--strategy", "multiworker"]
            assert found["flags"] == expected
            config = json.loads(found["config"])
            assert config["task"] == {"type": "worker", "index": place}
            assert len(set(config["cluster"]["worker"])) == 2
            assert found["devices"] == "-1"

    def test_a_gpu_each(self, job, tmp_path, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert job([[0, 0, 0]], options=("--workers", "3", "--gpus")) == 0
        assert [seen(tmp_path, place, 0)["devices"] for place in range(3)] == ["0", "1", "2"]

    def test_one_that_does_not_end_with_the_others_is_ended(self, job):
        assert job([[0, "hang"]]) == 0

    def test_of_the_gpus_that_it_may_use(self, job, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        assert job([[0, 0]], options=("--workers", "2", "--gpus")) == 0
        assert [seen(tmp_path, place, 0)["devices"] for place in range(2)] == ["4", "7"]
        with pytest.raises(SystemExit):
            job([[0, 0, 0]], options=("--workers", "3", "--gpus"))
        assert "CUDA_VISIBLE_DEVICES names 2" in capsys.readouterr().err

    @pytest.mark.parametrize("code", [1, 2, 130, 141, -signal.SIGINT])
    def test_what_a_restart_cannot_mend(self, job, tmp_path, code):
        assert job([[code, "hang"]]) == (code if code > 0 else 130)
        assert len(list(tmp_path.glob("seen-*"))) == 2

    def test_a_lost_worker_starts_all_again(self, job, tmp_path, capsys):
        assert job([["hang", -signal.SIGKILL], [138, "hang"], [0, 0]], "--epochs", "2") == 0
        printed = capsys.readouterr().out
        assert "worker 1 was ended by SIGKILL. All workers start again (restart 1 of 3)" in printed
        assert "worker 0 ended with code 138. All workers start again (restart 2 of 3)" in printed
        ends = ["--epochs", "2", "--resume-or-begin", "--strategy", "multiworker"]
        assert [seen(tmp_path, 0, i)["flags"] == ends for i in range(3)] == [False, True, True]

    def test_a_mistake_of_its_own_outweighs_a_loss_that_shows_first(self, job, monkeypatch):
        monkeypatch.setattr(launch, "_LAST_WORDS", 30.0)  # nobody hangs
        assert job([[138, [1.0, 2]]]) == 2

    def test_no_restart_is_left(self, job, capsys):
        assert job([[-9, "hang"]] * 2, options=("--restarts", "1")) == 137
        assert "no restart is left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "1", str(SCRIPT)], "--workers must be at least 2. Received 1"),
        (["--restarts", "-1", str(SCRIPT)], "--restarts must be at least 0"),
        (["nothing.py"], "no script nothing.py"),
        ([str(SCRIPT), "--overwrite"], "--restarts 0 with it"),
        ([], "required: SCRIPT"),
    ],
)
def test_what_cannot_be_started(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        launch.main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_interrupt_leaves_nobody_behind(tmp_path):
    (tmp_path / "script.py").write_text(WORKER)
    (tmp_path / "plan.json").write_text('[["hang", "hang"]]')
    command = [sys.executable, str(SCRIPT), str(tmp_path / "script.py")]
    process = subprocess.Popen(command, env={"PATH": ""}, start_new_session=True)
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("seen-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # until they no longer listen to SIGTERM
    process.terminate()
    assert process.wait(30) == 130

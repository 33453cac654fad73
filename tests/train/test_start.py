"""How the commands start and end: flags before TensorFlow, and codes that a shell understands."""

import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import latent_ebm
import pytest

import tfebm
from tfebm import start
from tfebm.data import TOY_DENSITIES
from tfebm.names import TOY_DENSITIES as TOY_NAMES

TRAIN = pathlib.Path(latent_ebm.__file__).parent
SCRIPTS = [*sorted(TRAIN.glob("*.py")), "tfebm"]
HEAVY = re.compile(r"^import time:.*\| +(tensorflow|keras|numpy|matplotlib|apache_beam)$", re.M)


def command(script, *flags, options=()):
    named = ["-m", script] if isinstance(script, str) else [str(script)]
    return [sys.executable, *options, *named, *flags]


def without_imports(text):
    return "".join(x for x in text.splitlines(keepends=True) if not x.startswith("import time:"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: getattr(script, "stem", script))
def test_flags_are_read_without_tensorflow(script):
    environ = {**os.environ, "COLUMNS": "80"}
    for flags, code in ((["--help"], 0), (["--no-such-flag"], 2)):
        done = subprocess.run(
            command(script, *flags, options=("-X", "importtime")),
            capture_output=True,
            text=True,
            env=environ,
        )
        assert done.returncode == code, done.stderr[-2000:]
        assert not HEAVY.search(done.stderr), HEAVY.search(done.stderr)[0]
        if code:
            error = without_imports(done.stderr)
            assert error.count("\n") == 1
            assert done.stdout == ""
        else:
            assert without_imports(done.stderr) == ""
            assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_bulk_job_gets_as_far_as_its_files(tmp_path):
    flags = ("--model", tmp_path, "--input", tmp_path / "none", "--output", tmp_path / "o")
    done = subprocess.run(
        command(TRAIN / "score.py", *map(str, flags)), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"score.py: (No file matches|Bulk jobs run on Apache Beam, and).*\n", done.stderr
    )


def test_a_module_of_the_package_comes_by_itself():
    """Whichever is asked for first, in a command: none is left half imported."""
    program = "__reads_flags_first__ = True\nfrom tfebm import {} as module\nprint(module.__name__)"
    for name in ("serving", "metrics"):
        done = subprocess.run(
            [sys.executable, "-c", program.format(name)], capture_output=True, text=True
        )
        assert done.stdout == f"tfebm.{name}\n", done.stderr


def test_help_is_in_groups(capsys):
    for module in ("latent_ebm", "short_run", "flow_ebm", "text", "anomaly"):
        script = __import__(module)
        preset = getattr(script, "default_preset", "laptop")
        with pytest.raises(SystemExit):
            tfebm.runs.parse(script.Settings, script.PRESETS, preset, script.__doc__, ["--help"])
        text = capsys.readouterr().out
        titles = re.findall(r"^(\w+)[^\n]*:$", text, re.M)
        assert [t for t in titles if t != "options"][:4] == ["data", "model", "sampler", "learning"]
        data = text[text.index("\ndata:") : text.index("\nmodel:")]
        assert "--dataset" in data
        assert "--learning-rate" not in data
        output = text[text.index("\noutput:") :]
        assert {"--output", "--resume", "--overwrite"} <= set(re.findall(r"--\w+", output))


def test_the_names_are_those_of_what_they_name():
    assert tuple(TOY_DENSITIES) == TOY_NAMES


TINY = [
    *("--batch-size", "50", "--width", "2", "--energy-width", "4", "--prior-steps", "1"),
    *("--posterior-steps", "1", "--steps", "2"),
]


def test_a_run_whose_reader_goes(tmp_path):
    """As `| head -2`: the code of other tools, a sentence, and none of TensorFlow's notes."""
    process = subprocess.Popen(
        command(TRAIN / "latent_ebm.py", *TINY, "--output", str(tmp_path / "run")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("latent_ebm: starting TensorFlow")
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 141, error
    assert error.startswith("latent_ebm.py: Nobody reads the output any more. To finish, ")
    assert error.count("\n") == 1


def test_an_interrupt_while_tensorflow_is_imported(tmp_path):
    process = subprocess.Popen(
        command(TRAIN / "latent_ebm.py", *TINY, "--output", str(tmp_path / "run")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130, error
    assert error.startswith("latent_ebm.py: Interrupted.")
    assert "Traceback" not in error


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed, tmp_path):
    words = command(TRAIN / "latent_ebm.py", "--width", "0")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *words], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--width must be at least 1" in done.stderr or "2>&-" in closed


def test_what_a_command_does_without_its_streams(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    tfebm.runs.run_command(lambda: print("x", sys.stdout.isatty(), file=sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        assert os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))


class TestReaders:
    """Of a command in this process."""

    @pytest.mark.parametrize("flush", [True, False])
    def test_a_reader_that_is_gone(self, flush, monkeypatch):
        end, beginning = os.pipe()
        with monkeypatch.context() as patch, os.fdopen(beginning, "w") as stream:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", io.StringIO())
            os.close(end)
            with pytest.raises(SystemExit) as stop:
                tfebm.runs.run_command(lambda: print("x", flush=flush))
            assert "Nobody reads the output" in sys.stderr.getvalue()
        assert stop.value.code == 141

    def test_an_interrupt_says_how_to_go_on(self, tmp_path, capsys):
        def main():
            tfebm.runs.lock.acquire(tmp_path)
            raise KeyboardInterrupt

        ways = [
            ("start again", lambda: None),
            ("go on with --resume", lambda: tfebm.runs.RunDirectory(tmp_path).begin("a", {})),
            (
                "go on from the newest",
                lambda: (tmp_path / "checkpoints/step-1").mkdir(parents=True),
            ),
        ]
        for way, prepare in ways:
            prepare()
            with pytest.raises(SystemExit) as stop:
                tfebm.runs.run_command(main)
            assert stop.value.code == 130
            assert f"Interrupted. To finish, {way}" in capsys.readouterr().err

    def test_another_pipe(self):
        def main():
            raise BrokenPipeError  # as of a connection

        with pytest.raises(BrokenPipeError):
            tfebm.runs.run_command(main)


class TestNotes:
    """What TensorFlow writes while it is imported."""

    LINES = (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "I0000 00:00:1796023035.824360    5445 port.cc:153] oneDNN custom operations are on.\n"
        "E0000 00:00:1796023052.0 5445 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA "
        "error: Failed call to cuInit: UNKNOWN ERROR (303)\n"
    )
    NEWS = "E0000 00:00:1796023052.0 5445 cuda.cc:52] the driver is older than the library\n"

    def test_they_are_left_out_and_all_else_comes_through(self, capfd):
        with start._without_notes():
            os.write(2, (self.LINES + self.NEWS).encode())
            subprocess.run(["sh", "-c", "echo from another process >&2"], check=True)
        os.write(2, b"afterwards\n")
        assert capfd.readouterr().err == f"{self.NEWS}from another process\nafterwards\n"

    def test_last_words_come_through(self):
        program = (
            "import os\nfrom tfebm import start\nwith start._without_notes():\n"
            "    os.write(2, b'no such instruction\\n')\n    os.abort()\n"
        )
        program = "__reads_flags_first__ = True\n" + program
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == -signal.SIGABRT
        assert "no such instruction" in done.stderr

    def test_a_process_that_stays_does_not_hold_it_up(self):
        began = time.monotonic()
        with start._without_notes():
            process = subprocess.Popen(["sleep", "20"])
        assert time.monotonic() - began < 10
        process.kill()
        process.wait()

"""Training processes that are killed, and what they leave behind."""

import contextlib
import ctypes
import hashlib
import io
import json
import math
import multiprocessing
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile

import h5py
import keras
import numpy as np
import tensorflow as tf
from helpers import weights_of
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

import tfebm

# Forked from a process that has imported everything and done nothing: no thread is lost in a fork,
# and a run starts at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tfebm", "tfebm.pictures", "matplotlib.figure", "PIL.Image"])
_DEADLINE = 300.0  # of a machine that is busy with other things


class Process:
    """A script as a person runs it, with what it says in `log`.

    Args:
        script: Its path.
        flags: Its command line.
        log: Where its errors go, and what it prints.
        context: What forks it; None for a new interpreter, which imports TensorFlow first.
        printed: Where a fork prints to instead.
        as_traced: Whether a fork runs graphs as they are traced, as the tests of scripts do.
    """

    def __init__(self, script, flags, log, context=FORKS, printed=None, as_traced=False):
        self.log = pathlib.Path(log)
        self.log.unlink(missing_ok=True)
        flags = [str(flag) for flag in flags]
        if context is None:
            with self.log.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, str(script), *flags],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_hear_interrupts,
                )
            self._poll = process.poll
        else:
            arguments = (script, flags, self.log, printed, as_traced)
            process = context.Process(target=run_script, args=arguments)
            process.start()
            self._poll = lambda: process.exitcode
        self.pid = process.pid

    def poll(self):
        """The exit code as a shell gives it; None while it runs."""
        code = self._poll()
        return 128 - code if code is not None and code < 0 else code

    def send(self, number):
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def cut(self, folder, pattern, delay, number):
        """Sends a signal `delay` seconds after there is a file of a pattern (None: after the
        start) beside or in the output folder; returns the exit code."""
        begun = None if pattern else time.monotonic()
        sent = False

        def look():
            nonlocal begun, sent
            if begun is None and next(folder.path.parent.glob(pattern), None):
                begun = time.monotonic()
            left = begun + delay - time.monotonic() if begun is not None else math.inf
            if sent or 0.05 < left < math.inf:
                folder.look()
            elif left <= 0.05:
                time.sleep(max(0.0, left))
                self.send(number)
                sent = True

        return self.wait(look)

    def wait(self, look=lambda: None):
        """The exit code; meanwhile calls `look` again and again."""
        deadline = time.monotonic() + _DEADLINE
        while self.poll() is None:
            look()
            assert time.monotonic() < deadline, self.text
            time.sleep(0.004)
        look()
        return self.poll()

    @property
    def text(self):
        """What it has said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def run_script(script, flags, log, printed=None, as_traced=False):
    """Runs a script in this process and ends it as an interpreter ends, atexit and all."""
    for standard, path in ((1, printed or log), (2, log)):
        flag = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(path, flag), standard)
    _hear_interrupts()
    if as_traced:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    sys.argv = [str(script), *flags]
    code = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except KeyboardInterrupt:  # before the script was ready for one
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    ctypes.pythonapi.Py_Exit(code)


def _hear_interrupts():
    # A shell has what it runs in the background ignore them, and so would everything below.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def on_a_full_disk(script, flags, base, pattern):
    """Runs a script on a file system of 4 MiB that fills up as soon as there is a file of a pattern
    in its output folder, and resumes it when there is room again.

    Needs a process without threads. In `base` it leaves `report.json`, the logs and a copy of the
    output folder; `report.json` says why where such a file system cannot be made.
    """
    report, disk = {}, base / "disk"
    disk.mkdir()
    try:
        _mount(disk)
    except OSError as error:
        report["refused"] = str(error)
    else:
        folder, ballast = Folder(disk / "run", exports=disk / "savedmodels"), disk / "ballast"
        fork = multiprocessing.get_context("fork")
        flags = [*flags, "--output", folder.path]

        def look():
            if not ballast.exists() and next(folder.path.glob(pattern), None):
                _fill(ballast)
                report["room"] = os.statvfs(disk).f_bavail
            folder.look()

        report["code"] = Process(script, flags, base / "full.log", fork).wait(look)
        report["left over"] = [str(path) for path in folder.left_over()]
        ballast.unlink()
        again = Process(script, [*flags, "--resume"], base / "again.log", fork)
        report["code of the resumed"] = again.wait(folder.look)
        shutil.copytree(folder.path, base / "run")
    (base / "report.json").write_text(json.dumps(report))


def _fill(ballast):
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _mount(folder):
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()

    def call(function, *arguments):
        if function(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    new_mounts, new_users, private = 0x00020000, 0x10000000, 0x00044000  # with everything below
    call(libc.unshare, new_mounts | new_users)
    pathlib.Path("/proc/self/setgroups").write_text("deny")
    pathlib.Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    pathlib.Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    call(libc.mount, None, b"/", None, private, None)
    call(libc.mount, b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=4m")


class Folder:
    """The output folder of a run; `look` looks whether everything in it is whole.

    A file or a checkpoint that was found to be whole is not read again until it is another.
    """

    def __init__(self, path, last_picture="samples.png", exports=None):
        self.path, self.last_picture = pathlib.Path(path), last_picture
        self.exports = pathlib.Path(exports) if exports else None
        self.looks = 0
        self._seen = set()

    def look(self):
        """Raises where something under its final name is not whole."""
        self.looks += 1
        for path in _entries(self.path):
            if path.name not in ("checkpoints", "logs"):
                self._check(path, _FILES.get(path.name) or _SUFFIXES[path.suffix])
        for pattern in ("checkpoints/step-*", "checkpoints/*/step-*"):
            for path in _listed(self.path, pattern):
                self._check(path, _check_checkpoint)
        if self.exports:
            for path in _listed(self.exports, "*/*/[0-9]*"):
                self._check(path, _check_export)

    def _check(self, path, check):
        mark = _mark(path)
        if mark is None or mark in self._seen:
            return
        try:
            check(path)
        except FileNotFoundError:
            # A folder may go as a whole while it is looked at, but no part of it before.
            now = _mark(path)
            if now is not None and now[1] == mark[1]:
                raise
            return
        self._seen.add(mark)

    def place(self):
        """Where in its run a process was that left the folder so."""
        halves = sorted(p.name for p in self.path.glob(".tmp-*"))
        if not (self.path / "config.json").exists():
            return "before there is a run"
        if halves:
            return f"writing {halves[0].removeprefix('.tmp-')}"
        halves = sorted(p.name for p in self.path.rglob("checkpoints/**/.tmp-*"))
        if halves:
            removed = halves[0].startswith(".tmp-old-")
            return "removing an old checkpoint" if removed else "writing a checkpoint"
        if self.exports and list(self.exports.rglob(".tmp-*")):
            return "writing an export"
        if not list(self.path.rglob("step-*")):
            return "tracing, first step"
        if not (self.path / "model.keras").exists():
            return "steps"
        if json.loads((self.path / "metrics.json").read_text())["final"]:
            return "all is done"
        if not (self.path / self.last_picture).exists():
            return "drawing"
        exported = self.exports is None or list(self.exports.glob("*/scorer/*"))
        return "evaluation" if exported else "tracing the export"

    def load(self):
        """Loads what should be loadable."""
        if (self.path / "model.keras").exists():
            keras.saving.load_model(self.path / "model.keras", safe_mode=True)

    def left_over(self):
        """What is there under a temporary name."""
        roots = [self.path, *([self.exports] if self.exports else [])]
        return [path for root in roots for path in root.rglob(".tmp-*")]


def _listed(folder, pattern):
    """What is there, where folders are renamed meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return list(folder.glob(pattern))


def _entries(folder):
    return [p for p in _listed(folder, "*") if not p.name.startswith(".tmp-")]


def _mark(path):
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (path, found.st_ino, found.st_ctime_ns)


def _check_json(path):
    assert isinstance(json.loads(path.read_text()), dict | list), path


def _check_picture(path):
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.load()


def _check_model(path):
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        assert archive.testzip() is None, path
        json.loads(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
            assert len(weights) > 0


def _check_checkpoint(path):
    weights = (path / "state.weights.h5").read_bytes()
    state = json.loads((path / "state.json").read_text())
    assert state["sha256"] == hashlib.sha256(weights).hexdigest(), path
    with h5py.File(io.BytesIO(weights)) as file:
        assert len(file) > 0


def _check_export(path):
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    assert saved.meta_graphs[0].signature_def, path
    for name in ("variables/variables.index", "assets.extra/tf_serving_warmup_requests"):
        assert (path / name).stat().st_size > 0, path


_FILES = {"model.keras": _check_model}
_SUFFIXES = {".json": _check_json, ".png": _check_picture}


def assert_same_end(output, expected):
    """Bit for bit: the model, its optimizers and the record of every epoch."""
    one, other = (tfebm.load_run(path) for path in (output, expected))
    optimizers = [name for name in ("optimizer", "energy_optimizer") if hasattr(one.model, name)]
    states = [
        {
            **weights_of(run.model),
            **{
                f"{name} {i}": variable.numpy()
                for name in optimizers
                for i, variable in enumerate(getattr(run.model, name).variables)
            },
        }
        for run in (one, other)
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)
    keys = ("stage", "epoch", "step", "metrics")
    records = [
        [{k: r[k] for k in keys if k in r} for r in run.metrics["epochs"]] for run in (one, other)
    ]
    assert records[0] == records[1]
    assert one.metrics["final"]["test"] == other.metrics["final"]["test"]

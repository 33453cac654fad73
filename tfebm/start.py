"""How the package's commands start: their flags are read before TensorFlow is imported.

A script says that it is one by a line `__reads_flags_first__ = True` before it imports tfebm, and
calls `tfebm.runs.run_command`. It does not touch programs and notebooks that import tfebm.
"""

import contextlib
import importlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# `python -m` calls itself so until it has found the module.
IS_PACKAGE_COMMAND: bool = sys.argv[:1] == ["-m"] and "tfebm" in sys.orig_argv
"""Whether this process is `python -m tfebm`."""
IS_COMMAND: bool = IS_PACKAGE_COMMAND or getattr(
    sys.modules.get("__main__"), "__reads_flags_first__", False
)
"""Whether it is one of the commands."""
LIGHT = ("api", "errors", "files", "names", "runs", "start", "version")
"""Modules that do not import TensorFlow, or, like `runs`, only for what needs it."""
INTERRUPTED = 128 + signal.SIGINT

# Of TensorFlow's build, and of a machine without a GPU's driver: no news. TF_CPP_MIN_LOG_LEVEL does
# not reach what is written while its libraries are loaded.
_NOTES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) "
    rb"|I\d{4} \d\d:\d\d:"
    rb"|\d{4}-\d\d-\d\d \S+: I "
    rb"|To enable the following instructions: "
    rb"|.*failed call to cuInit: .*UNKNOWN ERROR \(303\)"
)


def prepare() -> None:
    """Sets what has to be set before anything else is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow takes oneDNN by itself on some x86 processors only; on another one, chains over
    # images took up to three times as long without.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(*_: Any) -> None:
    # Between two imports there is nothing to put in order.
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)


def take_over_interrupts() -> None:
    """Lets Ctrl-C raise `KeyboardInterrupt` again, from where somebody handles that."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def open_standard_streams() -> None:
    """Opens those that are closed: a file of a run would else get their number, and be printed
    into by whoever writes to number 1 or 2."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Takes the lowest number that is free.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, "w" if number else "r"))


def load(name: str = "tfebm.api") -> ModuleType:
    """A module, that of all public names by default, without TensorFlow's notes on its build."""
    if "tensorflow" in sys.modules:  # it has said what it has to say, or is about to
        return importlib.import_module(name)
    with _without_notes():
        module = importlib.import_module(name)
        # Looks for GPUs, and writes what there is to be said of their driver.
        importlib.import_module("tensorflow").config.list_physical_devices()
    return module


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Keeps the notes off the standard error; all else comes through.

    A process of its own does it, so that the last words of one that dies come through as well.
    """
    if not hasattr(os, "fork"):
        yield
        return
    sys.stderr.flush()
    own = os.dup(2)
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(start)
        _pass_on(end, own)
    os.close(end)
    os.dup2(start, 2)
    os.close(start)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(own, 2)  # the last end of the pipe: the child reads it to its end
        os.close(own)
        # Unless another process was started meanwhile that has the pipe still.
        deadline = time.monotonic() + 1.0
        while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.001)


def _pass_on(source: int, target: int) -> None:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
        with os.fdopen(source, "rb") as lines:
            for line in lines:
                if not _NOTES.match(line):
                    os.write(target, line)
    finally:
        os._exit(0)

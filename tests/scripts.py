"""Training scripts in this process: as a person runs them, but for the seconds that TensorFlow's
import takes."""

import contextlib
import io
import pathlib
import sys
import types
from typing import Any, NamedTuple

import keras
import pytest

import tfebm
from tfebm.runs import session, training


class Done(NamedTuple):
    """A run that has ended."""

    stdout: str
    stderr: str
    exports: list[tuple[Any, ...]]
    """The model, the folder, the name and the version of each export."""


def run(script, *flags, code=0, strategy=None, export=False):
    """Calls `main` of a script.

    Args:
        script: The module.
        flags: Its command line.
        code: The exit code that it must end with.
        strategy: Instead of the one that the flags ask for, of which a process can have one only.
        export: Whether exports are written; they are traced anew, and most tests want to know only
            that there would be one.
    """
    exports = []

    def note(model, folder, name, version, **_):
        exports.append((model, folder, name, version))
        return types.SimpleNamespace(generator="a generator", scorer="a scorer")

    words = [pathlib.Path(script.__file__).name, *map(str, flags)]
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", words)
        # Deterministic kernels would stay on in this process, for every test after.
        patch.setattr(training, "make_deterministic", keras.utils.set_random_seed)
        if strategy:
            patch.setattr(session, "make_strategy", lambda *_: strategy)
        if not export:
            patch.setattr(session.serving, "export", note)
        try:
            tfebm.runs.run_command(script.main)
            ended = 0
        except SystemExit as stop:
            ended = stop.code or 0
    assert ended == code, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue(), exports)

"""Runs of the training scripts: settings, folders, resumption.

What reads flags is imported at once, and what runs TensorFlow when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tfebm import start
from tfebm.runs.command import run_command
from tfebm.runs.flags import FlagSettings, flag
from tfebm.runs.opening import open_session
from tfebm.runs.parser import parse, parse_known
from tfebm.runs.resuming import resumed
from tfebm.runs.settings import ImageRunSettings, RunSettings, check_colour

if TYPE_CHECKING:
    from tfebm.runs.directory import Run, RunDirectory, check_writable, load_run
    from tfebm.runs.session import Session, load_image_set
    from tfebm.runs.strategy import make_strategy

__all__ = [
    "FlagSettings",
    "ImageRunSettings",
    "Run",
    "RunDirectory",
    "RunSettings",
    "Session",
    "check_colour",
    "check_writable",
    "flag",
    "load_image_set",
    "load_run",
    "make_strategy",
    "open_session",
    "parse",
    "parse_known",
    "resumed",
    "run_command",
]

_HOMES = {
    **dict.fromkeys(("Run", "RunDirectory", "check_writable", "load_run"), "directory"),
    **dict.fromkeys(("Session", "load_image_set"), "session"),
    "make_strategy": "strategy",
}
_MODULES = ("directory", "progress", "session", "strategy", "training")


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module 'tfebm.runs' has no attribute {name!r}")
    if start.IS_COMMAND:
        start.load()
    module = importlib.import_module(f"tfebm.runs.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module

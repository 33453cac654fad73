"""Runs of the training scripts: settings, folders, resumption."""

from tfebm.runs.command import run_command
from tfebm.runs.directory import Run, RunDirectory, check_writable, load_run
from tfebm.runs.session import Session, open_session
from tfebm.runs.settings import ImageRunSettings, RunSettings, flag, parse, resumed
from tfebm.runs.strategy import make_strategy
from tfebm.runs.text_settings import TextRunSettings

__all__ = [
    "ImageRunSettings",
    "Run",
    "RunDirectory",
    "RunSettings",
    "Session",
    "TextRunSettings",
    "check_writable",
    "flag",
    "load_run",
    "make_strategy",
    "open_session",
    "parse",
    "resumed",
    "run_command",
]

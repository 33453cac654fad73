"""Runs of the training scripts: settings, folders, resumption."""

from tfebm.runs.command import run_command
from tfebm.runs.directory import Run, RunDirectory, check_writable, load_run
from tfebm.runs.resuming import resumed
from tfebm.runs.session import Session, load_image_set, open_session
from tfebm.runs.settings import (
    FlagSettings,
    ImageRunSettings,
    RunSettings,
    flag,
    parse,
    parse_known,
)
from tfebm.runs.strategy import make_strategy
from tfebm.runs.text_settings import TextRunSettings

__all__ = [
    "FlagSettings",
    "ImageRunSettings",
    "Run",
    "RunDirectory",
    "RunSettings",
    "Session",
    "TextRunSettings",
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

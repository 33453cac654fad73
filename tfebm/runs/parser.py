"""Command lines: flags to settings, and one sentence where they cannot be used."""

import argparse
import dataclasses
import difflib
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from tfebm import files
from tfebm.errors import InvalidInputError
from tfebm.runs.flags import GROUPS, FlagSettings, flag_name
from tfebm.runs.resuming import to_resume
from tfebm.runs.settings import RunSettings

S = TypeVar("S", bound=FlagSettings)
T = TypeVar("T", bound=RunSettings)


def parse(
    settings_class: type[T],
    presets: Mapping[str, Mapping[str, Any]],
    default_preset: str | Callable[[Mapping[str, Any]], str],
    description: str,
    argv: Sequence[str] | None = None,
    program: str | None = None,
) -> tuple[T, dict[str, Any]]:
    """Reads the command line; flags given beside a preset win.

    Where a run is resumed its saved settings stand for the flags that are left out.

    Args:
        settings_class: The script's settings.
        presets: Name to values.
        default_preset: Where none is named: a name, or a function of the flags given.
        description: Of the program.
        argv: Default: the program's own.
        program: Its name; runs of another one are not resumed.

    Returns:
        The settings, and what was asked for: the preset's values where a preset was named, and
        the flags given. A resume compares only these with the saved run.

    Raises:
        SystemExit: With code 2 after one sentence on the standard error, for flags that cannot
            be used; with code 0 after `--help`.
    """
    parser = Parser(description=description, usage="%(prog)s [FLAG ...]")
    choose = default_preset if callable(default_preset) else lambda _: default_preset
    names = " | ".join(presets)
    usual = choose({})
    or_else = ", or what the data set asks for" if callable(default_preset) else ""
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{names} (default: {usual}{or_else})",
        default=argparse.SUPPRESS,
    )
    fields = dataclasses.fields(settings_class)
    defaults = {f.name: f.default for f in fields} | dict(presets[usual])
    _add_flags(parser, settings_class, defaults)
    given = vars(parser.parse_args(argv))
    preset = given.pop("preset", None)
    if preset is not None and preset not in presets:
        parser.error(f"--preset must be one of {', '.join(presets)}. Received {preset!r}.")
    asked = {**(presets[preset] if preset else {}), **given}
    values = {**presets[preset or choose(given)], **given}
    try:
        if given.get("resume") or given.get("resume_or_begin"):
            found = to_resume(settings_class, values, asked, program)
            if found is not None:
                return found, asked
        return settings_class(**values), asked
    except InvalidInputError as error:
        parser.error(str(error))


def parse_known(
    settings_class: type[S], description: str, argv: Sequence[str] | None = None
) -> tuple[S, list[str]]:
    """Reads the command line of a program without presets, some of whose flags are not its own.

    Args:
        settings_class: The program's settings.
        description: Of the program.
        argv: Default: the program's own.

    Returns:
        The settings, and the words that they do not know, in their order.

    Raises:
        SystemExit: As `parse`.
    """
    parser = Parser(description=description, usage="%(prog)s [FLAG ...]")
    _add_flags(parser, settings_class, {})
    given, rest = parser.parse_known_args(argv)
    try:
        return settings_class(**vars(given)), rest
    except InvalidInputError as error:
        parser.error(str(error))


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse would print every flag before it.

    Flags are not abbreviated, and the description's paragraphs are filled again for the screen,
    except for lines that are indented.
    """

    def __init__(self, **settings: Any) -> None:
        usual: dict[str, Any] = {"formatter_class": _Formatter, "allow_abbrev": False}
        super().__init__(**usual | settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            # For `--flag=--` argparse makes a list, and calls no type.
            if action.nargs is None and isinstance(getattr(found, action.dest, None), list):
                self.error(f"{action.option_strings[-1]} needs a value. Received '--'.")
        return found, rest

    def error(self, message: str) -> NoReturn:
        # What was typed is part of it, and may hold line ends or a terminal's commands.
        text = files.printable(f"{self.prog}: {message}{_suggest(self, message)}")
        self.exit(2, f"{text}\n")


class _Formatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for block in re.split(r"\n\s*\n", text.strip()):
            if any(line.startswith(" ") for line in block.splitlines()):
                filled.append("\n".join(_fitting(block.splitlines(), width)))
            else:
                filled.append(super()._fill_text(block, width, indent))
        return "\n\n".join(filled)


def _fitting(lines: Sequence[str], width: int) -> list[str]:
    """Commands with what they do to the right of them, or below where that has no room."""
    fitting = []
    for line in lines:
        command, _, what = line.strip().partition("   ")
        if len(line) <= width:
            fitting.append(line)
            continue
        *parts, last = textwrap.wrap(
            command,
            width - 2,
            initial_indent="  ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        fitting += [f"{part} \\" for part in parts] + [last]
        if what:
            fitting.append(f"      {what.strip()}")
    return fitting


def _suggest(parser: argparse.ArgumentParser, message: str) -> str:
    prefix = "unrecognized arguments: "
    if not message.startswith(prefix):
        return ""
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(message.removeprefix(prefix).split()[0], known, n=1)
    return f". Did you mean {near[0]}?" if near else ". See --help."


def _add_flags(
    parser: argparse.ArgumentParser, settings_class: type[FlagSettings], defaults: Mapping[str, Any]
) -> None:
    """Adds a flag for each field, under the titles of its groups; `defaults` are a preset's."""
    fields = dataclasses.fields(settings_class)
    members: dict[str, list[dataclasses.Field[Any]]] = {name: [] for name in GROUPS}
    for field in fields:
        members[_group_of(settings_class, field.name)].append(field)
    for name, title in GROUPS.items():
        if members[name]:
            group = parser.add_argument_group(title)
            for field in members[name]:
                _add_flag(group, field, defaults.get(field.name, field.default))


def _group_of(settings_class: type[FlagSettings], name: str) -> str:
    classes: list[Any] = [each for each in settings_class.__mro__ if dataclasses.is_dataclass(each)]
    owners = [each for each in classes if name in each.__dataclass_fields__]
    named = [each.__dataclass_fields__[name].metadata.get("group") for each in owners]
    return next(filter(None, named), owners[-1].GROUP)


def _add_flag(
    parser: argparse._ActionsContainer, field: dataclasses.Field[Any], default: Any
) -> None:
    text = field.metadata["help"]
    shared: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
    if isinstance(field.default, bool):
        parser.add_argument(flag_name(field.name), action="store_true", help=text, **shared)
        return
    kind = field.metadata.get("type") or type(field.default)
    choices = field.metadata["choices"]
    parser.add_argument(
        flag_name(field.name),
        # A shell leaves the ~ of `--output=~/run`, and a folder of that name is not easy to remove.
        type=os.path.expanduser if kind is str else kind,
        choices=choices,
        metavar=None if choices else field.metadata.get("metavar", "N" if kind is int else "X"),
        help=text if default is None else f"{text} (default: {default})",
        **shared,
    )

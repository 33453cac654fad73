"""Settings of a run: one frozen dataclass, its flags, presets, and what a resume may change."""

import argparse
import dataclasses
import difflib
import math
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

from tfebm import files
from tfebm.colours import parse_colour
from tfebm.errors import InvalidInputError
from tfebm.names import STRATEGIES
from tfebm.runs.resuming import to_resume

S = TypeVar("S", bound="FlagSettings")
T = TypeVar("T", bound="RunSettings")


_MOST = 10**9  # of whole numbers whose flags do not say so themselves
GROUPS = {
    "data": "data",
    "model": "model",
    "sampler": "sampler, the chains of latents",
    "learning": "learning",
    "task": "tasks and figures of the trained model",
    "machine": "machine",
    "output": "output",
}
"""Under which flags are listed, in this order, and their titles."""


def flag(default: Any, text: str, choices: Sequence[Any] | None = None, **checks: Any) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
        default: Its type is the flag's; for None, `type` names it.
        text: The help line.
        choices: The values allowed.
        **checks: `least` (an inclusive lower bound), `above` (an exclusive one), `most` (an
            inclusive upper bound; of whole numbers 10**9 by default), `type`, `metavar`, and
            `operational=True` for what says how a run is carried out rather than what it computes;
            such flags are not saved and may differ on a resume, and with `remembered=True` as well
            a resume without the flag takes the last value. `path=True` is a file or a folder,
            `path="several"` some with commas between; they are saved as absolute paths, all but
            `names` of data sets. `before` is the value of runs from before there was the flag.
            `group` is one of `GROUPS`, under which `--help` lists it. Default: that of the same
            field of a base class, or else `GROUP` of the class that has the field first.
            `remote=True` is for a flag that may be a URL.
    """
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices, **checks})


@dataclasses.dataclass(frozen=True)
class FlagSettings:
    """Settings of a program: fields made by `flag`, whose values are checked."""

    GROUP: ClassVar[str] = "model"
    """Of the flags of this class that do not name another one."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_value(field, getattr(self, field.name))


@dataclasses.dataclass(frozen=True)
class RunSettings(FlagSettings):
    """What every training script has in common; the flags of its data are its own."""

    GROUP: ClassVar[str] = "machine"

    data_dir: str | None = flag(
        None,
        "folder of TensorFlow Datasets",
        type=str,
        metavar="DIR",
        operational=True,
        group="data",
        remembered=True,
        path=True,
    )
    strategy: str = flag("none", "distribution strategy", choices=STRATEGIES)
    virtual_devices: int = flag(
        0, "split the CPU into N devices, to try `mirrored` without GPUs", least=0, most=1024
    )
    worker_timeout: int = flag(
        600, "seconds that `multiworker` waits for all workers", least=1, operational=True
    )
    epochs: int = flag(200, "passes over the data", least=1, group="learning")
    steps: int = flag(
        0, "stop after so many batches in all (0: no limit)", least=0, group="learning"
    )
    batch_size: int = flag(100, "examples per step, over all replicas", least=1, group="learning")
    precision: str = flag(
        "float32", "of the generator's arithmetic", choices=("float32", "bfloat16")
    )
    jit: str = flag("auto", "compile the chains with XLA", choices=("auto", "on", "off"))
    seed: int = flag(
        0, "of weights, data order and noise", least=0, most=2**31 - 1, group="learning"
    )
    checkpoint_every: int = flag(
        0,
        "also save a checkpoint each so many steps (0: at ends of epochs)",
        least=0,
        operational=True,
        group="output",
    )
    output: str = flag(
        "runs/run",
        "folder for everything the run writes",
        metavar="DIR",
        operational=True,
        group="output",
    )
    resume: bool = flag(
        False,
        "go on from the newest checkpoint; may raise --epochs and --steps",
        operational=True,
        group="output",
    )
    resume_or_begin: bool = flag(
        False,
        "--resume where there is a run, and begin one where there is none; for jobs that restart",
        operational=True,
        group="output",
    )
    export: str | None = flag(
        None,
        "also export SavedModels into this folder",
        type=str,
        metavar="DIR",
        operational=True,
        group="output",
    )
    xla: bool = flag(
        False,
        "export the default signatures compiled with XLA too, as generate_xla and score_xla, for "
        "servers that have it on",
        operational=True,
        group="output",
    )
    overwrite: bool = flag(
        False, "replace an existing run in the output folder", operational=True, group="output"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.xla and not self.export:
            raise InvalidInputError("--xla is about what --export writes. Give --export, too.")
        if self.resume and self.overwrite:
            raise InvalidInputError(
                "--resume goes on with a run and --overwrite deletes it. Received both; give one."
            )
        if self.resume_or_begin and self.overwrite:
            raise InvalidInputError(
                "--resume-or-begin goes on with a run where there is one, and --overwrite deletes "
                "it. Received both; give one."
            )

    @property
    def jit_compile(self) -> bool | str:
        """`jit` as samplers and models take it."""
        return {"auto": "auto", "on": True, "off": False}[self.jit]

    @property
    def dtype_policy(self) -> str:
        """`precision` as Keras names it."""
        return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[self.precision]

    def to_record(self) -> dict[str, Any]:
        """The settings that determine the result, for `config.json`."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.metadata.get("operational")
        }

    def remembered(self) -> dict[str, Any]:
        """What a resume takes where its flag is left out, beside the record."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get("remembered")
        }

    @property
    def sources(self) -> tuple[str, ...]:
        """What the data are read from, for a person."""
        return tuple(filter(None, [getattr(self, "dataset", None)]))

    def describe(self) -> str:
        """One setting a line, for the screen."""
        return "\n".join(
            f"  {field.name:<28}{getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        )


@dataclasses.dataclass(frozen=True)
class _ImageSource:
    # A base of its own: fields of the last base are the first flags.
    GROUP: ClassVar[str] = "data"

    dataset: str = flag(
        "mnist5k",
        "data set: a name, an .npz, or a folder of images",
        metavar="NAME|PATH",
        path=True,
        names=("mnist5k",),
    )
    image_size: int | None = flag(
        None,
        "resize images to so many pixels a side (default: as stored)",
        type=int,
        least=1,
        most=2**13,
    )
    channels: int | None = flag(
        None,
        "1 makes colours grey, 3 repeats grey (default: as stored)",
        type=int,
        choices=(1, 3),
        before=None,
    )
    background: str = flag(
        "white",
        "behind transparent pixels, a name or #rrggbb",
        metavar="COLOUR",
        before="white",
    )
    validation: int = flag(
        0,
        "do not learn from N training images and judge on them instead of the test images, to "
        "choose settings (0: judge on the test images)",
        least=0,
        metavar="N",
        before=0,
    )


@dataclasses.dataclass(frozen=True)
class ImageRunSettings(RunSettings, _ImageSource):
    """What every script that reads images has in common."""

    GROUP: ClassVar[str] = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_colour(self.background)

    @property
    def judged_on(self) -> str:
        """`"test"`, or `"validation"`: which images the figures at the end are of."""
        return "validation" if self.validation else "test"


def check_colour(text: str) -> None:
    """Raises `InvalidInputError` unless `--background` is a colour."""
    if text == "white":  # without Pillow
        return
    parse_colour(text, "--background")


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
        super().__init__(**{"formatter_class": _Formatter, "allow_abbrev": False} | settings)

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


def _flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flags(
    parser: argparse.ArgumentParser, settings_class: type, defaults: Mapping[str, Any]
) -> None:
    """Adds a flag for each field, under the titles of its groups; `defaults` are a preset's."""
    fields = dataclasses.fields(settings_class)
    members: dict[str, list[dataclasses.Field]] = {name: [] for name in GROUPS}
    for field in fields:
        members[_group_of(settings_class, field.name)].append(field)
    for name, title in GROUPS.items():
        if members[name]:
            group = parser.add_argument_group(title)
            for field in members[name]:
                _add_flag(group, field, defaults.get(field.name, field.default))


def _group_of(settings_class: type, name: str) -> str:
    owners = [
        each for each in settings_class.__mro__ if name in getattr(each, "__dataclass_fields__", {})
    ]
    named = (each.__dataclass_fields__[name].metadata.get("group") for each in owners)
    return next(filter(None, named), None) or owners[-1].GROUP


def _add_flag(parser: argparse._ActionsContainer, field: dataclasses.Field, default: Any) -> None:
    text = field.metadata["help"]
    shared = {"dest": field.name, "default": argparse.SUPPRESS}
    if isinstance(field.default, bool):
        parser.add_argument(_flag_name(field.name), action="store_true", help=text, **shared)
        return
    kind = field.metadata.get("type") or type(field.default)
    choices = field.metadata["choices"]
    parser.add_argument(
        _flag_name(field.name),
        # A shell leaves the ~ of `--output=~/run`, and a folder of that name is not easy to remove.
        type=os.path.expanduser if kind is str else kind,
        choices=choices,
        metavar=None if choices else field.metadata.get("metavar", "N" if kind is int else "X"),
        help=text if default is None else f"{text} (default: {default})",
        **shared,
    )


def _check_value(field: dataclasses.Field, value: Any) -> None:
    rules, name = field.metadata, _flag_name(field.name)
    if value is None:
        return
    if isinstance(value, str) and not rules.get("remote"):
        files.local_path(value, name)
    if rules["choices"] is not None and value not in rules["choices"]:
        raise InvalidInputError(
            f"{name} must be one of {', '.join(map(str, rules['choices']))}. Received {value!r}."
        )
    if value == "":
        raise InvalidInputError(f"{name} must not be empty.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(f"{name} must be a finite number. Received {value}.")
    if "least" in rules and value < rules["least"]:
        raise InvalidInputError(f"{name} must be at least {rules['least']}. Received {value}.")
    if "above" in rules and value <= rules["above"]:
        raise InvalidInputError(f"{name} must be greater than {rules['above']}. Received {value}.")
    most = rules.get("most", _MOST if isinstance(value, int) else None)
    if most is not None and value > most:
        raise InvalidInputError(f"{name} must be at most {most}. Received {value}.")

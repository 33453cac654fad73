"""Settings of a run: one frozen dataclass, its flags, presets, and what a resume may change."""

import argparse
import dataclasses
import difflib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from tfebm import files
from tfebm.errors import InvalidInputError
from tfebm.runs.strategy import STRATEGIES

S = TypeVar("S", bound="FlagSettings")
T = TypeVar("T", bound="RunSettings")


def flag(default: Any, text: str, choices: Sequence[Any] | None = None, **checks: Any) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
        default: Its type is the flag's; for None, `type` names it.
        text: The help line.
        choices: The values allowed.
        **checks: `least` (an inclusive lower bound), `above` (an exclusive one), `most` (an
            inclusive upper bound), `type`, `metavar`, and `operational=True` for what says how a
            run is carried out rather than what it computes; such flags are not saved and may
            differ on a resume. `remote=True` is for a flag that may be a URL.
            `before` is the value of runs from before there was the flag.
    """
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices, **checks})


@dataclasses.dataclass(frozen=True)
class FlagSettings:
    """Settings of a program: fields made by `flag`, whose values are checked."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_value(field, getattr(self, field.name))


@dataclasses.dataclass(frozen=True)
class RunSettings(FlagSettings):
    """What every training script has in common; the flags of its data are its own."""

    data_dir: str | None = flag(
        None, "folder of TensorFlow Datasets", type=str, metavar="DIR", operational=True
    )
    strategy: str = flag("none", "distribution strategy", choices=STRATEGIES)
    virtual_devices: int = flag(
        0, "split the CPU into N devices, to try `mirrored` without GPUs", least=0
    )
    worker_timeout: int = flag(
        600, "seconds that `multiworker` waits for all workers", least=1, operational=True
    )
    epochs: int = flag(200, "passes over the data", least=1)
    steps: int = flag(0, "stop after so many batches in all (0: no limit)", least=0)
    batch_size: int = flag(100, "examples per step, over all replicas", least=1)
    precision: str = flag(
        "float32", "of the generator's arithmetic", choices=("float32", "bfloat16")
    )
    jit: str = flag("auto", "compile the chains with XLA", choices=("auto", "on", "off"))
    seed: int = flag(0, "of weights, data order and noise", least=0, most=2**31 - 1)
    checkpoint_every: int = flag(
        0,
        "also save a checkpoint each so many steps (0: at ends of epochs)",
        least=0,
        operational=True,
    )
    output: str = flag(
        "runs/run", "folder for everything the run writes", metavar="DIR", operational=True
    )
    resume: bool = flag(
        False,
        "go on from the newest checkpoint; may raise --epochs and --steps",
        operational=True,
    )
    resume_or_begin: bool = flag(
        False,
        "--resume where there is a run, and begin one where there is none; for jobs that restart",
        operational=True,
    )
    export: str | None = flag(
        None, "also export SavedModels into this folder", type=str, metavar="DIR", operational=True
    )
    xla: bool = flag(
        False,
        "export the default signatures compiled with XLA too, as generate_xla and score_xla, for "
        "servers that have it on",
        operational=True,
    )
    overwrite: bool = flag(False, "replace an existing run in the output folder", operational=True)

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
    dataset: str = flag(
        "mnist5k", "data set: a name, an .npz, or a folder of images", metavar="NAME|PATH"
    )
    image_size: int | None = flag(
        None, "resize images to so many pixels a side (default: as stored)", type=int, least=1
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

    @property
    def judged_on(self) -> str:
        """`"test"`, or `"validation"`: which images the figures at the end are of."""
        return "validation" if self.validation else "test"


def parse(
    settings_class: type[T],
    presets: Mapping[str, Mapping[str, Any]],
    default_preset: str | Callable[[Mapping[str, Any]], str],
    description: str,
    argv: Sequence[str] | None = None,
) -> tuple[T, dict[str, Any]]:
    """Reads the command line; flags given beside a preset win.

    Args:
        settings_class: The script's settings.
        presets: Name to values.
        default_preset: Where none is named: a name, or a function of the flags given.
        description: Of the program.
        argv: Default: the program's own.

    Returns:
        The settings, and what was asked for: the preset's values where a preset was named, and
        the flags given. A resume compares only these with the saved run.

    Raises:
        SystemExit: With code 2 after one sentence on the standard error, for flags that cannot
            be used; with code 0 after `--help`.
    """
    parser = _Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
    for field in fields:
        _add_flag(parser, field, defaults[field.name])
    given = vars(parser.parse_args(argv))
    preset = given.pop("preset", None)
    if preset is not None and preset not in presets:
        parser.error(f"--preset must be one of {', '.join(presets)}. Received {preset!r}.")
    asked = {**(presets[preset] if preset else {}), **given}
    try:
        return settings_class(**{**presets[preset or choose(given)], **given}), asked
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
    parser = _Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for field in dataclasses.fields(settings_class):
        _add_flag(parser, field, field.default)
    given, rest = parser.parse_known_args(argv)
    try:
        return settings_class(**vars(given)), rest
    except InvalidInputError as error:
        parser.error(str(error))


def resumed(
    settings_class: type[T], saved: Mapping[str, Any], settings: T, asked: Mapping[str, Any]
) -> T:
    """The settings of a resumed run: the saved ones, with `epochs` and `steps` raised.

    Raises:
        InvalidInputError: Something else was asked for than what was saved; every difference is
            listed.
    """
    fields = {f.name: f for f in dataclasses.fields(settings_class)}
    before_flag = {n: f.metadata["before"] for n, f in fields.items() if "before" in f.metadata}
    saved = {**before_flag, **saved}
    differences, raised = [], {}
    for name, value in asked.items():
        if fields[name].metadata.get("operational") or name not in saved:
            continue
        before = saved[name]
        if value == before:
            continue
        unlimited = name == "steps" and value == 0
        if name in ("epochs", "steps") and (unlimited or (before and value > before)):
            raised[name] = value
        else:
            differences.append(f"{_flag_name(name)} {before} was saved, {value} is asked for")
    if differences:
        raise InvalidInputError(
            "A run is resumed with its own settings; only --epochs and --steps may be raised. "
            f"Differences: {'; '.join(differences)}. Leave these flags out, or start another run "
            "in another folder."
        )
    operational = {
        name: getattr(settings, name) for name, f in fields.items() if f.metadata.get("operational")
    }
    known = {name: value for name, value in saved.items() if name in fields}
    try:
        return settings_class(**{**known, **operational, **raised})
    except TypeError as error:
        raise InvalidInputError(
            f"The saved settings cannot be used: {error}. Restore the run's config.json."
        ) from None


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse would print every flag before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}{_suggest(self, message)}\n")


def _suggest(parser: argparse.ArgumentParser, message: str) -> str:
    prefix = "unrecognized arguments: "
    if not message.startswith(prefix):
        return ""
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(message.removeprefix(prefix).split()[0], known, n=1)
    return f". Did you mean {near[0]}?" if near else ". See --help."


def _flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field, default: Any) -> None:
    text = field.metadata["help"]
    shared = {"dest": field.name, "default": argparse.SUPPRESS}
    if isinstance(field.default, bool):
        parser.add_argument(_flag_name(field.name), action="store_true", help=text, **shared)
        return
    kind = field.metadata.get("type") or type(field.default)
    choices = field.metadata["choices"]
    parser.add_argument(
        _flag_name(field.name),
        type=kind,
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
            f"{name} must be one of {', '.join(rules['choices'])}. Received {value!r}."
        )
    if value == "":
        raise InvalidInputError(f"{name} must not be empty.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(f"{name} must be a finite number. Received {value}.")
    if "least" in rules and value < rules["least"]:
        raise InvalidInputError(f"{name} must be at least {rules['least']}. Received {value}.")
    if "above" in rules and value <= rules["above"]:
        raise InvalidInputError(f"{name} must be greater than {rules['above']}. Received {value}.")
    if "most" in rules and value > rules["most"]:
        raise InvalidInputError(f"{name} must be at most {rules['most']}. Received {value}.")


def fail(message: str, code: int) -> NoReturn:
    """Ends the program with one sentence on the standard error."""
    try:
        sys.stdout.flush()
    except OSError:
        # A full disk, or a pipe whose reader is gone. Python would try again at its end, and exit
        # with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {message}", file=sys.stderr)
    raise SystemExit(code)

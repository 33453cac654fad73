"""Flags of programs: fields of a frozen dataclass, whose values are checked."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tfebm import files
from tfebm.errors import InvalidInputError

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
            `names` of data sets. `group` is one of
            `GROUPS`, under which `--help` lists it. Default: that of the same field of a base
            class, or else `GROUP` of the class that has the field first.
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


def flag_name(name: str) -> str:
    """A setting as it is given on the command line."""
    return "--" + name.replace("_", "-")


def _check_value(field: dataclasses.Field[Any], value: Any) -> None:
    rules, name = field.metadata, flag_name(field.name)
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

"""Settings of a run that goes on: the saved ones, and what a resume may change."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping
from typing import Any, TypeVar

from tfebm.errors import InvalidInputError
from tfebm.runs import paths, record
from tfebm.runs.flags import flag_name
from tfebm.runs.settings import RunSettings

T = TypeVar("T", bound=RunSettings)


def to_resume(
    settings_class: type[T],
    values: Mapping[str, Any],
    asked: Mapping[str, Any],
    program: str | None = None,
) -> T | None:
    """The settings of a run that --resume or --resume-or-begin goes on with.

    What the flags leave out is taken from the saved run before the settings are checked as a whole.

    Args:
        settings_class: The script's settings.
        values: Those of the preset and of the flags.
        asked: Of them, what is compared with the saved run.
        program: Its name.

    Returns:
        The settings; None where no run is there.

    Raises:
        InvalidInputError: A run of another program, settings that are not the saved ones, or
            settings that need a run where there is none.
    """
    given = {f.name: values.get(f.name, f.default) for f in dataclasses.fields(settings_class)}
    output = given["output"]
    there = record.of_resumed(output)
    if there is None:
        if given["resume"] and not given["overwrite"]:
            try:
                return settings_class(**values)
            except InvalidInputError:  # what is missing would come from the run
                record.read(pathlib.Path(output))
        return None
    folder, found = there
    if program is not None:
        record.check_program(found, folder, program)
    if given["overwrite"]:  # which excludes a resume, as the settings themselves say
        return None
    for name, value in found.get("remembered", {}).items():
        if name in given and name not in asked:
            given[name] = value
    return resumed(settings_class, found["settings"], types.SimpleNamespace(**given), asked)


def resumed(
    settings_class: type[T], saved: Mapping[str, Any], settings: object, asked: Mapping[str, Any]
) -> T:
    """The settings of a resumed run: the saved ones, with `epochs` and `steps` raised, and paths of
    data that have been moved.

    Raises:
        InvalidInputError: Something else was asked for than what was saved; every difference is
            listed.
    """
    fields = {f.name: f for f in dataclasses.fields(settings_class)}
    fixed = {name for name, f in fields.items() if not f.metadata.get("operational")}
    if saved.keys() != fixed:
        wrong = ", ".join(sorted(saved.keys() ^ fixed))
        raise InvalidInputError(
            f"The saved settings cannot be used: {wrong} is missing, or is not a setting. Restore "
            "the run's config.json."
        )
    differences, raised = [], {}
    for name, value in asked.items():
        if name not in fixed:
            continue
        before = saved[name]
        if paths.same(fields[name], before, value):
            continue
        if paths.moved(fields[name], before, value):  # the fingerprint tells whether they are those
            raised[name] = paths.absolute(fields[name], value)
            continue
        unlimited = name == "steps" and value == 0
        if name in ("epochs", "steps") and (unlimited or (before and value > before)):
            raised[name] = value
        else:
            differences.append(f"{flag_name(name)} {before} was saved, {value} is asked for")
    if differences:
        raise InvalidInputError(
            "A run is resumed with its own settings; only --epochs and --steps may be raised. "
            f"Differences: {'; '.join(differences)}. Leave these flags out, or start another run "
            "in another folder."
        )
    operational = {name: getattr(settings, name) for name in fields.keys() - fixed}
    try:
        return settings_class(**{**saved, **operational, **raised})
    except TypeError as error:
        raise InvalidInputError(
            f"The saved settings cannot be used: {error}. Restore the run's config.json."
        ) from None

"""Flags that are paths: as they are saved, compared, and kept apart from what a run writes."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

from tfebm.errors import InvalidInputError
from tfebm.files import printable
from tfebm.names import IMAGE_SUFFIXES
from tfebm.runs.flags import FlagSettings, flag_name

F = TypeVar("F", bound=FlagSettings)


def is_path(field: dataclasses.Field[Any]) -> bool:
    """Whether a flag is a path, or several with commas between."""
    return bool(field.metadata.get("path"))


def absolute(field: dataclasses.Field[Any], value: Any) -> Any:
    """A flag's value with its paths absolute, so that it names the same files from anywhere.

    What no file or folder has as its name stays as it is: the name of a data set.
    """
    if not is_path(field) or not isinstance(value, str):
        return value
    names = field.metadata.get("names", ())
    if field.metadata["path"] != "several":
        return _absolute(value, names)
    parts = [part.strip() for part in value.split(",") if part.strip()]
    return ",".join(_absolute(part, names) for part in parts) or value


def _absolute(text: str, names: tuple[str, ...]) -> str:
    if text in names:
        return text
    path = os.path.expanduser(text)
    return os.path.abspath(path) if os.path.exists(path) else text


def with_absolute_paths(settings: F) -> F:
    """Settings whose paths are absolute."""
    fields = [f for f in dataclasses.fields(settings) if is_path(f)]
    return dataclasses.replace(
        settings, **{f.name: absolute(f, getattr(settings, f.name)) for f in fields}
    )


def same(field: dataclasses.Field[Any], saved: Any, asked: Any) -> bool:
    """Whether two values of a flag are one: equal, or two spellings of the same files."""
    if saved == asked:
        return True
    if not is_path(field) or not isinstance(saved, str) or not isinstance(asked, str):
        return False
    pair = [absolute(field, value).split(",") for value in (saved, asked)]
    if field.metadata["path"] != "several":
        pair = [[absolute(field, value)] for value in (saved, asked)]
    return len(pair[0]) == len(pair[1]) and all(map(_same_file, *pair))


def moved(field: dataclasses.Field[Any], saved: Any, asked: Any) -> bool:
    """Whether a file or a folder is not where it was, and another place is given for it."""
    if field.metadata.get("path") is not True or not isinstance(saved, str):
        return False
    now = absolute(field, asked)
    gone = os.path.isabs(saved) and not os.path.exists(saved)
    return gone and isinstance(now, str) and os.path.isabs(now)


def _same_file(one: str, other: str) -> bool:
    # A name and a path that ends in it are two things, even where the path leads to nothing now.
    if not (os.path.isabs(one) and os.path.isabs(other)):
        return one == other
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def inputs(settings: Any) -> Mapping[str, list[pathlib.Path]]:
    """The files and folders that a run reads, by the flag that names them."""
    table = {}
    for field in dataclasses.fields(settings):
        value = absolute(field, getattr(settings, field.name))
        if is_path(field) and not field.metadata.get("operational") and isinstance(value, str):
            parts = value.split(",") if field.metadata["path"] == "several" else [value]
            found = [pathlib.Path(part) for part in parts if os.path.isabs(part)]
            if found:
                table[flag_name(field.name)] = found
    return table


def real(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path without links; where they lead in circles, as far as they can be followed."""
    return pathlib.Path(os.path.realpath(path))


def check_apart(settings: Any, is_run: bool) -> None:
    """Raises `InvalidInputError` where a run would write among the files that it reads.

    Args:
        settings: Of the run.
        is_run: Whether its output folder is a run's, which readers of folders leave out.
    """
    output = real(settings.output)
    for flag, files in inputs(settings).items():
        for file in files:
            path = real(file)
            if path == output or output in path.parents:
                raise InvalidInputError(
                    f"A run must not write where it reads: {flag} {printable(file)} lies in the "
                    f"output folder {printable(settings.output)}. Give another --output."
                )
            if path in output.parents and not is_run:
                _check_holds_no_images(flag, file, output)


def _check_holds_no_images(flag: str, folder: pathlib.Path, output: pathlib.Path) -> None:
    found = (f for f in output.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
    first = next(found, None)
    if first is not None:
        raise InvalidInputError(
            f"A run must not write where it reads: the output folder {printable(output)} lies in "
            f"{flag} {printable(folder)} and holds images, such as {printable(first.name)}. Give "
            "another --output."
        )

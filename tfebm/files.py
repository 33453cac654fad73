"""Files and folders that are either whole or not there."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tfebm.errors import InvalidInputError, WriteFailed
from tfebm.names import RUN_RECORD

interrupted = threading.Event()
"""Set by who handles an interrupt: from then on nothing is put under its name."""

_TEMPORARY = ".tmp-"
# `pathlib` makes one slash of two; a single letter is a drive.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
# Controls, the ends of lines and paragraphs, and what turns the direction of text.
_STEERING = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_REASONS = {os.strerror(code) for code in errno.errorcode}


def local_path(path: str | os.PathLike[str], what: str) -> pathlib.Path:
    """A path on this machine; a URL would else become a folder named "gs:" here.

    Args:
        path: What a person gave.
        what: The flag or the argument that it was given as.

    Raises:
        InvalidInputError: A URL, or what is not a path at all.
    """
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise InvalidInputError(
            f"{what} must be a path on this machine, as a string. Received {_shown(path)}. Give "
            "the name of a file or a folder."
        ) from None
    if "\0" in text:
        raise InvalidInputError(
            f"{what} must be the path of a file or a folder. Received {text!r}, with a null "
            "character in it. Leave that out."
        )
    url = _URL.match(text)
    if url is not None:
        instead = (
            f"Leave {url[1]}:// out"
            if url[1].lower() == "file"
            else "Give a local path, and copy the files with the tools of the other place"
        )
        raise InvalidInputError(
            f"{what} must be a path on this machine. Received the address "
            f"{_address(text, url)}, which is not read or written here. {instead}."
        )
    return pathlib.Path(text)


def _address(text: str, url: re.Match[str]) -> str:
    # `pathlib` makes one slash of several.
    return text if text[url.end(1) :].startswith("://") else f"{url[1]}://{text[url.end() :]}"


def _shown(value: object) -> str:
    simple = value is None or isinstance(value, bool | int | float)
    return repr(value) if simple else f"an object of the type {type(value).__name__}"


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises `WriteFailed`, one sentence, for what keeps `path` from being written."""
    try:
        yield
    except WriteFailed:
        raise
    except OSError as error:
        raise _write_failed(path, error.strerror or str(error)) from error
    except Exception as error:
        if not is_tensorflows(error):
            raise
        # TensorFlow writes "<path>; <the system's words>" under codes that mean other things too.
        message = getattr(error, "message", "")
        reason = next((text for text in _REASONS if f"; {text}" in message), None)
        if reason is None:
            raise
        raise _write_failed(path, reason) from error


def is_tensorflows(error: BaseException) -> bool:
    """Whether one of TensorFlow's operations failed; where it is not imported, none has."""
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    return errors is not None and isinstance(error, errors.OpError)


def _write_failed(path: str | os.PathLike[str], reason: str) -> WriteFailed:
    return WriteFailed(f"{os.fspath(path)} cannot be written: {reason}.")


def temporary(path: pathlib.Path) -> pathlib.Path:
    """Where `path` is filled; keeps the suffix, which Keras looks at."""
    return path.with_name(f"{_TEMPORARY}{path.name}")


@contextlib.contextmanager
def filling(*paths: pathlib.Path) -> Iterator[None]:
    """Leaves nothing at `paths` when it is cut short: a full disk needs the room."""
    for path in paths:
        _remove(path)
    try:
        yield
    except BaseException:
        for path in paths:
            _remove(path)
        raise


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def printable(path: str | os.PathLike[str]) -> str:
    """A path or a name as text of one line for a terminal.

    Bytes that are not UTF-8 and characters that steer a terminal are escaped.
    """
    return _STEERING.sub(lambda found: repr(found[0])[1:-1], storable(path))


def storable(path: str | os.PathLike[str]) -> str:
    """A path or a name as text that any file takes: bytes that are not UTF-8 are escaped."""
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode("utf-8")


def check_readable_path(path: pathlib.Path) -> None:
    """Raises `InvalidInputError` for a link that leads to nothing, and for too long a path."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidInputError(
                f"The path {printable(path)[:30]!r}... has more characters than a path may have. "
                "Give the path of a file or a folder."
            ) from None
    if path.is_symlink() and not path.exists():
        raise InvalidInputError(
            f"{printable(path)} is a link that leads to nothing. Repair it, or give the file or "
            "folder itself."
        )


def sync(path: pathlib.Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: pathlib.Path) -> None:
    """Waits until a folder is on the disk with everything in it."""
    for entry in path.rglob("*"):
        sync(entry)
    sync(path)


def put(beside: pathlib.Path, path: pathlib.Path) -> None:
    """Gives what was filled and synced its name."""
    if interrupted.is_set():
        raise KeyboardInterrupt
    os.replace(beside, path)
    sync(path.parent)


def replace_file(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Lets `write` fill a file beside `path`, and renames it onto `path` when it is complete.

    Raises:
        WriteFailed: As on a full disk; `path` is what it was.
    """
    beside = temporary(path)
    with writing(path), filling(beside):
        write(beside)
        sync(beside)
        put(beside, path)


def replace_folder(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """The same for a folder, which `write` finds empty; parents are made.

    Raises:
        WriteFailed: As on a full disk.
    """
    beside = temporary(path)
    with writing(path), filling(beside):
        beside.mkdir(parents=True)
        write(beside)
        sync_folder(beside)
        with _put_aside(path):
            put(beside, path)


def discard(path: pathlib.Path) -> None:
    """Removes a folder if it is there; cut short, it leaves no half of it under its name.

    Raises:
        WriteFailed: A folder that cannot be changed.
    """
    with writing(path), _put_aside(path):
        pass


@contextlib.contextmanager
def _put_aside(path: pathlib.Path) -> Iterator[None]:
    # Removed behind the block, which has to be short: in it neither the old nor the new is there.
    doomed = path.with_name(f"{_TEMPORARY}old-{path.name}")
    _remove(doomed)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, doomed)
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.rename(doomed, path)
        raise
    if doomed.exists():
        shutil.rmtree(doomed)


def sweep(directory: pathlib.Path) -> None:
    """Removes what a process that was killed had begun in a folder that nobody else writes."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        _remove(path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON in one piece; a number that JSON has no name for is refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def read_json(path: pathlib.Path) -> Any:
    """Reads what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a run's: it has a record as a run writes it."""
    try:
        found = read_json(pathlib.Path(os.fsdecode(folder), RUN_RECORD))
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(name), str) for name in ("program", "tfebm"))
        and isinstance(found.get("settings"), dict)
    )

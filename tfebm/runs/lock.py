"""One writer at a time: a lock on the output folder of a run."""

import atexit
import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
import time
from typing import Any

from tfebm import names
from tfebm.errors import InvalidInputError
from tfebm.files import printable

# The kernel takes the lock on this file back when the process ends, however it does; a file that a
# killed process left is taken over.
NAME = names.LOCK

_BESIDE = ".tmp-lock-"
_BETWEEN_LOOKS = 0.5  # seconds
_HAS_NONE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclasses.dataclass
class _Held:
    path: pathlib.Path
    descriptor: int
    process: int
    made: list[pathlib.Path]
    """Folders that were made for it, the innermost first."""


_held: dict[str, _Held] = {}


def acquire(folder: pathlib.Path, make: bool = True, wait: float = 0.0) -> None:
    """Locks a folder until `release`, or until this process ends.

    A process that holds the lock may ask for it again. A file system without locks is told on the
    standard error, and the run goes on.

    Args:
        folder: The output folder of a run.
        make: Whether it is made where it is not there; otherwise nothing is done then.
        wait: Seconds for the lock of a process on another machine, of which a network file system
            may not know yet that it is gone.

    Raises:
        InvalidInputError: Another process writes there, or the folder cannot be written.
    """
    key = os.path.realpath(folder)
    if key in _held or not (make or os.path.isdir(folder)):
        return
    made = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path, time.monotonic() + wait)
    except OSError as error:
        _remove(made)
        raise InvalidInputError(
            f"The folder {printable(folder)} cannot be written: {error.strerror}. Give another "
            "--output."
        ) from None
    if descriptor is not None:
        _held[key] = _Held(path, descriptor, os.getpid(), made)


def held() -> list[pathlib.Path]:
    """The folders that this process has locked."""
    return [each.path.parent for each in _held.values() if each.process == os.getpid()]


def release() -> None:
    """Gives all folders free that this process has locked; what was made and is empty goes."""
    while _held:
        _, held = _held.popitem()
        if held.process == os.getpid():  # a fork has a copy of the table
            with contextlib.suppress(OSError):
                if _is_at(held.descriptor, held.path):
                    held.path.unlink()
            os.close(held.descriptor)
            _remove(held.made)


def _remove(folders: list[pathlib.Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _lock(path: pathlib.Path, deadline: float) -> int | None:
    """A descriptor of the locked file at `path`; None where there are no locks."""
    while True:
        before = None
        try:
            with contextlib.suppress(FileNotFoundError):
                before = os.open(path, os.O_RDWR)
                if not _take(before):
                    owner = _owner(before)
                    here = owner.get("host", socket.gethostname()) == socket.gethostname()
                    if here or time.monotonic() > deadline:
                        raise InvalidInputError(_in_use(path.parent, owner))
                    time.sleep(_BETWEEN_LOOKS)
                    continue
                if not _is_at(before, path):  # given free, and removed, since it was opened
                    continue
            descriptor = _put(path, replace=before is not None)
        except _NoLocks as error:
            print(
                f"The folder {printable(path.parent)} cannot be locked: {error.strerror}. Make "
                "sure that no other run writes there.",
                file=sys.stderr,
            )
            return None
        finally:
            if before is not None:
                os.close(before)
        if descriptor is not None:
            for left in path.parent.glob(f"{_BESIDE}*"):  # by a process that was killed just here
                left.unlink(missing_ok=True)
            return descriptor


class _NoLocks(OSError):
    """The file system has none."""


def _take(descriptor: int) -> bool:
    """Whether the lock is this process' now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HAS_NONE:
            raise _NoLocks(*error.args) from None
        return False
    return True


def _put(path: pathlib.Path, replace: bool) -> int | None:
    """Puts a file at `path` that is locked and says by whom from its first moment on; None where
    another process was quicker."""
    beside = path.with_name(f"{_BESIDE}{os.getpid()}")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        record = {"process": os.getpid(), "host": socket.gethostname()}
        os.write(descriptor, json.dumps(record).encode())
        _take(descriptor)
        if replace:
            os.replace(beside, path)
        else:
            _link(beside, path)
    except (FileExistsError, FileNotFoundError):
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        beside.unlink(missing_ok=True)
    return descriptor


def _link(beside: pathlib.Path, path: pathlib.Path) -> None:
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in (*_HAS_NONE, errno.EPERM) or path.exists():
            raise
        os.replace(beside, path)  # a file system without links


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _in_use(folder: pathlib.Path, owner: dict[str, Any]) -> str:
    who = "Another process"
    if {"process", "host"} <= owner.keys():
        who = f"Process {owner['process']} on {owner['host']}"
    return (
        f"{who} is writing a run into the folder {printable(folder)}. Wait until it has ended, or "
        "give another --output."
    )


atexit.register(release)

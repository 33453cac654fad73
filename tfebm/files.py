"""Files that are either whole or not there."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any


def sync(path: pathlib.Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Lets `write` fill a file beside `path`, and renames it onto `path` when it is complete."""
    temporary = path.with_name(f".tmp-{path.name}")  # keeps the suffix, which Keras looks at
    write(temporary)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON in one piece; a number that JSON has no name for is refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: pathlib.Path) -> Any:
    """Reads what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))

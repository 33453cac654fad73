"""Fingerprints of the data of a run, kept in its `config.json`."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def fingerprint(data: Any) -> dict[str, dict[str, Any]]:
    """Shape, type and digest of every array of a data class, by its name.

    A tokenizer among the fields counts with its own digest.

    Args:
        data: A data class, a named tuple or a mapping, of arrays and of further ones.

    Example:

        >>> fingerprint(load_points("rings"))["x_test"]["shape"]
        [50000, 2]
    """
    return dict(_entries(data, ""))


def _entries(data: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(data, np.ndarray):
        yield name, {"shape": list(data.shape), "dtype": data.dtype.name, "sha256": _digest(data)}
    elif isinstance(getattr(data, "digest", None), str):
        yield name, {"digest": data.digest}
    else:
        for key, value in _parts(data).items():
            yield from _entries(value, f"{name}.{key}" if name else str(key))


def _parts(data: Any) -> Mapping[str, Any]:
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    if hasattr(data, "_asdict"):
        return data._asdict()
    return data if isinstance(data, Mapping) else {}


def _digest(array: np.ndarray) -> str:
    if array.dtype.hasobject:
        array = np.array([str(value) for value in array.ravel()])
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]


def differences(saved: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """How the data that are read differ from those that a run began with, array by array.

    What only one of them has is a matter of the settings: labels that a task needs, say.
    """
    changed = []
    for name in sorted(saved.keys() & found.keys()):
        before, now = saved[name], found[name]
        if before == now:
            continue
        if "digest" in now:
            changed.append(f"{name}: other words")
        elif before.get("shape") != now.get("shape"):
            changed.append(f"{name}: {_size(before)} then, {_size(now)} now")
        elif before.get("dtype") != now.get("dtype"):
            changed.append(f"{name}: {before.get('dtype')} then, {now.get('dtype')} now")
        else:
            changed.append(f"{name}: {_size(now)} as before, but with other contents")
    return changed


def _size(entry: Mapping[str, Any]) -> str:
    number, *each = entry.get("shape") or [1]
    return f"{number:,}" + (f" of {' x '.join(map(str, each))}" if each else "")

"""The `config.json` of a run: its program, its settings, its data, its files."""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tfebm.errors import InvalidInputError
from tfebm.files import printable
from tfebm.names import RUN_RECORD
from tfebm.runs.cluster import read_cluster

PROGRAMS = ("latent_ebm", "short_run", "anomaly", "flow_ebm", "text")
"""Names of the programs in `train/`."""


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The record of a run: "program", "settings", and what else there is.

    Raises:
        InvalidInputError: There is no run, or its settings cannot be read.
    """
    path = folder / RUN_RECORD
    if not os.path.exists(path):
        raise InvalidInputError(
            f"The folder {printable(folder)} holds no run to resume: there is no {RUN_RECORD}. "
            "Start one without --resume, or check --output."
        )
    try:
        found = json.loads(path.read_text("utf-8"))
        settings, remembered = found["settings"], found.get("remembered", {})
        if not isinstance(settings, dict) or not isinstance(remembered, dict):
            raise TypeError("its settings are not a table")
        return {**found, "program": str(found["program"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInputError(
            f"{printable(path)} cannot be read: {error!r}. Restore it, or start another run in "
            "another --output."
        ) from None


def check_program(found: Mapping[str, Any], folder: pathlib.Path, program: str) -> None:
    """Raises `InvalidInputError` where a run is of another program."""
    other = found["program"]
    if other == program:
        return
    script = f"train/{other}.py" if other in PROGRAMS else "the script that began it"
    raise InvalidInputError(
        f"The folder {printable(folder)} is a run of {other}, and {program} cannot go on with it. "
        f"Resume it with {script}, or give the --output of a run of {program}."
    )


def of_resumed(output: str | os.PathLike[str]) -> tuple[pathlib.Path, dict[str, Any]] | None:
    """The folder and the record of the run that a resume goes on with; None where there is none.

    A worker's own comes before the chief's, whose disk may be another one.

    Raises:
        InvalidInputError: A `config.json` that cannot be read.
    """
    folder = pathlib.Path(output)
    own = folder
    with contextlib.suppress(InvalidInputError):  # no cluster, or none of several workers
        place = read_cluster().place
        own = folder / "workers" / str(place) if place else folder
    found = read(folder) if os.path.exists(folder / RUN_RECORD) else None
    if own != folder and os.path.exists(own / RUN_RECORD):
        of_several = found is None or found["settings"].get("strategy") == "multiworker"
        if of_several:
            return own, read(own)
    return None if found is None else (folder, found)

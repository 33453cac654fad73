"""How a training script begins: its flags first, and then TensorFlow and the data."""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tfebm.errors import InvalidInputError
from tfebm.runs.cluster import read_cluster
from tfebm.runs.parser import parse
from tfebm.runs.settings import RunSettings

if TYPE_CHECKING:
    from tfebm.runs.session import Session


def open_session(
    name: str,
    settings_class: type[RunSettings],
    presets: Mapping[str, Mapping[str, Any]],
    default_preset: str | Callable[[Mapping[str, Any]], str],
    description: str,
    load: Callable[[Any], Any] | None = None,
    examples: Callable[[Any], Any] = lambda data: data.x_train,
    check: Callable[[Any], Any] | None = None,
) -> "Session":
    """Reads the command line and the data, and checks all that a run could fail on later.

    Args:
        name: Of the program.
        settings_class: Its settings.
        presets: As in `tfebm.runs.parse`, like the next two.
        default_preset: Where none is named.
        description: Of the program.
        load: Settings to data. Default: the image set that they name.
        examples: Data to what is trained on.
        check: Raises `InvalidInputError` for settings that no data could mend; called before any
            are read.

    Raises:
        InvalidInputError: Flags, data or folders that cannot be used; workers whose flags or data
            are not the same.
        WorkerLost: A worker that has not come.
        SystemExit: As `tfebm.runs.parse`.
    """
    settings, asked = parse(settings_class, presets, default_preset, description, program=name)
    if not _is_another_worker():
        print(f"{name}: starting TensorFlow ...", flush=True)
    # The flags can be used: what takes seconds comes now.
    from tfebm.runs import session

    def read(settings: Any) -> Any:
        if check is not None:
            check(settings)
        return (load or session.load_image_set)(settings)

    return session.begin_session(name, settings_class, settings, asked, read, examples)


def _is_another_worker() -> bool:
    """Whether this is one of several workers, and not the one that reports."""
    if not os.environ.get("TF_CONFIG"):
        return False
    with contextlib.suppress(InvalidInputError):
        return not read_cluster().is_chief
    return False

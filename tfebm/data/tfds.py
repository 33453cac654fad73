"""Sets of TensorFlow Datasets: how they are found, and what to say where they are not."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tfebm.errors import InvalidInputError

_TRIES = 3  # of a download that fails; TensorFlow Datasets' own ten take two minutes


def find(
    name: str, data_dir: str | None, instead: str, unknown: Callable[[Iterable[str]], Exception]
) -> Any:
    """The builder of a set; nothing is downloaded yet.

    Args:
        name: With a configuration and a version where one asks for them.
        data_dir: Where TensorFlow Datasets keeps its files; its own default for None.
        instead: What else a person may give, for a message.
        unknown: The error for a name that is none of those that it is given.

    Raises:
        InvalidInputError: A set that is known and cannot be loaded.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise not_loaded(name, error, instead) from None
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise unknown(tfds.list_builders()) from None
    except Exception as error:  # a registry that cannot be reached raises what its client raises
        if _missing_module(error) or base(name) in tfds.list_builders():
            raise not_loaded(name, error, instead) from None
        raise unknown(()) from None


def prepare(builder: Any, name: str, instead: str) -> None:
    """Downloads a set where it is not there yet.

    Raises:
        InvalidInputError: It cannot be loaded.
    """
    try:
        with _fewer_tries():
            builder.download_and_prepare()
    except Exception as error:
        raise not_loaded(name, error, instead) from None


def base(name: str) -> str:
    """The name of a set without its configuration and version."""
    return re.split("[/:]", name)[0]


def not_loaded(name: str, error: Exception, instead: str) -> InvalidInputError:
    """That a set is known but cannot be had."""
    about = f"The data set {name!r} of TensorFlow Datasets could not be loaded"
    missing = _missing_module(error)
    if missing is not None:
        package = (missing.name or "").split(".")[0]
        remedy = f"Install it: pip install {package}" if package else "Repair the installation"
        return InvalidInputError(
            f"{about}, since a module is missing or broken: {type(missing).__name__}: {missing}. "
            f"{remedy}."
        )
    said = " ".join(str(error).split()).rstrip(".")
    said = said if len(said) <= 300 else f"{said[:297]}..."
    return InvalidInputError(
        f"{about}: {type(error).__name__}: {said}. Where there is no network, prepare it on "
        f"another machine and give its folder as the data folder (`data_dir`), or use {instead}."
    )


def _missing_module(error: BaseException) -> ImportError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ImportError):
        cause = cause.__cause__ or cause.__context__
    return cause


@contextlib.contextmanager
def _fewer_tries() -> Iterator[None]:
    from tensorflow_datasets.core.download import downloader

    before = downloader.MAX_RETRIES
    downloader.MAX_RETRIES = _TRIES
    try:
        yield
    finally:
        downloader.MAX_RETRIES = before

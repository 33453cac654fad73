"""Keras' methods as they are called: their arguments by name, and what `validation_data` holds."""

import inspect
from collections.abc import Callable
from typing import Any

from tfebm.errors import InvalidInputError, received


def by_name(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Arguments of a method by their names, however they were given."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{function.__name__}() of a Keras model: {error}") from None
    given = dict(bound.arguments)
    given.pop("self")
    given.update(given.pop("kwargs", {}))
    return given


def validation(given: Any) -> Any:
    """x of `validation_data`, which may be a tuple as Keras takes it."""
    if not isinstance(given, (tuple, list)):
        return given
    if len(given) == 3 and given[2] is not None:
        raise InvalidInputError(
            "`validation_data` holds sample weights, which are not supported: the "
            "likelihood counts every example the same. Drop the third entry."
        )
    if len(given) not in (1, 2, 3):
        raise InvalidInputError(
            f"`validation_data` must be x or (x, y). Received {received(given)}. Give an array."
        )
    return given[0]

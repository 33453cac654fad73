"""The page of docs/results: a template, and figures out of records."""

import fnmatch
import re
import statistics
from typing import Any

from tfebm.errors import InvalidInputError


def fill(template: str, records: dict[str, Any]) -> str:
    """A template's text, its figures filled in.

    A figure is {{RECORDS :: PATH :: FORMAT}}. RECORDS are files' names or patterns of them, with
    commas between; "A - B" are the differences of two. PATH leads into each: keys, [0] for an item
    of a list, [] for all of them, [key=value] for those with a value. FORMAT is Python's, behind
    "mean", "spread" (mean and standard deviation), "error" (mean and its standard error), "sum" or
    "largest" where there are several values.
    """
    return re.sub(r"\{\{(.+?)\}\}", lambda found: figure(found[1], records), template)


def figure(reference: str, records: dict[str, Any]) -> str:
    """The text that stands for `RECORDS :: PATH :: FORMAT` on the page.

    Raises:
        InvalidInputError: Nothing is there, or several values where one is asked for.
    """
    asked = reference.strip()
    try:
        names, path, form = (part.strip() for part in reference.split("::"))
        values, *others = (_of_records(records, name, path) for name in names.split(" - "))
        for other in others:
            values = [one - another for one, another in zip(values, other, strict=True)]
        how, _, form = form.rpartition(" ")
        if how not in ("", "mean", "spread", "error", "sum", "largest"):
            raise ValueError(f"{how!r} is no way to sum up")
        if how in ("spread", "error"):
            width = statistics.stdev(values) / (1.0 if how == "spread" else len(values) ** 0.5)
            return f"{format(statistics.mean(values), form)} ± {format(width, form)}"
        if how in ("mean", "largest", "sum"):
            sums = {"mean": statistics.mean, "largest": max, "sum": sum}
            return format(sums[how](values), form)
        if len(set(map(str, values))) > 1:
            raise ValueError(f"there are {len(values)} values: say mean or spread")
        return format(values[0], form)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InvalidInputError(
            f"The page asks for {asked!r}, which cannot be had: {error}. Mend docs/results/"
            "template.txt, or make the row again."
        ) from None


def _of_records(records: dict[str, Any], names: str, path: str) -> list[Any]:
    """The values at a path of records that are named, all of which must have some."""
    found = []
    for pattern in names.split(","):
        chosen = sorted(fnmatch.filter(records, pattern.strip()))
        if not chosen:
            raise ValueError(f"there is no record {pattern.strip()}")
        for name in chosen:
            values = _values(records[name], path)
            if not values:
                raise ValueError(f"the record {name} has no {path}")
            found += values
    return found


def _values(found: Any, path: str) -> list[Any]:
    values = [found]
    for part in path.split("/"):
        key, bracket, selection = part.rstrip("]").partition("[")
        values = [value[key] for value in values if value.get(key) is not None]
        if not bracket:
            continue
        if selection.isdigit():
            values = [value[int(selection)] for value in values]
            continue
        name, _, wanted = selection.partition("=")
        items = [item for value in values for item in value]
        values = [item for item in items if not name or str(item[name]) == wanted]
    return values

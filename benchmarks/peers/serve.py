"""What all peers' processes do: they say what they are, then answer lines.

The first line a peer writes is JSON: its versions, or `{"missing": why}`. It then answers each line
of its input:

  step VARIANT    runs one step without noise, writes its arrays to `VARIANT.npz`: "done"
  time VARIANT    runs what is timed, once: its seconds
  look VARIANT    writes what came out so far to `VARIANT.npz`, of those that learn: "done"

or with "missing REASON" where the variant does not run here.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

# Answers go where the output went; what a library prints goes to the errors.
_ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


class Variant(NamedTuple):
    """One way of running the problem."""

    step: Callable[[], Mapping[str, Any]]
    """One step without noise; arrays by name."""
    run: Callable[[], Any]
    """What is timed. It returns when all is computed."""
    look: Callable[[], Mapping[str, Any]] | None = None
    """What came out so far; arrays by name."""


def missing(error: Exception) -> NoReturn:
    """Says why this peer is not here, and ends."""
    _answer(json.dumps({"missing": str(error)}))
    sys.exit()


def _answer(line: str) -> None:
    print(line, file=_ANSWERS, flush=True)


def serve(facts: Mapping[str, Any], load: Callable[[dict[str, np.ndarray]], dict]) -> None:
    """Answers until its input ends.

    Args:
        facts: Versions.
        load: Makes the variants, by name, of the arrays in `problem.npz`; run at the first line.
    """
    folder = pathlib.Path(sys.argv[1])
    _answer(json.dumps(facts))
    variants: dict[str, Variant] = {}
    for line in sys.stdin:
        command, name = line.rstrip("\n").split(" ", 1)
        try:
            variants = variants or load(dict(np.load(folder / "problem.npz")))
            if command in ("step", "look"):
                np.savez(folder / f"{name}.npz", **getattr(variants[name], command)())
                answer = "done"
            else:
                started = time.perf_counter()
                variants[name].run()
                answer = str(time.perf_counter() - started)
        except Exception as error:  # whatever a compiler that is not there raises
            first = str(error).strip().split("\n")[0]
            answer = f"missing {type(error).__name__}: {first}"
        _answer(answer)


def threads() -> int:
    """As many as the side that asks has."""
    return int(sys.argv[2])

"""Peers: the same work by other packages, each in a process of its own.

`peers/serve.py` is the other end.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "peers"
FLAG = {
    "--peers": {
        "metavar": "PATH",
        "default": sys.executable,
        "help": "a Python that has the peers (this one)",
    }
}
"""Of every benchmark with peers, for `timing.options`."""


class MissingError(Exception):
    """A peer, or a variant of it, that does not run here; its message says why."""


class Peer:
    """A process that runs `peers/<script>.py`.

    Args:
        script: Its name.
        folder: Where `problem.npz` lies, and where the peer writes.
        python: A Python that has the package.

    Raises:
        MissingError: A package that cannot be imported.
    """

    def __init__(
        self, script: str, folder: pathlib.Path, python: str | os.PathLike = sys.executable
    ) -> None:
        self._folder = folder
        command = [python, FOLDER / f"{script}.py", folder, str(os.cpu_count())]
        # What its libraries say besides is of no use here; errors come as answers.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        try:
            self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes)
        except OSError as error:
            raise MissingError(str(error)) from None
        self.facts: dict[str, Any] = json.loads(self._answer())
        if "missing" in self.facts:
            self.close()
            raise MissingError(self.facts["missing"])

    def step(self, variant: str) -> dict[str, np.ndarray]:
        """What one step without noise gives, arrays by name."""
        self._ask(f"step {variant}")
        return dict(np.load(self._folder / f"{variant}.npz"))

    def look(self, variant: str) -> dict[str, np.ndarray]:
        """What one that learns has learned so far, arrays by name."""
        self._ask(f"look {variant}")
        return dict(np.load(self._folder / f"{variant}.npz"))

    def seconds(self, variant: str) -> float:
        """Of one run."""
        return float(self._ask(f"time {variant}"))

    @property
    def peak_mib(self) -> float | None:
        """Of its memory so far."""
        return peak_mib(self._process.pid)

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()  # the end of its input ends it

    def _ask(self, line: str) -> str:
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise MissingError(self._ended()) from None
        answer = self._answer()
        if answer.startswith("missing "):
            raise MissingError(answer.removeprefix("missing ").strip())
        return answer

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise MissingError(self._ended())
        return line

    def _ended(self) -> str:
        return f"its process ended with exit code {self._process.wait()}"


def peak_mib(process: int) -> float | None:
    """Peak memory. Linux starts `ru_maxrss` of a new process at its parent's; this does not."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


class Side(NamedTuple):
    """One of those that are compared."""

    step: Callable[[], np.ndarray]
    """The latents after one step without noise."""
    seconds: Callable[[], float]
    """Runs what is timed; what it took."""
    exact: bool = True
    """Whether its step has to agree with the first side's: it computes in float32."""


class Peers:
    """Several peers on one problem, closed at the end of a `with`.

    Args:
        scripts: Names of scripts to names in a table.
        problem: Arrays by name, of which each peer makes what it runs.
        python: A Python that has the packages. Scripts that end in "_tf" run in this one.
    """

    def __init__(
        self, scripts: dict[str, str], problem: dict[str, Any], python: str | os.PathLike
    ) -> None:
        self.facts: dict[str, Any] = {}
        """Versions."""
        self.missing: dict[str, str] = {}
        """Why a side is not there, by its name."""
        self.found: dict[str, Peer] = {}
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        np.savez(folder / "problem.npz", **problem)
        for script, name in scripts.items():
            try:
                found = Peer(script, folder, sys.executable if script.endswith("_tf") else python)
            except MissingError as error:
                self.missing[name] = str(error)
            else:
                self.found[name] = found
                self.facts |= found.facts

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *_: Any) -> None:
        for found in self.found.values():
            found.close()
        self._folder.cleanup()

    def sides(
        self, name: str, variants: Iterable[str], inexact: Iterable[str] = (), what: str = ""
    ) -> dict[str, Side]:
        """Sides by "<name>, <variant>"; none where the peer is missing.

        Args:
            name: Of a peer.
            variants: Of its script's.
            inexact: Those that compute in bfloat16.
            what: Before the variant's name, for the peer.
        """
        if name not in self.found:
            return {}
        found = self.found[name]
        return {
            f"{name}, {variant}": Side(
                lambda variant=variant: found.step(what + variant)["z"],
                lambda variant=variant: found.seconds(what + variant),
                variant not in inexact,
            )
            for variant in variants
        }

    def check(self, sides: dict[str, Side], tolerance: float) -> dict[str, float]:
        """How far each step is from the first side's, relative to the largest latent.

        Sides that do not run here leave `sides` for `missing`.

        Raises:
            SystemExit: Sides that ought to agree do not.
        """
        first, *others = sides
        expected = sides[first].step()
        apart = {}
        for name in others:
            try:
                z = sides[name].step()
            except MissingError as error:
                self.missing[name] = str(error)
                del sides[name]
                continue
            apart[name] = float(np.max(np.abs(z - expected)) / np.max(np.abs(expected)))
            if sides[name].exact and not apart[name] < tolerance:
                raise SystemExit(
                    f"A step of {first} and of {name} must agree to {tolerance:g}. The latents are "
                    f"{apart[name]:.1e} apart."
                )
        return apart

    def missing_rows(self) -> list[dict[str, str]]:
        """Rows for a record of what is not there, which are printed."""
        for side, reason in self.missing.items():
            print(f"{side}: missing ({reason})", flush=True)
        return [{"side": side, "missing": reason} for side, reason in self.missing.items()]

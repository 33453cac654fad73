"""What the benchmarks share: their command line, their clock, the machine."""

import argparse
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def options(description: str, extra: dict[str, dict] | None = None) -> argparse.Namespace:
    """`--json FILE` and `--repeats N`, of at least five.

    Args:
        description: Of the benchmark.
        extra: Its own options, names to what `add_argument` is given for each.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write a record")
    parser.add_argument("--repeats", metavar="N", type=int, default=5, help="at least 5")
    for name, settings in (extra or {}).items():
        parser.add_argument(name, **settings)
    given = parser.parse_args()
    if given.repeats < 5:
        parser.error(f"--repeats must be at least 5. Received {given.repeats}.")
    return given


def machine() -> dict[str, Any]:
    """What the figures were measured on, printed and for the record."""
    found = {"processor": processor(), "cores": os.cpu_count(), "tensorflow": tf.__version__}
    print(f"{found['processor']}, {found['cores']} cores, TensorFlow {tf.__version__}")
    return found


def processor() -> str:
    """The processor's name; the extra `benchmarks` brings the package that knows it."""
    try:
        import cpuinfo
    except ImportError:
        return platform.processor() or platform.machine()
    return cpuinfo.get_cpu_info().get("brand_raw", platform.machine())


def seconds(functions: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    """Times of each function, run in turns after one warm-up each."""
    for function in functions.values():
        function()
    times: dict[Any, list[float]] = {key: [] for key in functions}
    for _ in range(repeats):
        for key, function in functions.items():
            started = time.perf_counter()
            function()
            times[key].append(time.perf_counter() - started)
    return times

"""What the benchmarks share: their command line, their clock, the machine."""

import argparse
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks import peer


def options(description: str, extra: dict[str, dict] | None = None) -> argparse.Namespace:
    """`--json FILE` and `--repeats N`, of at least five.

    Args:
        description: Of the benchmark.
        extra: Its own options, names to what `add_argument` is given for each.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write a record")
    parser.add_argument("--repeats", metavar="N", type=int, default=5, help="at least 5")
    for name, settings in (extra or {}).items():
        parser.add_argument(name, **settings)
    given = parser.parse_args()
    if given.repeats < 5:
        parser.error(f"--repeats must be at least 5. Received {given.repeats}.")
    return given


def write(path: Path | None, record: dict[str, Any]) -> None:
    """Writes the record, where `--json` asks for it."""
    if path:
        path.write_text(json.dumps(record, indent=2) + "\n")


def use_cpu_only() -> None:
    """With a thread a core; before the first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(os.cpu_count())
    tf.config.set_visible_devices([], "GPU")


def machine() -> dict[str, Any]:
    """What the figures were measured on, printed and for the record."""
    found = {"processor": processor(), "cores": os.cpu_count(), "tensorflow": tf.__version__}
    print(f"{found['processor']}, {found['cores']} cores, TensorFlow {tf.__version__}")
    return found


def processor() -> str:
    """The processor's name; the extra `benchmarks` brings the package that knows it."""
    return _cpu().get("brand_raw") or platform.processor() or platform.machine()


def computes_in_bfloat16() -> bool:
    """Whether the processor does; on others, bfloat16 is slower than float32."""
    return any("bf16" in flag for flag in _cpu().get("flags", ["bf16, for all one knows"]))


@functools.cache
def _cpu() -> dict[str, Any]:
    try:
        import cpuinfo
    except ImportError:
        return {}
    return cpuinfo.get_cpu_info()


def clocked(function: Callable[[], Any]) -> Callable[[], float]:
    """`function`, returning the seconds it took."""

    def seconds() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return seconds


def seconds(functions: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    """Times of each function, run in turns after one warm-up each."""
    return turns({key: clocked(function) for key, function in functions.items()}, repeats)


def turns(
    sides: dict[Any, Callable[[], float]], repeats: int, missing: dict[Any, str] | None = None
) -> dict[Any, list[float]]:
    """What each side says it took, run in turns after one warm-up each.

    A side that does not run here has no times; `missing` is told why.
    """
    times: dict[Any, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name in list(times):
            try:
                times[name].append(sides[name]())
            except peer.MissingError as error:
                if missing is None:
                    raise
                missing[name] = str(error)
                del times[name]
    return {name: measured[1:] for name, measured in times.items()}


def summary(times: Iterable[float]) -> dict[str, Any]:
    """Median and spread, for a record."""
    times = list(times)
    return {
        "median_seconds": statistics.median(times),
        "spread_seconds": [min(times), max(times)],
    }

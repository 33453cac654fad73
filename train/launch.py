"""Starts a training script as several workers on this machine, to try --strategy multiworker out.

  python train/launch.py --workers 2 train/latent_ebm.py --output runs/two
  python train/launch.py --workers 2 --restarts 0 train/text.py --epochs 1 --overwrite

What follows the script is passed on to every worker. When one of them is lost, the others are
stopped and all start again, from the newest checkpoint that all have. A worker that says that its
input cannot be used (2), that training diverged (1), or that fails in another way of its own ends
the job with its code.
"""

__reads_flags_first__ = True  # and needs no TensorFlow itself

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from tfebm import runs
from tfebm.runs.parser import Parser

# What a restart can mend: a signal, and 138, a worker's word for having lost another.
_INTERRUPTED = 128 + signal.SIGINT
_READER_GONE = 128 + signal.SIGPIPE
_LAST_WORDS = 5.0  # seconds for the others once one is lost, and for a worker asked to stop
_FAREWELL = 60.0  # and for the others when one has finished


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        usage="%(prog)s [--workers N] [--restarts N] [--gpus] SCRIPT [FLAG ...]",
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes (default: 2)"
    )
    parser.add_argument(
        "--restarts", type=int, default=3, metavar="N", help="of the whole job (default: 3)"
    )
    parser.add_argument(
        "--gpus", action="store_true", help="worker i has GPU i (default: all work on the CPU)"
    )
    parser.add_argument("script", metavar="SCRIPT", help="a training script")
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="FLAG", help="of the script")
    found = parser.parse_args(argv)
    if found.workers < 2:
        parser.error(f"--workers must be at least 2. Received {found.workers}.")
    if found.restarts < 0:
        parser.error(f"--restarts must be at least 0. Received {found.restarts}.")
    if not pathlib.Path(found.script).is_file():
        parser.error(f"There is no script {found.script}.")
    if "--overwrite" in found.flags and found.restarts:
        parser.error(
            "--overwrite cannot be told from a run's own beginning when the job starts again. Give "
            "--restarts 0 with it, before the script, or remove the folder."
        )
    if found.gpus and len(_gpus(found.workers)) < found.workers:
        parser.error(
            f"--gpus needs a GPU for each of the {found.workers} workers. CUDA_VISIBLE_DEVICES "
            f"names {len(_gpus(found.workers))}."
        )
    return found


def cluster_configs(num_workers: int) -> list[str]:
    """`TF_CONFIG` of each worker, on ports of this machine that are free."""
    with contextlib.ExitStack() as stack:  # all at once, so that no port comes twice
        doors = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(num_workers)
        ]
        addresses = [f"127.0.0.1:{door.getsockname()[1]}" for door in doors]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})
        for i in range(num_workers)
    ]


def _gpus(num_workers: int) -> list[str]:
    """A GPU for each worker, of those that this process may use."""
    shared = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shared.split(",") if shared else [str(i) for i in range(num_workers)]


def _start(arguments: argparse.Namespace, flags: list[str]) -> list[subprocess.Popen]:
    processes = []
    gpus = _gpus(arguments.workers)
    for i, config in enumerate(cluster_configs(arguments.workers)):
        devices = gpus[i] if arguments.gpus else "-1"
        environ = {**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": devices}
        # Last, so that it wins over another strategy among the flags.
        command = [sys.executable, arguments.script, *flags, "--strategy", "multiworker"]
        processes.append(subprocess.Popen(command, env=environ))
    return processes


def _stop(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _LAST_WORDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(processes: list[subprocess.Popen]) -> dict[int, int]:
    """Until all have finished or one has failed; the codes of those that ended by themselves."""
    since: dict[bool, float] = {}  # the first end, and (True) the first loss
    while True:
        codes = {i: p.returncode for i, p in enumerate(processes) if p.poll() is not None}
        failed = [code for code in codes.values() if code]
        if len(codes) == len(processes) or not all(map(_mendable, failed)):
            return codes
        if codes:
            lost = bool(failed)
            # A worker may be lost because another ends by its own mistake: that one gets the time
            # to say so.
            waited = time.monotonic() - since.setdefault(lost, time.monotonic())
            if waited > (_LAST_WORDS if lost else _FAREWELL):
                return codes
        time.sleep(0.1)


def _mendable(code: int) -> bool:
    meant = code in (_INTERRUPTED, -signal.SIGINT, _READER_GONE, -signal.SIGPIPE)
    return not meant and (code < 0 or code >= 128)


def _named(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def main(argv: list[str] | None = None) -> int:
    """Runs the job; the exit code of the worker that ended it, 0 when all have finished."""
    arguments = _arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    flags = arguments.flags
    for attempt in range(arguments.restarts + 1):
        processes: list[subprocess.Popen] = []
        try:
            processes = _start(arguments, flags)
            codes = {i: code for i, code in _wait(processes).items() if code}
        except KeyboardInterrupt:
            return _INTERRUPTED
        finally:
            _stop(processes)
        if not codes:
            return 0
        final = [code for code in codes.values() if not _mendable(code)]
        if final:
            return 128 - final[0] if final[0] < 0 else final[0]
        lost = "; ".join(f"worker {i} {_named(code)}" for i, code in codes.items())
        if attempt < arguments.restarts:
            print(
                f"launch.py: {lost}. All workers start again (restart {attempt + 1} of "
                f"{arguments.restarts}).",
                flush=True,
            )
        if not {"--resume", "--resume-or-begin"} & set(flags):
            flags = [*flags, "--resume-or-begin"]
    print(f"launch.py: {lost}, and no restart is left.", file=sys.stderr)
    return next(128 - code if code < 0 else code for code in codes.values())


if __name__ == "__main__":
    runs.run_command(lambda: sys.exit(main()), again="start again", insist=False)

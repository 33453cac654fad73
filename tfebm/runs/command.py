"""Running a script's `main` with exit codes that mean something."""

import contextlib
import errno
import os
import pathlib
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

from tfebm import files, start
from tfebm.errors import InvalidInputError, JobFailed, TrainingDiverged, WorkerLost, WriteFailed
from tfebm.runs import lock

# 128 and a signal that means nothing: operators restart a process whose code is above 127.
LOST_WORKER = 128 + 10
READER_GONE = 128 + signal.SIGPIPE

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOST = ("UnavailableError", "AbortedError", "DeadlineExceededError")
_SECONDS = 1.0


def run_command(
    main: Callable[[], None],
    again: str | None = None,
    insist: bool = True,
) -> None:
    """Calls `main`, and ends the process unless all went well.

    Exit codes: 0 when done, 1 for a run that diverged or a bulk job that failed, 2 for input that
    cannot be used, 3 for a file that cannot be written, 130 for an interrupt, 138 for a lost
    worker, 141 where nobody reads the output any more (`| head`). All but 0 say why in a sentence
    or two, without a traceback.

    Args:
        main: The command.
        again: What a person does after 3, 130 and 141, as the end of a sentence. Default: what the
            folder that the command has locked allows.
        insist: Raise an interrupt again each second, for commands that run TensorFlow.
    """
    start.open_standard_streams()
    for stream in (sys.stdout, sys.stderr):  # names of files need not be in the terminal's encoding
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    start.take_over_interrupts()
    to_finish = again or "start again"
    try:
        with _interrupts_that_get_through(insist):
            try:
                main()
            finally:
                to_finish = again or _how_to_go_on(lock.held())
                lock.release()
                # Not at the end of the interpreter, which has a code of its own for what fails.
                _flush(sys.stdout)
    except InvalidInputError as error:
        fail(str(error), 2)
    except (TrainingDiverged, JobFailed) as error:
        fail(str(error), 1)
    except WorkerLost as error:
        fail(str(error), LOST_WORKER)
    except WriteFailed as error:
        full = any(os.strerror(code) in str(error) for code in _FULL)
        fail(f"{error} {'Make room for it' if full else 'Mend that'}, and {to_finish}.", 3)
    except MemoryError as error:
        fail(_too_large(error), 2)
    except BrokenPipeError:
        if not _is_read_no_more(sys.stdout) and not _is_read_no_more(sys.stderr):
            raise  # another pipe, or a connection
        fail(f"Nobody reads the output any more. To finish, {to_finish}.", READER_GONE)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        # What is printed goes to a file on a full disk.
        fail(f"The output cannot be written: {error.strerror}. Make room, and {to_finish}.", 3)
    except KeyboardInterrupt:
        fail(f"Interrupted. To finish, {to_finish}.", start.INTERRUPTED)
    except Exception as error:
        if files.is_tensorflows(error) and type(error).__name__ == "ResourceExhaustedError":
            fail(_too_large(error), 2)
        if not (files.is_tensorflows(error) and _is_loss(error)):
            raise
        lines = str(getattr(error, "message", "")).splitlines()
        reason = next((line for line in lines if "aborted by" in line), "")
        fail(
            f"Another worker is gone. {reason.strip()} Start all workers again with "
            "--resume-or-begin; train/launch.py and cluster operators do.",
            LOST_WORKER,
        )


def _how_to_go_on(folders: list[pathlib.Path]) -> str:
    if any(True for folder in folders for _ in folder.glob("checkpoints/**/step-*")):
        return "go on from the newest checkpoint with --resume"
    return "go on with --resume" if any(map(files.is_run, folders)) else "start again"


def fail(message: str, code: int) -> NoReturn:
    """Ends the program with one sentence on the standard error."""
    _give_up_unwritten(sys.stdout)
    with contextlib.suppress(OSError):
        print(f"{_program()}: {message}", file=sys.stderr)
    _give_up_unwritten(sys.stderr)
    raise SystemExit(code)


def _program() -> str:
    # `python -m` names the file that it runs.
    return "tfebm" if start.IS_PACKAGE_COMMAND else sys.argv[0].rsplit("/", 1)[-1]


def _flush(stream: TextIO | None) -> None:
    if stream is not None and not stream.closed:
        stream.flush()


def _give_up_unwritten(stream: TextIO | None) -> None:
    """Drops what cannot be written: Python would try again at its end, and exit with 120.

    It is a full disk, or a pipe whose reader is gone.
    """
    try:
        _flush(stream)
    except OSError:
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_read_no_more(stream: TextIO | None) -> bool:
    """Whether it is a pipe whose reader is gone."""
    if stream is None:
        return False
    with contextlib.suppress(OSError, ValueError):  # as of a stream that is not a file
        looks = select.poll()
        looks.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in looks.poll(0))
    return False


def _too_large(error: Exception) -> str:
    text = str(getattr(error, "message", error))
    text = text.rpartition("}} ")[2].partition(" [Op:")[0].strip() or "an allocation failed"
    return (
        f"The memory does not suffice: {text.splitlines()[0].rstrip('.')}. Lower --batch-size, the "
        "sizes of the networks or the number of chains, or take smaller data."
    )


def _is_loss(error: Exception) -> bool:
    """Whether TensorFlow gave up because a worker no longer answers."""
    has_peers = bool(os.environ.get("TF_CONFIG"))
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return has_peers and (
        not kinds.isdisjoint(_LOST) or "Collective ops is aborted" in getattr(error, "message", "")
    )


@contextlib.contextmanager
def _interrupts_that_get_through(insist: bool) -> Iterator[None]:
    """Raises `KeyboardInterrupt` where Ctrl-C is pressed, again each second, and at the end.

    TensorFlow's C++ asks Python objects for attributes while it traces, and takes whatever is
    raised there for "no": an interrupt is lost now and then, and the graph may be another one. So
    nothing is put under its name any more from the first one on.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not insist:
        yield  # as in the background of a shell, where Ctrl-C is for somebody else
        return

    def interrupt(*_: Any) -> None:
        files.interrupted.set()
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)
    }
    try:
        try:
            yield
        except Exception:
            if not files.interrupted.is_set():
                raise
        if files.interrupted.is_set():
            raise KeyboardInterrupt
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        files.interrupted.clear()
        for number, handler in before.items():
            signal.signal(number, handler)

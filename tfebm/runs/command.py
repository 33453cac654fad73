"""Running a script's `main` with exit codes that mean something."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfebm import files
from tfebm.errors import InvalidInputError, JobFailed, TrainingDiverged, WorkerLost, WriteFailed
from tfebm.runs.settings import fail

# 128 and a signal that means nothing: operators restart a process whose code is above 127.
LOST_WORKER = 128 + 10

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SECONDS = 1.0


def run_command(
    main: Callable[[], None], again: str = "go on from the newest checkpoint with --resume"
) -> None:
    """Calls `main`, and ends the process unless all went well.

    Exit codes: 0 when done, 1 for a run that diverged or a bulk job that failed, 2 for input that
    cannot be used, 3 for a file that cannot be written, 130 for an interrupt, 138 for a lost
    worker. All but 0 say why in a sentence or two, without a traceback.

    Args:
        main: The command.
        again: What a person does after 3 and 130, as the end of a sentence.
    """
    try:
        with _interrupts_that_get_through():
            main()
    except InvalidInputError as error:
        fail(str(error), 2)
    except (TrainingDiverged, JobFailed) as error:
        fail(str(error), 1)
    except WorkerLost as error:
        fail(str(error), LOST_WORKER)
    except tf.errors.OpError as error:
        if not _is_loss(error):
            raise
        reason = next((line for line in error.message.splitlines() if "aborted by" in line), "")
        fail(
            f"Another worker is gone. {reason.strip()} Start all workers again with "
            "--resume-or-begin; train/launch.py and cluster operators do.",
            LOST_WORKER,
        )
    except WriteFailed as error:
        full = any(os.strerror(code) in str(error) for code in _FULL)
        fail(f"{error} {'Make room for it' if full else 'Mend that'}, and {again}.", 3)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        # What is printed goes to a file on a full disk.
        fail(f"The output cannot be written: {error.strerror}. Make room, and {again}.", 3)
    except KeyboardInterrupt:
        fail(f"Interrupted. To finish, {again}.", 128 + signal.SIGINT)


def _is_loss(error: tf.errors.OpError) -> bool:
    """Whether TensorFlow gave up because a worker no longer answers."""
    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    has_peers = bool(os.environ.get("TF_CONFIG"))
    return has_peers and (isinstance(error, kinds) or "Collective ops is aborted" in error.message)


@contextlib.contextmanager
def _interrupts_that_get_through() -> Iterator[None]:
    """Raises `KeyboardInterrupt` where Ctrl-C is pressed, again each second, and at the end.

    TensorFlow's C++ asks Python objects for attributes while it traces, and takes whatever is
    raised there for "no": an interrupt is lost now and then, and the graph may be another one. So
    nothing is put under its name any more from the first one on.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
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

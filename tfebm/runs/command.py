"""Running a script's `main` with exit codes that mean something."""

import os
import signal
from collections.abc import Callable

import tensorflow as tf

from tfebm.errors import InvalidInputError, TrainingDiverged, WorkerLost
from tfebm.runs.settings import fail

# 128 and a signal that means nothing: operators restart a process whose code is above 127.
LOST_WORKER = 128 + 10


def run_command(main: Callable[[], None]) -> None:
    """Calls `main`; 0 when done, 2 for input that cannot be used, 1 for a run that diverged,
    138 for a lost worker, 130 for an interrupt, each of them with a sentence instead of a
    traceback.
    """
    try:
        main()
    except InvalidInputError as error:
        fail(str(error), 2)
    except TrainingDiverged as error:
        fail(str(error), 1)
    except WorkerLost as error:
        fail(str(error), LOST_WORKER)
    except tf.errors.OpError as error:
        if not _is_loss(error):
            raise
        reason = next((line for line in error.message.splitlines() if "aborted by" in line), "")
        fail(
            f"Another worker is gone. {reason.strip()} Start all workers again with "
            "--resume; train/launch.py and cluster operators do.",
            LOST_WORKER,
        )
    except KeyboardInterrupt:
        fail("Interrupted. Go on from the newest checkpoint with --resume.", 128 + signal.SIGINT)


def _is_loss(error: tf.errors.OpError) -> bool:
    """Whether TensorFlow gave up because a worker no longer answers."""
    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    has_peers = bool(os.environ.get("TF_CONFIG"))
    return has_peers and (isinstance(error, kinds) or "Collective ops is aborted" in error.message)

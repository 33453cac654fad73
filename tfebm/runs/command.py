"""Running a script's `main` with exit codes that mean something."""

import signal
from collections.abc import Callable

from tfebm.errors import InvalidInputError, TrainingDiverged
from tfebm.runs.settings import fail


def run_command(main: Callable[[], None]) -> None:
    """Calls `main`; 0 when done, 2 for input that cannot be used, 1 for a run that diverged,
    130 for an interrupt. The first three say why in one sentence, without a traceback.
    """
    try:
        main()
    except InvalidInputError as error:
        fail(str(error), 2)
    except TrainingDiverged as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("Interrupted. Go on from the newest checkpoint with --resume.", 128 + signal.SIGINT)

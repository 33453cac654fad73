"""The ways in which a run ends early and is not a bug."""


class InvalidInputError(ValueError):
    """What the user gave cannot be used; the message says what came, what is needed, what to do.

    A `ValueError`, so that library users may catch it as one. Command lines print its message
    without a traceback and exit with code 2.
    """


class TrainingDiverged(RuntimeError):
    """A loss, an energy, a latent or a weight is no longer a usable number.

    The message names the step and the term. Command lines exit with code 1.
    """


class WorkerLost(RuntimeError):
    """Another worker of the same job did not come, or is gone.

    The job can be started again as a whole. Command lines exit with code 138, which cluster
    operators take for one that is worth another try.
    """


class JobFailed(RuntimeError):
    """A bulk job ended without all that it should have written.

    Command lines exit with code 1.
    """


class WriteFailed(OSError):
    """A file or a folder could not be written, on a full disk most often.

    What was there under its name before is there still, whole. Command lines exit with code 3.
    """

"""The ways in which a run ends early and is not a bug, and words for their messages."""

import difflib
from collections.abc import Iterable


class InvalidInputError(ValueError):
    """What the user gave cannot be used; the message says what came, what is needed, what to do.

    A `ValueError`, so that library users may catch it as one. Command lines print its message
    without a traceback and exit with code 2.
    """

    # TensorFlow raises what a `tf.function` raised again as its own type only where it has this
    # constructor; another error would hide the sentence.
    __init__ = Exception.__init__


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


def near(name: str, known: Iterable[str]) -> str:
    """A question whether one of the known names that are like this one was meant; or ""."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def received(value: object) -> str:
    """What a user gave, in words for an error: its kind, never an address."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}..."
    if isinstance(value, type):
        return f"the class {value.__name__}, not an instance of it"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)} entries"
    kind = type(value)
    if kind.__name__ in ("function", "builtin_function_or_method", "method"):
        return f"the {kind.__name__.replace('_', ' ')} {getattr(value, '__name__', '')}"
    module = kind.__module__.split(".")[0]
    return kind.__name__ if module in ("builtins", "__main__") else f"{module}'s {kind.__name__}"

"""Re-tunes the step sizes of a model's posterior chain while it learns."""

import inspect
import os
import pathlib
import time
import warnings
from typing import Any, Literal

import keras
import numpy as np

from tfebm import checks, files
from tfebm.data import to_float
from tfebm.errors import InvalidInputError
from tfebm.models import workers
from tfebm.samplers import Tuning, step_size
from tfebm.samplers.candidates import NoStepSize

_EXAMPLES = {"kl": 32, "ksd": 32, "entropy": 4}
# Of `tune`, for a schedule with a decay to find as well: fewer step sizes.
_NEAR: dict[str, dict[str, Any]] = {
    "constant": {"num_values": 5},
    "geometric": {"num_values": 3, "span": 1.5},
}
_WHOLE: dict[str, dict[str, Any]] = {"constant": {"num_values": 10}, "geometric": {"num_values": 6}}
_OURS = (
    *("sampler", "energy_fn", "position", "context", "around", "momentum"),
    *("start_scale", "start_log_prob"),
)


class StepSizeTuner(keras.callbacks.Callback):
    """Chooses `posterior_step_size` before the first step, and again before every few epochs.

    After training, `tune` once more fits them to the final weights.

    The first search is over the whole range of step sizes that are stable; later ones look at a
    few values around the last choice, and over the whole range where none of those may be chosen.
    Each sees examples of its own, drawn by (seed, step), so that a resumed run tunes as one that
    was not interrupted. Put it before the callbacks that write logs and checkpoints.

    `step_size_first`, `step_size_last` (of the schedule, the mean over layers), of a chain with
    momentum its mean `momentum`, and `tuning_seconds` join the logs of every epoch.

    Args:
        x: Training examples to draw from, `[N, ...]`, uint8 or float32 in [-1, 1]; for a model of
            sentences ids `[N, T]` or strings.
        every: Epochs from one search to the next; 0 searches before the first step only.
        criterion: "kl", "entropy" or "ksd"; see `tfebm.samplers.step_size`.
        num_examples: Of a search. Default: 32, and 4 for "entropy", which needs many chains of
            each.
        search: "grid" or "gradient".
        family: "constant", "geometric" or "free" (by gradient).
        per_part: Also a factor for each layer.
        apply: False only looks and records, and leaves the step sizes as they are.
        path: Of a JSON file that keeps the record of all searches.
        seed: Of examples, starts, noise and probes.
        **options: Further ones of `tfebm.samplers.step_size.tune`.

    Raises:
        InvalidInputError: No examples, a count that is not a whole number, and what `tune`
            refuses; in `fit`, a model without such a chain.

    Example:

        >>> tuner = tfebm.callbacks.StepSizeTuner(x_train, every=5)
        >>> model.fit(x_train, epochs=20, callbacks=[tuner])
        >>> model.posterior_step_size.numpy()                     # [K, P]
    """

    def __init__(
        self,
        x: Any,
        every: int = 5,
        criterion: Literal["kl", "entropy", "ksd"] = "entropy",
        num_examples: int | None = None,
        search: Literal["grid", "gradient"] = "grid",
        family: Literal["constant", "geometric", "free"] = "constant",
        per_part: bool = False,
        apply: bool = True,
        path: str | os.PathLike[str] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        checks.check_count("every", every, least=0)
        if criterion not in _EXAMPLES:
            raise InvalidInputError(
                f"`criterion` must be one of {', '.join(_EXAMPLES)}. Received {criterion!r}."
            )
        if not len(x):
            raise InvalidInputError("The step sizes are tuned on examples. Received none.")
        num_examples = _EXAMPLES[criterion] if num_examples is None else num_examples
        checks.check_count("num_examples", num_examples)
        checks.check_count("seed", seed, least=0)
        self._check_options(options)
        self.num_examples = min(num_examples, len(x))
        self.x, self.every, self.seed = x, every, seed
        self.path = pathlib.Path(path) if path is not None else None
        self.records: list[dict[str, Any]] = []
        self.options = {
            "criterion": criterion,
            "search": search,
            "family": family,
            "per_part": per_part,
            "apply": apply,
            "num_lanczos": 4,
            **options,
        }
        self._seconds = 0.0
        self._ended: int | None = None

    @staticmethod
    def _check_options(options: dict[str, Any]) -> None:
        known = set(inspect.signature(step_size.tune).parameters)
        unknown = [name for name in options if name not in known or name in _OURS]
        if unknown:
            raise InvalidInputError(
                "The options must be arguments of `tfebm.samplers.step_size.tune`, but none of "
                f"{', '.join(_OURS)}. Received {', '.join(unknown)}."
            )

    def restore(self) -> None:
        """Reads the searches of an earlier part of the run back from `path`.

        Raises:
            InvalidInputError: A file that does not hold such records.
        """
        if self.path is None or not self.path.exists():
            return
        try:
            self.records = [dict(record) for record in files.read_json(self.path)]
            _ = [record["step"] + record["epoch"] for record in self.records]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"The searches in {self.path} cannot be read: {error!r}. Delete the file to go on "
                "without their record."
            ) from None

    def on_train_begin(self, logs: Any = None) -> None:
        if getattr(self.model, "posterior_step_size", None) is None:
            raise InvalidInputError(
                "StepSizeTuner tunes the chain of a `ShortRunModel` or a `LatentEBM` whose "
                f"`posterior_sampler` is a `ShortRunLangevin`. Received a "
                f"{type(self.model).__name__} without such step sizes. Leave the callback out."
            )
        # A search at the step of the checkpoint that a run goes on from came after it, and is made
        # again: its choice is not in the weights.
        step = int(self.model.step.numpy())
        self.records = [record for record in self.records if record["step"] < step]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Not at the ends: the part of an epoch that an interrupted run stops with has one too.
        due = not self.records or (self.every and epoch % self.every == 0)
        begun_before = self.records and self.records[-1]["epoch"] == epoch != self._ended
        # As the chief's records say: a search that not all make would wait for ever.
        mine = np.array([bool(due and not begun_before)], "int32")
        if workers.from_chief([mine], self.model.distribute_strategy)[0][0]:
            self.tune(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._ended = epoch
        if logs is not None:
            table = self.model.posterior_step_size.numpy()
            logs["step_size_first"] = float(table[0].mean())
            logs["step_size_last"] = float(table[-1].mean())
            if self.model.posterior_momentum is not None:
                logs["momentum"] = float(self.model.posterior_momentum.numpy().mean())
            logs["tuning_seconds"] = self._seconds
        self._seconds = 0.0

    def tune(self, epoch: int) -> Tuning | None:
        """Searches now, and keeps the record; None where no candidate may be chosen.

        Args:
            epoch: For the record.
        """
        started = time.monotonic()
        step = int(self.model.step.numpy())
        x = self.draw_examples(step, self.num_examples)
        family = self.options["family"]
        whole = {"around": None, **_WHOLE.get(family, {})}
        near = {"around": self.model.posterior_step_size.numpy(), **_NEAR.get(family, {})}
        found = None
        for where in [near, whole] if self.records else [whole]:
            try:
                found = self.model.tune_step_size(x, seed=self.seed, **{**where, **self.options})
                break
            except NoStepSize as error:
                reason = str(error)
        if found is None:
            warnings.warn(f"The step sizes stay as they are. {reason}", stacklevel=2)
        self._follow_chief()
        seconds = time.monotonic() - started
        self._seconds += seconds
        table = self.model.posterior_step_size.numpy()
        # A search that is repeated at one step replaces the first.
        self.records = [record for record in self.records if record["step"] < step]
        self.records.append(
            {
                "step": step,
                "epoch": epoch,
                "seconds": round(seconds, 3),
                "schedule": np.round(table.astype(float), 8).tolist(),
                "search": found.to_record() if found else None,
            }
        )
        if self.path is not None:
            files.write_json(self.path, self.records)
        return found

    def _follow_chief(self) -> None:
        # Each worker searches by itself, with the same examples and noise; on unlike machines two
        # candidates that are nearly equal could change places.
        strategy = self.model.distribute_strategy
        if workers.count(strategy) > 1:
            settings = self.model.inference.chain.settings.values()
            chosen = workers.from_chief([each.numpy() for each in settings], strategy)
            for setting, value in zip(settings, chosen, strict=True):
                setting.assign(value)

    def draw_examples(self, step: int, number: int) -> np.ndarray:
        """Examples for a search at `step`: float32 in [-1, 1], or sentences as they were given."""
        rows = np.random.default_rng([self.seed, step]).choice(len(self.x), number, replace=False)
        drawn = np.asarray(self.x)[np.sort(rows)]
        pixels = drawn.dtype == np.uint8 and self.model.vocabulary_size is None
        return to_float(drawn).numpy() if pixels else drawn

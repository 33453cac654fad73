"""Candidates for the step sizes of a chain, their evaluation, and the record of a choice."""

import itertools
import math
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.errors import InvalidInputError
from tfebm.samplers import calls, criteria, kinetic, log_det
from tfebm.samplers.chain import Chain
from tfebm.types import EnergyFn, Latents, Seed, Tensor


class NoStepSize(InvalidInputError):
    """No candidate may be chosen."""


Criterion = Literal["kl", "entropy", "ksd"]
CRITERIA: tuple[Criterion, ...] = ("kl", "entropy", "ksd")


class Candidate(NamedTuple):
    """One table of step sizes and what it scored; None for what was not computed."""

    table: np.ndarray
    """`[K, P]`."""
    usable: bool
    """Whether it may be chosen."""
    kl: float | None = None
    """Q, see `tfebm.samplers.criteria.conditional_kl`; None also where it is not a bound."""
    kl_error: float | None = None
    """Standard error over examples, as the next ones."""
    valid_share: float | None = None
    """Examples with positive definite factors; None without "kl"."""
    entropy: float | None = None
    entropy_error: float | None = None
    ksd: float | None = None
    ksd_error: float | None = None
    momentum: np.ndarray | None = None
    """`[K, P]`; None of a chain without momentum."""

    def score(self, criterion: Criterion) -> float:
        """The mean of a criterion; infinite where it is not known."""
        value = getattr(self, criterion)
        return math.inf if value is None else float(value)

    def to_record(self) -> dict[str, Any]:
        """JSON: no NaN; an invalid Q is None, with the share of invalid examples next to it."""
        record: dict[str, Any] = {"step_size": _compressed(self.table), "usable": self.usable}
        if self.momentum is not None:
            record["momentum"] = _compressed(self.momentum)
        for name in CRITERIA:
            record[name] = _number(getattr(self, name))
            record[f"{name}_standard_error"] = _number(getattr(self, f"{name}_error"))
        share = self.valid_share
        record["invalid_share"] = None if share is None else round(1.0 - share, 12)
        return record


class Tuning(NamedTuple):
    """What `tfebm.samplers.step_size.tune` tried and chose."""

    criterion: Criterion
    family: str
    candidates: tuple[Candidate, ...]
    chosen: int
    """Index of the candidate of the smallest criterion."""

    @property
    def table(self) -> np.ndarray:
        """`[K, P]`, float64: the choice, as a sampler takes it as `step_size`."""
        return self.candidates[self.chosen].table

    @property
    def momentum(self) -> np.ndarray | None:
        """`[K, P]`, float64, likewise; None of chains without momentum."""
        return self.candidates[self.chosen].momentum

    def to_record(self) -> dict[str, Any]:
        """JSON: the choice and every candidate."""
        momentum = {} if self.momentum is None else {"momentum": _compressed(self.momentum)}
        return {
            "criterion": self.criterion,
            "family": self.family,
            "chosen": self.chosen,
            "step_size": _compressed(self.table),
            **momentum,
            "candidates": [candidate.to_record() for candidate in self.candidates],
        }


class Options(NamedTuple):
    """What is evaluated, and how; part of a compiled function's identity."""

    criteria: tuple[Criterion, ...]
    """The first is the one to minimise."""
    num_chains: int
    kernel_scale: float
    log_det: log_det.Options


class Problem:
    """One batch of starts, noises and examples that all candidates are evaluated on."""

    def __init__(
        self,
        sampler: Chain,
        energy_fn: EnergyFn,
        position: Latents,
        context: tuple[Any, ...],
        seed: Seed,
        log_start: Tensor,
        options: Options,
        max_invalid: float,
    ) -> None:
        self._sampler, self._energy_fn, self._max_invalid = sampler, energy_fn, max_invalid
        position, self.context, log_start = calls.to_tensors(position, context, log_start)
        rows, chains = int(calls.num_rows(position)), options.num_chains
        if not rows or rows % chains:
            raise InvalidInputError(
                f"`position` must hold the {chains} chains of every example, `num_examples * "
                f"num_chains` rows. Received {rows} rows: draw {chains} starts per example."
            )
        for x in tf.nest.flatten(self.context):
            if x.shape.rank and x.shape[0] != rows // chains:
                raise InvalidInputError(
                    f"The context must have one row per example, {rows // chains} for {rows} "
                    f"starts and `num_chains={chains}`. Received shape {tuple(x.shape)}; rows are "
                    "repeated for the chains here."
                )
        size = sum(math.prod(z.shape[1:]) for z in tf.nest.flatten(position))
        kept = [c for c in options.criteria if _possible(c, chains, size)]
        # What was asked for stays, for the sentence of the criterion itself.
        kept = list(dict.fromkeys([options.criteria[0], *kept]))
        seeds = random.as_row_seeds(seed, rows)
        if kept == ["kl"] and chains > 1:  # only the first chain is of use
            position = tf.nest.map_structure(lambda z: z[::chains], position)
            seeds, log_start, chains = seeds[::chains], log_start[::chains], 1
        self.position, self.seeds, self.log_start = position, seeds, log_start
        self.options = options._replace(criteria=tuple(kept), num_chains=chains)

    def first_chains(self) -> tuple[Latents, tuple[Any, ...]]:
        """z_0 of the first chain of every example, with the context."""
        chains = self.options.num_chains
        return tf.nest.map_structure(lambda z: z[::chains], self.position), self.context

    def evaluate(self, table: np.ndarray, momentum: np.ndarray | None = None) -> Candidate:
        """The candidate with its criteria."""
        return self._evaluated(table, momentum, False)[0]

    def evaluate_with_gradient(
        self, table: np.ndarray, momentum: np.ndarray | None = None
    ) -> tuple[Candidate, np.ndarray]:
        """Also the derivative of the first criterion in the step sizes and, behind them, in the
        momenta: `[1 or 2, K, P]`."""
        return self._evaluated(table, momentum, True)

    def _evaluated(
        self, table: np.ndarray, momentum: np.ndarray | None, gradient: bool
    ) -> tuple[Candidate, np.ndarray]:
        options, chains = self.options, self.options.num_chains
        function = self._sampler.plain_graph(
            _evaluate, self._energy_fn, (self.position, self.context), (options, gradient)
        )
        settings = [self._sampler.step_table(table, self.position)]
        if momentum is not None:
            settings.append(self._sampler.momentum_table(momentum, self.position))
        num_examples = len(self.seeds) // chains
        # A gradient keeps what every step of the chain computed.
        kept = chains * (self._sampler.num_steps if gradient else 1)
        pieces = min(num_examples, -(-num_examples * kept // options.log_det.max_rows))
        ends = [num_examples * i // pieces for i in range(pieces + 1)]
        found, slope = [], np.zeros([len(settings), *table.shape])
        for a, b in itertools.pairwise(ends):
            rows = slice(a * chains, b * chains)
            context = tf.nest.map_structure(
                lambda x, a=a, b=b: x if not x.shape.rank else x[a:b], self.context
            )
            position = tf.nest.map_structure(lambda z, rows=rows: z[rows], self.position)
            given = self.seeds[rows], self.log_start[rows], settings
            values, slopes, is_random = function(position, context, *given)
            log_det.check_not_random(is_random)
            found.append({name: value.numpy() for name, value in values.items()})
            slope = slope + slopes.numpy() / num_examples
        values = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        return self._candidate(table, momentum, values), slope

    def _candidate(
        self, table: np.ndarray, momentum: np.ndarray | None, values: dict[str, np.ndarray]
    ) -> Candidate:
        numbers: dict[str, Any] = {"momentum": momentum}
        for name in self.options.criteria:
            mean, error = criteria.mean_and_error(values[name])
            if np.isfinite(mean):
                numbers |= {name: mean, f"{name}_error": error}
        if "kl" in self.options.criteria:
            share = float(np.mean(values["valid"]))
            numbers["valid_share"] = share
            if 1.0 - share > self._max_invalid:  # no bound: the number must not be taken for one
                numbers.pop("kl", None)
                numbers.pop("kl_error", None)
        usable = self.options.criteria[0] in numbers
        return Candidate(np.array(table, np.float64), usable, **numbers)


def choose(
    criterion: Criterion, family: str, candidates: list[Candidate], max_invalid: float
) -> Tuning:
    """The usable candidate of the smallest criterion, or a sentence."""
    usable = [i for i, candidate in enumerate(candidates) if candidate.usable]
    if not usable:
        tables = np.stack([candidate.table for candidate in candidates])
        reason = (
            f"for every one more than a share {max_invalid:g} of the examples has a factor that is "
            "not positive definite, or a number is not finite"
            if criterion == "kl"
            else "the criterion is finite for none"
        )
        momenta = [c.momentum[1:] for c in candidates if c.momentum is not None]
        if criterion == "kl" and any(not np.all(c > 0) for c in momenta):
            reason += ". A momentum of 0 behind the first step leaves no such bound"
            remedy = "Give momenta above 0"
        else:
            remedy = "Try smaller `values`"
        raise NoStepSize(
            f"None of the {len(candidates)} step sizes tried, from {tables.min():.3g} to "
            f"{tables.max():.3g}, can be chosen: {reason}. {remedy}."
        )
    chosen = min(usable, key=lambda i: candidates[i].score(criterion))
    return Tuning(criterion, family, tuple(candidates), chosen)


def _evaluate(
    sampler: Chain,
    energy_fn: EnergyFn,
    options: Options,
    gradient: bool,
    position: Latents,
    context: tuple[Any, ...],
    seeds: Tensor,
    log_start: Tensor,
    settings: list[Tensor],
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Every criterion per example, the slopes of the first one's sum, whether U is random.

    `settings` are the step sizes, and behind them the momenta of a chain that has them.
    """
    chains = options.num_chains
    is_random = log_det.energy_is_random(energy_fn, position, _repeated(context, chains))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if gradient:
            tape.watch(settings)
        rows = _repeated(context, chains)
        steps, *momenta = settings
        given = {"seed": seeds, "step_size": steps}
        given["momentum"] = momenta[0] if momenta else None
        is_kinetic = bool(momenta) and "kl" in options.criteria
        if is_kinetic:
            path, closed = log_det.log_det_with_momentum(
                sampler, energy_fn, position, rows, seeds, **given
            )
        # Without noise the bound is of a chain that does not begin at rest, see `kinetic`.
        if not is_kinetic or (len(options.criteria) > 1 and not kinetic.temperature(sampler)):
            sampled = sampler.path(energy_fn, position, *rows, **given)
            path = path if is_kinetic else sampled
        else:
            sampled = path
        end = tf.nest.map_structure(lambda z: z[-1], sampled)
        if "ksd" in options.criteria:
            energy, grads = calls.energy_and_grads(energy_fn, end, rows)
        else:
            energy = calls.row_energy(energy_fn, end, rows)
        values = {}
        if "kl" in options.criteria:
            first = tf.nest.map_structure(lambda z: z[:, ::chains], path)
            if momenta:
                found = tf.nest.map_structure(lambda x: x[::chains], closed)
            else:
                found = log_det.log_det_of_path(
                    *(energy_fn, first, context, steps, seeds[::chains], options.log_det),
                    differentiable=gradient and options.criteria[0] == "kl",
                )
            start, of_path = log_start[::chains], energy
            if path is not sampled:
                ends = tf.nest.map_structure(lambda z: z[-1], path)
                of_path = calls.row_energy(energy_fn, ends, rows)
            values["kl"] = criteria.conditional_kl(start, found.value, of_path[::chains])
            values["valid"] = found.valid
        if "entropy" in options.criteria:
            values["entropy"] = criteria.entropy_kl(end, energy, num_chains=chains)
        if "ksd" in options.criteria:
            grads = tf.nest.pack_sequence_as(end, grads)
            values["ksd"] = criteria.kernel_stein(
                end, grads, num_chains=chains, scale=options.kernel_scale
            )
        total = tf.reduce_sum(values[options.criteria[0]])
    zeros = [tf.zeros_like(table) for table in settings]
    slopes = tape.gradient(total, settings, unconnected_gradients="zero") if gradient else zeros
    return values, tf.stack(slopes), is_random


def _repeated(context: tuple[Any, ...], chains: int) -> tuple[Any, ...]:
    if chains == 1:
        return context
    return tf.nest.map_structure(
        lambda x: x if not x.shape.rank else tf.repeat(x, chains, axis=0), context
    )


def _possible(criterion: Criterion, num_chains: int, size: int) -> bool:
    return num_chains > {"kl": 0, "entropy": size, "ksd": 1}[criterion]


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _compressed(table: np.ndarray) -> float | list[Any]:
    """The table in the shortest form that the setting `step_size` of a sampler takes."""
    if np.all(table == table[:, :1]):
        return float(table[0, 0]) if np.all(table == table[:1]) else table[:, 0].tolist()
    return (table[:1] if np.all(table == table[:1]) else table).tolist()

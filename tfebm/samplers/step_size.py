"""Step sizes of a short-run chain, chosen so that its law comes close to the target.

Three criteria (`tfebm.samplers.criteria`), a grid or a gradient search, three families:

- "constant": s_k = s;
- "geometric": s_k = s r^(k-1);
- "free": a vector of K, by gradient search only; of few examples it also fits the noise;

each with a factor for each latent part where asked for.

Q, the "kl" criterion of the paper, is a bound that sees none of the mixing that noise does: with
noise it prefers steps smaller than the best for the marginal law (in a linear-Gaussian model with
K = 20, 0.0875 where the best is 0.1635). "entropy" and "ksd" have no such bias, but "ksd" is nearly
blind to chains that scatter in many dimensions. Compare all three with `report="all"`.

References: E. Nijkamp, B. Pang, T. Han, S.-C. Zhu, Y. N. Wu. Learning Multi-layer Latent Variable
Model via Variational Optimization of Short Run MCMC for Approximate Inference. ECCV 2020.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.samplers import calls, criteria, log_det
from tfebm.samplers import search as searches
from tfebm.samplers.candidates import (
    CRITERIA,
    Candidate,
    Criterion,
    NoStepSize,
    Options,
    Problem,
    Tuning,
    choose,
)
from tfebm.samplers.chain import Chain, check_differentiable
from tfebm.types import EnergyFn, Latents, Seed, Tensor

__all__ = ["CRITERIA", "Candidate", "Tuning", "check_stability", "step_table", "tune"]

Family = Literal["constant", "geometric", "free"]

# Of a geometric schedule, last step over first; and around a schedule that is given.
_DECAYS: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
_TILTS: tuple[float, ...] = (0.5, 1.0, 2.0)
_FACTORS = (0.5, 2**-0.5, 2**0.5, 2.0)  # of a part, in a sweep
_NUM_VALUES, _NUM_AROUND = 10, 5
_DECADES = 2.0  # of the default grid, down from the limit of stability
_ROUNDING = 1e-6  # of the estimate: at the limit counts as past it
_PROBED_ROWS, _PROBE_LANCZOS = 8, 16  # of an estimate of the curvature


def step_table(
    scale: float | Sequence[float],
    *,
    num_steps: int,
    ratio: float = 1.0,
    factors: float | Sequence[float] = 1.0,
) -> np.ndarray:
    """The step sizes of one of the families.

        s[k, p] = scale_k * ratio**(k - 1) * factors_p,    k = 1, ..., K

    Args:
        scale: One number (constant, or with `ratio` geometric), or K of them (free).
        num_steps: K.
        ratio: Of a step to the one before it.
        factors: One per latent part.

    Returns:
        float64 `[K, P]`, P = number of `factors`; what a sampler takes as `step_size`.

    Example:

        >>> step_table(0.4, num_steps=3, ratio=0.5)[:, 0]
        array([0.4, 0.2, 0.1])
    """
    profile = np.asarray(scale, np.float64) * float(ratio) ** np.arange(num_steps)
    return profile[:, np.newaxis] * np.atleast_1d(np.asarray(factors, np.float64))


def tune(
    sampler: Chain,
    energy_fn: EnergyFn,
    position: Latents,
    *context: Tensor,
    seed: Seed,
    criterion: Criterion = "kl",
    search: Literal["grid", "gradient"] = "grid",
    family: Family = "constant",
    per_part: bool = False,
    values: Sequence[float] | None = None,
    num_values: int | None = None,
    around: float | np.ndarray | None = None,
    momentum: Tensor | None = None,
    momenta: Sequence[float] | None = None,
    span: float = 2.0,
    num_chains: int = 1,
    report: Literal["chosen", "all"] = "chosen",
    method: log_det.Method = "lanczos",
    num_probes: int = 1,
    num_lanczos: int = 8,
    max_rows: int = 1024,
    max_invalid: float = 0.0,
    start_scale: float = 1.0,
    start_log_prob: Tensor | None = None,
    kernel_scale: float = 1.0,
    num_iterations: int = 30,
    learning_rate: float = 0.1,
) -> Tuning:
    """Tries step sizes on one batch and returns all of them with the best one.

    Every candidate sees the same starts, noise and probes. The settings of `sampler` are left as
    they are, `step_size` among them is not read, and no candidate compiles anew: the
    functions are cached in the sampler. Runs outside of graphs.

    A candidate is never chosen where a number is not finite; for "kl" also not where for more
    than a share `max_invalid` of the examples a factor of the map is not positive definite. Its
    stability is not checked apart (a chain beyond it shows in every criterion); see
    `check_stability`.

    Args:
        sampler: A chain that `is_differentiable`, with its K and noise scale.
        energy_fn: U. `energy_fn(position, *context) -> [rows]`, without dropout.
        position: z_0, `[num_examples * num_chains, ...]` or a tuple; the chains of an example next
            to each other.
        *context: One row per *example*, or scalars; rows are repeated for the chains.
        seed: An integer, or int32 `[num_examples * num_chains, 2]`.
        criterion: "kl" (Q), "entropy" or "ksd". "ksd" is blind to chains that scatter: far apart
            from each other they hardly count, so that in many dimensions it may choose steps that
            are far too large.
        search: "grid"; or "gradient": Adam on log s from `around` (default: half the limit of
            stability), with candidates pulled back from where they are invalid.
        family: "constant", "geometric" or "free".
        per_part: Also a factor for each latent part; on a grid one after the other, once the common
            value is found.
        values: The grid's step sizes (of a geometric schedule the first one's), instead of the
            next three.
        num_values: Of the grid if `values` is None: default 10, log-spaced over two decades below
            the limit of stability 2 / sqrt(largest curvature), which is estimated; or 5 with
            `around`.
        around: A step size, or a `[K, P]` table as in `Tuning.table`: the grid is this times
            factors from 1 / span to span.
        momentum: Of a chain with momentum: replaces the sampler's. A grid keeps it; a gradient
            search begins there, and moves it with the step sizes, in the same family.
        momenta: The momenta of a grid, each of which meets every table of step sizes.
        span: As said.
        num_chains: M. "entropy" needs more than d, "ksd" at least 2. "kl" uses the first.
        report: "all" also computes the other criteria, where `num_chains` allows.
        method: Of the log-determinant, as the next three in `log_det_of_map`.
        num_probes: Per factor. 1 is enough for an average over examples.
        num_lanczos: Lanczos steps.
        max_rows: Most rows through the energy at once, for a gradient search times K, whose steps
            are all kept; chains are cut by whole examples.
        max_invalid: Share of examples.
        start_scale: The standard deviation of starts z_0 ~ N(0, start_scale**2 I).
        start_log_prob: Of other starts, log q(z_0) of each row.
        kernel_scale: c of the kernel Stein discrepancy.
        num_iterations: Of the gradient search.
        learning_rate: In log s.

    Returns:
        A `Tuning`.

    Raises:
        InvalidInputError: Another sampler, a random energy, arguments that do not fit together, or
            no candidate that may be chosen.

    Example:

        >>> found = tune(sampler, model.posterior_energy, z_0, x, seed=0)
        >>> z = sampler(model.posterior_energy, z_0, x, seed=1, step_size=found.table)
    """
    check_differentiable(sampler)
    _check_choices(criterion, search, family, report, num_chains)
    _check_numbers(values, num_values, span, num_iterations, learning_rate)
    options = Options(
        criteria=(criterion, *(c for c in CRITERIA if c != criterion and report == "all")),
        num_chains=num_chains,
        kernel_scale=float(kernel_scale),
        log_det=log_det.Options(method, num_probes, num_lanczos, max_rows).checked(),
    )
    if start_log_prob is None:
        start_log_prob = criteria.start_log_prob(calls.to_tensors(position)[0], start_scale)
    problem = Problem(
        *(sampler, energy_fn, position, context, seed, start_log_prob, options, max_invalid)
    )
    num_steps, num_parts = sampler.num_steps, len(tf.nest.flatten(problem.position))
    if not num_steps:
        raise InvalidInputError("A chain of 0 steps has no step size to tune. Received K = 0.")
    of_sampler = None
    if sampler.has_momentum:
        of_sampler = sampler.momentum_table(momentum, problem.position).numpy().astype(np.float64)
    _check_momenta(momenta, of_sampler, search)

    if around is not None:
        _check_around(around, num_steps, num_parts)

    def limit() -> float:
        return _limit(sampler, energy_fn, problem)

    def widened(table: Any) -> np.ndarray:
        table = np.asarray(table, np.float64)
        table = table[:, np.newaxis] if table.ndim == 1 else table
        return np.broadcast_to(table, (num_steps, num_parts))

    if search == "gradient":
        base = widened(limit() / 2 if around is None else around)
        directions = searches.directions(family, per_part, num_steps, num_parts)
        candidates = searches.by_gradient(
            *(problem, base, of_sampler, directions, num_iterations, learning_rate)
        )
    else:
        decays = _DECAYS
        if values is not None:
            bases = [widened(float(value)) for value in values]
        elif around is not None:
            ladder = np.geomspace(1 / span, span, num_values or _NUM_AROUND)
            bases = [widened(around) * value for value in ladder]
            decays = _TILTS if np.ndim(around) else _DECAYS
        else:
            top = limit()
            ladder = np.geomspace(top / 10**_DECADES, top, num_values or _NUM_VALUES)
            bases = [widened(value) for value in ladder]
        if family == "constant":
            decays = (1.0,)
        ratios = [decay ** (1 / max(1, num_steps - 1)) for decay in decays]
        profiles = [step_table(1.0, num_steps=num_steps, ratio=ratio) for ratio in ratios]
        tables = [base * profile for profile in profiles for base in bases]
        kept = [of_sampler] if momenta is None else [widened(float(c)) for c in momenta]
        candidates = [problem.evaluate(table, c) for c in kept for table in tables]
        if per_part and num_parts > 1:
            candidates = searches.sweep_parts(problem, candidates, _FACTORS)
    return choose(criterion, family, candidates, max_invalid)


def check_stability(
    sampler: Chain,
    energy_fn: EnergyFn,
    position: Latents,
    *context: Tensor,
    seed: Seed,
    step_size: Tensor | None = None,
    momentum: Tensor | None = None,
) -> float:
    """Raises where the drift of the chain is unstable; returns the largest curvature met.

    z - s**2 / 2 grad U contracts along a direction of curvature l only where s**2 l < 4. The
    largest curvature is estimated by Lanczos at every step of up to 8 chains, from z_0 to where
    they go; it is a lower bound, and elsewhere the energy may be steeper.

    Args:
        sampler: A chain that `is_differentiable`, such as `ShortRunLangevin`.
        energy_fn: As the sampler's, without dropout.
        position: z_0.
        *context: One row per row of `position`, or scalars.
        seed: As the sampler's.
        step_size: Replaces the setting.
        momentum: Replaces the setting.

    Returns:
        The estimate of the largest eigenvalue of the Hessian (of S H S in units of the largest
        step size where parts have their own).

    Raises:
        InvalidInputError: A step size at or past 2 / sqrt(largest curvature).

    Example:

        >>> check_stability(model.posterior_sampler, model.posterior_energy, z_0, x, seed=0)
    """
    check_differentiable(sampler)
    position, context = calls.to_tensors(position, context)
    table = sampler.step_table(step_size, position)
    found = _probe(sampler, energy_fn, position, context, seed, table, momentum)
    stiffness = 2.0 * (1.0 - found.smallest_eigenvalue.numpy())  # s**2 l
    curvature = found.largest_curvature.numpy()
    largest_step = float(np.max(table, initial=0.0))
    diverged = not np.all(np.isfinite(stiffness))
    if diverged:  # what is known then is the curvature at the start
        still = _probe(sampler, energy_fn, position, context, seed, 0.0 * table, momentum)
        curvature = still.largest_curvature.numpy()
        stiffness = largest_step**2 * curvature
    worst = float(np.max(stiffness, initial=0.0))
    if not math.isfinite(worst):
        raise InvalidInputError(
            "The energy has no finite curvature where the chains start, and so there is no stable "
            f"step size; `step_size` is {largest_step:.3g}. Look at the weights and the data."
        )
    if diverged or worst >= 4.0 * (1.0 - _ROUNDING):
        bound = largest_step * 2.0 / math.sqrt(worst) if worst > 0 else math.inf
        met = worst / largest_step**2
        raise InvalidInputError(
            f"`step_size` {largest_step:.3g} "
            + ("made the chain leave the finite numbers: " if diverged else "is not stable: ")
            + f"the limit is 2 / sqrt(largest curvature) = {bound:.3g}, with the largest curvature "
            f"of the energy that was met, about {met:.4g}. Lower it well below the limit (half of "
            "it is a fair choice), or choose it with `tfebm.samplers.step_size.tune`."
        )
    return float(np.max(curvature, initial=0.0))


def _probe(
    sampler: Chain,
    energy_fn: EnergyFn,
    position: Latents,
    context: tuple[Any, ...],
    seed: Seed,
    table: Tensor,
    momentum: Tensor | None = None,
) -> log_det.LogDet:
    """Spectra along the chains of the first few rows."""

    def few(x: Tensor) -> Tensor:
        return x if x.shape.rank == 0 else x[:_PROBED_ROWS]

    seeds = random.as_row_seeds(seed, calls.num_rows(position))
    position, context, seeds = tf.nest.map_structure(few, (position, context, seeds))
    return log_det.spectra_along(
        *(sampler, energy_fn, position, *context),
        seed=seeds,
        step_size=table,
        momentum=momentum,
        options=log_det.Options("lanczos", num_probes=1, num_lanczos=_PROBE_LANCZOS),
    )


def _limit(sampler: Chain, energy_fn: EnergyFn, problem: Problem) -> float:
    """2 / sqrt(largest curvature), at the starts and where a cautious chain goes."""
    position, context = problem.first_chains()
    seeds = problem.seeds[:: problem.options.num_chains]
    largest = 0.0
    for step in (0.0, None):
        step = step if step is not None else (1.0 / math.sqrt(largest) if largest > 0 else 0.0)
        table = sampler.step_table(step, position)
        found = _probe(sampler, energy_fn, position, context, seeds, table)
        curvature = found.largest_curvature.numpy()
        largest = max(largest, np.max(curvature[np.isfinite(curvature)], initial=0.0))
    if largest <= 0:
        raise NoStepSize(
            "The energy has no positive curvature where the chains start, so that there is no "
            "range of step sizes to take. Give `values`, or `around`."
        )
    return 2.0 / math.sqrt(largest)


def _check_choices(criterion: str, search: str, family: str, report: str, num_chains: int) -> None:
    for name, value, allowed in (
        ("criterion", criterion, CRITERIA),
        ("search", search, ("grid", "gradient")),
        ("family", family, ("constant", "geometric", "free")),
        ("report", report, ("chosen", "all")),
    ):
        if value not in allowed:
            raise InvalidInputError(
                f"`{name}` must be one of {', '.join(map(repr, allowed))}. Received {value!r}."
            )
    checks.check_count("num_chains", num_chains)
    if family == "free" and search == "grid":
        raise InvalidInputError(
            "A grid over K free step sizes has no end. Received `family='free'` with "
            "`search='grid'`: set `search='gradient'`, or take the family 'geometric'."
        )


def _check_numbers(
    values: Any, num_values: Any, span: Any, num_iterations: Any, learning_rate: Any
) -> None:
    if values is not None:
        array = np.asarray(values, np.float64)
        if array.ndim != 1 or not len(array) or not np.all(np.isfinite(array) & (array > 0)):
            raise InvalidInputError(
                f"`values` must be a list of positive step sizes. Received {values!r}."
            )
    if num_values is not None:
        checks.check_count("num_values", num_values)
    checks.check_count("num_iterations", num_iterations)
    checks.check_number("span", span, least=1.0, above=True)
    checks.check_number("learning_rate", learning_rate, above=True)


def _check_momenta(momenta: Any, of_sampler: np.ndarray | None, search: str) -> None:
    if momenta is None:
        if of_sampler is not None and search == "gradient" and not np.all(of_sampler > 0):
            raise InvalidInputError(
                "A gradient search moves every momentum, on a scale where 0 is infinitely far. "
                "Received a sampler with momenta that are 0. Give all of them a positive one."
            )
        return
    if of_sampler is None or search == "gradient":
        reason = "a gradient search moves the sampler's own"
        if of_sampler is None:
            reason = "the sampler has none, and its chain keeps no velocity"
        raise InvalidInputError(
            f"`momenta` is the grid of a chain with momentum. Received {momenta!r}, but {reason}. "
            "Leave it out, or make the sampler with `momentum=0.5` and search on a grid."
        )
    array = np.asarray(momenta, np.float64)
    if array.ndim != 1 or not len(array) or not np.all((array >= 0) & (array < 1)):
        raise InvalidInputError(
            "`momenta` must be a list of numbers of at least 0 and less than 1. Received "
            f"{momenta!r}."
        )


def _check_around(around: Any, num_steps: int, num_parts: int) -> None:
    table = np.asarray(around, np.float64)
    fits = table.shape in ((), (num_steps,), (1, num_parts), (num_steps, num_parts))
    if not fits or not np.all(np.isfinite(table) & (table > 0)):
        raise InvalidInputError(
            f"`around` must be a positive step size, or a table [{num_steps}, {num_parts}] of "
            f"them, one per step and latent part. Received shape {table.shape} from "
            f"{table.min(initial=math.inf):.3g} to {table.max(initial=-math.inf):.3g}."
        )

"""How `tfebm.samplers.step_size.tune` moves from candidate to candidate."""

import math
from collections.abc import Sequence

import numpy as np

from tfebm.samplers.candidates import Candidate, Problem

_BETA_1, _BETA_2 = 0.9, 0.99  # of Adam


def directions(family: str, per_part: bool, num_steps: int, num_parts: int) -> np.ndarray:
    """`[parameters, K, P]`: how log s[k, p] moves with each parameter of a family."""
    ones = np.ones((num_steps, num_parts))
    k = np.arange(num_steps)[:, np.newaxis]
    moves = [ones] if family != "free" else [ones * (k == i) for i in range(num_steps)]
    if family == "geometric" and num_steps > 1:
        moves.append(ones * (k / (num_steps - 1)))
    if per_part and num_parts > 1:
        moves += [ones * (np.arange(num_parts) == i) for i in range(num_parts)]
    return np.stack(moves)


def by_gradient(
    problem: Problem,
    base: np.ndarray,
    momentum: np.ndarray | None,
    moves: np.ndarray,
    num_iterations: int,
    learning_rate: float,
) -> list[Candidate]:
    """Adam on the parameters of log s, its rate falling to 0, with noise and probes fixed; with
    momentum also on as many of log(c / (1 - c)).

    A candidate that is not valid says nothing about where to go: the search returns half the way to
    the last one that was, with half the rate and no momentum; before there was one, it halves all
    step sizes.
    """
    theta = np.zeros([1 if momentum is None else 2, len(moves)])
    mean, square, count = np.zeros_like(theta), np.zeros_like(theta), 0
    last, candidates = None, []
    for i in range(num_iterations):
        rate = learning_rate * 0.5 * (1.0 + math.cos(math.pi * i / num_iterations))
        moved = np.tensordot(theta, moves, 1)
        table, changed = base * np.exp(moved[0]), None
        inner = [table]
        if momentum is not None:
            odds = momentum / (1.0 - momentum) * np.exp(moved[1])
            changed = odds / (1.0 + odds)
            inner.append(changed * (1.0 - changed))
        candidate, gradient = problem.evaluate_with_gradient(table, changed)
        candidates.append(candidate)
        slope = np.einsum("ikp,jkp->ji", moves, gradient * np.stack(inner))
        if candidate.usable and np.all(np.isfinite(slope)):
            last, count = theta, count + 1
            mean = _BETA_1 * mean + (1 - _BETA_1) * slope
            square = _BETA_2 * square + (1 - _BETA_2) * slope**2
            unit = (mean / (1 - _BETA_1**count)) / (np.sqrt(square / (1 - _BETA_2**count)) + 1e-12)
            theta = theta - rate * unit
        elif last is None:
            base = base / 2
        else:
            theta, learning_rate = (theta + last) / 2, learning_rate / 2
            mean, square, count = np.zeros_like(theta), np.zeros_like(theta), 0
    return candidates


def sweep_parts(
    problem: Problem, candidates: Sequence[Candidate], factors: Sequence[float]
) -> list[Candidate]:
    """Tries a few factors for one part after the other, each from the best so far."""
    candidates = list(candidates)
    criterion = problem.options.criteria[0]
    for part in range(candidates[0].table.shape[1]):
        usable = [c for c in candidates if c.usable]
        if not usable:
            break
        best = min(usable, key=lambda c: c.score(criterion))
        for factor in factors:
            changed = best.table.copy()
            changed[:, part] *= factor
            candidates.append(problem.evaluate(changed, best.momentum))
    return candidates

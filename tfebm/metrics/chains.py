"""Whether chains have mixed: R-hat, effective sample size, autocorrelation, modes.

Draws are `[T, C, ...]`: T draws of C chains of any quantity. The statistics are TFP's
(`potential_scale_reduction`, `effective_sample_size`, `auto_correlation`), on draws that are
rank-normalised first.

References: A. Vehtari et al. Rank-normalization, folding, and localization: An improved R-hat for
assessing convergence of MCMC. Bayesian Analysis, 2021.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfebm import checks
from tfebm.errors import InvalidInputError


def split_r_hat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat, the larger of bulk and tail: `[T, C, ...]` to `[...]`.

    1 for chains that agree; above 1.01 (strictly) or 1.05 they have not mixed. Infinite for
    chains that are each constant and differ; 1 for draws that are all equal.

    Raises:
        InvalidInputError: Fewer than 4 draws or 2 chains.

    Example:

        >>> split_r_hat(np.random.default_rng(0).normal(size=(1000, 8)))     # about 1.00
    """
    draws = _check(draws)
    # Folded at the median: chains of one mean and different spread differ in their tails.
    folded = np.abs(draws - np.median(draws, axis=(0, 1), keepdims=True))
    both = np.stack([_rank_normalise(draws), _rank_normalise(folded)], axis=-1)
    squared = tfp.mcmc.potential_scale_reduction(
        both, independent_chain_ndims=1, split_chains=True
    ).numpy()
    # TFP's is Brooks' and Gelman's `(m + 1) / m V / W - (n - 1) / (m n)`; V / W is Vehtari's.
    number, length = 2 * both.shape[1], both.shape[0] // 2
    ratio = (squared + (length - 1) / (number * length)) * number / (number + 1)
    # No variance within any half of a chain: TFP divides by 0, or by rounding.
    halves = (both[:length], both[-length:])
    still = np.all([(np.ptp(half, axis=0) == 0).all(axis=0) for half in halves], axis=0)
    ratio = np.where(still, np.inf, ratio)
    ratio = np.where(np.ptp(both, axis=(0, 1)) == 0, 1.0, ratio)
    return np.sqrt(ratio).max(axis=-1)


def effective_sample_size(
    draws: np.ndarray, *, kind: Literal["bulk", "tail"] = "bulk"
) -> np.ndarray:
    """Effective sample size over all chains: `[T, C, ...]` to `[...]`.

    Args:
        draws: `[T, C, ...]`.
        kind: "bulk", of the rank-normalised draws, for means; "tail", the lesser of those of
            the indicators of the 5% and the 95% quantile, for intervals.

    Raises:
        InvalidInputError: Fewer than 4 draws or 2 chains, or another kind.
    """
    draws = _check(draws)
    checks.check_choice("kind", kind, ("bulk", "tail"))
    if kind == "bulk":
        return _ess(_rank_normalise(draws))
    quantiles = np.quantile(draws, [0.05, 0.95], axis=(0, 1))
    return np.minimum(*(_ess((draws <= q).astype(np.float64)) for q in quantiles))


def autocorrelation_time(draws: np.ndarray) -> np.ndarray:
    """Draws that count as one, `T C / ESS`: `[T, C, ...]` to `[...]`, in draws."""
    draws = _check(draws)
    return draws.shape[0] * draws.shape[1] / effective_sample_size(draws)


def autocorrelation(draws: np.ndarray, *, max_lag: int = 100) -> np.ndarray:
    """Autocorrelation at lags 0, ..., `max_lag`, about the mean of all chains: `[L + 1, ...]`.

    Chains that each stay in a mode of their own keep a correlation near 1 at every lag.
    """
    draws = _check(draws)
    centred = draws - draws.mean(axis=(0, 1))
    max_lag = min(max_lag, len(draws) - 1)
    with _quiet():
        covariance = tfp.stats.auto_correlation(
            centred, axis=0, max_lags=max_lag, center=False, normalize=False
        ).numpy()
    of_chains = covariance.mean(axis=1)
    return of_chains / np.maximum(of_chains[:1], np.finfo(np.float64).tiny)


def mode_switches(labels: np.ndarray) -> np.ndarray:
    """How often each chain changed its label: `[T, C]` to `[C]`."""
    labels = np.asarray(labels)
    return (labels[1:] != labels[:-1]).sum(axis=0)


def total_variation(labels: np.ndarray, shares: np.ndarray) -> float:
    """`sum |share of draws - share| / 2` over the modes: 0 where they agree, at most 1.

    Args:
        labels: Mode of every draw, whole numbers from 0, of any shape.
        shares: The true shares of the modes, of sum 1.
    """
    shares = np.asarray(shares, np.float64)
    counts = np.bincount(np.asarray(labels).ravel(), minlength=len(shares))
    return float(np.abs(counts / counts.sum() - shares).sum() / 2.0)


@dataclasses.dataclass(frozen=True)
class ChainReport:
    """What is known of a set of chains; every array has an entry per coordinate."""

    num_draws: int
    num_chains: int
    num_gradients: int
    """Of the energy, per chain, adaptation included."""
    acceptance: float
    step_size: float
    r_hat: list[float]
    """Of each coordinate."""
    r_hat_energy: float
    """Of the energy."""
    ess_bulk: list[float]
    ess_tail: list[float]
    autocorrelation_time: list[float]
    """In draws."""
    energy_mean: tuple[float, float]
    """Of the first and of the second half of the draws: equal for a stationary chain."""
    energy_std: float
    mode_switches: int | None = None
    """Of all chains; None where there are no modes."""
    mode_switches_per_chain: float | None = None
    total_variation: float | None = None
    """Of the shares of modes from the true ones."""

    @property
    def largest_r_hat(self) -> float:
        """Over the coordinates."""
        return max(self.r_hat)

    def to_record(self) -> dict[str, Any]:
        """As JSON, which has no infinity: an infinite R-hat is null there."""

        def plain(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return [plain(v) for v in value]
            if isinstance(value, float) and not np.isfinite(value):
                return None
            return value

        return {name: plain(value) for name, value in dataclasses.asdict(self).items()}


def report(
    draws: np.ndarray,
    energies: np.ndarray,
    *,
    acceptance: float,
    step_size: float,
    num_gradients: int,
    labels: np.ndarray | None = None,
    shares: np.ndarray | None = None,
) -> ChainReport:
    """Everything at once.

    Args:
        draws: `[T, C, n]`.
        energies: `[T, C]`.
        acceptance: Mean acceptance probability.
        step_size: Of the chains.
        num_gradients: Per chain.
        labels: Modes `[T, C]`, whole numbers from 0.
        shares: The true shares of the modes.

    Raises:
        InvalidInputError: Fewer than 4 draws or 2 chains.
    """
    draws, energies = _check(draws), _check(energies)
    half = len(energies) // 2
    switches = None if labels is None else mode_switches(labels)
    ess = effective_sample_size(draws)
    return ChainReport(
        num_draws=draws.shape[0],
        num_chains=draws.shape[1],
        num_gradients=int(num_gradients),
        acceptance=float(acceptance),
        step_size=float(step_size),
        r_hat=split_r_hat(draws).tolist(),
        r_hat_energy=float(split_r_hat(energies)),
        ess_bulk=ess.tolist(),
        ess_tail=effective_sample_size(draws, kind="tail").tolist(),
        autocorrelation_time=(draws.shape[0] * draws.shape[1] / ess).tolist(),
        energy_mean=(float(energies[:half].mean()), float(energies[half:].mean())),
        energy_std=float(energies.std()),
        mode_switches=None if switches is None else int(switches.sum()),
        mode_switches_per_chain=None if switches is None else float(switches.mean()),
        total_variation=None
        if labels is None or shares is None
        else total_variation(labels, shares),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TensorFlow's remark on TFP's cast from complex numbers, one per call."""
    logger = tf.get_logger()

    def keep(record: Any) -> bool:
        return "casting an input of type complex" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _check(draws: np.ndarray) -> np.ndarray:
    draws = np.asarray(draws, np.float64)
    if draws.ndim < 2 or draws.shape[0] < 4 or draws.shape[1] < 2:
        raise InvalidInputError(
            "Draws must be [T, C, ...] with at least 4 draws of at least 2 chains. Received shape "
            f"{draws.shape}."
        )
    if not np.isfinite(draws).all():
        raise InvalidInputError("Draws must be finite. Received NaN or infinite values.")
    return draws


def _rank_normalise(draws: np.ndarray) -> np.ndarray:
    """Normal quantiles of the ranks over all draws of all chains."""
    from scipy import special, stats

    ranks = stats.rankdata(draws.reshape(draws.shape[0] * draws.shape[1], -1), axis=0)
    return special.ndtri((ranks - 0.375) / (len(ranks) + 0.25)).reshape(draws.shape)


def _ess(draws: np.ndarray) -> np.ndarray:
    half = len(draws) // 2
    split = np.concatenate([draws[:half], draws[-half:]], axis=1)
    with _quiet():
        size = tfp.mcmc.effective_sample_size(
            split, filter_beyond_positive_pairs=True, cross_chain_dims=1
        ).numpy()
    constant = np.ptp(split, axis=(0, 1)) == 0
    most = split.shape[0] * split.shape[1]
    # Antithetic chains can exceed the number of draws; constant ones are worth one.
    return np.where(constant, 1.0, np.nan_to_num(size, nan=1.0)).clip(1.0, most * np.log10(most))

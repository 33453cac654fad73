"""log Z of a tilted distribution, with what says how far it can be trusted."""

import functools
import warnings
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfebm import checks, random
from tfebm.types import EnergyFn, Tensor

LEAST_ESS = 100.0
"""An importance estimate with a lower effective sample size is not to be trusted."""


LARGEST_GAP = 1.0
"""Bounds further apart than this, in nats, do not pin log Z down."""


class LogNormalizer(NamedTuple):
    """log Z by importance sampling."""

    value: float
    """`log mean exp(-E(x))`, x from the base; nats."""
    standard_error: float
    """Of `value`, by the delta method."""
    effective_sample_size: float
    """`(sum w)**2 / sum w**2`, at most the number of samples."""
    num_samples: int

    @property
    def reliable(self) -> bool:
        """Whether the effective sample size is at least `LEAST_ESS`."""
        return self.effective_sample_size >= LEAST_ESS


class NormalizerBounds(NamedTuple):
    """log Z between the two stochastic bounds of annealed importance sampling."""

    lower: float
    """Mean log weight of chains from the base to the tilt: at most log Z in expectation."""
    upper: float
    """Minus the mean log weight of chains back: at least log Z, for exact samples of the tilt."""
    value: float
    """`log mean exp(log weight)` of the chains forward: consistent."""
    standard_error: float
    """The larger of the two bounds' standard errors."""
    num_chains: int
    num_temperatures: int

    @property
    def gap(self) -> float:
        """`upper - lower`, nats; small only where both directions mix."""
        return self.upper - self.lower

    @property
    def reliable(self) -> bool:
        """Whether the bounds are within `LARGEST_GAP` of each other, and in their order.

        An upper bound below the lower one, beyond the error of both, says that the samples of the
        tilt were none.
        """
        return -5.0 * self.standard_error <= self.gap <= LARGEST_GAP


def importance_log_normalizer(
    energy_fn: EnergyFn,
    base: tfp.distributions.Distribution,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    num_samples: int = 10_000,
) -> LogNormalizer:
    """log Z = log E_base[exp(-E(x))] by samples of the base.

    Args:
        energy_fn: E, `[B, ...]` to `[B]`.
        base: The distribution that is tilted.
        seed: Of the samples.
        batch_size: Samples at a time.
        num_samples: How many.

    Returns:
        The estimate with its standard error and effective sample size; a `UserWarning` comes
        with one that cannot be trusted.

    Example:

        >>> estimate = importance_log_normalizer(energy, flow.distribution())
        >>> estimate.value, estimate.effective_sample_size
    """
    checks.check_count("num_samples", num_samples, least=2)

    @tf.function(autograph=False, reduce_retracing=True)
    def energies(stream: Tensor) -> Tensor:
        return tf.cast(energy_fn(base.sample(batch_size, seed=stream)), tf.float64)

    batches = -(-num_samples // batch_size)
    root = random.root_seed(seed)
    log_weights = -np.concatenate(
        [energies(random.fold_in(root, i)).numpy() for i in range(batches)]
    )
    estimate = log_mean_weight(log_weights[:num_samples])
    if not estimate.reliable:
        warnings.warn(
            f"log Z by importance sampling is not to be trusted: {num_samples} samples of the base "
            f"are worth {estimate.effective_sample_size:.1f} of the tilt, and at least "
            f"{LEAST_ESS:g} are needed. Take more samples, or bracket it with "
            "`annealed_log_normalizer`.",
            stacklevel=2,
        )
    return estimate


def log_mean_weight(log_weights: np.ndarray) -> LogNormalizer:
    """The estimate from log weights `[N]`."""
    log_weights = np.asarray(log_weights, np.float64)
    number = len(log_weights)
    top = log_weights.max()
    if not np.isfinite(top):
        return LogNormalizer(float(top), float("inf"), 0.0, number)
    weights = np.exp(log_weights - top)
    ess = weights.sum() ** 2 / (weights**2).sum()
    error = weights.std() / weights.mean() / np.sqrt(number)
    return LogNormalizer(float(top + np.log(weights.mean())), float(error), float(ess), number)


def annealed_log_normalizer(
    energy_fn: EnergyFn,
    base: tfp.distributions.Distribution,
    target_samples: Tensor,
    *,
    seed: int = 0,
    num_temperatures: int = 1000,
    step_size: float = 0.1,
    num_leapfrog_steps: int = 3,
    jit_compile: bool = False,
) -> NormalizerBounds:
    """log Z bracketed by annealed importance sampling in both directions.

    Chains go from samples of the base to the tilt through `exp(-t E) base`, t from 0 to 1, and
    back from samples of the tilt. The first bound is stochastic but honest; the second one is
    as honest as the samples of the tilt are exact.

    Args:
        energy_fn: E, `[B, ...]` to `[B]`.
        base: The distribution that is tilted; for a flow its latent base, with
            `pull_back(energy_fn, flow.bijector)`, where chains mix.
        target_samples: Samples of the tilt, `[C, ...]`; C is also the number of chains forward.
        seed: Of all noise.
        num_temperatures: Steps from 0 to 1.
        step_size: Of the HMC transition at every temperature.
        num_leapfrog_steps: Of the same.
        jit_compile: Compile with XLA.

    References: R. Neal. Annealed importance sampling. Statistics and Computing, 2001. The bound
    from above: R. Grosse et al. Sandwiching the marginal likelihood using bidirectional Monte
    Carlo. 2015.
    """
    checks.check_count("num_temperatures", num_temperatures)
    num_chains = len(target_samples)

    def tilted(x: Tensor) -> Tensor:
        return base.log_prob(x) - tf.cast(energy_fn(x), base.dtype)

    @functools.partial(tf.function, autograph=False, jit_compile=jit_compile)
    def log_weights(start: Tensor, stream: Tensor, forward: bool) -> Tensor:
        ends = (base.log_prob, tilted) if forward else (tilted, base.log_prob)
        _, weights, _ = tfp.mcmc.sample_annealed_importance_chain(
            num_steps=num_temperatures,
            proposal_log_prob_fn=ends[0],
            target_log_prob_fn=ends[1],
            current_state=start,
            make_kernel_fn=lambda log_prob: tfp.mcmc.HamiltonianMonteCarlo(
                log_prob, step_size=step_size, num_leapfrog_steps=num_leapfrog_steps
            ),
            seed=stream,
        )
        return weights

    streams = [random.fold_in(random.root_seed(seed), i) for i in range(3)]
    start = base.sample(num_chains, seed=streams[0])
    forward = log_weights(start, streams[1], forward=True).numpy().astype(np.float64)
    start = tf.cast(target_samples, base.dtype)
    backward = log_weights(start, streams[2], forward=False).numpy().astype(np.float64)
    error = max(forward.std(), backward.std()) / np.sqrt(num_chains)
    return NormalizerBounds(
        lower=float(forward.mean()),
        upper=float(-backward.mean()),
        value=log_mean_weight(forward).value,
        standard_error=float(error),
        num_chains=num_chains,
        num_temperatures=num_temperatures,
    )

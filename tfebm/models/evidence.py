"""Choosing the step sizes of a model's posterior chain, and bounds on log p(x) through it."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.models.inference import check_eager
from tfebm.models.latent_variable import LatentVariableModel
from tfebm.models.posterior_chain import PosteriorChainModel
from tfebm.models.vae import VAE
from tfebm.samplers import ShortRunLangevin, Tuning, log_det, step_size
from tfebm.types import Seed

_ENTROPY_EXTRA = 8  # chains beyond d, which the sample covariance needs
_STEIN_CHAINS = 8
_ROWS = 256  # chains at a time, for bounds
# First step sizes of chains for bounds, in units of the prior's scale: from curvatures above 2,000
# to those of a posterior that is hardly narrower than the prior.
_EVIDENCE_STEPS = (0.03, 0.6, 9)
_FEW = 0.1  # of the chains may be invalid: they weigh nothing in the importance-weighted bound


class EvidenceBound(NamedTuple):
    """Bounds on log p(x) through the short-run map; nats, every array `[N]`, float64."""

    elbo: np.ndarray
    """Mean over the chains of log p(x, z_K) - log q(z_K | noise): at most log p(x) in
    expectation."""
    importance_weighted: np.ndarray
    """log of the mean over the chains of p(x, z_K) / q(z_K | noise): between the ELBO and log p(x)
    in expectation, and rising with the number of chains. A chain that is not valid weighs nothing,
    which leaves a bound; -inf where none is."""
    reconstruction: np.ndarray
    """-E log p(x | z_K)."""
    kl: np.ndarray
    """E[log q(z_K | noise) - log p(z_K)]; the ELBO is minus the sum of the two."""
    valid: np.ndarray
    """bool: every factor of every chain is positive definite. Elsewhere the ELBO and the KL are
    none. Certain for the method "exact"; by "lanczos" a factor that is not can be missed."""
    invalid_chains: float
    """The share of chains of which that cannot be said."""

    @property
    def valid_share(self) -> float:
        """The share of examples with valid chains alone."""
        return float(np.mean(self.valid))

    def summary(self) -> dict[str, float | None]:
        """Means for a record; None for bounds where any example has none."""
        weighted = np.isfinite(self.importance_weighted)
        bounds = {
            "elbo": (self.elbo, self.valid),
            "importance_weighted": (self.importance_weighted, weighted),
            "kl": (self.kl, self.valid),
        }
        means = {n: float(np.mean(v)) if ok.all() else None for n, (v, ok) in bounds.items()}
        return {
            **means,
            "reconstruction": float(np.mean(self.reconstruction)),
            "invalid_share": 1.0 - self.valid_share,
            "invalid_chains": self.invalid_chains,
            "num_examples": len(self.valid),
        }


class LaplaceBound(NamedTuple):
    """A bound on log p(x) by importance sampling, and the posterior that it sees; nats, every array
    `[N]`, float64."""

    importance_weighted: np.ndarray
    """log of the mean of p(x, z) / q(z) over the samples: at most log p(x) in expectation, and
    rising with their number."""
    reconstruction: np.ndarray
    """-E log p(x | z) under the posterior, by the weighted samples."""
    kl: np.ndarray
    """KL(p(z | x) || p(z)), likewise: what is left of the bound, -log p(x) - reconstruction."""
    effective_sample_size: np.ndarray
    """(sum of the weights)**2 / (sum of their squares): from 1 to the number of samples. Near 1,
    the two before are those of a single sample, and the bound may be loose."""

    def summary(self) -> dict[str, float | None]:
        """Means for a record; None where an example has no bound at all."""
        means = {name: float(np.mean(values)) for name, values in self._asdict().items()}
        means["smallest_effective_sample_size"] = float(np.min(self.effective_sample_size))
        known = {name: value if np.isfinite(value) else None for name, value in means.items()}
        return {**known, "num_examples": len(self.kl)}


def chains_for(criterion: str, report: str, latent_size: int) -> int:
    """Chains per example that a criterion needs, all three of them for the report "all"."""
    if criterion == "entropy" or report == "all":
        return latent_size + _ENTROPY_EXTRA
    return _STEIN_CHAINS if criterion == "ksd" else 1


def tune_step_size(
    model: PosteriorChainModel,
    x: Any,
    seed: Seed = 0,
    apply: bool = True,
    criterion: str = "entropy",
    report: str = "chosen",
    num_chains: int | None = None,
    **options: Any,
) -> Tuning:
    """Chooses the step sizes of the posterior chain on a few examples.

    Minimises a divergence between the law of the chain's end and the posterior; see
    `tfebm.samplers.step_size.tune`, which says what the criteria are.

    Args:
        model: A `ShortRunModel` or a `LatentEBM` (whose prior's log Z shifts all candidates alike).
        x: Examples `[N, ...]`; 32 are a fair number.
        seed: Of starts, noise and probes.
        apply: Whether the choice becomes the model's `posterior_step_size`.
        criterion: "kl", "entropy" or "ksd"; "entropy" gave the best models of the three.
        report: "all" computes the two others too, "chosen" does not.
        num_chains: Chains per example. Default: what the criteria need.
        **options: Of `tfebm.samplers.step_size.tune`: `search`, `family`, `per_part`,
            `values`, `around`, `method`, ...

    Returns:
        What was tried and chosen.

    Raises:
        InvalidInputError: No candidate that may be chosen, or a model whose `posterior_sampler` was
            replaced by another one.

    Example:

        >>> found = tune_step_size(model, x_train[:32], criterion="ksd")
        >>> found.table                                           # [K, P]
    """
    check_eager()
    _check_has_chain(model)
    log_det.check_short_run(model.posterior_sampler)
    if model.current_step_size() is None:
        raise InvalidInputError(
            "The model's `posterior_sampler` was replaced by one of other settings, and runs with "
            "the step sizes of its own. Make a model with that sampler, or give it back the first."
        )
    x = model.as_rows(x)
    if not len(x):
        raise InvalidInputError("The step sizes are tuned on examples. Received none.")
    if num_chains is None:
        num_chains = chains_for(criterion, report, model.total_latent_size)
    checks.check_count("num_chains", num_chains)
    start, seeds = model.start(random.as_row_seeds(seed, len(x) * num_chains), random.POSTERIOR)
    found = step_size.tune(
        *(model.posterior_sampler, model.joint_energy, start, x),
        seed=seeds,
        criterion=criterion,
        report=report,
        num_chains=num_chains,
        start_scale=model.prior_scale,
        **options,
    )
    if apply:
        model.posterior_step_size.assign(found.table.astype(np.float32))
    return found


def _check_has_chain(model: Any) -> None:
    if not isinstance(model, PosteriorChainModel):
        raise InvalidInputError(
            "Step sizes are those of a chain that infers latents. Received a "
            f"{type(model).__name__}, which has none; use a `ShortRunModel` or a `LatentEBM`."
        )


def check_stability(model: PosteriorChainModel, x: Any, seed: Seed = 0) -> float:
    """The largest curvature that the posterior chain meets on a few examples.

    Args:
        model: As in `tune_step_size`.
        x: Examples; the first eight are used.
        seed: Of starts and noise.

    Raises:
        InvalidInputError: A step size at or past 2 / sqrt(largest curvature); both are named.
    """
    check_eager()
    _check_has_chain(model)
    x = model.trim_rows(model.as_rows(x)[:8])
    start, seeds = model.start(random.as_row_seeds(seed, len(x)), random.POSTERIOR)
    return step_size.check_stability(
        *(model.posterior_sampler, model.joint_energy, start, x),
        seed=seeds,
        step_size=model.current_step_size(),
    )


def evidence_bound(
    model: PosteriorChainModel | VAE,
    x: Any,
    num_chains: int = 1,
    seed: Seed = 0,
    log_normalizer: float = 0.0,
    sampler: ShortRunLangevin | None = None,
    **options: Any,
) -> EvidenceBound:
    """Bounds on log p(x) through the posterior chain, its noise held fixed, or an encoder.

        log q(z_K | e) = log p0(z_0) - log |det dz_K/dz_0|
        ELBO = E[log p(x, z_K) - log q(z_K | e)] <= log p(x)

    log-determinant, end and densities belong to the same start and noise, and dropout is off. The
    bound holds for every noise, hence for the mean; it charges nothing for how noise mixes. Of a
    `VAE`, z is a draw of q(z | x) and every number is a bound.

    Args:
        model: A `ShortRunModel`, a `LatentEBM` with its log Z, or a `VAE`.
        x: Examples `[N, ...]`.
        num_chains: M, independent chains of each example.
        seed: Of starts and noise.
        log_normalizer: log Z of the prior's tilt; 0 without one.
        sampler: The chain; every one has its bound. Default: the model's own, with its tuned step
            sizes. `evidence_sampler` looks for one with a tighter bound.
        **options: Of `tfebm.samplers.log_det.log_det_of_map`: `method` ("exact", K d
            Hessian-vector products a chain, or "lanczos"), `num_probes`, `num_lanczos`,
            `max_rows`.

    Raises:
        InvalidInputError: Examples of another shape, or a network that is random in inference.

    Example:

        >>> bound = evidence_bound(model, x_test[:100], num_chains=10)
        >>> bound.importance_weighted.mean(), bound.valid_share

    References: E. Nijkamp et al. ECCV 2020, section 3.3. Y. Burda, R. Grosse, R. Salakhutdinov.
    Importance Weighted Autoencoders. ICLR 2016.
    """
    check_eager()
    checks.check_count("num_chains", num_chains)
    x = model.as_rows(x)
    if not len(x):
        raise InvalidInputError("A bound is a mean over examples. Received none.")
    seeds = tf.reshape(random.as_row_seeds(seed, len(x) * num_chains), [-1, num_chains, 2])
    order = model.row_order(x)
    order = np.arange(len(x)) if order is None else order
    per_batch = max(1, _ROWS // num_chains)
    if sampler is not None:
        options["sampler"] = sampler
    pieces = []
    for first in range(0, len(x), per_batch):
        rows = order[first : first + per_batch]
        batch = tf.repeat(model.trim_rows(tf.gather(x, rows)), num_chains, axis=0)
        found = model.bound_rows(batch, tf.reshape(tf.gather(seeds, rows), [-1, 2]), **options)
        pieces.append([part.numpy() for part in found])
    back = np.argsort(order)
    log_weight, reconstruction, valid = (
        np.concatenate(parts).reshape(-1, num_chains)[back] for parts in zip(*pieces, strict=True)
    )
    log_weight = log_weight - log_normalizer
    elbo, reconstruction = log_weight.mean(axis=1), reconstruction.mean(axis=1)
    counted = np.where(valid, log_weight, -np.inf)
    weighted = np.logaddexp.reduce(counted, axis=1) - np.log(num_chains)
    kl = -elbo - reconstruction
    return EvidenceBound(
        elbo, weighted, reconstruction, kl, valid.all(axis=1), float(np.mean(~valid))
    )


def laplace_bound(
    model: LatentVariableModel,
    x: Any,
    num_samples: int = 100,
    num_chains: int = 4,
    seed: Seed = 0,
    log_normalizer: float = 0.0,
) -> LaplaceBound:
    """A bound on log p(x) by importance samples around the ends of the posterior chain.

        log p(x) >= E log (1/M) sum_m p(x, z_m) / q(z_m),    z_m ~ q

    q mixes Gaussians at the ends of `num_chains` chains (of a `VAE`: at draws of its encoder),
    whose precision is the Hessian of -log p(x, z) there, and a tenth of the prior, which bounds the
    weights. `tfebm.models.laplace` has the formulas. Unlike `evidence_bound` it needs no chain that
    is a diffeomorphism, and costs d Hessian-vector products a chain instead of K d. The bound is
    the same question to every model, however it infers.

    Args:
        model: A `ShortRunModel`, a `LatentEBM` with its log Z, or a `VAE`.
        x: Examples `[N, ...]`.
        num_samples: M, importance samples of each example, at least 2.
        num_chains: Chains of each example.
        seed: Of all noise, keyed by each example's own values.
        log_normalizer: log Z of the prior's tilt; 0 without one.

    Raises:
        InvalidInputError: Examples of another shape, none, counts that are too small, or a network
            that is random in inference.

    Example:

        >>> bound = laplace_bound(model, x_test[:500])
        >>> -bound.importance_weighted.mean(), bound.effective_sample_size.min()

    References: L. Tierney, J. B. Kadane. Accurate Approximations for Posterior Moments and Marginal
    Densities. JASA 1986. A. Owen, Y. Zhou. Safe and Effective Importance Sampling. JASA 2000,
    section 3 (the share of the prior).
    """
    check_eager()
    checks.check_count("num_samples", num_samples, least=2)
    checks.check_count("num_chains", num_chains)
    x = model.as_rows(x)
    if not len(x):
        raise InvalidInputError("A bound is a mean over examples. Received none.")
    some = model.trim_rows(x[:2])
    z = model.sample_prior(random.as_row_seeds(0, len(some)))
    log_det.check_not_random(log_det.energy_is_random(model.joint_energy, z, (some,)))
    log_weight, error = model.weighted_samples(x, num_samples, num_chains, seed)
    log_weight, error = log_weight.astype(np.float64) - log_normalizer, error.astype(np.float64)
    # A sample outside of the float range weighs nothing, which leaves a bound.
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf)
    total = np.logaddexp.reduce(log_weight, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # none weighs anything: no numbers
        shares = np.exp(log_weight - total)
    bound = total[:, 0] - np.log(num_samples)
    reconstruction = np.sum(shares * np.where(shares > 0, error, 0.0), axis=1)
    size = 1.0 / np.sum(shares**2, axis=1)
    return LaplaceBound(bound, reconstruction, -bound - reconstruction, size)


def evidence_sampler(
    model: PosteriorChainModel, x: Any, num_steps: int = 20, seed: Seed = 0, **options: Any
) -> ShortRunLangevin:
    """A chain without noise whose evidence bound is the tightest of a few.

    A model may learn best with steps so large that its chain is not a diffeomorphism. Any chain has
    a bound, and the one that minimises Q, the mean of minus the ELBO, has the best: this one, over
    constant step sizes (or another `family`) that are valid for nine of ten examples or more.

    Args:
        model: A `ShortRunModel` or a `LatentEBM`.
        x: Examples to choose by; never those of the bound. 16 are a fair number.
        num_steps: K.
        seed: Of starts and probes.
        **options: Of `tfebm.samplers.step_size.tune`.

    Returns:
        A sampler for `evidence_bound(..., sampler=...)`.

    Raises:
        InvalidInputError: No examples, or no schedule that is valid for enough of them.

    Example:

        >>> sampler = evidence_sampler(model, x_valid[:16])
        >>> bound = evidence_bound(model, x_test[:500], num_chains=10, sampler=sampler)
    """
    check_eager()
    x = model.as_rows(x)
    if not len(x):
        raise InvalidInputError("The chain is chosen by examples. Received none.")
    start, seeds = model.start(random.as_row_seeds(seed, len(x)), random.POSTERIOR)
    sampler = ShortRunLangevin(num_steps, 0.1, 0.0)
    found = step_size.tune(
        *(sampler, model.joint_energy, start, model.trim_rows(x)),
        seed=seeds,
        **{
            "criterion": "kl",
            "values": model.prior_scale * np.geomspace(*_EVIDENCE_STEPS),
            "num_lanczos": 6,
            "max_invalid": _FEW,
            "max_rows": model.rows_at_once,
            "start_scale": model.prior_scale,
            **options,
        },
    )
    return ShortRunLangevin(num_steps, found.table.tolist(), 0.0)

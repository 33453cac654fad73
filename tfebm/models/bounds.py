"""Bounds on log p(x) through the posterior chain or an encoder; methods of every model."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.models.parts import Parts
from tfebm.models.rows import check_eager
from tfebm.samplers import Chain, log_det
from tfebm.types import Seed

_ROWS = 256  # chains at a time


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


def evidence_bound(
    model: Parts,
    x: Any,
    *,
    seed: Seed = 0,
    num_chains: int = 1,
    log_normalizer: float = 0.0,
    sampler: Chain | None = None,
    **options: Any,
) -> EvidenceBound:
    """Bounds on log p(x) through the posterior chain, its noise held fixed, or an encoder.

        log q(z_K | e) = log p0(z_0) - log |det dz_K/dz_0|
        ELBO = E[log p(x, z_K) - log q(z_K | e)] <= log p(x)

    log-determinant, end and densities belong to the same start and noise, and dropout is off. The
    bound holds for every noise, hence for the mean; it charges nothing for how noise mixes. Of a
    `VAE`, z is a draw of q(z | x) and every number is a bound.

    Of a chain with momentum the bound is that of (z, v), whose determinant is known and takes no
    Hessian (`tfebm.samplers.kinetic`); it is one at any step size.

    Args:
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

        >>> bound = model.evidence_bound(x_test[:100], num_chains=10)
        >>> bound.importance_weighted.mean(), bound.valid_share

    References: E. Nijkamp et al. ECCV 2020, section 3.3. Y. Burda, R. Grosse, R. Salakhutdinov.
    Importance Weighted Autoencoders. ICLR 2016.
    """
    check_eager()
    checks.check_count("num_chains", num_chains)
    x = model.examples.tensor(x)
    if not len(x):
        raise InvalidInputError("A bound is a mean over examples. Received none.")
    seeds = tf.reshape(random.as_row_seeds(seed, len(x) * num_chains), [-1, num_chains, 2])
    order = model.examples.order(x)
    order = np.arange(len(x)) if order is None else order
    per_batch = max(1, _ROWS // num_chains)
    if sampler is not None:
        options["sampler"] = sampler
    pieces = []
    for first in range(0, len(x), per_batch):
        rows = order[first : first + per_batch]
        batch = tf.repeat(model.examples.trim(tf.gather(x, rows)), num_chains, axis=0)
        found = model.inference.bound(batch, tf.reshape(tf.gather(seeds, rows), [-1, 2]), **options)
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
        elbo, weighted, reconstruction, kl, np.all(valid, axis=1), float(np.mean(~valid))
    )


def laplace_bound(
    model: Parts,
    x: Any,
    *,
    seed: Seed = 0,
    num_chains: int = 4,
    num_samples: int = 100,
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
        x: Examples `[N, ...]`.
        num_samples: M, importance samples of each example, at least 2.
        num_chains: Chains of each example.
        seed: Of all noise, keyed by each example's own values.
        log_normalizer: log Z of the prior's tilt; 0 without one.

    Raises:
        InvalidInputError: Examples of another shape, none, counts that are too small, or a network
            that is random in inference.

    Example:

        >>> bound = model.laplace_bound(x_test[:500])
        >>> -bound.importance_weighted.mean(), bound.effective_sample_size.min()

    References: L. Tierney, J. B. Kadane. Accurate Approximations for Posterior Moments and Marginal
    Densities. JASA 1986. A. Owen, Y. Zhou. Safe and Effective Importance Sampling. JASA 2000,
    section 3 (the share of the prior).
    """
    check_eager()
    checks.check_count("num_samples", num_samples, least=2)
    checks.check_count("num_chains", num_chains)
    x = model.examples.tensor(x)
    if not len(x):
        raise InvalidInputError("A bound is a mean over examples. Received none.")
    if not model.inference.answers & {"errors", "bound"}:
        model.inference.bound(x, random.as_row_seeds(seed, len(x)))  # says why there is none
    some = model.examples.trim(x[:2])
    z = model.prior.sample(random.as_row_seeds(0, len(some)))
    log_det.check_not_random(
        log_det.energy_is_random(model.inference.joint.joint_energy, z, (some,))
    )
    size = max(1, model.examples.rows_at_once // num_chains)
    log_weight, error = model.rows.on_examples(
        "laplace_rows",
        x,
        seed=seed,
        num_chains=num_chains,
        batch_size=size,
        num_samples=num_samples,
    )
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

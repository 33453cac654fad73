"""Choosing the step sizes of the chain that infers latents; methods of every model."""

from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.models import latents
from tfebm.models.parts import Parts, PosteriorChain
from tfebm.models.rows import check_eager
from tfebm.samplers import ShortRunLangevin, Tuning, step_size
from tfebm.samplers.candidates import Criterion
from tfebm.samplers.chain import check_differentiable
from tfebm.types import Seed

_ENTROPY_EXTRA = 8  # chains beyond d, which the sample covariance needs
_STEIN_CHAINS = 8
# First step sizes of chains for bounds, in units of the prior's scale: from curvatures of 90,000,
# as generators of sharp images have, to those of a posterior hardly narrower than the prior.
_EVIDENCE_STEPS = (0.0046, 0.6, 14)
_FEW = 0.1  # of the chains may be invalid: they weigh nothing in the importance-weighted bound


def chains_for(criterion: str, report: str, latent_size: int) -> int:
    """Chains per example that a criterion needs, all three of them for the report "all"."""
    if criterion == "entropy" or report == "all":
        return latent_size + _ENTROPY_EXTRA
    return _STEIN_CHAINS if criterion == "ksd" else 1


def tune_step_size(
    model: Parts,
    x: Any,
    *,
    seed: Seed = 0,
    num_chains: int | None = None,
    criterion: Criterion = "entropy",
    report: Literal["chosen", "all"] = "chosen",
    apply: bool = True,
    **options: Any,
) -> Tuning:
    """Chooses the step sizes of the posterior chain on a few examples.

    Minimises a divergence between the law of the chain's end and the posterior; see
    `tfebm.samplers.step_size.tune`, which says what the criteria are.

    Args:
        x: Examples `[N, ...]`; 32 are a fair number.
        seed: Of starts, noise and probes.
        apply: Whether the choice becomes the model's `posterior_step_size` and, of a chain with
            momentum, its `posterior_momentum`.
        criterion: "kl", "entropy" or "ksd"; "entropy" gave the best models of the three.
        report: "all" computes the two others too, "chosen" does not.
        num_chains: Chains per example. Default: what the criteria need.
        **options: Of `tfebm.samplers.step_size.tune`: `search`, `family`, `per_part`,
            `values`, `around`, `momenta`, `method`, ...

    Returns:
        What was tried and chosen.

    Raises:
        InvalidInputError: No candidate that may be chosen, or a model whose `posterior_sampler` was
            replaced by another one.

    Example:

        >>> found = model.tune_step_size(x_train[:32], criterion="ksd")
        >>> found.table                                           # [K, P]
    """
    check_eager()
    chain = _chain_of(model)
    check_differentiable(chain.sampler)
    if chain.step_size is None or chain.was_replaced:
        raise InvalidInputError(
            "The model's `posterior_sampler` was replaced by one of other settings, and runs with "
            "the step sizes of its own. Make a model with that sampler, or give it back the first."
        )
    x = model.examples.tensor(x)
    if not len(x):
        raise InvalidInputError("The step sizes are tuned on examples. Received none.")
    if num_chains is None:
        num_chains = chains_for(criterion, report, sum(latents.sizes(model.prior.latent_size)))
    checks.check_count("num_chains", num_chains)
    rows = tf.repeat(x, num_chains, axis=0)
    start, seeds = chain.first.draw(rows, random.as_row_seeds(seed, len(rows)))
    found = step_size.tune(
        *(chain.sampler, model.inference.joint.joint_energy, start, x),
        seed=seeds,
        criterion=criterion,
        report=report,
        num_chains=num_chains,
        start_log_prob=chain.first.log_prob(start, rows),
        momentum=chain.current_settings().get("momentum"),
        **options,
    )
    if apply:
        chain.step_size.assign(found.table.astype(np.float32))
        if chain.momentum is not None and found.momentum is not None:
            chain.momentum.assign(found.momentum.astype(np.float32))
    return found


def _chain_of(model: Parts) -> PosteriorChain:
    if model.inference.chain is None:
        raise InvalidInputError(
            "Step sizes are those of a chain that infers latents. Received a "
            f"{type(model).__name__}, which has none; use a `ShortRunModel` or a `LatentEBM`."
        )
    return model.inference.chain


def check_stability(model: Parts, x: Any, *, seed: Seed = 0) -> float:
    """The largest curvature that the posterior chain meets on a few examples.

    Args:
        model: As in `tune_step_size`.
        x: Examples; the first eight are used.
        seed: Of starts and noise.

    Raises:
        InvalidInputError: A step size at or past 2 / sqrt(largest curvature); both are named.
    """
    check_eager()
    chain = _chain_of(model)
    x = model.examples.trim(model.examples.tensor(x)[:8])
    start, seeds = chain.first.draw(x, random.as_row_seeds(seed, len(x)))
    return step_size.check_stability(
        *(chain.sampler, model.inference.joint.joint_energy, start, x),
        seed=seeds,
        **chain.current_settings(),
    )


def evidence_sampler(
    model: Parts,
    x: Any,
    *,
    seed: Seed = 0,
    num_steps: int = 20,
    momentum: float = 0.0,
    **options: Any,
) -> ShortRunLangevin:
    """A chain without noise whose evidence bound is the tightest of a few.

    A model may learn best with steps so large that its chain is not a diffeomorphism. Any chain has
    a bound, and the one that minimises Q, the mean of minus the ELBO, has the best: this one, over
    constant step sizes (or another `family`) that are valid for nine of ten examples or more.

    With `momentum` it is the best of chains with momentum, by gradient over a step size and a
    momentum of every step. Their determinants take no Hessian, and every one of them is valid.

    Args:
        x: Examples to choose by; never those of the bound. 16 are a fair number.
        num_steps: K.
        momentum: Where the search over momenta begins, such as 0.7; 0 for chains without.
        seed: Of starts and probes.
        **options: Of `tfebm.samplers.step_size.tune`.

    Returns:
        A sampler for `evidence_bound(..., sampler=...)`.

    Raises:
        InvalidInputError: No examples, or no schedule that is valid for enough of them.

    Example:

        >>> sampler = model.evidence_sampler(x_valid[:16])
        >>> bound = model.evidence_bound(x_test[:500], num_chains=10, sampler=sampler)
    """
    check_eager()
    x = model.examples.tensor(x)
    if not len(x):
        raise InvalidInputError("The chain is chosen by examples. Received none.")
    x = model.examples.trim(x)
    first = _chain_of(model).first
    start, seeds = first.draw(x, random.as_row_seeds(seed, len(x)))
    sampler = ShortRunLangevin(num_steps, 0.1, 0.0, momentum)
    if sampler.has_momentum:
        options = {"search": "gradient", "family": "free", "num_iterations": 100, **options}
    else:
        options = {"values": model.prior.scale * np.geomspace(*_EVIDENCE_STEPS), **options}
    found = step_size.tune(
        *(sampler, model.inference.joint.joint_energy, start, x),
        seed=seeds,
        **{
            "criterion": "kl",
            "num_lanczos": 6,
            "max_invalid": _FEW,
            "max_rows": model.examples.rows_at_once,
            "start_log_prob": first.log_prob(start, x),
            **options,
        },
    )
    chosen = 0.0 if found.momentum is None else found.momentum.tolist()
    return ShortRunLangevin(num_steps, found.table.tolist(), 0.0, chosen)

"""log Z of a prior that is learned; a method of every model."""

import tensorflow as tf

from tfebm import checks, random
from tfebm.distributions import (
    annealed_log_normalizer,
    importance_log_normalizer,
)
from tfebm.models import latents
from tfebm.models.parts import Normalizer, Parts
from tfebm.models.rows import check_eager

_CHAINS = 64


def estimate_log_normalizer(
    model: Parts,
    *,
    seed: int = 0,
    method: str = "importance",
    num_samples: int | None = None,
    num_temperatures: int = 1000,
) -> Normalizer:
    """log Z of the prior, `log E_{p0}[exp(-E(z))]`, with what says how far to trust it.

    A `FlowEBM` keeps it for `log_prob`, and saves it, where it can be trusted.

    Args:
        seed: Of all noise.
        method: "importance", samples of p0 with their effective sample size; or "annealed",
            which brackets log Z by HMC chains from p0 to the prior and back. The chains back
            start where the model's own chains for the prior end, which is the prior only where they
            arrive.
        num_samples: Samples (default 100,000, and 10,000 of a flow), or for "annealed" chains
            (default 64).
        num_temperatures: Of "annealed".

    Returns:
        The estimate; its `value` joins bounds as `evidence_bound(..., log_normalizer=)` where
        it is `reliable`.

    Raises:
        InvalidInputError: Another method, a prior without an energy, or a backbone that is not a
            flow.
    """
    check_eager()
    checks.check_choice("method", method, ("importance", "annealed"))
    tilt = model.prior.tilt_of_base()
    estimate: Normalizer
    if method == "importance":
        number = tilt.num_samples if num_samples is None else num_samples
        estimate = importance_log_normalizer(
            tilt.energy_fn, tilt.base, seed=seed, num_samples=number
        )
    else:
        streams = random.as_row_seeds(seed, _CHAINS if num_samples is None else num_samples)
        estimate = annealed_log_normalizer(
            tilt.energy_fn,
            tilt.base,
            tf.convert_to_tensor(latents.join(model.prior.sample(streams))),
            seed=seed,
            num_temperatures=num_temperatures,
            step_size=tilt.step_size,
        )
    return model.prior.kept(estimate)

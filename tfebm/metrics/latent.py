"""How many coordinates of a latent say anything about the data."""

import dataclasses

import numpy as np

from tfebm import checks
from tfebm.errors import InvalidInputError

_ROWS = 1024  # examples at a time: of 200 chains each, they need room in float64


@dataclasses.dataclass(frozen=True)
class ActiveUnits:
    """Coordinates whose posterior mean changes with the example."""

    count: int
    """Of the coordinates with a variance above the threshold."""
    variances: np.ndarray
    """`[d]`: Var_x(E[z_i | x]), estimated without bias; about 0, and so at times below 0, for a
    coordinate that ignores x."""
    threshold: float
    """Below which a coordinate counts as unused."""


def active_units(z: np.ndarray, *, threshold: float = 0.01, means: bool = False) -> ActiveUnits:
    """Counts the latent coordinates that depend on the example.

        AU = #{i : Var_x(E[z_i | x]) > threshold}

    The posterior mean of an example is the mean m_x over its M chains, whose own noise would pass
    for dependence: a coordinate that ignores x has Var_x(m_x) = 1 / M, which is above 0.01 for
    every M below 100. With s_x the variance (ddof 1) within the chains of an example,

        Var_x(E[z_i | x]) = Var_x(m_x) - mean_x(s_x) / M

    is free of it in expectation. The protocol is at least 10 chains per example. What is left is
    a standard error of about sqrt(2 / N) / M for an unused coordinate; keep it well below the
    threshold (N 10,000 and M 10: 0.0014).

    Args:
        z: Posterior samples `[N, M, d]`, M independent chains for each of N examples; with
            `means`, exact posterior means `[N, d]`, such as an encoder's.
        threshold: On the variance.
        means: Whether `z` are means, which need no correction.

    Raises:
        InvalidInputError: Another shape, fewer than two examples, one chain per example, NaN, or
            a threshold below 0.

    Example:

        >>> z = np.stack([model.infer(x_test, seed=s) for s in range(10)], axis=1)
        >>> active_units(z).count

    References: Y. Burda, R. Grosse, R. Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016.
    """
    z = np.asarray(z)
    if z.ndim != (2 if means else 3):
        raise InvalidInputError(
            f"`z` must be [N, d] with `means=True` and [N, M, d] without. Received shape {z.shape} "
            f"and means={means}."
        )
    if len(z) < 2:
        raise InvalidInputError(
            f"A variance over examples needs at least two of them. Received `z` of shape {z.shape}."
        )
    if not means and z.shape[1] < 2:
        raise InvalidInputError(
            f"The noise of one chain cannot be told from its mean. Received `z` of shape {z.shape}."
            " Run at least 2 chains per example, 10 by the protocol; for exact means `[N, d]` use "
            "`means=True`."
        )
    if not np.isfinite(z).all():
        raise InvalidInputError("`z` holds NaN or infinite values. Look at the chains.")
    threshold = checks.check_number("threshold", threshold)
    if means:
        variances = z.astype(np.float64).var(axis=0, ddof=1)
    else:
        of_examples = np.empty((len(z), z.shape[2]))
        within = np.zeros(z.shape[2])
        for i in range(0, len(z), _ROWS):
            part = z[i : i + _ROWS].astype(np.float64)
            of_examples[i : i + _ROWS] = part.mean(axis=1)
            within += part.var(axis=1, ddof=1).sum(axis=0) / len(z)
        variances = of_examples.var(axis=0, ddof=1) - within / z.shape[1]
    return ActiveUnits(int((variances > threshold).sum()), variances, threshold)

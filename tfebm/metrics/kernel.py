"""The kernel distance between two sets of images, in features that are named."""

from typing import NamedTuple

import numpy as np

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.metrics import frechet


class KernelDistance(NamedTuple):
    """An estimate, and what the choice of subsets does to it."""

    value: float
    """Unbiased, so that it may be negative where the sets are alike."""
    subset_std: float
    """Standard deviation over the subsets, as papers report it; NaN for a single one. No standard
    error: subsets share rows, and where they are whole sets it is 0."""


def kernel_distance(
    features: np.ndarray,
    reference: np.ndarray,
    *,
    seed: int = 0,
    num_subsets: int = 100,
    subset_size: int = 1000,
) -> KernelDistance:
    """The squared maximum mean discrepancy under a cubic kernel, as a mean over subsets.

        k(a, b) = (a'b / n + 1)**3
        MMD**2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)

    Unlike the Fréchet distance it assumes no Gaussian and has no bias that falls with the number of
    rows; it depends on the features all the same. It is of pairs of rows, and so the features are
    held, where the Fréchet distance holds their moments; images may come and go in batches.

    Args:
        features: `[N, n]`, no `FeatureMoments`.
        reference: `[M, n]`.
        seed: Of the subsets, at least 0.
        num_subsets: Pairs of subsets, at least 1.
        subset_size: Rows drawn without replacement from each set for a pair, at least 2; all rows
            of the smaller set where it has fewer.

    Returns:
        A `KernelDistance`; float64 throughout.

    Raises:
        InvalidInputError: Sets of other shapes, of fewer than two rows, or with NaN; moments; a
            count below its bound.

    Example:

        >>> kernel_distance(extract(samples), extract(x_train)).value

    References: M. Binkowski, D. J. Sutherland, M. Arbel, A. Gretton. Demystifying MMD GANs. ICLR
    2018 (with the features of another network, so that no figure here compares with theirs).
    """
    from sklearn.metrics.pairwise import polynomial_kernel

    if any(isinstance(given, frechet.FeatureMoments) for given in (features, reference)):
        raise InvalidInputError(
            "The kernel distance needs the features themselves, [N, n] and [M, n]. Received "
            "`FeatureMoments`, which are enough for `frechet_distance` only."
        )
    frechet.check_sets(features, reference)
    checks.check_count("seed", seed, least=0)
    one, other = (np.asarray(rows, np.float64) for rows in (features, reference))
    checks.check_count("num_subsets", num_subsets)
    checks.check_count("subset_size", subset_size, least=2)
    size = min(subset_size, len(one), len(other))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(num_subsets):
        a, b = (rows[rng.permutation(len(rows))[:size]] for rows in (one, other))
        within = sum(_sum_of_pairs(rows) for rows in (a, b)) / (size * (size - 1))
        values.append(within - 2.0 * polynomial_kernel(a, b).mean())
    deviation = np.std(values, ddof=1) if num_subsets > 1 else np.nan
    return KernelDistance(float(np.mean(values)), float(deviation))


def _sum_of_pairs(rows: np.ndarray) -> float:
    """k over all pairs of different rows, both orders."""
    from sklearn.metrics.pairwise import polynomial_kernel

    kernel = polynomial_kernel(rows)
    return float(kernel.sum() - np.trace(kernel))

"""The Fréchet distance between two sets of images, in features that are named."""

import numpy as np

from tfebm.errors import InvalidInputError


class FeatureMoments:
    """Mean and covariance of features that come in batches; float64, memory of one matrix.

        m <- m + (m_B - m) B / (N + B)
        S <- S + S_B + (m_B - m)(m_B - m)' N B / (N + B),    C = S / (N - 1)

    Batches of any sizes in any order give the same to rounding, also far from zero, where a mean of
    squares minus a square of means does not.

    Example:

        >>> moments = FeatureMoments()
        >>> for batch in batches:
        ...     moments.update(extract(batch))
        >>> frechet_distance(moments, extract(x_train))

    References: T. Chan, G. Golub, R. LeVeque. Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances. 1979.
    """

    def __init__(self) -> None:
        self.count = 0
        """Rows so far."""
        self.mean = np.zeros(0)
        """`[n]`."""
        self._scatter = np.zeros((0, 0))

    def update(self, features: np.ndarray) -> None:
        """Adds rows `[B, n]`, none or more.

        Raises:
            InvalidInputError: Rows of another size than before, or with NaN; nothing is added.
        """
        rows = np.asarray(features, np.float64)
        size = self.mean.shape[0]
        if rows.ndim != 2 or (self.count and rows.shape[1] != size):
            needed = f"[B, {size}], as those before" if self.count else "[B, n]"
            raise InvalidInputError(
                f"`features` must have shape {needed}. Received shape {rows.shape}."
            )
        _check_finite(rows)
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        centred = rows - mean
        scatter = centred.T @ centred
        if not self.count:
            self.count, self.mean, self._scatter = len(rows), mean, scatter
            return
        total, shift = self.count + len(rows), mean - self.mean
        weight = self.count * len(rows) / total
        self._scatter = self._scatter + scatter + weight * np.outer(shift, shift)
        self.mean = self.mean + shift * len(rows) / total
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """`[n, n]`, divided by N - 1; needs two rows."""
        return self._scatter / (self.count - 1)

    @classmethod
    def of(cls, features: "np.ndarray | FeatureMoments") -> "FeatureMoments":
        """Those of rows `[N, n]`; moments as they are."""
        if isinstance(features, FeatureMoments):
            return features
        moments = cls()
        moments.update(features)
        return moments


def frechet_distance(
    features: np.ndarray | FeatureMoments, reference: np.ndarray | FeatureMoments
) -> float:
    """The squared 2-Wasserstein distance between Gaussians fitted to two sets of features.

        |m1 - m2|**2 + trace(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))

    It depends on the features and falls with the number of rows (the covariances' bias): compare
    figures of the same features, the same numbers of rows and the same reference only.

    Args:
        features: `[N, n]`, N of at least 2, or the `FeatureMoments` of as many; fewer rows than n
            make it less exact, not wrong.
        reference: `[M, n]`, or moments.

    Returns:
        At least 0 up to rounding, in the square of the features' unit; float64 throughout.

    Raises:
        InvalidInputError: Sets of other shapes, of fewer than two rows, or with NaN.

    Example:

        >>> frechet_distance(extract(samples), extract(x_train))

    References: D. Dowson, B. Landau. The Fréchet distance between multivariate normal
    distributions. 1982. M. Heusel et al. GANs Trained by a Two Time-Scale Update Rule. NeurIPS
    2017 (with the features of another network, so that no figure here compares with theirs).
    """
    check_sets(features, reference)
    one, other = (FeatureMoments.of(given) for given in (features, reference))
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    # The eigenvalues of C1 C2, through a symmetric matrix that has the same.
    mixed = np.linalg.eigvalsh(root @ other.covariance @ root)
    cross = np.sqrt(np.maximum(mixed, 0.0)).sum()
    shift = np.sum((one.mean - other.mean) ** 2)
    return float(shift + np.trace(one.covariance) + np.trace(other.covariance) - 2.0 * cross)


def check_sets(*sets: np.ndarray | FeatureMoments) -> None:
    """Raises `InvalidInputError` unless both have at least two rows of one size, all finite."""
    shapes = [
        (given.count, len(given.mean)) if isinstance(given, FeatureMoments) else np.shape(given)
        for given in sets
    ]
    if any(len(s) != 2 or s[0] < 2 or not s[1] for s in shapes) or shapes[0][1] != shapes[1][1]:
        raise InvalidInputError(
            "`features` and `reference` must be [N, n] and [M, n] with at least two rows and one "
            f"feature. Received shapes {shapes[0]} and {shapes[1]}."
        )
    for given in sets:
        if not isinstance(given, FeatureMoments):
            _check_finite(np.asarray(given, np.float64))


def _check_finite(rows: np.ndarray) -> None:
    if not np.isfinite(rows).all():
        raise InvalidInputError("The features hold NaN or infinite values. Look at the samples.")

"""Whether features fall into the classes by themselves."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.metrics.classification import check_features, check_labels


class Clustering(NamedTuple):
    """Accuracy of a mixture that was fitted without labels."""

    test_accuracy: float
    valid_accuracy: float
    best_case_accuracy: float
    """Of the test set, had its own labels named the components in the best way: what the naming
    cost. At least `largest_class`."""
    largest_class: float
    """Share of the most frequent label of the test set: what a constant answer can reach."""
    names: np.ndarray
    """`[K]`: label of each component; two of them may share one."""
    components: np.ndarray
    """`[T]`: component of each row of the test set."""
    converged: bool
    """Whether the mixture met its tolerance within 200 steps."""


def clustering_accuracy(
    features_train: np.ndarray,
    features_valid: np.ndarray,
    y_valid: np.ndarray,
    features_test: np.ndarray,
    y_test: np.ndarray,
    *,
    num_components: int = 2,
    pca: int | None = 4,
    seed: int = 0,
    tolerance: float = 1e-3,
) -> Clustering:
    """Accuracy of the components of a Gaussian mixture, each named by one labelled row.

        p(h) = sum_k w_k N(h; m_k, C_k),   k(h) = argmax_k p(k | h)

    The mixture, of full covariances, is fitted to the first principal components of features
    without labels. A component bears the label of the validation row that is most certainly its
    own, the one of the largest odds p(k | h) / (1 - p(k | h)); in logarithms, since probabilities
    round to 1 and leave the choice to the order of the rows. Test labels only count what was
    right.

    The figure depends on where the mixture starts and ends, and on single rows: report the spread
    over at least ten seeds, and never the best of them.

    Args:
        features_train: `[N, d]`.
        features_valid: `[V, d]`.
        y_valid: `[V]`, whole numbers.
        features_test: `[T, d]`.
        y_test: `[T]`.
        num_components: K.
        pca: Number of principal components; None for the features as they are.
        seed: Of the mixture's start; nothing else is random.
        tolerance: Gain in mean log-likelihood below which the mixture stops.

    Raises:
        InvalidInputError: Features or labels of other shapes or types, or with NaN; more
            principal components than the features have; a tolerance that is not positive.

    Example:

        >>> runs = [clustering_accuracy(train, valid, y_valid, test, y_test, seed=s)
        ...         for s in range(10)]
        >>> mean, deviation = spread([run.test_accuracy for run in runs])

    References: B. Pang, E. Nijkamp, T. Han, Y. N. Wu. Generative Text Modeling through Short Run
    Inference. EACL 2021.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    checks.check_count("num_components", num_components, 2)
    checks.check_count("seed", seed, 0)
    x_train = check_features("features_train", features_train)
    size = x_train.shape[1]
    x_valid = check_features("features_valid", features_valid, size)
    x_test = check_features("features_test", features_test, size)
    y_valid = check_labels("y_valid", y_valid, len(x_valid))
    y_test = check_labels("y_test", y_test, len(x_test))
    checks.check_number("tolerance", tolerance, above=True)
    if len(x_train) < num_components:
        raise InvalidInputError(
            f"A mixture of {num_components} components needs at least as many rows. Received "
            f"{len(x_train)}."
        )
    if pca is not None:
        checks.check_count("pca", pca)
        if pca > min(x_train.shape):
            raise InvalidInputError(
                f"`pca` must be at most {min(x_train.shape)} for training features of shape "
                f"{x_train.shape}. Received {pca}. For the features as they are use `pca=None`."
            )
        # The exact solver, so that the seed is the mixture's alone.
        projection = PCA(pca, svd_solver="full").fit(x_train)
        x_train, x_valid, x_test = map(projection.transform, (x_train, x_valid, x_test))
    mixture = GaussianMixture(num_components, tol=tolerance, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `converged` says so
        mixture.fit(x_train)
    joint = _log_joint(mixture, x_valid)
    names = y_valid[_log_odds(joint).argmax(axis=0)]
    components = _log_joint(mixture, x_test).argmax(axis=1)
    best_case = sum(
        np.unique(y_test[components == k], return_counts=True)[1].max()
        for k in np.unique(components)
    )
    return Clustering(
        test_accuracy=float((names[components] == y_test).mean()),
        valid_accuracy=float((names[joint.argmax(axis=1)] == y_valid).mean()),
        best_case_accuracy=float(best_case / len(y_test)),
        largest_class=float(np.unique(y_test, return_counts=True)[1].max() / len(y_test)),
        names=names,
        components=components,
        converged=bool(mixture.converged_),
    )


def _log_joint(mixture: Any, x: np.ndarray) -> np.ndarray:
    """`log w_k N(x; m_k, C_k)` up to a constant, `[N, K]`."""
    roots = mixture.precisions_cholesky_  # [K, d, d], C^-1 = R R'
    centred = x[:, None, :] - mixture.means_  # [N, K, d]
    white = np.einsum("nkd,kde->nke", centred, roots)
    log_det = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    return np.log(mixture.weights_) + log_det - 0.5 * (white**2).sum(axis=2)


def _log_odds(joint: np.ndarray) -> np.ndarray:
    """`log p(k | h) - log(1 - p(k | h))`, `[N, K]`."""
    others = [np.delete(joint, k, axis=1) for k in range(joint.shape[1])]
    return joint - np.stack([np.logaddexp.reduce(rest, axis=1) for rest in others], axis=1)

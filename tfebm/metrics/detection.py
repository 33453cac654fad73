"""How well a score tells anomalies from normal data."""

import math
from typing import Any, NamedTuple

import numpy as np

from tfebm.errors import InvalidInputError


class AnomalyDetection(NamedTuple):
    """Areas under curves, with what chance and the worst of all scores would reach."""

    auprc: float
    """Area under the precision-recall curve by the trapezoid rule, anomalies being the positives;
    what the papers on latent energy-based models report."""
    average_precision: float
    """The same area by steps, which does not interpolate."""
    auroc: float
    """Area under the receiver operating characteristic; 0.5 by chance."""
    prevalence: float
    """Share of anomalies: the AUPRC of a score that knows nothing, if it has no ties. Of a constant
    score the trapezoid makes (1 + prevalence) / 2; look at `average_precision` there."""
    least_auprc: float
    """The smallest AUPRC at this prevalence for many rows; of few the trapezoid can be below."""
    num_normal: int
    num_anomalies: int


def anomaly_detection(scores: Any, is_anomaly: Any) -> AnomalyDetection:
    """Curves' areas of a score that is higher for what is less likely.

    With p the prevalence, no score of many rows has an AUPRC below

        1 + (1 - p) ln(1 - p) / p.

    Print it and p beside every AUPRC: at p = 0.35 a score that knows nothing has 0.35, and one that
    is always wrong 0.20.

    Args:
        scores: `[N]`, higher for anomalies, as `LatentEBM.score` is; finite.
        is_anomaly: `[N]`, booleans or 0 and 1, both of which occur.

    Returns:
        An `AnomalyDetection`.

    Raises:
        InvalidInputError: Other shapes, scores that are not finite (see `rank_lost_scores`), labels
            that are not two classes.

    Example:

        >>> found = anomaly_detection(model.score(x_test), y_test == 9)
        >>> f"{found.auprc:.3f} of at least {found.least_auprc:.3f}, chance {found.prevalence:.3f}"

    References: scikit-learn computes the curves. K. Boyd, V. Santos Costa, J. Davis, C. D. Page.
    Unachievable Region in Precision-Recall Space and Its Effect on Empirical Evaluation. ICML 2012.
    """
    from sklearn import metrics

    scores, labels = np.asarray(scores, np.float64), np.asarray(is_anomaly)
    if scores.ndim != 1 or labels.shape != scores.shape:
        raise InvalidInputError(
            "`scores` and `is_anomaly` must be [N], one of each per row. Received shapes "
            f"{scores.shape} and {labels.shape}."
        )
    if not np.isfinite(scores).all():
        raise InvalidInputError(
            f"Scores must be finite. {np.count_nonzero(~np.isfinite(scores))} of {len(scores)} are "
            "not. Look at the chains, or count such rows as the oddest with `rank_lost_scores`."
        )
    if sorted(np.unique(labels).tolist()) != [0, 1]:
        raise InvalidInputError(
            "`is_anomaly` must be true for some rows and false for others. Received the values "
            f"{np.unique(labels)[:5].tolist()}."
        )
    labels = labels.astype(bool)
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    share = float(labels.mean())
    return AnomalyDetection(
        auprc=float(metrics.auc(recall, precision)),
        average_precision=float(metrics.average_precision_score(labels, scores)),
        auroc=float(metrics.roc_auc_score(labels, scores)),
        prevalence=share,
        least_auprc=1.0 + (1.0 - share) * math.log1p(-share) / share,
        num_normal=int(np.count_nonzero(~labels)),
        num_anomalies=int(np.count_nonzero(labels)),
    )


def rank_lost_scores(scores: Any) -> np.ndarray:
    """Scores in which those that are NaN or infinite stand above all others, alike.

    A chain that could not hold on to a row says that the row is odd.

    Args:
        scores: `[N]`.

    Returns:
        `[N]`, float64, finite.

    Example:

        >>> rank_lost_scores([1.0, float("nan"), 3.0])
        array([1., 4., 3.])
    """
    scores = np.asarray(scores, np.float64)
    finite = np.isfinite(scores)
    top = scores[finite].max() if finite.any() else 0.0
    # Beyond 1e16 a 1 more is the same number.
    return np.where(finite, scores, max(top + 1.0, np.nextafter(top, np.inf)))

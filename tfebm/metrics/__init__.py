"""Measures of chains and models; they know no model."""

from tfebm.metrics import chains
from tfebm.metrics.chains import (
    ChainReport,
    autocorrelation,
    autocorrelation_time,
    effective_sample_size,
    mode_switches,
    report,
    split_r_hat,
    total_variation,
)
from tfebm.metrics.frechet import ClassifierFeatures, classifier_features, frechet_distance

__all__ = [
    "ChainReport",
    "ClassifierFeatures",
    "autocorrelation",
    "autocorrelation_time",
    "chains",
    "classifier_features",
    "effective_sample_size",
    "frechet_distance",
    "mode_switches",
    "report",
    "split_r_hat",
    "total_variation",
]

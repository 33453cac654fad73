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

__all__ = [
    "ChainReport",
    "autocorrelation",
    "autocorrelation_time",
    "chains",
    "effective_sample_size",
    "mode_switches",
    "report",
    "split_r_hat",
    "total_variation",
]

"""TFP distributions: the exponential tilt and its normalizer."""

from tfebm.distributions.exponential_tilting import ExponentialTilting, pull_back
from tfebm.distributions.log_normalizer import (
    LogNormalizer,
    NormalizerBounds,
    annealed_log_normalizer,
    importance_log_normalizer,
)

__all__ = [
    "ExponentialTilting",
    "LogNormalizer",
    "NormalizerBounds",
    "annealed_log_normalizer",
    "importance_log_normalizer",
    "pull_back",
]

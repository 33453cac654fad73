"""Chains over any energy function; they know no model."""

from tfebm.samplers.chain import Chain
from tfebm.samplers.metropolis import HMC, MALA, MetropolisTrace, check_acceptance
from tfebm.samplers.short_run import ChainTrace, ShortRunLangevin

__all__ = [
    "HMC",
    "MALA",
    "Chain",
    "ChainTrace",
    "MetropolisTrace",
    "ShortRunLangevin",
    "check_acceptance",
]

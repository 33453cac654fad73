"""Chains over any energy function, and what is known about them; they know no model."""

from tfebm.samplers import criteria, log_det, step_size
from tfebm.samplers.chain import Chain
from tfebm.samplers.log_det import LogDet
from tfebm.samplers.metropolis import HMC, MALA, MetropolisTrace, check_acceptance
from tfebm.samplers.short_run import ChainTrace, ShortRunLangevin
from tfebm.samplers.step_size import Tuning

__all__ = [
    "HMC",
    "MALA",
    "Chain",
    "ChainTrace",
    "LogDet",
    "MetropolisTrace",
    "ShortRunLangevin",
    "Tuning",
    "check_acceptance",
    "criteria",
    "log_det",
    "step_size",
]

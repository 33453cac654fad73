"""Chains over any energy function, and what is known about them; they know no model."""

from tfebm.samplers import criteria, log_det, step_size
from tfebm.samplers.calls import Call
from tfebm.samplers.candidates import NoStepSize, Tuning
from tfebm.samplers.chain import Chain, ChainTrace, StepInfo
from tfebm.samplers.hmc import HMC, MALA, MetropolisTrace
from tfebm.samplers.langevin import ShortRunLangevin
from tfebm.samplers.log_det import LogDet

__all__ = [
    "HMC",
    "MALA",
    "Call",
    "Chain",
    "ChainTrace",
    "LogDet",
    "MetropolisTrace",
    "NoStepSize",
    "ShortRunLangevin",
    "StepInfo",
    "Tuning",
    "criteria",
    "log_det",
    "step_size",
]

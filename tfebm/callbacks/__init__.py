"""Keras callbacks: checkpoints, divergence, figures and pictures of epochs."""

from tfebm.callbacks.active_units import ActiveUnits
from tfebm.callbacks.anomaly_curves import AnomalyCurves
from tfebm.callbacks.chain_diagnostics import ChainDiagnostics
from tfebm.callbacks.checkpoint import Checkpoint, complete_checkpoints, newest_checkpoint, step_of
from tfebm.callbacks.divergence import StopOnDivergence
from tfebm.callbacks.run_log import RunLog
from tfebm.callbacks.sample_grid import SampleGrid
from tfebm.callbacks.sample_quality import SampleQuality
from tfebm.callbacks.step_size_tuner import StepSizeTuner

__all__ = [
    "ActiveUnits",
    "AnomalyCurves",
    "ChainDiagnostics",
    "Checkpoint",
    "RunLog",
    "SampleGrid",
    "SampleQuality",
    "StepSizeTuner",
    "StopOnDivergence",
    "complete_checkpoints",
    "newest_checkpoint",
    "step_of",
]

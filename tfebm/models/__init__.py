"""Keras models; the only place with a `train_step`."""

from tfebm.models.evidence import EvidenceBound, check_stability, evidence_bound, tune_step_size
from tfebm.models.flow_ebm import FlowEBM
from tfebm.models.flow_model import FlowModel
from tfebm.models.latent_ebm import LatentEBM
from tfebm.models.short_run import ShortRunModel
from tfebm.models.vae import VAE

__all__ = [
    "VAE",
    "EvidenceBound",
    "FlowEBM",
    "FlowModel",
    "LatentEBM",
    "ShortRunModel",
    "check_stability",
    "evidence_bound",
    "tune_step_size",
]

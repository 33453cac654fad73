"""Keras models; the only place with a `train_step`."""

from tfebm.models import workers
from tfebm.models.evidence import (
    EvidenceBound,
    LaplaceBound,
    check_stability,
    evidence_bound,
    evidence_sampler,
    laplace_bound,
    tune_step_size,
)
from tfebm.models.flow_ebm import FlowEBM
from tfebm.models.flow_model import FlowModel
from tfebm.models.language_model import LanguageModel
from tfebm.models.latent_ebm import LatentEBM
from tfebm.models.short_run import TEXT_STEP_SIZES, ShortRunModel, text_sampler
from tfebm.models.vae import VAE

__all__ = [
    "TEXT_STEP_SIZES",
    "VAE",
    "EvidenceBound",
    "FlowEBM",
    "FlowModel",
    "LanguageModel",
    "LaplaceBound",
    "LatentEBM",
    "ShortRunModel",
    "check_stability",
    "evidence_bound",
    "evidence_sampler",
    "laplace_bound",
    "text_sampler",
    "tune_step_size",
    "workers",
]

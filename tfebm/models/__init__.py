"""Keras models; the only place with a `train_step`."""

from tfebm.models import workers
from tfebm.models.bounds import EvidenceBound, LaplaceBound
from tfebm.models.defaults import TEXT_STEP_SIZES, text_sampler
from tfebm.models.flow_ebm import FlowEBM
from tfebm.models.flow_model import FlowModel
from tfebm.models.language_model import LanguageModel
from tfebm.models.latent_ebm import LatentEBM
from tfebm.models.latent_model import LatentModel, ScoreParts
from tfebm.models.short_run_model import ShortRunModel
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
    "LatentModel",
    "ScoreParts",
    "ShortRunModel",
    "text_sampler",
    "workers",
]

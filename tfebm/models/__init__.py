"""Keras models; the only place with a `train_step`."""

from tfebm.models.flow_ebm import FlowEBM
from tfebm.models.flow_model import FlowModel
from tfebm.models.latent_ebm import LatentEBM

__all__ = ["FlowEBM", "FlowModel", "LatentEBM"]

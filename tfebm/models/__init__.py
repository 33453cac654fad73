"""Keras models; the only place with a `train_step`."""

from tfebm.models.latent_ebm import LatentEBM

__all__ = ["LatentEBM"]

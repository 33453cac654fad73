"""Generators: Keras layers from latents to the parameters of p(x | z), and likelihoods."""

from tfebm.generators.deconv import CIFAR10_STAGES, STAGES, DeconvGenerator, Stage
from tfebm.generators.encoders import ConvEncoder
from tfebm.generators.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tfebm.generators.multilayer import MultilayerGenerator

__all__ = [
    "CIFAR10_STAGES",
    "STAGES",
    "BernoulliLikelihood",
    "ConvEncoder",
    "DeconvGenerator",
    "GaussianLikelihood",
    "MultilayerGenerator",
    "Stage",
]

"""Generators: Keras layers from latents to the parameters of p(x | z), and likelihoods."""

from tfebm.generators.deconv import CIFAR10_STAGES, STAGES, DeconvGenerator, Stage
from tfebm.generators.likelihoods import BernoulliLikelihood, GaussianLikelihood

__all__ = [
    "CIFAR10_STAGES",
    "STAGES",
    "BernoulliLikelihood",
    "DeconvGenerator",
    "GaussianLikelihood",
    "Stage",
]

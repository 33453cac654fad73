"""Generators: Keras layers from latents to the parameters of p(x | z), and likelihoods."""

from tfebm.generators import decoding
from tfebm.generators.autoregressive import AutoregressiveGenerator
from tfebm.generators.decoding import BeamSearch, Greedy, Sampled
from tfebm.generators.deconv import CIFAR10_STAGES, DeconvGenerator, Stage, default_stages
from tfebm.generators.dense import DenseGenerator
from tfebm.generators.encoders import ConvEncoder
from tfebm.generators.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tfebm.generators.multilayer import MultilayerGenerator
from tfebm.generators.sentence_decoder import SentenceDecoder
from tfebm.generators.sentence_encoder import SentenceEncoder

__all__ = [
    "CIFAR10_STAGES",
    "AutoregressiveGenerator",
    "BeamSearch",
    "BernoulliLikelihood",
    "ConvEncoder",
    "DeconvGenerator",
    "DenseGenerator",
    "GaussianLikelihood",
    "Greedy",
    "MultilayerGenerator",
    "Sampled",
    "SentenceDecoder",
    "SentenceEncoder",
    "Stage",
    "decoding",
    "default_stages",
]

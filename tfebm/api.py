"""All public names, each from where it is defined.

Importing this module registers every class of the package with Keras, so that saved models load.
"""

from tfebm import backend as backend  # before Keras is met anywhere else
from tfebm import (
    callbacks,
    data,
    distributions,
    endpoints,
    energies,
    flows,
    generators,
    metrics,
    models,
    pictures,
    random,
    runs,
    samplers,
    serving,
    tokenizers,
    types,
)
from tfebm.energies import EnergyConv, EnergyMLP, QuadraticEnergy
from tfebm.errors import InvalidInputError, JobFailed, TrainingDiverged, WorkerLost, WriteFailed
from tfebm.flows import Glow, RealNVP, SplineFlow
from tfebm.generators import (
    CIFAR10_STAGES,
    AutoregressiveGenerator,
    BernoulliLikelihood,
    ConvEncoder,
    DeconvGenerator,
    DenseGenerator,
    GaussianLikelihood,
    MultilayerGenerator,
    SentenceEncoder,
)
from tfebm.models import VAE, FlowEBM, FlowModel, LanguageModel, LatentEBM, ShortRunModel
from tfebm.runs.directory import load_run
from tfebm.samplers import HMC, MALA, ChainTrace, ShortRunLangevin
from tfebm.version import __version__

__all__ = [
    "CIFAR10_STAGES",
    "HMC",
    "MALA",
    "VAE",
    "AutoregressiveGenerator",
    "BernoulliLikelihood",
    "ChainTrace",
    "ConvEncoder",
    "DeconvGenerator",
    "DenseGenerator",
    "EnergyConv",
    "EnergyMLP",
    "FlowEBM",
    "FlowModel",
    "GaussianLikelihood",
    "Glow",
    "InvalidInputError",
    "JobFailed",
    "LanguageModel",
    "LatentEBM",
    "MultilayerGenerator",
    "QuadraticEnergy",
    "RealNVP",
    "SentenceEncoder",
    "ShortRunLangevin",
    "ShortRunModel",
    "SplineFlow",
    "TrainingDiverged",
    "WorkerLost",
    "WriteFailed",
    "__version__",
    "callbacks",
    "data",
    "distributions",
    "endpoints",
    "energies",
    "flows",
    "generators",
    "load_run",
    "metrics",
    "models",
    "pictures",
    "random",
    "runs",
    "samplers",
    "serving",
    "tokenizers",
    "types",
]

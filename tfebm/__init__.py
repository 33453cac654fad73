"""Energy-based models in latent space, for TensorFlow and Keras.

    import tfebm

    model = tfebm.LatentEBM(
        generator=tfebm.DeconvGenerator(image_shape=(28, 28, 1), width=16),
        energy=tfebm.EnergyMLP((200, 200)), latent_size=16)
    model.compile()
    model.fit(x_train, epochs=20, batch_size=100)   # float32 in [-1, 1]
    images = model.generate(64, seed=0)

Everything here is importable from the top. Data sets, pictures and the scripts' machinery
(`tfebm.data`, `tfebm.callbacks`, `tfebm.runs`, `tfebm.serving`) load TensorFlow Datasets,
scikit-learn and matplotlib only when a function needs them.
"""

from tfebm import (
    callbacks,
    data,
    distributions,
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
)
from tfebm.energies import EnergyConv, EnergyMLP, QuadraticEnergy
from tfebm.errors import InvalidInputError, TrainingDiverged, WorkerLost, WriteFailed
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
from tfebm.runs import load_run
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
]

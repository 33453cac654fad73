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

from tfebm import callbacks, data, energies, generators, models, random, runs, samplers, serving
from tfebm.energies import EnergyMLP, QuadraticEnergy
from tfebm.errors import InvalidInputError, TrainingDiverged
from tfebm.generators import (
    CIFAR10_STAGES,
    BernoulliLikelihood,
    DeconvGenerator,
    GaussianLikelihood,
)
from tfebm.models import LatentEBM
from tfebm.runs import load_run
from tfebm.samplers import ChainTrace, ShortRunLangevin
from tfebm.version import __version__

__all__ = [
    "CIFAR10_STAGES",
    "BernoulliLikelihood",
    "ChainTrace",
    "DeconvGenerator",
    "EnergyMLP",
    "GaussianLikelihood",
    "InvalidInputError",
    "LatentEBM",
    "QuadraticEnergy",
    "ShortRunLangevin",
    "TrainingDiverged",
    "__version__",
    "callbacks",
    "data",
    "energies",
    "generators",
    "load_run",
    "models",
    "random",
    "runs",
    "samplers",
    "serving",
]

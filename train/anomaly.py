"""Learns what is normal, and scores what is not.

  python train/anomaly.py --held-out 9                       digits, one of them the anomaly
  python train/anomaly.py --held-out 1 --dataset mnist.npz   the benchmark of the papers
  python train/anomaly.py --model vae --held-out 9 --output runs/anomaly_vae
  python train/anomaly.py --normal good/ --test new/ --image-size 64     files of one's own

One digit is held out: 80 percent of the others are learned from, the rest of them and all of the
held-out one are judged, by one seeded split. Four scores are compared: joint (-log p(x, z) up to a
constant), its parts reconstruction and energy, and standardized: the share of an image's variance
that its reconstruction leaves, and the energy, both in units of what they vary by on training
images. No test image of a run chooses anything in it; what the defaults were chosen by is said in
docs/results.

B. Pang, T. Han, E. Nijkamp, S.-C. Zhu, Y. N. Wu. Learning Latent Space Energy-Based Prior Model.
NeurIPS 2020, section 4.4.
"""

from __future__ import annotations

__reads_flags_first__ = True  # tfebm imports TensorFlow when they are known to be usable

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tfebm
from tfebm import runs
from tfebm.errors import InvalidInputError
from tfebm.runs import ImageRunSettings, flag

if TYPE_CHECKING:
    import keras

    from tfebm.data import AnomalyData
    from tfebm.models.latent_variable import LatentVariableModel

NAME = "anomaly"
MODELS = ("latent_ebm", "latent_ebm_layers", "short_run", "vae")

_RECONSTRUCTION = {
    "reconstruction (squared error per image)": ("generator_loss",),
    "reconstruction error per pixel": ("reconstruction_mse",),
}
_OF_CHAINS = {"displacement of the chain": ("displacement_posterior",)}
_OF_ENERGIES = {**_RECONSTRUCTION, "energy": ("energy_posterior", "energy_prior"), **_OF_CHAINS}
CURVES = {
    "latent_ebm": _OF_ENERGIES,
    "latent_ebm_layers": _OF_ENERGIES,
    "short_run": {**_RECONSTRUCTION, **_OF_CHAINS},
    "vae": {**_RECONSTRUCTION, "KL divergence from the prior, nats": ("kl",)},
}
# On the screen; all metrics are in the logs.
_ERROR = {"reconstruction_mse": "error"}
_ENERGIES = {**_ERROR, "energy_posterior": "energy", "energy_prior": "of samples"}
SHOWN = {
    "latent_ebm": _ENERGIES,
    "latent_ebm_layers": _ENERGIES,
    "short_run": {**_ERROR, "displacement_posterior": "displacement"},
    "vae": {**_ERROR, "kl": "KL"},
}


@dataclasses.dataclass(frozen=True)
class Settings(ImageRunSettings):
    """The defaults are the preset `digits`."""

    held_out: int | None = flag(
        None, "label of the anomalies, which training never sees", type=int, least=0, group="data"
    )
    normal: str | None = flag(
        None,
        "folder of normal images, instead of --dataset",
        type=str,
        metavar="DIR",
        group="data",
        path=True,
    )
    test: str | None = flag(
        None,
        "folder of images to be scored; goes with --normal",
        type=str,
        metavar="DIR",
        group="data",
        path=True,
    )
    model: str = flag("latent_ebm", "what is learned", choices=MODELS)
    epochs: int = flag(30, "passes over the data", least=1)
    batch_size: int = flag(50, "examples per step, over all replicas", least=1)
    generator: str = flag(
        "dense",
        "layers of the generator; latent_ebm_layers has its own",
        choices=("dense", "deconv"),
        before="deconv",
    )
    latent_size: int = flag(16, "d, size of z; of several layers, of each", least=1, most=2**16)
    num_layers: int = flag(3, "layers of latent_ebm_layers", least=1, most=64)
    hidden_units: int = flag(
        256,
        "of the dense generator's first layer; twice as many behind it",
        least=1,
        most=2**14,
        before=256,
    )
    width: int = flag(16, "the unit of a convolutional network's channels", least=1, most=2**14)
    energy_width: int = flag(200, "units of the energy's two hidden layers", least=1, most=2**14)
    sigma: float = flag(0.3, "standard deviation of p(x | z)", above=0.0)
    prior_steps: int = flag(
        60, "K_0, steps of the prior chain", least=0, most=10**6, group="sampler"
    )
    posterior_steps: int = flag(
        20, "K_1, steps of the posterior chain", least=1, most=10**6, group="sampler"
    )
    prior_step_size: float = flag(
        0.4, "s_0; the noise has this standard deviation", least=0.0, group="sampler"
    )
    posterior_step_size: float = flag(0.1, "s_1, likewise", least=0.0, group="sampler")
    learning_rate: float = flag(
        1e-3, "of generator and encoder (Adam, beta_1 0.5)", above=0.0, group="learning"
    )
    energy_learning_rate: float = flag(
        3e-4, "of the energy (Adam, beta_1 0.5)", above=0.0, group="learning"
    )
    learning_rate_decay: float = flag(
        0.93, "factor per epoch on the first", above=0.0, most=1.0, before=1.0, group="learning"
    )
    energy_learning_rate_decay: float = flag(
        0.93, "factor per epoch on the energy's", above=0.0, most=1.0, before=1.0, group="learning"
    )
    score_steps: int = flag(
        60, "steps of the chain that scores", least=1, most=10**6, before=20, group="task"
    )
    score_chains: int = flag(
        1, "chains that a score is the mean of", least=1, most=10**6, group="task"
    )
    score_epochs: int = flag(10, "last epochs, whose figures are averaged", least=1, group="task")
    output: str = flag(
        "runs/anomaly", "folder for everything the run writes", metavar="DIR", operational=True
    )

    @property
    def sources(self) -> tuple[str, ...]:
        return super().sources if self.normal is None else (self.normal, self.test)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.normal is None) != (self.test is None):
            raise InvalidInputError(
                "--normal and --test go together: what to learn from, and what to score. Received "
                f"--{'test' if self.normal is None else 'normal'} alone."
            )
        if (self.held_out is None) == (self.normal is None):
            raise InvalidInputError(
                "Say what is normal: --held-out LABEL makes one class of --dataset the anomaly, "
                "and --normal DIR --test DIR take folders. Received "
                f"{'neither' if self.normal is None else 'both'}; give one of them."
            )
        if self.validation:
            raise InvalidInputError(
                "--validation has no anomalies to judge by, since training images are normal. To "
                "compare settings, give another --held-out or a folder --test of their own."
            )


# Chains through dense layers are matrix products alone, which XLA compiles on a CPU too.
PRESETS = {
    "digits": {},
    "images": {"generator": "deconv", "learning_rate": 1.5e-3, "epochs": 20},
}


def default_preset(asked: Mapping[str, Any]) -> str:
    """`digits` for sets of MNIST's kind, `images` for others and for folders."""
    name = pathlib.Path(str(asked.get("dataset", "mnist"))).name
    return "digits" if "mnist" in name and "normal" not in asked else "images"


def load(settings: Settings) -> AnomalyData:
    """What the flags name."""
    how = {name: getattr(settings, name) for name in ("image_size", "background", "channels")}
    if settings.normal is not None:
        return tfebm.data.load_normal_and_test(settings.normal, settings.test, **how)
    data = tfebm.data.load_images(settings.dataset, data_dir=settings.data_dir, **how)
    return tfebm.data.hold_out_class(data, settings.held_out, settings.seed)


def make_generator(settings: Settings, image_shape: tuple) -> keras.Layer:
    """The generator of the settings."""
    policy = settings.dtype_policy
    if settings.model == "latent_ebm_layers":
        sizes = (settings.latent_size,) * settings.num_layers
        return tfebm.MultilayerGenerator(
            image_shape, sizes, settings.width, upsamplings=2, dtype=policy
        )
    if settings.generator == "dense":
        units = (settings.hidden_units, 2 * settings.hidden_units)
        return tfebm.DenseGenerator(image_shape, units, dtype=policy)
    return tfebm.DeconvGenerator(image_shape, settings.width, dtype=policy)


def check(settings: Settings) -> None:
    """Raises `InvalidInputError` for a size that no image could mend."""
    if settings.image_size:
        make_generator(settings, (settings.image_size, settings.image_size, 3))


def make_model(settings: Settings, image_shape: tuple, num_examples: int) -> LatentVariableModel:
    """The compiled model of the settings."""
    per_epoch = tfebm.data.steps_per_epoch(num_examples, settings.batch_size)
    rate = (settings.learning_rate, settings.learning_rate_decay)
    shared: dict[str, Any] = {
        "likelihood": tfebm.GaussianLikelihood(settings.sigma),
        "seed": settings.seed,
    }
    generator = make_generator(settings, image_shape)
    if settings.model != "latent_ebm_layers":
        shared["latent_size"] = settings.latent_size
    if settings.model == "vae":
        encoder = tfebm.ConvEncoder(
            image_shape, settings.latent_size, width=2 * settings.width, dtype=settings.dtype_policy
        )
        model = tfebm.VAE(generator, encoder, **shared)
        model.compile(*(_adam(*rate, per_epoch) for _ in range(2)))
        return model
    shared["posterior_sampler"] = tfebm.ShortRunLangevin(
        settings.posterior_steps, settings.posterior_step_size, jit_compile=settings.jit_compile
    )
    if settings.model == "short_run":
        model = tfebm.ShortRunModel(generator, **shared)
        model.compile(_adam(*rate, per_epoch))
        return model
    prior = tfebm.ShortRunLangevin(
        settings.prior_steps, settings.prior_step_size, jit_compile=settings.jit_compile
    )
    energy = tfebm.EnergyMLP((settings.energy_width,) * 2)
    model = tfebm.LatentEBM(generator, energy, prior_sampler=prior, **shared)
    energy_rate = (settings.energy_learning_rate, settings.energy_learning_rate_decay)
    model.compile(*(_adam(*each, per_epoch) for each in (rate, energy_rate)))
    return model


def scoring_chain(settings: Settings) -> tfebm.ShortRunLangevin | None:
    """The chain that scores, longer than that of a learning step; None for an encoder."""
    if settings.model == "vae":
        return None
    return tfebm.ShortRunLangevin(
        settings.score_steps, settings.posterior_step_size, jit_compile=settings.jit_compile
    )


def _adam(rate: float, decay: float, per_epoch: int) -> keras.optimizers.Optimizer:
    training = runs.training
    return training.adam(training.decay_schedule(rate, decay, per_epoch))


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(
        *(NAME, Settings, PRESETS, default_preset, __doc__, load),
        examples=lambda data: data.images.x_train,
        check=check,
    )
    anomaly, images, training = runs.anomaly, runs.images, runs.training
    settings, run, data = session.settings, session.run, session.data
    with session.strategy.scope():
        model = make_model(settings, data.images.image_shape, len(data.images.x_train))
    session.announce()

    chain = scoring_chain(settings)
    scores = anomaly.Scores(data, settings.score_chains, settings.seed, chain)
    looks = [tfebm.callbacks.SampleGrid(run.picture("samples"))]
    number = len(data.images.x_train)
    last = math.ceil(
        training.num_steps(settings, number)
        / tfebm.data.steps_per_epoch(number, settings.batch_size)
    )
    first = max(0, last - settings.score_epochs)
    if data.is_anomaly is not None:
        looks.append(tfebm.callbacks.AnomalyCurves(scores, data.is_anomaly, first))
    more = {"looks": looks, "shown": SHOWN[settings.model]}
    log = training.train(model, data.images, settings, run, **more)
    model = session.alone(model)
    if chain is not None:  # of what is saved and exported, too
        model.posterior_sampler = chain
    run.save_model(model)
    tfebm.pictures.save_curves(run.picture("curves"), log.epochs, CURVES[settings.model])
    images.draw_images(model, data.images, run)
    session.export(model)
    found = scores(model)
    anomaly.write_scores(run.file("scores.csv"), data, found)
    anomaly.draw_worst(run.picture("worst"), model, data, found["joint"], settings.seed)
    test: dict[str, Any] = {"num_images": len(data.names)}
    if data.is_anomaly is not None:
        areas = test["areas"] = anomaly.figures(found, data.is_anomaly)
        anomaly.draw_curves(run.picture("precision_recall"), found, data.is_anomaly, areas)
        test["over_epochs"] = anomaly.over_epochs(log.epochs, first)
    final = training.finish(model, log, test, started)
    print(training.cost(final))
    print(anomaly.summary(final["test"]))
    print(f"Everything is in {run.path}: look at worst.png and scores.csv first.")
    session.close()


if __name__ == "__main__":
    runs.run_command(main)

"""Learns a latent-space energy-based prior over an image generator.

  python train/latent_ebm.py                                   digits, in minutes
  python train/latent_ebm.py --strategy mirrored               all GPUs of this machine
  python train/latent_ebm.py --preset no_encoder               digits, by the paper's chain
  python train/latent_ebm.py --preset svhn                     the paper's settings

By default the posterior chain has momentum and starts at an encoder's draw. The other presets have
the paper's chain, which is longer and has neither.

B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020.
"""

from __future__ import annotations

__reads_flags_first__ = True  # tfebm imports TensorFlow when they are known to be usable

import dataclasses
import time

from experiments import shared

import tfebm
from tfebm import runs
from tfebm.runs import ImageRunSettings, flag

NAME = "latent_ebm"
LAYOUTS = ("default", "cifar10")

# On the screen; all metrics are in the logs.
SHOWN = {"reconstruction_mse": "error", "energy_posterior": "energy", "energy_prior": "of samples"}
CURVES = {
    "reconstruction (squared error per image)": ("generator_loss",),
    "energy": ("energy_posterior", "energy_prior"),
    "gradient norms at the posterior": ("likelihood_grad_norm", "energy_grad_norm"),
    "displacement of the chains": ("displacement_posterior", "displacement_prior"),
}


@dataclasses.dataclass(frozen=True)
class Settings(ImageRunSettings):
    """The defaults are the preset `laptop`; math symbols are the paper's."""

    epochs: int = shared.epochs(14)
    batch_size: int = shared.batch_size(50)
    latent_size: int = shared.latent_size(16)
    width: int = shared.width(16, "n_gf, the unit of the generator's channels")
    layout: str = flag("default", "the generator's stages", choices=LAYOUTS)
    energy_width: int = shared.width(200, "units of the energy's two hidden layers")
    prior_steps: int = shared.chain_steps(60, "K_0, steps of the prior chain", least=0)
    posterior_steps: int = shared.chain_steps(5, "K_1, steps of the posterior chain", least=0)
    prior_step_size: float = shared.step_size(0.4, "s_0; the noise has this standard deviation")
    posterior_step_size: float = shared.step_size(0.05, "s_1, likewise")
    prior_momentum: float = shared.momentum("c_0, velocity that a step keeps, below 1")
    posterior_momentum: float = shared.momentum("c_1, likewise", 0.5)
    encoder: str = shared.encoder("elbo", "; --preset no_encoder has a longer chain")
    learning_rate: float = shared.learning_rate(1.5e-3, "of the generator (Adam, beta_1 0.5)")
    energy_learning_rate: float = shared.learning_rate(3e-4, "of the energy (Adam, beta_1 0.5)")
    learning_rate_decay: float = shared.decay(0.88, "factor per epoch on the generator's")
    energy_learning_rate_decay: float = shared.decay(0.88, "factor per epoch on the energy's")
    sigma: float = shared.sigma()
    output: str = shared.output(NAME)


# The paper's and its released code's values.
_INFERENCE = {
    "posterior_steps": 20,
    "posterior_step_size": 0.1,
    "posterior_momentum": 0.0,
    "encoder": "none",
}
_PAPER = {
    **_INFERENCE,
    "epochs": 200,
    "batch_size": 100,
    "latent_size": 100,
    "width": 64,
    "learning_rate": 1e-4,
    "energy_learning_rate": 2e-5,
    "learning_rate_decay": 0.998,
    "energy_learning_rate_decay": 0.998,
}
PRESETS = {
    "laptop": {},
    "no_encoder": _INFERENCE,
    "svhn": {**_PAPER, "dataset": "svhn_cropped", "image_size": 32},
    "cifar10": {
        **_PAPER,
        "dataset": "cifar10",
        "image_size": 32,
        "latent_size": 128,
        "width": 128,
        "layout": "cifar10",
    },
    "celeba64": {**_PAPER, "dataset": "celeb_a", "image_size": 64, "width": 128},
    "celeba128": {
        **_PAPER,
        "dataset": "celeb_a",
        "image_size": 128,
        "width": 128,
        "energy_width": 1000,
        "prior_steps": 80,
        "posterior_steps": 40,
    },
}


def make_generator(settings: Settings, image_shape: tuple) -> tfebm.DeconvGenerator:
    """The generator of the settings."""
    stages = tfebm.CIFAR10_STAGES if settings.layout == "cifar10" else None
    return tfebm.DeconvGenerator(
        image_shape, settings.width, stages=stages, dtype=settings.dtype_policy
    )


check = shared.size_check(make_generator)


def make_model(settings: Settings, image_shape: tuple, num_examples: int) -> tfebm.LatentEBM:
    """The compiled model of the settings."""
    per_epoch = tfebm.data.steps_per_epoch(num_examples, settings.batch_size)
    rate = (settings.learning_rate, settings.learning_rate_decay)
    energy_rate = (settings.energy_learning_rate, settings.energy_learning_rate_decay)
    return shared.latent_model(
        *("latent_ebm", make_generator(settings, image_shape), settings),
        encoder=lambda: shared.image_encoder(settings, image_shape, settings.latent_size),
        optimizer=lambda: shared.decaying_adam(*rate, per_epoch),
        energy_optimizer=lambda: shared.decaying_adam(*energy_rate, per_epoch),
        latent_size=settings.latent_size,
        likelihood=tfebm.GaussianLikelihood(settings.sigma),
    )


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(NAME, Settings, PRESETS, "laptop", __doc__, check=check)
    from experiments import image_figures as figures  # the flags can be used

    settings, run, data = session.settings, session.run, session.data
    with session.strategy.scope():
        model = make_model(settings, data.image_shape, len(data.x_train))
    session.announce()

    samples = tfebm.callbacks.SampleGrid(run.picture("samples"))
    log = runs.training.train(model, data, settings, run, looks=[samples], shown=SHOWN)
    model = session.alone(model)
    run.save_model(model)
    figures.draw_images(model, data, run)
    tfebm.pictures.save_curves(run.picture("curves"), log.epochs, shared.curves(settings, CURVES))
    session.export(model)
    test = figures.test_figures(model, data, settings)
    shared.finish(model, log, test, started, figures.reconstruction_sentence)
    shared.leave(session, "samples.png")


if __name__ == "__main__":
    runs.run_command(main)

"""Learns a latent-space energy-based prior over an image generator.

  python train/latent_ebm.py                                   digits, in minutes
  python train/latent_ebm.py --strategy mirrored               all GPUs of this machine
  python train/latent_ebm.py --preset svhn                     the paper's settings

B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020.
"""

from __future__ import annotations

__reads_flags_first__ = True  # tfebm imports TensorFlow when they are known to be usable

import dataclasses
import time

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

    epochs: int = flag(14, "passes over the data", least=1)
    batch_size: int = flag(50, "examples per step, over all replicas", least=1)
    latent_size: int = flag(16, "d, size of z", least=1, most=2**16)
    width: int = flag(16, "n_gf, the unit of the generator's channels", least=1, most=2**14)
    layout: str = flag("default", "the generator's stages", choices=LAYOUTS)
    energy_width: int = flag(200, "units of the energy's two hidden layers", least=1, most=2**14)
    prior_steps: int = flag(
        60, "K_0, steps of the prior chain", least=0, most=10**6, group="sampler"
    )
    posterior_steps: int = flag(
        20, "K_1, steps of the posterior chain", least=0, most=10**6, group="sampler"
    )
    prior_step_size: float = flag(
        0.4, "s_0; the noise has this standard deviation", least=0.0, group="sampler"
    )
    posterior_step_size: float = flag(0.1, "s_1, likewise", least=0.0, group="sampler")
    learning_rate: float = flag(
        1.5e-3, "of the generator (Adam, beta_1 0.5)", above=0.0, group="learning"
    )
    energy_learning_rate: float = flag(
        3e-4, "of the energy (Adam, beta_1 0.5)", above=0.0, group="learning"
    )
    learning_rate_decay: float = flag(
        0.88, "factor per epoch on the generator's", above=0.0, most=1.0, group="learning"
    )
    energy_learning_rate_decay: float = flag(
        0.88, "factor per epoch on the energy's", above=0.0, most=1.0, group="learning"
    )
    sigma: float = flag(0.3, "standard deviation of p(x | z)", above=0.0)
    output: str = flag(
        "runs/latent_ebm", "folder for everything the run writes", metavar="DIR", operational=True
    )


# The paper's and its released code's values.
_PAPER = {
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


def check(settings: Settings) -> None:
    """Raises `InvalidInputError` for a size that no image could mend."""
    if settings.image_size:
        make_generator(settings, (settings.image_size, settings.image_size, 3))


def make_model(settings: Settings, image_shape: tuple, num_examples: int) -> tfebm.LatentEBM:
    """The compiled model of the settings."""
    training = runs.training
    model = tfebm.LatentEBM(
        generator=make_generator(settings, image_shape),
        energy=tfebm.EnergyMLP((settings.energy_width,) * 2),
        latent_size=settings.latent_size,
        prior_sampler=tfebm.ShortRunLangevin(
            settings.prior_steps, settings.prior_step_size, jit_compile=settings.jit_compile
        ),
        posterior_sampler=tfebm.ShortRunLangevin(
            settings.posterior_steps, settings.posterior_step_size, jit_compile=settings.jit_compile
        ),
        likelihood=tfebm.GaussianLikelihood(settings.sigma),
        seed=settings.seed,
    )
    per_epoch = tfebm.data.steps_per_epoch(num_examples, settings.batch_size)
    rates = (
        (settings.learning_rate, settings.learning_rate_decay),
        (settings.energy_learning_rate, settings.energy_learning_rate_decay),
    )
    model.compile(*(training.adam(training.decay_schedule(*each, per_epoch)) for each in rates))
    return model


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(NAME, Settings, PRESETS, "laptop", __doc__, check=check)
    images, training = runs.images, runs.training
    settings, run, data = session.settings, session.run, session.data
    with session.strategy.scope():
        model = make_model(settings, data.image_shape, len(data.x_train))
    session.announce()

    samples = tfebm.callbacks.SampleGrid(run.picture("samples"))
    log = training.train(model, data, settings, run, looks=[samples], shown=SHOWN)
    model = session.alone(model)
    run.save_model(model)
    images.draw_images(model, data, run)
    tfebm.pictures.save_curves(run.picture("curves"), log.epochs, CURVES)
    session.export(model)
    final = training.finish(model, log, images.test_figures(model, data, settings), started)
    print(training.cost(final))
    print(images.reconstruction_sentence(final["test"]))
    print(f"Everything is in {run.path}: look at samples.png first.")
    session.close()


if __name__ == "__main__":
    runs.run_command(main)

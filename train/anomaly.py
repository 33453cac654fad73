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

import math
import time
from typing import TYPE_CHECKING, Any

from experiments import shared
from experiments.anomaly_settings import NAME, PRESETS, Settings, default_preset, load

import tfebm
from tfebm import runs

if TYPE_CHECKING:
    import keras

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


def make_generator(settings: Settings, image_shape: tuple) -> keras.Layer:
    """The generator of the settings."""
    policy = settings.dtype_policy
    if settings.model == "latent_ebm_layers":
        return tfebm.MultilayerGenerator(
            image_shape, _sizes(settings), settings.width, upsamplings=2, dtype=policy
        )
    if settings.generator == "dense":
        units = (settings.hidden_units, 2 * settings.hidden_units)
        return tfebm.DenseGenerator(image_shape, units, dtype=policy)
    return tfebm.DeconvGenerator(image_shape, settings.width, dtype=policy)


def _sizes(settings: Settings) -> int | tuple[int, ...]:
    several = settings.model == "latent_ebm_layers"
    return (settings.latent_size,) * settings.num_layers if several else settings.latent_size


check = shared.size_check(make_generator)


def make_model(settings: Settings, image_shape: tuple, num_examples: int) -> keras.Model:
    """The compiled model of the settings."""
    per_epoch = tfebm.data.steps_per_epoch(num_examples, settings.batch_size)
    rate = (settings.learning_rate, settings.learning_rate_decay)
    energy_rate = (settings.energy_learning_rate, settings.energy_learning_rate_decay)
    generator = make_generator(settings, image_shape)
    given: dict[str, Any] = {"likelihood": tfebm.GaussianLikelihood(settings.sigma)}
    if settings.model != "latent_ebm_layers":
        given["latent_size"] = settings.latent_size
    return shared.latent_model(
        *(settings.model.removesuffix("_layers"), generator, settings),
        encoder=lambda: shared.image_encoder(settings, image_shape, _sizes(settings)),
        optimizer=lambda: shared.decaying_adam(*rate, per_epoch),
        energy_optimizer=lambda: shared.decaying_adam(*energy_rate, per_epoch),
        **given,
    )


def scoring_chain(settings: Settings) -> tfebm.ShortRunLangevin | None:
    """The chain that scores, longer than that of a learning step; None for an encoder."""
    if settings.model == "vae":
        return None
    return tfebm.ShortRunLangevin(
        settings.score_steps,
        settings.posterior_step_size,
        momentum=settings.posterior_momentum,
        jit_compile=settings.jit_compile,
    )


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(
        *(NAME, Settings, PRESETS, default_preset, __doc__, load),
        examples=lambda data: data.images.x_train,
        check=check,
    )
    from experiments import anomaly_figures as figures  # the flags can be used
    from experiments import image_figures

    settings, run, data = session.settings, session.run, session.data
    number = len(data.images.x_train)
    with session.strategy.scope():
        model = make_model(settings, data.images.image_shape, number)
    session.announce()

    chain = scoring_chain(settings)
    scores = figures.Scores(data, settings.score_chains, settings.seed, chain)
    looks = [tfebm.callbacks.SampleGrid(run.picture("samples"))]
    per_epoch = tfebm.data.steps_per_epoch(number, settings.batch_size)
    last = math.ceil(runs.training.num_steps(settings, number) / per_epoch)
    first = max(0, last - settings.score_epochs)
    if data.is_anomaly is not None:
        looks.append(tfebm.callbacks.AnomalyCurves(scores, data.is_anomaly, first))
    shown = SHOWN[settings.model]
    log = runs.training.train(model, data.images, settings, run, looks=looks, shown=shown)
    model = session.alone(model)
    if chain is not None:  # of what is saved and exported, too
        model.posterior_sampler = chain
    run.save_model(model)
    panels = shared.curves(settings, CURVES[settings.model])
    tfebm.pictures.save_curves(run.picture("curves"), log.epochs, panels)
    image_figures.draw_images(model, data.images, run)
    session.export(model)
    test = figures.test_figures(scores(model), model, data, settings, run, log.epochs, first)
    shared.finish(model, log, test, started, figures.summary)
    shared.leave(session, "worst.png and scores.csv")


if __name__ == "__main__":
    runs.run_command(main)

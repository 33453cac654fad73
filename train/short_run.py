"""Learns a multi-layer generator by short-run inference with tuned step sizes, or a baseline.

  python train/short_run.py                                    digits, in minutes
  python train/short_run.py --model ladder_vae --output runs/ladder
  python train/short_run.py --criterion kl --step-size gradient --schedule free
  python train/short_run.py --preset svhn                      the paper's settings

The models share the generator, the data, the epochs and the seeds: short_run and latent_ebm infer
latents by a chain, vae and ladder_vae by an encoder.

E. Nijkamp, B. Pang, T. Han, S.-C. Zhu, Y. N. Wu. Learning Multi-layer Latent Variable Model via
Variational Optimization of Short Run MCMC for Approximate Inference. ECCV 2020.
"""

from __future__ import annotations

__reads_flags_first__ = True  # tfebm imports TensorFlow when they are known to be usable

import time
from typing import TYPE_CHECKING, Any

from experiments import shared
from experiments.short_run_settings import NAME, PRESETS, Settings

import tfebm
from tfebm import runs
from tfebm.errors import InvalidInputError

if TYPE_CHECKING:
    import keras

CURVES = {
    "short_run": {
        "reconstruction (squared error per image)": ("generator_loss",),
        "reconstruction error per pixel": ("reconstruction_mse",),
        "displacement of the chain": ("displacement_posterior",),
        "step size": ("step_size_first", "step_size_last"),
    },
    "vae": {
        "reconstruction (squared error per image)": ("generator_loss",),
        "reconstruction error per pixel": ("reconstruction_mse",),
        "KL divergence from the prior, nats": ("kl",),
        "evidence lower bound, nats": ("elbo",),
    },
}
CURVES["ladder_vae"] = CURVES["vae"]
CURVES["latent_ebm"] = {**CURVES["short_run"], "energy": ("energy_posterior", "energy_prior")}
# On the screen; all metrics are in the logs.
_ERROR = {"reconstruction_mse": "error"}
_ENERGIES = {"energy_posterior": "energy", "energy_prior": "of samples"}
SHOWN = {
    "short_run": {**_ERROR, "displacement_posterior": "displacement"},
    "vae": {**_ERROR, "kl": "KL", "elbo": "ELBO"},
    "ladder_vae": {**_ERROR, "kl": "KL", "elbo": "ELBO"},
    "latent_ebm": {**_ERROR, **_ENERGIES},
}


def make_generator(settings: Settings, image_shape: tuple) -> keras.Layer:
    """The generator of the settings."""
    if settings.generator == "deconv":
        return tfebm.DeconvGenerator(image_shape, settings.width, dtype=settings.dtype_policy)
    return tfebm.MultilayerGenerator(
        image_shape,
        settings.sizes,
        settings.width,
        upsamplings=settings.upsamplings,
        dtype=settings.dtype_policy,
    )


check = shared.size_check(make_generator)


def make_model(settings: Settings, image_shape: tuple, num_examples: int) -> keras.Model:
    """The compiled model of the settings."""
    per_epoch = tfebm.data.steps_per_epoch(num_examples, settings.batch_size)
    generator = make_generator(settings, image_shape)
    given: dict[str, Any] = {"likelihood": tfebm.GaussianLikelihood(settings.sigma)}
    sizes = settings.sizes
    if settings.generator == "deconv":
        sizes = given["latent_size"] = sizes[0]
    if not settings.has_chain:
        given["inference"] = "ladder" if settings.model == "ladder_vae" else "mean_field"
        given["kl_warmup_steps"] = round(settings.kl_warmup * per_epoch)
    return shared.latent_model(
        *(settings.model.removeprefix("ladder_"), generator, settings),
        encoder=lambda: shared.image_encoder(settings, image_shape, sizes),
        optimizer=lambda: _adam(settings.learning_rate, settings, per_epoch),
        energy_optimizer=lambda: _adam(settings.energy_learning_rate, settings, per_epoch),
        **given,
    )


def _adam(rate: float, settings: Settings, per_epoch: int) -> keras.optimizers.Optimizer:
    if settings.halvings:
        ends = [round(epoch * per_epoch) for epoch in settings.halvings]
        if ends[0] < 1:
            raise InvalidInputError(
                f"--halve-at {settings.halve_at} begins before the first step; an epoch has "
                f"{per_epoch}. Give a larger part of it, or a lower --learning-rate."
            )
        return shared.adam(shared.in_turn([rate / 2**i for i in range(len(ends) + 1)], ends))
    return shared.adam(rate)


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(NAME, Settings, PRESETS, "laptop", __doc__, check=check)
    from experiments import image_figures  # the flags can be used
    from experiments import short_run_figures as figures

    _, settings, run, strategy, data, _ = session
    with strategy.scope():
        model = make_model(settings, data.image_shape, len(data.x_train))
    if settings.has_chain and settings.step_size == "fixed" and not settings.resume:
        x = tfebm.data.to_float(data.x_train[:8]).numpy()
        model.check_stability(x, seed=settings.seed)
    session.announce()

    looks = [tfebm.callbacks.SampleGrid(run.picture("samples"))]
    tuner = figures.make_tuner(settings, data, run) if settings.has_chain else None
    more = {"extra_callbacks": [tuner] if tuner else [], "looks": looks}
    log = runs.training.train(model, data, settings, run, shown=SHOWN[settings.model], **more)
    model = session.alone(model)
    if tuner and settings.step_size != "fixed":
        tuner.set_model(model)
        tuner.tune(len(log.epochs))
    run.save_model(model)
    image_figures.draw_images(model, data, run)
    figures.draw_layers(model, data, run)
    panels = shared.curves(settings, CURVES[settings.model])
    tfebm.pictures.save_curves(run.picture("curves"), log.epochs, panels)
    session.export(model)
    of_chain = {"step_sizes": None}
    if tuner:
        of_chain["step_sizes"] = figures.look_at_step_sizes(model, tuner, data, settings, run)
    test = figures.test_figures(model, data, settings)
    shared.finish(model, log, test, started, figures.summary, of_chain)
    shared.leave(session, "samples.png and layers.png")


if __name__ == "__main__":
    runs.run_command(main)

"""The noise of the chain of `text.py`, and the weight of its prior, over its learning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import tfebm
from experiments import shared
from experiments.text_data import training_set
from experiments.text_settings import Settings

if TYPE_CHECKING:
    from tfebm.data import TextData


def schedule_steps(settings: Settings, data: TextData, epochs: float) -> int:
    """Training steps of so many epochs."""
    per_epoch = tfebm.data.steps_per_epoch(len(training_set(data).x_train), settings.batch_size)
    return round(epochs * per_epoch)


def posterior_sampler(settings: Settings) -> tfebm.ShortRunLangevin:
    """The chain of the flags."""
    options = {
        "noise_scale": settings.final_noise_scale,
        "momentum": settings.posterior_momentum,
        "jit_compile": settings.jit_compile,
    }
    step_size = settings.constant_step_size
    if step_size is None:
        return tfebm.models.text_sampler(settings.posterior_steps, **options)
    return tfebm.ShortRunLangevin(settings.posterior_steps, step_size, **options)


def noise_schedule(settings: Settings, data: TextData) -> Any:
    """T of 0.05 to the end of the warm-up, then 0.05 more every epoch up to the final one."""
    final, step = settings.final_noise_scale, 0.05
    rises = math.ceil(final / step - 1e-6) - 1
    if not settings.noise_warmup_epochs or rises < 1:
        return None
    values = [step * (i + 1) for i in range(rises)] + [final]
    ends = [settings.noise_warmup_epochs + i for i in range(rises)]
    return shared.in_turn(values, [schedule_steps(settings, data, end) for end in ends])


def prior_schedule(settings: Settings, data: TextData) -> Any:
    """The weight of the prior: 0.1 at first, and 1 after `--prior-warmup` epochs."""
    import keras

    if not settings.prior_warmup:
        return None
    steps = schedule_steps(settings, data, settings.prior_warmup)
    return keras.optimizers.schedules.PolynomialDecay(0.1, max(1, steps), 1.0)

"""Settings that suit a kind of examples, where a model is not told its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from tfebm.samplers import ShortRunLangevin

TEXT_STEP_SIZES = (0.8, 0.7, 0.6, 0.5, 0.2, 0.2, 0.1, 0.1, *[0.05] * 12)
"""The step sizes of the released code for sentences."""

Optimizers = Callable[[], dict[str, keras.optimizers.Optimizer]]


def text_sampler(num_steps: int = 20, **options: Any) -> ShortRunLangevin:
    """The chain of the text paper: decaying step sizes, noise of 0.2 of their size.

    Args:
        num_steps: K; the first so many of `TEXT_STEP_SIZES`, whose last goes on beyond 20.
        **options: Of `ShortRunLangevin`.
    """
    steps = [TEXT_STEP_SIZES[min(k, len(TEXT_STEP_SIZES) - 1)] for k in range(num_steps)]
    return ShortRunLangevin(num_steps, steps, **{"noise_scale": 0.2, **options})


class Defaults(NamedTuple):
    """Chains, penalties and optimizers, by the model that they are of."""

    ebm_prior_sampler: Callable[[], ShortRunLangevin]
    """Of `LatentEBM`, as the next three."""
    ebm_posterior_sampler: Callable[[], ShortRunLangevin]
    energy_l2: float
    ebm_optimizers: Optimizers
    short_run_sampler: Callable[[], ShortRunLangevin]
    """Of `ShortRunModel`."""
    short_run_optimizers: Optimizers
    encoder_optimizers: Optimizers
    """Of `VAE`, and of an encoder where a chain starts."""

    def with_encoder(
        self, optimizers: dict[str, keras.optimizers.Optimizer], encoder: Any
    ) -> dict[str, keras.optimizers.Optimizer]:
        """Optimizers, and that of an encoder where there is one."""
        if encoder is None:
            return optimizers
        name = "encoder_optimizer"
        return {**optimizers, name: self.encoder_optimizers()[name]}


def _of_array_ebm() -> dict[str, keras.optimizers.Optimizer]:
    adam = keras.optimizers.Adam
    return {"optimizer": adam(1e-4, beta_1=0.5), "energy_optimizer": adam(2e-5, beta_1=0.5)}


def _of_text_ebm() -> dict[str, keras.optimizers.Optimizer]:
    of_energy = keras.optimizers.AdamW(1e-4, weight_decay=1e-3, global_clipnorm=1.0)
    return {**_of_text(), "energy_optimizer": of_energy}


def _of_text() -> dict[str, keras.optimizers.Optimizer]:
    return {"optimizer": keras.optimizers.Adam(1e-3, global_clipnorm=5.0)}


ARRAYS = Defaults(
    ebm_prior_sampler=lambda: ShortRunLangevin(60, 0.4),
    ebm_posterior_sampler=lambda: ShortRunLangevin(20, 0.1),
    energy_l2=0.0,
    ebm_optimizers=_of_array_ebm,
    short_run_sampler=lambda: ShortRunLangevin(25, 0.05),
    short_run_optimizers=lambda: {"optimizer": keras.optimizers.Adam(8e-5, beta_1=0.5)},
    encoder_optimizers=lambda: {
        name: keras.optimizers.Adam(1e-3) for name in ("optimizer", "encoder_optimizer")
    },
)
SENTENCES = Defaults(
    ebm_prior_sampler=lambda: ShortRunLangevin(40, 0.5),
    ebm_posterior_sampler=lambda: ShortRunLangevin(20, 0.5, noise_scale=0.0),
    energy_l2=0.1,
    ebm_optimizers=_of_text_ebm,
    short_run_sampler=text_sampler,
    short_run_optimizers=_of_text,
    encoder_optimizers=lambda: {
        **_of_text(),
        "encoder_optimizer": keras.optimizers.Adam(1e-3, global_clipnorm=5.0),
    },
)

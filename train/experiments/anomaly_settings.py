"""Flags of `anomaly.py`, its presets, and the data that they name."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tfebm
from experiments import shared
from tfebm.errors import InvalidInputError
from tfebm.runs import ImageRunSettings, flag

if TYPE_CHECKING:
    from tfebm.data import AnomalyData

NAME = "anomaly"
MODELS = ("latent_ebm", "latent_ebm_layers", "short_run", "vae")


def _folder(text: str) -> Any:
    return flag(None, text, type=str, metavar="DIR", group="data", path=True)


@dataclasses.dataclass(frozen=True)
class Settings(ImageRunSettings):
    """The defaults are the preset `digits`."""

    held_out: int | None = flag(
        None, "label of the anomalies, which training never sees", type=int, least=0, group="data"
    )
    normal: str | None = _folder("folder of normal images, instead of --dataset")
    test: str | None = _folder("folder of images to be scored; goes with --normal")
    model: str = flag("latent_ebm", "what is learned", choices=MODELS)
    epochs: int = shared.epochs(30)
    batch_size: int = shared.batch_size(50)
    generator: str = flag(
        "dense",
        "layers of the generator; latent_ebm_layers has its own",
        choices=("dense", "deconv"),
    )
    latent_size: int = shared.latent_size(16, "d, size of z; of several layers, of each")
    num_layers: int = flag(3, "layers of latent_ebm_layers", least=1, most=64)
    hidden_units: int = shared.width(
        256, "of the dense generator's first layer; twice as many behind it"
    )
    width: int = shared.width(16, "the unit of a convolutional network's channels")
    energy_width: int = shared.width(200, "units of the energy's two hidden layers")
    sigma: float = shared.sigma()
    prior_steps: int = shared.chain_steps(60, "K_0, steps of the prior chain", least=0)
    posterior_steps: int = shared.chain_steps(20, "K_1, steps of the posterior chain")
    prior_step_size: float = shared.step_size(0.4, "s_0; the noise has this standard deviation")
    posterior_step_size: float = shared.step_size(0.1, "s_1, likewise")
    prior_momentum: float = shared.momentum("c_0, velocity that a step keeps, below 1")
    posterior_momentum: float = shared.momentum("c_1, likewise")
    encoder: str = shared.encoder()
    learning_rate: float = shared.learning_rate(1e-3, "of generator and encoder (Adam, beta_1 0.5)")
    energy_learning_rate: float = shared.learning_rate(3e-4, "of the energy (Adam, beta_1 0.5)")
    learning_rate_decay: float = shared.decay(0.93, "factor per epoch on the first")
    energy_learning_rate_decay: float = shared.decay(0.93, "factor per epoch on the energy's")
    score_steps: int = flag(60, "steps of the chain that scores", least=1, most=10**6, group="task")
    score_chains: int = flag(
        1, "chains that a score is the mean of", least=1, most=10**6, group="task"
    )
    score_epochs: int = flag(10, "last epochs, whose figures are averaged", least=1, group="task")
    output: str = shared.output(NAME)

    @property
    def sources(self) -> tuple[str, ...]:
        return super().sources if self.normal is None else (self.normal, self.test)

    def __post_init__(self) -> None:
        super().__post_init__()
        shared.check_start(self, self.model != "vae")
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
    """The images that the flags name."""
    how = {name: getattr(settings, name) for name in ("image_size", "background", "channels")}
    if settings.normal is not None:
        return tfebm.data.load_normal_and_test(settings.normal, settings.test, **how)
    data = tfebm.data.load_images(settings.dataset, data_dir=settings.data_dir, **how)
    return tfebm.data.hold_out_class(data, label=settings.held_out, seed=settings.seed)

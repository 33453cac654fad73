"""Flags of `short_run.py` and its presets."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments import shared
from tfebm.errors import InvalidInputError
from tfebm.runs import ImageRunSettings, flag

NAME = "short_run"
MODELS = ("short_run", "vae", "ladder_vae", "latent_ebm")
_LARGEST = 2**16  # number in a list


def _choice(default: str, text: str, choices: tuple[str, ...]) -> Any:
    return flag(default, text, choices=choices, group="sampler")


@dataclasses.dataclass(frozen=True)
class Settings(ImageRunSettings):
    """The defaults are the preset `laptop`; math symbols are the paper's."""

    model: str = flag("short_run", "what is learned", choices=MODELS)
    epochs: int = shared.epochs(10)
    batch_size: int = shared.batch_size(50)
    latent_sizes: str = flag("8,8,16", "sizes of the layers' latents, the top first", metavar="N,N")
    layers: int | None = flag(
        None, "use so many of them, from the bottom (default: all)", type=int, least=1, most=64
    )
    generator: str = flag(
        "multilayer",
        "its layers; deconv, which has one size of latents, is that of train/latent_ebm.py",
        choices=("multilayer", "deconv"),
    )
    width: int = shared.width(16, "channels of the generator's feature maps")
    upsamplings: int = flag(
        2, "doublings of the side behind the last layer of multilayer", least=1, most=10
    )
    sigma: float = shared.sigma()
    posterior_steps: int = shared.chain_steps(20, "K, steps of the chain")
    posterior_step_size: float = flag(
        0.05,
        "s of --step-size fixed; the noise has this standard deviation",
        above=0.0,
        group="sampler",
    )
    posterior_momentum: float = shared.momentum("c, velocity that a step keeps, below 1")
    encoder: str = shared.encoder()
    step_size: str = _choice("grid", "how s is chosen", ("fixed", "grid", "gradient"))
    criterion: str = _choice(
        "entropy", "divergence that the choice of s minimises", ("kl", "entropy", "ksd")
    )
    schedule: str = _choice(
        "constant", "family of step sizes that are tuned", ("constant", "geometric", "free")
    )
    per_layer: bool = flag(False, "also tune a factor for each layer", group="sampler")
    tune_every: int = flag(
        3, "epochs from one choice to the next (0: at the start only)", least=0, group="sampler"
    )
    learning_rate: float = shared.learning_rate(1e-3, "of every network (Adam, beta_1 0.5)")
    halve_at: str = flag(
        "6,8,9",
        "epochs, or parts of one, after which the rates halve (0: never)",
        metavar="X,X",
        group="learning",
    )
    kl_warmup: float = shared.weight(2.0, "epochs over which the VAEs' KL weight rises to 1")
    energy_width: int = shared.width(200, "units of latent_ebm's energy, two hidden layers")
    energy_learning_rate: float = shared.learning_rate(3e-4, "of latent_ebm's energy")
    prior_steps: int = shared.chain_steps(40, "K_0, steps of latent_ebm's prior chain", least=0)
    prior_step_size: float = shared.step_size(0.4, "s_0, likewise")
    prior_momentum: float = shared.momentum("c_0, likewise")
    output: str = shared.output(NAME)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the layers that are used, the top first."""
        sizes = _numbers("--latent-sizes", self.latent_sizes, int)
        if self.layers is not None and self.layers > len(sizes):
            raise InvalidInputError(
                f"--layers {self.layers} needs as many sizes. Received --latent-sizes "
                f"{self.latent_sizes}, which are {len(sizes)}."
            )
        return sizes[-self.layers :] if self.layers else sizes

    @property
    def halvings(self) -> tuple[float, ...]:
        """Epochs after which the learning rates halve, rising."""
        if self.halve_at == "0":
            return ()
        return tuple(sorted(_numbers("--halve-at", self.halve_at, float)))

    @property
    def has_chain(self) -> bool:
        """Whether latents are inferred by a chain."""
        return self.model in ("short_run", "latent_ebm")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.sizes, self.halvings
        shared.check_start(self, self.has_chain)
        if self.schedule == "free" and self.step_size == "grid":
            raise InvalidInputError(
                "--schedule free has a step size for every step, too many for a grid. Received "
                "--step-size grid; give --step-size gradient, or --schedule geometric."
            )
        if self.generator == "deconv" and len(self.sizes) > 1:
            raise InvalidInputError(
                "--generator deconv has one layer of latents. Received the sizes "
                f"{','.join(map(str, self.sizes))}; give --layers 1 to use the last."
            )
        if self.generator == "deconv" and self.model == "ladder_vae":
            raise InvalidInputError(
                "--generator deconv has one layer of latents, and ladder_vae needs the layers of "
                "multilayer. Give another --model, or --generator multilayer."
            )


def _numbers(name: str, text: str, kind: type) -> tuple:
    try:
        numbers = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or any(not 0 < number <= _LARGEST for number in numbers):
        wanted = "whole numbers above 0" if kind is int else "numbers above 0, or 0 alone"
        wanted += f", at most {_LARGEST}"
        raise InvalidInputError(f"{name} must be {wanted}, with commas between. Received {text!r}.")
    return numbers


# The paper's and its released code's values; the code keeps s = 0.05 fixed.
_PAPER = {
    "epochs": 600,
    "batch_size": 100,
    "image_size": 32,
    "latent_sizes": "64,64,64,96,128",
    "width": 64,
    "upsamplings": 1,
    "sigma": 0.15,
    "posterior_steps": 25,
    "learning_rate": 8e-5,
    "halve_at": "50,100,300",
}
PRESETS = {
    "laptop": {},
    "svhn": {**_PAPER, "dataset": "svhn_cropped"},
    "celeba32": {**_PAPER, "dataset": "celeb_a"},
}

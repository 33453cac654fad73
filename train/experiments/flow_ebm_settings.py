"""Flags of `flow_ebm.py`, its presets, and the data that they name."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tfebm
from experiments import shared
from tfebm import runs
from tfebm.errors import InvalidInputError
from tfebm.names import TOY_DENSITIES
from tfebm.runs import ImageRunSettings, flag

if TYPE_CHECKING:
    from tfebm.data import ImageData, PointData

NAME = "flow_ebm"
FLOWS = ("spline", "realnvp", "glow")


@dataclasses.dataclass(frozen=True)
class Settings(ImageRunSettings):
    """The defaults are the preset `points`."""

    dataset: str = flag(
        "eight_gaussians",
        "a density in the plane, or an image set: a name, an .npz, a folder",
        metavar="NAME|PATH",
        path=True,
        names=(*TOY_DENSITIES, "mnist5k"),
    )
    epochs: int = shared.epochs(16, "passes over the data to learn the energy")
    flow_epochs: int = shared.epochs(15, "passes over the data to learn the flow", group="learning")
    steps: int = flag(0, "stop every stage after so many batches (0: no limit)", least=0)
    batch_size: int = shared.batch_size(256)
    precision: str = flag(
        "float32",
        "of the energy's arithmetic; a flow stays in float32, to invert",
        choices=("float32", "bfloat16"),
    )
    num_points: int = flag(
        50_000,
        "points to train on and to test with, in the plane",
        least=2,
        most=10**7,
        group="data",
    )
    pad: int | None = flag(
        None,
        "pad images to so many pixels a side (default: a power of 2)",
        type=int,
        least=1,
        most=2**13,
        group="data",
    )
    flow: str = flag("spline", "the backbone; images take glow", choices=FLOWS)
    couplings: int = flag(6, "of spline and realnvp", least=2, most=1000)
    levels: int = flag(2, "L of glow", least=1, most=8)
    flow_steps: int = flag(8, "K of glow, steps per level", least=1, most=1000)
    flow_width: int = shared.width(64, "hidden units or channels of each coupling")
    flow_learning_rate: float = shared.learning_rate(2e-3, "of the flow (Adam, cosine decay)")
    energy_width: int = shared.width(128, "hidden units (points) or first channels (images)")
    learning_rate: float = shared.learning_rate(
        1e-4, "of the energy under maximum likelihood (Adam)"
    )
    contrastive_learning_rate: float = shared.learning_rate(1e-3, "of the energy before")
    contrastive_steps: int = flag(
        2500, "steps of noise contrast, before the likelihood", least=0, group="learning"
    )
    burn_in_steps: int = flag(
        100, "of them with moving chains, the last ones", least=0, group="learning"
    )
    energy_penalty: float = shared.weight(1e-3, "weight of mean E^2")
    chains: int = shared.chain_steps(
        256, "persistent chains while learning, over all replicas", least=2
    )
    transitions: int = shared.chain_steps(1, "of every chain between two steps")
    leapfrog_steps: int = shared.chain_steps(5, "gradients per transition")
    generation_steps: int = shared.chain_steps(100, "transitions to a sample", least=0)
    diagnosis_chains: int = flag(64, "chains of the diagnosis", least=2, most=10**6, group="task")
    diagnosis_steps: int = flag(
        1000, "transitions of each of them", least=8, most=10**6, group="task"
    )
    output: str = shared.output(NAME)

    def limited(self, steps: int) -> int:
        """`steps`, or `--steps` where that is less; 8 are needed to say anything."""
        return max(8, min(steps, self.steps or steps))


_IMAGES = {
    "dataset": "mnist5k",
    "batch_size": 50,
    "flow": "glow",
    "flow_epochs": 30,
    "flow_learning_rate": 3e-3,
    "epochs": 6,
    "energy_width": 32,
    "contrastive_steps": 180,
    "contrastive_learning_rate": 5e-4,
    "burn_in_steps": 30,
    # Chains in so many dimensions follow an energy only while it is small and learned slowly.
    "learning_rate": 1e-5,
    "energy_penalty": 0.02,
    "chains": 32,
    "transitions": 1,
    "generation_steps": 40,
    "diagnosis_chains": 16,
    "diagnosis_steps": 536,
}
PRESETS = {
    "points": {},
    "images": _IMAGES,
    # The sizes of the specification; the paper does not print its own.
    "paper": {
        **_IMAGES,
        "dataset": "cifar10",
        "levels": 3,
        "flow_width": 256,
        "flow_epochs": 100,
        "flow_learning_rate": 1e-3,
        "epochs": 100,
        "energy_width": 64,
        "chains": 64,
        "transitions": 20,
        "leapfrog_steps": 3,
    },
}


def default_preset(given: Mapping[str, Any]) -> str:
    """`points` for a density in the plane, `images` for anything else."""
    return "points" if given.get("dataset", "eight_gaussians") in TOY_DENSITIES else "images"


def check(settings: Settings) -> None:
    """Raises `InvalidInputError` for what no data could mend."""
    if settings.dataset in TOY_DENSITIES:
        if settings.flow == "glow":
            raise InvalidInputError(
                "--flow glow is for images. Received it with points in the plane: use spline or "
                "realnvp."
            )
        if settings.validation:
            raise InvalidInputError(
                "--validation is for images. Received it with points in the plane, of which every "
                "--seed draws others."
            )
        return
    near = difflib.get_close_matches(settings.dataset, TOY_DENSITIES, n=2, cutoff=0.7)
    if near and not pathlib.Path(settings.dataset).exists():
        tfebm.data.toy_density(settings.dataset)  # says which names are near
    if settings.flow != "glow":
        raise InvalidInputError(
            f"--flow {settings.flow} is for points in the plane. Received it with images: use glow."
        )
    if settings.pad or settings.image_size:
        side = settings.pad or padded_side(settings.image_size)
        make_glow(settings, (side, side, 3))


def padded_side(side: int) -> int:
    """The power of 2 that images are padded to where nothing else is asked for."""
    return 1 << (side - 1).bit_length()


def load(settings: Settings) -> PointData | ImageData:
    """The data, images padded for the flow."""
    check(settings)
    if settings.dataset in TOY_DENSITIES:
        return tfebm.data.load_points(
            settings.dataset,
            seed=settings.seed,
            num_train=settings.num_points,
            num_test=settings.num_points,
        )
    data = runs.load_image_set(settings)
    return tfebm.data.pad_images(data, size=settings.pad or padded_side(data.image_shape[0]))


def make_glow(settings: Settings, image_shape: tuple) -> tfebm.Glow:
    """The flow over images."""
    return tfebm.Glow(
        image_shape,
        settings.levels,
        settings.flow_steps,
        settings.flow_width,
        seed=settings.seed,
    )

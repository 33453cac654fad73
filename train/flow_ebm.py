"""Learns an energy over a normalizing flow, and shows whether its latent-space chain mixes.

  python train/flow_ebm.py                                     eight Gaussians, in minutes
  python train/flow_ebm.py --dataset mnist5k                   digits, over a Glow
  python train/flow_ebm.py --dataset rings --output runs/rings
  python train/flow_ebm.py --preset paper --dataset cifar10

Four stages: flow, energy, diagnosis, pictures. --steps counts for each of them.

E. Nijkamp et al. MCMC Should Mix: Learning Energy-Based Model with Neural Transport Latent Space
MCMC. ICLR 2022.
"""

from __future__ import annotations

__reads_flags_first__ = True  # tfebm imports TensorFlow when they are known to be usable

import dataclasses
import difflib
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tfebm
from tfebm import files, runs
from tfebm.errors import InvalidInputError
from tfebm.names import TOY_DENSITIES
from tfebm.runs import ImageRunSettings, flag

if TYPE_CHECKING:
    from tfebm.data import ImageData, PointData
    from tfebm.runs import RunDirectory, mixing

NAME = "flow_ebm"
FLOWS = ("spline", "realnvp", "glow")
CURVES = {
    "flow: nats per example": ("flow", ("nats",)),
    "energy of data and samples": ("energy", ("energy_data", "energy_model")),
    "acceptance of the chains": ("energy", ("acceptance",)),
    "R-hat of fresh chains": ("energy", ("r_hat", "r_hat_energy")),
}
# On the screen; all metrics are in the logs.
SHOWN = {
    "flow": {"nats": "nats"},
    "energy": {"energy_data": "energy", "energy_model": "of samples", "acceptance": "acceptance"},
}


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
    epochs: int = flag(16, "passes over the data to learn the energy", least=1)
    flow_epochs: int = flag(15, "passes over the data to learn the flow", least=1, group="learning")
    steps: int = flag(0, "stop every stage after so many batches (0: no limit)", least=0)
    batch_size: int = flag(256, "examples per step, over all replicas", least=1)
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
    flow_width: int = flag(64, "hidden units or channels of each coupling", least=1, most=2**14)
    flow_learning_rate: float = flag(
        2e-3, "of the flow (Adam, cosine decay)", above=0.0, group="learning"
    )
    energy_width: int = flag(
        128, "hidden units (points) or first channels (images)", least=1, most=2**14
    )
    learning_rate: float = flag(
        1e-4, "of the energy under maximum likelihood (Adam)", above=0.0, group="learning"
    )
    contrastive_learning_rate: float = flag(
        1e-3, "of the energy before", above=0.0, group="learning"
    )
    contrastive_steps: int = flag(
        2500, "steps of noise contrast, before the likelihood", least=0, group="learning"
    )
    burn_in_steps: int = flag(
        100, "of them with moving chains, the last ones", least=0, group="learning"
    )
    energy_penalty: float = flag(1e-3, "weight of mean E^2", least=0.0, group="learning")
    chains: int = flag(
        256,
        "persistent chains while learning, over all replicas",
        least=2,
        most=10**6,
        group="sampler",
    )
    transitions: int = flag(
        1, "of every chain between two steps", least=1, most=10**6, group="sampler"
    )
    leapfrog_steps: int = flag(5, "gradients per transition", least=1, most=10**6, group="sampler")
    generation_steps: int = flag(
        100, "transitions to a sample", least=0, most=10**6, group="sampler"
    )
    diagnosis_chains: int = flag(64, "chains of the diagnosis", least=2, most=10**6, group="task")
    diagnosis_steps: int = flag(
        1000, "transitions of each of them", least=8, most=10**6, group="task"
    )
    output: str = flag(
        "runs/flow_ebm", "folder for everything the run writes", metavar="DIR", operational=True
    )


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
            settings.dataset, settings.num_points, settings.num_points, settings.seed
        )
    data = runs.load_image_set(settings)
    return tfebm.data.pad_images(data, settings.pad or padded_side(data.image_shape[0]))


def make_glow(settings: Settings, image_shape: tuple) -> tfebm.Glow:
    """The flow over images."""
    return tfebm.Glow(
        image_shape,
        settings.levels,
        settings.flow_steps,
        settings.flow_width,
        seed=settings.seed,
    )


def make_flow(settings: Settings, data: PointData | ImageData) -> tfebm.FlowModel:
    """The flow, compiled."""
    import keras

    if settings.flow == "glow":
        flow = make_glow(settings, data.image_shape)
        levels = 256 if data.x_train.dtype == "uint8" else None  # floats are continuous
        model = tfebm.FlowModel(
            flow, num_levels=levels, jit_compile=settings.jit_compile, seed=settings.seed
        )
    else:
        kind = {"spline": tfebm.SplineFlow, "realnvp": tfebm.RealNVP}[settings.flow]
        flow = kind(2, settings.couplings, hidden_units=(settings.flow_width,) * 2)
        model = tfebm.FlowModel(flow, jit_compile=settings.jit_compile, seed=settings.seed)
    steps = settings.flow_epochs * tfebm.data.steps_per_epoch(
        len(data.x_train), settings.batch_size
    )
    rate = keras.optimizers.schedules.CosineDecay(settings.flow_learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=100.0))
    return model


def make_model(settings: Settings, flow: tfebm.FlowModel) -> tfebm.FlowEBM:
    """The energy over the flow, compiled."""
    import keras

    width = settings.energy_width
    if settings.flow == "glow":
        # The paper's four layers, or as many as leave 4 x 4 values of a small image.
        side = min(flow.data_shape[:2])
        channels = tuple(width * 2**i for i in range(4) if side >> i >= 4)
        energy = tfebm.EnergyConv(channels, dtype=settings.dtype_policy)
    else:
        energy = tfebm.EnergyMLP((width,) * 3, "swish", dtype=settings.dtype_policy)
    model = tfebm.FlowEBM(
        flow,
        energy,
        tfebm.HMC(
            settings.transitions,
            step_size=0.1,
            num_leapfrog_steps=settings.leapfrog_steps,
            jit_compile=flow.jit_chains,
        ),
        num_chains=settings.chains,
        contrastive_steps=settings.contrastive_steps,
        burn_in_steps=settings.burn_in_steps,
        energy_penalty=settings.energy_penalty,
        generation_steps=settings.generation_steps,
        seed=settings.seed,
    )
    rate: Any = settings.learning_rate
    if settings.contrastive_steps >= 3:
        start = settings.contrastive_learning_rate
        # Keras counts steps from 0 and keeps a value up to its boundary, that step included.
        ends = [settings.contrastive_steps * 2 // 3 - 1, settings.contrastive_steps - 1]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            ends, [start, 0.2 * start, settings.learning_rate]
        )
    model.compile(keras.optimizers.Adam(rate))
    return model


def train(
    settings: Settings, data: PointData | ImageData, run: RunDirectory, strategy: Any
) -> tuple[tfebm.FlowModel, tfebm.FlowEBM, tfebm.callbacks.RunLog]:
    """The first two stages, each from where it was left."""
    training = runs.training
    with strategy.scope():
        flow = make_flow(settings, data)
    done = training.saved_step(run, "flow", strategy)
    stage = training.Stage("flow", settings.flow_epochs)
    last = training.num_steps(settings, len(data.x_train), settings.flow_epochs)
    # Before the flow moves on: a run that is killed meanwhile must not find the old energy.
    if done < last and tfebm.callbacks.complete_checkpoints(run.checkpoints / "energy"):
        print("The flow is trained further, and the energy over it starts anew.", flush=True)
        run.forget("energy")
        files.discard(run.checkpoints / "energy")
    if not done:  # a flow that is restored has seen data
        flow.initialize(tfebm.data.to_float(data.x_train[:512]))
    log = training.train(flow, data, settings, run, stage=stage, shown=SHOWN["flow"])
    with strategy.scope():
        model = make_model(settings, flow)
    steps = training.num_steps(settings, len(data.x_train), settings.epochs)
    if steps <= settings.contrastive_steps:
        print(
            f"The energy is learned for {steps} steps, all of them by noise contrast: maximum "
            f"likelihood begins after --contrastive-steps {settings.contrastive_steps}.",
            flush=True,
        )
    looks = [tfebm.callbacks.ChainDiagnostics(**_looks(settings))]
    stage = training.Stage("energy", settings.epochs)
    more = {"looks": looks, "stage": stage, "log": log, "shown": SHOWN["energy"]}
    log = training.train(model, data, settings, run, **more)
    return flow, model, log


def _looks(settings: Settings) -> dict[str, int]:
    """Short chains after each epoch; the diagnosis has the long ones."""
    steps = 25 if settings.flow == "glow" else 100
    return {"num_steps": _limited(settings, steps), "num_chains": 8}


def _limited(settings: Settings, steps: int) -> int:
    """`steps`, or `--steps` where that is less; 8 are needed to say anything."""
    return max(8, min(steps, settings.steps or steps))


def draw(
    model: tfebm.FlowEBM,
    flow: tfebm.FlowModel,
    data: PointData | ImageData,
    found: mixing.Mixing,
    view: mixing.View,
    epochs: list[dict],
    run: RunDirectory,
) -> None:
    """The last stage."""
    import numpy as np

    pictures = tfebm.pictures
    tfebm.plots.save_mixing(
        run.picture("mixing"),
        {
            "latent chain": found.latent.coordinates,
            "data-space chain": found.data.coordinates,
        },
        view.names,
    )
    pictures.save_curves(
        run.picture("curves"),
        {
            title: [r for r in epochs if r["stage"] == stage and names[0] in r["metrics"]]
            for title, (stage, names) in CURVES.items()
        },
        {title: names for title, (_, names) in CURVES.items()},
    )
    if isinstance(data, tfebm.data.PointData):
        runs.evaluation.draw_densities(run.picture("density"), model, flow, data)
        return
    tfebm.callbacks.SampleGrid(run.picture("samples"), side=8).draw(model)
    for name, space in (("chains", found.latent), ("chains_data_space", found.data)):
        shown = np.moveaxis(space.snapshots[:, :8], 0, 1)  # a row for each chain
        flat = shown.reshape(-1, *shown.shape[2:])
        pictures.save_grid(run.picture(name), flat, columns=shown.shape[1])
    images = tfebm.data.to_float(data.x_test if len(data.x_test) >= 2 else data.x_train).numpy()
    ends = images[np.linspace(0, len(images) - 1, min(16, len(images))).astype(int)]
    half = len(ends) // 2
    if half:
        paths = model.interpolate(ends[:half], ends[half : 2 * half], num_steps=10)
        pictures.save_grid(run.picture("interpolation"), paths.reshape(-1, *ends.shape[1:]), 10)


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(NAME, Settings, PRESETS, default_preset, __doc__, load)
    evaluation, training = runs.evaluation, runs.training
    _, settings, run, strategy, data, _ = session
    with strategy.scope():  # what does not fit together is said before anything is written
        make_model(settings, make_flow(settings, data))
    training.make_deterministic(settings.seed)
    session.announce()

    flow, model, log = train(settings, data, run, strategy)
    flow, model = session.alone(flow), session.alone(model)
    run.save_model(model)
    print("Diagnosis: chains in the latent space and in the data space.", flush=True)
    view, about = evaluation.view_of(data, settings.seed)
    found = runs.mixing.diagnose(
        model,
        view,
        settings.diagnosis_chains,
        _limited(settings, settings.diagnosis_steps),
        seed=settings.seed,
        jit_compile=flow.jit_chains,
    )
    record = evaluation.diagnosis_record(found, view, about)
    files.write_json(run.file("diagnostics.json"), record)
    draw(model, flow, data, found, view, log.epochs, run)
    session.export(model)
    test = evaluation.test_figures(model, flow, data, settings)
    run.save_model(model)  # log Z is known now
    final = training.finish(model, log, test, started)
    print(training.cost(final))
    print(evaluation.summary(test, found))
    first = "density.png" if isinstance(data, tfebm.data.PointData) else "samples.png"
    print(f"Everything is in {run.path}: look at mixing.png and {first} first.")
    session.close()


if __name__ == "__main__":
    runs.run_command(main)

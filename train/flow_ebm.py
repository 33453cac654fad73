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

import time
from typing import TYPE_CHECKING, Any

from experiments import shared
from experiments.flow_ebm_settings import (
    NAME,
    PRESETS,
    Settings,
    default_preset,
    load,
    make_glow,
)

import tfebm
from tfebm import files, runs

if TYPE_CHECKING:
    from tfebm.data import ImageData, PointData
    from tfebm.runs import RunDirectory

# On the screen; all metrics are in the logs.
SHOWN = {
    "flow": {"nats": "nats"},
    "energy": {"energy_data": "energy", "energy_model": "of samples", "acceptance": "acceptance"},
}


def make_flow(settings: Settings, data: PointData | ImageData) -> tfebm.FlowModel:
    """The flow, compiled."""
    import keras

    levels = None  # of values that are continuous
    if settings.flow == "glow":
        flow = make_glow(settings, data.image_shape)
        levels = 256 if data.x_train.dtype == "uint8" else None
    else:
        kind = {"spline": tfebm.SplineFlow, "realnvp": tfebm.RealNVP}[settings.flow]
        flow = kind(2, settings.couplings, hidden_units=(settings.flow_width,) * 2)
    how = {"jit_compile": settings.jit_compile, "seed": settings.seed}
    model = tfebm.FlowModel(flow, num_levels=levels, **how)
    per_epoch = tfebm.data.steps_per_epoch(len(data.x_train), settings.batch_size)
    steps = settings.flow_epochs * per_epoch
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
    leapfrog = {"num_leapfrog_steps": settings.leapfrog_steps, "jit_compile": flow.jit_chains}
    model = tfebm.FlowEBM(
        flow,
        energy,
        tfebm.HMC(settings.transitions, step_size=0.1, **leapfrog),
        num_chains=settings.chains,
        contrastive_steps=settings.contrastive_steps,
        burn_in_steps=settings.burn_in_steps,
        energy_penalty=settings.energy_penalty,
        generation_steps=settings.generation_steps,
        seed=settings.seed,
    )
    rate: Any = settings.learning_rate
    if settings.contrastive_steps >= 3:
        start, steps = settings.contrastive_learning_rate, settings.contrastive_steps
        rate = shared.in_turn([start, 0.2 * start, rate], [steps * 2 // 3, steps])
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
    # Short chains after each epoch; the diagnosis has the long ones.
    length = settings.limited(25 if settings.flow == "glow" else 100)
    looks = [tfebm.callbacks.ChainDiagnostics(num_steps=length, num_chains=8)]
    stage = training.Stage("energy", settings.epochs)
    more = {"looks": looks, "stage": stage, "log": log, "shown": SHOWN["energy"]}
    return flow, model, training.train(model, data, settings, run, **more)


def main() -> None:
    started = time.monotonic()
    session = runs.open_session(NAME, Settings, PRESETS, default_preset, __doc__, load)
    from experiments import flow_ebm_figures as figures  # the flags can be used
    from experiments import flow_ebm_pictures as pictures
    from experiments.flow_ebm_mixing import diagnose

    _, settings, run, strategy, data, _ = session
    with strategy.scope():  # what does not fit together is said before anything is written
        make_model(settings, make_flow(settings, data))
    runs.training.make_deterministic(settings.seed)
    session.announce()

    flow, model, log = train(settings, data, run, strategy)
    flow, model = session.alone(flow), session.alone(model)
    run.save_model(model)
    print("Diagnosis: chains in the latent space and in the data space.", flush=True)
    view, about = figures.view_of(data, settings.seed)
    found = diagnose(
        model,
        view,
        num_chains=settings.diagnosis_chains,
        num_steps=settings.limited(settings.diagnosis_steps),
        seed=settings.seed,
        jit_compile=flow.jit_chains,
    )
    record = figures.diagnosis_record(found, view, about)
    files.write_json(run.file("diagnostics.json"), record)
    pictures.draw(model, flow, data, found, view, log.epochs, run)
    session.export(model)
    test = figures.test_figures(model, flow, data, settings)
    run.save_model(model)  # log Z is known now
    shared.finish(model, log, test, started, lambda test: figures.summary(test, found))
    shared.leave(session, f"mixing.png and {pictures.first_picture(data)}")


if __name__ == "__main__":
    runs.run_command(main)

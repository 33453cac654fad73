"""Learns a flow over a few points: a training script like those in `train/`, but in seconds.

The noise between the levels of the data is drawn anew at every step.
"""

import dataclasses
import time

import keras
import numpy as np

import tfebm
from tfebm import pictures
from tfebm.data import load_points
from tfebm.runs import RunSettings, flag, open_session, run_command, training

NAME = "quick_run"


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    epochs: int = flag(2, "passes over the data", least=1)
    batch_size: int = flag(5, "points per step", least=1)


def load(settings):
    """14 points, three steps an epoch; the last of them has four."""
    data = load_points("eight_gaussians", seed=settings.seed, num_train=14, num_test=6)
    x_train, x_test = (np.clip(x / 4, -1, 1) for x in (data.x_train, data.x_test))
    return dataclasses.replace(data, x_train=x_train, x_test=x_test)


def main():
    started = time.monotonic()
    session = open_session(NAME, Settings, {"default": {}}, "default", __doc__, load)
    settings, run, data = session.settings, session.run, session.data
    flow = tfebm.RealNVP(2, 2, hidden_units=(4,))
    model = tfebm.FlowModel(flow, num_levels=16, jit_compile=False, seed=settings.seed)
    model.compile(keras.optimizers.Adam(1e-2))
    session.announce()

    log = training.train(model, data, settings, run)
    run.save_model(model)
    samples = np.clip(model.generate(16, seed=settings.seed), -1, 1)
    pictures.save_grid(run.picture("samples"), samples.reshape(16, 1, 2, 1), columns=4)
    test = model.evaluate(data.x_test, batch_size=6, verbose=0, return_dict=True)
    print(training.cost(training.finish(model, log, test, started)))


if __name__ == "__main__":
    run_command(main)

"""How fast the chain over images and a whole step of learning run, against PyTorch.

  python -m benchmarks images                          a table
  python -m benchmarks images --json FILE              and a record
  python -m benchmarks images --presets cifar10 --posterior-steps 2 --batch 20
  python -m benchmarks images --peers PATH             with the PyTorch of another Python

The models of `train/latent_ebm.py --preset ...`: the posterior chain of K steps (20) on a batch of
noise, and a step of learning as `fit` takes it: both chains (60 prior steps), both losses, two
Adams. Ours is compiled as "auto" does (on a CPU the chain over images is the plain graph), in
float32 and, where the processor computes in it, with the generator in bfloat16. PyTorch runs the
same on the same weights in a process of its own with as many threads (`peers/images_torch.py`), as
the paper's code does and in what its users turn on; a step without noise must end at the same
latents before anything is timed. Every number is the median of at least five runs after a warm-up,
all sides taken in turns. CPU only.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tfebm
from benchmarks import peer, timing
from tfebm import random
from tfebm.generators import deconv


class Preset(NamedTuple):
    """Of `train/latent_ebm.py`."""

    image_shape: tuple[int, int, int]
    width: int
    latent_size: int
    batch: int
    stages: tuple | None = None


PRESETS = {
    "laptop": Preset((28, 28, 1), 16, 16, 50),
    "svhn": Preset((32, 32, 3), 64, 100, 100),
    "cifar10": Preset((32, 32, 3), 128, 128, 100, deconv.CIFAR10_STAGES),
    "celeba64": Preset((64, 64, 3), 128, 100, 100),
}
PRECISIONS = {"tfebm": "float32", "tfebm, bfloat16": "mixed_bfloat16"}
VARIANTS = ("eager", "channels last", "bfloat16", "bfloat16, channels last", "torch.compile")
INEXACT = ("bfloat16", "bfloat16, channels last")
BASELINE = "PyTorch, eager"
PRIOR_STEPS, STEP_SIZES, SIGMA, TOLERANCE = 60, (0.4, 0.1), 0.3, 1e-4


def make_model(preset: Preset, dtype: str, num_steps: int) -> tfebm.LatentEBM:
    """Of the same weights every time."""
    keras.utils.set_random_seed(0)
    model = tfebm.LatentEBM(
        tfebm.DeconvGenerator(preset.image_shape, preset.width, preset.stages, dtype=dtype),
        tfebm.EnergyMLP(),
        latent_size=preset.latent_size,
        prior_sampler=tfebm.ShortRunLangevin(PRIOR_STEPS, STEP_SIZES[0]),
        posterior_sampler=tfebm.ShortRunLangevin(num_steps, STEP_SIZES[1]),
        likelihood=tfebm.GaussianLikelihood(SIGMA),
    )
    model.compile()
    return model


def problem(model: tfebm.LatentEBM, preset: Preset, batch: int, num_steps: int) -> dict:
    """What the peer is given."""
    noise = np.random.default_rng(0)
    stages = model.generator.stages
    pads = [0 if s.padding == "valid" else (s.kernel - s.stride + 1) // 2 for s in stages]
    found = {
        "x": noise.uniform(-1, 1, (batch, *preset.image_shape)).astype("float32"),
        "z_0": noise.normal(size=(batch, preset.latent_size)).astype("float32"),
        "stages": np.array(
            [(s.kernel, s.stride, pad) for s, pad in zip(stages, pads, strict=True)]
        ),
        "step_sizes": STEP_SIZES,
        "num_steps": (PRIOR_STEPS, num_steps),
        "sigma": SIGMA,
    }
    layers = {
        "generator": model.generator.layers,
        "energy": [*model.energy.hidden, model.energy.head],
    }
    for network, parts in layers.items():
        for i, layer in enumerate(parts):
            found[f"{network}_kernel_{i}"] = layer.kernel.numpy()
            found[f"{network}_bias_{i}"] = layer.bias.numpy()
    return found


def one_step(model: tfebm.LatentEBM, given: dict) -> np.ndarray:
    sampler = tfebm.ShortRunLangevin(1, STEP_SIZES[1], 0.0)
    return sampler(model.posterior_energy, given["z_0"], given["x"]).numpy()


def our_sides(preset: Preset, given: dict) -> dict[str, dict[str, peer.Side]]:
    """Chains and steps of learning, in each precision."""
    sides: dict[str, dict] = {"chain": {}, "learn": {}}
    x, seeds = tf.constant(given["x"]), random.as_row_seeds(0, len(given["x"]))
    for name, dtype in PRECISIONS.items():
        if dtype != "float32" and not timing.computes_in_bfloat16():
            continue
        model = make_model(preset, dtype, int(given["num_steps"][1]))
        batches = iter(tf.data.Dataset.from_tensors(x).repeat())
        model.make_train_function()

        def step(model: tfebm.LatentEBM = model) -> np.ndarray:
            return one_step(model, given)

        def chain(model: tfebm.LatentEBM = model) -> np.ndarray:
            return model.sample_posterior(x, seeds).numpy()

        def learned(learn: Callable = model.train_function, batches: Iterator = batches) -> dict:
            return {key: float(value) for key, value in learn(batches).items()}

        exact = dtype == "float32"
        sides["chain"][name] = peer.Side(step, timing.clocked(chain), exact)
        sides["learn"][name] = peer.Side(step, timing.clocked(learned), exact)
    return sides


def measure(name: str, options: argparse.Namespace) -> tuple[list[dict], dict]:
    """Rows of the table, and the peer's version."""
    preset = PRESETS[name]
    batch = options.batch or preset.batch
    model = make_model(preset, "float32", options.posterior_steps)
    given = problem(model, preset, batch, options.posterior_steps)
    rows = []
    with peer.Peers({"images_torch": "PyTorch"}, given, options.peers) as peers:
        for what, sides in our_sides(preset, given).items():
            variants = [v for v in VARIANTS if v not in INEXACT or timing.computes_in_bfloat16()]
            if what == "learn":  # compiled chains say as much
                variants.remove("torch.compile")
            sides |= peers.sides("PyTorch", variants, INEXACT, what=f"{what}: ")
            apart = peers.check(sides, TOLERANCE)
            times = timing.turns(
                {k: s.seconds for k, s in sides.items()}, options.repeats, peers.missing
            )
            rows += table(name, what, batch, times, apart)
    if not timing.computes_in_bfloat16():
        peers.missing["bfloat16"] = "this processor does not compute in it"
    rows += [{"preset": name, **row} for row in peers.missing_rows()]
    return rows, peers.facts


def header() -> None:
    print(f"\n{'preset':<9}{'':<7}{'':<33}{'seconds':>9}{'of PyTorch':>12}{'s, min .. max':>18}")


def table(name: str, what: str, batch: int, times: dict, apart: dict) -> list[dict]:
    """Rows, which are printed."""
    rows = []
    summaries = {side: timing.summary(measured) for side, measured in times.items()}
    baseline = summaries.get(BASELINE, {}).get("median_seconds")
    for side, found in summaries.items():
        median = found["median_seconds"]
        speed = baseline / median if baseline else None
        row = {"preset": name, "batch": batch, "what": what, "side": side, **found}
        rows.append(row | {"speed_of_pytorch_eager": speed, "step_apart": apart.get(side)})
        low, high = found["spread_seconds"]
        shown = "-" if speed is None else f"{speed:.2f}"
        print(
            f"{name:<9}{what:<7}{side:<33}{median:>9.3f}{shown:>12}{low:>11.3f} .. {high:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    options = timing.options(
        __doc__,
        {
            **peer.FLAG,
            "--presets": {
                "nargs": "+",
                "choices": list(PRESETS),
                "default": ["laptop", "svhn"],
                "help": "default: %(default)s",
            },
            "--posterior-steps": {
                "metavar": "K",
                "type": int,
                "default": 20,
                "help": "default: 20",
            },
            "--batch": {"metavar": "N", "type": int, "help": "default: the preset's"},
        },
    )
    timing.use_cpu_only()
    machine = timing.machine()
    header()
    rows = []
    for name in options.presets:
        found, facts = measure(name, options)
        rows += found
        machine |= facts
    record = {"machine": machine, "posterior_steps": options.posterior_steps, "rows": rows}
    timing.write(options.json, record)


if __name__ == "__main__":
    main()

"""Seconds of training until a stated quality, against the paper's arithmetic in PyTorch.

  python -m benchmarks time_to_quality                 a table
  python -m benchmarks time_to_quality --json FILE     and a record
  python -m benchmarks time_to_quality --peers PATH    with the PyTorch of another Python

The networks of `train/latent_ebm.py` learn the embedded digits: ours with the paper's chains, with
momentum, and with the script's learned start (in bfloat16 too, where the processor computes in it);
and the paper's algorithm in PyTorch (`peers/training_torch.py`), eager and in what its users turn
on. All sides begin with the same weights, have the same batch size and learning rates, and take
their epochs in turns. After each epoch, with the clock stopped, a side reconstructs the test images
by its own chain and draws 4,500 samples. The table has the seconds until the error per pixel on
[-1, 1] was reached, and the Frechet distance of the samples from the training set (64 features of a
classifier of this set). The first epoch includes tracing and compiling. CPU only.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tfebm
from benchmarks import images, peer, timing
from tfebm.data import ImageData, to_float
from tfebm.metrics import classifier_features, frechet_distance

PRESET = images.PRESETS["laptop"]
RATE, ENERGY_RATE, DECAY = 1.5e-3, 3e-4, 0.88  # of train/latent_ebm.py
VARIANTS = ("eager", "channels last")
# Name: (steps of the posterior chain, its step size, its momentum, whether an encoder starts it,
# precision of the generator). Chosen on held-out training images.
OURS = {
    "tfebm, the paper's chains": (20, 0.1, 0.0, False, "float32"),
    "tfebm, momentum": (20, 0.07, 0.5, False, "float32"),
    "tfebm, learned start": (5, 0.05, 0.5, True, "float32"),
    "tfebm, learned start, bfloat16": (5, 0.05, 0.5, True, "mixed_bfloat16"),
}


class Learner(NamedTuple):
    """One of those that learn."""

    step: Callable[[], np.ndarray]
    """The latents of one step of the paper's posterior chain without noise, before training."""
    epoch: Callable[[], float]
    """Learns for an epoch; its seconds."""
    look: Callable[[], tuple[np.ndarray, np.ndarray]]
    """Reconstructions of the test images, and samples."""


def make_model(side: str, per_epoch: int) -> tfebm.LatentEBM:
    """One of `OURS`, with the same weights every time."""
    num_steps, step_size, momentum, learned_start, dtype = OURS[side]
    keras.utils.set_random_seed(0)
    networks = (
        tfebm.DeconvGenerator(PRESET.image_shape, PRESET.width, dtype=dtype),
        tfebm.EnergyMLP(),
    )
    encoder = None
    if learned_start:
        encoder = tfebm.ConvEncoder(
            PRESET.image_shape, PRESET.latent_size, width=PRESET.width, dtype=dtype
        )
    model = tfebm.LatentEBM(
        *networks,
        latent_size=PRESET.latent_size,
        prior_sampler=tfebm.ShortRunLangevin(images.PRIOR_STEPS, images.STEP_SIZES[0]),
        posterior_sampler=tfebm.ShortRunLangevin(num_steps, step_size, momentum=momentum),
        likelihood=tfebm.GaussianLikelihood(images.SIGMA),
        encoder=encoder,
    )
    optimizers = {"optimizer": _adam(RATE, per_epoch)}
    optimizers["energy_optimizer"] = _adam(ENERGY_RATE, per_epoch)
    if learned_start:
        optimizers["encoder_optimizer"] = _adam(RATE, per_epoch)
    model.compile(**optimizers)
    return model


def _adam(rate: float, per_epoch: int) -> keras.optimizers.Optimizer:
    schedules = keras.optimizers.schedules
    decaying = schedules.ExponentialDecay(rate, per_epoch, DECAY, staircase=True)
    return keras.optimizers.Adam(decaying, beta_1=0.5)


def our_learner(side: str, data: ImageData, given: dict[str, Any]) -> Learner:
    x, x_test = to_float(data.x_train), to_float(data.x_test).numpy()
    per_epoch = tfebm.data.steps_per_epoch(len(x), PRESET.batch)
    model = make_model(side, per_epoch)
    batches = tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=0).repeat()
    batches = batches.batch(PRESET.batch, drop_remainder=True).prefetch(2)

    def epoch() -> None:
        model.fit(batches, steps_per_epoch=per_epoch, shuffle=False, verbose=0)

    def look() -> tuple[np.ndarray, np.ndarray]:
        return model.reconstruct(x_test), model.generate(len(x), seed=0)

    return Learner(lambda: images.one_step(model, given), timing.clocked(epoch), look)


def their_learners(found: peer.Peers, variants: list[str]) -> dict[str, Learner]:
    def look(side: peer.Peer, variant: str) -> tuple[np.ndarray, np.ndarray]:
        arrays = side.look(variant)
        return arrays["reconstructions"], arrays["samples"]

    return {
        f"{name}, {variant}": Learner(
            lambda side=side, variant=variant: side.step(variant)["z"],
            lambda side=side, variant=variant: side.seconds(variant),
            lambda side=side, variant=variant: look(side, variant),
        )
        for name, side in found.found.items()
        for variant in variants
    }


def reached(course: list[dict[str, float]], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds until the error, the distance, and both at once; None where they were not."""

    def first(good: Callable[[dict[str, float]], bool]) -> float | None:
        return next((each["seconds"] for each in course if good(each)), None)

    return {
        "seconds_to_error": first(lambda at: at["error"] <= options.error),
        "seconds_to_distance": first(lambda at: at["distance"] <= options.distance),
        "seconds_to_both": first(
            lambda at: at["error"] <= options.error and at["distance"] <= options.distance
        ),
    }


def learn(
    learners: dict[str, Learner],
    data: ImageData,
    options: argparse.Namespace,
) -> dict[str, list[dict[str, float]]]:
    """What each side had reached after each epoch; it stops where both aims are reached."""
    x, x_test = to_float(data.x_train).numpy(), to_float(data.x_test).numpy()
    classifier = classifier_features(x, data.y_train, seed=0)
    reference = classifier.extract(x)
    courses: dict[str, list[dict[str, float]]] = {side: [] for side in learners}
    for epoch in range(options.epochs):
        for side, learner in learners.items():
            course = courses[side]
            if reached(course, options)["seconds_to_both"] is not None:
                continue
            seconds = learner.epoch() + (course[-1]["seconds"] if course else 0.0)
            reconstructions, samples = learner.look()
            error = float(np.mean((reconstructions - x_test) ** 2))
            distance = frechet_distance(classifier.extract(samples), reference)
            course.append(
                {"epoch": epoch + 1, "seconds": seconds, "error": error, "distance": distance}
            )
            print(
                f"{side:<33}epoch {epoch + 1:>2}{seconds:>8.1f} s, error {error:.4f}, "
                f"distance {distance:.1f}",
                flush=True,
            )
    return courses


def table(courses: dict[str, list], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows, which are printed."""
    rows = [
        {"side": side, **reached(course, options), "course": course}
        for side, course in courses.items()
    ]
    baseline = next((row for row in rows if row["side"] == images.BASELINE), {})
    print(f"\n{'seconds to':<33}{f'error {options.error:g}':>18}", end="")
    print(f"{f'distance {options.distance:g}':>18}{'both':>18}")
    for row in rows:
        cells = []
        for name in ("seconds_to_error", "seconds_to_distance", "seconds_to_both"):
            mine, theirs = row[name], baseline.get(name)
            speed = theirs / mine if mine and theirs else None
            row[name.replace("seconds_to", "speed_of_pytorch_eager_to")] = speed
            shown = "not reached" if mine is None else f"{mine:.0f}"
            cells.append(shown if speed is None else f"{shown} ({speed:.1f})")
        print(f"{row['side']:<33}" + "".join(f"{cell:>18}" for cell in cells))
    return rows


def main() -> None:
    numbers = {"type": float, "metavar": "X"}
    options = timing.options(
        __doc__,
        {
            **peer.FLAG,
            "--error": {**numbers, "default": 0.042, "help": "aim (%(default)s)"},
            "--distance": {**numbers, "default": 20.0, "help": "aim (%(default)s)"},
            "--epochs": {"type": int, "metavar": "N", "default": 14, "help": "%(default)s at most"},
            "--sides": {"nargs": "+", "choices": list(OURS), "default": list(OURS)},
            "--variants": {"nargs": "+", "choices": VARIANTS, "default": VARIANTS},
        },
    )
    timing.use_cpu_only()
    machine = timing.machine()
    data = tfebm.data.load_images("mnist5k")
    paper = images.make_model(PRESET, "float32", num_steps=20)
    given = images.problem(paper, PRESET, PRESET.batch, 20)
    of_training = {
        "x_train": data.x_train,
        "x_test": data.x_test,
        "rates": (RATE, ENERGY_RATE, DECAY),
    }
    with peer.Peers({"training_torch": "PyTorch"}, given | of_training, options.peers) as peers:
        mine = [
            n for n in options.sides if OURS[n][4] == "float32" or timing.computes_in_bfloat16()
        ]
        learners = {name: our_learner(name, data, given) for name in mine}
        learners |= their_learners(peers, options.variants)
        exact = {n: peer.Side(s.step, s.epoch, "bfloat16" not in n) for n, s in learners.items()}
        apart = peers.check(exact, images.TOLERANCE)
        courses = learn({name: learners[name] for name in exact}, data, options)
        rows = table(courses, options) + peers.missing_rows()
    if not timing.computes_in_bfloat16():
        print("bfloat16: missing (this processor does not compute in it)")
    machine |= peers.facts
    aims = {"error": options.error, "distance": options.distance}
    timing.write(options.json, {"machine": machine, "aims": aims, "apart": apart, "rows": rows})


if __name__ == "__main__":
    main()

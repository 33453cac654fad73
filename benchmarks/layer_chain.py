"""How fast the chain of a generator with a latent at every layer runs, against PyTorch.

  python -m benchmarks layer_chain                 a table
  python -m benchmarks layer_chain --json FILE     and a record
  python -m benchmarks layer_chain --peers PATH    with the PyTorch of another Python

The short run of a `tfebm.ShortRunModel` over all latents, K = 20 steps with noise in float32, on a
batch of noise: the default generator of `train/short_run.py` (28 x 28, three layers), and the
paper's (32 x 32 x 3, five layers) on 10 images. PyTorch runs the same on the same weights in a
process of its own with as many threads (`peers/layers_torch.py`); a step without noise must end at
the same latents before anything is timed. Every number is the median of at least five runs after a
warm-up, all sides taken in turns. CPU only.
"""

import keras
import numpy as np
import tensorflow as tf

import tfebm
from benchmarks import images, peer, timing
from tfebm import random

# Name: (image shape, latent sizes, width, upsamplings, batch).
GENERATORS = {
    "laptop": ((28, 28, 1), (8, 8, 16), 16, 2, 50),
    "paper": ((32, 32, 3), (64, 64, 64, 96, 128), 64, 1, 10),
}
NUM_STEPS, STEP_SIZE, SIGMA = 20, 0.1, 0.3
# Of the largest latent; the step that is compared moves them by about a half.
TOLERANCE = 1e-5
VARIANTS = ("eager", "channels last", "torch.compile")


def make_model(name: str) -> tfebm.ShortRunModel:
    """Of the same weights every time."""
    image_shape, sizes, width, upsamplings, _ = GENERATORS[name]
    keras.utils.set_random_seed(0)
    return tfebm.ShortRunModel(
        tfebm.MultilayerGenerator(image_shape, sizes, width, upsamplings=upsamplings),
        posterior_sampler=tfebm.ShortRunLangevin(NUM_STEPS, STEP_SIZE),
        likelihood=tfebm.GaussianLikelihood(SIGMA),
    )


def problem(name: str, model: tfebm.ShortRunModel) -> dict[str, np.ndarray]:
    """What the peer is given: kernels and biases by the names of the layers."""
    image_shape, sizes, _, upsamplings, batch = GENERATORS[name]
    noise = np.random.default_rng(0)
    generator = model.generator
    layers = {"deconv": generator.doublings}
    for block in generator.blocks:
        layers.setdefault("conv5", []).append(block.conv5)
        layers.setdefault("conv3", []).append(block.conv3)
    for projection in generator.projections:
        layers.setdefault("project_dense", []).append(projection.dense)
        layers.setdefault("project_deconv", []).append(projection.deconv)
    for kind, heads in (("mean", generator.means), ("log_variance", generator.log_variances)):
        layers[f"{kind}_conv"] = [head.conv for head in heads]
        layers[f"{kind}_dense"] = [head.dense for head in heads]
    found = {
        "x": noise.uniform(-1, 1, (batch, *image_shape)).astype("float32"),
        "latent_sizes": sizes,
        "upsamplings": upsamplings,
        "log_variance_range": generator.log_variance_range,
        "step_size": STEP_SIZE,
        "num_steps": NUM_STEPS,
        "sigma": SIGMA,
    }
    for i, size in enumerate(sizes):
        found[f"z_{i}"] = noise.normal(size=(batch, size)).astype("float32")
    for kind, parts in layers.items():
        for i, layer in enumerate(parts):
            found[f"{kind}_{i}_kernel"] = layer.kernel.numpy()
            if layer.use_bias:
                found[f"{kind}_{i}_bias"] = layer.bias.numpy()
    return found


def our_side(model: tfebm.ShortRunModel, given: dict) -> peer.Side:
    x = tf.constant(given["x"])
    start = tuple(tf.constant(given[f"z_{i}"]) for i in range(len(given["latent_sizes"])))
    seeds = random.as_row_seeds(0, len(given["x"]))
    one = tfebm.ShortRunLangevin(1, STEP_SIZE, 0.0)
    sampler = model.posterior_sampler

    def step() -> np.ndarray:
        return np.concatenate([z.numpy() for z in one(model.posterior_energy, start, x)], axis=1)

    def chain() -> list[np.ndarray]:
        return [z.numpy() for z in sampler(model.posterior_energy, start, x, seed=seeds)]

    return peer.Side(step, timing.clocked(chain))


def measure(name: str, python: str, repeats: int) -> tuple[list[dict], dict]:
    """Rows of the table, and the peer's version."""
    model = make_model(name)
    given = problem(name, model)
    with peer.Peers({"layers_torch": "PyTorch"}, given, python) as peers:
        sides = {"tfebm": our_side(model, given), **peers.sides("PyTorch", VARIANTS)}
        apart = peers.check(sides, TOLERANCE)
        times = timing.turns({k: side.seconds for k, side in sides.items()}, repeats, peers.missing)
        rows = images.table(name, "chain", len(given["x"]), times, apart)
    rows += [{"preset": name, **row} for row in peers.missing_rows()]
    return rows, peers.facts


def main() -> None:
    options = timing.options(__doc__, peer.FLAG)
    timing.use_cpu_only()
    machine = timing.machine()
    images.header()
    rows = []
    for name in GENERATORS:
        found, facts = measure(name, options.peers, options.repeats)
        rows += found
        machine |= facts
    timing.write(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()

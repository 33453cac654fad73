"""How fast the chain of a dense energy runs, against the samplers one could use instead.

  python -m benchmarks prior_chain                 a table
  python -m benchmarks prior_chain --json FILE     and a record
  python -m benchmarks prior_chain --peers PATH    with the peers of another Python

The paper's prior: E of 100 -> 200 -> 200 -> 1 with GELU, plus |z|**2 / 2, K = 60 steps of 0.4 with
noise, float32. Ours is `tfebm.ShortRunLangevin` as "auto" compiles it (on a CPU, XLA) and in the
plain graph. The peers run the same steps from the same start on the same weights, each in a
process of its own with as many threads (`peers/prior_chain_*.py`), at a batch of 10,000 only the
faster variant of each; a step without noise must end at the same latents before anything is timed.
Every number is the median of at least five runs after a warm-up, all sides taken in turns. "Of
matmul": the floating-point operations of the dense layers in K gradients, per second, over those of
the same products alone in TensorFlow, in the same turns. CPU only.
"""

import keras
import numpy as np
import tensorflow as tf

import tfebm
from benchmarks import peer, timing
from tfebm import random

LATENT, UNITS, NUM_STEPS, STEP_SIZE = 100, (200, 200), 60, 0.4
BATCHES = (100, 1000, 10_000)
TOLERANCE = 1e-5
OURS = {"tfebm": "auto", "tfebm, graph": False}
SCRIPTS = {
    "prior_chain_tf": "TensorFlow",
    "prior_chain_torch": "PyTorch",
    "prior_chain_jax": "JAX",
    "prior_chain_torchebm": "torchebm",
}
VARIANTS = {
    "TensorFlow": ("Keras, graph", "Keras, XLA", "TFP, graph", "TFP, XLA"),
    "PyTorch": ("eager", "torch.compile"),
    "JAX": ("jit",),
    "torchebm": ("LangevinDynamics",),
}
# At a batch of 10,000, which takes seconds a chain, the faster variant of each package.
OF_LARGE = ("Keras, graph", "TFP, graph", "eager", "jit", "LangevinDynamics")
ALONE = "products alone"


def network() -> tfebm.EnergyMLP:
    """Of the same weights every time."""
    keras.utils.set_random_seed(0)
    energy = tfebm.EnergyMLP(UNITS)
    energy.build((None, LATENT))
    return energy


def problem(energy: tfebm.EnergyMLP, batch: int) -> dict[str, np.ndarray]:
    """What the peers are given."""
    start = np.random.default_rng(0).normal(size=(batch, LATENT)).astype("float32")
    found = {"z_0": start, "step_size": STEP_SIZE, "num_steps": NUM_STEPS}
    for i, layer in enumerate([*energy.hidden, energy.head]):
        found |= {f"kernel_{i}": layer.kernel.numpy(), f"bias_{i}": layer.bias.numpy()}
    return found


def our_sides(energy: tfebm.EnergyMLP, start: np.ndarray) -> dict[str, peer.Side]:
    seeds = random.as_row_seeds(0, len(start))

    def total(z: tf.Tensor) -> tf.Tensor:
        return energy(z) + 0.5 * tf.reduce_sum(tf.square(z), axis=-1)

    def side(jit_compile: bool | str) -> peer.Side:
        one = tfebm.ShortRunLangevin(1, STEP_SIZE, 0.0, jit_compile=jit_compile)
        chain = tfebm.ShortRunLangevin(NUM_STEPS, STEP_SIZE, 1.0, jit_compile=jit_compile)
        return peer.Side(
            lambda: one(total, start).numpy(),
            timing.clocked(lambda: chain(total, start, seed=seeds).numpy()),
        )

    return {name: side(jit_compile) for name, jit_compile in OURS.items()}


def products_alone(energy: tfebm.EnergyMLP, start: np.ndarray) -> peer.Side:
    """The dense layers' products of K gradients, and nothing else."""
    kernels = [layer.kernel.value for layer in [*energy.hidden, energy.head]]

    @tf.function(autograph=False)
    def products(h: tf.Tensor) -> tf.Tensor:
        for kernel in kernels:
            h = tf.matmul(h, kernel)
        for kernel in reversed(kernels):
            h = tf.matmul(h, kernel, transpose_b=True)
        return h

    start = tf.constant(start)
    run = timing.clocked(lambda: [products(start) for _ in range(NUM_STEPS)])
    return peer.Side(lambda: start.numpy(), run, exact=False)


def measure(batch: int, python: str, repeats: int) -> tuple[list[dict], dict]:
    """Rows of the table, and the peers' versions."""
    energy = network()
    given = problem(energy, batch)
    with peer.Peers(SCRIPTS, given, python) as peers:
        sides = our_sides(energy, given["z_0"])
        for package, variants in VARIANTS.items():
            timed = [v for v in variants if batch < BATCHES[-1] or v in OF_LARGE]
            sides |= peers.sides(package, timed)
        apart = peers.check(sides, TOLERANCE)
        sides[ALONE] = products_alone(energy, given["z_0"])
        times = timing.turns({k: side.seconds for k, side in sides.items()}, repeats, peers.missing)
    rows = []
    summaries = {side: timing.summary(measured) for side, measured in times.items()}
    ours, alone = (summaries[side]["median_seconds"] for side in ("tfebm", ALONE))
    for side, found in summaries.items():
        median = found["median_seconds"]
        row = {"batch": batch, "side": side, **found, "steps_per_second": NUM_STEPS / median}
        row |= {"tfebm_over_this": median / ours, "fraction_of_float32_matmul": alone / median}
        rows.append(row | {"step_apart": apart.get(side)})
        low, high = (1e3 * x for x in found["spread_seconds"])
        print(
            f"{batch:>7}  {side:<28}{row['steps_per_second']:>9.1f}{median / ours:>12.2f}"
            f"{alone / median:>11.2f}{low:>11.1f} .. {high:.1f}",
            flush=True,
        )
    rows += [{"batch": batch, **row} for row in peers.missing_rows()]
    return rows, peers.facts


def main() -> None:
    options = timing.options(__doc__, peer.FLAG)
    timing.use_cpu_only()
    machine = timing.machine()
    header = f"{'batch':>7}  {'':<28}{'steps/s':>9}{'tfebm over':>12}{'of matmul':>11}"
    print(f"\n{header}{'ms, min .. max':>20}")
    rows = []
    for batch in BATCHES:
        found, facts = measure(batch, options.peers, options.repeats)
        rows += found
        machine |= facts
    timing.write(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()

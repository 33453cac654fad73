"""How the time of a chain grows: with steps, images, the generator's width, and devices.

  python -m benchmarks scaling                 a table
  python -m benchmarks scaling --json FILE     and a record

The posterior chain of the default model of `train/latent_ebm.py` (28 x 28, width 16, 50 images,
K = 20), compiled as "auto" does (on a CPU the plain graph), with one of these changed at a time;
and a whole step of learning on 50 images by `tf.distribute.MirroredStrategy` over one and two
logical devices, which share the processor's cores, each in a new process. Every number is the
median of at least five runs after a warm-up, all chains taken in turns. "Of matmul": the
floating-point operations of the networks' layers in K gradients, per second, over the rate of a
2048 x 2048 matrix product in float32 in the same run. CPU only.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks import images, langevin, timing
from tfebm import random

DEFAULT = images.PRESETS["laptop"]
NUM_STEPS = 20
CURVES = {
    "steps": (5, 10, 20, 40, 80),
    "batch": (10, 25, 50, 100, 200),
    "width": (8, 16, 32, 64),
}
DEVICES = (1, 2)
PRODUCT = "product"
CHILD = "from benchmarks import scaling; scaling.learn_on({}, {})"


def chain_of(curve: str, value: int) -> tuple[Callable[[], float], int]:
    """A chain with one setting changed, and its floating-point operations."""
    num_steps = value if curve == "steps" else NUM_STEPS
    preset = DEFAULT if curve == "steps" else DEFAULT._replace(**{curve: value})
    model = images.make_model(preset, "float32", num_steps)
    x = tf.random.stateless_uniform([preset.batch, *preset.image_shape], [0, 0], -1.0, 1.0)
    seeds = random.as_row_seeds(0, preset.batch)
    per_row = sum(langevin.operations_per_row(n) for n in (model.generator, model.energy))
    run = timing.clocked(lambda: model.sample_posterior(x, seeds).numpy())
    return run, 2 * per_row * preset.batch * num_steps


def learn_on(num_devices: int, repeats: int) -> None:
    """Prints the seconds of steps of learning; the child's part."""
    timing.use_cpu_only()
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * num_devices
    tf.config.set_logical_device_configuration(cpu, logical)
    strategy = tf.distribute.MirroredStrategy([f"/cpu:{i}" for i in range(num_devices)])
    with strategy.scope():
        model = images.make_model(DEFAULT, "float32", NUM_STEPS)
    x = np.random.default_rng(0).uniform(-1, 1, (DEFAULT.batch, *DEFAULT.image_shape))
    batches = tf.data.Dataset.from_tensors(x.astype("float32")).repeat()
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    model.make_train_function()
    step = timing.clocked(lambda: [float(v) for v in model.train_function(iterator).values()])
    print(json.dumps(timing.turns({"": step}, repeats)[""]))


def measure(repeats: int) -> tuple[list[dict], float]:
    """Rows of all curves, taken in turns, and the rate of a matrix product among them."""
    chains = {
        (curve, value): chain_of(curve, value)
        for curve, values in CURVES.items()
        for value in values
    }
    product, operations = langevin.square_product(tf.float32)
    sides = {key: run for key, (run, _) in chains.items()} | {PRODUCT: timing.clocked(product)}
    times = timing.turns(sides, repeats)
    rate = operations / timing.summary(times.pop(PRODUCT))["median_seconds"]
    rows = []
    for (curve, value), measured in times.items():
        found = timing.summary(measured)
        fraction = chains[curve, value][1] / found["median_seconds"] / rate
        rows.append({"curve": curve, "value": value, **found, "fraction_of_matmul": fraction})
        show(rows[-1])
    return rows, rate


def show(row: dict) -> None:
    low, high = row["spread_seconds"]
    fraction = row.get("fraction_of_matmul")
    shown = "-" if fraction is None else f"{fraction:.2f}"
    print(
        f"{row['curve']:<9}{row['value']:>5}{row['median_seconds']:>10.3f}{shown:>12}"
        f"{low:>11.3f} .. {high:.3f}",
        flush=True,
    )


def main() -> None:
    options = timing.options(__doc__)
    timing.use_cpu_only()
    machine = timing.machine()
    print(f"\n{'':<14}{'seconds':>10}{'of matmul':>12}{'s, min .. max':>18}")
    rows, rate = measure(options.repeats)
    machine["matmul_gflops"] = rate / 1e9
    for num_devices in DEVICES:
        command = [sys.executable, "-c", CHILD.format(num_devices, options.repeats)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found = timing.summary(json.loads(output.splitlines()[-1]))
        rows.append({"curve": "devices", "value": num_devices, **found})
        show(rows[-1])
    print(f"\nmatrix product 2048 x 2048: {rate / 1e9:.0f} GFLOP/s")
    timing.write(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()

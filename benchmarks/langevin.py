"""How fast the prior and the posterior chain run, against this machine's own matrix products.

  python -m benchmarks langevin                 a table
  python -m benchmarks langevin --json FILE     and a record

Every number is the median of at least five runs after a warm-up, all variants of a chain taken
in turns. The fraction is (floating-point operations of the networks' layers in K gradients) /
(time) / (the rate of a 2048 x 2048 matrix product in float32 in the same run), forward pass
and gradient towards the input; noise and activations count as time but not as operations.
bfloat16 is left out where the processor does not compute in it. CPU only.
"""

import statistics
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import tfebm
from benchmarks import timing
from tfebm import random

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# Name: (image shape, width, latent size, batch, steps), and the batches of the prior chain.
POSTERIOR = {
    "laptop": ((28, 28, 1), 16, 16, 50, 20),
    "svhn": ((32, 32, 3), 64, 100, 100, 5),
}
PRIOR_BATCHES = (100, 1000)
PRIOR_LATENT_SIZE = 100


def square_product(dtype: tf.DType, size: int = 2048) -> tuple[Callable[[], Any], int]:
    """A square matrix product, and its floating-point operations."""
    a = tf.cast(tf.random.stateless_normal([size, size], [0, 0]), dtype)
    product = tf.function(lambda: tf.matmul(a, a))
    return lambda: product().numpy(), 2 * size**3


def matmul_rate(dtype: tf.DType) -> float:
    """Floating-point operations per second of a square matrix product."""
    product, operations = square_product(dtype)
    return operations / statistics.median(timing.seconds({0: product}, 9)[0])


def operations_per_row(layer: keras.layers.Layer) -> int:
    """Floating-point operations of one forward pass of one row: 2 per multiply-add."""
    if isinstance(layer, tfebm.EnergyMLP):
        return sum(2 * size_of(dense.kernel.shape) for dense in [*layer.hidden, layer.head])
    total, size = 0, 1
    for convolution, stage in zip(layer.layers, layer.stages, strict=True):
        out = convolution.compute_output_shape((None, size, size, 1))[1]
        pad = 0 if stage.padding == "valid" else (stage.kernel - stage.stride + 1) // 2
        # Products that land outside the image are not computed.
        inside = sum(
            0 <= pixel * stage.stride - pad + tap < out
            for pixel in range(size)
            for tap in range(stage.kernel)
        )
        total += 2 * inside**2 * size_of(convolution.kernel.shape[2:])
        size = out
    return total


def size_of(shape: tuple) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def precisions() -> dict[str, str]:
    """Names to policies, of those that the processor computes in."""
    low = timing.computes_in_bfloat16()
    return {name: policy for name, policy in PRECISIONS.items() if low or name == "float32"}


def variants(make: Callable[[str, bool], Callable[[], Any]]) -> dict[tuple[str, str], Callable]:
    return {
        (precision, "XLA" if jit else "graph"): make(policy, jit)
        for precision, policy in precisions().items()
        for jit in (False, True)
    }


def prior_chain(batch: int, num_steps: int) -> tuple[int, dict]:
    seeds = random.as_row_seeds(0, batch)
    start = tf.zeros([batch, PRIOR_LATENT_SIZE])
    operations = 0

    def make(policy: str, jit: bool) -> Callable[[], Any]:
        nonlocal operations
        energy = tfebm.EnergyMLP((200, 200), dtype=policy)
        energy.build((None, PRIOR_LATENT_SIZE))
        operations = 2 * operations_per_row(energy) * batch * num_steps
        sampler = tfebm.ShortRunLangevin(num_steps, 0.4, jit_compile=jit)

        def prior_energy(z: tf.Tensor) -> tf.Tensor:
            return energy(z) + 0.5 * tf.reduce_sum(z**2, axis=-1)

        return lambda: sampler(prior_energy, start, seed=seeds).numpy()

    functions = variants(make)
    return operations, functions


def posterior_chain(name: str, num_steps: int) -> tuple[int, dict]:
    image_shape, width, latent_size, batch, _ = POSTERIOR[name]
    seeds = random.as_row_seeds(0, batch)
    x = tf.zeros([batch, *image_shape])
    operations = 0

    def make(policy: str, jit: bool) -> Callable[[], Any]:
        nonlocal operations
        model = tfebm.LatentEBM(
            tfebm.DeconvGenerator(image_shape, width, dtype=policy),
            tfebm.EnergyMLP(),
            latent_size=latent_size,
            posterior_sampler=tfebm.ShortRunLangevin(num_steps, 0.1, jit_compile=jit),
        )
        per_row = operations_per_row(model.generator) + operations_per_row(model.energy)
        operations = 2 * per_row * batch * num_steps
        return lambda: model.sample_posterior(x, seeds).numpy()

    functions = variants(make)
    return operations, functions


def measure(title: str, num_steps: int, chain: tuple[int, dict], rate: float, repeats: int) -> list:
    operations, functions = chain
    rows = []
    for (precision, how), times in timing.seconds(functions, repeats).items():
        median = statistics.median(times)
        row = {
            "chain": title,
            "precision": precision,
            "how": how,
            "median_seconds": median,
            "spread_seconds": [min(times), max(times)],
            "steps_per_second": num_steps / median,
            "fraction_of_float32_matmul": operations / median / rate,
        }
        rows.append(row)
        print(
            f"{title:<28}{precision:<10}{how:<7}{row['steps_per_second']:>10.1f}"
            f"{row['fraction_of_float32_matmul']:>12.2f}"
            f"{min(times) * 1e3:>12.1f} .. {max(times) * 1e3:.1f}",
            flush=True,
        )
    return rows


def main() -> None:
    options = timing.options(__doc__)
    timing.use_cpu_only()
    rates = {name: matmul_rate(tf.as_dtype(name)) for name in precisions()}
    gflops = {name: rate / 1e9 for name, rate in rates.items()}
    machine = {**timing.machine(), "matmul_gflops": gflops}
    for name, rate in rates.items():
        print(f"matrix product 2048 x 2048, {name}: {rate / 1e9:.0f} GFLOP/s")
    header = f"{'chain':<28}{'precision':<10}{'':<7}{'steps/s':>10}{'of matmul':>12}"
    print(f"\n{header}{'ms, min .. max':>20}")
    rows = []
    for batch in PRIOR_BATCHES:
        chain = prior_chain(batch, 60)
        title = f"prior, batch {batch}, K 60"
        rows += measure(title, 60, chain, rates["float32"], options.repeats)
    for name, (*_, batch, num_steps) in POSTERIOR.items():
        chain = posterior_chain(name, num_steps)
        title = f"posterior {name}, {batch}, K {num_steps}"
        rows += measure(title, num_steps, chain, rates["float32"], options.repeats)
    timing.write(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()

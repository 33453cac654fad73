"""What the log-determinant of a short run costs as the latent gets longer.

  python -m benchmarks log_det                 a table
  python -m benchmarks log_det --json FILE     and a record

The posterior chain of the default generator of `train/latent_ebm.py` (28 x 28), K = 3 steps, four
images, with latents of 16 to 256 numbers. "Exact" and "lanczos" (4 probes of 8 steps) are
`log_det_of_map` of `tfebm.samplers.log_det`, the chain included; "Jacobian" is what one would write
without it: `batch_jacobian` of the gradient at every step, and `slogdet`. It and "exact" have to
agree before anything is timed. Every number is the median of at least five runs after a warm-up,
all sides taken in turns. "Error": how far the stochastic one is from the exact one, root mean
square over the images, in nats; the log-determinant itself is beside it. CPU only.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tfebm
from benchmarks import images, timing
from tfebm.samplers import log_det

SIZES = (16, 64, 256)
BATCH, NUM_STEPS, STEP_SIZE, SIGMA = 4, 3, 0.3, 0.3
JACOBIAN, TOLERANCE = "Jacobian", 1e-3
PRESET = images.PRESETS["laptop"]


def make_model(latent_size: int) -> tfebm.ShortRunModel:
    """Of the same weights every time."""
    keras.utils.set_random_seed(0)
    return tfebm.ShortRunModel(
        tfebm.DeconvGenerator(PRESET.image_shape, PRESET.width),
        latent_size=latent_size,
        likelihood=tfebm.GaussianLikelihood(SIGMA),
    )


def by_jacobian(energy_fn: Callable, noise: tf.Tensor) -> Callable[..., tf.Tensor]:
    """log |det| of the map from the Hessians of its steps, all of each at once."""

    @tf.function(autograph=False)
    def run(z: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        total = 0.0
        for k in range(NUM_STEPS):
            with tf.GradientTape() as outer:
                outer.watch(z)
                with tf.GradientTape() as inner:
                    inner.watch(z)
                    energy = energy_fn(z, x)
                grad = inner.gradient(energy, z)
            factor = tf.eye(z.shape[1]) - 0.5 * STEP_SIZE**2 * outer.batch_jacobian(grad, z)
            total += tf.linalg.slogdet(factor)[1]
            z = z - 0.5 * STEP_SIZE**2 * grad + STEP_SIZE * noise[k]
        return total

    return run


def measure(latent_size: int, repeats: int) -> list[dict]:
    model = make_model(latent_size)
    draw = np.random.default_rng(0)
    x = tf.constant(draw.uniform(-1, 1, (BATCH, *PRESET.image_shape)).astype("float32"))
    z_0 = tf.constant(draw.normal(size=(BATCH, latent_size)).astype("float32"))
    noise = tf.constant(draw.normal(size=(NUM_STEPS, BATCH, latent_size)).astype("float32"))
    sampler = tfebm.ShortRunLangevin(NUM_STEPS, STEP_SIZE)
    jacobian = by_jacobian(model.posterior_energy, noise)

    def ours(method: str) -> Callable[[], np.ndarray]:
        return lambda: log_det.log_det_of_map(
            sampler, model.posterior_energy, z_0, x, noise=noise, method=method
        )[1].value.numpy()

    sides = {"exact": ours("exact"), "lanczos": ours("lanczos")}
    sides[JACOBIAN] = lambda: jacobian(z_0, x).numpy()
    values = {name: side() for name, side in sides.items()}
    if not np.allclose(values["exact"], values[JACOBIAN], TOLERANCE, TOLERANCE):
        raise SystemExit(f"The log-determinants differ: {values['exact']}, {values[JACOBIAN]}.")
    times = timing.seconds(sides, repeats)
    rows = []
    summaries = {name: timing.summary(measured) for name, measured in times.items()}
    for name, found in summaries.items():
        speed = summaries[JACOBIAN]["median_seconds"] / found["median_seconds"]
        error = float(np.sqrt(np.mean((values[name] - values["exact"]) ** 2)))
        row = {"latent_size": latent_size, "side": name, **found, "speed_of_jacobian": speed}
        row |= {"root_mean_square_error": error, "log_det": float(np.mean(values["exact"]))}
        rows.append(row)
        low, high = found["spread_seconds"]
        print(
            f"{latent_size:>6}  {name:<10}{found['median_seconds']:>9.3f}{speed:>13.2f}"
            f"{error:>9.4f}{row['log_det']:>10.2f}{low:>11.3f} .. {high:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    options = timing.options(__doc__)
    timing.use_cpu_only()
    machine = timing.machine()
    header = f"{'latent':>6}  {'':<10}{'seconds':>9}{'of Jacobian':>13}{'error':>9}{'log det':>10}"
    print(f"\n{header}{'s, min .. max':>18}")
    rows = [row for size in SIZES for row in measure(size, options.repeats)]
    timing.write(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()

"""Bounds on log p(x) of one generator: through chains, with and without momentum, and an encoder.

  python -m benchmarks bounds                 a table
  python -m benchmarks bounds --json FILE     and a record

A VAE over the default generator of `train/latent_ebm.py` learns the embedded digits for a few
epochs. Then the same log p(x) of 100 test images is bounded from below: by the VAE's ELBO; by
chains without noise, 20 steps from the prior or 5 from the VAE's encoder, whose step sizes, and
momenta, `evidence_sampler` chose on 16 held-out training images; and by importance samples around
the ends of the default chain (`laplace_bound`), which is the nearest to log p(x) that is at hand.
"Chosen in": seconds of that choice, once, tracing included. "Bound in": the median of at least five
runs after a warm-up, all sides in turns. Nats an image, means over the images whose chain is valid,
and the share of these. CPU only.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tfebm
from benchmarks import images, timing
from tfebm.data import to_float

TESTED, CHOSEN_BY, SIGMA = 100, 16, 0.3
# Of the search without momentum. A trained generator is steep: larger ones are not valid.
STEPS = np.geomspace(0.003, 0.1, 10)
PRESET = images.PRESETS["laptop"]
VAE, LAPLACE = "VAE", "importance samples"


def learn(x: np.ndarray, epochs: int) -> tfebm.VAE:
    """The model of which all bounds are, but for the way it infers."""
    keras.utils.set_random_seed(0)
    vae = tfebm.VAE(
        tfebm.DeconvGenerator(PRESET.image_shape, PRESET.width),
        latent_size=PRESET.latent_size,
        likelihood=tfebm.GaussianLikelihood(SIGMA),
    )
    vae.compile(*(keras.optimizers.Adam(1e-3, beta_1=0.5) for _ in range(2)))
    vae.fit(x, epochs=epochs, batch_size=PRESET.batch, verbose=0)
    return vae


def sides_of(
    vae: tfebm.VAE, x: np.ndarray, chosen_by: np.ndarray
) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, float], dict[str, Any]]:
    """The sides, the seconds that the choice of each chain took, and the chains."""

    def by_chains(encoder: keras.layers.Layer | None = None) -> tfebm.ShortRunModel:
        given = {"likelihood": tfebm.GaussianLikelihood(SIGMA), "encoder": encoder}
        return tfebm.ShortRunModel(vae.generator, PRESET.latent_size, **given)

    def elbo(model: keras.Model, **options: Any) -> np.ndarray:
        found = model.evidence_bound(x, **options)
        return np.where(found.valid, found.elbo, np.nan)

    plain = by_chains()
    sides, seconds, chains = {VAE: lambda: elbo(vae)}, {}, {}
    for name, (model, options) in {
        "Langevin, 20 steps": (plain, {"num_steps": 20, "values": STEPS}),
        "momentum, 20 steps": (plain, {"num_steps": 20, "momentum": 0.7}),
        "momentum, 5 from the encoder": (
            by_chains(vae.encoder),
            {"num_steps": 5, "momentum": 0.7},
        ),
    }.items():
        started = time.perf_counter()
        chains[name] = model.evidence_sampler(chosen_by, **options)
        seconds[name] = time.perf_counter() - started
        sides[name] = functools.partial(elbo, model, sampler=chains[name])
    sides[LAPLACE] = lambda: plain.laplace_bound(x).importance_weighted
    return sides, seconds, chains


def main() -> None:
    epochs = {"--epochs": {"metavar": "N", "type": int, "default": 5, "help": "of the VAE (5)"}}
    options = timing.options(__doc__, epochs)
    timing.use_cpu_only()
    machine = timing.machine()
    data = tfebm.data.load_images("mnist5k")
    x, test = to_float(data.x_train).numpy(), to_float(data.x_test[:TESTED]).numpy()
    vae = learn(x[:-CHOSEN_BY], options.epochs)
    sides, chosen_in, chains = sides_of(vae, test, x[-CHOSEN_BY:])
    values = {name: side() for name, side in sides.items()}
    times = timing.seconds(sides, options.repeats)
    print(f"\n{'':<30}{'bound':>10}{'share valid':>14}{'chosen in':>12}{'bound in, s':>13}")
    rows = []
    for name, bounds in values.items():
        found = timing.summary(times[name])
        valid = np.isfinite(bounds)
        row = {"side": name, "bound": float(np.nanmean(bounds)), "valid_share": float(valid.mean())}
        rows.append({**row, "seconds_to_choose": chosen_in.get(name), **found})
        choice = f"{chosen_in[name]:.1f}" if name in chosen_in else "-"
        print(
            f"{name:<30}{row['bound']:>10.1f}{row['valid_share']:>14.2f}{choice:>12}"
            f"{found['median_seconds']:>13.3f}",
            flush=True,
        )
    settings = {name: chain.get_config() for name, chain in chains.items()}
    timing.write(options.json, {"machine": machine, "rows": rows, "chains": settings})


if __name__ == "__main__":
    main()

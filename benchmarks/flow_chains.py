"""How fast the latent HMC chain of a flow runs, against `tfp.mcmc` on the same energy.

  python -m benchmarks flow_chains                 a table
  python -m benchmarks flow_chains --json FILE     and a record

Both run the same transitions with the same fixed step size and as many leapfrog steps on
`U(z) = E(g(z)) + |z|**2 / 2`: ours as `tfebm.HMC` compiles it, TFP's `sample_chain` in a plain
graph, as it is used, and compiled with XLA. Every number is the median of at least five runs
after a warm-up, all variants taken in turns.
"""

import statistics
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

import tfebm
from benchmarks import timing

LEAPFROG = 5
STEP_SIZE = 0.1


def spline() -> tfebm.FlowEBM:
    """The default of points in the plane."""
    return tfebm.FlowEBM(_initialized(tfebm.SplineFlow(2)), tfebm.EnergyMLP((128,) * 3, "swish"))


def glow() -> tfebm.FlowEBM:
    """The default of digits."""
    flow = _initialized(tfebm.Glow((32, 32, 1), levels=2, steps=8, width=64))
    return tfebm.FlowEBM(flow, tfebm.EnergyConv((32, 64, 128, 256)))


# Name: (model, chains, transitions).
TARGETS = {"spline, 64 chains": (spline, 64, 40), "glow, 16 chains": (glow, 16, 4)}


def _initialized(flow: tfebm.flows.Flow) -> tfebm.flows.Flow:
    flow.build()
    flow.initialize(tf.random.stateless_normal([256, *flow.event_shape], [0, 1]))
    return flow


def variants(model: tfebm.FlowEBM, chains: int, transitions: int) -> dict[str, Callable[[], Any]]:
    """The chain of ours and of TFP, each as a function without arguments."""
    start = tf.random.stateless_normal([chains, model.latent_size], [0, 2])
    sampler = tfebm.HMC(transitions, STEP_SIZE, LEAPFROG)

    def theirs(jit_compile: bool) -> Callable[[], Any]:
        kernel = tfp.mcmc.HamiltonianMonteCarlo(
            lambda z: -model.latent_energy(z), STEP_SIZE, LEAPFROG
        )

        @tf.function(jit_compile=jit_compile, autograph=False)
        def run() -> tf.Tensor:
            return tfp.mcmc.sample_chain(
                transitions, start, kernel=kernel, trace_fn=None, seed=[0, 3]
            )[-1]

        return lambda: run().numpy()

    return {
        "tfebm.HMC": lambda: sampler(model.latent_energy, start, seed=0).numpy(),
        "tfp.mcmc, graph": theirs(False),
        "tfp.mcmc, XLA": theirs(True),
    }


def main() -> None:
    options = timing.options(__doc__)
    keras.utils.set_random_seed(0)
    machine = {**timing.machine(), "tensorflow_probability": tfp.__version__}
    print()
    print(f"{'target':<22}{'chain':<18}{'gradients/s':>12}{'of graph':>10}{'ms, min .. max':>22}")
    rows = []
    for target, (make, chains, transitions) in TARGETS.items():
        times = timing.seconds(variants(make(), chains, transitions), options.repeats)
        graph = statistics.median(times["tfp.mcmc, graph"])
        for name, measured in times.items():
            median = statistics.median(measured)
            row = {
                "target": target,
                "chain": name,
                "median_seconds": median,
                "spread_seconds": [min(measured), max(measured)],
                # Of a batch of all chains; the one at the start is not counted.
                "gradients_per_second": transitions * LEAPFROG / median,
                "speed_of_tfp_in_graph_mode": graph / median,
            }
            rows.append(row)
            print(
                f"{target:<22}{name:<18}{row['gradients_per_second']:>12.1f}"
                f"{row['speed_of_tfp_in_graph_mode']:>10.2f}"
                f"{min(measured) * 1e3:>14.1f} .. {max(measured) * 1e3:.1f}",
                flush=True,
            )
    timing.write(options.json, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()

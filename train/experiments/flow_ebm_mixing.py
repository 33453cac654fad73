"""Whether the latent chain of a run mixes, beside the same chain in the data space."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.metrics import ChainReport, report
from tfebm.models import FlowEBM
from tfebm.samplers import HMC
from tfebm.types import EnergyFn, Tensor


@dataclasses.dataclass(frozen=True)
class View:
    """How draws in the data space are looked at."""

    summarise: Callable[[np.ndarray], np.ndarray]
    """Examples `[N, ...]` to the coordinates that are diagnosed, `[N, n]`."""
    names: tuple[str, ...]
    """Of the coordinates."""
    label: Callable[[np.ndarray], np.ndarray] | None = None
    """Examples to their modes, whole numbers from 0; None where there are none."""
    shares: np.ndarray | None = None
    """True shares of the modes, where they are known."""


class SpaceChains(NamedTuple):
    """Chains in one of the two spaces."""

    report: ChainReport
    coordinates: np.ndarray
    """`[T, C, n]`."""
    energies: np.ndarray
    """`[T, C]`: U, up to a constant."""
    snapshots: np.ndarray
    """Examples along the chains, `[S, C, ...]`, evenly spaced from the start to the end."""


class Mixing(NamedTuple):
    """Both spaces."""

    latent: SpaceChains
    data: SpaceChains | None
    """None over a backbone that is not a flow, whose density is not known."""


def diagnose(
    model: FlowEBM,
    view: View,
    num_chains: int = 64,
    num_steps: int = 1000,
    num_snapshots: int = 10,
    seed: int = 0,
    jit_compile: Any = "auto",
) -> Mixing:
    """Runs HMC on the same model in both spaces, with the same number of gradients.

    The latent chains start at N(0, I), the chains in the data space at what these decode to,
    samples of the flow. Both have the leapfrog steps of the model's sampler, and their step
    size adapts to the same acceptance for half as many transitions first.

    Args:
        model: Over a flow; over another generator the latent chain alone is run.
        view: What is looked at.
        num_chains: C, at least 2.
        num_steps: T, transitions after adaptation, at least 4.
        num_snapshots: S.
        seed: Of starts and chains.
        jit_compile: As in the samplers.

    Raises:
        InvalidInputError: Chains that do not move (their step size is named), or too few of them.
    """
    leapfrog = getattr(model.sampler, "num_leapfrog_steps", 5)
    seeds = random.as_row_seeds(seed, num_chains)
    noise = random.row_normal(seeds, random.START_STREAM, model.latent_size)
    start = model.start_scale * noise
    examples = tf.constant(model.decode_latents(start))

    def run(energy_fn: EnergyFn, position: Tensor, decode: Callable) -> SpaceChains:
        sampler = HMC(num_steps, 0.1, leapfrog, num_steps // 2, jit_compile=jit_compile)
        _, trace = sampler(energy_fn, position, seed=seeds, draws=True)
        draws = trace.draws.numpy()
        flat = draws.reshape(-1, *draws.shape[2:])
        pieces, labels = [], []
        for first in range(0, len(flat), 1024):
            x = decode(flat[first : first + 1024])
            pieces.append(view.summarise(x))
            if view.label:
                labels.append(view.label(x))
        coordinates = np.concatenate(pieces).reshape(*draws.shape[:2], -1)
        energies = trace.energy.numpy()[1:]
        found = report(
            coordinates,
            energies,
            acceptance=float(tf.reduce_mean(trace.acceptance)),
            step_size=float(trace.step_size),
            num_gradients=leapfrog * (num_steps + num_steps // 2),
            labels=np.concatenate(labels).reshape(draws.shape[:2]) if labels else None,
            shares=view.shares,
        )
        shown = np.linspace(0, num_steps - 1, num_snapshots).astype(int)
        snapshots = decode(draws[shown].reshape(-1, *draws.shape[2:]))
        snapshots = snapshots.reshape(num_snapshots, num_chains, *snapshots.shape[1:])
        return SpaceChains(found, coordinates, energies, snapshots)

    return Mixing(
        run(model.latent_energy, start, model.decode_latents),
        run(model.data_energy, examples, lambda x: x) if model.prior.backbone.flow else None,
    )

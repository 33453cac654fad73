"""Chains with a Metropolis correction, exact in their law: Hamiltonian Monte Carlo and MALA.

The transition is a `tfp.mcmc.TransitionKernel`, and `tfp.mcmc.DualAveragingStepSizeAdaptation`
tunes it. TFP's own kernels draw their noise for a batch as a whole, from generators that give
other floats under XLA: a chain would depend on its batch-mates, on the replicas and on
compilation. This one draws per row, as every chain here does.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfebm import random
from tfebm.errors import InvalidInputError
from tfebm.samplers import chain, compilation
from tfebm.samplers.row_hmc import RowHMC, RowHMCResults
from tfebm.types import EnergyFn, Latents, Seed, Tensor

_STUCK = 1e-3  # a mean acceptance probability below this is a chain that does not move
_FEW = 16  # proposals that say nothing yet about a chain


class MetropolisTrace(NamedTuple):
    """What happened along K transitions."""

    energy: Tensor
    """`[K + 1, B]`: the energy at z_0, ..., z_K (after adaptation)."""
    acceptance: Tensor
    """`[K, B]`: the probability with which each proposal was accepted."""
    accepted: Tensor
    """`[K, B]`, bool: whether it was."""
    step_size: Tensor
    """Scalar: the step size that was used, adapted where there was adaptation."""
    draws: Latents
    """z_1, ..., z_K, `[K, B, ...]` for each part; None unless asked for."""


@keras.saving.register_keras_serializable(package="tfebm")
class HMC(chain.Chain):
    """K transitions of Hamiltonian Monte Carlo, which leave `exp(-E(z))` exactly invariant.

    A transition draws a momentum p ~ N(0, I), follows L leapfrog steps of `step_size` e,

        p <- p - (e / 2) dE(z)/dz;   z <- z + e p;   p <- p - (e / 2) dE(z)/dz,

    and accepts the end with probability `min(1, exp(H(z, p) - H(z', p')))`,
    `H = E + |p|**2 / 2`. L gradients per transition; the one at z is kept from the last.

    **Step-size convention.** `e` is the leapfrog step, TFP's convention. With L = 1 it is also the
    `s` of `ShortRunLangevin`: the proposal is then one Langevin step.

    Args:
        num_steps: K, transitions whose states count, at least 0.
        step_size: A positive number: e, or where adaptation starts.
        num_leapfrog_steps: L, at least 1. Long trajectories (e * L of the order of the target's
            widest scale) cost the same gradients per distance and mix far better.
        num_adaptation_steps: Transitions before the K, in which dual averaging moves the step
            size towards the target acceptance; it is frozen afterwards. 0: no adaptation.
        target_acceptance: In (0, 1).
        jitter: Every transition of every row has a step of its own, uniform within
            `step_size * (1 +- jitter)`. Trajectories of one length come back to where they
            began when it fits a period of the target, which that of a latent space near
            N(0, I) is apt to; the law stays exact.
        jit_compile: As in `ShortRunLangevin`.

    Raises:
        InvalidInputError: A number out of its range.

    Example:

        >>> sampler = tfebm.HMC(num_steps=100, step_size=0.1, num_adaptation_steps=100)
        >>> def energy(z):
        ...     return 0.5 * tf.reduce_sum(z**2, axis=-1)
        >>> z, trace = sampler(energy, tf.zeros([64, 2]), seed=0, trace=True)
        >>> float(tf.reduce_mean(trace.acceptance)), float(trace.step_size)

    References: R. Neal. MCMC using Hamiltonian dynamics. Handbook of MCMC, 2011 (jitter: section
    3.2). Adaptation:
    M. Hoffman, A. Gelman. The No-U-Turn Sampler. JMLR 2014, section 3.2.
    """

    def __init__(
        self,
        num_steps: int,
        step_size: float = 0.1,
        num_leapfrog_steps: int = 5,
        num_adaptation_steps: int = 0,
        target_acceptance: float = 0.65,
        jitter: float = 0.2,
        jit_compile: compilation.JitCompile = "auto",
    ) -> None:
        super().__init__(num_steps, jit_compile)
        if not 0 <= jitter < 1:
            raise InvalidInputError(f"`jitter` must lie in [0, 1). Received {jitter!r}.")
        number = isinstance(step_size, (int, float, np.floating, np.integer))
        if not (number and 0 < step_size < math.inf):
            raise InvalidInputError(
                f"`step_size` must be a positive number. Received {step_size!r}."
            )
        if not 0 < target_acceptance < 1:
            raise InvalidInputError(
                f"`target_acceptance` must lie between 0 and 1. Received {target_acceptance!r}."
            )
        self.step_size = float(step_size)
        self.num_leapfrog_steps = chain.whole_number("num_leapfrog_steps", num_leapfrog_steps, 1)
        self.num_adaptation_steps = chain.whole_number("num_adaptation_steps", num_adaptation_steps)
        self.target_acceptance = float(target_acceptance)
        self.jitter = float(jitter)

    @property
    def gradients_per_step(self) -> int:
        """L."""
        return self.num_leapfrog_steps

    def __call__(
        self,
        energy_fn: EnergyFn,
        position: Latents,
        *context: Tensor,
        seed: Seed,
        step_size: Tensor | float | None = None,
        trace: bool = False,
        draws: bool = False,
    ) -> Latents | tuple[Latents, MetropolisTrace]:
        """Runs the chain, compiled once per `energy_fn` and cached.

        Args:
            energy_fn: `energy_fn(position, *context) -> [B]`.
            position: z_0: a float tensor `[B, ...]` or a tuple of them with one common B.
            *context: Tensors handed to `energy_fn` unchanged.
            seed: An integer, or int32 `[B, 2]`, one stream per row.
            step_size: Replaces the sampler's, for whoever adapts it from call to call.
            trace: Also return a `MetropolisTrace`.
            draws: Keep the states of all transitions in it (implies `trace`).

        Returns:
            z_K in the structure of `position`; with `trace`, the pair (z_K, trace).

        Raises:
            InvalidInputError: An energy that is not one value per row; outside a graph also a
                chain that accepts nothing.
        """
        arguments = self._arguments(position, context, seed, step_size)
        function = self._compiled(
            self._loop, energy_fn, (arguments[0], *arguments[1]), (trace or draws, draws)
        )
        end, record, acceptance = function(*arguments)
        if tf.executing_eagerly():
            used = record.step_size if record else arguments[3]
            check_acceptance(float(acceptance), float(used), self._num_proposals(position))
        return (end, record) if trace or draws else end

    def run(
        self,
        energy_fn: EnergyFn,
        position: Latents,
        *context: Tensor,
        seed: Seed,
        step_size: Tensor | float | None = None,
        trace: bool = False,
        draws: bool = False,
    ) -> Latents | tuple[Latents, MetropolisTrace]:
        """The same chain as plain TensorFlow operations, compiled by nobody."""
        arguments = self._arguments(position, context, seed, step_size)
        end, record, _ = self._loop(energy_fn, trace or draws, draws, *arguments)
        return (end, record) if trace or draws else end

    def get_config(self) -> dict[str, Any]:
        return {
            "num_steps": self.num_steps,
            "step_size": self.step_size,
            "num_leapfrog_steps": self.num_leapfrog_steps,
            "num_adaptation_steps": self.num_adaptation_steps,
            "target_acceptance": self.target_acceptance,
            "jitter": self.jitter,
            "jit_compile": self.jit_compile,
        }

    def _num_proposals(self, position: Latents) -> int:
        return self.num_steps * len(tf.nest.flatten(position)[0])

    def _arguments(
        self, position: Latents, context: tuple, seed: Seed, step_size: Tensor | float | None
    ) -> tuple:
        position, context = chain.to_tensors(position, context)
        chain.check_position(position)
        seeds = random.as_row_seeds(seed, chain.num_rows(position))
        step_size = self.step_size if step_size is None else step_size
        return position, context, seeds, tf.cast(step_size, tf.float32)

    def _loop(
        self,
        energy_fn: EnergyFn,
        trace: bool,
        draws: bool,
        position: Latents,
        context: tuple,
        seeds: Tensor,
        step_size: Tensor,
    ) -> tuple:
        start = tf.nest.map_structure(tf.stop_gradient, position)
        parts = tf.nest.flatten(start)

        def energy_of(*parts: Tensor) -> tuple[Tensor, list[Tensor]]:
            latents = tf.nest.pack_sequence_as(start, list(parts))
            return chain.energy_and_grads(energy_fn, latents, context)

        kernel = RowHMC(energy_of, seeds, step_size, self.num_leapfrog_steps, self.jitter)
        if self.num_adaptation_steps:
            parts, results = self._adapt(kernel, parts)
        else:
            results = kernel.bootstrap_results(parts)
        first_energy, step_size = results.energy, results.step_size

        def transition(k: Tensor, parts: list, results: Any, mean: Tensor, records: list) -> tuple:
            parts, results = kernel.one_step(parts, results)
            acceptance = tf.exp(results.log_acceptance)
            mean += tf.cast(tf.reduce_mean(acceptance), tf.float32) / self.num_steps
            values = [results.energy, acceptance, results.accepted, *(parts if draws else [])]
            records = [r.write(k, v) for r, v in zip(records, values, strict=trace)]
            return k + 1, parts, results, mean, records

        records = self._records(first_energy, parts, draws) if trace else []
        mean = tf.constant(0.0 if self.num_steps else 1.0)
        if self.num_steps:
            _, parts, results, mean, records = tf.while_loop(
                lambda k, *_: k < self.num_steps,
                transition,
                (tf.constant(0), parts, results, mean, records),
                maximum_iterations=self.num_steps,
                parallel_iterations=1,
            )
        end = tf.nest.pack_sequence_as(start, [tf.stop_gradient(z) for z in parts])
        if not trace:
            return end, None, mean
        energy, acceptance, accepted, *states = [record.stack() for record in records]
        energy = tf.concat([first_energy[tf.newaxis], energy], axis=0)
        kept = tf.nest.pack_sequence_as(start, states) if draws else None
        return end, MetropolisTrace(energy, acceptance, accepted, step_size, kept), mean

    def _records(self, energy: Tensor, parts: Sequence[Tensor], draws: bool) -> list:
        like = [energy, energy, tf.cast(energy, tf.bool), *(parts if draws else [])]
        return [
            tf.TensorArray(value.dtype, self.num_steps, element_shape=value.shape) for value in like
        ]

    def _adapt(self, kernel: RowHMC, parts: list[Tensor]) -> tuple[list[Tensor], RowHMCResults]:
        """The state after adaptation, with the step size that it found."""
        adaptation = tfp.mcmc.DualAveragingStepSizeAdaptation(
            kernel,
            # TFP turns to the average in the step after the last one that it adapts in.
            num_adaptation_steps=max(1, self.num_adaptation_steps - 1),
            target_accept_prob=self.target_acceptance,
            step_size_getter_fn=lambda results: results.step_size,
            step_size_setter_fn=lambda results, step_size: results._replace(step_size=step_size),
            # In the precision of the step size, whatever the state's.
            log_accept_prob_getter_fn=lambda results: tf.cast(results.log_acceptance, tf.float32),
            # The mean over chains: TFP's harmonic mean lets one stuck chain stop all others.
            reduce_fn=tfp.math.reduce_logmeanexp,
        )
        _, parts, results = tf.while_loop(
            lambda k, *_: k < self.num_adaptation_steps,
            lambda k, parts, results: (k + 1, *adaptation.one_step(parts, results)),
            (tf.constant(0), parts, adaptation.bootstrap_results(parts)),
            maximum_iterations=self.num_adaptation_steps,
            parallel_iterations=1,
        )
        return parts, results.inner_results._replace(step_size=results.new_step_size)


@keras.saving.register_keras_serializable(package="tfebm")
class MALA(HMC):
    """K transitions of the Metropolis-adjusted Langevin algorithm: HMC with one leapfrog step.

    The proposal is the step of `ShortRunLangevin`, `z' = z - (s**2 / 2) dE(z)/dz + s e`, in the
    same convention (`tfp.mcmc.MetropolisAdjustedLangevinAlgorithm` calls `s**2` its step
    size); accepting it with `min(1, p(z') q(z | z') / (p(z) q(z' | z)))` makes it exact.

    Args:
        num_steps: K, transitions whose states count.
        step_size: s, or where adaptation starts.
        num_adaptation_steps: As in `HMC`.
        target_acceptance: As in `HMC`; 0.574 is optimal in high dimensions.
        jit_compile: As in `ShortRunLangevin`.

    References: G. Roberts, R. Tweedie. Exponential convergence of Langevin distributions and
    their discrete approximations. Bernoulli, 1996.
    """

    def __init__(
        self,
        num_steps: int,
        step_size: float = 0.1,
        num_adaptation_steps: int = 0,
        target_acceptance: float = 0.574,
        jit_compile: compilation.JitCompile = "auto",
    ) -> None:
        super().__init__(
            *(num_steps, step_size, 1, num_adaptation_steps, target_acceptance),
            jitter=0.0,
            jit_compile=jit_compile,
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["num_leapfrog_steps"], config["jitter"]
        return config


def check_acceptance(acceptance: float, step_size: float, num_proposals: int) -> None:
    """Raises `InvalidInputError` for a chain that does not move.

    Args:
        acceptance: The mean acceptance probability.
        step_size: That it was run with.
        num_proposals: How many proposals the mean is of.
    """
    if num_proposals >= _FEW and not acceptance >= _STUCK:
        raise InvalidInputError(
            f"The chain does not move: of {num_proposals} proposals with step size "
            f"{step_size:.3g} a share of {acceptance:.2g} was accepted. Lower `step_size`, or let "
            "it adapt with `num_adaptation_steps`."
        )

"""Chains with a Metropolis correction, exact in their law: Hamiltonian Monte Carlo and MALA.

The transition is a `tfp.mcmc.TransitionKernel`, and `tfp.mcmc.DualAveragingStepSizeAdaptation`
tunes it. TFP's own kernels draw their noise for a batch as a whole, from generators that give
other floats under XLA: a chain would depend on its batch-mates, on the replicas and on
compilation. This one draws per row, as every chain here does.
"""

from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.samplers import chain, compilation
from tfebm.samplers.calls import Call
from tfebm.samplers.row_hmc import RowHMC, RowHMCResults
from tfebm.types import Latents, Tensor

_STUCK = 1e-3  # a mean acceptance probability below this is a chain that does not move
_FEW = 16  # proposals that say nothing yet about a chain


class MetropolisTrace(NamedTuple):
    """What happened along K transitions, floats as in `ChainTrace`."""

    energy: Tensor
    """`[K + 1, B]`: the energy at z_0, ..., z_K (after adaptation)."""
    acceptance: Tensor
    """`[K, B]`: the probability with which each proposal was accepted."""
    accepted: Tensor
    """`[K, B]`, bool: whether it was."""
    step_size: Tensor
    """Scalar: the step size that was used, adapted where there was adaptation."""
    draws: Latents = None
    """z_1, ..., z_K, `[K, B, ...]` for each part; None unless asked for."""


class HMCState(NamedTuple):
    """A chain between two transitions."""

    position: list[Tensor]
    results: RowHMCResults
    acceptance: Tensor
    """Scalar: the mean probability of acceptance, added up so far."""


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

    accepts: ClassVar[frozenset[str]] = frozenset({"step_size"})
    adapts: ClassVar[bool] = True
    recorded: ClassVar[tuple[Any, ...]] = (tf.float32, tf.float32, tf.bool)

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
        checks.check_number("step_size", step_size, above=True)
        checks.check_count("num_leapfrog_steps", num_leapfrog_steps)
        checks.check_count("num_adaptation_steps", num_adaptation_steps, least=0)
        if not 0 <= jitter < 1:
            raise InvalidInputError(f"`jitter` must lie in [0, 1). Received {jitter!r}.")
        if not 0 < target_acceptance < 1:
            raise InvalidInputError(
                f"`target_acceptance` must lie between 0 and 1. Received {target_acceptance!r}."
            )
        self.step_size = float(step_size)
        self.num_leapfrog_steps = int(num_leapfrog_steps)
        self.num_adaptation_steps = int(num_adaptation_steps)
        self.target_acceptance = float(target_acceptance)
        self.jitter = float(jitter)

    def init(self, call: Call, position: list[Tensor]) -> HMCState:
        kernel = self._kernel(call)
        if self.num_adaptation_steps:
            position, results = self._adapt(kernel, position)
        else:
            results = kernel.bootstrap_results(position)
        return HMCState(position, results, tf.constant(0.0 if self.num_steps else 1.0))

    def step(self, call: Call, k: Tensor, state: HMCState) -> tuple[HMCState, RowHMCResults]:
        position, results = self._kernel(call).one_step(state.position, state.results)
        mean = tf.cast(tf.reduce_mean(tf.exp(results.log_acceptance)), tf.float32)
        return HMCState(position, results, state.acceptance + mean / self.num_steps), results

    def record(self, first: HMCState, state: HMCState, info: RowHMCResults) -> tuple[Tensor, ...]:
        return info.energy, tf.exp(info.log_acceptance), info.accepted

    def trace_of(
        self, call: Call, first: HMCState, last: HMCState, records: list[Tensor]
    ) -> MetropolisTrace:
        energy, acceptance, accepted = records
        start = tf.cast(first.results.energy, energy.dtype)
        energy = tf.concat([start[tf.newaxis], energy], axis=0)
        return MetropolisTrace(energy, acceptance, accepted, first.results.step_size)

    def check(self, state: HMCState) -> None:
        acceptance, proposals = float(state.acceptance), self.num_steps * len(state.position[0])
        if proposals >= _FEW and not acceptance >= _STUCK:
            raise InvalidInputError(
                f"The chain does not move: of {proposals} proposals with step size "
                f"{float(state.results.step_size):.3g} a share of {acceptance:.2g} was accepted. "
                "Lower `step_size`, or let it adapt with `num_adaptation_steps`."
            )

    def _kernel(self, call: Call) -> RowHMC:
        return RowHMC(call, self.num_leapfrog_steps, self.jitter)

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

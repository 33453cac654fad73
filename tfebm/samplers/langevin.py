"""The short-run Langevin chain, that every model here is built on."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import keras
import tensorflow as tf

from tfebm import checks
from tfebm.samplers import chain, compilation
from tfebm.samplers.calls import Call
from tfebm.types import Tensor


class LangevinState(NamedTuple):
    """z and, with momentum, v: the gradient at z_K is never computed."""

    position: list[Tensor]
    velocity: list[Tensor]
    """The velocity of the last step, without the second half of its kick; empty without
    momentum."""


@keras.saving.register_keras_serializable(package="tfebm")
class ShortRunLangevin(chain.Chain):
    """Runs exactly K steps of unadjusted Langevin dynamics on a batch of latents.

    For k = 1, ..., K, with `s = step_size` and `T = noise_scale`:

        z_k = z_{k-1} - (s**2 / 2) * dE(z_{k-1})/dz + T * s * e_k,    e_k ~ N(0, I)

    **Step-size convention.** `s` is the standard deviation of the noise at `T = 1`; the drift
    has half its square. `T = 1` targets `exp(-E)`; `T = 0` is gradient descent with rate
    `s**2 / 2`. `tfp.mcmc.UncalibratedLangevin` calls our `s**2` its step size.

    **Momentum.** With `c = momentum` above 0 a step keeps a share of the velocity of the one
    before it (the OBABO splitting of Langevin dynamics with inertia):

        v = c * v + T * sqrt(1 - c**2) * e_k                  (k = 1: v = T * e_1)
        v = v - (s / 2) * dE(z)/dz;   z = z + s * v;   v = v - (s / 2) * dE(z)/dz

    The last line's second gradient is the next step's first, so that K steps still take K
    gradients. `c = 0` is the chain above. Stable steps are the same, below
    2 / sqrt(largest curvature of E). `T = 0` is gradient descent with friction.

    The gradient is per row: the batch *sum* of E is differentiated. K gradients are computed
    for K steps; the energy at z_K only when a trace asks for it. Memory is constant in K. No
    gradient flows through the chain: z_K is a constant to whoever differentiates later.

    Args:
        num_steps: K, at least 0. With 0 the chain returns its start.
        step_size: A non-negative number; or K of them, one per step (a decaying schedule); or
            a `[1, P]` or `[K, P]` table, one column per part of a latent tuple of P parts.
        noise_scale: The temperature factor T, a non-negative number or K of them. 0 draws no
            noise at all.
        momentum: c, a number of at least 0 and less than 1; or K of them, or a table as of
            `step_size`. That of the first step is not read: it has no velocity to keep.
        jit_compile: True (XLA), False (plain graph), or "auto": XLA on GPU and TPU; on a CPU
            what was measured to be faster (see
            `tfebm.samplers.compilation`).

    Raises:
        InvalidInputError: A negative or non-finite number, a momentum of 1 or more, or a schedule
            of another length than K.

    Example:

        >>> sampler = tfebm.ShortRunLangevin(num_steps=60, step_size=0.4)
        >>> def energy(z):                       # a standard Gaussian
        ...     return 0.5 * tf.reduce_sum(z**2, axis=-1)
        >>> z = sampler(energy, tf.zeros([100, 16]), seed=0)
        >>> z, trace = sampler(energy, tf.zeros([100, 16]), seed=0, trace=True)
        >>> trace.energy.shape
        TensorShape([61, 100])

    References: E. Nijkamp et al. Learning Non-Convergent Non-Persistent Short-Run MCMC Toward
    Energy-Based Model. NeurIPS 2019. B. Pang et al. Learning Latent Space Energy-Based Prior
    Model. NeurIPS 2020, equation 5. A. Horowitz. A Generalized Guided Monte Carlo Algorithm.
    Physics Letters B 1991 (momentum). B. Leimkuhler, C. Matthews. Molecular Dynamics. Springer
    2015, chapter 7 (splittings).
    """

    is_differentiable: ClassVar[bool] = True
    accepts: ClassVar[frozenset[str]] = frozenset(
        {"step_size", "noise_scale", "momentum", "noise", "velocity", "with_step"}
    )

    def __init__(
        self,
        num_steps: int,
        step_size: float | Sequence[float] | Sequence[Sequence[float]],
        noise_scale: float | Sequence[float] = 1.0,
        momentum: float | Sequence[float] | Sequence[Sequence[float]] = 0.0,
        jit_compile: compilation.JitCompile = "auto",
    ) -> None:
        super().__init__(num_steps, jit_compile)
        self.step_size = checks.check_per_step("step_size", step_size, self.num_steps, max_rank=2)
        self.noise_scale = checks.check_per_step(
            "noise_scale", noise_scale, self.num_steps, max_rank=1
        )
        self.momentum = checks.check_per_step(
            "momentum", momentum, self.num_steps, max_rank=2, below=1.0
        )

    def init(self, call: Call, position: list[Tensor]) -> LangevinState:
        if call.momenta is None:
            return LangevinState(position, [])
        if call.velocity is None:
            return LangevinState(position, [tf.zeros_like(z) for z in position])
        return LangevinState(position, tf.nest.flatten(call.velocity))

    def step(
        self, call: Call, k: Tensor, state: LangevinState
    ) -> tuple[LangevinState, chain.StepInfo]:
        energy, grads = call.energy_and_grads(k, state.position)
        noise = call.noise(k) if call.has_noise else None
        move = _without_momentum if call.momenta is None else _with_momentum
        return move(call, k, state, grads, noise), chain.StepInfo(energy, grads)


def _without_momentum(
    call: Call, k: Tensor, state: LangevinState, grads: list[Tensor], noise: list[Tensor] | None
) -> LangevinState:
    moved = []
    for i, (z, grad) in enumerate(zip(state.position, grads, strict=True)):
        step = call.step_sizes[k, i]
        z = z - tf.cast(0.5 * step**2, z.dtype) * grad
        if noise is not None:
            z = z + tf.cast(step * call.noise_scales[k], z.dtype) * noise[i]
        moved.append(z)
    return LangevinState(moved, [])


def _with_momentum(
    call: Call, k: Tensor, state: LangevinState, grads: list[Tensor], noise: list[Tensor] | None
) -> LangevinState:
    first = tf.equal(k, 0)
    moved, velocity = [], []
    for i, (z, v, grad) in enumerate(zip(state.position, state.velocity, grads, strict=True)):
        step, c = call.step_sizes[k, i], call.momenta[k, i]
        c = tf.where(first, tf.zeros_like(c), c)
        owed = 0.5 * call.step_sizes[tf.maximum(k - 1, 0), i]  # the last kick of the step before
        kept = tf.cast(c, z.dtype) * (v - tf.cast(owed, z.dtype) * grad)
        if noise is not None:
            scale = call.noise_scales[k] * tf.sqrt(1.0 - c**2)
            kept = kept + tf.cast(scale, z.dtype) * noise[i]
        v = kept if call.velocity is None else tf.where(first, v, kept)
        v = v - tf.cast(0.5 * step, z.dtype) * grad
        moved.append(z + tf.cast(step, z.dtype) * v)
        velocity.append(v)
    return LangevinState(moved, velocity)

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
    """z, and nothing else: the gradient at z_K is never computed."""

    position: list[Tensor]


@keras.saving.register_keras_serializable(package="tfebm")
class ShortRunLangevin(chain.Chain):
    """Runs exactly K steps of unadjusted Langevin dynamics on a batch of latents.

    For k = 1, ..., K, with `s = step_size` and `T = noise_scale`:

        z_k = z_{k-1} - (s**2 / 2) * dE(z_{k-1})/dz + T * s * e_k,    e_k ~ N(0, I)

    **Step-size convention.** `s` is the standard deviation of the noise at `T = 1`; the drift
    has half its square. `T = 1` targets `exp(-E)`; `T = 0` is gradient descent with rate
    `s**2 / 2`. `tfp.mcmc.UncalibratedLangevin` calls our `s**2` its step size.

    The gradient is per row: the batch *sum* of E is differentiated. K gradients are computed
    for K steps; the energy at z_K only when a trace asks for it. Memory is constant in K. No
    gradient flows through the chain: z_K is a constant to whoever differentiates later.

    Args:
        num_steps: K, at least 0. With 0 the chain returns its start.
        step_size: A non-negative number; or K of them, one per step (a decaying schedule); or
            a `[1, P]` or `[K, P]` table, one column per part of a latent tuple of P parts.
        noise_scale: The temperature factor T, a non-negative number or K of them. 0 draws no
            noise at all.
        jit_compile: True (XLA), False (plain graph), or "auto": XLA on GPU and TPU; on a CPU
            what was measured to be faster (see
            `tfebm.samplers.compilation`).

    Raises:
        InvalidInputError: A negative or non-finite number, or a schedule of another length than K.

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
    Model. NeurIPS 2020, equation 5.
    """

    is_differentiable: ClassVar[bool] = True
    accepts: ClassVar[frozenset[str]] = frozenset(
        {"step_size", "noise_scale", "noise", "with_step"}
    )

    def __init__(
        self,
        num_steps: int,
        step_size: float | Sequence[float] | Sequence[Sequence[float]],
        noise_scale: float | Sequence[float] = 1.0,
        jit_compile: compilation.JitCompile = "auto",
    ) -> None:
        super().__init__(num_steps, jit_compile)
        self.step_size = checks.check_per_step("step_size", step_size, self.num_steps, max_rank=2)
        self.noise_scale = checks.check_per_step(
            "noise_scale", noise_scale, self.num_steps, max_rank=1
        )

    def init(self, call: Call, position: list[Tensor]) -> LangevinState:
        return LangevinState(position)

    def step(
        self, call: Call, k: Tensor, state: LangevinState
    ) -> tuple[LangevinState, chain.StepInfo]:
        energy, grads = call.energy_and_grads(k, state.position)
        noise = call.noise(k) if call.has_noise else None
        moved = []
        for i, (z, grad) in enumerate(zip(state.position, grads, strict=True)):
            step = call.step_sizes[k, i]
            z = z - tf.cast(0.5 * step**2, z.dtype) * grad
            if noise is not None:
                z = z + tf.cast(step * call.noise_scales[k], z.dtype) * noise[i]
            moved.append(z)
        return LangevinState(moved), chain.StepInfo(energy, grads)

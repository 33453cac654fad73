"""The transition of HMC as a `tfp.mcmc.TransitionKernel`, with noise per row."""

from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfebm import random
from tfebm.samplers.calls import Call
from tfebm.types import Tensor


class RowHMCResults(NamedTuple):
    """The state of a chain beside its position."""

    energy: Tensor
    """`[B]`: at the position."""
    grads: list[Tensor]
    """dE/dz there, a list of the parts."""
    log_acceptance: Tensor
    """`[B]`: log min(1, ratio) of the last proposal."""
    accepted: Tensor
    """`[B]`, bool."""
    step_size: Tensor
    """Scalar."""
    step: Tensor
    """Transitions so far: the stream of the next one's noise."""


class RowHMC(tfp.mcmc.TransitionKernel):
    """One HMC transition with noise per row; for `tfp.mcmc`'s adaptations.

    Args:
        call: The energy, the noise and the step size e.
        num_leapfrog_steps: L.
        jitter: Half width of the range of steps, as a share of e.
    """

    def __init__(self, call: Call, num_leapfrog_steps: int, jitter: float = 0.0) -> None:
        self._call, self._num_steps, self._jitter = call, num_leapfrog_steps, jitter
        # TFP makes a kernel anew of these.
        self._parameters = {
            "call": call,
            "num_leapfrog_steps": num_leapfrog_steps,
            "jitter": jitter,
        }

    @property
    def parameters(self) -> dict[str, Any]:
        return self._parameters

    @property
    def is_calibrated(self) -> bool:
        return True

    def bootstrap_results(self, init_state: list[Tensor]) -> RowHMCResults:
        energy, grads = self._call.energy_and_grads(tf.constant(0), init_state)
        return RowHMCResults(
            energy,
            grads,
            tf.zeros_like(energy),
            tf.ones_like(energy, tf.bool),
            tf.convert_to_tensor(self._call.step_sizes),
            tf.constant(0),
        )

    def one_step(
        self, current_state: list[Tensor], previous_kernel_results: RowHMCResults, seed: Any = None
    ) -> tuple[list[Tensor], RowHMCResults]:
        """One transition; `seed` is not used, the rows have streams of their own."""
        before, momentum = previous_kernel_results, self._call.noise(previous_kernel_results.step)
        streams = random.fold_in(self._call.seeds, random.ACCEPT)
        uniform = random.row_uniform(streams, before.step, 2)
        steps = before.step_size * (1.0 + self._jitter * (2.0 * uniform[:, 1] - 1.0))
        proposal, end_momentum, energy, grads = self._leapfrog(
            current_state, momentum, before, steps
        )
        log_ratio = before.energy - energy
        for p, q in zip(momentum, end_momentum, strict=True):
            axes = list(range(1, p.shape.rank))
            log_ratio += 0.5 * tf.reduce_sum(p**2 - q**2, axis=axes)
        # A trajectory that left the numbers is a proposal of probability 0. Not -inf, at which the
        # numeric checks of TensorFlow would stop.
        never = tf.constant(log_ratio.dtype.min, log_ratio.dtype)
        log_ratio = tf.where(tf.math.is_nan(log_ratio), never, log_ratio)
        accepted = tf.cast(tf.math.log(uniform[:, 0]), log_ratio.dtype) < log_ratio

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return tf.where(tf.reshape(accepted, [-1, *[1] * (new.shape.rank - 1)]), new, old)

        state = [choose(*pair) for pair in zip(proposal, current_state, strict=True)]
        return state, RowHMCResults(
            choose(energy, before.energy),
            [choose(*pair) for pair in zip(grads, before.grads, strict=True)],
            tf.minimum(log_ratio, 0.0),
            accepted,
            before.step_size,
            before.step + 1,
        )

    def _leapfrog(
        self,
        position: list[Tensor],
        momentum: list[Tensor],
        before: RowHMCResults,
        step_sizes: Tensor,
    ) -> tuple[list[Tensor], list[Tensor], Tensor, list[Tensor]]:
        # [B, 1, ...] for every part.
        sizes = [
            tf.reshape(tf.cast(step_sizes, z.dtype), [-1, *[1] * (z.shape.rank - 1)])
            for z in position
        ]

        def kick(momentum: list[Tensor], grads: list[Tensor], scale: float) -> list[Tensor]:
            return [p - scale * e * g for p, e, g in zip(momentum, sizes, grads, strict=True)]

        def step(
            i: Tensor, z: list[Tensor], p: list[Tensor], energy: Tensor, grads: list[Tensor]
        ) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor, list[Tensor]]:
            z = [a + e * b for a, e, b in zip(z, sizes, p, strict=True)]
            energy, grads = self._call.energy_and_grads(i, z)
            return i + 1, z, kick(p, grads, 1.0), energy, grads

        momentum = kick(momentum, before.grads, 0.5)
        _, position, momentum, energy, grads = tf.while_loop(
            lambda i, *_: i < self._num_steps,
            step,
            (tf.constant(0), position, momentum, before.energy, before.grads),
            maximum_iterations=self._num_steps,
            parallel_iterations=1,
        )
        # The last kick was a whole one; half of it is taken back.
        return position, kick(momentum, grads, -0.5), energy, grads

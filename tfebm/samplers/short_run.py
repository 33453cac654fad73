"""The short-run Langevin chain: the one loop that every model here is built on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.errors import InvalidInputError
from tfebm.samplers import chain, compilation
from tfebm.types import EnergyFn, Latents, Seed, Tensor


class ChainTrace(NamedTuple):
    """What happened along a chain of K steps; every field float32."""

    energy: Tensor
    """`[K + 1, B]`: the energy at z_0, ..., z_K."""
    grad_norm: Tensor
    """`[K, B]`: |dE/dz| at z_0, ..., z_{K-1}, over all latent parts."""
    displacement: Tensor
    """`[K, B]`: |z_k - z_0| for k = 1, ..., K, over all latent parts."""


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

    def __init__(
        self,
        num_steps: int,
        step_size: float | Sequence[float] | Sequence[Sequence[float]],
        noise_scale: float | Sequence[float] = 1.0,
        jit_compile: compilation.JitCompile = "auto",
    ) -> None:
        super().__init__(num_steps, jit_compile)
        self.step_size = chain.schedule("step_size", step_size, self.num_steps, max_rank=2)
        self.noise_scale = chain.schedule("noise_scale", noise_scale, self.num_steps, max_rank=1)

    def __call__(
        self,
        energy_fn: EnergyFn,
        position: Latents,
        *context: Tensor,
        seed: Seed | None = None,
        noise: Latents | None = None,
        step_size: Tensor | None = None,
        noise_scale: Tensor | None = None,
        trace: bool = False,
        with_step: bool = False,
    ) -> Latents | tuple[Latents, ChainTrace]:
        """Runs the chain, compiled once per `energy_fn` and cached.

        Pass the same function object each time: a lambda written at the call is a new function
        and compiles anew. What changes from call to call (an observation) goes into `context`.

        Args:
            energy_fn: `energy_fn(position, *context) -> [B]`.
            position: z_0: a float tensor `[B, ...]` or a tuple of them with one common B.
            *context: Tensors handed to `energy_fn` unchanged.
            seed: An integer, or int32 `[B, 2]`, one stream per row. Needed unless `noise` is
                given or `noise_scale` is 0.
            noise: Replaces the drawn noise: the structure of `position`, each part with a
                leading axis of K.
            step_size: Replaces the setting for this call: a tensor of shape `[]`, `[K]` (one
                per step), `[1, P]` or `[K, P]`. It is data of the graph: other values, as a
                variable takes while it is tuned, never compile anew. The noise has standard
                deviation `step_size * noise_scale`. Values are not checked.
            noise_scale: Replaces the setting T for this call: a scalar tensor, data of the graph
                likewise, as an annealed temperature is.
            trace: Also return a `ChainTrace`.
            with_step: Hand the number of the step, an int32 scalar from 0, to `energy_fn` as its
                keyword `step`, which needs a default: for an energy that draws noise of its own,
                such as a fresh dropout mask at every step.

        Returns:
            z_K in the structure of `position`; with `trace`, the pair (z_K, trace).

        Raises:
            InvalidInputError: No source of noise, a step size or noise of another shape, or an
                energy that is not one value per row.
        """
        arguments = self._arguments(position, context, seed, noise, step_size, noise_scale)
        kinds = (arguments[0], *arguments[1])
        return self._compiled(self._loop, energy_fn, kinds, (trace, with_step))(*arguments)

    def run(
        self,
        energy_fn: EnergyFn,
        position: Latents,
        *context: Tensor,
        seed: Seed | None = None,
        noise: Latents | None = None,
        step_size: Tensor | None = None,
        noise_scale: Tensor | None = None,
        trace: bool = False,
        with_step: bool = False,
    ) -> Latents | tuple[Latents, ChainTrace]:
        """The same chain as plain TensorFlow operations, compiled by nobody.

        For eager debugging, for use inside a graph that is compiled as a whole, and for
        exports: a stock TensorFlow Serving refuses functions that must be compiled with XLA.
        Arguments and results are those of `__call__`.
        """
        arguments = self._arguments(position, context, seed, noise, step_size, noise_scale)
        return self._loop(energy_fn, trace, with_step, *arguments)

    def path(
        self,
        energy_fn: EnergyFn,
        position: Latents,
        *context: Tensor,
        seed: Seed | None = None,
        noise: Latents | None = None,
        step_size: Tensor | None = None,
    ) -> Latents:
        """Every position of the chain, z_0, ..., z_K, as plain operations.

        Numbers, arguments and errors are those of `run`. Unlike there, gradients flow: a tape
        around the call differentiates every position in `step_size`, in the start and in the
        weights, through the gradients of the energy as well. Memory grows with K.

        Returns:
            The structure of `position`, each part `[K + 1, B, ...]`.

        Example:

            >>> s = tf.Variable(0.1)
            >>> with tf.GradientTape() as tape:
            ...     end = sampler.path(energy, z_0, seed=0, step_size=s)[-1]
            ...     loss = tf.reduce_mean(energy(end))
            >>> tape.gradient(loss, s)
        """
        position, *rest = self._arguments(position, context, seed, noise, step_size)
        if not self.num_steps:
            return tf.nest.map_structure(lambda z: z[tf.newaxis], position)
        first, advance = tf.nest.flatten(position), self._transition(energy_fn, position, *rest)

        def step(k, parts, records):
            _, _, moved = advance(k, parts)
            return k + 1, moved, [r.write(k, z) for r, z in zip(records, moved, strict=True)]

        records = [tf.TensorArray(z.dtype, self.num_steps, element_shape=z.shape) for z in first]
        _, _, records = tf.while_loop(
            lambda k, *_: k < self.num_steps,
            step,
            (tf.constant(0), first, records),
            maximum_iterations=self.num_steps,
            parallel_iterations=1,
        )
        ways = [
            tf.concat([z[tf.newaxis], record.stack()], axis=0)
            for z, record in zip(first, records, strict=True)
        ]
        return tf.nest.pack_sequence_as(position, ways)

    def get_config(self) -> dict[str, Any]:
        return {
            "num_steps": self.num_steps,
            "step_size": self.step_size,
            "noise_scale": self.noise_scale,
            "jit_compile": self.jit_compile,
        }

    @property
    def _draws_noise(self) -> bool:
        return bool(np.any(np.asarray(self.noise_scale) != 0))

    def _arguments(
        self,
        position: Latents,
        context: tuple,
        seed: Seed | None,
        noise: Latents | None,
        step_size: Tensor | None,
        noise_scale: Tensor | None = None,
    ) -> tuple:
        """(position, context, seeds, noise, step sizes, noise scale), tensors or None."""
        position, context, noise = chain.to_tensors(position, context, noise)
        chain.check_position(position)
        seeds = self._check_noise(position, seed, noise, noise_scale)
        if step_size is not None:
            step_size = self.step_table(step_size, position)
        if noise_scale is not None:
            noise_scale = tf.cast(noise_scale, _table_dtype(tf.nest.flatten(position)))
            noise_scale = tf.ensure_shape(noise_scale, [])
        return position, context, seeds, noise, step_size, noise_scale

    def step_table(self, step_size: Tensor | None, position: Latents) -> Tensor:
        """The step sizes that a call with these arguments uses, as one table.

        Args:
            step_size: The call's; None is the setting.
            position: z_0.

        Returns:
            `[K, P]`, float64 for latents in float64, else float32.

        Raises:
            InvalidInputError: A shape that is none of `[]`, `[K]`, `[1, P]`, `[K, P]`.
        """
        parts = tf.nest.flatten(position)
        if step_size is None:
            return self._tables(parts, None, None)[0]
        if not tf.is_tensor(step_size):  # TensorFlow would round Python's numbers to float32
            step_size = np.asarray(step_size, np.float64)
        steps = tf.cast(step_size, _table_dtype(parts))
        # One table here, before any compiled function: it then sees a single shape.
        table = [self.num_steps, len(parts)]
        columns = steps[:, tf.newaxis] if steps.shape.rank == 1 else steps
        rank = columns.shape.rank
        if rank not in (0, 2) or any(
            had not in (None, 1, needed)
            for had, needed in zip(columns.shape.as_list(), table[:rank], strict=True)
        ):
            raise InvalidInputError(
                "`step_size` of a call must be one number, one per step (`[K]`), or a table with "
                f"a column for each latent part (`[1, P]` or `[K, P]`), here K = {table[0]} and "
                f"P = {table[1]}. Received shape {steps.shape}."
            )
        return tf.broadcast_to(columns, table)

    def _check_noise(
        self,
        position: Latents,
        seed: Seed | None,
        noise: Latents,
        noise_scale: Tensor | None,
    ) -> Tensor | None:
        if noise is not None:
            self._check_injected(position, noise)
            return None
        if not self.num_steps or (noise_scale is None and not self._draws_noise):
            return None
        if seed is None:
            raise InvalidInputError(
                "The chain draws noise and needs `seed` (an integer, or int32 `[B, 2]`, one "
                "stream per row) or `noise`. Received neither; for a chain without noise set "
                "`noise_scale=0` in the sampler's settings."
            )
        return random.as_row_seeds(seed, chain.num_rows(position))

    def _check_injected(self, position: Latents, noise: Latents) -> None:
        tf.nest.assert_same_structure(position, noise)
        for part, values in zip(tf.nest.flatten(position), tf.nest.flatten(noise), strict=True):
            # XLA would clamp a step that is missing to the last one, without a word.
            if not values.shape.is_compatible_with([self.num_steps, *part.shape]):
                raise InvalidInputError(
                    "`noise` must have the shape of the position behind an axis of one entry per "
                    f"step, {[self.num_steps, *part.shape]}. Received {values.shape.as_list()}."
                )

    def _tables(
        self, parts: list[Tensor], steps: Tensor | None, scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Step sizes `[K, P]`, given or the setting, and noise standard deviations `[K, P]`."""
        num_parts, dtype = len(parts), _table_dtype(parts).as_numpy_dtype
        if scale is None:
            scale = np.broadcast_to(np.asarray(self.noise_scale, dtype), (self.num_steps,))
            scale = scale[:, np.newaxis]
        if steps is not None:
            return steps, steps * scale
        step = np.asarray(self.step_size, dtype)
        if step.ndim == 2 and step.shape[1] != num_parts:
            raise InvalidInputError(
                f"`step_size` has a column for each of {step.shape[1]} latent parts, but the "
                f"position has {num_parts}."
            )
        step = step[:, np.newaxis] if step.ndim == 1 else step
        step = np.broadcast_to(step, (self.num_steps, num_parts))
        return tf.constant(step), tf.convert_to_tensor(step * scale)

    def _transition(
        self,
        energy_fn: EnergyFn,
        position: Latents,
        context: tuple,
        seeds: Tensor | None,
        noise: Latents | None,
        steps: Tensor | None,
        noise_scale: Tensor | None,
        with_step: bool = False,
    ) -> Callable[[Tensor, list[Tensor]], tuple]:
        """`(k, parts of z) -> energies, gradients, moved parts`: one step of the chain."""
        parts = tf.nest.flatten(position)
        step_sizes, noise_sizes = self._tables(parts, steps, noise_scale)
        draw = _noise_source(parts, seeds, noise)

        def advance(k: Tensor, parts: list[Tensor]) -> tuple:
            latents = tf.nest.pack_sequence_as(position, parts)
            at_step = functools.partial(energy_fn, step=k) if with_step else energy_fn
            energy, grads = chain.energy_and_grads(at_step, latents, context)
            moved = []
            for i, (z, grad) in enumerate(zip(parts, grads, strict=True)):
                z = z - tf.cast(0.5 * step_sizes[k, i] ** 2, z.dtype) * grad
                if draw is not None:
                    z = z + tf.cast(noise_sizes[k, i], z.dtype) * draw(k, i)
                moved.append(z)
            return energy, grads, moved

        return advance

    def _loop(
        self,
        energy_fn: EnergyFn,
        trace: bool,
        with_step: bool,
        position: Latents,
        context: tuple,
        seeds: Tensor | None,
        noise: Latents | None,
        steps: Tensor | None,
        noise_scale: Tensor | None,
    ) -> Latents | tuple[Latents, ChainTrace]:
        start = tf.nest.map_structure(tf.stop_gradient, position)
        first = tf.nest.flatten(start)
        advance = self._transition(
            energy_fn, start, context, seeds, noise, steps, noise_scale, with_step
        )

        def step(k, parts, records):
            energy, grads, moved = advance(k, parts)
            if trace:
                way = [z - z0 for z, z0 in zip(moved, first, strict=True)]
                values = tf.cast(energy, tf.float32), chain.row_norm(grads), chain.row_norm(way)
                records = [r.write(k, v) for r, v in zip(records, values, strict=True)]
            return k + 1, moved, records

        records = []
        if trace:
            shape = [first[0].shape[0]]
            records = [
                tf.TensorArray(tf.float32, self.num_steps, element_shape=shape)
                for _ in ChainTrace._fields
            ]
        parts = first
        if self.num_steps:  # XLA traces the body even of a loop that never runs
            _, parts, records = tf.while_loop(
                lambda k, *_: k < self.num_steps,
                step,
                (tf.constant(0), first, records),
                maximum_iterations=self.num_steps,
                parallel_iterations=1,
            )
        end = tf.nest.pack_sequence_as(start, [tf.stop_gradient(z) for z in parts])
        if not trace:
            return end
        behind = tf.constant(self.num_steps)
        at_end = functools.partial(energy_fn, step=behind) if with_step else energy_fn
        last = tf.cast(chain.row_energy(at_end, end, context), tf.float32)[tf.newaxis]  # [1, B]
        if not self.num_steps:
            return end, ChainTrace(last, last[:0], last[:0])
        energy, grad_norm, displacement = [record.stack() for record in records]
        return end, ChainTrace(tf.concat([energy, last], axis=0), grad_norm, displacement)


def _table_dtype(parts: list[Tensor]) -> tf.DType:
    return tf.float64 if parts[0].dtype == tf.float64 else tf.float32


def _noise_source(
    parts: list[Tensor], seeds: Tensor | None, noise: Latents | None
) -> Callable[[Tensor, int], Tensor] | None:
    """Noise for (step, part): injected, drawn, or none at all."""
    if noise is not None:
        injected = tf.nest.flatten(noise)
        return lambda k, i: tf.gather(injected[i], k)
    if seeds is None:
        return None
    return chain.drawn_noise(parts, seeds)

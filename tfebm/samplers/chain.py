"""The one loop of all samplers: calls, compilation, caches, noise, traces and settings."""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError, received
from tfebm.samplers import calls, compilation
from tfebm.samplers.cache import SamplerSettings
from tfebm.samplers.calls import Call
from tfebm.types import EnergyFn, Latents, Seed, Tensor


class ChainTrace(NamedTuple):
    """What happened along a chain of K steps, in float64 for latents in float64, else float32."""

    energy: Tensor
    """`[K + 1, B]`: the energy at z_0, ..., z_K."""
    grad_norm: Tensor
    """`[K, B]`: |dE/dz| of each step, over all latent parts."""
    displacement: Tensor
    """`[K, B]`: |z_k - z_0| for k = 1, ..., K, over all latent parts."""
    draws: Latents = None
    """z_1, ..., z_K, `[K, B, ...]` for each part; None unless asked for."""


class StepInfo(NamedTuple):
    """What a step saw where it began; a trace records it, and the loop does not carry it."""

    energy: Tensor
    """`[B]`."""
    grads: list[Tensor]
    """dE/dz, a list of the parts."""


class Chain(SamplerSettings):
    """The contract of all samplers, and everything of them but the step.

        z = sampler(energy_fn, position, *context, seed=seed)
        z, trace = sampler(energy_fn, position, *context, seed=seed, trace=True)

    `__call__` compiles once per `energy_fn`; `run` is the same chain as plain operations. Noise
    is a function of (seed of the row, step) alone, so that a row's chain depends neither on its
    batch-mates, nor on the number of replicas, nor on compilation (but for a step size that adapts
    within the call, to all rows together). A sampler is plain data: it holds settings, no weights
    and no state, and copies, pickles and serialises whatever it has run.

    **A new sampler** is a subclass with two pure functions over a NamedTuple of tensors, whose
    field `position` is the list of the latent parts:

        def init(self, call, position): ...         # -> state
        def step(self, call, k, state): ...         # -> state, StepInfo

    Every argument of its `__init__` is an attribute of the same name, which makes its config.
    `call` (see `tfebm.samplers.calls.Call`) has the energy, its gradients, the noise of step k and
    the settings of the call. What else it can do it says by the attributes below. A trace of other
    things than `ChainTrace` holds takes `recorded`, `record` and `trace_of`.
    """

    num_steps: int
    """K, the steps (or transitions) of one call."""
    num_adaptation_steps: int = 0
    """Transitions before the K, in which the sampler adapts itself."""
    step_size: Any
    noise_scale: float | list[float] = 1.0
    momentum: Any = 0.0
    accepts: ClassVar[frozenset[str]] = frozenset()
    """Settings that a call may replace: of "step_size", "noise_scale", "momentum", "noise",
    "velocity", "with_step"."""
    adapts: ClassVar[bool] = False
    """Whether `step_size` is one number that can follow `target_acceptance`; its trace then has
    the field `acceptance`."""
    target_acceptance: float
    is_differentiable: ClassVar[bool] = False
    """Whether a step is `z - (step_size**2 / 2) dE(z)/dz` plus what does not depend on z, or the
    same with momentum. Then the end is a differentiable map of the start, with `path`,
    log-determinants and step sizes that can be tuned."""
    recorded: ClassVar[tuple[Any, ...]] = (tf.float32,) * 3
    """Types of what `record` returns; float32 stands for float64 where the latents are in it."""
    jit_compile: compilation.JitCompile

    def __init__(self, num_steps: int, jit_compile: compilation.JitCompile = "auto") -> None:
        super().__init__()
        checks.check_count("num_steps", num_steps, least=0)
        self.num_steps = int(num_steps)
        self.jit_compile = compilation.check_jit_compile(jit_compile)

    # ---- What a sampler is ----------------------------------------------------------------

    def init(self, call: Call, position: list[Tensor]) -> Any:
        """The state before the first step."""
        raise NotImplementedError

    def step(self, call: Call, k: Tensor, state: Any) -> tuple[Any, Any]:
        """The state after step `k` (from 0), and what `record` needs beside it."""
        raise NotImplementedError

    def record(self, first: Any, state: Any, info: Any) -> tuple[Tensor, ...]:
        """What a trace keeps of a step, `[B]` each.

        Args:
            first: The state before the first step.
            state: The state after the step.
            info: Of the step.
        """
        pairs = zip(state.position, first.position, strict=True)
        return info.energy, calls.row_norm(info.grads), calls.row_norm([z - z0 for z, z0 in pairs])

    def trace_of(self, call: Call, first: Any, last: Any, records: list[Tensor]) -> Any:
        """The trace, a NamedTuple with a field `draws`, from the records `[K, B]` of all steps."""
        energy, grad_norm, displacement = records
        end = call.energy(tf.constant(self.num_steps), last.position)
        energy = tf.concat([energy, tf.cast(end, energy.dtype)[tf.newaxis]], axis=0)
        return ChainTrace(energy, grad_norm, displacement)

    def check(self, state: Any) -> None:
        """Raises `InvalidInputError` for a chain that went wrong; runs outside of graphs."""

    # ---- Calls ----------------------------------------------------------------------------

    def __call__(
        self,
        energy_fn: EnergyFn,
        position: Latents,
        *context: Tensor,
        seed: Seed | None = None,
        step_size: Tensor | None = None,
        noise_scale: Tensor | None = None,
        momentum: Tensor | None = None,
        noise: Latents | None = None,
        velocity: Latents | None = None,
        with_step: bool = False,
        trace: bool = False,
        draws: bool = False,
    ) -> Latents | tuple[Latents, Any]:
        """Runs the chain, compiled once per `energy_fn` and cached.

        Pass the same function object each time: a lambda written at the call is a new function
        and compiles anew. What changes from call to call (an observation) goes into `context`.

        Args:
            energy_fn: `energy_fn(position, *context) -> [B]`.
            position: z_0: a float tensor `[B, ...]` or a tuple of them with one common B.
            *context: Tensors handed to `energy_fn` unchanged.
            seed: An integer, or int32 `[B, 2]`, one stream per row. A chain that draws noise
                needs it.
            step_size: Replaces the setting for this call: a tensor of shape `[]`, `[K]` (one
                per step), `[1, P]` or `[K, P]` for P latent parts; where the sampler adapts, a
                scalar. It is data of the graph: other values, as a variable takes while it is
                tuned, never compile anew. Values are not checked.
            noise_scale: Replaces the setting for this call: a scalar tensor, data of the graph
                likewise, as an annealed temperature is.
            momentum: Replaces the setting for this call, in the shapes of `step_size` and likewise
                data of the graph. Values are not checked.
            noise: Replaces the drawn noise: the structure of `position`, each part with a
                leading axis of K.
            velocity: v_0, in the structure of `position`, of a chain with momentum: what the first
                step moves with, instead of T e_1.
            with_step: Hand the number of the step, an int32 scalar from 0, to `energy_fn` as its
                keyword `step`, which needs a default: for an energy that draws noise of its own,
                such as a fresh dropout mask at every step.
            trace: Also return what happened along the chain.
            draws: Keep the positions after all steps in it (implies `trace`).

        Returns:
            z_K in the structure of `position`; with `trace`, the pair (z_K, trace).

        Raises:
            InvalidInputError: A setting that is not in `accepts`, no source of noise, a step size
                or noise of another shape, or an energy that is not one value per row; outside
                of graphs also a chain that went wrong.
        """
        arguments, static = self._arguments(
            position,
            context,
            seed=seed,
            step_size=step_size,
            noise_scale=noise_scale,
            momentum=momentum,
            noise=noise,
            velocity=velocity,
            with_step=with_step,
            trace=trace,
            draws=draws,
        )
        kinds = (arguments[0], *arguments[1])
        calls.check_energy_fn(energy_fn)
        function = self.compiled(self._loop, energy_fn, kinds, (static,), self.jit_compile)
        state, found = function(*arguments)
        if tf.executing_eagerly():
            self.check(state)
        end = tf.nest.pack_sequence_as(arguments[0], state.position)
        return end if found is None else (end, found)

    def run(
        self, energy_fn: EnergyFn, position: Latents, *context: Tensor, **options: Any
    ) -> Latents | tuple[Latents, Any]:
        """The same chain as plain TensorFlow operations, compiled by nobody.

        For eager debugging, for use inside a graph that is compiled as a whole, and for
        exports: a stock TensorFlow Serving refuses functions that must be compiled with XLA.
        Arguments and results are those of `__call__`.
        """
        calls.check_energy_fn(energy_fn)
        arguments, static = self._arguments(position, context, **options)
        state, found = self._loop(energy_fn, static, *arguments)
        end = tf.nest.pack_sequence_as(arguments[0], state.position)
        return end if found is None else (end, found)

    def path(
        self, energy_fn: EnergyFn, position: Latents, *context: Tensor, **options: Any
    ) -> Latents:
        """Every position of the chain, z_0, ..., z_K, as plain operations.

        Numbers, arguments and errors are those of `run`. Unlike there, gradients flow: a tape
        around the call differentiates every position in `step_size`, in the start and in the
        weights, through the gradients of the energy as well. Memory grows with K.

        Returns:
            The structure of `position`, each part `[K + 1, B, ...]`.

        Raises:
            InvalidInputError: As in `run`, or a sampler that is not differentiable.

        Example:

            >>> s = tf.Variable(0.1)
            >>> with tf.GradientTape() as tape:
            ...     end = sampler.path(energy, z_0, seed=0, step_size=s)[-1]
            ...     loss = tf.reduce_mean(energy(end))
            >>> tape.gradient(loss, s)
        """
        return self.follow(energy_fn, position, *context, **options)[0]

    def follow(
        self, energy_fn: EnergyFn, position: Latents, *context: Tensor, **options: Any
    ) -> tuple[Latents, Call, Any]:
        """What `path` returns, the call as the steps saw it, and the last state."""
        check_differentiable(self)
        calls.check_energy_fn(energy_fn)
        arguments, (_, _, with_step) = self._arguments(position, context, **options)
        call = self._call(energy_fn, with_step, *arguments)
        first = tf.nest.flatten(call.position)
        _, last, _, way = self._follow(call, first, trace=False, draws=True)
        pairs = zip(first, way, strict=True)
        path = call.pack([tf.concat([z[tf.newaxis], after], axis=0) for z, after in pairs])
        return path, call, last

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
        return self._table("step_size", step_size, position)

    def momentum_table(self, momentum: Tensor | None, position: Latents) -> Tensor:
        """The momenta that a call with these arguments uses, `[K, P]`; see `step_table`."""
        return self._table("momentum", momentum, position)

    def _table(self, name: str, values: Tensor | None, position: Latents) -> Tensor:
        if values is None:
            values, of = getattr(self, name), "the settings"
        else:
            of = "a call"
        return calls.table_of(name, values, self.num_steps, position, of)

    @property
    def has_momentum(self) -> bool:
        """Whether any of its steps keeps velocity, as a sampler that takes `momentum` may."""
        return "momentum" in self.accepts and bool(np.any(np.asarray(self.momentum) != 0))

    def _arguments(
        self,
        position: Latents,
        context: tuple[Any, ...],
        *,
        seed: Seed | None = None,
        step_size: Tensor | None = None,
        noise_scale: Tensor | None = None,
        momentum: Tensor | None = None,
        noise: Latents | None = None,
        velocity: Latents | None = None,
        with_step: bool = False,
        trace: bool = False,
        draws: bool = False,
    ) -> tuple[tuple[Any, ...], tuple[bool, bool, bool]]:
        """(position, context, seeds, noise, step size, noise scale, momentum, velocity), tensors or
        None; and the switches (trace, draws, with step)."""
        settings = {
            "step_size": step_size,
            "noise_scale": noise_scale,
            "momentum": momentum,
            "noise": noise,
            "velocity": velocity,
        }
        given = {name: value is not None for name, value in settings.items()}
        for name, is_given in {**given, "with_step": with_step}.items():
            if is_given and name not in self.accepts:
                known = ", ".join(f"`{known}`" for known in sorted(self.accepts)) or "none"
                raise InvalidInputError(
                    f"A call of {type(self).__name__} does not take `{name}`. Of the settings of a "
                    f"call it takes {known}. Leave it out, or use another sampler, such as "
                    "`ShortRunLangevin`."
                )
        position, context, noise, velocity = calls.to_tensors(position, context, noise, velocity)
        calls.check_position(position)
        if velocity is not None:
            calls.check_velocity(position, velocity)
        seeds = None
        if noise is not None:
            calls.check_noise(position, noise, self.num_steps)
        elif self._draws_noise(noise_scale):
            if seed is None:
                other = " or `noise`" if "noise" in self.accepts else ""
                without = (
                    "; for a chain without noise set `noise_scale=0` in the sampler's settings"
                    if "noise_scale" in self.accepts
                    else ""
                )
                raise InvalidInputError(
                    "The chain draws noise and needs `seed` (an integer, or int32 `[B, 2]`, one "
                    f"stream per row){other}. Received None{without}."
                )
            rows = tf.nest.flatten(position)[0].shape[0]
            seeds = random.as_row_seeds(seed, calls.num_rows(position) if rows is None else rows)
        if self.adapts:
            step_size = self.step_size if step_size is None else step_size
            step_size = tf.ensure_shape(tf.cast(step_size, tf.float32), [])
        elif step_size is not None:
            step_size = self.step_table(step_size, position)
        if noise_scale is not None:
            noise_scale = tf.cast(noise_scale, calls.float_dtype(position))
            noise_scale = tf.ensure_shape(noise_scale, [])
        if momentum is not None:
            momentum = self.momentum_table(momentum, position)
        settings_given = step_size, noise_scale, momentum, velocity
        arguments = (position, context, seeds, noise, *settings_given)
        return arguments, (bool(trace or draws), bool(draws), bool(with_step))

    def _draws_noise(self, noise_scale: Tensor | None) -> bool:
        some = noise_scale is not None or bool(np.any(np.asarray(self.noise_scale) != 0))
        return some and self.num_steps + self.num_adaptation_steps > 0

    def _call(
        self,
        energy_fn: EnergyFn,
        with_step: bool,
        position: Latents,
        context: tuple[Any, ...],
        seeds: Tensor | None,
        noise: Latents | None,
        step_size: Tensor | None,
        noise_scale: Tensor | None,
        momentum: Tensor | None,
        velocity: Latents | None,
    ) -> Call:
        dtype = calls.float_dtype(position)
        if step_size is None:
            step_size = self.step_table(None, position)
        scale = np.asarray(self.noise_scale) if noise_scale is None else noise_scale
        scales = tf.broadcast_to(tf.cast(scale, dtype), [self.num_steps])
        if momentum is None and (self.has_momentum or velocity is not None):
            momentum = self.momentum_table(None, position)
        return Call(
            *(energy_fn, context, position, seeds, noise, step_size, scales, with_step),
            *(momentum, velocity),
        )

    # ---- The loop -------------------------------------------------------------------------

    def _loop(
        self,
        energy_fn: EnergyFn,
        static: tuple[bool, bool, bool],
        position: Latents,
        *arguments: Any,
    ) -> tuple[Any, Any]:
        """The last state and the trace, as constants to whoever differentiates later."""
        trace, draws, with_step = static
        start = tf.nest.map_structure(tf.stop_gradient, position)
        call = self._call(energy_fn, with_step, start, *arguments)
        first, last, records, kept = self._follow(call, tf.nest.flatten(start), trace, draws)
        last, records, kept = tf.nest.map_structure(tf.stop_gradient, (last, records, kept))
        if not trace:
            return last, None
        found = self.trace_of(call, first, last, records)
        return last, found._replace(draws=call.pack(kept) if draws else None)

    def _follow(
        self, call: Call, position: list[Tensor], trace: bool, draws: bool
    ) -> tuple[Any, Any, list[Tensor], list[Tensor]]:
        """First and last state, the records `[K, B]` and the positions `[K, B, ...]` between."""
        first = self.init(call, position)
        float_dtype, rows = calls.float_dtype(call.position), first.position[0].shape[0]
        types = self.recorded if trace else ()
        specs = [(float_dtype if t == tf.float32 else t, [rows]) for t in types]
        specs += [(z.dtype, z.shape) for z in first.position] if draws else []
        arrays = [tf.TensorArray(t, self.num_steps, element_shape=shape) for t, shape in specs]

        def body(k: Tensor, state: Any, arrays: list[Any]) -> tuple[Tensor, Any, list[Any]]:
            state, info = self.step(call, k, state)
            values = [*self.record(first, state, info)] if trace else []
            values += state.position if draws else []
            pairs = zip(arrays, values, strict=True)
            return k + 1, state, [a.write(k, tf.cast(v, a.dtype)) for a, v in pairs]

        last = first
        if self.num_steps:  # XLA traces the body even of a loop that never runs
            _, last, arrays = tf.while_loop(
                lambda k, *_: k < self.num_steps,
                body,
                (tf.constant(0), first, arrays),
                maximum_iterations=self.num_steps,
                parallel_iterations=1,
            )
            found = [array.stack() for array in arrays]
        else:
            count = calls.num_rows(first.position)
            found = [tf.zeros([0, count, *shape[1:]], t) for t, shape in specs]
        return first, last, found[: len(types)], found[len(types) :]


def check_differentiable(sampler: Any) -> None:
    """Raises `InvalidInputError` unless `sampler` is a chain that `is_differentiable`."""
    if not getattr(sampler, "is_differentiable", False):
        raise InvalidInputError(
            "A path with gradients, a log-determinant and tuned step sizes need a chain whose end "
            f"is a known smooth function of its start. Received {received(sampler)}, which is not "
            "one: it may reject proposals, or carry more than a position. Pass a "
            "`ShortRunLangevin`."
        )

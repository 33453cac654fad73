"""The log-determinant of the short-run map z_0 -> z_K, its noise held fixed.

One step is z_k = z_{k-1} - D_k grad U(z_{k-1}) + const with D_k = diag(s_k**2 / 2), so that

    log |det dz_K/dz_0| = sum_k log |det(I - D_k H(z_{k-1}))|,    H = Hessian of U,

over all latent parts together. Where parts have step sizes of their own, I - D H is not symmetric,
but it is similar to I - D^(1/2) H D^(1/2), which is: determinant and eigenvalues are its.

The map is a diffeomorphism where all K factors are positive definite (s**2 lmax(H) < 2 for a
common s); elsewhere log |det| is still a number, but the density that it gives is not that of z_K.

With momentum the map is one of positions and velocities, and its determinant known in closed form:
see `tfebm.samplers.kinetic`. All that is said of Hessians here is of chains without.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.samplers import calls, chain, factors, kinetic
from tfebm.types import EnergyFn, Latents, Seed, Tensor

_RANDOM = 1e-3  # relative; two evaluations of one energy differ by far less, a dropout mask by more

Method = Literal["exact", "lanczos"]


class LogDet(NamedTuple):
    """The log-determinant of each row's map, and whether it may be used."""

    value: Tensor
    """`[B]`, float64: log |det dz_K/dz_0|. Of a chain with momentum,
    log N(v_K) - log N(v_0) + log |det d(z_K, v_K) / d(z_0, v_0)|, which stands in the same place of
    a bound."""
    standard_error: Tensor
    """`[B]`: from the spread over probes; 0 where exact, NaN for a single probe (average rows)."""
    smallest_eigenvalue: Tensor
    """`[B]`: of the K symmetrised factors. Below 0 the map is not known to be injective; at -1 and
    below the drift is unstable. A Ritz value, hence an upper bound, where stochastic. Of a chain
    with momentum: the smallest momentum."""
    largest_curvature: Tensor
    """`[B]`: the largest eigenvalue of H over the K positions; where parts have steps of their own,
    of S H S with S = diag(step sizes / the largest one of that step). A lower bound where
    stochastic. One step size s is stable below 2 / sqrt(it). NaN of a chain with momentum."""

    @property
    def valid(self) -> Tensor:
        """`[B]`, bool: every factor is positive definite; False for NaN."""
        return self.smallest_eigenvalue > 0


class Options(NamedTuple):
    """How a log-determinant is computed; the arguments of `log_det_of_map`."""

    method: Method = "exact"
    num_probes: int = 4
    num_lanczos: int = 8
    max_rows: int = 1024

    def checked(self) -> "Options":
        """Itself, or a sentence."""
        if self.method not in ("exact", "lanczos"):
            raise InvalidInputError(
                f"`method` must be 'exact' or 'lanczos'. Received {self.method!r}."
            )
        for name in self._fields[1:]:
            checks.check_count(name, getattr(self, name))
        return self


def log_det_of_map(
    sampler: chain.Chain,
    energy_fn: EnergyFn,
    position: Latents,
    *context: Tensor,
    seed: Seed | None = None,
    noise: Latents | None = None,
    step_size: Tensor | None = None,
    momentum: Tensor | None = None,
    method: Method = "exact",
    num_probes: int = 4,
    num_lanczos: int = 8,
    max_rows: int = 1024,
) -> tuple[Latents, LogDet]:
    """Runs the chain and returns where it ends with log |det dz_K/dz_0|.

        log |det dz_K/dz_0| = sum_k log |det(I - D_k^(1/2) H(z_{k-1}) D_k^(1/2))|

    "exact" takes d Hessian-vector products per factor and its eigenvalues; the sum is in
    float64, the products in the precision of `position`: for float64 throughout pass float64
    latents to an energy that keeps it. "lanczos" is stochastic Lanczos quadrature: unbiased up to
    the error of the quadrature, which falls geometrically in `num_lanczos`; `num_probes` *
    `num_lanczos` products per factor whatever d is. It sees negative factors only by chance.

    A chain with momentum takes none of these products: its determinant is exact and the same for
    all rows, `method` and what follows it are not read. Its `value` is that of
    `tfebm.samplers.kinetic`, with the velocity's densities in it.

    Compiled once per `energy_fn` and cached in the sampler; other step sizes never compile anew.

    Args:
        sampler: A chain that `is_differentiable`, such as `ShortRunLangevin`.
        energy_fn: `energy_fn(position, *context) -> [B]`, twice differentiable, without dropout.
        position: z_0: a float tensor `[B, ...]` or a tuple of them.
        *context: Tensors with one row per row of `position`, or scalars.
        seed: As the sampler's; the noise is the same. The probes are drawn from it too, and the
            first velocity of a chain with momentum and without noise, which otherwise begins at
            rest.
        noise: As the sampler's. Without `seed` the probes then come from a fixed seed.
        step_size: As the sampler's.
        momentum: As the sampler's.
        method: "exact" or "lanczos".
        num_probes: Random directions (signs) per factor; their spread gives the standard error.
        num_lanczos: Lanczos steps per probe; exact from d on.
        max_rows: Most rows that pass through the energy at once in the Hessian-vector products,
            rows times directions; the rest waits. Bounds the memory for any B, K and d.

    Returns:
        z_K in the structure of `position`, and a `LogDet`.

    Raises:
        InvalidInputError: Another sampler; an energy that is random (checked outside of graphs).

    Example:

        >>> sampler = tfebm.ShortRunLangevin(20, 0.1)
        >>> z, log_det = log_det_of_map(sampler, model.posterior_energy, z_0, x, seed=0)
        >>> log_q = log_p0(z_0) - log_det.value      # where log_det.valid

    References: E. Nijkamp, B. Pang, T. Han, S.-C. Zhu, Y. N. Wu. Learning Multi-layer Latent
    Variable Model via Variational Optimization of Short Run MCMC for Approximate Inference. ECCV
    2020. Lanczos quadrature: S. Ubaru, J. Chen, Y. Saad. Fast Estimation of tr(f(A)) via
    Stochastic Lanczos Quadrature. SIAM J. Matrix Anal. Appl. 2017.
    """
    chain.check_differentiable(sampler)
    options = Options(method, num_probes, num_lanczos, max_rows).checked()
    given = {"noise": noise, "step_size": step_size, "momentum": momentum}
    closed = sampler.has_momentum or momentum is not None
    return _compute(sampler, energy_fn, position, context, seed, options, closed, **given)


def spectra_along(
    sampler: chain.Chain,
    energy_fn: EnergyFn,
    position: Latents,
    *context: Tensor,
    seed: Seed,
    step_size: Tensor,
    momentum: Tensor | None,
    options: Options,
) -> LogDet:
    """A `LogDet` of the Hessians that a chain meets, as if it had no momentum."""
    given = {"step_size": step_size, "momentum": momentum}
    return _compute(sampler, energy_fn, position, context, seed, options, False, **given)[1]


def _compute(
    sampler: chain.Chain,
    energy_fn: EnergyFn,
    position: Latents,
    context: tuple[Any, ...],
    seed: Seed | None,
    options: Options,
    closed: bool,
    *,
    noise: Latents | None = None,
    step_size: Tensor | None = None,
    momentum: Tensor | None = None,
) -> tuple[Latents, LogDet]:
    position, context, noise = calls.to_tensors(position, context, noise)
    num_rows = calls.num_rows(position)
    seeds = None if seed is None else random.as_row_seeds(seed, num_rows)
    moves = sampler.has_momentum or momentum is not None
    momenta = sampler.momentum_table(momentum, position) if moves else None
    if closed and momenta is not None and sampler.num_steps > 1 and tf.executing_eagerly():
        # Momenta that were tuned to 0 are a chain without; that of the first step is not read.
        closed = bool(np.any(momenta.numpy()[1:] != 0))
    function = sampler.plain_graph(_of_map, energy_fn, (position, *context), (options, closed))
    end, log_det, is_random = function(
        position,
        context,
        seeds,
        noise,
        sampler.step_table(step_size, position),
        momenta,
        random.as_row_seeds(0, num_rows) if seeds is None else seeds,
    )
    check_not_random(is_random)
    return end, log_det


def _of_map(
    sampler: chain.Chain,
    energy_fn: EnergyFn,
    options: Options,
    closed: bool,
    position: Latents,
    context: tuple[Any, ...],
    seeds: Tensor | None,
    noise: Latents | None,
    steps: Tensor,
    momenta: Tensor | None,
    other_seeds: Tensor,
) -> tuple[Latents, LogDet, Tensor]:
    given = {"seed": seeds, "noise": noise, "step_size": steps, "momentum": momenta}
    if closed:
        path, log_det = log_det_with_momentum(
            sampler, energy_fn, position, context, other_seeds, **given
        )
    else:
        path = sampler.path(energy_fn, position, *context, **given)
        log_det = log_det_of_path(energy_fn, path, context, steps, other_seeds, options)
    end = tf.nest.map_structure(lambda z: z[-1], path)
    return end, log_det, energy_is_random(energy_fn, position, context)


def log_det_with_momentum(
    sampler: chain.Chain,
    energy_fn: EnergyFn,
    position: Latents,
    context: tuple[Any, ...],
    seeds: Tensor,
    *,
    momentum: Tensor,
    **given: Any,
) -> tuple[Latents, LogDet]:
    """The path of a chain with momentum, and its `LogDet` in closed form, as plain operations.

    Args:
        sampler: The chain.
        energy_fn: The energy.
        position: z_0.
        context: The energy's.
        seeds: int32 `[B, 2]`, of v_0 where the chain has no noise.
        momentum: `[K, P]`.
        **given: Seeds, noise and step sizes, as the sampler takes them.
    """
    path, change = kinetic.follow(
        sampler, energy_fn, position, seeds, *context, momentum=momentum, **given
    )
    smallest = tf.reduce_min(tf.cast(momentum[1:], tf.float64))  # infinite for a single step
    finite = tf.reduce_all([_all_finite(z) for z in tf.nest.flatten(path)], axis=0)
    change, smallest = (
        tf.where(finite, x, tf.constant(np.nan, tf.float64))
        for x in (change, smallest * tf.ones_like(change))
    )
    zero = tf.zeros_like(change)
    return path, LogDet(change, zero, smallest, zero + np.nan)


def log_det_of_path(
    energy_fn: EnergyFn,
    path: Latents,
    context: tuple[Any, ...],
    steps: Tensor,
    seeds: Tensor,
    options: Options,
    differentiable: bool = False,
) -> LogDet:
    """The same from a path that is known, as plain operations.

    Args:
        energy_fn: The energy that the path was made with.
        path: z_0, ..., z_K: each part `[K + 1, B, ...]`.
        context: The energy's, one row per row of the path.
        steps: `[K, P]`, the step sizes of the path.
        seeds: int32 `[B, 2]`, of the probes.
        options: How it is computed.
        differentiable: The value then carries a gradient towards `steps` and `path`, that of

            d log |det A| = E_v[(A^-1 v)' dA v],    A = I - S H(z) S / 2,

            over the probes v (exact: all unit vectors), A^-1 v from the Lanczos basis. One
            derivative of a Hessian-vector product per probe and factor, in chunks as well.

    Returns:
        A `LogDet`.
    """
    parts = tf.nest.flatten(path)
    num_steps, batch = steps.shape[0], tf.shape(parts[0])[1]
    if not num_steps:
        zero = tf.zeros([batch], tf.float64)
        return LogDet(zero, zero, zero + 1.0, zero)
    # The gradient is the one below and no other: none through eigenvalues or Lanczos vectors.
    constant = tf.nest.map_structure(tf.stop_gradient, path)
    products = factors.Factors(energy_fn, constant, context, tf.stop_gradient(steps))
    if options.method == "exact":
        spectra = factors.exact(products, options.max_rows, differentiable)
    else:
        numbers = options.num_probes, options.num_lanczos, options.max_rows
        spectra = factors.lanczos(products, seeds, *numbers, differentiable)
    # [K, B, probes, ...], exact as one probe.
    spectra = tf.nest.map_structure(
        lambda x: tf.reshape(x, tf.concat([[num_steps, batch, -1], tf.shape(x)[1:]], 0)), spectra
    )
    probes = tf.reduce_sum(spectra.log_det, axis=0)
    value = tf.stop_gradient(tf.reduce_mean(probes, axis=1))
    if differentiable:
        joint = [tf.reshape(z[:-1], [num_steps, batch, math.prod(z.shape[2:])]) for z in parts]
        value += _first_order(spectra.grad_position, tf.concat(joint, axis=2))
        value += _first_order(spectra.grad_steps, steps[:, tf.newaxis])
    if options.method == "exact":
        error = tf.zeros_like(value)
    elif options.num_probes == 1:
        error = tf.fill(tf.shape(value), tf.constant(np.nan, tf.float64))
    else:
        spread = tf.math.reduce_std(probes, axis=1)
        error = spread / math.sqrt(options.num_probes - 1)
    smallest = tf.reduce_min(spectra.smallest, axis=[0, 2])
    # A chain that left the finite numbers has no map, even where its Hessian is constant.
    finite = tf.reduce_all([_all_finite(z) for z in parts], axis=0)
    value, smallest = (
        tf.where(finite, x, tf.constant(np.nan, tf.float64)) for x in (value, smallest)
    )
    return LogDet(value, error, smallest, tf.reduce_max(spectra.curvature, axis=[0, 2]))


def energy_is_random(energy_fn: EnergyFn, position: Latents, context: tuple[Any, ...]) -> Tensor:
    """Bool scalar: whether two evaluations at one point differ by more than rounding."""
    first, second = (calls.row_energy(energy_fn, position, context) for _ in range(2))
    return tf.reduce_any(tf.abs(first - second) > _RANDOM * (1.0 + tf.abs(first)))


def check_not_random(is_random: Tensor) -> None:
    """The sentence for a random energy; silent in a graph, where nothing can be raised."""
    if tf.executing_eagerly() and bool(is_random):
        raise InvalidInputError(
            "`energy_fn` gave two energies for one point. The log-determinant is that of a map "
            "with fixed noise: the energy must be a function of the latents alone. Switch dropout "
            "off (`training=False`)."
        )


def _all_finite(path: Tensor) -> Tensor:
    """`[B]`, bool."""
    axes = [axis for axis in range(path.shape.rank) if axis != 1]
    return tf.reduce_all(tf.math.is_finite(path), axis=axes)


def _first_order(grad: Tensor, values: Tensor) -> Tensor:
    """`[B]`: zero, with the derivative `grad` `[K, B, probes, ...]` towards `values`."""
    grad = tf.stop_gradient(tf.cast(tf.reduce_mean(grad, axis=2), values.dtype))
    return tf.cast(
        tf.reduce_sum(grad * (values - tf.stop_gradient(values)), axis=[0, 2]), tf.float64
    )

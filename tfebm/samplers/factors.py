"""Spectra of the factors I - S H S / 2 of a short-run map, from Hessian-vector products."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.samplers import calls
from tfebm.types import EnergyFn, Latents, Tensor

# In machine epsilons of the matrix' size: a Lanczos residual below is rounding, and the vectors so
# far span all that the probe reaches.
_BREAKDOWN = 100.0


class Spectra(NamedTuple):
    """Of each factor (exact), or of each probe of it; leading axis of K * B (* probes)."""

    log_det: Tensor
    """float64, as the next two: log |det|, or an estimate of it."""
    smallest: Tensor
    """The smallest eigenvalue of the factor."""
    curvature: Tensor
    """The largest eigenvalue of M, see `Factors`."""
    grad_position: Tensor
    """`[..., d]`: the derivative of `log_det`; no columns unless asked for."""
    grad_steps: Tensor
    """`[..., P]`, likewise."""


class Rows(NamedTuple):
    """Some factors I - sigma**2 M / 2, with what M times a vector takes."""

    parts: list[Tensor]
    context: tuple[Any, ...]
    steps: Tensor
    """`[n, P]`."""
    scale: Tensor
    """`[n, d]`: each coordinate's step size in units of sigma."""
    sigma: Tensor
    """`[n]`: the largest step size of the factor."""


class Factors:
    """M = (S / sigma) H(z_{k-1}) (S / sigma) of all steps and rows, as products with vectors.

    In units of the largest step size sigma, M is H itself wherever the parts share one step size,
    and is defined for steps of size 0.

    Args:
        energy_fn: The energy U, one per row.
        path: z_0, ..., z_K: each part `[K + 1, B, ...]`.
        context: The energy's, one row per row of the path, or scalars.
        steps: `[K, P]`.
    """

    def __init__(
        self, energy_fn: EnergyFn, path: Latents, context: tuple[Any, ...], steps: Tensor
    ) -> None:
        self._energy_fn, self._like, self._context = energy_fn, path, context
        parts = tf.nest.flatten(path)
        self.batch = tf.shape(parts[0])[1]
        self.sizes = [math.prod(part.shape[2:]) for part in parts]
        self.size, self.dtype = sum(self.sizes), parts[0].dtype
        self._parts = []
        for part in parts:
            flat = tf.reshape(part[:-1], tf.concat([[-1], tf.shape(part)[2:]], 0))
            self._parts.append(tf.ensure_shape(flat, [None, *part.shape[2:]]))
        self._steps = tf.repeat(tf.cast(steps, self.dtype), self.batch, axis=0)
        self.number = tf.shape(self._steps)[0]
        """K * B; factor k * B + b belongs to the step from z_k of row b."""

    def rows(self, index: Tensor) -> Rows:
        """Factors `index`, `[n]`."""
        parts = [tf.gather(part, index) for part in self._parts]
        steps = tf.gather(self._steps, index)
        sigma = tf.reduce_max(steps, axis=1, keepdims=True)
        relative = tf.where(sigma > 0, tf.math.divide_no_nan(steps, sigma), tf.ones_like(steps))
        context = _map_rows(lambda x: tf.gather(x, index % self.batch), self._context)
        return Rows(parts, context, steps, self._spread(relative), sigma[:, 0])

    def product(self, at: Rows, vectors: Tensor) -> Tensor:
        """M v, `[n, d]`."""
        return at.scale * self._hessian_product(at, at.scale * vectors)

    def grads(self, at: Rows, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of left' (I - S H(z) S / 2) right in z `[n, d]` and in the steps `[n, P]`."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([at.parts, at.steps])
            scale = self._spread(at.steps)
            product = scale * self._hessian_product(at, scale * right)
            form = -0.5 * tf.reduce_sum(left * product)
        of_parts, of_steps = tape.gradient(
            form, (at.parts, at.steps), unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return self._join(of_parts), of_steps

    def _hessian_product(self, at: Rows, vectors: Tensor) -> Tensor:
        # Reverse mode over reverse mode: every operation of a network has it.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(at.parts)
            latents = tf.nest.pack_sequence_as(self._like, at.parts)
            _, grads = calls.energy_and_grads(self._energy_fn, latents, at.context)
            along = tf.reduce_sum(self._join(grads) * vectors)
        return self._join(
            tape.gradient(along, at.parts, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        )

    def _join(self, parts: list[Tensor]) -> Tensor:
        flat = [tf.reshape(z, [-1, n]) for z, n in zip(parts, self.sizes, strict=True)]
        return tf.concat(flat, axis=1)

    def _spread(self, of_parts: Tensor) -> Tensor:
        """`[n, P]` to `[n, d]`."""
        return tf.repeat(of_parts, self.sizes, axis=1)


def exact(factors: Factors, max_rows: int, differentiable: bool) -> Spectra:
    """All eigenvalues of every factor: d products each, at most `max_rows` at once."""
    d = factors.size
    width = min(d, max_rows)  # directions at once

    def spectra(index: Tensor) -> Spectra:
        at = factors.rows(index)
        n = tf.shape(index)[0]
        matrix, repeated = _matrix(factors, at, n, width)
        curvatures, vectors, factor = _eigen(matrix, at.sigma, differentiable)
        log_det = tf.reduce_sum(tf.math.log(tf.abs(factor)), axis=1)
        grads: Any = _no_grads(n, factors.dtype)
        if differentiable:
            inverse = tf.matmul(vectors / factor[:, tf.newaxis], vectors, transpose_b=True)
            inverse = tf.cast(inverse, factors.dtype)

            def traces(first: Tensor) -> tuple[Tensor, ...]:
                right = _units(factors, n, first, width)
                left = tf.matmul(tf.reshape(right, [n, width, d]), inverse)
                of_all = factors.grads(repeated, tf.reshape(left, [-1, d]), right)
                return tuple(
                    tf.reduce_sum(tf.reshape(g, [n, width, g.shape[1]]), axis=1) for g in of_all
                )

            signature = (factors.dtype,) * 2
            firsts = tf.range(0, d, width)
            of_blocks = tf.map_fn(traces, firsts, fn_output_signature=signature)
            grads = [tf.reduce_sum(g, axis=0) for g in of_blocks]
        return Spectra(log_det, factor[:, -1], curvatures[:, -1], *grads)

    return _in_chunks(spectra, factors.number, max(1, max_rows // d), _signature(factors))


def hessians(
    energy_fn: EnergyFn, position: Latents, context: tuple[Any, ...], max_rows: int
) -> Tensor:
    """H of every row over all its parts together, `[B, d, d]`, symmetric.

    Args:
        energy_fn: The energy.
        position: Each part `[B, ...]`.
        context: The energy's, one row per row of `position`, or scalars.
        max_rows: Most rows at once in the products, rows times directions.
    """
    path = tf.nest.map_structure(lambda z: tf.stack([z, z]), position)
    ones = tf.ones([1, len(tf.nest.flatten(position))])
    factors = Factors(energy_fn, path, context, ones)
    width = min(factors.size, max_rows)

    def matrices(index: Tensor) -> Tensor:
        return _matrix(factors, factors.rows(index), tf.shape(index)[0], width)[0]

    size = max(1, max_rows // factors.size)
    return _in_chunks(matrices, factors.number, size, factors.dtype)


def _matrix(factors: Factors, at: Rows, n: Tensor, width: int) -> tuple[Tensor, Rows]:
    """M of `n` factors, `[n, d, d]`, `width` directions of each at once; and the factors, each
    repeated as often."""
    d = factors.size
    repeated = _map_rows(lambda x: tf.repeat(x, width, axis=0), at)

    def columns(first: Tensor) -> Tensor:
        product = factors.product(repeated, _units(factors, n, first, width))
        return tf.reshape(product, [n, width, d])

    blocks = tf.map_fn(columns, tf.range(0, d, width), fn_output_signature=factors.dtype)
    matrix = tf.reshape(tf.transpose(blocks, [1, 0, 2, 3]), [n, -1, d])[:, :d]
    return 0.5 * (matrix + tf.linalg.matrix_transpose(matrix)), repeated


def _units(factors: Factors, n: Tensor, first: Tensor, width: int) -> Tensor:
    """`[n * width, d]`: the same directions for every factor; zero beyond the last."""
    hot = tf.one_hot(first + tf.range(width), factors.size, dtype=factors.dtype)
    return tf.tile(hot, [n, 1])


def lanczos(
    factors: Factors,
    seeds: Tensor,
    num_probes: int,
    num_lanczos: int,
    max_rows: int,
    differentiable: bool,
) -> Spectra:
    """Quadrature of v' log|A| v for random signs v, with E v v' = I: `num_lanczos` products each.

    Args:
        factors: The factors.
        seeds: int32 `[B, 2]`.
        num_probes: Per factor; each is an entry of the result.
        num_lanczos: Lanczos steps.
        max_rows: Probes at once.
        differentiable: Also the derivatives.
    """
    d, m = factors.size, min(num_lanczos, factors.size)
    streams = random.fold_in(seeds, random.PROBES)

    def spectra(index: Tensor) -> Spectra:
        factor_index, probe = index // num_probes, index % num_probes
        row, step = factor_index % factors.batch, factor_index // factors.batch
        own = random.fold_in(tf.gather(streams, row), step * num_probes + probe)
        signs = tf.where(random.row_uniform(own, 0, d) < 0.5, -1.0, 1.0)
        signs = tf.cast(signs, factors.dtype)
        at = factors.rows(factor_index)
        basis, tridiagonal = _krylov(lambda v: factors.product(at, v), signs / math.sqrt(d), m)
        curvatures, vectors, factor = _eigen(tridiagonal, at.sigma, with_vectors=True)
        weights = vectors[:, 0]  # of the probe in the Ritz vectors
        # 0 log 0 = 0: after a breakdown Ritz values of no weight are left over.
        terms = tf.math.multiply_no_nan(tf.math.log(tf.abs(factor)), weights**2)
        grads: Any = _no_grads(tf.shape(index)[0], factors.dtype)
        if differentiable:
            solution = tf.einsum("nij,nj->in", vectors, weights / factor)
            solution = tf.cast(math.sqrt(d) * solution, factors.dtype)
            left = tf.reduce_sum(solution[:, :, tf.newaxis] * basis, axis=0)
            grads = factors.grads(at, left, signs)
        log_det = d * tf.reduce_sum(terms, axis=1)
        return Spectra(log_det, factor[:, -1], curvatures[:, -1], *grads)

    return _in_chunks(spectra, factors.number * num_probes, max_rows, _signature(factors))


def _krylov(
    product: Callable[[Tensor], Tensor], start: Tensor, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Lanczos vectors `[m, n, d]` and the matrix in them, `[n, m, m]`, from unit `start` `[n, d]`.

    Where a Krylov space is exhausted, its remaining vectors are zero, and the rest of the matrix
    repeats its first diagonal entry, uncoupled: a value within the Ritz values, of no weight.
    """
    tolerance = _BREAKDOWN * float(np.finfo(start.dtype.as_numpy_dtype).eps)
    zeros = tf.zeros([tf.shape(start)[0], num_steps], start.dtype)

    def step(
        j: Tensor,
        q: Tensor,
        alive: Tensor,
        size: Tensor,
        basis: Tensor,
        diagonal: Tensor,
        coupling: Tensor,
    ) -> tuple[Tensor, ...]:
        here = tf.one_hot(j, num_steps, dtype=start.dtype)
        basis += here[:, tf.newaxis, tf.newaxis] * q
        w = product(q)
        alpha = tf.reduce_sum(q * w, axis=1)
        # Against all vectors, twice: in float32 they would not stay orthogonal otherwise.
        for _ in range(2):
            overlaps = tf.reduce_sum(basis * w, axis=2, keepdims=True)
            w -= tf.reduce_sum(basis * overlaps, axis=0)
        beta = tf.norm(w, axis=1)
        size = tf.maximum(size, tf.abs(alpha) + beta)
        diagonal += here * tf.where(alive | (j == 0), alpha, diagonal[:, 0])[:, tf.newaxis]
        alive &= beta > tolerance * size
        coupling += here * tf.where(alive, beta, tf.zeros_like(beta))[:, tf.newaxis]
        q = tf.where(alive[:, tf.newaxis], tf.math.divide_no_nan(w, beta[:, tf.newaxis]), 0.0)
        return j + 1, q, alive, size, basis, diagonal, coupling

    _, _, _, _, basis, diagonal, coupling = tf.while_loop(
        lambda j, *_: j < num_steps,
        step,
        (
            tf.constant(0),
            start,
            tf.ones_like(zeros[:, 0], tf.bool),
            zeros[:, 0],
            tf.zeros([num_steps, *tf.unstack(tf.shape(start))], start.dtype),
            zeros,
            zeros,
        ),
        maximum_iterations=num_steps,
        parallel_iterations=1,
    )
    matrix = tf.linalg.diag(diagonal)
    if num_steps > 1:
        beside = tf.linalg.diag(coupling[:, :-1], k=1)
        matrix += beside + tf.linalg.matrix_transpose(beside)
    return basis, matrix


def _eigen(matrix: Tensor, sigma: Tensor, with_vectors: bool) -> tuple[Tensor, Any, Tensor]:
    """Ascending eigenvalues, vectors (or None), and those of I - sigma**2 / 2 times it; float64.

    All NaN where the matrix is not finite.
    """
    matrix, sigma = tf.cast(matrix, tf.float64), tf.cast(sigma, tf.float64)[:, tf.newaxis]
    finite = tf.reduce_all(tf.math.is_finite(matrix), axis=[1, 2], keepdims=True)
    matrix = tf.where(finite, matrix, tf.zeros_like(matrix))  # the solvers refuse anything else
    vectors = None
    # Many small matrices: on a GPU they would be solved one after the other.
    with tf.device("CPU:0"):
        if with_vectors:
            values, vectors = tf.linalg.eigh(matrix)
        else:
            values = tf.linalg.eigvalsh(matrix)
    values = tf.where(finite[:, :, 0], values, tf.constant(math.nan, tf.float64))
    return values, vectors, 1.0 - 0.5 * sigma**2 * values


def _signature(factors: Factors) -> Spectra:
    return Spectra(tf.float64, tf.float64, tf.float64, factors.dtype, factors.dtype)


def _in_chunks(function: Callable[[Tensor], Any], total: Tensor, size: int, signature: Any) -> Any:
    """`function(0, ..., total - 1)`, at most `size` of them at once."""
    chunks = tf.maximum(1, -(-total // size))
    even = -(-total // chunks)

    def chunk(i: Tensor) -> Any:
        return function(tf.minimum(i * even + tf.range(even), total - 1))

    found = tf.map_fn(chunk, tf.range(chunks), fn_output_signature=signature, parallel_iterations=1)
    return tf.nest.map_structure(
        lambda x: tf.reshape(x, tf.concat([[chunks * even], tf.shape(x)[2:]], 0))[:total], found
    )


def _map_rows(function: Callable[[Tensor], Tensor], structure: Any) -> Any:
    """Over tensors that have rows; a scalar belongs to all of them."""
    return tf.nest.map_structure(lambda x: x if x.shape.rank == 0 else function(x), structure)


def _no_grads(n: Tensor, dtype: tf.DType) -> list[Tensor]:
    return [tf.zeros([n, 0], dtype)] * 2

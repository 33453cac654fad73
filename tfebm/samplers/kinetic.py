"""The density of a chain with momentum, in closed form.

A kick v - s grad U(z) / 2 and a drift z + s v are shears, whose determinant is 1. Every step but
the first begins with c v + T sqrt(1 - c**2) e, which scales v by c. So for fixed noise the map of
(z_0, v_0) to (z_K, v_K) has, at any step size and without a Hessian,

    log |det d(z_K, v_K) / d(z_0, v_0)| = sum_k sum_p d_p log c[k, p],    k = 2, ..., K

for parts p of d_p dimensions, and is one to one wherever all c are above 0. The chain begins with
v_0 = T e_1, and with N, the density of that,

    log p(x) >= E[log p(x, z_K) + log N(v_K) - log q(z_0) - log N(v_0) + log |det|]

whatever density N stands for the velocity's in the joint one. A chain without noise begins at rest,
which has no density. Its bound is that of the same steps from v_0 ~ N(0, I).

What the bound costs: a step forgets a part of v, for which it pays d log(1 / c) nats at most. A
chain of small c has a loose bound, however good its ends are.

References: A. Caterini, A. Doucet, D. Sejdinovic. Hamiltonian Variational Auto-Encoder. NeurIPS
2018, section 3 (the bound, with other schedules). R. Neal. Hamiltonian Importance Sampling. 2005.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.samplers import calls, chain
from tfebm.types import EnergyFn, Latents, Tensor


def start_velocity(position: Latents, seeds: Tensor) -> Latents:
    """v_0 ~ N(0, I) in the structure of `position`, from a stream of its own.

    Args:
        position: z_0.
        seeds: int32 `[B, 2]`, those of the chain.
    """
    streams = random.fold_in(seeds, random.VELOCITY)
    parts = []
    for i, part in enumerate(tf.nest.flatten(position)):
        stream = streams if i == 0 else random.fold_in(streams, i)
        flat = random.row_normal(stream, 0, math.prod(part.shape[1:]))
        parts.append(tf.cast(tf.reshape(flat, tf.shape(part)), part.dtype))
    return tf.nest.pack_sequence_as(position, parts)


def temperature(sampler: chain.Chain) -> float:
    """T of the first step: above 0, v_0 is the chain's own."""
    return float(np.ravel(sampler.noise_scale)[0]) if sampler.num_steps else 0.0


def follow(
    sampler: chain.Chain,
    energy_fn: EnergyFn,
    position: Latents,
    seeds: Tensor,
    *context: Tensor,
    **options: Any,
) -> tuple[Latents, Tensor]:
    """The chain from (z_0, v_0), and what its end's density lacks of its start's.

    Plain operations, differentiable in the step sizes and the momenta.

    Args:
        sampler: A `ShortRunLangevin` or the like.
        energy_fn: U. `energy_fn(position, *context) -> [B]`.
        position: z_0.
        seeds: int32 `[B, 2]`, of v_0 where the chain has no noise.
        *context: The energy's.
        **options: Of `sampler.path`.

    Returns:
        z_0, ..., z_K, each part `[K + 1, B, ...]`; and `[B]`, float64:
        log N(v_K) - log N(v_0) + log |det|, -inf where a momentum is 0.
    """
    scale = temperature(sampler)
    if scale:
        path, call, last = sampler.follow(energy_fn, position, *context, **options)
        velocity = [scale * e for e in call.noise(tf.constant(0))]
    else:
        scale, start = 1.0, start_velocity(position, seeds)
        path, call, last = sampler.follow(energy_fn, position, *context, velocity=start, **options)
        velocity = tf.nest.flatten(start)
    change = tf.zeros([calls.num_rows(position)], tf.float64)
    if not sampler.num_steps:
        return path, change
    end = [z[-1] for z in tf.nest.flatten(path)]
    _, grads = calls.energy_and_grads(energy_fn, call.pack(end), context)
    parts = zip(last.velocity, velocity, grads, strict=True)
    for i, (v, first, grad) in enumerate(parts):
        v = v - tf.cast(0.5 * call.step_sizes[-1, i], v.dtype) * grad  # the kick that was owed
        change += 0.5 * (_squares(first) - _squares(v)) / scale**2
        momenta = tf.cast(call.momenta[1:, i], tf.float64)
        change += math.prod(first.shape[1:]) * tf.reduce_sum(tf.math.log(momenta))
    return path, change


def _squares(v: Tensor) -> Tensor:
    flat = tf.reshape(tf.cast(v, tf.float64), [-1, math.prod(v.shape[1:])])
    return tf.reduce_sum(flat**2, axis=1)

"""Importance samples of latents from Gaussians around the ends of short chains.

The short-run map gives its own density, by its determinant, and with it a bound on log p(x). A map
that learns well may be far from the posterior as a density, or no diffeomorphism at all. Where
it arrives is a good place all the same: a Gaussian there with the curvature of -log p(x, z) as its
precision is a proposal whose density is known, for the price of d Hessian-vector products instead
of K d.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from tfebm import random
from tfebm.models import latents
from tfebm.models.parts import Parts
from tfebm.models.rows import repeated
from tfebm.samplers import factors
from tfebm.types import Tensor

tfd = tfp.distributions

# Of the samples come from N(0, prior_scale**2 I): no weight exceeds p(x | z) exp(-E(z)) / 0.1.
_PRIOR_SHARE = 0.1
_WIDENING = 1.5  # of the covariance: tails that are too light cost more than width


def log_weights(
    model: Parts, x: Tensor, seeds: Tensor, num_chains: int, num_samples: int
) -> tuple[Tensor, Tensor]:
    """log p(x, z_m) - log q(z_m) of samples z_1, ..., z_M of each row.

        q(z) = (M_0 N(z; 0, prior_scale**2 I) + sum_j M_j N(z; c_j, C_j)) / M

    M_0 samples come from the first and M_j, as equal as can be, from each of the others: with the
    density of the mixture for all, the mean of p(x, z_m) / q(z_m) is unbiased for p(x). c_j is the
    end of a chain, or of a Newton step from there where that has the smaller energy, and
    C_j = 1.5 max(H_j, 1 / prior_scale**2)^-1, where H_j is the Hessian of -log p(x, z) at the end.

    Args:
        model: Whose p(x, z) it is.
        x: Examples `[B, ...]`.
        seeds: int32 `[B, 2]`.
        num_chains: J, chains (of a `VAE`: draws of its encoder) of each row.
        num_samples: M.

    Returns:
        The log weights, without the log Z of a learned prior, and -log p(x | z_m): `[B, M]` each.
    """
    centres, factor = _components(model, x, seeds, num_chains)
    size = sum(latents.sizes(model.prior.latent_size))
    wide = tfd.MultivariateNormalDiag(
        tf.zeros([size]), scale_diag=tf.fill([size], float(model.prior.scale))
    )
    narrow = tfd.MultivariateNormalTriL(centres, factor, validate_args=False)
    from_prior = max(1, round(_PRIOR_SHARE * num_samples))
    counts = [len(range(j, num_samples - from_prior, num_chains)) for j in range(num_chains)]
    log_shares = tf.math.log(tf.constant([from_prior, *counts], tf.float32) / num_samples)
    streams = random.fold_in(seeds, random.IMPORTANCE)

    def sample(m: Tensor) -> tuple[Tensor, Tensor]:
        noise = random.row_normal(streams, m, size)
        j = tf.maximum(m - from_prior, 0) % num_chains
        moved = centres[:, j] + tf.linalg.matvec(factor[:, j], noise)
        z = tf.where(m < from_prior, model.prior.scale * noise, moved)
        densities = [wide.log_prob(z)[:, tf.newaxis], narrow.log_prob(z[:, tf.newaxis])]
        log_q = tf.reduce_logsumexp(log_shares + tf.concat(densities, axis=1), axis=1)
        z = latents.split(z, model.prior.latent_size)
        log_likelihood = model.examples.likelihood.log_prob(model.examples.outputs(z, x), x)
        log_prior = -model.prior.energy(z) - model.prior.base_constant
        return log_likelihood + log_prior - log_q, -log_likelihood

    found = tf.map_fn(
        sample,
        tf.range(num_samples),
        fn_output_signature=(tf.float32, tf.float32),
        parallel_iterations=1,  # each holds logits of the whole vocabulary
    )
    return tuple(tf.transpose(part) for part in found)


def _components(model: Parts, x: Tensor, seeds: Tensor, num_chains: int) -> tuple[Tensor, Tensor]:
    """Centres `[B, J, d]` and lower triangular factors `[B, J, d, d]` of the covariances."""
    ends = latents.join(model.inference.sample(*repeated(x, seeds, num_chains)))
    ends = tf.reshape(ends, [-1, sum(latents.sizes(model.prior.latent_size))])
    # The prior's mean for a chain that left the finite numbers.
    arrived = tf.reduce_all(tf.math.is_finite(ends), axis=1, keepdims=True)
    ends = latents.split(tf.where(arrived, ends, 0.0), model.prior.latent_size)
    x = tf.repeat(x, num_chains, axis=0)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(ends)
        energy = model.inference.joint.joint_energy(ends, x)
    grad = latents.join(tape.gradient(energy, ends))
    hessian = factors.hessians(
        model.inference.joint.joint_energy, ends, (x,), model.examples.rows_at_once
    )
    covariance, step = _covariance(hessian, grad, model.prior.scale)
    ends = latents.join(ends)
    moved = ends - step
    after = model.inference.joint.joint_energy(latents.split(moved, model.prior.latent_size), x)
    centres = tf.where((after < energy)[:, tf.newaxis], moved, ends)
    factor = tf.cast(tf.linalg.cholesky(_WIDENING * covariance), tf.float32)
    # A factorisation that failed: the prior, which leaves the other components as they are.
    good = tf.reduce_all(tf.math.is_finite(factor), axis=[1, 2], keepdims=True)
    size = sum(latents.sizes(model.prior.latent_size))
    factor = tf.where(good, factor, model.prior.scale * tf.eye(size))
    return tf.reshape(centres, [-1, num_chains, size]), tf.reshape(
        factor, [-1, num_chains, size, size]
    )


def _covariance(hessian: Tensor, grad: Tensor, prior_scale: float) -> tuple[Tensor, Tensor]:
    """The inverse of the Hessian, float64, and the Newton step; the prior in directions in which
    the posterior would be wider than it, and everywhere for a Hessian that is not finite."""
    finite = tf.reduce_all(tf.math.is_finite(hessian), axis=[1, 2], keepdims=True)
    hessian = tf.cast(tf.where(finite, hessian, 0.0), tf.float64)
    with tf.device("CPU:0"):  # many small matrices, which a GPU would solve one after the other
        values, vectors = tf.linalg.eigh(hessian)
    values = tf.maximum(values, tf.constant(prior_scale**-2, tf.float64))
    covariance = tf.matmul(vectors / values[:, tf.newaxis], vectors, transpose_b=True)
    step = tf.linalg.matvec(covariance, tf.cast(grad, tf.float64))
    return covariance, tf.cast(step, tf.float32)

"""Three distances between the law of z_K and its target exp(-U), one value per example.

Each is smaller where the chain is better, and estimates something else: `conditional_kl` charges
nothing for the mixing that noise does, `entropy_kl` takes the law of z_K for a Gaussian, and
`kernel_stein` needs no density at all. Plain operations, differentiable in the latents.

Rows are laid out `[num_examples * num_chains]`, the chains of an example next to each other.
"""

import math

import numpy as np
import tensorflow as tf

from tfebm.errors import InvalidInputError
from tfebm.types import Latents, Tensor


def start_log_prob(start: Latents, scale: float) -> Tensor:
    """log N(z_0; 0, scale**2 I), `[B]`, float64."""
    flat = tf.cast(_flat(start), tf.float64)
    constant = flat.shape[1] * math.log(scale * math.sqrt(2 * math.pi))
    return -0.5 * tf.reduce_sum((flat / scale) ** 2, axis=1) - constant


def conditional_kl(log_start: Tensor, log_det: Tensor, energy: Tensor) -> Tensor:
    """Q: minus a lower bound on the log-evidence, from one chain with its noise held fixed.

        Q = log p0(z_0) - log |det dz_K/dz_0| + U(z_K)

    Its mean over starts and noises is E KL(law of z_K given the noise || exp(-U) / Z) - log Z.
    Where U(z) = -log p(x, z) with all constants, -Q is a lower bound on log p(x).

    Args:
        log_start: log p0(z_0) of starts that were drawn from p0, `[B]`.
        log_det: `[B]`; it must be valid (see `tfebm.samplers.log_det.LogDet`).
        energy: U(z_K), `[B]`.

    Returns:
        `[B]`, float64.

    Example:

        >>> q = conditional_kl(start_log_prob(z_0, 1.0), log_det.value, energy_fn(z_K, x))

    References: E. Nijkamp, B. Pang, T. Han, S.-C. Zhu, Y. N. Wu. Learning Multi-layer Latent
    Variable Model via Variational Optimization of Short Run MCMC for Approximate Inference. ECCV
    2020, section 3.3.
    """
    log_start, log_det, energy = (tf.cast(x, tf.float64) for x in (log_start, log_det, energy))
    return log_start - log_det + energy


def entropy_kl(end: Latents, energy: Tensor, *, num_chains: int) -> Tensor:
    """The marginal KL, up to log Z, of a Gaussian with the chains' sample covariance.

        mean U(z_K) - H,
        H = (d log(2 pi e) + log |S| - sum_i psi((M - i) / 2) - d log(2 / (M - 1))) / 2,  i = 1..d

    The psi (digamma) terms are what E log |S| lacks of log |covariance| for Gaussian draws, so that
    the estimate is unbiased for them. Its standard deviation is sqrt(sum_i psi'((M - i) / 2)) / 2:
    many more chains than d keep it small.

    Args:
        end: z_K of M independent chains per example: `[num_examples * M, ...]` or a tuple.
        energy: U(z_K), `[num_examples * M]`.
        num_chains: M, more than d.

    Returns:
        `[num_examples]`, float64; NaN where chains coincide.

    Raises:
        InvalidInputError: Too few chains.

    References: N. Misra, H. Singh, E. Demchuk. Estimation of the entropy of a multivariate normal
    distribution. J. Multivariate Analysis 2005.
    """
    flat = tf.cast(_flat(end), tf.float64)
    d = flat.shape[1]
    if num_chains <= d:
        raise InvalidInputError(
            "The entropy criterion needs more chains per example than latent dimensions. Received "
            f"`num_chains={num_chains}` for {d} dimensions: set it to at least {d + 1}, better "
            f"{2 * d}, or take the criterion 'kl' or 'ksd'."
        )
    grouped = tf.reshape(flat, [-1, num_chains, d])
    centred = grouped - tf.reduce_mean(grouped, axis=1, keepdims=True)
    cov = tf.matmul(centred, centred, transpose_a=True) / (num_chains - 1)
    varied = tf.linalg.diag_part(cov) > 0
    usable = tf.reduce_all(tf.math.is_finite(cov), axis=[1, 2]) & tf.reduce_all(varied, axis=1)
    # Not the others: the derivative of a determinant inverts, and would raise.
    cov = tf.where(usable[:, tf.newaxis, tf.newaxis], cov, tf.eye(d, dtype=cov.dtype))
    sign, log_det = tf.linalg.slogdet(cov)
    log_det = tf.where(usable & (sign > 0), log_det, tf.constant(np.nan, tf.float64))
    freedom = tf.cast(num_chains - tf.range(1, d + 1), tf.float64)
    missing = tf.reduce_sum(tf.math.digamma(freedom / 2)) + d * math.log(2 / (num_chains - 1))
    entropy = 0.5 * (d * math.log(2 * math.pi * math.e) + log_det - missing)
    means = tf.reduce_mean(tf.reshape(tf.cast(energy, tf.float64), [-1, num_chains]), axis=1)
    return means - entropy


def kernel_stein(end: Latents, grads: Latents, *, num_chains: int, scale: float = 1.0) -> Tensor:
    """The squared kernel Stein discrepancy, unbiased: a mean over pairs of an example's chains.

    With scores b = -grad U and the inverse multiquadric kernel k = (c**2 + |x - y|**2)**(-1/2),

        k_p(x, y) = b(x)'b(y) k + b(x)'grad_y k + b(y)'grad_x k + tr(grad_x grad_y k),
        KSD**2 = mean over pairs i != j of k_p(z_i, z_j).

    0 in expectation if and only if the chains' law is the target; being unbiased it may be below
    0. Its noise falls with the number of examples as well as of chains. In many dimensions it
    sees chains that are off in the mean (of 400 dimensions, 0.1 each, from 200 examples of 8
    chains), as those are that were too short, far better than chains of a wrong spread.

    Args:
        end: z_K of M independent chains per example: `[num_examples * M, ...]` or a tuple.
        grads: grad U(z_K), of the same structure.
        num_chains: M, at least 2.
        scale: c, in units of the latents.

    Returns:
        `[num_examples]`, float64.

    Raises:
        InvalidInputError: A single chain.

    References: J. Gorham, L. Mackey. Measuring Sample Quality with Kernels. ICML 2017.
    """
    if num_chains < 2:
        raise InvalidInputError(
            "The kernel Stein discrepancy compares chains of one example with each other. Received "
            f"`num_chains={num_chains}`: set it to at least 2."
        )
    z, score = (tf.cast(_flat(x), tf.float64) for x in (end, grads))
    d = z.shape[1]
    z, score = (tf.reshape(x, [-1, num_chains, d]) for x in (z, -score))
    z -= tf.stop_gradient(tf.reduce_mean(z, axis=1, keepdims=True))  # only differences count
    # Entry (i, j) of each of these is about the pair x = z_i, y = z_j.
    squares = tf.reduce_sum(z**2, axis=2)
    inner = tf.matmul(z, z, transpose_b=True)
    distance = squares[:, :, tf.newaxis] + squares[:, tf.newaxis] - 2.0 * inner
    cross = tf.matmul(score, z, transpose_b=True)  # b_i'z_j
    own = tf.reduce_sum(score * z, axis=2)  # b_i'z_i
    along = own[:, :, tf.newaxis] + own[:, tf.newaxis] - cross - tf.linalg.matrix_transpose(cross)
    u = scale**2 + distance
    stein = (
        tf.matmul(score, score, transpose_b=True) * u**-0.5
        + (along + d) * u**-1.5
        - 3.0 * distance * u**-2.5
    )
    off_diagonal = tf.reduce_sum(stein, axis=[1, 2]) - tf.linalg.trace(stein)
    return off_diagonal / (num_chains * (num_chains - 1))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean over examples and its standard error (NaN for a single example)."""
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):  # infinite values have no spread
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def _flat(latents: Latents) -> Tensor:
    parts = tf.nest.flatten(latents)
    return tf.concat([tf.reshape(z, [-1, math.prod(z.shape[1:])]) for z in parts], axis=1)

"""Learning objectives as free functions of tensors; `train_step` only wires them.

Each takes `weights`, 1 for a row that counts and 0 for one that fills up a batch, and `count`,
the rows of the *global* batch that count. Keras 3 optimizers sum the gradients of replicas, so
a replica divides by the rows of all of them; a mean over its own rows would be `num_replicas`
times too large, and NaN on a replica without rows.
"""

import tensorflow as tf

from tfebm.types import Tensor


def mean_over_global_batch(values: Tensor, weights: Tensor, count: Tensor) -> Tensor:
    """This replica's share of the mean of `values` `[B]` over the global batch: a scalar."""
    return tf.reduce_sum(weights * values) / count


def energy_contrast(
    energy_posterior: Tensor, energy_prior: Tensor, weights: Tensor, count: Tensor
) -> Tensor:
    """Energy of inferred latents less energy of prior latents: descend it to learn the prior.

    Its gradient in the energy's weights is that of `-log p(x)`:
    `E_posterior[dE/da] - E_prior[dE/da]`, with `p(z) = exp(-E(z)) p0(z) / Z`.

    Args:
        energy_posterior: `E(z+)`, `[B]`.
        energy_prior: `E(z-)`, `[B]`.
        weights: `[B]`, see above.
        count: A scalar, see above.

    Returns:
        A scalar: this replica's share of the mean over the global batch.

    References: B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020,
    equation 8.
    """
    return mean_over_global_batch(energy_posterior - energy_prior, weights, count)


def energy_penalty(
    energy_posterior: Tensor, energy_prior: Tensor, weights: Tensor, count: Tensor
) -> Tensor:
    """`mean E(z+)**2 + mean E(z-)**2`, which keeps energies small.

    `energy_contrast` with `alpha` times this is smallest at

        E = (p-(z) - p+(z)) / (2 alpha (p-(z) + p+(z)))

    of the densities p+ of z+ and p- of z-: no energy is beyond `1 / (2 alpha)` in size, however
    far apart the two chains are.

    Args:
        energy_posterior: `E(z+)`, `[B]`.
        energy_prior: `E(z-)`, `[B]`.
        weights: `[B]`, see above.
        count: A scalar, see above.

    References: Y. Du, I. Mordatch. Implicit Generation and Modeling with Energy-Based Models.
    NeurIPS 2019, section 3.3.
    """
    squares = energy_posterior**2 + energy_prior**2
    return mean_over_global_batch(squares, weights, count)


def noise_contrast(
    energy_data: Tensor, energy_noise: Tensor, weights: Tensor, count: Tensor
) -> Tensor:
    """Logistic loss of telling data from as many noise samples of a base density q.

        mean softplus(E(x)) + mean softplus(-E(x')),   x from the data, x' from q

    At its minimum `-E = log p_data - log q`, so that `exp(-E) q` is the data's density, with
    log Z = 0.

    Args:
        energy_data: `E(x)`, `[B]`.
        energy_noise: `E(x')`, `[B]`.
        weights: `[B]`, see above.
        count: A scalar, see above.

    Returns:
        A scalar: this replica's share of the mean over the global batch.

    References: M. Gutmann, A. Hyvarinen. Noise-contrastive estimation. AISTATS 2010.
    """
    losses = tf.nn.softplus(energy_data) + tf.nn.softplus(-energy_noise)
    return mean_over_global_batch(losses, weights, count)

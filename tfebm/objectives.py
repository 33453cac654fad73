"""Learning objectives as free functions of tensors; `train_step` only wires them."""

import tensorflow as tf

from tfebm.types import Tensor


def energy_contrast(energy_posterior: Tensor, energy_prior: Tensor, count: Tensor) -> Tensor:
    """Energy of inferred latents less energy of prior latents: descend it to learn the prior.

    Its gradient in the energy's weights is that of `-log p(x)`:
    `E_posterior[dE/da] - E_prior[dE/da]`, with `p(z) = exp(-E(z)) p0(z) / Z`.

    Args:
        energy_posterior: `E(z+)`, `[B]`.
        energy_prior: `E(z-)`, `[B]`.
        count: Rows of the *global* batch. Keras 3 optimizers sum the gradients of replicas, so
            a replica divides by the rows of all of them; a mean over its own rows would be
            `num_replicas` times too large, and NaN on a replica without rows.

    Returns:
        A scalar: this replica's share of the mean over the global batch.

    References: B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020,
    equation 8.
    """
    return (tf.reduce_sum(energy_posterior) - tf.reduce_sum(energy_prior)) / count


def mean_over_global_batch(values: Tensor, count: Tensor) -> Tensor:
    """`sum(values) / count`: this replica's share of the global mean (see `energy_contrast`)."""
    return tf.reduce_sum(values) / count

"""Priors over latents: a Gaussian, and an energy over it that chains sample."""

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfebm import checks, objectives, random
from tfebm.models import arguments, gradients, latents
from tfebm.models.parts import Batch, Lesson, Prior, Tilt
from tfebm.samplers import Chain
from tfebm.types import Latents, Tensor


class GaussianPrior(Prior):
    """p(z) = N(z; 0, scale**2 I)."""

    def energy(self, z: Latents) -> Tensor:
        return self.base_energy(z)

    def sample(self, seeds: Tensor, compiled: bool = True) -> Latents:
        return self.start(seeds, random.PRIOR)[0]


class EnergyPrior(Prior):
    """p(z) = exp(-E(z)) N(z; 0, scale**2 I) / Z, sampled by a short chain from the Gaussian.

    Its energy descends `mean E(z+) - mean E(z-)`, with z+ the latents of the data and z- the ends
    of its own chains.

    Args:
        latent_size: d, or the tuple of sizes.
        scale: Of the Gaussian.
        energy: The network whose weights are learned.
        tilt: The model's, `(z, training=None) -> [B]`, E(z).
        sampler: The chain for z-.
        energy_l2: alpha, of `alpha * (mean E(z+)**2 + mean E(z-)**2)` in the loss.
    """

    metric_names = (
        "energy_posterior",
        "energy_prior",
        "energy_gap",
        "energy_grad_norm",
        "displacement_prior",
    )

    def __init__(
        self,
        latent_size: latents.LatentSize,
        scale: float,
        *,
        energy: keras.layers.Layer,
        tilt: Callable[..., Tensor],
        sampler: Chain,
        energy_l2: float,
    ) -> None:
        super().__init__(latent_size, scale)
        arguments.check_sampler("prior_sampler", sampler)
        self._energy, self._tilt = energy, tilt
        self.sampler = sampler
        self.energy_l2 = checks.check_number("energy_l2", energy_l2)

    @property
    def samplers(self) -> Mapping[str, Chain]:
        return {"prior_sampler": self.sampler}

    def energy(self, z: Latents) -> Tensor:
        return self._tilt(z) + self.base_energy(z)

    def sample(self, seeds: Tensor, compiled: bool = True) -> Latents:
        return self._chain(seeds, compiled)[1]

    def _chain(self, seeds: Tensor, compiled: bool = True) -> tuple[Latents, Latents]:
        """Start and end of the chain on U_prior."""
        start, seeds = self.start(seeds, random.PRIOR)
        chain = self.sampler if compiled else self.sampler.run
        return start, chain(self.energy, start, seed=seeds)

    def learn(self, batch: Batch, z: Latents) -> Lesson:
        start, of_prior = self._chain(batch.seeds)

        def contrast() -> tuple[Tensor, tuple[Tensor, Tensor, tf.GradientTape]]:
            with tf.GradientTape(watch_accessed_variables=False) as of_rows:
                of_rows.watch(tf.nest.flatten(z))
                # One pass: batch statistics of each half by itself would hide their difference.
                both = tf.nest.map_structure(lambda *two: tf.concat(two, axis=0), z, of_prior)
                posterior, prior = tf.split(self._tilt(both, batch.training), 2)
            loss = objectives.energy_contrast(posterior, prior, batch.weights, batch.count)
            if self.energy_l2:
                penalty = objectives.energy_penalty(posterior, prior, batch.weights, batch.count)
                loss += self.energy_l2 * penalty
            return loss, (posterior, prior, of_rows)

        descent = gradients.descend(batch, {"energy": self._energy}, contrast)
        posterior, prior, of_rows = descent.found
        slopes = gradients.gradients(of_rows, posterior, tf.nest.flatten(z))
        # z+ does not notice everything that is wrong with an energy. No constant NaN: the numeric
        # checks of TensorFlow would stop at it.
        size = tf.abs(posterior) + tf.abs(prior)
        wrong = tf.where(tf.math.is_finite(size), 0.0, size)
        seen = {
            "energy_posterior": posterior,
            "energy_prior": prior,
            "energy_gap": posterior - prior,
            "energy_grad_norm": gradients.row_norms(slopes),
            "displacement_prior": gradients.moved(of_prior, start),
        }
        return Lesson(descent.grads, seen, descent.penalties + wrong)

    def tilt_of_base(self) -> Tilt:
        scale = tf.fill([self.size], self.scale)
        base = tfp.distributions.MultivariateNormalDiag(scale_diag=scale)
        return Tilt(self._tilt, base, num_samples=100_000, step_size=0.1 * self.scale)

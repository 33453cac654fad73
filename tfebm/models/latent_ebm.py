"""The latent-space energy-based prior over a generator."""

import math
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfebm import objectives, random
from tfebm.data import checks
from tfebm.errors import InvalidInputError
from tfebm.generators.likelihoods import GaussianLikelihood
from tfebm.models import networks, replicas
from tfebm.models.inference import ChainInference
from tfebm.models.optimizers import OptimizersModel
from tfebm.samplers import ShortRunLangevin
from tfebm.types import Tensor

# Children of a row's stream: the noises of the two chains are independent.
_PRIOR, _POSTERIOR = range(2)

METRICS = (
    "generator_loss",
    "reconstruction_mse",
    "energy_posterior",
    "energy_prior",
    "energy_gap",
    "likelihood_grad_norm",
    "energy_grad_norm",
    "displacement_posterior",
    "displacement_prior",
)


@keras.saving.register_keras_serializable(package="tfebm")
class LatentEBM(ChainInference, OptimizersModel):
    """An energy-based prior in the latent space of a generator, learned by maximum likelihood.

        p(x, z) = exp(-E(z)) N(z; 0, prior_scale**2 I) / Z * p(x | g(z))

    Two short-run chains per batch, started afresh at `N(0, prior_scale**2 I)`:

        U_prior(z)   = E(z) + |z|**2 / (2 prior_scale**2)
        U_post(z; x) = -log p(x | g(z)) + U_prior(z)

    give z- and z+. The generator descends `mean |x - g(z+)|**2`, the energy descends
    `mean E(z+) - mean E(z-)`; both see the same z+, and no gradient flows through a chain.

    Args:
        generator: Any Keras layer or model, latents `[B, d]` to what the likelihood takes.
        energy: Any Keras layer or model, latents `[B, d]` to energies `[B]` or `[B, 1]`.
        latent_size: d. Default: what the networks were built for, else 100.
        prior_sampler: The chain for z-. Default: 60 steps of 0.4, the paper's.
        posterior_sampler: The chain for z+. Default: 20 steps of 0.1, the paper's.
        likelihood: p(x | z). Default: `GaussianLikelihood(0.3)`.
        prior_scale: Standard deviation of the base density and of the chains' start.
        num_chains: Chains per example while training; the losses average over them.
        scale_by_sigma: Learn the generator on `-log p(x | z)` itself, with its
            `1 / (2 sigma**2)`; matters for optimizers that are not scale free, like SGD.
        seed: Of all noise in training, together with the step and the global row.
        **kwargs: Of `keras.Model`.

    Raises:
        InvalidInputError: A latent size that does not fit the networks, an energy that is not one
            value per row, or a network that computes in float16.

    Example:

        >>> model = tfebm.LatentEBM(
        ...     generator=tfebm.DeconvGenerator(image_shape=(28, 28, 1), width=16),
        ...     energy=tfebm.EnergyMLP((200, 200)), latent_size=16)
        >>> model.compile()
        >>> model.fit(x_train, epochs=20, batch_size=100)      # float32 in [-1, 1]
        >>> images = model.generate(64, seed=0)
        >>> anomaly = model.score(x_test)

    References: B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020,
    algorithm 1. https://arxiv.org/abs/2006.08205
    """

    optimized: ClassVar = {"optimizer": "generator", "energy_optimizer": "energy"}

    def __init__(
        self,
        generator: keras.layers.Layer,
        energy: keras.layers.Layer,
        latent_size: int | None = None,
        prior_sampler: ShortRunLangevin | None = None,
        posterior_sampler: ShortRunLangevin | None = None,
        likelihood: Any = None,
        prior_scale: float = 1.0,
        num_chains: int = 1,
        scale_by_sigma: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        # Latents, noise and energies stay float32 and inputs are not cast; the networks have
        # precision policies of their own.
        super().__init__(**{"dtype": "float32", **kwargs})
        if not (math.isfinite(prior_scale) and prior_scale > 0):
            raise InvalidInputError(
                f"`prior_scale` must be a positive number. Received {prior_scale!r}."
            )
        checks.check_count("num_chains", num_chains)
        self.generator = generator
        self.energy = energy
        self.latent_size = networks.latent_size(latent_size, generator, energy)
        self.prior_sampler = prior_sampler or ShortRunLangevin(60, 0.4)
        self.posterior_sampler = posterior_sampler or ShortRunLangevin(20, 0.1)
        self.likelihood = likelihood or GaussianLikelihood()
        self.prior_scale = float(prior_scale)
        self.num_chains = int(num_chains)
        self.scale_by_sigma = bool(scale_by_sigma)
        self.seed = int(seed)
        self._refuse_float16()
        self.data_shape = networks.build(generator, energy, self.latent_size)
        networks.check_likelihood(self.likelihood, generator)
        self.step = replicas.add_step(self)
        self._trackers = {name: keras.metrics.Mean(name=name) for name in METRICS}
        self.build((None, *self.data_shape))

    # ---- The model as densities -------------------------------------------------------

    def prior_energy(self, z: Tensor) -> Tensor:
        """U_prior(z) = E(z) + |z|**2 / (2 prior_scale**2): `[B, d]` to `[B]`."""
        base = tf.reduce_sum(tf.square(z), axis=-1) / (2.0 * self.prior_scale**2)
        return self.tilt(z) + base

    def posterior_energy(self, z: Tensor, x: Tensor) -> Tensor:
        """U_post(z; x) = U_prior(z) - log p(x | g(z)) up to a constant: `[B]`."""
        error = self.likelihood.error(self.decode(z), x)
        return self.prior_energy(z) + self.likelihood.energy_scale * error

    def tilt(self, z: Tensor, training: bool | None = None) -> Tensor:
        """E(z), the learned part of the prior, float32 `[B]`."""
        return networks.per_row(self.energy(z, training=training))

    def decode(self, z: Tensor, training: bool | None = None) -> Tensor:
        """What the generator returns for z (a mean or logits), float32."""
        return tf.cast(self.generator(z, training=training), tf.float32)

    # ---- Chains over rows: plain graph functions, also used by exports -----------------

    def sample_prior(self, seeds: Tensor, compiled: bool = True) -> Tensor:
        """z- for the streams `seeds`, int32 `[B, 2]`: `[B, d]`."""
        return self._prior_chain(seeds, compiled)[1]

    def sample_posterior(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Tensor:
        """z+ given `x` `[B, ...]` for the streams `seeds`, int32 `[B, 2]`: `[B, d]`."""
        return self._posterior_chain(x, seeds, compiled)[1]

    def _prior_chain(self, seeds: Tensor, compiled: bool = True) -> tuple[Tensor, Tensor]:
        """Start and end of the chain on U_prior."""
        start, seeds = self._start(seeds, _PRIOR)
        chain = self.prior_sampler if compiled else self.prior_sampler.run
        return start, chain(self.prior_energy, start, seed=seeds)

    def _posterior_chain(
        self, x: Tensor, seeds: Tensor, compiled: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Start and end of the chain on U_post."""
        start, seeds = self._start(seeds, _POSTERIOR)
        chain = self.posterior_sampler if compiled else self.posterior_sampler.run
        return start, chain(self.posterior_energy, start, x, seed=seeds)

    def _start(self, seeds: Tensor, chain: int) -> tuple[Tensor, Tensor]:
        """z_0 ~ N(0, prior_scale**2 I), and the streams that the chain goes on with."""
        seeds = random.fold_in(seeds, chain)
        noise = random.row_normal(seeds, random.START_STREAM, self.latent_size)
        return self.prior_scale * noise, seeds

    def _chain_rows(self, x: Tensor, seeds: Tensor, num_chains: int) -> tuple[Tensor, Tensor]:
        """Every row `num_chains` times in a row, each copy with a stream of its own."""
        if num_chains == 1:
            return x, seeds
        chain = tf.tile(tf.range(num_chains, dtype=tf.int32), [tf.shape(x)[0]])
        copies = tf.repeat(seeds, num_chains, axis=0)
        return tf.repeat(x, num_chains, axis=0), random.fold_in(copies, chain)

    # ---- Keras ------------------------------------------------------------------------

    def build(self, input_shape: tuple) -> None:
        if not self.built:
            super().build(input_shape)

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """Reconstruction g(z+) with noise keyed by each example's own values."""
        x = tf.cast(x, tf.float32)
        z = self.sample_posterior(x, random.content_seeds(self.seed, x))
        return self.likelihood.mean(self.decode(z))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], *self.data_shape)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer | None = None,
        energy_optimizer: str | keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: The generator's. Default: the paper's.
            energy_optimizer: The energy's. Default: the paper's.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution` of `keras.Model`.

        Raises:
            ValueError: A loss or metrics (the model has its own), one optimizer for both
                networks, mixed_float16, or under a strategy of several replicas
                `steps_per_execution > 1` or `jit_compile=True`.
        """
        super().compile(optimizer, energy_optimizer=energy_optimizer, **kwargs)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        adam = keras.optimizers.Adam
        return {"optimizer": adam(1e-4, beta_1=0.5), "energy_optimizer": adam(2e-5, beta_1=0.5)}

    def check_data(self, x: Any) -> None:
        of_likelihood = getattr(self.likelihood, "data_range", None)
        of_generator = getattr(self.generator, "output_range", None)
        checks.check_training_data(x, self.data_shape, of_likelihood or of_generator)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """`keras.Model.predict`: reconstructions, in the shape of `x`."""
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            x = checks.as_examples(x, self.data_shape)
        return super().predict(x, *args, **kwargs)

    def inference_parts(self) -> tuple:
        return self.prior_sampler, self.posterior_sampler, self.likelihood

    def train_step(self, data: Any) -> dict[str, Tensor]:
        x = replicas.examples(data)
        seeds = random.row_seeds(self.seed, self.step.value, tf.shape(x)[0])
        grads, logs = self._learning_step(x, seeds, training=True)
        self.apply_gradients(grads)
        self.step.assign_add(1)
        return logs

    def test_step(self, data: Any) -> dict[str, Tensor]:
        x = replicas.examples(data)
        _, logs = self._learning_step(x, random.content_seeds(self.seed, x), training=False)
        return logs

    def _learning_step(
        self, x: Tensor, seeds: Tensor, training: bool
    ) -> tuple[dict[str, list], dict]:
        """Gradients of both losses at fresh z+ and z-, and the metrics updated with them.

        The chains run the networks as in inference; dropout and batch statistics act, and
        weights are regularised, in the two learning passes alone.
        """
        x, seeds, weights = replicas.fill_empty(*self._chain_rows(x, seeds, self.num_chains))
        posterior_start, z_posterior = self._posterior_chain(x, seeds)
        prior_start, z_prior = self._prior_chain(seeds)
        rows = tf.reduce_sum(weights)
        count = replicas.global_sum(rows)
        likelihood = self.likelihood
        loss_scale = likelihood.energy_scale if self.scale_by_sigma else 1.0
        generator_weights = [v.value for v in self.generator.trainable_variables]
        energy_weights = [v.value for v in self.energy.trainable_variables]

        with tf.GradientTape() as tape:
            tape.watch(z_posterior)
            outputs = self.decode(z_posterior, training)
            error = likelihood.error(outputs, x)
            loss = loss_scale * objectives.mean_over_global_batch(error, weights, count)
            regularized = loss + networks.regularization(self.generator)
        generator_grads, z_grad = _gradients(tape, regularized, generator_weights, z_posterior)
        likelihood_grad = z_grad * (count * likelihood.energy_scale / loss_scale)

        with tf.GradientTape() as tape:
            tape.watch(z_posterior)
            energy_posterior = self.tilt(z_posterior, training)
            energy_prior = self.tilt(z_prior, training)
            contrast = objectives.energy_contrast(energy_posterior, energy_prior, weights, count)
            regularized = contrast + networks.regularization(self.energy)
        energy_grads, energy_grad = _gradients(tape, regularized, energy_weights, z_posterior)

        squared = tf.square(x - likelihood.mean(outputs))
        data_axes = list(range(1, squared.shape.rank))
        seen = {
            "generator_loss": loss_scale * error,
            "reconstruction_mse": tf.reduce_mean(squared, axis=data_axes),
            "energy_posterior": energy_posterior,
            "energy_prior": energy_prior,
            "energy_gap": energy_posterior - energy_prior,
            "likelihood_grad_norm": tf.norm(likelihood_grad, axis=-1),
            "energy_grad_norm": tf.norm(energy_grad * count, axis=-1),
            "displacement_posterior": tf.norm(z_posterior - posterior_start, axis=-1),
            "displacement_prior": tf.norm(z_prior - prior_start, axis=-1),
        }
        logs = replicas.update(self._trackers, seen, weights)
        return {"generator": generator_grads, "energy": energy_grads}, logs

    # ---- Row functions: the same graphs for Python, exports and servers ----------------

    def generate_rows(self, seeds: Tensor, compiled: bool = True) -> Tensor:
        """One image per stream of `seeds`, int32 `[B, 2]`."""
        return self.decode_rows(self.sample_prior(seeds, compiled))

    def decode_rows(self, z: Tensor) -> Tensor:
        """One image per latent."""
        return self.likelihood.mean(self.decode(z))

    def infer_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Tensor:
        """Latents `[B, num_chains, d]`."""
        x, seeds = self._chain_rows(x, seeds, num_chains)
        z = self.sample_posterior(x, seeds, compiled)
        return tf.reshape(z, [-1, num_chains, self.latent_size])

    def reconstruct_rows(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Tensor:
        """Reconstructions, in the shape of `x`."""
        return self.decode_rows(self.sample_posterior(x, seeds, compiled))

    def score_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Tensor:
        """Scores `[B]`; see `score`."""
        x, seeds = self._chain_rows(x, seeds, num_chains)
        z = self.sample_posterior(x, seeds, compiled)
        energy = self.posterior_energy(z, x)
        return tf.reduce_mean(tf.reshape(energy, [-1, num_chains]), axis=1)

    # ---- Saving -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        parts = ("generator", "energy", "prior_sampler", "posterior_sampler", "likelihood")
        values = ("latent_size", "prior_scale", "num_chains", "scale_by_sigma", "seed")
        return {
            **super().get_config(),
            **{name: keras.saving.serialize_keras_object(getattr(self, name)) for name in parts},
            **{name: getattr(self, name) for name in values},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LatentEBM":
        parts = ("generator", "energy", "prior_sampler", "posterior_sampler", "likelihood")
        loaded = {name: keras.saving.deserialize_keras_object(config[name]) for name in parts}
        return cls(**{**config, **loaded})


def _gradients(
    tape: tf.GradientTape, loss: Tensor, weights: list, latents: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Towards the weights and towards the latents; 0, not None, for what the loss does not use."""
    *of_weights, of_latents = tape.gradient(
        loss, [*weights, latents], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return of_weights, of_latents

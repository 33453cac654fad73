"""The latent-space energy-based prior over a generator."""

from typing import Any, ClassVar

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfebm import checks, objectives, random
from tfebm.distributions import LogNormalizer, NormalizerBounds
from tfebm.distributions.log_normalizer import annealed_log_normalizer, importance_log_normalizer
from tfebm.errors import InvalidInputError
from tfebm.models import arguments, latents, networks, replicas
from tfebm.models.inference import check_eager
from tfebm.models.latent_variable import gradients, row_norms
from tfebm.models.posterior_chain import PosteriorChainModel
from tfebm.samplers import ShortRunLangevin
from tfebm.types import Latents, Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class LatentEBM(PosteriorChainModel):
    """An energy-based prior in the latent space of a generator, learned by maximum likelihood.

        p(x, z) = exp(-E(z)) N(z; 0, prior_scale**2 I) / Z * p(x | g(z))

    Two short-run chains per batch, started afresh at `N(0, prior_scale**2 I)`:

        U_prior(z)   = E(z) + |z|**2 / (2 prior_scale**2)
        U_post(z; x) = -log p(x | g(z)) + U_prior(z)

    give z- and z+; several layers move together. The generator descends `mean |x - g(z+)|**2`,
    the energy descends `mean E(z+) - mean E(z-)`; both see the same z+, and no gradient flows
    through a chain.

    Args:
        generator: Any Keras layer or model, latents to what the likelihood takes: `[B, d]`, or for
            several layers (`tfebm.MultilayerGenerator`) a tuple of `[B, d_l]`.
        energy: Any Keras layer or model, latents `[B, d]` to energies `[B]` or `[B, 1]`; of several
            layers side by side, d = d_1 + ... + d_L.
        latent_size: d, or the tuple of sizes. Default: what the networks were built for, else 100.
        prior_sampler: The chain for z-. Default: 60 steps of 0.4, the paper's; over sentences 40
            of 0.5.
        posterior_sampler: The chain for z+. Default: 20 steps of 0.1, the paper's; over sentences
            20 of 0.5 without noise.
        likelihood: p(x | z). Default: `GaussianLikelihood(0.3)`. A generator of sentences
            (`tfebm.AutoregressiveGenerator`) brings its own.
        prior_scale: Standard deviation of the base density and of the chains' start.
        num_chains: Chains per example while training; the losses average over them.
        scale_by_sigma: Learn the generator on `-log p(x | z)` itself, with its
            `1 / (2 sigma**2)`; matters for optimizers that are not scale free, like SGD.
        seed: Of all noise in training, together with the step and the global row.
        energy_l2: alpha >= 0, adds `alpha * (mean E(z+)**2 + mean E(z-)**2)` to the energy's loss,
            which bounds its values by `1 / (2 alpha)`. Default: 0; over sentences 0.1: their chain
            for z+ has no noise and that for z- has, so that they never meet, and the energy grows
            as long as it is trained.
        **kwargs: Of `keras.Model`.

    Raises:
        InvalidInputError: A latent size that does not fit the networks, an energy that is not one
            value per row, a network that computes in float16, or a negative `energy_l2`.

    Metrics, all means over examples: `loss`, the generator's loss and the penalties of both
    networks' layers, NaN or infinite where an energy is (its own loss, `energy_gap`, is not among
    it: it says which way to go, and is near 0 when all is well); `generator_loss`, the
    likelihood's error at z+; `energy_posterior`, E(z+); `energy_prior`, E(z-); `energy_gap`, their
    difference; `reconstruction_mse`; norms of gradients and of what the chains move.

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
    metric_names: ClassVar = (
        "generator_loss",
        "energy_posterior",
        "energy_prior",
        "energy_gap",
        "likelihood_grad_norm",
        "energy_grad_norm",
        "displacement_posterior",
        "displacement_prior",
    )
    config_values: ClassVar = (*PosteriorChainModel.config_values, "energy_l2")
    config_parts: ClassVar = (
        "generator",
        "energy",
        "prior_sampler",
        "posterior_sampler",
        "likelihood",
    )

    def __init__(
        self,
        generator: keras.layers.Layer,
        energy: keras.layers.Layer,
        latent_size: latents.LatentSize | None = None,
        prior_sampler: ShortRunLangevin | None = None,
        posterior_sampler: ShortRunLangevin | None = None,
        likelihood: Any = None,
        prior_scale: float = 1.0,
        num_chains: int = 1,
        scale_by_sigma: bool = False,
        seed: int = 0,
        energy_l2: float | None = None,
        **kwargs: Any,
    ) -> None:
        of_sentences = hasattr(generator, "tokenizer")
        default = ShortRunLangevin(20, 0.5, 0.0) if of_sentences else ShortRunLangevin(20, 0.1)
        super().__init__(
            generator,
            latent_size,
            default if posterior_sampler is None else posterior_sampler,
            likelihood,
            prior_scale,
            num_chains,
            scale_by_sigma,
            seed,
            {"energy": energy},
            **kwargs,
        )
        default = ShortRunLangevin(40, 0.5) if of_sentences else ShortRunLangevin(60, 0.4)
        self.prior_sampler = default if prior_sampler is None else prior_sampler
        arguments.check_sampler("prior_sampler", self.prior_sampler)
        if energy_l2 is None:
            energy_l2 = 0.1 if of_sentences else 0.0
        checks.check_number("energy_l2", energy_l2)
        self.energy_l2 = float(energy_l2)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LatentEBM":
        return super().from_config({"energy_l2": 0.0, **config})  # files from before had none

    def build_others(self) -> None:
        shape = (self.total_latent_size,)
        networks.build_energy(self.energy, shape, "latents", "Change `latent_size`")

    # ---- The model as densities -------------------------------------------------------

    def prior_energy(self, z: Latents) -> Tensor:
        """U_prior(z) = E(z) + |z|**2 / (2 prior_scale**2): `[B, d]` to `[B]`."""
        return self.tilt(z) + self.base_energy(z)

    def tilt(self, z: Latents, training: bool | None = None) -> Tensor:
        """E(z), the learned part of the prior, of all layers side by side: float32 `[B]`."""
        return networks.per_row(self.energy(latents.join(z), training=training))

    def estimate_log_normalizer(
        self,
        method: str = "importance",
        num_samples: int | None = None,
        num_temperatures: int = 1000,
        seed: int = 0,
    ) -> LogNormalizer | NormalizerBounds:
        """log Z of the prior, `log E_{p0}[exp(-E(z))]`, with what says how far to trust it.

        Args:
            method: "importance", samples of p0 with their effective sample size; or "annealed",
                which brackets log Z by HMC chains from p0 to the prior and back. The chains back
                start where the prior's short run ends, which is the prior only where it arrives.
            num_samples: Samples (default 100,000), or for "annealed" chains (default 64).
            num_temperatures: Of "annealed".
            seed: Of all noise.

        Returns:
            The estimate; its `value` joins bounds as `evidence_bound(..., log_normalizer=)` where
            it is `reliable`.

        Raises:
            InvalidInputError: Another method.
        """
        check_eager()
        if method not in ("importance", "annealed"):
            raise InvalidInputError(
                f"`method` must be 'importance' or 'annealed'. Received {method!r}."
            )
        scale = tf.fill([self.total_latent_size], self.prior_scale)
        base = tfp.distributions.MultivariateNormalDiag(scale_diag=scale)
        if method == "importance":
            return importance_log_normalizer(self._joined_tilt, base, num_samples or 100_000, seed)
        ends = latents.join(self.sample_prior(random.as_row_seeds(seed, num_samples or 64)))
        return annealed_log_normalizer(
            self._joined_tilt, base, ends, num_temperatures, 0.1 * self.prior_scale, seed=seed
        )

    def _joined_tilt(self, z: Tensor) -> Tensor:
        return networks.per_row(self.energy(z))

    # ---- Chains over rows: plain graph functions, also used by exports -----------------

    def sample_prior(self, seeds: Tensor, compiled: bool = True) -> Latents:
        """z- for the streams `seeds`, int32 `[B, 2]`: `[B, d]`, or a tuple."""
        return self._prior_chain(seeds, compiled)[1]

    def _prior_chain(self, seeds: Tensor, compiled: bool = True) -> tuple[Latents, Latents]:
        """Start and end of the chain on U_prior."""
        start, seeds = self.start(seeds, random.PRIOR)
        chain = self.prior_sampler if compiled else self.prior_sampler.run
        return start, chain(self.prior_energy, start, seed=seeds)

    def inference_parts(self) -> tuple:
        return self.prior_sampler, *super().inference_parts()

    # ---- Learning -----------------------------------------------------------------------

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
        if self.reads_sentences:
            of_energy = keras.optimizers.AdamW(1e-4, weight_decay=1e-3, global_clipnorm=1.0)
            return {"optimizer": adam(1e-3, global_clipnorm=5.0), "energy_optimizer": of_energy}
        return {"optimizer": adam(1e-4, beta_1=0.5), "energy_optimizer": adam(2e-5, beta_1=0.5)}

    def learn(self, x: Tensor, seeds: Tensor, training: bool) -> tuple[dict[str, list], dict]:
        """Gradients of both losses at fresh z+ and z-, and the metrics updated with them.

        The chains run the networks as in inference; dropout and batch statistics act, and
        weights are regularised, in the two learning passes alone.
        """
        x, seeds, weights = replicas.fill_empty(*self.chain_rows(x, seeds, self.num_chains))
        posterior_start, z_posterior = self._posterior_chain(x, seeds, training=training)
        prior_start, z_prior = self._prior_chain(seeds)
        count = replicas.global_sum(tf.reduce_sum(weights))
        generator_grads, seen = self.generator_pass(
            x, posterior_start, z_posterior, weights, count, training, seeds
        )
        energy_weights = [v.value for v in self.energy.trainable_variables]
        networks.forget_losses(self.energy, of=self)
        with tf.GradientTape() as tape:
            with tf.GradientTape(watch_accessed_variables=False) as of_rows:
                of_rows.watch(z_posterior)
                # One pass: batch statistics of each half by itself would hide their difference.
                both = tf.nest.map_structure(
                    lambda *halves: tf.concat(halves, axis=0), z_posterior, z_prior
                )
                energies = tf.split(self.tilt(both, training), 2)
                energy_posterior, energy_prior = energies
            loss = objectives.energy_contrast(*energies, weights, count)
            if self.energy_l2:
                loss += self.energy_l2 * objectives.energy_penalty(*energies, weights, count)
            penalties = networks.penalties(self.energy, of=self)
            loss += penalties * (tf.reduce_sum(weights) / count)
        energy_grads, _ = gradients(tape, loss, energy_weights)
        _, z_grads = gradients(of_rows, energy_posterior, [], z_posterior)
        moved = tf.nest.map_structure(tf.subtract, z_prior, prior_start)
        seen |= {
            "energy_posterior": energy_posterior,
            "energy_prior": energy_prior,
            "energy_gap": energy_posterior - energy_prior,
            "energy_grad_norm": row_norms(z_grads),
            "displacement_prior": row_norms(tf.nest.flatten(moved)),
        }
        # z+ does not notice everything that is wrong with an energy. No constant NaN: the numeric
        # checks of TensorFlow would stop at it.
        size = tf.abs(energy_posterior) + tf.abs(energy_prior)
        wrong = tf.where(tf.math.is_finite(size), 0.0, size)
        loss = seen.pop("loss") + penalties + wrong
        logs = self.track(seen, weights, loss)
        return {"generator": generator_grads, "energy": energy_grads}, logs

"""What `ShortRunModel` and `LatentEBM` share: a short chain that infers latents."""

import math
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfebm import objectives, random
from tfebm.data import checks
from tfebm.errors import InvalidInputError
from tfebm.models import latents, networks
from tfebm.models.latent_variable import LatentVariableModel, gradients, row_norms
from tfebm.samplers import ShortRunLangevin
from tfebm.types import Latents, Tensor

# Children of a row's stream: the noises of the two chains are independent.
PRIOR, POSTERIOR = range(2)


class PosteriorChainModel(LatentVariableModel):
    """A model whose posterior chain starts at N(0, prior_scale**2 I) and runs on U_post.

    The step sizes of that chain are a weight, `posterior_step_size`, float32 `[K, P]` for K steps
    and P latent parts. It starts as the sampler's setting, is saved with the other weights, and
    is what step-size tuning changes. A `posterior_sampler` of other settings that is set later
    (a longer chain for an evaluation) runs with its own step sizes, before and after saving. One
    that is no `ShortRunLangevin` always does.
    """

    posterior_step_size: keras.Variable | None = None

    metric_names: ClassVar[tuple[str, ...]] = (
        "generator_loss",
        "reconstruction_mse",
        "likelihood_grad_norm",
        "displacement_posterior",
    )
    config_values: ClassVar[tuple[str, ...]] = (
        "latent_size",
        "prior_scale",
        "num_chains",
        "scale_by_sigma",
        "seed",
    )

    def __init__(
        self,
        generator: keras.layers.Layer,
        latent_size: latents.LatentSize | None,
        posterior_sampler: ShortRunLangevin,
        likelihood: Any,
        prior_scale: float,
        num_chains: int,
        scale_by_sigma: bool,
        seed: int,
        others: dict[str, keras.layers.Layer] | None = None,
        **kwargs: Any,
    ) -> None:
        if not (math.isfinite(prior_scale) and prior_scale > 0):
            raise InvalidInputError(
                f"`prior_scale` must be a positive number. Received {prior_scale!r}."
            )
        checks.check_count("num_chains", num_chains)
        super().__init__(generator, latent_size, likelihood, seed, others or {}, **kwargs)
        self.posterior_sampler = posterior_sampler
        self.prior_scale = float(prior_scale)
        self.num_chains = int(num_chains)
        self.scale_by_sigma = bool(scale_by_sigma)
        self._first_sampler = posterior_sampler
        if isinstance(posterior_sampler, ShortRunLangevin):
            parts = tuple(tf.zeros([1, size]) for size in latents.sizes(self.latent_size))
            table = posterior_sampler.step_table(None, parts).numpy()
            self.posterior_step_size = self.add_weight(
                name="posterior_step_size",
                shape=table.shape,
                dtype="float32",
                initializer=lambda shape, dtype: tf.constant(table, dtype),
                trainable=False,
                aggregation="only_first_replica",
            )
        self.build((None, *self.data_shape))

    # ---- The model as densities -------------------------------------------------------

    def prior_energy(self, z: Latents) -> Tensor:
        """U_prior(z), up to a constant: `[B]`."""
        return self.base_energy(z)

    def base_energy(self, z: Latents) -> Tensor:
        """|z|**2 / (2 prior_scale**2) over all parts: `[B]`."""
        squares = [tf.reduce_sum(tf.square(part), axis=-1) for part in tf.nest.flatten(z)]
        return tf.add_n(squares) / (2.0 * self.prior_scale**2)

    def posterior_energy(self, z: Latents, x: Tensor) -> Tensor:
        """U_post(z; x) = U_prior(z) - log p(x | g(z)) up to a constant: `[B]`."""
        error = self.likelihood.error(self.decode(z), x)
        return self.prior_energy(z) + self.likelihood.energy_scale * error

    def joint_energy(self, z: Latents, x: Tensor) -> Tensor:
        """-log p(x, z) with all constants but the log Z of a learned prior: `[B]`."""
        log_likelihood = self.likelihood.log_prob(self.decode(z), x)
        return self.prior_energy(z) + self.base_constant - log_likelihood

    @property
    def base_constant(self) -> float:
        """What `base_energy` lacks of -log N(z; 0, prior_scale**2 I)."""
        return self.total_latent_size * math.log(self.prior_scale * math.sqrt(2 * math.pi))

    # ---- Chains over rows: plain graph functions, also used by exports -----------------

    def sample_posterior(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Latents:
        """z+ given `x` `[B, ...]` for the streams `seeds`, int32 `[B, 2]`."""
        return self._posterior_chain(x, seeds, compiled)[1]

    def current_step_size(self) -> Tensor | None:
        """The tuned step sizes; None where the sampler was replaced and has its own."""
        if self.posterior_step_size is None or self._sampler_was_replaced():
            return None
        return tf.convert_to_tensor(self.posterior_step_size.value)

    def _sampler_was_replaced(self) -> bool:
        first, now = self._first_sampler, self.posterior_sampler
        if type(first) is not type(now):
            return True
        # How a chain is compiled does not make it another one.
        return first.get_config() | {"jit_compile": 0} != now.get_config() | {"jit_compile": 0}

    def start(self, seeds: Tensor, chain: int) -> tuple[Latents, Tensor]:
        """z_0 ~ N(0, prior_scale**2 I), and the streams that the chain goes on with."""
        seeds = random.fold_in(seeds, chain)
        noise = latents.standard_normal(seeds, self.latent_size)
        return tf.nest.map_structure(lambda part: self.prior_scale * part, noise), seeds

    def _posterior_chain(
        self, x: Tensor, seeds: Tensor, compiled: bool = True
    ) -> tuple[Latents, Latents]:
        """Start and end of the chain on U_post."""
        start, seeds = self.start(seeds, POSTERIOR)
        chain = self.posterior_sampler if compiled else self.posterior_sampler.run
        step_size = self.current_step_size()
        tuned = {} if step_size is None else {"step_size": step_size}
        return start, chain(self.posterior_energy, start, x, seed=seeds, **tuned)

    # ---- Learning -----------------------------------------------------------------------

    def generator_pass(
        self,
        x: Tensor,
        start: Latents,
        z: Latents,
        weights: Tensor,
        count: Tensor,
        training: bool,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The generator's gradients at z+, and what is seen per row."""
        likelihood = self.likelihood
        loss_scale = likelihood.energy_scale if self.scale_by_sigma else 1.0
        generator_weights = [v.value for v in self.generator.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(z)
            outputs = self.decode(z, training)
            error = likelihood.error(outputs, x)
            loss = loss_scale * objectives.mean_over_global_batch(error, weights, count)
            regularized = loss + networks.regularization(self.generator)
        grads, z_grads = gradients(tape, regularized, generator_weights, z)
        squared = tf.square(x - likelihood.mean(outputs))
        moved = tf.nest.map_structure(tf.subtract, z, start)
        return grads, {
            "generator_loss": loss_scale * error,
            "reconstruction_mse": tf.reduce_mean(squared, axis=list(range(1, squared.shape.rank))),
            "likelihood_grad_norm": row_norms(z_grads)
            * (count * likelihood.energy_scale / loss_scale),
            "displacement_posterior": row_norms(tf.nest.flatten(moved)),
        }

    # ---- Row functions ------------------------------------------------------------------

    def infer_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Latents:
        """Latents `[B, num_chains, d]`."""
        x, seeds = self.chain_rows(x, seeds, num_chains)
        z = self.sample_posterior(x, seeds, compiled)
        return latents.by_example(z, num_chains)

    def reconstruct_rows(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Tensor:
        """Reconstructions g(z+), in the shape of `x`."""
        return self.decode_rows(self.sample_posterior(x, seeds, compiled))

    def score_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Tensor:
        """Scores `[B]`; see `score`."""
        x, seeds = self.chain_rows(x, seeds, num_chains)
        z = self.sample_posterior(x, seeds, compiled)
        energy = self.posterior_energy(z, x)
        return tf.reduce_mean(tf.reshape(energy, [-1, num_chains]), axis=1)

    def inference_parts(self) -> tuple:
        return self.posterior_sampler, self.likelihood

    # ---- Saving -------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self._sampler_was_replaced():
            # The weight has the shape, and the meaning, that the first one gave it.
            config["replaced_by"] = config["posterior_sampler"]
            config["posterior_sampler"] = keras.saving.serialize_keras_object(self._first_sampler)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PosteriorChainModel":
        config = dict(config)
        replaced_by = config.pop("replaced_by", None)
        model = super().from_config(config)
        if replaced_by is not None:
            model.posterior_sampler = keras.saving.deserialize_keras_object(replaced_by)
        return model

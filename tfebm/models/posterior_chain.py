"""What `ShortRunModel` and `LatentEBM` share: a short chain that infers latents."""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfebm import checks, objectives, random
from tfebm.models import arguments, latents, networks
from tfebm.models.latent_variable import LatentVariableModel, gradients, row_norms
from tfebm.samplers import ShortRunLangevin, log_det
from tfebm.types import Latents, Tensor


class PosteriorChainModel(LatentVariableModel):
    """A model whose posterior chain starts at N(0, prior_scale**2 I) and runs on U_post.

    The step sizes of that chain are a weight, `posterior_step_size`, float32 `[K, P]` for K steps
    and P latent parts. It starts as the sampler's setting, is saved with the other weights, and
    is what step-size tuning changes. A `posterior_sampler` of other settings that is set later
    (a longer chain for an evaluation) runs with its own step sizes, before and after saving. One
    that is not a `ShortRunLangevin` always does.
    """

    posterior_step_size: keras.Variable | None = None
    noise_schedule: Any = None
    """Training step to the noise scale of the chain while learning; None: the sampler's own."""
    prior_schedule: Any = None
    """Training step to the weight of the Gaussian prior while learning; None: 1."""

    metric_names: ClassVar[tuple[str, ...]] = (
        "generator_loss",
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
        checks.check_number("prior_scale", prior_scale, above=True)
        checks.check_count("num_chains", num_chains)
        arguments.check_sampler("posterior_sampler", posterior_sampler)
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

    def posterior_energy(self, z: Latents, x: Tensor) -> Tensor:
        """U_post(z; x) = U_prior(z) - log p(x | g(z)) up to a constant: `[B]`."""
        error = self.likelihood.error(self.examples.outputs(z, x), x)
        return self.prior_energy(z) + self.likelihood.energy_scale * error

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
        self, x: Tensor, seeds: Tensor, compiled: bool = True, training: bool = False
    ) -> tuple[Latents, Latents]:
        """Start and end of the chain on U_post."""
        masks = random.fold_in(seeds, random.DROPOUT)
        start, seeds = self.start(seeds, random.POSTERIOR)
        chain = self.posterior_sampler if compiled else self.posterior_sampler.run
        step_size = self.current_step_size()
        options = {} if step_size is None else {"step_size": step_size}
        if training and self.noise_schedule is not None:
            options["noise_scale"] = self.noise_schedule(self.step.value)
        if not training or (self.prior_schedule is None and not self.examples.drops):
            return start, chain(self.posterior_energy, start, x, seed=seeds, **options)
        schedule = self.prior_schedule
        weight = tf.constant(1.0) if schedule is None else schedule(self.step.value)
        weight = tf.ensure_shape(tf.cast(weight, tf.float32), [])
        context = (x, masks, weight)
        end = chain(self.learning_energy, start, *context, seed=seeds, with_step=True, **options)
        return start, end

    def learning_energy(
        self, z: Latents, x: Tensor, masks: Tensor, weight: Tensor, step: int | Tensor = 0
    ) -> Tensor:
        """U_post(z; x) of a learning step's chain: `[B]`.

        Args:
            z: Latents.
            x: Examples.
            masks: int32 `[B, 2]`, streams of the dropout masks, fresh ones for every `step`.
            weight: beta, a scalar, of |z|**2 / (2 prior_scale**2).
            step: Of the chain.
        """
        outputs = self.examples.outputs(z, x, training=True, seeds=random.fold_in(masks, step))
        error = self.likelihood.energy_scale * self.likelihood.error(outputs, x)
        return self.prior_energy(z) + (weight - 1.0) * self.base_energy(z) + error

    # ---- Learning -----------------------------------------------------------------------

    def generator_pass(
        self,
        x: Tensor,
        start: Latents,
        z: Latents,
        weights: Tensor,
        count: Tensor,
        training: bool,
        seeds: Tensor,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The generator's gradients at z+, and what is seen per row, `loss` among it."""
        likelihood = self.likelihood
        loss_scale = likelihood.energy_scale if self.scale_by_sigma else 1.0
        generator_weights = [v.value for v in self.generator.trainable_variables]
        networks.forget_losses(self.generator, of=self)
        with tf.GradientTape() as tape:
            tape.watch(z)
            # The masks of the step behind the chain's last.
            masks = random.fold_in(
                random.fold_in(seeds, random.DROPOUT), self.posterior_sampler.num_steps
            )
            outputs = self.examples.outputs(z, x, training, masks)
            error = likelihood.error(outputs, x)
            loss = loss_scale * objectives.mean_over_global_batch(error, weights, count)
            penalties = networks.penalties(self.generator, of=self)
            loss += penalties * (tf.reduce_sum(weights) / count)
        grads, z_grads = gradients(tape, loss, generator_weights, z)
        moved = tf.nest.map_structure(tf.subtract, z, start)
        return grads, {
            "loss": loss_scale * error + penalties,
            "generator_loss": loss_scale * error,
            **self.examples.seen(outputs, x),
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
        return self.decode_rows(self.sample_posterior(x, seeds, compiled), seeds)

    def score_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Tensor:
        """Scores `[B]`; see `score`."""
        return self.scores_and_errors(x, seeds, num_chains, compiled)[0]

    def scores_and_errors(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> tuple[Tensor, Tensor]:
        """U_post(z+; x) and its part -log p(x | g(z+)) up to a constant, means over the chains:
        `[B]` each."""
        x, seeds = self.chain_rows(x, seeds, num_chains)
        z = self.sample_posterior(x, seeds, compiled)
        error = self.likelihood.energy_scale * self.likelihood.error(self.examples.outputs(z, x), x)
        both = self.prior_energy(z) + error, error
        return tuple(tf.reduce_mean(tf.reshape(e, [-1, num_chains]), axis=1) for e in both)

    def bound_rows(
        self, x: Tensor, seeds: Tensor, sampler: Any = None, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chain's bound on log p(x) for each row; see `tfebm.models.evidence_bound`.

        Args:
            x: Examples `[B, ...]`.
            seeds: int32 `[B, 2]`.
            sampler: Another chain than the model's own.
            **options: Of `tfebm.samplers.log_det.log_det_of_map`.

        Returns:
            log p(x, z_K) - log q(z_K | noise), float64 and without the prior's log Z;
            -log p(x | z_K); and whether the first is a bound: `[B]` each.

        Raises:
            InvalidInputError: A sampler that is not a differentiable map of its start.
        """
        chain = sampler or self.posterior_sampler
        log_det.check_short_run(chain)
        start, streams = self.start(seeds, random.POSTERIOR)
        end, found = log_det.log_det_of_map(
            *(chain, self.joint_energy, start, x),
            seed=streams,
            step_size=None if sampler else self.current_step_size(),
            **{"max_rows": self.rows_at_once, **options},
        )
        log_q = -tf.cast(self.base_energy(start) + self.base_constant, tf.float64) - found.value
        log_likelihood = self.likelihood.log_prob(self.examples.outputs(end, x), x)
        log_joint = log_likelihood - self.prior_energy(end) - self.base_constant
        return tf.cast(log_joint, tf.float64) - log_q, -log_likelihood, found.valid

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

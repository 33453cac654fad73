"""Latents inferred by a short chain."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks, objectives, random
from tfebm.errors import InvalidInputError
from tfebm.models import arguments, gradients, latents, rows
from tfebm.models.parts import Batch, Examples, Lesson, PosteriorChain, Prior
from tfebm.models.starts import EncoderObjective, PriorStart, Start
from tfebm.samplers import Chain, log_det
from tfebm.samplers.chain import check_differentiable
from tfebm.types import Latents, Tensor


class ChainInference(PosteriorChain):
    """A chain on U_post(z; x) = -log p(x | g(z)) + U_prior(z), at whose end the generator learns.

    The step sizes of the chain are a weight of the model, float32 `[K, P]` for K steps and P latent
    parts, where the sampler has a table of them; and so are its momenta, where it has any. Weights
    start as the sampler's settings, are saved with the others, and are what step-size tuning
    changes. A `sampler` of other settings that is set later (a longer chain for an evaluation) runs
    with its own.

    Args:
        examples: Of the model.
        prior: Of the model.
        generator: The network that learns at the chain's ends.
        sampler: The chain.
        num_chains: Chains per example while learning; the loss averages over them.
        scale_by_sigma: Learn on `-log p(x | z)` itself, with its `1 / (2 sigma**2)`.
        add_weight: The model's.
        noise_schedule: Training step to the noise scale of the chain while learning; None: the
            sampler's own.
        prior_schedule: Training step to the weight of the Gaussian prior while learning; None: 1.
        first: The law of the chain's start; None: the prior's Gaussian.
    """

    def __init__(
        self,
        examples: Examples,
        prior: Prior,
        generator: keras.layers.Layer,
        sampler: Chain,
        *,
        num_chains: int,
        scale_by_sigma: bool,
        add_weight: Callable[..., keras.Variable],
        noise_schedule: Any = None,
        prior_schedule: Any = None,
        first: Start | None = None,
    ) -> None:
        checks.check_count("num_chains", num_chains)
        arguments.check_sampler("posterior_sampler", sampler)
        arguments.check_schedule("noise_schedule", noise_schedule)
        arguments.check_schedule("prior_schedule", prior_schedule)
        super().__init__(examples, prior)
        self.generator, self.first = generator, first or PriorStart(prior)
        has_noise = noise_schedule is not None or bool(np.any(sampler.noise_scale))
        if self.first.objective == "chain" and not has_noise:
            warnings.warn(
                'The encoder learns the law of the ends of chains (`encoder_objective="chain"`), '
                "and these chains have no noise: every example has one end, and the encoder's "
                "spread goes to 0. Give `posterior_sampler` a `noise_scale`, such as 1, or learn "
                'the encoder by "elbo".',
                stacklevel=3,
            )
        self.watchers = self.first.watchers
        self.sampler = self.first_sampler = sampler
        self.num_chains, self.scale_by_sigma = int(num_chains), bool(scale_by_sigma)
        self.noise_schedule, self.prior_schedule = noise_schedule, prior_schedule
        self.step_size = self.momentum = None

        def tuned(name: str, table: Tensor) -> keras.Variable:
            return add_weight(
                name=f"posterior_{name}",
                shape=table.shape,
                dtype="float32",
                initializer=lambda shape, dtype: tf.cast(table, dtype),
                trainable=False,
                aggregation="only_first_replica",
            )

        parts = tuple(tf.zeros([1, size]) for size in latents.sizes(prior.latent_size))
        if sampler.is_differentiable:
            self.step_size = tuned("step_size", sampler.step_table(None, parts))
        if sampler.has_momentum:
            self.momentum = tuned("momentum", sampler.momentum_table(None, parts))

    @property
    def metric_names(self) -> tuple[str, ...]:
        names = "generator_loss", "likelihood_grad_norm", "displacement_posterior"
        return (*names, *self.first.metric_names)

    @property
    def encoder_objective(self) -> EncoderObjective | None:
        """How the encoder of the start learns; None without one."""
        return self.first.objective

    @encoder_objective.setter
    def encoder_objective(self, value: Any) -> None:
        raise InvalidInputError(
            "`encoder_objective` is fixed when a model is made: its learning step belongs to it. "
            f"Received {value!r}. Make a new model of the same networks."
        )

    @property
    def answers(self) -> frozenset[str]:
        bound = {"bound"} if self.sampler.is_differentiable else set()
        return frozenset({"infer", "reconstruct", "features", "errors"} | bound)

    @property
    def samplers(self) -> Mapping[str, Chain]:
        return {"posterior_sampler": self.sampler}

    @property
    def chain(self) -> PosteriorChain:
        return self

    @property
    def was_replaced(self) -> bool:
        """Whether `sampler` is another chain than the one that the model was made with."""
        first, now = self.first_sampler, self.sampler
        if type(first) is not type(now):
            return True
        # How a chain is compiled does not make it another one.
        return first.get_config() | {"jit_compile": 0} != now.get_config() | {"jit_compile": 0}

    def current_settings(self) -> dict[str, Tensor]:
        """See `PosteriorChain`."""
        tuned = {} if self.was_replaced else self.settings
        return {name: tf.convert_to_tensor(weight.value) for name, weight in tuned.items()}

    # ---- The chain ----------------------------------------------------------------------

    def sample(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Latents:
        return self._chain(x, seeds, compiled)[1]

    def _chain(
        self,
        x: Tensor,
        seeds: Tensor,
        compiled: bool = True,
        **options: Tensor,
    ) -> tuple[Latents, Latents]:
        """Start and end of the chain on U_post."""
        start, streams = self.first.draw(x, seeds)
        chain = self.sampler if compiled else self.sampler.run
        options |= self.current_settings()
        return start, chain(self.joint.posterior_energy, start, x, seed=streams, **options)

    def _learning_chain(self, batch: Batch) -> tuple[Latents, Latents]:
        """Start and end of the chain of a learning step."""
        options = {}
        if self.noise_schedule is not None:
            options["noise_scale"] = self.noise_schedule(batch.step)
        if not self._has_learning_energy(batch):
            return self._chain(batch.x, batch.seeds, **options)
        start, streams = self.first.draw(batch.x, batch.seeds)
        options |= self.current_settings()
        context = (batch.x, *self._of_step(batch))
        end = self.sampler(
            self.learning_energy, start, *context, seed=streams, with_step=True, **options
        )
        return start, end

    def _has_learning_energy(self, batch: Batch) -> bool:
        """Whether U_post of this batch is not that of inference."""
        return batch.training and (self.prior_schedule is not None or self.examples.draws_masks)

    def _of_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Masks and weight of `learning_energy` in a step."""
        schedule = self.prior_schedule
        weight = tf.constant(1.0) if schedule is None else schedule(batch.step)
        masks = random.fold_in(batch.seeds, random.DROPOUT)
        return masks, tf.ensure_shape(tf.cast(weight, tf.float32), [])

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
        likelihood, prior = self.examples.likelihood, self.prior
        outputs = self.examples.outputs(z, x, training=True, seeds=random.fold_in(masks, step))
        error = likelihood.energy_scale * likelihood.error(outputs, x)
        return prior.energy(z) + (weight - 1.0) * prior.base_energy(z) + error

    # ---- Learning -----------------------------------------------------------------------

    def learn(self, batch: Batch) -> tuple[Latents, Lesson]:
        found = self._learning_chain(batch) if batch.training else self._chain(batch.x, batch.seeds)
        start, z = found
        likelihood, x = self.examples.likelihood, batch.x
        scale = likelihood.energy_scale if self.scale_by_sigma else 1.0
        of_row = random.fold_in(batch.seeds, random.DROPOUT)
        # The masks of the step behind the chain's last.
        masks = random.fold_in(of_row, self.sampler.num_steps)

        def error_at_end() -> tuple[Tensor, tuple[Tensor, Any]]:
            outputs = self.examples.outputs(z, x, batch.training, masks)
            error = likelihood.error(outputs, x)
            mean = objectives.mean_over_global_batch(error, batch.weights, batch.count)
            return scale * mean, (error, outputs)

        descent = gradients.descend(batch, {"generator": self.generator}, error_at_end, towards=z)
        error, outputs = descent.found
        of_rows = batch.count * likelihood.energy_scale / scale
        seen = {
            "generator_loss": scale * error,
            **self.examples.seen(outputs, x),
            "likelihood_grad_norm": gradients.row_norms(descent.towards) * of_rows,
            "displacement_posterior": gradients.moved(z, start),
        }
        of_start = self.first.learn(batch, z, self._energy_of(batch))
        loss = scale * error + descent.penalties + of_start.loss
        return z, Lesson({**descent.grads, **of_start.grads}, {**seen, **of_start.seen}, loss)

    def _energy_of(self, batch: Batch) -> Callable[[Latents, Tensor], Tensor]:
        """U_post(z; x) of a batch."""
        if not self._has_learning_energy(batch):
            return self.joint.posterior_energy
        masks, weight = self._of_step(batch)
        # Masks behind those of the chain and of the generator.
        step = self.sampler.num_steps + 1
        return lambda z, x: self.learning_energy(z, x, masks, weight, step)

    # ---- Row functions ------------------------------------------------------------------

    def scores(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> tuple[Tensor, Tensor]:
        z = self.sample(x, seeds, compiled)
        error = self.joint.error(z, x)
        return self.prior.energy(z) + error, error

    def features(self, x: Tensor, seeds: Tensor, num_chains: int, compiled: bool = True) -> Tensor:
        return rows.mean_of_draws(self.sample, x, seeds, num_chains, compiled)

    def bound(
        self, x: Tensor, seeds: Tensor, *, sampler: Chain | None = None, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Inference.bound`.

        Args:
            x: Examples `[B, ...]`.
            seeds: int32 `[B, 2]`.
            sampler: Another chain than the model's own.
            **options: Of `tfebm.samplers.log_det.log_det_of_map`.

        Raises:
            InvalidInputError: A sampler that is not a differentiable map of its start.
        """
        chain = sampler or self.sampler
        check_differentiable(chain)
        start, streams = self.first.draw(x, seeds)
        settings: dict[str, Any] = {} if sampler else {**self.current_settings()}
        settings |= {"max_rows": self.examples.rows_at_once, **options}
        energy_fn = self.joint.joint_energy
        end, found = log_det.log_det_of_map(chain, energy_fn, start, x, seed=streams, **settings)
        log_q = tf.cast(self.first.log_prob(start, x), tf.float64) - found.value
        log_likelihood = self.examples.likelihood.log_prob(self.examples.outputs(end, x), x)
        log_joint = log_likelihood - self.prior.energy(end) - self.prior.base_constant
        return tf.cast(log_joint, tf.float64) - log_q, -log_likelihood, found.valid

"""Latents drawn from an encoder's Gaussians, independently or down a ladder."""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfebm import objectives, random
from tfebm.errors import InvalidInputError
from tfebm.models import gaussians, gradients, latents, replicas
from tfebm.models.moments import GaussianEncoder, total
from tfebm.models.parts import Batch, Examples, Inference, Lesson, Prior
from tfebm.types import Latents, LayeredGenerator, Tensor


class EncoderInference(Inference):
    """Draws every layer of latents from the encoder's Gaussian, and descends -ELBO.

    Args:
        examples: Of the model.
        prior: Of the model, N(0, I).
        generator: The network that learns p(x | u).
        encoder: The network that learns q(u | x).
        kl_warmup_steps: Training steps over which beta rises from 0 to 1.
        free_bits: Nats of KL that every unit has for nothing while learning.
    """

    kind: ClassVar[str] = "mean_field"
    answers = frozenset({"infer", "reconstruct", "features", "errors", "bound"})

    def __init__(
        self,
        examples: Examples,
        prior: Prior,
        generator: keras.layers.Layer,
        encoder: keras.layers.Layer,
        *,
        kl_warmup_steps: int,
        free_bits: float,
    ) -> None:
        super().__init__(examples, prior)
        self.generator, self.encoder = generator, encoder
        self.kl_warmup_steps, self.free_bits = int(kl_warmup_steps), float(free_bits)
        self.q = GaussianEncoder(
            *(examples, prior.latent_size, encoder),
            remedy="Raise `kl_warmup_steps` or `free_bits`, or infer by chains.",
        )
        self.watchers = (self.q.warn_of_collapse,)

    @property
    def metric_names(self) -> tuple[str, ...]:
        size = self.prior.latent_size
        layers = len(size) if isinstance(size, tuple) else 0
        return ("generator_loss", "kl", "elbo", *(f"kl_layer_{i}" for i in range(layers)))

    # ---- The posterior ------------------------------------------------------------------

    def draw(
        self, x: Tensor, seeds: Tensor, training: bool | None = None
    ) -> tuple[Latents, Any, list[Tensor]]:
        """A draw u ~ q, what the likelihood takes of it, and the KL of every unit.

        Args:
            x: `[B, ...]`.
            seeds: int32 `[B, 2]`.
            training: Of the networks.

        Returns:
            u, the outputs, and for each layer `[B, d_l]`.
        """
        seeds = random.fold_in(seeds, random.POSTERIOR)
        moments = self.q.moments(x, training)
        u = self.q.draw(moments, seeds)
        masks = random.fold_in(seeds, random.DROPOUT)
        outputs = self.examples.outputs(u, x, training, masks)
        return u, outputs, [gaussians.unit_kl(*each) for each in moments]

    # ---- Row functions ------------------------------------------------------------------

    def sample(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Latents:
        return self.draw(x, seeds)[0]

    def scores(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> tuple[Tensor, Tensor]:
        _, outputs, divergences = self.draw(x, seeds)
        error = -self.examples.likelihood.log_prob(outputs, x)
        return error + total(divergences), error

    def features(self, x: Tensor, seeds: Tensor, num_chains: int, compiled: bool = True) -> Tensor:
        return latents.join([mean for mean, _ in self.q.moments(x)])

    def bound(self, x: Tensor, seeds: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        if options:
            raise _no_bound(", ".join(options))
        u, outputs, _ = self.draw(x, seeds)
        log_ratio = 0.0
        for part, (mean, log_variance) in zip(tf.nest.flatten(u), self.q.moments(x), strict=True):
            squares = tf.square(part - mean) * tf.exp(-log_variance) + log_variance
            log_ratio += 0.5 * tf.reduce_sum(squares - tf.square(part), axis=1)
        log_likelihood = self.examples.likelihood.log_prob(outputs, x)
        valid = tf.ones_like(log_likelihood, tf.bool)
        return tf.cast(log_likelihood + log_ratio, tf.float64), -log_likelihood, valid

    # ---- Learning -----------------------------------------------------------------------

    def kl_weight(self, step: Tensor) -> Tensor:
        """beta at a training step: min(1, step / kl_warmup_steps), a float32 scalar."""
        if not self.kl_warmup_steps:
            return tf.constant(1.0)
        # A variable in the graph: the same trace serves all steps, and the schedule is resumed
        # with the weights.
        return tf.minimum(1.0, tf.cast(step, tf.float32) / self.kl_warmup_steps)

    def learn(self, batch: Batch) -> tuple[Latents, Lesson]:
        """Gradients of -ELBO by reparametrisation."""
        likelihood = self.examples.likelihood
        beta = self.kl_weight(batch.step) if batch.training else 1.0

        def bound() -> tuple[Tensor, tuple[Latents, Any, Tensor, list[Tensor]]]:
            u, outputs, divergences = self.draw(batch.x, batch.seeds, batch.training)
            error = likelihood.error(outputs, batch.x)
            kl = self._costly(divergences, batch) if batch.training else total(divergences)
            losses = likelihood.energy_scale * error + beta * kl
            mean = objectives.mean_over_global_batch(losses, batch.weights, batch.count)
            return mean, (u, outputs, error, divergences)

        trained = {"generator": self.generator, "encoder": self.encoder}
        descent = gradients.descend(batch, trained, bound)
        u, outputs, error, divergences = descent.found
        kl = total(divergences)
        elbo = likelihood.log_prob(outputs, batch.x) - kl
        seen = {
            "generator_loss": error,
            **self.examples.seen(outputs, batch.x),
            "kl": kl,
            "elbo": elbo,
        }
        if isinstance(self.prior.latent_size, tuple):
            seen |= {f"kl_layer_{i}": total([layer]) for i, layer in enumerate(divergences)}
        return u, Lesson(descent.grads, seen, descent.penalties - elbo)

    def _costly(self, divergences: list[Tensor], batch: Batch) -> Tensor:
        """`[B]`: the KL of the units whose mean over the global batch exceeds `free_bits`.

        Its gradient is that of `sum_i max(free_bits, mean KL_i)`.
        """
        units = tf.concat(divergences, axis=1)
        if self.free_bits:
            shares = tf.reduce_sum(batch.weights[:, tf.newaxis] * units, axis=0) / batch.count
            means = replicas.global_sum(tf.stop_gradient(shares))
            units = tf.where(means > self.free_bits, units, 0.0)
        return tf.reduce_sum(units, axis=1)


class LadderInference(EncoderInference):
    """Draws latents from the top down, where the encoder's Gaussians meet the generator's own.

        q(z_l | z_{l-1}, x) proportional to N(z_l; mean_l, var_l) N(z_l; m_l, exp(v_l))

    References: C. K. Sonderby et al. Ladder Variational Autoencoders. NeurIPS 2016, section 2.
    """

    kind = "ladder"
    answers = frozenset({"infer", "reconstruct", "errors"})
    generator: LayeredGenerator

    def draw(
        self, x: Tensor, seeds: Tensor, training: bool | None = None
    ) -> tuple[Latents, Any, list[Tensor]]:
        streams = random.fold_in(seeds, random.POSTERIOR)
        noise = tf.nest.flatten(latents.standard_normal(streams, self.prior.latent_size))
        encoded = self.q.moments(x, training)
        draws: list[Tensor] = []
        divergences: list[Tensor] = []

        def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
            # KL(q(z_l) || p(z_l)) is the same in the whitened coordinates: both are densities of
            # one variable, and an invertible map of it leaves their ratio as it is.
            divergences.append(gaussians.unit_kl(mean, log_variance))
            draws.append(mean + tf.exp(0.5 * log_variance) * noise[len(draws)])
            return draws[-1]

        def choose(layer: int, mean: Tensor | None, log_variance: Tensor | None) -> Tensor:
            if mean is None or log_variance is None:
                return draw(*encoded[layer])
            u = draw(*gaussians.merge(*encoded[layer], mean, log_variance))
            return mean + tf.exp(0.5 * log_variance) * u

        outputs = tf.cast(self.generator.descend(choose), tf.float32)
        return latents.pack(draws, self.prior.latent_size), outputs, divergences

    def features(self, x: Tensor, seeds: Tensor, num_chains: int, compiled: bool = True) -> Tensor:
        raise InvalidInputError(
            "The layers of a ladder below the top have no posterior mean without a draw of "
            "those above. Use `infer(x, num_chains=...)` and average."
        )

    def bound(self, x: Tensor, seeds: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        raise _no_bound('inference="ladder"')


KINDS = {kind.kind: kind for kind in (EncoderInference, LadderInference)}
"""By the argument `inference` of `VAE`."""


def _no_bound(what: str) -> InvalidInputError:
    return InvalidInputError(
        "A bound of a VAE is that of a mean-field encoder, and takes no options of "
        f"log-determinants. Received {what}."
    )

"""Where a chain that infers latents begins: at the prior's Gaussian, or at an encoder's."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import keras

from tfebm import checks, objectives, random
from tfebm.errors import InvalidInputError
from tfebm.models import gaussians, gradients
from tfebm.models.moments import GaussianEncoder, total
from tfebm.models.parts import Batch, Examples, Lesson, Prior, Watcher
from tfebm.types import Latents, Tensor

EncoderObjective = Literal["elbo", "chain"]


class Start(abc.ABC):
    """The law of z_0 given x, and what learns it."""

    metric_names: ClassVar[tuple[str, ...]] = ()
    objective: EncoderObjective | None = None
    """How it learns."""
    watchers: Sequence[Watcher] = ()
    """See `Inference`."""

    @abc.abstractmethod
    def draw(self, x: Tensor, seeds: Tensor) -> tuple[Latents, Tensor]:
        """z_0, and the streams that the chain goes on with; networks run as in inference.

        Args:
            x: Examples `[B, ...]`.
            seeds: int32 `[B, 2]`.
        """

    @abc.abstractmethod
    def log_prob(self, z: Latents, x: Tensor) -> Tensor:
        """log q(z_0 | x), `[B]`."""

    def learn(
        self, batch: Batch, end: Latents, energy: Callable[[Latents, Tensor], Tensor]
    ) -> Lesson:
        """Gradients, metrics and penalties of a batch.

        Args:
            batch: Examples, seeds and weights.
            end: z_K of each row.
            energy: U_post(z; x) of this step, with its schedule and its dropout masks: `[B]`.
        """
        return Lesson({}, {}, 0.0)


class PriorStart(Start):
    """z_0 ~ N(0, prior_scale**2 I), whatever x is."""

    def __init__(self, prior: Prior) -> None:
        self._prior = prior

    def draw(self, x: Tensor, seeds: Tensor) -> tuple[Latents, Tensor]:
        return self._prior.start(seeds, random.POSTERIOR)

    def log_prob(self, z: Latents, x: Tensor) -> Tensor:
        return -(self._prior.base_energy(z) + self._prior.base_constant)


class EncoderStart(Start):
    """z_0 ~ q(z | x) of an encoder, which learns beside the model in one of two ways:

        "elbo":   it descends E_q[U_post(z; x) + log q(z | x)], the generator held still;
        "chain":  it descends -log q(z_K | x), at the end of the chain.

    "elbo" is a VAE's encoder, and may collapse where a VAE's does. While learning, U_post is that
    of the step: with the prior's weight of a `prior_schedule`, and dropout masks where the
    generator has them. "chain" is maximum likelihood of the chain's ends: an encoder that has
    collapsed starts chains at the prior, as no encoder does. It learns the law that the chain has,
    which at a noise scale T far below 1 is narrower than the posterior, and without noise a point.

    Args:
        examples: Of the model.
        prior: Of the model.
        encoder: The network.
        objective: "elbo" or "chain".

    References: J. Xie, Y. Lu, R. Gao, S.-C. Zhu, Y. N. Wu. Cooperative Training of Descriptor and
    Generator Networks. TPAMI 2018 (learning from a chain's ends). Y. Kim et al. Semi-Amortized
    Variational Autoencoders. ICML 2018 (inference that goes on from an encoder).
    """

    metric_names = ("encoder_loss", "kl")

    def __init__(
        self,
        examples: Examples,
        prior: Prior,
        encoder: keras.layers.Layer,
        objective: EncoderObjective,
    ) -> None:
        self._prior = prior
        others = {
            "elbo": 'Learn it by `encoder_objective="chain"`',
            "chain": "Lower the chain's noise",
        }
        self.q = GaussianEncoder(
            *(examples, prior.latent_size, encoder),
            remedy=f"Chains begin as at the prior. {others[objective]}, or leave the encoder out.",
        )
        self.watchers = (self.q.warn_of_collapse,)
        self.objective = objective

    def draw(self, x: Tensor, seeds: Tensor) -> tuple[Latents, Tensor]:
        streams = random.fold_in(seeds, random.POSTERIOR)
        return self.q.draw(self.q.moments(x), streams), streams

    def log_prob(self, z: Latents, x: Tensor) -> Tensor:
        return self.q.log_prob(self.q.moments(x), z)

    def learn(
        self, batch: Batch, end: Latents, energy: Callable[[Latents, Tensor], Tensor]
    ) -> Lesson:
        def loss() -> tuple[Tensor, tuple[Tensor, Tensor]]:
            moments = self.q.moments(batch.x, batch.training)
            if self.objective == "elbo":
                z = self.q.draw(moments, random.fold_in(batch.seeds, random.POSTERIOR))
                value = energy(z, batch.x) + self.q.log_prob(moments, z)
            else:
                value = -self.q.log_prob(moments, end)
            mean = objectives.mean_over_global_batch(value, batch.weights, batch.count)
            divergences = [gaussians.kl(*each, self._prior.scale) for each in moments]
            return mean, (value, total(divergences))

        descent = gradients.descend(batch, {"encoder": self.q.network}, loss)
        value, kl = descent.found
        return Lesson(descent.grads, {"encoder_loss": value, "kl": kl}, descent.penalties)


def start_of(
    examples: Examples, prior: Prior, encoder: keras.layers.Layer | None, objective: Any
) -> Start:
    """The start that a model's arguments `encoder` and `encoder_objective` ask for."""
    if encoder is None:
        if objective is not None:
            raise InvalidInputError(
                "`encoder_objective` says how an encoder learns. Received "
                f"{objective!r} without an `encoder`. Give one, or leave the objective out."
            )
        return PriorStart(prior)
    checks.check_choice("encoder_objective", objective or "elbo", get_args(EncoderObjective))
    return EncoderStart(examples, prior, encoder, cast(EncoderObjective, objective or "elbo"))

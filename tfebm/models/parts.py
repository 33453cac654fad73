"""The three parts that make a model, and what they hand each other.

| the question               | the part    | what else it knows                                 |
|----------------------------|-------------|----------------------------------------------------|
| what is an example?        | `Examples`  | checks, tensors, p(x given z), rendering, defaults |
| what are latents a priori? | `Prior`     | its energy, samples, and what the energy learns    |
| how are they inferred?     | `Inference` | latents of x, and what the other networks learn    |

A part is a plain object. It refers to networks and weights that the model owns, so that Keras saves
and places them once.
"""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

from tfebm import checks, random
from tfebm.distributions import LogNormalizer, NormalizerBounds
from tfebm.endpoints import Outputs, example_spec
from tfebm.errors import InvalidInputError
from tfebm.models import batches, latents
from tfebm.models.defaults import Defaults
from tfebm.samplers import Chain
from tfebm.types import Array, EnergyFn, Latents, Tensor

Normalizer = LogNormalizer | NormalizerBounds

Watcher = Callable[[int, Mapping[str, Any] | None], None]
"""Warns of what the mean metrics of an epoch, and its number from 0, show to be wrong."""


class Batch(NamedTuple):
    """A batch of a step of learning or of an evaluation."""

    x: Tensor
    """`[B, ...]`; the last row may be one that only fills up."""
    seeds: Tensor
    """int32 `[B, 2]`: a stream for each row."""
    weights: Tensor
    """`[B]`: 0 for the row that fills up, else 1."""
    count: Tensor
    """Scalar: the rows of the global batch that count."""
    step: Tensor
    """Scalar: training steps before this one."""
    training: bool
    owner: keras.Model
    """The model, whose own losses count too (`add_loss` in a method that a subclass writes)."""


class Lesson(NamedTuple):
    """What a part learns from a batch, and what is to be seen of it."""

    grads: dict[str, list[Tensor]]
    """By network; the model's optimizers descend them."""
    seen: dict[str, Tensor]
    """Metrics of each row, `[B]`."""
    loss: Tensor | float
    """`[B]`: its share of the metric `loss`."""


class Tilt(NamedTuple):
    """A prior as the tilt of a base, `exp(-E(z)) base(z) / Z`, over all parts side by side."""

    energy_fn: EnergyFn
    base: Any
    """A distribution of TFP."""
    num_samples: int
    """Samples of the base that are a fair number."""
    step_size: float
    """Of HMC between the base and the tilt."""


class Examples(abc.ABC):
    """What an example is: how examples are checked and handed over, how p(x | z) reads what the
    generator returns, and how latents become examples again."""

    shape: tuple[int | None, ...]
    """Of one example, as the model reads it."""
    defaults: Defaults
    """Settings that suit examples of this kind."""
    likelihood: Any
    """p(x | z)."""
    served_answers: frozenset[str] = frozenset({"infer", "reconstruct", "features"})
    """Which of an inference's `answers` servers are given."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Of `seen`."""
        return ()

    @property
    def spec(self) -> tf.TensorSpec:
        """Of a batch, as the model reads it."""
        return example_spec(self.shape)

    @property
    def draws_masks(self) -> bool:
        """Whether the chain of a learning step draws dropout masks."""
        return False

    @property
    def rows_at_once(self) -> int:
        """How many rows are evaluated at once, for a memory that is bounded."""
        return 1024

    @property
    def vocabulary_size(self) -> int | None:
        """Of ids; None of examples that are none."""
        return None

    @property
    def saved_likelihood(self) -> Any:
        """What a saved model holds of p(x | z); None where the generator brings it."""
        return None

    @abc.abstractmethod
    def check(self, x: Any) -> None:
        """Raises `InvalidInputError` for what cannot be learned."""

    @abc.abstractmethod
    def as_batch(self, x: Any) -> Tensor:
        """A batch in the model's own type, checked as far as its type says."""

    @abc.abstractmethod
    def tensor(self, x: Any) -> Tensor:
        """A user's examples for inference, `[N, ...]`, checked."""

    def holds(self, x: Any) -> bool:
        """Whether `x` is examples, rather than a source of batches."""
        return batches.is_array(x)

    def two(self) -> Tensor:
        """A batch of two examples, to build networks with."""
        return tf.zeros([2, *self.shape])

    @abc.abstractmethod
    def default_encoder(self, latent_size: latents.LatentSize) -> keras.layers.Layer:
        """An encoder for examples of this kind."""

    def order(self, x: Tensor) -> Array | None:
        """An order of rows that makes good batches; None where any does."""
        return None

    def trim(self, x: Tensor) -> Tensor:
        """A batch without what all its rows lack."""
        return x

    @abc.abstractmethod
    def outputs(
        self, z: Latents, x: Tensor, training: bool | None = None, seeds: Tensor | None = None
    ) -> Any:
        """What the likelihood takes: the generator's outputs, or its states along `x`."""

    def seen(self, outputs: Any, x: Tensor) -> dict[str, Tensor]:
        """`metric_names` of each row."""
        return {}

    @abc.abstractmethod
    def render(self, z: Latents, seeds: Tensor | None = None, decoding: Any = None) -> Tensor:
        """One example per latent."""

    # ---- At a server ----------------------------------------------------------------------

    @property
    def needs_tensorflow_text(self) -> bool:
        """Whether served functions hold operations of tensorflow-text."""
        return False

    @property
    def resources(self) -> Sequence[Any]:
        """Lookup tables that served functions read."""
        return ()

    def served_input(self) -> tf.TensorSpec:
        """Of a served batch."""
        return self.spec

    def checked_length(self, max_length: int | None) -> int | None:
        """The most tokens of an example that a server reads; None for what has none."""
        if max_length is not None:
            raise InvalidInputError(
                "`max_length` is of sentences, but this model's examples are arrays. Leave it out."
            )
        return None

    @abc.abstractmethod
    def reads(
        self, function: Callable[..., Outputs], max_length: int | None
    ) -> Callable[..., Outputs]:
        """A function of examples as one of served values."""

    def served(self, z: Latents, seeds: Tensor | None = None) -> Outputs:
        """Outputs of a served function that renders latents."""
        return {self.spec.name: self.render(z)}


class Part:
    """A part that may learn, and may run chains."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics that `learn` returns."""
        return ()

    @property
    def samplers(self) -> Mapping[str, Chain]:
        """Its chains by their names."""
        return {}


class Prior(Part, abc.ABC):
    """What latents are a priori: p(z) proportional to exp(-energy(z)).

    Args:
        latent_size: d, or the tuple of sizes.
        scale: Standard deviation of the Gaussian that is the base of the density and the chains'
            start.
    """

    latent_size: latents.LatentSize
    scale: float

    def __init__(self, latent_size: latents.LatentSize, scale: float = 1.0) -> None:
        self.latent_size = latent_size
        self.scale = checks.check_number("prior_scale", scale, above=True)

    @property
    def size(self) -> int:
        """d, over all parts."""
        return sum(latents.sizes(self.latent_size))

    @property
    def base_constant(self) -> float:
        """What `base_energy` lacks of -log N(z; 0, scale**2 I)."""
        return self.size * math.log(self.scale * math.sqrt(2 * math.pi))

    def base_energy(self, z: Latents) -> Tensor:
        """|z|**2 / (2 scale**2) over all parts: `[B]`."""
        squares = [tf.reduce_sum(tf.square(part), axis=-1) for part in tf.nest.flatten(z)]
        return tf.add_n(squares) / (2.0 * self.scale**2)

    @abc.abstractmethod
    def energy(self, z: Latents) -> Tensor:
        """U_prior(z), up to a constant: `[B]`."""

    def start(self, seeds: Tensor, child: int) -> tuple[Latents, Tensor]:
        """z_0 ~ N(0, scale**2 I) of a chain, and the streams that the chain goes on with."""
        seeds = random.fold_in(seeds, child)
        noise = latents.standard_normal(seeds, self.latent_size)
        return tf.nest.map_structure(lambda part: self.scale * part, noise), seeds

    @abc.abstractmethod
    def sample(self, seeds: Tensor, compiled: bool = True) -> Latents:
        """Latents for the streams `seeds`, int32 `[B, 2]`; without `compiled` as plain
        operations."""

    def tilt_of_base(self) -> Tilt:
        """What log Z is estimated of.

        Raises:
            InvalidInputError: A prior without an energy.
        """
        raise InvalidInputError(
            "log Z is that of a learned energy. Received the prior "
            f"{type(self).__name__}, which has none. Leave the estimate out."
        )

    def kept(self, estimate: Normalizer) -> Normalizer:
        """An estimate of log Z, when the prior has taken note of it."""
        return estimate

    def learn(self, batch: Batch, z: Latents) -> Lesson:
        """What the prior learns from a batch whose latents are `z`."""
        return Lesson({}, {}, 0.0)


class Joint:
    """p(x, z) of a prior and a likelihood."""

    def __init__(self, examples: Examples, prior: Prior) -> None:
        self._examples, self._prior = examples, prior

    def error(self, z: Latents, x: Tensor) -> Tensor:
        """-log p(x | z) up to a constant: `[B]`."""
        likelihood: Any = self._examples.likelihood
        return likelihood.energy_scale * likelihood.error(self._examples.outputs(z, x), x)

    def posterior_energy(self, z: Latents, x: Tensor) -> Tensor:
        """U_post(z; x) = U_prior(z) - log p(x | z), up to a constant: `[B]`."""
        return self._prior.energy(z) + self.error(z, x)

    def joint_energy(self, z: Latents, x: Tensor) -> Tensor:
        """-log p(x, z) with all constants but the log Z of a learned prior: `[B]`."""
        log_likelihood = self._examples.likelihood.log_prob(self._examples.outputs(z, x), x)
        return self._prior.energy(z) + self._prior.base_constant - log_likelihood


class Inference(Part, abc.ABC):
    """How latents of examples are inferred.

    Args:
        examples: Of the model.
        prior: Of the model.
    """

    takes_seed = True
    """Whether a score depends on a stream of noise."""
    num_chains = 1
    """Copies of every example in a step of learning."""
    watchers: Sequence[Watcher] = ()
    """What looks at every epoch of learning."""

    def __init__(self, examples: Examples, prior: Prior) -> None:
        self.examples, self.prior = examples, prior
        self.joint = Joint(examples, prior)

    @property
    def answers(self) -> frozenset[str]:
        """What it can answer of "infer", "reconstruct", "features", "errors" (the part
        -log p(x | z) of a score) and "bound"."""
        return frozenset()

    @property
    def chain(self) -> "PosteriorChain | None":
        """What can be tuned; None where no chain infers."""
        return None

    @abc.abstractmethod
    def sample(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Latents:
        """One draw of latents for each row.

        Raises:
            InvalidInputError: A model without latents, or without a way to infer them.
        """

    @abc.abstractmethod
    def scores(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> tuple[Tensor, Tensor]:
        """The score of each row by one draw, and its part -log p(x | z): `[B]` each."""

    def features(self, x: Tensor, seeds: Tensor, num_chains: int, compiled: bool = True) -> Tensor:
        """Means of the latents of each row, all layers side by side: `[B, d]`."""
        return latents.join(self.sample(x, seeds, compiled))

    @abc.abstractmethod
    def bound(self, x: Tensor, seeds: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x, z) - log q(z) of one draw, without the prior's log Z and in float64;
        -log p(x | z); and whether the first is a bound: `[B]` each.

        Raises:
            InvalidInputError: A model that knows log p(x) in another way, or options that are not
                of its bound.
        """

    def learn(self, batch: Batch) -> tuple[Latents, Lesson]:
        """Latents of the batch, and what the networks but the prior's learn from it."""
        return None, Lesson({}, {}, 0.0)


class PosteriorChain(Inference):
    """A chain that infers latents: its step sizes can be tuned, and its density be bounded."""

    sampler: Chain
    first: Any
    """The law of its start, a `tfebm.models.starts.Start`."""
    first_sampler: Chain
    """That the model was made with."""
    step_size: keras.Variable | None
    """float32 `[K, P]`: the tuned step sizes; None where the sampler has no table of them."""
    momentum: keras.Variable | None
    """float32 `[K, P]`: the tuned momenta; None of a chain without momentum."""

    @property
    def settings(self) -> dict[str, keras.Variable]:
        """The weights that tuning chooses, by their names in a call of the sampler."""
        named = {"step_size": self.step_size, "momentum": self.momentum}
        return {name: weight for name, weight in named.items() if weight is not None}

    @property
    @abc.abstractmethod
    def was_replaced(self) -> bool:
        """Whether `sampler` is another one now, which runs with step sizes of its own."""

    @abc.abstractmethod
    def current_settings(self) -> dict[str, Tensor]:
        """The tuned `step_size` and `momentum`, as a call of the sampler takes them; none where the
        sampler has its own."""


class Parts(Protocol):
    """Whatever has the three parts, as every model does."""

    examples: Examples
    prior: Prior
    inference: Inference
    rows: Any
    """Runs functions of rows on a user's arrays, see `tfebm.models.rows.Rows`."""


class PartSetting:
    """An attribute of a model that one of its parts holds.

    Args:
        part: The model's attribute that is the part.
        name: The part's attribute. Default: as it is called here.
    """

    def __init__(self, part: str, name: str = "") -> None:
        self._part, self._name = part, name

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = self._name or name

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        return self if model is None else getattr(getattr(model, self._part), self._name)

    def __set__(self, model: Any, value: Any) -> None:
        setattr(getattr(model, self._part), self._name, value)


def settings_of(parts: Parts) -> str:
    """What functions of the parts depend on, beside weights."""
    likelihood: Any = getattr(parts.examples.likelihood, "get_config", dict)()
    return repr([likelihood, *(chain.get_config() for chain in chains_of(parts))])


def chains_of(parts: Parts) -> list[Chain]:
    """All samplers of a model."""
    return [*parts.prior.samplers.values(), *parts.inference.samplers.values()]

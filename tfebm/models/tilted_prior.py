"""An energy over examples as a prior of latents: pulled back through the backbone that it tilts."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import keras
import tensorflow as tf

from tfebm import checks, random
from tfebm.distributions import ExponentialTilting
from tfebm.errors import InvalidInputError
from tfebm.models import arguments, backbones, latents
from tfebm.models.backbones import Backbone
from tfebm.models.examples import Decoded
from tfebm.models.parts import Inference, Normalizer, Prior, Tilt
from tfebm.samplers import HMC, Chain
from tfebm.types import Tensor


@dataclasses.dataclass(frozen=True)
class TiltSettings:
    """Numbers of a `FlowEBM`, which says what they are."""

    num_chains: int
    contrastive_steps: int
    burn_in_steps: int
    persistent: bool
    restart_probability: float
    energy_penalty: float
    train_flow: bool
    generation_steps: int
    seed: int

    def __post_init__(self) -> None:
        least = {"num_chains": 1, "contrastive_steps": 0, "burn_in_steps": 0, "generation_steps": 0}
        plain: dict[str, Any] = {
            name: checks.check_count(name, getattr(self, name), k) for name, k in least.items()
        }
        most = {"restart_probability": 1.0, "energy_penalty": math.inf}
        plain |= {n: checks.check_number(n, getattr(self, n), most=k) for n, k in most.items()}
        plain |= {name: bool(getattr(self, name)) for name in ("persistent", "train_flow")}
        for name, value in plain.items():  # Python's own numbers, as saved files have them
            object.__setattr__(self, name, value)


class TiltedPrior(Prior):
    """p(z) = exp(-E(g(z))) p0(z) / Z, p0 the law of the backbone's latents.

    Args:
        examples: Of the model.
        network: The backbone as it was given.
        latent_size: d.
        energy: The network of E.
        tilt: The model's, `(x, training=None) -> [B]`, E(x).
        sampler: The chain between two steps; None for HMC.
        settings: Of the model.
        add_weight: The model's.
    """

    latent_size: int

    def __init__(
        self,
        examples: Decoded,
        network: keras.layers.Layer,
        latent_size: int,
        *,
        energy: keras.layers.Layer,
        tilt: Callable[..., Tensor],
        sampler: Chain | None,
        settings: TiltSettings,
        add_weight: Callable[..., keras.Variable],
    ) -> None:
        if sampler is None:
            sampler = HMC(num_steps=2, step_size=0.1, num_leapfrog_steps=5)
        arguments.check_sampler("sampler", sampler)
        if sampler.num_adaptation_steps:
            raise InvalidInputError(
                "The model adapts the step size itself, from training step to training step. "
                f"Received a sampler with {sampler.num_adaptation_steps} adaptation steps of its "
                "own, in which samples would depend on their batch. Leave them out."
            )
        self.backbone: Backbone = backbones.of_network(network, latent_size)
        super().__init__(latent_size, self.backbone.start_scale)
        self.examples, self.network = examples, network
        self.sampler, self.settings = sampler, settings
        self._network_of_energy, self._tilt = energy, tilt
        self._generation_sampler: Chain | None = None
        self._add_state(add_weight)

    def _add_state(self, add_weight: Callable[..., keras.Variable]) -> None:
        """Weights that are saved with the others and that no optimizer touches."""

        def state(name: str, shape: tuple[int, ...], value: Any, dtype: str) -> keras.Variable:
            return add_weight(
                name=name,
                shape=shape,
                dtype=dtype,
                initializer=keras.initializers.Constant(value),
                trainable=False,
                aggregation="only_first_replica",
            )

        number = self.settings.num_chains
        start = self.fresh(random.as_row_seeds(self.settings.seed, number)).numpy()
        self.chains = state("chains", (number, self.latent_size), start, "float32")
        adapted = self.sampler.step_size if self.sampler.adapts else 0.0
        self.step_size = state("step_size", (), adapted, "float32")
        self.log_normalizer = state("log_normalizer", (), 0.0, "float32")
        # A digest of the weights that log Z was estimated for; it holds for no other.
        self.log_normalizer_digest = state("log_normalizer_digest", (), 0, "int64")

    @property
    def samplers(self) -> Mapping[str, Chain]:
        return {"sampler": self.generation_sampler}

    # ---- Densities ----------------------------------------------------------------------

    def base_energy(self, z: Tensor) -> Tensor:
        return self.backbone.base_energy(z)

    def energy(self, z: Tensor) -> Tensor:
        """U(z) = E(g(z)) + |z|**2 / 2 (a model as backbone has its own prior): `[B]`."""
        return self._pulled_back(z) + self.backbone.base_energy(z)

    def _pulled_back(self, z: Tensor) -> Tensor:
        return self._tilt(self.backbone.decode(z))

    def data_energy(self, x: Tensor) -> Tensor:
        """U(x) = E(x) - log q(x), `[B]`: the same model, for chains in the data space."""
        flow = self.flow_for("The energy in the data space")
        return self._tilt(x) - flow.log_prob(x)

    def distribution(self, sampler: Chain | None) -> ExponentialTilting:
        """p(x); see `FlowEBM.distribution`."""
        flow = self.flow_for("The distribution of x")
        known = self.log_normalizer.value if self.log_normalizer_known else None
        return ExponentialTilting(flow.distribution(), self._tilt, sampler, known)

    def flow_for(self, what: str) -> Any:
        """The backbone, where `what` needs the density of a flow.

        Raises:
            InvalidInputError: It is not a flow.
        """
        return backbones.needed_flow(self.backbone, type(self.network).__name__, what)

    # ---- Chains ---------------------------------------------------------------------------

    def fresh(self, streams: Tensor) -> Tensor:
        """z ~ N(0, scale**2 I) for the streams."""
        return self.scale * latents.standard_normal(streams, self.latent_size)

    def adapted(self) -> dict[str, Tensor]:
        """The step size that learning adapted, as the sampler takes it."""
        return {"step_size": self.step_size.value} if self.sampler.adapts else {}

    @property
    def generation_sampler(self) -> Chain:
        """The chain of `generate`: a sampler that adapts with `generation_steps` transitions, any
        other as it is."""
        if not self.sampler.adapts:
            return self.sampler
        config = {**self.sampler.get_config(), "num_steps": self.settings.generation_steps}
        if self._generation_sampler is None or self._generation_sampler.get_config() != config:
            self._generation_sampler = type(self.sampler).from_config(config)
        return self._generation_sampler

    def sample(self, seeds: Tensor, compiled: bool = True) -> Tensor:
        start, seeds = self.start(seeds, random.CHAIN)
        sampler = self.generation_sampler
        chain = sampler if compiled else sampler.run
        return chain(self.energy, start, seed=seeds, **self.adapted())

    # ---- log Z ----------------------------------------------------------------------------

    def tilt_of_base(self) -> Tilt:
        base = self.flow_for("log Z").base_distribution()
        step_size = float(self.step_size.numpy()) or 0.1
        return Tilt(self._pulled_back, base, num_samples=10_000, step_size=step_size)

    def kept(self, estimate: Normalizer) -> Normalizer:
        if estimate.reliable:
            self.log_normalizer.assign(estimate.value)
            self.log_normalizer_digest.assign(self._digest())
        return estimate

    @property
    def log_normalizer_known(self) -> bool:
        """Whether log Z was estimated for the weights as they are."""
        return int(self.log_normalizer_digest.numpy()) == self._digest()

    def _digest(self) -> int:
        """63 bits of the weights of flow and energy, whoever changed them last; never 0."""
        digest = hashlib.sha256()
        for weight in (*self.network.weights, *self._network_of_energy.weights):
            digest.update(weight.numpy().tobytes())
        return (int.from_bytes(digest.digest()[:8], "little") >> 1) | 1


class TiltedInference(Inference):
    """z = g^-1(x) where the backbone is a flow; what scores x either way.

    Args:
        examples: Of the model.
        prior: Of the model.
        tilt: The model's, E(x).
    """

    examples: Decoded
    prior: TiltedPrior

    def __init__(self, examples: Decoded, prior: TiltedPrior, tilt: Callable[..., Tensor]) -> None:
        super().__init__(examples, prior)
        self._tilt = tilt

    @property
    def answers(self) -> frozenset[str]:
        return frozenset({"infer"} if self.prior.backbone.flow else ())

    def sample(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Tensor:
        return self.prior.flow_for("The inverse of g").inverse_and_log_det(x)[0]

    def scores(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> tuple[Tensor, Tensor]:
        """E(x) - log q(x), or E(x) alone for a backbone without a density; what is inverted exactly
        has no error of its own."""
        x = self.examples.dequantize(x, seeds)
        if self.prior.backbone.flow is None:
            score = self._tilt(x)
        else:
            score = self.prior.data_energy(x) - self.examples.log_bin_width
        return score, tf.zeros_like(score)

    def bound(self, x: Tensor, seeds: Tensor, **options: Any) -> NoReturn:
        raise InvalidInputError(
            "A flow with an energy knows log p(x) up to log Z. Use `log_prob(x)`."
        )

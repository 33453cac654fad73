"""An energy over a flow, or over another generator, sampled in the latent space."""

import math
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.flows import Flow
from tfebm.models import arguments, compiling, networks, replicas
from tfebm.models.flow_model import (
    FlowModel,
    check_levels,
    check_precision,
    first_rows,
)
from tfebm.models.latent_ebm import LatentEBM
from tfebm.models.tilt_learning import TiltLearning
from tfebm.samplers import HMC, Chain
from tfebm.types import Tensor

_CHECKED_ROWS = 64  # of the data, on which the flow must invert


@keras.saving.register_keras_serializable(package="tfebm")
class FlowEBM(TiltLearning):
    """An energy that tilts a flow, learned by maximum likelihood with latent-space chains.

        p(x) = exp(-E(x)) q(x) / Z,   x = g(z),   q the flow's density

    In the latent space this is `p(z) = exp(-E(g(z))) N(z; 0, I) / Z`: the Jacobian cancels, and
    a chain on

        U(z) = E(g(z)) + |z|**2 / 2

    needs only g. Where the flow has separated the modes of the data, it crosses between them.

    Learning has two phases. The first `contrastive_steps` steps descend a noise-contrastive loss,
    the logistic loss of telling data from samples of the flow, at whose optimum
    `-E = log p_data - log q`; no chain is needed, and the energy is of the right size from
    there on. Then maximum likelihood descends `mean E(x) - mean E(g(z-))`, with z- from
    chains that persist from step to step. Their step size adapts to the target acceptance of
    the sampler.

    The backbone may also be a generator that is not a flow. The same chain then samples
    `p(x, z)` proportional to `exp(-E(x)) q(x, z)`, x = g(z); there is no `log_prob`.

    Args:
        backbone: A `Flow` or a trained `FlowModel`; a trained `LatentEBM` (its generator and
            its prior); or any Keras layer, latents `[B, d]` to examples. It stays fixed.
        energy: Any Keras layer or model, examples `[B, ...]` to energies `[B]` or `[B, 1]`.
        sampler: The chain between two steps. Default: 2 transitions of HMC with 5 leapfrog steps.
        num_chains: Chains over all replicas, which must share them evenly.
        contrastive_steps: Steps of the first phase; 0 for none.
        burn_in_steps: Steps before its end from which on the chains move, to be in place for the
            second.
        persistent: Whether chains go on from step to step; otherwise each starts at N(0, I).
        restart_probability: Of offering a persistent chain, at every step, a fresh start from
            N(0, I), which is taken with the Metropolis probability `min(1, exp(E - E'))`: exact,
            and all the mixing that there is where the latent space of a weak flow is as hard
            to cross as the data's.
        energy_penalty: Weight of `mean E**2` over data and samples in the loss. It keeps the
            energy's size, which the likelihood leaves free up to a constant, in bounds.
        train_flow: Joint training: maximum likelihood in the flow's weights too, from the
            second phase on. For flows alone.
        latent_size: d, for a backbone that does not know it.
        num_levels: Values of a pixel, evenly spaced over [-1, 1], for discrete images (a
            `FlowModel` brings its own); None for continuous data.
        generation_steps: Transitions of HMC or MALA from N(0, I) to a sample of `generate`; a
            `ShortRunLangevin` runs as it is.
        seed: Of all noise in training, together with the step and the global row.
        **kwargs: Of `keras.Model`.

    Raises:
        InvalidInputError: Networks that do not fit together, a number out of its range, or joint
            training of what is no flow.

    Metrics: `energy_data`, E of the data; `energy_model`, E of the chains, in the first phase of
    samples of the flow; `energy_gap`, their difference, which is not to be minimised: it is near 0
    when all is well; `acceptance` and `step_size` of the chains; and `loss`, which is: -log p(x),
    up to the constant mean of log q(x) where the flow is fixed (below 0 where the energy helps),
    with log Z from as many samples of the flow as there are rows, and with penalties of layers.

    Example:

        >>> flow = tfebm.FlowModel(tfebm.SplineFlow(size=2))
        >>> flow.compile()
        >>> flow.fit(points, epochs=10, batch_size=256)        # float32 [N, 2]
        >>> model = tfebm.FlowEBM(flow, tfebm.EnergyMLP((128, 128, 128), "swish"))
        >>> model.compile()
        >>> model.fit(points, epochs=10, batch_size=256)
        >>> samples, nats = model.generate(1000), model.log_prob(held_out)

    References: E. Nijkamp et al. MCMC Should Mix: Learning Energy-Based Model with Neural
    Transport Latent Space MCMC. ICLR 2022, section 3. The contrastive start: R. Gao et al. Flow
    Contrastive Estimation of Energy-Based Models. CVPR 2020, section 3.2.
    """

    def __init__(
        self,
        backbone: keras.layers.Layer,
        energy: keras.layers.Layer,
        sampler: Chain | None = None,
        num_chains: int = 64,
        contrastive_steps: int = 1000,
        burn_in_steps: int = 100,
        persistent: bool = True,
        restart_probability: float = 1.0,
        energy_penalty: float = 1e-3,
        train_flow: bool = False,
        latent_size: int | None = None,
        num_levels: int | None = None,
        generation_steps: int = 100,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        # Keras' "auto" would compile the whole step; the chains have a switch of their own.
        self.supports_jit = False
        if isinstance(backbone, FlowModel):
            num_levels = backbone.num_levels if num_levels is None else num_levels
            backbone = backbone.flow
        arguments.check_network("backbone", backbone, models=(LatentEBM,))
        arguments.check_one_input("backbone", backbone, "one vector of latents")
        arguments.check_network("energy", energy)
        arguments.check_one_input("energy", energy, "the examples")
        if sampler is not None:
            arguments.check_sampler("sampler", sampler)
        for name, value, least in (
            ("num_chains", num_chains, 1),
            ("contrastive_steps", contrastive_steps, 0),
            ("burn_in_steps", burn_in_steps, 0),
            ("generation_steps", generation_steps, 0),
        ):
            checks.check_count(name, value, least)
        _check_share("restart_probability", restart_probability, 1.0)
        _check_share("energy_penalty", energy_penalty, math.inf)
        check_levels(num_levels)
        if isinstance(backbone, Flow):
            check_precision(backbone)
        if getattr(sampler, "num_adaptation_steps", 0):
            raise InvalidInputError(
                "The model adapts the step size itself, from training step to training step. "
                f"Received a sampler with {sampler.num_adaptation_steps} adaptation steps of its "
                "own, in which samples would depend on their batch. Leave them out."
            )
        if train_flow and not isinstance(backbone, Flow):
            raise InvalidInputError(
                "Joint training needs the density of a flow. Received `train_flow=True` with a "
                f"{type(backbone).__name__}. Leave it fixed."
            )
        self.backbone, self.energy = backbone, energy
        default = HMC(num_steps=2, step_size=0.1, num_leapfrog_steps=5)
        self.sampler = default if sampler is None else sampler
        self.num_chains = int(num_chains)
        self.contrastive_steps = int(contrastive_steps)
        self.burn_in_steps = int(burn_in_steps)
        self.persistent = bool(persistent)
        self.restart_probability = float(restart_probability)
        self.energy_penalty = float(energy_penalty)
        self.train_flow = bool(train_flow)
        self.num_levels = num_levels
        self.generation_steps = int(generation_steps)
        self.seed = random.whole_seed(seed)
        self.optimized = {"optimizer": "energy"}
        if self.train_flow:
            self.optimized["flow_optimizer"] = "backbone"
        self.latent_size, self.data_shape = networks.build_backbone(backbone, latent_size)
        networks.build_energy(energy, self.data_shape)
        compiling.refuse_float16(self)
        replicas_in_sync = self.distribute_strategy.num_replicas_in_sync
        if self.num_chains % replicas_in_sync:
            raise InvalidInputError(
                f"`num_chains` must be a multiple of the {replicas_in_sync} replicas, which share "
                f"the chains. Received {self.num_chains}."
            )
        self._add_state()
        names = ["energy_data", "energy_model", "energy_gap"]
        names += ["acceptance", "step_size"] if self.adapts else []
        self.add_trackers(*names)
        self.build((None, *self.data_shape))

    def _add_state(self) -> None:
        """Weights that are saved with the others and that no optimizer touches."""
        self.step = replicas.add_step(self)

        def state(name: str, shape: tuple, initializer: Any, dtype: str) -> keras.Variable:
            return self.add_weight(
                name=name,
                shape=shape,
                dtype=dtype,
                initializer=initializer,
                trainable=False,
                aggregation="only_first_replica",
            )

        streams = random.as_row_seeds(self.seed, self.num_chains)
        start = random.row_normal(streams, random.START_STREAM, self.latent_size)
        self.chains = state(
            "chains",
            (self.num_chains, self.latent_size),
            keras.initializers.Constant(self.start_scale * start.numpy()),
            "float32",
        )
        size = keras.initializers.Constant(self.sampler.step_size if self.adapts else 0.0)
        self.step_size = state("step_size", (), size, "float32")
        self.log_normalizer = state("log_normalizer", (), "zeros", "float32")
        # A digest of the weights that log Z was estimated for; it holds for no other.
        self.log_normalizer_digest = state("log_normalizer_digest", (), "zeros", "int64")

    # ---- Keras ------------------------------------------------------------------------

    def build(self, input_shape: tuple) -> None:
        self.built = True

    @property
    def call_spec(self) -> tf.TensorSpec:
        return tf.TensorSpec([None, *self.data_shape], tf.float32, name="image")

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """The score of `x`, see `score`."""
        return self.score_rows(self.as_batch(x))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0],)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        rates = {"optimizer": 1e-4, "flow_optimizer": 1e-5}
        return {name: keras.optimizers.Adam(rates[name]) for name in self.optimized}

    def fixed_networks(self) -> list[keras.layers.Layer]:
        return [] if self.train_flow else [self.backbone]

    def networks_by_name(self) -> dict[str, keras.layers.Layer]:
        return {"backbone": self.backbone, "energy": self.energy}

    def check_data(self, x: Any) -> None:
        checks.check_training_data(x, self.data_shape, (-1.0, 1.0) if self.num_levels else None)

    def prepare(self, x: Any) -> None:
        """Raises where the flow was not trained, or does not invert on `x`."""
        if self.is_flow:
            self.check_flow(x)

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """Warns where the energies of data and samples run apart, and where the chains stand
        still."""
        return [keras.callbacks.LambdaCallback(on_epoch_end=self._watch)]

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit`, after a look whether the flow was trained and inverts on `x`.

        Warns where the energies of data and samples run apart, where the chains stand still, and
        where maximum likelihood has not begun.
        """
        history = super().fit(x, y, *args, **kwargs)
        steps = int(self.step.numpy())
        if steps < self.contrastive_steps:
            warnings.warn(
                f"After {steps} steps the energy is still in its contrastive phase, of "
                f"{self.contrastive_steps} steps; maximum likelihood has not begun. Train for "
                "longer, or lower `contrastive_steps`.",
                stacklevel=2,
            )
        return history

    def check_flow(self, x: Any) -> None:
        """Raises `InvalidInputError` for a flow without training, or that does not invert `x`."""
        batch = first_rows(self, x, _CHECKED_ROWS)
        if batch is None:  # of a generator nothing is known before it is read
            batch = tf.zeros([0, *self.data_shape])
        self.backbone.check_inverse(batch)

    def _watch(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if self.adapts and logs.get("acceptance", 1.0) < 1e-3:
            warnings.warn(
                f"The chains do not move: a share of {float(logs['acceptance']):.2g} of their "
                f"proposals was accepted in epoch {epoch + 1}, at step size "
                f"{float(self.step_size.numpy()):.3g}. It is being lowered.",
                stacklevel=2,
            )
        gap = float(logs.get("energy_gap", 0.0))
        # Within a likelihood that is learned, E differs between data and samples by a small part
        # of its own spread; a gap of tens of nats is chains that do not follow.
        if int(self.step.numpy()) > self.contrastive_steps and not abs(gap) <= 20.0:
            warnings.warn(
                f"The energies of data and samples differ by {gap:.1f} nats after epoch "
                f"{epoch + 1}, and the learning may be running away. Lower the learning rate, "
                "raise `energy_penalty`, or run longer chains between the steps.",
                stacklevel=2,
            )

    # ---- Saving -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        parts = ("backbone", "energy", "sampler")
        values = (
            *("num_chains", "contrastive_steps", "burn_in_steps", "persistent"),
            *("restart_probability", "energy_penalty", "train_flow", "latent_size"),
            *("num_levels", "generation_steps", "seed"),
        )
        return {
            **super().get_config(),
            **{name: keras.saving.serialize_keras_object(getattr(self, name)) for name in parts},
            **{name: getattr(self, name) for name in values},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FlowEBM":
        parts = ("backbone", "energy", "sampler")
        loaded = {name: keras.saving.deserialize_keras_object(config[name]) for name in parts}
        return cls(**{**config, **loaded})


def _check_share(name: str, value: float, most: float) -> None:
    if not 0.0 <= value <= most or not math.isfinite(value):
        upper = f" and at most {most:g}" if math.isfinite(most) else ""
        raise InvalidInputError(
            f"`{name}` must be a finite number of at least 0{upper}. Received {value!r}."
        )

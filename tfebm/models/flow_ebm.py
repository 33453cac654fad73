"""An energy over a flow, or over another generator, sampled in the latent space."""

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.distributions import ExponentialTilting, LogNormalizer
from tfebm.errors import InvalidInputError
from tfebm.flows import Flow
from tfebm.models import arguments, networks
from tfebm.models.examples import Decoded
from tfebm.models.flow_model import check_precision, first_rows
from tfebm.models.latent_model import LatentModel
from tfebm.models.parts import PartSetting
from tfebm.models.rows import check_eager
from tfebm.models.tilt_learning import LearnedTilt
from tfebm.models.tilted_prior import TiltedInference, TiltSettings
from tfebm.samplers import Chain
from tfebm.types import Seed, Tensor

_CHECKED_ROWS = 64  # of the data, on which the flow must invert


@keras.saving.register_keras_serializable(package="tfebm")
class FlowEBM(LatentModel):
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

    config_parts = ("backbone", "energy", "sampler")
    config_values = ("latent_size", "num_levels")

    examples: Decoded
    prior: LearnedTilt
    num_levels = PartSetting("examples")
    sampler = PartSetting("prior")
    chains = PartSetting("prior")
    step_size = PartSetting("prior")
    log_normalizer = PartSetting("prior")
    log_normalizer_digest = PartSetting("prior")
    start_scale = PartSetting("prior", "scale")

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
        super().__init__(seed=seed, **kwargs)
        # Keras' "auto" would compile the whole step; the chains have a switch of their own.
        self.supports_jit = False
        flow = getattr(backbone, "flow", None)  # of a `FlowModel`
        if flow is not None:
            num_levels = backbone.num_levels if num_levels is None else num_levels
            backbone = flow
        arguments.check_network("backbone", backbone, backbone=True)
        arguments.check_one_input("backbone", backbone, "one vector of latents")
        arguments.check_network("energy", energy)
        arguments.check_one_input("energy", energy, "the examples")
        if isinstance(backbone, Flow):
            check_precision(backbone)
        elif train_flow:
            raise InvalidInputError(
                "Joint training needs the density of a flow. Received `train_flow=True` with a "
                f"{type(backbone).__name__}. Leave it fixed."
            )
        settings = TiltSettings(
            num_chains=num_chains,
            contrastive_steps=contrastive_steps,
            burn_in_steps=burn_in_steps,
            persistent=persistent,
            restart_probability=restart_probability,
            energy_penalty=energy_penalty,
            train_flow=train_flow,
            generation_steps=generation_steps,
            seed=self.seed,
        )
        self.backbone, self.energy = backbone, energy
        self.optimized = {"optimizer": "energy"}
        if settings.train_flow:
            self.optimized["flow_optimizer"] = "backbone"
        size, shape = networks.build_backbone(backbone, latent_size)
        networks.build_energy(energy, shape)
        replicas_in_sync = self.distribute_strategy.num_replicas_in_sync
        if settings.num_chains % replicas_in_sync:
            raise InvalidInputError(
                f"`num_chains` must be a multiple of the {replicas_in_sync} replicas, which share "
                f"the chains. Received {settings.num_chains}."
            )
        examples = Decoded(shape, self.decode, num_levels)
        prior = LearnedTilt(
            *(examples, backbone, size),
            energy=energy,
            tilt=self.tilt,
            sampler=sampler,
            settings=settings,
            add_weight=self.add_weight,
        )
        self.put_together(examples, prior, TiltedInference(examples, prior, self.tilt))

    # ---- The model as densities -------------------------------------------------------

    def decode(self, z: Tensor, training: bool | None = None) -> Tensor:
        """x = g(z), float32."""
        return self.prior.backbone.decode(z)

    def tilt(self, x: Tensor, training: bool | None = None) -> Tensor:
        """E(x), float32 `[B]`."""
        return networks.per_row(self.energy(x, training=training))

    def latent_energy(self, z: Tensor) -> Tensor:
        """U(z) = E(g(z)) + |z|**2 / 2 (a `LatentEBM` backbone has its own prior): `[B]`."""
        return self.prior.energy(z)

    def data_energy(self, x: Tensor) -> Tensor:
        """U(x) = E(x) - log q(x), `[B]`: the same model, for chains in the data space."""
        return self.prior.data_energy(x)

    def distribution(self, sampler: Chain | None = None) -> ExponentialTilting:
        """p(x), a fresh `ExponentialTilting` of the flow, with log Z where it is known."""
        return self.prior.distribution(sampler)

    # ---- Questions ----------------------------------------------------------------------

    def log_prob(self, x: Any, *, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """log p(x) in nats, `[N]`; of the discrete image where there are levels.

        log Z is estimated at the first call after training, see `estimate_log_normalizer`.

        Raises:
            InvalidInputError: A backbone that is not a flow, or an estimate of log Z that cannot be
                trusted.
        """
        check_eager("score_rows")
        self.prior.flow_for("`log_prob`")
        if not self.prior.log_normalizer_known:
            estimate = self.estimate_log_normalizer()
            if isinstance(estimate, LogNormalizer) and not estimate.reliable:
                raise InvalidInputError(
                    "log Z is not known: its estimate by importance sampling has an effective "
                    f"sample size of {estimate.effective_sample_size:.1f}. Call "
                    "`estimate_log_normalizer(method='annealed')` first, or use `score`, which "
                    "needs no log Z."
                )
        return -self.score(x, seed=seed, batch_size=batch_size) - float(self.log_normalizer.numpy())

    def energies(self, x: Any, *, batch_size: int = 256) -> np.ndarray:
        """E(x) of examples, `[N]`, without noise."""
        check_eager("tilt")
        return self.rows.in_batches("tilt", [self.examples.tensor(x)], batch_size=batch_size)

    def generate(
        self, num_samples: int, *, seed: Seed = 0, batch_size: int = 256, decoding: None = None
    ) -> np.ndarray:
        """Draws examples: chains of `generation_steps` transitions from N(0, I), decoded.

        Sample i depends on `seed` and i alone, not on `num_samples` or `batch_size`.

        Raises:
            InvalidInputError: Chains that do not move; their step size is named.
        """
        check_eager("sample_prior")
        checks.check_count("num_samples", num_samples)
        checks.check_count("batch_size", batch_size)
        seeds = random.as_row_seeds(seed, num_samples)
        # Not in one graph with the decoding, where a chain that stands still could not be reported.
        z = [
            self.sample_prior(seeds[start : start + batch_size]).numpy()
            for start in range(0, num_samples, batch_size)
        ]
        return self.decode_latents(np.concatenate(z), batch_size=batch_size, decoding=decoding)

    # ---- Keras ------------------------------------------------------------------------

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """The score of `x`, see `score`."""
        x = self.as_batch(x)
        return self.score_rows(x, random.content_seeds(self.seed, x))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None]:
        return (input_shape[0],)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        rates = {"optimizer": 1e-4, "flow_optimizer": 1e-5}
        return {name: keras.optimizers.Adam(rates[name]) for name in self.optimized}

    def fixed_networks(self) -> list[keras.layers.Layer]:
        return [] if self.prior.settings.train_flow else [self.backbone]

    def networks_by_name(self) -> dict[str, keras.layers.Layer]:
        return {"backbone": self.backbone, "energy": self.energy}

    def prepare(self, x: Any) -> None:
        """Raises where the flow was not trained, or does not invert on `x`."""
        flow = self.prior.backbone.flow
        if flow is not None:
            batch = first_rows(self, x, _CHECKED_ROWS)
            # Of a generator nothing is known before it is read.
            flow.check_inverse(tf.zeros([0, *self.data_shape]) if batch is None else batch)

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
        contrastive = self.prior.settings.contrastive_steps
        if steps < contrastive:
            warnings.warn(
                f"After {steps} steps the energy is still in its contrastive phase, of "
                f"{contrastive} steps; maximum likelihood has not begun. Train for longer, or "
                "lower `contrastive_steps`.",
                stacklevel=2,
            )
        return history

    def _watch(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if self.sampler.adapts and logs.get("acceptance", 1.0) < 1e-3:
            warnings.warn(
                f"The chains do not move: a share of {float(logs['acceptance']):.2g} of their "
                f"proposals was accepted in epoch {epoch + 1}, at step size "
                f"{float(self.step_size.numpy()):.3g}. It is being lowered.",
                stacklevel=2,
            )
        gap = float(logs.get("energy_gap", 0.0))
        # Within a likelihood that is learned, E differs between data and samples by a small part
        # of its own spread; a gap of tens of nats is chains that do not follow.
        if int(self.step.numpy()) > self.prior.settings.contrastive_steps and not abs(gap) <= 20.0:
            warnings.warn(
                f"The energies of data and samples differ by {gap:.1f} nats after epoch "
                f"{epoch + 1}, and the learning may be running away. Lower the learning rate, "
                "raise `energy_penalty`, or run longer chains between the steps.",
                stacklevel=2,
            )

    # ---- Saving -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **dataclasses.asdict(self.prior.settings)}

"""The latent-space energy-based prior over a generator."""

import types
from collections.abc import Mapping
from typing import Any

import keras

from tfebm.models import arguments, latents, networks
from tfebm.models.backbones import ModelBackbone
from tfebm.models.chain_inference import ChainInference
from tfebm.models.examples import of_generator
from tfebm.models.latent_model import LatentModel
from tfebm.models.parts import PartSetting
from tfebm.models.priors import EnergyPrior
from tfebm.models.starts import EncoderObjective, start_of
from tfebm.samplers import Chain
from tfebm.types import Latents, Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class LatentEBM(LatentModel):
    """An energy-based prior in the latent space of a generator, learned by maximum likelihood.

        p(x, z) = exp(-E(z)) N(z; 0, prior_scale**2 I) / Z * p(x | g(z))

    Two short-run chains per batch, started afresh at `N(0, prior_scale**2 I)`, the second one with
    an `encoder` at q(z | x):

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
        encoder: Where the chains begin, q(z | x): `ConvEncoder`, `SentenceEncoder` or any Keras
            layer that returns a mean and beside it a log-variance, `[B, 2 * d_l]` of each layer.
            It learns beside the model. Default: none, and chains begin at the prior.
        encoder_objective: How it learns: "elbo" (the default), as a VAE's, or "chain", from the
            ends of the chains; see `tfebm.models.starts.EncoderStart`.
        seed: Of all noise in training, together with the step and the global row.
        energy_l2: alpha >= 0, adds `alpha * (mean E(z+)**2 + mean E(z-)**2)` to the energy's loss,
            which bounds its values by `1 / (2 alpha)`. Default: 0; over sentences 0.1: their chain
            for z+ has no noise and that for z- has, so that they never meet, and the energy grows
            as long as it is trained.
        **kwargs: Of `keras.Model`.

    Raises:
        InvalidInputError: A latent size that does not fit the networks, an energy that is not one
            value per row, a network that computes in float16, or a negative `energy_l2`.

    Metrics, all means over examples: `loss`, the generator's loss and the penalties of all
    networks' layers, NaN or infinite where an energy is (its own loss, `energy_gap`, is not among
    it: it says which way to go, and is near 0 when all is well); `generator_loss`, the
    likelihood's error at z+; `energy_posterior`, E(z+); `energy_prior`, E(z-); `energy_gap`, their
    difference; `reconstruction_mse`; norms of gradients and of what the chains move; with an
    encoder `encoder_loss`, its objective, and `kl`, of the start from N(0, prior_scale**2 I).

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

    optimized: Mapping[str, str] = types.MappingProxyType(
        {"optimizer": "generator", "energy_optimizer": "energy"}
    )
    config_parts = (
        *("generator", "energy", "prior_sampler", "posterior_sampler", "likelihood"),
        "encoder",
    )
    config_values = (
        "latent_size",
        "prior_scale",
        "num_chains",
        "scale_by_sigma",
        "seed",
        "energy_l2",
        "encoder_objective",
    )

    prior: EnergyPrior
    inference: ChainInference
    posterior_sampler = PartSetting("inference", "sampler")
    posterior_step_size = PartSetting("inference", "step_size")
    posterior_momentum = PartSetting("inference", "momentum")
    num_chains = PartSetting("inference")
    encoder_objective = PartSetting("inference")
    scale_by_sigma = PartSetting("inference")
    prior_sampler = PartSetting("prior", "sampler")
    energy_l2 = PartSetting("prior")

    def __init__(
        self,
        generator: keras.layers.Layer,
        energy: keras.layers.Layer,
        latent_size: latents.LatentSize | None = None,
        prior_sampler: Chain | None = None,
        posterior_sampler: Chain | None = None,
        likelihood: Any = None,
        prior_scale: float = 1.0,
        num_chains: int = 1,
        scale_by_sigma: bool = False,
        seed: int = 0,
        energy_l2: float | None = None,
        encoder: keras.layers.Layer | None = None,
        encoder_objective: EncoderObjective | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        size = arguments.checked_size(latent_size, generator, energy=energy)
        self.generator, self.energy = generator, energy
        arguments.take_encoder(self, encoder)
        examples = of_generator(generator, size, self.decode, likelihood, self.seed)
        networks.build_energy(
            energy, (sum(latents.sizes(size)),), "latents", "Change `latent_size`"
        )
        defaults = examples.defaults
        if prior_sampler is None:
            prior_sampler = defaults.ebm_prior_sampler()
        if posterior_sampler is None:
            posterior_sampler = defaults.ebm_posterior_sampler()
        prior = EnergyPrior(
            *(size, prior_scale),
            energy=energy,
            tilt=self.tilt,
            sampler=prior_sampler,
            energy_l2=defaults.energy_l2 if energy_l2 is None else energy_l2,
        )
        inference = ChainInference(
            *(examples, prior, generator, posterior_sampler),
            first=start_of(examples, prior, encoder, encoder_objective),
            num_chains=num_chains,
            scale_by_sigma=scale_by_sigma,
            add_weight=self.add_weight,
        )
        self.put_together(examples, prior, inference)

    def tilt(self, z: Latents, training: bool | None = None) -> Tensor:
        """E(z), the learned part of the prior, of all layers side by side: float32 `[B]`."""
        return networks.per_row(self.energy(latents.join(z), training=training))

    def as_backbone(self) -> ModelBackbone:
        """The generator with this prior, for a `FlowEBM` over it."""
        return ModelBackbone(self)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer | None = None,
        energy_optimizer: str | keras.optimizers.Optimizer | None = None,
        encoder_optimizer: str | keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: The generator's. Default: the paper's.
            energy_optimizer: The energy's. Default: the paper's.
            encoder_optimizer: The encoder's. Default: Adam with rate 1e-3.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution` of `keras.Model`.

        Raises:
            ValueError: A loss or metrics (the model has its own), one optimizer for several
                networks, mixed_float16, or under a strategy of several replicas
                `steps_per_execution > 1` or `jit_compile=True`.
        """
        kwargs |= arguments.of_encoder(self, encoder_optimizer)
        super().compile(optimizer, energy_optimizer=energy_optimizer, **kwargs)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        defaults = self.examples.defaults
        return defaults.with_encoder(defaults.ebm_optimizers(), self.encoder)

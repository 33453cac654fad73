"""A generator whose latents are inferred by short chains from a Gaussian prior."""

import types
from collections.abc import Mapping
from typing import Any

import keras

from tfebm.models import arguments, latents
from tfebm.models.chain_inference import ChainInference
from tfebm.models.examples import of_generator
from tfebm.models.latent_model import LatentModel
from tfebm.models.parts import PartSetting
from tfebm.models.priors import GaussianPrior
from tfebm.models.starts import EncoderObjective, start_of
from tfebm.samplers import Chain


@keras.saving.register_keras_serializable(package="tfebm")
class ShortRunModel(LatentModel):
    """A generator learned with short-run inference: a short chain per example.

        p(x, z) = N(z; 0, prior_scale**2 I) p(x | g(z))
        U(z; x) = -log p(x | g(z)) + |z|**2 / (2 prior_scale**2)

    z+ is the end of K Langevin steps on U, from a fresh start at the prior (with an `encoder`, at
    q(z | x)); all layers of a multi-layer generator move together. The generator descends
    `mean |x - g(z+)|**2`, and no gradient flows through the chain. The chain's step sizes are a
    weight, `posterior_step_size`, `[K, P]` for P layers, which `tfebm.callbacks.StepSizeTuner` and
    `tune_step_size` choose by a divergence from the posterior.

    Args:
        generator: Any Keras layer or model, latents to what the likelihood takes: `[B, d]`, or for
            several layers a tuple of `[B, d_l]`.
        latent_size: d, or the tuple of sizes. Default: what the generator was built for, or says
            in its attribute `latent_sizes`; else 100.
        posterior_sampler: The chain. Default: 25 steps of 0.05, the paper's; over sentences
            `text_sampler()`.
        likelihood: p(x | z). Default: `GaussianLikelihood(0.3)`. A generator of sentences brings
            its own.
        prior_scale: Standard deviation of the prior and of the chains' start.
        num_chains: Chains per example while training; the loss averages over them.
        scale_by_sigma: Learn the generator on `-log p(x | z)` itself, with its
            `1 / (2 sigma**2)`; matters for optimizers that are not scale free, like SGD.
        noise_schedule: A `keras.optimizers.schedules.LearningRateSchedule`, training step to the
            `noise_scale` of the chain while learning. Inference keeps the sampler's.
        prior_schedule: Another, to beta in U(z; x) = -log p(x | g(z)) + beta |z|**2 / (2
            prior_scale**2) while learning. Inference has beta 1.
        encoder: Where the chains begin, q(z | x): `ConvEncoder`, `SentenceEncoder` or any Keras
            layer that returns a mean and beside it a log-variance, `[B, 2 * d_l]` of each layer.
            It learns beside the model. Default: none, and chains begin at the prior.
        encoder_objective: How it learns: "elbo" (the default), as a VAE's, or "chain", from the
            ends of the chains; see `tfebm.models.starts.EncoderStart`.
        seed: Of all noise in training, together with the step and the global row.
        **kwargs: Of `keras.Model`.

    Raises:
        InvalidInputError: A latent size that does not fit the generator, or a generator that
            computes in float16.

    Metrics, all means over examples: `loss`, what the generator descends: `generator_loss`, the
    likelihood's error at z+, and the penalties of the networks' layers; `reconstruction_mse`; the
    norms of the likelihood's gradient and of what the chain moves; with an encoder `encoder_loss`,
    its objective, and `kl`, of the chain's start from N(0, prior_scale**2 I).

    Example:

        >>> generator = tfebm.MultilayerGenerator((28, 28, 1), (8, 16, 24), 16, upsamplings=2)
        >>> model = tfebm.ShortRunModel(generator)
        >>> model.compile()
        >>> model.fit(x_train, epochs=20, batch_size=100)      # float32 in [-1, 1]
        >>> top, middle, bottom = model.infer(x_test)

    Over sentences, with its dropout masks in the chain too:

        >>> text = tfebm.data.load_text("grammar")
        >>> generator = tfebm.AutoregressiveGenerator(text.tokenizer)
        >>> model = tfebm.ShortRunModel(generator, latent_size=32)
        >>> model.compile()
        >>> model.fit(tfebm.data.sentence_batches(text.x_train, seed=0, batch_size=32), epochs=10,
        ...           steps_per_epoch=313)
        >>> model.reconstruct(["the cook tastes the soup"])

    References: E. Nijkamp, B. Pang, T. Han, S.-C. Zhu, Y. N. Wu. Learning Multi-layer Latent
    Variable Model via Variational Optimization of Short Run MCMC for Approximate Inference. ECCV
    2020, algorithm 1. B. Pang, E. Nijkamp, T. Han, Y. N. Wu. Generative Text Modeling through
    Short Run Inference. EACL 2021.
    """

    optimized: Mapping[str, str] = types.MappingProxyType({"optimizer": "generator"})
    config_parts = (
        "generator",
        "posterior_sampler",
        "likelihood",
        "encoder",
        "noise_schedule",
        "prior_schedule",
    )
    config_values = (
        *("latent_size", "prior_scale", "num_chains", "scale_by_sigma", "seed"),
        "encoder_objective",
    )

    inference: ChainInference
    posterior_sampler = PartSetting("inference", "sampler")
    posterior_step_size = PartSetting("inference", "step_size")
    posterior_momentum = PartSetting("inference", "momentum")
    num_chains = PartSetting("inference")
    encoder_objective = PartSetting("inference")
    scale_by_sigma = PartSetting("inference")
    noise_schedule = PartSetting("inference")
    prior_schedule = PartSetting("inference")

    def __init__(
        self,
        generator: keras.layers.Layer,
        latent_size: latents.LatentSize | None = None,
        posterior_sampler: Chain | None = None,
        likelihood: Any = None,
        prior_scale: float = 1.0,
        num_chains: int = 1,
        scale_by_sigma: bool = False,
        noise_schedule: Any = None,
        prior_schedule: Any = None,
        seed: int = 0,
        encoder: keras.layers.Layer | None = None,
        encoder_objective: EncoderObjective | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        size = arguments.checked_size(latent_size, generator)
        self.generator = generator
        arguments.take_encoder(self, encoder)
        examples = of_generator(generator, size, self.decode, likelihood, self.seed)
        if posterior_sampler is None:
            posterior_sampler = examples.defaults.short_run_sampler()
        prior = GaussianPrior(size, prior_scale)
        inference = ChainInference(
            *(examples, prior, generator, posterior_sampler),
            first=start_of(examples, prior, encoder, encoder_objective),
            num_chains=num_chains,
            scale_by_sigma=scale_by_sigma,
            add_weight=self.add_weight,
            noise_schedule=noise_schedule,
            prior_schedule=prior_schedule,
        )
        self.put_together(examples, prior, inference)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer | None = None,
        encoder_optimizer: str | keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: The generator's. Default: the paper's.
            encoder_optimizer: The encoder's. Default: Adam with rate 1e-3.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution` of `keras.Model`.

        Raises:
            ValueError: A loss or metrics (the model has its own), one optimizer for several
                networks, mixed_float16, or under a strategy of several replicas
                `steps_per_execution > 1` or `jit_compile=True`.
        """
        kwargs |= arguments.of_encoder(self, encoder_optimizer)
        super().compile(optimizer, **kwargs)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        defaults = self.examples.defaults
        return defaults.with_encoder(defaults.short_run_optimizers(), self.encoder)

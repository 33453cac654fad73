"""A generator whose latents are inferred by short chains from a Gaussian prior."""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfebm import random
from tfebm.models import arguments, latents, replicas
from tfebm.models.posterior_chain import PosteriorChainModel
from tfebm.samplers import ShortRunLangevin
from tfebm.types import Latents, Tensor

TEXT_STEP_SIZES = (0.8, 0.7, 0.6, 0.5, 0.2, 0.2, 0.1, 0.1, *[0.05] * 12)
"""The step sizes of the released code for sentences."""


def text_sampler(num_steps: int = 20, **options: Any) -> ShortRunLangevin:
    """The chain of the text paper: decaying step sizes, noise of 0.2 of their size.

    Args:
        num_steps: K; the first so many of `TEXT_STEP_SIZES`, whose last goes on beyond 20.
        **options: Of `ShortRunLangevin`.
    """
    steps = [TEXT_STEP_SIZES[min(k, len(TEXT_STEP_SIZES) - 1)] for k in range(num_steps)]
    return ShortRunLangevin(num_steps, steps, **{"noise_scale": 0.2, **options})


@keras.saving.register_keras_serializable(package="tfebm")
class ShortRunModel(PosteriorChainModel):
    """A generator learned with short-run inference: no encoder, one chain per example.

        p(x, z) = N(z; 0, prior_scale**2 I) p(x | g(z))
        U(z; x) = -log p(x | g(z)) + |z|**2 / (2 prior_scale**2)

    z+ is the end of K Langevin steps on U, from a fresh start at the prior; all layers of a
    multi-layer generator move together. The generator descends `mean |x - g(z+)|**2`, and no
    gradient flows through the chain. The chain's step sizes are a weight,
    `posterior_step_size`, `[K, P]` for P layers, which `tfebm.callbacks.StepSizeTuner` and
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
        seed: Of all noise in training, together with the step and the global row.
        **kwargs: Of `keras.Model`.

    Raises:
        InvalidInputError: A latent size that does not fit the generator, or a generator that
            computes in float16.

    Metrics, all means over examples: `loss`, what the generator descends: `generator_loss`, the
    likelihood's error at z+, and the penalties of its layers; `reconstruction_mse`; the norms of
    the likelihood's gradient and of what the chain moves.

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
        >>> model.fit(tfebm.data.sentence_batches(text.x_train, 32, seed=0), epochs=10,
        ...           steps_per_epoch=313)
        >>> model.reconstruct(["the cook tastes the soup"])

    References: E. Nijkamp, B. Pang, T. Han, S.-C. Zhu, Y. N. Wu. Learning Multi-layer Latent
    Variable Model via Variational Optimization of Short Run MCMC for Approximate Inference. ECCV
    2020, algorithm 1. B. Pang, E. Nijkamp, T. Han, Y. N. Wu. Generative Text Modeling through
    Short Run Inference. EACL 2021.
    """

    optimized: ClassVar = {"optimizer": "generator"}
    config_parts: ClassVar = (
        "generator",
        "posterior_sampler",
        "likelihood",
        "noise_schedule",
        "prior_schedule",
    )

    def __init__(
        self,
        generator: keras.layers.Layer,
        latent_size: latents.LatentSize | None = None,
        posterior_sampler: ShortRunLangevin | None = None,
        likelihood: Any = None,
        prior_scale: float = 1.0,
        num_chains: int = 1,
        scale_by_sigma: bool = False,
        noise_schedule: Any = None,
        prior_schedule: Any = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        of_sentences = hasattr(generator, "tokenizer")
        default = text_sampler() if of_sentences else ShortRunLangevin(25, 0.05)
        super().__init__(
            generator,
            latent_size,
            default if posterior_sampler is None else posterior_sampler,
            likelihood,
            prior_scale,
            num_chains,
            scale_by_sigma,
            seed,
            **kwargs,
        )
        arguments.check_schedule("noise_schedule", noise_schedule)
        arguments.check_schedule("prior_schedule", prior_schedule)
        self.noise_schedule, self.prior_schedule = noise_schedule, prior_schedule

    def sample_prior(self, seeds: Tensor, compiled: bool = True) -> Latents:
        """Draws of N(0, prior_scale**2 I) for the streams `seeds`, int32 `[B, 2]`."""
        return self.start(seeds, random.PRIOR)[0]

    def learn(self, x: Tensor, seeds: Tensor, training: bool) -> tuple[dict[str, list], dict]:
        """The generator's gradients at fresh z+, and the metrics updated with the batch."""
        x, seeds, weights = replicas.fill_empty(*self.chain_rows(x, seeds, self.num_chains))
        start, z = self._posterior_chain(x, seeds, training=training)
        count = replicas.global_sum(tf.reduce_sum(weights))
        grads, seen = self.generator_pass(x, start, z, weights, count, training, seeds)
        loss = seen.pop("loss")
        return {"generator": grads}, self.track(seen, weights, loss)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        if self.reads_sentences:
            return {"optimizer": keras.optimizers.Adam(1e-3, global_clipnorm=5.0)}
        return {"optimizer": keras.optimizers.Adam(8e-5, beta_1=0.5)}

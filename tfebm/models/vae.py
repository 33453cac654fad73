"""Variational autoencoders: the baselines whose latents an encoder infers."""

import math
import types
from typing import Any

import keras

from tfebm import checks
from tfebm.errors import InvalidInputError
from tfebm.models import arguments, latents
from tfebm.models.encoder_inference import KINDS, EncoderInference
from tfebm.models.examples import of_generator
from tfebm.models.latent_model import LatentModel
from tfebm.models.parts import PartSetting
from tfebm.models.priors import GaussianPrior
from tfebm.types import LayeredGenerator


@keras.saving.register_keras_serializable(package="tfebm")
class VAE(LatentModel):
    """A generator learned with an encoder, by the evidence lower bound.

        p(x, u) = N(u; 0, I) p(x | g(u)),    u = (u_1, ..., u_L), the top first
        -ELBO   = -E_q log p(x | g(u)) + beta * sum_l KL(q(u_l | x, above) || N(0, I))

    The encoder gives a mean and a log-variance for every layer. For `inference="mean_field"` these
    are the moments of q(u_l | x), independent of each other: with a single layer the ordinary
    variational autoencoder. For `"ladder"` they are a likelihood of z_l that meets the generator's
    own p(z_l | z_{l-1}) = N(m_l, exp(v_l)) on the way down,

        q(z_l | z_{l-1}, x) proportional to N(z_l; mean_l, var_l) N(z_l; m_l, exp(v_l))

    below the top, where q is N(mean_1, var_1). Here latents are whitened,
    u_l = (z_l - m_l) / exp(v_l / 2), as the generator takes them.

    Args:
        generator: Any Keras layer or model, latents to what the likelihood takes: `[B, d]`, or for
            several layers (`tfebm.MultilayerGenerator`) a tuple of `[B, d_l]`. For "ladder" with a
            method `descend(choose)`, see there; it is run without the flag `training`.
        encoder: Any Keras layer or model, examples to `[B, 2 * d]`, the mean and beside it the
            log-variance; for several layers to a tuple of `[B, 2 * d_l]`, the top first.
            Default: `ConvEncoder` of the generator's image shape, or a `SentenceEncoder` of the
            generator's sizes.
        latent_size: d, or the tuple of sizes. Default: what the generator was built for, or says
            in its attribute `latent_sizes`; else 100.
        likelihood: p(x | u). Default: `GaussianLikelihood(0.3)`. Its scale weighs the data against
            the KL. A generator of sentences (`tfebm.AutoregressiveGenerator`) brings its own.
        inference: "mean_field" or "ladder".
        kl_warmup_steps: Training steps over which beta rises from 0 to 1. 0: always 1. Evaluation
            and scores have beta 1.
        free_bits: Nats of KL that every unit has for nothing while learning: the sum over units
            of `max(free_bits, mean KL over the batch)` takes the KL's place, which keeps units in
            use that an autoregressive generator would ignore. 0: the ELBO itself.
        seed: Of all noise in training, together with the step and the global row.
        **kwargs: Of `keras.Model`.

    Raises:
        InvalidInputError: An encoder that does not return the moments of the latents, none for
            data that are not images, a ladder over a generator without `descend`, another
            inference, a negative warm-up or number of free bits, or a network that computes in
            float16.

    Metrics, all means over examples: `loss`, -ELBO in nats with all constants and beta 1, and the
    penalties of both networks' layers; `generator_loss`, the likelihood's error as in the other
    models; `reconstruction_mse`; `kl`, and `kl_layer_0`, ... of several layers; `elbo`, nats with
    all constants and beta 1.

    Example:

        >>> vae = tfebm.VAE(tfebm.DeconvGenerator((28, 28, 1), width=16), latent_size=16)
        >>> vae.compile()
        >>> vae.fit(x_train, epochs=20, batch_size=100)        # float32 in [-1, 1]
        >>> images = vae.generate(64, seed=0)
        >>> generator = tfebm.MultilayerGenerator((28, 28, 1), (8, 16, 24), 16, upsamplings=2)
        >>> ladder = tfebm.VAE(generator, inference="ladder", kl_warmup_steps=2000)

    References: D. P. Kingma, M. Welling. Auto-Encoding Variational Bayes. ICLR 2014. C. K.
    Sonderby et al. Ladder Variational Autoencoders. NeurIPS 2016, section 2. Free bits: D. P.
    Kingma et al. Improved Variational Inference with Inverse Autoregressive Flow. NeurIPS 2016,
    appendix C.8.
    """

    optimized = types.MappingProxyType({"optimizer": "generator", "encoder_optimizer": "encoder"})
    config_parts = ("generator", "encoder", "likelihood")
    config_values = ("latent_size", "kl_warmup_steps", "free_bits", "seed")

    inference: EncoderInference
    kl_warmup_steps = PartSetting("inference")
    free_bits = PartSetting("inference")

    def __init__(
        self,
        generator: keras.layers.Layer,
        encoder: keras.layers.Layer | None = None,
        latent_size: latents.LatentSize | None = None,
        likelihood: Any = None,
        inference: str = "mean_field",
        kl_warmup_steps: int = 0,
        free_bits: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if inference not in KINDS:
            raise InvalidInputError(
                f"`inference` must be {' or '.join(map(repr, KINDS))}. Received {inference!r}."
            )
        if inference == "ladder" and not isinstance(generator, LayeredGenerator):
            raise InvalidInputError(
                "A ladder meets the generator's latents on the way down, but "
                f"{type(generator).__name__} has no method `descend`. Use a "
                '`MultilayerGenerator`, or `inference="mean_field"`.'
            )
        checks.check_count("kl_warmup_steps", kl_warmup_steps, least=0)
        if not (math.isfinite(free_bits) and free_bits >= 0):
            raise InvalidInputError(
                "`free_bits` must be a number of at least 0, nats of every unit. Received "
                f"{free_bits!r}."
            )
        super().__init__(seed=seed, **kwargs)
        size = arguments.checked_size(latent_size, generator)
        self.generator = generator
        examples = of_generator(generator, size, self.decode, likelihood, self.seed)
        if encoder is not None:
            arguments.check_network("encoder", encoder)
            arguments.check_one_input("encoder", encoder, "the examples")
        self.encoder = examples.default_encoder(size) if encoder is None else encoder
        prior = GaussianPrior(size)
        part = KINDS[inference](
            *(examples, prior, generator, self.encoder),
            kl_warmup_steps=kl_warmup_steps,
            free_bits=free_bits,
        )
        self.put_together(examples, prior, part)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "inference": self.inference.kind}

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer | None = None,
        encoder_optimizer: str | keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: The generator's. Default: Adam with rate 1e-3.
            encoder_optimizer: The encoder's. Default: Adam with rate 1e-3.
            **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution` of `keras.Model`.

        Raises:
            ValueError: A loss or metrics (the model has its own), one optimizer for both
                networks, mixed_float16, or under a strategy of several replicas
                `steps_per_execution > 1` or `jit_compile=True`.
        """
        super().compile(optimizer, encoder_optimizer=encoder_optimizer, **kwargs)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        return self.examples.defaults.encoder_optimizers()

"""Variational autoencoders: the baselines whose latents an encoder infers."""

import math
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks, objectives, random
from tfebm.errors import InvalidInputError
from tfebm.generators.encoders import ConvEncoder
from tfebm.generators.sentence_encoder import SentenceEncoder
from tfebm.models import arguments, compiling, gaussians, latents, networks, replicas
from tfebm.models.latent_variable import LatentVariableModel, gradients
from tfebm.types import Latents, Seed, Tensor

INFERENCE = ("mean_field", "ladder")
# Standard deviations from 0.007 to 12: beyond them exp overflows in early steps, and a variance
# on its way to 0 makes the KL's gradient as large as the data's.
LOG_VARIANCE_RANGE = (-10.0, 5.0)


@keras.saving.register_keras_serializable(package="tfebm")
class VAE(LatentVariableModel):
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

    optimized: ClassVar = {"optimizer": "generator", "encoder_optimizer": "encoder"}
    config_parts: ClassVar = ("generator", "encoder", "likelihood")
    config_values: ClassVar = (
        "latent_size",
        "inference",
        "kl_warmup_steps",
        "free_bits",
        "seed",
    )

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
        if inference not in INFERENCE:
            raise InvalidInputError(
                f"`inference` must be {' or '.join(map(repr, INFERENCE))}. Received {inference!r}."
            )
        if inference == "ladder" and not hasattr(generator, "descend"):
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
        super().__init__(generator, latent_size, likelihood, seed, {}, **kwargs)
        self.inference = inference
        self.kl_warmup_steps, self.free_bits = int(kl_warmup_steps), float(free_bits)
        # Not among the base's networks beside the generator: those take latents, and the default
        # one depends on the shape of the examples.
        if encoder is not None:
            arguments.check_network("encoder", encoder)
            arguments.check_one_input("encoder", encoder, "the examples")
        self.encoder = self._default_encoder() if encoder is None else encoder
        compiling.refuse_float16(self)
        self._build_encoder()
        self.build((None, *self.data_shape))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics, more of them for several layers."""
        layers = len(self.latent_size) if isinstance(self.latent_size, tuple) else 0
        of_layers = (f"kl_layer_{i}" for i in range(layers))
        return ("generator_loss", "kl", "elbo", *of_layers)

    def networks_by_name(self) -> dict[str, keras.layers.Layer]:
        # The base checks the generator before there is an encoder.
        names = self.optimized.values()
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _default_encoder(self) -> keras.layers.Layer:
        if self.reads_sentences:
            return SentenceEncoder(
                self.generator.vocabulary_size,
                self.latent_size,
                self.generator.embedding_size,
                self.generator.hidden_size,
            )
        if len(self.data_shape) != 3:
            raise InvalidInputError(
                "Without an encoder, examples must be images of shape (height, width, channels). "
                f"The generator makes {self.data_shape}. Give an `encoder`, for instance "
                f"`keras.layers.Dense({2 * self.total_latent_size})`."
            )
        return ConvEncoder(self.data_shape, self.latent_size)

    def _build_encoder(self) -> None:
        shape = ("B", *self.data_shape)
        try:
            if not self.encoder.built:
                self.encoder.build((None, *self.data_shape))
            output = self.encoder(self.examples.two())
        except Exception as error:
            raise InvalidInputError(
                f"The encoder does not take examples of shape [{', '.join(map(str, shape))}], as "
                f"the generator makes them: {error} Change the encoder's input, or the generator."
            ) from error
        parts = list(output) if isinstance(output, (tuple, list)) else [output]
        found = [tuple(getattr(part, "shape", ())) for part in parts]
        sizes = latents.sizes(self.latent_size)
        if found != [(2, 2 * size) for size in sizes]:
            needed = " and ".join(f"[B, {2 * size}]" for size in sizes)
            received = " and ".join(
                f"[{', '.join(map(str, ('B', *each[1:])))}]" if each else type(part).__name__
                for each, part in zip(found, parts, strict=True)
            )
            raise InvalidInputError(
                "The encoder must return a mean and beside it a log-variance for latents of size "
                f"{self.latent_size}: {needed}{', the top first' if len(sizes) > 1 else ''}. "
                f"Received {received}. Change its last layer, or `latent_size`."
            )

    # ---- The posterior ------------------------------------------------------------------

    def sample_prior(self, seeds: Tensor, compiled: bool = True) -> Latents:
        """Draws of N(0, I) for the streams `seeds`, int32 `[B, 2]`. No chain runs: `compiled` is
        here for the interface that all models have in common."""
        return latents.standard_normal(random.fold_in(seeds, random.PRIOR), self.latent_size)

    def encode(self, x: Tensor, training: bool | None = None) -> list[tuple[Tensor, Tensor]]:
        """What the encoder says of each layer: means and log-variances, float32 `[B, d_l]`."""
        output = self.encoder(x, training=training)
        parts = output if isinstance(output, (tuple, list)) else [output]
        moments = []
        for part in parts:
            mean, log_variance = tf.split(tf.cast(part, tf.float32), 2, axis=-1)
            moments.append((mean, tf.clip_by_value(log_variance, *LOG_VARIANCE_RANGE)))
        return moments

    def posterior_pass(
        self, x: Tensor, seeds: Tensor, training: bool | None = None
    ) -> tuple[Latents, Tensor, list[Tensor]]:
        """A draw u ~ q, what the likelihood takes of it, and every layer's KL `[B]`.

        Args:
            x: `[B, ...]`.
            seeds: int32 `[B, 2]`.
            training: Of the networks.
        """
        u, outputs, divergences = self._pass(x, seeds, training)
        return u, outputs, [_total([units]) for units in divergences]

    def _pass(
        self, x: Tensor, seeds: Tensor, training: bool | None = None
    ) -> tuple[Latents, Tensor, list[Tensor]]:
        """`posterior_pass` with the KL of every unit, `[B, d_l]`."""
        encoded = self.encode(x, training)
        seeds = random.fold_in(seeds, random.POSTERIOR)
        noise = tf.nest.flatten(latents.standard_normal(seeds, self.latent_size))
        draws, divergences = [], []

        def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
            # KL(q(z_l) || p(z_l)) is the same in the whitened coordinates: both are densities of
            # one variable, and an invertible map of it leaves their ratio as it is.
            divergences.append(gaussians.unit_kl(mean, log_variance))
            draws.append(mean + tf.exp(0.5 * log_variance) * noise[len(draws)])
            return draws[-1]

        def choose(layer: int, mean: Tensor | None, log_variance: Tensor | None) -> Tensor:
            if mean is None:
                return draw(*encoded[layer])
            u = draw(*gaussians.merge(*encoded[layer], mean, log_variance))
            return mean + tf.exp(0.5 * log_variance) * u

        if self.inference == "ladder":
            outputs = tf.cast(self.generator.descend(choose), tf.float32)
            return latents.pack(draws, self.latent_size), outputs, divergences
        for moments in encoded:
            draw(*moments)
        u = latents.pack(draws, self.latent_size)
        masks = random.fold_in(seeds, random.DROPOUT)
        return u, self.examples.outputs(u, x, training, masks), divergences

    # ---- Row functions ------------------------------------------------------------------

    def infer_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Latents:
        """Draws of the whitened latents `[B, num_chains, d]`."""
        x, seeds = self.chain_rows(x, seeds, num_chains)
        u, _, _ = self._pass(x, seeds)
        return latents.by_example(u, num_chains)

    def reconstruct_rows(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Tensor:
        """Reconstructions g(u) of one draw u ~ q, in the shape of `x`."""
        return self.decode_rows(self._pass(x, seeds)[0], seeds)

    def score_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Tensor:
        """Scores `[B]`; see `score`."""
        return self.scores_and_errors(x, seeds, num_chains, compiled)[0]

    def scores_and_errors(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> tuple[Tensor, Tensor]:
        """-ELBO and its part -log p(x | g(u)), means over draws: `[B]` each."""
        x, seeds = self.chain_rows(x, seeds, num_chains)
        _, outputs, divergences = self._pass(x, seeds)
        error = -self.likelihood.log_prob(outputs, x)
        both = error + _total(divergences), error
        return tuple(tf.reduce_mean(tf.reshape(e, [-1, num_chains]), axis=1) for e in both)

    def bound_rows(self, x: Tensor, seeds: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """One draw's bound on log p(x) for each row; see `tfebm.models.evidence_bound`.

        Args:
            x: Examples `[B, ...]`.
            seeds: int32 `[B, 2]`.
            **options: None: they are those of chains.

        Returns:
            log p(x, u) - log q(u | x), float64; -log p(x | u); and True: `[B]` each.

        Raises:
            InvalidInputError: Options, or a ladder, whose draws are not those of one Gaussian.
        """
        if options or self.inference == "ladder":
            what = ", ".join(options) or 'inference="ladder"'
            raise InvalidInputError(
                "A bound of a VAE is that of a mean-field encoder, and takes no options of "
                f"log-determinants. Received {what}."
            )
        u, outputs, _ = self._pass(x, seeds)
        log_ratio = 0.0
        for part, (mean, log_variance) in zip(tf.nest.flatten(u), self.encode(x), strict=True):
            squares = tf.square(part - mean) * tf.exp(-log_variance) + log_variance
            log_ratio += 0.5 * tf.reduce_sum(squares - tf.square(part), axis=1)
        log_likelihood = self.likelihood.log_prob(outputs, x)
        valid = tf.ones_like(log_likelihood, tf.bool)
        return tf.cast(log_likelihood + log_ratio, tf.float64), -log_likelihood, valid

    def mean_rows(self, x: Tensor, seeds: Tensor) -> Tensor:
        """The encoder's means, all layers side by side: `[B, d]`, without noise."""
        return latents.join([mean for mean, _ in self.encode(x)])

    def features(
        self, x: Any, num_chains: int = 20, seed: Seed = 0, batch_size: int = 256
    ) -> np.ndarray:
        """Posterior means, `[N, d]`: the encoder's own, without draws.

        Args:
            x: Examples.
            num_chains: Not used, like the next; for the interface that all models have in common.
            seed: Not used.
            batch_size: Examples at a time.

        Raises:
            InvalidInputError: A ladder, whose lower layers have no mean without a draw above.
        """
        if self.inference == "ladder":
            raise InvalidInputError(
                "The layers of a ladder below the top have no posterior mean without a draw of "
                "those above. Use `infer(x, num_chains=...)` and average."
            )
        return self._on_data("mean_rows", x, seed, batch_size)

    def score(
        self, x: Any, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256
    ) -> np.ndarray:
        """How unlikely each example is: `[N]`, higher = more anomalous.

        The score is `-ELBO(x) >= -log p(x)` in nats with all constants, estimated from
        `num_chains` draws: `KL - log p(x | g(u))`, u ~ q. It is repeatable: noise is keyed by
        `seed` and the example's own values, so that neither the other examples nor their order
        matter.

        Args:
            x: Examples `[N, ...]`, float, in the range of the training data.
            seed: An integer, or int32 `[N, 2]`, one stream per example.
            num_chains: Draws to average; the noise of a score falls as its square root.
            batch_size: Examples at a time; the answer does not depend on it.
        """
        return super().score(x, seed, num_chains, batch_size)

    def inference_parts(self) -> tuple:
        return (self.likelihood,)

    # ---- Learning -----------------------------------------------------------------------

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
        clip = 5.0 if self.reads_sentences else None
        return {n: keras.optimizers.Adam(1e-3, global_clipnorm=clip) for n in self.optimized}

    def kl_weight(self) -> Tensor:
        """beta at this training step: min(1, step / kl_warmup_steps), a float32 scalar."""
        if not self.kl_warmup_steps:
            return tf.constant(1.0)
        # A variable in the graph: the same trace serves all steps, and the schedule is resumed
        # with the weights.
        return tf.minimum(1.0, tf.cast(self.step.value, tf.float32) / self.kl_warmup_steps)

    def learn(self, x: Tensor, seeds: Tensor, training: bool) -> tuple[dict[str, list], dict]:
        """Gradients of -ELBO by reparametrisation, and the metrics updated with the batch."""
        x, seeds, weights = replicas.fill_empty(x, seeds)
        count = replicas.global_sum(tf.reduce_sum(weights))
        beta = self.kl_weight() if training else 1.0
        of_generator = [v.value for v in self.generator.trainable_variables]
        of_encoder = [v.value for v in self.encoder.trainable_variables]
        networks.forget_losses(self.generator, self.encoder, of=self)
        with tf.GradientTape() as tape:
            _, outputs, divergences = self._pass(x, seeds, training)
            error = self.likelihood.error(outputs, x)
            kl = _total(divergences)
            losses = self.likelihood.energy_scale * error
            losses += beta * (self._costly(divergences, weights, count) if training else kl)
            loss = objectives.mean_over_global_batch(losses, weights, count)
            penalties = networks.penalties(self.generator, self.encoder, of=self)
            loss += penalties * (tf.reduce_sum(weights) / count)
        grads, _ = gradients(tape, loss, [*of_generator, *of_encoder])
        seen = {
            "generator_loss": error,
            **self.examples.seen(outputs, x),
            "kl": kl,
            "elbo": self.likelihood.log_prob(outputs, x) - kl,
        }
        if isinstance(self.latent_size, tuple):
            seen |= {f"kl_layer_{i}": _total([layer]) for i, layer in enumerate(divergences)}
        logs = self.track(seen, weights, penalties - seen["elbo"])
        split = len(of_generator)
        return {"generator": grads[:split], "encoder": grads[split:]}, logs

    def _costly(self, divergences: list[Tensor], weights: Tensor, count: Tensor) -> Tensor:
        """`[B]`: the KL of the units whose mean over the global batch exceeds `free_bits`.

        Its gradient is that of `sum_i max(free_bits, mean KL_i)`.
        """
        units = tf.concat(divergences, axis=1)
        if self.free_bits:
            shares = tf.reduce_sum(weights[:, tf.newaxis] * units, axis=0) / count
            means = replicas.global_sum(tf.stop_gradient(shares))
            units = tf.where(means > self.free_bits, units, 0.0)
        return tf.reduce_sum(units, axis=1)


def _total(divergences: list[Tensor]) -> Tensor:
    """`[B]`, of all units of all layers."""
    return tf.add_n([tf.reduce_sum(units, axis=1) for units in divergences])

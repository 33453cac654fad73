"""A language model: a generator of sentences without a latent."""

from typing import Any, ClassVar, NoReturn

import keras
import numpy as np
import tensorflow as tf

from tfebm import objectives, random
from tfebm.errors import InvalidInputError
from tfebm.generators import Sampled
from tfebm.models import arguments, networks, replicas
from tfebm.models.latent_variable import LatentVariableModel, gradients
from tfebm.types import Latents, Seed, Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class LanguageModel(LatentVariableModel):
    """p(x) = prod_t p(x_t | x_1, ..., x_{t-1}), with the generator of the other text models.

    The latent has size 0, so that all else is the same: the baseline of their likelihoods, which it
    knows exactly, and the judge of the sentences that they write.

    Args:
        generator: A `tfebm.AutoregressiveGenerator` that was built for no other latent size.
        seed: Of all noise in training, together with the step and the global row.
        **kwargs: Of `keras.Model`.

    Raises:
        InvalidInputError: A generator that does not make sentences, or was built for latents.

    Metrics, both means over sentences: `generator_loss`, -log p(x) in nats; `loss`, the same with
    the penalties of the generator's layers.

    Example:

        >>> text = tfebm.data.load_text("grammar")
        >>> model = tfebm.LanguageModel(tfebm.AutoregressiveGenerator(text.tokenizer))
        >>> model.compile()
        >>> batches = tfebm.data.sentence_batches(text.x_train, 32, seed=0)
        >>> model.fit(batches, epochs=5, steps_per_epoch=313)
        >>> model.score(text.x_test).mean()                # nats per sentence
    """

    optimized: ClassVar = {"optimizer": "generator"}
    metric_names: ClassVar = ("generator_loss",)
    config_parts: ClassVar = ("generator",)
    config_values: ClassVar = ("seed",)

    def __init__(self, generator: keras.layers.Layer, seed: int = 0, **kwargs: Any) -> None:
        arguments.check_network("generator", generator)
        if not hasattr(generator, "tokenizer"):
            raise InvalidInputError(
                "A language model needs a generator of sentences, such as "
                f"`tfebm.AutoregressiveGenerator`. Received {type(generator).__name__}."
            )
        super().__init__(generator, None, None, seed, {}, **kwargs)
        self.build((None, *self.data_shape))

    def choose_latent_size(self, requested: Any, others: dict[str, keras.layers.Layer]) -> int:
        built = networks.built_size(self.generator)
        if built:
            raise InvalidInputError(
                f"A language model has no latent, but the generator was built for one of size "
                f"{built}. Give it a generator of its own."
            )
        return 0

    def sample_prior(self, seeds: Tensor, compiled: bool = True) -> Latents:
        """`[B, 0]`: there is no latent."""
        return tf.zeros([tf.shape(seeds)[0], 0])

    def nll_rows(self, x: Tensor) -> Tensor:
        """-log p(x), `[B]`, as a graph function."""
        return self.likelihood.error(self.examples.outputs(_no_latent(x), x), x)

    def score_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Tensor:
        """`nll_rows`, whatever the streams."""
        return self.nll_rows(x)

    def score(
        self, x: Any, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256
    ) -> np.ndarray:
        """-log p(x) of each sentence in nats, its end token included: `[N]`. Exact, without noise.

        Args:
            x: Strings, or ids `[N, T]`.
            seed: Not used, like the next.
            num_chains: For the interface that all models have in common.
            batch_size: Sentences at a time; the answer does not depend on it.
        """
        return super().score(x, seed, num_chains, batch_size)

    def generate_rows(self, seeds: Tensor, compiled: bool = True, decoding: Any = None) -> Tensor:
        """One sentence per stream of `seeds`; by `Sampled()` where `decoding` is not given, since
        without a latent all greedy ones are alike."""
        return super().generate_rows(seeds, compiled, decoding or Sampled())

    def learn(self, x: Tensor, seeds: Tensor, training: bool) -> tuple[dict[str, list], dict]:
        """Gradients of the mean of -log p(x), and the metrics updated with the batch."""
        x, seeds, weights = replicas.fill_empty(x, seeds)
        count = replicas.global_sum(tf.reduce_sum(weights))
        masks = random.fold_in(seeds, random.DROPOUT)
        networks.forget_losses(self.generator, of=self)
        with tf.GradientTape() as tape:
            nll = self.likelihood.error(self.examples.outputs(_no_latent(x), x, training, masks), x)
            loss = objectives.mean_over_global_batch(nll, weights, count)
            penalties = networks.penalties(self.generator, of=self)
            loss += penalties * (tf.reduce_sum(weights) / count)
        grads, _ = gradients(tape, loss, [v.value for v in self.generator.trainable_variables])
        return {"generator": grads}, self.track({"generator_loss": nll}, weights, nll + penalties)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        return {"optimizer": keras.optimizers.Adam(1e-3, global_clipnorm=5.0)}

    # ---- What needs latents ----------------------------------------------------------------

    def infer(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `InvalidInputError`, as does all else that needs latents."""
        raise InvalidInputError(
            "A language model has no latents to infer, and knows log p(x) exactly, `-score(x)`. "
            "For latents, reconstructions and bounds use a `ShortRunModel`, `LatentEBM` or `VAE`."
        )

    features = reconstruct = interpolate = infer
    score_parts = scores_and_errors = infer
    weighted_samples = laplace_rows = laplace_bound = bound_rows = joint_energy = infer

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """-log p(x) of each sentence, `[B]`: what `predict` returns."""
        return self.nll_rows(self.as_batch(x))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0],)


def _no_latent(x: Tensor) -> Tensor:
    return tf.zeros([tf.shape(x)[0], 0])

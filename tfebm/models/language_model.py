"""A language model: a generator of sentences without a latent."""

import types
from typing import Any

import keras

from tfebm import random
from tfebm.errors import InvalidInputError
from tfebm.models import arguments, networks
from tfebm.models.exact_inference import NoLatents
from tfebm.models.examples import Sentences
from tfebm.models.latent_model import LatentModel
from tfebm.models.priors import GaussianPrior
from tfebm.types import SentenceGenerator, Tensor


@keras.saving.register_keras_serializable(package="tfebm")
class LanguageModel(LatentModel):
    """p(x) = prod_t p(x_t | x_1, ..., x_{t-1}), with the generator of the other text models.

    The latent has size 0, so that all else is the same: the baseline of their likelihoods, which it
    knows exactly, and the judge of the sentences that they write. Its own are written by
    `tfebm.generators.Sampled()` where no decoding is given.

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
        >>> batches = tfebm.data.sentence_batches(text.x_train, seed=0, batch_size=32)
        >>> model.fit(batches, epochs=5, steps_per_epoch=313)
        >>> model.score(text.x_test).mean()                # nats per sentence
    """

    optimized = types.MappingProxyType({"optimizer": "generator"})
    config_parts = ("generator",)
    config_values = ("seed",)

    def __init__(self, generator: keras.layers.Layer, seed: int = 0, **kwargs: Any) -> None:
        arguments.check_network("generator", generator)
        if not isinstance(generator, SentenceGenerator):
            raise InvalidInputError(
                "A language model needs a generator of sentences, such as "
                f"`tfebm.AutoregressiveGenerator`. Received {type(generator).__name__}."
            )
        super().__init__(seed=seed, **kwargs)
        built = networks.built_size(generator)
        if built:
            raise InvalidInputError(
                f"A language model has no latent, but the generator was built for one of size "
                f"{built}. Give it a generator of its own."
            )
        self.generator = generator
        examples = Sentences(generator, 0, None, self.seed)
        prior = GaussianPrior(0)
        self.put_together(examples, prior, NoLatents(examples, prior, generator))

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """-log p(x) of each sentence, `[B]`: what `predict` returns."""
        x = self.as_batch(x)
        return self.score_rows(x, random.content_seeds(self.seed, x))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None]:
        return (input_shape[0],)

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        return {"optimizer": keras.optimizers.Adam(1e-3, global_clipnorm=5.0)}

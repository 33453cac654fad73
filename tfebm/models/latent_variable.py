"""What all models of a generator and a likelihood share, however they infer latents."""

import math
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.models import (
    arguments,
    batches,
    compiling,
    examples,
    laplace,
    latents,
    networks,
    replicas,
)
from tfebm.models.inference import ChainInference, check_eager, to_numpy
from tfebm.models.optimizers import OptimizersModel
from tfebm.samplers import Chain
from tfebm.types import Latents, Seed, Tensor

# Logits of all sentences at once: 64 MB for each of several tensors, for 10,000 words and as many
# rows as fill them; more at once is no faster.
_LOGITS, _TYPICAL_LENGTH = 2**24, 25


class LatentVariableModel(ChainInference, OptimizersModel):
    """p(x, z) = p(z) p(x | g(z)), with latents that are a tensor or a tuple of tensors.

    Subclasses set `metric_names`, `config_parts` and `config_values`, and give `sample_prior`,
    `infer_rows`, `reconstruct_rows`, `score_rows` and `learn`.
    """

    metric_names: ClassVar[tuple[str, ...]]
    config_parts: ClassVar[tuple[str, ...]]
    """Attributes that are Keras objects."""
    config_values: ClassVar[tuple[str, ...]]
    """Attributes that are numbers."""
    prior_scale: float = 1.0
    """Standard deviation of the Gaussian prior, before any tilt."""

    def __init__(
        self,
        generator: keras.layers.Layer,
        latent_size: latents.LatentSize | None,
        likelihood: Any,
        seed: int,
        others: dict[str, keras.layers.Layer],
        **kwargs: Any,
    ) -> None:
        # Latents, noise and energies stay float32 and inputs are not cast; the networks have
        # precision policies of their own.
        super().__init__(**{"dtype": "float32", **kwargs})
        arguments.check_network("generator", generator)
        arguments.check_generator_inputs(generator, latent_size)
        for name, network in others.items():
            arguments.check_network(name, network)
            arguments.check_one_input(name, network, "all latents side by side")
        self.generator = generator
        for name, network in others.items():
            setattr(self, name, network)
        self.reads_sentences = hasattr(generator, "tokenizer")
        self.latent_size = self.choose_latent_size(latent_size, others)
        self.seed = random.whole_seed(seed)
        compiling.refuse_float16(self)
        self.examples = examples.kind_of(self)
        self.data_shape = self.examples.shape
        self._likelihood = self._checked(self.examples.likelihood(likelihood))
        self.build_others()
        self.step = replicas.add_step(self)
        self.add_trackers(*self.metric_names, *self.examples.metric_names)

    def choose_latent_size(
        self, requested: latents.LatentSize | None, others: dict[str, keras.layers.Layer]
    ) -> latents.LatentSize:
        """d, from what was asked for and from what the networks say."""
        return networks.latent_size(requested, self.generator, others)

    # ---- The model ----------------------------------------------------------------------

    @property
    def likelihood(self) -> Any:
        """p(x | z); what was compiled with another one is compiled anew when it is replaced."""
        return self._likelihood

    @likelihood.setter
    def likelihood(self, likelihood: Any) -> None:
        self._likelihood = self._checked(likelihood)
        for part in self.inference_parts():
            if isinstance(part, Chain):
                part.forget()

    def _checked(self, likelihood: Any) -> Any:
        if not self.reads_sentences:
            arguments.check_likelihood(likelihood)
            arguments.check_logits(likelihood, self.generator, self.latent_size)
        return likelihood

    @property
    def total_latent_size(self) -> int:
        """d, over all parts."""
        return sum(latents.sizes(self.latent_size))

    def decode(self, z: Latents, training: bool | None = None) -> Tensor:
        """What the generator returns for z (a mean or logits), float32."""
        return tf.cast(self.generator(z, training=training), tf.float32)

    def prior_energy(self, z: Latents) -> Tensor:
        """U_prior(z), up to a constant: `[B]`."""
        return self.base_energy(z)

    def base_energy(self, z: Latents) -> Tensor:
        """|z|**2 / (2 prior_scale**2) over all parts: `[B]`."""
        squares = [tf.reduce_sum(tf.square(part), axis=-1) for part in tf.nest.flatten(z)]
        return tf.add_n(squares) / (2.0 * self.prior_scale**2)

    def joint_energy(self, z: Latents, x: Tensor) -> Tensor:
        """-log p(x, z) with all constants but the log Z of a learned prior: `[B]`."""
        log_likelihood = self.likelihood.log_prob(self.examples.outputs(z, x), x)
        return self.prior_energy(z) + self.base_constant - log_likelihood

    @property
    def base_constant(self) -> float:
        """What `base_energy` lacks of -log N(z; 0, prior_scale**2 I)."""
        return self.total_latent_size * math.log(self.prior_scale * math.sqrt(2 * math.pi))

    def sample_prior(self, seeds: Tensor, compiled: bool = True) -> Latents:
        """Latents for the streams `seeds`, int32 `[B, 2]`."""
        raise NotImplementedError

    def build_others(self) -> None:
        """Builds the networks beside the generator, and checks that they fit."""

    def learn(self, x: Tensor, seeds: Tensor, training: bool) -> tuple[dict[str, list], dict]:
        """Gradients by the name of their network, and the metrics updated with the batch."""
        raise NotImplementedError

    def chain_rows(self, x: Tensor, seeds: Tensor, num_chains: int) -> tuple[Tensor, Tensor]:
        """Every row `num_chains` times in a row, each copy with a stream of its own."""
        if num_chains == 1:
            return x, seeds
        chain = tf.tile(tf.range(num_chains, dtype=tf.int32), [tf.shape(x)[0]])
        seeds = random.fold_in(tf.repeat(seeds, num_chains, axis=0), chain)
        return tf.repeat(x, num_chains, axis=0), seeds

    # ---- Row functions: the same graphs for Python, exports and servers ----------------

    def generate_rows(self, seeds: Tensor, compiled: bool = True, decoding: Any = None) -> Tensor:
        """One example per stream of `seeds`, int32 `[B, 2]`."""
        return self.decode_rows(self.sample_prior(seeds, compiled), seeds, decoding)

    def decode_rows(self, z: Latents, seeds: Tensor | None = None, decoding: Any = None) -> Tensor:
        """One example per latent. `seeds`, by default keyed by z, and `decoding` are of sentences
        alone."""
        return self.examples.render(z, seeds, decoding)

    @property
    def rows_at_once(self) -> int:
        """How many rows are evaluated at once, for a memory that the vocabulary bounds."""
        if not self.reads_sentences:
            return 1024
        generator = self.generator
        return max(1, min(256, _LOGITS // (generator.vocabulary_size * _TYPICAL_LENGTH)))

    def laplace_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int, num_samples: int
    ) -> tuple[Tensor, Tensor]:
        """Log importance weights and -log p(x | z) of samples `[B, num_samples]`; see
        `tfebm.models.laplace.log_weights`."""
        return laplace.log_weights(self, x, seeds, num_chains, num_samples)

    def weighted_samples(
        self, x: Any, num_samples: int, num_chains: int, seed: Seed = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """`laplace_rows` of a user's examples."""
        size = max(1, self.rows_at_once // num_chains)
        return self._on_data("laplace_rows", x, seed, size, num_chains, num_samples=num_samples)

    # ---- Keras ------------------------------------------------------------------------

    def build(self, input_shape: tuple) -> None:
        if not self.built:
            super().build(input_shape)

    @property
    def call_spec(self) -> tf.TensorSpec:
        return self.examples.spec

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """Reconstruction, with noise keyed by each example's own values."""
        x = self.as_batch(x)
        return self.reconstruct_rows(x, random.content_seeds(self.seed, x))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], *self.data_shape)

    def check_data(self, x: Any) -> None:
        self.examples.check(x)

    def as_batch(self, x: Any) -> Tensor:
        return batches.ids(x) if self.reads_sentences else batches.floats(x, self.data_shape)

    def predict(self, x: Any = None, *args: Any, **kwargs: Any) -> np.ndarray:
        """`keras.Model.predict`: reconstructions, in the shape of `x`."""
        check_eager("reconstruct_rows")
        x = batches.plain(x, "predict")
        if batches.is_array(x) or (self.reads_sentences and isinstance(x, (str, list))):
            x = self.examples.tensor(x)
        return to_numpy(super().predict(x, *args, **kwargs))

    def as_rows(self, x: Any) -> Tensor:
        return self.examples.tensor(x)

    def row_order(self, x: Tensor) -> np.ndarray | None:
        return self.examples.order(x)

    def trim_rows(self, x: Tensor) -> Tensor:
        return self.examples.trim(x)

    def row_spec(self, x: Tensor) -> tf.TensorSpec:
        return self.examples.spec

    def train_step(self, data: Any) -> dict[str, Tensor]:
        x = self.as_batch(batches.unpack(data))
        seeds = random.row_seeds(self.seed, self.step.value, tf.shape(x)[0])
        grads, logs = self.learn(x, seeds, training=True)
        self.apply_gradients(grads)
        self.step.assign_add(1)
        return logs

    def test_step(self, data: Any) -> dict[str, Tensor]:
        x = self.as_batch(batches.unpack(data))
        _, logs = self.learn(x, random.content_seeds(self.seed, x), training=False)
        return logs

    # ---- Saving -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{
                name: keras.saving.serialize_keras_object(getattr(self, name))
                for name in self.config_parts
                if not isinstance(getattr(self, name), examples.SequenceLikelihood)
            },
            **{name: getattr(self, name) for name in self.config_values},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LatentVariableModel":
        loaded = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in cls.config_parts
            if name in config
        }
        size = config.get("latent_size")
        if isinstance(size, list):  # JSON has no tuples
            loaded["latent_size"] = tuple(size)
        return cls(**{**config, **loaded})


def gradients(
    tape: tf.GradientTape, loss: Tensor, weights: list, z: Latents = ()
) -> tuple[list[Tensor], list[Tensor]]:
    """Towards the weights and towards the latents; 0, not None, for what the loss does not use."""
    parts = tf.nest.flatten(z)
    found = tape.gradient(
        loss, [*weights, *parts], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # Lookups in an embedding have sparse gradients, which replicas and clipping treat apart.
    found = [tf.convert_to_tensor(grad) for grad in found]
    return found[: len(weights)], found[len(weights) :]


def row_norms(parts: list[Tensor]) -> Tensor:
    """`[B]`: the norm over all parts of each row."""
    return tf.norm(latents.join(parts), axis=-1)

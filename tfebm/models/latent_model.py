"""The model that all others are: three parts, put together, trained and asked."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.endpoints import Endpoints
from tfebm.errors import InvalidInputError
from tfebm.models import (
    answers,
    batches,
    bounds,
    compiling,
    laplace,
    latents,
    networks,
    normalizer,
    replicas,
    rows,
    step_sizes,
)
from tfebm.models.parts import (
    Batch,
    Examples,
    Inference,
    PartSetting,
    Prior,
    chains_of,
)
from tfebm.models.rows import check_eager, to_numpy
from tfebm.models.training_model import TrainingModel
from tfebm.types import Latents, Seed, Tensor


class ScoreParts(NamedTuple):
    """An anomaly score and what it is made of, `[N]` each; higher = more anomalous."""

    joint: np.ndarray
    """What `score` returns."""
    reconstruction: np.ndarray
    """-log p(x | g(z+)), of models with a chain up to a constant."""
    energy: np.ndarray
    """The rest: U_prior(z+), that is E(z+) + |z+|**2 / 2, or a VAE's KL divergence."""


class LatentModel(TrainingModel):
    """p(x, z) = p(z) p(x | z), of three parts: `examples`, `prior` and `inference`.

    What an example is, what latents are a priori and how they are inferred are objects (see
    `tfebm.models.parts`); this class trains them, checks what comes, answers in arrays, and saves.
    A model of one's own sets its networks as attributes, names their optimizers in `optimized`,
    makes the parts and hands them to `put_together`.

    Noise is keyed by `seed` and by the values of an example: answers depend neither on the other
    examples nor on their order, `batch_size` or the number of replicas.
    """

    config_parts: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that are Keras objects."""
    config_values: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that are plain values."""

    examples: Examples
    prior: Prior
    inference: Inference

    prior_scale = PartSetting("prior", "scale")
    latent_size = PartSetting("prior")
    data_shape = PartSetting("examples", "shape")

    def __init__(self, *, seed: int, **kwargs: Any) -> None:
        # Latents, noise and energies stay float32 and inputs are not cast; the networks have
        # precision policies of their own.
        super().__init__(**{"dtype": "float32", **kwargs})
        self.seed = random.whole_seed(seed)
        self.step = replicas.add_step(self)

    def put_together(self, examples: Examples, prior: Prior, inference: Inference) -> None:
        """Makes the model of its parts, when its networks are set."""
        compiling.refuse_float16(self)
        self.examples, self.prior, self.inference = examples, prior, inference
        self.rows = rows.Rows(self)
        names = (*inference.metric_names, *prior.metric_names, *examples.metric_names)
        self.add_trackers(*names)
        self.build((None, *examples.shape))

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """See `Inference.watchers`."""
        watchers = self.inference.watchers
        return [keras.callbacks.LambdaCallback(on_epoch_end=each) for each in watchers]

    # ---- The model as densities ----------------------------------------------------------

    @property
    def likelihood(self) -> Any:
        """p(x | z); what was compiled with another one is compiled anew when it is replaced."""
        return self.examples.likelihood

    @likelihood.setter
    def likelihood(self, likelihood: Any) -> None:
        self.examples.likelihood = likelihood
        for chain in chains_of(self):
            chain.forget()

    @property
    def total_latent_size(self) -> int:
        """d, over all parts."""
        return sum(latents.sizes(self.latent_size))

    def decode(self, z: Latents, training: bool | None = None) -> Tensor:
        """What the generator returns for z (a mean or logits), float32."""
        return tf.cast(self.generator(z, training=training), tf.float32)

    def prior_energy(self, z: Latents) -> Tensor:
        """U_prior(z), up to a constant: `[B]`."""
        return self.prior.energy(z)

    def posterior_energy(self, z: Latents, x: Tensor) -> Tensor:
        """U_post(z; x) = U_prior(z) - log p(x | z), up to a constant: `[B]`."""
        return self.inference.joint.posterior_energy(z, x)

    def joint_energy(self, z: Latents, x: Tensor) -> Tensor:
        """-log p(x, z) with all constants but the log Z of a learned prior: `[B]`."""
        return self.inference.joint.joint_energy(z, x)

    # ---- Row functions: the same graphs for Python, exports and servers -------------------

    def sample_prior(self, seeds: Tensor, compiled: bool = True) -> Latents:
        """Latents for the streams `seeds`, int32 `[B, 2]`; without `compiled` as plain
        operations."""
        return self.prior.sample(seeds, compiled)

    def sample_posterior(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Latents:
        """Latents of `x` `[B, ...]` for the streams `seeds`, int32 `[B, 2]`."""
        return self.inference.sample(x, seeds, compiled)

    def generate_rows(self, seeds: Tensor, compiled: bool = True, decoding: Any = None) -> Tensor:
        """One example per stream of `seeds`, int32 `[B, 2]`."""
        return self.decode_rows(self.prior.sample(seeds, compiled), seeds, decoding)

    def decode_rows(self, z: Latents, seeds: Tensor | None = None, decoding: Any = None) -> Tensor:
        """One example per latent. `seeds`, by default keyed by z, and `decoding` are of sentences
        alone."""
        return self.examples.render(z, seeds, decoding)

    def infer_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Latents:
        """Latents `[B, num_chains, d]`."""
        x, seeds = rows.repeated(x, seeds, num_chains)
        return latents.by_example(self.inference.sample(x, seeds, compiled), num_chains)

    def reconstruct_rows(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Tensor:
        """Examples of the latents of `x`, in its shape."""
        return self.decode_rows(self.inference.sample(x, seeds, compiled), seeds)

    def score_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> Tensor:
        """Scores `[B]`; see `score`."""
        return self.score_parts_rows(x, seeds, num_chains, compiled)[0]

    def score_parts_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 1, compiled: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Scores and their part -log p(x | z), means over the chains: `[B]` each."""
        x, seeds = rows.repeated(x, seeds, num_chains)
        both = self.inference.scores(x, seeds, compiled)
        total, error = (tf.reduce_mean(tf.reshape(e, [-1, num_chains]), axis=1) for e in both)
        return total, error

    def features_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int = 20, compiled: bool = True
    ) -> Tensor:
        """Means of latents, `[B, d]`; see `features`."""
        return self.inference.features(x, seeds, num_chains, compiled)

    def laplace_rows(
        self, x: Tensor, seeds: Tensor, num_chains: int, num_samples: int
    ) -> tuple[Tensor, Tensor]:
        """Log importance weights and -log p(x | z) of samples `[B, num_samples]`; see
        `tfebm.models.laplace.log_weights`."""
        return laplace.log_weights(self, x, seeds, num_chains, num_samples)

    def endpoints(self, *, num_chains: int = 10, max_length: int | None = None) -> Endpoints:
        """What a server is given; see `tfebm.endpoints.Servable`."""
        return answers.endpoints(self, num_chains=num_chains, max_length=max_length)

    # ---- Questions: arrays in, arrays out -------------------------------------------------

    def generate(
        self, num_samples: int, *, seed: Seed = 0, batch_size: int = 256, decoding: Any = None
    ) -> np.ndarray:
        """Draws examples from the model: `[num_samples, ...]`, float32, in the data's range; of a
        generator of sentences strings `[num_samples]`.

        Sample i depends on `seed` and i alone, not on `num_samples` or `batch_size`.

        Args:
            num_samples: How many.
            seed: An integer, or int32 `[num_samples, 2]`, one stream per sample.
            batch_size: Samples at a time; the answer does not depend on it.
            decoding: How sentences are written, `tfebm.generators.Sampled()` for instance.
                Default: the generator's own.
        """
        check_eager("generate_rows")
        checks.check_count("num_samples", num_samples)
        seeds = random.as_row_seeds(seed, num_samples)
        static = {} if decoding is None else {"decoding": decoding}
        return self.rows.in_batches("generate_rows", [seeds], batch_size=batch_size, **static)

    def decode_latents(self, z: Any, *, batch_size: int = 256, decoding: Any = None) -> np.ndarray:
        """Examples of latents `[N, d]`, or of a tuple of `[N, d_l]`: `[N, ...]`, or strings."""
        check_eager("decode_rows")
        z = latents.as_latents(z, self.latent_size)
        static = {} if decoding is None else {"decoding": decoding}
        return self.rows.in_batches("decode_rows", [z], batch_size=batch_size, **static)

    def infer(self, x: Any, *, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256) -> Any:
        """Latents of `x`: `[N, d]`, or `[N, num_chains, d]` for several chains or draws; a tuple
        of such arrays, the top first, for a generator with several layers.

        Args:
            x: Examples `[N, ...]`, float, in the range of the training data; of a model of
                sentences strings, or ids `[N, T]`.
            seed: An integer, or int32 `[N, 2]`, one stream per example.
            num_chains: Chains, or draws of an encoder. The inverse of a flow is exact.
            batch_size: Examples at a time; the answer does not depend on it.

        Raises:
            InvalidInputError: Other examples, or a model without latents to infer.
        """
        z = self.rows.on_examples(
            "infer_rows", x, seed=seed, num_chains=num_chains, batch_size=batch_size
        )
        return tf.nest.map_structure(lambda part: part[:, 0] if num_chains == 1 else part, z)

    def features(
        self, x: Any, *, seed: Seed = 0, num_chains: int = 20, batch_size: int = 256
    ) -> np.ndarray:
        """Posterior means, `[N, d]` with all layers side by side: what classifiers take.

        Args:
            x: As in `infer`.
            seed: As in `infer`.
            num_chains: Chains whose ends are averaged; 200 in the text paper. An encoder has its
                own means, and a flow one latent.
            batch_size: Examples at a time, each with all its chains.

        Raises:
            InvalidInputError: As `infer`, and a ladder, whose lower layers have no mean without a
                draw of those above.
        """
        return self.rows.on_examples(
            "features_rows", x, seed=seed, num_chains=num_chains, batch_size=batch_size
        )

    def reconstruct(self, x: Any, *, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """g(z+), in the shape and range of `x`."""
        return self.rows.on_examples("reconstruct_rows", x, seed=seed, batch_size=batch_size)

    def score(
        self, x: Any, *, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256
    ) -> np.ndarray:
        """How unlikely each example is: `[N]`, higher = more anomalous.

        - With a chain: `U_post(z+; x)`, that is `-log p(x, z+)` up to a constant.
        - With an encoder: `-ELBO(x) >= -log p(x)` in nats with all constants.
        - Of a flow and of a `LanguageModel`: `-log p(x)` in nats; with an energy over the flow up
          to the constant log Z, and `E(x)` alone over a backbone without a density.

        Args:
            x: As in `infer`.
            seed: As in `infer`.
            num_chains: Chains, or draws of an encoder, to average; the noise of a score falls as
                the square root of their number.
            batch_size: Examples at a time; the answer does not depend on it.

        References: B. Pang et al. Learning Latent Space Energy-Based Prior Model. NeurIPS 2020,
        section 4.4 (anomaly detection).
        """
        return self.rows.on_examples(
            "score_rows", x, seed=seed, num_chains=num_chains, batch_size=batch_size
        )

    def score_parts(
        self, x: Any, *, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256
    ) -> ScoreParts:
        """The score of each example, and the two parts that it is the sum of.

        All three are of the same chains as `score` with the same arguments.

        Example:

            >>> parts = model.score_parts(x_test, num_chains=5)
            >>> parts.energy             # how unlikely the latents are, however x looks
        """
        if "errors" not in self.inference.answers:
            raise InvalidInputError(
                "The parts of a score are those of p(z) and p(x | z). Received a "
                f"{type(self).__name__}, whose score is a whole. Use `score(x)`."
            )
        joint, reconstruction = self.rows.on_examples(
            "score_parts_rows", x, seed=seed, num_chains=num_chains, batch_size=batch_size
        )
        return ScoreParts(joint, reconstruction, joint - reconstruction)

    def interpolate(
        self,
        x_from: Any,
        x_to: Any,
        *,
        seed: Seed = 0,
        batch_size: int = 256,
        num_steps: int = 8,
        spherical: bool = False,
        layers: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Examples decoded along the path between the latents of two.

        Args:
            x_from: Examples `[N, ...]`.
            x_to: As many others.
            seed: As in `infer`.
            batch_size: Examples at a time.
            num_steps: Examples per path, both ends included; at least 2.
            spherical: Along the great circle rather than the straight line, in each layer.
            layers: Of a generator with several layers, those that move, 0 for the top; the others
                stay as they are for `x_from`, which shows what each holds. Default: all.

        Returns:
            `[N, num_steps, ...]`.
        """
        checks.check_count("num_steps", num_steps, least=2)
        if len(x_from) != len(x_to):
            raise InvalidInputError(
                f"`x_from` and `x_to` must be pairs. Received {len(x_from)} and {len(x_to)} rows."
            )
        sizes = latents.sizes(self.latent_size)
        moving = range(len(sizes)) if layers is None else layers
        if not np.iterable(moving) or not set(moving) <= set(range(len(sizes))):
            raise InvalidInputError(
                f"`layers` must list layers from 0 to {len(sizes) - 1}. Received {layers!r}."
            )
        ends = [
            tf.nest.flatten(self.infer(x, seed=seed, batch_size=batch_size)) for x in (x_from, x_to)
        ]
        paths = [
            networks.latent_path(a, b if i in moving else a, num_steps, spherical)
            for i, (a, b) in enumerate(zip(*ends, strict=True))
        ]
        points = [path.reshape(-1, size) for path, size in zip(paths, sizes, strict=True)]
        z = latents.pack(points, self.latent_size)
        decoded = self.decode_latents(z, batch_size=batch_size)
        return decoded.reshape(len(x_from), num_steps, *decoded.shape[1:])

    evidence_bound = bounds.evidence_bound
    laplace_bound = bounds.laplace_bound
    evidence_sampler = step_sizes.evidence_sampler
    tune_step_size = step_sizes.tune_step_size
    check_stability = step_sizes.check_stability
    estimate_log_normalizer = normalizer.estimate_log_normalizer

    # ---- Training -------------------------------------------------------------------------

    def learn(
        self, x: Tensor, seeds: Tensor, training: bool
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """Gradients by the name of their network, and the metrics updated with the batch."""
        x, seeds = rows.repeated(x, seeds, self.inference.num_chains)
        x, seeds, weights = replicas.fill_empty(x, seeds)
        count = replicas.global_sum(tf.reduce_sum(weights))
        batch = Batch(x, seeds, weights, count, self.step.value, training, self)
        z, of_inference = self.inference.learn(batch)
        of_prior = self.prior.learn(batch, z)
        seen = {**of_inference.seen, **of_prior.seen}
        loss = of_inference.loss + of_prior.loss + tf.zeros_like(weights)
        return {**of_inference.grads, **of_prior.grads}, self.track(seen, weights, loss)

    def train_step(self, data: Any) -> dict[str, Tensor]:
        x = self.as_batch(batches.unpack(data))
        seeds = random.row_seeds(self.seed, self.step.value, tf.shape(x)[0])
        grads, logs = self.learn(x, seeds, training=True)
        self.apply_gradients(grads)
        self.step.assign_add(1)
        return logs

    def test_step(self, data: Any) -> dict[str, Tensor]:
        x = self.as_batch(batches.unpack(data))
        return self.learn(x, random.content_seeds(self.seed, x), training=False)[1]

    # ---- Keras ----------------------------------------------------------------------------

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if not self.built:
            super().build(input_shape)

    @property
    def call_spec(self) -> tf.TensorSpec:
        return self.examples.spec

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """Reconstruction, with noise keyed by each example's own values."""
        x = self.as_batch(x)
        return self.reconstruct_rows(x, random.content_seeds(self.seed, x))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.data_shape)

    def predict(self, x: Any = None, *args: Any, **kwargs: Any) -> np.ndarray:
        """`keras.Model.predict`: what `model(x)` returns, in batches."""
        check_eager("reconstruct_rows")
        x = batches.plain(x, "predict")
        return to_numpy(super().predict(self.rows_of_input(x), *args, **kwargs))

    def rows_of_input(self, x: Any) -> Any:
        """What `predict` takes, examples as a tensor."""
        return self.examples.tensor(x) if self.examples.holds(x) else x

    def check_data(self, x: Any) -> None:
        self.examples.check(x)

    def as_batch(self, x: Any) -> Tensor:
        return self.examples.as_batch(x)

    vocabulary_size = PartSetting("examples")
    rows_at_once = PartSetting("examples")

    # ---- Saving ---------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        serialized = keras.saving.serialize_keras_object
        config = {
            **super().get_config(),
            **{name: serialized(getattr(self, name)) for name in self.config_parts},
            **{name: getattr(self, name) for name in self.config_values},
        }
        if "likelihood" in config:
            config["likelihood"] = serialized(self.examples.saved_likelihood)
        chain = self.inference.chain
        if chain is not None and chain.was_replaced:
            # The weight has the shape, and the meaning, that the first one gave it.
            config["replaced_by"] = config["posterior_sampler"]
            config["posterior_sampler"] = serialized(chain.first_sampler)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LatentModel":
        config = dict(config)
        replaced_by = config.pop("replaced_by", None)
        loaded = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in cls.config_parts
            if name in config
        }
        size = config.get("latent_size")
        if isinstance(size, list):  # JSON has no tuples
            loaded["latent_size"] = tuple(size)
        model = cls(**{**config, **loaded})
        if replaced_by is not None:
            model.posterior_sampler = keras.saving.deserialize_keras_object(replaced_by)
        return model

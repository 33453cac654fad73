"""Maximum likelihood for flows."""

import math
import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks, objectives, random
from tfebm.errors import InvalidInputError, received
from tfebm.flows import Flow
from tfebm.models import batches, networks, replicas
from tfebm.models.inference import RowInference
from tfebm.models.optimizers import OptimizersModel
from tfebm.samplers import compilation
from tfebm.types import Seed, Tensor

_INITIAL_ROWS = 512  # of the data, for activation normalisation


@keras.saving.register_keras_serializable(package="tfebm")
class FlowModel(RowInference, OptimizersModel):
    """Trains a flow: `fit` descends `-log q(x)`.

    For 8-bit images q is a density over pixels with uniform noise of the width of one level
    (dequantisation), and the figures are those of the discrete images: the reported
    `-log q(x + u) - D log(bin width)` bounds their negative log-likelihood from above.

    Args:
        flow: A `tfebm.flows.Flow`: `RealNVP`, `SplineFlow`, `Glow` or your own.
        num_levels: How many values a pixel can take, evenly spaced over [-1, 1] (256); None
            for continuous data, which get no noise.
        jit_compile: Of the likelihood and its gradient: True (XLA), False, or "auto", the
            samplers' rule.
        seed: Of the noise, together with the step and the global row.
        **kwargs: Of `keras.Model`.

    Metrics: `nats`, `-log q(x)` per example, `bits_per_dimension`, `nats / (D log 2)`, and `loss`,
    `nats` with the penalties of the flow's layers.

    Raises:
        InvalidInputError: What is not a flow, or fewer than 2 levels.

    Example:

        >>> model = tfebm.FlowModel(tfebm.SplineFlow(size=2))
        >>> model.compile()                                     # Adam, 1e-3
        >>> model.fit(points, epochs=10, batch_size=256, validation_data=held_out)
        >>> model.log_prob(held_out)

    References: D. Kingma, P. Dhariwal. Glow. NeurIPS 2018, section 2. Dequantisation: L. Theis
    et al. A note on the evaluation of generative models. ICLR 2016, section 3.1.
    """

    optimized: ClassVar = {"optimizer": "flow"}

    def __init__(
        self,
        flow: Flow,
        num_levels: int | None = None,
        jit_compile: compilation.JitCompile = "auto",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if not isinstance(flow, Flow):
            raise InvalidInputError(
                "`flow` must be a `tfebm.flows.Flow`, which owns its weights and makes TFP "
                f"bijectors. Received {received(flow)}. Give for instance "
                "`tfebm.SplineFlow(size=2)`."
            )
        check_precision(flow)
        check_levels(num_levels)
        # Keras' "auto" would compile the whole step, convolutions and all, wherever it runs.
        self.supports_jit = False
        self.flow = flow
        self.num_levels = num_levels
        self.jit_chains = compilation.check_jit_compile(jit_compile)
        self.seed = random.whole_seed(seed)
        self.flow.build()
        self.data_shape = flow.event_shape
        self.latent_size = flow.latent_size
        self.step = replicas.add_step(self)
        self.add_trackers("nats", "bits_per_dimension")
        self._likelihood_function = _Compiled()
        self.build((None, *self.data_shape))

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    @property
    def call_spec(self) -> tf.TensorSpec:
        return tf.TensorSpec([None, self.latent_size], tf.float32, name="latent")

    def call(self, z: Tensor, training: bool | None = None) -> Tensor:
        """x = g(z)."""
        return self.flow(self.as_input(z))

    def as_input(self, x: Any) -> Tensor:
        return batches.floats(x, (self.latent_size,))

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        return {"optimizer": keras.optimizers.Adam(1e-3)}

    # ---- Training ---------------------------------------------------------------------

    def check_data(self, x: Any) -> None:
        checks.check_training_data(x, self.data_shape, (-1.0, 1.0) if self.num_levels else None)

    def prepare(self, x: Any) -> None:
        """Initialises a flow that has not seen data from (the first batch of) `x`."""
        if not self.flow.is_initialized:
            self.initialize(x)

    def initialize(self, x: Any) -> None:
        """Initialises the flow's normalisation from (the first rows of) `x`."""
        batch = first_rows(self, x, _INITIAL_ROWS)
        if batch is None:
            raise InvalidInputError(
                f"A flow is initialised from data, and of a {type(x).__name__} nothing is known "
                "before it is read. Call `initialize(batch)` with some of its examples first."
            )
        self.flow.initialize(self.dequantize(batch, random.content_seeds(self.seed, batch)))
        self.flow.initialized.assign(1)

    def dequantize(self, x: Tensor, seeds: Tensor) -> Tensor:
        """`x` with uniform noise of the width of a level; `x` itself for continuous data."""
        return dequantize(x, seeds, self.num_levels)

    def train_step(self, data: Any) -> dict[str, Tensor]:
        x = self.as_batch(batches.unpack(data))
        seeds = random.row_seeds(self.seed, self.step.value, tf.shape(x)[0])
        x, seeds, weights = replicas.fill_empty(x, seeds)
        count = replicas.global_sum(tf.reduce_sum(weights))
        function = self._likelihood(x, weights, count)
        log_prob, penalties, grads = function(self.dequantize(x, seeds), weights, count)
        self.apply_gradients({"flow": grads})
        self.step.assign_add(1)
        return self._track(log_prob, penalties, weights)

    def test_step(self, data: Any) -> dict[str, Tensor]:
        x = self.as_batch(batches.unpack(data))
        x, seeds, weights = replicas.fill_empty(x, random.content_seeds(self.seed, x))
        networks.forget_losses(self.flow)
        log_prob = self.flow.log_prob(self.dequantize(x, seeds))
        return self._track(log_prob, networks.penalties(self.flow), weights)

    def _likelihood(self, *arguments: Tensor) -> Any:
        """log q, penalties and the gradient of the loss, compiled by the samplers' rule."""
        known = self._likelihood_function
        variables, situation = self.flow.trainable_variables, compilation.situation()
        if not known.holds_for(variables, situation):
            jit = compilation.resolve_jit_compile(
                self.jit_chains,
                lambda x, *_: self.flow.log_prob(x),
                arguments,
                # XLA has operations whose gradients it lacks.
                compiled_fn=self._log_prob_and_grads,
            )
            function = tf.function(
                self._log_prob_and_grads, jit_compile=jit, reduce_retracing=True, autograph=False
            )
            known = self._likelihood_function = _Compiled(function, variables, situation)
        return known.function

    def _log_prob_and_grads(self, x: Tensor, weights: Tensor, count: Tensor) -> tuple:
        variables = [v.value for v in self.flow.trainable_variables]
        networks.forget_losses(self.flow)
        with tf.GradientTape() as tape:
            log_prob = self.flow.log_prob(x)
            loss = objectives.mean_over_global_batch(-log_prob, weights, count)
            penalties = tf.convert_to_tensor(networks.penalties(self.flow), tf.float32)
            loss += penalties * (tf.reduce_sum(weights) / count)
        grads = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return log_prob, penalties, grads

    def _track(
        self, log_prob: Tensor, penalties: Tensor | float, weights: Tensor
    ) -> dict[str, Tensor]:
        nats = -log_prob - log_bin_width(self.num_levels, self.latent_size)
        bits = nats / (self.latent_size * math.log(2.0))
        values = {"nats": nats, "bits_per_dimension": bits}
        return self.track(values, weights, nats + penalties)

    # ---- Inference --------------------------------------------------------------------

    def log_prob(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """log q(x) in nats, `[N]`; of the discrete image where there are levels.

        The noise that fills the levels is keyed by `seed` and the example's own values.
        """
        return self._on_data("log_prob_rows", x, seed, batch_size)

    def score(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """How unlikely each example is, `-log q(x)`: `[N]`, higher = more anomalous."""
        return -self.log_prob(x, seed, batch_size)

    def infer(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """z = g^-1(x), exactly and without noise: `[N, d]`."""
        return self._on_data("infer_rows", x, seed, batch_size)

    def log_prob_rows(self, x: Tensor, seeds: Tensor) -> Tensor:
        """`log_prob` as a graph function."""
        noisy = self.dequantize(x, seeds)
        return self.flow.log_prob(noisy) + log_bin_width(self.num_levels, self.latent_size)

    def infer_rows(self, x: Tensor, seeds: Tensor) -> Tensor:
        """`infer` as a graph function; the streams are not used."""
        return self.flow.inverse_and_log_det(x)[0]

    def decode_rows(self, z: Tensor, decoding: None = None) -> Tensor:
        """x = g(z), images clipped to the range of their pixels."""
        refuse_decoding(decoding)
        x = self.flow(z)
        return tf.clip_by_value(x, -1.0, 1.0) if self.num_levels else x

    def generate_rows(self, seeds: Tensor, decoding: None = None) -> Tensor:
        """x = g(z), z ~ N(0, I), for the streams `seeds`."""
        refuse_decoding(decoding)
        return self.decode_rows(self.sample_latents(seeds))

    def sample_latents(self, seeds: Tensor) -> Tensor:
        """z ~ N(0, I) for the streams `seeds`, int32 `[B, 2]`: `[B, d]`."""
        return random.row_normal(seeds, random.START_STREAM, self.latent_size)

    # ---- Saving -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "flow": keras.saving.serialize_keras_object(self.flow),
            "num_levels": self.num_levels,
            "jit_compile": self.jit_chains,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FlowModel":
        return cls(**{**config, "flow": keras.saving.deserialize_keras_object(config["flow"])})


class _Compiled:
    """A function, and what it was traced for: its gradients are those of these variables."""

    def __init__(
        self, function: Any = None, variables: Sequence[Any] = (), situation: tuple | None = None
    ) -> None:
        self.function = function
        self._of = tuple(variables), situation

    def holds_for(self, variables: Sequence[Any], situation: tuple) -> bool:
        """Whether nothing was frozen, thawed or replaced since, and graphs are made as then."""
        ours, then = self._of
        same = len(ours) == len(variables) and all(map(operator.is_, ours, variables))
        return self.function is not None and same and then == situation


def first_rows(model: OptimizersModel, x: Any, number: int) -> Tensor | None:
    """Up to `number` rows of an array, or of the first batch of a data set; None of a generator.

    Raises:
        InvalidInputError: A batch that `model` cannot take.
    """
    batch = batches.first(x)
    if batch is None and batches.is_array(x):
        batch = x[:number]
    return None if batch is None else model.as_batch(batch)[:number]


def check_precision(flow: Flow) -> None:
    """Raises `InvalidInputError` unless a flow computes in float32."""
    if flow.compute_dtype != "float32" or flow.variable_dtype != "float32":
        raise InvalidInputError(
            f"A flow must compute in float32, as the model around it does. Received the flow "
            f"'{flow.name}' that computes in {flow.compute_dtype}. Give it `dtype='float32'`."
        )


def refuse_decoding(decoding: Any) -> None:
    """Raises `InvalidInputError` for a way of writing sentences, which no flow does."""
    if decoding is not None:
        raise InvalidInputError(
            "`decoding` says how sentences are written, but a flow makes arrays. Received "
            f"{decoding!r}. Leave it out."
        )


def check_levels(num_levels: int | None) -> None:
    """Raises `InvalidInputError` unless it is None or a whole number of at least 2."""
    if num_levels is not None:
        checks.check_count("num_levels", num_levels, least=2)


def dequantize(x: Tensor, seeds: Tensor, num_levels: int | None) -> Tensor:
    """`x` with uniform noise of the width of a level, `2 / (num_levels - 1)` on [-1, 1]."""
    if num_levels is None:
        return x
    size = math.prod(x.shape[1:])
    uniform = random.row_uniform(seeds, random.DEQUANTIZE_STREAM, size) - 0.5
    return x + tf.reshape(uniform, tf.shape(x)) * (2.0 / (num_levels - 1))


def log_bin_width(num_levels: int | None, num_dimensions: int) -> float:
    """log of the volume of a cell of discrete data: what turns a density into a probability."""
    return 0.0 if num_levels is None else num_dimensions * math.log(2.0 / (num_levels - 1))

"""Maximum likelihood for flows."""

import types
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.errors import InvalidInputError, received
from tfebm.flows import Flow
from tfebm.models import batches
from tfebm.models.exact_inference import FlowInference
from tfebm.models.examples import Decoded
from tfebm.models.latent_model import LatentModel
from tfebm.models.parts import PartSetting
from tfebm.models.priors import GaussianPrior
from tfebm.samplers import compilation
from tfebm.types import Seed, Tensor

_INITIAL_ROWS = 512  # of the data, for activation normalisation


@keras.saving.register_keras_serializable(package="tfebm")
class FlowModel(LatentModel):
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

    optimized = types.MappingProxyType({"optimizer": "flow"})
    config_parts = ("flow",)
    config_values = ("num_levels", "seed")

    examples: Decoded
    inference: FlowInference
    num_levels = PartSetting("examples")
    jit_chains = PartSetting("inference", "jit_compile")

    def __init__(
        self,
        flow: Flow,
        num_levels: int | None = None,
        jit_compile: compilation.JitCompile = "auto",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        if not isinstance(flow, Flow):
            raise InvalidInputError(
                "`flow` must be a `tfebm.flows.Flow`, which owns its weights and makes TFP "
                f"bijectors. Received {received(flow)}. Give for instance "
                "`tfebm.SplineFlow(size=2)`."
            )
        check_precision(flow)
        # Keras' "auto" would compile the whole step, convolutions and all, wherever it runs.
        self.supports_jit = False
        self.flow = flow
        flow.build()
        examples = Decoded(flow.event_shape, self.decode, num_levels)
        prior = GaussianPrior(flow.latent_size)
        inference = FlowInference(examples, prior, flow, jit_compile=jit_compile)
        self.put_together(examples, prior, inference)

    def decode(self, z: Tensor, training: bool | None = None) -> Tensor:
        """x = g(z)."""
        return self.flow(z)

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

    def rows_of_input(self, x: Any) -> Any:
        return x

    def default_optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        return {"optimizer": keras.optimizers.Adam(1e-3)}

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
        self.flow.initialize(
            self.examples.dequantize(batch, random.content_seeds(self.seed, batch))
        )
        self.flow.initialized.assign(1)

    def log_prob(self, x: Any, *, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """log q(x) in nats, `[N]`; of the discrete image where there are levels.

        The noise that fills the levels is keyed by `seed` and the example's own values.
        """
        return -self.score(x, seed=seed, batch_size=batch_size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "jit_compile": self.jit_chains}


def first_rows(model: LatentModel, x: Any, number: int) -> Tensor | None:
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

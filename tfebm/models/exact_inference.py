"""Latents that need no chain: a flow's inverse, and none at all."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tensorflow as tf

from tfebm import objectives, random
from tfebm.errors import InvalidInputError
from tfebm.flows import Flow
from tfebm.models import gradients, networks
from tfebm.models.examples import Decoded
from tfebm.models.parts import Batch, Examples, Inference, Lesson, Prior
from tfebm.samplers import compilation
from tfebm.types import Latents, SentenceGenerator, Tensor


class FlowInference(Inference):
    """z = g^-1(x), exactly; the flow descends -log q(x).

    Args:
        examples: Of the model.
        prior: Of the model, N(0, I).
        flow: g.
        jit_compile: Of the likelihood and its gradient: True (XLA), False, or "auto".
    """

    metric_names = ("nats", "bits_per_dimension")
    answers = frozenset({"infer"})
    examples: Decoded

    def __init__(
        self, examples: Decoded, prior: Prior, flow: Flow, *, jit_compile: compilation.JitCompile
    ) -> None:
        super().__init__(examples, prior)
        self.flow = flow
        self.jit_compile = compilation.check_jit_compile(jit_compile)
        self._compiled = _Compiled()

    def sample(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> Latents:
        return self.flow.inverse_and_log_det(x)[0]

    def scores(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> tuple[Tensor, Tensor]:
        """-log q(x), of the discrete image where there are levels; what is inverted exactly has no
        error of its own."""
        log_prob = self.flow.log_prob(self.examples.dequantize(x, seeds))
        return -log_prob - self.examples.log_bin_width, tf.zeros_like(log_prob)

    def bound(self, x: Tensor, seeds: Tensor, **options: Any) -> NoReturn:
        raise InvalidInputError("A flow knows log p(x) exactly. Use `log_prob(x)`.")

    def learn(self, batch: Batch) -> tuple[None, Lesson]:
        x = self.examples.dequantize(batch.x, batch.seeds)
        if batch.training:
            function = self._likelihood(batch)
            log_prob, penalties, grads = function(x, batch.weights, batch.count)
        else:
            networks.forget_losses(self.flow)
            log_prob, grads = self.flow.log_prob(x), []
            penalties = networks.penalties(self.flow)
        nats = -log_prob - self.examples.log_bin_width
        bits = nats / (math.prod(self.examples.shape) * math.log(2.0))
        seen = {"nats": nats, "bits_per_dimension": bits}
        return None, Lesson({"flow": grads}, seen, nats + penalties)

    def _likelihood(self, batch: Batch) -> Callable[..., Any]:
        """log q, penalties and the gradient of the loss, compiled by the samplers' rule."""
        variables, situation = self.flow.trainable_variables, compilation.situation()
        if not self._compiled.holds_for(variables, situation):
            jit = compilation.resolve_jit_compile(
                self.jit_compile,
                lambda x, *_: self.flow.log_prob(x),
                (batch.x, batch.weights, batch.count),
                # XLA has operations whose gradients it lacks.
                compiled_fn=self._log_prob_and_grads,
            )
            function = tf.function(
                self._log_prob_and_grads, jit_compile=jit, reduce_retracing=True, autograph=False
            )
            self._compiled = _Compiled(function, variables, situation)
        return self._compiled.function

    def _log_prob_and_grads(self, x: Tensor, weights: Tensor, count: Tensor) -> tuple[Any, ...]:
        variables = [v.value for v in self.flow.trainable_variables]
        networks.forget_losses(self.flow)
        with tf.GradientTape() as tape:
            log_prob = self.flow.log_prob(x)
            loss = objectives.mean_over_global_batch(-log_prob, weights, count)
            penalties = tf.convert_to_tensor(networks.penalties(self.flow), tf.float32)
            loss += penalties * (tf.reduce_sum(weights) / count)
        return log_prob, penalties, gradients.gradients(tape, loss, variables)


class _Compiled:
    """A function, and what it was traced for: its gradients are those of these variables."""

    def __init__(
        self,
        function: Any = None,
        variables: Sequence[Any] = (),
        situation: tuple[Any, ...] | None = None,
    ) -> None:
        self.function = function
        self._of = tuple(variables), situation

    def holds_for(self, variables: Sequence[Any], situation: tuple[Any, ...]) -> bool:
        """Whether nothing was frozen, thawed or replaced since, and graphs are made as then."""
        ours, then = self._of
        same = len(ours) == len(variables) and all(map(operator.is_, ours, variables))
        return self.function is not None and same and then == situation


class NoLatents(Inference):
    """Nothing to infer: the generator of sentences knows log p(x) itself.

    Args:
        examples: Of the model.
        prior: Of the model, of size 0.
        generator: Of sentences, the network that learns.
    """

    metric_names = ("generator_loss",)
    takes_seed = False

    def __init__(self, examples: Examples, prior: Prior, generator: SentenceGenerator) -> None:
        super().__init__(examples, prior)
        self.generator = generator

    def sample(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `InvalidInputError`, as does all else that needs latents."""
        raise InvalidInputError(
            "A language model has no latents to infer, and knows log p(x) exactly, `-score(x)`. "
            "For latents, reconstructions and bounds use a `ShortRunModel`, `LatentEBM` or `VAE`."
        )

    features = bound = sample

    def scores(self, x: Tensor, seeds: Tensor, compiled: bool = True) -> tuple[Tensor, Tensor]:
        nll = self._nll(x)
        return nll, nll

    def _nll(self, x: Tensor, training: bool | None = None, masks: Tensor | None = None) -> Tensor:
        """-log p(x), `[B]`."""
        z = tf.zeros([tf.shape(x)[0], 0])
        outputs = self.examples.outputs(z, x, training, masks)
        return self.examples.likelihood.error(outputs, x)

    def learn(self, batch: Batch) -> tuple[None, Lesson]:
        masks = random.fold_in(batch.seeds, random.DROPOUT)

        def loss() -> tuple[Tensor, Tensor]:
            nll = self._nll(batch.x, batch.training, masks)
            return objectives.mean_over_global_batch(nll, batch.weights, batch.count), nll

        descent = gradients.descend(batch, {"generator": self.generator}, loss)
        nll = descent.found
        return None, Lesson(descent.grads, {"generator_loss": nll}, nll + descent.penalties)

"""p(x | z) from what a generator returns; `tfebm.types.Likelihood` says what each offers."""

import math
from typing import Any

import keras
import tensorflow as tf

from tfebm import checks
from tfebm.types import Tensor


def _sum_over_data(values: Tensor) -> Tensor:
    return tf.reduce_sum(values, axis=list(range(1, values.shape.rank)))


@keras.saving.register_keras_serializable(package="tfebm")
class GaussianLikelihood:
    """p(x | z) = N(g(z), scale**2 I); the generator returns the mean.

    Learning descends `|x - g(z)|**2` without the factor `1 / (2 scale**2)`, as the released
    code does: `scale` acts in the chains alone, where it weighs the data against the prior.

    Args:
        scale: The standard deviation sigma, positive; 0.3 in the paper.

    Raises:
        InvalidInputError: A scale that is not positive.

    Example:

        >>> likelihood = GaussianLikelihood(scale=0.3)
        >>> likelihood.error(tf.zeros([8, 4]), tf.ones([8, 4]))   # eight times 4.0
    """

    def __init__(self, scale: float = 0.3) -> None:
        self.scale = checks.check_number("scale", scale, above=True)

    @property
    def energy_scale(self) -> float:
        return 0.5 / self.scale**2

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        return _sum_over_data(tf.math.squared_difference(x, outputs))

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        size = math.prod(x.shape[1:])
        constant = size * math.log(self.scale * math.sqrt(2 * math.pi))
        return -self.energy_scale * self.error(outputs, x) - constant

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GaussianLikelihood":
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfebm")
class BernoulliLikelihood:
    """p(x | z) of binary pixels; the generator returns logits (`output_activation=None`).

    Data stay in [-1, 1], as everywhere here: -1 is off, 1 is on, and values between count as
    `(x + 1) / 2` of both, the usual reading of grey images.
    """

    energy_scale = 1.0
    data_range = (-1.0, 1.0)
    takes_logits = True
    """The generator's outputs have any size and sign: a bounded one is refused."""

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        target = 0.5 * (x + 1.0)
        return _sum_over_data(
            tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=outputs)
        )

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return -self.error(outputs, x)

    def mean(self, outputs: Tensor) -> Tensor:
        return 2.0 * tf.sigmoid(outputs) - 1.0

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BernoulliLikelihood":
        return cls(**config)

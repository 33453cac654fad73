"""A distribution tilted by an energy, and energies pulled back through bijectors."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfebm.errors import InvalidInputError
from tfebm.types import EnergyFn, Tensor


def pull_back(
    energy_fn: EnergyFn, bijector: tfp.bijectors.Bijector | Callable[[], tfp.bijectors.Bijector]
) -> EnergyFn:
    """The energy `z -> E(g(z))` on the latent space of `x = g(z)`.

    Tilting the base of a flow by it is the same as tilting the flow by E: the Jacobian cancels,
    so that a chain on z needs only g.

        p(z) = exp(-E(g(z))) q0(z) / Z    if and only if    p(x) = exp(-E(x)) q(x) / Z

    Args:
        energy_fn: E, examples `[B, ...]` to `[B]`.
        bijector: g, or a function that makes it (`flow.bijector`), for weights that change.

    Returns:
        A function of latents `[B, d]` to energies `[B]`.

    Example:

        >>> energy_of_z = tfebm.distributions.pull_back(energy, flow.bijector)
        >>> energy_of_z(tf.zeros([8, flow.latent_size]))

    References: E. Nijkamp et al. MCMC Should Mix: Learning Energy-Based Model with Neural
    Transport Latent Space MCMC. ICLR 2022, section 3.2.
    """

    def energy_of_latents(z: Tensor) -> Tensor:
        g = bijector if isinstance(bijector, tfp.bijectors.Bijector) else bijector()
        # A copy: a bijector that is kept would answer for the same tensor from its cache.
        return energy_fn(g.forward(tf.identity(z)))

    return energy_of_latents


class ExponentialTilting(tfp.distributions.Distribution):
    """p(x) = exp(-E(x)) * base(x) / Z, with Z = E_base[exp(-E(x))].

    `unnormalized_log_prob` is `log base(x) - E(x)`; `log_prob` needs `log_normalizer`, for
    which see `importance_log_normalizer` and `annealed_log_normalizer`; `sample` needs a
    `sampler`, whose chains start at samples of the base.

    Args:
        base: A `tfd.Distribution` without batch shape, event rank at least 1.
        energy_fn: E, `[B, *event_shape]` to `[B]`; low where data live.
        sampler: Any chain of `tfebm.samplers`.
        log_normalizer: log Z, a scalar.
        name: Of the operations.

    Raises:
        InvalidInputError: A base with a batch shape; `log_prob` without `log_normalizer`;
            `sample` without `sampler`.

    Example:

        >>> base = tfd.MultivariateNormalDiag(tf.zeros(2))
        >>> tilt = tfebm.distributions.ExponentialTilting(
        ...     base, lambda x: -tf.reduce_sum(x, axis=-1), log_normalizer=1.0)
        >>> tilt.log_prob(tf.ones([1, 2]))                # the density of N([1, 1], I) at its mean
    """

    def __init__(
        self,
        base: tfp.distributions.Distribution,
        energy_fn: EnergyFn,
        sampler: Any = None,
        log_normalizer: Tensor | float | None = None,
        name: str = "ExponentialTilting",
    ) -> None:
        parameters = dict(locals())
        if base.batch_shape.rank != 0 or not base.event_shape.rank:
            raise InvalidInputError(
                "`base` must be a distribution of vectors or arrays without batch shape. Received "
                f"batch shape {base.batch_shape} and event shape {base.event_shape}. Wrap it in "
                "`tfd.Independent` or `tfd.Sample`."
            )
        self.base, self.energy_fn, self.sampler = base, energy_fn, sampler
        self.log_normalizer = log_normalizer
        super().__init__(
            dtype=base.dtype,
            reparameterization_type=tfp.distributions.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> dict[str, Any]:
        return {}

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _batch_shape_tensor(self) -> Tensor:
        return tf.constant([], tf.int32)

    def _event_shape(self) -> tf.TensorShape:
        return self.base.event_shape

    def _event_shape_tensor(self) -> Tensor:
        return self.base.event_shape_tensor()

    def energy(self, x: Tensor) -> Tensor:
        """U(x) = E(x) - log base(x), whose exponential is sampled: `[B]`."""
        return self.energy_fn(x) - self.base.log_prob(x)

    def _unnormalized_log_prob(self, x: Tensor) -> Tensor:
        event = self.event_shape
        leading = tf.shape(x)[: tf.rank(x) - event.rank]
        # Networks take [B, ...]; samplers of TFP may have more leading axes.
        rows = tf.reshape(x, [-1, *event])
        return tf.reshape(-self.energy(rows), leading)

    def _log_prob(self, x: Tensor) -> Tensor:
        if self.log_normalizer is None:
            raise InvalidInputError(
                "`log_prob` needs `log_normalizer`, log Z. Estimate it with "
                "`importance_log_normalizer` or `annealed_log_normalizer`, or use "
                "`unnormalized_log_prob`."
            )
        log_normalizer = tf.cast(self.log_normalizer, self.dtype)
        return self._unnormalized_log_prob(x) - log_normalizer

    def _sample_n(self, n: Tensor, seed: Any = None) -> Tensor:
        if self.sampler is None:
            raise InvalidInputError(
                "`sample` needs a `sampler`, for instance `tfebm.HMC(num_steps=100, "
                "num_adaptation_steps=100)`."
            )
        base_seed, chain_seed = tfp.random.split_seed(seed, n=2)
        start = self.base.sample(n, seed=base_seed)
        # One stream per sample, from integers, which are the same compiled and plain.
        seeds = tf.random.stateless_uniform(
            [n, 2], tf.cast(chain_seed, tf.int32), None, None, tf.int32
        )
        chain = self.sampler if tf.executing_eagerly() else self.sampler.run
        return chain(self.energy, start, seed=seeds)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def _default_event_space_bijector(self) -> tfp.bijectors.Bijector:
        return self.base.experimental_default_event_space_bijector()

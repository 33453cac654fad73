"""A flow, or another generator, tilted by an energy: densities, log Z and samples."""

import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.distributions import (
    ExponentialTilting,
    LogNormalizer,
    NormalizerBounds,
    annealed_log_normalizer,
    importance_log_normalizer,
)
from tfebm.errors import InvalidInputError
from tfebm.flows import Flow
from tfebm.models import networks
from tfebm.models.flow_model import dequantize, log_bin_width, refuse_decoding
from tfebm.models.inference import RowInference, check_eager
from tfebm.models.latent_ebm import LatentEBM
from tfebm.samplers import HMC, Chain
from tfebm.types import Seed, Tensor


class TiltedGenerator(RowInference):
    """What `FlowEBM` is once it is trained; how it learns is there.

    A model has `backbone`, `energy`, `sampler`, `generation_steps`, `num_levels`, `seed`, and the
    weights `step_size`, `log_normalizer` and `log_normalizer_digest`.
    """

    backbone: keras.layers.Layer
    energy: keras.layers.Layer
    sampler: Chain
    generation_steps: int
    num_levels: int | None
    seed: int
    step_size: keras.Variable
    log_normalizer: keras.Variable
    log_normalizer_digest: keras.Variable

    # ---- The model as densities -------------------------------------------------------

    @property
    def is_flow(self) -> bool:
        """Whether the backbone has a density."""
        return isinstance(self.backbone, Flow)

    @property
    def adapts(self) -> bool:
        """Whether the sampler has a step size that adapts."""
        return isinstance(self.sampler, HMC)

    @property
    def start_scale(self) -> float:
        """Standard deviation of the chains' start."""
        return self.backbone.prior_scale if isinstance(self.backbone, LatentEBM) else 1.0

    def decode(self, z: Tensor) -> Tensor:
        """x = g(z), float32."""
        if isinstance(self.backbone, LatentEBM):
            return self.backbone.decode_rows(z)
        return tf.cast(self.backbone(z, training=False), tf.float32)

    def tilt(self, x: Tensor, training: bool | None = None) -> Tensor:
        """E(x), float32 `[B]`."""
        return networks.per_row(self.energy(x, training=training))

    def latent_energy(self, z: Tensor) -> Tensor:
        """U(z) = E(g(z)) + |z|**2 / 2 (a `LatentEBM` backbone has its own prior): `[B]`."""
        return self.tilt(self.decode(z)) + self._base_energy(z)

    def data_energy(self, x: Tensor) -> Tensor:
        """U(x) = E(x) - log q(x), `[B]`: the same model, for chains in the data space."""
        self._needs_flow("The energy in the data space")
        return self.tilt(x) - self.backbone.log_prob(x)

    def distribution(self, sampler: Chain | None = None) -> ExponentialTilting:
        """p(x), a fresh `ExponentialTilting` of the flow, with log Z where it is known."""
        self._needs_flow("The distribution of x")
        known = self.log_normalizer.value if self._log_normalizer_known() else None
        return ExponentialTilting(self.backbone.distribution(), self.tilt, sampler, known)

    def latent_distribution(self, sampler: Chain | None = None) -> ExponentialTilting:
        """p(z), the tilt of the flow's base: it has the same log Z."""
        self._needs_flow("The distribution of z")
        known = self.log_normalizer.value if self._log_normalizer_known() else None
        base = self.backbone.base_distribution()
        return ExponentialTilting(base, self._pulled_back, sampler, known)

    def _pulled_back(self, z: Tensor) -> Tensor:
        return self.tilt(self.decode(z))

    def _base_energy(self, z: Tensor) -> Tensor:
        if isinstance(self.backbone, LatentEBM):
            return self.backbone.prior_energy(z)
        return 0.5 * tf.reduce_sum(tf.square(z), axis=-1)

    def _needs_flow(self, what: str) -> None:
        if not self.is_flow:
            raise InvalidInputError(
                f"{what} needs a flow, whose density is known. Received the backbone "
                f"{type(self.backbone).__name__}, which has none."
            )

    def _start(self, streams: Tensor) -> Tensor:
        noise = random.row_normal(streams, random.START_STREAM, self.latent_size)
        return self.start_scale * noise

    # ---- log Z ------------------------------------------------------------------------

    def estimate_log_normalizer(
        self,
        method: str = "importance",
        num_samples: int | None = None,
        num_temperatures: int = 1000,
        seed: int = 0,
    ) -> LogNormalizer | NormalizerBounds:
        """log Z, kept for `log_prob` (and saved with the model) where it can be trusted.

        Args:
            method: "importance", samples of the flow, with their effective sample size; or
                "annealed", which brackets log Z by chains from the flow to the tilt and back.
            num_samples: Samples (default 10,000), or for "annealed" chains (default 64).
            num_temperatures: Of "annealed".
            seed: Of all noise.

        Raises:
            InvalidInputError: Another method, or a backbone that is not a flow.
        """
        check_eager()
        self._needs_flow("log Z")
        base = self.backbone.base_distribution()
        if num_samples is None:
            num_samples = 64 if method == "annealed" else 10_000
        if method == "importance":
            estimate = importance_log_normalizer(self._pulled_back, base, num_samples, seed)
        elif method == "annealed":
            samples = self.sample_latents(random.as_row_seeds(seed, num_samples))
            estimate = annealed_log_normalizer(
                self._pulled_back,
                base,
                samples,
                num_temperatures,
                step_size=float(self.step_size.numpy()) or 0.1,
                seed=seed,
            )
        else:
            raise InvalidInputError(
                f"`method` must be 'importance' or 'annealed'. Received {method!r}."
            )
        if estimate.reliable:
            self.log_normalizer.assign(estimate.value)
            self.log_normalizer_digest.assign(self._digest())
        return estimate

    def _log_normalizer_known(self) -> bool:
        return int(self.log_normalizer_digest.numpy()) == self._digest()

    def _digest(self) -> int:
        """63 bits of the weights of flow and energy, whoever changed them last; never 0."""
        digest = hashlib.sha256()
        for weight in (*self.backbone.weights, *self.energy.weights):
            digest.update(weight.numpy().tobytes())
        return (int.from_bytes(digest.digest()[:8], "little") >> 1) | 1

    # ---- Inference --------------------------------------------------------------------

    def log_prob(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """log p(x) in nats, `[N]`; of the discrete image where there are levels.

        log Z is estimated at the first call after training, see `estimate_log_normalizer`.

        Raises:
            InvalidInputError: A backbone that is not a flow, or an estimate of log Z that cannot be
                trusted.
        """
        check_eager("score_rows")
        self._needs_flow("`log_prob`")
        if not self._log_normalizer_known():
            estimate = self.estimate_log_normalizer()
            if not estimate.reliable:
                raise InvalidInputError(
                    "log Z is not known: its estimate by importance sampling has an effective "
                    f"sample size of {estimate.effective_sample_size:.1f}. Call "
                    "`estimate_log_normalizer('annealed')` first, or use `score`, which needs "
                    "no log Z."
                )
        return -self.score(x, seed, batch_size) - float(self.log_normalizer.numpy())

    def score(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """How unlikely each example is: `[N]`, higher = more anomalous.

        `E(x) - log q(x)`, that is `-log p(x)` up to the constant log Z, without noise but for that
        which fills the levels of pixels; E(x) alone for a backbone without a density.
        """
        return self._on_data("score_rows", x, seed, batch_size)

    def energies(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """E(x) of examples, `[N]`, without noise."""
        check_eager("tilt")
        x = tf.constant(checks.as_examples(x, self.data_shape))
        return self._in_batches("tilt", [x], batch_size)

    def infer(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """z = g^-1(x), exactly and without noise: `[N, d]`. For flows alone."""
        self._needs_flow("The inverse of g")
        return self._on_data("infer_rows", x, seed, batch_size)

    def generate(
        self, num_samples: int, seed: Seed = 0, batch_size: int = 256, decoding: None = None
    ) -> np.ndarray:
        """Draws examples: chains of `generation_steps` transitions from N(0, I), decoded.

        Sample i depends on `seed` and i alone, not on `num_samples` or `batch_size`.

        Raises:
            InvalidInputError: Chains that do not move; their step size is named.
        """
        check_eager("sample_latents")
        refuse_decoding(decoding)
        checks.check_count("num_samples", num_samples)
        checks.check_count("batch_size", batch_size)
        seeds = random.as_row_seeds(seed, num_samples)
        z = [
            self.sample_latents(seeds[start : start + batch_size]).numpy()
            for start in range(0, num_samples, batch_size)
        ]
        return self.decode_latents(np.concatenate(z), batch_size)

    @property
    def generation_sampler(self) -> Chain:
        """The chain of `generate`: the sampler with `generation_steps` transitions."""
        if not self.adapts:
            return self.sampler
        config = {**self.sampler.get_config(), "num_steps": self.generation_steps}
        if self._generation_sampler is None or self._generation_sampler.get_config() != config:
            self._generation_sampler = type(self.sampler).from_config(config)
        return self._generation_sampler

    _generation_sampler: Chain | None = None

    def sample_latents(self, seeds: Tensor, compiled: bool = True) -> Tensor:
        """z for the streams `seeds`, int32 `[B, 2]`: a chain from N(0, I), `[B, d]`."""
        seeds = random.fold_in(seeds, random.CHAIN)
        sampler = self.generation_sampler
        chain = sampler if compiled else sampler.run
        adapted = {"step_size": self.step_size.value} if self.adapts else {}
        return chain(self.latent_energy, self._start(seeds), seed=seeds, **adapted)

    def decode_rows(self, z: Tensor, decoding: None = None) -> Tensor:
        """x = g(z), images clipped to the range of their pixels."""
        refuse_decoding(decoding)
        x = self.decode(z)
        return tf.clip_by_value(x, -1.0, 1.0) if self.num_levels else x

    def infer_rows(self, x: Tensor, seeds: Tensor) -> Tensor:
        """`infer` as a graph function; the streams are not used."""
        return self.backbone.inverse_and_log_det(x)[0]

    def score_rows(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """`score` as a graph function; without streams noise is keyed by the model's seed."""
        if seeds is None:
            seeds = random.content_seeds(self.seed, x)
        x = dequantize(x, seeds, self.num_levels)
        if not self.is_flow:
            return self.tilt(x)
        return self.data_energy(x) - log_bin_width(self.num_levels, self.latent_size)

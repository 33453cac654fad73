"""Inference for people: arrays in, arrays out, in batches, with one trace per question."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.data import checks
from tfebm.errors import InvalidInputError
from tfebm.models import networks
from tfebm.types import Seed, Tensor


class RowInference:
    """What users call on a model whose graph functions work row by row.

    A model has `latent_size`, `data_shape`, `infer`, and the row functions
    `generate_rows(seeds)` and `decode_rows(z)`.
    """

    latent_size: int
    data_shape: tuple[int, ...]

    def infer(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """Latents of `x`: `[N, d]`."""
        raise NotImplementedError

    def generate(self, num_samples: int, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """Draws examples from the model: `[num_samples, ...]`, float32, in the data's range.

        Sample i depends on `seed` and i alone, not on `num_samples` or `batch_size`.
        """
        checks.check_count("num_samples", num_samples)
        seeds = random.as_row_seeds(seed, num_samples)
        return self._in_batches("generate_rows", [seeds], batch_size)

    def decode_latents(self, z: Any, batch_size: int = 256) -> np.ndarray:
        """Examples of latents `[N, d]`: `[N, ...]`."""
        z = tf.constant(checks.as_examples(z, (self.latent_size,)))
        return self._in_batches("decode_rows", [z], batch_size)

    def interpolate(
        self, x_from: Any, x_to: Any, num_steps: int = 8, spherical: bool = False, seed: Seed = 0
    ) -> np.ndarray:
        """Images decoded along the path between the latents of two examples.

        Args:
            x_from: Examples `[N, ...]`.
            x_to: As many others.
            num_steps: Images per path, both ends included; at least 2.
            spherical: Along the great circle rather than the straight line.
            seed: See `infer`.

        Returns:
            `[N, num_steps, ...]`.
        """
        checks.check_count("num_steps", num_steps, least=2)
        if len(x_from) != len(x_to):
            raise InvalidInputError(
                f"`x_from` and `x_to` must be pairs. Received {len(x_from)} and {len(x_to)} rows."
            )
        z = networks.latent_path(
            self.infer(x_from, seed), self.infer(x_to, seed), num_steps, spherical
        )
        images = self.decode_latents(z.reshape(-1, self.latent_size))
        return images.reshape(len(z), num_steps, *self.data_shape)

    def _on_data(
        self, method: str, x: Any, seed: Seed, batch_size: int, num_chains: int | None = None
    ) -> np.ndarray:
        x = tf.constant(checks.as_examples(x, self.data_shape))
        if not isinstance(seed, (int, np.integer)):
            seed = random.as_row_seeds(seed, len(x))
        if num_chains is not None:
            checks.check_count("num_chains", num_chains)
        static = {} if num_chains is None else {"num_chains": int(num_chains)}
        return self._in_batches(method, [x], batch_size, seed=seed, **static)

    def _in_batches(
        self,
        method: str,
        arrays: list[Tensor],
        batch_size: int,
        seed: Seed | None = None,
        **static: Any,
    ) -> np.ndarray:
        """`getattr(self, method)` over slices of `arrays`, as one compiled function each."""
        checks.check_count("batch_size", batch_size)
        if not len(arrays[0]):
            # oneDNN's convolutions return wrong shapes for empty batches.
            row = [tf.zeros([1, *array.shape[1:]], array.dtype) for array in arrays]
            seed = None if seed is None else 0
            return self._in_batches(method, row, batch_size, seed, **static)[:0]
        pieces = []
        for start in range(0, len(arrays[0]), batch_size):
            rows = slice(start, start + batch_size)
            batch = [array[rows] for array in arrays]
            if seed is not None:
                row_seed = seed if isinstance(seed, (int, np.integer)) else seed[rows]
                batch.append(random.content_seeds(row_seed, batch[0]))
            function = self._row_function(method, tuple(static.items()), batch)
            pieces.append(function(*batch).numpy())
        return np.concatenate(pieces)

    def inference_parts(self) -> tuple:
        """The model's parts with settings that the row functions depend on."""
        return ()

    def _row_function(self, method: str, static: tuple, batch: list[Tensor]) -> Any:
        functions = self.__dict__.setdefault("_row_functions", {})
        # A sampler that is replaced or changed must not be answered for by the old trace.
        settings = repr([part.get_config() for part in self.inference_parts()])
        key = (method, static, settings)
        if key not in functions:
            # Any number of rows is one trace.
            signature = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in batch]
            functions[key] = tf.function(
                functools.partial(getattr(self, method), **dict(static)),
                input_signature=signature,
                autograph=False,
            )
        return functions[key]


class ChainInference(RowInference):
    """Inference of latents by chains.

    A model has in addition the row functions `infer_rows(x, seeds, num_chains)`,
    `reconstruct_rows(x, seeds)` and `score_rows(x, seeds, num_chains)`.
    """

    def infer(
        self, x: Any, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256
    ) -> np.ndarray:
        """Latents z+ of `x`: `[N, d]`, or `[N, num_chains, d]` for several chains."""
        z = self._on_data("infer_rows", x, seed, batch_size, num_chains)
        return z[:, 0] if num_chains == 1 else z

    def reconstruct(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> np.ndarray:
        """g(z+), in the shape and range of `x`."""
        return self._on_data("reconstruct_rows", x, seed, batch_size)

    def score(
        self, x: Any, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256
    ) -> np.ndarray:
        """How unlikely each example is: `[N]`, higher = more anomalous.

        The score is `U_post(z+; x)`, that is `-log p(x, z+)` up to a constant, averaged over
        `num_chains` chains. It is repeatable: noise is keyed by `seed` and the example's own
        values, so that neither the other examples nor their order matter.

        Args:
            x: Examples `[N, ...]`, float, in the range of the training data.
            seed: An integer, or int32 `[N, 2]`, one stream per example.
            num_chains: Chains to average; the noise of a score falls as its square root.
            batch_size: Examples at a time; the answer does not depend on it.

        References: B. Pang et al., section 4.4 (anomaly detection).
        """
        return self._on_data("score_rows", x, seed, batch_size, num_chains)

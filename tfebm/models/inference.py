"""Inference for people: arrays in, arrays out, in batches, with one trace per question."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfebm import checks, random
from tfebm.errors import InvalidInputError
from tfebm.models import latents, networks
from tfebm.samplers import compilation
from tfebm.types import Latents, Seed


class RowInference:
    """What users call on a model whose graph functions work row by row.

    A model has `latent_size`, `data_shape`, `infer`, and the row functions
    `generate_rows(seeds)` and `decode_rows(z)`.
    """

    latent_size: latents.LatentSize
    data_shape: tuple[int | None, ...]

    def as_rows(self, x: Any) -> tf.Tensor:
        """A user's examples as a tensor, checked."""
        return tf.constant(checks.as_examples(x, self.data_shape))

    def infer(self, x: Any, seed: Seed = 0, batch_size: int = 256) -> Any:
        """Latents of `x`: `[N, d]`, or a tuple of such arrays."""
        raise NotImplementedError

    def generate(
        self, num_samples: int, seed: Seed = 0, batch_size: int = 256, decoding: Any = None
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
        return self._in_batches("generate_rows", [seeds], batch_size, **static)

    def decode_latents(self, z: Any, batch_size: int = 256, decoding: Any = None) -> np.ndarray:
        """Examples of latents `[N, d]`, or of a tuple of `[N, d_l]`: `[N, ...]`, or strings."""
        check_eager("decode_rows")
        z = latents.as_latents(z, self.latent_size)
        static = {} if decoding is None else {"decoding": decoding}
        return self._in_batches("decode_rows", [z], batch_size, **static)

    def interpolate(
        self,
        x_from: Any,
        x_to: Any,
        num_steps: int = 8,
        spherical: bool = False,
        seed: Seed = 0,
        layers: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Examples decoded along the path between the latents of two.

        Args:
            x_from: Examples `[N, ...]`.
            x_to: As many others.
            num_steps: Examples per path, both ends included; at least 2.
            spherical: Along the great circle rather than the straight line, in each layer.
            seed: See `infer`.
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
        ends = [tf.nest.flatten(self.infer(x, seed)) for x in (x_from, x_to)]
        paths = [
            networks.latent_path(a, b if i in moving else a, num_steps, spherical)
            for i, (a, b) in enumerate(zip(*ends, strict=True))
        ]
        rows = [path.reshape(-1, size) for path, size in zip(paths, sizes, strict=True)]
        decoded = self.decode_latents(latents.pack(rows, self.latent_size))
        return decoded.reshape(len(x_from), num_steps, *decoded.shape[1:])

    def _on_data(
        self,
        method: str,
        x: Any,
        seed: Seed,
        batch_size: int,
        num_chains: int | None = None,
        **static: Any,
    ) -> Any:
        check_eager(method)
        x, seed = self.as_rows(x), random.single_seed(seed)
        if not isinstance(seed, int):
            seed = random.as_row_seeds(seed, len(x))
        if num_chains is not None:
            checks.check_count("num_chains", num_chains)
            static["num_chains"] = int(num_chains)
        order = self.row_order(x)
        if order is None or not len(x):
            return self._in_batches(method, [x], batch_size, seed=seed, **static)
        if not isinstance(seed, int):
            seed = tf.gather(seed, order)
        found = self._in_batches(method, [tf.gather(x, order)], batch_size, seed=seed, **static)
        back = np.argsort(order)
        return tf.nest.map_structure(lambda array: array[back], found)

    def _in_batches(
        self,
        method: str,
        arrays: list[Latents],
        batch_size: int,
        seed: Seed | None = None,
        **static: Any,
    ) -> Any:
        """`getattr(self, method)` over slices of `arrays`, as one compiled function each."""
        checks.check_count("batch_size", batch_size)
        mapped = tf.nest.map_structure
        num_rows = len(tf.nest.flatten(arrays)[0])
        if not num_rows:
            # oneDNN's convolutions return wrong shapes for empty batches.
            row = mapped(lambda array: tf.zeros([1, *array.shape[1:]], array.dtype), arrays)
            seed = None if seed is None else 0
            answer = self._in_batches(method, row, batch_size, seed, **static)
            return mapped(lambda array: array[:0], answer)
        pieces = []
        for start in range(0, num_rows, batch_size):
            rows = slice(start, start + batch_size)
            batch = mapped(lambda array, rows=rows: array[rows], arrays)
            if seed is not None:
                batch[0] = self.trim_rows(batch[0])
                row_seed = seed if isinstance(seed, (int, np.integer)) else seed[rows]
                batch.append(random.content_seeds(row_seed, batch[0]))
            function = self._row_function(method, tuple(static.items()), batch)
            pieces.append(mapped(to_numpy, function(*batch)))
        return mapped(lambda *parts: np.concatenate(parts), *pieces)

    def row_order(self, x: tf.Tensor) -> np.ndarray | None:
        """An order of rows that makes good batches; None where any does."""
        return None

    def trim_rows(self, x: tf.Tensor) -> tf.Tensor:
        """A batch of examples without what all of them lack."""
        return x

    def row_spec(self, x: tf.Tensor) -> tf.TensorSpec:
        """What all batches of examples are."""
        return tf.TensorSpec([None, *x.shape[1:]], x.dtype)

    def inference_parts(self) -> tuple:
        """The model's parts with settings that the row functions depend on."""
        return ()

    def _row_function(self, method: str, static: tuple, batch: list[Latents]) -> Any:
        functions = self.__dict__.setdefault("_row_functions", {})
        # A sampler that is replaced or changed must not be answered for by the old trace.
        settings = repr([part.get_config() for part in self.inference_parts()])
        key = (method, static, settings, compilation.situation())
        if key not in functions:
            # Any number of rows is one trace.
            signature = tf.nest.map_structure(
                lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), batch
            )
            if len(batch) == 2:  # examples, whose length may differ, and streams
                signature[0] = self.row_spec(batch[0])
            functions[key] = tf.function(
                functools.partial(getattr(self, method), **dict(static)),
                input_signature=signature,
                autograph=False,
            )
        return functions[key]


def check_eager(rows: str = "") -> None:
    """Raises `InvalidInputError` in a graph, where nothing can answer with arrays.

    Args:
        rows: The method that does the same there, if there is one.
    """
    if tf.inside_function():
        instead = (
            f", or use `{rows}` inside: the same as operations of the graph, with a stream per "
            "row, `tfebm.random.as_row_seeds(seed, num_rows)`"
        )
        raise InvalidInputError(
            "This method answers with arrays or numbers, and was called inside of a `tf.function`. "
            f"Call it outside{instead if rows else ''}."
        )


def to_numpy(array: tf.Tensor | np.ndarray) -> np.ndarray:
    """An array; TensorFlow's strings as Python's."""
    array = array.numpy() if tf.is_tensor(array) else array
    if array.dtype != object:
        return array
    return np.array([row.decode() for row in array.ravel()], dtype=object).reshape(array.shape)


class ScoreParts(NamedTuple):
    """An anomaly score and what it is made of, `[N]` each; higher = more anomalous."""

    joint: np.ndarray
    """What `score` returns."""
    reconstruction: np.ndarray
    """-log p(x | g(z+)), of models with a chain up to a constant."""
    energy: np.ndarray
    """The rest: U_prior(z+), that is E(z+) + |z+|**2 / 2, or a VAE's KL divergence."""


class ChainInference(RowInference):
    """Inference of latents by chains.

    A model has in addition the row functions `infer_rows(x, seeds, num_chains)`,
    `reconstruct_rows(x, seeds)` and `score_rows(x, seeds, num_chains)`.
    """

    def infer(self, x: Any, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256) -> Any:
        """Latents of `x`: `[N, d]`, or `[N, num_chains, d]` for several chains or draws; a tuple
        of such arrays, the top first, for a generator with several layers."""
        z = self._on_data("infer_rows", x, seed, batch_size, num_chains)
        return tf.nest.map_structure(lambda part: part[:, 0] if num_chains == 1 else part, z)

    def features(
        self, x: Any, num_chains: int = 20, seed: Seed = 0, batch_size: int = 256
    ) -> np.ndarray:
        """Posterior means, `[N, d]` with all layers side by side: what classifiers take.

        Args:
            x: Examples.
            num_chains: Chains whose ends are averaged; 200 in the text paper.
            seed: See `infer`.
            batch_size: Examples at a time, each with all its chains.
        """
        z = self._on_data("infer_rows", x, seed, batch_size, num_chains)
        return np.concatenate([np.mean(part, axis=1) for part in tf.nest.flatten(z)], axis=1)

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

    def score_parts(
        self, x: Any, seed: Seed = 0, num_chains: int = 1, batch_size: int = 256
    ) -> ScoreParts:
        """The score of each example, and the two parts that it is the sum of.

        All three are of the same chains as `score` with the same arguments.

        Example:

            >>> parts = model.score_parts(x_test, num_chains=5)
            >>> parts.energy             # how unlikely the latents are, however x looks
        """
        joint, reconstruction = self._on_data("scores_and_errors", x, seed, batch_size, num_chains)
        return ScoreParts(joint, reconstruction, joint - reconstruction)

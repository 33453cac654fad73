"""Type aliases, and the Protocols of what users plug in.

Shapes in docstrings: `B` = batch, `d` = latent size, `T` = tokens of a sentence, `V` = size of a
vocabulary, `K` = number of steps. A Protocol asks for no base class: whatever has its methods fits.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
import tensorflow as tf

from tfebm import backend as backend  # says so where Keras runs on another one

Tensor: TypeAlias = tf.Tensor
"""A dense tensor; NumPy arrays are accepted wherever a public function asks for one."""

Array: TypeAlias = np.ndarray[Any, Any]
"""A NumPy array."""

Latents: TypeAlias = Any
"""A tensor `[B, ...]`, or a tuple of such tensors with one common `B`."""

State: TypeAlias = Any
"""A tensor `[B, ...]`, or any nest of such tensors: what a writer remembers of each row."""

Seed: TypeAlias = int | tf.Tensor
"""A Python integer, or one stream per row: int32 `[B, 2]`."""

Shape: TypeAlias = Sequence[Any]
"""Of a tensor, as Keras hands it to `build`: sizes, and None where one is not known."""

Moments: TypeAlias = Any
"""A mean and beside it a log-variance, `[B, 2 * d]`; of several layers a tuple, the top first."""

Choose: TypeAlias = Callable[[int, Tensor | None, Tensor | None], Tensor]
"""`choose(layer, mean, log_variance) -> z`, `[B, d_l]`; both are None at the top."""


class EnergyFn(Protocol):
    """E(z): one energy per row, low where data live; p(z) = exp(-E(z)) p0(z) / Z.

    `energy_fn(latents, *context) -> [B]` of latents `[B, ...]`, or of a tuple of such tensors. A
    chain hands its `context` over unchanged, such as the batch `x` of p(x | z). Any function, and
    any Keras layer, of this form will do.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...


@runtime_checkable
class Likelihood(Protocol):
    """p(x | z), from what a generator returns: `outputs`, `[B, ...]`, and examples `x`, `[B, ...]`.

        log p(x | z) = -energy_scale * error(outputs, x) + a constant

    A likelihood whose data are bounded also has `data_range`: see `BoundedData`.
    """

    @property
    def energy_scale(self) -> float:
        """What `error` is multiplied by in the chains."""

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        """What the generator descends, `[B]`, summed over the axes of an example."""

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """The log-density with its constant, `[B]`."""

    def mean(self, outputs: Tensor) -> Tensor:
        """E(x | z), the reconstruction, `[B, ...]`, in the range of the data."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of its constructor."""


@runtime_checkable
class BoundedData(Protocol):
    """A likelihood of data that lie within `data_range`, (low, high)."""

    @property
    def data_range(self) -> tuple[float, float]: ...


@runtime_checkable
class BoundedOutput(Protocol):
    """A generator whose examples lie within `output_range`, (low, high), or anywhere for None."""

    @property
    def output_range(self) -> tuple[float, float] | None: ...


class Generator(Protocol):
    """g: latents to what a likelihood reads; a Keras layer or model with one output.

    `generator(z)` of `[B, d]`, or of a tuple of `[B, d_l]`, is float `[B, ...]`: one row of
    outputs for each row of latents, which depends on that row alone.
    """

    @property
    def built(self) -> bool: ...

    def __call__(self, z: Latents, /, *, training: bool | None = None) -> Tensor: ...

    def build(self, input_shape: Any) -> None:
        """Makes the weights for latents of this shape."""

    @property
    def trainable_variables(self) -> list[Any]: ...


@runtime_checkable
class LayeredGenerator(Protocol):
    """A generator with a latent at every layer: z_l = m_l(z_{l-1}) + s_l(z_{l-1}) * u_l.

    Called with the tuple (u_1, ..., u_L), all N(0, I) a priori, the top first.
    """

    @property
    def latent_sizes(self) -> tuple[int, ...]:
        """d_1 (the top) to d_L."""

    def descend(self, choose: Choose) -> Tensor:
        """The outputs `[B, ...]` of latents that `choose` gives on the way down.

        `choose(layer, mean, log_variance)` is called for the layers 0 to L - 1 with the moments
        of p(z_l | z_{l-1}), float32 `[B, d_l]` each, or None for both at the top.
        """


@runtime_checkable
class Tokenizer(Protocol):
    """Strings to ids and back. `tfebm.tokenizers.Tokenizer` is the base of ours."""

    pad_id: ClassVar[int]
    start_id: ClassVar[int]
    end_id: ClassVar[int]
    needs_tensorflow_text: ClassVar[bool]
    """Whether whoever loads an export needs the operations of tensorflow-text."""

    @property
    def vocabulary_size(self) -> int:
        """V, special ids included."""

    @property
    def digest(self) -> str:
        """Another for every other vocabulary, order or setting."""

    @property
    def resources(self) -> list[Any]:
        """What `keras.export.ExportArchive.track` has to be given for an export."""

    def tokenize(self, text: Tensor) -> Tensor:
        """Strings `[B]` to ids, int32 `[B, T]`: each ends in `end_id`, then `pad_id`."""

    def detokenize(self, ids: Tensor) -> Tensor:
        """Ids `[B, T]` to strings `[B]`."""


@runtime_checkable
class SentenceWriter(Protocol):
    """p(x_t | x_<t, z), one token at a time: all that a `Decoding` needs."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Strings to ids and back."""

    @property
    def max_length(self) -> int:
        """Most tokens of a sentence that is written, its end included."""

    def start(self, z: Tensor) -> State:
        """What is remembered before the first token, of latents `[B, d]`: `[B, ...]` each."""

    def next_logits(self, previous: Tensor, state: State, z: Tensor) -> tuple[Tensor, State]:
        """Logits of the next token, float32 `[B, V]`, and what is remembered then.

        The new state has the structure, the types and the shapes of the old one. Rows are taken
        apart and put together by a beam search: a row depends on the same row of `previous`,
        `state` and `z` alone.

        Args:
            previous: The token before, int32 `[B]`; `start_id` at first.
            state: Of `start`, or of the step before.
            z: `[B, d]`.
        """


@runtime_checkable
class Decoding(Protocol):
    """How sentences are written from p(x_t | x_<t, z)."""

    def write(self, writer: SentenceWriter, z: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Ids of one sentence per row of `z`, int32 `[B, max_length]`, padded behind its end.

        `seeds`, int32 `[B, 2]`, are for ways that draw.
        """

    def get_config(self) -> dict[str, Any]:
        """The arguments of its constructor."""


@runtime_checkable
class SentenceGenerator(Protocol):
    """p(x | z) of sentences: p(x | z) = prod_t p(x_t | x_1, ..., x_{t-1}, z).

    A Keras layer; `tfebm.generators.SentenceDecoder` is the base of ours, which leaves to a
    subclass what lies between embeddings and logits.
    """

    @property
    def tokenizer(self) -> Tokenizer:
        """Strings to ids and back."""

    @property
    def dropout(self) -> float:
        """Share that is dropped while learning; 0 where nothing is."""

    @property
    def max_length(self) -> int:
        """Most tokens of a sentence that is written, its end included."""

    @property
    def decoding(self) -> Decoding:
        """How sentences are written where nobody says otherwise."""

    @property
    def vocabulary_size(self) -> int:
        """V, special ids included."""

    def states(self, z: Tensor, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What p(x_t | x_<t, z) is read from, `[B, T, ...]`, of sentences that are known.

        Args:
            z: `[B, d]`.
            tokens: int32 `[B, T]`, padded with `pad_id`.
            seeds: int32 `[B, 2]`, of dropout masks; without them nothing is dropped.
        """

    def negative_log_likelihood(self, states: Tensor, tokens: Tensor) -> Tensor:
        """-log p(x | z) in nats, `[B]`, the end token included and padding not.

        `states` are those of `states` for the same tokens.
        """

    def write(
        self, z: Tensor, seeds: Tensor | None = None, decoding: Decoding | None = None
    ) -> Tensor:
        """Ids of sentences, int32 `[B, max_length]`; by its own `decoding` where none is given."""


class Encoder(Protocol):
    """q(z | x) = N(mean(x), diag(exp(log_variance(x)))): a Keras layer or model.

    `encoder(x)` of examples `[B, ...]` is a mean and beside it a log-variance, float
    `[B, 2 * d]`; for several layers of latents a tuple of such tensors, the top first.
    """

    def __call__(self, x: Tensor, /, *, training: bool | None = None) -> Moments: ...

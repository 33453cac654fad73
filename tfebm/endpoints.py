"""What a model says to those who serve it: its endpoints, as functions of whole batches of rows.

Whatever has a method `endpoints` can be exported (`Servable`). All that differs between models is
in its answer, so that serving asks no model what it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import tensorflow as tf

from tfebm.types import Tensor

Outputs: TypeAlias = dict[str, Tensor]
"""Outputs by name, each with a row for each row of the inputs."""

SEED = tf.TensorSpec([None, 2], tf.int32, name="seed")
"""One stream of noise a row."""


class Endpoint(NamedTuple):
    """A function that is served."""

    function: Callable[..., Outputs]
    """Takes a tensor for each of `inputs`, in their order. It is traced as it is, so that it must
    consist of TensorFlow's own operations and call nothing that is compiled with XLA."""
    inputs: Sequence[tf.TensorSpec]
    """With the names that clients use, and None for the number of rows."""


class Endpoints(NamedTuple):
    """What a model answers."""

    generator: Mapping[str, Endpoint]
    """Of these "generate" is needed: it answers a request that names none."""
    scorer: Mapping[str, Endpoint]
    """Of these "score" is needed."""
    about: Mapping[str, Any]
    """JSON of what is fixed in the graphs, for people. `needs_tensorflow_text` is read by programs:
    whether the graphs hold operations of tensorflow-text."""
    resources: Sequence[Any] = ()
    """Lookup tables that the functions read. The weights that they read are found by tracing."""


@runtime_checkable
class Servable(Protocol):
    """Something that can be exported.

    Example:

        >>> class Doubles:
        ...     def endpoints(self, *, num_chains=10, max_length=None):
        ...         row = tfebm.endpoints.example_spec((2,))
        ...         draw = Endpoint(lambda seed: {"example": tf.cast(seed, tf.float32)}, [SEED])
        ...         score = Endpoint(lambda x: {"score": tf.reduce_sum(2 * x, axis=1)}, [row])
        ...         return Endpoints({"generate": draw}, {"score": score}, {})
        >>> tfebm.serving.export(Doubles(), "savedmodels", "doubles")
    """

    def endpoints(self, *, num_chains: int = 10, max_length: int | None = None) -> Endpoints:
        """The endpoints of the generator and of the scorer.

        Args:
            num_chains: Chains whose ends `features` averages, for models that have chains.
            max_length: Most tokens of a sentence that are read. Default: the generator's own.

        Raises:
            InvalidInputError: `max_length` for examples that are not sentences, or numbers out of
                their range.
        """


def example_name(shape: Sequence[int | None]) -> str:
    """What an array is called at a server: "image" for height, width and channels, and "example"
    for all else."""
    return "image" if len(shape) == 3 else "example"


def example_spec(shape: Sequence[int | None]) -> tf.TensorSpec:
    """A batch of arrays of one shape, float32, with the name that it has at a server."""
    return tf.TensorSpec([None, *shape], tf.float32, name=example_name(shape))


def text_spec() -> tf.TensorSpec:
    """A batch of strings."""
    return tf.TensorSpec([None], tf.string, name="text")


def latent_spec(size: int) -> tf.TensorSpec:
    """A batch of latents, all parts of one side by side."""
    return tf.TensorSpec([None, size], tf.float32, name="latent")

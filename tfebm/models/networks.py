"""Fitting a user's own networks together: sizes, shapes, and what to say when they do not fit."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import checks
from tfebm.errors import InvalidInputError, received
from tfebm.models import latents
from tfebm.models.latents import LatentSize
from tfebm.types import Latents, Tensor

DEFAULT_LATENT_SIZE = 100  # the paper's, for SVHN and CelebA


def latent_size(
    requested: LatentSize | None,
    generator: keras.layers.Layer,
    others: dict[str, keras.layers.Layer],
) -> LatentSize:
    """The requested size, else the one that a network was built for, else 100.

    The sizes of a generator with several layers are a tuple, in what was asked for and in its
    attribute `latent_sizes`; networks beside it take all parts side by side.

    Raises:
        InvalidInputError: A network was built for another size.
    """
    if requested is not None:
        requested = _checked_size(requested)
    own = getattr(generator, "latent_sizes", None) or built_size(generator)
    own = tuple(int(n) for n in own) if isinstance(own, (tuple, list)) else own
    if None not in (requested, own) and requested != own:
        raise InvalidInputError(
            f"The generator was built for latents of size {own}, but `latent_size` is {requested}. "
            "Give both one size (a tuple of sizes for several layers), or leave it out."
        )
    built = {name: built_size(layer) for name, layer in others.items()}
    known = next((size for size in built.values() if size is not None), None)
    size = requested or own or known or DEFAULT_LATENT_SIZE
    total = sum(latents.sizes(size))
    for name, other in built.items():
        if other not in (None, total):
            raise InvalidInputError(
                f"The {name} was built for latents of size {other}, but the latent size is "
                f"{size}{f', {total} in all' if isinstance(size, tuple) else ''}. Give both "
                "networks and `latent_size` one size."
            )
    return size


def _checked_size(requested: Any) -> LatentSize:
    several = isinstance(requested, (tuple, list))
    parts = tuple(requested) if several else (requested,)
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in parts)
    if not parts or not whole or min(parts) < 1:
        raise InvalidInputError(
            "`latent_size` must be a whole number of at least 1, or a tuple of them for several "
            f"layers. Received {requested!r}."
        )
    return tuple(int(n) for n in parts) if several else int(requested)


def built_size(layer: keras.layers.Layer) -> LatentSize | None:
    """The size that a layer was built for; None where it was not, or does not say."""
    if not layer.built:
        return None
    shape = getattr(layer, "input_shape", None) or (layer.get_build_config() or {}).get(
        "input_shape"
    )
    if shape and isinstance(shape[0], (tuple, list)):
        sizes = [each[-1] for each in shape if each]
        return tuple(sizes) if all(isinstance(n, int) for n in sizes) else None
    if not shape or not isinstance(shape[-1], (int, np.integer)):
        return None
    return int(shape[-1])


def build_generator(generator: keras.layers.Layer, size: LatentSize) -> tuple[int, ...]:
    """Builds the generator and returns the shape of one example, as it makes it.

    Raises:
        InvalidInputError: It does not take latents of the size, or does not return an example per
            row.
    """
    output = _output("generator", generator, _zeros(size), "latents", "Change `latent_size`")
    return _example_shape("generator", output, size)


def build_backbone(
    backbone: keras.layers.Layer, requested: int | None
) -> tuple[int, tuple[int, ...]]:
    """Builds a flow, a `LatentEBM` or another generator; its latent size and example shape.

    Raises:
        InvalidInputError: A network that does not take latents, another size than was asked for,
            or a size that is not known.
    """
    if getattr(backbone, "vocabulary_size", None) is not None:
        raise InvalidInputError(
            f"The backbone {type(backbone).__name__} makes sentences, through which no gradient of "
            "an energy over examples flows. Tilt its latents instead: `tfebm.LatentEBM`."
        )
    known = getattr(backbone, "latent_size", None) or built_size(backbone)
    if isinstance(known, tuple) or hasattr(backbone, "latent_sizes"):
        raise InvalidInputError(
            f"The backbone {type(backbone).__name__} takes a tuple of latents, but its chains here "
            "run on one vector. Wrap it in a layer that takes one vector and splits it."
        )
    if requested is not None:
        checks.check_count("latent_size", requested)
    size = requested or known
    if size is None:
        raise InvalidInputError(
            f"The backbone {type(backbone).__name__} does not say which latents it takes. Give "
            "`latent_size`."
        )
    if known not in (None, size):
        raise InvalidInputError(
            f"The backbone takes latents of size {known}. Received `latent_size={size}`."
        )
    shape = getattr(backbone, "event_shape", None) or getattr(backbone, "data_shape", None)
    if shape is not None:
        if not backbone.built:
            backbone.build((None, size))
        return int(size), tuple(shape)
    output = _output("backbone", backbone, _zeros(int(size)), "latents", "Change `latent_size`")
    return int(size), _example_shape("backbone", output, size)


def build_energy(
    energy: keras.layers.Layer,
    shape: tuple[int, ...],
    of: str = "examples",
    remedy: str = "Change the backbone",
) -> None:
    """Builds an energy over examples, or over what `of` names.

    Raises:
        InvalidInputError: It does not take them, or does not return one value per row.
    """
    output = _output("energy", energy, tf.zeros([2, *shape]), of, remedy)
    _check_energy(output, of, shape)


def _zeros(size: LatentSize) -> Latents:
    return latents.pack([tf.zeros([2, n]) for n in latents.sizes(size)], size)


def _output(name: str, layer: keras.layers.Layer, zeros: Latents, of: str, remedy: str) -> Tensor:
    """What a network returns for two rows of zeros; it is built where it was not."""
    shapes = [("B", *part.shape[1:]) for part in tf.nest.flatten(zeros)]
    try:
        if not layer.built and not isinstance(zeros, tuple):
            layer.build((None, *zeros.shape[1:]))
        output = layer(zeros)
    except (InvalidInputError, MemoryError, tf.errors.ResourceExhaustedError):
        raise  # a network that is too large fits its input all the same
    except Exception as error:
        wanted = " and ".join(f"[{', '.join(map(str, shape))}]" for shape in shapes)
        raise InvalidInputError(
            f"The {name} does not take {of} of shape {wanted}: {error} {remedy}, or the {name}'s "
            "input."
        ) from error
    if not tf.is_tensor(output):
        raise InvalidInputError(
            f"The {name} must return one tensor. Received {received(output)}. Choose one of its "
            "outputs: `keras.Model(network.inputs, network.outputs[0])`."
        )
    return output


def _check_energy(output: Tensor, of: str, shape: tuple[int, ...]) -> None:
    if tuple(output.shape) not in ((2,), (2, 1)):
        raise InvalidInputError(
            "`energy` must return one value per row, shape [B] or [B, 1]. Received shape "
            f"{('B', *output.shape[1:])} for {of} of shape {('B', *shape)}. Sum or squeeze the "
            "other axes, or end with one unit."
        )


def _example_shape(name: str, output: Tensor, size: LatentSize) -> tuple[int, ...]:
    shape = tuple(output.shape)
    if len(shape) < 2 or shape[0] != 2:
        raise InvalidInputError(
            f"`{name}` must return one example per row, shape [B, ...]. Received shape {shape} "
            f"for two rows of latents of size {size}."
        )
    return shape[1:]


def forget_losses(*networks: keras.layers.Layer, of: keras.Model | None = None) -> None:
    """Drops what layers, and the model `of` itself, added to the loss so far, in chains for
    instance; see `penalties`."""
    for network in networks:
        network._clear_losses()
    if of is not None:
        of._losses.clear()


def penalties(*networks: keras.layers.Layer, of: keras.Model | None = None) -> Tensor | float:
    """What networks add to the loss of the pass since `forget_losses`, a float32 scalar.

    The penalties on weights (`kernel_regularizer`, ...), what layers added in their calls
    (`add_loss`, `activity_regularizer`), and what the model `of` added itself, in a method that a
    subclass writes. Of several replicas each adds its share, its rows by those of the global batch:
    Keras sums their gradients.
    """
    added = [loss for network in networks for loss in network.losses]
    if of is not None:
        added += of._get_own_losses()
    # Weights may have other types than the model's float32.
    found = [tf.cast(tf.reduce_sum(loss), tf.float32) for loss in added if _is_within_reach(loss)]
    return tf.add_n(found) if found else 0.0


def _is_within_reach(loss: Any) -> bool:
    """Whether a tensor can be used here: one of a loop's body or of another function cannot."""
    graph = getattr(loss, "graph", None)
    return graph is None or (
        not tf.executing_eagerly() and graph is tf.compat.v1.get_default_graph()
    )


def per_row(energy: Tensor) -> Tensor:
    """`[B]` or `[B, 1]` as float32 `[B]`."""
    energy = tf.cast(energy, tf.float32)
    return tf.squeeze(energy, axis=1) if energy.shape.rank == 2 else energy


def latent_path(
    z_from: np.ndarray, z_to: np.ndarray, num_steps: int, spherical: bool
) -> np.ndarray:
    """`num_steps` points between rows of `[N, d]`: `[N, num_steps, d]`, ends included.

    A straight line, or for `spherical` the great circle with the lengths interpolated
    linearly, which keeps to the shell where a Gaussian has its mass.
    """
    t = np.linspace(0.0, 1.0, num_steps, dtype=np.float32)[np.newaxis, :, np.newaxis]
    a, b = z_from[:, np.newaxis], z_to[:, np.newaxis]
    if not spherical:
        return (1 - t) * a + t * b
    length_a = np.linalg.norm(a, axis=-1, keepdims=True)
    length_b = np.linalg.norm(b, axis=-1, keepdims=True)
    tiny = np.finfo(np.float32).tiny
    unit_a, unit_b = a / np.maximum(length_a, tiny), b / np.maximum(length_b, tiny)
    angle = np.arccos(np.clip(np.sum(unit_a * unit_b, axis=-1, keepdims=True), -1, 1))
    sine = np.sin(angle)
    near = sine < 1e-4  # (anti)parallel: the circle is not defined or is the line
    safe = np.where(near, 1.0, sine)
    on_circle = (np.sin((1 - t) * angle) * unit_a + np.sin(t * angle) * unit_b) / safe
    path = ((1 - t) * length_a + t * length_b) * on_circle
    return np.where(near, (1 - t) * a + t * b, path).astype(np.float32)

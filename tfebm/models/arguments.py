"""Whether what a user plugs into a model is of a kind that it can use."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfebm import random
from tfebm.errors import InvalidInputError, received
from tfebm.models import latents, networks
from tfebm.models.latents import LatentSize
from tfebm.samplers import Chain
from tfebm.types import Tensor

_OF_LIKELIHOODS = ("error", "energy_scale", "log_prob", "mean", "get_config")
_FEW_EXAMPLES = 16
_SATURATED = 0.99
_PROBED_ROWS, _PROBED_SCALES = 32, (1.0, 30.0, 1000.0)


def check_network(name: str, network: Any, backbone: bool = False) -> None:
    """Raises `InvalidInputError` unless `network` is a layer or a model of Keras 3.

    Args:
        name: The argument.
        network: What was given for it.
        backbone: Whether a whole model will do that can be one.
    """
    whole = bool(getattr(network, "optimized", None)) and not isinstance(network, type)
    if whole and not (backbone and hasattr(network, "as_backbone")):
        raise InvalidInputError(
            f"`{name}` must be a network. Received {received(network)}, which is a whole model. "
            f"Give one of its networks, {_alternatives(network)}."
        )
    if isinstance(network, keras.layers.Layer):
        return
    raise InvalidInputError(
        f"`{name}` must be a Keras 3 layer or model. Received {received(network)}. "
        f"{_remedy(name, network)}"
    )


def _alternatives(model: Any) -> str:
    return " or ".join(f"`model.{name}`" for name in dict.fromkeys(model.optimized.values()))


def _remedy(name: str, network: Any) -> str:
    if isinstance(network, type):
        return f"Make one: `{name}={network.__name__}(...)`."
    if any(kind.__module__.split(".")[0] == "tf_keras" for kind in type(network).__mro__):
        return "That is of Keras 2 (`tf_keras`). Build it from `keras.layers` of Keras 3."
    if isinstance(network, (list, tuple)):
        return "Put layers one after the other with `keras.Sequential([...])`."
    if isinstance(network, tf.Module) or callable(network):
        return (
            "Put it into the method `call` of a `keras.layers.Layer` of your own, which reports "
            "its weights to the model."
        )
    return "Give for instance `keras.Sequential([...])`, or one of the networks of this package."


def check_one_input(name: str, network: keras.layers.Layer, what: str) -> None:
    """Raises `InvalidInputError` for a network of several inputs.

    Args:
        name: The argument.
        network: What was given for it.
        what: It is handed.
    """
    inputs = _inputs(network)
    if len(inputs) > 1:
        raise InvalidInputError(
            f"The {name} takes {len(inputs)} inputs ({_names(inputs)}), but it is handed one "
            f"tensor: {what}. Give it a single input. A condition, such as a label, has no place "
            "in this model."
        )


def check_generator_inputs(generator: keras.layers.Layer, requested: LatentSize | None) -> None:
    """Raises `InvalidInputError` for several inputs of which nobody says that they are latents."""
    inputs = _inputs(generator)
    says = isinstance(requested, (tuple, list)) or getattr(generator, "latent_sizes", None)
    if len(inputs) > 1 and not says:
        sizes = tuple(x.shape[-1] for x in inputs)
        raise InvalidInputError(
            f"The generator takes {len(inputs)} inputs ({_names(inputs)}), but `latent_size` does "
            "not say that all are latents. Received "
            f"`latent_size={requested!r}`. If they are layers of latents, give "
            f"`latent_size={sizes}`; a condition, such as a label, has no place in this model."
        )


def checked_size(
    requested: LatentSize | None, generator: keras.layers.Layer, **others: keras.layers.Layer
) -> LatentSize:
    """d, from what was asked for and from what the generator and the networks beside it say.

    Raises:
        InvalidInputError: What is not a network, or networks that do not fit together.
    """
    check_network("generator", generator)
    check_generator_inputs(generator, requested)
    for name, network in others.items():
        check_network(name, network)
        check_one_input(name, network, "all latents side by side")
    return networks.latent_size(requested, generator, others)


def _inputs(network: Any) -> list[Any]:
    try:
        return list(getattr(network, "inputs", None) or [])
    except (ValueError, AttributeError, TypeError):  # a Sequential that is not built
        return []


def _names(inputs: list[Any]) -> str:
    return ", ".join(f"'{x.name}' {x.shape}" for x in inputs)


def check_sampler(name: str, sampler: Any) -> None:
    """Raises `InvalidInputError` unless `sampler` is a chain."""
    if not isinstance(sampler, Chain):
        raise InvalidInputError(
            f"`{name}` must be a sampler. Received {received(sampler)}. Give for instance "
            "`tfebm.ShortRunLangevin(num_steps=20, step_size=0.1)`."
        )


def check_schedule(name: str, schedule: Any) -> None:
    """Raises `InvalidInputError` unless it is None or a function of the training step."""
    if schedule is not None and (isinstance(schedule, type) or not callable(schedule)):
        raise InvalidInputError(
            f"`{name}` must be a function of the training step, such as a "
            f"`keras.optimizers.schedules.LearningRateSchedule`. Received {received(schedule)}. "
            "For a constant, leave it out and set the sampler's own."
        )


def check_likelihood(likelihood: Any) -> None:
    """Raises `InvalidInputError` unless it has what a likelihood has."""
    missing = [name for name in _OF_LIKELIHOODS if not hasattr(likelihood, name)]
    if isinstance(likelihood, type) or missing:
        lacks = "" if isinstance(likelihood, type) else f" It lacks `{'`, `'.join(missing)}`."
        raise InvalidInputError(
            f"`likelihood` must be a likelihood. Received {received(likelihood)}.{lacks} Give for "
            "instance `tfebm.GaussianLikelihood(scale=0.3)` or `tfebm.BernoulliLikelihood()`."
        )


def check_logits(likelihood: Any, generator: keras.layers.Layer, size: LatentSize) -> None:
    """Raises `InvalidInputError` for logits out of a tanh or a sigmoid, which never reach black
    or white."""
    if not getattr(likelihood, "takes_logits", False):
        return
    if getattr(generator, "output_range", None) is not None:
        raise InvalidInputError(
            "A BernoulliLikelihood takes logits, but the generator ends in tanh. Received "
            f"{type(generator).__name__} with a bounded output. Pass `output_activation=None` "
            "to it."
        )
    name = _last_activation(generator)
    if name not in ("sigmoid", "tanh", "hard_sigmoid", "hard_tanh", "softmax", "softsign"):
        name = _squashed_as_by(generator, size)
    if name is not None:
        raise InvalidInputError(
            "A BernoulliLikelihood takes logits, of any size and sign, and applies the sigmoid "
            f"itself. Received the generator '{generator.name}' whose outputs are bounded as by a "
            f"{name}. Drop the activation of its last layer."
        )


def check_signs(likelihood: Any, x: np.ndarray) -> None:
    """Raises `InvalidInputError` for pixels of which none is off, as a BernoulliLikelihood reads
    data in {0, 1}: it would learn that half of each is on.

    A few bright examples have none either, but then no pixel among them is a plain 0.
    """
    if not getattr(likelihood, "takes_logits", False) or not x.size:
        return
    low, high = float(x.min()), float(x.max())
    if (low == 0.0 and high > 0.0) or (low >= 0.0 and len(x) >= _FEW_EXAMPLES):
        raise InvalidInputError(
            "A BernoulliLikelihood reads data in [-1, 1]: -1 is off, 1 is on, and 0 is half of "
            f"both. Received values from {low:g} to {high:g}, none below 0. "
            "For data in [0, 1] use `2 * x - 1`."
        )


def _last_activation(network: Any) -> str | None:
    """The name of the activation that a chain of layers ends in; None where it does not show."""
    while getattr(network, "layers", None) and isinstance(network, keras.Model):
        network = network.layers[-1]
    if isinstance(network, keras.layers.Reshape | keras.layers.Flatten):
        return None  # the probe sees through it
    activation = getattr(network, "activation", None)
    return getattr(activation, "__name__", None)


def _squashed_as_by(generator: keras.layers.Layer, size: LatentSize) -> str | None:
    """What bounds the outputs even for huge latents, where logits take both signs and any size."""
    seeds = random.as_row_seeds(0, _PROBED_ROWS)
    lowest, highest = np.inf, -np.inf
    for scale in _PROBED_SCALES:
        z = latents.standard_normal(seeds, size)
        z = tf.nest.map_structure(lambda part, scale=scale: scale * part, z)
        outputs: Tensor = generator(z, training=False)
        lowest = min(lowest, float(tf.reduce_min(outputs)))
        highest = max(highest, float(tf.reduce_max(outputs)))
    if 0.0 <= lowest < highest <= 1.0:
        return "sigmoid"
    # Logits behind bounded hidden layers are bounded too, but do not end at 1.
    if -1.0 <= lowest < highest <= 1.0 and max(-lowest, highest) > _SATURATED:
        return "tanh"
    return None


def take_encoder(model: Any, encoder: Any) -> None:
    """Sets a model's encoder, or None, and names its optimizer."""
    if encoder is not None:
        check_network("encoder", encoder)
        check_one_input("encoder", encoder, "the examples")
        model.optimized = {**model.optimized, "encoder_optimizer": "encoder"}
    model.encoder = encoder


def of_encoder(model: Any, optimizer: Any) -> dict[str, Any]:
    """The optimizer of a model's encoder, as `compile` hands it on."""
    if model.encoder is not None:
        return {"encoder_optimizer": optimizer}
    if optimizer is not None:
        raise InvalidInputError(
            f"`encoder_optimizer` is of an encoder. Received {optimizer!r}, but the model has "
            "none. Make it with `encoder=...`, or leave the optimizer out."
        )
    return {}

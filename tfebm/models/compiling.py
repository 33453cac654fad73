"""What can be said of optimizers and switches when a model is compiled."""

import sys
import warnings
from typing import Any

import keras

from tfebm.errors import InvalidInputError


def refuse_float16(model: Any) -> None:
    """Raises `InvalidInputError` for a network that computes in float16."""
    for name, network in model.networks_by_name().items():
        for layer in network._flatten_layers():
            if layer.compute_dtype == "float16":
                raise InvalidInputError(
                    f"The {name}'s layer '{layer.name}' computes in float16. Chains add "
                    "gradients far smaller and larger than float16 holds, and Keras' loss "
                    "scaling does not reach into them. Use 'mixed_bfloat16' or 'float32'."
                )


def refuse_under_strategy(model: Any, kwargs: dict[str, Any]) -> None:
    """Raises `InvalidInputError` for switches of `compile` that several replicas cannot have."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas == 1:
        return
    if kwargs.get("steps_per_execution", 1) not in (1, None):
        raise InvalidInputError(
            "`steps_per_execution` above 1 does not work under a strategy of several "
            f"replicas (keras-team/keras issue 19246). Received "
            f"{kwargs['steps_per_execution']} with {replicas} replicas. Leave it at 1."
        )
    if kwargs.get("jit_compile") is True:
        raise InvalidInputError(
            "`jit_compile=True` compiles the whole step, which TensorFlow cannot do with "
            f"variables on several devices. Received it with {replicas} replicas. Leave it "
            "out: the chains are compiled all the same, by their samplers' `jit_compile`."
        )


def refuse_merging(model: Any, optimizers: dict[str, keras.optimizers.Optimizer]) -> None:
    """Raises `InvalidInputError` for what several replicas cannot decide within a step."""
    number = model.distribute_strategy.num_replicas_in_sync
    if number == 1:
        return
    for name, optimizer in optimizers.items():
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        switches = ["gradient_accumulation_steps"]
        switches += ["ema_overwrite_frequency"] if inner.use_ema else []
        for switch in switches:
            if getattr(inner, switch) is not None:
                raise InvalidInputError(
                    f"`{switch}` decides within a step whether the replicas update their "
                    "weights together, which TensorFlow cannot do under a strategy. Received "
                    f"`{switch}={getattr(inner, switch)}` of `{name}` with {number} replicas. "
                    "Leave it out."
                )


def warn_of_defaults(model: Any, asked: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Warns where one of several optimizers is given and another is not."""
    given = [name for name in model.optimized if asked[name] is not None]
    left = [name for name in model.optimized if asked[name] is None]
    if given and left:
        rates = ", ".join(
            f"`{name}`, of the {model.optimized[name]}, is {type(defaults[name]).__name__} with "
            f"rate {float(keras.ops.convert_to_numpy(defaults[name].learning_rate)):g}"
            for name in left
        )
        warnings.warn(
            f"Each network has an optimizer of its own. Given was "
            f"{' and '.join(f'`{name}`' for name in given)}; left to its default, {rates}. "
            f"Give {' and '.join(f'`{name}`' for name in left)} too if that is not meant.",
            stacklevel=_callers_level(),
        )


def warn_of_strays(model: Any, strays: list[keras.Variable]) -> None:
    """Warns of trainable weights that no optimizer of `model` has."""
    names = [f"`{v.path}`" for v in strays]
    more = [f"{len(names) - 4} more"] if len(names) > 4 else []
    networks = " and ".join(f"the {name}" for name in model.optimized.values())
    warnings.warn(
        f"No optimizer trains {', '.join([*names[:4], *more])}: the optimizers of a "
        f"{type(model).__name__} have the weights of {networks} alone. Make the layer a part of "
        "one of these networks, or, if it is to stay as it is, set `layer.trainable = False`.",
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """The `stacklevel` at which a function warns of what its caller outside of the package did."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("tfebm."):
        level, frame = level + 1, frame.f_back
    return level

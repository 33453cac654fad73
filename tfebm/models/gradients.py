"""Gradients of a loss towards the weights of networks, as optimizers take them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfebm.models import latents, networks
from tfebm.models.parts import Batch
from tfebm.types import Latents, Tensor


class Descent(NamedTuple):
    """What `descend` finds."""

    grads: dict[str, list[Tensor]]
    """By network."""
    towards: list[Tensor]
    """Gradients of the loss towards what was asked for."""
    penalties: Tensor
    """Scalar: what the networks' layers add to the loss."""
    found: Any
    """What else the loss returned."""


def descend(
    batch: Batch,
    trained: Mapping[str, keras.layers.Layer],
    loss: Callable[[], tuple[Tensor, Any]],
    towards: Latents = (),
) -> Descent:
    """Gradients of a loss, and of the penalties that layers add, in the weights of networks.

    Args:
        batch: That is learned from.
        trained: Networks by their names.
        loss: Returns this replica's share of the loss, a scalar, and anything else.
        towards: Tensors whose gradients are asked for too.
    """
    layers = list(trained.values())
    variables = {name: [v.value for v in net.trainable_variables] for name, net in trained.items()}
    networks.forget_losses(*layers, of=batch.owner)
    with tf.GradientTape() as tape:
        tape.watch(tf.nest.flatten(towards))
        value, found = loss()
        added = networks.penalties(*layers, of=batch.owner)
        penalties = tf.convert_to_tensor(added, tf.float32)
        value += penalties * (tf.reduce_sum(batch.weights) / batch.count)
    flat = [v for weights in variables.values() for v in weights]
    grads = gradients(tape, value, [*flat, *tf.nest.flatten(towards)])
    of_weights = iter(grads)
    by_network = {name: [next(of_weights) for _ in each] for name, each in variables.items()}
    return Descent(by_network, list(of_weights), penalties, found)


def gradients(tape: tf.GradientTape, loss: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Of `loss`; 0, not None, for what it does not use."""
    found = tape.gradient(loss, list(sources), unconnected_gradients=tf.UnconnectedGradients.ZERO)
    # Lookups in an embedding have sparse gradients, which replicas and clipping treat apart.
    return [tf.convert_to_tensor(grad) for grad in found]


def row_norms(parts: Latents) -> Tensor:
    """`[B]`: the norm over all parts of each row."""
    return tf.norm(latents.join(parts), axis=-1)


def moved(end: Latents, start: Latents) -> Tensor:
    """`[B]`: how far the chain of each row came."""
    return row_norms(tf.nest.map_structure(tf.subtract, end, start))


def prepared(optimizer: keras.optimizers.Optimizer, grads: list[Tensor]) -> list[Tensor]:
    """Gradients as the optimizer expects them of one replica: clipped in all, and scaled.

    Keras clips each replica's own before it sums them, which is another gradient than that of one
    device. Shares of the clipped sum pass its clipping unchanged. They are also alike on all
    replicas, so that a `LossScaleOptimizer` skips a step on all of them or on none.

    What scales the loss divides the gradients by its factor again. Multiplying these instead of
    the loss is the same but for underflow, which float32 and bfloat16 do not know.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if getattr(inner, "global_clipnorm", None):
        # The norm over all of them is of Keras' default type, and Keras multiplies each by it.
        grads = [tf.cast(grad, keras.config.floatx()) for grad in grads]
    needs_sum = inner is not optimizer or any(
        getattr(inner, name, None) for name in ("clipnorm", "global_clipnorm", "clipvalue")
    )
    context = tf.distribute.get_replica_context()
    if needs_sum and context is not None and context.num_replicas_in_sync > 1:
        summed = inner._clip_gradients(context.all_reduce(tf.distribute.ReduceOp.SUM, grads))
        grads = [grad / context.num_replicas_in_sync for grad in summed]
    scale = optimizer.scale_loss(1.0)
    if isinstance(scale, float) and scale == 1.0:
        return grads
    return [grad * tf.cast(scale, grad.dtype) for grad in grads]

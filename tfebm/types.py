"""Type aliases. Shapes in docstrings: `B` = batch, `d` = latent size, `K` = number of steps."""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from tfebm import backend as backend  # says so where Keras runs on another one

Tensor: TypeAlias = tf.Tensor
"""A dense tensor; NumPy arrays are accepted wherever a public function asks for one."""

Latents: TypeAlias = Any
"""A tensor `[B, ...]`, or a tuple of such tensors with one common `B`."""

Seed: TypeAlias = int | tf.Tensor
"""A Python integer, or one stream per row: int32 `[B, 2]`."""

EnergyFn: TypeAlias = Callable[..., tf.Tensor]
"""`energy_fn(latents, *context) -> energy`, one energy per row, `[B]`; low where data live."""

"""Small models that several tests share."""

import keras
import numpy as np

import tfebm


def small_model(num_features=6, latent_size=3, steps=4, noise=1.0, jit=False, **kwargs):
    """A dense LatentEBM on vectors; float32 and quick."""
    generator = keras.Sequential(
        [
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(num_features),
        ]
    )
    return tfebm.LatentEBM(
        generator,
        tfebm.EnergyMLP((8,)),
        latent_size=latent_size,
        prior_sampler=tfebm.ShortRunLangevin(steps, 0.3, noise, jit_compile=jit),
        posterior_sampler=tfebm.ShortRunLangevin(steps, 0.1, noise, jit_compile=jit),
        **kwargs,
    )


def vectors(num_rows, num_features=6, seed=0):
    """Standard normal rows, float32."""
    return np.random.default_rng(seed).normal(size=(num_rows, num_features)).astype("float32")


def weights_of(model):
    """Every weight by its place and name, as NumPy arrays; names of models are numbered."""
    return {f"{i} {v.name}": v.numpy() for i, v in enumerate(model.weights)}


def assert_weights_equal(model, other):
    """Bit for bit."""
    for path, value in weights_of(model).items():
        np.testing.assert_array_equal(value, weights_of(other)[path], err_msg=path)

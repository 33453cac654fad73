"""bfloat16 against the plain float32 path: a chain step by step, and what training arrives at."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm

SHAPE, LATENT = (28, 28, 1), 4
# Of a bfloat16: 8 bits.
EPSILON = 2.0**-8


def images(count, seed=0):
    """Blurred blobs somewhere, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = (rng.uniform(8, 20, (count, 1, 1)) for _ in range(2))
    y, x = np.mgrid[:28, :28]
    blobs = np.exp(-((y - rows) ** 2 + (x - columns) ** 2) / (2 * 3.0**2))
    return (2 * blobs[..., np.newaxis] - 1).astype("float32")


def convolutions():
    return tfebm.DeconvGenerator(SHAPE, 4)


def dense():
    layers = keras.layers.Dense(64, "swish"), keras.layers.Dense(28 * 28, "tanh")
    return keras.Sequential([*layers, keras.layers.Reshape(SHAPE)])


def make(make_generator, precision, seed, jit_compile):
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_global_policy(precision)
    try:
        generator = make_generator()
        generator.build((None, LATENT))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model = tfebm.LatentEBM(
        generator,
        tfebm.EnergyMLP((16,), dtype=precision),
        latent_size=LATENT,
        prior_sampler=tfebm.ShortRunLangevin(10, 0.4, jit_compile=jit_compile),
        posterior_sampler=tfebm.ShortRunLangevin(20, 0.1, jit_compile=jit_compile),
        seed=seed,
    )
    model.compile(keras.optimizers.Adam(3e-3), keras.optimizers.Adam(1e-3))
    return model


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_chain_stays_within_bfloat16s_rounding(jit_compile):
    """20 steps with the same noise; the drift of each is off by a few roundings at most."""
    x, noise = images(6), np.random.default_rng(1).normal(size=(20, 6, LATENT)).astype("float32")
    start = tf.constant(noise[0])
    ends, moved = {}, {}
    for precision in ("float32", "mixed_bfloat16"):
        model = make(convolutions, precision, 0, jit_compile)
        sampler = model.posterior_sampler
        ends[precision] = sampler(model.posterior_energy, start, x, noise=noise).numpy()
        still = sampler(model.posterior_energy, start, x, noise=0 * noise).numpy()
        moved[precision] = still - start.numpy()
        assert ends[precision].dtype == np.float32
    # How far the energy moved the latents in all, which is what is computed in bfloat16.
    way = np.linalg.norm(moved["float32"], axis=1)
    apart = np.linalg.norm(ends["mixed_bfloat16"] - ends["float32"], axis=1)
    assert np.all(way > 0.2)
    assert np.all(apart < 16 * EPSILON * way)
    assert np.any(apart > 0)  # it did compute in bfloat16


def test_training_arrives_at_the_same_metrics():
    """Over three seeds, the means are no further apart than single runs are."""
    x, found = images(100), {}
    for precision in ("float32", "mixed_bfloat16"):
        histories = [
            make(dense, precision, seed, False).fit(x, batch_size=20, epochs=4, verbose=0).history
            for seed in range(3)
        ]
        found[precision] = np.array([history["reconstruction_mse"] for history in histories])
    float32, bfloat16 = found["float32"], found["mixed_bfloat16"]
    assert np.all(bfloat16[:, -1] < 0.5 * bfloat16[:, 0])  # it learned
    apart = abs(bfloat16[:, -1].mean() - float32[:, -1].mean())
    assert 0 < apart < min(np.ptp(float32[:, -1]), 0.05 * float32[:, -1].mean())

"""The rule of `tfebm.samplers.compilation`."""

import keras
import numpy as np
import tensorflow as tf

import tfebm
from tfebm.samplers import compilation


def quadratic(z):
    return 0.5 * tf.reduce_sum(tf.square(z), axis=-1)


class TestConvolutions:
    dense = keras.layers.Dense(1)
    convolution = keras.layers.Conv2DTranspose(1, 3)

    def energy(self, z):
        return self.dense(z)[:, 0]

    def image_energy(self, z):
        return tf.reduce_sum(self.convolution(z[:, None, None]), axis=[1, 2, 3])

    def nested_image_energy(self, z):
        return tf.function(self.image_energy)(z)

    def resolve(self, energy, jit="auto"):
        return compilation.resolve_jit_compile(jit, energy, (tf.zeros([2, 4]),))

    def test_dense_energies_are_compiled_and_convolutions_are_not(self, monkeypatch):
        monkeypatch.setattr(compilation, "accelerator_present", lambda: False)
        assert self.resolve(self.energy)
        assert not self.resolve(self.image_energy)
        assert not self.resolve(self.nested_image_energy)

    def test_everything_is_compiled_on_an_accelerator(self, monkeypatch):
        monkeypatch.setattr(compilation, "accelerator_present", lambda: True)
        assert self.resolve(self.image_energy)

    def test_the_switch_wins(self):
        assert self.resolve(self.image_energy, jit=True)
        assert not self.resolve(self.energy, jit=False)


class TestLoops:
    def recurrent(self, z):
        _, end = tf.while_loop(
            lambda t, _: t < 3, lambda t, h: (t + 1, tf.sin(h + z)), (0, z), maximum_iterations=3
        )
        return tf.reduce_sum(end, axis=1)

    def nested(self, z):
        return tf.function(self.recurrent)(z)

    def resolve(self, energy, jit="auto"):
        return compilation.resolve_jit_compile(jit, energy, (tf.zeros([2, 4]),))

    def test_on_a_cpu_they_run_plain(self, monkeypatch):
        monkeypatch.setattr(compilation, "accelerator_present", lambda: False)
        assert not self.resolve(self.recurrent)
        assert not self.resolve(self.nested)
        assert self.resolve(quadratic)

    def test_on_an_accelerator_they_are_compiled(self, monkeypatch):
        monkeypatch.setattr(compilation, "accelerator_present", lambda: True)
        assert self.resolve(self.recurrent)

    def test_the_switch_wins(self):
        assert self.resolve(self.recurrent, jit=True)
        assert not self.resolve(self.nested, jit=False)

    def test_compiled_and_plain_chains_agree(self):
        z0 = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
        compiled, automatic = (
            tfebm.ShortRunLangevin(3, 0.3, jit_compile=jit)(self.recurrent, z0, seed=0)
            for jit in (True, "auto")
        )
        np.testing.assert_allclose(compiled, automatic, atol=1e-5)

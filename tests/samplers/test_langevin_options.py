"""What a call of the short-run chain may ask for besides a step size, and energies with loops."""

import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import random

JIT = pytest.mark.parametrize("jit", [False, True])


def quadratic(z):
    return 0.5 * tf.reduce_sum(tf.square(z), axis=-1)


def both(parts):
    return quadratic(parts[0]) + tf.reduce_sum(tf.cos(parts[1]), axis=-1)


class TestNoiseScaleOfACall:
    """A tensor in place of the setting T."""

    start = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")

    @JIT
    @pytest.mark.parametrize("setting", [0.0, [1.0, 2.0, 3.0]])
    def test_it_replaces_the_setting(self, jit, setting):
        expected = tfebm.ShortRunLangevin(3, 0.4, 0.3).run(quadratic, self.start, seed=0)
        sampler = tfebm.ShortRunLangevin(3, 0.4, setting, jit_compile=jit)
        plain = sampler.run(quadratic, self.start, seed=0, noise_scale=0.3)
        np.testing.assert_array_equal(plain, expected)
        moved = sampler(quadratic, self.start, seed=0, noise_scale=tf.constant(0.3))
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-6)

    def test_it_scales_the_noise_by_the_formula(self):
        noise = np.random.default_rng(1).normal(size=(2, 4, 3)).astype("float32")
        expected = self.start.astype("float64")
        for s, e in zip([0.5, 0.2], noise, strict=True):
            expected = expected - 0.5 * s**2 * expected + 0.7 * s * e
        sampler = tfebm.ShortRunLangevin(2, [0.5, 0.2])
        moved = sampler(quadratic, self.start, noise=noise, noise_scale=0.7)
        np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("jit", "dtype"), [(False, "float64"), (True, "float32")])
    def test_it_goes_with_a_step_size_and_with_parts(self, jit, dtype):
        position = tuple(self.start.astype(dtype) + i for i in range(2))
        table = np.array([[0.3, 0.5], [0.1, 0.2]])
        expected = tfebm.ShortRunLangevin(2, table.tolist(), 0.7).run(both, position, seed=0)
        sampler = tfebm.ShortRunLangevin(2, 9.0, jit_compile=jit)
        moved = sampler(both, position, seed=0, step_size=table, noise_scale=0.7)
        for values, others in zip(moved, expected, strict=True):
            assert values.dtype == dtype
            np.testing.assert_allclose(values, others, rtol=1e-6, atol=1e-6)

    @JIT
    def test_zero_leaves_gradient_descent(self, jit):
        sampler = tfebm.ShortRunLangevin(3, 0.5, jit_compile=jit)
        moved = sampler(quadratic, self.start, seed=0, noise_scale=0.0)
        np.testing.assert_allclose(moved, self.start * 0.875**3, rtol=1e-6)

    def test_noise_of_a_call_needs_a_seed_where_the_setting_has_none(self):
        sampler = tfebm.ShortRunLangevin(3, 0.1, noise_scale=0.0)
        with pytest.raises(tfebm.InvalidInputError, match="needs `seed`"):
            sampler(quadratic, self.start, noise_scale=0.5)

    @JIT
    def test_other_values_trace_nothing(self, jit):
        sampler = tfebm.ShortRunLangevin(3, 0.1, jit_compile=jit)
        for scale in (0.1, 1, np.float64(0.4), tf.constant(0.2), tf.Variable(0.3)):
            sampler(quadratic, self.start, seed=0, noise_scale=scale)
        assert sampler.num_traces == 1

    @JIT
    def test_it_may_be_a_tensor_of_a_graph(self, jit):
        sampler = tfebm.ShortRunLangevin(3, 0.4, jit_compile=jit)

        @tf.function
        def anneal(step):
            return sampler(quadratic, self.start, seed=0, noise_scale=1.0 / (1.0 + step))

        for step in (1.0, 3.0):
            setting = tfebm.ShortRunLangevin(3, 0.4, 1 / (1 + step))
            expected = setting.run(quadratic, self.start, seed=0)
            np.testing.assert_allclose(anneal(tf.constant(step)), expected, atol=1e-6)
        assert sampler.num_traces == 1

    def test_it_is_one_number(self):
        sampler = tfebm.ShortRunLangevin(3, 0.1)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="compatible"):
            sampler(quadratic, self.start, seed=0, noise_scale=tf.ones([3]))


class TestNumberOfTheStep:
    """`with_step=True` hands it to the energy."""

    start = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")

    def steeper(self, z, step=0):
        return (1.0 + tf.cast(step, tf.float32)) * quadratic(z)

    def test_it_counts_from_zero_and_a_trace_ends_with_the_number_of_steps(self):
        seen = []

        def energy(z, step=None):
            seen.append(step)
            return quadratic(z)

        sampler = tfebm.ShortRunLangevin(4, 0.1, 0.0)
        sampler.run(energy, self.start, with_step=True)
        assert [int(step) for step in seen] == [0, 1, 2, 3]
        assert all(tf.convert_to_tensor(step).dtype == tf.int32 for step in seen)
        seen.clear()
        sampler.run(energy, self.start, with_step=True, trace=True)
        assert [int(step) for step in seen] == [0, 1, 2, 3, 4]
        seen.clear()
        sampler.run(energy, self.start, trace=True)
        assert seen == [None] * 5

    @JIT
    def test_the_chain_is_that_of_a_loop_by_hand(self, jit):
        sampler = tfebm.ShortRunLangevin(4, 0.4, 0.0, jit_compile=jit)
        z, trace = sampler(self.steeper, self.start, with_step=True, trace=True)
        expected, energies = self.start.astype("float64"), []
        for k in range(5):
            energies.append(0.5 * (k + 1) * np.sum(expected**2, axis=-1))
            if k < 4:
                expected = expected - 0.08 * (k + 1) * expected
        np.testing.assert_allclose(z, expected, rtol=1e-5)
        np.testing.assert_allclose(trace.energy, energies, rtol=1e-5)

    @JIT
    def test_without_it_the_default_of_the_energy_holds(self, jit):
        sampler = tfebm.ShortRunLangevin(4, 0.4, 0.0, jit_compile=jit)
        stepped = sampler(self.steeper, self.start, with_step=True)
        plain = sampler(self.steeper, self.start)
        np.testing.assert_allclose(plain, self.start * 0.92**4, rtol=1e-5)
        assert np.all(np.abs(stepped) < np.abs(plain))

    @JIT
    def test_an_energy_may_draw_a_fresh_mask_at_every_step(self, jit):
        seeds = random.as_row_seeds(0, 4)

        def masked(z, masks, step=0):
            mask = random.row_keep_mask(random.fold_in(masks, step), 0, 1, 3, 0.5)[0]
            return quadratic(z * mask)

        sampler = tfebm.ShortRunLangevin(5, 0.4, 0.0, jit_compile=jit)
        z = sampler(masked, self.start, seeds, with_step=True)
        expected, masks = self.start.astype("float64"), []
        for k in range(5):
            masks.append(random.row_keep_mask(random.fold_in(seeds, k), 0, 1, 3, 0.5)[0].numpy())
            expected = expected - 0.08 * masks[-1] ** 2 * expected
        assert len(np.unique(masks, axis=0)) == 5
        np.testing.assert_allclose(z, expected, rtol=1e-5)

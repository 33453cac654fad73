import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import random

JIT = pytest.mark.parametrize("jit", [False, True])


def quadratic(z):
    return 0.5 * tf.reduce_sum(tf.square(z), axis=-1)


def flat(z):
    return tf.zeros([tf.shape(z)[0]])


@JIT
def test_noise_has_the_step_size_as_standard_deviation(jit):
    sampler = tfebm.ShortRunLangevin(1, 0.4, jit_compile=jit)
    n = 200_000
    z = sampler(flat, tf.zeros([n // 2, 2]), seed=0).numpy().ravel()
    # The standard error of a standard deviation s over n values is s / sqrt(2 n).
    assert abs(z.std() - 0.4) < 5.5 * 0.4 / np.sqrt(2 * n)


@JIT
def test_drift_is_half_the_noise_variance_times_the_gradient(jit):
    slope = tf.constant([1.0, -2.0])
    sampler = tfebm.ShortRunLangevin(1, 0.4, noise_scale=0.0, jit_compile=jit)
    z = sampler(lambda z: tf.linalg.matvec(z, slope), tf.zeros([3, 2]))
    np.testing.assert_allclose(z, np.tile([-0.08, 0.16], (3, 1)), rtol=1e-6)


@JIT
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_law_after_k_steps_on_a_standard_gaussian(jit, temperature):
    # Var_K = a^2K v0 + T^2 s^2 (1 - a^2K) / (1 - a^2) with a = 1 - s^2/2: the bias included.
    s, k, n, v0 = 0.9, 5, 400_000, 4.0
    sampler = tfebm.ShortRunLangevin(k, s, noise_scale=temperature, jit_compile=jit)
    start = 2.0 * random.row_normal(random.as_row_seeds(1, n // 4), 0, 4)
    z = sampler(quadratic, start, seed=0).numpy().ravel().astype(np.float64)
    a = 1 - s**2 / 2
    variance = a ** (2 * k) * v0 + temperature**2 * s**2 * (1 - a ** (2 * k)) / (1 - a**2)
    assert abs(z.mean()) < 5.5 * np.sqrt(variance / n)
    assert abs(z.var() - variance) < 5.5 * variance * np.sqrt(2 / n)


@JIT
def test_injected_noise_and_schedules_follow_the_formula(jit):
    rng = np.random.default_rng(0)
    z0, noise = rng.normal(size=(5, 3)), rng.normal(size=(4, 5, 3))
    steps, scales = [0.5, 0.4, 0.2, 0.1], [1.0, 0.5, 0.0, 2.0]
    sampler = tfebm.ShortRunLangevin(4, steps, scales, jit_compile=jit)
    z, trace = sampler(quadratic, z0.astype("float32"), noise=noise.astype("float32"), trace=True)
    expected, path = z0, [z0]
    for s, t, e in zip(steps, scales, noise, strict=True):
        expected = expected - 0.5 * s**2 * expected + t * s * e
        path.append(expected)
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-6)
    path = np.stack(path)
    np.testing.assert_allclose(trace.energy, 0.5 * (path**2).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(trace.grad_norm, np.linalg.norm(path[:-1], axis=-1), rtol=1e-5)
    moved = np.linalg.norm(path[1:] - z0, axis=-1)
    np.testing.assert_allclose(trace.displacement, moved, rtol=1e-4, atol=1e-6)


@JIT
def test_tuples_of_latents_move_jointly_with_steps_of_their_own(jit):
    def energy(parts, shift):
        a, b = parts
        return tf.reduce_sum(a * tf.reduce_sum(b, axis=[1, 2])[:, None], axis=1) + shift

    a, b = np.ones((4, 2), "float32"), np.full((4, 2, 3), 0.5, "float32")
    shift = np.zeros(4, "float32")
    sampler = tfebm.ShortRunLangevin(1, [[0.2, 0.6]], 0.0, jit_compile=jit)
    moved_a, moved_b = sampler(energy, (a, b), shift)
    np.testing.assert_allclose(moved_a, a - 0.02 * 3.0, rtol=1e-6)
    np.testing.assert_allclose(moved_b, b - 0.18 * 2.0, rtol=1e-6)
    noisy = tfebm.ShortRunLangevin(3, 0.2, jit_compile=jit)
    noise_a, noise_b = noisy(lambda parts: flat(parts[0]), (a - a, b - b), seed=0)
    assert not np.any(noise_a.numpy() == noise_b.numpy()[:, 0, :2])


def test_zero_steps_and_zero_noise():
    z0 = tf.ones([3, 2])
    np.testing.assert_array_equal(tfebm.ShortRunLangevin(0, 0.5)(quadratic, z0), z0)
    _, trace = tfebm.ShortRunLangevin(0, 0.5)(quadratic, z0, trace=True)
    assert trace.energy.shape == (1, 3)
    assert trace.grad_norm.shape == (0, 3)
    gradient_descent = tfebm.ShortRunLangevin(3, 0.5, noise_scale=0.0)
    np.testing.assert_allclose(gradient_descent(quadratic, z0), np.full((3, 2), 0.875**3))


@pytest.mark.parametrize(("trace", "evaluations"), [(False, 6), (True, 7)])
def test_k_steps_take_k_gradients(trace, evaluations):
    calls = []

    def energy(z):
        calls.append(1)
        return quadratic(z)

    tfebm.ShortRunLangevin(6, 0.1).run(energy, tf.zeros([2, 2]), seed=0, trace=trace)
    assert len(calls) == evaluations


@JIT
def test_one_energy_over_latents_of_several_sizes(jit):
    sampler = tfebm.ShortRunLangevin(3, 0.1, jit_compile=jit)
    for size in (3, 5, 4):
        for rows in (2, 4, 3):
            assert sampler(quadratic, tf.zeros([rows, size]), seed=0).shape == (rows, size)


@JIT
@pytest.mark.parametrize("shape", [[3, 2, 2], [5, 1, 1], [5, 2, 3]])
def test_injected_noise_of_another_shape_is_refused(jit, shape):
    sampler = tfebm.ShortRunLangevin(5, 0.1, jit_compile=jit)
    with pytest.raises(ValueError, match=r"\[5, 2, 2\]"):
        sampler(quadratic, tf.zeros([2, 2]), noise=tf.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": "abc"}, "finite"),
        ({"step_size": [[0.1, 0.2], [0.1]]}, "finite"),
        ({"step_size": -0.1}, "step_size"),
        ({"step_size": [0.1, 0.2]}, "2 of them for 3 steps"),
        ({"noise_scale": -1.0}, "noise_scale"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfebm.ShortRunLangevin(**{"num_steps": 3, "step_size": 0.1, **arguments})


def test_a_table_for_other_parts_is_refused():
    with pytest.raises(ValueError, match=r"`step_size` of the settings .* K = 3 and P = 1"):
        tfebm.ShortRunLangevin(3, [[0.1, 0.2]])(quadratic, tf.zeros([2, 2]), seed=0)


class TestStepSizeOfACall:
    """Tensors in place of the setting, and the path that is differentiated in them."""

    def energy(self, parts, shift):
        a, b = parts
        return tf.reduce_sum(tf.cos(a) * b + 0.5 * b**2, axis=1) + 0.5 * tf.reduce_sum(
            (a - shift) ** 2, axis=1
        )

    def arguments(self):
        rng = np.random.default_rng(3)
        a, b, shift = rng.normal(size=(3, 4, 2))
        return (a, b), shift

    @JIT
    @pytest.mark.parametrize("shape", [(), (3,), (1, 2), (3, 2)])
    def test_it_replaces_the_setting(self, jit, shape):
        table = np.broadcast_to([[0.1, 0.4], [0.2, 0.3], [0.05, 0.6]], (3, 2))
        part = {(): table[0, 0], (3,): table[:, 0], (1, 2): table[:1], (3, 2): table}[shape]
        position, shift = tf.nest.map_structure(lambda x: x.astype("float32"), self.arguments())
        expected = tfebm.ShortRunLangevin(3, part.tolist(), 0.5, jit_compile=jit)(
            self.energy, position, shift, seed=0
        )
        sampler = tfebm.ShortRunLangevin(3, 9.0, 0.5, jit_compile=jit)
        step = tf.Variable(part, dtype=tf.float32)
        for moved in (
            sampler(self.energy, position, shift, seed=0, step_size=step),
            sampler.run(self.energy, position, shift, seed=0, step_size=part),
        ):
            for values, others in zip(moved, expected, strict=True):
                np.testing.assert_allclose(values, others, rtol=1e-5, atol=1e-6)

    @JIT
    def test_other_values_and_forms_trace_nothing(self, jit):
        position, shift = self.arguments()
        sampler = tfebm.ShortRunLangevin(3, 0.1, jit_compile=jit)
        for step in (0.1, 0.2, tf.constant([0.1, 0.2, 0.3]), np.full((1, 2), 0.2), tf.ones([3, 2])):
            sampler(self.energy, position, shift, seed=0, step_size=step)
        assert sampler.num_traces == 1

    @pytest.mark.parametrize("shape", [[2], [3, 3], [2, 2], [1, 1, 1]])
    def test_another_shape_is_refused(self, shape):
        position, shift = self.arguments()
        with pytest.raises(ValueError, match="K = 3 and P = 2"):
            tfebm.ShortRunLangevin(3, 0.1)(
                self.energy, position, shift, seed=0, step_size=tf.ones(shape)
            )

    def test_the_path_holds_the_positions_of_the_run(self):
        position, shift = self.arguments()
        sampler = tfebm.ShortRunLangevin(3, [[0.1, 0.2]])
        path = sampler.path(self.energy, position, shift, seed=0)
        shorter = tfebm.ShortRunLangevin(2, [[0.1, 0.2]])
        for i in range(2):
            assert path[i].shape == (4, 4, 2)
            np.testing.assert_array_equal(path[i][0], position[i])
            for run, at in ((shorter, 2), (sampler, 3)):
                end = run.run(self.energy, position, shift, seed=0)[i]
                np.testing.assert_allclose(path[i][at], end, rtol=1e-12)
        still = tfebm.ShortRunLangevin(0, 0.1).path(self.energy, position, shift)
        np.testing.assert_array_equal(still[1], position[1][None])

    @pytest.mark.parametrize("compiled", [False, True])
    def test_the_path_is_differentiable_in_the_step_sizes(self, compiled):
        position, shift = self.arguments()
        sampler = tfebm.ShortRunLangevin(3, 0.1)

        def ends(table):
            return sampler.path(self.energy, position, shift, seed=0, step_size=table)[0][-1]

        def derivative(table):
            with tf.GradientTape() as tape:
                tape.watch(table)
                loss = tf.reduce_sum(ends(table))
            return tape.gradient(loss, table)

        table = np.array([[0.4, 0.5], [0.3, 0.2], [0.6, 0.1]])
        found = (tf.function(derivative) if compiled else derivative)(tf.constant(table))
        for k, i in np.ndindex(3, 2):
            change = np.zeros((3, 2))
            change[k, i] = 1e-6
            there, back = (np.sum(ends(table + sign * change)) for sign in (1, -1))
            assert float(found[k, i]) == pytest.approx((there - back) / 2e-6, rel=1e-6, abs=1e-8)

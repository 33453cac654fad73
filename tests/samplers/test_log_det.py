"""The determinant of the short-run map, against closed forms and against autodiff."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm.samplers.log_det import log_det_of_map


def linear_gaussian(numbers):
    """U(z) = -log p(x, z) up to its constants, in float64."""
    w, x, variance = numbers["W"], numbers["x"], float(numbers["sigma"]) ** 2

    def energy(z):
        residual = x - tf.matmul(z, w, transpose_b=True)
        return tf.reduce_sum(residual**2, -1) / (2 * variance) + 0.5 * tf.reduce_sum(z**2, -1)

    return energy


def two_parts(latents, shift):
    """Not quadratic, and coupled: a 2x2 part and one of 3."""
    a, b = latents
    joint = tf.concat([tf.reshape(a, [-1, 4]), b], axis=1)
    mixed = tf.sin(tf.matmul(joint, tf.constant(MIXING, joint.dtype)))
    return tf.reduce_sum(mixed, axis=1) + 0.5 * tf.reduce_sum((joint - shift) ** 2, axis=1)


MIXING = np.random.default_rng(5).normal(size=(7, 5)) * 0.5


def start_of_two_parts(rows=4):
    rng = np.random.default_rng(0)
    position = rng.normal(size=(rows, 2, 2)), rng.normal(size=(rows, 3))
    return position, rng.normal(size=(rows, 7))


def wide(z):
    """40 dimensions, not quadratic."""
    mixed = tf.matmul(z, tf.constant(WIDE, z.dtype))
    return 0.5 * tf.reduce_sum(z**2, 1) + tf.reduce_sum(tf.math.softplus(mixed), 1)


WIDE = np.random.default_rng(6).normal(size=(40, 60)) * 0.3


def test_linear_gaussian_at_every_step_size(golden):
    numbers = golden("linear_gaussian")
    energy, z = linear_gaussian(numbers), np.random.default_rng(0).normal(size=(3, 4))
    sampler = tfebm.ShortRunLangevin(int(numbers["steps"]), 0.1)
    largest = np.linalg.eigvalsh(numbers["posterior_precision"])[-1]
    for step, expected in zip(numbers["step_sizes"], numbers["log_abs_det"], strict=True):
        _, found = log_det_of_map(sampler, energy, z, seed=0, step_size=step)
        np.testing.assert_allclose(found.value, np.full(3, expected), atol=1e-9)
        np.testing.assert_allclose(found.largest_curvature, np.full(3, largest))
        np.testing.assert_allclose(found.smallest_eigenvalue, np.full(3, 1 - step**2 * largest / 2))
        assert np.all(found.valid.numpy() == (step**2 * largest < 2))
        assert not np.any(found.standard_error)
    assert not found.valid[0]  # the last one is past the limit
    assert sampler.num_traces == 1


def test_autodiff_of_the_whole_chain_over_two_parts_with_steps_of_their_own():
    position, shift = start_of_two_parts()
    table = np.array([[0.3, 0.5], [0.6, 0.2], [0.4, 0.1]])
    sampler = tfebm.ShortRunLangevin(3, 0.1, noise_scale=0.7)
    sizes = [4, 3]
    joint = tf.constant(np.concatenate([position[0].reshape(4, 4), position[1]], axis=1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(joint)
        a, b = tf.split(joint, sizes, axis=1)
        path = sampler.path(
            two_parts, (tf.reshape(a, [4, 2, 2]), b), shift, seed=3, step_size=table
        )
        end = tf.concat([tf.reshape(path[0][-1], [4, 4]), path[1][-1]], axis=1)
    _, expected = tf.linalg.slogdet(tape.batch_jacobian(end, joint, experimental_use_pfor=False))
    moved, found = log_det_of_map(sampler, two_parts, position, shift, seed=3, step_size=table)
    np.testing.assert_allclose(found.value, expected, atol=1e-10)
    for part, other in zip(moved, path, strict=True):
        np.testing.assert_allclose(part, other[-1], rtol=1e-12)
    # 3 of the 7 directions of one factor at once.
    _, chunked = log_det_of_map(
        *(sampler, two_parts, position, shift), seed=3, step_size=table, max_rows=3
    )
    for values, others in zip(chunked, found, strict=True):
        np.testing.assert_allclose(values, others, atol=1e-10)


def test_lanczos_agrees_with_the_eigenvalues_within_its_standard_error():
    z = np.random.default_rng(0).normal(size=(24, 40))
    sampler = tfebm.ShortRunLangevin(4, 0.4)
    _, exact = log_det_of_map(sampler, wide, z, seed=0)
    _, found = log_det_of_map(
        sampler, wide, z, seed=0, method="lanczos", num_probes=8, num_lanczos=10
    )
    assert np.all(exact.valid)
    error = found.value.numpy() - exact.value.numpy()
    # 24 t-statistics of 7 degrees of freedom, and one mean of them: 6 standard errors each
    # (a chance of 1e-2 that one of the 24 fails; the seed is fixed).
    assert np.all(np.abs(error) < 6 * found.standard_error)
    assert abs(error.mean()) < 6 * np.sqrt(np.sum(found.standard_error.numpy() ** 2)) / 24
    assert np.all(found.standard_error < 0.05 * np.abs(exact.value))
    np.testing.assert_allclose(found.largest_curvature, exact.largest_curvature, rtol=0.02)
    assert np.all(found.largest_curvature <= exact.largest_curvature + 1e-9)
    np.testing.assert_allclose(found.smallest_eigenvalue, exact.smallest_eigenvalue, rtol=0.02)
    _, chunked = log_det_of_map(
        *(sampler, wide, z), seed=0, method="lanczos", num_probes=8, num_lanczos=10, max_rows=100
    )
    np.testing.assert_allclose(chunked.value, found.value, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanczos_is_exact_once_its_space_is_exhausted(dtype):
    """H = diag(1, 4, 4, 0, ...): three distinct values, so that the third residual is 0."""
    diagonal = np.array([1, 4, 4, 0, 0, 1], dtype)

    def energy(z, scale):
        return 0.5 * scale * tf.reduce_sum(diagonal * z**2, axis=1)

    sampler = tfebm.ShortRunLangevin(2, 0.5)
    for scale in (1.0, 0.0):  # 0: the first residual is 0
        _, found = log_det_of_map(
            *(sampler, energy, np.ones((5, 6), dtype), tf.constant(scale, dtype)),
            seed=1,
            method="lanczos",
            num_lanczos=5,
            num_probes=3,
        )
        expected = 2 * np.sum(np.log(1 - 0.125 * scale * diagonal))
        np.testing.assert_allclose(found.value, np.full(5, expected), rtol=1e-5)
        np.testing.assert_allclose(found.largest_curvature, np.full(5, 4 * scale), rtol=1e-5)
        # Nothing but rounding is left of the spread: v'f(D)v is the same for all signs v.
        assert np.all(found.standard_error < 1e-5)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_past_the_limit_it_is_marked_and_nan_where_the_chain_is_not(method):
    def energy(z):
        return 0.5 * tf.reduce_sum(z**2, axis=1)

    sampler = tfebm.ShortRunLangevin(2, 0.1)
    z = np.array([[1.0, 2.0], [np.nan, 1.0]])
    for step, valid in ((1.4, True), (1.5, False)):
        _, found = log_det_of_map(
            *(sampler, energy, z), seed=0, step_size=step, method=method, num_probes=1
        )
        expected = 4 * np.log(abs(1 - step**2 / 2))
        assert float(found.value[0]) == pytest.approx(expected)
        assert float(found.smallest_eigenvalue[0]) == pytest.approx(1 - step**2 / 2)
        assert found.valid.numpy().tolist() == [valid, False]
        assert np.isnan(found.value[1])
        assert np.isnan(found.standard_error[0]) == (method == "lanczos")  # a spread takes two


def test_no_step_no_size_no_noise():
    position, shift = start_of_two_parts()
    still = tfebm.ShortRunLangevin(0, 0.1)
    end, found = log_det_of_map(still, two_parts, position, shift)
    np.testing.assert_array_equal(end[1], position[1])
    assert not np.any(found.value)
    assert np.all(found.valid)
    descent = tfebm.ShortRunLangevin(3, 0.4, noise_scale=0.0)
    end, found = log_det_of_map(descent, two_parts, position, shift)
    np.testing.assert_allclose(end[1], descent.run(two_parts, position, shift)[1])
    assert np.all(found.value != 0)
    noise = tuple(np.zeros((3, *part.shape)) for part in position)
    _, injected = log_det_of_map(
        *(tfebm.ShortRunLangevin(3, 0.4), two_parts, position, shift), noise=noise
    )
    np.testing.assert_allclose(injected.value, found.value, rtol=1e-10)
    _, zero = log_det_of_map(descent, two_parts, position, shift, step_size=0.0)
    assert not np.any(zero.value)
    np.testing.assert_allclose(zero.smallest_eigenvalue, np.ones(4))
    assert np.all(zero.largest_curvature > 0)  # in units of the step size


def test_a_convolutional_decoder_in_float32():
    decode = keras.Sequential(
        [
            keras.layers.Conv2DTranspose(4, 4, activation="gelu"),
            keras.layers.Conv2DTranspose(1, 4, strides=2, padding="same"),
        ]
    )

    def energy(z, x):
        squares = tf.reduce_sum((x - decode(z[:, None, None])) ** 2, axis=[1, 2, 3])
        return squares / 0.18 + 0.5 * tf.reduce_sum(z**2, axis=1)

    rng = np.random.default_rng(0)
    z = tf.constant(rng.normal(size=(2, 5)), tf.float32)
    x = tf.constant(rng.normal(size=(2, 8, 8, 1)), tf.float32)
    sampler = tfebm.ShortRunLangevin(2, 0.05)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        end = sampler.path(energy, z, x, seed=0)[-1]
    _, expected = tf.linalg.slogdet(tape.batch_jacobian(end, z, experimental_use_pfor=False))
    _, found = log_det_of_map(sampler, energy, z, x, seed=0)
    np.testing.assert_allclose(found.value, expected, rtol=1e-3, atol=1e-5)


class TestArguments:
    def energy(self, z):
        return 0.5 * tf.reduce_sum(z**2, axis=1)

    @pytest.mark.parametrize("sampler", [tfebm.HMC(2), tfebm.MALA(2)])
    def test_a_chain_that_rejects_has_no_determinant(self, sampler):
        with pytest.raises(ValueError, match="ShortRunLangevin"):
            log_det_of_map(sampler, self.energy, tf.zeros([2, 2]), seed=0)

    def test_dropout_is_refused(self):
        dropout = keras.layers.Dropout(0.5)
        sampler = tfebm.ShortRunLangevin(2, 0.1)
        with pytest.raises(ValueError, match="dropout"):
            log_det_of_map(
                *(sampler, lambda z: self.energy(dropout(z, training=True)), tf.ones([4, 8])),
                seed=0,
            )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"method": "power"}, "'exact' or 'lanczos'"),
            ({"num_probes": 0}, "num_probes"),
            ({"max_rows": 0}, "max_rows"),
            ({"seed": None}, "needs `seed`"),
            ({"step_size": [0.1, 0.2, 0.3]}, "K = 2 and P = 1"),
        ],
    )
    def test_sentences(self, arguments, message):
        sampler = tfebm.ShortRunLangevin(2, 0.1)
        with pytest.raises(ValueError, match=message):
            log_det_of_map(sampler, self.energy, tf.ones([4, 8]), **{"seed": 0, **arguments})

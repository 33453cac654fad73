"""The three distances of `tfebm.samplers.criteria`."""

import numpy as np
import pytest
import tensorflow as tf

from tfebm.samplers import criteria


def slow_stein(z, score, c):
    """Term by term, as the docstring says."""
    total, (m, d) = 0.0, z.shape
    for i in range(m):
        for j in range(m):
            r = z[i] - z[j]
            u = c**2 + r @ r
            grad_x = -r * u**-1.5  # of u**(-1/2)
            trace = d * u**-1.5 - 3 * (r @ r) * u**-2.5
            if i != j:
                total += score[i] @ score[j] * u**-0.5 + (score[j] - score[i]) @ grad_x + trace
    return total / (m * (m - 1))


@pytest.mark.parametrize("c", [1.0, 0.5])
def test_kernel_stein_is_the_double_sum(c):
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(6, 2, 2)), rng.normal(size=(6, 3))
    grads = rng.normal(size=(6, 2, 2)), rng.normal(size=(6, 3))
    found = criteria.kernel_stein(parts, grads, num_chains=3, scale=c)
    z, g = (np.concatenate([a.reshape(6, 4), b], 1).reshape(2, 3, 7) for a, b in (parts, grads))
    np.testing.assert_allclose(found, [slow_stein(z[i], -g[i], c) for i in range(2)], rtol=1e-10)


# In 400 dimensions a mean, as of a chain that is too short, shows far better than a spread.
@pytest.mark.parametrize(
    ("d", "wrong"), [(400, ((0, 0.1, 0.2), (1, 1, 1))), (4, ((0, 0, 0), (1, 1.6, 2.2)))]
)
def test_kernel_stein_is_zero_on_the_target_and_grows_with_the_error(d, wrong):
    chains = 8
    rng = np.random.default_rng(0)
    found = []
    for shift, scale in zip(*wrong, strict=True):
        z = (shift + scale * rng.normal(size=(200 * chains, d))).astype("float32")
        values = criteria.kernel_stein(z, z, num_chains=chains).numpy()  # target N(0, I)
        found.append(criteria.mean_and_error(values))
    (zero, error), (more, error_more), (most, _) = found
    assert abs(zero) < 5 * error
    assert more > 5 * error_more
    assert most > 2 * more


def test_the_entropy_of_gaussian_draws_is_unbiased():
    d, chains, examples = 6, 9, 4000
    rng = np.random.default_rng(0)
    root = np.tril(rng.normal(size=(d, d))) + 2 * np.eye(d)
    z = rng.normal(size=(examples * chains, d)) @ root.T
    minus_entropy = criteria.entropy_kl(z, np.zeros(len(z)), num_chains=chains).numpy()
    expected = -(0.5 * d * np.log(2 * np.pi * np.e) + np.linalg.slogdet(root)[1])
    mean, error = criteria.mean_and_error(minus_entropy)
    assert abs(mean - expected) < 5 * error
    assert error < 0.05


def test_the_conditional_kl_of_no_chain_is_that_of_the_start():
    """K = 0: the mean of Q is KL(N(0, c**2 I) || N(0, I)) for U = -log N(z; 0, I)."""
    d, c, n = 3, 1.5, 200_000
    z = c * np.random.default_rng(0).normal(size=(n, d))
    energy = 0.5 * np.sum(z**2, 1) + d / 2 * np.log(2 * np.pi)
    start = criteria.start_log_prob((z[:, :1], z[:, 1:]), c)
    values = criteria.conditional_kl(start, np.zeros(n), energy).numpy()
    mean, error = criteria.mean_and_error(values)
    assert abs(mean - d * ((c**2 - 1) / 2 - np.log(c))) < 5 * error


def test_all_are_differentiable_and_survive_chains_that_coincide():
    z = tf.constant(np.random.default_rng(0).normal(size=(8, 2)))
    still = tf.zeros([8, 2], tf.float64)
    for start in (z, still):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(start)
            energy = 0.5 * tf.reduce_sum(start**2, 1)
            found = [
                criteria.conditional_kl(criteria.start_log_prob(start, 1.0), energy, energy),
                criteria.kernel_stein(start, start, num_chains=4),
                criteria.entropy_kl(start, energy, num_chains=4),
            ]
        slopes = [tape.gradient(values, start) for values in found]
        assert all(np.all(np.isfinite(slope)) for slope in slopes)
        assert np.all(np.isnan(found[2])) == (start is still)  # no entropy


def test_too_few_chains():
    z = np.zeros((8, 4), "float32")
    with pytest.raises(ValueError, match=r"num_chains=4.* at least 5"):
        criteria.entropy_kl(z, z[:, 0], num_chains=4)
    with pytest.raises(ValueError, match="at least 2"):
        criteria.kernel_stein(z, z, num_chains=1)

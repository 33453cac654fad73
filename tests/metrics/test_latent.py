import numpy as np
import pytest

import tfebm
from tfebm.metrics import active_units

N, M, d = 10_000, 10, 8


def test_noise_of_the_chains_is_no_activity():
    """Prior noise: the means have variance 1 / M = 0.1, and every coordinate would be active."""
    z = np.random.default_rng(0).normal(size=(N, M, d)).astype("float32")
    assert (z.mean(1).var(0) > 0.09).all()
    found = active_units(z)
    assert found.count == 0
    assert found.variances.shape == (d,)
    error = np.sqrt(2 / (N - 1) + 2 / (N * M * (M - 1))) / M
    assert np.abs(found.variances).max() < 5 * error
    assert found.threshold == 0.01


def test_gaussian_posteriors_in_closed_form():
    """z_i = a_i x_i + sqrt(1 - a_i**2) e: E[z_i | x] has variance a_i**2."""
    rng = np.random.default_rng(1)
    a = np.sqrt([0.0, 0.002, 0.02, 0.25, 0.5, 0.75, 0.9, 1.0])
    means = a * rng.normal(size=(N, d))
    z = means[:, None] + np.sqrt(1 - a**2) * rng.normal(size=(N, M, d))
    found = active_units(z)
    spread = a**2 + (1 - a**2) / M
    error = np.sqrt(2 / (N - 1) * spread**2 + 2 / (N * (M - 1)) * ((1 - a**2) / M) ** 2)
    assert (np.abs(found.variances - a**2) < 5 * error).all()
    assert found.count == 6
    assert active_units(z, threshold=0.4).count == 4
    exact = active_units(means, means=True)
    np.testing.assert_allclose(exact.variances, means.var(0, ddof=1))
    assert exact.count == 6


def test_no_bias_of_few_examples_and_chains():
    """Three examples of two chains, many times over."""
    z = np.random.default_rng(2).normal(size=(4000, 3, 2, 5))
    found = np.array([active_units(each).variances for each in z])
    assert abs(found.mean()) < 5 * found.std() / np.sqrt(found.size)


@pytest.mark.parametrize(
    ("z", "settings", "message"),
    [
        (np.zeros((5, 3)), {}, r"\[N, M, d\] without. Received shape \(5, 3\) and means=False"),
        (np.zeros((5, 2, 3)), {"means": True}, r"\[N, d\] with `means=True`"),
        (np.zeros((1, 2, 3)), {}, "at least two of them"),
        (np.zeros((5, 1, 3)), {}, "noise of one chain"),
        (np.full((5, 2, 3), np.nan), {}, "NaN"),
        (np.zeros((5, 2, 3)), {"threshold": -1.0}, "`threshold` must be"),
    ],
)
def test_latents_that_cannot_be_used(z, settings, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        active_units(z, **settings)

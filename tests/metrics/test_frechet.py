import numpy as np
import pytest
from scipy import linalg

import tfebm
from tfebm.metrics import FeatureMoments, frechet_distance


def test_distance_of_gaussians_in_closed_form():
    """Samples transformed to have exactly the moments wanted, so that no tolerance hides."""
    rng = np.random.default_rng(0)

    def rows(mean, cov, number):
        x = rng.normal(size=(number, 3))
        x -= x.mean(0)
        x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
        return mean + x @ np.linalg.cholesky(cov).T

    a, b = (m @ m.T + 0.1 * np.eye(3) for m in rng.normal(size=(2, 3, 3)))
    shift = np.array([1.0, -2.0, 0.5])
    expected = shift @ shift + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(rows(shift, a, 50), rows(0, b, 70)) == pytest.approx(expected)
    same = rows(0, a, 50)
    assert frechet_distance(same, same[::-1]) == pytest.approx(0, abs=1e-9)


def test_moments_of_batches_are_those_of_all_rows_far_from_zero():
    rng = np.random.default_rng(3)
    rows = 1e6 + rng.normal(size=(101, 4)) @ rng.normal(size=(4, 4))
    moments = FeatureMoments()
    for first, last in ((0, 1), (1, 1), (1, 64), (64, 101)):
        moments.update(rows[first:last])
    assert moments.count == 101
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T), rtol=1e-8, atol=1e-8)
    reference = rows[:50] + 1.0
    expected = frechet_distance(rows, reference)
    assert frechet_distance(moments, reference) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(moments, FeatureMoments.of(reference)) == pytest.approx(expected, 1e-6)
    for bad, message in (
        (rows[:, :3], r"\[B, 4\], as those before"),
        (rows[0], "shape"),
        (np.full((2, 4), np.inf), "infinite"),
    ):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            moments.update(bad)
    assert moments.count == 101
    with pytest.raises(tfebm.InvalidInputError, match=r"shapes \(0, 0\) and \(101, 4\)"):
        frechet_distance(FeatureMoments(), moments)


def test_fewer_rows_than_features():
    x = np.random.default_rng(0).normal(size=(2, 5, 20))
    assert frechet_distance(*x) > 0


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 3)), "at least two rows"),
        (np.zeros((5, 4)), r"shapes \(5, 4\) and \(5, 3\)"),
        (np.full((5, 3), np.nan), "NaN"),
    ],
)
def test_features_that_cannot_be_used(features, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        frechet_distance(features, np.zeros((5, 3)))

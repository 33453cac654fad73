import keras
import numpy as np
import pytest
from scipy import linalg

import tfebm
from tfebm.metrics import classifier_features, frechet_distance


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


def test_features_of_a_classifier_are_repeatable_and_tell_classes_apart():
    rng = np.random.default_rng(0)
    y = rng.integers(3, 5, size=200)
    x = (0.3 * rng.normal(size=(200, 12, 12, 1)) + (y == 4)[:, None, None, None]).astype("float32")
    found = []
    for global_seed in (0, 1):  # of a run, which must not change the features
        keras.utils.set_random_seed(global_seed)
        found.append(classifier_features(x[:150], y[:150], x[150:], y[150:], epochs=2))
    one, two = found
    assert one.test_accuracy == two.test_accuracy > 0.9
    features = one.extract(x)
    np.testing.assert_array_equal(features, two.extract(x))
    assert features.shape == (200, 64)
    near = frechet_distance(features[:100], features[100:])
    assert frechet_distance(features[y == 3], features[y == 4]) > 5 * near
    with pytest.raises(tfebm.InvalidInputError, match="two classes"):
        classifier_features(x, np.zeros(200))

import numpy as np
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture

import tfebm
from tfebm.metrics import clustering, clustering_accuracy


def blobs(rng, number, distance, size=6):
    """Two spherical Gaussians whose means are `distance` apart, of labels 3 and 7."""
    y = rng.choice([3, 7], size=number)
    x = rng.normal(size=(number, size))
    x[:, 0] += np.where(y == 7, 0.5, -0.5) * distance
    return x, y


def test_two_gaussians_reach_the_bayes_accuracy():
    rng = np.random.default_rng(0)
    (x, _), (valid, y_valid), (test, y_test) = (blobs(rng, n, 4.0) for n in (4000, 500, 4000))
    found = clustering_accuracy(x, valid, y_valid, test, y_test)
    bayes = stats.norm.cdf(2.0)
    assert abs(found.test_accuracy - bayes) < 5 * np.sqrt(bayes * (1 - bayes) / 4000)
    assert abs(found.valid_accuracy - bayes) < 5 * np.sqrt(bayes * (1 - bayes) / 500)
    assert found.best_case_accuracy == found.test_accuracy
    assert found.largest_class == max((y_test == 3).mean(), (y_test == 7).mean())
    assert sorted(found.names) == [3, 7]
    assert found.converged
    again = clustering_accuracy(x, valid, y_valid, test, y_test)
    np.testing.assert_array_equal(found.components, again.components)


def outlying(order):
    """Components far apart whose most certain validation row has the other's label.

    Of 21 rows of each component 20 agree; the one that is furthest out does not. All are so
    certain that their probabilities round to 1.
    """
    rng = np.random.default_rng(1)
    x, y = blobs(rng, 2000, 16.0, size=2)
    valid, y_valid = blobs(rng, 40, 16.0, size=2)
    valid = np.concatenate([valid, [[-14.0, 0.0], [14.0, 0.0]]])[::order]
    y_valid = np.concatenate([y_valid, [7, 3]])[::order]
    return x, y, valid, y_valid


@pytest.mark.parametrize("order", [1, -1])
def test_the_most_certain_row_names_a_component_not_the_majority(order):
    x, y, valid, y_valid = outlying(order)
    found = clustering_accuracy(x, valid, y_valid, x, y, pca=None)
    assert found.test_accuracy == 0.0
    assert found.valid_accuracy == 2 / 42
    assert found.best_case_accuracy == 1.0


@pytest.mark.parametrize("order", [1, -1])
def test_components_may_share_a_name(order):
    x, y, valid, y_valid = outlying(order)
    found = clustering_accuracy(x, valid, np.where(valid[:, 0] < -13, 3, y_valid), x, y, pca=None)
    np.testing.assert_array_equal(found.names, 3)
    assert found.test_accuracy == (y == 3).mean()
    assert found.best_case_accuracy == 1.0


def test_test_labels_do_not_matter_and_principal_components_do():
    rng = np.random.default_rng(2)
    (x, _), (valid, y_valid), (test, y_test) = (blobs(rng, n, 4.0) for n in (1000, 200, 500))
    one = clustering_accuracy(x, valid, y_valid, test, y_test)
    other = clustering_accuracy(x, valid, y_valid, test, rng.permutation(y_test))
    np.testing.assert_array_equal(one.names[one.components], other.names[other.components])
    assert one.valid_accuracy == other.valid_accuracy
    assert other.test_accuracy < 0.6 < 0.9 < one.test_accuracy
    # The direction between the means is the widest, and the only one that is needed.
    first = clustering_accuracy(x, valid, y_valid, test, y_test, pca=1)
    assert first.test_accuracy > 0.9


def test_the_seed_is_of_the_start():
    """Eight equal clumps on a ring have many ways to be two."""
    rng = np.random.default_rng(3)
    angle = rng.integers(8, size=800) * np.pi / 4
    x = 5 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * rng.normal(size=(800, 2))
    y = (x[:, 0] > 0).astype(int)
    found = [clustering_accuracy(x, x, y, x, y, pca=None, seed=s).components for s in range(6)]
    assert len({tuple(each) for each in found}) > 1


def test_densities_are_those_of_scikit_learn():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3))
    mixture = GaussianMixture(3, random_state=0).fit(x)
    joint = clustering._log_joint(mixture, x)
    odds = clustering._log_odds(joint)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-odds)), mixture.predict_proba(x), rtol=1e-7, atol=1e-12
    )
    np.testing.assert_array_equal(joint.argmax(1), mixture.predict(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features_train": np.zeros((5, 4, 1))}, r"`features_train` must have shape \[N, d\]"),
        ({"features_valid": np.zeros((5, 3))}, r"`features_valid` must have shape \[N, 4\]"),
        ({"features_test": np.full((5, 4), np.inf)}, "`features_test` holds NaN"),
        ({"y_valid": np.zeros(5)}, "`y_valid` must be 5 whole numbers.*float64"),
        ({"y_test": np.zeros(4, int)}, r"`y_test` must be 5 .* shape \(4,\)"),
        ({"pca": 5}, "`pca` must be at most 4"),
        ({"pca": 0}, "`pca` must be a whole number"),
        ({"tolerance": 0.0}, "`tolerance` must be"),
        ({"num_components": 1}, "`num_components` must be a whole number of at least 2"),
        ({"num_components": 6}, "at least as many rows. Received 5"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_what_cannot_be_clustered(changes, message):
    usable = {
        "features_train": np.eye(5, 4),
        "features_valid": np.eye(5, 4),
        "y_valid": np.zeros(5, int),
        "features_test": np.eye(5, 4),
        "y_test": np.zeros(5, int),
        "pca": None,
    }
    with pytest.raises(tfebm.InvalidInputError, match=message):
        clustering_accuracy(**{**usable, **changes})

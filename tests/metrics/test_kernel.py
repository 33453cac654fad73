"""The kernel distance, against moments and against its definition."""

import itertools

import numpy as np
import pytest

import tfebm
from tfebm.metrics import FeatureMoments, kernel_distance


def test_its_definition_on_a_few_rows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 3))

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    pairs = list(itertools.permutations(range(4), 2))
    within = [np.mean([k(x[i], x[j]) for i, j in pairs]) for x in (a, b)]
    across = np.mean([k(x, y) for x in a for y in b])
    found = kernel_distance(a, b, num_subsets=1)
    assert found.value == pytest.approx(sum(within) - 2 * across)
    assert np.isnan(found.subset_std)


def test_the_distance_of_two_gaussians_in_closed_form():
    """In one dimension (x y + 1)**3 = sum_j C(3, j) x**j y**j, so that the distance is the weighted
    squares of differences of raw moments."""
    rng = np.random.default_rng(1)
    mean, deviation = 0.5, 1.2
    moments = [0.0, 1.0, 0.0]  # of N(0, 1): E x, E x**2, E x**3
    others = [mean, mean**2 + deviation**2, mean**3 + 3 * mean * deviation**2]
    expected = sum(c * (m - o) ** 2 for c, m, o in zip((3, 3, 1), moments, others, strict=True))
    a = rng.normal(size=(8_000, 1))
    b = mean + deviation * rng.normal(size=(8_000, 1))
    found = kernel_distance(a, b, subset_size=400)
    # Subsets overlap: 100 of 400 rows of 8,000 are as good as 20 that do not.
    error = found.subset_std / np.sqrt(20)
    assert expected > 10 * error
    assert found.value == pytest.approx(expected, abs=5 * error)
    same = kernel_distance(a[:4_000], a[4_000:], subset_size=400)
    assert abs(same.value) < 5 * same.subset_std / np.sqrt(10)


def test_the_seed_chooses_the_subsets():
    a, b = np.random.default_rng(2).normal(size=(2, 50, 3))
    found = [kernel_distance(a, b, seed=seed, num_subsets=5, subset_size=10) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("features", "reference", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least two rows"),
        (np.zeros((5, 4)), np.zeros((5, 3)), r"\(5, 4\) and \(5, 3\)"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "NaN"),
        (np.zeros((5, 0)), np.zeros((5, 0)), "one feature"),
        (np.zeros((5, 3)), FeatureMoments(), "features themselves"),
    ],
)
def test_what_has_no_distance(features, reference, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        kernel_distance(features, reference)


@pytest.mark.parametrize("settings", [{"seed": -1}, {"num_subsets": 0}, {"subset_size": 1}])
def test_settings_that_cannot_be_used(settings):
    with pytest.raises(tfebm.InvalidInputError, match=f"`{next(iter(settings))}` must be a whole"):
        kernel_distance(np.zeros((5, 3)), np.zeros((5, 3)), **settings)

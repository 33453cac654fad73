"""Densities in the plane."""

import numpy as np
import pytest

import tfebm
from tfebm.data import TOY_DENSITIES, load_points, toy_density

KNOWN = [name for name, density in TOY_DENSITIES.items() if density.log_density]


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_samples(name):
    density = toy_density(name)
    x = density.sample(2000, seed=1)
    assert x.shape == (2000, 2)
    assert x.dtype == np.float32
    assert np.abs(x).max() < 6.0
    np.testing.assert_array_equal(x, density.sample(2000, seed=1))
    assert not np.array_equal(x, density.sample(2000, seed=2))


@pytest.mark.parametrize("name", KNOWN)
def test_densities_are_those_of_the_samples(name):
    density = toy_density(name)
    side, reach = 1200, 3.5
    line = (np.arange(side) + 0.5) / side * 2 * reach - reach
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    p = np.exp(density.log_prob(grid)) * (2 * reach / side) ** 2
    assert p.sum() == pytest.approx(1.0, abs=2e-3)
    # E[log p] by quadrature and over 50,000 samples: 5.5 standard errors and the grid's error.
    log_p = density.log_prob(density.sample(50_000, seed=0))
    expected = np.sum(p[p > 0] * np.log(p[p > 0] / (2 * reach / side) ** 2))
    assert log_p.mean() == pytest.approx(expected, abs=5.5 * log_p.std() / 50_000**0.5 + 5e-3)


@pytest.mark.parametrize(("name", "modes"), [("eight_gaussians", 8), ("twenty_five_gaussians", 25)])
def test_modes_have_equal_shares(name, modes):
    """50,000 points: each share within 5.5 standard errors."""
    density = toy_density(name)
    labels = density.nearest_mode(density.sample(50_000))
    shares = np.bincount(labels, minlength=modes) / 50_000
    error = np.sqrt((1 / modes) * (1 - 1 / modes) / 50_000)
    np.testing.assert_allclose(shares, 1 / modes, atol=5.5 * error)
    assert tfebm.metrics.total_variation(labels, np.full(modes, 1 / modes)) < 0.02


def test_points_stay_off_the_edges_where_float32_would_put_them():
    density = toy_density("checkerboard")
    assert np.isfinite(density.log_prob(density.sample(1_000_000, seed=34))).all()


def test_data_sets():
    data = load_points("rings", num_train=100, num_test=50, seed=3)
    assert data.x_train.shape == (100, 2)
    assert data.x_test.shape == (50, 2)
    assert not np.array_equal(data.x_train[:50], data.x_test)
    np.testing.assert_array_equal(
        data.x_test, load_points("rings", num_train=100, num_test=50, seed=3).x_test
    )


def test_what_is_not_there():
    with pytest.raises(tfebm.InvalidInputError, match="Did you mean 'eight_gaussians'"):
        toy_density("eight_gausians")
    with pytest.raises(tfebm.InvalidInputError, match="no closed form"):
        toy_density("pinwheel").log_prob(np.zeros((1, 2)))
    with pytest.raises(tfebm.InvalidInputError, match="no separate modes"):
        toy_density("rings").nearest_mode(np.zeros((1, 2)))
    with pytest.raises(tfebm.InvalidInputError, match="num_train"):
        load_points("rings", num_train=0)

"""Diagnostics of chains with known answers."""

import numpy as np
import pytest

import tfebm
from tfebm import metrics

RNG = np.random.default_rng(0)
INDEPENDENT = RNG.normal(size=(2000, 8, 2))


def autoregressive(coefficient, draws=4000, chains=8):
    """x_t = c x_{t-1} + e_t: autocorrelation c**lag, time (1 + c) / (1 - c)."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(draws, chains))
    x[0] /= np.sqrt(1 - coefficient**2)
    for t in range(1, draws):
        x[t] += coefficient * x[t - 1]
    return x


def test_chains_that_agree():
    np.testing.assert_allclose(metrics.split_r_hat(INDEPENDENT), 1.0, atol=0.005)
    for kind in ("bulk", "tail"):
        ess = metrics.effective_sample_size(INDEPENDENT, kind)
        np.testing.assert_allclose(ess, 16_000, rtol=0.15)


def test_r_hat_is_that_of_the_paper():
    """sqrt(var+ / W) of the rank-normalised halves of four chains, by hand."""
    from scipy import special, stats

    x = np.random.default_rng(3).normal(size=(50, 2)) + np.arange(2)
    z = special.ndtri((stats.rankdata(x).reshape(x.shape) - 0.375) / 100.25)
    halves = np.concatenate([z[:25], z[25:]], axis=1)
    within = halves.var(axis=0, ddof=1).mean()
    between = halves.mean(axis=0).var(ddof=1)
    expected = np.sqrt((24 / 25 * within + between) / within)
    assert metrics.split_r_hat(x) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x + 5.0 * np.arange(8)[:, np.newaxis],  # other means
        lambda x: x * np.where(np.arange(8) < 4, 1.0, 10.0)[:, np.newaxis],  # other spreads
        lambda x: x + np.linspace(-3, 3, len(x))[:, np.newaxis, np.newaxis],  # a common drift
    ],
)
def test_chains_that_do_not(spoil):
    assert metrics.split_r_hat(spoil(INDEPENDENT)).min() > 1.1


def test_chains_that_stand_still():
    stuck = np.broadcast_to(np.arange(8.0), (100, 8))
    assert metrics.split_r_hat(stuck) == np.inf
    assert metrics.split_r_hat(np.tile(RNG.normal(size=8), (20, 1))) == np.inf
    assert metrics.split_r_hat(np.zeros((100, 8))) == 1.0
    assert metrics.effective_sample_size(np.zeros((100, 8))) == 1.0


def test_autocorrelation_of_a_known_process():
    x = autoregressive(0.8)
    np.testing.assert_allclose(metrics.autocorrelation(x, 5), 0.8 ** np.arange(6), atol=0.03)
    assert metrics.autocorrelation_time(x) == pytest.approx(9.0, rel=0.15)


def test_chains_in_modes_of_their_own_stay_correlated():
    x = 0.1 * INDEPENDENT[..., 0] + np.arange(8)
    assert metrics.autocorrelation(x, 50)[-1] > 0.9


def test_modes():
    labels = np.array([[0, 1], [0, 2], [1, 2], [0, 2]])
    np.testing.assert_array_equal(metrics.mode_switches(labels), [2, 1])
    assert metrics.total_variation([0, 0, 1, 1], [0.5, 0.5]) == 0.0
    assert metrics.total_variation([0, 0, 0, 0], [0.25] * 4) == 0.75


def test_a_report_is_json():
    stuck = np.broadcast_to(np.arange(8.0)[:, np.newaxis], (100, 8, 1))
    found = metrics.report(
        stuck, stuck[..., 0], 0.5, 0.1, 500, labels=np.zeros((100, 8), int), shares=[0.5, 0.5]
    )
    record = found.to_record()
    assert record["mode_switches"] == 0
    assert record["total_variation"] == 0.5
    assert record["num_gradients"] == 500
    assert record["r_hat"] == [None]  # JSON has no infinity


@pytest.mark.parametrize("shape", [(3, 8), (100, 1), (100,)])
def test_too_few_draws(shape):
    with pytest.raises(tfebm.InvalidInputError, match="at least 4 draws of at least 2 chains"):
        metrics.split_r_hat(np.zeros(shape))
    with pytest.raises(tfebm.InvalidInputError, match="finite"):
        metrics.split_r_hat(np.full((10, 2), np.nan))

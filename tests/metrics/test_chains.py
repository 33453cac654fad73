"""Diagnostics of chains with known answers."""

import warnings

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
        ess = metrics.effective_sample_size(INDEPENDENT, kind=kind)
        np.testing.assert_allclose(ess, 16_000, rtol=0.15)


@pytest.fixture(scope="module")
def arviz():
    """The peer: the authors of the statistics keep it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its next version
        import arviz
    return arviz


KNOWN = {
    "independent": INDEPENDENT[..., 0],
    "slow": autoregressive(0.9),
    "antithetic": autoregressive(-0.5),
    "other means": INDEPENDENT[:500, :4, 0] + 0.3 * np.arange(4),
    "other spreads": INDEPENDENT[:500, :4, 0] * [1, 1, 1, 5],
    "heavy tails": np.random.default_rng(3).standard_cauchy((800, 4)),
    "few and discrete": np.random.default_rng(3).integers(0, 3, (50, 2)).astype(float),
}


@pytest.mark.parametrize("name", KNOWN)
def test_r_hat_is_arviz(name, arviz):
    x = KNOWN[name]
    assert metrics.split_r_hat(x) == pytest.approx(float(arviz.rhat(x.T)), rel=1e-6)


@pytest.mark.parametrize("name", ["independent", "slow", "antithetic", "heavy tails"])
@pytest.mark.parametrize("kind", ["bulk", "tail"])
def test_effective_sizes_of_chains_that_agree_are_about_arviz(name, kind, arviz):
    # It makes the sums of pairs of correlations monotone before it adds them up; TFP does not.
    x = KNOWN[name]
    expected = float(arviz.ess(x.T, method=kind))
    assert metrics.effective_sample_size(x, kind=kind) == pytest.approx(expected, rel=0.1)


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
    np.testing.assert_allclose(
        metrics.autocorrelation(x, max_lag=5), 0.8 ** np.arange(6), atol=0.03
    )
    assert metrics.autocorrelation_time(x) == pytest.approx(9.0, rel=0.15)


def test_chains_in_modes_of_their_own_stay_correlated():
    x = 0.1 * INDEPENDENT[..., 0] + np.arange(8)
    assert metrics.autocorrelation(x, max_lag=50)[-1] > 0.9


def test_modes():
    labels = np.array([[0, 1], [0, 2], [1, 2], [0, 2]])
    np.testing.assert_array_equal(metrics.mode_switches(labels), [2, 1])
    assert metrics.total_variation([0, 0, 1, 1], [0.5, 0.5]) == 0.0
    assert metrics.total_variation([0, 0, 0, 0], [0.25] * 4) == 0.75


def test_a_report_is_json():
    stuck = np.broadcast_to(np.arange(8.0)[:, np.newaxis], (100, 8, 1))
    found = metrics.report(
        stuck,
        stuck[..., 0],
        acceptance=0.5,
        step_size=0.1,
        num_gradients=500,
        labels=np.zeros((100, 8), int),
        shares=[0.5, 0.5],
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

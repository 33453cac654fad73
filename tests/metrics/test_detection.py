"""Areas under curves, against curves that can be drawn by hand."""

import numpy as np
import pytest

import tfebm
from tfebm.metrics import anomaly_detection, rank_lost_scores


def test_a_perfect_score_and_the_worst_one():
    labels = np.arange(4000) < 1400
    scores = np.linspace(1, 0, 4000)
    best, worst = anomaly_detection(scores, labels), anomaly_detection(-scores, labels)
    assert best[:3] == (1.0, 1.0, 1.0)
    assert worst.auroc == 0.0
    assert best.prevalence == worst.prevalence == 0.35
    # The curve of the worst score is the bound's own, up to the steps between 1,400 points.
    assert worst.least_auprc == pytest.approx(1 + 0.65 * np.log(0.65) / 0.35)
    assert worst.auprc == pytest.approx(worst.least_auprc, abs=1e-3)
    assert (best.num_normal, best.num_anomalies) == (2600, 1400)


def test_both_areas_of_a_curve_drawn_by_hand():
    """Ranks: anomaly, normal, anomaly, so precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1."""
    found = anomaly_detection([0.9, 0.5, 0.1], [True, False, True])
    assert found.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found.auprc == pytest.approx(0.5 * 1 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert found.auroc == pytest.approx(0.5)


def test_a_score_that_knows_nothing_reaches_the_prevalence():
    rng = np.random.default_rng(0)
    labels = rng.random(50_000) < 0.2
    found = anomaly_detection(rng.random(50_000), labels)
    # The standard error of either area at 10,000 anomalies is below 0.003.
    assert found.auprc == pytest.approx(found.prevalence, abs=0.015)
    assert found.auroc == pytest.approx(0.5, abs=0.015)


def test_equal_scores_are_one_point_of_the_curve():
    found = anomaly_detection(np.zeros(10), np.arange(10) < 3)
    assert found.average_precision == pytest.approx(0.3)
    assert found.auprc == pytest.approx(0.65)  # which is why both are there
    assert found.auroc == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((3, 1)), [0, 1, 1], r"\(3, 1\) and \(3,\)"),
        ([0.0, np.nan, np.inf], [0, 1, 1], "2 of 3 are not"),
        ([0.0, 1.0], [1, 1], r"Received the values \[1\]"),
        ([0.0, 1.0, 2.0], [0, 1, 2], r"Received the values \[0, 1, 2\]"),
    ],
)
def test_what_has_no_curve(scores, labels, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        anomaly_detection(scores, labels)


def test_rows_that_have_no_score_stand_above_all_others():
    found = rank_lost_scores([1.0, np.nan, 3.0, -np.inf, np.inf])
    np.testing.assert_array_equal(found, [1.0, 4.0, 3.0, 4.0, 4.0])
    np.testing.assert_array_equal(rank_lost_scores([np.nan, np.inf]), [1.0, 1.0])
    # Of a chain that went far, beside one that was lost.
    one, lost, other = rank_lost_scores([1e17, np.nan, 3e17])
    assert lost > other > one

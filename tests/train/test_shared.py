"""What the training scripts share."""

import pytest
from experiments import shared


def test_rates_decay_per_epoch():
    rate = shared.decaying_adam(0.1, 0.5, per_epoch=4)._learning_rate
    assert [float(rate(step)) for step in (0, 3, 4, 8)] == pytest.approx([0.1, 0.1, 0.05, 0.025])

import numpy as np
import pytest
import tensorflow as tf

from tfebm import objectives


def test_shares_of_replicas_add_up_to_the_mean_of_the_global_batch():
    values = np.array([1.0, 2.0, 6.0], "float32")
    ones = np.ones(3, "float32")
    parts = [
        objectives.mean_over_global_batch(values[part], ones[part], tf.constant(3.0))
        for part in (slice(0, 2), slice(2, 3), slice(3, 3))
    ]
    assert sum(map(float, parts)) == pytest.approx(3.0)


def test_filled_up_rows_do_not_count():
    values, weights = tf.constant([5.0, 100.0]), tf.constant([1.0, 0.0])
    assert float(objectives.mean_over_global_batch(values, weights, tf.constant(1.0))) == 5.0


def test_the_contrast_lowers_energy_at_the_posterior_and_raises_it_at_the_prior():
    weight = tf.Variable(1.0)
    with tf.GradientTape() as tape:
        posterior, prior = weight * tf.constant([3.0, 5.0]), weight * tf.constant([1.0, 1.0])
        loss = objectives.energy_contrast(posterior, prior, tf.ones(2), tf.constant(2.0))
    assert float(loss) == 3.0  # mean posterior energy less mean prior energy
    assert float(tape.gradient(loss, weight)) == 3.0

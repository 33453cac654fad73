import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.linear_model import LogisticRegression

import tfebm
from tfebm.metrics import (
    bag_of_words_accuracy,
    classification,
    semi_supervised_accuracy,
    spread,
)


def gaussians(seed, sizes, distance=2.0, classes=(3, 7), size=8):
    """Features and labels of each set: spherical Gaussians on the axes, or two on the first."""
    rng = np.random.default_rng(seed)
    means = np.eye(len(classes), size) * distance / np.sqrt(2)
    found = []
    for number in sizes:
        codes = rng.integers(len(classes), size=number)
        found += [means[codes] + rng.normal(size=(number, size)), np.array(classes)[codes]]
    return found


@pytest.mark.parametrize("protocol", ["paper", "sklearn"])
def test_two_gaussians_reach_the_bayes_accuracy(protocol):
    data = gaussians(0, (6000, 2000, 4000))
    found = semi_supervised_accuracy(*data, num_labels=5000, protocol=protocol)
    bayes = stats.norm.cdf(1.0)
    assert abs(found.test_accuracy - bayes) < 5 * np.sqrt(bayes * (1 - bayes) / 4000)
    assert abs(found.valid_accuracy - bayes) < 5 * np.sqrt(bayes * (1 - bayes) / 2000)
    assert found.test_accuracy == (found.predictions == data[5]).mean()
    assert found.largest_class == max((data[5] == 3).mean(), (data[5] == 7).mean())
    assert set(found.predictions) == {3, 7}
    # The classifier of the true means, on the same points.
    best = np.where(data[4][:, 0] > data[4][:, 1], 3, 7)
    assert (best == found.predictions).mean() > 0.97


@pytest.mark.parametrize("protocol", ["paper", "sklearn"])
def test_more_labels_are_worth_more(protocol):
    data = gaussians(1, (1000, 500, 4000), size=20)
    few, many = (
        np.mean(
            [
                semi_supervised_accuracy(
                    *data, num_labels=n, seed=s, protocol=protocol
                ).test_accuracy
                for s in range(4)
            ]
        )
        for n in (20, 1000)
    )
    assert 0.5 < few < many - 0.05


def test_more_classes_than_two():
    data = gaussians(2, (2000, 500, 2000), distance=4.0, classes=(0, 5, 6, 9))
    found = semi_supervised_accuracy(*data, num_labels=1000)
    best = np.array([0, 5, 6, 9])[data[4][:, :4].argmax(1)]
    assert found.test_accuracy > (best == data[5]).mean() - 0.02


@pytest.mark.parametrize("protocol", ["paper", "sklearn"])
def test_test_labels_do_not_reach_the_classifier_nor_do_those_that_are_hidden(protocol):
    data = gaussians(3, (300, 200, 500))
    one = semi_supervised_accuracy(*data, num_labels=50, protocol=protocol)
    hidden = np.full(300, -1)
    hidden[one.labelled] = data[1][one.labelled]
    permuted = np.random.default_rng(0).permutation(data[5])
    other = semi_supervised_accuracy(
        data[0], hidden, *data[2:5], permuted, num_labels=50, protocol=protocol
    )
    np.testing.assert_array_equal(one.predictions, other.predictions)
    assert one.valid_accuracy == other.valid_accuracy
    assert other.test_accuracy < 0.6 < 0.75 < one.test_accuracy


def test_validation_labels_select_and_do_not_teach():
    """Validation labels reversed: the classifier is a worse one, but still of the labelled rows."""
    data = gaussians(4, (300, 200, 1000), distance=4.0)
    data[3] = 10 - data[3]
    found = semi_supervised_accuracy(*data, num_labels=200)
    assert found.test_accuracy > 0.8
    assert found.valid_accuracy < 0.2


def scripted(losses):
    """Weights that count epochs; the loss is scripted. What epochs began with, and the result."""
    begun, losses = [], iter(losses)

    def epoch(weights, rate):
        begun.append((weights, rate))
        return len(begun)  # weights are named by the epoch that made them

    return classification._descend(0, epoch, lambda _: next(losses)), begun


def test_the_rate_halves_after_two_rises_and_the_best_weights_come_back():
    losses = [5, 4, 6, 3, 7, 8, 7.5, 7.9, 7.8, 2, 9, 9, 9, 10, 11, 12, 12, 0]
    best, begun = scripted(losses)
    assert begun == [
        (0, 1.0),
        (1, 1.0),
        (2, 1.0),  # 6 is a rise, which the 3 after it forgives
        (3, 1.0),
        (4, 1.0),  # 7 is one
        (5, 1.0),  # 8 the second: epoch 4 is restored
        (4, 0.5),  # 7.5 is none, since the halving came at 8
        (7, 0.5),
        (8, 0.5),  # 7.9 and 7.8 are both above 7.5
        (4, 0.25),
        (10, 0.25),
        (11, 0.25),
        (10, 0.125),  # 9 is none, since the halving came at 9
        (13, 0.125),
        (14, 0.125),
        (10, 0.0625),
        (16, 0.0625),  # the fifth halving: the 0 to come is never reached
    ]
    assert best == 10


def test_it_ends_after_a_hundred_epochs_with_the_best_weights():
    best, begun = scripted(range(200, 0, -1))
    assert len(begun) == best == 100
    best, begun = scripted([3, 2, 1, *range(4, 200)])  # rises only: five halvings
    assert best == 3
    assert len(begun) == 3 + 2 * 5
    best, begun = scripted([3, 2, 1] + 97 * [5])  # level after one halving: no rise, no gain
    assert best == 3
    assert begun[-1] == (99, 0.5)
    assert len(begun) == 100


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_step_is_the_gradient_and_is_clipped(scale, monkeypatch):
    """One batch, against TensorFlow's gradient; large features give one of a norm above 5."""
    seen = {}

    def once(weights, epoch, loss):
        seen.update(start=weights, step=weights - epoch(weights, 0.5), loss=loss(weights))
        return weights

    monkeypatch.setattr(classification, "_descend", once)
    x, y, x_valid, y_valid, *_ = data = gaussians(5, (20, 10, 10))
    data[::2] = [each * scale for each in data[::2]]
    semi_supervised_accuracy(*data, num_labels=20)
    weights = tf.Variable(seen["start"])

    def loss(features, labels):
        logits = tf.constant(features * scale) @ weights[:-1] + weights[-1]
        codes = (labels == 7).astype(int)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(codes, logits))

    with tf.GradientTape() as tape:
        value = loss(x, y)
    gradient = tape.gradient(value, weights).numpy()
    norm = np.linalg.norm(gradient)
    assert (norm > 5) == (scale == 1000)
    np.testing.assert_allclose(seen["step"], 0.5 * gradient * min(1, 5 / norm), rtol=1e-9)
    assert seen["loss"] == pytest.approx(loss(x_valid, y_valid).numpy())


@pytest.mark.parametrize("protocol", ["paper", "sklearn"])
def test_the_seed_chooses_rows_and_makes_the_run(protocol):
    data = gaussians(6, (300, 100, 100))
    one, same, other = (
        semi_supervised_accuracy(*data, num_labels=40, seed=s, protocol=protocol) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.predictions, same.predictions)
    np.testing.assert_array_equal(one.labelled, same.labelled)
    assert one.num_labels == len(set(one.labelled)) == 40
    assert set(one.labelled) != set(other.labelled)
    more = semi_supervised_accuracy(*data, num_labels=80, seed=1, protocol=protocol)
    assert set(one.labelled) < set(more.labelled)
    first = semi_supervised_accuracy(*data, num_labels=40, subset="first", protocol=protocol)
    np.testing.assert_array_equal(first.labelled, np.arange(40))


def test_features_are_standardised_on_request():
    """Then the unit of a feature does not matter, and a constant one does no harm."""
    data = gaussians(7, (400, 200, 400))
    scaled = list(data)
    unit = np.logspace(-3, 3, 8)
    scaled[::2] = [np.hstack([5 + each * unit, np.ones((len(each), 1))]) for each in data[::2]]
    plain = [np.hstack([each, np.ones((len(each), 1))]) for each in data[::2]]
    data[::2] = plain
    found = [semi_supervised_accuracy(*d, num_labels=200, standardize=True) for d in (data, scaled)]
    np.testing.assert_array_equal(found[0].predictions, found[1].predictions)
    assert (
        found[0].test_accuracy
        > semi_supervised_accuracy(*scaled, num_labels=200).test_accuracy + 0.05
    )


def sentences(seed, sizes, length=6):
    """Ids 1 to 9 at random, but each class has a word of its own in nine texts of ten."""
    rng = np.random.default_rng(seed)
    found = []
    for number in sizes:
        y = rng.integers(2, size=number)
        x = rng.integers(1, 10, size=(number, length))
        x[:, -2:] = 0
        x[:, 0] = np.where(rng.random(number) < 0.9, 10 + y, x[:, 0])
        found += [x, y]
    return found


def test_words_tell_classes_apart():
    data = sentences(0, (1000, 500, 2000))
    found = bag_of_words_accuracy(*data, vocabulary_size=12, num_labels=500)
    bayes = 0.9 + 0.1 / 2
    assert abs(found.test_accuracy - bayes) < 5 * np.sqrt(bayes * (1 - bayes) / 2000)
    assert found.test_accuracy == (found.predictions == data[5]).mean()
    # The rows that the classifier of features takes with the same seed.
    features = [np.eye(len(each), 3) for each in data[::2]]
    both = [each for pair in zip(features, data[1::2], strict=True) for each in pair]
    other = semi_supervised_accuracy(*both, num_labels=500)
    np.testing.assert_array_equal(found.labelled, other.labelled)


def test_words_count_once_and_padding_not_at_all():
    bag = classification._bag_of_words(np.array([[2, 2, 3, 0], [1, 0, 0, 0], [0, 0, 0, 0]]), 5)
    np.testing.assert_array_equal(
        bag.toarray(), [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    )


def test_strength_is_that_of_the_best_validation_accuracy():
    """Few rows of many features: the strengths differ."""
    x, y, *rest = gaussians(8, (40, 2000, 10), size=30)
    found = classification._best_regression(x, y, *rest[:2])
    fits = [LogisticRegression(C=c, max_iter=1000).fit(x, y) for c in (0.01, 0.1, 1, 10, 100)]
    accuracies = [fit.score(*rest[:2]) for fit in fits]
    assert len(set(accuracies)) > 1
    best = fits[accuracies.index(max(accuracies))]  # the first of equals
    np.testing.assert_array_equal(found(rest[0]), best.predict(rest[0]))


def test_spread_is_of_a_sample():
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    for values in ([0.9], [0.9, np.nan], [[0.1, 0.2]]):
        with pytest.raises(tfebm.InvalidInputError, match="at least two finite numbers"):
            spread(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features_train": np.zeros((6, 4, 1))}, r"`features_train` must have shape \[N, d\]"),
        ({"features_train": np.zeros((0, 4))}, "at least one row"),
        ({"features_valid": np.zeros((6, 3))}, r"`features_valid` must have shape \[N, 4\]"),
        ({"features_test": np.full((6, 4), np.nan)}, "`features_test` holds NaN"),
        ({"y_train": np.zeros(6)}, "`y_train` must be 6 whole numbers.*float64"),
        ({"y_valid": np.zeros(5, int)}, r"`y_valid` must be 6 .* shape \(5,\)"),
        ({"y_test": ["a"] * 6}, "`y_test` must be 6 whole numbers.*Number the classes"),
        ({"y_train": np.full(6, 3)}, "labelled rows are all of class 3"),
        ({"num_labels": 7}, "at most the 6 rows of the training set. Received 7"),
        ({"num_labels": 0}, "`num_labels` must be a whole number"),
        ({"seed": -1}, "`seed` must be a whole number"),
        ({"protocol": "best"}, "`protocol` must be 'paper' or 'sklearn'. Received 'best'"),
        ({"subset": "last"}, "`subset` must be 'first' or 'random'. Received 'last'"),
    ],
)
def test_what_cannot_be_classified(changes, message):
    usable = {"num_labels": 6}
    for part in ("train", "valid", "test"):
        usable |= {f"features_{part}": np.eye(6, 4), f"y_{part}": np.arange(6) % 2}
    with pytest.raises(tfebm.InvalidInputError, match=message):
        semi_supervised_accuracy(**{**usable, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.ones((6, 4))}, r"`x_train` must be ids .* Received float64"),
        ({"x_valid": np.ones(6, int)}, r"`x_valid` must be ids .* shape \(6,\)"),
        ({"x_test": np.full((6, 4), 5)}, "`x_test` must hold ids from 0 to 4. Received 5 to 5"),
        ({"x_test": np.full((6, 4), -1)}, "from 0 to 4. Received -1 to -1"),
        ({"y_valid": np.zeros(6)}, "`y_valid` must be 6 whole numbers"),
        ({"vocabulary_size": 1}, "`vocabulary_size` must be a whole number of at least 2"),
        ({"num_labels": 7}, "at most the 6 rows"),
    ],
)
def test_words_that_cannot_be_counted(changes, message):
    usable = {"num_labels": 6, "vocabulary_size": 5}
    for part in ("train", "valid", "test"):
        usable |= {f"x_{part}": np.eye(6, 4, dtype=int), f"y_{part}": np.arange(6) % 2}
    with pytest.raises(tfebm.InvalidInputError, match=message):
        bag_of_words_accuracy(**{**usable, **changes})

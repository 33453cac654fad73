"""Features that tell images apart."""

import keras
import numpy as np
import pytest

import tfebm
from tfebm.metrics import classifier_features, frechet_distance, inception_features


def test_features_of_a_classifier_are_repeatable_and_tell_classes_apart():
    rng = np.random.default_rng(0)
    y = rng.integers(3, 5, size=200)
    x = rng.normal(size=(200, 12, 12, 1)) + 3.0 * (y == 4)[:, None, None, None]
    x = np.clip(0.2 * x, -1, 1).astype("float32")
    found = []
    for global_seed in (0, 1):  # of a run, which must not change the features
        keras.utils.set_random_seed(global_seed)
        found.append(classifier_features(x[:150], y[:150], x[150:], y[150:], epochs=2))
    one, two = found
    assert one.test_accuracy == two.test_accuracy > 0.9
    # Labels that training has never seen measure nothing, and no labels do not either.
    assert classifier_features(x[:50], y[:50], x, np.full(200, 7), epochs=1).test_accuracy is None
    assert classifier_features(x[:50], y[:50], x, epochs=1).test_accuracy is None
    features = one.extract(x)
    np.testing.assert_array_equal(features, two.extract(x))
    assert features.shape == (200, 64)
    near = frechet_distance(features[:100], features[100:])
    assert frechet_distance(features[y == 3], features[y == 4]) > 5 * near
    for bad in (np.nan, np.inf):  # which oneDNN's ReLU makes a 0
        lost = x[:8].copy()
        lost[3, 5, 5] = bad
        with pytest.raises(tfebm.InvalidInputError, match="example 3"):
            one.extract(lost)
    with pytest.raises(
        tfebm.InvalidInputError, match=r"\[N, 12, 12, 1\]. Received shape \[200, 12"
    ):
        one.extract(x[:, :, :6])


X, Y = np.zeros((6, 8, 8, 1)), np.arange(6) % 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, np.zeros(6)), "two classes"),
        ((X, Y[:4]), r"`y_train` .* Received shape \[4\] for 6 images"),
        ((X, np.where(Y, np.nan, 0.0)), "NaN among them"),
        ((X[..., 0], Y), r"\[N, H, W, C\]. Received shape \[6, 8, 8\]"),
        ((X + 255, Y), "For 8-bit images"),
        ((X, Y, None, Y), "`y_test` without `x_test`"),
        ((X, Y, X, Y[:2]), r"`y_test` .* Received shape \[2\]"),
        ((X, Y, X[:, :4], Y), r"\[N, 8, 8, 1\]"),
    ],
)
def test_what_no_classifier_learns_from(arguments, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        classifier_features(*arguments)


def test_a_classifier_learns_for_an_epoch_at_least():
    with pytest.raises(tfebm.InvalidInputError, match="`epochs` must be a whole number"):
        classifier_features(X, Y, epochs=0)


class TestInception:
    """Of random weights: none can be downloaded here."""

    @pytest.mark.slow
    def test_weights_from_a_file(self, tmp_path):
        keras.utils.set_random_seed(0)
        network = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
        path = tmp_path / "inception.weights.h5"
        network.save_weights(path)
        extract = inception_features(path)
        images = np.random.default_rng(0).uniform(-1, 1, (3, 299, 299, 3)).astype("float32")
        expected = network.predict(images, verbose=0)
        np.testing.assert_allclose(extract(images), expected, rtol=1e-4, atol=1e-5)
        grey = extract(images[:, :28, :28, :1])
        assert grey.shape == (3, 2048)
        colours = np.repeat(images[:, :28, :28, :1], 3, axis=-1)
        np.testing.assert_allclose(extract(colours), grey, rtol=1e-4, atol=1e-5)
        assert extract(images[:0]).shape == (0, 2048)
        with pytest.raises(tfebm.InvalidInputError, match=r"Received shape \(3, 28, 28, 2\)"):
            extract(images[:, :28, :28, :2])

    def test_files_that_are_none(self, tmp_path):
        with pytest.raises(tfebm.InvalidInputError, match="There is no file"):
            inception_features(tmp_path / "absent.h5")
        path = tmp_path / "text.weights.h5"
        path.write_text("no weights")
        with pytest.raises(tfebm.InvalidInputError, match="cannot be taken"):
            inception_features(path)

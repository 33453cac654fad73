"""One grid, all flows: inverse, Jacobian, bijectors, initialisation, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfebm
from tfebm.flows import splines

FLOWS = {
    "realnvp": lambda **kw: tfebm.RealNVP(4, num_couplings=3, hidden_units=(8,), **kw),
    "spline": lambda **kw: tfebm.SplineFlow(4, 3, num_bins=5, hidden_units=(8,), **kw),
    "glow": lambda **kw: tfebm.Glow((4, 4, 3), levels=2, steps=2, width=6, **kw),
}


def perturbed(name, dtype="float64"):
    """A flow whose weights are anything but the identity's."""
    flow = FLOWS[name](dtype=dtype)
    flow.build()
    rng = np.random.default_rng(0)
    for weight in flow.trainable_variables:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape) / max(weight.shape) ** 0.5)
    return flow


def latents(flow, rows=3, scale=1.0):
    z = scale * np.random.default_rng(1).normal(size=(rows, flow.latent_size))
    return tf.constant(z, flow.compute_dtype)


@pytest.mark.parametrize("name", FLOWS)
class TestEveryFlow:
    def test_the_log_determinant_is_that_of_the_jacobian(self, name):
        flow = perturbed(name)
        x = flow.forward(latents(flow))
        with tf.GradientTape() as tape:
            tape.watch(x)
            z, log_det = flow.inverse_and_log_det(x)
        size = flow.latent_size
        jacobian = tf.reshape(tape.batch_jacobian(z, x), [-1, size, size])
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)
        np.testing.assert_allclose(z, latents(flow), atol=1e-9)

    def test_the_bijector_and_the_distribution_say_the_same(self, name):
        flow = perturbed(name)
        z = latents(flow, 6)
        x = flow.forward(z)
        bijector = flow.bijector()
        assert isinstance(bijector, tfp.bijectors.Bijector)
        shaped = tf.reshape(z, [2, 3, -1])  # samplers have more leading axes than one
        np.testing.assert_allclose(
            bijector.forward(shaped), tf.reshape(x, [2, 3, *flow.event_shape]), atol=1e-12
        )
        np.testing.assert_allclose(flow.distribution().log_prob(x), flow.log_prob(x), atol=1e-9)
        sample = flow.distribution().sample(5, seed=[0, 1])
        assert sample.shape == (5, *flow.event_shape)
        assert bijector.forward_event_shape([flow.latent_size]) == flow.event_shape
        assert bijector.inverse_event_shape(flow.event_shape) == [flow.latent_size]

    def test_a_fresh_bijector_sees_new_weights(self, name):
        flow = perturbed(name)
        z = latents(flow)
        before = flow.bijector().forward(z)
        for weight in flow.trainable_variables:
            weight.assign(weight + 0.1)
        after = flow.bijector().forward(z)
        assert np.abs(after.numpy() - before.numpy()).max() > 1e-3

    def test_initialisation_normalises_what_it_sees(self, name):
        flow = FLOWS[name]()
        flow.build()
        assert not flow.is_initialized
        rng = np.random.default_rng(2)
        x = (5.0 + 3.0 * rng.normal(size=(200, *flow.event_shape))).astype("float32")
        flow.initialize(x)
        assert flow.is_initialized
        z, _ = flow.inverse_and_log_det(tf.constant(x))
        # Couplings start as the identity, so that z is standardised; Glow's is per channel of
        # the squeezed image, which the split leaves in place.
        assert abs(z.numpy().mean()) < 0.01
        assert z.numpy().std() == pytest.approx(1.0, abs=0.01)

    def test_far_inputs_stay_finite_and_invert(self, name):
        flow = perturbed(name, "float32")
        z = latents(flow, 8, scale=10.0 if name == "glow" else 30.0)
        x = flow.forward(z)
        back, log_det = flow.inverse_and_log_det(x)
        assert np.isfinite(x).all()
        assert np.isfinite(log_det).all()
        error = np.abs(back.numpy() - z.numpy()).max()
        assert error < 1e-4 * np.abs(x.numpy()).max()

    def test_it_goes_through_a_config_and_a_file(self, name, tmp_path):
        model = tfebm.FlowModel(perturbed(name, "float32"))
        x = model.flow.forward(latents(model.flow)).numpy()
        model.save(tmp_path / "flow.keras")
        loaded = keras.saving.load_model(tmp_path / "flow.keras")
        np.testing.assert_array_equal(loaded.log_prob(x), model.log_prob(x))
        assert loaded.flow.get_config() == model.flow.get_config()

    def test_it_must_have_seen_data(self, name):
        flow = FLOWS[name]()
        flow.build()
        with pytest.raises(tfebm.InvalidInputError, match="has not been trained"):
            flow.check_inverse(np.zeros((2, *flow.event_shape)))

    def test_one_that_does_not_invert_is_named(self, name):
        flow = perturbed(name, "float32")
        x = flow.forward(latents(flow)).numpy()
        flow.initialized.assign(1)
        assert flow.check_inverse(x) < 1e-4
        flow.trainable_variables[0].assign(flow.trainable_variables[0] * np.nan)
        with pytest.raises(tfebm.InvalidInputError, match=f"'{flow.name}' does not invert"):
            flow.check_inverse(x)


def test_the_spline_is_tfps():
    rng = np.random.default_rng(0)

    def bins():
        raw = np.exp(rng.normal(size=(200, 2, 7)))
        return tf.constant(6.0 * raw / raw.sum(axis=-1, keepdims=True))

    widths, heights = bins(), bins()
    slopes = tf.constant(np.exp(rng.normal(size=(200, 2, 6))))
    x = tf.constant(2.0 * rng.normal(size=(200, 2)))  # some outside of [-3, 3]
    theirs = tfp.bijectors.RationalQuadraticSpline(widths, heights, slopes, range_min=-3.0)
    y = splines.spline(x, widths, heights, slopes)
    np.testing.assert_allclose(y, theirs.forward(x), atol=1e-12)
    back, log_slope = splines.spline_inverse(y, widths, heights, slopes)
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(
        log_slope, theirs.inverse_log_det_jacobian(tf.identity(y), 0), atol=1e-9
    )


@pytest.mark.parametrize("size", [1, 3, 0, 2.5])
@pytest.mark.parametrize("flow", [tfebm.RealNVP, tfebm.SplineFlow])
def test_sizes_that_have_no_halves(flow, size):
    with pytest.raises(tfebm.InvalidInputError, match="even and at least 2"):
        flow(size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfebm.Glow((28, 28, 1), levels=3), r"2\*\*levels = 8.*Pad the images"),
        (lambda: tfebm.Glow((8, 8), levels=1), "height, width, channels"),
        (lambda: tfebm.Glow((8, 8, 1), levels=0), "`levels`"),
        (lambda: tfebm.RealNVP(2, num_couplings=1), "at least 2"),
        (lambda: tfebm.RealNVP(2, log_scale_bound=0.0), "log_scale_bound"),
        (lambda: tfebm.SplineFlow(2, num_bins=1), "num_bins"),
    ],
)
def test_arguments_that_cannot_be_used(make, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        make()

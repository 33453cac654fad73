import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import small_model, vectors, weights_of

import tfebm
from tfebm import random

X = vectors(20)


def compiled(**kwargs):
    model = small_model(**kwargs)
    model.compile(keras.optimizers.Adam(1e-2), keras.optimizers.Adam(1e-2))
    return model


class TestFit:
    def test_optimizer_is_the_generators_so_that_rate_callbacks_work(self):
        model = compiled()
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1))
        plateau = keras.callbacks.ReduceLROnPlateau("generator_loss", mode="min")
        model.fit(X, epochs=2, verbose=0, callbacks=[schedule, plateau])
        assert float(model.optimizer.learning_rate) == 0.25
        assert float(model.energy_optimizer.learning_rate) == pytest.approx(1e-2)

    def test_layers_know_when_they_are_trained(self):
        generator = keras.Sequential(
            [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dense(6)]
        )
        model = tfebm.LatentEBM(generator, tfebm.EnergyMLP((4,)), latent_size=3)
        model.compile()
        moving = generator.layers[1].moving_variance
        model.evaluate(X, verbose=0)
        np.testing.assert_array_equal(moving, np.ones(8))
        model.fit(X, verbose=0)
        assert np.all(moving.numpy() != 1)

    def test_squared_energies_bound_what_the_energy_learns(self):
        """Chains that can never meet: z+ is at 1 and z- at -1, and E is linear."""
        model = tfebm.LatentEBM(
            keras.layers.Dense(6),
            keras.layers.Dense(1, kernel_initializer="zeros"),
            latent_size=1,
            prior_sampler=tfebm.ShortRunLangevin(0, 0.1),
            posterior_sampler=tfebm.ShortRunLangevin(0, 0.1),
            energy_l2=0.25,
        )
        model.inference._learning_chain = lambda batch: (tf.zeros([20, 1]), tf.fill([20, 1], 1.0))
        model.prior._chain = lambda seeds: (tf.zeros([20, 1]), tf.fill([20, 1], -1.0))
        model.compile(keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.5))
        logs = model.fit(X, batch_size=20, epochs=40, verbose=0).history
        # No further than 1 / (2 alpha) from 0, and there: p+ and p- have nothing in common.
        assert logs["energy_posterior"][-1] == pytest.approx(-2.0, abs=1e-3)
        assert logs["energy_prior"][-1] == pytest.approx(2.0, abs=1e-3)
        # Of E alone, not of its loss, per row.
        assert logs["energy_grad_norm"][-1] == pytest.approx(2.0, abs=1e-3)

    def test_squared_energies_are_saved_and_checked(self):
        config = small_model(energy_l2=0.5).get_config()
        assert tfebm.LatentEBM.from_config(config).energy_l2 == 0.5
        with pytest.raises(tfebm.InvalidInputError, match="`energy_l2` must be a number"):
            small_model(energy_l2=-1.0)
        with pytest.raises(tfebm.InvalidInputError, match=r"Received '0.1'\."):
            small_model(energy_l2="0.1")

    def test_a_constant_energy_trains_the_generator(self):
        model = tfebm.LatentEBM(
            keras.layers.Dense(6), keras.layers.Lambda(lambda z: 0 * z[:, 0]), latent_size=3
        )
        model.compile()
        assert model.fit(X, verbose=0).history["energy_gap"] == [0.0]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (X[:, :4], r"shape \[N, 6\].*Received shape \[20, 4\]"),
            (X.astype(np.uint8), "must be floats. Received uint8"),
            (np.where(np.arange(6) == 3, np.nan, X).astype("float32"), "NaN.*example 0"),
            (X[:0], "no examples"),
            (tf.data.Dataset.from_tensors(X[:, :4]), r"shape \[N, 6\]"),
            (tf.data.Dataset.from_tensors(X.astype(np.int64)), "floats"),
            (tf.data.Dataset.from_tensors({"x": X}), "Received a dict"),
            (tf.data.Dataset.from_tensor_slices(X), r"Add the batch axis"),
        ],
    )
    def test_data_that_cannot_be_used(self, data, message):
        model = compiled()
        with pytest.raises(tfebm.InvalidInputError, match=message):
            model.fit(data, verbose=0)
        with pytest.raises(tfebm.InvalidInputError, match=message):
            model.fit(X, validation_data=data, verbose=0)
        with pytest.raises(tfebm.InvalidInputError, match=message):
            model.evaluate(data, verbose=0)
        assert int(model.step.numpy()) == 0

    def test_the_range_of_images_is_the_generators(self):
        model = tfebm.LatentEBM(
            tfebm.DeconvGenerator((28, 28, 1), 2), tfebm.EnergyMLP((4,)), latent_size=2
        )
        model.compile()
        with pytest.raises(tfebm.InvalidInputError, match=r"within \[-1, 1\].*0 to 255"):
            model.fit(np.linspace(0, 255, 784, dtype="float32").reshape(1, 28, 28, 1))
        with pytest.raises(tfebm.InvalidInputError, match="Add the channel axis"):
            model.fit(np.zeros((2, 28, 28), "float32"))

    def test_chains_are_traced_once_over_epochs_with_partial_batches(self):
        model = compiled(jit=True)
        model.fit(X, batch_size=8, epochs=3, verbose=0)
        assert model.prior_sampler.num_traces == 1
        assert model.posterior_sampler.num_traces == 1

    def test_steps_per_execution_and_eager_give_the_same_weights(self):
        def train(**kwargs):
            keras.utils.set_random_seed(0)
            model = small_model()
            model.compile(keras.optimizers.SGD(1e-2), keras.optimizers.SGD(1e-2), **kwargs)
            model.fit(X, batch_size=5, epochs=2, verbose=0, shuffle=False)
            return weights_of(model)

        plain = train()
        for kwargs in ({"steps_per_execution": 2}, {"run_eagerly": True}):
            for name, value in train(**kwargs).items():
                np.testing.assert_allclose(value, plain[name], atol=1e-5, err_msg=str(kwargs))

    def test_a_frozen_generator_still_draws_fresh_noise(self):
        model = small_model()
        model.generator.trainable = False
        model.compile(energy_optimizer=keras.optimizers.SGD(0.0))
        history = model.fit(X, epochs=3, batch_size=20, verbose=0).history
        assert len(set(history["displacement_prior"])) == 3

    def test_several_chains_per_example_average(self):
        model = compiled(num_chains=4)
        model.fit(X, verbose=0)
        assert model.metrics[0].count == 80

    def test_scale_by_sigma_scales_the_generators_loss(self):
        losses = []
        for scale_by_sigma in (False, True):
            keras.utils.set_random_seed(0)
            model = compiled(scale_by_sigma=scale_by_sigma)
            losses.append(model.evaluate(X, return_dict=True, verbose=0))
        scale = 1 / (2 * 0.3**2)
        assert losses[1]["generator_loss"] == pytest.approx(losses[0]["generator_loss"] * scale)
        for name in ("likelihood_grad_norm", "reconstruction_mse"):
            assert losses[1][name] == pytest.approx(losses[0][name], rel=1e-5)

    def test_metrics_are_what_their_names_say(self):
        model = compiled()
        logs = model.evaluate(X, return_dict=True, verbose=0)
        x = tf.constant(X)
        seeds = random.content_seeds(0, x)
        z, z_prior = model.sample_posterior(x, seeds), model.sample_prior(seeds)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(z)
            log_likelihood = model.likelihood.log_prob(model.decode(z), x)
            tilt = model.tilt(z)
        expected = {
            "loss": np.sum((X - model.decode(z)) ** 2, axis=1),
            "generator_loss": np.sum((X - model.decode(z)) ** 2, axis=1),
            "reconstruction_mse": np.mean((X - model.decode(z)) ** 2, axis=1),
            "energy_posterior": tilt,
            "energy_prior": model.tilt(z_prior),
            "energy_gap": tilt - model.tilt(z_prior),
            "likelihood_grad_norm": tf.norm(tape.gradient(log_likelihood, z), axis=1),
            "energy_grad_norm": tf.norm(tape.gradient(tilt, z), axis=1),
            "displacement_posterior": tf.norm(z - model.inference.first.draw(x, seeds)[0], axis=1),
            "displacement_prior": tf.norm(
                z_prior - model.prior.start(seeds, random.PRIOR)[0], axis=1
            ),
        }
        assert set(logs) == set(expected)
        for name, values in expected.items():
            assert logs[name] == pytest.approx(np.mean(values), rel=1e-4, abs=1e-6), name


class TestInference:
    def test_shapes(self):
        model = small_model()
        assert model.generate(3).shape == (3, 6)
        assert model.infer(X).shape == (20, 3)
        assert model.infer(X, num_chains=5).shape == (20, 5, 3)
        assert model.reconstruct(X).shape == X.shape
        assert model.score(X).shape == (20,)
        assert model.interpolate(X[:4], X[4:8], num_steps=5).shape == (4, 5, 6)
        assert model.score(X[:0]).shape == (0,)

    def test_an_example_that_is_not_finite_spoils_no_other(self):
        model = small_model()
        scores = model.score(X, num_chains=3)
        spoilt = X.copy()
        spoilt[3, 2] = np.nan
        with_nan = model.score(spoilt, num_chains=3)
        assert np.isnan(with_nan[3])
        np.testing.assert_allclose(np.delete(with_nan, 3), np.delete(scores, 3), rtol=1e-5)

    def test_a_sampler_that_is_replaced_takes_effect(self):
        model = small_model()
        scores = model.score(X)
        model.posterior_sampler = tfebm.ShortRunLangevin(9, 0.2, jit_compile=False)
        replaced = model.score(X)
        assert np.all(replaced != scores)
        model.posterior_sampler.num_steps = 3
        assert np.all(model.score(X) != replaced)

    def test_score_is_the_mean_posterior_energy(self):
        model = small_model()
        z = model.infer(X, num_chains=2)
        energies = [model.posterior_energy(tf.constant(z[:, m]), X) for m in range(2)]
        np.testing.assert_allclose(model.score(X, num_chains=2), np.mean(energies, 0), rtol=1e-5)

    def test_posterior_energy_is_the_formula(self):
        model = small_model(prior_scale=2.0)
        z = vectors(20, 3, seed=1)
        expected = (
            np.sum((X - model.decode(z)) ** 2, 1) / (2 * 0.3**2)
            + model.tilt(tf.constant(z))
            + np.sum(z**2, 1) / (2 * 2.0**2)
        )
        np.testing.assert_allclose(model.posterior_energy(tf.constant(z), X), expected, rtol=1e-5)

    def test_compiled_chains_agree_with_plain_ones(self):
        model = small_model(jit=True)
        seeds = random.as_row_seeds(0, 20)
        for args, method in (((), "sample_prior"), ((tf.constant(X),), "sample_posterior")):
            draw = getattr(model, method)
            plain = draw(*args, seeds, compiled=False)
            np.testing.assert_allclose(draw(*args, seeds), plain, atol=1e-5)

    @pytest.mark.parametrize("spherical", [False, True])
    def test_interpolation_starts_and_ends_at_the_reconstructions(self, spherical):
        model = small_model()
        path = model.interpolate(X[:3], X[3:6], num_steps=4, spherical=spherical)
        np.testing.assert_allclose(path[:, 0], model.reconstruct(X[:3]), atol=1e-5)
        np.testing.assert_allclose(path[:, -1], model.reconstruct(X[3:6]), atol=1e-5)

    def test_anomalies_score_higher_after_training(self):
        model = compiled(steps=40)
        line = np.outer(np.linspace(-1, 1, 200), np.ones(6)).astype("float32")
        model.fit(line, batch_size=20, epochs=30, verbose=0)
        off_line = line * np.array([1, -1, 1, -1, 1, -1], np.float32)
        far = np.abs(line[:, 0]) > 0.5
        assert model.score(off_line[far]).min() > model.score(line[far]).max()

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda m: m.generate(0), "num_samples"),
            (lambda m: m.score(X, num_chains=0), "num_chains"),
            (lambda m: m.score(X[:, :3]), r"Received shape \[20, 3\]"),
            (lambda m: m.infer(X.astype(int)), "must be floats"),
            (lambda m: m.predict(X[:, :3]), r"Received shape \[20, 3\]"),
            (lambda m: m.score(tf.data.Dataset.from_tensors(X)), "Received a tf.data.Dataset"),
            (lambda m: m.score(X, seed=np.zeros((3, 2), np.int32)), "3 for 20 rows"),
            (lambda m: m.generate(4, seed=np.zeros((3, 2), np.int32)), "3 for 4 rows"),
            (lambda m: m.interpolate(X[:2], X[:3]), "pairs"),
            (lambda m: m.interpolate(X[:2], X[:2], num_steps=1), "num_steps"),
        ],
    )
    def test_calls_that_cannot_be_answered(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(small_model())

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import vectors, weights_of
from scipy import stats
from zoo import TwoLayers, linear_encoder

import tfebm
from tfebm import random
from tfebm.generators import MultilayerGenerator
from tfebm.models.gaussians import merge, unit_kl

X = vectors(20)


def small_vae(kind="plain", **kwargs):
    if kind == "plain":
        generator = keras.Sequential(
            [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(6)]
        )
        return tfebm.VAE(generator, linear_encoder(3), latent_size=3, **kwargs)
    return tfebm.VAE(TwoLayers(), linear_encoder(2, 3), inference=kind, **kwargs)


def compiled(optimizer=lambda: keras.optimizers.Adam(1e-2), kind="plain", **kwargs):
    model = small_vae(kind, **kwargs)
    model.compile(optimizer(), optimizer())
    return model


def moments(seed, num_rows=5, size=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, num_rows, size)).astype("float32")


class TestFormulas:
    def test_kl_is_the_closed_form(self):
        mean, log_variance = moments(0)
        tfd = tfp.distributions
        q = tfd.MultivariateNormalDiag(mean, np.exp(log_variance / 2))
        expected = tfd.kl_divergence(q, tfd.MultivariateNormalDiag(np.zeros_like(mean)))
        np.testing.assert_allclose(np.sum(unit_kl(mean, log_variance), -1), expected, rtol=1e-5)

    def test_merge_is_the_product_of_densities_in_whitened_coordinates(self):
        (mean, log_variance), (m, v) = moments(0), moments(1)
        precision = np.exp(-log_variance) + np.exp(-v)
        product_mean = (mean * np.exp(-log_variance) + m * np.exp(-v)) / precision
        a, log_s = merge(mean, log_variance, m, v)
        np.testing.assert_allclose(m + np.exp(v / 2) * a, product_mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.exp(v + log_s), 1 / precision, rtol=1e-5)
        tfd = tfp.distributions
        expected = tfd.kl_divergence(
            tfd.MultivariateNormalDiag(product_mean, precision**-0.5),
            tfd.MultivariateNormalDiag(m, np.exp(v / 2)),
        )
        np.testing.assert_allclose(np.sum(unit_kl(a, log_s), -1), expected, rtol=1e-4)

    def test_merge_with_precisions_of_very_different_size(self):
        for log_variance, v in ((-90.0, 2.0), (5.0, -90.0)):
            a, log_s = merge(*(tf.constant([[n]]) for n in (1.0, log_variance, 1.0, v)))
            np.testing.assert_array_equal(a, [[0.0]])
            np.testing.assert_allclose(log_s, [[min(log_variance - v, 0.0)]], atol=1e-6)


def orthogonal(rows, columns, scale, seed=0):
    return scale * np.linalg.qr(np.random.default_rng(seed).normal(size=(rows, columns)))[0]


def repeated_scores(model, x, times=8, num_chains=200):
    """Means over independent estimates, and their standard errors."""
    scores = np.stack([model.score(x, seed=s, num_chains=num_chains) for s in range(times)])
    return scores.mean(0), scores.std(0, ddof=1) / np.sqrt(times)


class TestLinearGaussian:
    """x = W u + sigma e with orthogonal columns: the posterior is diagonal, all is known."""

    SIGMA = 0.5
    W = orthogonal(6, 3, [2.0, 1.0, 0.5])

    def model(self, shift=0.0, log_factor=0.0):
        """q is the posterior, its mean moved by `shift`, its variances times exp(log_factor)."""
        generator = keras.layers.Dense(6, use_bias=False)
        model = tfebm.VAE(
            generator, linear_encoder(3), 3, likelihood=tfebm.GaussianLikelihood(self.SIGMA)
        )
        generator.set_weights([self.W.T])
        precision = 1 + (self.W**2).sum(0) / self.SIGMA**2
        to_mean = self.W / self.SIGMA**2 / precision
        bias = np.concatenate([np.full(3, shift), log_factor - np.log(precision)])
        model.encoder.set_weights([np.concatenate([to_mean, 0 * to_mean], axis=1), bias])
        return model, precision

    def surprise(self):
        covariance = self.W @ self.W.T + self.SIGMA**2 * np.eye(6)
        return -stats.multivariate_normal(np.zeros(6), covariance).logpdf(X)

    def test_the_bound_is_the_evidence_for_the_exact_posterior(self):
        model, _ = self.model()
        mean, error = repeated_scores(model, X)
        np.testing.assert_array_less(np.abs(mean - self.surprise()), 6 * error + 1e-3)

    def test_the_bound_is_below_the_evidence_by_the_divergence_from_the_posterior(self):
        model, precision = self.model(shift=0.3, log_factor=0.7)
        gap = 0.5 * np.sum(np.exp(0.7) - 1 - 0.7 + 0.3**2 * precision)
        mean, error = repeated_scores(model, X)
        np.testing.assert_array_less(np.abs(mean - self.surprise() - gap), 6 * error + 1e-3)
        model.compile()
        # The metric has the same constants, and one draw for each example.
        elbo = model.evaluate(X, verbose=0, return_dict=True)["elbo"]
        assert elbo == pytest.approx(-model.score(X).mean(), rel=1e-5)

    def test_a_ladder_with_the_exact_messages_gives_the_evidence(self):
        sigma, b, v = 0.5, 2.0, -0.7
        middle, last = orthogonal(3, 2, [1.5, 0.6]), orthogonal(6, 3, b)
        model = tfebm.VAE(
            TwoLayers(),
            linear_encoder(2, 3),
            likelihood=tfebm.GaussianLikelihood(sigma),
            inference="ladder",
        )
        model.generator.set_weights([np.full(3, v), middle.T, last.T])
        # The likelihood of z_2 is N(B'x / b^2, sigma^2 / b^2), that of z_1 adds the prior's noise.
        to_z2, variance = last / b**2, sigma**2 / b**2
        noise = variance + np.exp(v)
        precision = 1 + (middle**2).sum(0) / noise
        to_z1 = to_z2 @ middle / noise / precision
        model.encoder.set_weights(
            [
                np.concatenate([to_z1, 0 * to_z1], axis=1),
                np.concatenate([np.zeros(2), -np.log(precision)]),
                np.concatenate([to_z2, 0 * to_z2], axis=1),
                np.concatenate([np.zeros(3), np.full(3, np.log(variance))]),
            ]
        )
        of_z2 = middle @ middle.T + np.exp(v) * np.eye(3)
        covariance = last @ of_z2 @ last.T + sigma**2 * np.eye(6)
        expected = -stats.multivariate_normal(np.zeros(6), covariance).logpdf(X)
        mean, error = repeated_scores(model, X)
        np.testing.assert_array_less(np.abs(mean - expected), 6 * error + 1e-3)


class TestFit:
    @pytest.mark.parametrize("kind", ["mean_field", "ladder"])
    def test_both_networks_learn(self, kind):
        model = compiled(kind=kind)
        before = weights_of(model)
        history = model.fit(X, batch_size=5, epochs=15, verbose=0).history
        after = weights_of(model)
        for network in (model.generator, model.encoder):
            for variable in network.trainable_variables:
                name = next(n for n, v in zip(after, model.weights, strict=True) if v is variable)
                assert np.any(after[name] != before[name]), name
        assert history["elbo"][-1] > history["elbo"][0] + 3
        assert history["generator_loss"][-1] < history["generator_loss"][0]
        seen = model.evaluate(X, verbose=0, return_dict=True)
        again = model.evaluate(X[::-1], batch_size=7, verbose=0, return_dict=True)
        assert again == pytest.approx(seen, rel=1e-4)
        assert seen["kl_layer_0"] + seen["kl_layer_1"] == pytest.approx(seen["kl"], rel=1e-5)

    def test_images_and_the_default_encoder(self):
        generator = MultilayerGenerator((12, 12, 1), (2, 3), width=2)
        model = tfebm.VAE(generator, inference="ladder")
        model.compile()
        images = np.tanh(vectors(4, 144)).reshape(4, 12, 12, 1)
        model.fit(images, batch_size=2, verbose=0)
        u = model.infer(images)
        # What `infer` returns are the latents of the reconstruction, as the generator takes them.
        np.testing.assert_allclose(model.decode_latents(u), model.reconstruct(images), atol=1e-5)
        assert [part.shape for part in model.infer(images, num_chains=5)] == [(4, 5, 2), (4, 5, 3)]
        assert model.generate(3).shape == (3, 12, 12, 1)

    def test_logits_of_images(self):
        generator = tfebm.DeconvGenerator((28, 28, 1), 1, output_activation=None)
        encoder = tfebm.ConvEncoder((28, 28, 1), 2, width=2, hidden=4)
        model = tfebm.VAE(generator, encoder, 2, tfebm.BernoulliLikelihood())
        model.compile()
        images = np.sign(vectors(4, 784)).reshape(4, 28, 28, 1)
        seen = model.evaluate(images, verbose=0, return_dict=True)
        assert seen["elbo"] == pytest.approx(-seen["generator_loss"] - seen["kl"], rel=1e-5)

    def test_warm_up(self):
        # The generator ignores its latents: the encoder's gradients are those of beta * KL.
        generator = keras.layers.Dense(6, kernel_initializer="zeros")
        model = tfebm.VAE(generator, linear_encoder(3), 3, kl_warmup_steps=4)
        seeds = random.as_row_seeds(0, len(X))

        def encoder_gradients(step, training=True):
            model.step.assign(step)
            return np.concatenate(
                [np.ravel(g) for g in model.learn(tf.constant(X), seeds, training)[0]["encoder"]]
            )

        np.testing.assert_array_equal(encoder_gradients(0), 0.0)
        whole = encoder_gradients(4)
        assert np.abs(whole).max() > 0.1
        np.testing.assert_allclose(encoder_gradients(1), whole / 4, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(encoder_gradients(400), whole)
        np.testing.assert_array_equal(encoder_gradients(0, training=False), whole)

    def test_warm_up_in_a_graph_follows_the_step(self):
        model = compiled(kl_warmup_steps=2)
        assert "kl_layer_0" not in model.fit(X, batch_size=5, verbose=0).history
        assert float(model.inference.kl_weight(model.step)) == 1.0
        assert float(small_vae(kl_warmup_steps=2).inference.kl_weight(0)) == 0.0


class TestInference:
    def test_posterior_and_prior_have_noises_of_their_own(self):
        model = small_vae("mean_field")
        model.encoder.set_weights([0 * w for w in model.encoder.get_weights()])  # q = N(0, I)
        seeds = random.as_row_seeds(0, len(X))
        prior = model.sample_prior(seeds)
        posterior, _, divergences = model.inference.draw(tf.constant(X), seeds)
        assert all(not np.any(units) for units in divergences)
        for one, other in zip(prior, posterior, strict=True):
            assert np.abs(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]) < 0.4
        assert np.abs(prior[0][:, :2] - prior[1][:, :2]).min() > 1e-4


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: small_vae(inference="flow"), "'mean_field' or 'ladder'. Received 'flow'"),
            (lambda: small_vae(inference="ladder"), "Sequential has no method `descend`"),
            (lambda: small_vae(kl_warmup_steps=-1), "at least 0. Received -1"),
            (lambda: tfebm.VAE(TwoLayers()), r"Give an `encoder`.*Dense\(10\)"),
            (
                lambda: tfebm.VAE(TwoLayers(), linear_encoder(3, 2)),
                r"\[B, 4\] and \[B, 6\], the top first. Received \[B, 6\] and \[B, 4\]",
            ),
            (
                lambda: tfebm.VAE(TwoLayers(), keras.layers.Dense(10)),
                r"\[B, 4\] and \[B, 6\].*Received \[B, 10\]",
            ),
            (
                lambda: tfebm.VAE(keras.layers.Dense(6), linear_encoder(3, num_features=5), 3),
                r"does not take examples of shape \[B, 6\]",
            ),
            (
                lambda: tfebm.VAE(keras.layers.Dense(6), keras.layers.Dense(3), 3),
                r"\[B, 6\]. Received \[B, 3\]",
            ),
            (
                lambda: tfebm.VAE(
                    keras.layers.Dense(6), keras.layers.Dense(6, dtype="mixed_float16"), 3
                ),
                "encoder's layer.*float16",
            ),
        ],
    )
    def test_what_does_not_fit(self, make, message):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            make()

    def test_one_optimizer_for_two_networks(self):
        adam = keras.optimizers.Adam()
        with pytest.raises(ValueError, match="`optimizer` and `encoder_optimizer` are one object"):
            small_vae().compile(adam, adam)

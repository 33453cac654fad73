import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import vectors
from scipy import stats

import tfebm
from tfebm import random

X = vectors(20)
SIZES = (2, 3)


@keras.saving.register_keras_serializable(package="tests")
class TopDownNetwork(keras.layers.Layer):
    """A user's own top-down network: a tuple of latents to vectors."""

    def __init__(self, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.top, self.out = keras.layers.Dense(3), keras.layers.Dense(6)
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, latents):
        top, bottom = latents
        h = keras.ops.tanh(self.top(top)) + bottom
        return self.out(self.dropout(h, training=True if self.dropout.rate else None))


def two_layer_model(steps=4, step_size=0.1, kind="short_run", **kwargs):
    sampler = tfebm.ShortRunLangevin(steps, step_size, jit_compile=False)
    if kind == "latent_ebm":
        kwargs["energy"] = tfebm.EnergyMLP((4,))
        kwargs["prior_sampler"] = tfebm.ShortRunLangevin(3, 0.2, jit_compile=False)
        return tfebm.LatentEBM(
            TopDownNetwork(), latent_size=SIZES, posterior_sampler=sampler, **kwargs
        )
    generator = kwargs.pop("generator", None) or TopDownNetwork()
    return tfebm.ShortRunModel(generator, SIZES, sampler, **kwargs)


def close(one, other):
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class TestTuples:
    def test_the_interface(self):
        model = two_layer_model()
        z = model.infer(X)
        assert [part.shape for part in z] == [(20, 2), (20, 3)]
        assert [part.shape for part in model.infer(X[:4], num_chains=5)] == [(4, 5, 2), (4, 5, 3)]
        close(model.reconstruct(X), model.decode_latents(z))
        assert model.generate(7).shape == (7, 6)

    def test_the_posterior_chain_is_the_samplers_on_the_posterior_energy(self):
        model = two_layer_model()
        seeds = random.as_row_seeds(3, 20)
        start, streams = model.inference.first.draw(tf.constant(X), seeds)
        expected = tfebm.ShortRunLangevin(4, 0.1)(
            model.posterior_energy, start, tf.constant(X), seed=streams
        )
        close(model.sample_posterior(tf.constant(X), seeds), expected)
        energy = np.sum((X - model.decode(expected)) ** 2, 1) / (2 * 0.3**2)
        energy += sum(np.sum(part.numpy() ** 2, 1) for part in expected) / 2
        np.testing.assert_allclose(model.posterior_energy(expected, X), energy, rtol=1e-5)
        # Layers start from noises of their own.
        assert np.abs(np.corrcoef(start[0].numpy()[:, 0], start[1].numpy()[:, 0])[0, 1]) < 0.9

    def test_interpolation_of_one_layer_holds_the_others(self):
        model = two_layer_model()
        a, b = X[:3], X[3:6]
        (top_a, low_a), (top_b, low_b) = model.infer(a), model.infer(b)
        paths = model.interpolate(a, b, num_steps=4, layers=[0])
        close(paths[:, 0], model.decode_latents((top_a, low_a)))
        close(paths[:, -1], model.decode_latents((top_b, low_a)))
        close(model.interpolate(a, b, num_steps=2)[:, 1], model.decode_latents((top_b, low_b)))
        with pytest.raises(tfebm.InvalidInputError, match="layers from 0 to 1"):
            model.interpolate(a, b, layers=[2])

    def test_structures_that_do_not_match_are_both_printed(self):
        generator = tfebm.MultilayerGenerator((28, 28, 1), (2, 3), 4, upsamplings=2)
        with pytest.raises(
            tfebm.InvalidInputError, match=r"\(2, 3\), but `latent_size` is \(2, 4\)"
        ):
            tfebm.ShortRunModel(generator, (2, 4))
        with pytest.raises(tfebm.InvalidInputError, match=r"\(2, 3\), but `latent_size` is 5"):
            tfebm.ShortRunModel(generator, 5)
        model = two_layer_model()
        message = r"\[N, 2\], \[N, 3\]. Received \(4, 2\), \(4, 2\)"
        with pytest.raises(tfebm.InvalidInputError, match=message):
            model.decode_latents((np.zeros((4, 2)), np.zeros((4, 2))))
        with pytest.raises(tfebm.InvalidInputError, match=r"Received \(4, 5\)"):
            model.decode_latents(np.zeros((4, 5)))
        energy = tfebm.EnergyMLP((4,))
        energy.build((None, 4))
        with pytest.raises(tfebm.InvalidInputError, match=r"built for latents of size 4.*5 in all"):
            tfebm.LatentEBM(TopDownNetwork(), energy, SIZES)
        with pytest.raises(tfebm.InvalidInputError, match="takes a tuple of latents"):
            tfebm.FlowEBM(generator, tfebm.EnergyMLP((4,)))


class TestLearning:
    def test_fit_lowers_the_error(self):
        model = two_layer_model(steps=8)
        model.compile(keras.optimizers.Adam(0.03))
        history = model.fit(X, batch_size=8, epochs=12, verbose=0).history
        assert history["generator_loss"][-1] < 0.8 * history["generator_loss"][0]
        assert model.posterior_sampler.num_traces <= 2

    def test_an_energy_that_is_zero_makes_the_latent_ebm_a_short_run_model(self):
        plain, tilted = two_layer_model(), two_layer_model(kind="latent_ebm")
        tilted.generator.set_weights(plain.generator.get_weights())
        for weight in tilted.energy.weights:
            weight.assign(tf.zeros_like(weight))
        close(plain.infer(X), tilted.infer(X))
        close(plain.score(X), tilted.score(X))
        for each in (plain, tilted):
            each.compile(keras.optimizers.SGD(0.01))
            each.fit(X, batch_size=8, epochs=2, verbose=0, shuffle=False)
        for a, b in zip(plain.generator.weights, tilted.generator.weights, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


class TestStepSizes:
    def test_the_weight_is_what_the_chain_runs_with(self):
        model, other = two_layer_model(step_size=0.1), two_layer_model(step_size=[[0.2, 0.05]])
        other.generator.set_weights(model.generator.get_weights())
        assert np.abs(model.infer(X)[0] - other.infer(X)[0]).max() > 0.01
        traces = model.posterior_sampler.num_traces
        model.posterior_step_size.assign([[0.2, 0.05]] * 4)
        close(model.infer(X), other.infer(X))
        assert model.posterior_sampler.num_traces == traces

    def test_a_sampler_that_is_set_later_has_its_own(self):
        model = two_layer_model()
        model.posterior_step_size.assign(tf.fill([4, 2], 0.3))
        tuned = model.infer(X)
        model.posterior_sampler = tfebm.ShortRunLangevin(9, 0.1)
        assert model.inference.current_settings() == {}
        assert np.abs(model.infer(X)[0] - tuned[0]).max() > 0.01
        with pytest.raises(tfebm.InvalidInputError, match="replaced"):
            model.tune_step_size(X)
        model.posterior_sampler = tfebm.ShortRunLangevin(4, 0.1, jit_compile=False)
        close(model.infer(X), tuned)

    @pytest.mark.parametrize("other", [(9, 0.1), (4, 0.02)], ids=["longer", "as long"])
    def test_saving_keeps_a_sampler_that_was_set_and_the_weight(self, other, tmp_path):
        model = two_layer_model()
        model.posterior_step_size.assign(tf.fill([4, 2], 0.3))
        tuned = model.infer(X)
        model.posterior_sampler = tfebm.ShortRunLangevin(*other)
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        close(again.infer(X), model.infer(X))
        again.posterior_sampler = tfebm.ShortRunLangevin(4, 0.1)
        close(again.infer(X), tuned)

    def test_a_likelihood_that_is_set_later_acts_at_once(self):
        model = two_layer_model()
        before = model.infer(X)[0], model.evidence_bound(X).elbo
        model.likelihood = tfebm.GaussianLikelihood(1.0)
        other = two_layer_model(likelihood=tfebm.GaussianLikelihood(1.0))
        other.generator.set_weights(model.generator.get_weights())
        close(model.infer(X), other.infer(X))
        np.testing.assert_allclose(model.evidence_bound(X).elbo, other.evidence_bound(X).elbo)
        assert np.abs(model.infer(X)[0] - before[0]).max() > 0.01

    def test_a_sampler_with_rejections_has_no_weight_and_no_determinant(self):
        sampler = tfebm.HMC(2, 0.1, jit_compile=False)
        model = tfebm.ShortRunModel(TopDownNetwork(), SIZES, sampler)
        assert model.infer(X)[0].shape == (20, 2)
        assert model.posterior_step_size is None
        with pytest.raises(tfebm.InvalidInputError, match="may reject"):
            model.evidence_bound(X)
        with pytest.raises(tfebm.InvalidInputError, match="may reject"):
            model.tune_step_size(X)

    def test_tuning_sets_them_and_lowers_its_criterion(self):
        model = two_layer_model(step_size=0.001)
        found = model.tune_step_size(X[:6], criterion="ksd", report="all", per_part=True)
        np.testing.assert_allclose(model.posterior_step_size, found.table, rtol=1e-6)
        best = found.candidates[found.chosen]
        assert best.ksd == min(c.ksd for c in found.candidates)
        assert best.entropy is not None
        assert best.table.max() > 0.01
        before = model.posterior_step_size.numpy()
        model.tune_step_size(X[:6], apply=False, values=[0.02, 0.03])
        np.testing.assert_array_equal(model.posterior_step_size, before)

    def test_a_step_size_past_the_limit_of_stability(self):
        model = two_layer_model(step_size=5.0)
        with pytest.raises(tfebm.InvalidInputError, match=r"5 is not stable.*limit.*curvature"):
            model.check_stability(X)
        assert two_layer_model(step_size=0.01).check_stability(X) > 1.0


class TestEvidence:
    """x = W z + sigma e: the evidence is known."""

    W = np.array([[1.5, 0.0], [0.0, 1.0], [0.5, -0.5], [-1.0, 0.5]], np.float32)
    SIGMA = 0.5

    def model(self, step_size, steps=25):
        generator = keras.layers.Dense(4, use_bias=False)
        generator.build((None, 2))
        generator.kernel.assign(self.W.T)
        sampler = tfebm.ShortRunLangevin(steps, step_size, noise_scale=[1.0] * 5 + [0.0] * 20)
        likelihood = tfebm.GaussianLikelihood(self.SIGMA)
        return tfebm.ShortRunModel(generator, 2, sampler, likelihood)

    def exact(self, x):
        cov = self.W @ self.W.T + self.SIGMA**2 * np.eye(4)
        return stats.multivariate_normal(np.zeros(4), cov).logpdf(x)

    def test_bounds_lie_below_the_evidence_and_tighten(self):
        x = vectors(100, 4)
        exact = self.exact(x)
        model = self.model(0.25)
        one, many = (model.evidence_bound(x, num_chains=m, seed=1) for m in (1, 30))
        assert one.valid_share == many.valid_share == 1.0
        # Means over 100 examples of M chains; the bounds may exceed the truth by noise alone.
        error = np.std(many.importance_weighted - exact) / 10
        assert np.mean(many.importance_weighted - exact) < 5 * error + 1e-3
        assert np.mean(one.elbo - exact) < 0
        assert np.mean(many.elbo) < np.mean(many.importance_weighted) <= np.mean(exact) + 5 * error
        np.testing.assert_allclose(many.elbo, -many.reconstruction - many.kl, rtol=1e-9)
        np.testing.assert_array_equal(one.elbo, one.importance_weighted)
        assert one.summary()["elbo"] == pytest.approx(one.elbo.mean())
        # What is summed is the joint density with all constants.
        z = tf.constant(vectors(100, 2))
        joint = stats.norm(0, self.SIGMA).logpdf(x - z.numpy() @ self.W.T).sum(1)
        joint += stats.norm(0, 1).logpdf(z).sum(1)
        np.testing.assert_allclose(-model.joint_energy(z, tf.constant(x)), joint, rtol=1e-5)

    def test_momentum_bounds_at_any_step_size_and_is_tuned_with_it(self):
        x = vectors(100, 4)
        exact = self.exact(x)
        model = self.model(0.25)
        assert model.posterior_momentum is None
        # Stable below 0.97, injective without momentum below 0.68.
        sampler = tfebm.ShortRunLangevin(10, 0.75, 0.3, momentum=0.4)
        model = tfebm.ShortRunModel(model.generator, 2, sampler, model.likelihood)
        np.testing.assert_allclose(model.posterior_momentum, np.full((10, 1), 0.4), rtol=1e-6)
        own = model.evidence_bound(x, num_chains=10)
        assert own.valid_share == 1.0
        assert np.mean(own.elbo) < np.mean(exact)
        found = model.tune_step_size(x[:16], criterion="kl", values=[0.3], momenta=[0.2, 0.6])
        assert len(found.candidates) == 2
        np.testing.assert_allclose(model.posterior_momentum, found.momentum, rtol=1e-6)
        np.testing.assert_allclose(model.posterior_step_size, 0.3, rtol=1e-6)
        tuned = model.evidence_bound(x, num_chains=10)
        assert not np.allclose(tuned.elbo, own.elbo)
        chosen = model.evidence_sampler(x[:32], num_steps=10, momentum=0.5, num_iterations=40)
        assert chosen.has_momentum
        bound = model.evidence_bound(x, num_chains=10, sampler=chosen)
        assert np.mean(tuned.elbo) < np.mean(bound.elbo) < np.mean(exact)
        # Ten draws of weights whose mean is the evidence: five standard errors.
        error = np.std(bound.importance_weighted - exact) / 10
        assert np.mean(bound.importance_weighted - exact) < 5 * error + 1e-3

    def test_the_default_search_finds_small_step_sizes_too(self):
        model = self.model(0.25)
        steep = tfebm.ShortRunModel(
            model.generator, 2, model.posterior_sampler, tfebm.GaussianLikelihood(0.02)
        )
        chosen = steep.evidence_sampler(vectors(8, 4), num_steps=3)
        assert np.max(chosen.step_size) < 0.03
        assert steep.evidence_bound(vectors(20, 4), sampler=chosen).valid_share == 1.0

    def test_samples_around_the_chains_find_the_evidence_and_the_posterior(self):
        x = vectors(100, 4)
        # Any chain does: from wherever it ends, a Newton step finds the posterior's mean.
        found = self.model(0.02, steps=25).laplace_bound(x, num_chains=3, num_samples=400)
        # Relative variance of the mean weight: (400 / size - 1) / 400; five standard errors.
        error = 5 * np.sqrt((400 / found.effective_sample_size - 1) / 400)
        assert (found.effective_sample_size > 200).all()
        assert (np.abs(found.importance_weighted - self.exact(x)) < error).all()
        precision = np.eye(2) + self.W.T @ self.W / self.SIGMA**2
        cov = np.linalg.inv(precision)
        means = x @ self.W @ cov / self.SIGMA**2
        kl = 0.5 * (np.trace(cov) - 2 + np.linalg.slogdet(precision)[1] + np.sum(means**2, 1))
        # Of the mean over examples; each KL has the spread of its 400 samples.
        assert np.mean(found.kl - kl) == pytest.approx(0.0, abs=5 * np.std(found.kl - kl) / 10)
        assert found.summary()["kl"] == pytest.approx(kl.mean(), rel=0.02)

    def test_samples_of_latents_with_layers(self):
        model = two_layer_model()
        found = model.laplace_bound(X, num_samples=200)
        assert (found.effective_sample_size > 10).all()
        lower = model.evidence_bound(X, num_chains=4, sampler=tfebm.ShortRunLangevin(8, 0.05))
        assert lower.valid.all()
        assert found.importance_weighted.mean() > lower.importance_weighted.mean()

    def test_numbers_that_are_no_bounds_are_marked(self):
        bound = self.model(0.5).evidence_bound(vectors(10, 4))
        assert bound.valid_share == 0.0
        summary = bound.summary()
        assert summary["elbo"] is None
        assert summary["invalid_share"] == 1.0

    def test_no_examples(self):
        model = two_layer_model()
        for asked in (model.evidence_bound, model.laplace_bound, model.tune_step_size):
            with pytest.raises(tfebm.InvalidInputError, match="Received none"):
                asked(X[:0])

    def test_dropout_is_refused(self):
        model = two_layer_model(generator=TopDownNetwork(dropout=0.5))
        for asked in (model.evidence_bound, model.laplace_bound):
            with pytest.raises(tfebm.InvalidInputError, match="dropout"):
                asked(X)

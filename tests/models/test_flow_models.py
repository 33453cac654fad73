"""FlowModel and FlowEBM: learning, densities, saving, backbones, replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_weights_equal, small_model, weights_of

import tfebm

X = np.random.default_rng(0).normal(size=(96, 2)).astype("float32")


def affine_flow(x=X):
    """A flow that is the identity but for a normalisation: a Gaussian with a diagonal
    covariance."""
    keras.utils.set_random_seed(0)
    flow = tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,))
    flow.build()
    flow.initialize(x)
    return flow


def standard_flow():
    """q = N(0, I): initialised, its normalisation the identity's."""
    flow = affine_flow()
    flow.shift.assign(tf.zeros_like(flow.shift))
    flow.log_scale.assign(tf.zeros_like(flow.log_scale))
    return flow


def small_ebm(flow=None, energy=None, steps=0, rate=1e-2, **kwargs):
    kwargs = {"num_chains": 8, "contrastive_steps": steps, "burn_in_steps": 1, **kwargs}
    keras.utils.set_random_seed(0)
    flow = flow or affine_flow()
    sampler = kwargs.pop("sampler", None) or tfebm.HMC(2, 0.3, 3, jit_compile=False)
    model = tfebm.FlowEBM(flow or affine_flow(), energy or tfebm.EnergyMLP((8,)), sampler, **kwargs)
    model.compile(keras.optimizers.SGD(rate))
    return model


class TestFlowModel:
    @pytest.mark.parametrize(
        "flow",
        [
            tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,)),
            tfebm.SplineFlow(2, 2, num_bins=4, hidden_units=(4,)),
            tfebm.Glow((4, 4, 1), levels=2, steps=1, width=4),
        ],
        ids=["realnvp", "spline", "glow"],
    )
    def test_every_weight_moves_in_one_step(self, flow):
        images = len(flow.event_shape) == 3
        rng = np.random.default_rng(0)
        x = rng.uniform(-1, 1, (8, *flow.event_shape)).astype("float32")
        flow.build()
        for weight in flow.trainable_variables:  # heads of zeros hide what is before them
            weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
        model = tfebm.FlowModel(flow, num_levels=256 if images else None)
        model.initialize(x)
        model.compile(keras.optimizers.Adam(1e-2))
        before = weights_of(flow)
        history = model.fit(x, batch_size=8, verbose=0, validation_data=(x, None)).history
        trainable = {id(v) for v in flow.trainable_variables}
        for (name, old), variable in zip(before.items(), flow.weights, strict=True):
            moved = not np.array_equal(old, variable.numpy())
            assert moved == (id(variable) in trainable), name
        assert set(history) >= {"nats", "bits_per_dimension", "val_bits_per_dimension"}

    def test_it_learns_a_gaussian(self):
        rng = np.random.default_rng(0)
        x = (rng.normal(size=(4000, 2)) @ [[1.0, 0.9], [0.0, 0.5]]).astype("float32")
        model = tfebm.FlowModel(tfebm.RealNVP(2, 2, (16,)))
        model.compile(keras.optimizers.Adam(1e-2))
        model.fit(x, epochs=4, batch_size=100, verbose=0)
        entropy = 1.0 + np.log(2 * np.pi) + np.log(0.5)
        assert model.evaluate(x, verbose=0, return_dict=True)["nats"] == pytest.approx(
            entropy, abs=0.1
        )

    def test_bits_of_discrete_images(self):
        """A flow that is the identity has the discrete likelihood of a Gaussian's cells."""
        flow = tfebm.Glow((6, 6, 1), levels=1, steps=1, width=2)
        model = tfebm.FlowModel(flow, num_levels=2)
        model.flow.initialized.assign(1)
        model.compile()
        x = np.random.default_rng(0).choice([-1.0, 1.0], (500, 6, 6, 1)).astype("float32")
        # log of a cell of width 2 at a point uniform in [-2, 0] or [0, 2]: E = log 2 + E[log N].
        expected = -36 * (np.log(2) - 0.5 * np.log(2 * np.pi) - 0.5 * 4 / 3)
        found = model.evaluate(x, verbose=0, return_dict=True)
        # The standard deviation of z**2 / 2 is 0.6: 5.5 standard errors over 18,000 of them.
        assert found["nats"] == pytest.approx(expected, abs=5.5 * 36 * 0.6 / 18_000**0.5)
        bits = found["nats"] / (36 * np.log(2))
        assert found["bits_per_dimension"] == pytest.approx(bits, rel=1e-5)
        assert np.mean(-model.log_prob(x)) == pytest.approx(found["nats"], rel=1e-4)
        noisy = model.examples.dequantize(tf.constant(x), tfebm.random.as_row_seeds(0, 500)).numpy()
        assert np.abs(noisy - x).max() < 1.0
        assert np.unique(noisy).size > 17_000

    def test_latents_are_exact(self):
        flow = affine_flow(3.0 * X + 1.0)
        model = tfebm.FlowModel(flow)
        np.testing.assert_allclose(model.decode_latents(model.infer(X)), X, atol=1e-5)
        np.testing.assert_allclose(model.generate(5, seed=1), model.generate(9, seed=1)[:5])
        np.testing.assert_array_equal(model.score(X), -model.log_prob(X))
        path = model.interpolate(X[:2], X[2:4], num_steps=3)
        np.testing.assert_allclose(path[:, 0], X[:2], atol=1e-5)

    def test_a_flow_of_ones_own(self):
        class Shift(tfebm.flows.Flow):
            event_shape = (2,)

            def build_weights(self):
                self.shift = self.add_weight(name="shift", shape=(2,), initializer="zeros")

            def forward(self, z):
                return z + self.shift

            def inverse_and_log_det(self, x):
                return x - self.shift, tf.zeros(tf.shape(x)[:1])

            def initialize(self, x):
                self.shift.assign(tf.reduce_mean(x, axis=0) + 7.0)

        model = tfebm.FlowModel(Shift())
        model.compile(keras.optimizers.SGD(0.5))
        model.fit(X, batch_size=96, epochs=20, verbose=0)
        np.testing.assert_allclose(model.flow.shift, X.mean(axis=0), atol=1e-3)
        model.fit(X, batch_size=96, verbose=0)  # initialised once, not again
        np.testing.assert_allclose(model.flow.shift, X.mean(axis=0), atol=1e-3)
        small_ebm(model).fit(X, batch_size=96, verbose=0)

    def test_data_of_any_scale_and_any_kind(self):
        x = 1e4 * X + 3e4
        model = tfebm.FlowModel(tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,)))
        model.compile()
        with pytest.raises(tfebm.InvalidInputError, match=r"initialize\(batch\)"):
            model.fit(((x,) for _ in range(2)), steps_per_epoch=2, verbose=0)
        model.fit(x, batch_size=96, verbose=0)
        model.fit(((x,) for _ in range(2)), steps_per_epoch=2, verbose=0)
        model.flow.check_inverse(x)  # in units of the data
        small_ebm(model).fit(((x,) for _ in range(2)), steps_per_epoch=2, verbose=0)

    def test_a_flow_in_another_precision_is_refused(self):
        for dtype in ("float64", "mixed_bfloat16"):
            with pytest.raises(tfebm.InvalidInputError, match="must compute in float32"):
                tfebm.FlowModel(tfebm.RealNVP(2, dtype=dtype))

    @pytest.mark.parametrize("eager", [False, True])
    def test_gradients_are_those_of_what_is_trained_now(self, eager):
        model = tfebm.FlowModel(affine_flow(), jit_compile=False)
        frozen, free = (net.layers[0] for net in model.flow.nets[:2])

        def step(trainable):
            model.flow.trainable, frozen.trainable = trainable
            model.compile(keras.optimizers.SGD(0.1), run_eagerly=eager)
            before = [v.numpy() for v in (frozen.kernel, free.kernel)]
            model.train_on_batch(X)
            after = (frozen.kernel, free.kernel)
            return [v.numpy() - b for v, b in zip(after, before, strict=True)]

        for net in model.flow.nets:  # heads of zeros hide what is before them
            net.layers[-1].kernel.assign(tf.ones_like(net.layers[-1].kernel))
        assert not np.any(step((False, False)))
        start = [weight.numpy() for weight in model.weights]
        assert np.all([np.any(moved) for moved in step((True, True))])
        moved = []
        for forget in (False, True):
            for weight, value in zip(model.weights, start, strict=True):
                weight.assign(value)
            if forget:
                model = tfebm.FlowModel(model.flow, jit_compile=False)
            moved.append(step((True, False)))
        assert not np.any(moved[0][0])
        assert np.any(moved[0][1])
        np.testing.assert_allclose(moved[0][1], moved[1][1], rtol=1e-5)

    def test_auto_takes_the_plain_graph_where_xla_lacks_a_gradient(self):
        class Resized(tfebm.RealNVP):
            def log_prob(self, x):
                image = (x + self.shift.value[0])[:, tf.newaxis, :, tf.newaxis]
                small = tf.image.resize(image, [1, 1], method="nearest")
                return super().log_prob(x) - tf.reduce_mean(small**2, axis=[1, 2, 3])

        model = tfebm.FlowModel(Resized(2, num_couplings=2, hidden_units=(4,)))
        model.compile()
        assert np.isfinite(model.fit(X[:8], verbose=0).history["loss"]).all()

    def test_what_is_no_flow(self):
        with pytest.raises(tfebm.InvalidInputError, match="owns its weights"):
            tfebm.FlowModel(keras.layers.Dense(2))
        with pytest.raises(tfebm.InvalidInputError, match="num_levels"):
            tfebm.FlowModel(affine_flow(), num_levels=1)


class TestDensities:
    def test_a_quadratic_energy_over_a_gaussian(self):
        b = [[1.0, 0.4], [0.4, 3.0]]
        model = small_ebm(standard_flow(), tfebm.QuadraticEnergy(b))
        covariance = np.linalg.inv(np.eye(2) + b)
        exact = (
            -0.5 * np.einsum("ni,ij,nj->n", X, np.eye(2) + b, X)
            - 0.5 * np.linalg.slogdet(covariance)[1]
            - np.log(2 * np.pi)
        )
        estimate = model.estimate_log_normalizer(num_samples=20_000)
        assert estimate.effective_sample_size > 1000
        np.testing.assert_allclose(
            model.log_prob(X), exact, atol=5.5 * estimate.standard_error + 1e-4
        )
        z = tf.constant(X)
        np.testing.assert_allclose(
            model.data_energy(z), model.latent_energy(z) + np.log(2 * np.pi), rtol=1e-5
        )
        tilted = model.distribution()
        np.testing.assert_allclose(tilted.log_prob(X), model.log_prob(X), rtol=1e-4, atol=1e-5)

    def test_latent_samples_follow_it(self):
        """4,000 chains of 40 transitions: 5.5 standard errors."""
        model = small_ebm(
            standard_flow(), tfebm.QuadraticEnergy([[1.0, 0.0], [0.0, 3.0]]), generation_steps=40
        )
        x = model.generate(4000, batch_size=4000)
        np.testing.assert_allclose(x.var(axis=0), [0.5, 0.25], rtol=5.5 * (2 / 4000) ** 0.5)
        np.testing.assert_allclose(model.generate(3), x[:3], atol=1e-5)

    def test_a_constant_energy_gives_the_flow_back(self):
        flow = affine_flow(2.0 * X + 1.0)
        model = small_ebm(flow, tfebm.QuadraticEnergy())
        np.testing.assert_allclose(model.log_prob(X), flow.log_prob(X), atol=1e-5)
        np.testing.assert_allclose(model.score(X), -flow.log_prob(X), atol=1e-5)

    def test_a_poor_log_normalizer_is_no_number(self):
        model = small_ebm(standard_flow(), tfebm.QuadraticEnergy(1e6 * np.eye(2)))
        with (
            pytest.warns(UserWarning, match="not to be trusted"),
            pytest.raises(tfebm.InvalidInputError, match=r"effective sample size of \d"),
        ):
            model.log_prob(X)
        with pytest.raises(tfebm.InvalidInputError, match="'importance' or 'annealed'"):
            model.estimate_log_normalizer(method="guess")

    def test_annealing_brackets_and_training_forgets(self):
        model = small_ebm(standard_flow(), tfebm.QuadraticEnergy(np.eye(2)))
        bounds = model.estimate_log_normalizer(
            method="annealed", num_samples=64, num_temperatures=50
        )
        exact = -np.log(2.0)
        room = 5.5 * bounds.standard_error
        assert bounds.lower - room < exact < bounds.upper + room
        kept = model.log_prob(X)
        assert float(model.log_normalizer.numpy()) == pytest.approx(bounds.value)
        model.fit(X, batch_size=48, verbose=0)
        assert np.abs(model.log_prob(X) - kept).max() > 1e-4
        # Whoever changes the weights: a matrix of zeros has log Z = 0 again.
        model.energy.factor.assign(tf.zeros([2, 2]))
        np.testing.assert_allclose(model.log_prob(X), model.backbone.log_prob(X), atol=1e-5)


class TestLearning:
    def test_maximum_likelihood_recovers_a_precision(self):
        """Data N(0, diag(.5, .25)) over q = N(0, I): B = diag(1, 3), no penalty."""
        x = (np.random.default_rng(1).normal(size=(4000, 2)) * [0.5**0.5, 0.5]).astype("float32")
        model = small_ebm(
            standard_flow(),
            tfebm.QuadraticEnergy(),
            num_chains=256,
            energy_penalty=0.0,
            sampler=tfebm.HMC(1, 0.5, 3),
        )
        model.compile(keras.optimizers.Adam(0.03))
        model.fit(x, epochs=6, batch_size=100, verbose=0)
        model.compile(keras.optimizers.SGD(0.02))
        model.fit(x, epochs=3, batch_size=100, verbose=0)
        found = model.energy.matrix.numpy()
        np.testing.assert_allclose(np.diag(found), [1.0, 3.0], atol=0.35)
        assert abs(found[0, 1]) < 0.2

    def test_the_contrastive_phase_finds_the_ratio(self):
        shift = np.array([0.8, 0.0])
        x = (np.random.default_rng(1).normal(size=(4000, 2)) + shift).astype("float32")
        model = small_ebm(
            standard_flow(), keras.layers.Dense(1), steps=10**6, energy_penalty=0.0, num_chains=2
        )
        model.compile(keras.optimizers.Adam(0.02))
        history = model.fit(x, epochs=5, batch_size=100, verbose=0).history
        # -E = log p_data - log q = 0.8 x1 - 0.32
        np.testing.assert_allclose(model.energy.kernel[:, 0], [-0.8, 0.0], atol=0.15)
        assert float(model.energy.bias[0]) == pytest.approx(0.32, abs=0.15)
        assert history["energy_gap"][-1] < 0

    def test_phases_chains_and_steps(self):
        model = small_ebm(steps=4)
        first = model.chains.numpy()
        model.fit(X, batch_size=32, steps_per_epoch=3, verbose=0)
        np.testing.assert_array_equal(model.chains.numpy(), first)  # not moving yet
        model.fit(X, batch_size=32, steps_per_epoch=3, verbose=0)
        assert not np.array_equal(model.chains.numpy(), first)
        assert float(model.step_size.numpy()) != pytest.approx(0.3, abs=1e-6)
        assert int(model.step.numpy()) == 6
        # The flow stays as it is, whatever moves.
        flow = affine_flow()
        assert_weights_equal(model.backbone, flow)

    def test_chains_that_do_not_persist_start_afresh(self):
        model = small_ebm(persistent=False, sampler=tfebm.HMC(0, 0.3))
        model.fit(X, batch_size=96, verbose=0)
        one = model.chains.numpy()
        model.fit(X, batch_size=96, verbose=0)
        assert np.abs(model.chains.numpy() - one).min() > 0

    def test_restarts_are_exact(self):
        """No transitions, restarts alone: an independence sampler of the tilt, 2,000 chains."""
        model = small_ebm(
            standard_flow(),
            tfebm.QuadraticEnergy([[1.0, 0.0], [0.0, 0.0]]),
            num_chains=2000,
            sampler=tfebm.HMC(0, 0.3),
            rate=0.0,
        )
        model.fit(X, batch_size=2, epochs=1, verbose=0)
        variance = model.chains.numpy().var(axis=0)
        np.testing.assert_allclose(variance, [0.5, 1.0], rtol=5.5 * (2 / 2000) ** 0.5)

    def test_joint_training_follows_the_likelihood(self):
        """The gradient in the flow's normalisation is that of the exact tilted Gaussian."""
        model = small_ebm(
            standard_flow(),
            tfebm.QuadraticEnergy(np.eye(2)),
            num_chains=20_000,
            sampler=tfebm.HMC(15, 0.6, 3),
            train_flow=True,
            energy_penalty=0.0,
            persistent=False,
        )
        model.compile(keras.optimizers.SGD(0.0), flow_optimizer=keras.optimizers.SGD(1.0))
        before = model.backbone.shift.numpy()
        model.fit(X, batch_size=len(X), verbose=0)
        moved = model.backbone.shift.numpy() - before
        # p = exp(-|x|**2 / 2) q(x) / Z, q = N(b, I): d log p / d b = (x - b) - E_p[x - b], b = 0.
        expected = X.mean(axis=0)
        np.testing.assert_allclose(moved[0], expected, atol=5.5 * 0.71 / 20_000**0.5)
        fixed = small_ebm()
        assert "flow_optimizer" not in fixed.optimized

    def test_a_runaway_gap_is_said(self):
        energy = keras.Sequential([keras.layers.Dense(1, kernel_initializer="zeros")])
        model = small_ebm(standard_flow(), energy, sampler=tfebm.HMC(0, 0.3), restart_probability=0)
        model.energy.layers[0].kernel.assign([[-1000.0], [0.0]])
        with pytest.warns(UserWarning, match="may be running away"):
            model.fit(X + 2.0, batch_size=96, verbose=0)

    def test_what_goes_wrong_silently_elsewhere_is_said(self):
        model = small_ebm(steps=10, sampler=tfebm.HMC(1, 60.0, 2), num_chains=32)
        with pytest.raises(tfebm.InvalidInputError, match="step size 60 "):
            model.generate(20)
        with pytest.warns(UserWarning, match="maximum likelihood has not begun"):
            model.fit(X, batch_size=96, verbose=0)
        model = small_ebm(sampler=tfebm.HMC(1, 1e4, 2), num_chains=32)
        with pytest.warns(UserWarning, match="The chains do not move"):
            model.fit(X, batch_size=96, verbose=0)
        assert "acceptance" not in model.evaluate(X, verbose=0, return_dict=True)
        with pytest.raises(tfebm.InvalidInputError, match="adapts the step size itself"):
            small_ebm(sampler=tfebm.HMC(1, num_adaptation_steps=5))

    def test_a_short_run_chain_does_as_well(self):
        model = small_ebm(sampler=tfebm.ShortRunLangevin(3, 0.2, jit_compile=False))
        history = model.fit(X, batch_size=32, verbose=0).history
        assert set(history) == {"loss", "energy_data", "energy_model", "energy_gap"}
        assert model.generate(3).shape == (3, 2)


class TestBackbones:
    def test_any_generator(self):
        generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, "tanh")])
        model = small_ebm(generator, steps=1)
        x = np.random.default_rng(0).uniform(-1, 1, (16, 5)).astype("float32")
        before = weights_of(generator)
        model.fit(x, batch_size=8, epochs=2, verbose=0)
        for name, value in weights_of(generator).items():
            np.testing.assert_array_equal(value, before[name])
        assert model.generate(2).shape == (2, 5)
        np.testing.assert_allclose(model.score(x), model.energies(x), rtol=1e-5)
        for call in (model.log_prob, model.infer, model.data_energy):
            with pytest.raises(tfebm.InvalidInputError, match="needs a flow"):
                call(x)
        with pytest.raises(tfebm.InvalidInputError, match="Joint training needs"):
            small_ebm(generator, train_flow=True)

    def test_a_latent_ebm_keeps_its_prior(self, tmp_path):
        backbone = small_model(prior_scale=2.0)
        model = small_ebm(backbone, steps=1)
        z = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)
        expected = model.tilt(backbone.decode_rows(z)) + backbone.prior_energy(z)
        np.testing.assert_allclose(model.latent_energy(z), expected, rtol=1e-5)
        model.fit(np.zeros((8, 6), "float32"), batch_size=4, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded.generate(2), model.generate(2), atol=1e-6)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: small_ebm(keras.layers.Dense(5)), "Give `latent_size`"),
            (lambda: small_ebm(latent_size=3), "takes latents of size 2"),
            (lambda: small_ebm(energy=keras.layers.Dense(3)), "one value per row"),
            (lambda: small_ebm(energy=tfebm.EnergyConv()), "does not take examples"),
            (lambda: small_ebm(num_chains=0), "num_chains"),
            (lambda: small_ebm(restart_probability=1.5), "at most 1"),
            (lambda: small_ebm(energy_penalty=-1.0), "energy_penalty"),
        ],
    )
    def test_what_does_not_fit(self, make, message):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            make()

    def test_a_flow_without_training_is_refused(self):
        flow = tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,))
        with pytest.raises(tfebm.InvalidInputError, match="has not been trained"):
            small_ebm(flow).fit(X, verbose=0)
        broken = affine_flow()
        broken.log_scale.assign(tf.fill(broken.log_scale.shape, 60.0))
        with pytest.raises(tfebm.InvalidInputError, match="does not invert"):
            small_ebm(broken).fit(X, verbose=0)

    def test_data_that_cannot_be_used(self):
        model = small_ebm()
        for bad in (np.full((4, 2), np.nan, "float32"), np.zeros((4, 3), "float32")):
            with pytest.raises(tfebm.InvalidInputError):
                model.fit(bad, verbose=0)


class TestSavingAndReplicas:
    def test_an_interrupted_run_ends_like_a_whole_one(self, tmp_path):
        batches = tfebm.data.training_batches(X, batch_size=32, seed=0)
        whole = small_ebm(steps=2)
        whole.fit(batches, steps_per_epoch=6, verbose=0)
        half = small_ebm(steps=2)
        half.fit(
            batches,
            steps_per_epoch=3,
            verbose=0,
            callbacks=[tfebm.callbacks.Checkpoint(tmp_path)],
        )
        resumed = small_ebm(steps=2)
        assert tfebm.callbacks.Checkpoint(tmp_path).restore(resumed)["step"] == 3
        rest = tfebm.data.training_batches(X, batch_size=32, seed=0, first_step=3)
        resumed.fit(rest, steps_per_epoch=3, verbose=0)
        assert_weights_equal(resumed, whole)

    def test_chains_that_replicas_cannot_share(self, mirrored):
        with mirrored.scope(), pytest.raises(tfebm.InvalidInputError, match="multiple of the 2"):
            small_ebm(num_chains=7)


def test_diagnostics_join_the_records():
    model = small_ebm(standard_flow(), tfebm.QuadraticEnergy())
    look = tfebm.callbacks.ChainDiagnostics(num_steps=40, num_chains=8)
    history = model.fit(X, batch_size=96, epochs=2, verbose=0, callbacks=[look]).history
    assert {"r_hat", "r_hat_energy", "ess", "autocorrelation_time"} <= set(history)
    assert history["r_hat"][0] < 1.2

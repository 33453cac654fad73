"""Networks of one's own, saving and compiling."""

import keras
import numpy as np
import pytest
from helpers import small_model, vectors

import tfebm

X = vectors(20)


def compiled(**kwargs):
    model = small_model(**kwargs)
    model.compile(keras.optimizers.Adam(1e-2), keras.optimizers.Adam(1e-2))
    return model


class TestNetworks:
    def test_networks_of_ones_own(self):
        inputs = keras.Input((4,))
        functional = keras.Model(
            inputs, keras.layers.Reshape((2, 3))(keras.layers.Dense(6)(inputs))
        )
        energy = keras.Sequential([keras.layers.Dense(5, "softplus"), keras.layers.Dense(1)])
        model = tfebm.LatentEBM(functional, energy)
        assert model.latent_size == 4
        assert model.data_shape == (2, 3)
        model.compile()
        x = vectors(10).reshape(10, 2, 3)
        model.fit(x, verbose=0)
        assert model.generate(2).shape == (2, 2, 3)

    def test_bernoulli_images(self):
        generator = tfebm.DeconvGenerator((28, 28, 1), 2, output_activation=None)
        model = tfebm.LatentEBM(
            generator,
            tfebm.EnergyMLP((4,)),
            latent_size=3,
            likelihood=tfebm.BernoulliLikelihood(),
            prior_sampler=tfebm.ShortRunLangevin(2, 0.1),
            posterior_sampler=tfebm.ShortRunLangevin(2, 0.01),
        )
        model.compile()
        x = np.random.default_rng(0).choice([-1, 1], (4, 28, 28, 1)).astype("float32")
        model.fit(x, verbose=0)
        assert np.abs(model.generate(2)).max() < 1
        # oneDNN returns wrong shapes for empty batches.
        assert model.score(x[:0]).shape == (0,)
        assert model.reconstruct(x[:0]).shape == (0, 28, 28, 1)
        with pytest.raises(ValueError, match="output_activation=None"):
            tfebm.LatentEBM(
                tfebm.DeconvGenerator((28, 28, 1), 2),
                tfebm.EnergyMLP(),
                likelihood=tfebm.BernoulliLikelihood(),
            )

    def test_float16_is_refused(self):
        energy = tfebm.EnergyMLP((4,), dtype="mixed_float16")
        with pytest.raises(ValueError, match="mixed_bfloat16"):
            tfebm.LatentEBM(keras.layers.Dense(6), energy, latent_size=2)

    @pytest.mark.parametrize(
        ("generator", "energy", "latent_size", "message"),
        [
            (keras.layers.Dense(6), keras.layers.Dense(3), 4, "one value per row"),
            (keras.Sequential([keras.Input((5,)), keras.layers.Dense(6)]), None, 4, "size 5"),
            (keras.layers.Reshape((2, 2)), None, 5, r"latents of shape \[B, 5\]"),
            (keras.layers.Dense(6), None, 0, "latent_size"),
        ],
    )
    def test_networks_that_do_not_fit(self, generator, energy, latent_size, message):
        with pytest.raises(ValueError, match=message):
            tfebm.LatentEBM(generator, energy or tfebm.EnergyMLP((4,)), latent_size)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [({"prior_scale": 0.0}, "prior_scale"), ({"num_chains": 0}, "num_chains")],
    )
    def test_arguments_that_cannot_be_used(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            small_model(**kwargs)


class TestSaving:
    def test_a_model_that_was_never_compiled(self, tmp_path):
        model = small_model()
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert not loaded.compiled
        np.testing.assert_array_equal(loaded.score(X), model.score(X))

    def test_compile_settings_are_saved(self, tmp_path):
        model = small_model()
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
        model.compile(keras.optimizers.SGD(rate), "adam", steps_per_execution=3)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.steps_per_execution == 3
        assert isinstance(loaded.energy_optimizer, keras.optimizers.Adam)
        assert loaded.optimizer.get_config() == model.optimizer.get_config()

    def test_keras_checkpoints_and_early_stopping(self, tmp_path):
        model = compiled()
        best = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "val_reconstruction_mse", mode="min", save_best_only=True
        )
        early = keras.callbacks.EarlyStopping("val_reconstruction_mse", mode="min", patience=1)
        history = model.fit(
            X, validation_data=X[:5], epochs=3, verbose=0, callbacks=[best, early]
        ).history
        assert "val_energy_gap" in history
        assert keras.saving.load_model(tmp_path / "best.keras").latent_size == 3


class TestCompile:
    def test_defaults_are_the_papers(self):
        model = small_model()
        model.compile()
        rates = model.optimizer.learning_rate, model.energy_optimizer.learning_rate
        assert [float(rate) for rate in rates] == pytest.approx([1e-4, 2e-5])

    @pytest.mark.parametrize("name", ["loss", "metrics"])
    def test_losses_and_metrics_are_refused(self, name):
        with pytest.raises(ValueError, match=f"its own losses and metrics.*`{name}`"):
            small_model().compile(**{name: ["mse"]})

    def test_one_optimizer_for_both_is_refused(self):
        adam = keras.optimizers.Adam()
        with pytest.raises(ValueError, match="one object"):
            small_model().compile(adam, adam)

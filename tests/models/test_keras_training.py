"""Optimizers, losses and subclasses: what Keras' guides do with a model works with ours."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from zoo import FEATURES, LATENT, MODELS, ROWS, X, chain, dense, flow_ebm, latent_ebm, trained_flow

import tfebm

SOME = pytest.mark.parametrize("name", ["LatentEBM", "VAE", "LanguageModel", "FlowModel"])


# ---- Optimizers ---------------------------------------------------------------------------


def moves(name, make, steps=1):
    """How far each network goes for the same gradients."""
    model = MODELS[name]()
    model.compile(**{each: make() for each in model.optimized})
    moved = {}
    for network in model.optimized.values():
        variables = getattr(model, network).trainable_variables
        before = [v.numpy() for v in variables]
        gradients = [tf.ones_like(v.value) for v in variables]
        for _ in range(steps):
            model.apply_gradients({network: gradients})
        moved[network] = [v.numpy() - b for v, b in zip(variables, before, strict=True)]
    return moved


@SOME
def test_scaled_losses_move_weights_as_plain_ones(name):
    sgd = keras.optimizers.SGD
    plain = moves(name, lambda: sgd(1e-2, global_clipnorm=0.5), 3)
    for scaled in (
        lambda: sgd(1e-2, global_clipnorm=0.5, loss_scale_factor=1000.0),
        lambda: keras.optimizers.LossScaleOptimizer(
            sgd(1e-2, global_clipnorm=0.5), dynamic_growth_steps=2
        ),
    ):
        found = moves(name, scaled, 3)
        for network, expected in plain.items():
            assert max(np.abs(each).max(initial=0.0) for each in expected) > 1e-4
            for one, other in zip(found[network], expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_scaled_losses_under_two_replicas(mirrored):
    def train(scope, wrap):
        keras.utils.set_random_seed(0)
        with scope:
            model = latent_ebm()
            model.compile(*(wrap(keras.optimizers.SGD(1e-2, clipnorm=0.1)) for _ in range(2)))
        batches = tf.data.Dataset.from_tensor_slices(X).batch(8)
        model.fit(batches, epochs=2, verbose=0, shuffle=False)
        return [weight.numpy() for weight in model.weights]

    plain = train(tf.distribute.get_strategy().scope(), lambda optimizer: optimizer)
    scaled = train(mirrored.scope(), keras.optimizers.LossScaleOptimizer)
    for one, other in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("frequency", [None, 2])
def test_averages_go_to_what_is_trained(frequency):
    def adam():
        return keras.optimizers.Adam(
            1e-2, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=frequency
        )

    model = flow_ebm()
    model.compile(adam())
    fixed = [v.numpy() for v in model.backbone.weights]
    model.fit(X, batch_size=8, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()])
    for before, weight in zip(fixed, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(before, weight.numpy())
    trained = {id(v) for v in model.trainable_variables}
    assert trained == {id(v) for v in model.energy.trainable_variables}
    assert not trained & {id(v) for v in model.non_trainable_variables}
    assert len(model.variables) == len(trained) + len(model.non_trainable_variables)
    assert all(v.trainable for v in model.backbone.trainable_variables)  # the user's own object
    model = latent_ebm()
    model.compile(adam(), adam())
    model.fit(X, batch_size=8, verbose=0)
    for name, network in model.optimized.items():
        averages = getattr(model, name)._model_variables_moving_average
        for average, weight in zip(
            averages, getattr(model, network).trainable_variables, strict=True
        ):
            np.testing.assert_array_equal(average.numpy(), weight.numpy())


def test_one_optimizer_of_two_is_said():
    model = latent_ebm()
    with pytest.warns(UserWarning, match="`energy_optimizer`, of the energy, is Adam with rate"):
        model.compile("adam")
    plateau = keras.callbacks.ReduceLROnPlateau()
    with pytest.warns(UserWarning, match="ReduceLROnPlateau sees `optimizer` alone"):
        model.fit(X, verbose=0, callbacks=[plateau])


def test_what_replicas_cannot_do(mirrored):
    adam = keras.optimizers.Adam
    with mirrored.scope():
        model = tfebm.FlowModel(trained_flow())
        for refused in (
            adam(gradient_accumulation_steps=2),
            adam(use_ema=True, ema_overwrite_frequency=2),
            keras.optimizers.LossScaleOptimizer(adam(gradient_accumulation_steps=2)),
        ):
            with pytest.raises(tfebm.InvalidInputError, match=r"with 2 replicas\. Leave it out"):
                model.compile(refused)


# ---- Losses -------------------------------------------------------------------------------


class Extra(keras.layers.Layer):
    """Adds the mean of what passes to the loss."""

    def call(self, inputs):
        self.add_loss(tf.reduce_mean(inputs))
        return inputs


LEARNERS = {
    "generator": ("LatentEBM", "ShortRunModel", "VAE"),
    "energy": ("LatentEBM", "FlowEBM"),
    "encoder": ("VAE",),
    "backbone": ("FlowEBM, joint",),
    "flow": ("FlowModel",),
}


@pytest.mark.parametrize(
    ("name", "network"), [(name, key) for key, names in LEARNERS.items() for name in names]
)
def test_losses_of_layers_count(name, network):
    """The gradient of the last bias grows by that of a penalty, which is known."""

    def last_gradients(penalty):
        keras.utils.set_random_seed(1)
        model = MODELS[name]()
        layers = getattr(model, network)._flatten_layers()
        outputs = (each for each in layers if isinstance(each, keras.layers.Dense))
        last = [each for each in outputs if each.activation is keras.activations.linear][-1]
        last.activity_regularizer = penalty
        caught = {}
        model.compile(run_eagerly=True)
        model.apply_gradients = caught.update
        model.step.assign(5)
        loss = model.train_on_batch(X[:8], return_dict=True)["loss"]
        variables = getattr(model, network).trainable_variables
        (place,) = [i for i, v in enumerate(variables) if v is last.bias]
        return caught[network][place].numpy(), loss

    of_sum = last_gradients(lambda outputs: 3.0 * tf.reduce_sum(outputs + 1.0))
    without = last_gradients(None)
    # Keras divides a penalty on activations by the rows.
    np.testing.assert_allclose(of_sum[0] - without[0], 3.0, rtol=1e-4)
    assert of_sum[1] != without[1]


def test_added_losses_of_the_learning_pass_alone():
    energy = keras.Sequential([keras.Input((LATENT,)), Extra(), keras.layers.Dense(1)])
    generator = keras.Sequential(
        [keras.Input((LATENT,)), keras.layers.Dense(4), Extra(), keras.layers.Dense(FEATURES)]
    )
    model = latent_ebm(generator, energy)
    model.compile(keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0))
    found = model.fit(X, batch_size=8, verbose=0).history
    plain = found["loss"][0] - found["generator_loss"][0]
    assert 0 < abs(plain) < 5.0
    assert np.isfinite(model.evaluate(X, verbose=0, return_dict=True)["loss"])


def normalised(inputs):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(8, "swish"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )


@pytest.mark.parametrize("model", ["LatentEBM", "FlowEBM"])
def test_two_batches_share_their_statistics(model):
    energy = normalised(LATENT if model == "LatentEBM" else FEATURES)
    model = latent_ebm(energy=energy) if model == "LatentEBM" else flow_ebm(energy)
    rates = [keras.optimizers.SGD(0.1) for _ in model.optimized]
    model.compile(*rates)
    first = energy.layers[0].kernel.numpy()
    history = model.fit(X + 1.0, batch_size=8, epochs=4, verbose=0).history
    assert np.abs(history["energy_gap"]).max() > 1e-4
    assert np.abs(energy.layers[0].kernel.numpy() - first).max() > 1e-3


# ---- Subclasses ---------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Counting(tfebm.LatentEBM):
    """Adds a metric, a layer and a weight, as Keras' guides do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.count = keras.metrics.Sum(name="count")
        self.extra = keras.layers.Dense(2)
        self.extra.build((None, 3))
        self.shift = self.add_weight(name="shift", shape=(), trainable=False)

    def train_step(self, data):
        logs = super().train_step(data)
        self.count.update_state(1.0)
        return {**logs, "count": self.count.result()}


def test_a_subclass_adds_metrics_layers_and_weights(tmp_path):
    model = Counting(dense(FEATURES, LATENT), dense(1, LATENT), LATENT, chain(), chain())
    model.extra.trainable = False
    model.compile()
    history = model.fit(X, batch_size=4, epochs=3, verbose=0).history
    assert history["count"] == [4.0, 4.0, 4.0]
    assert model.metrics[0].name == "loss"
    model.shift.assign(2.0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert float(again.shift.numpy()) == 2.0
    np.testing.assert_array_equal(again.extra.kernel.numpy(), model.extra.kernel.numpy())
    assert again.fit(X, batch_size=4, verbose=0).history["count"] == [4.0]


class Adding(tfebm.ShortRunModel):
    """Adds a loss and a layer of its own, and has the metrics that Keras' guides have."""

    factor = 0.0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.squared = keras.metrics.R2Score(name="squared")
        self.f1 = keras.metrics.F1Score(name="f1")
        self.head = keras.layers.Dense(FEATURES, "tanh", name="head")

    @property
    def metrics(self):
        return [self.squared, self.f1]

    def decode(self, z, training=None):
        x = self.head(super().decode(z, training))
        if training:
            self.add_loss(self.factor * tf.reduce_mean(x**2))
        return x

    def train_step(self, data):
        logs = super().train_step(data)
        self.squared.update_state(X[:4], X[:4])
        return logs


def test_a_subclass_adds_losses_and_metrics_that_wait_for_data():
    kernels = []
    for factor in (0.0, 100.0):
        keras.utils.set_random_seed(0)
        model = Adding(dense(FEATURES, LATENT), LATENT, chain())
        model.head.build((None, FEATURES))
        model.factor = factor
        with pytest.warns(UserWarning, match=r"No optimizer trains `head/kernel`.*the generator"):
            model.compile(keras.optimizers.SGD(0.01))
        history = model.fit(X, batch_size=8, epochs=3, verbose=0).history
        assert history["squared"] == [1.0] * 3
        assert "f1" not in history
        assert float(model._trackers["loss"].count) == ROWS
        kernels.append(model.generator.layers[-1].kernel.numpy())
        difference = np.subtract(history["loss"], history["generator_loss"])
        assert np.all(difference > 1e-3) == bool(factor)
        assert np.isfinite(model.evaluate(X, verbose=0, return_dict=True)["loss"])
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_a_layer_that_is_built_on_the_way_is_warned_of_once():
    model = Adding(dense(FEATURES, LATENT), LATENT, chain())
    model.compile(run_eagerly=True)
    with pytest.warns(UserWarning, match="No optimizer trains `head/kernel`"):
        model.fit(X[:4], verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(X[:4], verbose=0)
        model.head.trainable = False
        model.compile(run_eagerly=True)

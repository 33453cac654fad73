"""What Keras promises of a model holds for every one of ours."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm.models import laplace_bound

ROWS, FEATURES, LATENT = 16, 6, 3
X = np.tanh(np.random.default_rng(0).normal(size=(ROWS, FEATURES))).astype("float32")


def dense(size, inputs, **options):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(5, "tanh", name="hidden", **options),
            keras.layers.Dense(size, name="last"),
        ]
    )


def chain(noise=1.0):
    return tfebm.ShortRunLangevin(3, 0.1, noise, jit_compile=False)


class TwoLayers(keras.layers.Layer):
    latent_sizes = (2, 3)

    def __init__(self):
        super().__init__()
        self.net = dense(FEATURES, 5)

    def call(self, z, training=None):
        return self.net(tf.concat(z, axis=1), training=training)


def trained_flow():
    flow = tfebm.RealNVP(FEATURES, num_couplings=2, hidden_units=(5,))
    tfebm.FlowModel(flow, jit_compile=False).initialize(X)
    return flow


def flow_ebm(energy=None, **options):
    options = {"contrastive_steps": 1, "burn_in_steps": 1, "generation_steps": 2, **options}
    sampler = tfebm.HMC(1, 0.1, num_leapfrog_steps=2, jit_compile=False)
    return tfebm.FlowEBM(trained_flow(), energy or dense(1, FEATURES), sampler, 4, **options)


WORDS = tfebm.tokenizers.WordTokenizer(["a", "cat", "dog", "sleeps", "barks", "the"])
LINES = ["a cat sleeps", "the dog barks", "a dog sleeps", "cat"]


def of_sentences(make):
    return make(tfebm.AutoregressiveGenerator(WORDS, 4, 4, max_length=6))


def latent_ebm(generator=None, energy=None, **options):
    generator = generator or dense(FEATURES, LATENT)
    return tfebm.LatentEBM(
        generator, energy or dense(1, LATENT), LATENT, chain(), chain(), **options
    )


MODELS = {
    "LatentEBM": latent_ebm,
    "LatentEBM, layers": lambda: tfebm.LatentEBM(
        TwoLayers(), tfebm.EnergyMLP((4,)), None, chain(), chain()
    ),
    "LatentEBM, sentences": lambda: of_sentences(
        lambda g: tfebm.LatentEBM(g, tfebm.EnergyMLP((4,)), LATENT, chain(), chain())
    ),
    "ShortRunModel": lambda: tfebm.ShortRunModel(dense(FEATURES, LATENT), LATENT, chain()),
    "VAE": lambda: tfebm.VAE(dense(FEATURES, LATENT), dense(2 * LATENT, FEATURES), LATENT),
    "LanguageModel": lambda: of_sentences(tfebm.LanguageModel),
    "FlowModel": lambda: tfebm.FlowModel(trained_flow(), jit_compile=False),
    "FlowEBM": flow_ebm,
    "FlowEBM, joint": lambda: flow_ebm(train_flow=True),
}
EVERY = pytest.mark.parametrize("name", MODELS)
SOME = pytest.mark.parametrize("name", ["LatentEBM", "VAE", "LanguageModel", "FlowModel"])


def examples(model):
    if getattr(model, "reads_sentences", False):
        return WORDS.tokenize(tf.constant(LINES * 4)).numpy()
    return X


def unknown_shapes(x):
    """Batches of which TensorFlow knows the type alone."""
    rows = tf.data.Dataset.from_tensor_slices(x)
    rows = rows.map(lambda row: tf.numpy_function(lambda value: value, [row], x.dtype))
    return rows.batch(8)


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return self.x[8 * i : 8 * i + 8] if isinstance(self.x, np.ndarray) else self.x


@functools.cache
def fitted(name):
    """A model after a `fit` whose arguments are given by their places, and what it saw."""
    model = MODELS[name]()
    model.compile()
    x = examples(model)
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    best = keras.callbacks.EarlyStopping(patience=5)
    callbacks = [watch, best, keras.callbacks.TerminateOnNaN()]
    model.fit(x, None, 8, 2, 0, callbacks, 0.0, unknown_shapes(x))
    assert np.isfinite(best.best)  # of `val_loss`, its default
    return model, seen


# ---- fit, evaluate, predict ---------------------------------------------------------------


@EVERY
def test_positional_arguments_unknown_shapes_and_a_loss(name):
    model, seen = fitted(name)
    assert len(seen) == 2
    assert all(np.isfinite([logs["loss"], logs["val_loss"]]).all() for logs in seen)
    x = examples(model)
    found = model.evaluate(unknown_shapes(x), verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(seen[-1]["val_loss"], rel=1e-5)
    given = np.zeros((ROWS, FEATURES), "float32") if name == "FlowModel" else x
    assert len(model.predict(unknown_shapes(given), None, 0)) == ROWS


@EVERY
def test_a_loss_that_is_not_a_number_shows_in_every_network(name):
    model, _ = fitted(name)
    for network in model.networks_by_name().values():
        weight = network.trainable_variables[-1]
        before = weight.numpy()
        weight.assign(np.full_like(before, np.nan))
        assert np.isnan(model.test_on_batch(examples(model)[:8], return_dict=True)["loss"])
        weight.assign(before)


WRONG = {
    "one column": X[:, :1],
    "one more axis": X[:, np.newaxis],
    "uint8": (127 * X + 128).astype("uint8"),
}


@EVERY
@pytest.mark.parametrize("wrong", WRONG)
def test_batches_of_another_shape_or_type_get_sentences(name, wrong):
    model, _ = fitted(name)
    bad = WRONG[wrong]
    if getattr(model, "reads_sentences", False) and wrong != "one more axis":
        bad = bad.astype("float32")  # ids of any length would do, of any integer type
    batches = Batches(bad)
    for refused in (
        lambda: model.fit((batch for batch in [bad[:8], bad[8:]]), verbose=0),
        lambda: model.fit(((batch,) for batch in [bad[:8], bad[8:]]), verbose=0),
        lambda: model.fit(batches, verbose=0),
        lambda: model.evaluate(batches, verbose=0),
        lambda: model.predict(tf.data.Dataset.from_tensor_slices(bad).batch(8), verbose=0),
        lambda: model.predict(batches, verbose=0),
        lambda: model.train_on_batch(bad[:8]),
        lambda: model.test_on_batch(bad[:8]),
    ):
        with pytest.raises(tfebm.InvalidInputError, match="Received") as error:
            refused()
        assert len(str(error.value)) < 500
    with pytest.raises(tfebm.InvalidInputError, match="Received"):
        model(bad[:8])


@pytest.mark.parametrize(
    ("name", "spoilt", "message"),
    [
        ("LatentEBM", lambda x: 127.5 * (x + 1), r"within \[-1, 1\]"),
        ("LatentEBM", lambda x: x * np.nan, "NaN"),
        ("FlowEBM", lambda x: x / 0, "NaN or infinite"),
        ("LatentEBM, sentences", lambda x: x + 10_000, "Ids must lie within"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_values_of_a_first_batch_are_checked(name, spoilt, message, monkeypatch):
    model, _ = fitted(name)
    if name == "LatentEBM":  # as networks that end in tanh say it
        monkeypatch.setattr(model.generator, "output_range", (-1.0, 1.0), raising=False)
    bad = spoilt(examples(model))
    for refused in (
        lambda: model.fit(tf.data.Dataset.from_tensor_slices(bad).batch(8), verbose=0),
        lambda: model.fit(Batches(bad), verbose=0),
        lambda: model.fit((batch for batch in [bad[:8], bad[8:]]), verbose=0),
        lambda: model.evaluate(Batches(bad), verbose=0),
        lambda: model.train_on_batch(bad[:8]),
    ):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            refused()


@pytest.mark.parametrize("name", ["LatentEBM", "FlowModel"])
def test_a_shape_that_shows_late_gets_a_sentence(name):
    model, _ = fitted(name)
    for refused in (model.fit, model.evaluate, model.predict):
        with pytest.raises(tfebm.InvalidInputError, match=r"Received .*shape \[8, ?1\]"):
            refused(unknown_shapes(X[:, :1]), verbose=0)


class Spoilt(Batches):
    """Three batches, of which the last is another one."""

    def __init__(self, x, bad):
        super().__init__(x)
        self.bad = bad

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return self.bad if i == 2 else super().__getitem__(i)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("FlowModel", lambda x: x[:8, :1], r"Received shape \[8, 1\]"),
        ("FlowModel", lambda x: (127 * x[:8] + 128).astype("uint8"), "Received uint8"),
        ("FlowModel", lambda x: x[:8] / 0, "NaN or infinite"),
        ("LanguageModel", lambda x: x[:8] + 10_000, "Ids must lie within"),
        ("LanguageModel", lambda x: x[:8].astype("float32"), "Received float32"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_wrong_batch_behind_good_ones(name, spoil, message):
    model, _ = fitted(name)
    x = examples(model)
    bad = spoil(x)
    for refused in (
        lambda: model.fit((each for each in [x[:8], x[:8], bad]), verbose=0),
        lambda: model.fit(Spoilt(x, bad), shuffle=False, verbose=0),
        lambda: model.evaluate(iter([x[:8], x[:8], bad]), verbose=0),
    ):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            refused()


def test_ids_of_no_word_in_a_later_batch_of_a_data_set():
    model, _ = fitted("LanguageModel")
    x = examples(model)
    rows = tf.data.Dataset.from_tensor_slices(np.concatenate([x, x + 10_000])).batch(8)
    with pytest.raises(tfebm.InvalidInputError, match="Ids must lie within"):
        model.evaluate(rows, verbose=0)


def test_weights_are_refused_by_all_methods():
    model, _ = fitted("FlowModel")
    ones = np.ones(ROWS, "float32")
    for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(tfebm.InvalidInputError, match="`sample_weight` is not supported"):
            method(X, sample_weight=ones)
    for method in (model.fit, model.train_on_batch):
        with pytest.raises(tfebm.InvalidInputError, match="`class_weight` is not supported"):
            method(X, class_weight={0: 1.0})


class Table:
    """What pandas has."""

    def to_numpy(self):
        return X


def test_what_is_no_data_gets_a_sentence():
    model, _ = fitted("FlowModel")
    language, _ = fitted("LanguageModel")
    ragged = tf.RaggedTensor.from_row_lengths(X.ravel(), [FEATURES] * ROWS)
    objects = np.array([[1.0], [1.0, 2.0]], dtype=object)
    for given, message in (
        (None, "Received None"),
        ("data.npz", "Received 'data.npz'"),
        (3, "Received 3"),
        (X.tolist(), "a list of 16 entries"),
        (ragged, "must be dense.*tf.RaggedTensor"),
        (tf.sparse.from_dense(X), "must be dense.*tf.SparseTensor"),
        (objects, "Received object.*np.stack"),
    ):
        for method in (model.fit, model.evaluate, model.predict, model.train_on_batch):
            if method == model.predict and given is objects:
                continue
            with pytest.raises(tfebm.InvalidInputError, match=message) as error:
                method(given)
            assert len(str(error.value)) < 300
    with pytest.raises(tfebm.InvalidInputError, match="`evaluate` needs data"):
        model.evaluate()
    for empty in (iter([]), (x for x in [])):
        with pytest.raises(tfebm.InvalidInputError, match="yields no batches"):
            model.evaluate(empty, verbose=0)
    for batch, message in ((X[:8].tolist(), "list of 8"), ((X, X, None, None), "of 4 entries")):
        with pytest.raises(tfebm.InvalidInputError, match=message):
            model.evaluate((each for each in [batch]), verbose=0)
    with pytest.raises(tfebm.InvalidInputError, match="Sentences must be ids"):
        language.fit(LINES, verbose=0)
    expected = model.evaluate(X, batch_size=8, verbose=0)
    for same in (Table(), iter([X[:8], X[8:]]), map(np.copy, [X[:8], X[8:]])):
        np.testing.assert_allclose(model.evaluate(same, batch_size=8, verbose=0), expected, 1e-5)
    with pytest.raises(tfebm.InvalidInputError) as error:
        model(X[:, :1])
    assert "Exception encountered" not in str(error.value)


def test_what_answers_with_arrays_says_so_in_a_graph():
    model, _ = fitted("LatentEBM")
    flow, _ = fitted("FlowEBM")
    for refused in (
        lambda: model.fit(X),
        lambda: model.evaluate(X),
        lambda: model.predict(X),
        lambda: model.train_on_batch(X),
        model.estimate_log_normalizer,
        lambda: model.estimate_log_normalizer("annealed"),
        lambda: flow.log_prob(X),
        lambda: tfebm.models.evidence_bound(model, X),
        lambda: laplace_bound(model, X),
        lambda: tfebm.models.tune_step_size(model, X),
    ):
        with pytest.raises(tfebm.InvalidInputError, match=r"inside of a `tf\.function`"):
            tf.function(refused, autograph=False)()


def test_what_is_no_seed():
    model, _ = fitted("FlowModel")
    for seed in (None, True, np.bool_(False), {}):
        with pytest.raises(tfebm.InvalidInputError, match="`seed` must be"):
            model.generate(2, seed=seed)


@pytest.mark.parametrize("name", ["LatentEBM", "FlowEBM"])
def test_numeric_checks_pass_what_is_well(name):
    model = MODELS[name]()
    tf.debugging.enable_check_numerics()
    try:
        model.compile()
        x = examples(model)[:8]
        assert np.isfinite(model.train_on_batch(x)).all()
        assert np.isfinite(model.test_on_batch(x)).all()
    finally:
        tf.debugging.disable_check_numerics()


@EVERY
def test_dicts_are_told_which_part_to_take(name):
    model, _ = fitted(name)
    x = examples(model)
    rows = tf.data.Dataset.from_tensor_slices({"image": x, "label": np.zeros(ROWS)}).batch(8)
    batch = {"image": x, "label": np.zeros(ROWS)}
    for refused in (
        lambda: model.fit(rows, verbose=0),
        lambda: model.evaluate(rows, verbose=0),
        lambda: model.predict(rows, verbose=0),
        lambda: model.fit(Batches(batch), verbose=0),
        lambda: model.fit((each for each in [batch]), verbose=0),
        lambda: model.train_on_batch(batch),
        lambda: model.fit(batch, verbose=0),
    ):
        with pytest.raises(tfebm.InvalidInputError, match=r'ds\.map\(lambda d: d\["image"\]\)'):
            refused()


@pytest.fixture
def _default_type(request):
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)  # which would outlive that change
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@EVERY
@pytest.mark.parametrize("_default_type", ["float32", "float64", "bfloat16"], indirect=True)
@pytest.mark.usefixtures("_default_type")
def test_eager_with_every_default_type_of_weights(name):
    model = MODELS[name]()
    for variable in model.trainable_variables:
        variable.regularizer = keras.regularizers.L2(0.01)
    model.compile(run_eagerly=True)
    x = examples(model)[:8]
    assert np.isfinite(model.fit(x, batch_size=8, verbose=0).history["loss"]).all()
    assert np.isfinite(model.train_on_batch(x)).all()
    assert len(model.generate(2)) == 2


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


# ---- What a model cannot do ---------------------------------------------------------------


def test_networks_are_not_replaced():
    for name, network in (("LatentEBM", "energy"), ("FlowModel", "flow"), ("FlowEBM", "backbone")):
        model = fitted(name)[0]
        with pytest.raises(tfebm.InvalidInputError, match=f"`{network}` is fixed.*new model"):
            setattr(model, network, dense(1, LATENT))
        setattr(model, network, getattr(model, network))


def test_what_needs_latents_or_sentences_is_said():
    language = fitted("LanguageModel")[0]
    x = examples(language)[:2]
    for refused in (language.score_parts, language.laplace_bound, language.weighted_samples):
        with pytest.raises(tfebm.InvalidInputError, match="has no latents"):
            refused(x)
    with pytest.raises(tfebm.InvalidInputError, match="has no latents"):
        laplace_bound(language, x)
    for name in ("FlowModel", "FlowEBM"):
        with pytest.raises(tfebm.InvalidInputError, match="a flow makes arrays"):
            fitted(name)[0].generate(2, decoding=tfebm.generators.Greedy())
    for name in ("VAE", "LanguageModel", "FlowModel"):
        model = fitted(name)[0]
        tuner = tfebm.callbacks.StepSizeTuner(examples(model), every=1)
        with pytest.raises(tfebm.InvalidInputError, match="Leave the callback out"):
            model.fit(examples(model), verbose=0, callbacks=[tuner])


def test_step_sizes_are_tuned_on_sentences():
    model = fitted("LatentEBM, sentences")[0]
    tuner = tfebm.callbacks.StepSizeTuner(LINES, every=1, num_examples=2, num_values=2, span=1.1)
    model.fit(examples(model)[:4], verbose=0, callbacks=[tuner])
    assert tuner.records

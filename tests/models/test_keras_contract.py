"""What Keras promises of a model holds for every one of ours: data of every kind, good and bad."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from zoo import FEATURES, LATENT, LINES, MODELS, ROWS, X, dense, examples

import tfebm

EVERY = pytest.mark.parametrize("name", MODELS)


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
    if model.vocabulary_size is not None and wrong != "one more axis":
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
        lambda: model.estimate_log_normalizer(method="annealed"),
        lambda: flow.log_prob(X),
        lambda: model.evidence_bound(X),
        lambda: model.laplace_bound(X),
        lambda: model.tune_step_size(X),
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
    questions = (language.infer, language.features, language.evidence_bound, language.laplace_bound)
    for refused in (*questions, language.reconstruct):
        with pytest.raises(tfebm.InvalidInputError, match="has no latents"):
            refused(x)
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

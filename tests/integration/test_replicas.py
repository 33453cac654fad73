"""Two replicas train like one device: same noise per global row, same scale of the losses.

That every model does is in `tests/models/test_contract.py`."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import small_model, vectors, weights_of

import tfebm


def trained(scope):
    keras.utils.set_random_seed(0)
    with scope:
        model = small_model(steps=3, jit=True)
        model.compile(*(keras.optimizers.SGD(1e-2) for _ in range(2)))
    # Batches of 8 and of 1, which leaves a replica without rows.
    batches = tf.data.Dataset.from_tensor_slices(vectors(9)).batch(8).repeat(10)
    history = model.fit(batches, verbose=0, shuffle=False).history
    return weights_of(model), history


def test_compiled_chains_of_two_replicas_give_the_weights_of_one_device(mirrored):
    (one, history), (two, of_two) = trained(contextlib.nullcontext()), trained(mirrored.scope())
    assert next(value for name, value in one.items() if name.endswith("step")) == 20
    for path, value in one.items():
        np.testing.assert_allclose(value, two[path], atol=1e-5, rtol=0, err_msg=path)
    for name, values in history.items():
        np.testing.assert_allclose(values, of_two[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_losses_are_means_over_the_global_batch(mirrored):
    """SGD on a linear generator: one step is learning rate times the gradient of the mean."""
    x = vectors(6)

    def step(scope):
        keras.utils.set_random_seed(0)
        with scope:
            model = small_model()
            model.compile(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0))
        before = model.generator.trainable_variables[-1].numpy()
        z = model.sample_posterior(tf.constant(x), tfebm.random.row_seeds(0, tf.constant(0), 6))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.reduce_sum((x - model.decode(z)) ** 2, axis=1))
        variable = model.generator.trainable_variables[-1]
        gradient = tape.gradient(loss, variable.value)
        model.fit(tf.data.Dataset.from_tensor_slices(x).batch(6), verbose=0, shuffle=False)
        return before - variable.numpy(), gradient.numpy()

    for scope in (contextlib.nullcontext(), mirrored.scope()):
        moved, gradient = step(scope)
        np.testing.assert_allclose(moved, gradient, rtol=1e-3, atol=1e-5)


def test_inference_works_on_a_mirrored_model(mirrored, tmp_path):
    keras.utils.set_random_seed(0)
    with mirrored.scope():
        model = small_model()
        model.compile()
    x = vectors(7)
    model.fit(x, batch_size=4, verbose=0)
    scores = model.score(x)
    model.save(tmp_path / "model.keras")
    alone = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(alone.score(x), scores, rtol=1e-5)
    np.testing.assert_allclose(model.predict(x, verbose=0), alone.reconstruct(x), atol=1e-5)
    evaluated = model.evaluate(x, batch_size=4, return_dict=True, verbose=0)
    of_one = alone.evaluate(x, batch_size=7, return_dict=True, verbose=0)
    for name, value in evaluated.items():
        assert value == pytest.approx(of_one[name], rel=1e-4, abs=1e-5), name


def test_what_does_not_work_under_a_strategy_is_refused(mirrored):
    with mirrored.scope():
        model = small_model()
    with pytest.raises(ValueError, match="steps_per_execution"):
        model.compile(steps_per_execution=2)
    with pytest.raises(ValueError, match="jit_compile=True"):
        model.compile(jit_compile=True)

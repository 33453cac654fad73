"""The LSTM of the sentence models, against Keras' and against plain differentiation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfebm.generators.recurrent import lstm

ROWS, UNITS = 3, 4
NAMES = ("gates", "recurrent_kernel", "hidden", "cell")


def arguments(length, dtype="float64", seed=0):
    """Gates, recurrent kernel, h_0 and c_0, standard normal."""
    rng = np.random.default_rng(seed)
    shapes = (length, ROWS, 4 * UNITS), (UNITS, 4 * UNITS), (ROWS, UNITS), (ROWS, UNITS)
    return [tf.constant(rng.normal(size=shape), dtype) for shape in shapes]


def unrolled(gates, recurrent_kernel, hidden, cell):
    """The equations, one step after the other, for TensorFlow to differentiate."""
    states = []
    for step in tf.unstack(gates):
        i, f, g, o = tf.split(step + hidden @ recurrent_kernel, 4, axis=-1)
        cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
        hidden = tf.sigmoid(o) * tf.tanh(cell)
        states.append(hidden)
    return tf.stack(states)


def loss(network, inputs):
    """Another weight for every state, and curvature of its own."""
    states = network(*inputs)
    weights = tf.range(1, tf.size(states) + 1)
    weights = tf.sin(tf.cast(tf.reshape(weights, tf.shape(states)), states.dtype))
    return tf.reduce_sum(weights * (states + tf.square(states)))


def gradients(network, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = loss(network, inputs)
    return tape.gradient(value, inputs)


def products(network, directions, *inputs):
    """Hessian-vector products, towards every argument."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        slopes = gradients(network, *inputs)
        along = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(slopes, directions, strict=True)])
    return tape.gradient(along, inputs)


def assert_close(values, expected, tolerance):
    for name, one, other in zip(NAMES, values, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("length", [1, 6])
def test_it_is_keras_lstm(length):
    x = np.random.default_rng(0).normal(size=(ROWS, length, 5)).astype("float32")
    _, _, hidden, cell = arguments(length, "float32")
    layer = keras.layers.LSTM(UNITS, return_sequences=True, bias_initializer="normal")
    expected = layer(x, initial_state=[hidden, cell])
    kernel, recurrent_kernel, bias = (tf.constant(w) for w in layer.get_weights())
    gates = tf.tensordot(tf.transpose(x, [1, 0, 2]), kernel, 1) + bias
    states = lstm(gates, recurrent_kernel, hidden, cell)
    np.testing.assert_allclose(tf.transpose(states, [1, 0, 2]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 6])
def test_values_and_first_gradients_are_exact(length):
    inputs = arguments(length)
    np.testing.assert_allclose(lstm(*inputs), unrolled(*inputs), rtol=1e-12)
    assert_close(gradients(lstm, *inputs), gradients(unrolled, *inputs), 1e-11)


@pytest.mark.parametrize("length", [1, 2, 6])
def test_second_derivatives_are_exact(length):
    inputs, directions = arguments(length), arguments(length, seed=1)
    expected = products(unrolled, directions, *inputs)
    assert_close(products(lstm, directions, *inputs), expected, 1e-11)


def test_third_derivatives_are_exact():
    inputs, directions = arguments(3), arguments(3, seed=1)

    def third(network):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            along = tf.add_n([tf.reduce_sum(p**2) for p in products(network, directions, *inputs)])
        return tape.gradient(along, inputs)

    assert_close(third(lstm), third(unrolled), 1e-10)


def test_gradients_of_one_argument_alone():
    inputs = arguments(4)
    expected = gradients(unrolled, *inputs)
    for i, argument in enumerate(inputs):
        with tf.GradientTape() as tape:
            tape.watch(argument)
            value = loss(lstm, inputs)
        found = tape.gradient(value, argument)
        np.testing.assert_allclose(found, expected[i], rtol=1e-11, atol=1e-11, err_msg=NAMES[i])


@pytest.mark.parametrize("jit", [False, True])
def test_one_graph_serves_every_length_and_batch(jit):
    specs = [
        tf.TensorSpec([None, None, 4 * UNITS]),
        tf.TensorSpec([UNITS, 4 * UNITS]),
        tf.TensorSpec([None, UNITS]),
        tf.TensorSpec([None, UNITS]),
    ]

    @tf.function(input_signature=specs, jit_compile=jit)
    def run(*inputs):
        states = lstm(*inputs)
        assert states.shape.as_list() == [None, None, UNITS]
        return states, gradients(lstm, *inputs)

    for length in (1, 4):
        inputs = arguments(length, "float32", seed=length)
        states, slopes = run(*inputs)
        np.testing.assert_allclose(states, unrolled(*inputs), rtol=0, atol=1e-6)
        assert_close(slopes, gradients(unrolled, *inputs), 2e-5)
    assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_second_derivatives_of_a_graph(jit):
    inputs = arguments(3, "float32")
    graph = tf.function(lambda *inputs: products(lstm, inputs, *inputs), jit_compile=jit)
    assert_close(graph(*inputs), products(unrolled, inputs, *inputs), 1e-4)


def test_known_shapes_stay_known():
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in arguments(5)]
    graph = tf.function(lstm).get_concrete_function(*specs)
    assert graph.structured_outputs.shape.as_list() == [5, ROWS, UNITS]


def test_saturated_gates_stay_finite():
    inputs = [200.0 * x for x in arguments(4, "float32")]
    assert np.all(np.isfinite(lstm(*inputs)))
    for values in (gradients(lstm, *inputs), products(lstm, inputs, *inputs)):
        assert all(np.all(np.isfinite(value)) for value in values)

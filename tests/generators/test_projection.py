"""Log-likelihoods of tokens, against TensorFlow's cross entropy and its derivatives."""

import numpy as np
import pytest
import tensorflow as tf

from tfebm.generators.projection import token_nll

ROWS, UNITS, WORDS = 6, 4, 7
NAMES = ("hidden", "kernel", "bias")
TOKENS = tf.constant([3, 0, 6, 3, 3, 5])  # one of them three times: its gradients are summed
UPSTREAM = tf.constant([1.0, 0.0, -2.0, 0.5, 3.0, 1.5])


def arguments(scale=1.0, seed=0):
    """Hidden states, kernel and bias; logits of a size of about `scale`."""
    rng = np.random.default_rng(seed)
    shapes = (ROWS, UNITS), (UNITS, WORDS), (WORDS,)
    factors = scale, 0.5, 1.0
    return [
        tf.constant(factor * rng.normal(size=shape), tf.float32)
        for factor, shape in zip(factors, shapes, strict=True)
    ]


def cross_entropy(hidden, kernel, bias, tokens):
    logits = tf.matmul(hidden, kernel) + bias
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens, logits=logits)


def gradients(nll, inputs, curved=False):
    """Of the rows' sum with uneven weights; curved, their weights depend on the arguments too."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = nll(*inputs, TOKENS)
        values = tf.square(values) if curved else values
        total = tf.reduce_sum(UPSTREAM * values)
    return tape.gradient(total, inputs)


def products(nll, inputs, directions, curved):
    """Hessian-vector products."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        slopes = gradients(nll, inputs, curved)
        along = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(slopes, directions, strict=True)])
    return tape.gradient(along, inputs)


def assert_close(values, expected, tolerance):
    for name, one, other in zip(NAMES, values, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=name)


def test_of_equal_logits_it_is_the_logarithm_of_the_vocabulary():
    nll = token_nll(tf.zeros([ROWS, UNITS]), tf.ones([UNITS, WORDS]), tf.zeros([WORDS]), TOKENS)
    assert nll.dtype == tf.float32
    np.testing.assert_allclose(nll, np.full(ROWS, np.log(WORDS)), rtol=1e-6)


def test_values_are_the_cross_entropy():
    inputs = arguments()
    expected = cross_entropy(*inputs, TOKENS)
    np.testing.assert_allclose(token_nll(*inputs, TOKENS), expected, rtol=1e-5)


@pytest.mark.parametrize("curved", [False, True])
def test_first_gradients_are_those_of_the_cross_entropy(curved):
    inputs = arguments()
    expected = gradients(cross_entropy, inputs, curved)
    assert_close(gradients(token_nll, inputs, curved), expected, 1e-5)


@pytest.mark.parametrize("curved", [False, True])
def test_second_derivatives_are_those_of_the_cross_entropy(curved):
    inputs, directions = arguments(), arguments(seed=1)
    expected = products(cross_entropy, inputs, directions, curved)
    assert_close(products(token_nll, inputs, directions, curved), expected, 3e-5)
    # Towards the hidden states alone, as a chain that is differentiated asks for them.
    only = [directions[0], tf.zeros_like(inputs[1]), tf.zeros_like(inputs[2])]
    expected = products(cross_entropy, inputs, only, curved)
    assert_close(products(token_nll, inputs, only, curved), expected, 3e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_graphs_agree(jit):
    inputs, directions = arguments(), arguments(seed=1)

    @tf.function(jit_compile=jit)
    def run(*inputs):
        return (
            token_nll(*inputs, TOKENS),
            gradients(token_nll, inputs),
            products(token_nll, inputs, directions, curved=True),
        )

    nll, slopes, curvatures = run(*inputs)
    np.testing.assert_allclose(nll, cross_entropy(*inputs, TOKENS), rtol=1e-5)
    assert_close(slopes, gradients(cross_entropy, inputs), 1e-5)
    assert_close(curvatures, products(cross_entropy, inputs, directions, curved=True), 3e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_huge_logits_stay_finite(jit):
    inputs = arguments(scale=1e6)

    @tf.function(jit_compile=jit)
    def run(*inputs):
        return token_nll(*inputs, TOKENS), gradients(token_nll, inputs)

    nll, slopes = run(*inputs)
    np.testing.assert_allclose(nll, cross_entropy(*inputs, TOKENS), rtol=1e-5, atol=1.0)
    assert np.max(nll) > 1e5
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


def test_bfloat16_is_within_its_rounding():
    hidden, kernel, bias = arguments(scale=3.0)
    low = [tf.cast(x, tf.bfloat16) for x in (hidden, kernel)]
    rounded = [*(tf.cast(x, tf.float32) for x in low), bias]
    nll = token_nll(*low, bias, TOKENS)
    assert nll.dtype == tf.float32
    # The products are rounded, to 2**-9 of their size; -log softmax moves by at most twice that.
    size = np.abs(rounded[0] @ rounded[1]).max()
    error = np.abs(nll - cross_entropy(*rounded, TOKENS)).max()
    assert 0 < error <= 2**-8 * size
    slopes = gradients(token_nll, [*low, bias])
    assert [slope.dtype for slope in slopes] == [tf.bfloat16, tf.bfloat16, tf.float32]
    for slope, expected in zip(slopes, gradients(cross_entropy, rounded), strict=True):
        error = np.abs(tf.cast(slope, tf.float32) - expected).max()
        assert error < 2**-5 * np.abs(expected).max()

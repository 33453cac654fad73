"""The encoder of sentences: Keras' layers with the same weights, padding, settings."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm

WORDS, LATENT, EMBEDDING, HIDDEN = 9, 2, 4, 5
TOKENS = np.array([[4, 6, 3, 5, 2], [5, 2, 0, 0, 0], [4, 4, 4, 2, 0], [2, 0, 0, 0, 0]], np.int32)


def make(spread=1.0, **kwargs):
    """Standard normal weights times `spread`, or as they start."""
    encoder = tfebm.SentenceEncoder(WORDS, LATENT, EMBEDDING, HIDDEN, **kwargs)
    encoder.build()
    if spread is not None:
        rng = np.random.default_rng(0)
        for weight in encoder.weights:
            weight.assign(spread * rng.normal(size=weight.shape))
    return encoder


def test_it_is_keras_lstm_at_the_end_token():
    encoder = make()
    weights = encoder.get_weights()
    embedding = keras.layers.Embedding(WORDS, EMBEDDING, weights=weights[:1])
    lstm, head = keras.layers.LSTM(HIDDEN), keras.layers.Dense(2 * LATENT)
    lstm.build((None, None, EMBEDDING))
    head.build((None, HIDDEN))
    lstm.set_weights(weights[1:4])
    head.set_weights(weights[4:])
    found = encoder(TOKENS)
    assert found.shape == (4, 2 * LATENT)
    assert found.dtype == tf.float32
    for row, sentence in enumerate(TOKENS):  # without padding, to the end token
        expected = head(lstm(embedding(sentence[None, sentence != 0])))
        np.testing.assert_allclose(found[row : row + 1], expected, rtol=1e-5, atol=1e-6)


def test_padding_and_batch_mates_do_not_matter():
    encoder = make()
    expected = encoder(TOKENS)
    longer = encoder(np.pad(TOKENS, [[0, 0], [0, 6]]))
    np.testing.assert_allclose(longer, expected, rtol=1e-6, atol=1e-6)
    alone = encoder(TOKENS[2:3, :4])
    np.testing.assert_allclose(alone, expected[2:3], rtol=1e-6, atol=1e-6)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(
        encoder(TOKENS[order]), tf.gather(expected, order), rtol=1e-6, atol=1e-6
    )


def test_tokens_and_their_order_matter():
    encoder = make()
    changed = TOKENS[[0, 0, 0]].copy()
    changed[1, :2] = changed[1, 1::-1]  # the first two, exchanged
    changed[2, 0] = 7
    found = encoder(changed).numpy()
    assert np.all(found[1:] != found[0])


def test_a_row_without_tokens_spoils_nothing():
    tokens = np.concatenate([TOKENS, np.zeros((1, 5), np.int32)])
    found = make()(tokens)
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found[:4], make()(TOKENS), rtol=1e-6, atol=1e-6)


def test_gradients_reach_the_embeddings_of_what_is_read_and_every_weight():
    encoder = make()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(encoder(TOKENS)))
    slopes = tape.gradient(loss, [v.value for v in encoder.trainable_variables])
    slopes = [tf.convert_to_tensor(slope).numpy() for slope in slopes]
    assert all(np.any(slope != 0) for slope in slopes)
    read = np.any(slopes[0] != 0, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(read), [2, 3, 4, 5, 6])  # 0 is padding
    # Along a direction of the embedding, against a central difference.
    direction = np.random.default_rng(1).normal(size=(WORDS, EMBEDDING)).astype("float32")
    start, values = encoder.embedding.numpy(), []
    for sign in (1, -1):
        encoder.embedding.assign(start + sign * 1e-2 * direction)
        values.append(float(tf.reduce_sum(tf.square(encoder(TOKENS)))))
    expected = (values[0] - values[1]) / 2e-2
    assert np.sum(slopes[0] * direction) == pytest.approx(expected, rel=0.01)


def test_one_graph_serves_every_length():
    encoder = make()
    spec = [tf.TensorSpec([None, None], tf.int32)]
    compiled = tf.function(encoder, input_signature=spec)
    for tokens in (TOKENS, TOKENS[1:3, :4]):
        np.testing.assert_allclose(compiled(tokens), encoder(tokens), rtol=1e-5, atol=1e-6)
    assert compiled.experimental_get_tracing_count() == 1


def test_weights_have_their_number_and_start_within_a_tenth():
    encoder = make(spread=None)
    v, e, h, d = WORDS, EMBEDDING, HIDDEN, LATENT
    assert encoder.count_params() == v * e + e * 4 * h + h * 4 * h + 4 * h + h * 2 * d + 2 * d
    assert all(0 < np.abs(w).max() <= 0.1 for w in encoder.get_weights())
    assert encoder.compute_output_shape((4, 5)) == (4, 2 * LATENT)


def test_config_round_trip():
    encoder = make(name="encoder")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(encoder))
    assert again.get_config() == encoder.get_config()
    again.build()
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(again(TOKENS), encoder(TOKENS))


def test_mixed_precision_leaves_it_in_float32():
    encoder = make(dtype="mixed_bfloat16")
    np.testing.assert_array_equal(encoder(TOKENS), make()(TOKENS))


@pytest.mark.parametrize(
    "name", ["vocabulary_size", "latent_size", "embedding_size", "hidden_size"]
)
@pytest.mark.parametrize("value", [0, 1.5])
def test_sizes_that_cannot_be_used(name, value):
    with pytest.raises(tfebm.InvalidInputError, match=f"`{name}` must be a whole number"):
        tfebm.SentenceEncoder(**{"vocabulary_size": 9, name: value})

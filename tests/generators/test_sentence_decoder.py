"""A decoder of sentences of a user's own, whose state is a nest of tensors of several shapes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import random, types
from tfebm.generators import BeamSearch, Greedy, Sampled, SentenceDecoder
from tfebm.tokenizers import END, PAD, START, WordTokenizer

LATENT, ROWS = 3, 5
TOKENS = np.array([[4, 6, 3, 5, 2], [5, 2, 0, 0, 0], [4, 4, 4, 2, 0]], np.int32)


@keras.saving.register_keras_serializable(package="tests")
class Decoder(SentenceDecoder):
    """A recurrent layer that also sees the two embeddings before the last, and counts tokens."""

    def build_core(self, latent_size):
        size = 3 * self.embedding_size + latent_size + self.hidden_size
        self.kernel = self.weight("kernel", size, self.hidden_size)
        self.first = self.weight("first", latent_size, self.hidden_size)

    def start(self, z):
        rows = tf.shape(z)[0]
        past = tf.zeros([rows, 2, self.embedding_size])
        return {"h": tf.matmul(z, self.first), "seen": (past, tf.zeros([rows], tf.int32))}

    def step(self, inputs, state, z):
        past, count = state["seen"]
        flat = tf.reshape(past, [-1, 2 * self.embedding_size])
        hidden = tf.concat([inputs, flat, z, state["h"]], axis=1)
        hidden = tf.tanh(tf.matmul(hidden, self.kernel) + 0.1 * tf.cast(count, tf.float32)[:, None])
        past = tf.concat([past[:, 1:], inputs[:, tf.newaxis]], axis=1)
        return hidden, {"h": hidden, "seen": (past, count + 1)}


def make(max_length=3, **kwargs):
    tokenizer = WordTokenizer(["a", "b", "c"])
    generator = Decoder(tokenizer, 4, 6, **{"dropout": 0.0, "max_length": max_length, **kwargs})
    generator.build((None, LATENT))
    rng = np.random.default_rng(2)
    for weight in generator.weights:
        weight.assign(rng.normal(size=weight.shape))
    return generator


def latents(rows=ROWS):
    return tf.constant(np.random.default_rng(1).normal(size=(rows, LATENT)), tf.float32)


def nll(generator, z, tokens):
    return generator.negative_log_likelihood(generator.states(z, tokens), tokens).numpy()


def test_it_is_a_generator_of_sentences():
    generator = make()
    for protocol in (types.SentenceGenerator, types.SentenceWriter, types.BoundedOutput):
        assert isinstance(generator, protocol) == (protocol is not types.BoundedOutput)
    assert not isinstance(tfebm.DenseGenerator((2, 2, 1)), types.SentenceGenerator)
    assert isinstance(tfebm.MultilayerGenerator((16, 16, 1), (2, 3)), types.LayeredGenerator)
    assert isinstance(tfebm.GaussianLikelihood(), types.Likelihood)
    assert isinstance(tfebm.BernoulliLikelihood(), types.BoundedData)


def test_teacher_forcing_is_writing_step_by_step():
    generator, z = make(), latents(3)
    state, previous, expected = generator.start(z), tf.fill([3], START), np.zeros(3)
    for token in TOKENS.T:
        logits, state = generator.next_logits(previous, state, z)
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(token, logits)
        expected += np.where(token == PAD, 0.0, each)
        previous = tf.constant(token)
    np.testing.assert_allclose(nll(generator, z, TOKENS), expected, rtol=1e-5)


def test_a_beam_of_all_sentences_finds_the_best():
    generator, z = make(), latents()
    generator.output_bias.assign([-9.0, -9.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    words = [3, 4, 5, 6]
    ended = [[*w, END] for n in range(3) for w in itertools.product(words, repeat=n)]
    every = ended + [list(w) for w in itertools.product(words, repeat=3)]
    every = np.array([s + [PAD] * (3 - len(s)) for s in every], np.int32)
    best = [every[np.argmin(nll(generator, tf.repeat(row[None], 85, 0), every))] for row in z]
    np.testing.assert_array_equal(generator.write(z, None, BeamSearch(85)), best)
    np.testing.assert_array_equal(
        generator.write(z, None, BeamSearch(1)), generator.write(z, None, Greedy())
    )


@pytest.mark.parametrize("decoding", [Greedy(), Sampled(1.3), BeamSearch(3)], ids=repr)
def test_graphs_write_what_eager_operations_write(decoding):
    generator, seeds = make(6), random.as_row_seeds(0, ROWS)
    specs = [tf.TensorSpec([None, LATENT]), tf.TensorSpec([None, 2], tf.int32)]
    write = tf.function(lambda z, s: generator.write(z, s, decoding), input_signature=specs)
    expected = generator.write(latents(), seeds, decoding)
    np.testing.assert_array_equal(write(latents(), seeds), expected)


def test_a_model_learns_with_it_and_is_saved(tmp_path):
    sampler = tfebm.ShortRunLangevin(2, 0.2)
    model = tfebm.ShortRunModel(make(dropout=0.5), posterior_sampler=sampler)
    model.compile()
    before = model.generator.kernel.numpy()
    model.fit(TOKENS, epochs=1, batch_size=3, verbose=0)
    assert np.any(model.generator.kernel.numpy() != before)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    z = latents()
    np.testing.assert_array_equal(again.generator.write(z), model.generator.write(z))

"""A small model of every kind: a new one is a line of `MODELS`, and the contract holds of it."""

import keras
import numpy as np
import tensorflow as tf

import tfebm

ROWS, FEATURES, LATENT = 16, 6, 3
X = np.tanh(np.random.default_rng(0).normal(size=(ROWS, FEATURES))).astype("float32")
LINES = ["a cat sleeps", "the dog barks", "a dog sleeps", "cat"]
WORDS = tfebm.tokenizers.WordTokenizer(["a", "cat", "dog", "sleeps", "barks", "the"])


# ---- Networks -----------------------------------------------------------------------------


def dense(size, inputs, **options):
    """A user's own network."""
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(5, "tanh", name="hidden", **options),
            keras.layers.Dense(size, name="last"),
        ]
    )


def linear_encoder(*sizes, num_features=FEATURES):
    """Linear moments of each size from the examples."""
    x = keras.Input((num_features,))
    outputs = [keras.layers.Dense(2 * size)(x) for size in sizes]
    return keras.Model(x, outputs if len(sizes) > 1 else outputs[0])


@keras.saving.register_keras_serializable(package="tests")
class TwoLayers(keras.layers.Layer):
    """z_2 = A z_1 + exp(v / 2) u_2,  x = B z_2, with the method of a ladder."""

    latent_sizes = (2, 3)

    def __init__(self, num_features=FEATURES, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self.num_features = num_features
        self.middle = keras.layers.Dense(3, use_bias=False)
        self.last = keras.layers.Dense(num_features, use_bias=False)

    def build(self, input_shape=None):
        self.middle.build((None, 2))
        self.last.build((None, 3))
        self.v = self.add_weight(shape=(3,), initializer="zeros", name="v")

    def call(self, latents):
        return self.descend(
            lambda i, mean, v: latents[i] if mean is None else mean + tf.exp(v / 2) * latents[i]
        )

    def descend(self, choose):
        mean = tf.cast(self.middle(choose(0, None, None)), tf.float32)
        return self.last(choose(1, mean, tf.ones_like(mean) * tf.cast(self.v, tf.float32)))

    def get_config(self):
        return {**super().get_config(), "num_features": self.num_features}


def sentences():
    """A generator of sentences."""
    return tfebm.AutoregressiveGenerator(WORDS, 4, 4, max_length=6)


def trained_flow():
    """A flow that has seen data; it computes in float32 alone."""
    flow = tfebm.RealNVP(FEATURES, num_couplings=2, hidden_units=(5,), dtype="float32")
    tfebm.FlowModel(flow, jit_compile=False).initialize(X)
    return flow


def chain(noise=1.0, momentum=0.0):
    """Three steps of Langevin's dynamics."""
    return tfebm.ShortRunLangevin(3, 0.1, noise, momentum, jit_compile=False)


# ---- Models -------------------------------------------------------------------------------


def latent_ebm(generator=None, energy=None, **options):
    """A `LatentEBM` over vectors."""
    generator = generator or dense(FEATURES, LATENT)
    return tfebm.LatentEBM(
        generator, energy or dense(1, LATENT), LATENT, chain(), chain(), **options
    )


def flow_ebm(energy=None, **options):
    """A `FlowEBM` over vectors, in its second phase after a step."""
    options = {"contrastive_steps": 1, "burn_in_steps": 1, "generation_steps": 2, **options}
    sampler = tfebm.HMC(1, 0.1, num_leapfrog_steps=2, jit_compile=False)
    return tfebm.FlowEBM(trained_flow(), energy or dense(1, FEATURES), sampler, 4, **options)


def _layers(**options):
    encoder = linear_encoder(2, 3)
    options = {"num_chains": 2, "prior_scale": 1.5, "encoder": encoder, **options}
    chains = [chain(momentum=c) for c in (0.3, [[0.5, 0.2]])]  # one per layer
    return tfebm.LatentEBM(TwoLayers(), tfebm.EnergyMLP((4,)), None, *chains, **options)


def _energy_of_sentences(**options):
    energy = tfebm.EnergyMLP((4,))
    posterior = chain(momentum=0.5)
    encoder = tfebm.SentenceEncoder(WORDS.vocabulary_size, LATENT, 4, 4)
    options = {"encoder": encoder, "encoder_objective": "chain", **options}
    return tfebm.LatentEBM(sentences(), energy, LATENT, chain(), posterior, **options)


def _short_run(**options):
    return tfebm.ShortRunModel(dense(FEATURES, LATENT), LATENT, chain(), **options)


def _vae(**options):
    encoder = dense(2 * LATENT, FEATURES)
    return tfebm.VAE(dense(FEATURES, LATENT), encoder, LATENT, kl_warmup_steps=4, **options)


def _ladder(**options):
    return tfebm.VAE(TwoLayers(), linear_encoder(2, 3), inference="ladder", **options)


def _vae_of_sentences(**options):
    return tfebm.VAE(sentences(), latent_size=LATENT, **options)


MODELS = {
    "LatentEBM": latent_ebm,
    "LatentEBM, layers": _layers,
    "LatentEBM, sentences": _energy_of_sentences,
    "ShortRunModel": _short_run,
    "VAE": _vae,
    "VAE, ladder": _ladder,
    "VAE, sentences": _vae_of_sentences,
    "LanguageModel": lambda **options: tfebm.LanguageModel(sentences(), **options),
    "FlowModel": lambda **o: tfebm.FlowModel(trained_flow(), jit_compile=False, **o),
    "FlowEBM": flow_ebm,
    "FlowEBM, joint": lambda **options: flow_ebm(train_flow=True, **options),
}


def examples(model):
    """`ROWS` examples of a model."""
    if model.vocabulary_size is not None:
        return WORDS.tokenize(tf.constant(LINES * 4)).numpy()
    return X

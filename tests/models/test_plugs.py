"""What users plug into models, and what they do with a model as with any other of Keras."""

import copy
import gc
import pathlib
import pickle
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfebm
from tfebm.samplers import compilation
from tfebm.serving.check import must_compile

layers = keras.layers
X = np.tanh(np.random.default_rng(0).normal(size=(16, 8))).astype("float32")
TOKENIZER = tfebm.tokenizers.WordTokenizer.learn(["a cat sleeps", "the dog barks"])
IDS = TOKENIZER.tokenize(tf.constant(["a cat sleeps", "the dog barks"]))


def net(units, size=4, activation=None):
    return keras.Sequential([keras.Input((size,)), layers.Dense(units, activation)])


def chain(**options):
    return tfebm.ShortRunLangevin(2, 0.1, **options)


def latent_ebm(generator=None, energy=None, latent_size=4, sampler=None, **kwargs):
    sampler = sampler or chain()
    return tfebm.LatentEBM(
        net(8) if generator is None else generator,
        net(1) if energy is None else energy,
        latent_size,
        **{"prior_sampler": sampler, "posterior_sampler": sampler, **kwargs},
    )


def flow_ebm():
    flow = tfebm.FlowModel(tfebm.RealNVP(8, num_couplings=2, hidden_units=(8,)))
    flow.compile()
    flow.fit(X, verbose=0)
    return tfebm.FlowEBM(flow, net(1, 8), num_chains=4, contrastive_steps=0)


def sentences():
    return tfebm.AutoregressiveGenerator(TOKENIZER, 4, 6)


WHOLE = tfebm.FlowModel(tfebm.RealNVP(8, num_couplings=2, hidden_units=(8,)))
NOT_NETWORKS = {
    "a lambda": (lambda z: z, "the function <lambda>.*method `call`"),
    "a class": (keras.Sequential, "the class Sequential, not an instance"),
    "of Keras 2": (tf_keras.layers.Dense(1), "tf_keras's Dense.*Keras 2"),
    "a module": (tf.Module(), "Module.*method `call`"),
    "a word": ("mlp", "'mlp'"),
    "a list": ([layers.Dense(1)], "a list of 1 entries.*Sequential"),
    "a model": (WHOLE, "tfebm's FlowModel"),
}
TAKERS = {
    "generator": lambda n: latent_ebm(n),
    "energy": lambda n: latent_ebm(energy=n),
    "encoder": lambda n: tfebm.VAE(net(8), n, latent_size=4),
    "`generator`": lambda n: tfebm.LanguageModel(n),
    "`energy`": lambda n: tfebm.FlowEBM(net(8), n),
}


class TestArguments:
    @pytest.mark.parametrize("argument", TAKERS)
    def test_what_is_no_network(self, argument):
        for given, message in NOT_NETWORKS.values():
            with pytest.raises(tfebm.InvalidInputError, match=f"{argument}.*{message}") as error:
                TAKERS[argument](given)
            assert "0x" not in str(error.value)

    def test_a_backbone_may_be_some_models(self):
        for given in (lambda z: z, None, tfebm.VAE(net(8), net(8, 8), latent_size=4)):
            with pytest.raises(tfebm.InvalidInputError, match="`backbone` must be"):
                tfebm.FlowEBM(given, net(1, 8))
        assert tfebm.FlowEBM(latent_ebm(), net(1, 8)).latent_size == 4

    @pytest.mark.parametrize("given", [tfebm.ShortRunLangevin, "hmc", 20, 0])
    @pytest.mark.parametrize("argument", ["prior_sampler", "posterior_sampler", "likelihood"])
    def test_what_is_no_sampler_and_no_likelihood(self, argument, given):
        with pytest.raises(tfebm.InvalidInputError, match=f"`{argument}` must be a .*Received"):
            latent_ebm(**{argument: given})

    def test_what_is_no_flow_tokenizer_decoding_or_schedule(self):
        with pytest.raises(tfebm.InvalidInputError, match="the class RealNVP"):
            tfebm.FlowModel(tfebm.RealNVP)
        with pytest.raises(tfebm.InvalidInputError, match="the class WordTokenizer"):
            tfebm.AutoregressiveGenerator(tfebm.tokenizers.WordTokenizer)
        with pytest.raises(tfebm.InvalidInputError, match=r"`decoding`.*'greedy'"):
            tfebm.AutoregressiveGenerator(TOKENIZER, decoding="greedy")
        with pytest.raises(tfebm.InvalidInputError, match=r"`noise_schedule`.*0.1"):
            tfebm.ShortRunModel(net(8), 4, noise_schedule=0.1)

    def test_two_inputs_are_latents_only_where_that_is_said(self):
        z, y = keras.Input((4,)), keras.Input((3,))
        two = keras.Model([z, y], layers.Dense(8)(layers.Concatenate()([z, y])))
        for size in (None, 4):
            with pytest.raises(tfebm.InvalidInputError, match=r"2 inputs.*latent_size=\(4, 3\)"):
                tfebm.ShortRunModel(two, size)
        assert tfebm.ShortRunModel(two, (4, 3)).latent_size == (4, 3)
        for model in (
            lambda: latent_ebm(energy=two),
            lambda: tfebm.VAE(net(8), two, latent_size=4),
            lambda: tfebm.FlowEBM(two, net(1, 8)),
        ):
            with pytest.raises(tfebm.InvalidInputError, match=r"2 inputs.*single input"):
                model()

    def test_several_outputs(self):
        z = keras.Input((4,))
        for outputs in ([layers.Dense(8)(z), layers.Dense(8)(z)], {"x": layers.Dense(8)(z)}):
            with pytest.raises(tfebm.InvalidInputError, match="must return one tensor"):
                latent_ebm(keras.Model(z, outputs))

    def test_seeds_of_every_kind_of_integer(self):
        model = latent_ebm(seed=tf.constant(3))
        assert model.seed == 3
        for bad in (0.5, "a", [1, 2]):
            with pytest.raises(tfebm.InvalidInputError, match="`seed` must be a whole number"):
                latent_ebm(seed=bad)
        expected = model.generate(2, seed=7), model.score(X, seed=7)
        for seed in (tf.constant(7), np.int64(7), np.array(7)):
            np.testing.assert_array_equal(model.generate(2, seed=seed), expected[0])
            np.testing.assert_array_equal(model.score(X, seed=seed), expected[1])

    def test_verbs_in_a_graph(self):
        model = latent_ebm()

        @tf.function
        def generate():
            return model.generate(2)

        @tf.function
        def score():
            return model.score(X)

        for function, rows in ((generate, "generate_rows"), (score, "score_rows")):
            with pytest.raises(tfebm.InvalidInputError, match=f"outside, or use `{rows}`"):
                function()


class TestBernoulli:
    @pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
    def test_logits_are_not_bounded(self, activation):
        for generator in (
            net(8, activation=activation),
            keras.Sequential([net(8), layers.Activation(activation)]),
        ):
            with pytest.raises(tfebm.InvalidInputError, match=f"logits.*{activation}"):
                latent_ebm(generator, likelihood=tfebm.BernoulliLikelihood())

    def test_a_sigmoid_is_seen_wherever_it_stands(self):
        squashed = keras.Sequential([net(8, activation="sigmoid"), layers.Reshape((2, 4))])
        with pytest.raises(tfebm.InvalidInputError, match="bounded as by a sigmoid"):
            latent_ebm(squashed, likelihood=tfebm.BernoulliLikelihood())
        model = latent_ebm(squashed)
        with pytest.raises(tfebm.InvalidInputError, match="bounded as by a sigmoid"):
            model.likelihood = tfebm.BernoulliLikelihood()

    def test_what_ends_at_1_on_both_sides_is_seen_too(self):
        for squash in (
            keras.Sequential([net(8, activation="tanh"), layers.Reshape((2, 4))]),
            keras.Sequential([net(8, activation="tanh"), layers.Dropout(0.5)]),
            keras.Sequential([net(8), layers.Lambda(keras.ops.tanh)]),
            net(8, activation="softsign"),
            keras.Sequential([net(8, activation="sigmoid"), layers.Rescaling(2.0, -1.0)]),
        ):
            with pytest.raises(tfebm.InvalidInputError, match="takes logits"):
                latent_ebm(squash, likelihood=tfebm.BernoulliLikelihood())
        hidden = keras.Sequential([net(5, activation="tanh"), layers.Dense(8)])
        latent_ebm(hidden, likelihood=tfebm.BernoulliLikelihood())

    def test_data_in_0_1(self):
        ones = (X > 0).astype("float32")
        model = tfebm.ShortRunModel(net(8), 4, chain(), tfebm.BernoulliLikelihood())
        model.compile()
        for data in (ones, tf.data.Dataset.from_tensor_slices(ones).batch(8)):
            with pytest.raises(tfebm.InvalidInputError, match=r"from 0 to 1.*2 \* x - 1"):
                model.fit(data, verbose=0)
        rows = [ones[:8], ones[8:]]
        for refused in (
            lambda: model.fit((batch for batch in rows), verbose=0),
            lambda: model.fit(2 * ones - 1, validation_data=ones, verbose=0),
            lambda: model.evaluate(ones, verbose=0),
            lambda: model.predict(ones, verbose=0),
            lambda: model.score(ones),
            lambda: model.train_on_batch(ones[:1]),
            lambda: model.score(0.5 * ones + 0.25),
        ):
            with pytest.raises(tfebm.InvalidInputError, match=r"2 \* x - 1"):
                refused()
        model.fit(2 * ones - 1, verbose=0)
        model.evaluate(np.ones_like(ones[:1]), verbose=0)  # one bright example says nothing


class TestCompilation:
    """What XLA cannot compile, on a CPU."""

    def bicubic(self):
        return keras.Sequential(
            [
                keras.Input((4,)),
                layers.Reshape((2, 2, 1)),
                layers.UpSampling2D(interpolation="bicubic"),
            ]
        )

    def test_auto_takes_the_plain_graph(self):
        x = X.reshape(8, 4, 4, 1)
        model = latent_ebm(self.bicubic())
        model.compile()
        model.fit(x, verbose=0)
        assert np.isfinite(model.score(x)).all()

    def test_true_is_refused(self):
        model = latent_ebm(self.bicubic(), sampler=chain(jit_compile=True))
        with pytest.raises(tfebm.InvalidInputError, match=r"ResizeBicubic.*`jit_compile=False`"):
            model.score(X.reshape(8, 4, 4, 1))

    def test_a_whole_step_is_refused_in_words(self):
        model = tfebm.VAE(self.bicubic(), keras.Sequential([layers.Flatten(), layers.Dense(8)]))
        model.compile(jit_compile=True)
        model._jit_compile = True  # Keras drops it where a script's test has asked for determinism
        with pytest.raises(tfebm.InvalidInputError, match=r"jit_compile=True.*ResizeBicubic"):
            model.fit(X.reshape(8, 4, 4, 1), verbose=0)

    def test_every_chain_and_python_functions(self):
        def energy(z):
            return tf.numpy_function(lambda z: (z**2).sum(axis=1), [z], tf.float32)

        for sampler in (chain(), tfebm.HMC(2, 0.1), tfebm.MALA(2, 0.1)):
            assert sampler(energy, tf.ones([3, 2]), seed=0).shape == (3, 2)

    def test_the_rule_stays_for_all_else(self):
        def energy(parts, x):
            return tf.reduce_sum(tf.square(parts[0] - x), 1) + tf.reduce_sum(parts[1] ** 2, 1)

        parts = tf.ones([3, 2]), tf.ones([3, 4])
        assert compilation.resolve_jit_compile("auto", energy, (parts, parts[0]))
        assert compilation.resolve_jit_compile(True, energy, (parts, parts[0]))

        @tf.function(autograph=False)
        def within(x):  # what is captured from a graph around the energy
            found.append(compilation.resolve_jit_compile("auto", lambda z: energy(z, x), (parts,)))
            return x

        found = []
        within(parts[0])
        assert found == [True]
        with compilation.without_xla():
            assert not compilation.resolve_jit_compile(True, energy, (parts, parts[0]))

    def test_numeric_checks(self):
        sampler = chain()
        energy = latent_ebm().prior_energy
        z = tf.ones([3, 4])
        expected = sampler(energy, z, seed=0)
        tf.debugging.enable_check_numerics()
        try:
            np.testing.assert_allclose(sampler(energy, z, seed=0), expected, atol=1e-6)
        finally:
            tf.debugging.disable_check_numerics()


class TestCopies:
    def test_samplers_are_plain_data(self):
        for sampler in (chain(), tfebm.HMC(2, 0.1)):
            energy = net(1)
            expected = sampler(lambda z, e=energy: e(z)[:, 0], tf.ones([3, 4]), seed=0)
            for again in (
                copy.copy(sampler),
                copy.deepcopy(sampler),
                pickle.loads(pickle.dumps(sampler)),
            ):
                assert again.num_traces == 0
                assert again.get_config() == sampler.get_config()
                moved = again(lambda z, e=energy: e(z)[:, 0], tf.ones([3, 4]), seed=0)
                np.testing.assert_allclose(moved, expected, atol=1e-6)

    @pytest.mark.usefixtures("new_objects_alone")
    def test_a_shared_sampler_keeps_no_model_alive(self):
        sampler = chain()
        models = [latent_ebm(sampler=sampler) for _ in range(2)]
        for model in models:
            model.generate(2)
        assert sampler.num_traces == 2
        gone = weakref.ref(models.pop(0))
        del model
        model = models[0]
        gc.collect()
        assert gone() is None
        assert sampler.num_traces == 1
        model.generate(3)

    def test_tokenizers(self):
        for again in (copy.deepcopy(TOKENIZER), pickle.loads(pickle.dumps(TOKENIZER))):
            assert again.get_config() == TOKENIZER.get_config()
            np.testing.assert_array_equal(
                again.tokenize(tf.constant(["a dog"])).numpy()[0, 0], IDS[0, 0]
            )


MODELS = {
    "LatentEBM": (latent_ebm, X),
    "VAE": (lambda: tfebm.VAE(net(8), net(8, 8), latent_size=4), X),
    "FlowModel": (lambda: tfebm.FlowModel(tfebm.RealNVP(8, num_couplings=2, hidden_units=(8,))), X),
    "FlowEBM": (flow_ebm, X),
    "LanguageModel": (lambda: tfebm.LanguageModel(sentences()), IDS),
    "text": (lambda: latent_ebm(sentences()), IDS),
}


@pytest.mark.parametrize("name", MODELS)
def test_export_and_copies_answer_as_the_model(name, tmp_path):
    make, data = MODELS[name]
    model = make()
    model.compile()
    model.train_on_batch(data[:2])
    expected = model(data)
    model.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model")
    assert not must_compile(pathlib.Path(tmp_path / "model"))
    copied = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for again in (served.serve, *copied):
        answer = again(tf.convert_to_tensor(data))
        if answer.dtype == tf.string:
            np.testing.assert_array_equal(answer, expected)
        else:
            np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    if name == "LatentEBM":
        make().export(tmp_path / "untrained", verbose=False)


@pytest.fixture
def channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


@pytest.mark.usefixtures("channels_first")
def test_networks_of_images_have_channels_last_whatever_keras_is_set_to():
    x = np.tanh(np.random.default_rng(0).normal(size=(4, 12, 12, 3))).astype("float32")
    assert tfebm.DeconvGenerator((12, 12, 3), 2)(tf.zeros([2, 5])).shape == (2, 12, 12, 3)
    assert tfebm.ConvEncoder((12, 12, 3), 5, 2, 4)(x).shape == (4, 10)
    assert tfebm.EnergyConv((2, 2))(x).shape == (4,)
    layers_of = tfebm.MultilayerGenerator((12, 12, 3), (2, 3), 2)
    assert layers_of((tf.zeros([2, 2]), tf.zeros([2, 3]))).shape == (2, 12, 12, 3)
    glow = tfebm.Glow((12, 12, 3), levels=2, steps=1, width=2)
    glow.build()
    assert glow(tf.zeros([2, 432])).shape == (2, 12, 12, 3)
    classifier = tfebm.metrics.classifier_features(x, np.array([0, 1, 0, 1]), epochs=1)
    assert classifier.extract(x).shape == (4, 64)

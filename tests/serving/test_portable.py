"""Signatures at a fixed batch size and without gradients, for other runtimes."""

import runpy
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import graphs

import tfebm
from tfebm import random, serving

ACTIVATIONS = ("elu", "gelu", "leaky_relu", "relu", "relu6", "selu", "sigmoid", "silu", "softplus")
ACTIVATIONS += ("softsign", "tanh")
OTHERS = {
    "normalized": lambda x: x * tf.math.rsqrt(1.0 + tf.reduce_sum(x * x, axis=-1, keepdims=True)),
    "square_root": lambda x: tf.sqrt(1.0 + x * x),
    "reciprocal": lambda x: tf.math.reciprocal(2.0 + x * x),
}


class Derivatives(tf.Module):
    """Gradients of all activations, in a loop within a loop, over rows that broadcast."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable([[0.5], [-1.0]])

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")], autograph=False)
    def derivatives(self, x):
        outputs = {}
        for name in (*ACTIVATIONS, *OTHERS):
            activation = OTHERS.get(name) or keras.activations.get(name)

            def step(k, x, activation=activation):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    rows = tf.concat([x, tf.ones([tf.shape(x)[0], 1])], axis=1)
                    hidden = activation(rows[:, tf.newaxis, 3:0:-1] * self.weight)  # [B, 2, 3]
                    energy = tf.reduce_sum(tf.reduce_mean(hidden, axis=1), axis=1)
                return k + 1, x - tf.constant([0.5, 0.25])[k] * tape.gradient(energy, x)

            def twice(i, x, step=step):
                return i + 1, tf.while_loop(lambda k, x: k < 2, step, (0, x))[1]

            outputs[name] = tf.while_loop(lambda i, x: i < 2, twice, (0, x))[1]
        return outputs

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")], autograph=False)
    def calls(self, x):
        """A gradient through a function that is never inlined, in a loop; noise, which is one."""

        @tf.function(autograph=False, experimental_attributes={"_noinline": True})
        def energy(x, scale):
            return tf.reduce_sum(scale * tf.square(x) @ self.weight[:, 0, tf.newaxis])

        def step(k, x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = energy(x[:, 1:], tf.cast(k, tf.float32))
            return k + 1, x - 0.1 * tape.gradient(value, x)

        noise = random.row_normal(tf.constant([[3, 4]]), 0, 3)
        return {"x": tf.while_loop(lambda k, x: k < 3, step, (0, x + noise))[1]}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")], autograph=False)
    def branches(self, x):
        return {"x": tf.cond(tf.reduce_sum(x) > 0.0, lambda: x + self.weight[0], lambda: -x)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")], autograph=False)
    def convolved(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            pooled = tf.nn.max_pool2d(x[:, :, tf.newaxis, tf.newaxis], 2, 1, "SAME")
        return {"x": tape.gradient(pooled, x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")], autograph=False)
    def upper(self, text):
        return {"upper": tf.strings.upper(text)}


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory):
    path = tmp_path_factory.mktemp("derivatives")
    module = Derivatives()
    names = ("derivatives", "calls", "branches", "convolved", "upper")
    tf.saved_model.save(module, path, {name: getattr(module, name) for name in names})
    return path


def operations(path):
    graph = graphs(path).graph_def
    functions = graph.library.function
    return {node.op for node in graph.node} | {n.op for f in functions for n in f.node_def}


def ask(path, signature, **inputs):
    loaded = tf.saved_model.load(path)
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    return {k: v.numpy() for k, v in loaded.signatures[signature](**inputs).items()}


def test_derivatives_of_activations(derivatives, tmp_path):
    assert {"BroadcastGradientArgs", "TanhGrad", "LeakyReluGrad"} <= operations(derivatives)
    path = serving.make_portable(derivatives, "derivatives", tmp_path, 5)
    found = operations(path)
    assert not [name for name in found if "Grad" in name]
    assert not found & {"Erfc", "EnsureShape", "StopGradient"}
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    expected = ask(derivatives, "derivatives", x=x)
    answer = ask(path, "serving_default", x=x)
    assert sorted(answer) == sorted([*ACTIVATIONS, *OTHERS])
    for name, value in answer.items():
        assert np.abs(value - x).max() > 0.05, name
        np.testing.assert_allclose(value, expected[name], atol=2e-6, err_msg=name)


def test_calls_are_written_out(derivatives, tmp_path):
    def shared(path):
        names = [f.signature.name for f in graphs(path).graph_def.library.function]
        return [name for name in names if "energy" in name or "rows" in name]

    assert len(shared(derivatives)) >= 3  # the energy, its gradient and the noise
    path = serving.make_portable(derivatives, "calls", tmp_path, 4)
    assert not shared(path)
    assert "PlaceholderWithDefault" not in operations(path)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    expected = ask(derivatives, "calls", x=x)["x"]
    assert np.abs(expected - x).max() > 0.05
    np.testing.assert_allclose(ask(path, "serving_default", x=x)["x_out"], expected, atol=2e-6)


@pytest.mark.parametrize(
    "signature",
    [
        "generate",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("score", "reconstruct")),
    ],
)
def test_the_digits(root, tmp_path, signature):
    part = "generator" if signature == "generate" else "scorer"
    version = root / "savedmodels" / "mnist5k" / part / "1"
    path = serving.make_portable(version, signature, tmp_path, batch_size=3)
    assert not [name for name in operations(path) if name.endswith(("Grad", "GradientArgs"))]
    variables = tf.train.list_variables(str(path / "variables" / "variables"))
    assert [name for name, _ in variables] == ["_CHECKPOINTABLE_OBJECT_GRAPH"]
    inputs = {"seed": np.array([[0, 1], [-5, 2**31 - 1], [7, 7]], np.int32)}
    if part == "scorer":
        digits = tfebm.data.load_images("mnist5k").x_test[:150:50]
        inputs["image"] = tfebm.data.to_float(digits).numpy()
    answer = ask(path, "serving_default", **inputs)
    if signature == "reconstruct":  # a name stands for one tensor
        answer = {"image": answer.pop("image_out")}
    expected = ask(version, signature, **inputs)
    assert sorted(answer) == sorted(expected)
    for name, value in answer.items():
        assert value.shape == expected[name].shape
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_chain_of_a_flow(tmp_path):
    flow = tfebm.RealNVP(2, num_couplings=2, hidden_units=(4,))
    flow.build()
    flow.initialize(np.random.default_rng(0).normal(size=(8, 2)).astype("float32"))
    model = tfebm.FlowEBM(
        flow, tfebm.EnergyMLP((4,)), tfebm.HMC(2, 0.2, 2), num_chains=2, generation_steps=4
    )
    model.step_size.assign(0.35)
    version = serving.export(model, tmp_path, "flow").generator
    path = serving.make_portable(version, "generate", tmp_path, 4)
    seed = np.arange(8, dtype=np.int32).reshape(4, 2)
    answer, expected = ask(path, "serving_default", seed=seed), ask(version, "generate", seed=seed)
    for name, value in answer.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("signature", "batch_size", "message"),
    [
        ("energies", 1, "no signature 'energies'. Give one of branches, calls, convolved, deriv"),
        ("upper", 1, "of strings.*serve it with TensorFlow"),
        ("branches", 1, "type '(Stateless)?If'.*only loops and plain calls"),
        ("convolved", 1, "type 'MaxPoolGrad': a derivative"),
        ("derivatives", 0, "`batch_size`"),
    ],
)
def test_what_cannot_be_written(derivatives, tmp_path, signature, batch_size, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        serving.make_portable(derivatives, signature, tmp_path, batch_size)


def test_folders_that_do_not_do(derivatives, tmp_path):
    with pytest.raises(tfebm.InvalidInputError, match="cannot be loaded as a SavedModel"):
        serving.make_portable(tmp_path, "generate", tmp_path)
    (tmp_path / "derivatives").mkdir()
    with pytest.raises(tfebm.InvalidInputError, match="exists and is not a SavedModel"):
        serving.make_portable(derivatives, "derivatives", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(tfebm.WriteFailed, match="cannot be written"):
        serving.make_portable(derivatives, "derivatives", tmp_path / "file")


@pytest.mark.parametrize("command", ["portable", "extras"])
def test_a_copy_that_is_not_finished(root, tmp_path, monkeypatch, capsys, command):
    shutil.copytree(root / "savedmodels" / "mnist5k", tmp_path / "digits")
    (tmp_path / "digits" / "scorer" / "1" / "saved_model.pb").write_bytes(b"torn")
    flags = ["--output", str(tmp_path / "written")] if command == "portable" else []
    monkeypatch.setattr(sys, "argv", ["serving", command, str(tmp_path / "digits"), *flags])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("tfebm", run_name="__main__")
    assert stop.value.code == 2
    assert "cannot be read as a SavedModel" in capsys.readouterr().err
    assert not (tmp_path / "written").exists()


@pytest.mark.slow
def test_the_command(root, tmp_path):
    command = [sys.executable, "-m", "tfebm", "portable", str(root / "savedmodels/mnist5k")]
    flags = ["--batch-size", "2", "--output", str(tmp_path)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True, cwd=root)
    names = ["decode", "generate", "features", "infer", "reconstruct", "score"]
    assert done.stdout.splitlines() == [str(tmp_path / name) for name in names]
    latent = np.zeros((2, 16), np.float32)
    assert ask(tmp_path / "decode", "serving_default", latent=latent)["image"].shape[0] == 2

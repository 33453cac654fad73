"""OpenVINO and ONNX Runtime against TensorFlow, over real exports."""

import importlib
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfebm
from tfebm import serving

pytestmark = pytest.mark.extras

BATCH = 3
REASON = "the extra `interop` is not installed"


class OpenVINO:
    """Reads SavedModels itself."""

    def __init__(self, folder):
        self.openvino = pytest.importorskip("openvino", reason=REASON)

    def decode(self, version):
        """The decoder of an export as it is, for any number of rows."""
        loaded = tf.saved_model.load(version)  # holds the variables
        return self._compile(loaded.signatures["decode"])

    def read(self, path):
        """A portable signature, as a function of named arrays."""
        return self._compile(path)

    def _compile(self, source):
        network = self.openvino.convert_model(source)
        # Some processors would compute in less than float32 otherwise.
        precise = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = self.openvino.Core().compile_model(network, "CPU", precise)

        def run(inputs):
            named = {next(n for n in inputs if n in port.names): port for port in compiled.inputs}
            answer = compiled({port: inputs[name] for name, port in named.items()})
            return {name: value for port, value in answer.items() for name in port.names}

        return run


class ONNXRuntime:
    """Reads what tf2onnx made of a SavedModel."""

    def __init__(self, folder):
        self.convert = pytest.importorskip("tf2onnx.convert", reason=REASON)
        self.onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
        self.folder = folder

    def decode(self, version):
        return self._run(version, "--signature_def", "decode")

    def read(self, path):
        return self._run(path)

    def _run(self, path, *flags):
        output = self.folder / "model.onnx"
        argv = ["tf2onnx.convert", "--saved-model", str(path), "--output", str(output), *flags]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*argv, "--opset", "18"])
            self.convert.main()
        options = self.onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = self.onnxruntime.InferenceSession(
            output, options, providers=["CPUExecutionProvider"]
        )
        names = [entry.name for entry in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


@pytest.fixture(params=[OpenVINO, ONNXRuntime], ids=lambda each: each.__name__)
def runtime(request, tmp_path):
    return request.param(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A generator and a scorer of small colour images."""
    if not importlib.util.find_spec("openvino") and not importlib.util.find_spec("tf2onnx"):
        pytest.skip(REASON)
    model = tfebm.LatentEBM(
        tfebm.DeconvGenerator((32, 32, 3), 2),
        tfebm.EnergyMLP((6,), "silu"),
        latent_size=3,
        prior_sampler=tfebm.ShortRunLangevin(5, 0.3),
        posterior_sampler=tfebm.ShortRunLangevin(4, 0.05),
    )
    for weight in model.weights:
        weight.assign(2.0 * weight)
    return serving.export(model, tmp_path_factory.mktemp("small"), "small")


@pytest.fixture(scope="module")
def digits(root):
    base = root / "savedmodels" / "mnist5k"
    return serving.Export(base / "generator" / "1", base / "scorer" / "1")


def arrays(export, num_rows=BATCH):
    """Inputs of all signatures by name; real digits where digits are scored."""
    rng = np.random.default_rng(0)
    decode = tf.saved_model.load(export.generator).signatures["decode"]
    size = decode.structured_input_signature[1]["latent"].shape[1]
    if "mnist5k" in export.scorer.parts:
        image = tfebm.data.to_float(tfebm.data.load_images("mnist5k").x_test[: 50 * num_rows : 50])
    else:
        image = rng.uniform(-1, 1, (num_rows, 32, 32, 3)).astype("float32")
    return {
        "seed": rng.integers(-(2**31), 2**31, (num_rows, 2), dtype=np.int32),
        "latent": rng.normal(size=(num_rows, size)).astype("float32"),
        "image": np.asarray(image),
    }


def assert_same(answer, version, signature, inputs):
    loaded = tf.saved_model.load(version)
    expected = loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
    for name, value in expected.items():
        found = answer[f"{name}_out" if name in inputs else name]
        assert np.abs(value).max() > 1e-2, name
        np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-5, err_msg=name)


def check_portable(runtime, export, signature, folder):
    part = "generator" if signature in ("generate", "decode") else "scorer"
    version = getattr(export, part)
    path = serving.make_portable(version, signature, folder, BATCH)
    given = tf.saved_model.load(version).signatures[signature].structured_input_signature[1]
    inputs = {name: value for name, value in arrays(export).items() if name in given}
    assert_same(runtime.read(path)(inputs), version, signature, inputs)


@pytest.mark.parametrize("name", ["small", "digits"])
def test_decoders_of_exports_as_they_are(runtime, request, name):
    export = request.getfixturevalue(name)
    run = runtime.decode(export.generator)
    for num_rows in (1, 5):
        inputs = {"latent": arrays(export, num_rows)["latent"]}
        assert_same(run(inputs), export.generator, "decode", inputs)


@pytest.mark.parametrize("signature", ["generate", pytest.param("score", marks=pytest.mark.slow)])
def test_chains(runtime, small, tmp_path, signature):
    check_portable(runtime, small, signature, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "signature", ["decode", "generate", "score", "infer", "features", "reconstruct"]
)
def test_chains_of_the_digits(runtime, digits, tmp_path, signature):
    check_portable(runtime, digits, signature, tmp_path)

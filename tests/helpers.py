"""Small models that several tests share."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tfebm
from tfebm.models.parts import Batch
from tfebm.serving import c_api, extras

WAYS = ("object", "session", "C")
"""The ways in which `tests/serving/stranger.py` asks an export."""


def small_model(num_features=6, latent_size=3, steps=4, noise=1.0, jit=False, **kwargs):
    """A dense LatentEBM on vectors; float32 and quick."""
    generator = keras.Sequential(
        [
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(num_features),
        ]
    )
    return tfebm.LatentEBM(
        generator,
        tfebm.EnergyMLP((8,)),
        latent_size=latent_size,
        prior_sampler=tfebm.ShortRunLangevin(steps, 0.3, noise, jit_compile=jit),
        posterior_sampler=tfebm.ShortRunLangevin(steps, 0.1, noise, jit_compile=jit),
        **kwargs,
    )


def inferred(model, x, seeds, training):
    """Latents as a step of learning, or of an evaluation, has them."""
    rows = tf.ones([len(x)])
    batch = Batch(x, seeds, rows, tf.reduce_sum(rows), model.step.value, training, model)
    return model.inference.learn(batch)[0]


def vectors(num_rows, num_features=6, seed=0):
    """Standard normal rows, float32."""
    return np.random.default_rng(seed).normal(size=(num_rows, num_features)).astype("float32")


def weights_of(model):
    """Every weight by its place and name, as NumPy arrays; names of models are numbered."""
    return {f"{i} {v.name}": v.numpy() for i, v in enumerate(model.weights)}


def assert_weights_equal(model, other):
    """Bit for bit."""
    for path, value in weights_of(model).items():
        np.testing.assert_array_equal(value, weights_of(other)[path], err_msg=path)


def graphs(path):
    """The graphs of a SavedModel."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0]


def compiled_functions(path):
    """Names of what must be compiled with XLA, which a stock server refuses."""
    graph = graphs(path).graph_def
    functions = graph.library.function
    assert len(functions) > 0
    named = [(f.signature.name, f) for f in functions]
    nodes = [*graph.node, *(n for f in functions for n in f.node_def)]
    named += [(n.name, n) for n in nodes]
    return [name for name, each in named if each.attr["_XlaMustCompile"].b]


def signatures_of(export):
    """Inputs and outputs by the name of the signature, each with a leading batch axis."""
    seen = {}
    for path in export:
        for name, signature in graphs(path).signature_def.items():
            if name.startswith("__"):
                continue
            tensors = {**signature.inputs, **signature.outputs}
            for key, info in tensors.items():
                assert info.tensor_shape.dim[0].size == -1, (name, key)
            seen[name] = (set(signature.inputs), set(signature.outputs))
    assert seen.pop("serving_default")
    return seen


def strangers_visit(versions, folder, repeats=3, timeout=300):
    """What `tests/serving/stranger.py` gets from versions of exports, all in one process.

    Args:
        versions: Paths and the inputs of all their signatures, arrays by name, by a name of ours.
        folder: Where files may be left.
        repeats: How often each input is spoilt in each way.
        timeout: Seconds.

    Returns:
        Answers, by "version way signature output"; and how many malformed requests of each kind
        were survived, by version and signature.
    """
    request = {}
    for name, (path, arrays) in versions.items():
        request[name] = {"path": str(path), "repeats": repeats, "arrays": {}, "signatures": {}}
        for key, value in arrays.items():
            dtype = "U" if value.dtype.kind == "U" else value.dtype.name
            request[name]["arrays"][key] = {"value": value.tolist(), "dtype": dtype}
        for signature, info in extras.read_signatures(path).items():
            if signature != extras.DEFAULT_SIGNATURE:
                request[name]["signatures"][signature] = {
                    "inputs": {
                        key: {
                            "tensor": each.name,
                            "dtype": tf.as_dtype(each.dtype).name,
                            "shape": [dim.size for dim in each.tensor_shape.dim[1:]],
                        }
                        for key, each in info.inputs.items()
                    },
                    "outputs": {key: each.name for key, each in info.outputs.items()},
                }
    (folder / "request.json").write_text(json.dumps(request))
    script = pathlib.Path(__file__).with_name("serving") / "stranger.py"
    files = [folder / "request.json", folder / "answers.npz"]
    done = subprocess.run(
        [sys.executable, *map(str, (script, c_api.__file__, *files))],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(files[1])), json.loads(done.stdout.splitlines()[-1])


def shell_commands(path, program):
    """Words of a Markdown file's commands that begin with `program`."""
    blocks = re.findall(r"^```bash\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(program)]


def rest_inputs(body, signature):
    """Arrays by the inputs of a `SignatureDef`, of the body of a request to TensorFlow Serving's
    REST: rows are under "instances", columns under "inputs", and a single input may go without its
    name."""
    assert ("instances" in body) != ("inputs" in body)
    rows = body.get("instances")
    if rows is None:
        columns = body["inputs"]
    elif isinstance(rows[0], dict):
        assert all(set(row) == set(rows[0]) for row in rows)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
    else:
        columns = rows
    if not isinstance(columns, dict):
        (name,) = signature.inputs
        columns = {name: columns}
    return {
        name: np.asarray(column, tf.as_dtype(signature.inputs[name].dtype).as_numpy_dtype)
        for name, column in columns.items()
    }

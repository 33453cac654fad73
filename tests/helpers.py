"""Small models that several tests share."""

import json
import os
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
from tfebm.serving import c_api, extras

# Runs in a process of its own; as TensorFlow Serving does, it refuses to compile with XLA.
STRANGER = """
import json, os, sys
for name in ("tfebm", "keras"):
    sys.modules[name] = None  # importing either would fail
sys.path.insert(0, os.path.dirname(sys.argv[3]))
import c_api
import numpy as np
import tensorflow as tf

library = c_api.load_library()
c_api.disable_xla(library)
request = json.load(open(sys.argv[1]))
arrays = {k: np.asarray(v["value"], v["dtype"]) for k, v in request["arrays"].items()}


def plain(value):
    return value.astype("U") if value.dtype == object else value


results = {}
for part, path in request["models"].items():
    loaded = tf.saved_model.load(path)
    for name, signature in loaded.signatures.items():
        inputs = {k: tf.constant(arrays[k]) for k in signature.structured_input_signature[1]}
        for key, value in signature(**inputs).items():
            results[f"object {name} {key}"] = plain(value.numpy())
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], path)
        without_python = c_api.Session(path, library)
        for name in loaded.signatures:
            signature = meta.signature_def[name]
            feed = {v.name: arrays[k] for k, v in signature.inputs.items()}
            fetch = {k: v.name for k, v in signature.outputs.items()}
            for key, value in session.run(fetch, feed).items():
                results[f"session {name} {key}"] = plain(np.asarray(value))
            answers = without_python.run(list(fetch.values()), feed)
            for key, value in zip(fetch, answers, strict=True):
                results[f"C {name} {key}"] = plain(value)
        without_python.close()
np.savez(sys.argv[2], **results)
"""
WAYS = ("object", "session", "C")


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


def strangers_answers(export, arrays, folder):
    """What `STRANGER` gets from both parts of an export: arrays by "way signature output"."""
    request = {
        "models": {part: str(getattr(export, part)) for part in export._fields},
        "arrays": {
            k: {"value": v.tolist(), "dtype": "U" if v.dtype.kind == "U" else v.dtype.name}
            for k, v in arrays.items()
        },
    }
    (folder / "request.json").write_text(json.dumps(request))
    answer = folder / "answer.npz"
    arguments = [str(folder / "request.json"), str(answer), c_api.__file__]
    subprocess.run([sys.executable, "-c", STRANGER, *arguments], check=True, cwd=folder)
    return np.load(answer)


def survives_malformed_requests(path, folder, count, timeout=300):
    """How many malformed requests of each kind, by signature, a version of an export survived."""
    signatures = {
        name: {
            "inputs": {
                key: {
                    "tensor": info.name,
                    "dtype": tf.as_dtype(info.dtype).name,
                    "shape": [dim.size for dim in info.tensor_shape.dim[1:]],
                }
                for key, info in signature.inputs.items()
            },
            "outputs": {key: info.name for key, info in signature.outputs.items()},
        }
        for name, signature in extras.read_signatures(path).items()
        if name != extras.DEFAULT_SIGNATURE
    }
    library = os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2")
    request = {"path": str(path), "library": library, "signatures": signatures, "count": count}
    (folder / "request.json").write_text(json.dumps(request))
    script = pathlib.Path(__file__).with_name("serving") / "malformed.py"
    done = subprocess.run(
        [sys.executable, str(script), c_api.__file__, str(folder / "request.json")],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert all(sum(kinds.values()) == count for kinds in seen.values())
    return seen


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

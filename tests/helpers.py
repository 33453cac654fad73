"""Small models that several tests share."""

import keras
import numpy as np
from tensorflow.core.protobuf import saved_model_pb2

import tfebm

# Runs in a process of its own; as TensorFlow Serving does, it refuses to compile with XLA.
STRANGER = """
import ctypes, json, os, sys
for name in ("tfebm", "keras"):
    sys.modules[name] = None  # importing either would fail
import numpy as np
import tensorflow as tf

library = os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2")
ctypes.CDLL(library)._ZN10tensorflow21DisableXlaCompilationEv()
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
        for name in loaded.signatures:
            signature = meta.signature_def[name]
            feed = {v.name: arrays[k] for k, v in signature.inputs.items()}
            fetch = {k: v.name for k, v in signature.outputs.items()}
            for key, value in session.run(fetch, feed).items():
                results[f"session {name} {key}"] = plain(np.asarray(value))
np.savez(sys.argv[2], **results)
"""


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

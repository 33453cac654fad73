"""Exports as a stranger meets them: a program of its own, without tfebm, Keras and XLA.

`python stranger.py C_API REQUEST ANSWERS` asks every signature of every version for the answer to
the same inputs, as a loaded object, through a session of TensorFlow 1 and through TensorFlow's C
API, and writes them. Then it spoils every input in every way, some times each, through the C API,
as a server makes its calls, and prints how many malformed requests of each kind there were, as
JSON; anything wrong ends it with an `AssertionError`, and a crash is seen as one and not as the end
of the tests.
"""

import collections
import importlib.util
import json
import sys

for name in ("tfebm", "keras"):
    sys.modules[name] = None  # importing either would fail

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

ROWS = 3
REFUSED = ("type", "rank", "size", "rows", "empty", "missing")
FLOATS = {"nan": np.nan, "infinity": np.inf, "huge": 3e38, "tiny": 1e-45}
TEXTS = {
    "not UTF-8": b"\xff\xfe caf\xe9 \xc0\x80",
    "half a character": "caf\u00e9".encode()[:-1],
    "nothing": b"",
    "white space": b" \t\n\r ",
    "a zero": b"a\x00b the",
    "long": b"the " * 20_000,
    "one long word": b"x" * 100_000,
    "special words": b"<pad> <s> </s> <unk> the",
    "right to left": "\u202e\u0627\u0644".encode(),
}


def main():
    spec = importlib.util.spec_from_file_location("c_api", sys.argv[1])
    c_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(c_api)
    with open(sys.argv[2], encoding="utf-8") as file:
        request = json.load(file)
    library = c_api.load_library()
    c_api.disable_xla(library)
    # Graphs are optimised once, where they are run as a server runs them.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    answers, report = {}, {}
    for version, asked in request.items():
        session = c_api.Session(asked["path"], library)
        arrays = {k: np.asarray(v["value"], v["dtype"]) for k, v in asked["arrays"].items()}
        for key, value in _answers(asked["path"], session, asked["signatures"], arrays).items():
            answers[f"{version} {key}"] = value.astype("U") if value.dtype == object else value
        report[version] = {
            name: _attack(
                *(session, c_api.CApiError, signature, np.random.default_rng(0), asked["repeats"]),
                # For each set of inputs TensorFlow optimises the graph anew: once is enough.
                lacking=name == next(iter(asked["signatures"])),
            )
            for name, signature in asked["signatures"].items()
        }
        session.close()
    np.savez(sys.argv[3], **answers)
    print(json.dumps(report))


def _answers(path, without_python, names, arrays):
    found = {}
    loaded = tf.saved_model.load(path)
    for name in names:
        signature = loaded.signatures[name]
        inputs = {k: tf.constant(arrays[k]) for k in signature.structured_input_signature[1]}
        for key, value in signature(**inputs).items():
            found[f"object {name} {key}"] = value.numpy()
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], path)
        for name in names:
            signature = meta.signature_def[name]
            feed = {v.name: arrays[k] for k, v in signature.inputs.items()}
            fetch = {k: v.name for k, v in signature.outputs.items()}
            for key, value in session.run(fetch, feed).items():
                found[f"session {name} {key}"] = np.asarray(value)
            answers = without_python.run(list(fetch.values()), feed)
            for key, value in zip(fetch, answers, strict=True):
                found[f"C {name} {key}"] = value
    return found


def _attack(session, error, signature, rng, repeats, lacking):
    fetches = list(signature["outputs"].values())

    def ask(inputs):
        feeds = {signature["inputs"][key]["tensor"]: value for key, value in inputs.items()}
        return dict(zip(signature["outputs"], session.run(fetches, feeds), strict=True))

    good = {key: _valid(key, info, rng) for key, info in signature["inputs"].items()}
    expected = ask(good)
    seen = collections.Counter()
    requests = [(key, kind) for key in good for kind in _kinds(good, key)]
    if not lacking:
        requests = [(key, kind) for key, kind in requests if kind != "missing"]
    for key, kind in requests * repeats:
        bad = {k: v.copy() for k, v in good.items()}
        row = int(rng.integers(ROWS))
        if kind in REFUSED:
            _refused(ask, error, _spoil(bad, key, kind, rng), (key, kind))
        else:
            # One pixel is enough.
            place = (row, *(rng.integers(size) for size in bad[key].shape[1:]))
            bad[key][place] = TEXTS[kind] if bad[key].dtype == object else FLOATS[kind]
            found = ask(bad)
            others = np.arange(ROWS) != row
            for name, value in found.items():
                _assert_same(value[others], expected[name][others], (key, kind, name))
            if kind == "nan":
                _assert_flagged({k: v[row] for k, v in found.items()}, (key, kind))
            if kind == "long":
                assert found["cut"][row], key
        seen[kind] += 1
    for name, value in ask(good).items():
        _assert_same(value, expected[name], ("afterwards", name))
    return dict(sorted(seen.items()))


def _valid(key, info, rng):
    shape = [ROWS, *info["shape"]]
    if info["dtype"] == "string":
        return np.array([b"the cat", b"a dog barks", b"the"], object)
    if info["dtype"] == "int32":
        return rng.integers(-(2**31), 2**31, shape, dtype=np.int32)
    return rng.uniform(-1, 1, shape).astype(info["dtype"])


def _kinds(good, key):
    kinds = [k for k in REFUSED if k != "rows" or len(good) > 1]
    kinds = [k for k in kinds if k != "size" or good[key].ndim > 1]
    special = {"f": FLOATS, "O": TEXTS}.get(good[key].dtype.kind, {})
    return [*kinds, *special]


def _spoil(bad, key, kind, rng):
    value = bad[key]
    if kind == "type":
        kinds = [t for t in (np.int64, np.float64, np.float32, np.int32) if t != value.dtype]
        bad[key] = np.zeros(value.shape, kinds[rng.integers(len(kinds))])
    elif kind == "rank":
        axis = rng.integers(value.ndim + 1)
        shapes = [np.expand_dims(value, axis), value[0], value.reshape(-1, 1, 1, 1, 1, 1)]
        bad[key] = np.asarray(shapes[rng.integers(3)], value.dtype)
    elif kind == "size":
        axis = int(rng.integers(1, value.ndim))
        size = int(rng.choice([0, value.shape[axis] + 1, 2 * value.shape[axis]]))
        shape = [*value.shape[:axis], size, *value.shape[axis + 1 :]]
        bad[key] = np.zeros(shape, value.dtype)
    elif kind == "rows":
        bad[key] = value[: int(rng.integers(1, ROWS))]
    elif kind == "empty":
        bad.update({k: v[:0] for k, v in bad.items()})
    elif kind == "missing":
        del bad[key]
    return bad


def _refused(ask, error, bad, what):
    try:
        ask(bad)
    except error:
        return
    raise AssertionError(f"{what} was answered")


def _assert_same(found, expected, what):
    assert found.shape == expected.shape, what
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=str(what))
    else:
        np.testing.assert_array_equal(found, expected, err_msg=str(what))


def _assert_flagged(row, what):
    numbers = [value for value in row.values() if np.asarray(value).dtype.kind == "f"]
    assert not row.get("valid", True) or numbers, what
    for value in numbers:
        assert np.isnan(value).any(), what


if __name__ == "__main__":
    main()

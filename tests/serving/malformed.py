"""Malformed requests to an export, through TensorFlow's C API as a server makes its calls.

A script of its own, `python malformed.py C_API REQUEST`, so that a crash is seen as one and not as
the end of the tests. Prints how many requests of each kind there were, as JSON; anything wrong ends
it with an `AssertionError`.
"""

import collections
import importlib.util
import json
import sys

import numpy as np

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
    library = c_api.load_library(request["library"])
    c_api.disable_xla(library)
    session = c_api.Session(request["path"], library)
    report = {}
    for name, signature in request["signatures"].items():
        rng = np.random.default_rng(0)
        report[name] = _attack(session, c_api.CApiError, signature, rng, request["count"])
    session.close()
    print(json.dumps(report))


def _attack(session, error, signature, rng, count):
    fetches = list(signature["outputs"].values())

    def ask(inputs):
        feeds = {signature["inputs"][key]["tensor"]: value for key, value in inputs.items()}
        return dict(zip(signature["outputs"], session.run(fetches, feeds), strict=True))

    good = {key: _valid(key, info, rng) for key, info in signature["inputs"].items()}
    expected = ask(good)
    seen = collections.Counter()
    for _ in range(count):
        key = str(rng.choice(list(good)))
        kind = str(rng.choice(_kinds(good, key)))
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

"""The requests that `savedmodels/README.md` shows, against the exports that it shows."""

import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from helpers import graphs, rest_inputs, shell_commands
from PIL import Image

import tfebm

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "savedmodels" / "README.md"


def requests():
    """Model and body of each request to a model of the checkout."""
    for _, url, flag, body in shell_commands(README, "curl"):
        match = re.fullmatch(r"http://localhost:8501/v1/models/(\w+)_(\w+):predict", url)
        assert flag == "-d"
        if (ROOT / "savedmodels" / match[1]).is_dir():
            yield pytest.param(ROOT / "savedmodels" / match[1] / match[2] / "1", body, id=match[2])


@pytest.mark.parametrize(("version", "body"), requests())
def test_requests_are_answered(version, body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digit = tfebm.data.load_images("mnist5k").x_test[0]
    if body.startswith("@"):
        Image.fromarray(digit[..., 0]).save("digit.png")
        (program,) = re.findall(r"```python\n(import json\n.*?)```", README.read_text(), re.DOTALL)
        exec(program, {})
        body = pathlib.Path(body[1:]).read_text("utf-8")
    body = json.loads(body)
    name = body.get("signature_name", "serving_default")
    signature = graphs(version).signature_def[name]
    inputs = rest_inputs(body, signature)
    assert set(inputs) == set(signature.inputs)
    if "image" in inputs:
        np.testing.assert_allclose(inputs["image"][0], tfebm.data.to_float(digit), atol=1e-6)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(version))
        fetch = {key: info.name for key, info in signature.outputs.items()}
        answer = session.run(fetch, {signature.inputs[k].name: v for k, v in inputs.items()})
    num_rows = len(next(iter(inputs.values())))
    for key, info in signature.outputs.items():
        sizes = [dim.size for dim in info.tensor_shape.dim]
        assert list(answer[key].shape) == [num_rows, *sizes[1:]]
        assert np.isfinite(answer[key]).all()


def test_all_signatures_that_the_readme_lists_are_there():
    rows = re.findall(r"^\| (generator|scorer) \| `(\w+)`", README.read_text(), re.MULTILINE)
    found = [
        (part, name)
        for part in ("generator", "scorer")
        for name in graphs(ROOT / "savedmodels/mnist5k" / part / "1").signature_def
        if not name.startswith("__") and name != "serving_default"
    ]
    assert sorted(rows) == sorted(found)

"""Importing tfebm pulls in nothing that is not needed yet."""

import json
import subprocess
import sys

import tfebm

HEAVY = (
    *("matplotlib", "tensorflow_datasets", "tensorflow_text", "sklearn", "mlxtend"),
    *("tensorboard", "PIL"),
)

PROGRAM = f"""
import json, sys
import keras, tensorflow
before = set(sys.modules)
import tfebm
new = set(sys.modules) - before
assert keras.saving.get_registered_object("tfebm>LatentEBM") is tfebm.LatentEBM
print(json.dumps([name for name in {HEAVY!r} if name in new]))
"""


def test_import_is_light_and_registers_the_classes():
    """A saved model loads where `import tfebm` came before, and nothing of it was asked for."""
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(output.splitlines()[-1]) == []


def test_everything_named_is_there():
    for name in tfebm.__all__:
        assert getattr(tfebm, name) is not None
    for package in (tfebm.data, tfebm.samplers, tfebm.models, tfebm.callbacks, tfebm.runs):
        for name in package.__all__:
            assert getattr(package, name).__doc__

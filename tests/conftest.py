"""Two logical CPU devices stand in for two GPUs; they must exist before the first operation."""

import gc
import os
import pathlib
import sys

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the scripts do

import keras
import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# Tracing graphs makes objects by the million, and the collector would walk over all of TensorFlow
# again and again.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "train"))  # the scripts, as modules


def pytest_addoption(parser):
    parser.addoption(
        "--require-extras",
        action="store_true",
        help="a test that skips, as for want of an extra, fails instead",
    )


def _fail_instead(config, report):
    """Turns a skip into a failure where `--require-extras` asks for it."""
    if config.getoption("--require-extras") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"--require-extras lets nothing skip. {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _fail_instead(collector.config, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _fail_instead(item.config, (yield))


def pytest_collection_modifyitems(items):
    """The scripts first: theirs are the longest files, and a core would wait for the last one."""
    items.sort(key=lambda item: item.path.parent != ROOT / "tests" / "train")


@pytest.fixture(autouse=True)
def _weights_seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def new_objects_alone():
    """`gc.collect()` looks at what the test makes, and not at the millions of objects of the tests
    before it."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT


@pytest.fixture
def golden():
    """Loads `tests/golden/<name>.npz`."""
    return lambda name: np.load(ROOT / "tests" / "golden" / f"{name}.npz")


@pytest.fixture(scope="session")
def mirrored():
    """A strategy of two replicas. One for all tests: strategies over the same devices number
    their collective operations alike, and the runtime takes the second one's for the first's."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

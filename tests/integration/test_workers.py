"""Two workers, processes of their own, train like one device. Keras promises nothing here."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import launch
import numpy as np
import pytest
import tensorflow as tf
from helpers import small_model, vectors, weights_of

from tfebm.callbacks import complete_checkpoints, step_of

# Run by each worker; the strategy comes before any operation. At its end the chief takes along a
# model that needs nobody.
WORKER = """
import json, pathlib, sys

from tfebm.runs import make_strategy

strategy = make_strategy("multiworker", worker_timeout=120)
import numpy as np
from helpers import weights_of
from test_workers import ROWS, batches, compiled, train

import tfebm
from tfebm.models import workers

folder, place = pathlib.Path(sys.argv[1]), workers.place(strategy)
with strategy.scope():
    model = compiled()
checkpoint = tfebm.callbacks.Checkpoint(folder / str(place))
report = {
    "history": train(model, [checkpoint]),
    "lists": workers.lists(range(place + 1), strategy),
    "texts": workers.texts(f"I am {place}.", strategy),
    "chief's": [
        array.tolist()
        for array in workers.from_chief(
            [np.full((1, 2), place + 7.0), np.zeros((2, 0)), np.array([place + 3], "int32")],
            strategy,
        )
    ],
    "refused": [],
}
calls = (
    lambda: model.fit(ROWS),
    lambda: model.predict(ROWS),
    lambda: model.fit(batches().repeat()),
    lambda: model.fit(batches(), verbose=0, callbacks=[tfebm.callbacks.Checkpoint(folder, keep=1)]),
)
for call in calls:
    try:
        call()
    except tfebm.InvalidInputError as error:
        report["refused"].append(str(error))
np.savez(folder / f"weights{place}.npz", **weights_of(model))
if place == 1:  # as if it had been killed before it saved the last one
    newest = tfebm.callbacks.complete_checkpoints(folder / "1")[-1]
    newest.rename(folder / "lost")
report["restored"] = tfebm.callbacks.Checkpoint(folder / str(place)).restore(model)["step"]
(folder / f"report{place}.json").write_text(json.dumps(report))
if place == 0:
    alone = workers.without_strategy(model)
    assert alone.optimizer.iterations == 10
    assert np.isfinite(alone.score(ROWS)).all()
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(weights_of(alone)[name], value)
workers.wait(strategy)
"""
# Data whose end is known, and figures of data that are held out.
EVALUATION = """
from tfebm.runs import make_strategy

strategy = make_strategy("multiworker", worker_timeout=120)
import json, pathlib, sys
from test_workers import compiled, evaluate
from tfebm.models import workers

with strategy.scope():
    model = compiled()
report = pathlib.Path(sys.argv[1]) / f"report{workers.place(strategy)}.json"
report.write_text(json.dumps(evaluate(model)))
workers.wait(strategy)
"""
ROWS = vectors(10)


def batches():
    """Of 3, 3, 3 and 1: two workers cannot halve any of them, and one has no row of the last."""
    rows = tf.data.Dataset.from_tensor_slices(ROWS).batch(3)
    return rows.map(lambda x: (x, tf.zeros(tf.shape(x)[0])))  # with labels, which are ignored


def compiled():
    keras.utils.set_random_seed(0)
    model = small_model()
    # Adam divides by the size of a gradient; near zero that would turn rounding into steps.
    model.compile(*(keras.optimizers.Adam(1e-2, epsilon=1e-3, clipnorm=0.5) for _ in range(2)))
    return model


def train(model, callbacks=()):
    """Twenty steps; the history."""
    options = {"steps_per_epoch": 10, "epochs": 2, "verbose": 0, "shuffle": False}
    return model.fit(batches().repeat(), callbacks=callbacks, **options).history


def evaluate(model):
    """Two epochs to the end of the data, with a validation, and an evaluation."""
    options = {"epochs": 2, "verbose": 0, "shuffle": False}
    history = model.fit(batches(), validation_data=batches().take(2), **options).history
    return {**history, "evaluated": model.evaluate(batches(), verbose=0)}


def run_two(script, folder):
    """Runs `script` as two workers, until both have ended well."""
    here = pathlib.Path(__file__).parent
    rooms = (here, here.parent, here.parents[1], here.parents[1] / "train")
    path = os.pathsep.join(map(str, rooms))
    processes = []
    for i, config in enumerate(launch.cluster_configs(2)):
        environ = {"TF_CONFIG": config, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, "-c", script, str(folder)]
        with (folder / f"log{i}").open("w") as log:
            processes.append(subprocess.Popen(command, env={**os.environ, **environ}, stderr=log))
    try:
        for i, process in enumerate(processes):
            code = process.wait(timeout=300)
            assert code == 0, (folder / f"log{i}").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two workers leave after 20 steps."""
    folder = tmp_path_factory.mktemp("workers")
    run_two(WORKER, folder)
    return folder


def loaded(two, name):
    with np.load(two / f"{name}.npz") as file:
        return dict(file)


def report(two, place):
    return json.loads((two / f"report{place}.json").read_text())


@pytest.fixture(scope="module")
def one():
    """One device after the same steps, and its history."""
    model = compiled()
    return model, train(model)


def test_two_workers_give_the_weights_of_one_device(one, two):
    expected = weights_of(one[0])
    assert int(one[0].step.numpy()) == 20
    for place in (0, 1):
        found = loaded(two, f"weights{place}")
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=0, err_msg=name)


def test_their_figures_are_those_of_the_global_batch(one, two):
    for place in (0, 1):
        found = report(two, place)["history"]
        for name, values in one[1].items():
            assert found[name] == pytest.approx(values, rel=1e-4, abs=1e-4), name


def test_what_workers_tell_each_other(two):
    for place in (0, 1):
        found = report(two, place)
        assert found["lists"] == [[0], [0, 1]]
        assert found["texts"] == ["I am 0.", "I am 1."]
        assert found["chief's"] == [[[7.0, 7.0]], [[], []], [3]]


def test_what_they_cannot_do_is_a_sentence(two):
    for place in (0, 1):
        arrays, predict, endless, keep = report(two, place)["refused"]
        assert "Received ndarray" in arrays
        assert "several workers would wait" in predict
        assert "Give `steps_per_epoch`" in endless
        assert "`keep=1`; give at least 2" in keep


def test_they_go_on_from_the_newest_checkpoint_that_both_have(two):
    assert [report(two, place)["restored"] for place in (0, 1)] == [10, 10]
    # The later one is gone: it would outlive those that are yet to come.
    steps = [[step_of(path) for path in complete_checkpoints(two / str(i))] for i in (0, 1)]
    assert steps == [[10], [10]]


@pytest.mark.slow
def test_evaluation_and_data_whose_end_is_known(tmp_path):
    run_two(EVALUATION, tmp_path)
    for name, values in evaluate(compiled()).items():
        for place in (0, 1):
            found = report(tmp_path, place)[name]
            assert found == pytest.approx(values, rel=1e-4, abs=1e-4), name

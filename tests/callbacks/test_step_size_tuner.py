import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import assert_weights_equal, vectors

import tfebm
from tfebm.callbacks import StepSizeTuner
from tfebm.runs import RunDirectory, RunSettings, training

X = vectors(24)


def compiled(step_size=0.001):
    generator = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(6)])
    sampler = tfebm.ShortRunLangevin(4, step_size, jit_compile=False)
    model = tfebm.ShortRunModel(generator, 3, sampler)
    model.compile(keras.optimizers.Adam(1e-2))
    return model


def test_it_tunes_before_the_first_step_and_every_few_epochs(tmp_path):
    model = compiled()
    tuner = StepSizeTuner(X, every=2, criterion="kl", path=tmp_path / "tuning.json")
    history = model.fit(X, batch_size=8, epochs=5, verbose=0, callbacks=[tuner]).history
    records = json.loads((tmp_path / "tuning.json").read_text())
    assert [record["step"] for record in records] == [0, 6, 12]
    assert [record["epoch"] for record in records] == [0, 2, 4]
    assert len(records[0]["search"]["candidates"]) == 10
    assert len(records[1]["search"]["candidates"]) == 5
    np.testing.assert_allclose(records[2]["schedule"], model.posterior_step_size, atol=1e-7)
    assert history["step_size_first"][0] > 0.005  # chosen before the first step
    assert history["tuning_seconds"][0] > 0
    assert history["tuning_seconds"][1] == history["tuning_seconds"][3] == 0
    # Searches compile nothing anew.
    traces = model.posterior_sampler.num_traces
    tuner.tune(epoch=6)
    assert model.posterior_sampler.num_traces == traces


def test_a_resumed_run_tunes_like_an_uninterrupted_one(tmp_path):
    """Cut short within an epoch, and then behind a search that is in no checkpoint."""
    data = SimpleNamespace(x_train=X)

    def run(name, steps, resume=False):
        keras.utils.set_random_seed(0)
        model = compiled()
        directory = RunDirectory(tmp_path / name)
        settings = RunSettings(batch_size=8, epochs=3, steps=steps, resume=resume)
        path = directory.path / "tuning.json"
        tuner = StepSizeTuner(X, every=1, criterion="ksd", path=path)
        if resume:
            tuner.restore()
        training.train(model, data, settings, directory, extra_callbacks=[tuner])
        return model, tuner

    expected, whole = run("whole", 0)
    run("parts", 4)
    _, tuner = run("parts", 6, resume=True)
    tuner.tune(epoch=2)  # of a process that is killed before the next checkpoint
    model, parts = run("parts", 0, resume=True)
    assert_weights_equal(model, expected)
    for a, b in zip(whole.records, parts.records, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert [record["step"] for record in parts.records] == [0, 3, 6]


def test_it_tunes_at_every_call_of_fit():
    model = compiled()
    tuner = StepSizeTuner(X, every=1, criterion="kl")
    for _ in range(3):
        model.fit(X, batch_size=24, epochs=1, verbose=0, callbacks=[tuner])
    assert [record["step"] for record in tuner.records] == [0, 1, 2]


def test_it_can_only_look():
    model = compiled(0.02)
    tuner = StepSizeTuner(X, every=0, apply=False)
    model.fit(X, batch_size=8, epochs=2, verbose=0, callbacks=[tuner])
    assert len(tuner.records) == 1
    np.testing.assert_allclose(model.posterior_step_size, 0.02)


def test_where_nothing_can_be_chosen_the_step_sizes_stay():
    model = compiled(0.02)
    tuner = StepSizeTuner(X, criterion="kl", values=[50.0, 60.0])
    tuner.set_model(model)
    with pytest.warns(UserWarning, match="stay as they are.*None of the 2 step sizes"):
        tuner.on_epoch_begin(0)
    np.testing.assert_allclose(model.posterior_step_size, 0.02)
    assert tuner.records[0]["search"] is None


def test_a_record_that_cannot_be_read(tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text('[{"step": 1}]')
    with pytest.raises(tfebm.InvalidInputError, match=r"cannot be read.*epoch"):
        StepSizeTuner(X, path=path).restore()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "mse"}, "kl, ksd, entropy"),
        ({"every": -1}, "every"),
        ({"num_examples": 0}, "num_examples"),
        ({"around": 0.1}, "Received around"),
        ({"nonsense": 3}, "Received nonsense"),
        ({"x": X[:0]}, "Received none"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(tfebm.InvalidInputError, match=message):
        StepSizeTuner(**{"x": X, **arguments})

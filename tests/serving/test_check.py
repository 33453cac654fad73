"""`python -m tfebm check`: good exports pass, and what a server would refuse is said."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import small_model

import tfebm
import tfebm.__main__
from tfebm import runs, serving
from tfebm.serving import check, extras, served


@pytest.fixture(scope="module")
def model():
    return small_model(steps=2)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return serving.export(model, tmp_path_factory.mktemp("exports"), "vectors", version=3)


@pytest.fixture
def copy(exported, tmp_path):
    """A scorer that a test may spoil."""
    return copied(exported.scorer, tmp_path / "vectors" / "scorer" / "3")


def copied(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target)
    return target


@pytest.fixture
def command(monkeypatch, capsys):
    """The command in this process: its exit code, what it printed, and its last words."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tfebm", *map(str, arguments)])
        try:
            runs.run_command(tfebm.__main__.main, again="start again")
        except SystemExit as stop:
            return stop.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def quick(*paths):
    return check.check_versions(paths, batch_sizes=(1,), seconds=0.0)


# ---- Versions that a server would refuse, looked at in one process ------------------------


def must_be_compiled(exported, path):
    module = tf.Module()
    compiled = tf.function(lambda seed: {"y": 2 * seed}, jit_compile=True)
    module.f = tf.function(lambda seed: compiled(seed))
    signature = module.f.get_concrete_function(tf.TensorSpec([None, 2], tf.int32, name="seed"))
    tf.saved_model.save(module, str(path), {"serving_default": signature})


def lost_variable(exported, path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        seed = tf.compat.v1.placeholder(tf.int32, [None, 2], "seed")
        kept, lost = (
            tf.compat.v1.get_variable(name, initializer=1, use_resource=True)
            for name in ("kept", "lost")
        )
        session.run(tf.compat.v1.global_variables_initializer())
        signature = tf.compat.v1.saved_model.predict_signature_def(
            {"seed": seed}, {"y": seed + kept + lost}
        )
        builder = tf.compat.v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            *(session, ["serve"], {"serving_default": signature}),
            saver=tf.compat.v1.train.Saver([kept]),
        )
        builder.save()


def no_batch_axis(exported, path):
    module = tf.Module()
    module.f = tf.function(lambda seed: {"y": tf.reduce_sum(seed)})
    signature = module.f.get_concrete_function(tf.TensorSpec([None, 2], tf.int32, name="seed"))
    tf.saved_model.save(module, str(path), {"serving_default": signature})


def cut_weights(exported, path):
    data = copied(exported.generator, path) / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])


def no_weights(exported, path):
    shutil.rmtree(copied(exported.generator, path) / "variables")


def no_extras(exported, path):
    shutil.rmtree(copied(exported.generator, path) / "assets.extra")


def brackets(exported, path):
    copied(exported.generator, path)


def somebody_elses(exported, path):
    """Sizes that are open are tried with 1; what does not take that is named, and no fault."""

    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
        def total(self, x):
            return {"y": tf.reduce_sum(x, axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
        def three(self, x):
            return {"y": tf.matmul(x, tf.ones([3, 2]))}

        @tf.function(
            input_signature=[
                tf.TensorSpec([], tf.float32, name="x"),
                tf.TensorSpec([None], tf.complex64, name="c"),
                tf.TensorSpec(None, tf.bfloat16, name="u"),
                tf.TensorSpec([2, None], tf.string, name="s"),
            ]
        )
        def odd(self, x, c, u, s):
            return {"x": x, "c": c, "u": u, "s": s}

    other = Other()
    names = {"serving_default": other.total, "three": other.three, "odd": other.odd}
    tf.saved_model.save(other, str(path), names)


SPOILT = (must_be_compiled, lost_variable, no_batch_axis, cut_weights, no_weights, no_extras)
SPOILT += (brackets, somebody_elses)


@pytest.fixture(scope="module")
def reports(exported, tmp_path_factory):
    """Reports on all of them, by what was done to them."""
    folder = tmp_path_factory.mktemp("run[1] *")
    paths = {spoil.__name__: folder / spoil.__name__ / "1" for spoil in SPOILT}
    for spoil in SPOILT:
        spoil(exported, paths[spoil.__name__])
    return dict(zip(paths, quick(*paths.values()), strict=True))


def test_functions_that_must_be_compiled(reports):
    problems = reports["must_be_compiled"].problems
    assert "must be compiled with XLA" in problems[0]
    # The process that does as a server does comes to the same end.
    assert "does not answer" in problems[-1]


def test_a_variable_that_holds_nothing(reports):
    assert reports["lost_variable"].problems[-1] == "The variable 'lost' holds nothing."


def test_an_output_without_a_batch_axis(reports):
    assert "has not one row per row" in reports["no_batch_axis"].problems[-1]


def test_weights_that_are_lost(reports):
    """The reason is what TensorFlow says, and not the place in the graph that stands behind it."""
    (problem,) = reports["cut_weights"].problems
    assert "cannot use it" in problem
    assert "[[" not in problem
    assert "Read less bytes than requested" in problem, problem
    (problem,) = reports["no_weights"].problems
    assert "is not a valid checkpoint" in problem
    assert str(reports["no_weights"].path) in problem


def test_brackets_in_a_path(reports, exported):
    path = reports["brackets"].path
    assert "[1] *" in str(path)
    assert reports["brackets"].problems == []
    seeds = np.zeros([2, 2], "int32")
    assert served.Loaded(served.find(str(path), "generator", "generate"))(None, seeds)[
        "example"
    ].shape == (2, 6)


def test_a_savedmodel_of_somebody_else(reports):
    report = reports["somebody_elses"]
    (problem,) = report.problems
    assert "It has no assets.extra" in problem
    text = check.describe(report)
    assert "three was not tried: it leaves sizes open" in text
    assert "In[0]: [1,1], In[1]: [3,2]" in text
    assert "serving_default: x float32 [B, ?] -> y float32 [B]" in text
    assert check.newest_versions(report.path) == [report.path]


def test_one_that_ends_the_process_costs_no_other(exported, tmp_path, monkeypatch):
    program = tmp_path / "probe.py"
    program.write_text(
        "import json, os, sys\n"
        "for version in json.load(open(sys.argv[1]))['versions']:\n"
        "    if os.path.realpath(version['path']).endswith('generator/3'):\n"
        "        sys.exit('out of memory')\n"
        "    print(json.dumps({'uninitialised': [], 'signatures': {}}), flush=True)\n"
    )
    monkeypatch.setattr(check, "_PROBE", program)
    found = quick(exported.scorer, exported.generator, exported.scorer)
    assert [len(report.problems) for report in found] == [0, 1, 0]
    assert found[1].problems[0].endswith("cannot use it: out of memory")


# ---- The command --------------------------------------------------------------------------


def test_a_good_export_passes(exported):
    base = exported.scorer.parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "tfebm", "check", str(base), "--seconds", "0.02"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "score: example float32 [B, 6], seed int32 [B, 2] -> score float32 [B]",
        "model LatentEBM, latent_size 3, num_steps {'prior_sampler': 2, 'posterior_sampler': 2}",
        "10 warm-up requests replayed",  # 5 signatures of the scorer, with 1 and with 8 rows
    ):
        assert line in done.stdout
    assert done.stdout.count("A stock server would serve it.") == 2
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("  score ")]
    assert [int(row[1]) for row in rows] == [1, 8, 64]
    assert all(0 < float(row[3]) <= float(row[4]) for row in rows)  # p50 and p99


def test_what_lies_beside_an_export(exported):
    base = exported.scorer.parents[1]
    models = (base / "models.config").read_text()
    for part in extras.PARTS:
        assert f'name: "vectors_{part}"' in models
        assert f'base_path: "/models/vectors/{part}"' in models
    assert "allowed_batch_sizes: 64\n" in (base / "batching.config").read_text()
    requests = extras.read_warmup_requests(exported.generator)
    asked = {(name, len(next(iter(inputs.values())))) for name, inputs in requests}
    names = ("decode", "generate", "serving_default")
    assert asked == {(name, size) for name in names for size in (1, 8)}


def test_an_export_that_lacks_its_extras_gets_them(reports, exported, command, tmp_path):
    (problem,) = reports["no_extras"].problems
    assert "python -m tfebm extras" in problem
    base = copied(exported.scorer.parents[1], tmp_path / "vectors")
    for folder in base.glob("*/*/assets.extra"):
        shutil.rmtree(folder)
    (base / "models.config").unlink()
    assert command("extras", base) == (0, "", "")
    assert (base / "models.config").is_file()
    for part, path in zip(extras.PARTS, exported, strict=True):
        written = base / part / "3" / extras.WARMUP
        assert written.read_bytes() == (path / extras.WARMUP).read_bytes()


def test_folders_that_hold_no_export(copy, tmp_path, command):
    code, _, error = command("check", tmp_path / "vectors")  # no generator
    assert code == 2
    assert "has no version of a generator" in error
    assert "Traceback" not in error
    with pytest.raises(tfebm.InvalidInputError, match="no version of a generator"):
        check.newest_versions(tmp_path / "nowhere")
    for content in (b"no protocol buffer", b""):
        (copy / "saved_model.pb").write_bytes(content)
        assert "cannot be read as a SavedModel" in quick(copy)[0].problems[0]
    (copy / "saved_model.pb").unlink()
    assert "cannot be read as a SavedModel" in quick(copy)[0].problems[0]


def test_savedmodels_that_no_server_could_ask(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"))
    (problem,) = quick(tmp_path / "1")[0].problems
    assert "It has no signature" in problem
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        builder = tf.compat.v1.saved_model.Builder(str(tmp_path / "2"))
        builder.add_meta_graph_and_variables(session, ["train"])
        builder.save()
    (problem,) = quick(tmp_path / "2")[0].problems
    assert "no graph with the tag 'serve'; its graphs have train" in problem
    (tmp_path / "3").write_text("")
    assert "cannot be read as a SavedModel" in quick(tmp_path / "3")[0].problems[0]


def test_a_finished_run_is_exported(model, tmp_path, command):
    run = tfebm.runs.RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.begin("test", {"seed": 0})
    run.save_model(model)
    base = tmp_path / "models" / "vectors"
    code, _, error = command("export", run.path, base)
    assert code == 2
    assert "metrics.json missing" in error
    run.metrics.write_text('{"final": {"steps": 1}}')
    for version in ("1", "2"):
        code, output, error = command("export", run.path, base)
        assert (code, error) == (0, "")
        assert output.splitlines()[-1] == str(base / "scorer" / version)
    seed = tf.constant([[0, 1]])
    found = tf.saved_model.load(base / "generator" / "2").signatures["generate"](seed=seed)
    np.testing.assert_allclose(found["latent"].shape, (1, 3))
    np.testing.assert_allclose(
        found["example"], model.generate(1, seed=seed.numpy()), rtol=1e-5, atol=1e-5
    )

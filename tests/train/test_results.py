"""The page of results holds what its records do, and its rows are commands that run."""

import fnmatch
import json
import pathlib
import re
import shlex

import pytest
import results
import short_run
from experiments import results_page

from benchmarks import compare_inference
from tfebm.errors import InvalidInputError
from tfebm.runs import parse

ROOT = pathlib.Path(results.__file__).parents[1]


def test_the_page_holds_the_figures_of_the_records():
    """`python train/results.py --page` mends it."""
    assert (results.RESULTS / "README.md").read_text("utf-8") == results.page()


def test_every_record_names_its_command():
    for path in results.RESULTS.glob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        assert record["command"], path.name
        assert '"/' not in path.read_text("utf-8"), "a path of a machine"


@pytest.mark.parametrize("path", sorted(results.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_records_are_of_the_rows_commands(path):
    record = json.loads(path.read_text("utf-8"))
    command = results.rows()[path.stem]
    assert record["command"] == f"python {command}"
    if "settings" not in record:
        return
    asked = parsed(*shlex.split(command))
    assert record["settings"] == json.loads(json.dumps(asked.to_record()))
    evidence = record["final"]["test"].get("evidence") or {}
    if "num_examples" in evidence:
        assert evidence["num_examples"] == asked.evidence_examples


def parsed(script, *flags):
    """The settings of a script's command line."""
    module = __import__(pathlib.Path(script).stem)
    default = getattr(module, "default_preset", "laptop")
    return parse(module.Settings, module.PRESETS, default, module.__doc__, flags)[0]


def test_sentences_are_compared_with_themselves():
    """Records whose differences are on the page have bounds of the same test sentences."""
    template = (results.RESULTS / "template.txt").read_text("utf-8")
    pairs = set(re.findall(r"\{\{(\w+) - (\w+) ::", template))
    assert pairs
    for pair in pairs:
        one, other = (json.loads((results.RESULTS / f"{n}.json").read_text("utf-8")) for n in pair)
        assert (
            one["final"]["test"]["evidence"]["rows"] == other["final"]["test"]["evidence"]["rows"]
        )


def test_every_record_is_on_the_page():
    template = (results.RESULTS / "template.txt").read_text("utf-8")
    names = ",".join(re.findall(r"\{\{(.+?)::", template)).replace(" - ", ",")
    patterns = {name.strip() for name in names.split(",")}
    for path in results.RESULTS.glob("*.json"):
        assert any(fnmatch.fnmatch(path.stem, pattern) for pattern in patterns), path.name


@pytest.mark.parametrize("name", results.rows())
def test_rows_have_flags_that_scripts_take(name):
    script, *flags = shlex.split(results.rows()[name])
    if script == "-m":
        assert flags[:2] == ["benchmarks", "compare_inference"]
        options, shared = compare_inference.parse(flags[2:])
        for variant in options.variants:
            parse(
                *(short_run.Settings, short_run.PRESETS, "laptop", ""),
                [*compare_inference.VARIANTS[variant], *shared],
            )
        return
    parsed(script, *flags)


RECORDS = {
    "run_0": {"test": {"a": 1.0, "lists": [{"k": "x", "v": 2}, {"k": "y", "v": 5}]}},
    "run_1": {"test": {"a": 2.0, "lists": []}},
    "other": {"a": [3, 4], "one, two": 1234},
}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("run_0 :: test/a :: .2f", "1.00"),
        ("run_* :: test/a :: spread .2f", "1.50 ± 0.71"),
        ("run_* :: test/a :: mean .1f", "1.5"),
        ("run_0 :: test/lists[k=y]/v :: d", "5"),
        ("run_0 :: test/lists[]/v :: sum d", "7"),
        ("other :: a[] :: largest d", "4"),
        ("other :: a[0] :: d", "3"),
        ("other :: one, two :: ,", "1,234"),
        ("run_1 - run_0 :: test/a :: .1f", "1.0"),
        ("other - other :: a[] :: error .1f", "0.0 ± 0.0"),
        ("other :: a[] :: error .1f", "3.5 ± 0.5"),
    ],
)
def test_references(reference, expected):
    assert results_page.figure(reference, RECORDS) == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("run_9 :: a :: d", "no record run_9"),
        ("run_0, run_9 :: test/a :: mean d", "no record run_9"),
        ("run_0 :: test/b :: d", "record run_0 has no test/b"),
        ("* :: test/a :: mean .1f", "record other has no test/a"),
        ("run_0 - run_9 :: test/a :: d", "no record run_9"),
        ("run_0 - run_? :: test/a :: d", "longer than"),
        ("run_0 :: test/a :: meen .2f", "'meen' is no way"),
        ("run_0 :: test/a :: spread .2f", "at least two"),
        ("run_0 :: test :: .2f", "unsupported format"),
        ("other :: a[7] :: d", "out of range"),
        ("other :: a", "not enough values"),
    ],
)
def test_a_reference_to_nothing_is_an_error(reference, message):
    with pytest.raises(InvalidInputError, match=message):
        results_page.figure(reference, RECORDS)


def test_several_values_are_never_taken_for_one():
    with pytest.raises(InvalidInputError, match="there are 2 values"):
        results_page.figure("run_* :: test/a :: .2f", RECORDS)


PROGRAM = """
import json, pathlib, sys
flags = sys.argv[1:]
folder = pathlib.Path(flags[flags.index("--output") + 1])
folder.mkdir(parents=True, exist_ok=True)
name = folder / "metrics.json"
if "--json" in flags:
    name = pathlib.Path(flags[flags.index("--json") + 1])
found = {"flags": flags, "data_space": 1.5}
name.write_text(json.dumps(found))
sys.exit(flags.count("fail"))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a script, data, and nothing made yet."""
    (tmp_path / "script.py").write_text(PROGRAM)
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "set.npz").write_bytes(b"")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "template.txt").write_text("{{a_row :: data_space :: .2f}}")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFEBM_DATA", "my data")
    return tmp_path


def test_a_row_runs_and_leaves_a_record_and_the_page(project, monkeypatch):
    command = "script.py --dataset $TFEBM_DATA/set.npz"
    monkeypatch.setattr(results, "rows", lambda: {"a_row": command})
    for time, resume in enumerate(([], ["--resume"], [])):
        results.main(["a_row", *resume])
        (project / "runs" / "a_row" / "mine.txt").write_text("mine")
        record = json.loads((project / "results" / "a_row.json").read_text())
        assert record["command"] == f"python {command}"
        assert record["flags"][:2] == ["--dataset", "$TFEBM_DATA/set.npz"]
        assert ("--resume-or-begin" in record["flags"]) == bool(resume)
        assert record.get("resumed", False) == bool(resume)
        # What an earlier run left is not taken up; the script knows what it may remove.
        assert ("--overwrite" in record["flags"]) == (time == 2)
        assert record["data_space"] == 1.5
        assert record["machine"]["cores"] >= 1
    assert (project / "results" / "README.md").read_text() == "1.50"


def test_an_earlier_benchmark_is_not_removed(project, monkeypatch):
    (project / "runs" / "a_row").mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="holds an earlier a_row"):
        results.make("a_row", "-m benchmarks images", resume=False)


def test_a_row_that_fails_leaves_the_record_as_it_was(project, capsys):
    results.make("a_row", "script.py", resume=False)
    before = (project / "results" / "a_row.json").read_text()
    with pytest.raises(SystemExit) as stop:
        results.make("a_row", "script.py fail fail", resume=False)
    assert stop.value.code == 2  # the command's own
    assert "a_row ended with exit code 2; there is no new record" in capsys.readouterr().err
    assert (project / "results" / "a_row.json").read_text() == before


def test_missing_data_and_names_are_told_before_anything_runs(project, monkeypatch, capsys):
    table = {"first": "script.py", "second": "script.py --dataset $TFEBM_DATA/other.npz"}
    monkeypatch.setattr(results, "rows", lambda: table)
    with pytest.raises(InvalidInputError, match=r"second needs data .*: other.npz. Set TFEBM_DATA"):
        results.main(["first", "second"])
    monkeypatch.delenv("TFEBM_DATA")
    with pytest.raises(InvalidInputError, match=r"Received none"):
        results.main(["*"])
    with pytest.raises(SystemExit):
        results.main(["first", "nothing_of_this"])
    assert "There is no row nothing_of_this" in capsys.readouterr().err
    assert not (project / "runs").exists()
    results.main([])
    assert "second\n    python script.py" in capsys.readouterr().out


def test_a_comparison_takes_no_run_that_was_made_with_other_flags(tmp_path):
    folder = tmp_path / "vae_0"
    folder.mkdir()
    test = {
        "reconstruction_mse": 0.1,
        "frechet_distance": {"value": 2.0, "classifier_test_accuracy": 0.9},
        "kernel_distance": {"value": 3.0},
    }
    final = {"steps": 4, "session_seconds": 1.0, "test": test}
    record = {"epochs": [{"seconds": 0.25}, {"seconds": 0.5}], "final": final}
    (folder / "metrics.json").write_text(json.dumps(record))
    shared = ["--dataset", "/there/digits.npz"]
    with pytest.raises(SystemExit, match="was made with other flags than --model vae"):
        compare_inference.train("vae", 0, shared, tmp_path)
    flags = ["--model", "vae", *shared, "--seed", "0"]
    (folder / "flags.json").write_text(json.dumps(flags))
    found = compare_inference.train("vae", 0, shared, tmp_path)
    assert found["command"].endswith("--model vae --dataset digits.npz --seed 0")
    assert found["kernel_distance"] == 3.0
    assert (found["seconds"], found["training_seconds"]) == (1.0, 0.75)
    with pytest.raises(SystemExit, match="other flags"):
        compare_inference.train("vae", 0, [*shared, "--epochs", "2"], tmp_path)
    with pytest.raises(SystemExit):
        compare_inference.parse(["--seed", "3"])

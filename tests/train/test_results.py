"""The page of results holds what its records do, and its rows are commands that run."""

import fnmatch
import json
import pathlib
import re
import shlex

import pytest
import results

from tfebm.runs import settings

ROOT = pathlib.Path(results.__file__).parents[1]


def test_the_page_holds_the_figures_of_the_records():
    """`python train/results.py --page` mends it."""
    assert (results.RESULTS / "README.md").read_text("utf-8") == results.page()


def test_every_record_names_its_command():
    for path in results.RESULTS.glob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        assert record["command"], path.name
        assert '"/' not in path.read_text("utf-8"), "a path of a machine"


def test_every_record_is_on_the_page():
    template = (results.RESULTS / "template.txt").read_text("utf-8")
    patterns = {match.strip() for match in re.findall(r"\{\{(.+?)::", template)}
    for path in results.RESULTS.glob("*.json"):
        assert any(fnmatch.fnmatch(path.stem, pattern) for pattern in patterns), path.name


@pytest.mark.parametrize("name", results.rows())
def test_rows_have_flags_that_scripts_take(name):
    script, *flags = shlex.split(results.rows()[name])
    if script == "-m":
        assert (ROOT / f"{flags[0]}/{flags[1]}.py").exists()
        return
    module = __import__(pathlib.Path(script).stem)
    default = getattr(module, "default_preset", "laptop")
    settings.parse(module.Settings, module.PRESETS, default, module.__doc__, flags)


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
    ],
)
def test_references(reference, expected):
    assert results.figure(reference, RECORDS) == expected


@pytest.mark.parametrize("reference", ["run_9 :: a :: d", "run_0 :: test/b :: d"])
def test_a_reference_to_nothing_is_an_error(reference):
    with pytest.raises(SystemExit, match="No record has"):
        results.figure(reference, RECORDS)


def test_several_values_are_never_taken_for_one():
    with pytest.raises(SystemExit, match="2 values"):
        results.figure("run_* :: test/a :: .2f", RECORDS)


def test_a_row_runs_and_leaves_a_record(tmp_path, monkeypatch):
    data = ROOT / "tests"  # any folder: the script below only repeats the name
    script = tmp_path / "script.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "flags = sys.argv[1:]\n"
        "folder = pathlib.Path(flags[flags.index('--output') + 1])\n"
        "folder.mkdir(parents=True)\n"
        "(folder / 'metrics.json').write_text(json.dumps({'flags': flags, 'final': 3}))\n"
    )
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("TFEBM_DATA", str(data))
    results.make("a_row", f"{script} --dataset $TFEBM_DATA/conftest.py", resume=False)
    record = json.loads((tmp_path / "a_row.json").read_text())
    assert record["command"].endswith("--dataset $TFEBM_DATA/conftest.py")
    assert record["flags"][1] == "$TFEBM_DATA/conftest.py"
    assert "--overwrite" in record["flags"]
    assert record["final"] == 3
    assert record["machine"]["cores"] >= 1
    with pytest.raises(SystemExit, match="exit code 2"):
        results.make("none", "no_such_script.py", resume=True)
    assert not (tmp_path / "none.json").exists()


def test_missing_data_and_names_are_told(monkeypatch, capsys):
    monkeypatch.delenv("TFEBM_DATA", raising=False)
    with pytest.raises(SystemExit, match=r"Set TFEBM_DATA to the folder with cifar10_subset.npz"):
        results.main(["short_run_cifar10_subset"])
    with pytest.raises(SystemExit):
        results.main(["nothing_of_this"])
    assert "There is no row nothing_of_this" in capsys.readouterr().err
    results.main([])
    assert "flow_ebm_mnist5k\n    python train/flow_ebm.py" in capsys.readouterr().out

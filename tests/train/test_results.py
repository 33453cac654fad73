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
        ("run_1 - run_0 :: test/a :: .1f", "1.0"),
        ("other - other :: a[] :: error .1f", "0.0 ± 0.0"),
        ("other :: a[] :: error .1f", "3.5 ± 0.5"),
    ],
)
def test_references(reference, expected):
    assert results.figure(reference, RECORDS) == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("run_9 :: a :: d", "No record has"),
        ("run_0 :: test/b :: d", "No record has"),
        ("run_0 - run_9 :: test/a :: d", "No record has"),
        ("run_0 :: test/a :: meen .2f", "asks for 'meen'"),
    ],
)
def test_a_reference_to_nothing_is_an_error(reference, message):
    with pytest.raises(SystemExit, match=message):
        results.figure(reference, RECORDS)


def test_several_values_are_never_taken_for_one():
    with pytest.raises(SystemExit, match="2 values"):
        results.figure("run_* :: test/a :: .2f", RECORDS)


PROGRAM = """
import json, pathlib, sys
flags = sys.argv[1:]
folder = pathlib.Path(flags[flags.index("--output") + 1])
folder.mkdir(parents=True, exist_ok=True)
name = folder / "metrics.json"
if "--json" in flags:
    name = pathlib.Path(flags[flags.index("--json") + 1])
found = {"flags": flags, "data_space": 1.5, "found": len(list(folder.iterdir()))}
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
    for resume in ([], ["--resume"], []):
        results.main(["a_row", *resume])
        record = json.loads((project / "results" / "a_row.json").read_text())
        assert record["command"] == f"python {command}"
        assert record["flags"][:2] == ["--dataset", "$TFEBM_DATA/set.npz"]
        assert ("--resume-or-begin" in record["flags"]) == bool(resume)
        assert record.get("resumed", False) == bool(resume)
        assert record["found"] == len(resume)  # what an earlier run left is not taken up
        assert record["data_space"] == 1.5
        assert record["machine"]["cores"] >= 1
    assert (project / "results" / "README.md").read_text() == "1.50"


def test_a_row_that_fails_leaves_the_record_as_it_was(project):
    results.make("a_row", "script.py", resume=False)
    before = (project / "results" / "a_row.json").read_text()
    with pytest.raises(SystemExit, match="a_row ended with exit code 1; there is no new record"):
        results.make("a_row", "script.py fail", resume=False)
    assert (project / "results" / "a_row.json").read_text() == before


def test_missing_data_and_names_are_told_before_anything_runs(project, monkeypatch, capsys):
    table = {"first": "script.py", "second": "script.py --dataset $TFEBM_DATA/other.npz"}
    monkeypatch.setattr(results, "rows", lambda: table)
    with pytest.raises(SystemExit, match=r"second needs data .*: other.npz. Set TFEBM_DATA"):
        results.main(["first", "second"])
    monkeypatch.delenv("TFEBM_DATA")
    with pytest.raises(SystemExit, match=r"Received none"):
        results.main(["*"])
    with pytest.raises(SystemExit):
        results.main(["first", "nothing_of_this"])
    assert "There is no row nothing_of_this" in capsys.readouterr().err
    assert not (project / "runs").exists()
    results.main([])
    assert "second\n    python script.py" in capsys.readouterr().out

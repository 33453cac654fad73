"""Imports point one way: a room knows only what stands below it, and nothing stands in a circle.

The order of the rooms is in `pyproject.toml`, where import-linter reads it too. Imports within
functions, under `TYPE_CHECKING` and of modules whose names are strings count like any other.
"""

import ast
import copy
import importlib.util
import pathlib
import tomllib

import grimp
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What loads all public names when it is asked for one.
LAZY = {("tfebm.start", "tfebm.api")}


@pytest.fixture(scope="module")
def layers():
    """Sets of rooms, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    return [{name.strip(" ()") for name in layer.split("|")} for layer in contract["layers"]]


@pytest.fixture(scope="module")
def graph():
    return imports_of("tfebm")


def imports_of(package):
    """The imports of a package, by name and by a string that is a module's name."""
    graph = grimp.build_graph(package, include_external_packages=True, cache_dir=None)
    folder = pathlib.Path(importlib.util.find_spec(package).origin).parent
    for path in folder.rglob("*.py"):
        module = ".".join([package, *path.relative_to(folder).with_suffix("").parts])
        module = module.removesuffix(".__init__")
        tree = ast.parse(path.read_text("utf-8"))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        for other in strings.intersection(graph.modules) - {module, package}:
            if other.startswith(f"{package}.") and (module, other) not in LAZY:
                graph.add_import(importer=module, imported=other)
    return graph


def wrong(graph, layers, package="tfebm"):
    """Pairs of rooms of which the first must not know the second."""
    found = graph.find_illegal_dependencies_for_layers(layers, containers={package})
    return {
        tuple(name.removeprefix(f"{package}.") for name in (each.importer, each.imported))
        for each in found
    }


def test_imports_point_down(graph, layers):
    assert wrong(graph, layers) == set()


def test_every_room_has_its_place(graph, layers):
    rooms = {name.removeprefix("tfebm.") for name in graph.find_children("tfebm")}
    assert rooms - set().union(*layers) == set()


def test_no_room_knows_the_scripts(graph):
    scripts = {path.stem for path in (ROOT / "train").glob("*.py")}
    assert scripts.isdisjoint(name for name in graph.modules if "." not in name)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("tfebm.serving.export", "tfebm.runs.directory"),
        ("tfebm.samplers", "tfebm.models"),
        ("tfebm.energies", "tfebm.flows"),  # neighbours
        ("tfebm.errors", "tfebm.files"),  # a circle
    ],
)
def test_a_wrong_arrow_is_found(graph, layers, importer, imported):
    changed = copy.deepcopy(graph)
    changed.add_import(importer=importer, imported=imported)
    rooms = tuple(name.split(".")[1] for name in (importer, imported))
    assert rooms in wrong(changed, layers)


@pytest.mark.parametrize(
    "text",
    [
        "from house import roof",
        "def up():\n    import house.roof",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.roof import tile",
        "import importlib\ndef __getattr__(_):\n    return importlib.import_module('house.roof')",
    ],
)
def test_no_arrow_hides(tmp_path, monkeypatch, text):
    (tmp_path / "house").mkdir()
    for name, content in {"__init__": "", "roof": "tile = 1", "cellar": text}.items():
        (tmp_path / "house" / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert wrong(imports_of("house"), [{"roof"}, {"cellar"}], "house") == {("cellar", "roof")}

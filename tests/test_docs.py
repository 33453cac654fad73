"""The pages of `docs/`: the tutorial's code runs, and every public name has a place."""

import dataclasses
import inspect
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfebm

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"


def test_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """On fewer images, and for one epoch."""
    text = (DOCS / "tutorial.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    load_images = tfebm.data.load_images

    def fewer(*arguments, **settings):
        data = load_images(*arguments, **settings)
        return dataclasses.replace(
            data,
            x_train=data.x_train[::20],
            y_train=data.y_train[::20],
            x_test=data.x_test[::10],
            y_test=data.y_test[::10],
        )

    monkeypatch.setattr(tfebm.data, "load_images", fewer)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks)
    assert code.count("epochs=3") == 1
    names = {}
    exec(compile(code.replace("epochs=3", "epochs=1"), "tutorial.md", "exec"), names)
    assert names["images"].shape == (16, 28, 28, 1)
    assert names["found"].num_anomalies == 50
    assert (tmp_path / "samples.png").exists()
    assert "AUPRC" in capsys.readouterr().out


def test_parts_of_ones_own_run():
    """A sampler, a prior and a model of the page are used, trained and asked."""
    blocks = re.findall(
        r"```python\n(.*?)```", (DOCS / "your_own_parts.md").read_text("utf-8"), re.S
    )
    names = {}
    exec(compile("\n".join(blocks), "your_own_parts.md", "exec"), names)
    assert names["trace"].energy.shape == (21, 8)
    assert names["draws"].shape == (4, 3)
    assert len(names["scores"]) == 4
    chain = names["Momentum"](2, 0.2, jit_compile=False)
    model = tfebm.LatentEBM(keras.layers.Dense(3), tfebm.EnergyMLP((4,)), 2, chain, chain)
    model.compile()
    assert model.fit(np.zeros((4, 3), "float32"), verbose=0).history["loss"][0] > 0
    assert model.endpoints().scorer.keys() == {"score", "infer", "reconstruct", "features"}


OTHERS = ("README.md", "CHANGELOG.md", "benchmarks/README.md", "savedmodels/README.md")
PAGES = [*sorted(DOCS.rglob("*.md")), *(DOCS.parent / name for name in OTHERS)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if ":" in target:
            continue
        path, _, heading = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", found.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert heading in slugs, target


def test_the_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    built = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "api" / "models" / "index.html").read_text("utf-8")
    assert "maximum likelihood" in page  # of a docstring


def test_every_public_module_has_a_page():
    modules = {name for name in tfebm.__all__ if inspect.ismodule(getattr(tfebm, name))}
    # Errors are names of the package itself.
    assert {path.stem for path in (DOCS / "api").glob("*.md")} == {*modules, "errors"}

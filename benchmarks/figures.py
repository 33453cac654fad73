"""Pictures of records: `speed.png` and `scaling.png`.

  python -m benchmarks figures             of the records in runs/benchmarks, beside them
  python -m benchmarks figures FOLDER      of those in another folder

Each is drawn where its records are there. In `speed.png` a mark is how many times as long as
tfebm's median a side takes, and the line through it goes from its shortest to its longest run.
"""

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
OURS = "tfebm"


class Work(NamedTuple):
    """A part of the picture of speeds, which has some of the tables."""

    title: str
    record: str
    chosen: Callable[[dict[str, Any]], bool]
    """Of the rows of the record."""


def _of(**values: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda row: all(row.get(key) == value for key, value in values.items())


WORKS = (
    Work("prior chain, batch 1,000", "prior_chain", _of(batch=1000)),
    Work("posterior chain, SVHN preset", "images", _of(preset="svhn", what="chain")),
    Work("learning step, SVHN preset", "images", _of(preset="svhn", what="learn")),
    Work("learning step, default model", "images", _of(preset="laptop", what="learn")),
    Work("multi-layer chain, default", "layer_chain", _of(preset="laptop")),
    Work("multi-layer chain, paper", "layer_chain", _of(preset="paper")),
    Work("text chain, dropout 0.5", "text_chain", _of(dropout=0.5)),
)
LIMIT = "products alone"  # no way to run the work
COLOURS = {
    OURS: "C3",
    "PyTorch": "C0",
    "JAX": "C2",
    "torchebm": "C4",
    "TensorFlow": "C1",
}


def read(folder: pathlib.Path, name: str) -> Rows:
    """Rows of a record that were measured; none where it is not there."""
    path = folder / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in rows if "median_seconds" in row]


def draw_speed(folder: pathlib.Path) -> Figure | None:
    """Every work with all its sides, the fastest first; None without records."""
    parts = []
    for work in WORKS:
        rows = [row for row in read(folder, work.record) if work.chosen(row)]
        rows = [row for row in rows if row["side"] != LIMIT]
        if rows:
            parts.append((work.title, sorted(rows, key=lambda row: row["median_seconds"])))
    if not parts:
        return None
    heights = [len(rows) + 1 for _, rows in parts]
    figure = Figure(figsize=(8.5, 0.24 * sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(parts), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axis, (title, rows) in zip(axes, parts, strict=True):
        ours = next(row["median_seconds"] for row in rows if row["side"] == OURS)
        for place, row in enumerate(rows):
            low, high = (seconds / ours for seconds in row["spread_seconds"])
            package = row["side"].split(",")[0].split(" ")[0]
            colour = COLOURS.get(package, "grey")
            axis.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.5)
            axis.plot(row["median_seconds"] / ours, place, "o", color=colour, markersize=6)
        axis.set_yticks(range(len(rows)), [row["side"] for row in rows], fontsize="small")
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.axvline(1, color="grey", linestyle="--", linewidth=0.8)
        axis.grid(axis="x", alpha=0.3)
        axis.set_title(title, loc="left", fontsize="medium")
    axes[-1].set_xlabel("time, in units of tfebm's median (to the right: slower)")
    return figure


def draw_scaling(folder: pathlib.Path) -> Figure | None:
    """The curves of `scaling`; None without its record."""
    rows = read(folder, "scaling")
    if not rows:
        return None
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    steps, batch, width, devices = figure.subplots(1, 4)
    _curve(steps, rows, "steps", "steps K", "seconds a chain", lambda row: row["median_seconds"])
    _curve(
        batch,
        rows,
        "batch",
        "images in a batch",
        "images per second",
        lambda row: row["value"] / row["median_seconds"],
    )
    _curve(
        width,
        rows,
        "width",
        "width of the generator",
        "of the matrix product's rate",
        lambda row: row["fraction_of_matmul"],
    )
    _curve(
        devices,
        rows,
        "devices",
        "devices on the same cores",
        "seconds a learning step",
        lambda row: row["median_seconds"],
    )
    return figure


def _curve(
    axis: Axes, rows: Rows, curve: str, label: str, value: str, of_row: Callable[[dict], float]
) -> None:
    found = [row for row in rows if row["curve"] == curve]
    axis.plot([row["value"] for row in found], [of_row(row) for row in found], "o-", color="C3")
    axis.set(xlabel=label, title=value, ylim=(0, 1.08 * max(of_row(row) for row in found)))
    axis.set_xticks([row["value"] for row in found])
    axis.title.set_fontsize("medium")
    axis.tick_params(labelsize="small")
    axis.grid(alpha=0.3)


DRAWN = {"speed.png": draw_speed, "scaling.png": draw_scaling}


def draw(records: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws what there are records of; the paths."""
    paths = []
    for name, draw_one in DRAWN.items():
        figure = draw_one(records)
        if figure is not None:
            figure.savefig(folder / name, dpi=110)
            paths.append(folder / name)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=pathlib.Path,
        default=pathlib.Path("runs", "benchmarks"),
        help="with the records; default: %(default)s",
    )
    folder = parser.parse_args().folder
    paths = draw(folder, folder)
    if not paths:
        parser.error(f"There are no records of chains or of `scaling` in {folder}.")
    print("\n".join(map(str, paths)))


if __name__ == "__main__":
    main()

"""Pictures of `flow_ebm.py`."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.flow_ebm_figures import ROWS, grid
from experiments.flow_ebm_mixing import Mixing, View
from tfebm import callbacks, files, metrics, pictures
from tfebm.data import ImageData, PointData, to_float
from tfebm.models import FlowEBM, FlowModel
from tfebm.runs import RunDirectory

CURVES = {
    "flow: nats per example": ("flow", ("nats",)),
    "energy of data and samples": ("energy", ("energy_data", "energy_model")),
    "acceptance of the chains": ("energy", ("acceptance",)),
    "R-hat of fresh chains": ("energy", ("r_hat", "r_hat_energy")),
}
_TRACES = 5  # chains that are drawn
_POINTS = 25  # at which R-hat is evaluated along the draws


def first_picture(data: PointData | ImageData) -> str:
    """The one that says most."""
    return "density.png" if isinstance(data, PointData) else "samples.png"


def draw(
    model: FlowEBM,
    flow: FlowModel,
    data: PointData | ImageData,
    found: Mixing,
    view: View,
    epochs: list[dict],
    run: RunDirectory,
) -> None:
    """The pictures of a run."""
    save_mixing(
        run.picture("mixing"),
        {
            "latent chain": found.latent.coordinates,
            "data-space chain": found.data.coordinates,
        },
        view.names,
    )
    pictures.save_curves(
        run.picture("curves"),
        {
            title: [r for r in epochs if r["stage"] == stage and names[0] in r["metrics"]]
            for title, (stage, names) in CURVES.items()
        },
        {title: names for title, (_, names) in CURVES.items()},
    )
    if isinstance(data, PointData):
        draw_densities(run.picture("density"), model, flow, data)
        return
    callbacks.SampleGrid(run.picture("samples"), side=8).draw(model)
    for name, space in (("chains", found.latent), ("chains_data_space", found.data)):
        shown = np.moveaxis(space.snapshots[:, :8], 0, 1)  # a row for each chain
        flat = shown.reshape(-1, *shown.shape[2:])
        pictures.save_grid(run.picture(name), flat, columns=shown.shape[1])
    images = to_float(data.x_test if len(data.x_test) >= 2 else data.x_train).numpy()
    ends = images[np.linspace(0, len(images) - 1, min(16, len(images))).astype(int)]
    half = len(ends) // 2
    if half:
        paths = model.interpolate(ends[:half], ends[half : 2 * half], num_steps=10)
        pictures.save_grid(run.picture("interpolation"), paths.reshape(-1, *ends.shape[1:]), 10)


def draw_densities(
    path: str | os.PathLike, model: FlowEBM, flow: FlowModel, data: PointData, side: int = 300
) -> None:
    """`density.png`: data, flow, tilted density and samples side by side."""
    points, extent = grid(data, side)
    of_flow = np.exp(flow.log_prob(points, batch_size=ROWS).astype(np.float64))
    weights = of_flow * np.exp(-model.energies(points, batch_size=ROWS).astype(np.float64))
    cell = ((extent[1] - extent[0]) / (side - 1)) ** 2
    count = 2000
    save_densities(
        path,
        extent,
        {
            "data": data.x_test[:count],
            "flow": of_flow.reshape(side, side),
            "tilted flow": (weights / (weights.sum() * cell)).reshape(side, side),
            "samples of the latent chain": model.generate(count, batch_size=count),
        },
    )


def save_mixing(
    path: str | os.PathLike,
    draws: Mapping[str, np.ndarray],
    names: Sequence[str],
    threshold: float = 1.05,
) -> None:
    """Draws traces, R-hat over the draws and autocorrelation, a row for each set of chains.

    Args:
        path: PNG.
        draws: Title to coordinates `[T, C, n]`. The coordinate that varies most in the first of
            them is traced, and the first few in that order have their autocorrelation drawn.
        names: Of the n coordinates.
        threshold: A line in the panel of R-hat.
    """
    from matplotlib.figure import Figure

    first = next(iter(draws.values()))
    order = np.argsort(-first.reshape(-1, first.shape[-1]).var(axis=0))
    figure = Figure(figsize=(13, 3.4 * len(draws)), layout="constrained")
    rows = figure.subplots(len(draws), 3, squeeze=False)
    for (title, values), (trace, r_hat, correlation) in zip(draws.items(), rows, strict=True):
        for chain in range(min(_TRACES, values.shape[1])):
            trace.plot(values[:, chain, order[0]], linewidth=0.6)
        trace.set(title=f"{title}: {names[order[0]]} of {_TRACES} chains", xlabel="transition")
        lengths = np.unique(np.linspace(min(8, len(values)), len(values), _POINTS).astype(int))
        curve = [metrics.split_r_hat(values[:length]) for length in lengths]
        worst = np.max(curve, axis=1)
        r_hat.plot(lengths, np.minimum(worst, 1e3), marker="o", markersize=3)
        r_hat.axhline(threshold, color="grey", linestyle="--", label=f"{threshold:g}")
        r_hat.set(
            title=f"largest R-hat, {worst[-1]:.3g} at the end",
            xlabel="transitions",
            yscale="log",
            ylim=(0.95, max(3.0, 1.2 * min(worst.max(), 1e3))),
        )
        r_hat.legend(fontsize="small")
        lags = metrics.autocorrelation(values)
        for i in order[:8]:
            correlation.plot(lags[:, i], label=names[i])
        correlation.set(title="autocorrelation", xlabel="lag, transitions", ylim=(-0.25, 1.05))
        correlation.legend(fontsize="x-small", ncols=2)
        for axis in (trace, r_hat, correlation):
            axis.grid(alpha=0.3)
    _save(figure, path)


def save_densities(
    path: str | os.PathLike,
    extent: tuple[float, float, float, float],
    panels: Mapping[str, np.ndarray],
) -> None:
    """Draws densities and point sets in the plane side by side.

    Args:
        path: PNG.
        extent: Left, right, bottom and top of every panel.
        panels: Title to points `[N, 2]`, or to a density on a square grid `[side, side]`, from
            the bottom up.
    """
    from matplotlib.figure import Figure

    densities = [values for values in panels.values() if values.shape[1] != 2]
    top = max(float(np.nanmax(values)) for values in densities)
    figure = Figure(figsize=(4 * len(panels), 4.3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        if values.shape[1] == 2:
            axis.plot(*values.T, ".", markersize=1.5, alpha=0.5, color="tab:blue")
        else:
            axis.imshow(values, extent=extent, origin="lower", cmap="magma", vmin=0.0, vmax=top)
        axis.set(title=title, xlim=extent[:2], ylim=extent[2:], aspect="equal")
    _save(figure, path)


def _save(figure: Any, path: str | os.PathLike) -> None:
    files.replace_file(pathlib.Path(path), lambda p: figure.savefig(p, dpi=100))

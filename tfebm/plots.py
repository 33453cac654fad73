"""Figures of chains and of densities in the plane, drawn with matplotlib."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfebm import files, metrics

_TRACES = 5  # chains that are drawn
_POINTS = 25  # at which R-hat is evaluated along the draws


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


def save_step_sizes(
    path: str | os.PathLike,
    candidates: Sequence[Mapping[str, Any]],
    in_use: np.ndarray,
    criterion: str,
    searches: Sequence[Mapping[str, Any]],
) -> None:
    """Draws the criteria over the step size, and the schedules that were chosen over time.

    Args:
        path: PNG.
        candidates: Records of `tfebm.samplers.tuning.Candidate`; a criterion that is missing
            leaves a red gap.
        in_use: The step sizes of the trained model, `[K, P]`.
        criterion: The one that chose them.
        searches: Records of `tfebm.callbacks.StepSizeTuner`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    titles = {"kl": "Q (KL given the noise), nats", "entropy": "Gaussian-entropy KL, nats"}
    titles["ksd"] = "kernel Stein discrepancy"
    steps = np.array([np.mean(candidate["step_size"]) for candidate in candidates])
    figure = Figure(figsize=(17, 3.9), layout="constrained")
    *of_criteria, of_time = figure.subplots(1, 4)
    for axis, (name, title) in zip(of_criteria, titles.items(), strict=True):
        found = [candidate[name] for candidate in candidates]
        values = np.array([np.nan if v is None else v for v in found])
        # All candidates saw the same examples and noise: the curve's shape is far more certain than
        # its height, whose standard error is in the records.
        axis.plot(steps, values, marker="o", markersize=4)
        for step in steps[np.isnan(values)]:
            axis.axvspan(step / 1.05, step * 1.05, color="tab:red", alpha=0.25)
        used = float(in_use.mean())
        axis.axvspan(used / 1.03, used * 1.03, color="tab:green", alpha=0.4, label="in use")
        chosen = ", which chose" if name == criterion else ""
        axis.set(
            title=f"{title}{chosen}", xlabel="step size s (of a schedule: the mean)", xscale="log"
        )
        axis.xaxis.set_minor_formatter(NullFormatter())
        if not np.isfinite(values).any():
            axis.text(0.5, 0.5, "nowhere a bound", ha="center", transform=axis.transAxes)
        elif name != "ksd":
            # The far ends would flatten everything near the minimum.
            floor = np.nanmin(values)
            axis.set_ylim(floor - 0.1 * _depth(values), floor + _depth(values))
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    for i, search in enumerate(searches):
        schedule = np.mean(search["schedule"], axis=1)
        shade = 0.15 + 0.85 * (i + 1) / len(searches)
        numbers = np.arange(1, len(schedule) + 1)
        label = f"epoch {search['epoch']}" if i in (0, len(searches) - 1) else None
        of_time.plot(numbers, schedule, color="tab:blue", alpha=shade, label=label)
    of_time.set(
        title="schedule in use, later ones darker", xlabel="step of the chain", ylim=(0, None)
    )
    of_time.legend(fontsize="small")
    of_time.grid(alpha=0.3)
    _save(figure, path)


def _depth(values: np.ndarray) -> float:
    """A range that shows the lower half of the values."""
    return max(float(np.nanmedian(values) - np.nanmin(values)), 1e-3) * 1.5


def save_latents(
    path: str | os.PathLike,
    means: np.ndarray,
    values: np.ndarray,
    name: str,
    variances: np.ndarray | None = None,
    threshold: float = 0.01,
) -> None:
    """Draws posterior means in the plane, and how much each unit depends on the example.

    Args:
        path: PNG.
        means: `[N, d]`; drawn by their first two principal components.
        values: `[N]`, numbers that colour them: "label", or any other quantity.
        name: Of `values`.
        variances: `[d]`, of the posterior mean over examples; drawn from the largest down.
        threshold: Above which a unit counts as active.
    """
    from matplotlib.figure import Figure

    centred = means - means.mean(axis=0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:2]
    places = np.zeros((len(means), 2))  # the second stays 0 for a single unit
    places[:, : len(components)] = centred @ components.T
    share = places.var(axis=0).sum() / max(centred.var(axis=0).sum(), np.finfo(float).tiny)
    columns = 1 if variances is None else 2
    figure = Figure(figsize=(6.5 * columns, 5), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    classes = np.unique(values)
    if name == "label" and len(classes) <= 10:
        for number, each in enumerate(classes):
            rows = places[values == each]
            axes[0].plot(*rows.T, ".", markersize=3, alpha=0.6, color=f"C{number}", label=f"{each}")
        axes[0].legend(title=name, fontsize="small", markerscale=3)
    else:
        drawn = axes[0].scatter(*places.T, c=values, s=5, alpha=0.7, cmap="viridis")
        figure.colorbar(drawn, ax=axes[0], label=name)
    axes[0].set(
        title=f"posterior means: two principal components, {share:.0%} of the variance",
        xlabel="first",
        ylabel="second",
    )
    axes[0].grid(alpha=0.3)
    if variances is not None:
        axis, order = axes[1], np.argsort(-variances)
        # An estimate without bias may fall below 0, which a logarithmic axis cannot show.
        axis.bar(np.arange(len(variances)), np.maximum(variances[order], 1e-6))
        axis.axhline(threshold, color="tab:red", linestyle="--", label=f"{threshold:g}")
        axis.set(
            title=f"active units: {int(np.sum(variances > threshold))} of {len(variances)}",
            xlabel="unit, the most active first",
            ylabel="variance of its posterior mean over sentences",
            yscale="log",
            ylim=(min(threshold / 10, max(1e-6, variances.min() / 2)), None),
        )
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    _save(figure, path)

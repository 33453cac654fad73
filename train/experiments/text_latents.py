"""Posterior means of sentences: active units, and where they lie."""

import os
import pathlib
from typing import Any, NamedTuple

import keras
import numpy as np

from experiments.text_data import held_out, shown
from experiments.text_settings import Settings
from tfebm import files
from tfebm.data import TextData, lengths
from tfebm.metrics import ActiveUnits, active_units
from tfebm.runs import RunDirectory

CHAINS = 10  # whose mean places a sentence


class LatentView(NamedTuple):
    """Posterior means of held-out sentences."""

    split: str
    rows: np.ndarray
    """Of the split."""
    means: np.ndarray
    """`[N, d]`."""
    active: ActiveUnits
    num_chains: int
    """Behind every mean; 0 where an encoder knows it."""

    def record(self) -> dict[str, Any]:
        """The active units, for `metrics.json`."""
        return {
            "count": self.active.count,
            "of": len(self.active.variances),
            "threshold": self.active.threshold,
            "variances": self.active.variances.tolist(),
            "num_examples": len(self.rows),
            "num_chains": self.num_chains,
        }


def look_at_latents(model: keras.Model, data: TextData, settings: Settings) -> LatentView | None:
    """Posterior means of `--au-examples` fixed sentences; None for a model without latents, and
    where there are fewer than two sentences."""
    split = held_out(data)
    rows = shown(data, settings.au_examples, split)
    if not settings.has_latents or len(rows) < 2:
        return None
    x = getattr(data, f"x_{split}")[rows]
    if settings.model == "vae":
        means = posterior_means(model, x, 1, settings.seed)
        return LatentView(split, rows, means, active_units(means, means=True), 0)
    at_once = max(1, model.rows_at_once // CHAINS)
    z = model.infer(x, seed=settings.seed, num_chains=CHAINS, batch_size=at_once)
    return LatentView(split, rows, z.mean(axis=1), active_units(z), CHAINS)


def draw_latents(view: LatentView | None, data: TextData, run: RunDirectory) -> None:
    """`latents.png`: posterior means in the plane, and how much each unit depends on x."""
    if view is None:
        return
    x, y = (getattr(data, f"{name}_{view.split}") for name in "xy")
    values, name = (lengths(x), "words") if y is None else (y, "label")
    active = view.active
    save_latents(
        run.picture("latents"),
        *(view.means, values[view.rows], name),
        active.variances,
        active.threshold,
    )


def posterior_means(model: keras.Model, x: np.ndarray, num_chains: int, seed: int) -> np.ndarray:
    """`model.features`, few enough rows at a time for a large vocabulary."""
    rows = max(1, model.rows_at_once // num_chains)
    return model.features(x, num_chains=num_chains, seed=seed, batch_size=rows)


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
    files.replace_file(pathlib.Path(path), lambda p: figure.savefig(p, dpi=100))

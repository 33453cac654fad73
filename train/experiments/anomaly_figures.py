"""Scores, figures and pictures of a run that detects anomalies."""

import contextlib
import csv
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from experiments.anomaly_settings import Settings
from tfebm import files, metrics, pictures
from tfebm.data import AnomalyData, to_float
from tfebm.models import LatentModel, ScoreParts
from tfebm.runs import RunDirectory
from tfebm.samplers import ShortRunLangevin

KINDS = ("joint", "reconstruction", "energy", "standardized")
"""Of scores: the parts of `ScoreParts`, and what does not depend on an image's contrast."""
CALIBRATION = 1000
"""Training images, drawn at random, that say how much each part varies."""
_SHOWN = 40
_LEAST_VARIANCE = 1e-4  # of pixels in [-1, 1], for an image of one grey
_ROUNDING = 1e-6  # of float32 sums over an image, as a share of them


class Scores:
    """All kinds of scores of the test images by one model.

    "standardized" is u / s_u + e / s_e: the energy e, and the share of an image's variance that
    its reconstruction leaves,

        u = |x - g(z)|**2 / |x - mean of x's pixels|**2,

    in units of their standard deviations s over training images drawn by the seed, those whose
    chains are finite; 1 where those are alike. The variance of an image counts as at least 1e-4 a
    pixel. No test image is
    looked at for it. The error alone is small for whatever has little contrast, a 1 among digits,
    however badly it is reconstructed.

    Args:
        data: What is judged, and what is normal.
        num_chains: Chains that are averaged.
        seed: Of the chains.
        sampler: The chain of models that have one. Default: their own.
    """

    def __init__(
        self,
        data: AnomalyData,
        num_chains: int,
        seed: int,
        sampler: ShortRunLangevin | None = None,
    ) -> None:
        self._x_test = to_float(data.images.x_test)
        number = len(data.images.x_train)  # which may be sorted by class
        rows = np.random.default_rng(seed).permutation(number)[:CALIBRATION]
        self._x_train = to_float(data.images.x_train[rows])
        self._how = {"num_chains": num_chains, "seed": seed}
        self._sampler = sampler

    def __call__(self, model: LatentModel) -> dict[str, np.ndarray]:
        """`[N]` for each of `KINDS`."""
        with _inferring_by(model, self._sampler):
            normal = model.score_parts(self._x_train, **self._how)
            found = model.score_parts(self._x_test, **self._how)
        units = _in_parts(model, self._x_train, normal)
        standardized = sum(
            values / _deviation(unit)
            for values, unit in zip(_in_parts(model, self._x_test, found), units, strict=True)
        )
        return {**found._asdict(), "standardized": standardized}


@contextlib.contextmanager
def _inferring_by(model: LatentModel, sampler: ShortRunLangevin | None) -> Iterator[None]:
    """The model with another chain, where one is given; what is traced for its own one stays."""
    if sampler is None:
        yield
        return
    own, model.posterior_sampler = model.posterior_sampler, sampler
    try:
        yield
    finally:
        model.posterior_sampler = own


def _in_parts(model: LatentModel, x: Any, parts: ScoreParts) -> tuple[np.ndarray, np.ndarray]:
    """The unexplained share of each image's variance, and its energy."""
    nats = parts.reconstruction
    if model.inference.chain is None:  # an encoder alone, whose score has the density's constant
        nats = nats + model.likelihood.log_prob(x[:1], x[:1]).numpy()
    error = nats / model.likelihood.energy_scale / math.prod(x.shape[1:])  # of a pixel
    variance = np.var(x, axis=tuple(range(1, x.shape.rank)))
    return error / np.maximum(variance, _LEAST_VARIANCE), parts.energy


def _deviation(unit: np.ndarray) -> float:
    """Of the finite values; 1 where they differ by rounding alone, as those of one image do, and
    there is nothing to measure others by."""
    unit = unit[np.isfinite(unit)].astype(np.float64)
    deviation = float(np.std(unit)) if len(unit) else 0.0
    return deviation if deviation > _ROUNDING * np.max(np.abs(unit), initial=0.0) else 1.0


def figures(scores: dict[str, np.ndarray], is_anomaly: np.ndarray) -> dict[str, dict[str, float]]:
    """Areas under curves for each kind of score; an image without a finite score is the oddest."""
    return {
        kind: metrics.anomaly_detection(metrics.rank_lost_scores(values), is_anomaly)._asdict()
        for kind, values in scores.items()
    }


def test_figures(
    scores: dict[str, np.ndarray],
    model: keras.Model,
    data: AnomalyData,
    settings: Settings,
    run: RunDirectory,
    epochs: list[dict[str, Any]],
    first_epoch: int,
) -> dict[str, Any]:
    """Figures of the test images; writes `scores.csv`, `worst.png` and, where the anomalies are
    known, `precision_recall.png`."""
    write_scores(run.file("scores.csv"), data, scores)
    draw_worst(run.picture("worst"), model, data, scores["joint"], settings.seed)
    test: dict[str, Any] = {"num_images": len(data.names)}
    if data.is_anomaly is not None:
        areas = test["areas"] = figures(scores, data.is_anomaly)
        draw_curves(run.picture("precision_recall"), scores, data.is_anomaly, areas)
        test["over_epochs"] = over_epochs(epochs, first_epoch)
    return test


def over_epochs(epochs: list[dict[str, Any]], first_epoch: int) -> dict[str, dict[str, float]]:
    """Mean and standard deviation (None of a single epoch) of each kind's AUPRC over the records
    from an epoch on."""
    late = [record["metrics"] for record in epochs if record["epoch"] >= first_epoch]
    table = {}
    for kind in KINDS:
        values = [record[f"auprc_{kind}"] for record in late if f"auprc_{kind}" in record]
        if values:
            mean, deviation = metrics.spread(values) if len(values) > 1 else (values[0], None)
            table[kind] = {
                "auprc_mean": mean,
                "auprc_std": deviation,
                "num_epochs": len(values),
            }
    return table


def write_scores(path: pathlib.Path, data: AnomalyData, scores: dict[str, np.ndarray]) -> None:
    """A CSV: the image, whether it is an anomaly where that is known, all scores."""
    known = data.is_anomaly is not None

    def write(target: pathlib.Path) -> None:
        with target.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["image", *(["is_anomaly"] if known else []), *KINDS])
            for row, name in enumerate(data.names):
                label = [int(data.is_anomaly[row])] if known else []
                values = (f"{scores[kind][row]:.6g}" for kind in KINDS)
                table.writerow([files.storable(name), *label, *values])

    files.replace_file(path, write)


def draw_worst(
    path: pathlib.Path, model: LatentModel, data: AnomalyData, scores: np.ndarray, seed: int
) -> None:
    """The images with the highest scores, each with its reconstruction to the right of it, its
    name and its score."""
    worst = np.argsort(-metrics.rank_lost_scores(scores), kind="stable")[:_SHOWN]
    x = to_float(data.images.x_test[worst]).numpy()
    pairs = np.stack([x, model.reconstruct(x, seed=seed)], axis=1)
    captions = [f"{data.names[row]}\nscore {scores[row]:.5g}" for row in worst]
    pictures.save_captioned(path, pairs, captions, columns=5)


def draw_curves(
    path: pathlib.Path,
    scores: dict[str, np.ndarray],
    is_anomaly: np.ndarray,
    areas: dict[str, dict[str, float]],
) -> None:
    """Precision over recall for each kind of score; `areas` are those of `figures`."""
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve

    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axis = figure.subplots()
    for kind, values in scores.items():
        precision, recall, _ = precision_recall_curve(is_anomaly, metrics.rank_lost_scores(values))
        axis.plot(recall, precision, label=f"{kind}: {areas[kind]['auprc']:.3f}")
    share = areas["joint"]["prevalence"]
    axis.axhline(share, color="grey", linestyle="--", label=f"chance: {share:.3f}")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    files.replace_file(path, lambda target: figure.savefig(target, dpi=110))


def summary(test: dict[str, Any]) -> str:
    """The figures as a table for a person."""
    if "areas" not in test:
        return f"{test['num_images']} images are scored; which are anomalies is not known."
    first = test["areas"]["joint"]
    lines = [
        f"{first['num_anomalies']} anomalies among {first['num_normal'] + first['num_anomalies']} "
        f"test images. A score that knows nothing has an AUPRC of {first['prevalence']:.3f}, the "
        f"worst one {first['least_auprc']:.3f}.",
        f"{'score':<16}{'AUPRC':>7}{'average precision':>19}{'AUROC':>7}{'AUPRC, last epochs':>20}",
    ]
    for kind, areas in test["areas"].items():
        shown, found = "-", test["over_epochs"].get(kind)
        if found:
            shown = f"{found['auprc_mean']:.3f}"
            shown += "" if found["auprc_std"] is None else f" +- {found['auprc_std']:.3f}"
        lines.append(
            f"{kind:<16}{areas['auprc']:>7.3f}{areas['average_precision']:>19.3f}"
            f"{areas['auroc']:>7.3f}{shown:>20}"
        )
    return "\n".join(lines)

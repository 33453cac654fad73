"""Step sizes, pictures and test figures of `short_run.py`."""

import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

import tfebm
from experiments import image_figures
from experiments.short_run_settings import Settings
from tfebm import files, pictures
from tfebm.data import ImageData, to_float
from tfebm.errors import InvalidInputError
from tfebm.metrics import classifier_features, frechet_distance, kernel_distance
from tfebm.models import LatentModel, latents
from tfebm.runs import RunDirectory, RunSettings

# Of the pictures and records at the end: enough for a mean, few enough to be quick.
_EXAMPLES_AT_END, _EVIDENCE_EXAMPLES = 8, 32
_SAMPLES = 5000  # for the distances from the training set


def make_tuner(settings: Settings, data: ImageData, run: RunDirectory) -> Any:
    """The callback that chooses the step sizes; for fixed ones it only looks, at the start."""
    fixed = settings.step_size == "fixed"
    tuner = tfebm.callbacks.StepSizeTuner(
        data.x_train,
        every=0 if fixed else settings.tune_every,
        apply=not fixed,
        criterion=settings.criterion,
        search="grid" if fixed else settings.step_size,
        family=settings.schedule if not fixed else "constant",
        per_part=settings.per_layer and not fixed,
        path=run.file("tuning.json"),
        seed=settings.seed,
    )
    if settings.resume:
        tuner.restore()
    return tuner


def look_at_step_sizes(
    model: keras.Model, tuner: Any, data: ImageData, settings: Settings, run: RunDirectory
) -> dict[str, Any] | None:
    """`steps.png`, and all three criteria side by side for the trained model."""
    examples = tuner.draw_examples(int(model.step.numpy()), _EXAMPLES_AT_END)
    table = model.posterior_step_size.numpy()
    try:
        found = model.tune_step_size(
            examples,
            seed=settings.seed,
            apply=False,
            criterion=settings.criterion,
            report="all",
            # Half octaves around what is in use, which is one of them; further down than up, to
            # where Q, whose bound ends first, has its minimum.
            around=table / 2,
            span=8.0,
            num_values=13,
            num_lanczos=4,
        )
    except InvalidInputError as error:
        warnings.warn(f"The trained model's step sizes have no figure. {error}", stacklevel=2)
        return None
    record = found.to_record()
    save_step_sizes(
        run.picture("steps"), record["candidates"], table, settings.criterion, tuner.records
    )
    return {"in_use": [float(row.mean()) for row in (table[0], table[-1])], "criteria": record}


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
    files.replace_file(pathlib.Path(path), lambda p: figure.savefig(p, dpi=100))


def _depth(values: np.ndarray) -> float:
    """A range that shows the lower half of the values."""
    return max(float(np.nanmedian(values) - np.nanmin(values)), 1e-3) * 1.5


def draw_layers(model: LatentModel, data: ImageData, run: RunDirectory, num_pairs: int = 4) -> None:
    """`layers.png`: what each layer holds.

    For each pair of images a row per layer, the top first: that layer's latents go from the
    first image's to the second's while the others stay the first's.
    """
    x = image_figures.shown(data)
    num_pairs = min(num_pairs, len(x) // 2)
    if not num_pairs:
        return
    first, second = x[:num_pairs], x[-num_pairs:]
    layers = range(len(latents.sizes(model.latent_size)))
    paths = [
        model.interpolate(first, second, num_steps=image_figures.COLUMNS, layers=[layer])
        for layer in layers
    ]
    pictures.save_grid(
        run.picture("layers"), image_figures.in_rows(np.stack(paths, axis=1)), image_figures.COLUMNS
    )


def test_figures(model: keras.Model, data: ImageData, settings: Settings) -> dict[str, Any] | None:
    """Those of every model, distances of samples, and bounds on the evidence for chains."""
    figures = image_figures.test_figures(model, data, settings)
    if figures is None:
        return None
    figures |= sample_distances(model, data, settings) or {}
    if settings.model == "short_run":
        x = tfebm.data.to_float(data.x_test[:_EVIDENCE_EXAMPLES]).numpy()
        figures["evidence"] = model.evidence_bound(x, seed=settings.seed).summary()
    return figures


def sample_distances(
    model: LatentModel, data: ImageData, settings: RunSettings
) -> dict[str, dict[str, Any]] | None:
    """The Fréchet and the kernel distance of samples from the training set; None without labels.

    The features are those of a classifier trained on the training set itself (seed 0, whatever the
    run's is, so that runs compare).
    """
    if data.y_train is None or len(np.unique(data.y_train)) < 2:
        return None
    x = to_float(data.x_train).numpy()
    classifier = classifier_features(
        x, data.y_train, to_float(data.x_test).numpy(), data.y_test, seed=0
    )
    number = min(_SAMPLES, len(x))
    features = classifier.extract(model.generate(number, seed=settings.seed))
    reference = classifier.extract(x)
    return {
        "frechet_distance": {
            "value": frechet_distance(features, reference),
            "features": "64 of a classifier trained on this training set",
            "classifier_test_accuracy": classifier.test_accuracy,
            "num_samples": number,
        },
        "kernel_distance": kernel_distance(features, reference)._asdict(),
    }


def summary(test: dict[str, Any] | None) -> str:
    """The test figures in a few lines for a person."""
    lines = [image_figures.reconstruction_sentence(test)]
    found = (test or {}).get("frechet_distance")
    if found:
        lines.append(
            f"Distances of {found['num_samples']} samples from the training set: Frechet "
            f"{found['value']:.2f}, kernel {test['kernel_distance']['value']:.3f}, in features of "
            "a classifier of this set."
        )
    bound = (test or {}).get("evidence")
    if bound and bound["elbo"] is None:
        lines.append(
            f"No bound on the evidence: for {bound['invalid_share']:.0%} of "
            f"{bound['num_examples']} images the chain is not a diffeomorphism."
        )
    elif bound:
        lines.append(
            f"Evidence lower bound through the chain: {bound['elbo']:.1f} nats on "
            f"{bound['num_examples']} images."
        )
    return "\n".join(lines)

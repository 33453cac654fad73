"""Test figures of `flow_ebm.py`, and how its chains are looked at."""

import math
import warnings
from typing import Any

import numpy as np

from experiments.flow_ebm_mixing import Mixing, View
from experiments.flow_ebm_settings import Settings
from tfebm.data import ImageData, PointData, to_float
from tfebm.distributions import LogNormalizer
from tfebm.metrics import ChainReport
from tfebm.models import FlowEBM, FlowModel

_BLOCKS = 4  # an image is summarised by the brightness of so many blocks a side
ROWS = 10_000  # points at a time


def view_of(data: PointData | ImageData, seed: int) -> tuple[View, dict[str, Any]]:
    """How chains over `data` are looked at, and what is to be known of it.

    Points are their own coordinates, with the nearest of the known modes. Images are summarised
    by the mean of 4 x 4 blocks; their modes are the classes of a classifier trained on the
    labels, where there are some.
    """
    if isinstance(data, PointData):
        modes = data.density.modes
        label = None if modes is None else data.density.nearest_mode
        shares = None if modes is None else np.full(len(modes), 1.0 / len(modes))
        return View(lambda x: x, ("x1", "x2"), label, shares), {}
    blocks = min(_BLOCKS, data.image_shape[0])
    names = tuple(f"block {i // blocks},{i % blocks}" for i in range(blocks**2))
    if data.y_train is None or len(np.unique(data.y_train)) < 2:
        return View(_block_means, names), {}
    classifier, accuracy = _classifier(data, seed)
    classes, counts = np.unique(data.y_train, return_counts=True)

    def label(x: np.ndarray) -> np.ndarray:
        return np.searchsorted(classes, classifier.predict(_flat(x)))

    view = View(_block_means, names, label, counts / counts.sum())
    return view, {"classifier_test_accuracy": accuracy}


def _classifier(data: ImageData, seed: int) -> tuple[Any, float | None]:
    """A small network of scikit-learn, and its accuracy on the images that are judged on."""
    from sklearn.neural_network import MLPClassifier

    classifier = MLPClassifier((256,), max_iter=20, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # twenty passes are enough, converged or not
        classifier.fit(_flat(to_float(data.x_train).numpy()), data.y_train)
    if not len(data.x_test) or data.y_test is None:
        return classifier, None
    return classifier, float(classifier.score(_flat(to_float(data.x_test).numpy()), data.y_test))


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _block_means(x: np.ndarray) -> np.ndarray:
    """`[N, side, side, C]` to the means of 4 x 4 blocks, `[N, 16]`, as even as the side allows."""
    blocks = min(_BLOCKS, x.shape[1])
    means = [
        block.mean(axis=(1, 2, 3))
        for rows in np.array_split(x, blocks, axis=1)
        for block in np.array_split(rows, blocks, axis=2)
    ]
    return np.stack(means, axis=1)


def diagnosis_record(found: Mixing, view: View, about: dict[str, Any]) -> dict[str, Any]:
    """`diagnostics.json`."""
    return {
        "coordinates": list(view.names),
        **about,
        "latent": found.latent.report.to_record(),
        "data_space": found.data.report.to_record() if found.data else None,
    }


def test_figures(
    model: FlowEBM, flow: FlowModel, data: PointData | ImageData, settings: Settings
) -> dict[str, Any] | None:
    """Likelihoods of the flow and of the tilted flow on the test data; None without any.

    In nats per example and bits per dimension. `tilted_nats` needs log Z, which comes with its
    effective sample size; where that is too low there is no figure. For densities that are
    known, the Kullback-Leibler divergences from them.
    """
    if not len(data.x_test):
        return None
    seed = settings.seed
    x = to_float(data.x_test).numpy()
    per_bit = math.log(2.0) * flow.latent_size
    flow_nats = float(-np.mean(flow.log_prob(x, seed=seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the record says how far it can be trusted
        normalizer = model.estimate_log_normalizer(num_samples=_samples(data), seed=seed)
    figures = {
        "examples": settings.judged_on,
        "num_examples": len(x),
        "flow_nats": flow_nats,
        "flow_bits_per_dimension": flow_nats / per_bit,
        "log_normalizer": _normalizer_record(normalizer),
        "tilted_nats": None,
        "tilted_bits_per_dimension": None,
    }
    if not normalizer.reliable:
        return _finite(figures)
    tilted_nats = float(-np.mean(model.log_prob(x, seed=seed)))
    figures["tilted_nats"] = tilted_nats
    figures["tilted_bits_per_dimension"] = tilted_nats / per_bit
    if isinstance(data, PointData):
        figures["log_normalizer"]["by_quadrature"] = _quadrature(model, data)
        if data.density.log_density is not None:
            entropy = -float(np.mean(data.density.log_prob(x)))
            figures["kl_flow"] = flow_nats - entropy
            figures["kl_tilted"] = tilted_nats - entropy
    return _finite(figures)


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    """Without infinities, which JSON has no name for: a figure that is none is null."""
    plain = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            plain[name] = _finite(value)
        else:
            lost = isinstance(value, float) and not math.isfinite(value)
            plain[name] = None if lost else value
    return plain


def _samples(data: PointData | ImageData) -> int:
    return 50_000 if isinstance(data, PointData) else 1000


def _normalizer_record(estimate: LogNormalizer) -> dict[str, Any]:
    return {
        "value": estimate.value if estimate.reliable else None,
        "standard_error": estimate.standard_error if estimate.reliable else None,
        "effective_sample_size": estimate.effective_sample_size,
        "num_samples": estimate.num_samples,
        "reliable": estimate.reliable,
    }


def summary(test: dict[str, Any] | None, found: Mixing) -> str:
    """The test figures and those of the chains, in sentences."""
    lines = []
    if test is None:
        lines.append("There are no test data, and so no test figures.")
    else:
        lines.append(
            f"On {test['num_examples']} {test['examples']} examples the flow has "
            f"{_number(test['flow_nats'])} nats "
            f"({_number(test['flow_bits_per_dimension'])} bits per dimension)."
        )
        ess = test["log_normalizer"]["effective_sample_size"]
        if test["tilted_nats"] is None:
            lines.append(
                "No figure for the tilted flow: log Z by importance sampling has an effective "
                f"sample size of {ess:.1f} of {test['log_normalizer']['num_samples']}."
            )
        else:
            lines.append(
                f"Tilted: {test['tilted_nats']:.3f} nats, log Z "
                f"{test['log_normalizer']['value']:.4f} (effective sample size {ess:.0f})."
            )
        if "kl_flow" in test:
            lines.append(
                f"Divergence from the true density: flow {_number(test['kl_flow'])}, tilted "
                f"{_number(test['kl_tilted'])} nats."
            )
    for name, chains in (("Latent", found.latent), ("Data-space", found.data)):
        if chains is not None:
            lines.append(f"{name} chains: {_sentence(chains.report)}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "infinitely many" if value is None else f"{value:.4f}"


def _sentence(report: ChainReport) -> str:
    text = (
        f"R-hat {report.largest_r_hat:.3g} (energy {report.r_hat_energy:.3g}), smallest bulk ESS "
        f"{min(report.ess_bulk):.0f} of {report.num_draws * report.num_chains} draws, acceptance "
        f"{report.acceptance:.2f} at step size {report.step_size:.3g}"
    )
    if report.mode_switches is not None:
        text += f", {report.mode_switches} mode switches"
    if report.total_variation is not None:
        text += f", total variation of the modes' shares {report.total_variation:.3f}"
    return f"{text}."


def grid(data: PointData, side: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Points `[side * side, 2]` over a square that holds the data with room, and its extent."""
    reach = 1.35 * float(np.abs(data.x_train).max())
    line = np.linspace(-reach, reach, side, dtype=np.float32)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return points, (-reach, reach, -reach, reach)


def _quadrature(model: FlowEBM, data: PointData, side: int = 600) -> float:
    """log Z by a sum over a grid, which two dimensions allow: a check of the sampled one."""
    points, (left, right, *_) = grid(data, side)
    log_density = -model.score(points, batch_size=ROWS).astype(np.float64)
    top = log_density.max()
    cell = ((right - left) / (side - 1)) ** 2
    return float(top + np.log(np.exp(log_density - top).sum() * cell))

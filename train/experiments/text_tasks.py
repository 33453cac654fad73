"""Tasks of a trained text model: classify, cluster, interpolate."""

import time
from typing import Any

import keras
import numpy as np

from experiments.text_data import label_counts, labelled_rows, shown
from experiments.text_files import write_interpolations
from experiments.text_latents import posterior_means
from experiments.text_settings import Settings
from tfebm.data import TextData
from tfebm.metrics import (
    bag_of_words_accuracy,
    clustering_accuracy,
    semi_supervised_accuracy,
    spread,
)
from tfebm.runs.directory import RunDirectory

_COMPONENTS_PCA = 4


def run_task(
    model: keras.Model, data: TextData, run: RunDirectory, settings: Settings
) -> dict[str, Any]:
    """Does `--task` and says what came out.

    Returns:
        What joins the run's final record: "classification", "clustering" or "interpolation".
    """
    started = time.monotonic()
    if settings.task == "interpolate":
        pairs = write_interpolations(model, data, run, settings, settings.interpolations)
        print(f"interpolations.txt has {pairs} pairs of sentences, each by two paths.")
        return {"interpolation": {"pairs": pairs}}
    name, task, say = {
        "classify": ("classification", classification, classification_table),
        "cluster": ("clustering", clustering, clustering_sentence),
    }[settings.task]
    record = task(model, data, settings)
    record["seconds"] = round(time.monotonic() - started, 1)
    print(say(record))
    return {name: record}


def classification(model: keras.Model, data: TextData, settings: Settings) -> dict[str, Any]:
    """Accuracy on the test sentences of classifiers that saw a few labels.

    Each seed draws the labelled sentences anew, those of a smaller number among those of a
    larger one; the features are means over `--chains` chains, and a bag of words learns from the
    same labels. Validation labels select the classifiers, test labels nothing.
    """
    counts = label_counts(settings, data)
    drawn = [labelled_rows(data, max(counts), seed) for seed in range(settings.task_seeds)]
    used = np.unique(np.concatenate(drawn))
    features = np.zeros((len(data.x_train), model.latent_size), np.float32)
    features[used] = _features(model, data.x_train[used], settings)
    x_valid, y_valid = _some(data, "valid", settings)
    x_test, y_test = _some(data, "test", settings)
    of_valid, of_test = (_features(model, x, settings) for x in (x_valid, x_test))
    rows = []
    for count in counts:
        by_features, by_words, largest = [], [], 0.0
        for seed, order in enumerate(drawn):
            y = data.y_train[order]
            # The rows are drawn here, so that only they need features.
            given = {"num_labels": count, "seed": seed, "subset": "first"}
            found = semi_supervised_accuracy(
                *(features[order], y, of_valid, y_valid, of_test, y_test), **given
            )
            words = bag_of_words_accuracy(
                *(data.x_train[order], y, x_valid, y_valid, x_test, y_test),
                vocabulary_size=data.tokenizer.vocabulary_size,
                **given,
            )
            by_features.append(found.test_accuracy)
            by_words.append(words.test_accuracy)
            largest = found.largest_class
        rows.append(
            {
                "labels": count,
                "features": _spread_record(by_features),
                "bag_of_words": _spread_record(by_words),
            }
        )
    return {
        "num_chains": settings.chains,
        "num_seeds": settings.task_seeds,
        "num_valid": len(x_valid),
        "num_test": len(x_test),
        "largest_class": largest,
        "accuracy": rows,
    }


def _some(data: TextData, split: str, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Sentences and labels of a split, at most `--task-examples` of them."""
    x, y = (getattr(data, f"{name}_{split}") for name in "xy")
    rows = shown(data, settings.task_examples or len(x), split)
    return x[rows], y[rows]


def _features(model: keras.Model, x: np.ndarray, settings: Settings) -> np.ndarray:
    return posterior_means(model, x, settings.chains, settings.seed)


def _spread_record(accuracies: list[float]) -> dict[str, Any]:
    mean, deviation = spread(accuracies)
    return {"mean": mean, "standard_deviation": deviation, "of_seeds": accuracies}


def classification_table(record: dict[str, Any]) -> str:
    """Accuracies for a person, a number of labels a line."""
    lines = [
        f"Accuracy on {record['num_test']} test sentences, mean and standard deviation over "
        f"{record['num_seeds']} draws of the labels (a constant answer: "
        f"{record['largest_class']:.1%}).",
        f"{'labels':>8}{'features':>18}{'bag of words':>18}",
    ]
    for row in record["accuracy"]:
        cells = (row["features"], row["bag_of_words"])
        lines.append(f"{row['labels']:>8}" + "".join(f"{_percent(cell):>18}" for cell in cells))
    return "\n".join(lines)


def clustering(model: keras.Model, data: TextData, settings: Settings) -> dict[str, Any]:
    """Accuracy on the test sentences of a Gaussian mixture of features, over seeds.

    The mixture has a component for every class of the training labels, which nothing else is
    taken from, and is fitted to the features of the labelled training sentences.
    """
    sets = [_some(data, split, settings) for split in ("train", "valid", "test")]
    (_, y_valid), (x_test, y_test) = sets[1:]
    of_train, of_valid, of_test = (_features(model, x, settings) for x, _ in sets)
    found = [
        clustering_accuracy(
            *(of_train, of_valid, y_valid, of_test, y_test),
            num_components=len(np.unique(data.y_train)),
            pca=min(_COMPONENTS_PCA, *of_train.shape),
            seed=seed,
        )
        for seed in range(settings.task_seeds)
    ]
    return {
        "num_chains": settings.chains,
        "num_seeds": settings.task_seeds,
        "num_test": len(x_test),
        "num_components": len(np.unique(data.y_train)),
        "largest_class": found[0].largest_class,
        "accuracy": _spread_record([each.test_accuracy for each in found]),
        "best_case_accuracy": _spread_record([each.best_case_accuracy for each in found]),
        "converged": sum(each.converged for each in found),
    }


def clustering_sentence(record: dict[str, Any]) -> str:
    """The accuracies, for a person."""
    return (
        f"Clustering into {record['num_components']}: accuracy {_percent(record['accuracy'])} on "
        f"{record['num_test']} test sentences over {record['num_seeds']} seeds, "
        f"{_percent(record['best_case_accuracy'])} with the best names for the components (a "
        f"constant answer: {record['largest_class']:.1%})."
    )


def _percent(figures: dict[str, Any]) -> str:
    return f"{figures['mean']:.1%} +- {figures['standard_deviation']:.1%}"

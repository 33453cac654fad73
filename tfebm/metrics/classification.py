"""What a few labels are worth on top of features that were learned without any."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from tfebm import checks
from tfebm.errors import InvalidInputError

_RATE = 1.0
_CLIP = 5.0  # norm of the gradient of all weights
_BATCH = 32
_EPOCHS = 100
_RISES = 2
_HALVINGS = 5
_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # C of scikit-learn, the most regularised first

_Weights = TypeVar("_Weights")


class SemiSupervised(NamedTuple):
    """Accuracy of a classifier that saw `num_labels` labels."""

    test_accuracy: float
    valid_accuracy: float
    """Optimistic: the classifier was selected on these labels."""
    num_labels: int
    largest_class: float
    """Share of the most frequent label of the test set: what a constant answer can reach."""
    predictions: np.ndarray
    """`[N]`, of the test set."""
    labelled: np.ndarray
    """`[num_labels]`: rows of the training set whose labels were used."""


def semi_supervised_accuracy(
    features_train: np.ndarray,
    y_train: np.ndarray,
    features_valid: np.ndarray,
    y_valid: np.ndarray,
    features_test: np.ndarray,
    y_test: np.ndarray,
    *,
    num_labels: int,
    seed: int = 0,
    protocol: Literal["paper", "sklearn"] = "paper",
    subset: Literal["first", "random"] = "random",
    standardize: bool = False,
) -> SemiSupervised:
    """Accuracy of a linear classifier of fixed features, trained on a few labels.

        p(y | h) = softmax(h V + c)

    "paper" trains it by gradient descent: learning rate 1, batches of 32 rows in a new order
    every epoch, the gradient clipped to a norm of 5. A validation loss above the lowest since the
    last halving is a rise, and a lower one sets the count back; after 2 rises the rate is halved
    and the weights of the lowest validation loss so far are restored. It ends after 5 halvings or
    100 epochs, and those weights are the classifier. "sklearn" is logistic regression, its C of
    0.01, 0.1, 1, 10, 100 the one of the highest validation accuracy (the smallest of equals).

    Validation labels select the weights or C and nothing else; test labels only count what was
    right. Report mean and standard deviation (`spread`) over at least ten seeds.

    Args:
        features_train: `[N, d]`, such as posterior means over many chains (200 in the paper).
        y_train: Labels `[N]`, whole numbers; those of rows that are not labelled are not read.
        features_valid: `[V, d]`.
        y_valid: `[V]`.
        features_test: `[T, d]`.
        y_test: `[T]`.
        num_labels: How many rows of the training set keep their label.
        seed: Of the choice of these rows (with "random") and of start and order (in "paper").
        protocol: "paper" or "sklearn".
        subset: "random" rows, of classes as they come; the rows of a smaller number are among
            those of a larger one of the same seed. "first": the first rows, as the paper's files.
        standardize: Whether to scale each feature to mean 0 and variance 1 over all rows of
            `features_train`. The paper does not.

    Raises:
        InvalidInputError: Features or labels of other shapes or types, or with NaN; more labels
            than rows; labelled rows of one class; another protocol or subset.

    Example:

        >>> runs = [semi_supervised_accuracy(*data, num_labels=100, seed=s) for s in range(10)]
        >>> mean, deviation = spread([run.test_accuracy for run in runs])

    References: B. Pang, E. Nijkamp, T. Han, Y. N. Wu. Generative Text Modeling through Short Run
    Inference. EACL 2021. B. Li et al. A Surprisingly Effective Fix for Deep Latent Variable
    Modeling of Text. EMNLP 2019.
    """
    checks.check_choice("protocol", protocol, ("paper", "sklearn"))
    x_train = check_features("features_train", features_train)
    size = x_train.shape[1]
    x_valid = check_features("features_valid", features_valid, size)
    x_test = check_features("features_test", features_test, size)
    y_train = check_labels("y_train", y_train, len(x_train))
    y_valid = check_labels("y_valid", y_valid, len(x_valid))
    y_test = check_labels("y_test", y_test, len(x_test))
    rows, generator = _labelled(y_train, num_labels, seed, subset)
    if standardize:
        mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
        deviation[deviation == 0] = 1.0
        x_train, x_valid, x_test = ((x - mean) / deviation for x in (x_train, x_valid, x_test))
    sets = (x_train[rows], y_train[rows], x_valid, y_valid)
    if protocol == "paper":
        predict = _softmax_regression(*sets, generator)
    else:
        predict = _best_regression(*sets)
    return _result(predict, rows, x_valid, y_valid, x_test, y_test)


def bag_of_words_accuracy(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_valid: np.ndarray,
    y_valid: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    vocabulary_size: int,
    num_labels: int,
    seed: int = 0,
    subset: Literal["first", "random"] = "random",
) -> SemiSupervised:
    """Accuracy of logistic regression on which words a text has: the baseline for features.

    It learns from the labelled rows alone, the same as `semi_supervised_accuracy` takes with the
    same seed: features of a generative model are worth what they add to this. C is the one of
    0.01, 0.1, 1, 10, 100 with the highest validation accuracy (the smallest of equals).

    Args:
        x_train: Ids of words `[N, L]`, whole numbers below `vocabulary_size`; 0 is padding.
        y_train: Labels `[N]`, whole numbers.
        x_valid: `[V, L]`; the lengths may differ between the sets.
        y_valid: `[V]`.
        x_test: `[T, L]`.
        y_test: `[T]`.
        vocabulary_size: Number of ids, padding included.
        num_labels: How many rows of the training set keep their label.
        seed: Of the choice of these rows.
        subset: As of `semi_supervised_accuracy`.

    Raises:
        InvalidInputError: Ids that are not whole numbers of the vocabulary, and as
            `semi_supervised_accuracy`.

    Example:

        >>> bag_of_words_accuracy(*data, vocabulary_size=8411, num_labels=100).test_accuracy
    """
    checks.check_count("vocabulary_size", vocabulary_size, 2)
    sets = [
        _check_ids(name, ids, vocabulary_size)
        for name, ids in (("x_train", x_train), ("x_valid", x_valid), ("x_test", x_test))
    ]
    y_train = check_labels("y_train", y_train, len(sets[0]))
    y_valid = check_labels("y_valid", y_valid, len(sets[1]))
    y_test = check_labels("y_test", y_test, len(sets[2]))
    rows, _ = _labelled(y_train, num_labels, seed, subset)
    sets[0] = sets[0][rows]
    x_train, x_valid, x_test = (_bag_of_words(ids, vocabulary_size) for ids in sets)
    predict = _best_regression(x_train, y_train[rows], x_valid, y_valid)
    return _result(predict, rows, x_valid, y_valid, x_test, y_test)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of the figures of several seeds.

    Raises:
        InvalidInputError: Fewer than two values, or values that are not finite numbers.

    Example:

        >>> spread([0.86, 0.87, 0.88])        # about (0.87, 0.01)
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
        raise InvalidInputError(
            f"A spread needs at least two finite numbers, one per seed. Received {found.tolist()}."
        )
    return float(found.mean()), float(found.std(ddof=1))


def check_features(name: str, features: Any, size: int | None = None) -> np.ndarray:
    """`features` as float64 `[N, size]`; raises `InvalidInputError` for others, or NaN."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not features.size or size not in (None, features.shape[1]):
        needed = "[N, d]" if size is None else f"[N, {size}], of the size of the training features"
        raise InvalidInputError(
            f"`{name}` must have shape {needed}, with at least one row. Received shape "
            f"{features.shape}."
        )
    if not np.isfinite(features).all():
        raise InvalidInputError(
            f"`{name}` holds NaN or infinite values. Look at the chains or the encoder."
        )
    return features


def check_labels(name: str, labels: Any, number: int) -> np.ndarray:
    """`labels` as an array `[number]`; raises `InvalidInputError` unless whole numbers."""
    labels = np.asarray(labels)
    if labels.shape != (number,) or labels.dtype.kind not in "iub":
        raise InvalidInputError(
            f"`{name}` must be {number} whole numbers, one per row. Received {labels.dtype} of "
            f"shape {labels.shape}. Number the classes, `np.unique(y, return_inverse=True)[1]`."
        )
    return labels


def _check_ids(name: str, ids: Any, vocabulary_size: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise InvalidInputError(
            f"`{name}` must be ids of words, whole numbers [N, L] padded with 0. Received "
            f"{ids.dtype} of shape {ids.shape}."
        )
    if ids.min() < 0 or ids.max() >= vocabulary_size:
        raise InvalidInputError(
            f"`{name}` must hold ids from 0 to {vocabulary_size - 1}. Received {ids.min()} to "
            f"{ids.max()}. Give the `vocabulary_size` they were made with."
        )
    return ids


def _labelled(
    y_train: np.ndarray, num_labels: int, seed: int, subset: str
) -> tuple[np.ndarray, np.random.Generator]:
    """The rows that keep their label, and a generator for what else is random."""
    checks.check_count("num_labels", num_labels)
    checks.check_count("seed", seed, 0)
    if num_labels > len(y_train):
        raise InvalidInputError(
            f"`num_labels` must be at most the {len(y_train)} rows of the training set. Received "
            f"{num_labels}."
        )
    choice, rest = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    checks.check_choice("subset", subset, ("first", "random"))
    rows = np.arange(num_labels)
    if subset == "random":
        rows = choice.permutation(len(y_train))[:num_labels]
    if len(np.unique(y_train[rows])) < 2:
        raise InvalidInputError(
            f"The {num_labels} labelled rows are all of class {y_train[rows[0]]}. At least two "
            "classes are needed: take more labels or another seed."
        )
    return rows, rest


def _result(
    predict: Callable[[Any], np.ndarray],
    rows: np.ndarray,
    x_valid: Any,
    y_valid: np.ndarray,
    x_test: Any,
    y_test: np.ndarray,
) -> SemiSupervised:
    predictions = predict(x_test)
    return SemiSupervised(
        test_accuracy=float((predictions == y_test).mean()),
        valid_accuracy=float((predict(x_valid) == y_valid).mean()),
        num_labels=len(rows),
        largest_class=float(np.unique(y_test, return_counts=True)[1].max() / len(y_test)),
        predictions=predictions,
        labelled=rows,
    )


def _softmax_regression(
    x: np.ndarray,
    y: np.ndarray,
    x_valid: np.ndarray,
    y_valid: np.ndarray,
    generator: np.random.Generator,
) -> Callable[[np.ndarray], np.ndarray]:
    """Trains by the paper's protocol; float64 throughout."""
    classes, codes = np.unique(np.concatenate([y, y_valid]), return_inverse=True)
    codes, codes_valid = codes[: len(y)], codes[len(y) :]
    x, x_valid = _with_one(x), _with_one(x_valid)

    def epoch(weights: np.ndarray, rate: float) -> np.ndarray:
        order = generator.permutation(len(x))
        inputs, targets = x[order], np.eye(len(classes))[codes[order]]
        for i in range(0, len(x), _BATCH):
            batch = inputs[i : i + _BATCH]  # [B, d + 1]
            error = np.exp(_log_softmax(batch @ weights)) - targets[i : i + _BATCH]  # [B, K]
            gradient = batch.T @ error / len(batch)
            norm = np.sqrt((gradient**2).sum())
            weights = weights - rate * min(1.0, _CLIP / max(norm, 1e-12)) * gradient
        return weights

    def loss(weights: np.ndarray) -> float:
        log_p = _log_softmax(x_valid @ weights)
        return float(-log_p[np.arange(len(log_p)), codes_valid].mean())

    # The start of the published code, PyTorch's: uniform, narrower with more features.
    bound = 1.0 / np.sqrt(x.shape[1] - 1)
    start = generator.uniform(-bound, bound, size=(x.shape[1], len(classes)))
    weights = _descend(start, epoch, loss)
    return lambda rows: classes[(_with_one(rows) @ weights).argmax(axis=1)]


def _descend(
    weights: _Weights,
    epoch: Callable[[_Weights, float], _Weights],
    loss: Callable[[_Weights], float],
) -> _Weights:
    """Epochs at a rate that halves where the loss rises; returns the weights of the lowest loss.

    After a halving the bar is the loss it came at, not the lowest, as in the published code: the
    next epoch starts from the best weights and has a chance to pass.
    """
    rate, rises, halvings = _RATE, 0, 0
    best, lowest, bar = weights, np.inf, np.inf
    for _ in range(_EPOCHS):
        weights = epoch(weights, rate)
        found = loss(weights)
        if found < lowest:
            best, lowest = weights, found
        if found <= bar:
            rises, bar = 0, found
            continue
        rises += 1
        if rises == _RISES:
            rate, rises, bar, weights = rate / 2.0, 0, found, best
            halvings += 1
            if halvings == _HALVINGS:
                break
    return best


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def _best_regression(
    x: Any, y: np.ndarray, x_valid: Any, y_valid: np.ndarray
) -> Callable[[Any], np.ndarray]:
    """Logistic regression, dense or sparse, of the C that does best on the validation set."""
    from sklearn.linear_model import LogisticRegression

    fits = []
    for strength in _STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # converged or not, the validation set judges it
            fits.append(LogisticRegression(C=strength, max_iter=1000).fit(x, y))
    accuracies = [float((fit.predict(x_valid) == y_valid).mean()) for fit in fits]
    return fits[int(np.argmax(accuracies))].predict


def _bag_of_words(ids: np.ndarray, vocabulary_size: int) -> Any:
    """1 where a word occurs, however often: sparse `[N, vocabulary_size]`."""
    from scipy import sparse

    rows, columns = np.nonzero(ids)
    entries = (np.ones(len(rows)), (rows, ids[rows, columns]))
    bag = sparse.csr_array(entries, shape=(len(ids), vocabulary_size))
    bag.sum_duplicates()
    bag.data[:] = 1.0
    return bag

"""How well a model's scores tell anomalies, while it learns."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfebm import checks
from tfebm.metrics import anomaly_detection, rank_lost_scores

Scores = Callable[[keras.Model], Mapping[str, np.ndarray]]


class AnomalyCurves(keras.callbacks.Callback):
    """Adds `auprc_<kind>` to the logs of epochs: the area under each kind of score's curve.

    Put it before the callbacks that write logs. Rows whose score is not finite count as the oddest.
    The papers report the mean over the last epochs; to choose an epoch or a setting by the figures,
    give rows that are not the test's.

    Args:
        scores: The model to `[N]` scores of the same N rows for each of one or more kinds, higher
            for anomalies.
        is_anomaly: `[N]`, booleans or 0 and 1, both of which occur.
        first_epoch: From which on, counted from 0.

    Raises:
        InvalidInputError: Labels that are not two classes, or a negative epoch; at the end of an
            epoch, scores that are not one for each label.

    Example:

        >>> def scores(model):                             # the mean of four chains each
        ...     return model.score_parts(x_test, num_chains=4, seed=0)._asdict()
        >>> curves = tfebm.callbacks.AnomalyCurves(scores, y_test == 9, first_epoch=10)
        >>> model.fit(x_train, epochs=20, callbacks=[curves])
    """

    def __init__(self, scores: Scores, is_anomaly: Any, first_epoch: int = 0) -> None:
        super().__init__()
        checks.check_count("first_epoch", first_epoch, least=0)
        # Labels that have no curve are told now, and not after an epoch.
        anomaly_detection(np.zeros(np.shape(is_anomaly)), is_anomaly)
        self._scores, self._is_anomaly, self._first = scores, is_anomaly, first_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch < self._first or logs is None:
            return
        for kind, values in self._scores(self.model).items():
            found = anomaly_detection(rank_lost_scores(values), self._is_anomaly)
            logs[f"auprc_{kind}"] = found.auprc

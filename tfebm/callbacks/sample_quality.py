"""How far what a model generates is from data, while it learns."""

from typing import Any

import keras
import numpy as np

from tfebm import checks
from tfebm.metrics import FeatureMoments, features, frechet, frechet_distance, kernel_distance


class SampleQuality(keras.callbacks.Callback):
    """Compares samples with data at the end of epochs, in features that are given.

    `frechet_distance` and `kernel_distance` join the logs of the epoch; both are NaN where samples
    hold NaN or infinite values, as those of a diverged model do. Put it before the callbacks
    that write logs. Compare with figures of as many samples in the same features only. To choose
    an epoch by them, give training data as the reference.

    Args:
        extract: Images to features, such as `metrics.classifier_features(...).extract`.
        reference: Images `[M, H, W, C]` in [-1, 1].
        num_samples: Drawn each time, at least 2.
        every: Epochs from one look to the next, the last of so many; the logs of the others have no
            figures.
        seed: Of the samples, the same each time, and of the subsets of `kernel_distance`.

    Raises:
        InvalidInputError: A count below its bound, or features that cannot be compared.

    Example:

        >>> extract = tfebm.metrics.classifier_features(x_train, y_train).extract
        >>> quality = tfebm.callbacks.SampleQuality(extract, x_train, every=5)
        >>> model.fit(x_train, epochs=20, callbacks=[quality])
    """

    def __init__(
        self,
        extract: features.Extract,
        reference: np.ndarray,
        num_samples: int = 1000,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        checks.check_count("num_samples", num_samples, least=2)
        checks.check_count("every", every)
        self.num_samples, self.every, self.seed = num_samples, every, seed
        self._extract, self._reference = extract, np.asarray(extract(reference), np.float64)
        # A reference that cannot be compared is told now, and not after an epoch.
        frechet.check_sets(self._reference, self._reference)
        self._moments = FeatureMoments.of(self._reference)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every == 0 and logs is not None:
            logs.update(self.measure(self.model))

    def measure(self, model: keras.Model) -> dict[str, float]:
        """The figures of `model` as it is now."""
        images = model.generate(self.num_samples, seed=self.seed)
        if not np.isfinite(images).all():
            return {"frechet_distance": float("nan"), "kernel_distance": float("nan")}
        samples = self._extract(images)
        kernel = kernel_distance(samples, self._reference, seed=self.seed)
        return {
            "frechet_distance": frechet_distance(samples, self._moments),
            "kernel_distance": kernel.value,
        }

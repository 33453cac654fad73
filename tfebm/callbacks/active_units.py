"""How many latents say anything about the data, while a model learns."""

from typing import Any

import keras
import numpy as np

from tfebm import checks
from tfebm.metrics import active_units
from tfebm.models import latents


class ActiveUnits(keras.callbacks.Callback):
    """Adds `active_units` to the logs of epochs: the latent coordinates in use.

        AU = #{i : Var_x(E[z_i | x]) > threshold}

    by `metrics.active_units`, of all layers together where there are several, for a model with a
    posterior: `LatentEBM`, `ShortRunModel` or `VAE`. It falls where a posterior collapses, and is
    NaN where a chain diverged. Put it before the callbacks that write logs.

    Args:
        x: Examples as `model.infer` takes them, two or more: images, vectors, ids or sentences.
        num_chains: For each of them, at least 2.
        threshold: On the variance, at least 0.
        every: Epochs from one look to the next, the last of so many; the logs of the others have no
            figure.
        seed: Of the chains, the same each time.

    Raises:
        InvalidInputError: A setting below its bound, fewer than two examples.

    Example:

        >>> units = tfebm.callbacks.ActiveUnits(x_train[:500], every=5)
        >>> model.fit(x_train, epochs=20, callbacks=[units])

    References: Y. Burda, R. Grosse, R. Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016.
    """

    def __init__(
        self,
        x: Any,
        num_chains: int = 10,
        threshold: float = 0.01,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        checks.check_count("num_chains", num_chains, least=2)
        checks.check_count("number of examples", len(x), least=2)
        checks.check_number("threshold", threshold)
        checks.check_count("every", every)
        self.num_chains, self.threshold = num_chains, threshold
        self.every, self.seed = every, seed
        self._x = x

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every == 0 and logs is not None:
            logs.update(self.measure(self.model))

    def measure(self, model: keras.Model) -> dict[str, float]:
        """The figure of `model` as it is now."""
        z = model.infer(self._x, seed=self.seed, num_chains=self.num_chains)
        z = np.asarray(latents.join(z))
        if not np.isfinite(z).all():
            return {"active_units": float("nan")}
        return {"active_units": active_units(z, threshold=self.threshold).count}

"""How well the chains of a model mix while it learns."""

from typing import Any

import keras

from tfebm import checks, random
from tfebm.metrics import chains
from tfebm.models import FlowEBM
from tfebm.samplers import HMC

_LARGEST = 1e6  # stands for infinite, which JSON does not know


class ChainDiagnostics(keras.callbacks.Callback):
    """Runs fresh latent chains of a `FlowEBM` at the end of epochs and adds to its records.

    `r_hat` (the largest over the coordinates shown), `r_hat_energy`, `ess` (the smallest bulk
    ESS of all draws) and `autocorrelation_time` (the largest, in draws) join the logs of the
    epoch. Put it before the callbacks that write logs.

    Args:
        num_steps: Transitions of each chain, at least 4; as many are spent on adaptation.
        num_chains: At least 2.
        num_coordinates: Of the latent, the first ones, that are looked at.
        every: Epochs from one look to the next; records between repeat the last figures.
        seed: Of the chains.

    Raises:
        InvalidInputError: A count below its bound, or chains that do not move (which names their
            step size).

    Example:

        >>> model.fit(points, epochs=10, callbacks=[tfebm.callbacks.ChainDiagnostics()])
    """

    def __init__(
        self,
        num_steps: int = 100,
        num_chains: int = 16,
        num_coordinates: int = 16,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        checks.check_count("num_steps", num_steps, least=4)
        checks.check_count("num_chains", num_chains, least=2)
        checks.check_count("num_coordinates", num_coordinates)
        checks.check_count("every", every)
        self.num_chains, self.num_coordinates = num_chains, num_coordinates
        self.every, self.seed = every, seed
        self._num_steps = num_steps
        self._sampler: HMC | None = None
        self._last: dict[str, float] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch % self.every == 0 or not self._last:
            self._last = self.measure(self.model)
        if logs is not None:
            logs.update(self._last)

    def measure(self, model: FlowEBM) -> dict[str, float]:
        """The figures of `model` as it is now."""
        if self._sampler is None:
            leapfrog = getattr(model.sampler, "num_leapfrog_steps", 5)
            self._sampler = HMC(
                self._num_steps,
                num_leapfrog_steps=leapfrog,
                num_adaptation_steps=self._num_steps,
            )
        streams = random.as_row_seeds(self.seed, self.num_chains)
        step_size = float(model.step_size.numpy()) or 0.1
        _, trace = self._sampler(
            model.latent_energy,
            model.prior.fresh(streams),
            seed=streams,
            step_size=step_size,
            draws=True,
        )
        draws = trace.draws.numpy()[..., : self.num_coordinates]
        ess = chains.effective_sample_size(draws).min()
        return {
            "r_hat": min(float(chains.split_r_hat(draws).max()), _LARGEST),
            "r_hat_energy": min(float(chains.split_r_hat(trace.energy.numpy()[1:])), _LARGEST),
            "ess": float(ess),
            "autocorrelation_time": draws.shape[0] * draws.shape[1] / float(ess),
        }

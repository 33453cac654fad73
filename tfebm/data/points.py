"""Samples of the densities in the plane, as data sets."""

import dataclasses

import numpy as np

from tfebm import checks
from tfebm.data import toy


@dataclasses.dataclass(frozen=True)
class PointData:
    """Points to train on and to test with, float32."""

    name: str
    x_train: np.ndarray
    """`[N, 2]`."""
    x_test: np.ndarray
    """As `x_train`, of other seeds."""
    density: toy.ToyDensity
    """Where they are from."""

    @property
    def report_sentence(self) -> str:
        """What was drawn, in one line."""
        return (
            f"{self.name}: {len(self.x_train)} to train on, {len(self.x_test)} to test, points of "
            f"{self.x_train.shape[1]} numbers"
        )


def load_points(
    name: str, *, num_train: int = 50_000, num_test: int = 50_000, seed: int = 0
) -> PointData:
    """Draws a training and a test set from a density of `TOY_DENSITIES`.

    Args:
        name: Of the density.
        num_train: Points to train on.
        num_test: Points to test with.
        seed: Of both, which are independent.

    Raises:
        InvalidInputError: No density of this name, or counts below 1.

    Example:

        >>> load_points("eight_gaussians").x_train.shape
        (50000, 2)
    """
    density = toy.toy_density(name)
    checks.check_count("num_train", num_train)
    checks.check_count("num_test", num_test)
    seeds = np.random.SeedSequence(seed).spawn(2)
    train, test = (
        density.sampler(np.random.default_rng(each), count).astype(np.float32)
        for each, count in zip(seeds, (num_train, num_test), strict=True)
    )
    return PointData(name, train, test, density)

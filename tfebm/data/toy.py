"""Densities in the plane: what a flow with an energy is first tried on."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tfebm import checks
from tfebm.errors import InvalidInputError, near


@dataclasses.dataclass(frozen=True)
class ToyDensity:
    """A density in the plane."""

    name: str
    sampler: Callable[[np.random.Generator, int], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray] | None = None
    modes: np.ndarray | None = None
    """Centres `[M, 2]` of its separate modes, of equal weight; None where there are none."""

    def sample(self, num_samples: int, *, seed: int = 0) -> np.ndarray:
        """`[num_samples, 2]`, float32."""
        checks.check_count("num_samples", num_samples)
        return self.sampler(np.random.default_rng(seed), num_samples).astype(np.float32)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) in nats for `[N, 2]`, float64.

        Raises:
            InvalidInputError: It has no closed form.
        """
        if self.log_density is None:
            known = ", ".join(d.name for d in TOY_DENSITIES.values() if d.log_density)
            raise InvalidInputError(
                f"The density of '{self.name}' has no closed form. Known are those of {known}."
            )
        return self.log_density(np.asarray(x, np.float64))

    def nearest_mode(self, x: np.ndarray) -> np.ndarray:
        """The index of the nearest mode, for points `[..., 2]`: `[...]`."""
        if self.modes is None:
            raise InvalidInputError(f"'{self.name}' has no separate modes.")
        distance = np.square(np.asarray(x)[..., np.newaxis, :] - self.modes).sum(axis=-1)
        return distance.argmin(axis=-1)


def toy_density(name: str) -> ToyDensity:
    """The density of that name; see `TOY_DENSITIES`.

    Raises:
        InvalidInputError: There is none; near names are given.

    Example:

        >>> points = tfebm.data.toy_density("eight_gaussians").sample(1000, seed=0)
    """
    if name not in TOY_DENSITIES:
        raise InvalidInputError(
            f"There is no density {name!r}.{near(name, TOY_DENSITIES)} Give one of "
            f"{', '.join(TOY_DENSITIES)}."
        )
    return TOY_DENSITIES[name]


def _mixture(name: str, modes: np.ndarray, std: float) -> ToyDensity:
    """Gaussians of equal weight."""

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        return modes[rng.integers(len(modes), size=n)] + std * rng.normal(size=(n, 2))

    def log_prob(x: np.ndarray) -> np.ndarray:
        squared = np.square(x[:, np.newaxis] - modes).sum(axis=-1)
        exponent = -0.5 * squared / std**2
        top = exponent.max(axis=1)
        total = np.log(np.exp(exponent - top[:, np.newaxis]).sum(axis=1)) + top
        return total - math.log(len(modes) * 2.0 * math.pi * std**2)

    return ToyDensity(name, sample, log_prob, modes)


def _circle(count: int, radius: float) -> np.ndarray:
    angle = 2.0 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _square_grid(count: int, spacing: float) -> np.ndarray:
    line = spacing * (np.arange(count) - (count - 1) / 2)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def _pinwheel(rng: np.random.Generator, n: int) -> np.ndarray:
    arms, radial, tangential, rate = 5, 0.3, 0.1, 0.25
    arm = rng.integers(arms, size=n)
    x = rng.normal(size=(n, 2)) * [radial, tangential] + [1.0, 0.0]
    angle = 2.0 * np.pi * arm / arms + rate * np.exp(x[:, 0])
    cosine, sine = np.cos(angle), np.sin(angle)
    return 2.0 * np.stack(
        [cosine * x[:, 0] - sine * x[:, 1], sine * x[:, 0] + cosine * x[:, 1]], axis=1
    )


def _two_moons(rng: np.random.Generator, n: int) -> np.ndarray:
    lower = rng.integers(2, size=n)
    angle = np.pi * rng.random(n)
    x = np.where(lower, 1.0 - np.cos(angle), np.cos(angle))
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle))
    return 2.0 * (np.stack([x - 0.5, y - 0.25], axis=1) + 0.1 * rng.normal(size=(n, 2)))


def _swiss_roll(rng: np.random.Generator, n: int) -> np.ndarray:
    t = 1.5 * np.pi * (1.0 + 2.0 * rng.random(n))
    return (np.stack([t * np.cos(t), t * np.sin(t)], axis=1) + rng.normal(size=(n, 2))) / 5.0


def _checkerboard(rng: np.random.Generator, n: int) -> np.ndarray:
    column = rng.integers(4, size=n)
    row = 2 * rng.integers(2, size=n) + column % 2
    # Off the edges by more than float32 rounds: on them the density is 0.
    return np.stack([column, row], axis=1) - 2.0 + rng.uniform(1e-6, 1.0 - 1e-6, (n, 2))


def _log_checkerboard(x: np.ndarray) -> np.ndarray:
    cell = np.floor(x).astype(int)
    inside = (np.abs(x) < 2.0).all(axis=1) & (cell.sum(axis=1) % 2 == 0)
    return np.where(inside, -math.log(8.0), -np.inf)


_RADII, _RING_STD = np.array([0.6, 1.2, 1.8, 2.4]), 0.08


def _rings(rng: np.random.Generator, n: int) -> np.ndarray:
    radius = _RADII[rng.integers(len(_RADII), size=n)] + _RING_STD * rng.normal(size=n)
    angle = 2.0 * np.pi * rng.random(n)
    return radius[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _log_rings(x: np.ndarray) -> np.ndarray:
    radius = np.linalg.norm(x, axis=1)
    # A radius drawn below 0 lands at the other side.
    deviation = np.stack([radius, -radius])[..., np.newaxis] - _RADII
    exponent = -0.5 * np.square(deviation / _RING_STD)
    total = np.logaddexp.reduce(np.concatenate([*exponent], axis=1), axis=1)
    scale = len(_RADII) * math.sqrt(2.0 * math.pi) * _RING_STD * 2.0 * math.pi
    return total - np.log(scale * np.maximum(radius, np.finfo(float).tiny))


TOY_DENSITIES: dict[str, ToyDensity] = {
    density.name: density
    for density in (
        _mixture("eight_gaussians", _circle(8, 2.0), 0.2),
        _mixture("twenty_five_gaussians", _square_grid(5, 1.0), 0.1),
        ToyDensity("pinwheel", _pinwheel),
        ToyDensity("two_moons", _two_moons),
        ToyDensity("checkerboard", _checkerboard, _log_checkerboard),
        ToyDensity("swiss_roll", _swiss_roll),
        ToyDensity("rings", _rings, _log_rings),
    )
}

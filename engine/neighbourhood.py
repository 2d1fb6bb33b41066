"""How strongly a neuron follows an image, as a function of its lattice distance to the best-matching unit."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from skysom.engine.errors import NeighbourhoodError
from skysom.engine.lattice import Lattice

Kind = Literal["gaussian", "unity_gaussian", "mexican_hat"]


@dataclass(frozen=True)
class Neighbourhood:
    """A neighbourhood function of lattice distance d (specs of the peer, section 6).

    gaussian       rate / (sigma sqrt(2 pi)) exp(-(d / sigma)^2 / 2): normalised, its peak depends on sigma
    unity_gaussian rate exp(-(d / sigma)^2 / 2): the peak is ``rate``
    mexican_hat    2 rate / (sqrt(3 sigma) pi^(1/4)) (1 - (d / sigma)^2) exp(-(d / sigma)^2 / 2)

    sigma in lattice steps; neurons at or beyond ``max_update_distance`` are left alone (None: no limit).
    Raises NeighbourhoodError for an unknown kind, sigma <= 0 or a limit <= 0.
    """

    kind: Kind = "gaussian"
    sigma: float = 1.1
    rate: float = 0.2
    max_update_distance: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise NeighbourhoodError(f"neighbourhood is {self.kind!r}; use one of {get_args(Kind)}")
        if not (self.sigma > 0 and math.isfinite(self.sigma) and math.isfinite(self.rate)):
            raise NeighbourhoodError(f"sigma is {self.sigma}, rate {self.rate}; sigma must be positive, both finite")
        if self.max_update_distance is not None and not self.max_update_distance > 0:
            raise NeighbourhoodError(f"max_update_distance is {self.max_update_distance}; it must be positive or unset")

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """Update factors, float32, for float32 lattice distances of any shape."""
        d = np.asarray(distance, np.float32)
        sigma, rate = np.float32(self.sigma), np.float32(self.rate)
        falling = np.exp(np.float32(-0.5) * (d / sigma) ** 2)
        if self.kind == "gaussian":
            factors = rate / (sigma * np.sqrt(np.float32(2 * math.pi))) * falling
        elif self.kind == "unity_gaussian":
            factors = rate * falling
        else:
            peak = 2 * rate / (np.sqrt(3 * sigma) * np.float32(math.pi**0.25))
            factors = peak * (1 - (d / sigma) ** 2) * falling
        if self.max_update_distance is not None:
            factors = np.where(d < np.float32(self.max_update_distance), factors, 0)
        return factors.astype(np.float32)

    def factors(self, lattice: Lattice) -> np.ndarray:
        """F (N, N) float32: row b holds the factors of all neurons when b is the best-matching unit."""
        return self(lattice.distances())

"""Which neurons can hold the best match: scores of few orders and angles, and a bound on what the rest can change.

With c_m the coefficient of order m of a correlation, the part of <T x, w> beyond the order L is at most sum_{m >= L}
|c_m|; and between angles h apart a wave of order m rises by at most (h m)^2 / 8 |c_m| above its larger neighbour
(the error of linear interpolation). Cauchy and Schwarz bound |c_m| by the coefficients X_mj and W_mj on the rings j:

    |c_m| <= sum_g |X_m|_g |W_m|_g,   |X_m|_g^2 = sum_{j in g} a_j |X_mj|^2,   |W_m|_g^2 = sum_{j in g} |W_mj|^2 / a_j

with groups g of neighbouring rings and a_j the area of ring j. So one small matrix product bounds the scores of all
neurons, orders and angles from below. Sources have little in their high orders: on real surveys the bound leaves 0.3
to 4 % of the neurons of an image, and only their scores are made of all orders at all angles.
"""

from typing import Any, NamedTuple

import numpy as np

from skysom.engine.polar import Scores
from skysom.engine.rings import ring_areas

Array = Any

LOWEST_ORDERS = 16
"""Orders that every neuron is scored with."""
STEP_DEGREES = 4.0
"""At most so far apart are the angles that every neuron is scored at."""
GROUPS = 16
"""At most so many groups of rings of a channel."""
ROUNDED_UP = 1 + 1e-4
"""What makes the float32 sums of a bound not less than it: far more than such sums of positive numbers lose."""


class Coarse(NamedTuple):
    """Coarse scores of a block of images, base rotation 0 apart.

    squared (N, B) float64, at transform (N, B) int32; bound (N, B) float32: how much less the best score of all orders
    and angles can be.
    """

    squared: np.ndarray
    transform: np.ndarray
    bound: np.ndarray


class CoarseScores:
    """The coarse scores of the map whose neurons on rings, of all orders, are ``scores``."""

    def __init__(self, scores: Scores) -> None:
        table, geometry = scores.table, scores.geometry
        self.geometry, self.low, self.kept = geometry, scores.lowest_orders(LOWEST_ORDERS), table.orders < LOWEST_ORDERS
        self.step = max(1, int(STEP_DEGREES * geometry.rotations / 360))
        count, channels = len(table), scores.coefficients.shape[3] // len(table)
        self.areas, width = np.tile(ring_areas(table), channels).astype(np.float32), -(-count // GROUPS)
        self.groups = np.concatenate([c * count + np.arange(0, count, width) for c in range(channels)])
        turn = 2 * np.pi * self.step / geometry.rotations * table.orders
        share = np.where(self.kept, turn**2 / 8 if self.step > 1 else 0.0, 1.0) * (2 * ROUNDED_UP)
        self.sizes = np.empty((len(scores.coefficients), table.band * len(self.groups)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # squares beyond float32: such a neuron is never discarded
            for own, neuron in zip(self.sizes, scores.coefficients, strict=True):
                own[:] = (share[:, None] * self._sizes(neuron, 1 / self.areas)).reshape(-1)

    def __call__(self, spectra: np.ndarray, energies: np.ndarray) -> Coarse:
        """Coarse scores of a block of images.

        spectra (M, 2, K, B); energies (8, R/4, B) float32, of which those of base rotation 0 do not count: its scores
        are not bounded.
        """
        parts = list(self.low(spectra[self.kept], self._least(energies), self.step))
        squared = np.concatenate([part.best for part in parts]) + self.low.norms[:, None]
        bases = self.geometry.base_rotations
        quarter, place = np.divmod(np.concatenate([part.transform for part in parts]), -(-bases // self.step))
        with np.errstate(over="ignore", invalid="ignore"):
            images = self._sizes(spectra, self.areas[:, None]).reshape(-1, spectra.shape[3])
            return Coarse(squared, quarter * bases + place * self.step, self.sizes @ images)

    def _least(self, energies: np.ndarray) -> np.ndarray:
        """The least energy (8, k, B) that base rotations less than a step from each scored one have."""
        bases = energies.shape[1]
        # A quarter turn less is the grid symmetry before, or the last of its four.
        before = np.roll(energies.reshape(2, 4, *energies.shape[1:]), 1, axis=1).reshape(energies.shape)
        line = np.concatenate([before[:, bases - self.step + 1 :], energies], axis=1)
        line[:, self.step - 1] = np.inf  # base rotation 0
        least = np.full((8, -(-bases // self.step), energies.shape[2]), np.inf, np.float32)
        for offset in range(2 * self.step - 1):
            part = line[:, offset :: self.step][:, : least.shape[1]]
            least[:, : part.shape[1]] = np.minimum(least[:, : part.shape[1]], part)
        return least

    def _sizes(self, coefficients: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """|X_m|_g of ``coefficients`` (M, 2, K, ...), (M, groups, ...)."""
        power = (coefficients[:, 0] ** 2 + coefficients[:, 1] ** 2) * areas
        return np.sqrt(np.add.reduceat(power, self.groups, axis=1))

"""Weighing channels: what share of the squared distance each of them has, and the weights that would even it out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skysom.engine.batch import search_blocks
from skysom.engine.direct import direct_distances
from skysom.engine.errors import ReadingError
from skysom.engine.exact import Search
from skysom.engine.geometry import Geometry


@dataclass(frozen=True)
class Weighing:
    """What channels contribute with some weights.

    weights (C,) float64; squared (B, C) float64: squared difference of every image from its best-matching unit at its
    best transform, channel by channel; bmu (B,) int64.
    """

    weights: np.ndarray
    squared: np.ndarray
    bmu: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """Share (C,) of all squared distances together, adding up to 1; NaN where all are 0."""
        total = self.squared.sum()
        return self.squared.sum(axis=0) / total if total > 0 else np.full(len(self.weights), np.nan)

    @property
    def median_share(self) -> np.ndarray:
        """Median over the images (C,) of the share of each channel; images that equal their unit are left out."""
        total = self.squared.sum(axis=1)
        some = total > 0
        return np.median(self.squared[some] / total[some, None], axis=0) if some.any() else np.full(len(total), np.nan)


def weigh(images: np.ndarray, neurons: np.ndarray, geometry: Geometry, weights: Sequence[float]) -> Weighing:
    """What each channel contributes where images and neurons are multiplied by ``weights`` (C,).

    images (B, C, H, H) and neurons (N, C, D, D) float32, both without weights. Units and transforms are found anew
    with the weights, by the exact search. Raises ReadingError where weights are not C finite numbers above 0.
    """
    factors = checked_weights(weights, images.shape[1])
    scale = factors.astype(np.float32)[:, None, None]
    images, neurons = images * scale, np.ascontiguousarray(neurons * scale)
    match = search_blocks(Search(neurons, geometry), images)
    rows = np.arange(len(images))
    transform = match.transform[rows, match.bmu]
    squared = np.empty((len(images), images.shape[1]))
    for channel in range(images.shape[1]):
        one = slice(channel, channel + 1)
        own = np.ascontiguousarray(images[:, one]), np.ascontiguousarray(neurons[:, one])
        squared[:, channel] = direct_distances(*own, geometry, rows, match.bmu, transform)
    return Weighing(factors, squared, match.bmu)


def even_weights(found: Weighing) -> np.ndarray:
    """Weights (C,) float64, adding up to 1, that make all shares equal where units and transforms stay as found.

    They do not quite stay, so weigh again with the result. Raises ReadingError where a channel has no share.
    """
    squares = found.squared.sum(axis=0)
    if not (squares > 0).all():
        raise ReadingError(f"channels {np.flatnonzero(squares <= 0).tolist()} have no share of the distances to even")
    wanted = found.weights / np.sqrt(squares)
    return wanted / wanted.sum()


def checked_weights(weights: Sequence[float] | np.ndarray, channels: int) -> np.ndarray:
    """``weights`` (C,) float64; ReadingError unless they are ``channels`` finite numbers above 0."""
    factors = np.asarray(weights, np.float64)
    if factors.shape != (channels,) or not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ReadingError(f"the channel weights are {factors.tolist()}; give {channels} finite numbers above 0")
    return factors

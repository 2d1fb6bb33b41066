"""The polar search: correlations over the angle on rings, in place of rotated images (search.md, Polar).

`Scores` is the part that `method="polar"` and `method="certified"` share: for a block of images, the least
|r|^2 + |w|^2 - 2 <r, w> of every neuron over the interpolated rotations, with <r, w> from the rings. What stands
for |r|^2 is the caller's: `PolarSearch.energies` is unbiased in angle, `energies` is what the exact search has.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skysom.engine import steering
from skysom.engine.blocks import image_innermost, padded
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, as_match, check_shapes, finite_images
from skysom.engine.rings import (
    Rings,
    band_limit,
    folded,
    neuron_spectra,
    ring_areas,
    rings,
    sampled_spectra,
    transformed,
)

Array = Any

PART_NEURONS = 32
"""Neurons whose correlations are held at a time, so that they stay in cache."""


@dataclass(frozen=True)
class Part:
    """Scores of some neurons ``first`` .. for a block of B images.

    best (n, B) float32: the least |r|^2 - 2 <r, w>; transform (n, B) int32: where.
    """

    first: int
    best: np.ndarray
    transform: np.ndarray


class Scores:
    """Neurons on rings: made once for a map, NumPy only.

    weights (N, C, D, D) float32. coefficients (N, M, 2, K) float32; norms (N,) float64, |w|^2 over the region; table:
    the rings. band: orders kept, None to choose it by `band_limit`; ``lost`` is then the share of
    the neurons' energy beyond it. on_rings: makes the neurons' coefficients, `neuron_spectra` or `sampled_spectra`.
    """

    def __init__(
        self,
        weights: np.ndarray,
        geometry: Geometry,
        band: int | None = None,
        on_rings: Callable[[np.ndarray, Rings], np.ndarray] = neuron_spectra,
    ) -> None:
        from skysom.engine import kernels

        side = geometry.image_side
        check_shapes((0, weights.shape[1], side, side), weights.shape, geometry)
        self.geometry, self.lost = geometry, 0.0
        if band is None:
            band, self.lost = band_limit(weights, geometry)
        self.table = rings(geometry, band)
        region, flat = np.flatnonzero(geometry.region_mask), weights.reshape(*weights.shape[:2], -1)
        self.norms = np.array([kernels.square_norm(neuron, region) for neuron in flat])
        self.coefficients = np.empty((len(weights), band, 2, weights.shape[1] * len(self.table)), np.float32)
        for first in range(0, len(weights), PART_NEURONS):
            # One part after another: spectra of all neurons at once would need twice their memory.
            part = on_rings(weights[first : first + PART_NEURONS], self.table)
            self.coefficients[first : first + PART_NEURONS] = part.transpose(2, 0, 1, 3)

    def lowest_orders(self, count: int) -> "Scores":
        """The same neurons with the orders below ``count`` only, a multiple of 4; all of them where there are less.

        For spectra made of all orders: it does not sample images itself.
        """
        table, low = self.table, copy(self)
        if count >= table.band:
            return low
        kept = table.orders < count
        low.table = replace(table, band=count, orders=table.orders[kept])
        low.coefficients = np.ascontiguousarray(self.coefficients[:, kept])
        return low

    def spectra(self, inner: np.ndarray) -> np.ndarray:
        """Coefficients (M, 2, K, B) float32 of images (C, H*H, B), image innermost."""
        from skysom.engine import polar_kernels

        table, (channels, _, batch) = self.table, inner.shape
        if table.taps.index.shape[1] != 4 * table.band:
            raise EngineError(f"these are the lowest {table.band} orders; make the spectra with those of all orders")
        samples = np.empty((4, table.band, channels * len(table), batch), np.float32)
        polar_kernels.sample_rings(inner, *table.taps, table.geometry.image_side, False, samples)
        return transformed(samples, table)

    def __call__(self, spectra: np.ndarray, energies: np.ndarray, step: int = 1) -> Iterator[Part]:
        """Parts of all neurons for ``spectra`` (M, 2, K, B) and ``energies`` (8, k, B) float32.

        Of every ``step``-th base rotation, k in all; the transforms are numbered as if there were no others.
        """
        from skysom.engine import polar_kernels

        band, _, rows, batch = spectra.shape
        flips = 2 if self.geometry.flip else 1
        # Real and imaginary parts side by side: one wide product an order.
        wide = np.ascontiguousarray(spectra.transpose(0, 2, 1, 3)).reshape(band, 1, rows, 2 * batch)
        for first in range(0, len(self.coefficients), PART_NEURONS):
            own = self.coefficients[first : first + PART_NEURONS].transpose(1, 2, 0, 3)
            neurons = own.shape[2]
            products = np.matmul(own, wide).reshape(band, 2, neurons, 2, batch)
            found = np.empty((flips, band, 2, neurons * batch), np.float32)
            polar_kernels.correlate(products, found)
            best, transform = np.empty((neurons, batch), np.float32), np.empty((neurons, batch), np.int32)
            steered = steering.steer(found, self.table, step)
            rotations = self.geometry.rotations if step == 1 else 4 * steered.shape[2]
            polar_kernels.best_turned(steered, energies, rotations, best, transform)
            yield Part(first, best, transform)


class PolarSearch:
    """The polar search against one map: distances of its own, unbiased in angle.

    Neurons are sampled on the rings as images are, with the area of each ring: nothing knows of the grid of pixels.
    |r|^2 is the mean energy of the image over the turned region, so the best angle is that of the largest correlation.
    The rotations of the exact search damp the noise of an image, least near the quarter turns,
    and its best angles gather where |r|^2 is small for that reason alone (the four peaks in users' histograms).
    Calling it on images (B, C, H, H), B <= 32, returns their Match, with ``exact`` false. EngineError for arrays that
    are not NumPy's.
    """

    def __init__(self, weights: np.ndarray, geometry: Geometry, band: int | None = None) -> None:
        if not isinstance(weights, np.ndarray):
            raise EngineError(f"the polar search runs on NumPy arrays, not {type(weights).__name__}; use 'exact'")
        self.geometry = geometry
        self.weights = np.asarray(weights, np.float32)
        self.scores = Scores(self.weights, geometry, band, sampled_spectra)
        mask = np.ones((1, 1, geometry.neuron_side, geometry.neuron_side), np.float32)
        self.area = sampled_spectra(mask, self.scores.table)[0, 0, 0].astype(np.float64)
        self.norms = np.array([self._norm(neuron) for neuron in self.weights])

    def __call__(self, images: np.ndarray) -> Match:
        check_shapes(images.shape, self.weights.shape, self.geometry)
        images, finite, count = padded(images)
        inner = image_innermost(images)
        spectra, energies = self.scores.spectra(inner), self.energies(inner)
        found = [(part.best, part.transform) for part in self.scores(spectra, energies)]
        best, transform = (np.concatenate(parts).T for parts in zip(*found, strict=True))
        squared = best + self.norms
        exact = np.zeros(squared.shape, bool)
        squared = np.maximum(squared, 0)
        return as_match(squared[:count], transform[:count], finite[:count], exact[:count], xp=np)

    def _norm(self, neuron: np.ndarray) -> float:
        """Energy of a neuron (C, D, D) over the region, on the rings."""
        frame = replace(self.geometry, image_side=self.geometry.neuron_side)
        table = rings(frame, self.scores.table.band)
        masked = np.where(self.geometry.region_mask, neuron[None], np.float32(0))
        squares = folded(masked, table, power=True)[0, ..., 0].mean(axis=0, dtype=np.float64) / 4
        return float(np.tile(ring_areas(table), len(neuron)) @ squares)

    def energies(self, inner: np.ndarray) -> np.ndarray:
        """Mean energy of images (C, H*H, B) over the turned region, (8, R/4, B) float32: equal at all transforms."""
        from skysom.engine import polar_kernels

        table, (channels, _, batch) = self.scores.table, inner.shape
        samples = np.empty((4, table.band, channels * len(table), batch), np.float32)
        polar_kernels.sample_rings(inner, *table.taps, self.geometry.image_side, True, samples)
        mean = samples[0].mean(axis=0, dtype=np.float64) / 4  # of each ring
        energy = np.tile(self.area, channels) @ mean
        energies = np.full((8, self.geometry.base_rotations, batch), np.inf, np.float32)  # R = 1 has no quarter turns
        energies[list(self.geometry.elements)] = energy
        return energies


def amplitudes(images: np.ndarray, geometry: Geometry, band: int = 16) -> np.ndarray:
    """Rotation- and flip-invariant features of ``images`` (B, C, H, H): |coefficient| per ring and order.

    Returns (B, C, J, M) float32, rings ``rings(geometry, band).radii`` pixels, orders 0 .. M - 1. The sum over
    angles of f exp(-i m angle), divided by the number of angles: turning an image changes phases only. Images with NaN
    have NaN. ShapeError unless H is the geometry's image side.
    """
    side = geometry.image_side
    if tuple(images.shape[1:])[1:] != (side, side):
        raise ShapeError(f"images have shape {tuple(images.shape)}; these amplitudes need (B, C, {side}, {side})")
    table = rings(geometry, band)
    images, finite = finite_images(np.asarray(images, np.float32), xp=np)
    found = transformed(folded(images, table), table)  # (M, 2, C*J, B)
    size = np.hypot(found[:, 0], found[:, 1])[np.argsort(table.orders)]
    size = size.reshape(band, images.shape[1], len(table), len(images)).transpose(3, 1, 2, 0)
    return np.where(finite[:, None, None, None], size, np.float32(np.nan)).astype(np.float32)

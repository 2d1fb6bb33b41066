"""An image on rings around its centre, and the Fourier transform of each ring along the angle.

The bilinear interpolation of an image is one continuous function f, and every turned image samples f at the
turned pixels. Rings sample the same f, at radii dense enough near the centre that f between them follows by
cubic interpolation. A turn by alpha multiplies order m by exp(i m alpha), a flip conjugates (search.md, Polar).

Orders m are kept in the order 0, 4, 8 .., 2, 6, .., 1, 3, 5 ..: a quarter turn multiplies them by 1, -1 and
+-i, which saves most of the work of both transforms (here and in `steering`).
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from skysom.engine.errors import GeometryError
from skysom.engine.geometry import Geometry, Taps
from skysom.engine.match import finite_images

Array = Any

FIRST_RADIUS, FINE_STEP, COARSE_STEP, COARSE_RADIUS = 0.175, 0.35, 1.25, 30.0
"""Pixels: the first ring, the steps at the centre and from COARSE_RADIUS on."""
BANDS = (48, 64, 96)
"""Band limits to choose from."""
BAND_LOSS = 3e-4
"""Share of the energy of the neurons that may lie beyond the band."""
BAND_NEURONS = 32
"""At most so many neurons, evenly spaced on the map, are those the energy curve is taken of."""
FEW_NEURONS = 16
"""Neurons of these that are sampled at a time."""
SOME_PIXELS = 1024
"""Pixels whose waves are made in float64 at a time."""


@dataclass(frozen=True, eq=False)
class Rings:
    """Rings of a geometry.

    radii : (J,) pixels. band : M, the orders are 0 .. M - 1, a multiple of 4. orders : (M,) int, as they are
    kept. taps : interpolation of the 4 M samples of each ring, arrays (J, A), A = 4 M.
    pixels : (P,) int, region pixels of the neuron frame sorted by ring; cells : (J + 1,) where the pixels of each
    ring begin (ring j holds the pixels between radii j and j + 1); blend : (P, 4) float64, what ring j - 1 ..
    j + 2 contributes to f at the pixel; angle : (P,) radians.
    """

    geometry: Geometry
    radii: np.ndarray
    band: int
    orders: np.ndarray
    taps: Taps
    pixels: np.ndarray
    cells: np.ndarray
    blend: np.ndarray
    angle: np.ndarray

    def __len__(self) -> int:
        return len(self.radii)

    @property
    def groups(self) -> tuple[slice, slice, slice]:
        """Where the orders 0, 2 (mod 4) and the odd ones are kept."""
        quarter = self.band // 4
        return slice(0, quarter), slice(quarter, 2 * quarter), slice(2 * quarter, self.band)


@lru_cache(maxsize=4)
def rings(geometry: Geometry, band: int) -> Rings:
    """Rings of ``geometry`` for orders below ``band``; GeometryError unless it is a positive multiple of 4."""
    if band < 4 or band % 4:
        raise GeometryError(f"the band limit is {band}; use a positive multiple of 4")
    y, x = np.nonzero(geometry.region_mask)
    half = (geometry.neuron_side - 1) / 2
    radius, angle = np.hypot(y - half, x - half), np.arctan2(y - half, x - half)
    radii = ring_radii(float(radius.max()))
    cell = np.clip(np.searchsorted(radii, radius, side="right") - 1, 0, len(radii) - 1)
    order = np.argsort(cell, kind="stable")
    pixels = np.flatnonzero(geometry.region_mask)[order]
    cells = np.searchsorted(cell[order], np.arange(len(radii) + 1))
    blend = _blend(radius[order], cell[order], radii)
    orders = np.concatenate([np.arange(0, band, 4), np.arange(2, band, 4), np.arange(1, band, 2)])
    return Rings(geometry, radii, band, orders, _taps(geometry, radii, 4 * band), pixels, cells, blend, angle[order])


def ring_radii(largest: float) -> np.ndarray:
    """Radii (J,) in pixels of rings that reach ``largest``."""
    radii = [FIRST_RADIUS]
    while radii[-1] < largest:
        step = FINE_STEP + (COARSE_STEP - FINE_STEP) * min(1.0, radii[-1] / COARSE_RADIUS)
        radii.append(radii[-1] + step)
    return np.array(radii)


def _blend(radius: np.ndarray, cell: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(P, 4) weights of Lagrange's cubic through the rings around each pixel."""
    # Before the first ring lies the first one's other side; rings beyond the last are not sampled.
    step = radii[-1] - radii[-2] if len(radii) > 1 else 1.0
    padded = np.concatenate([[-radii[0]], radii, radii[-1] + step * np.arange(1, 3)])
    nodes = padded[cell[:, None] + np.arange(4)]
    blend = np.ones((len(radius), 4))
    for a in range(4):
        for b in range(4):
            if a != b:
                blend[:, a] *= (radius - nodes[:, b]) / (nodes[:, a] - nodes[:, b])
    return blend


def _taps(geometry: Geometry, radii: np.ndarray, angles: int) -> Taps:
    """Interpolation of the image at every ring and angle; outside the image there is nothing."""
    side, turn = geometry.image_side, 2 * np.pi * np.arange(angles) / angles
    row = (side - 1) / 2 + radii[:, None] * np.sin(turn)
    column = (side - 1) / 2 + radii[:, None] * np.cos(turn)
    inside = (row >= 0) & (row <= side - 1) & (column >= 0) & (column <= side - 1)
    upper, left = (np.clip(np.trunc(part), 0, side - 2).astype(np.int32) for part in (row, column))
    index = np.where(inside, upper * np.int32(side) + left, np.int32(-1)).astype(np.int32)
    low, right = ((part * inside).astype(np.float32) for part in (row - upper, column - left))
    return Taps(index, low, right)


@lru_cache(maxsize=4)
def basis(band: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fourier matrices of the folded samples, rows (order, real or imaginary), float32, divided by A.

    For the orders 0 and 2 (mod 4) (M/2, M), for the odd ones (M, 2 M).
    """
    quarter, a = band, np.arange(band)
    found = []
    for start in (0, 2):
        phase = -2j * np.pi * np.outer(np.arange(start, band, 4), a) / (4 * quarter)
        found.append(_real_rows(np.exp(phase)))
    m = np.arange(1, band, 2)
    turned = np.exp(-2j * np.pi * np.outer(m, a) / (4 * quarter))
    # A quarter turn of the sampling point: -i for m = 1 (mod 4), +i for m = 3.
    both = np.concatenate([turned, turned * np.where(m % 4 == 1, -1j, 1j)[:, None]], axis=1)
    found.append(_real_rows(both))
    return tuple((part / (4 * band)).astype(np.float32) for part in found)  # type: ignore[return-value]


def _real_rows(values: np.ndarray) -> np.ndarray:
    """(2 n, columns) real from (n, columns) complex: real and imaginary part in turn."""
    return np.stack([values.real, values.imag], axis=1).reshape(2 * len(values), -1)


def folded(images: Array, table: Rings, *, power: bool = False, xp: Any = np) -> Array:
    """Samples of the rings of ``images`` (B, C, H, H), folded: (4, A/4, C*J, B) float32.

    The portable form of `polar_kernels.sample_rings`.
    """
    batch, channels = images.shape[:2]
    side, taps = table.geometry.image_side, table.taps
    flat = xp.reshape(images, (batch, channels, side * side))
    index = np.maximum(taps.index, 0).astype(np.int64).reshape(-1)
    keep = (taps.index.reshape(-1) >= 0).astype(np.float32)
    low, right = taps.row_fraction.reshape(-1), taps.column_fraction.reshape(-1)
    values = 0
    for offset, share in (
        (0, (1 - low) * (1 - right)), (1, (1 - low) * right), (side, low * (1 - right)), (side + 1, low * right)
    ):  # fmt: skip
        values = values + xp.take(flat, xp.asarray(index + offset), axis=2) * xp.asarray(share * keep)
    values = values * values if power else values
    values = xp.reshape(values, (batch, channels * len(table), 4, table.band))
    x0, x1, x2, x3 = (xp.permute_dims(values[:, :, q, :], (2, 1, 0)) for q in range(4))
    return xp.stack([x0 + x1 + x2 + x3, x0 - x1 + x2 - x3, x0 - x2, x1 - x3])


def transformed(samples: Array, table: Rings, *, xp: Any = np) -> Array:
    """Fourier coefficients (M, 2, K, B) float32, real and imaginary, of ``folded`` samples (4, A/4, K, B)."""
    _, quarter, rows, batch = samples.shape
    zero, two, odd = basis(table.band)
    flat = xp.reshape(samples, (4, quarter, rows * batch))
    parts = [
        xp.matmul(xp.asarray(zero), flat[0, ...]),
        xp.matmul(xp.asarray(two), flat[1, ...]),
        xp.matmul(xp.asarray(odd), xp.reshape(flat[2:, ...], (2 * quarter, rows * batch))),
    ]
    return xp.reshape(xp.concat(parts), (table.band, 2, rows, batch))


def neuron_spectra(weights: np.ndarray, table: Rings) -> np.ndarray:
    """Coefficients (M, 2, N, C*J) float32 of neurons (N, C, D, D): sum_mp <f, w> is one product with an image's.

    Every pixel of the region is put on the four rings around it with the weights by which f at the pixel follows
    from them (the adjoint of the interpolation), so the region is kept pixel by pixel.
    """
    neurons, channels = weights.shape[:2]
    count, band = len(table), table.band
    inside = weights.reshape(neurons * channels, -1)[:, table.pixels].astype(np.float32)
    # Orders above 0 stand for their conjugates as well.
    factor = np.where(table.orders == 0, 1.0, 2.0)
    mirror = np.repeat((-1.0) ** table.orders, 2).astype(np.float32)
    waves = np.empty((len(table.pixels), band, 2), np.float32)
    for first in range(0, len(waves), SOME_PIXELS):
        phase = -np.outer(table.angle[first : first + SOME_PIXELS], table.orders)
        waves[first : first + SOME_PIXELS, :, 0] = np.cos(phase) * factor
        waves[first : first + SOME_PIXELS, :, 1] = np.sin(phase) * factor
    flat, out = waves.reshape(len(waves), -1), np.zeros((count, neurons * channels, 2 * band), np.float32)
    for j in range(count):
        cell = slice(table.cells[j], table.cells[j + 1])
        for a in range(4):
            ring = j - 1 + a
            if cell.start == cell.stop or ring >= count:
                continue
            part = (inside[:, cell] * table.blend[cell, a].astype(np.float32)) @ flat[cell]
            out[max(ring, 0)] += part * mirror if ring < 0 else part
    shaped = out.reshape(count, neurons, channels, band, 2).transpose(3, 4, 1, 2, 0)
    return np.ascontiguousarray(shaped).reshape(band, 2, neurons, channels * count)


def ring_areas(table: Rings) -> np.ndarray:
    """(J,) pixels that each ring stands for."""
    edges = np.concatenate([[0.0], (table.radii[1:] + table.radii[:-1]) / 2, [1.5 * table.radii[-1]]])
    if len(table) > 1:
        edges[-1] = table.radii[-1] + (table.radii[-1] - table.radii[-2]) / 2
    return np.pi * np.diff(edges**2)


def sampled_spectra(weights: np.ndarray, table: Rings) -> np.ndarray:
    """As `neuron_spectra`, of neurons (N, C, D, D) that are set to zero outside the region and sampled as images are.

    The product with an image's coefficients is the integral of f times the interpolated neuron by rings and angles,
    whatever the grid of pixels; `neuron_spectra` stands for the sum over pixels.
    """
    geometry, channels = table.geometry, weights.shape[1]
    frame = rings(replace(geometry, image_side=geometry.neuron_side), table.band)
    found = transformed(folded(np.where(geometry.region_mask, weights, np.float32(0)), frame), frame)  # (M, 2, C*J, N)
    factor = np.where(table.orders == 0, 1.0, 2.0)[:, None] * np.tile(ring_areas(table), channels)
    return np.ascontiguousarray((found * factor[:, None, :, None]).transpose(0, 1, 3, 2).astype(np.float32))


def band_limit(weights: np.ndarray, geometry: Geometry, loss: float = BAND_LOSS) -> tuple[int, float]:
    """The least of BANDS beyond which the neurons (N, C, D, D) keep at most ``loss`` of their energy, and that share.

    The energy curve: |coefficient|^2 of each order, over the rings with their areas, of at most 32 neurons sampled as
    images are; those that are not finite do not count. What lies beyond the largest of BANDS is not seen; that band is
    taken where none smaller suffices.
    """
    if geometry.neuron_side == 1:
        return BANDS[0], 0.0
    table = rings(replace(geometry, image_side=geometry.neuron_side), BANDS[-1])
    areas = ring_areas(table)
    some, energy = weights[:: -(-len(weights) // BAND_NEURONS)], np.zeros(BANDS[-1])
    for first in range(0, len(some), FEW_NEURONS):
        few, _ = finite_images(some[first : first + FEW_NEURONS], xp=np)
        found = transformed(folded(few, table), table).astype(np.float64) ** 2
        energy += np.einsum("mpcjn,j->m", found.reshape(*found.shape[:2], weights.shape[1], len(table), -1), areas)
    energy = energy[np.argsort(table.orders)]
    energy[1:] *= 2
    whole = max(float(energy.sum()), np.finfo(float).tiny)
    lost = [float(energy[band:].sum()) / whole for band in BANDS]
    chosen = next(i for i, share in enumerate(lost) if share <= loss)
    return BANDS[chosen], lost[chosen]

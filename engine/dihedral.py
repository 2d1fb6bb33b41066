"""Inner products over orbits of the eight grid symmetries (ARCHITECTURE.md, The search).

The quarter turns and the flip permute pixels, so only R/4 rotations are interpolated. The region is
split into orbits of the dihedral group D4. For a base-rotated image r, a neuron w and an orbit of
pixels p_g (g in D4), with a(g) = r(p_g) and b(g) = w(p_g), the inner product of the image after the
further symmetry h is c(h) = sum_g a(g h) b(g): a correlation on the group, which the group's Fourier
transform turns into four products of numbers and one product of 2x2 matrices,

    C(rho) = B(rho)^T A(rho),   A(rho) = sum_g a(g) rho(g),   c(h) = 1/8 sum_rho dim tr(rho(h)^T C(rho)).

Summed over orbits and channels these are five matrix products: 12 multiplications where the plain
form has 64, and nothing is approximated. A region that D4 does not map onto itself is embedded in the
smallest one that is, with the neuron zero outside the region.

A template m that is constant along orbits may be subtracted from images and neurons alike, since
h r - m = h (r - m): differences stay what they are, and what all neurons share no longer cancels.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from skysom.engine.geometry import Geometry, Taps

Array = Any


def symmetries(side: int) -> np.ndarray:
    """(8, side**2) int: pixel that element h = 4 f + q moves to each place of the frame."""
    grid = np.arange(side * side).reshape(side, side)
    turns = [np.rot90(grid, -q) for q in range(4)]
    return np.stack([*turns, *(turn[::-1] for turn in turns)]).reshape(8, -1)


def _product_table() -> np.ndarray:
    """(8, 8) int: element g h, h acting first."""
    places = symmetries(3)
    table = np.empty((8, 8), np.int64)
    for g in range(8):
        for h in range(8):
            # (g h) r at p is r at places[h][places[g][p]].
            both = places[h][places[g]]
            table[g, h] = next(e for e in range(8) if np.array_equal(places[e], both))
    return table


PRODUCT = _product_table()
"""PRODUCT[g, h] is the element "h first, then g"."""

_C, _S = np.array([1, 0, -1, 0]), np.array([0, 1, 0, -1])
_ONE_D = np.array([[(1, (-1) ** q, (-1) ** f, (-1) ** (f + q)) for q in range(4)] for f in range(2)])
CHARACTERS = _ONE_D.reshape(8, 4).T.astype(np.float64)
"""(4, 8) the four one-dimensional representations."""
_TURNS = np.stack([np.stack([_C, -_S], -1), np.stack([_S, _C], -1)], 1)
MATRICES = np.concatenate([_TURNS, np.stack([np.stack([_C, -_S], -1), np.stack([-_S, -_C], -1)], 1)]).astype(float)
"""(8, 2, 2) the two-dimensional representation."""


@dataclass(frozen=True, eq=False)
class Orbits:
    """The region of a geometry as orbits, complete ones (all pixels in the region) first.

    pixels : (O, 8) int32, flat neuron-frame pixel of each orbit place g.
    weight : (O,) float32, 1 / (how often the eight places name one pixel).
    inside : (O, 8) bool, whether the pixel belongs to the region.
    complete : number of orbits that lie wholly inside.
    taps : interpolation of base rotation k, orbit o, place g: arrays (R/4, O, 8).
    """

    geometry: Geometry
    pixels: np.ndarray
    weight: np.ndarray
    inside: np.ndarray
    complete: int
    taps: Taps

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def shares(self) -> np.ndarray:
        """(8, O) float32: how much each place counts, 0 outside the region."""
        return np.ascontiguousarray((self.inside * self.weight[:, None]).T.astype(np.float32))

    @cached_property
    def partial(self) -> tuple[np.ndarray, np.ndarray]:
        """The subsets of places (P, 8) bool in which orbits lie partly in the region, and the number (int64) of the one
        that each such orbit has, in order."""
        subsets, own = np.unique(self.inside[self.complete :], axis=0, return_inverse=True)
        return subsets, own.reshape(-1)

    def owners(self) -> np.ndarray:
        """(D*D,) int: the orbit of each pixel of the neuron frame, 0 where there is none."""
        owner = np.zeros(self.geometry.neuron_side**2, np.int64)
        owner[self.pixels] = np.arange(len(self))[:, None]
        return owner


@lru_cache(maxsize=4)
def orbits(geometry: Geometry) -> Orbits:
    """Orbits and interpolation tables of ``geometry`` (kept: they depend on nothing else)."""
    places = symmetries(geometry.neuron_side)
    mask = geometry.region_mask.reshape(-1)
    hull = mask[places].any(axis=0)
    representatives = np.flatnonzero(hull & (places.min(axis=0) == np.arange(places.shape[1])))
    pixels = places[:, representatives].T
    inside = mask[pixels]
    order = np.argsort(~inside.all(axis=1), kind="stable")
    pixels, inside = pixels[order], inside[order]
    distinct = (np.diff(np.sort(pixels, axis=1), axis=1) > 0).sum(axis=1) + 1
    taps = [geometry.taps(k, pixels) for k in range(geometry.base_rotations)]
    return Orbits(
        geometry,
        pixels.astype(np.int32),
        (distinct / 8).astype(np.float32),
        inside,
        int(inside.all(axis=1).sum()),
        Taps(*(np.ascontiguousarray(np.stack(part)) for part in zip(*taps, strict=True))),
    )


class Spectra(NamedTuple):
    """Group Fourier transform of images or neurons over all orbits and channels, K = C * O.

    For images of a block: scalars (4, K, columns), matrices (2K, 2 columns), row (orbit, m), column
    (j, column); columns are (rotation, image). For neurons: scalars (4, N, K), matrices (2N, 2K),
    row (neuron, i), column (orbit, m), both scaled so that the products are parts of -2 <r, w>.
    """

    scalars: Array
    matrices: Array


def common_template(weights: Array, table: Orbits, *, xp: Any = np) -> Array:
    """What most neurons ``weights`` (N, C, D, D) share, (C, O) float32: the median of their means along orbits.

    The median, because an odd neuron or two must not put into the others what is not there.
    """
    neurons, channels = weights.shape[:2]
    flat = xp.reshape(weights, (neurons, channels, -1))
    means = 0
    shares = (table.inside / table.inside.sum(axis=1, keepdims=True)).astype(np.float32)
    for pixels, share in zip(table.pixels.astype(np.int64).T, shares.T, strict=True):
        means = means + xp.take(flat, xp.asarray(pixels), axis=2) * xp.asarray(np.ascontiguousarray(share))
    # A neuron that is not finite shares nothing.
    means = xp.sort(xp.where(xp.isfinite(means), means, xp.zeros_like(means)), axis=0)
    return means[neurons // 2, ...]


def neuron_spectra(weights: Array, table: Orbits, common: Array | None = None, *, xp: Any = np) -> Spectra:
    """Spectra of neurons ``weights`` (N, C, D, D), zero outside the region, scaled by -2 / 8.

    common (C, O) is a template subtracted before.
    """
    neurons, channels = weights.shape[:2]
    flat = xp.reshape(weights, (neurons, channels, -1))
    values = xp.take(flat, xp.asarray(table.pixels.reshape(-1).astype(np.int64)), axis=2)
    values = xp.reshape(values, (neurons, channels * len(table), 8))
    if common is not None:
        values = values - xp.reshape(common, (1, -1, 1))
    scale = (table.inside * table.weight[:, None] * np.float32(-0.25)).astype(np.float32)
    values = values * xp.asarray(np.tile(scale, (channels, 1)))
    scalars = xp.matmul(values, xp.asarray(CHARACTERS.T.astype(np.float32)))
    # B[m, i] with the factor dim = 2, laid out (neuron, i, orbit, m).
    forms = np.ascontiguousarray((2 * MATRICES).transpose(0, 2, 1).reshape(8, 4).astype(np.float32))
    matrices = xp.reshape(xp.matmul(values, xp.asarray(forms)), (neurons, channels * len(table), 2, 2))
    matrices = xp.reshape(xp.permute_dims(matrices, (0, 2, 1, 3)), (2 * neurons, -1))
    return Spectra(xp.permute_dims(scalars, (2, 0, 1)), matrices)


def image_spectra(
    images: Array, table: Orbits, first: int, stop: int, common: Array | None = None, *, xp: Any = np
) -> tuple[Spectra, Array]:
    """Spectra of base rotations ``first``..``stop`` of ``images`` (B, C, H, W) minus ``common`` (C, O), and norms.

    Returns the spectra with columns (k, image) and |r|^2 over the region, (8, stop - first, B) float64,
    for each grid symmetry. This is the portable form; `kernels.sample_block` is the fast one.
    """
    batch, channels = images.shape[:2]
    width = table.geometry.image_side
    flat = xp.reshape(images, (batch, channels, -1))
    part = Taps(*(array[first:stop] for array in table.taps))
    index = np.maximum(part.index, 0).astype(np.int64).reshape(-1)
    low, right = part.row_fraction.reshape(-1), part.column_fraction.reshape(-1)
    keep = (part.index.reshape(-1) >= 0).astype(np.float32)
    values = 0
    for offset, share in (
        (0, (1 - low) * (1 - right)),
        (1, (1 - low) * right),
        (width, low * (1 - right)),
        (width + 1, low * right),
    ):
        values = values + xp.take(flat, xp.asarray(index + offset), axis=2) * xp.asarray(share * keep)
    values = xp.reshape(values, (batch, channels, stop - first, len(table), 8))
    if common is not None:
        values = values - xp.reshape(common, (1, channels, 1, len(table), 1))
    values = xp.permute_dims(values, (4, 1, 3, 2, 0))  # (g, C, O, k, B)
    squares = xp.astype(values, xp.float64) ** 2
    norms = _norms(squares, table, xp=xp)
    columns = (stop - first) * batch
    values = xp.reshape(values, (8, -1))
    scalars = xp.matmul(xp.asarray(CHARACTERS.astype(np.float32)), values)
    forms = xp.asarray(np.ascontiguousarray(MATRICES.reshape(8, 4).T.astype(np.float32)))
    matrices = xp.reshape(xp.matmul(forms, values), (2, 2, -1, columns))  # (m, j, K, columns)
    matrices = xp.reshape(xp.permute_dims(matrices, (2, 0, 1, 3)), (-1, 2 * columns))
    return Spectra(xp.reshape(scalars, (4, -1, columns)), matrices), norms


def _norms(squares: Array, table: Orbits, *, xp: Any) -> Array:
    """(8, k, B) sums over the region of squared samples (g, C, O, k, B) after each symmetry h."""
    weighted = table.inside * table.weight[:, None].astype(np.float64)
    by_element = []
    for h in range(8):
        # After h, place g holds the sample of place g h.
        share = np.zeros_like(weighted)
        share[:, PRODUCT[:, h]] = weighted
        by_element.append(xp.sum(squares * xp.asarray(share.T[:, None, :, None, None]), axis=(0, 1, 2)))
    return xp.stack(by_element)


def inverse(scalars: Array, matrices: Array, *, xp: Any = np) -> Array:
    """-2 <h r, w> (8, N, columns) from products ``scalars`` (4, N, columns), ``matrices`` (2N, 2 columns)."""
    neurons, columns = scalars.shape[1:]
    flat = xp.reshape(scalars, (4, -1))
    blocks = xp.reshape(matrices, (neurons, 2, 2, columns))
    blocks = xp.reshape(xp.permute_dims(blocks, (1, 2, 0, 3)), (4, -1))
    one = xp.matmul(xp.asarray(CHARACTERS.T.astype(np.float32)), flat)
    two = xp.matmul(xp.asarray(np.ascontiguousarray(MATRICES.reshape(8, 4).astype(np.float32))), blocks)
    return xp.reshape(one + two, (8, neurons, columns))


def products(neurons: Spectra, images: Spectra, *, xp: Any = np) -> tuple[Array, Array]:
    """The five matrix products of a block: scalars (4, N, columns) and matrices (2N, 2 columns)."""
    return xp.matmul(neurons.scalars, images.scalars), xp.matmul(neurons.matrices, images.matrices)

"""The exact search: every distance, by matrix products over orbits (ARCHITECTURE.md, The search).

d^2 = |r|^2 + |w|^2 - 2 <r, w> with the inner products of `dihedral`, and a direct sum of squares wherever that
difference cancels and for the BMU. What most neurons share (a sky background, the core of a source) is subtracted
from r and w before, so that it does not cancel; where an image is a neuron, nearly, its inner products are computed
again in float64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skysom.engine import dihedral
from skysom.engine.blocks import BLOCK_IMAGES, TURNS, check_block, image_innermost
from skysom.engine.direct import base_and_element, direct_distances
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, as_match, check_shapes, finite_images

Array = Any

CANCELLATION = 0.05
"""d^2 below this share of |r|^2 + |w|^2 is computed again as a direct sum."""
NEAR_PERFECT = 4e-3
"""d^2 below this share is searched again in float64: rounding of the products could pick the wrong transform."""
DOUBLE_TIE = 1e-14
"""Transforms within this share of |r|^2 + |w|^2 of the best are equal in float64; the lowest is taken."""
NEAR_TIE = 2e-6
"""Candidates within this share of |r|^2 + |w|^2 of the best are decided by direct sums."""
PANEL_BYTES = 32 << 20
"""Most bytes of the spectra, and of the products, of one block of rotations: a share of the last cache."""

DOUBLE_NEURONS = 32
"""Neurons whose spectra are made in float64 at a time."""


class Search:
    """The exact search against one map: tables and neuron spectra are made once, blocks come and go.

    weights (N, C, D, D) float32. Calling it on images (B, C, H, H), B <= 32, returns their Match.
    """

    def __init__(self, weights: Array, geometry: Geometry, *, xp: Any = np) -> None:
        side = geometry.image_side
        check_shapes((0, weights.shape[1], side, side), weights.shape, geometry)
        self.xp, self.geometry = xp, geometry
        self.table = dihedral.orbits(geometry)
        self.weights = xp.astype(weights, xp.float32)
        # A copy: it is a row of an array of all neurons.
        self.common = xp.asarray(dihedral.common_template(self.weights, self.table, xp=xp), copy=True)
        self.compiled = isinstance(weights, np.ndarray)
        if self.compiled:
            self.spectra, self.norms = _neurons(self.weights, range(len(weights)), self.table, self.common)
            return
        self.spectra = dihedral.neuron_spectra(self.weights, self.table, self.common, xp=xp)
        region = np.flatnonzero(geometry.region_mask)
        inside = xp.take(xp.reshape(self.weights, (*self.weights.shape[:2], -1)), xp.asarray(region), axis=2)
        inside = inside - xp.take(self.common, xp.asarray(self.table.owners()[region]), axis=1)
        self.norms = xp.sum(xp.astype(inside, xp.float64) ** 2, axis=(1, 2))

    def __call__(self, images: Array, *, alone: bool = False) -> Match:
        """Match of B <= 32 images. ``alone``: each by itself, so that no rounding depends on the others; an image then
        costs as much as two to five in a block (NumPy only; other namespaces search blocks)."""
        xp, count = self.xp, images.shape[0]
        check_shapes(images.shape, self.weights.shape, self.geometry)
        check_block(count)
        images, finite = finite_images(xp.astype(images, xp.float32), xp=xp)
        if self.compiled and alone and count:
            found = [_minimum_alone(image, self) for image in images]
            product, transform, norms = (np.concatenate(parts) for parts in zip(*found, strict=True))
        else:
            if count < BLOCK_IMAGES:
                images = xp.concat([images, xp.zeros((BLOCK_IMAGES - count, *images.shape[1:]), dtype=xp.float32)])
            product, transform, norms = (_minimum if self.compiled else _portable_minimum)(images, self)
        scale = norms + self.norms[None, :]
        squared = scale + xp.astype(product, xp.float64)
        squared, transform = _decide(self, np.array(images), squared, transform, scale, count)
        return as_match(squared[:count], transform[:count], finite, xp=xp)


def _decide(search: Search, images: Array, squared: Array, transform: Array, scale: Array, count: int) -> tuple:
    """Replace cancelled distances, and those that compete for the BMU, by direct sums of squares."""
    values, scales = np.array(squared), np.array(scale)
    best = np.min(values, axis=1, keepdims=True)
    perfect = values < NEAR_PERFECT * scales
    direct = (values < CANCELLATION * scales) | (values <= best + NEAR_TIE * scales)
    direct[count:] = perfect[count:] = False
    chosen, weights = np.array(transform), np.asarray(search.weights)
    for row in np.flatnonzero(perfect.any(axis=1)):
        near = np.flatnonzero(perfect[row])
        chosen[row, near] = double_transforms(images[row], weights, near, search.table)
    rows, neurons = np.nonzero(direct)
    values[rows, neurons] = direct_distances(images, weights, search.geometry, rows, neurons, chosen[rows, neurons])
    return values, chosen


def double_transforms(
    image: np.ndarray, weights: np.ndarray, neurons: np.ndarray, table: dihedral.Orbits
) -> np.ndarray:
    """Best transform (n,) of ``image`` (C, H, H) for ``neurons`` (n,) of ``weights`` (N, C, D, D), in float64.

    The samples are those of the direct sums; the lowest of equally good transforms is taken.
    """
    geometry = table.geometry
    spectra, norms = sample_one(image, table, np.zeros((len(image), len(table)), np.float32), double=True)
    elements = list(geometry.elements)
    turned = norms[elements][:, None, :, 0]
    found = []
    for first in range(0, len(neurons), DOUBLE_NEURONS):
        own, own_norms = _neurons(weights, neurons[first : first + DOUBLE_NEURONS], table)
        scale = turned + own_norms[:, None]
        values = scale + dihedral.inverse(*dihedral.products(own, spectra))[elements]
        # With four quarter turns in use, (element, k) in order is t in order.
        values, scale = (part.transpose(1, 0, 2).reshape(len(own_norms), -1) for part in (values, scale))
        found.append((values <= values.min(axis=1, keepdims=True) + DOUBLE_TIE * scale).argmax(axis=1))
    return np.concatenate(found)


def sample_one(
    image: np.ndarray, table: dihedral.Orbits, common: np.ndarray, *, double: bool = False
) -> tuple[dihedral.Spectra, np.ndarray]:
    """Spectra of one image (C, H, H) minus ``common`` (C, O) at every base rotation, float32 or ``double``, and
    |r|^2 (8, R/4, 1) float64."""
    from skysom.engine import kernels

    rows, bases, kind = len(image) * len(table), table.geometry.base_rotations, np.float64 if double else np.float32
    scalars, matrices = np.empty((4, rows, bases), kind), np.empty((rows, 2, 2, bases), kind)
    norms = np.zeros((9, 1, bases))
    kernels.sample_one(
        image.reshape(len(image), -1), *table.taps, table.weight, table.inside, table.complete, dihedral.PRODUCT,
        table.geometry.image_side, common, scalars, matrices, norms,
    )  # fmt: skip
    both = (norms[:8] + norms[8]).transpose(0, 2, 1)
    return dihedral.Spectra(scalars, matrices.reshape(2 * rows, 2 * bases)), both


def _neurons(
    weights: np.ndarray, neurons: Sequence[int] | np.ndarray, table: dihedral.Orbits, common: np.ndarray | None = None
) -> tuple[dihedral.Spectra, np.ndarray]:
    """Spectra of ``neurons`` (n,) of ``weights`` (N, C, D, D), and their |w|^2 over the region (n,) float64: in float32
    minus the template ``common`` (C, O), or in float64 without one."""
    from skysom.engine import kernels

    count, channels = len(neurons), weights.shape[1]
    flat, rows = weights.reshape(len(weights), channels, -1), channels * len(table)
    scale = table.inside * table.weight[:, None] * np.float32(-0.25)
    kind, template = (np.float64, 0) if common is None else (np.float32, common[:, table.owners()])
    scalars, matrices = np.empty((4, count, rows), kind), np.empty((count, 2, rows, 2), kind)
    places, norms = np.flatnonzero(table.geometry.region_mask).astype(np.int32), np.empty(count)
    for i, n in enumerate(neurons):
        own = flat[n] - template
        kernels.neuron_spectrum(own, table.pixels, scale, scalars, matrices, i)
        norms[i] = kernels.square_norm(own, places)
    return dihedral.Spectra(scalars, matrices.reshape(2 * count, -1)), norms


def block_rotations(geometry: Geometry, rows: int, neurons: int) -> int:
    """Base rotations of a block: spectra of ``rows`` (K) or products of ``neurons``, 8 float32 each, fill a panel;
    a multiple of those that are sampled together, where so many fit."""
    most = max(1, PANEL_BYTES // (32 * max(rows, neurons) * BLOCK_IMAGES))
    return min(geometry.base_rotations, most - most % TURNS if most > TURNS else most)


def sample(
    inner: np.ndarray,
    table: dihedral.Orbits,
    bases: slice,
    common: np.ndarray | None = None,
    memory: np.ndarray | None = None,
) -> tuple[dihedral.Spectra, np.ndarray]:
    """`dihedral.image_spectra` by the compiled kernel.

    inner (C, H*W, 32), image innermost; ``bases`` with start and stop; the spectra are put into ``memory``, float32,
    where it is given.
    """
    from skysom.engine import kernels

    if common is None:
        common = np.zeros((len(inner), len(table)), np.float32)
    rows, turns = len(inner) * len(table), bases.stop - bases.start
    half, columns = 4 * rows * turns * BLOCK_IMAGES, turns * BLOCK_IMAGES
    memory = np.empty(2 * half, np.float32) if memory is None else memory
    scalars, matrices = memory[:half].reshape(4, rows, columns), memory[half : 2 * half].reshape(rows, 2, 2, columns)
    norms = np.zeros((9, turns, BLOCK_IMAGES))
    kernels.sample_block(
        inner, *(part[bases] for part in table.taps), table.weight, table.inside, table.complete, dihedral.PRODUCT,
        table.geometry.image_side, common, scalars, matrices, norms,
    )  # fmt: skip
    return dihedral.Spectra(scalars, matrices.reshape(2 * rows, 2 * columns)), norms[:8] + norms[8]


def _minimum(images: np.ndarray, search: Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best -2 <r, w> (B, N) float32, its transform and its |r|^2 (B, N) float64, on NumPy."""
    geometry, (neurons, rows) = search.geometry, search.spectra.scalars.shape[1:]
    inner, best = image_innermost(images), _Best(neurons, len(images))
    norms = np.empty((8, geometry.base_rotations, len(images)))
    step = block_rotations(geometry, rows, neurons)
    # Made once: fresh pages would take longer to get than to fill.
    panel, found = (np.empty(8 * n * step * len(images), np.float32) for n in (rows, neurons))
    for first in range(0, geometry.base_rotations, step):
        bases = slice(first, min(first + step, geometry.base_rotations))
        spectra, norms[:, bases] = sample(inner, search.table, bases, search.common, panel)
        columns = (bases.stop - first) * len(images)
        scalars, matrices = found[: 8 * neurons * columns].reshape(2, -1)
        np.matmul(search.spectra.scalars, spectra.scalars, out=scalars.reshape(4, neurons, columns))
        np.matmul(search.spectra.matrices, spectra.matrices, out=matrices.reshape(2 * neurons, 2 * columns))
        best.fold(scalars, matrices, norms[:, bases], first, geometry)
    return best.found(norms, geometry)


def _minimum_alone(image: np.ndarray, search: Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_minimum`, of one image (C, H, H): rotations, not images, are what is computed together."""
    spectra, norms = sample_one(image, search.table, search.common)
    best = _Best(len(search.weights), 1)
    best.fold(*dihedral.products(search.spectra, spectra), norms, 0, search.geometry)
    return best.found(norms, search.geometry)


class _Best:
    """The running minimum over transforms of B images."""

    def __init__(self, neurons: int, images: int) -> None:
        self.value = np.full((neurons, images), np.inf, np.float32)
        self.transform = np.zeros((neurons, images), np.int32)
        self.product = np.full((neurons, images), np.nan, np.float32)

    def fold(
        self, scalars: np.ndarray, matrices: np.ndarray, norms: np.ndarray, first: int, geometry: Geometry
    ) -> None:
        """With the products of `dihedral.products` and |r|^2 (8, k, B) of the base rotations from ``first``."""
        from skysom.engine import kernels

        neurons = len(self.value)
        kernels.minimum_block(
            scalars.reshape(4, neurons, -1), matrices.reshape(neurons, 2, 2, -1), norms.astype(np.float32), first,
            geometry.base_rotations, geometry.rotations, np.array(geometry.elements),
            self.value, self.transform, self.product,
        )  # fmt: skip

    def found(self, norms: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Products (B, N), transforms and their |r|^2, from those of all base rotations (8, R/4, B)."""
        k, element = base_and_element(self.transform, geometry)
        own = norms[element, k, np.arange(self.value.shape[1])]
        return self.product.T, self.transform.T.astype(np.int64), own.T


def _portable_minimum(images: Array, search: Search) -> tuple[Array, Array, Array]:
    xp, geometry, table = search.xp, search.geometry, search.table
    best = None
    for k in range(geometry.base_rotations):
        spectra, norms = dihedral.image_spectra(images, table, k, k + 1, search.common, xp=xp)
        values = dihedral.inverse(*dihedral.products(search.spectra, spectra, xp=xp), xp=xp)
        for h in geometry.elements:
            product = xp.permute_dims(values[h, ...], (1, 0))
            norm = xp.broadcast_to(norms[h, 0, :][:, None], product.shape)
            d = xp.astype(norm, xp.float32) + product
            t = xp.full(d.shape, geometry.transform_index(h, k), dtype=xp.int64)
            if best is None:
                best = (d, product, t, norm)
                continue
            better = (d < best[0]) | ((d == best[0]) & (t < best[2]))
            best = tuple(xp.where(better, new, old) for new, old in zip((d, product, t, norm), best, strict=True))
    assert best is not None
    return best[1], best[2], best[3]

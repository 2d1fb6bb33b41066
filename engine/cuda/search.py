"""The exact search against one map on a GPU: `DeviceSearch`, what `Search` is on NumPy."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skysom.engine import dihedral
from skysom.engine.cuda.device import device_tables, own_device
from skysom.engine.cuda.plan import DIRECT_LANES, DIRECT_TRIPLES, IMAGES_A_THREAD, Plan
from skysom.engine.errors import ShapeError
from skysom.engine.exact import CANCELLATION, DOUBLE_NEURONS, DOUBLE_TIE, NEAR_PERFECT, NEAR_TIE, Search
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, as_match, check_shapes

Array = Any
WARPS = 8
"""Warps of a thread block, of 32 threads each."""


@dataclass
class Begun:
    """A block on its way: ``images`` (B', C, H, H), of which the first ``count`` are searched, and what was found.

    finite (B',) int32; squared, scale (count, N) float64; transform (count, N) int32; direct, perfect (count, N) bool:
    pairs that need a direct sum, or products in float64.
    """

    images: Array
    count: int
    finite: Array
    squared: Array
    scale: Array
    transform: Array
    direct: Array
    perfect: Array


def device_search(weights: Array, geometry: Geometry) -> "DeviceSearch":
    """The exact search against CuPy ``weights`` (N, C, D, D), on the GPU where they lie."""
    device = own_device(weights.device.id)
    return DeviceSearch(Search(weights, geometry, xp=device.xp), device)


class DeviceSearch:
    """The exact search of ``search``, whose arrays lie on ``device``, by CUDA kernels and cuBLAS.

    Calling it on images (B, C, H, H) float32 on the device, B <= block_images, returns their Match there. An image's
    result does not depend on the others nor on how many there are, and on its place in the block by no more than
    rounding. double_pairs counts the (image, neuron) pairs whose transform was chosen by products in float64.
    """

    def __init__(self, search: Search, device: Any) -> None:
        self.device, self.xp, self.geometry, self.table = device, device.xp, search.geometry, search.table
        # Neither the kernels nor cuBLAS know strides.
        parts = (self.xp.ascontiguousarray(part) for part in (search.weights, search.common, search.norms))
        self.weights, self.common, self.norms = parts
        neurons, channels = search.weights.shape[:2]
        self.plan = Plan.of(search.geometry, neurons, channels)
        self.block_images = self.plan.block_images
        self.tables = device_tables(device, search.geometry)
        self.spectra = dihedral.Spectra(*(self.xp.ascontiguousarray(part) for part in search.spectra))
        self.double_pairs = 0
        self._work: tuple[Array, ...] | None = None

    def __call__(self, images: Array) -> Match:
        check_shapes(images.shape, self.weights.shape, self.geometry)
        if images.shape[0] > self.block_images:
            raise ShapeError(
                f"a block holds {images.shape[0]} images; search at most {self.block_images} at a time on a GPU"
            )
        images = self.xp.ascontiguousarray(self.xp.astype(images, self.xp.float32))
        return self.finish(self.begin(images, images.shape[0]))

    def begin(self, images: Array, count: int) -> Begun:
        """Start all that needs no answer from the GPU, for the first ``count`` of ``images``, C-contiguous."""
        xp, plan, pixels = self.xp, self.plan, self.plan.channels * self.geometry.image_side**2
        block, base, neurons = plan.block_images, self.geometry.base_rotations, plan.neurons
        inner = xp.empty((pixels, block), dtype=xp.float32)
        finite = xp.ones((block,), dtype=xp.int32)
        grid = (-(-pixels // WARPS), block // 32)
        self.device.launch("image_innermost", grid, (32, WARPS), images, count, block, pixels, inner, finite)
        norms = xp.empty((8, base, block), dtype=xp.float64)
        best = xp.full((neurons, block), xp.inf, dtype=xp.float32)
        best_t = xp.zeros((neurons, block), dtype=xp.int32)
        best_product = xp.full((neurons, block), xp.nan, dtype=xp.float32)
        for first, stop in plan.panels():
            scalars, matrices = self.products(self.sample(inner, norms, first, stop - first))
            quarters = 4 if self.geometry.rotations > 1 else 1
            self.device.launch(
                "fold_minimum", (block // 32, -(-neurons // WARPS)), (32, WARPS),
                scalars, matrices, norms, block, neurons, first, stop - first, base, self.geometry.rotations,
                quarters, 2 if self.geometry.flip else 1, best, best_t, best_product,
            )  # fmt: skip
            del scalars, matrices
        squared, scale = (xp.empty((block, neurons), dtype=xp.float64) for _ in range(2))
        transform = xp.empty((block, neurons), dtype=xp.int32)
        self.device.launch(
            "squared_distances", (-(-neurons // 32), block // WARPS), (32, WARPS), best_product, best_t, norms,
            self.norms, block, neurons, base, self.geometry.rotations, squared, scale, transform,
        )  # fmt: skip
        squared, scale, transform = squared[:count, :], scale[:count, :], transform[:count, :]
        perfect, direct = squared < NEAR_PERFECT * scale, squared < CANCELLATION * scale
        direct |= squared <= xp.min(squared, axis=1, keepdims=True) + NEAR_TIE * scale
        return Begun(images, count, finite, squared, scale, transform, direct, perfect)

    def finish(self, begun: Begun) -> Match:
        """Replace cancelled distances, and those that compete for the BMU, by direct sums of squares."""
        xp, count = self.xp, begun.count
        self._choose_again(begun)
        rows, neurons = xp.nonzero(begun.direct)
        if rows.shape[0]:
            chosen = begun.transform[rows, neurons]
            begun.squared[rows, neurons] = self.direct_distances(begun.images, rows, neurons, chosen)
        match = as_match(begun.squared, begun.transform, begun.finite[:count] > 0, xp=xp)
        # The first NaN is the least, as on NumPy; CuPy may take any.
        known = xp.where(xp.isnan(match.distance), xp.full_like(match.distance, -1), match.distance)
        bmu = xp.argmin(known, axis=1)
        return replace(match, bmu=bmu, bmu_distance=match.distance[xp.arange(count), bmu])

    def direct_distances(self, images: Array, rows: Array, neurons: Array, t: Array) -> Array:
        """Squared distances (n,) float64 of the triples (image row, neuron, transform) by direct sums.

        images (B, C, H, H) float32, C-contiguous; rows, neurons, t (n,) integers; all on the device.
        """
        xp, tables, plan, found = self.xp, self.tables, self.plan, []
        triples = [xp.astype(array, xp.int32) for array in (rows, neurons, t)]
        for first in range(0, rows.shape[0], DIRECT_TRIPLES):
            part = [array[first : first + DIRECT_TRIPLES] for array in triples]
            partial = xp.empty((part[0].shape[0], DIRECT_LANES), dtype=xp.float64)
            self.device.launch(
                "direct_sums", (part[0].shape[0],), (DIRECT_LANES,), images, self.weights, plan.channels,
                self.geometry.image_side, self.geometry.neuron_side**2, tables.taps, tables.weight, tables.places,
                tables.product, plan.orbits, self.geometry.base_rotations, self.geometry.rotations, *part, partial,
            )  # fmt: skip
            found.append(xp.sum(partial, axis=1))
        return xp.concat(found)

    def double_transforms(self, image: Array, neurons: Array) -> Array:
        """Best transform (n,) of ``image`` (C, H, H) for ``neurons`` (n,), in float64, all on the device.

        The samples are those of the direct sums; the lowest of equally good transforms is taken.
        """
        xp, plan, base, tables = self.xp, self.plan, self.geometry.base_rotations, self.tables
        scalars = xp.empty((4, plan.rows, base), dtype=xp.float64)
        matrices = xp.empty((2 * plan.rows, 2 * base), dtype=xp.float64)
        squares = xp.empty((plan.chunks, 8, base), dtype=xp.float64)
        self.device.launch(
            "sample_double", (-(-base // 32), -(-plan.chunks // WARPS)), (32, WARPS), image, plan.channels,
            self.geometry.image_side, tables.taps, tables.weight, tables.seen, plan.orbits, base,
            scalars, matrices, squares,
        )  # fmt: skip
        spectra, elements = dihedral.Spectra(scalars, matrices), list(self.geometry.elements)
        turned = xp.stack([xp.sum(squares[:, h, :], axis=0) for h in elements])
        region, found = xp.asarray(np.flatnonzero(self.geometry.region_mask)), []
        for first in range(0, neurons.shape[0], DOUBLE_NEURONS):
            weights = xp.astype(xp.take(self.weights, neurons[first : first + DOUBLE_NEURONS], axis=0), xp.float64)
            own = dihedral.neuron_spectra(weights, self.table, xp=xp)
            flat = xp.reshape(weights, (*weights.shape[:2], -1))
            scale = turned[:, None, :] + xp.sum(xp.take(flat, region, axis=2) ** 2, axis=(1, 2))[None, :, None]
            products = dihedral.inverse(*dihedral.products(own, spectra, xp=xp), xp=xp)
            values = scale + xp.stack([products[h, ...] for h in elements])
            # With four quarter turns in use, (element, k) in order is t in order.
            values, scale = (
                xp.reshape(xp.permute_dims(part, (1, 0, 2)), (weights.shape[0], -1)) for part in (values, scale)
            )
            equal = values <= xp.min(values, axis=1, keepdims=True) + DOUBLE_TIE * scale
            found.append(xp.argmax(xp.astype(equal, xp.int8), axis=1))
        return xp.concat(found)

    def _choose_again(self, begun: Begun) -> None:
        """Choose the transforms of near-perfect pairs by products in float64."""
        rows, neurons = self.xp.nonzero(begun.perfect)
        if not rows.shape[0]:
            return
        self.double_pairs += rows.shape[0]
        found, starts = np.unique(self.device.host(rows), return_index=True)
        for row, first, stop in zip(found.tolist(), starts, [*starts[1:], rows.shape[0]], strict=True):
            near = neurons[int(first) : int(stop)]
            chosen = self.double_transforms(begun.images[row, ...], near)
            begun.transform[row, near] = self.xp.astype(chosen, self.xp.int32)

    def sample(self, inner: Array, norms: Array, first: int, rotations: int) -> dihedral.Spectra:
        """Spectra of a panel of base rotations of a block ``inner`` (C*H*W, B); fills their part of ``norms``."""
        plan, tables, side, block = self.plan, self.tables, self.geometry.image_side, self.plan.block_images
        columns, base = rotations * block, self.geometry.base_rotations
        scalars, matrices, squares, edges = self.workspace(columns)
        self.device.launch(
            "sample_orbits", (-(-plan.chunks // WARPS), rotations, block // (32 * IMAGES_A_THREAD)), (32, WARPS),
            inner, block, plan.channels, side, tables.taps, self.common, tables.weight, plan.orbits, plan.complete,
            first, rotations, scalars, matrices, squares,
        )  # fmt: skip
        if plan.edge_chunks:
            self.device.launch(
                "square_edges", (-(-plan.edge_chunks // WARPS), rotations, block // 32), (32, WARPS),
                inner, block, plan.channels, side, tables.taps, self.common, tables.weight, tables.seen, plan.orbits,
                plan.complete, first, rotations, edges,
            )  # fmt: skip
        self.device.launch(
            "add_norms", (-(-columns // 256), 8), (256,), squares, plan.chunks, edges, plan.edge_chunks, block, first,
            rotations, base, norms,
        )  # fmt: skip
        return dihedral.Spectra(scalars, matrices)

    def products(self, images: dihedral.Spectra) -> tuple[Array, Array]:
        """The five matrix products of a panel: scalars (4, N, columns), matrices (1, 2N, 2 columns)."""
        # A batch of one: CuPy's product of two matrices has a compute type that can be set from outside.
        own, xp = self.spectra, self.xp
        return xp.matmul(own.scalars, images.scalars), xp.matmul(own.matrices[None, ...], images.matrices[None, ...])

    def workspace(self, columns: int) -> tuple[Array, Array, Array, Array]:
        """Arrays of a panel of ``columns``, kept: scalars (4, K, columns), matrices (2K, 2 columns), squares, edges."""
        xp, plan = self.xp, self.plan
        if self._work is None:
            most = plan.panel * plan.block_images
            sizes = ((4 * plan.rows, xp.float32),) * 2 + ((plan.chunks, xp.float64), (8 * plan.edge_chunks, xp.float64))
            self._work = tuple(xp.empty((size * most,), dtype=dtype) for size, dtype in sizes)
        shapes: tuple[tuple[int, ...], ...] = ((4, plan.rows, columns), (2 * plan.rows, 2 * columns))
        shapes += ((plan.chunks, columns), (plan.edge_chunks, 8, columns))
        return tuple(  # type: ignore[return-value]
            xp.reshape(array[: int(np.prod(shape))], shape) for array, shape in zip(self._work, shapes, strict=True)
        )

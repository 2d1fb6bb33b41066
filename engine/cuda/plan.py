"""How a search is cut up for a GPU, and the bytes it takes there: pure functions of the geometry and the map."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from skysom.engine.exact import DOUBLE_NEURONS
from skysom.engine.geometry import Geometry
from skysom.engine.memory import orbit_count

IMAGES_A_THREAD = 2
"""Images a thread samples: one entry of the interpolation table serves them all."""
ORBITS_A_THREAD = 16
"""Orbits a thread samples one after the other: neighbours, which share most of their pixels."""
DIRECT_LANES = 128
"""Threads of one direct sum of squares."""
DIRECT_TRIPLES = 1 << 12
"""Direct sums of one launch."""
LARGEST_BLOCK, SMALLEST_BLOCK = 256, 64
"""Images searched together: enough columns to fill the machine with one matrix product."""
PANEL_BYTES = 1 << 30
"""Most bytes of the spectra and products of one panel of rotations."""
SLOTS = 2
"""Blocks under way: one is computed while the next is copied and the last one decided."""

OPTIONS = (
    "--fmad=false",
    f"-DIMAGES_A_THREAD={IMAGES_A_THREAD}",
    f"-DORBITS_A_THREAD={ORBITS_A_THREAD}",
    f"-DDIRECT_LANES={DIRECT_LANES}",
)
"""Of the compiler of kernels.cu, which writes its fused multiply-adds itself."""


@dataclass(frozen=True)
class Plan:
    """Shapes of one search, fixed by the geometry and the map alone: the shape of a product decides its rounding.

    neurons, channels : N, C of the map; orbits, complete : O, and how many of them lie wholly in the region;
    block_images : images searched together; panel : base rotations whose spectra are held at a time.
    """

    geometry: Geometry
    neurons: int
    channels: int
    orbits: int
    complete: int
    block_images: int
    panel: int

    @classmethod
    def of(cls, geometry: Geometry, neurons: int, channels: int) -> "Plan":
        """The largest block of which one rotation fits a panel, and panels of equal size."""
        orbits, base = orbit_count(geometry), geometry.base_rotations
        a_column, block = 32 * (channels * orbits + neurons), LARGEST_BLOCK
        while block > SMALLEST_BLOCK and a_column * block > PANEL_BYTES:
            block //= 2
        panels = -(-base // max(1, PANEL_BYTES // (a_column * block)))
        complete = orbits - _partial_orbits(geometry)
        return cls(geometry, neurons, channels, orbits, complete, block, -(-base // panels))

    @property
    def rows(self) -> int:
        """K = C O."""
        return self.channels * self.orbits

    @property
    def chunks(self) -> int:
        """Runs of orbits of one channel that a thread samples."""
        return self.channels * -(-self.orbits // ORBITS_A_THREAD)

    @property
    def edge_chunks(self) -> int:
        """The same for the orbits that lie partly in the region."""
        return self.channels * -(-(self.orbits - self.complete) // ORBITS_A_THREAD)

    def panels(self) -> Iterator[tuple[int, int]]:
        """Ranges of base rotations."""
        base = self.geometry.base_rotations
        for first in range(0, base, self.panel):
            yield first, min(first + self.panel, base)


def block_images(geometry: Geometry, neurons: int, channels: int) -> int:
    """Images that a GPU searches together, fixed by geometry and map."""
    return Plan.of(geometry, neurons, channels).block_images


def device_memory(geometry: Geometry, neurons: int, channels: int, images: int = 0) -> int:
    """Peak bytes of arrays on the GPU while mapping.

    Parameters
    ----------
    geometry : sides in pixels, region, rotations and flips.
    neurons, channels : N and C of the map.
    images : what a caller keeps there beside the blocks under way.

    Notes
    -----
    With O orbits of the region, K = C O, b = R / 4, blocks of B images and r rotations a panel: the tables and the map,
    and the larger of building its spectra and of searching, which is all of the rest,

        tables     128 O b + 44 O
        map        4 N C D^2
        building   max(112 N K, 32 N K + 20 N C P)
        spectra    32 N K
        block      3 (4 B C H^2) + 64 b B + 110 N B
        panel      (32 K + 32 N + 8 S + 64 E) B r, S and E the chunks of orbits and of those partly in the region
        double     64 K (2 b + 4 n) + 48 T n + 28 n C D^2, n = min(N, 32), for images that nearly are neurons
        direct     (8 * 128 + 32) min(2^12, N B), if more than double

    CUDA's own context and cuBLAS (some hundred MiB) come on top, as do the images a caller keeps, 4 C H^2 each.
    """
    plan, g = Plan.of(geometry, neurons, channels), geometry
    base, block, rows = g.base_rotations, plan.block_images, plan.rows
    image, some = 4 * channels * g.image_side**2, min(neurons, DOUBLE_NEURONS)
    weights, spectra = 4 * neurons * channels * g.neuron_side**2, 32 * neurons * rows
    region = int(np.count_nonzero(g.region_mask))
    building = max(112 * neurons * rows, spectra + 20 * neurons * channels * region)
    a_column = 32 * (rows + neurons) + 8 * plan.chunks + 64 * plan.edge_chunks
    double = 64 * rows * (2 * base + 4 * some) + 48 * g.transforms * some
    double += 28 * some * channels * g.neuron_side**2
    searching = (
        (SLOTS + 1) * image * block
        + (64 * base + 110 * neurons) * block
        + a_column * block * plan.panel
        + max(double, (8 * DIRECT_LANES + 32) * min(DIRECT_TRIPLES, neurons * block))
        + spectra
    )
    tables = (128 * base + 44) * plan.orbits
    return tables + weights + max(building, searching) + image * images


def pool_limit(needed: int) -> int:
    """Bytes a memory pool may take for ``needed`` bytes of arrays: it loses some to rounding and to gaps."""
    return needed + needed // 4 + (64 << 20)


def _partial_orbits(geometry: Geometry) -> int:
    """Orbits of which some pixels lie outside the region."""
    mask = geometry.region_mask
    turned = [np.rot90(view, q) for view in (mask, mask[::-1]) for q in range(4)]
    partial = np.any(turned, axis=0) & ~np.all(turned, axis=0)
    row, column = np.indices(mask.shape) * 2 - (geometry.neuron_side - 1)
    return int(np.count_nonzero(partial & (row >= column) & (column >= 0)))

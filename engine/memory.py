"""How much memory a search or a training needs, before it is started."""

import numpy as np

from skysom.engine.certified import PAIRS_AT_ONCE
from skysom.engine.geometry import Geometry
from skysom.engine.rings import BANDS, ring_radii
from skysom.engine.search import BLOCK_IMAGES, DOUBLE_NEURONS, FRAMES_KEPT, rotation_blocks
from skysom.engine.update import AHEAD_IMAGES

FLOAT, DOUBLE, TAP = 4, 8, 12
"""Bytes of a float32, of a float64 or int64, and of one interpolation (index and two fractions)."""


def projected_memory(
    geometry: Geometry, *, neurons: int, channels: int, batch: int = BLOCK_IMAGES, workers: int = 1
) -> int:
    """Peak bytes of arrays while mapping: the exact search in ``workers`` processes.

    Parameters
    ----------
    geometry : sides in pixels, region, rotations and flips.
    neurons, channels : N and C of the map.
    batch : images handed to a search at a time; searches pad to 32.

    Returns
    -------
    bytes : of all workers together, the map and one block of images included. An interpreter with its
        libraries, and images a caller holds beyond the block, come on top.

    Notes
    -----
    With O orbits of the region, K = C O, b = R / 4 and a panel of r rotations, the larger of

        building   tables + 4 N C D^2 + max(112 N K, 32 N K + 20 N C P)
        searching  tables + frames + 4 N C D^2 + 32 N K + 4 images + max(2 (32 K + 32 N) 32 r, double) + 110 N 32
                   + 144 b 32
        double     64 K (b + n) + 64 T n, n = min(N, 32), for images that nearly are neurons
        tables     96 O b + 40 O + 32 P;   frames 12 D^2 b;   image 4 C H^2 32

    The old panel and products live until the new ones are there: twice, unless one panel holds all
    rotations. Tables are built from copies, 192 O b + 200 D^2.
    """
    g, rows = geometry, channels * orbit_count(geometry)
    images = max(batch, BLOCK_IMAGES)
    pixels, region = g.neuron_side**2, int(np.count_nonzero(g.region_mask))
    weights, spectra = FLOAT * neurons * channels * pixels, 8 * FLOAT * neurons * rows
    _, step = next(rotation_blocks(g, images, max(rows, neurons)))
    panels = (2 if step < g.base_rotations else 1) * 8 * FLOAT * (rows + neurons) * images * step
    some = min(neurons, DOUBLE_NEURONS)
    double = 8 * DOUBLE * (rows * (g.base_rotations + some) + some * g.transforms)
    norms = (FLOAT + 2 * DOUBLE) * neurons * channels * region
    building = weights + max(7 * spectra // 2, spectra + norms)
    searching = (
        _frames(g, channels)
        + weights
        + spectra
        + 4 * FLOAT * images * channels * g.image_side**2
        + max(panels, double)
        + 110 * neurons * images
        + 18 * DOUBLE * g.base_rotations * images
    )
    return workers * max(_tables_building(g), _tables(g) + max(building, searching))


def training_memory(geometry: Geometry, *, neurons: int, channels: int) -> int:
    """Peak bytes of arrays of `train_online` by the exact path, its copy of the map included.

    Notes
    -----
    The larger of two, with the letters of `projected_memory`: the map and the lattice's distances, and the
    spectra of 16 images sampled ahead with all distances of one,

        building  tables + 4 N C D^2 + 32 N K + 72 N^2
        training  tables + 4 N C D^2 + 32 N K + frames + 16 (32 K b + 16 C H^2) + 64 N b + 45 N T + 4 N^2

    The caller's map and images come on top.
    """
    g, rows = geometry, channels * orbit_count(geometry)
    ahead = 8 * FLOAT * rows * g.base_rotations + 4 * FLOAT * channels * g.image_side**2
    distances = 64 * neurons * g.base_rotations + 45 * neurons * g.transforms
    kept = _tables(g) + FLOAT * neurons * channels * g.neuron_side**2 + 8 * FLOAT * neurons * rows
    training = _frames(g, channels) + AHEAD_IMAGES * ahead + distances + FLOAT * neurons**2
    return max(_tables_building(g), kept + max(training, 9 * DOUBLE * neurons**2))


def batch_memory(geometry: Geometry, *, neurons: int, channels: int, batch: int, workers: int = 1) -> int:
    """Peak bytes of arrays of batched training: ``workers`` searching and adding, and the coordinator.

    Notes
    -----
    With the letters of `projected_memory`, a batch of B images of which a worker holds B / workers, and
    S = 8 N C D^2 the fixed-point sums:

        worker       search + 4 N C D^2 + (B / workers) (4 C H^2 + 28 N) + S + frames
        coordinator  (2 + workers) S + 12 N C D^2 + 40 B: its own sums, and those on their way

    The images that workers hold come on top.
    """
    pixels, share = neurons * channels * geometry.neuron_side**2, -(-batch // workers)
    sums = DOUBLE * pixels
    search = projected_memory(geometry, neurons=neurons, channels=channels)
    worker = search + FLOAT * pixels + share * (FLOAT * channels * geometry.image_side**2 + 28 * neurons) + sums
    coordinator = (2 + workers) * sums + 3 * FLOAT * pixels + 40 * batch
    return workers * worker + coordinator


def certified_memory(
    geometry: Geometry, *, neurons: int, channels: int, batch: int = BLOCK_IMAGES, workers: int = 1
) -> int:
    """Peak bytes of arrays while mapping by the certified search, in ``workers`` processes.

    Arguments and what comes on top as of `projected_memory`.

    Notes
    -----
    With the letters of `projected_memory`, J rings, M orders (the middle one of `rings.BANDS`), F flips and L = 5/4 of
    the image's pixels that the region reaches (the products of neighbours), the larger of

        building   of the exact search
        energies   kept + b (10 H^2 + 12 L) + 300 H^2
        searching  kept + (4 b + 32) L + block + max(24 M C J 32, (32 K + 96 N) 32, scores)
        kept       tables + 4 N C D^2 + 96 N K + 8 M N C J + 48 M J + 56 P
        block      16 C H^2 32 + (4 L + 140 b) 32 + 80 N 32
        scores     8 M C J 32 + 16 (32 M + 40 b) 32 + (12 T + 8 F M) 512
    """
    g, base = geometry, geometry.base_rotations
    if base == 1:
        return projected_memory(g, neurons=neurons, channels=channels, batch=batch, workers=workers)
    rows, images, flips, area = channels * orbit_count(g), BLOCK_IMAGES, 2 if g.flip else 1, g.image_side**2
    region, (rings, reach) = int(np.count_nonzero(g.region_mask)), _rings(g)
    band, products = BANDS[len(BANDS) // 2], int(1.25 * min(area, np.pi * reach**2))
    exact = _tables(g) + FLOAT * neurons * channels * g.neuron_side**2 + 8 * FLOAT * neurons * rows
    kept = exact + 2 * 8 * FLOAT * neurons * rows + 2 * FLOAT * band * neurons * channels * rings
    kept += 4 * TAP * band * rings + 56 * region
    spectra = 2 * FLOAT * band * channels * rings * images
    scores = 16 * (32 * band + 40 * base) * images + (12 * g.transforms + 8 * flips * band) * PAIRS_AT_ONCE
    block = 16 * images * channels * area + (4 * products + 140 * base + 80 * neurons) * images
    searching = (4 * base + 32) * products + block
    searching += max(3 * spectra, (32 * rows + 96 * neurons) * images, spectra + scores)
    energies = base * (10 * area + 12 * products) + 300 * area
    return workers * max(
        _tables_building(g), exact + _norms_building(g, neurons, channels), kept + max(energies, searching)
    )


def _norms_building(geometry: Geometry, neurons: int, channels: int) -> int:
    """What `Search` takes for a moment: its neurons' spectra in the making, or their squares over the region."""
    spectra = 8 * FLOAT * neurons * channels * orbit_count(geometry)
    region = int(np.count_nonzero(geometry.region_mask))
    return max(5 * spectra // 2, (FLOAT + 2 * DOUBLE) * neurons * channels * region)


def _rings(geometry: Geometry) -> tuple[int, float]:
    """How many rings a geometry has, and the radius of its farthest region pixel."""
    y, x = np.nonzero(geometry.region_mask)
    half = (geometry.neuron_side - 1) / 2
    reach = float(np.hypot(y - half, x - half).max())
    return len(ring_radii(reach)), reach


def orbit_count(geometry: Geometry) -> int:
    """O, how many orbits of the eight grid symmetries the region touches."""
    mask = geometry.region_mask
    turned = mask | np.rot90(mask) | np.rot90(mask, 2) | np.rot90(mask, 3)
    hull = turned | turned[::-1]
    # One pixel of each orbit lies in the eighth between an axis and a diagonal.
    row, column = np.indices(hull.shape) * 2 - (geometry.neuron_side - 1)
    return int(np.count_nonzero(hull & (row >= column) & (column >= 0)))


def _tables(geometry: Geometry) -> int:
    """Kept for every search of a geometry: orbits with their interpolation, and the region's pixels."""
    orbits = orbit_count(geometry)
    return orbits * (8 * TAP * geometry.base_rotations + 40) + 32 * int(np.count_nonzero(geometry.region_mask))


def _tables_building(geometry: Geometry) -> int:
    return 2 * 8 * TAP * orbit_count(geometry) * geometry.base_rotations + 200 * geometry.neuron_side**2


def _frames(geometry: Geometry, channels: int) -> int:
    """Interpolation of whole frames, kept for direct sums and updates, and what one of them takes to make."""
    kept = min(geometry.base_rotations, FRAMES_KEPT)
    return (TAP * kept + 60 + FLOAT * channels) * geometry.neuron_side**2

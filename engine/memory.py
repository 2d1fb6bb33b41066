"""How much memory a search or a training needs, before it is started.

Letters of `search.md`, and for one search: O orbits of the region, K = C O, b = R / 4 base rotations, T transforms,
L products of neighbouring pixels, J rings, M orders and 4 M angles on them. Every term of a formula below stands for
arrays that the code holds at that moment, in bytes; three per cent and 100 kB are added for what is not listed.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.certified import PAIRS_AT_ONCE
from skysom.engine.direct import FRAMES_KEPT
from skysom.engine.exact import DOUBLE_NEURONS, block_rotations
from skysom.engine.geometry import Geometry
from skysom.engine.polar import PART_NEURONS
from skysom.engine.rings import BANDS, FEW_NEURONS, SOME_PIXELS, ring_radii
from skysom.engine.update import AHEAD_IMAGES

PAIRS_SHARE, PAIRS_LEAST = 0.05, 5
"""Neurons of an image that are allowed for as survivors of the certified search: a share, and at least so many."""
CANDIDATES_ALLOWED = 400
"""Candidates of an image that are allowed for."""
SHARE_ABOVE, BYTES_ABOVE = 0.03, 100_000
"""What is added for arrays too small to list, and for the objects that hold them."""


@dataclass(frozen=True)
class _Sizes:
    """The letters of a map of N neurons (``neurons``) with C channels and a geometry."""

    geometry: Geometry
    neurons: int
    channels: int

    @property
    def bases(self) -> int:
        """b, base rotations."""
        return self.geometry.base_rotations

    @property
    def flips(self) -> int:
        """F."""
        return 2 if self.geometry.flip else 1

    @cached_property
    def orbits(self) -> int:
        """O."""
        return orbit_count(self.geometry)

    @property
    def rows(self) -> int:
        """K, orbits of all channels."""
        return self.channels * self.orbits

    @cached_property
    def region(self) -> int:
        """P, pixels of the region."""
        return int(np.count_nonzero(self.geometry.region_mask))

    @property
    def image(self) -> int:
        """C H^2."""
        return self.channels * self.geometry.image_side**2

    @property
    def frame(self) -> int:
        """D^2."""
        return self.geometry.neuron_side**2

    @property
    def map(self) -> int:
        """N C D^2."""
        return self.neurons * self.channels * self.frame

    @cached_property
    def reach(self) -> float:
        """Radius of the farthest pixel of the region."""
        y, x = np.nonzero(self.geometry.region_mask)
        half = (self.geometry.neuron_side - 1) / 2
        return float(np.hypot(y - half, x - half).max())

    @cached_property
    def rings(self) -> int:
        """J."""
        return len(ring_radii(self.reach))

    @property
    def band(self) -> int:
        """M, enough for maps of sources with some noise: three orders a pixel of radius, as far as BANDS go.

        Only small neurons (radius below 32 pixels) that are noise and little else may need more.
        """
        return next((band for band in BANDS if band >= 3 * self.reach), BANDS[-1])

    @property
    def products(self) -> int:
        """L: five of a pixel, quarter turns counted once, of the image's pixels that the region reaches."""
        return int(1.25 * min(self.geometry.image_side**2, np.pi * (self.reach + 1) ** 2))


def projected_memory(
    geometry: Geometry, *, neurons: int, channels: int, batch: int = BLOCK_IMAGES, workers: int = 1
) -> int:
    """Peak bytes of arrays while mapping: the exact search in ``workers`` processes.

    Parameters
    ----------
    geometry : sides in pixels, region, rotations and flips.
    neurons, channels : N and C of the map.
    batch : images handed to `best_match` at a time; searches take blocks of 32.

    Returns
    -------
    bytes : of all workers together, their copies of the map included. An interpreter with its libraries, the images
        and the map of the caller come on top.

    Notes
    -----
    With the letters of the module, a block of B = 32 images and n = min(N, 32), the larger of making the tables and of
    the sum of

        kept       96 O b + 44 O + 32 P (tables) + 4 N C D^2 + 32 N K
        frames     12 D^2 b: in a survey every rotation is the best one of some image
        results    26 N a image beyond the block
        block      the largest of
                   13 C H^2 B: finite images
                   8 C H^2 B + 48 N B + 144 b B + panels
                   8 C H^2 B + 110 N B + (60 + 4 C) D^2: direct sums
                   8 C H^2 B + 110 N B + 64 K (b + n) + 64 T n: the same in float64, of images that nearly are neurons
        panels     32 B r (K + N) of r rotations
    """
    sizes = _Sizes(geometry, neurons, channels)
    results = 26 * neurons * max(batch - BLOCK_IMAGES, 0)
    searching = _exact_kept(sizes) + _frames(sizes) + results + _exact_block(sizes, BLOCK_IMAGES)
    return workers * _rounded(max(_tables_building(sizes), searching))


def training_memory(geometry: Geometry, *, neurons: int, channels: int) -> int:
    """Peak bytes of arrays of `train_online` by the exact path, its copy of the map included.

    Notes
    -----
    The largest of making the tables and of two, with the letters of `projected_memory` and B = 16 images that are
    sampled ahead:

        lattice    4 N C D^2 + 57 N^2: distances and factors
        training   kept + frames + 4 N^2 + 32 K b B + the largest of
                   8 C H^2 B + 136 b B: sampling
                   64 b B + 64 N b + 36 N T: distances of one image, while those of the one before live
                   64 b B + 16 N T + (60 + 4 C) D^2: direct sums

    The caller's map and images come on top.
    """
    sizes = _Sizes(geometry, neurons, channels)
    ahead, bases = AHEAD_IMAGES, sizes.bases
    sampling = 8 * sizes.image * ahead + 136 * bases * ahead
    distances = 64 * bases * (ahead + neurons) + 36 * neurons * geometry.transforms
    sums = 64 * bases * ahead + 16 * neurons * geometry.transforms + _one_frame(sizes)
    training = _exact_kept(sizes) + _frames(sizes) + 4 * neurons**2 + 32 * sizes.rows * bases * ahead
    lattice = 4 * sizes.map + 57 * neurons**2
    return _rounded(max(_tables_building(sizes) + 4 * sizes.map, lattice, training + max(sampling, distances, sums)))


def batch_memory(geometry: Geometry, *, neurons: int, channels: int, batch: int, workers: int = 1) -> int:
    """Peak bytes of arrays of batched training: ``workers`` searching and adding, and the coordinator.

    Notes
    -----
    With the letters of `projected_memory`, a batch of B images of which a worker holds B / workers, and
    S = 8 N C D^2 the fixed-point sums:

        worker       search + 4 N C D^2 + (B / workers) (4 C H^2 + 28 N) + S
        coordinator  (2 + workers) S + 12 N C D^2 + 40 B: its own sums, and those on their way

    The images that workers hold come on top.
    """
    sizes, share = _Sizes(geometry, neurons, channels), -(-batch // workers)
    sums = 8 * sizes.map
    search = projected_memory(geometry, neurons=neurons, channels=channels)
    worker = search + 4 * sizes.map + share * (4 * sizes.image + 28 * neurons) + sums
    coordinator = (2 + workers) * sums + 12 * sizes.map + 40 * batch
    return workers * worker + coordinator


def certified_memory(
    geometry: Geometry,
    *,
    neurons: int,
    channels: int,
    batch: int = BLOCK_IMAGES,
    workers: int = 1,
    checked: bool = False,
) -> int:
    """Peak bytes of arrays while mapping by the certified search, in ``workers`` processes.

    Arguments and what comes on top as of `projected_memory`. checked : with blocks searched exactly now and then, by
    the `Search` inside this one; otherwise the frames of images that fall back to it come on top, at most 12 D^2 b.

    Notes
    -----
    With the letters of `projected_memory`, the larger of making the energies and of ``kept`` + the largest of the
    others. What survives depends on the data: a twentieth of the neurons of an image, and at least five, are
    allowed for (s pairs in a block, of which 512 are scored at a time), with 400 candidates an image.

        energies   96 O b + 44 O + 750 H^2, or with weights 96 O b + 44 O + 4 b (5/4 H^2 + L) + 240 H^2 + 32 L
        kept       of the exact search + 32 N K + (4 b + 32) L + rings + 12 b M
        rings      8 M N C J + 48 M J + 48 P, and for the band limit 48 J 96 + 48 P
        limit      of `polar_memory`, before the neurons are on the rings
        making     128 C P + 8 M P + 24 M 1024 + 512 M C J: 32 neurons put on the rings
        block      4 C H^2 B + the largest of
                   4 C H^2 B + 32 K B + 144 N B: grid symmetries
                   4 C H^2 B + 64 N B + 4 L B + 96 b B: energies
                   4 C H^2 B + 88 N B + 32 b B + 32 M C J B: spectra
                   4 C H^2 B + 88 N B + 32 b B + 16 M C J B + part + 8 F M s: scores of 32 neurons at a time
                   100 N B + 32 b B + 8 F M s + 16 T min(s, 512) + 120 400 B: candidates
                   what one image takes in the exact search, and 100 N B
                   (checked: what a block takes in the exact search, and the frames of that are kept)
        part       of `polar_memory`
    """
    sizes = _Sizes(geometry, neurons, channels)
    if sizes.bases == 1:
        return projected_memory(geometry, neurons=neurons, channels=channels, batch=batch, workers=workers)
    results = 26 * neurons * max(batch - BLOCK_IMAGES, 0)
    products = (4 * sizes.bases + 32) * sizes.products
    tables = _exact_kept(sizes) + 32 * neurons * sizes.rows + products + 12 * sizes.bases * sizes.band
    on_rings = 8 * sizes.band * neurons * channels * sizes.rings
    making = 4 * PART_NEURONS * channels * sizes.region + 8 * sizes.band * sizes.region
    making += 24 * sizes.band * min(sizes.region, SOME_PIXELS) + 16 * PART_NEURONS * sizes.band * channels * sizes.rings
    limited = tables + _ring_tables(sizes, False)
    kept = limited + on_rings
    building = max(
        _tables_building(sizes), _energies_building(sizes), limited + _limit(sizes, BANDS[-1]), kept + making
    )
    block = _certified_block(sizes)
    if checked:
        block = _frames(sizes) + max(block, _exact_block(sizes, BLOCK_IMAGES))
    return workers * _rounded(max(building, kept + results + block))


def polar_memory(
    geometry: Geometry, *, neurons: int, channels: int, batch: int = BLOCK_IMAGES, workers: int = 1
) -> int:
    """Peak bytes of arrays while mapping by the polar search, in ``workers`` processes.

    Arguments and what comes on top as of `projected_memory`: the map too, which this search does not copy.

    Notes
    -----
    With the letters of `projected_memory`, ``kept`` + the largest of the others.

        kept       8 M N C J + 48 M J + 48 P for each of the rings of images, and of neurons for the band limit
                   (M = 96) and for M, as far as these differ
        limit      64 C D^2 + 1024 M C J + 160 M J, M = 96: sixteen neurons sampled for the band limit, before those on
                   the rings are there
        making     the same of 24 neurons with the band limit's M (of 32 made together, not all of it lives at once)
        block      8 C H^2 B + the larger of
                   32 M C J B: spectra
                   16 M C J B + 32 b B + part + 60 N B: scores of 32 neurons at a time
        part       16 M n + 8 F M (n + n') + 16 F b max(2 n, n + 2 n') of n = 32 B pairs, and n' of the next neurons:
                   products, correlations, and their values at the base rotations
    """
    sizes, block = _Sizes(geometry, neurons, channels), BLOCK_IMAGES
    results = 26 * neurons * max(batch - block, 0)
    rings = sizes.band * channels * sizes.rings
    tables = _ring_tables(sizes, True)
    kept = tables + 8 * neurons * rings
    building = max(tables + _limit(sizes, BANDS[-1]), kept + _limit(sizes, sizes.band, 3 * PART_NEURONS // 4))
    scores = 16 * rings * block + 32 * sizes.bases * block + _part(sizes) + 60 * neurons * block
    searching = kept + results + 8 * sizes.image * block + max(32 * rings * block, scores)
    return workers * _rounded(max(building, searching))


def _rounded(total: int) -> int:
    """With what is not listed."""
    return int((1 + SHARE_ABOVE) * total) + BYTES_ABOVE


def _exact_kept(sizes: _Sizes) -> int:
    """Tables, map and spectra of an exact search."""
    tables = sizes.orbits * (96 * sizes.bases + 44) + 32 * sizes.region
    return tables + 4 * sizes.map + 32 * sizes.neurons * sizes.rows


def _exact_block(sizes: _Sizes, images: int) -> int:
    """What a block of ``images`` takes for a while in an exact search."""
    rows, neurons, bases = sizes.rows, sizes.neurons, sizes.bases
    panel = 32 * images * block_rotations(sizes.geometry, rows, neurons) * (rows + neurons)
    some = min(neurons, DOUBLE_NEURONS)
    double = 64 * rows * (bases + some) + 64 * some * sizes.geometry.transforms
    products = 48 * neurons * images + 144 * bases * images + panel
    sums = 110 * neurons * images + max(double, _one_frame(sizes))
    return images * sizes.image * 8 + max(5 * images * sizes.image, products, sums)


def _certified_block(sizes: _Sizes) -> int:
    """What a block of images takes for a while in a certified search."""
    block, neurons, bases, flips, band = BLOCK_IMAGES, sizes.neurons, sizes.bases, sizes.flips, sizes.band
    survivors = int(block * min(neurons, max(PAIRS_LEAST, PAIRS_SHARE * neurons)))
    images, rings = 4 * sizes.image * block, band * sizes.channels * sizes.rings * block
    turned, coefficients = (88 * neurons + 32 * bases) * block, 8 * flips * band * survivors
    return images + max(
        images + (32 * sizes.rows + 144 * neurons) * block,
        images + (64 * neurons + 4 * sizes.products + 96 * bases) * block,
        images + turned + 32 * rings,
        images + turned + 16 * rings + _part(sizes) + coefficients,
        (100 * neurons + 32 * bases + 120 * CANDIDATES_ALLOWED) * block
        + coefficients
        + 16 * sizes.geometry.transforms * min(survivors, PAIRS_AT_ONCE),
        100 * neurons * block + _exact_block(sizes, 1),
    )


def _part(sizes: _Sizes) -> int:
    """Correlations of 32 neurons with a block: the old ones live until the new ones are there."""
    first = min(sizes.neurons, PART_NEURONS)
    second = min(sizes.neurons - first, PART_NEURONS)
    correlations = 16 * sizes.band * first + 8 * sizes.flips * sizes.band * (first + second)
    return (correlations + 16 * sizes.flips * sizes.bases * max(2 * first, first + 2 * second)) * BLOCK_IMAGES


def _ring_tables(sizes: _Sizes, sampled: bool) -> int:
    """Rings of the images, those of the band limit, and those of neurons where they are ``sampled``."""
    images, neurons = sizes.geometry.image_side, sizes.geometry.neuron_side
    tables = {(images, sizes.band), (neurons, BANDS[-1])} | ({(neurons, sizes.band)} if sampled else set())
    return sum(48 * (band * sizes.rings + sizes.region) for _, band in tables)


def _limit(sizes: _Sizes, band: int, count: int = FEW_NEURONS) -> int:
    """``count`` neurons sampled on rings with ``band`` orders."""
    some = 4 * min(sizes.neurons, count) * sizes.channels
    return some * sizes.frame + (16 * some * band + 160 * band) * sizes.rings


def _energies_building(sizes: _Sizes) -> int:
    """Weights of products of neighbouring pixels in the making, after the tables of orbits."""
    area, orbits = sizes.geometry.image_side**2, sizes.orbits * (96 * sizes.bases + 44)
    weights = int(4 * sizes.bases * (1.25 * area + sizes.products)) + 240 * area + 32 * sizes.products
    return orbits + max(750 * area, weights)


def orbit_count(geometry: Geometry) -> int:
    """O, how many orbits of the eight grid symmetries the region touches."""
    mask = geometry.region_mask
    turned = mask | np.rot90(mask) | np.rot90(mask, 2) | np.rot90(mask, 3)
    hull = turned | turned[::-1]
    # One pixel of each orbit lies in the eighth between an axis and a diagonal.
    row, column = np.indices(hull.shape) * 2 - (geometry.neuron_side - 1)
    return int(np.count_nonzero(hull & (row >= column) & (column >= 0)))


def _tables_building(sizes: _Sizes) -> int:
    """Orbits with their interpolation, built from copies."""
    return 192 * sizes.orbits * sizes.bases + 160 * sizes.frame


def _frames(sizes: _Sizes) -> int:
    """Interpolation of whole frames, kept for direct sums and updates."""
    return 12 * sizes.frame * min(sizes.bases, FRAMES_KEPT)


def _one_frame(sizes: _Sizes) -> int:
    """One frame in the making, and an image turned into it."""
    return (60 + 4 * sizes.channels) * sizes.frame

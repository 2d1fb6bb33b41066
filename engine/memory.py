"""How much memory a search or a training needs, before it is started.

Letters of `search.md`, and for one search: O orbits of the region, K = C O, b = R / 4 base rotations, T transforms,
L products of neighbouring pixels (kept in L / 2 pairs of mirror images), J rings, M orders and 4 M angles on them,
G groups of rings. Every term of a formula below stands for arrays that the code holds at that moment, in bytes; three
per cent and 100 kB are added for what is not listed. Where n are taken at a time, n' are those of the time before, of
which something is still there.
"""

import numpy as np

from skysom.engine.batch import IMAGES_AT_ONCE, NEURONS_AT_ONCE
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.certified import PAIRS_AT_ONCE
from skysom.engine.coarse import GROUPS, LOWEST_ORDERS, STEP_DEGREES
from skysom.engine.direct import FRAMES_KEPT, TRIPLES_AT_ONCE
from skysom.engine.exact import DOUBLE_NEURONS, block_rotations
from skysom.engine.geometry import Geometry
from skysom.engine.polar import PART_NEURONS
from skysom.engine.rings import BAND_NEURONS, BANDS, FEW_NEURONS, SOME_PIXELS, ring_radii
from skysom.engine.update import AHEAD_IMAGES, MOST_CANDIDATES

PAIRS_SHARE, PAIRS_LEAST = 0.05, 5
"""Neurons of an image that are allowed for as rivals, which may be its best match: a share, and at least so many."""
CANDIDATES_ALLOWED = 400
"""Candidates of an image that are allowed for."""
SHARE_ABOVE, BYTES_ABOVE = 0.03, 100_000
"""What is added for arrays too small to list, and for the objects that hold them."""


class _Sizes:
    """The letters of a map of N neurons (``neurons``) with C channels and a geometry."""

    def __init__(self, geometry: Geometry, neurons: int, channels: int) -> None:
        side = geometry.neuron_side
        y, x = np.nonzero(geometry.region_mask)
        reach = float(np.hypot(y - (side - 1) / 2, x - (side - 1) / 2).max())  # of the region, pixels
        self.geometry, self.neurons, self.channels = geometry, neurons, channels
        self.transforms, self.flips, self.bases = geometry.transforms, 1 + geometry.flip, geometry.base_rotations
        self.region, self.orbits = len(y), orbit_count(geometry)  # P, O
        self.rows = channels * self.orbits  # K
        self.image, self.frame, self.map = channels * geometry.image_side**2, side**2, neurons * channels * side**2
        # M, enough for maps of sources with some noise: three orders a pixel of radius, as far as BANDS go.
        # Only small neurons (radius below 32 pixels) that are noise and little else may need more.
        self.band = next((band for band in BANDS if band >= 3 * reach), BANDS[-1])
        self.rings = len(ring_radii(reach))  # J
        self.groups = channels * -(-self.rings // -(-self.rings // GROUPS))  # G
        self.angles = -(-self.bases // max(1, int(STEP_DEGREES * geometry.rotations / 360)))  # a
        # L: five of a pixel, quarter turns counted once, of the image's pixels that the region reaches.
        self.products = int(1.25 * min(geometry.image_side**2, np.pi * (reach + 1) ** 2))
        self.rivals = int(min(neurons, max(PAIRS_LEAST, PAIRS_SHARE * neurons)))


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
    With the letters of the module, a block of B = 32 images, the larger of making the tables and of the sum of

        kept       96 O b + 76 O (tables) + 4 N C D^2 + 32 N K
        results    26 N a image beyond the block
        block      the largest of
                   13 C H^2 B: finite images
                   8 C H^2 B + 64 b B + 32 B r (K + N) + the larger of 12 N B + 136 B r and 44 N B: spectra and products
                   of r rotations at a time
                   8 C H^2 B + 110 N B + 96 O + (4 C D^2 + 32 K) n: direct sums, of n = min(N, 64) neurons at a time
                   8 C H^2 B + 110 N B + 64 K (b + n) + 64 T n: products in float64, of images that nearly are neurons,
                   of n = min(N, 32) at a time
    """
    sizes = _Sizes(geometry, neurons, channels)
    results = 26 * neurons * max(batch - BLOCK_IMAGES, 0)
    return workers * _rounded(max(_tables_building(sizes), _exact_kept(sizes) + results + _exact_block(sizes)))


def training_memory(geometry: Geometry, *, neurons: int, channels: int) -> int:
    """Peak bytes of arrays of `train_online` by the exact path, its copy of the map included.

    Notes
    -----
    The largest of making the tables and of two, with the letters of `projected_memory` and B = 16 images that are
    sampled ahead:

        lattice    4 N C D^2 + 57 N^2: distances and factors
        training   kept + 32 O + 4 P + frames + 4 N^2 + 32 K b B + the largest of
                   8 C H^2 B + 136 b B: sampling
                   64 b B + 64 N b + 36 N T: distances of one image, while those of the one before live
                   64 b B + 17 N T + 96 O + (4 C D^2 + 32 K) n: direct sums of the n rivals, or of the whole map where
                   it has at most 64 neurons, for it may be blank
                   64 b B + 16 N T + (60 + 4 C) D^2: the image turned onto neurons
        frames     12 D^2 b: in a survey every rotation is the best one of some image

    The caller's map and images come on top.
    """
    sizes = _Sizes(geometry, neurons, channels)
    ahead, bases, compared = AHEAD_IMAGES, sizes.bases, neurons * geometry.transforms
    sampling = 8 * sizes.image * ahead + 136 * bases * ahead
    direct = 17 * compared + _direct(sizes, neurons if neurons <= MOST_CANDIDATES else sizes.rivals)
    steps = 64 * bases * ahead + max(64 * bases * neurons + 36 * compared, direct, 16 * compared + _turning(sizes))
    kept = _exact_kept(sizes) + 32 * sizes.orbits + 4 * sizes.region + _frames(sizes) + 4 * neurons**2
    training = kept + 32 * sizes.rows * bases * ahead + max(sampling, steps)
    lattice = 4 * sizes.map + 57 * neurons**2
    return _rounded(max(_tables_building(sizes) + 4 * sizes.map, lattice, training))


def batch_memory(geometry: Geometry, *, neurons: int, channels: int, batch: int, workers: int = 1) -> int:
    """Peak bytes of arrays of batched training: ``workers`` searching and adding, and the coordinator.

    Notes
    -----
    With the letters of `projected_memory`, a batch of B images of which a worker holds n = B / workers, and
    S = 8 N C D^2 the fixed-point sums, of q = min(N, 1024) neurons and g = min(n, 128) images at a time:

        worker       4 N C D^2 + 4 N^2 + the largest of
                     search + 13 N n
                     kept of the exact search + (8 C H^2 + 21 N) n: what was found
                     adding + 4 N^2 + 12 N n: coefficients
                     adding + S + the larger of 96 g q (pairs sorted) and 32 g q + 4 C H^2 g + 4096 q: sums
        adding       96 O b + 76 O + 4 D^2 + (4 C H^2 + 12 N) n
        coordinator  (2 + workers) S + 12 N C D^2 + 8 N^2 + 40 B: its own sums, and those on their way

    The images that workers hold come on top.
    """
    sizes, share = _Sizes(geometry, neurons, channels), -(-batch // workers)
    sums, units, images = 8 * sizes.map, min(neurons, NEURONS_AT_ONCE), min(share, IMAGES_AT_ONCE)
    search = projected_memory(geometry, neurons=neurons, channels=channels) + 13 * neurons * share
    found = _exact_kept(sizes) + (8 * sizes.image + 21 * neurons) * share
    adding = sizes.orbits * (96 * sizes.bases + 76) + 4 * sizes.frame + (4 * sizes.image + 12 * neurons) * share
    tiles = max(96 * images * units, (32 * units + 4 * sizes.image) * images + 4096 * units)
    adding += max(4 * neurons**2 + 12 * neurons * share, sums + tiles)
    worker = 4 * sizes.map + 4 * neurons**2 + max(search, _rounded(max(found, adding)))
    coordinator = (2 + workers) * sums + 12 * sizes.map + 8 * neurons**2 + 40 * batch
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
    the `Search` inside this one.

    Notes
    -----
    With the letters of `projected_memory`, the larger of making the energies and of ``kept`` + the largest of the
    others. What survives depends on the data: a twentieth of the neurons of an image, and at least five, are
    allowed for as rivals (s pairs in a block, of which n <= 512 are scored at a time), with 400 candidates an image.
    The coarse scores have m = 16 orders and a angles of a quarter turn.

        energies   96 O b + 44 O + 770 H^2, or with weights 96 O b + 44 O + b (5/2 H^2 + 3 L) + 385 H^2
        before     kept of the exact search + (2 b + 32) L + 48 M J + 48 P + 12 M^2, the last three for M = 96 too
        limit      before + limit of `polar_memory`
        making     before + 8 M N C J + 4 n C P + 8 M P + 8 M n' C J + the larger of 24 M 1024 and 16 M n C J:
                   n = 32 neurons put on the rings
        sizes      before + 8 (M + m) N C J + 4 M N G: the neurons' sizes
        kept       before + 8 (M + m) N C J + 4 M N G + 32 N K + 24 b M + 12 a m
        block      4 C H^2 B + the largest of
                   4 C H^2 B + 32 K B + 144 N B: grid symmetries
                   4 C H^2 B + 64 N B + 4 L B + 96 b B: energies
                   4 C H^2 B + 64 N B + 32 b B + 32 M C J B: spectra
                   4 C H^2 B + 72 N B + 32 b B + 16 (M + m) C J B + 32 a B + part: coarse scores, 32 neurons at a time
                   4 C H^2 B + 122 N B + 32 b B + 16 M C J B + scores: scores of the rivals
                   4 C H^2 B + 122 N B + 32 b B + 16 M C J B + 8 F M s: those within the margin
                   88 N B + 32 b B + 8 F M s + scores: candidates
                   142 N B + 32 b B + 8 F M s + 120 400 B: decision
                   101 N B + 32 b B + 8 F M s + 72 400 B + what one image takes in the exact search: fallback
                   (checked: what a block takes in the exact search)
        part       of `polar_memory`, with m orders at a angles
        scores     8 F M n + 12 T n + 8 T n'
        one image  8 C H^2 + 110 N + the largest of 32 b (K + N) + 232 b and of what direct sums and products in float64
                   take there
    """
    sizes = _Sizes(geometry, neurons, channels)
    if sizes.bases == 1:
        return projected_memory(geometry, neurons=neurons, channels=channels, batch=batch, workers=workers)
    results = 26 * neurons * max(batch - BLOCK_IMAGES, 0)
    before, kept = _certified_kept(sizes)
    building = max(_tables_building(sizes), _energies_building(sizes), _neurons_building(sizes, before))
    block = max(_certified_block(sizes), _exact_block(sizes) if checked else 0)
    return workers * _rounded(max(building, kept + results + block))


def polar_memory(
    geometry: Geometry, *, neurons: int, channels: int, batch: int = BLOCK_IMAGES, workers: int = 1
) -> int:
    """Peak bytes of arrays while mapping by the polar search, in ``workers`` processes.

    Arguments and what comes on top as of `projected_memory`: the map too, which this search does not copy.

    Notes
    -----
    With the letters of `projected_memory`, ``tables`` + the largest of the others.

        tables     48 M J + 48 P for each of the rings of images, and of neurons for the band limit (M = 96) and for M,
                   and 12 M^2 for each M, as far as these differ
        limit      4 n C D^2 + 48 n M C J + 16 n' M C J + 160 M J, M = 96, n = 16: neurons sampled for the band limit
        making     8 M N C J + 4 n C D^2 + 48 n M C J + 8 n' M C J + 160 M J, n = 32: neurons sampled
        block      8 M N C J + 8 C H^2 B + 12 b M + the largest of
                   32 M C J B: spectra
                   16 M C J B + 32 b B + 8 N B + part: scores of n = 32 neurons at a time
                   8 M C J B + 32 b B + 53 N B: distances
        part       the largest of, B times
                   16 M (n + n') + 8 F M n' + 16 F b n': products
                   16 M n + 8 F M (n + n') + 16 F b n': correlations
                   16 M n + 8 F M n + 16 F b (2 n + n'): their values at the base rotations
    """
    sizes, block = _Sizes(geometry, neurons, channels), BLOCK_IMAGES
    results, rings = 26 * neurons * max(batch - block, 0), sizes.band * channels * sizes.rings
    making = 8 * neurons * rings + _sampling(sizes, sizes.band, _times(neurons, PART_NEURONS), 8)
    scores = 16 * rings * block + (32 * sizes.bases + 8 * neurons) * block + _part(sizes, sizes.band, sizes.bases)
    distances = (8 * rings + 32 * sizes.bases + 53 * neurons) * block
    kept = 8 * neurons * rings + 12 * sizes.bases * sizes.band + results
    searching = kept + 8 * sizes.image * block + max(32 * rings * block, scores, distances)
    return workers * _rounded(_ring_tables(sizes, True) + max(_limit(sizes), making, searching))


def _rounded(total: int) -> int:
    """With what is not listed."""
    return int((1 + SHARE_ABOVE) * total) + BYTES_ABOVE


def _times(count: int, size: int) -> list[tuple[int, int]]:
    """Of ``count``, how many are taken the first and the second time, ``size`` at most, and the time before that.

    No later time takes more.
    """
    first = min(count, size)
    return [(first, 0)] + ([(min(count - first, size), first)] if count > first else [])


def _exact_kept(sizes: _Sizes) -> int:
    """Tables, map and spectra of an exact search."""
    return sizes.orbits * (96 * sizes.bases + 76) + 4 * sizes.map + 32 * sizes.neurons * sizes.rows


def _exact_block(sizes: _Sizes) -> int:
    """What a block of images takes for a while in an exact search."""
    rows, neurons, bases, block = sizes.rows, sizes.neurons, sizes.bases, BLOCK_IMAGES
    step = block_rotations(sizes.geometry, rows, neurons)
    products = 64 * bases + 32 * step * (rows + neurons) + max(12 * neurons + 136 * step, 44 * neurons)
    sums = 110 * neurons * block + max(_double(sizes, neurons), _direct(sizes, neurons))
    return max(13 * sizes.image * block, 8 * sizes.image * block + max(products * block, sums))


def _exact_alone(sizes: _Sizes) -> int:
    """What one image takes in an exact search."""
    products = 32 * sizes.bases * (sizes.rows + sizes.neurons) + 232 * sizes.bases
    rivals = max(_double(sizes, sizes.rivals), _direct(sizes, sizes.rivals))
    return 8 * sizes.image + 110 * sizes.neurons + max(products, rivals)


def _double(sizes: _Sizes, neurons: int) -> int:
    """Spectra and products in float64 of one image and ``neurons``."""
    some = min(neurons, DOUBLE_NEURONS)
    return 64 * sizes.rows * (sizes.bases + some) + 64 * some * sizes.transforms


def _direct(sizes: _Sizes, neurons: int) -> int:
    """Direct sums of ``neurons``, brought to the places of the orbits."""
    return min(neurons, TRIPLES_AT_ONCE) * (4 * sizes.channels * sizes.frame + 32 * sizes.rows) + 96 * sizes.orbits


def _certified_kept(sizes: _Sizes) -> tuple[int, int]:
    """What a certified search keeps, before its neurons are on the rings and after."""
    before = _exact_kept(sizes) + (2 * sizes.bases + 32) * sizes.products + _ring_tables(sizes, False)
    steering = 24 * sizes.bases * sizes.band + 12 * sizes.angles * LOWEST_ORDERS
    coarse = 4 * sizes.neurons * sizes.band * sizes.groups
    return before, before + _on_rings(sizes) + coarse + 32 * sizes.neurons * sizes.rows + steering


def _on_rings(sizes: _Sizes) -> int:
    """Neurons on rings, and their low orders."""
    return 8 * sizes.neurons * (sizes.band + LOWEST_ORDERS) * sizes.channels * sizes.rings


def _neurons_building(sizes: _Sizes, before: int) -> int:
    """Neurons put on the rings, and their sizes, after ``before``."""
    band, rings, region = sizes.band, sizes.channels * sizes.rings, sizes.region
    making = [
        4 * n * sizes.channels * region
        + 8 * band * (region + old * rings)
        + band * max(24 * min(region, SOME_PIXELS), 16 * n * rings)
        for n, old in _times(sizes.neurons, PART_NEURONS)
    ]
    return before + max(
        _limit(sizes),
        8 * sizes.neurons * band * rings + max(making),
        _on_rings(sizes) + 4 * sizes.neurons * band * sizes.groups,
    )


def _certified_block(sizes: _Sizes) -> int:
    """What a block of images takes for a while in a certified search."""
    block, neurons, bases, band = BLOCK_IMAGES, sizes.neurons, sizes.bases, sizes.band
    images, rings, pairs = 4 * sizes.image * block, sizes.channels * sizes.rings * block, block * sizes.rivals
    coefficients, energies = 8 * sizes.flips * band * pairs, 32 * bases * block
    scores = max(
        8 * sizes.flips * band * n + sizes.transforms * (12 * n + 8 * old) for n, old in _times(pairs, PAIRS_AT_ONCE)
    )
    coarse = 16 * LOWEST_ORDERS * rings + 32 * sizes.angles * block + _part(sizes, LOWEST_ORDERS, sizes.angles)
    return images + max(
        images + (32 * sizes.rows + 144 * neurons) * block,
        images + (64 * neurons + 4 * sizes.products + 96 * bases) * block,
        images + 64 * neurons * block + energies + 32 * band * rings,
        images + 72 * neurons * block + energies + 16 * band * rings + coarse,
        images + 122 * neurons * block + energies + 16 * band * rings + max(scores, coefficients),
        88 * neurons * block + energies + coefficients + scores,
        (142 * neurons + 120 * CANDIDATES_ALLOWED) * block + energies + coefficients,
        (101 * neurons + 72 * CANDIDATES_ALLOWED) * block + energies + coefficients + _exact_alone(sizes),
    )


def _part(sizes: _Sizes, band: int, angles: int) -> int:
    """Scores of 32 neurons with a block, of ``band`` orders at ``angles`` of a quarter turn."""
    flips = sizes.flips
    return BLOCK_IMAGES * max(
        16 * band * n
        + max(
            16 * band * old + 8 * flips * band * old + 16 * flips * angles * old,
            8 * flips * band * (n + old) + 16 * flips * angles * old,
            8 * flips * band * n + 16 * flips * angles * (2 * n + old),
        )
        for n, old in _times(sizes.neurons, PART_NEURONS)
    )


def _ring_tables(sizes: _Sizes, sampled: bool) -> int:
    """Rings of the images, those of the band limit, and those of neurons where they are ``sampled``."""
    images, neurons = sizes.geometry.image_side, sizes.geometry.neuron_side
    tables = {(images, sizes.band), (neurons, BANDS[-1])} | ({(neurons, sizes.band)} if sampled else set())
    waves = sum(12 * band**2 for band in {sizes.band, BANDS[-1]})
    return waves + sum(48 * (band * sizes.rings + sizes.region) for _, band in tables)


def _limit(sizes: _Sizes) -> int:
    """Neurons, a few evenly spaced, sampled for the band limit."""
    count = len(range(0, sizes.neurons, -(-sizes.neurons // BAND_NEURONS)))
    return _sampling(sizes, BANDS[-1], _times(count, FEW_NEURONS), 16)


def _sampling(sizes: _Sizes, band: int, times: list[tuple[int, int]], left: int) -> int:
    """Neurons sampled on rings with ``band`` orders, some at a ``times``; ``left`` bytes of each coefficient before."""
    rings = band * sizes.rings
    some = [n * (4 * sizes.frame + 48 * rings) + left * old * rings for n, old in times]
    return sizes.channels * max(some) + 160 * rings


def _energies_building(sizes: _Sizes) -> int:
    """Weights of products of neighbouring pixels in the making, after the tables of orbits."""
    area, orbits = sizes.geometry.image_side**2, sizes.orbits * (96 * sizes.bases + 44)
    weights = int(sizes.bases * (2.5 * area + 3 * sizes.products)) + 385 * area
    return orbits + max(770 * area, weights)


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
    """Interpolation of whole frames, kept for updates."""
    return 12 * sizes.frame * min(sizes.bases, FRAMES_KEPT)


def _turning(sizes: _Sizes) -> int:
    """One frame in the making, and an image turned into it."""
    return (60 + 4 * sizes.channels) * sizes.frame

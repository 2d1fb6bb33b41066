"""Batched training: the images of a batch are matched against one map, which then moves once.

Composing the updates of a batch in its order leaves, for each neuron n (ARCHITECTURE.md, Batched training),

    w_n <- a_n w_n + sum_i c_in T_in x_i

with a and c given by the sequence of best-matching units alone. So a batch is a search, and a sum to
which every worker adds the images it holds. Sums are 64-bit fixed point: each product is rounded once,
and then no order of addition, and no division of the batch among workers, can change a bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from skysom.engine import dihedral, transforms
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.direct import base_and_element
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.exact import Search
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, joined
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.search import as_batch, geometry_of
from skysom.engine.som import Som
from skysom.engine.update import SMALLEST_FACTOR, TrainingResult

BatchMode = Literal["affine", "kohonen"]

FIXED_POINT_BITS = 52
"""Bits a sum of a batch may fill: sums are made as whole float64, exact below 2^53. A unit of the last one is then
2^-52 of the brightest pixel of the batch, where a weight (float32) has 2^-24 of itself."""
TILE_ORBITS = 64
"""Orbits whose sums are made together: those of 100 neurons, 0.4 MB, fit the second cache of most processors."""
NEURONS_AT_ONCE = 1024
"""Neurons added to together: sums of a tile of so many, 4 MB, stay in the last cache. Images are sampled again for
further ones, so fewer would cost more."""
IMAGES_AT_ONCE = 128
"""Images laid out anew at a time, which bounds the memory they take."""
STRONG_SUM = 2.0
"""Above this sum of f a neuron forgets what it was (a < 0.14): the batch is too large for its rate."""


@dataclass(frozen=True)
class Coefficients:
    """What a batch of B images does to N neurons.

    keep (N,) float64: a, the share of the old neuron that stays; move (B', N) float64: c, of the images
    asked for; total (N,) float64: the sum of f over the whole batch.
    """

    keep: np.ndarray
    move: np.ndarray
    total: np.ndarray


def check_batch(neighbourhood: Neighbourhood, factors: np.ndarray, batch_size: int, mode: BatchMode) -> None:
    """EngineError unless updates with ``factors`` (N, N) may be composed in batches of ``batch_size``.

    An affine batch multiplies 1 - f over its images: negative f (mexican_hat) or f > 1 make that grow without
    bound (5e5 in a batch of 1,000), so they are left to batches of one image. A kohonen batch is a weighted mean
    and needs f >= 0 and a rate of at most 1.
    """
    if mode not in get_args(BatchMode):
        raise EngineError(f"the batch mode is {mode!r}; use one of {get_args(BatchMode)}")
    if batch_size < 1:
        raise EngineError(f"the batch size is {batch_size}; use 1 (online training) or more")
    low, high = float(factors.min()), float(factors.max())
    largest = high if mode == "affine" else neighbourhood.rate
    if batch_size > 1 and (low < 0 or largest > 1):
        what = "update factors" if mode == "affine" else "factors and the rate"
        raise EngineError(
            f"{neighbourhood.kind} with rate {neighbourhood.rate} has factors from {low:.3g} to {high:.3g}; {mode} "
            f"batches need {what} between 0 and 1: take another neighbourhood or a lower rate, or a batch size of 1"
        )


def coefficients(
    bmu: np.ndarray,
    factors: np.ndarray,
    mode: BatchMode = "affine",
    *,
    rate: float = 1.0,
    positions: np.ndarray | None = None,
) -> Coefficients:
    """Coefficients of a batch whose best-matching units, in its order, are ``bmu`` (B,) int.

    Parameters
    ----------
    factors : F (N, N) float32, row b of the best-matching unit b.
    mode : "affine", the images' updates one after another: a_n = prod_i (1 - f_in),
        c_in = f_in prod_{j after i} (1 - f_jn); or "kohonen", the step ``rate`` towards their weighted mean:
        a_n = 1 - rate, c_in = rate f_in / sum_j f_jn, and a_n = 1 where no f reaches the neuron
        (the classical batch map where the batch is the whole epoch and ``rate`` is 1).
    positions : ascending positions in the batch whose c is wanted; default all.
    """
    from skysom.engine import kernels

    wanted = np.arange(len(bmu)) if positions is None else np.asarray(positions, np.int64)
    # Copies are writable, as the kernel is compiled for; arrays from the object store are not.
    units, factors = np.array(bmu, np.int64), np.array(factors, np.float32)
    keep, total, move = np.ones(len(factors)), np.zeros(len(factors)), np.empty((len(wanted), len(factors)))
    kernels.compose_updates(units, factors, wanted, move, keep, total)
    if mode == "affine":
        return Coefficients(keep, move, total)
    reached = total > 0
    share = np.divide(rate, total, out=np.zeros_like(total), where=reached)
    return Coefficients(np.where(reached, 1 - rate, 1.0), factors[units[wanted]] * share, total)


def search_blocks(search: Search, images: np.ndarray) -> Match:
    """Match of any number of ``images`` (B, C, H, H), searched in padded blocks of 32.

    The rounding of a matrix product depends on its shape and on the place of a column in it, so results are the
    same bit for bit only where images are in the same blocks in the same order.
    """
    starts = range(0, len(images), BLOCK_IMAGES)
    blocks = [search(images[first : first + BLOCK_IMAGES]) for first in starts]
    return joined(blocks, xp=np)


def fixed_point_scale(peak: float, factors: np.ndarray) -> float:
    """The power of two that brings sums of a batch into 52 bits: pixels are at most ``peak`` (absolute).

    The coefficients of a neuron add up to at most 1, or are those of a single image, F (N, N).
    """
    bound = peak * max(1.0, float(np.abs(factors).max()))
    return 2.0 ** (FIXED_POINT_BITS - math.ceil(math.log2(bound))) if bound > 0 else 1.0


def empty_sums(weights_shape: tuple[int, ...]) -> np.ndarray:
    """Zero sums (N, C, D*D) int64 for weights (N, C, D, D)."""
    return np.zeros((*weights_shape[:2], weights_shape[2] * weights_shape[3]), np.int64)


def add_batch(
    sums: np.ndarray,
    images: np.ndarray,
    transform: np.ndarray,
    move: np.ndarray,
    geometry: Geometry,
    scale: float,
) -> None:
    """Add round(scale c_in T_in x_i) of some images of a batch to ``sums`` (N, C, D*D) int64, in place.

    images (B, C, H, H) float32; transform (B, N) int, of every neuron; move (B, N) float64; scale as
    `fixed_point_scale` gives it: with a larger one sums would not be exact. T_in x_i is that of
    `transforms.transform` bit for bit. Coefficients below 1e-8 are skipped. Raises ShapeError where arrays do not fit.
    """
    shapes, side, area = [a.shape for a in (sums, images, transform, move)], geometry.image_side, sums.shape[2]
    both, channels = (len(images), len(sums)), sums.shape[1]
    if shapes[1:] != [(len(images), channels, side, side), both, both] or area != geometry.neuron_side**2:
        raise ShapeError(
            f"sums, images, transforms and coefficients have shapes {shapes}; with sides {side} (image) and "
            f"{geometry.neuron_side} (neuron) they must be (N, C, D*D), (B, C, H, H), (B, N) and (B, N)"
        )
    for first in range(0, len(images), IMAGES_AT_ONCE):
        some = slice(first, first + IMAGES_AT_ONCE)
        blocks = _in_lanes(images[some])
        for begin in range(0, len(sums), NEURONS_AT_ONCE):
            own = slice(begin, begin + NEURONS_AT_ONCE)
            _add_images(sums[own], blocks, transform[some, own], move[some, own], geometry, scale)


def _add_images(
    sums: np.ndarray, blocks: np.ndarray, transform: np.ndarray, move: np.ndarray, geometry: Geometry, scale: float
) -> None:
    """`add_batch` of images in ``blocks`` (`_in_lanes`), tile by tile: the sums of a tile, of all neurons, stay in the
    cache while all images are added to them, where whole neurons would come from memory for each image."""
    from skysom.engine import batch_kernels

    turns, all_places = tiles(geometry)
    moved, runs, pairs = _runs_and_pairs(transform, move, geometry, scale)
    room = np.empty(len(moved) * 8 * TILE_ORBITS)
    sides = geometry.image_side, geometry.neuron_side
    for places in all_places:
        local = room[: len(moved) * places.size].reshape(len(moved), *places.shape)
        for channel in range(sums.shape[1]):
            batch_kernels.add_tile(
                blocks, channel, places, turns, sides, dihedral.PRODUCT, runs, pairs, local, moved, sums
            )


def _runs_and_pairs(
    transform: np.ndarray, move: np.ndarray, geometry: Geometry, scale: float
) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """The neurons (n',) int64 that move, and the runs and pairs of `batch_kernels.add_tile`, from (B, N) arrays."""
    from skysom.engine.batch_kernels import LANES

    image, neuron = np.nonzero(np.abs(move) >= SMALLEST_FACTOR)
    k, element = base_and_element(transform[image, neuron].astype(np.int64), geometry)
    moved, place = np.unique(neuron, return_inverse=True)
    block, lane = np.divmod(image, LANES)
    run = block * geometry.base_rotations + k
    order = np.argsort(run * LANES + lane, kind="stable")
    start = np.flatnonzero(np.diff(run[order], prepend=-1))
    block, k = block[order[start]], k[order[start]]
    factor = move[image[order], neuron[order]] * scale
    return moved, (block, k, np.append(start, len(order))), (lane[order], place[order], element[order], factor)


def _in_lanes(images: np.ndarray) -> np.ndarray:
    """Images (B, C, H, H) in blocks, (blocks, C, H*H, 32) float32; the last one is filled up with zeros."""
    from skysom.engine.batch_kernels import LANES

    count, channels = images.shape[:2]
    out = np.zeros((-(-count // LANES), channels, images.shape[2] * images.shape[3], LANES), np.float32)
    for block, first in zip(out, range(0, count, LANES), strict=True):
        some = images[first : first + LANES]
        block[..., : len(some)] = some.reshape(len(some), channels, -1).transpose(1, 2, 0)
    return out


@lru_cache(maxsize=4)
def tiles(geometry: Geometry) -> tuple[np.ndarray, list[np.ndarray]]:
    """Turns (R/4, 4) of `batch_kernels.find_taps`, and the orbits of the neuron frame in tiles (8, n) of 64.

    Tiles are as deep as they are long, so that each lies inside a turned image or outside as far as may be, and
    what it reads stays in the cache from one rotation to the next. Corners that no image reaches are left out.
    """
    side, image = geometry.neuron_side, geometry.image_side
    places = dihedral.symmetries(side)
    places = places[:, places.min(axis=0) == np.arange(side * side)]
    turns = [
        (math.cos(angle), math.sin(angle), (side - 1) * 0.5, (image - 1) * 0.5)
        for angle in (float(geometry.angle(k)) for k in range(geometry.base_rotations))
    ]
    # The first one copies the image with its margins, wherever the centres are.
    turns[0] = 1.0, 0.0, float(geometry.margin), 0.0
    y, x = places[0] // side - (side - 1) / 2, places[0] % side - (side - 1) / 2
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    ring = (radius / math.sqrt(TILE_ORBITS)).astype(int)
    # Back and forth, so that a tile which goes on in the next ring stays in one piece.
    order = np.lexsort((np.where(ring % 2, -angle, angle), ring))
    order = order[radius[order] <= image / math.sqrt(2) + 1]
    parts = [order[first : first + TILE_ORBITS] for first in range(0, len(order), TILE_ORBITS)]
    return np.array(turns, np.float32), [np.ascontiguousarray(places[:, part], np.int32) for part in parts]


def moved_weights(weights: np.ndarray, keep: np.ndarray, sums: np.ndarray, scale: float) -> np.ndarray:
    """The new map (N, C, D, D) float32: a_n w_n + sums / scale, added in float64."""
    from skysom.engine import kernels

    # The scale is a power of two: multiplying by its inverse is exact.
    return kernels.move_map(weights.reshape(sums.shape), keep, sums, 1 / scale).reshape(weights.shape)


def train_batched(
    images: Any,
    som: Som,
    neighbourhood: Neighbourhood,
    *,
    batch_size: int,
    mode: BatchMode = "affine",
    rotations: int = 360,
    flip: bool = True,
    region: str = "quadratic",
    region_side: int | None = None,
    order: Sequence[int] | None = None,
    method: Literal["exact", "reference"] = "exact",
) -> TrainingResult:
    """Train ``som`` on ``images`` in batches, in this process: what the coordinator computes on many.

    Parameters
    ----------
    images : (B, C, H, W) or (B, H, W) float32, finite, NumPy.
    batch_size : images matched against one map; a kohonen batch that is the whole of ``order`` takes the full
        step, a smaller one the step ``neighbourhood.rate``.
    order : indices of images in training order (repeats allowed), default 0..B-1.
    method : "exact", or "reference" (every transform made, floating-point sums; for tests).

    Raises
    ------
    ShapeError, GeometryError : arrays or sides that do not fit together.
    EngineError : a neighbourhood whose updates cannot be composed, see `check_batch`.
    """
    if not isinstance(images, np.ndarray):
        raise ShapeError(f"batched training runs on NumPy arrays; got {type(images).__name__}")
    images = as_batch(images)
    geometry = geometry_of(images, som, rotations, flip, region, region_side)
    factors = neighbourhood.factors(som.lattice)
    check_batch(neighbourhood, factors, batch_size, mode)
    sequence = np.arange(len(images)) if order is None else np.asarray(order)
    weights, found = np.array(som.weights, np.float32), []
    rate = neighbourhood.rate if batch_size < len(sequence) else 1.0
    for first in range(0, len(sequence), batch_size):
        batch = images[sequence[first : first + batch_size]]
        step = _reference_step if method == "reference" else _exact_step
        weights, bmu, distance = step(batch, weights, factors, geometry, mode, rate)
        found.append((bmu, distance))
    bmu = np.concatenate([f[0] for f in found]) if found else np.zeros(0, np.int64)
    distance = np.concatenate([f[1] for f in found]) if found else np.zeros(0, np.float32)
    return TrainingResult(Som(weights, som.lattice), bmu, distance)


def _exact_step(
    batch: np.ndarray, weights: np.ndarray, factors: np.ndarray, geometry: Geometry, mode: BatchMode, rate: float
) -> tuple:
    match = search_blocks(Search(weights, geometry), batch)
    found = coefficients(match.bmu, factors, mode, rate=rate)
    sums, scale = empty_sums(weights.shape), fixed_point_scale(float(np.abs(batch).max()), factors)
    add_batch(sums, batch, match.transform, found.move, geometry, scale)
    return moved_weights(weights, found.keep, sums, scale), match.bmu, match.bmu_distance


def _reference_step(
    batch: np.ndarray, weights: np.ndarray, factors: np.ndarray, geometry: Geometry, mode: BatchMode, rate: float
) -> tuple:
    squared = np.stack([transforms.squared_distances(image, weights, geometry) for image in batch])
    best = squared.min(axis=2)
    bmu = best.argmin(axis=1)
    found = coefficients(bmu, factors, mode, rate=rate)
    new = found.keep[:, None, None, None] * weights
    for image, t, move in zip(batch, squared.argmin(axis=2), found.move, strict=True):
        new = new + move[:, None, None, None] * np.stack([transforms.transform(image, int(i), geometry) for i in t])
    return new.astype(np.float32), bmu, np.sqrt(best.min(axis=1)).astype(np.float32)

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

from skysom.engine import transforms
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, joined
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.search import (
    BLOCK_IMAGES,
    FRAMES_KEPT,
    Search,
    as_batch,
    base_and_element,
    frame_taps,
    geometry_of,
)
from skysom.engine.som import Som
from skysom.engine.update import SMALLEST_FACTOR, TrainingResult

BatchMode = Literal["affine", "kohonen"]

FIXED_POINT_BITS = 60
"""Bits a sum of a batch may fill."""
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
    """The power of two that brings sums of a batch into 60 bits: pixels are at most ``peak`` (absolute).

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

    images (B, C, H, H) float32; transform (B, N) int64, of every neuron; move (B, N) float64. Coefficients
    below 1e-8 are skipped.
    """
    from skysom.engine import kernels

    side, channels = geometry.neuron_side, images.shape[1]
    frames = np.empty((2, channels, side * side), np.float32)
    squares = frames.reshape(2, channels, side, side)
    turning: dict[int, tuple] = {}
    for image, own, factors in zip(images, transform, move, strict=True):
        moved = np.flatnonzero(np.abs(factors) >= SMALLEST_FACTOR)
        k, element = base_and_element(own[moved], geometry)
        flat = np.ascontiguousarray(image, np.float32).reshape(channels, -1)
        for base in np.unique(k).tolist():
            if base not in turning:
                turning[base] = frame_taps(geometry, base), _row_limits(geometry, base)
            taps, (first, stop) = turning[base]
            here = k == base
            frames[0] = 0
            kernels.rotate_rows(flat, *taps, first[0], stop[0], geometry.image_side, frames[0])
            sideways, reversals = _D4[element[here], 0], _D4[element[here], 1:]
            if sideways.any():
                squares[1] = squares[0].transpose(0, 2, 1)
            neurons = moved[here]
            kernels.add_frame(frames, first, stop, sideways, reversals, factors[neurons] * scale, neurons, sums, side)


# Grid symmetry h = 4 f + q as: transpose first, then reverse rows, then columns.
_QUARTERS = ((0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0))
_D4 = np.array([*_QUARTERS, *((sideways, 1 - rows, columns) for sideways, rows, columns in _QUARTERS)])


@lru_cache(maxsize=FRAMES_KEPT)
def _row_limits(geometry: Geometry, k: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last-but-one column (2, D) int64 that each row of base rotation ``k`` and of its transpose can fill."""
    side = geometry.neuron_side
    whole = (frame_taps(geometry, k)[0] >= 0).reshape(side, side)
    filled = np.stack([whole, whole.T])
    some = filled.any(axis=2)
    first, stop = filled.argmax(axis=2), side - filled[:, :, ::-1].argmax(axis=2)
    return np.where(some, first, 0), np.where(some, stop, 0)


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

"""|T x|^2 over the region for every rotation, without making any.

A bilinear sample is a weighted mean of four pixels, so its square is a sum over products of neighbouring pixels:
the pixel with itself, the one right of it, below it, and the two diagonals. For each base rotation the weights add
up, over the pixels of the region, to one number a product: |T_k x|^2 = sum_l A[k, l] z_l. A region that quarter
turns map onto itself gives the four products that they bring onto each other the same weight, so these are added
first. It matters: bilinear interpolation damps the noise of an image to 1 .. 0.41, depending on the angle.

Orbits that lie partly in the region (odd and even sides) are sampled, per grid symmetry.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from skysom.engine import dihedral
from skysom.engine.geometry import Geometry

Array = Any

_SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True, eq=False)
class Energies:
    """Products of neighbouring pixels and their weights.

    first, second : (L, 4) int32, the pixels of each product and of its quarter turns. weight : (R/4 - 1, L) float32,
    for the base rotations from 1 on (0 copies pixels and is left to the exact search).
    """

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray


@lru_cache(maxsize=4)
def energies(geometry: Geometry) -> Energies:
    """The products of a geometry, over the orbits that lie wholly in its region."""
    side, table = geometry.image_side, dihedral.orbits(geometry)
    pairs = _pairs(side)
    orbit = _quarter_orbits(side, pairs)
    of_pair = np.empty(len(pairs), np.int64)
    of_pair[orbit] = np.arange(len(orbit))[:, None]
    number = np.zeros((len(_KINDS), side * side), np.int64)
    number[pairs[:, 2], pairs[:, 0]] = np.arange(len(pairs))
    share = np.repeat(table.weight[: table.complete].astype(np.float64), 8)
    weight = np.empty((geometry.base_rotations - 1, len(orbit)), np.float32)
    for k in range(1, geometry.base_rotations):
        sums = np.zeros(len(orbit))
        index, low, right = (part[k, : table.complete].reshape(-1) for part in table.taps)
        keep = index >= 0
        for pixel, kind, value in _square_terms(index[keep], low[keep], right[keep], side):
            at = of_pair[number[_KINDS.index(kind), pixel]]
            sums += np.bincount(at, value * share[keep], minlength=len(orbit))
        # The four products of an orbit share what was counted for any of them.
        weight[k - 1] = sums / 4
    used = np.flatnonzero(weight.any(axis=0))
    first, second = (np.ascontiguousarray(pairs[orbit[used], i].astype(np.int32)) for i in (0, 1))
    return Energies(first, second, np.take(weight, used, axis=1))


_KINDS = ("self", "right", "below", "down", "up")


def _pairs(side: int) -> np.ndarray:
    """(n, 3) int: two pixels and the number of their kind, for all neighbours of a square image."""
    grid = np.arange(side * side).reshape(side, side)
    couples = [
        (grid, grid), (grid[:, :-1], grid[:, 1:]), (grid[:-1], grid[1:]),
        (grid[:-1, :-1], grid[1:, 1:]), (grid[:-1, 1:], grid[1:, :-1]),
    ]  # fmt: skip
    parts = [np.stack([a.reshape(-1), b.reshape(-1), np.full(a.size, i)], 1) for i, (a, b) in enumerate(couples)]
    return np.concatenate(parts)


def _quarter_orbits(side: int, pairs: np.ndarray) -> np.ndarray:
    """(n, 4) int: each pair with its three quarter turns, every orbit once."""
    turn = np.rot90(np.arange(side * side).reshape(side, side)).reshape(-1)
    where = np.empty_like(turn)
    where[turn] = np.arange(side * side)
    low, high = np.minimum(pairs[:, 0], pairs[:, 1]), np.maximum(pairs[:, 0], pairs[:, 1])
    keys = low * side * side + high
    order = np.argsort(keys)
    members = [np.arange(len(pairs))]
    one, two = low, high
    for _ in range(3):
        one, two = where[one], where[two]
        turned = np.minimum(one, two) * side * side + np.maximum(one, two)
        members.append(order[np.searchsorted(keys[order], turned)])
    both = np.stack(members, axis=1)
    return both[both[:, 0] == both.min(axis=1)]


def _square_terms(index: np.ndarray, low: np.ndarray, right: np.ndarray, side: int):  # type: ignore[no-untyped-def]
    """The ten products of the square of bilinear samples: (pixel that names the pair, kind, weight)."""
    low, right = low.astype(np.float64), right.astype(np.float64)
    up, left = 1 - low, 1 - right
    share = {(0, 0): up * left, (0, 1): up * right, (1, 0): low * left, (1, 1): low * right}
    pixel = {shift: index + shift[0] * side + shift[1] for shift in _SHIFTS}
    for shift in _SHIFTS:
        yield pixel[shift], "self", share[shift] ** 2
    for row in (0, 1):
        yield pixel[row, 0], "right", 2 * share[row, 0] * share[row, 1]
    for column in (0, 1):
        yield pixel[0, column], "below", 2 * share[0, column] * share[1, column]
    yield pixel[0, 0], "down", 2 * share[0, 0] * share[1, 1]
    yield pixel[0, 1], "up", 2 * share[0, 1] * share[1, 0]


def lag_products(images: Array, table: Energies, *, xp: Any = np) -> Array:
    """Products of neighbours of ``images`` (B, C, H, H), added over quarter turns and channels: (L, B) float32."""
    flat = xp.reshape(images, (*images.shape[:2], -1))
    total = 0
    for q in range(4):
        one = xp.take(flat, xp.asarray(table.first[:, q].astype(np.int64)), axis=2)
        two = xp.take(flat, xp.asarray(table.second[:, q].astype(np.int64)), axis=2)
        total = total + xp.sum(one * two, axis=1)
    return xp.permute_dims(total, (1, 0))

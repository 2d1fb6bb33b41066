"""|T x|^2 over the region for every rotation, without making any.

A bilinear sample is a weighted mean of four pixels, so its square is a sum over products of neighbouring pixels:
the pixel with itself, the one right of it, below it, and the two diagonals. For each base rotation the weights add
up, over the pixels of the region, to one number a product: |T_k x|^2 = sum_l A[k, l] z_l. A region that quarter
turns map onto itself gives the four products that they bring onto each other the same weight, so these are added
first. A region that is its own mirror image gives the product l' that mirrors l at k what l has at R/4 - k, so
with sums and differences of the two one half of the rotations and of the products is enough:

    |T_k x|^2, |T_{R/4-k} x|^2 = E_k +- O_k,   E_k = sum_l 1/2 (A[k, l] + A[k, l']) (z_l + z_l'),
                                               O_k = sum_l 1/2 (A[k, l] - A[k, l']) (z_l - z_l')

over the pairs l, l'. It matters: bilinear interpolation damps the noise of an image to 1 .. 0.41, depending on the
angle.

Orbits that lie partly in the region (odd and even sides) are sampled, per grid symmetry; few subsets of the eight
places occur (`Orbits.partial`), and squares are added up for each before the symmetries are told apart.

The sampled positions of the exact search are float32, and so up to 1e-5 pixels off, each in its own way; here quarter
turns and mirror images have those of one of them. So a sharp image has norms off by up to 2e-5 of the largest one.
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
    """Products of neighbouring pixels and their weights, for base rotations 1 .. R/4 - 1 (0 copies pixels and is left
    to the exact search).

    first, second : (L, 8) int32, the pixels of each product, of its quarter turns, and of the mirror images of these.
    even, odd : (h, L) float32, what the sums and the differences of product and mirror image count at base rotations
    1 .. h; h = R/8, rounded down. bases : R/4.
    """

    first: np.ndarray
    second: np.ndarray
    even: np.ndarray
    odd: np.ndarray
    bases: int

    def norms(self, sums: Array, differences: Array, *, xp: Any = np) -> Array:
        """|T x|^2 (R/4 - 1, B) over the complete orbits, from the `lag_products` (L, B) of images."""
        even, odd = xp.asarray(self.even) @ sums, xp.asarray(self.odd) @ differences
        # Where k is its own mirror image the odd part is 0 but for rounding of the taps.
        rest = self.bases - 1 - len(self.even)
        return xp.concat([even + odd, xp.flip((even - odd)[:rest, ...], axis=0)])


@lru_cache(maxsize=4)
def energies(geometry: Geometry) -> Energies:
    """The products of a geometry, over the orbits that lie wholly in its region."""
    side, table, half = geometry.image_side, dihedral.orbits(geometry), geometry.base_rotations // 2
    pairs = _pairs(side)
    orbit, mirrored = _orbits(side, pairs)
    of_pair = np.empty(len(pairs), np.int64)
    of_pair[orbit] = np.arange(len(orbit))[:, None]
    number = np.zeros((len(_KINDS), side * side), np.int64)
    number[pairs[:, 2], pairs[:, 0]] = np.arange(len(pairs))
    share = np.repeat(table.weight[: table.complete].astype(np.float64), 8)
    weight = np.empty((half, len(orbit)), np.float32)
    for k in range(1, half + 1):
        sums = np.zeros(len(orbit))
        index, low, right = (part[k, : table.complete].reshape(-1) for part in table.taps)
        keep = index >= 0
        for pixel, kind, value in _square_terms(index[keep], low[keep], right[keep], side):
            at = of_pair[number[_KINDS.index(kind), pixel]]
            sums += np.bincount(at, value * share[keep], minlength=len(orbit))
        # The four products of an orbit share what was counted for any of them.
        weight[k - 1] = sums / 4
    mirror = of_pair[mirrored[:, 0]]
    used = np.count_nonzero(weight, axis=0) > 0
    kept = np.flatnonzero((used | used[mirror]) & (mirror >= np.arange(len(orbit))))
    # In the order of pixels: what is multiplied together is then in cache.
    kept = kept[np.argsort(pairs[orbit[kept, 0], 0], kind="stable")]
    both = np.concatenate([orbit[kept], mirrored[kept]], axis=1)
    first, second = (np.ascontiguousarray(pairs[both, i].astype(np.int32)) for i in (0, 1))
    own, other = np.take(weight, kept, axis=1), np.take(weight, mirror[kept], axis=1)
    even = own + other
    odd = np.subtract(own, other, out=other)
    # A product that is its own mirror image is in both halves of the sum.
    single = np.where(mirror[kept] == kept, np.float32(0.25), np.float32(0.5))
    even *= single
    odd *= single
    return Energies(first, second, even, odd, geometry.base_rotations)


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


def _orbits(side: int, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) int: each pair with its three quarter turns, every orbit once; and the mirror images of these pairs."""
    grid = np.arange(side * side).reshape(side, side)
    low, high = np.minimum(pairs[:, 0], pairs[:, 1]), np.maximum(pairs[:, 0], pairs[:, 1])
    keys = low * side * side + high
    order = np.argsort(keys)

    def moved(where: np.ndarray) -> np.ndarray:
        """The pair that each becomes where pixel p goes to where[p]."""
        one, two = where[low], where[high]
        return order[np.searchsorted(keys[order], np.minimum(one, two) * side * side + np.maximum(one, two))]

    where = np.empty(side * side, np.int64)
    where[np.rot90(grid).reshape(-1)] = grid.reshape(-1)
    turned, mirrored = moved(where), moved(grid[::-1].reshape(-1))
    members = [np.arange(len(pairs))]
    for _ in range(3):
        members.append(turned[members[-1]])
    both = np.stack(members, axis=1)
    orbit = both[both[:, 0] == both.min(axis=1)]
    return orbit, mirrored[orbit]


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


def lag_products(images: Array, table: Energies, *, xp: Any = np) -> tuple[Array, Array]:
    """Products of neighbours of ``images`` (B, C, H, H), added over quarter turns and channels, (L, B) float32: the
    sums with those of the mirror images, and the differences."""
    flat = xp.reshape(images, (*images.shape[:2], -1))
    parts: list[Array] = []
    for turns in (range(4), range(4, 8)):
        total = 0
        for q in turns:
            one = xp.take(flat, xp.asarray(table.first[:, q].astype(np.int64)), axis=2)
            two = xp.take(flat, xp.asarray(table.second[:, q].astype(np.int64)), axis=2)
            total = total + xp.sum(one * two, axis=1)
        parts.append(xp.permute_dims(total, (1, 0)))
    own, mirrored = parts
    return own + mirrored, own - mirrored

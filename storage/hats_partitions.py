"""Patches of the sky that hold about as many rows each, as HEALPix pixels, and which rows lie near another patch."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from skysom.storage.errors import CatalogueError

DEEPEST = 29
SKY_PIXELS = 12 << 2 * DEEPEST
"""Pixels of order 29."""
COUNT_ORDER = 10
"""Order of the pixels that are counted to choose partitions: 12 million pixels of 3.4'; no partition is smaller."""
MAP_ORDER = 8
"""Order of the map of counts that a catalogue carries."""
MARGIN_WIDTH = 0.5
"""A step of this many pixel sides (sqrt of the area) from anywhere in a pixel ends in it or in one that touches it.

Measured with 24 million random steps at orders 2 to 13, poles and seams of the base pixels included: 0.69."""
MARGIN_ORDER = 20
"""Deepest order of the pixels that make a margin; they have 0.2"."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence about what LSDB, HATS and nested-pandas ask of pandas and will have to change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(lsdb|hats|nested_pandas)\b")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(lsdb|hats|nested_pandas)\b")
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, in a notebook without its widgets
        yield


def spatial_index(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Nested HEALPix pixel (n,) int64 of order 29 of positions (n,) in degrees; -1 where one is not finite."""
    found = np.full(len(ra_deg), -1, np.int64)
    good = np.isfinite(ra_deg) & np.isfinite(dec_deg)
    if good.any():
        with quiet():
            from hats.pixel_math.spatial_index import compute_spatial_index

            found[good] = compute_spatial_index(ra_deg[good] % 360, dec_deg[good])
    return found


@dataclass(frozen=True)
class PixelCounts:
    """Rows by pixel of `COUNT_ORDER`: those that have any, ascending, and their counts, (k,) int64 each."""

    pixel: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    count: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def plus(self, index: np.ndarray) -> "PixelCounts":
        """With more rows: their pixels (n,) int64 of order 29."""
        pixel, count = np.unique(index >> 2 * (DEEPEST - COUNT_ORDER), return_counts=True)
        both, place = np.unique(np.concatenate([self.pixel, pixel]), return_inverse=True)
        sums = np.zeros(len(both), np.int64)
        np.add.at(sums, place, np.concatenate([self.count, count]))
        return PixelCounts(both, sums)

    @property
    def total(self) -> int:
        return int(self.count.sum())

    def chart(self) -> np.ndarray:
        """Rows (12 * 4**MAP_ORDER,) int64 by pixel of `MAP_ORDER`."""
        found = np.zeros(12 * 4**MAP_ORDER, np.int64)
        np.add.at(found, self.pixel >> 2 * (COUNT_ORDER - MAP_ORDER), self.count)
        return found


@dataclass(frozen=True)
class SkyPartitions:
    """Partitions of a catalogue, in the order of their place in the sky.

    order, pixel : (P,) int64, nested HEALPix pixels that do not overlap.
    """

    order: np.ndarray
    pixel: np.ndarray

    @classmethod
    def of_counts(cls, counts: "PixelCounts", rows: int) -> "SkyPartitions":
        """Largest pixels of at most ``rows`` rows each, but those of `COUNT_ORDER` are not divided; no empty ones."""
        levels = [(counts.pixel, counts.count)]
        for _ in range(COUNT_ORDER):
            pixel, count = levels[-1][0] >> 2, levels[-1][1]
            begins = np.flatnonzero(np.diff(pixel, prepend=-1))
            levels.append((pixel[begins], np.add.reduceat(count, begins)))
        orders, pixels = [], []
        divided = np.arange(12)
        for order, (pixel, count) in enumerate(reversed(levels)):
            here = np.isin(pixel if order == 0 else pixel >> 2, divided)
            small = (count <= rows) | (order == COUNT_ORDER)
            orders.append(np.full(np.count_nonzero(here & small), order, np.int64))
            pixels.append(pixel[here & small])
            divided = pixel[here & ~small]
        found_order, found_pixel = np.concatenate(orders), np.concatenate(pixels)
        place = np.argsort(found_pixel << 2 * (DEEPEST - found_order))
        return cls(found_order[place], found_pixel[place])

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def starts(self) -> np.ndarray:
        """First pixel (P,) int64 of order 29 of each."""
        return self.pixel << 2 * (DEEPEST - self.order)

    @cached_property
    def stops(self) -> np.ndarray:
        """Pixel (P,) int64 of order 29 after the last of each."""
        return (self.pixel + 1) << 2 * (DEEPEST - self.order)

    def of(self, index: np.ndarray) -> np.ndarray:
        """Number (n,) int64 of the partition in which each pixel of order 29 lies; -1 for those in none."""
        found = np.searchsorted(self.starts, index, side="right") - 1
        inside = (found >= 0) & (index < self.stops[np.maximum(found, 0)]) if len(self) else np.zeros(len(index), bool)
        return np.where(inside, found, -1)

    def whole_sky(self) -> "SkyPartitions":
        """These and the fewest pixels that fill the rest of the sky."""
        begin = np.concatenate([[0], self.stops]).tolist()
        end = np.concatenate([self.starts, [SKY_PIXELS]]).tolist()
        rest = [pixel for gap in zip(begin, end, strict=True) for pixel in _pixels_between(*gap)]
        order = np.concatenate([self.order, np.array([one[0] for one in rest], np.int64)])
        pixel = np.concatenate([self.pixel, np.array([one[1] for one in rest], np.int64)])
        place = np.argsort(pixel << 2 * (DEEPEST - order))
        return SkyPartitions(order[place], pixel[place])

    def near(self, index: np.ndarray, margin_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows that lie near a partition other than their own, all within the margin and some beyond.

        Parameters
        ----------
        index : (n,) int64, pixels of order 29.

        Returns
        -------
        rows : (k,) int64, ascending. partitions : (k,) int64, numbers here.
        """
        from cdshealpix import neighbours

        order = margin_order(margin_arcsec)
        own = self.of(index)
        edge = np.flatnonzero(_at_edge(index, np.where(own < 0, DEEPEST, self.order[own]), order))
        cells, back = np.unique(index[edge] >> 2 * (DEEPEST - order), return_inverse=True)
        around = neighbours(cells.astype(np.uint64), order).astype(np.int64)  # (n, 9), itself too; -1: no such
        starts, stops = around << 2 * (DEEPEST - order), (around + 1) << 2 * (DEEPEST - order)
        first = np.maximum(np.searchsorted(self.stops, starts, side="right"), 0)
        last = np.where(around < 0, first, np.searchsorted(self.starts, stops, side="left"))
        counts = np.maximum(last - first, 0)[back]
        total = counts.sum(axis=1)
        rows = np.repeat(edge, total)
        flat, begin = counts.ravel(), np.repeat(first[back].ravel(), counts.ravel())
        partitions = begin + np.arange(len(begin)) - np.repeat(np.cumsum(flat) - flat, flat)
        pairs = np.unique(np.stack([rows, partitions], axis=1), axis=0)
        pairs = pairs[pairs[:, 1] != own[pairs[:, 0]]]
        return pairs[:, 0], pairs[:, 1]


def _pixels_between(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Order and pixel of the fewest pixels that fill a range of pixels of order 29."""
    while begin < end:
        depth = 0  # how far above order 29: the pixel begins where a pixel of that order does, and ends by the end
        while depth < DEEPEST and begin % 4 ** (depth + 1) == 0 and begin + 4 ** (depth + 1) <= end:
            depth += 1
        yield DEEPEST - depth, begin >> 2 * depth
        begin += 4**depth


def margin_order(margin_arcsec: float) -> int:
    """Deepest order whose pixels, with those around them, hold a disc of this radius around any of their points.

    Raises
    ------
    CatalogueError : a margin of zero or less, or wider than the largest pixels allow (20 degrees).
    """
    if not 0 < margin_arcsec <= 72_000:
        raise CatalogueError(
            f"a margin of {margin_arcsec:g} arcsec; give one above 0 and of at most 72000 (20 degrees)"
        )
    side_arcsec = math.degrees(math.sqrt(4 * math.pi / 12)) * 3600
    return min(MARGIN_ORDER, int(math.log2(side_arcsec * MARGIN_WIDTH / margin_arcsec)))


def _at_edge(index: np.ndarray, own_order: np.ndarray, order: int) -> np.ndarray:
    """Whether the pixel of ``order`` in which each row lies is at the edge of the row's partition, or no part of it."""
    depth = np.maximum(order - own_order, 0)
    cell = index >> 2 * (DEEPEST - order)
    along_x = (np.int64(1) << 2 * depth) // 3  # 0b0101...: the bits of x in a nested number; those of y are beside
    x, y = cell & along_x, (cell >> 1) & along_x
    return (depth == 0) | (x == 0) | (y == 0) | (x == along_x) | (y == along_x)

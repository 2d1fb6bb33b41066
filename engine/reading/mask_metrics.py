"""Measures of masks: the largest extent, regions by labels, ratios of areas (specs/pyink.md, section 6).

Where the peer's function has a defect, these do what it is meant to; each says the difference.
"""

import math
from collections.abc import Iterable

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.reading.masks import plane


def largest_distance(mask: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Largest distance in pixels, centre to centre, of two set pixels of ``mask`` (D, D), and which two.

    Returns
    -------
    distance, (i, j) : i < j number the set pixels in raster order; of equally distant pairs the lowest i, then j.
        0.0 and (0, 0) for a single pixel; -1.0 and (-1, -1) for none, where the peer fails.

    Notes
    -----
    Both ends are corners of the convex hull, and those are among the first and last set pixels of the rows: at most
    2 D points are compared, however many are set.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return -1.0, (-1, -1)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    ends = np.append(starts[1:], len(rows)) - 1
    corners = np.union1d(starts, ends)
    row, column = rows[corners], columns[corners]
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    first, second = np.unravel_index(np.argmax(squared), squared.shape)
    return math.sqrt(int(squared[first, second])), (int(corners[first]), int(corners[second]))


def valid_region(
    planes: np.ndarray, includes: Iterable[int] | None = None, excludes: Iterable[int] | None = None
) -> np.ndarray:
    """Pixels (...) bool of planes (..., W) that carry one of the labels ``includes`` and none of ``excludes``.

    includes : None means any label. A pixel without a label is never in the region; the peer counts it where
        ``includes`` are given and ``excludes`` are not.
    """
    region = (planes != 0).any(axis=-1) if includes is None else _any_of(planes, includes)
    return region & ~_any_of(planes, excludes or ())


def area_ratio(
    planes: np.ndarray,
    reference: np.ndarray,
    includes: Iterable[int] | None = None,
    excludes: Iterable[int] | None = None,
) -> float:
    """Number of pixels of the `valid_region` of ``planes`` (..., W) over that of ``reference`` (..., W).

    1.0 where the reference region is empty and the other is not (the peer's convention); NaN where both are.

    Raises
    ------
    ReadingError : planes of different numbers of words, whose labels are not the same.
    """
    if planes.shape[-1] != reference.shape[-1]:
        raise ReadingError(f"the planes have {planes.shape[-1]} and {reference.shape[-1]} words; their labels differ")
    kept = [None if labels is None else tuple(labels) for labels in (includes, excludes)]
    area, of = (int(valid_region(each, *kept).sum()) for each in (planes, reference))
    if of == 0:
        return 1.0 if area else math.nan
    return area / of


def _any_of(planes: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    region = np.zeros(planes.shape[:-1], bool)
    for label in labels:
        region |= plane(planes, label)
    return region

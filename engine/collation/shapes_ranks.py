"""Compiled loop that ranks what is attached to groups by its distance from their positions.

One sort by three keys: three passes of `group_kernels.sort_by` take 1.2 to 1.7 times as long.
"""

from typing import Any

import numpy as np
from numba import njit

from skysom.engine.collation.shapes_kernels import separation

COMPILED_WITH = "763899311d95"
"""Digest of the modules with parts that are compiled in here: numba keeps what it compiled until this file changes."""
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
FEW = 16
"""Entries of a list that are sorted by insertion; longer ones by merging."""


@njit(**_OPTIONS)
def rank_by_separation(ra, dec, group_ra, group_dec, starts, first_tie, second_tie, distance, order):
    """Separations of the entries of G lists from the groups' positions, and their order: nearest first, NaN last.

    ra, dec (k,), group_ra, group_dec (G,) float64 in radians; starts (G + 1,). Equal separations go by ``first_tie``,
    then ``second_tie`` (k,) integers. Fills distance (k,) float64 in radians and order (k,) int64, places of all
    entries: list g in its order is ``order[starts[g]:starts[g + 1]]``.
    """
    for group in range(len(starts) - 1):
        begin, stop = starts[group], starts[group + 1]
        for k in range(begin, stop):
            distance[k] = separation(group_ra[group], group_dec[group], ra[k], dec[k])
            order[k] = k
        if stop - begin <= FEW:
            _insert(order[begin:stop], distance, first_tie, second_tie)
        else:
            _merge(order[begin:stop], distance, first_tie, second_tie)


@njit(**_OPTIONS)
def _before(a, b, distance, first_tie, second_tie):
    """Whether entry ``a`` goes before entry ``b``."""
    x, y = distance[a], distance[b]
    if np.isnan(x) or np.isnan(y):
        if np.isnan(x) != np.isnan(y):
            return np.isnan(y)
    elif x != y:
        return x < y
    if first_tie[a] != first_tie[b]:
        return first_tie[a] < first_tie[b]
    return second_tie[a] < second_tie[b]


@njit(**_OPTIONS)
def _insert(order, distance, first_tie, second_tie):
    for k in range(1, len(order)):
        entry, at = order[k], k
        while at > 0 and _before(entry, order[at - 1], distance, first_tie, second_tie):
            order[at] = order[at - 1]
            at -= 1
        order[at] = entry


@njit(**_OPTIONS)
def _merge(order, distance, first_tie, second_tie):
    """Merge sort from runs of one upwards."""
    source, target, width = order.copy(), order.copy(), 1
    while width < len(order):
        for low in range(0, len(order), 2 * width):
            middle, high = min(low + width, len(order)), min(low + 2 * width, len(order))
            i, j = low, middle
            for k in range(low, high):
                second = i == middle or (j < high and _before(source[j], source[i], distance, first_tie, second_tie))
                if second:
                    target[k] = source[j]
                    j += 1
                else:
                    target[k] = source[i]
                    i += 1
        source, target, width = target, source, 2 * width
    order[:] = source

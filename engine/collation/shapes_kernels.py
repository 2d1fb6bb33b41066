"""Compiled loops of `shapes`: separations, the largest one, and the shortest path, group by group.

Angles are radians here. Long groups go to `shapes_paths`; the plain counterparts are in the tests.
"""

from typing import Any

import numpy as np
from numba import njit

from skysom.engine.collation.shapes_paths import approximate_path, farthest_pair

COMPILED_WITH = "6027d72dd7d7"
"""Digest of the modules with parts that are compiled in here: numba keeps what it compiled until this file changes."""
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
EXACT_MEMBERS = 12
"""Members up to which the shortest path is exact: 2**(n - 2) (n - 2)**2 steps, 0.1 ms for 12."""
PAIRS_MEMBERS = 64
"""Members up to which the largest separation is that of all pairs; `farthest_pair` finds it beyond."""


@njit(**_OPTIONS)
def tangent(ra_1, dec_1, ra_2, dec_2):
    """East, north and radial part of the second position as seen from the first: unit vector in its tangent frame.

    The spherical law of cosines with 1 - cos written as 2 sin**2, so that nothing cancels for neighbours.
    """
    half = 0.5 * (ra_2 - ra_1)
    s, c = np.sin(half), np.cos(half)
    cos_1, cos_2 = np.cos(dec_1), np.cos(dec_2)
    east = 2 * s * c * cos_2
    north = np.sin(dec_2 - dec_1) + 2 * cos_2 * np.sin(dec_1) * s * s
    radial = np.cos(dec_2 - dec_1) - 2 * cos_1 * cos_2 * s * s
    return east, north, radial


@njit(**_OPTIONS)
def separation(ra_1, dec_1, ra_2, dec_2):
    """Great-circle separation of two positions."""
    east, north, radial = tangent(ra_1, dec_1, ra_2, dec_2)
    return np.arctan2(np.hypot(east, north), radial)


@njit(**_OPTIONS)
def measure(ra, dec, starts, size, first, second, angle, path, approximate, order):
    """Fill the arrays of `shapes.Shapes` (angles in radians) for all groups; see there."""
    distances = np.empty((PAIRS_MEMBERS, PAIRS_MEMBERS))
    states = 1 << (EXACT_MEMBERS - 2)
    remaining = np.empty((states, EXACT_MEMBERS - 2))
    for group in range(len(starts) - 1):
        begin, stop = starts[group], starts[group + 1]
        places = _with_position(ra[begin:stop], dec[begin:stop], order[begin:stop])
        r, d, along = ra[begin:stop], dec[begin:stop], order[begin:stop]
        approximate[group] = False
        if places == 0:
            size[group], angle[group], path[group], first[group], second[group] = np.nan, np.nan, np.nan, -1, -1
            continue
        if places == 1:
            size[group], angle[group], path[group], first[group], second[group] = 0.0, 0.0, 0.0, along[0], along[0]
            continue
        if places <= PAIRS_MEMBERS:
            i, j = _all_pairs(r, d, along[:places], distances)
        else:
            i, j = farthest_pair(r, d, along[:places])
        p, q = along[i], along[j]
        first[group], second[group] = p, q
        east, north, radial = tangent(r[p], d[p], r[q], d[q])
        size[group] = np.arctan2(np.hypot(east, north), radial)
        angle[group] = np.arctan2(east, north) % (2 * np.pi)
        if places <= EXACT_MEMBERS:
            _shortest_path(distances, i, j, along[:places], remaining)
        else:
            approximate_path(r, d, i, j, along[:places])
            approximate[group] = True
        length = 0.0
        for k in range(places - 1):
            length += separation(r[along[k]], d[along[k]], r[along[k + 1]], d[along[k + 1]])
        path[group] = length


@njit(**_OPTIONS)
def _with_position(ra, dec, order):
    """Places of the members that have a position first, in order, then the others; returns how many have one."""
    count = 0
    for k in range(len(ra)):
        if np.isfinite(ra[k]) and np.isfinite(dec[k]):
            order[count] = k
            count += 1
    at = count
    for k in range(len(ra)):
        if not (np.isfinite(ra[k]) and np.isfinite(dec[k])):
            order[at] = k
            at += 1
    return count


@njit(**_OPTIONS)
def _all_pairs(ra, dec, members, distances):
    """Fill the separations of all pairs; returns the first pair (i < j, row by row) of the largest."""
    largest, first, second = -1.0, 0, 0
    for i in range(len(members)):
        p = members[i]
        distances[i, i] = 0.0
        for j in range(i + 1, len(members)):
            q = members[j]
            distance = separation(ra[p], dec[p], ra[q], dec[q])
            distances[i, j] = distances[j, i] = distance
            if distance > largest:
                largest, first, second = distance, i, j
    return first, second


@njit(**_OPTIONS)
def _shortest_path(distances, first, second, members, remaining):
    """Put the members in the order of the shortest path from the first to the second through all of them.

    Bellman, Held and Karp: remaining[visited, last] is the shortest way on through what is not visited. Of several
    shortest paths it takes the first in the order of permutations.
    """
    count = len(members) - 2
    inner = np.empty(max(count, 0), np.int64)
    at = 0
    for k in range(len(members)):
        if k not in (first, second):
            inner[at] = k
            at += 1
    everyone = (1 << count) - 1
    for visited in range(everyone, 0, -1):
        for last in range(count):
            if not visited >> last & 1:
                continue
            best = distances[inner[last], second] if visited == everyone else np.inf
            for following in range(count):
                if not visited >> following & 1:
                    way = distances[inner[last], inner[following]] + remaining[visited | 1 << following, following]
                    best = min(best, way)
            remaining[visited, last] = best
    names = members.copy()
    members[0], members[-1] = names[first], names[second]
    visited, here = 0, first
    for k in range(1, len(members) - 1):
        best, chosen = np.inf, 0
        for following in range(count):
            if not visited >> following & 1:
                way = distances[here, inner[following]] + remaining[visited | 1 << following, following]
                if way < best:
                    best, chosen = way, following
        visited |= 1 << chosen
        here = inner[chosen]
        members[k] = names[here]

"""Compiled loops for groups of many members: their largest separation, and a short path through all of them.

Both work on unit vectors, where a chord costs three products; angles are radians.
"""

from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
NEAREST_MEMBERS = 4096
"""Members up to which a path begins from nearest neighbours (n**2 steps), beyond from strips (n log n)."""
WINDOW = 256
"""Longest run of a path of strips that is tried in reverse."""
STEPS = 50_000_000
"""Most pairs of edges looked at, and members moved, for one group: about a third of a second."""


@njit(**_OPTIONS)
def farthest_pair(ra, dec, members):
    """Places i < j in ``members`` of the largest chord; of equal ones the first, row by row.

    No separation exceeds the sum of the two radii about the centre, so members are taken from the outermost inwards
    and most pairs are never looked at. All of them are, n**2 / 2, where all members lie on one circle.
    """
    v = _vectors(ra, dec, members)
    radius = _radii(v)
    inwards = np.argsort(-radius, kind="mergesort")
    best, angle, first, second = -1.0, -1.0, 0, 0
    slack = 1e-9
    for a in range(len(members)):
        i = inwards[a]
        if 2 * radius[i] < angle - slack:
            break
        for b in range(a + 1, len(members)):
            j = inwards[b]
            if radius[i] + radius[j] < angle - slack:
                break
            x, y, z = v[i, 0] - v[j, 0], v[i, 1] - v[j, 1], v[i, 2] - v[j, 2]
            chord = x * x + y * y + z * z
            if chord < best:
                continue
            low, high = min(i, j), max(i, j)
            if chord > best or (low, high) < (first, second):
                first, second = low, high
            if chord > best:
                best, angle = chord, 2 * np.arcsin(min(1.0, np.sqrt(chord) / 2))
    return first, second


@njit(**_OPTIONS)
def approximate_path(ra, dec, first, second, members):
    """Put ``members`` in the order of a short path from place ``first`` to place ``second`` through all of them.

    From the nearest one to the nearest one, then 2-opt (Croes 1958): a run of the path is reversed where that makes it
    shorter, until none does or `STEPS` are spent. Beyond `NEAREST_MEMBERS` it begins as strips across the line
    between the ends (Few 1955), and only runs of `WINDOW` are reversed.
    """
    v = _vectors(ra, dec, members)
    if len(members) <= NEAREST_MEMBERS:
        path, window = _nearest(v, first, second), len(members)
    else:
        path, window = _strips(v, first, second), WINDOW
    _uncross(v, path, window)
    names = members.copy()
    for k in range(len(members)):
        members[k] = names[path[k]]


@njit(**_OPTIONS)
def _vectors(ra, dec, members):
    v = np.empty((len(members), 3))
    for k in range(len(members)):
        m = members[k]
        v[k, 0] = np.cos(dec[m]) * np.cos(ra[m])
        v[k, 1] = np.cos(dec[m]) * np.sin(ra[m])
        v[k, 2] = np.sin(dec[m])
    return v


@njit(**_OPTIONS)
def _radii(v):
    """Angles (n,) to the mean direction; to the first vector where the mean has none."""
    x, y, z = v[:, 0].mean(), v[:, 1].mean(), v[:, 2].mean()
    norm = np.sqrt(x * x + y * y + z * z)
    if norm < 1e-6:
        x, y, z, norm = v[0, 0], v[0, 1], v[0, 2], 1.0
    radius = np.empty(len(v))
    for k in range(len(v)):
        dx, dy, dz = v[k, 0] - x / norm, v[k, 1] - y / norm, v[k, 2] - z / norm
        radius[k] = 2 * np.arcsin(min(1.0, np.sqrt(dx * dx + dy * dy + dz * dz) / 2))
    return radius


@njit(**_OPTIONS)
def _chord(v, i, j):
    x, y, z = v[i, 0] - v[j, 0], v[i, 1] - v[j, 1], v[i, 2] - v[j, 2]
    return np.sqrt(x * x + y * y + z * z)


@njit(**_OPTIONS)
def _nearest(v, first, second):
    """Path (n,): always on to the nearest member that is left, the second end last."""
    count = len(v)
    path = np.empty(count, np.int64)
    left = np.empty(count, np.int64)
    many = 0
    for k in range(count):
        if k not in (first, second):
            left[many] = k
            many += 1
    path[0], path[-1] = first, second
    for at in range(1, count - 1):
        best, chosen = np.inf, 0
        for k in range(many):
            chord = _chord(v, path[at - 1], left[k])
            if chord < best:
                best, chosen = chord, k
        path[at] = left[chosen]
        many -= 1
        for k in range(chosen, many):  # keeps the order, so that the first of equally near ones is taken
            left[k] = left[k + 1]
    return path


@njit(**_OPTIONS)
def _strips(v, first, second):
    """Path (n,): strips across the line between the ends, up one and down the next."""
    count = len(v)
    line = v[second] - v[first]
    middle = v[second] + v[first]
    across = np.array(
        [
            middle[1] * line[2] - middle[2] * line[1],
            middle[2] * line[0] - middle[0] * line[2],
            middle[0] * line[1] - middle[1] * line[0],
        ]
    )
    x, y = np.empty(count), np.empty(count)
    for k in range(count):
        x[k] = v[k, 0] * line[0] + v[k, 1] * line[1] + v[k, 2] * line[2]
        y[k] = v[k, 0] * across[0] + v[k, 1] * across[1] + v[k, 2] * across[2]
    x, y = _unit_range(x), _unit_range(y)
    strips = max(1, int(np.sqrt(count / 3)))
    key = np.empty(count)
    for k in range(count):
        strip = min(strips - 1, int(x[k] * strips))
        key[k] = 2 * strip + (y[k] if strip % 2 == 0 else 1 - y[k])
    key[first], key[second] = -1.0, 2.0 * strips + 1
    return np.argsort(key, kind="mergesort")


@njit(**_OPTIONS)
def _unit_range(values):
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


@njit(**_OPTIONS)
def _uncross(v, path, window):
    """2-opt in place; the ends stay."""
    count, steps, better = len(path), 0, True
    while better:
        better = False
        for i in range(count - 3):
            for k in range(i + 2, min(count - 1, i + window)):
                steps += 1
                if steps > STEPS:
                    return
                before = _chord(v, path[i], path[i + 1]) + _chord(v, path[k], path[k + 1])
                after = _chord(v, path[i], path[k]) + _chord(v, path[i + 1], path[k + 1])
                if after < before * (1 - 1e-12):
                    path[i + 1 : k + 1] = path[i + 1 : k + 1][::-1].copy()
                    steps += k - i
                    better = True

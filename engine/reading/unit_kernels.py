"""Compiled loops over the distances of a mapping: best units, members, medians, distances of profiles.

Each has a plain counterpart in NumPy it is tested against. Rows are independent, so that blocks of rows give what the
whole gives; nothing is fused, so that results are the same on every machine.
"""

from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def best_of_all(distance, usable, best, best_distance):
    """The nearest neurons of every row, nearest first, of equal ones the lowest first.

    distance (B, N) float32, usable (N,) bool; fills the beginnings of the rows of ``best`` (B, K) int64 and
    ``best_distance`` (B, K) float32. NaN and infinite distances are nobody's.
    """
    count = best.shape[1]
    for b in range(distance.shape[0]):
        held, limit = 0, np.float32(np.inf)
        for n in range(distance.shape[1]):
            d = distance[b, n]
            if d < limit and usable[n]:
                i = min(held, count - 1)
                while i > 0 and best_distance[b, i - 1] > d:
                    best[b, i], best_distance[b, i] = best[b, i - 1], best_distance[b, i - 1]
                    i -= 1
                best[b, i], best_distance[b, i] = n, d
                held = min(held + 1, count)
                if held == count:
                    limit = best_distance[b, count - 1]


@njit(**_OPTIONS)
def best_of_kept(distance, neuron, usable, best, best_distance):
    """As `best_of_all` where row b holds the distances of the neurons ``neuron`` (B, J) alone, -1 for none."""
    count = best.shape[1]
    for b in range(distance.shape[0]):
        held = 0
        for j in range(distance.shape[1]):
            n, d = neuron[b, j], distance[b, j]
            if n < 0 or not d < np.inf or not usable[n]:
                continue
            i = held
            while i > 0 and (best_distance[b, i - 1] > d or (best_distance[b, i - 1] == d and best[b, i - 1] > n)):
                i -= 1
            if i == count:
                continue
            held = min(held + 1, count)
            for k in range(held - 1, i, -1):
                best[b, k], best_distance[b, k] = best[b, k - 1], best_distance[b, k - 1]
            best[b, i], best_distance[b, i] = n, d


@njit(**_OPTIONS)
def fill_members(bmu, start, rows):
    """Counting sort: row i goes to the next place of neuron ``bmu[i]``; start (N + 1,), rows (M,) int64."""
    place = start[:-1].copy()
    for i in range(bmu.size):
        n = bmu[i]
        if n >= 0:
            rows[place[n]] = i
            place[n] += 1


@njit(**_OPTIONS)
def member_moments(distance, start, rows, mean, median, std):
    """Mean, median and standard deviation (N,) float64 of the distances of each neuron's members.

    distance (n,) float32; start (N + 1,) and rows (M,) as `fill_members` leaves them. Neurons without members keep
    what is there.
    """
    for n in range(start.size - 1):
        members = rows[start[n] : start[n + 1]]
        if members.size == 0:
            continue
        values = np.empty(members.size, np.float64)
        total = 0.0
        for i in range(members.size):
            values[i] = distance[members[i]]
            total += values[i]
        centre, squares = total / members.size, 0.0
        for value in values:
            squares += (value - centre) ** 2
        mean[n], std[n], median[n] = centre, np.sqrt(squares / members.size), np.median(values)


@njit(**_OPTIONS)
def profile_distances(distance, profile, usable, normalised, out):
    """Euclidean distances (B,) float64 between the rows of ``distance`` (B, N) and ``profile`` (N,) float64.

    Over the neurons ``usable`` (N,) bool. normalised: each row is divided by its length first, as the profile was.
    Rows that are not finite get NaN.
    """
    for b in range(distance.shape[0]):
        scale = 1.0
        if normalised:
            squares = 0.0
            for n in range(profile.size):
                if usable[n]:
                    squares += np.float64(distance[b, n]) ** 2
            scale = np.sqrt(squares)
        total = 0.0
        for n in range(profile.size):
            if usable[n]:
                total += (distance[b, n] / scale - profile[n]) ** 2
        out[b] = np.sqrt(total) if total < np.inf else np.nan

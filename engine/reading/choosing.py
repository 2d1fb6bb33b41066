"""Choosing: neurons that stand for a map, and rows of a catalogue that make a good training sample.

Every choice is keyed by a seed and, for rows, by the number of the row: it depends neither on the order nor on the
parts in which rows are given.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Lattice

ATTEMPTS = 100
"""Orders in which `spaced_neurons` tries the neurons."""
ARCSEC = np.pi / (180 * 3600)
"""An arcsecond in radians."""


def kmeans_neurons(lattice: Lattice, count: int, *, hits: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """``count`` different neurons (count,) int64, ascending, that stand for regions of the map.

    The places of the neurons on the plane of the map (cells of a hexagonal map at their centres) are put into
    ``count`` clusters by k-means (scikit-learn, the best of ten starts), and each centroid is given a neuron of its
    own, so that the sum of the squared distances from centroid to neuron is the least there is. A periodic map is cut
    open at its edges.

    hits : (N,), how much each neuron weighs, e.g. its sources; those of weight 0 are left out. Default all the same.

    Raises ReadingError where hits are not N finite numbers from 0 up, or fewer than ``count`` neurons weigh anything.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    weight = np.ones(lattice.size) if hits is None else np.asarray(hits, np.float64)
    if weight.shape != (lattice.size,) or not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ReadingError(
            f"hits have shape {weight.shape}; give {lattice.size} finite numbers from 0 up, one a neuron of the map"
        )
    counted = np.flatnonzero(weight > 0)
    if not 1 <= count <= len(counted):
        raise ReadingError(f"{count} neurons are wanted of {len(counted)} that have hits; take 1 to {len(counted)}")
    places = _plane(lattice)[counted]
    with threadpool_limits(1):  # sums of several threads would be rounded in any order
        found = KMeans(count, n_init=10, random_state=seed).fit(places, sample_weight=weight[counted])
    squared = ((found.cluster_centers_[:, None, :] - places[None, :, :]) ** 2).sum(axis=2)
    return np.sort(counted[linear_sum_assignment(squared)[1]])


def spaced_neurons(lattice: Lattice, count: int, *, minimum_distance: float = 2.0, seed: int = 0) -> np.ndarray:
    """``count`` neurons (count,) int64, ascending, at random, at least ``minimum_distance`` lattice steps apart.

    Distances are those of the lattice, round the edges of a periodic one. Neurons are taken in random order wherever
    they keep the distance, in up to 100 orders. Raises ReadingError, saying how many fitted, where all end early.
    """
    distances, best = lattice.distances(), np.zeros(0, np.int64)
    if not 1 <= count <= lattice.size:
        raise ReadingError(f"{count} neurons are wanted of a map of {lattice.size}; take 1 to {lattice.size}")
    rng = np.random.default_rng(seed)
    for _ in range(ATTEMPTS):
        free, taken = np.ones(lattice.size, bool), []
        for neuron in rng.permutation(lattice.size).tolist():
            if free[neuron]:
                taken.append(neuron)
                free &= distances[neuron] >= minimum_distance
                free[neuron] = False
            if len(taken) == count:
                return np.sort(np.array(taken, np.int64))
        best = max(best, np.array(taken), key=len)
    raise ReadingError(
        f"of the {count} neurons wanted only {len(best)} were found that are {minimum_distance:g} lattice steps apart "
        f"on a map of {lattice.size}, in {ATTEMPTS} random orders; take fewer, or a smaller distance"
    )


def _plane(lattice: Lattice) -> np.ndarray:
    """(N, 3) float64 places of the neurons; those of a hexagonal map in Cartesian axes, a step apart."""
    places = lattice.positions().astype(np.float64)
    if lattice.kind == "hexagonal":
        row, column = places[:, 0].copy(), places[:, 1].copy()
        places[:, 0], places[:, 1] = row * np.sqrt(0.75), column + row / 2
    return places


# --- rows -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strata:
    """What rows are balanced over: ``code`` (n,) int64 of each row, -1 for none, and a name for every code."""

    code: np.ndarray
    names: tuple[str, ...]

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each stratum (S,) int64."""
        return np.bincount(self.code[self.code >= 0], minlength=len(self.names))

    def among(self, rows: np.ndarray) -> "Strata":
        """The same strata where only ``rows`` (n,) bool are in any."""
        return Strata(np.where(rows, self.code, -1), self.names)


def value_strata(values: Any) -> Strata:
    """A stratum for every value of ``values`` (n,), ascending; missing ones (None, NaN, pandas.NA) are in none.

    An array, or a column of pandas, whose type is kept.
    """
    import pandas as pd

    code, unique = pd.factorize(pd.Series(values), sort=True)
    return Strata(code.astype(np.int64), tuple(str(value) for value in unique))


def quantile_strata(values: np.ndarray, quantiles: int) -> Strata:
    """``quantiles`` strata of about equally many of the numbers ``values`` (n,) float; NaN and infinities in none.

    Equal numbers are in one stratum, so that there may be fewer. Raises ReadingError for fewer than two quantiles, or
    where no value is finite.
    """
    numbers = np.asarray(values, np.float64)
    finite = np.isfinite(numbers)
    if quantiles < 2 or not finite.any():
        raise ReadingError(
            f"{quantiles} quantiles are wanted of {np.count_nonzero(finite)} finite values; take 2 or more quantiles "
            "of a column of numbers"
        )
    quantiles = min(quantiles, max(int(np.count_nonzero(finite)), 2))  # of more, all are values of these
    inner = np.quantile(numbers[finite], np.arange(1, quantiles) / quantiles, method="higher")  # values that there are
    low, high = numbers[finite].min(), numbers[finite].max()
    edges = np.unique(inner[inner > low])
    code = np.where(finite, np.searchsorted(edges, numbers, side="right"), -1)
    bounds = [low, *edges.tolist()]
    names = [f"{a:.6g} to <{b:.6g}" for a, b in pairwise(bounds)]
    return Strata(code.astype(np.int64), (*names, f"{bounds[-1]:.6g} to {high:.6g}"))


def quotas(
    sizes: np.ndarray, *, each: int | None = None, total: int | None = None, proportional: bool = False
) -> np.ndarray:
    """How many rows of each stratum (S,) int64, never more than its size in ``sizes`` (S,) int64.

    Parameters
    ----------
    each : so many of every stratum, or
    total : so many in all: of every stratum the same number, where smaller ones are used up larger ones make good for
        them; with ``proportional`` by size (the largest remainders round up). What is left over by rounding goes to
        the first strata.

    Raises ReadingError unless one of the two is given, and is at least 1.
    """
    sizes = np.asarray(sizes, np.int64)
    if (each is None) == (total is None) or (each or total or 0) < 1 or (proportional and total is None):
        raise ReadingError(
            f"a sample of {each} of each stratum, {total} in all, proportional {proportional}: give one of the two "
            "numbers, at least 1; a proportional sample has a number in all"
        )
    if each is not None:
        return np.minimum(sizes, each)
    wanted = min(int(total or 0), int(sizes.sum()))
    if proportional:
        shares = wanted * sizes.astype(object)  # whole numbers without a bound
        whole = np.array([int(share // max(sizes.sum(), 1)) for share in shares], np.int64)
        rest = np.array([int(share % max(sizes.sum(), 1)) for share in shares], np.int64)
        whole[np.argsort(-rest, kind="stable")[: wanted - int(whole.sum())]] += 1
        return whole
    ordered = np.sort(sizes)
    below = np.concatenate([[0], np.cumsum(ordered)])  # rows of the strata that are used up
    # The level of the strata that are not, from the first one that may be.
    levels = [(wanted - int(below[i])) // (len(ordered) - i) for i in range(len(ordered))]
    level = next(
        (value for value, size in zip(levels, ordered, strict=True) if value < size), int(sizes.max(initial=0))
    )
    found = np.minimum(sizes, level)
    found[np.flatnonzero(sizes > level)[: wanted - int(found.sum())]] += 1
    return found


def chosen_rows(strata: Strata, quota: np.ndarray, *, seed: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Which rows (n,) bool: of each stratum ``quota`` (S,) at random.

    rows : (n,) int64 numbers of the rows, default 0..n-1. Row i has the i-th random number of ``seed``, and those of a
        stratum with the smallest are taken: a row's number, and not its place in the arrays, decides.
    """
    rows = np.arange(len(strata.code)) if rows is None else np.asarray(rows, np.int64)
    key = np.random.default_rng([seed, 6]).random(int(rows.max(initial=-1)) + 1)[rows]
    order = np.lexsort((rows, key, strata.code))
    order = order[strata.code[order] >= 0]
    sizes = strata.sizes
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(len(rows), bool)
    chosen[order[rank < np.asarray(quota)[strata.code[order]]]] = True
    return chosen


# --- the sky ----------------------------------------------------------------------------------------


def neighbour_counts(
    ra_deg: np.ndarray, dec_deg: np.ndarray, radius_arcsec: float, *, threads: int = 1, at_once: int = 100_000
) -> np.ndarray:
    """How many other sources (n,) int64 lie within ``radius_arcsec`` (inclusive) of each; -1 without a position.

    ra_deg, dec_deg : (n,) float64 degrees, NaN where unknown; such sources count for no other.

    By a k-d tree of directions, in which a radius r is a chord of 2 sin(r / 2): true on the whole sphere, at the poles
    and across right ascension 0. Raises ReadingError for a radius that is not above 0 and at most half a circle.
    """
    from scipy.spatial import KDTree

    if not 0 < radius_arcsec <= 180 * 3600:
        raise ReadingError(f"the radius is {radius_arcsec} arcsec; give one above 0 and at most {180 * 3600}")
    ra, dec = np.radians(np.asarray(ra_deg, np.float64)), np.radians(np.asarray(dec_deg, np.float64))
    known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    counts = np.full(len(ra), -1, np.int64)
    if not len(known):
        return counts
    ra, dec = ra[known], dec[known]
    directions = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    tree, chord = KDTree(directions), 2 * np.sin(radius_arcsec * ARCSEC / 2)
    for first in range(0, len(known), at_once):
        some = slice(first, first + at_once)
        counts[known[some]] = tree.query_ball_point(directions[some], chord, workers=threads, return_length=True) - 1
    return counts

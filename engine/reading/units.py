"""Best units of mapped images, the members of neurons, and the worst matches.

Everything here works on blocks of rows as on a whole: rows are independent, and what is kept while blocks stream by
(`Extremes`) is of a fixed size. A block of distances is (B, N), all neurons in the order of the lattice, or (B, K)
with the neurons of each row beside it, as a mapping of the best K holds them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skysom.engine.errors import ReadingError


def best_units(
    distance: np.ndarray, count: int = 1, *, neuron: np.ndarray | None = None, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` nearest neurons of every row and their distances, nearest first.

    Parameters
    ----------
    distance : (B, N) distances to all neurons, or (B, K) to those in ``neuron``; read as float32.
    neuron : (B, K) integers, -1 for none; None where the columns are the neurons themselves.
    excluded : (N,) bool, neurons that no row may have: infinitely far. See `excluded_mask`.

    Returns
    -------
    neuron (B, count) int64 and distance (B, count) float32. Of equal distances the lowest neuron comes first. Where a
    row has no (further) neuron, because it was not mapped (NaN) or because of ``excluded``, they are -1 and NaN.

    Raises
    ------
    ReadingError : shapes that do not fit together, a count below 1, a neuron beyond the mask.
    """
    if count < 1:
        raise ReadingError(f"{count} best neurons were asked for; ask for 1 or more")
    distance = np.ascontiguousarray(distance, np.float32)
    if distance.ndim != 2:
        raise ReadingError(f"distances have shape {distance.shape}; give (rows, neurons)")
    best = np.full((len(distance), count), -1, np.int64)
    best_distance = np.full((len(distance), count), np.nan, np.float32)
    if neuron is None:
        from skysom.engine.reading.unit_kernels import best_of_all

        best_of_all(distance, _usable(excluded, distance.shape[1]), best, best_distance)
        return best, best_distance
    from skysom.engine.reading.unit_kernels import best_of_kept

    neuron = np.ascontiguousarray(neuron, np.int32)
    if neuron.shape != distance.shape:
        raise ReadingError(f"distances have shape {distance.shape}, their neurons {neuron.shape}; give two of a kind")
    highest = int(neuron.max(initial=-1)) + 1
    if excluded is not None and highest > len(excluded):
        raise ReadingError(f"a row has neuron {highest - 1}, the mask is of {len(excluded)}; give the mask of this map")
    usable = np.ones(highest, bool) if excluded is None else _usable(excluded, len(excluded))
    best_of_kept(distance, neuron, usable, best, best_distance)
    return best, best_distance


def nth_best(
    distance: np.ndarray, rank: int, *, neuron: np.ndarray | None = None, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Neuron (B,) int64 and distance (B,) float32 of one rank: 0 is the best-matching unit, 1 the second best.

    Arguments, missing values and errors as of `best_units`.
    """
    if rank < 0:
        raise ReadingError(f"rank {rank} was asked for; ranks count from 0, the best-matching unit")
    best, best_distance = best_units(distance, rank + 1, neuron=neuron, excluded=excluded)
    return best[:, rank], best_distance[:, rank]


def excluded_mask(neurons: int, excluded: Sequence[int] | np.ndarray | None) -> np.ndarray | None:
    """(N,) bool, True for neurons left out: from such a mask, or from neuron numbers; None where none is.

    Raises
    ------
    ReadingError : a mask of another size, a neuron the map has not, or nothing left.
    """
    if excluded is None or len(excluded) == 0:
        return None
    given = np.asarray(excluded)
    if given.dtype == bool:
        mask = given
        if mask.shape != (neurons,):
            raise ReadingError(f"the mask of neurons has shape {mask.shape}; this map needs ({neurons},)")
    else:
        if given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= neurons:
            raise ReadingError(f"neurons {given.tolist()} are to be left out; this map has 0 to {neurons - 1}")
        mask = np.zeros(neurons, bool)
        mask[given] = True
    if mask.all():
        raise ReadingError(f"all {neurons} neurons are left out; leave some of them in")
    return mask if mask.any() else None


def keep_best(distance: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What a mapping of the best ``count`` neurons stores of distances (B, N): neuron (B, count) int32, distance.

    Raises ReadingError where more are to be kept than there are. `best_units` reads both forms alike.
    """
    if count > distance.shape[1]:
        raise ReadingError(f"{count} neurons an image are to be kept of {distance.shape[1]}; keep fewer")
    neuron, kept = best_units(distance, count)
    return neuron.astype(np.int32), kept


def spread_kept(distance: np.ndarray, neuron: np.ndarray, neurons: int, missing: float = np.inf) -> np.ndarray:
    """Distances (B, N) float32 from the kept ones (B, K); ``missing`` where a neuron was not kept.

    Rows that were not mapped are NaN throughout. ReadingError for a neuron the map has not.
    """
    if neuron.shape != distance.shape or neuron.max(initial=-1) >= neurons:
        raise ReadingError(
            f"kept neurons {neuron.shape} reach {neuron.max(initial=-1)}, distances are {distance.shape} and the map "
            f"has {neurons} neurons; give the arrays of one mapping"
        )
    spread = np.full((len(distance), neurons), missing, np.float32)
    rows, ranks = np.nonzero(neuron >= 0)
    spread[rows, neuron[rows, ranks]] = distance[rows, ranks]
    spread[(neuron < 0).all(axis=1)] = np.nan
    return spread


def hit_counts(bmu: np.ndarray, neurons: int) -> np.ndarray:
    """(N,) int64, how many rows have each neuron as their best; -1 counts for none.

    Counts of blocks add up. ReadingError for a neuron the map has not.
    """
    bmu = _checked(bmu, neurons)
    return np.bincount(bmu[bmu >= 0], minlength=neurons)


@dataclass(frozen=True)
class Members:
    """Rows of every neuron, ascending: those of neuron n are ``rows[start[n]:start[n + 1]]``.

    start (N + 1,) int64, rows (M,) int64; rows without a neuron are not among them.
    """

    start: np.ndarray
    rows: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """(N,) int64 members of each neuron."""
        return np.diff(self.start)

    def of(self, neuron: int) -> np.ndarray:
        """Rows (n,) int64 of one neuron, ascending; ReadingError for one the map has not."""
        check_neuron(neuron, len(self.start) - 1)
        return self.rows[self.start[neuron] : self.start[neuron + 1]]


def members(bmu: np.ndarray, neurons: int) -> Members:
    """Members of all neurons from the best unit (n,) of every row, by a counting sort; -1 is no neuron.

    ReadingError for a neuron the map has not.
    """
    from skysom.engine.reading.unit_kernels import fill_members

    bmu = np.ascontiguousarray(_checked(bmu, neurons))
    start = np.concatenate([[0], np.cumsum(np.bincount(bmu[bmu >= 0], minlength=neurons))])
    rows = np.empty(start[-1], np.int64)
    fill_members(bmu, start, rows)
    return Members(start, rows)


class Extremes:
    """The ``count`` rows of the smallest (or largest) values while blocks stream by; of equal values the lowest rows.

    Memory is that of one block and of the rows kept; the order of blocks does not matter.
    """

    def __init__(self, count: int, *, largest: bool = False) -> None:
        if count < 1:
            raise ReadingError(f"{count} rows are to be kept; keep 1 or more")
        self.count, self._sign = count, -1.0 if largest else 1.0
        self._rows, self._keys = np.empty(0, np.int64), np.empty(0)

    def update(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Offer ``rows`` (n,) with ``values`` (n,); NaN values are passed over."""
        keys = self._sign * np.asarray(values, np.float64)
        limit = self._keys[-1] if len(self._keys) == self.count else np.inf
        offered = np.flatnonzero(keys <= limit)
        if len(offered) > self.count:
            own = keys[offered]
            offered = offered[own <= np.partition(own, self.count - 1)[self.count - 1]]
        row = np.concatenate([self._rows, np.asarray(rows, np.int64)[offered]])
        key = np.concatenate([self._keys, keys[offered]])
        order = np.lexsort((row, key))[: self.count]
        self._rows, self._keys = row[order], key[order]

    @property
    def rows(self) -> np.ndarray:
        """(n,) int64 rows, the most extreme first; fewer than ``count`` where not so many were offered."""
        return self._rows

    @property
    def values(self) -> np.ndarray:
        """(n,) float64 values of ``rows``."""
        return self._sign * self._keys


def worst_rows(
    bmu_distance: np.ndarray,
    *,
    count: int | None = None,
    fraction: float | None = None,
    bmu: np.ndarray | None = None,
    neuron: int | None = None,
) -> np.ndarray:
    """Rows that lie farthest from their best unit, farthest first; always numbers of rows of the whole.

    Parameters
    ----------
    bmu_distance : (n,) distance of every row; NaN rows are left out.
    count, fraction : how many, or which share (rounded down, at least one row); all where neither is given. The
        share is one of the rows considered: with ``neuron`` of its members, where pyink takes it of all images.
    bmu, neuron : of one neuron only: the best unit (n,) of every row, and which.

    Raises
    ------
    ReadingError : both count and fraction, one out of its range, or a neuron without the best units.
    """
    distance = np.asarray(bmu_distance)
    considered = np.isfinite(distance)
    if neuron is not None:
        if bmu is None or len(bmu) != len(distance):
            raise ReadingError(f"the worst rows of neuron {neuron} were asked for; give the best units of all rows")
        considered &= np.asarray(bmu) == neuron
    rows = np.flatnonzero(considered)
    wanted = rows_wanted(len(rows), count, fraction)
    if not wanted:
        return np.empty(0, np.int64)
    kept = Extremes(wanted, largest=True)
    kept.update(rows, distance[rows])
    return kept.rows


def rows_wanted(available: int, count: int | None = None, fraction: float | None = None) -> int:
    """How many of ``available`` rows a count or a share asks for; all where neither is given.

    A share is rounded down, to one row at least. ReadingError for both, or one out of its range.
    """
    if count is not None and fraction is not None:
        raise ReadingError(f"both a count ({count}) and a share ({fraction}) were given; give one of them")
    if count is not None:
        if count < 1:
            raise ReadingError(f"{count} rows were asked for; ask for 1 or more")
        return min(count, available)
    if fraction is None:
        return available
    if not 0 < fraction <= 1:
        raise ReadingError(f"a share of {fraction} was asked for; give one above 0 and at most 1")
    # A share as 0.29 of 100 rows is 28.999999999999996 in floating point.
    return min(max(int(fraction * available + 1e-9), 1), available)


def check_neuron(neuron: int, neurons: int) -> None:
    """ReadingError unless the map of ``neurons`` neurons has ``neuron``."""
    if not 0 <= neuron < neurons:
        raise ReadingError(f"neuron {neuron} was asked for; this map has 0 to {neurons - 1}")


def _usable(excluded: np.ndarray | None, neurons: int) -> np.ndarray:
    if excluded is None:
        return np.ones(neurons, bool)
    mask = np.asarray(excluded)
    if mask.dtype != bool or mask.shape != (neurons,):
        raise ReadingError(
            f"the mask of neurons has shape {mask.shape} and type {mask.dtype}; this map needs ({neurons},) of bool"
        )
    return ~mask


def _checked(bmu: np.ndarray, neurons: int) -> np.ndarray:
    bmu = np.asarray(bmu)
    highest = int(bmu.max(initial=-1))
    if highest >= neurons:
        raise ReadingError(f"a row has neuron {highest}, the map {neurons} neurons; give the map of this mapping")
    return bmu

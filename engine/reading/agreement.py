"""How well a map holds its sources together: neighbours, coherence, ambiguous neurons, the errors of a map.

A source is coherent where its best and its second best neuron are neighbours. On a Cartesian lattice neighbours
include the diagonals (all indices differ by at most one, as pyink counts), on a hexagonal one they are the six around;
where the lattice is periodic they reach across its edges.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Hexagonal, Lattice

CLOSE_MARGIN = 0.01
"""The second best is nearly as good as the best where it is farther by at most this share."""
AMBIGUOUS_SHARE = 0.5
"""Share of its members that are ambiguous from which a neuron is."""
FEW_MEMBERS = 10
"""Neurons with fewer members say too little about themselves."""


def neighbours(lattice: Lattice) -> np.ndarray:
    """(N, m) int64 neighbours of every neuron, ascending, -1 after the last; m is what the neuron with most has.

    Diagonals are neighbours on a Cartesian lattice. No neuron is its own neighbour, or another's twice.
    """
    position = lattice.positions()
    found = _hexagonal(lattice, position) if isinstance(lattice, Hexagonal) else _cartesian(lattice, position)
    found[found == np.arange(len(found))[:, None]] = -1
    found = np.sort(found, axis=1)
    found[:, 1:][found[:, 1:] == found[:, :-1]] = -1
    order = np.argsort(np.where(found < 0, len(found), found), axis=1, kind="stable")
    found = np.take_along_axis(found, order, axis=1)
    return found[:, : int((found >= 0).sum(axis=1).max(initial=0))]


def _cartesian(lattice: Lattice, position: np.ndarray) -> np.ndarray:
    sides = np.array([lattice.width, lattice.height, lattice.depth])
    steps = np.array([step for step in product((-1, 0, 1), repeat=3) if any(step)])
    place = position[:, None, :] + steps
    inside = ((place >= 0) & (place < sides)).all(axis=2) | lattice.periodic
    row, column, depth = np.moveaxis(place % sides, 2, 0)
    return np.where(inside, (depth * sides[0] + row) * sides[1] + column, -1)


def _hexagonal(lattice: Hexagonal, position: np.ndarray) -> np.ndarray:
    r, cells = lattice.radius, position[:, :2]
    number = np.full((lattice.width, lattice.width), -1)
    number[cells[:, 0], cells[:, 1]] = np.arange(len(cells))
    place = cells[:, None, :] + np.array([(0, 1), (0, -1), (1, 0), (-1, 0), (1, -1), (-1, 1)])
    found = _numbers(number, place)
    if not lattice.periodic:
        return found
    row, column = -r, 2 * r + 1  # from a hexagon to the next of the tiling; then to the other five
    for _ in range(6):
        found = np.maximum(found, _numbers(number, place + np.array([row, column])))
        row, column = row + column, -row
    return found


def _numbers(number: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Neuron at each place (N, m, 2), -1 where there is none."""
    row, column = np.moveaxis(np.clip(place, 0, len(number) - 1), 2, 0)
    return np.where((place == np.stack([row, column], axis=2)).all(axis=2), number[row, column], -1)


def adjacent(table: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) bool, whether neurons ``first`` (n,) and ``second`` (n,) are neighbours; False where one is -1.

    table : of `neighbours`.
    """
    first, second = np.asarray(first), np.asarray(second)
    return (table[first] == second[:, None]).any(axis=1) & (first >= 0) & (second >= 0)


@dataclass(frozen=True)
class Agreement:
    """What two best units of every source say about a map; arrays are (N,), counts int64, by best unit.

    hits : sources. decided : of these, those with a second best neuron (none where only one is kept, or too many are
    left out). coherent : decided ones whose two are neighbours. close : decided ones whose second best is farther by
    at most ``close_margin``, (d2 - d1) / d1. ambiguous : decided ones that are close or not coherent.
    distance_sum : float64, of the best distances. unmapped : rows without a best unit.
    """

    hits: np.ndarray
    decided: np.ndarray
    coherent: np.ndarray
    close: np.ndarray
    ambiguous: np.ndarray
    distance_sum: np.ndarray
    unmapped: int
    close_margin: float

    @property
    def mapped(self) -> int:
        """Rows with a best unit."""
        return int(self.hits.sum())

    @property
    def coherence(self) -> int:
        """Rows whose two best neurons are neighbours."""
        return int(self.coherent.sum())

    @property
    def quantisation_error(self) -> float:
        """Mean distance of a source to its best unit (Kohonen, Self-Organizing Maps); NaN without sources."""
        return float(self.distance_sum.sum() / self.mapped) if self.mapped else float("nan")

    @property
    def topographic_error(self) -> float:
        """Share of sources whose two best neurons are no neighbours (Kiviluoto 1996); NaN where none is decided.

        Rows without two neurons are left out.
        """
        decided = int(self.decided.sum())
        return 1 - self.coherence / decided if decided else float("nan")

    @property
    def coherent_share(self) -> np.ndarray:
        """(N,) float64 share of a neuron's decided members that are coherent; NaN without any."""
        return self.coherent / np.where(self.decided > 0, self.decided, np.nan)

    @property
    def ambiguous_share(self) -> np.ndarray:
        """(N,) float64 share of a neuron's decided members that are ambiguous; NaN without any."""
        return self.ambiguous / np.where(self.decided > 0, self.decided, np.nan)

    def ambiguous_neurons(self, share: float = AMBIGUOUS_SHARE, fewest: int = FEW_MEMBERS) -> np.ndarray:
        """Neurons (k,) int64 of which ``share`` of at least ``fewest`` decided members are ambiguous."""
        return np.flatnonzero((self.decided >= fewest) & (self.ambiguous >= share * self.decided))


class AgreementSums:
    """Adds up the `Agreement` of a map while blocks of rows stream by; memory is that of the neurons.

    Raises ReadingError for a margin that is negative.
    """

    def __init__(self, lattice: Lattice, *, close_margin: float = CLOSE_MARGIN) -> None:
        if not close_margin >= 0:
            raise ReadingError(f"the margin of a close second best is {close_margin}; give 0 or more")
        self._table, self._margin = neighbours(lattice), close_margin
        self._counts = np.zeros((5, lattice.size), np.int64)
        self._distance, self._unmapped = np.zeros(lattice.size), 0

    def update(self, neuron: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Add rows by their best units (B, >= 1) and distances, as `units.best_units` gives them.

        Returns (B,) bool, which of them are coherent.
        """
        if neuron.shape != distance.shape or neuron.max(initial=-1) >= len(self._distance):
            raise ReadingError(
                f"best units {neuron.shape} reach neuron {neuron.max(initial=-1)}, distances are {distance.shape}, the "
                f"lattice has {len(self._distance)} neurons; give the lattice of this mapping"
            )
        first, best = neuron[:, 0], distance[:, 0].astype(np.float64)
        second, other = (neuron[:, 1], distance[:, 1]) if neuron.shape[1] > 1 else (np.full_like(first, -1), best)
        mapped, decided = first >= 0, second >= 0
        coherent = adjacent(self._table, first, second)
        close = decided & (other - best <= self._margin * best)
        for total, which in zip(
            self._counts, (mapped, decided, coherent, close, decided & (close | ~coherent)), strict=True
        ):
            total += np.bincount(first[which], minlength=total.size)
        self._distance += np.bincount(first[mapped], best[mapped], minlength=len(self._distance))
        self._unmapped += int(np.count_nonzero(~mapped))
        return coherent

    def result(self) -> Agreement:
        """What the rows so far say."""
        hits, decided, coherent, close, ambiguous = self._counts.copy()
        distance = self._distance.copy()
        return Agreement(hits, decided, coherent, close, ambiguous, distance, self._unmapped, self._margin)


def agreement(
    neuron: np.ndarray, distance: np.ndarray, lattice: Lattice, *, close_margin: float = CLOSE_MARGIN
) -> Agreement:
    """The `Agreement` of rows by their two best units (n, 2) and distances (n, 2); see `AgreementSums`."""
    sums = AgreementSums(lattice, close_margin=close_margin)
    sums.update(neuron, distance)
    return sums.result()

"""Which rows of two catalogues are matched: pure functions of positions, the same for every backend.

A backend only proposes pairs, from trees of its own that are asked for a little more than the radius. One function
decides which of them are within the radius, one gives their separations, one chooses among them; so the answer does not
depend on the backend, on partitions, or on what else is in a tree.

Pairs within the radius. The chord between the two unit vectors is at most that of the radius, as in astropy's
search_around_sky.
Order. The pairs of a left row are in the order of separation, then of the right row's number.
One to one. All pairs within the radius, in the order of separation, then left row, then right row; each is taken unless
one of its rows has been taken by an earlier one. So a taken pair is the closest that both of its rows could still have,
and a left row whose nearest is taken by a closer one gets its next, or none.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from skysom.engine.collation.neighbours import neighbour_pieces, unit_vectors, within_a_turn_deg
from skysom.jobs.errors import ConfigError

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

How = Literal["nearest", "all", "one-to-one"]
HAIR = 1e-9
"""How much wider than the radius trees are asked, relative; and in arcseconds a thousandth of that absolute."""
TIE_CHORD = 1e-14
"""Chords that differ by less may be in either order: trees round otherwise than `separations_arcsec`."""
MOST_ARCSEC = 36_000.0
"""Largest radius: ten degrees."""
PIECE_PAIRS = 1_000_000
"""Proposed pairs that are decided at a time, unless a single row has more."""
Pieces = Iterable[tuple[np.ndarray, np.ndarray]]
"""Proposed pairs, (k,) int64 left and right indices each; those of a left row are all in one piece."""


@dataclass(frozen=True)
class Positions:
    """Rows of a catalogue that have a position.

    ra_deg, dec_deg : (n,) float64; right ascensions of another turn are brought into [0, 360). row : (n,) int64, the
    numbers that break ties; no two are the same.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    row: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "ra_deg", within_a_turn_deg(self.ra_deg))

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def vectors(self) -> np.ndarray:
        """Unit vectors (n, 3) float64."""
        return unit_vectors(self.ra_deg, self.dec_deg)


@dataclass(frozen=True)
class Pairs:
    """Matched rows, ordered by left index, then rank.

    left, right : (p,) int64 indices. separation_arcsec : (p,) float64. rank : (p,) int32, 1 for the nearest of the left
    row's candidates within the radius.
    """

    left: np.ndarray
    right: np.ndarray
    separation_arcsec: np.ndarray
    rank: np.ndarray

    def __len__(self) -> int:
        return len(self.left)

    def of(self, chosen: np.ndarray) -> "Pairs":
        """Those at some places, in their order."""
        return Pairs(self.left[chosen], self.right[chosen], self.separation_arcsec[chosen], self.rank[chosen])


def separations_arcsec(left: Positions, right: Positions, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Great-circle separations (p,) float64 of pairs, bit for bit those of astropy's SkyCoord.separation."""
    import astropy.units as u
    from astropy.coordinates import angular_separation

    places = (left.ra_deg[i], left.dec_deg[i], right.ra_deg[j], right.dec_deg[j])
    degrees = angular_separation(*(np.asarray(one) * u.deg for one in places)).to(u.deg)
    return np.asarray(degrees.to_value(u.arcsec))


def decided(left: Positions, right: Positions, i: np.ndarray, j: np.ndarray, radius_arcsec: float) -> Pairs:
    """Of proposed pairs those within the radius, each once, ordered by left index and ranked.

    i, j : (k,) int64 indices of left and right rows. Raises nothing: `check_radius` was asked before. Memory: 170
    bytes a proposed pair (measured).
    """
    chord = _chord(radius_arcsec)
    close = _squares(left.vectors[i], right.vectors[j]) <= chord * chord
    i, j = i[close], j[close]
    separation = separations_arcsec(left, right, i, j)
    place = np.lexsort((right.row[j], separation, i))
    i, j, separation = i[place], j[place], separation[place]
    begins = np.flatnonzero(np.diff(i, prepend=-1))
    lengths = np.diff(begins, append=len(i))
    rank = np.arange(len(i)) - np.repeat(begins, lengths) + 1
    return Pairs(i.astype(np.int64), j.astype(np.int64), separation, rank.astype(np.int32))


def nearest(pairs: Pairs) -> Pairs:
    """The first of each left row."""
    return pairs.of(np.flatnonzero(pairs.rank == 1))


def gathered(
    left: Positions, right: Positions, pieces: Pieces, radius_arcsec: float, how: How, *, not_self: bool = False
) -> Pairs:
    """`matched`, of proposed pairs: decided piece by piece.

    Memory: what `decided` takes for the largest piece, and 75 bytes a pair that is found (measured: 10 million).
    """
    found = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int32))]
    for i, j in pieces:
        if not_self:
            other = left.row[i] != right.row[j]
            i, j = i[other], j[other]
        pairs = decided(left, right, i, j, radius_arcsec)
        found.append(nearest(pairs) if how == "nearest" else pairs)
    columns = []
    for name in ("left", "right", "separation_arcsec", "rank"):
        columns.append(np.concatenate([getattr(one, name) for one in found]))
    del found
    return Pairs(*columns).of(np.argsort(columns[0], kind="stable"))


def one_to_one(separation_arcsec: np.ndarray, left_row: np.ndarray, right_row: np.ndarray) -> np.ndarray:
    """Places (k,) int64, ascending, of the pairs (p,) that are taken; see the head of this module.

    left_row, right_row : (p,) int64, row numbers of the pairs. Memory: 90 bytes a pair (measured with 2.6
    million, all contested).
    """
    left, right = np.unique(left_row, return_inverse=True)[1], np.unique(right_row, return_inverse=True)[1]
    alone = (np.bincount(left)[left] == 1) & (np.bincount(right)[right] == 1) if len(left) else np.zeros(0, bool)
    contested = np.flatnonzero(~alone)
    order = contested[np.lexsort((right_row[contested], left_row[contested], separation_arcsec[contested]))]
    left_used, right_used = bytearray(int(left.max(initial=-1)) + 1), bytearray(int(right.max(initial=-1)) + 1)
    chosen = []
    for begin in range(0, len(order), PIECE_PAIRS):  # lists take three times what arrays do
        piece = order[begin : begin + PIECE_PAIRS]
        for place, a, b in zip(piece.tolist(), left[piece].tolist(), right[piece].tolist(), strict=True):
            if not (left_used[a] or right_used[b]):
                left_used[a] = right_used[b] = 1
                chosen.append(place)
    return np.sort(np.concatenate([np.flatnonzero(alone), np.array(chosen, np.int64)]))


def check_radius(radius_arcsec: float) -> None:
    """ConfigError for a radius that is no number, negative, or of more than ten degrees."""
    if not 0 <= radius_arcsec <= MOST_ARCSEC:
        raise ConfigError(f"a radius of {radius_arcsec:g} arcsec; give 0 to {MOST_ARCSEC:g} (10 degrees)")


def wider(radius_arcsec: float) -> float:
    """What a tree is asked for, so that no pair within the radius is missed."""
    return radius_arcsec * (1 + HAIR) + HAIR / 1000


def wider_chord(radius_arcsec: float) -> float:
    """`wider` as a chord."""
    return _chord(wider(radius_arcsec))


def _chord(radius_arcsec: float) -> float:
    return 2 * math.sin(math.radians(radius_arcsec / 3600) / 2)


# --- pairs from trees on the unit sphere: the backend for partitions ------------------------------


def matched(left: Positions, right: Positions, radius_arcsec: float, how: How, *, not_self: bool = False) -> Pairs:
    """All pairs within the radius, or with "nearest" the nearest one of each left row.

    not_self : a row is not matched with the one of its own number, as both catalogues are the same. Raises nothing:
    `check_radius` was asked before. Memory: some 200 MB for a piece of proposed pairs, and 75 bytes a pair that is
    found (measured with 10 million).
    """
    if how == "nearest" and not not_self:
        pieces = _nearest_candidates(left, right, radius_arcsec)
    else:
        pieces = neighbour_pieces(left.vectors, right.vectors, wider(radius_arcsec), pairs=PIECE_PAIRS)
    return gathered(left, right, pieces, radius_arcsec, how, not_self=not_self)


def _nearest_candidates(
    left: Positions, right: Positions, radius_arcsec: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The nearest right row of each left row, and all others that rounding may have put behind it."""
    from scipy.spatial import cKDTree

    if not len(left) or not len(right):
        return
    vectors = left.vectors
    tree = cKDTree(right.vectors)
    chord, found = tree.query(vectors, k=2, distance_upper_bound=wider_chord(radius_arcsec) + TIE_CHORD)
    near = np.isfinite(chord[:, 0])
    behind = chord[:, 1] <= chord[:, 0] + TIE_CHORD
    alone, tied = np.flatnonzero(near & ~behind), np.flatnonzero(near & behind)
    yield alone, found[alone, 0].astype(np.int64)
    yield from candidates_around(tree, vectors, tied, chord[tied, 0] + TIE_CHORD)


def candidates_around(
    tree: "cKDTree", vectors: np.ndarray, rows: np.ndarray, chord: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of some rows (k,) of ``vectors`` with all of a tree that are within a chord (k,) of each, in pieces."""
    for piece in pieces_of(tree.query_ball_point(vectors[rows], chord, return_length=True)):
        lists = tree.query_ball_point(vectors[rows[piece]], chord[piece])
        yield (
            np.repeat(rows[piece], [len(one) for one in lists]),
            np.concatenate([np.asarray(one, np.int64) for one in lists]),
        )


def pieces_of(pairs: np.ndarray) -> Iterator[slice]:
    """Cuts rows into runs of at most PIECE_PAIRS pairs, or a single row; pairs : (n,) int64, those of each row."""
    ends, begin = np.cumsum(pairs), 0
    while begin < len(pairs):
        most = PIECE_PAIRS + (ends[begin - 1] if begin else 0)
        stop = max(begin + 1, int(np.searchsorted(ends, most, side="right")))
        yield slice(begin, stop)
        begin = stop


def counts_within(
    left: Positions, right: Positions, radii_arcsec: tuple[float, ...], *, not_self: bool = False
) -> np.ndarray:
    """How many right rows lie within each radius of each left row, (n, k) int64; decided as `decided` does.

    not_self : the right row of a left row's own number is not counted. Raises nothing: `check_radius` was asked before.
    Memory: 65 bytes a row of both (measured: 2 million), whatever the number of pairs.
    """
    from scipy.spatial import cKDTree

    counts = np.zeros((len(left), len(radii_arcsec)), np.int64)
    if not len(left) or not len(right):
        return counts
    vectors, others = left.vectors, right.vectors
    tree = cKDTree(others)
    mine, its = _own_rows(left, right) if not_self else (np.zeros(0, np.int64),) * 2
    for number, radius in enumerate(radii_arcsec):
        chord = _chord(radius)
        sure, most = max(chord * (1 - HAIR) - 1e-15, 0), chord * (1 + HAIR) + 1e-15
        counts[:, number] = tree.query_ball_point(vectors, sure, return_length=True)
        doubtful = np.flatnonzero(tree.query_ball_point(vectors, most, return_length=True) != counts[:, number])
        for row in doubtful.tolist():
            candidates = np.asarray(tree.query_ball_point(vectors[row], most), np.int64)
            counts[row, number] = int((_squares(vectors[row], others[candidates]) <= chord * chord).sum())
        counts[mine, number] -= _squares(vectors[mine], others[its]) <= chord * chord
    return counts


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squares of the chords (n,) between vectors."""
    return np.asarray(((one - other) ** 2).sum(axis=1))


def _own_rows(left: Positions, right: Positions) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the left rows whose number a right row has, and of that right row."""
    _, mine, its = np.intersect1d(left.row, right.row, assume_unique=True, return_indices=True)
    return mine, its

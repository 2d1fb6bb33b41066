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
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from skysom.engine.collation.neighbours import neighbour_pieces, unit_vectors
from skysom.jobs.errors import ConfigError

How = Literal["nearest", "all", "one-to-one"]
HAIR = 1e-9
"""How much wider than the radius trees are asked, relative; and in arcseconds a thousandth of that absolute."""
TIE_CHORD = 1e-14
"""Chords that differ by less may be in either order: trees round otherwise than `separations_arcsec`."""
MOST_ARCSEC = 36_000.0
"""Largest radius: ten degrees."""


@dataclass(frozen=True)
class Positions:
    """Rows of a catalogue that have a position.

    ra_deg, dec_deg : (n,) float64. row : (n,) int64, the numbers that break ties; no two are the same.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    row: np.ndarray

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
    """Of proposed pairs those within the radius, each once, ordered by left index and ranked."""
    chord = 2 * math.sin(math.radians(radius_arcsec / 3600) / 2)
    difference = left.vectors[i] - right.vectors[j]
    close = (difference**2).sum(axis=1) <= chord * chord
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


def one_to_one(separation_arcsec: np.ndarray, left_row: np.ndarray, right_row: np.ndarray) -> np.ndarray:
    """Places (k,) int64, ascending, of the pairs (p,) that are taken; see the head of this module.

    left_row, right_row : (p,) int64, row numbers of the pairs. Memory: 80 bytes a pair.
    """
    left, right = np.unique(left_row, return_inverse=True)[1], np.unique(right_row, return_inverse=True)[1]
    alone = (np.bincount(left)[left] == 1) & (np.bincount(right)[right] == 1) if len(left) else np.zeros(0, bool)
    contested = np.flatnonzero(~alone)
    order = contested[np.lexsort((right_row[contested], left_row[contested], separation_arcsec[contested]))]
    left_used, right_used = bytearray(int(left.max(initial=-1)) + 1), bytearray(int(right.max(initial=-1)) + 1)
    chosen = []
    for place, a, b in zip(order.tolist(), left[order].tolist(), right[order].tolist(), strict=True):
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


# --- pairs from trees on the unit sphere: the backend for partitions ------------------------------


def matched(left: Positions, right: Positions, radius_arcsec: float, how: How, *, not_self: bool = False) -> Pairs:
    """All pairs within the radius, or with "nearest" the nearest one of each left row.

    not_self : a row is not matched with the one of its own number, as both catalogues are the same.
    """
    if how == "nearest" and not not_self:
        return nearest(decided(left, right, *_nearest_candidates(left, right, radius_arcsec), radius_arcsec))
    pieces = list(neighbour_pieces(left.vectors, right.vectors, wider(radius_arcsec)))
    none = np.zeros(0, np.int64)
    i = np.concatenate([none, *(piece[0] for piece in pieces)])
    j = np.concatenate([none, *(piece[1] for piece in pieces)])
    if not_self:
        other = left.row[i] != right.row[j]
        i, j = i[other], j[other]
    found = decided(left, right, i, j, radius_arcsec)
    return nearest(found) if how == "nearest" else found


def _nearest_candidates(left: Positions, right: Positions, radius_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """The nearest right row of each left row, and all others that rounding may have put behind it."""
    from scipy.spatial import cKDTree

    none = np.zeros(0, np.int64)
    if not len(left) or not len(right):
        return none, none
    vectors, limit = left.vectors, 2 * math.sin(math.radians(wider(radius_arcsec) / 3600) / 2)
    tree = cKDTree(right.vectors)
    chord, found = tree.query(vectors, k=2, distance_upper_bound=limit + TIE_CHORD)
    near = np.isfinite(chord[:, 0])
    tied = np.flatnonzero(near & (chord[:, 1] <= chord[:, 0] + TIE_CHORD))
    alone = np.flatnonzero(near & ~(chord[:, 1] <= chord[:, 0] + TIE_CHORD))
    lists = tree.query_ball_point(vectors[tied], chord[tied, 0] + TIE_CHORD) if len(tied) else []
    more_i = np.repeat(tied, [len(one) for one in lists])
    more_j = np.concatenate([none, *(np.asarray(one, np.int64) for one in lists)])
    return np.concatenate([alone, more_i]), np.concatenate([found[alone, 0].astype(np.int64), more_j])


def counts_within(left: Positions, right: Positions, radii_arcsec: tuple[float, ...]) -> np.ndarray:
    """How many right rows lie within each radius of each left row, (n, k) int64; decided as `decided` does."""
    from scipy.spatial import cKDTree

    counts = np.zeros((len(left), len(radii_arcsec)), np.int64)
    if not len(left) or not len(right):
        return counts
    vectors, others = left.vectors, right.vectors
    tree = cKDTree(others)
    for number, radius in enumerate(radii_arcsec):
        chord = 2 * math.sin(math.radians(radius / 3600) / 2)
        sure, most = max(chord * (1 - HAIR) - 1e-15, 0), chord * (1 + HAIR) + 1e-15
        counts[:, number] = tree.query_ball_point(vectors, sure, return_length=True)
        doubtful = np.flatnonzero(tree.query_ball_point(vectors, most, return_length=True) != counts[:, number])
        for row in doubtful.tolist():
            candidates = np.asarray(tree.query_ball_point(vectors[row], most), np.int64)
            close = ((vectors[row] - others[candidates]) ** 2).sum(axis=1) <= chord * chord
            counts[row, number] = int(close.sum())
    return counts

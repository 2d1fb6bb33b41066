"""Who lies near whom on the sky: pairs of rows within an angle, from k-d trees on the unit sphere.

Two rows are neighbours where the square of the chord between their unit vectors is at most (2 sin(limit / 2))^2. The
trees are asked with a radius a hair larger and that one test, made of the two vectors alone, decides: so the answer
does not depend on what else is in a tree, and pairs found box by box are those found at once.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import CollationError

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

PIECE_ROWS = 65_536
"""Base rows that are searched for at a time."""
PIECE_PAIRS = 1_000_000
"""Pairs at which such a piece is halved; some 150 bytes each are in flight."""
SAMPLED_ROWS = 64
"""One row in so many is asked for its number of neighbours, to learn whether pairs have to be counted."""
HAIR = 1e-9
"""Share by which the trees search wider than asked; far more than chords are rounded."""
RADIAN_ARCSEC = 180 * 3600 / math.pi
ARCSEC_RADIAN = math.pi / 180 / 3600


def unit_vectors(ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike) -> np.ndarray:
    """Unit vectors (n, 3) float64 of positions (n,) in degrees, bit for bit those of astropy (ERFA's s2c).

    Right ascensions of another turn are brought into [0, 360), as there. A row with a coordinate that is NaN or
    infinite is NaN.

    Raises
    ------
    CollationError : arrays that are not (n,) both.
    """
    from erfa.ufunc import s2c

    ra, dec = np.asarray(ra_deg, np.float64), np.asarray(dec_deg, np.float64)
    if ra.shape != dec.shape or ra.ndim != 1:
        raise CollationError(f"positions have shapes {ra.shape} and {dec.shape}; give one ra and one dec a row")
    usable = np.isfinite(ra) & np.isfinite(dec)
    ra, dec = np.where(usable, ra, np.nan), np.where(usable, dec, np.nan)
    turned = (ra < 0) | (ra >= 360)
    if turned.any():
        ra[turned] %= 360
    return np.asarray(s2c(ra * (math.pi / 180), dec * (math.pi / 180)))


def positions_of_vectors(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension in [0, 360) and declination (n,) float64 degrees of vectors (n, 3) of any length.

    The inverse of `unit_vectors`, and the direction of a sum or a mean of its vectors. Both are 0 for a vector of
    length 0, and NaN for one that is NaN.

    Raises
    ------
    CollationError : an array that is not (n, 3).
    """
    x, y, z = np.ascontiguousarray(_checked(vectors).T)
    return within_a_turn_deg(np.degrees(np.arctan2(y, x))), np.degrees(np.arctan2(z, np.hypot(x, y)))


def within_a_turn_deg(angle_deg: np.ndarray) -> np.ndarray:
    """Angles of any turn (n,), degrees, in [0, 360): a remainder may round up to its divisor, which is 0 here."""
    found = np.asarray(angle_deg, np.float64) % 360.0
    return np.where(found == 360.0, 0.0, found)


def neighbour_pairs(base: np.ndarray, other: np.ndarray, limit_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a base row and another row at most ``limit_arcsec`` apart, as astropy's search_around_sky has them.

    A row that is in both catalogues is its own neighbour. Rows that are NaN have no neighbours.

    Parameters
    ----------
    base : (n, 3) float64 unit vectors. other : (m, 3) float64 unit vectors.
    limit_arcsec : 0 to 648,000 (half a turn).

    Returns
    -------
    (base_index, other_index) : (P,) int64 each, sorted by base, then by other.

    Raises
    ------
    CollationError : arrays that are not (n, 3), a limit out of range.
    """
    parts = list(neighbour_pieces(base, other, limit_arcsec))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if len(parts) == 1:
        return parts[0]
    return _sorted(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))


def neighbour_pieces(
    base: np.ndarray, other: np.ndarray, limit_arcsec: float, *, rows: int = PIECE_ROWS, pairs: int = PIECE_PAIRS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`neighbour_pairs` in pieces, so that memory is bounded: each base row is in one of them, each piece is sorted.

    A piece is a patch of the sky of at most ``rows`` base rows. It has at most ``pairs`` pairs, or a single row, as far
    as a sample of its rows can tell: a crowd about fewer than `SAMPLED_ROWS` of them may be missed.

    Parameters
    ----------
    base, other, limit_arcsec : as there. rows, pairs : bounds of a piece, at least 1.

    Yields
    ------
    (base_index, other_index) : (P,) int64 each, sorted by base, then by other; pieces without pairs are left out.

    Raises
    ------
    CollationError : arrays that are not (n, 3), a limit out of range; that of ``other`` at once, others with the first
        piece.
    """
    return NeighbourSearch(other).pieces(base, limit_arcsec, rows=rows, pairs=pairs)


class NeighbourSearch:
    """A catalogue in which neighbours are looked for more than once; other : (m, 3) float64 unit vectors.

    Raises
    ------
    CollationError : an array that is not (m, 3).
    """

    def __init__(self, other: np.ndarray) -> None:
        from scipy.spatial import cKDTree

        self._other, self._rows = _usable(other)
        self._tree = cKDTree(self._other, balanced_tree=False)

    def pieces(
        self, base: np.ndarray, limit_arcsec: float, *, rows: int = PIECE_ROWS, pairs: int = PIECE_PAIRS
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`neighbour_pieces` of a base (n, 3) float64 in this catalogue.

        Yields
        ------
        (base_index, other_index) : (P,) int64 each, sorted by base, then by other; pieces without pairs are left out.

        Raises
        ------
        CollationError : with the first piece: a base that is not (n, 3), a limit that is not 0 to 648,000 arcsec.
        """
        from scipy.spatial import cKDTree

        chord = _chord(limit_arcsec)
        base, base_rows = _usable(base)
        wide = chord * (1 + HAIR) + 1e-15
        waiting = [np.arange(len(base))] if len(base) and len(self._other) else []
        while waiting:
            members = waiting.pop()
            piece = cKDTree(base[members], balanced_tree=False)
            if len(members) > 1 and (len(members) > rows or self._pairs(piece, wide, pairs) > pairs):
                # Leaves of a tree lie side by side, so halves are patches too.
                waiting += np.array_split(members[piece.indices], max(2, -(-len(members) // rows)))[::-1]
                continue
            found = piece.sparse_distance_matrix(self._tree, wide, output_type="ndarray")
            if len(found):
                i, j = _within(found, base[members], self._other, chord)
                yield _sorted(base_rows[members[i]], self._rows[j])

    def _pairs(self, piece: "cKDTree", wide: float, pairs: int) -> int:
        """Pairs with a piece: counted if an estimate from a sample, spread over the sky, comes near ``pairs``."""
        sample = piece.data[piece.indices[::SAMPLED_ROWS]]
        estimate = int(self._tree.query_ball_point(sample, wide, return_length=True).sum()) * SAMPLED_ROWS
        return int(piece.count_neighbors(self._tree, wide)) if 2 * estimate > pairs else estimate


def separations_arcsec(
    base: np.ndarray, other: np.ndarray, base_index: np.ndarray, other_index: np.ndarray
) -> np.ndarray:
    """Great-circle separations (P,) float64 of pairs of unit vectors (n, 3) and (m, 3), as `angle_of_chord_arcsec`."""
    difference = other[other_index] - base[base_index]
    return angle_of_chord_arcsec(np.sqrt((difference**2).sum(axis=1)))


def angle_of_chord_arcsec(chord: np.ndarray) -> np.ndarray:
    """Angle between unit vectors a chord (P,) float64 apart, 2 arcsin(chord / 2); a chord rounded above 2 is 2."""
    return np.asarray(2 * RADIAN_ARCSEC * np.arcsin(np.minimum(np.asarray(chord, np.float64) / 2, 1)))


def _within(found: np.ndarray, base: np.ndarray, other: np.ndarray, chord: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the pairs of two trees that pass the test; the tree's own distance decides all clear cases."""
    close = found["v"] <= chord * (1 - HAIR) - 1e-15
    doubtful = found[~close]
    difference = other[doubtful["j"]] - base[doubtful["i"]]
    square = difference[:, 0] ** 2 + difference[:, 1] ** 2 + difference[:, 2] ** 2
    kept = np.concatenate([found[close], doubtful[square <= chord * chord]])
    return kept["i"], kept["j"]


def _sorted(base_index: np.ndarray, other_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P,) int64 by base, then by other."""
    shift = int(other_index.max(initial=0)).bit_length()
    key = np.sort((base_index.astype(np.int64) << shift) | other_index)
    return key >> shift, key & ((1 << shift) - 1)


def _usable(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are not NaN, and their numbers."""
    vectors = _checked(vectors)
    usable = np.isfinite(vectors).all(axis=1)
    rows = np.flatnonzero(usable)
    return (vectors if len(rows) == len(vectors) else vectors[rows]), rows


def _checked(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != 3:
        raise CollationError(f"unit vectors have shape {vectors.shape}; give (n, 3), as unit_vectors makes them")
    return vectors


def _chord(limit_arcsec: float) -> float:
    """Chord of an angle, as astropy rounds it."""
    check_limit(limit_arcsec)
    return float(2 * np.sin(0.5 * limit_arcsec * ARCSEC_RADIAN))


def check_limit(limit_arcsec: float) -> None:
    """CollationError unless a separation limit is an angle."""
    if not 0 <= limit_arcsec <= 648_000:
        raise CollationError(
            f"the separation limit is {limit_arcsec} arcsec; give 0 to 648,000 (half a turn), usually some 60"
        )

"""Size, position angle and path of groups of positions on the sky."""

from dataclasses import dataclass

import numpy as np

from skysom.engine.collation.checks import checked_starts
from skysom.engine.collation.neighbours import within_a_turn_deg
from skysom.engine.errors import CollationError


@dataclass(frozen=True)
class Shapes:
    """Shapes of G groups of n members in all; members without a position are left out of them.

    size_arcsec : (G,) float64, the largest great-circle separation of two members. first, second : (G,) int32, the
    places in their group of the first two members, row by row of the table of pairs, that are so far apart.
    position_angle_deg : (G,) float64 in [0, 360), from the first to the second, east of north at the first.
    path_arcsec : (G,) float64, the shortest path from the first to the second through all members. curvature : (G,)
    float64, path over size, at least 1. approximate : (G,) bool, the path is a short one and not surely the
    shortest. order : (n,) int32, places of the members along the path, then those of members without a position.

    With one position all numbers are 0 and both ends are that member; with two, or where the size is 0, the curvature
    is 0: undefined, not straight. With none the numbers are NaN and the ends -1.
    """

    size_arcsec: np.ndarray
    first: np.ndarray
    second: np.ndarray
    position_angle_deg: np.ndarray
    path_arcsec: np.ndarray
    curvature: np.ndarray
    approximate: np.ndarray
    order: np.ndarray


def group_shapes(ra_deg: np.ndarray, dec_deg: np.ndarray, starts: np.ndarray) -> Shapes:
    """Shapes of groups of positions, exact up to `shapes_kernels.EXACT_MEMBERS` (12) members.

    What the peer's SkyPath measures (specs/pyink.md, section 10), with its ``curliness`` named curvature. Beyond 12
    members the path is a nearest-neighbour path improved by 2-opt, and ``approximate`` says so; the size is always
    exact. Memory is 60 bytes a member of the largest group. A group of n members takes n**2 / 2 chords of some 7 ns
    where they lie on a ring, little more than sorting them otherwise, and at most a second for the path.

    Parameters
    ----------
    ra_deg, dec_deg : (n,) float64 positions, NaN where a member has none; any right ascension, poles included.
    starts : (G + 1,) int64; group g holds the members starts[g] to starts[g + 1], at least one.

    Raises
    ------
    CollationError : positions of two lengths, or starts that do not run from 0 to n.
    """
    ra, dec = np.radians(np.asarray(ra_deg, np.float64)), np.radians(np.asarray(dec_deg, np.float64))
    if ra.shape != dec.shape or ra.ndim != 1:
        raise CollationError(f"right ascensions {ra.shape}, declinations {dec.shape}; give (n,) of each")
    starts = checked_starts(starts, len(ra))
    from skysom.engine.collation.shapes_kernels import measure

    count = len(starts) - 1
    size, angle, path = np.empty(count), np.empty(count), np.empty(count)
    first, second = np.empty(count, np.int32), np.empty(count, np.int32)
    approximate, order = np.empty(count, bool), np.empty(len(ra), np.int32)
    measure(ra, dec, starts, size, first, second, angle, path, approximate, order)
    placed = np.isfinite(ra) & np.isfinite(dec)
    positions = np.diff(np.concatenate([[0], np.cumsum(placed)])[starts])
    curvature = np.where(np.isnan(size), np.nan, 0.0)
    np.divide(path, size, out=curvature, where=(positions > 2) & (size > 0))
    arcsec = np.degrees(1.0) * 3600
    turned = within_a_turn_deg(np.degrees(angle))
    return Shapes(size * arcsec, first, second, turned, path * arcsec, curvature, approximate, order)


def ranked_by_separation(
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    group_ra_deg: np.ndarray,
    group_dec_deg: np.ndarray,
    starts: np.ndarray,
    first_tie: np.ndarray,
    second_tie: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Separations from the positions of groups, and the order of each group's entries, nearest first.

    Parameters
    ----------
    ra_deg, dec_deg : (k,) float64 entries of G lists. group_ra_deg, group_dec_deg : (G,). starts : (G + 1,) int64,
        from 0 to k.
    first_tie, second_tie : (k,) integers by which entries at equal (or unknown) separations are sorted, the first one
        first; without a second one by place.

    Returns
    -------
    (k,) float64 arcsec, NaN where a position is missing, and (k,) int64 places of the entries, list by list.

    Raises
    ------
    CollationError : entries or ties of several lengths, starts that do not run from 0 to k, lists without a position.
    """
    from skysom.engine.collation.shapes_ranks import rank_by_separation

    entries = [np.ascontiguousarray(values, np.float64) for values in (ra_deg, dec_deg)]
    ties = [np.ascontiguousarray(tie, np.int64) for tie in (first_tie, first_tie if second_tie is None else second_tie)]
    lengths = [values.shape for values in (*entries, *ties)]
    if len(set(lengths)) > 1 or entries[0].ndim != 1:
        raise CollationError(f"right ascensions, declinations and ties of entries are {lengths}; give (k,) of each")
    starts = checked_starts(starts, len(entries[0]))
    middles = [np.ascontiguousarray(values, np.float64) for values in (group_ra_deg, group_dec_deg)]
    if not middles[0].shape == middles[1].shape == (len(starts) - 1,):
        raise CollationError(
            f"positions {middles[0].shape} and {middles[1].shape} are given for {len(starts) - 1} groups; give one each"
        )
    distance, order = np.empty(len(entries[0])), np.empty(len(entries[0]), np.int64)
    rank_by_separation(*map(np.radians, (*entries, *middles)), starts, *ties, distance, order)
    return np.degrees(distance) * 3600, order

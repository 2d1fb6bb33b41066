"""Matching of catalogues that fit in memory: astropy proposes the pairs."""

from typing import Any

import numpy as np

from skysom.jobs.joins.pairs import TIE_CHORD, How, Pairs, Positions, decided, nearest, wider

PIECE_ROWS = 100_000
"""Left rows that are searched for at a time, with radii of some arcminutes."""
TIE_ARCSEC = TIE_CHORD * 206_265


def matched_by_astropy(
    left: Positions, right: Positions, radius_arcsec: float, how: How, *, not_self: bool = False
) -> Pairs:
    """What `pairs.matched` gives."""
    if how == "nearest" and not not_self and len(left) and len(right):
        return nearest(decided(left, right, *_nearest_candidates(left, right, radius_arcsec), radius_arcsec))
    i, j = _all_candidates(left, right, radius_arcsec)
    if not_self:
        other = left.row[i] != right.row[j]
        i, j = i[other], j[other]
    found = decided(left, right, i, j, radius_arcsec)
    return nearest(found) if how == "nearest" else found


def _all_candidates(left: Positions, right: Positions, radius_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    import astropy.units as u
    from astropy.coordinates import search_around_sky

    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    others = _sky(right)
    for start in range(0, len(left) if len(right) else 0, PIECE_ROWS):
        piece = slice(start, start + PIECE_ROWS)
        i, j, _, _ = search_around_sky(_sky(left, piece), others, wider(radius_arcsec) * u.arcsec)
        found.append((i + start, j))
    return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])


def _nearest_candidates(left: Positions, right: Positions, radius_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """The nearest right row of each left row within the radius, and all others that rounding may have put behind it."""
    from astropy.coordinates import match_coordinates_sky

    mine, others = _sky(left), _sky(right)
    first, separation, _ = match_coordinates_sky(mine, others, 1)
    near = separation.arcsec <= wider(radius_arcsec)
    tied = np.zeros(len(left), bool)
    if len(right) > 1:
        _, second, _ = match_coordinates_sky(mine, others, 2)
        tied = near & (second.arcsec - separation.arcsec <= 4 * TIE_ARCSEC)
    alone, several = np.flatnonzero(near & ~tied), np.flatnonzero(tied)
    few = Positions(left.ra_deg[several], left.dec_deg[several], left.row[several])
    i, j = _all_candidates(few, right, float(separation.arcsec[several].max(initial=0)) + 4 * TIE_ARCSEC)
    return np.concatenate([alone, several[i]]), np.concatenate([np.asarray(first, np.int64)[alone], j])


def _sky(positions: Positions, piece: slice = slice(None)) -> Any:
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    return SkyCoord(positions.ra_deg[piece] * u.deg, positions.dec_deg[piece] * u.deg)

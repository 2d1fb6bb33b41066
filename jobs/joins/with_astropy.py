"""Matching of catalogues that fit in memory: astropy proposes the pairs."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from skysom.jobs.joins.pairs import (
    TIE_CHORD,
    How,
    Pairs,
    Positions,
    candidates_around,
    gathered,
    pieces_of,
    wider,
    wider_chord,
)

TIE_ARCSEC = TIE_CHORD * 206_265


def matched_by_astropy(
    left: Positions, right: Positions, radius_arcsec: float, how: How, *, not_self: bool = False
) -> Pairs:
    """What `pairs.matched` gives; arguments and memory as there."""
    candidates = _nearest_candidates if how == "nearest" and not not_self else _all_candidates
    pieces = candidates(left, right, radius_arcsec) if len(left) and len(right) else ()
    return gathered(left, right, pieces, radius_arcsec, how, not_self=not_self)


def _all_candidates(left: Positions, right: Positions, radius_arcsec: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs, in pieces; a tree counts them first, as search_around_sky takes some 200 bytes a pair."""
    import astropy.units as u
    from astropy.coordinates import search_around_sky
    from scipy.spatial import cKDTree

    counts = cKDTree(right.vectors).query_ball_point(left.vectors, wider_chord(radius_arcsec), return_length=True)
    others = _sky(right)
    for piece in pieces_of(counts + 1):  # a row takes memory, too
        i, j, _, _ = search_around_sky(_sky(left, piece), others, wider(radius_arcsec) * u.arcsec)
        yield i + piece.start, j


def _nearest_candidates(
    left: Positions, right: Positions, radius_arcsec: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The nearest right row of each left row within the radius, and all others that rounding may have put behind it."""
    from astropy.coordinates import match_coordinates_sky
    from scipy.spatial import cKDTree

    mine, others = _sky(left), _sky(right)
    first, separation, _ = match_coordinates_sky(mine, others, 1)
    near = separation.arcsec <= wider(radius_arcsec)
    behind = np.zeros(len(left), bool)
    if len(right) > 1:
        _, second, _ = match_coordinates_sky(mine, others, 2)
        behind = second.arcsec - separation.arcsec <= 4 * TIE_ARCSEC
    alone, tied = np.flatnonzero(near & ~behind), np.flatnonzero(near & behind)
    yield alone, np.asarray(first, np.int64)[alone]
    if len(tied):
        chord = np.linalg.norm(left.vectors[tied] - right.vectors[first[tied]], axis=1)
        yield from candidates_around(cKDTree(right.vectors), left.vectors, tied, chord + 4 * TIE_CHORD)


def _sky(positions: Positions, piece: slice = slice(None)) -> Any:
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    return SkyCoord(positions.ra_deg[piece] * u.deg, positions.dec_deg[piece] * u.deg)

"""Columns of sources as arrays: positions, names, best components, sums, linear sizes."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skysom.engine.collation.neighbours import positions_of_vectors, within_a_turn_deg
from skysom.engine.errors import CollationError

LARGEST_REDSHIFT = 1000.0
_KNOTS = 4000
_ROUNDING = 1e-6
"""Part of the last digit of a name by which a position may lie below it for its rounding alone."""
_NAME = len("JHHMMSS.s+DDMMSS")
_LARGEST_OFFSET = 2**31 - 1
"""Bytes of text that one Arrow array of strings holds."""


@dataclass(frozen=True)
class Positions:
    """Positions of G sources: ra_deg in [0, 360) and dec_deg (G,) float64, NaN where no member has one; weighted (G,)
    bool, by flux."""

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    weighted: np.ndarray


def positions(
    ra_deg: np.ndarray, dec_deg: np.ndarray, flux: np.ndarray | None, group: np.ndarray, starts: np.ndarray
) -> Positions:
    """Direction of the sum of the members' unit vectors, weighted by flux where all members have a positive one.

    A member whose flux is missing, zero or negative makes its source's position the plain mean. Members without a
    position do not count; the position of a single one is taken as it is, and so is the first where the vectors
    cancel.

    Parameters
    ----------
    ra_deg, dec_deg, flux : (n,) of the members. group : (n,) int64 source of each. starts : (G + 1,) of their members.
    """
    count = len(starts) - 1
    placed = np.isfinite(ra_deg) & np.isfinite(dec_deg)
    weighted = np.zeros(count, bool)
    weight = placed.astype(np.float64)
    if flux is not None:
        with np.errstate(invalid="ignore"):
            unusable = placed & ~(np.isfinite(flux) & (flux > 0))
        weighted = np.bincount(group[unusable], minlength=count) == 0
        weighted &= np.bincount(group[placed], minlength=count) > 0
        weight = np.where(placed & weighted[group], flux, weight)
        scale = _largest(weight, starts)
        weight = weight / np.where(scale > 0, scale, 1.0)[group]  # sums of order 1, whatever the unit
    ra, dec = np.radians(np.where(placed, ra_deg, 0.0)), np.radians(np.where(placed, dec_deg, 0.0))
    x, y, z = (
        np.bincount(group, weights=weight * part, minlength=count)
        for part in (np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec))
    )
    found_ra, found_dec = positions_of_vectors(np.column_stack([x, y, z]))
    many, first = np.bincount(group[placed], minlength=count), _first(placed, group, count)
    taken = (many == 1) | ((many > 1) & (x * x + y * y + z * z < 1e-20))
    found_ra[taken], found_dec[taken] = within_a_turn_deg(ra_deg[first[taken]]), dec_deg[first[taken]]
    found_ra[many == 0] = found_dec[many == 0] = np.nan
    return Positions(found_ra, found_dec, weighted)


def best_members(
    flux: np.ndarray | None, rows: np.ndarray, representative: np.ndarray, group: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Place (G,) int64 among the members (n,) of each source's best component.

    That of largest flux, of equal ones the first; where no member has a flux that of the source whose mask was used
    (``representative`` (G,), a row), if it is a member, else the first.
    """
    best = starts[:-1].astype(np.int64)
    own = np.flatnonzero(rows == representative[group])
    best[group[own]] = own
    if flux is not None:
        known = np.where(np.isfinite(flux), flux, -np.inf)
        top = np.flatnonzero((known == _largest(known, starts)[group]) & np.isfinite(flux))
        best[group[top][::-1]] = top[::-1]
    return best


def sums(values: np.ndarray, group: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums (G,) float64 of the finite values, NaN where there are none, and how many there are, (G,) int32."""
    finite = np.isfinite(values)
    many = np.bincount(group[finite], minlength=count)
    total = np.bincount(group[finite], weights=values[finite], minlength=count)
    return np.where(many > 0, total, np.nan), many.astype(np.int32)


def names(ra_deg: np.ndarray, dec_deg: np.ndarray, prefix: str = "") -> pa.Array:
    """Names (G,) such as J123456.7-012345, null where there is no position.

    Digits are cut off, not rounded, as the IAU asks of designations (cdsweb.u-strasbg.fr/Dic/iau-spec.html); what a
    float64 of degrees cannot tell from a full digit counts as one. The sign is that of the declination, also where
    all its digits are 0.

    Raises
    ------
    CollationError : more names than one array of strings holds, 2**31 bytes.
    """
    width = len(prefix.encode()) + _NAME
    if len(ra_deg) * width > _LARGEST_OFFSET:
        raise CollationError(
            f"{len(ra_deg):,} names of {width} bytes are more than one array holds, {_LARGEST_OFFSET:,} bytes; make "
            "the table in parts, or shorten the prefix"
        )
    ra, dec = np.nan_to_num(np.asarray(ra_deg, np.float64)), np.nan_to_num(np.asarray(dec_deg, np.float64))
    tenths = np.floor((ra % 360.0) * 2400 + _ROUNDING).astype(np.int64) % 864_000
    seconds = np.minimum(np.floor(np.abs(dec) * 3600 + _ROUNDING).astype(np.int64), 324_000)
    text = np.empty((len(ra), width), np.uint8)
    text[:, :-_NAME] = np.array(list(prefix.encode()), np.uint8)
    body = text[:, -_NAME:]
    body[:, 0], body[:, 7] = ord("J"), ord(".")
    body[:, 9] = np.where(dec < 0, ord("-"), ord("+"))
    hours, rest = np.divmod(tenths, 36_000)
    minutes, rest = np.divmod(rest, 600)
    degrees, arcsec = np.divmod(seconds, 3600)
    for at, value in ((1, hours), (3, minutes), (5, rest // 10), (10, degrees), (12, arcsec // 60), (14, arcsec % 60)):
        body[:, at], body[:, at + 1] = ord("0") + value // 10, ord("0") + value % 10
    body[:, 8] = ord("0") + rest % 10
    offsets = np.arange(len(ra) + 1, dtype=np.int32) * np.int32(width)
    missing = ~(np.isfinite(ra_deg) & np.isfinite(dec_deg))
    array = pa.StringArray.from_buffers(len(ra), pa.py_buffer(offsets), pa.py_buffer(text.tobytes()))
    return array if not missing.any() else pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), array)


def sizes_kpc(size_arcsec: np.ndarray, redshift: np.ndarray) -> np.ndarray:
    """Linear sizes (G,) float64 in proper kpc, NaN where a redshift is missing, negative or beyond 1000.

    astropy's Planck18 (Planck Collaboration 2020, table 2), its comoving distance interpolated to 1e-9.
    """
    with np.errstate(invalid="ignore"):
        good = (redshift >= 0) & (redshift <= LARGEST_REDSHIFT)
    z = np.where(good, redshift, 0.0)
    kpc = _distance_over_log()(np.log1p(z)) * np.log1p(z) / (1 + z) * 1000
    return np.where(good, np.radians(size_arcsec / 3600) * kpc, np.nan)


@lru_cache(maxsize=1)
def _distance_over_log() -> Any:
    """Comoving distance in Mpc over log(1 + z), as a spline in log(1 + z); smooth down to 0."""
    from astropy.constants import c
    from astropy.cosmology import Planck18
    from scipy.interpolate import CubicSpline

    log = np.linspace(0, np.log1p(LARGEST_REDSHIFT), _KNOTS)
    ratio = np.empty(_KNOTS)
    ratio[0] = (c / Planck18.H0).to_value("Mpc")
    ratio[1:] = Planck18.comoving_distance(np.expm1(log[1:])).value / log[1:]
    return CubicSpline(log, ratio)


def _largest(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Largest (G,) of each source's values, of which there is at least one."""
    return np.maximum.reduceat(values, starts[:-1]) if len(starts) > 1 else np.zeros(0)


def _first(chosen: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Place (G,) of the first chosen member of each source, 0 without one."""
    first, places = np.zeros(count, np.int64), np.flatnonzero(chosen)
    first[group[places][::-1]] = places[::-1]
    return first

"""Offsets of a neighbour from its source: on the sky, in the image, in the neuron, and the pixel there.

`skysom.engine.collation.projection` has the formulas together. All but cosines and sines is made of additions,
products, quotients and roots, so that compiled loops give the same numbers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from skysom.engine.collation.neighbours import RADIAN_ARCSEC, unit_vectors
from skysom.engine.errors import CollationError

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

SERIES = np.array([(-1) ** k / (2 * k + 1) for k in range(8)])
"""arctan t = t (1 - t^2 / 3 + t^4 / 5 - ...): for |t| <= 1/16 the next term is below half a unit in the last place."""
SMALL = 1 / 16
_HALVINGS = 60
"""Tangents up to 1 / 2^-53, next to the antipode, become small by so many halvings of the angle."""


def sky_offsets_arcsec(
    centre_ra_deg: npt.ArrayLike, centre_dec_deg: npt.ArrayLike, ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude (P,) float64 arcsec of positions in the sky-offset frames of their centres (P,), degrees.

    As astropy's spherical_offsets_to, to some 1e-10 arcsec; 0 exactly for a position that is its centre. NaN where a
    coordinate is, and exactly behind: at longitude 180 degrees of the offset frame, and at its poles.
    """
    return offsets_of_vectors(unit_vectors(centre_ra_deg, centre_dec_deg), unit_vectors(ra_deg, dec_deg))


def pixel_offsets(
    east_arcsec: np.ndarray, north_arcsec: np.ndarray, pixel_scale_arcsec: float | Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets x, y in pixels of an image whose columns grow to the west and rows to the north.

    pixel_scale_arcsec : arcsec a pixel, one number or (x, y). Two that differ are those along west and north, and so
        right only for images that are not turned on the sky (`Frames.seen_through` turns what was scaled).

    Raises
    ------
    CollationError : a scale that is not positive and finite.
    """
    scale_x, scale_y = scales(pixel_scale_arcsec)
    return -east_arcsec / scale_x, north_arcsec / scale_y


def pixel_offsets_of_wcs(wcs: "WCS", centre: "SkyCoord", sky: "SkyCoord") -> tuple[np.ndarray, np.ndarray]:
    """Offsets x, y (k,) float64 in pixels of positions from a centre in an image with a world coordinate system.

    For one image; the pixels are those of its own file (`bits_of_offsets` looks them up). NaN where a position is not
    in the projection.
    """
    from astropy.wcs.utils import skycoord_to_pixel

    x, y = skycoord_to_pixel(sky, wcs)
    centre_x, centre_y = skycoord_to_pixel(centre, wcs)
    return np.asarray(x - centre_x, np.float64), np.asarray(y - centre_y, np.float64)


def neuron_offsets(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    angle_rad: npt.ArrayLike,
    flip: npt.ArrayLike,
    *,
    float32_angles: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets from the centre of the neuron (P,) float64, of offsets x, y (P,) from that of the image, in pixels.

    angle_rad, flip : (P,) or one for all, of the turn of the image onto the neuron.
    float32_angles : cosine and sine are rounded to float32, as in the peer.
    """
    cosine, sine = cosine_sine(np.asarray(angle_rad, np.float32), float32_angles)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    turned = x * sine + y * cosine
    return x * cosine - y * sine, np.where(np.asarray(flip) == 1, -turned, turned)


def mask_pixel(x: npt.ArrayLike, y: npt.ArrayLike, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column (P,) int64 of offsets x, y (P,) from the centre of a neuron of ``side`` pixels, and whether inside.

    Where not inside, row and column are 0.
    """
    column, row = np.asarray(x, np.float64) + side / 2.0, np.asarray(y, np.float64) + side / 2.0
    inside = (row > -1) & (row < side) & (column > -1) & (column < side)
    return np.where(inside, row, 0).astype(np.int64), np.where(inside, column, 0).astype(np.int64), inside


# --- parts ----------------------------------------------------------------------------------------


def tangent_axes(centres: np.ndarray) -> tuple[np.ndarray, ...]:
    """East x, y and north x, y, z of the tangent planes at unit vectors (n, 3): (n,) float64 each; east has no z."""
    x, y, z = centres.T
    level = np.sqrt(x * x + y * y)
    cosine, sine = x / level, y / level
    return -sine, cosine, -z * cosine, -z * sine, level


def offsets_of_vectors(centres: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sky offsets (P,) arcsec of unit vectors (P, 3) from others, made of their differences: nothing cancels."""
    east_x, east_y, north_x, north_y, north_z = tangent_axes(centres)
    dx, dy, dz = (positions - centres).T
    sideways = dx * east_x + dy * east_y
    upwards = dx * north_x + dy * north_y + dz * north_z
    forwards = 1.0 + (dx * centres[:, 0] + dy * centres[:, 1] + dz * centres[:, 2])
    level = np.sqrt(forwards * forwards + sideways * sideways)
    with np.errstate(divide="ignore", invalid="ignore"):
        half_east, north = sideways / (forwards + level), upwards / level
    return 2.0 * _arctan(half_east) * RADIAN_ARCSEC, _arctan(north) * RADIAN_ARCSEC


def _arctan(tangent: np.ndarray) -> np.ndarray:
    """Inverse tangent to the last place or two, of basic operations alone: the same on every machine and in kernels."""
    factor = np.ones_like(tangent)
    for _ in range(_HALVINGS):
        large = np.abs(tangent) > SMALL
        if not large.any():
            break
        with np.errstate(invalid="ignore"):
            tangent = np.where(large, tangent / (1.0 + np.sqrt(1.0 + tangent * tangent)), tangent)
        factor = np.where(large, 2.0 * factor, factor)
    square = tangent * tangent
    total = np.full_like(tangent, SERIES[-1])
    for coefficient in SERIES[-2::-1]:
        total = coefficient + square * total
    return factor * (tangent * total)


def cosine_sine(angle_rad: np.ndarray, float32_angles: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine, float64, of angles float32; evaluated in float32 where asked."""
    angle = np.ascontiguousarray(angle_rad) if float32_angles else np.asarray(angle_rad, np.float64)
    with np.errstate(invalid="ignore"):
        return np.cos(angle).astype(np.float64), np.sin(angle).astype(np.float64)


def scales(pixel_scale_arcsec: float | Sequence[float]) -> tuple[float, float]:
    """Arcsec a pixel in x and in y of one number or two; CollationError where one is not positive and finite."""
    given = np.asarray(pixel_scale_arcsec, np.float64)
    if given.shape not in ((), (2,)) or not (np.isfinite(given) & (given > 0)).all():
        raise CollationError(f"the pixel scale is {pixel_scale_arcsec}; give arcsec a pixel above 0, or (x, y)")
    scale_x, scale_y = np.broadcast_to(given, 2).tolist()
    return scale_x, scale_y

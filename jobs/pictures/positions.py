"""Pictures with positions: axes in right ascension and declination, sources marked on them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.wcs import WCS
from matplotlib.figure import Figure

from skysom.engine.errors import ReadingError
from skysom.jobs.pictures import style


def sky_axes(figure: Figure | None, wcs: WCS, *, position: Any = 111, grid: bool = True) -> Any:
    """Axes (astropy WCSAxes) in the sky coordinates of ``wcs``, for `images.draw_image` and the like.

    Parameters
    ----------
    figure : where; None makes one (reach it by ``axes.figure``).
    wcs : celestial coordinates of the pixels that will be drawn. For an image in the neuron's frame those of
        `skysom.storage.fits_export.moved_wcs`.
    position : of the axes in the figure, as matplotlib takes it.
    grid : whether lines of equal right ascension and declination are drawn; they show how a frame is turned.

    Raises
    ------
    ReadingError : coordinates without a celestial pair.
    """
    if not wcs.has_celestial:
        raise ReadingError(f"coordinates {list(wcs.wcs.ctype)} do not lead to the sky; draw on plain axes")
    figure = Figure(figsize=(5.4, 4.8), layout="compressed") if figure is None else figure
    axes = figure.add_subplot(position, projection=wcs.celestial)
    equatorial = wcs.celestial.wcs.radesys.upper() in ("ICRS", "FK5", "FK4", "")
    names = {"longitude": "right ascension", "latitude": "declination"} if equatorial else {}
    for coordinate in axes.coords:
        if coordinate.coord_type in names:
            coordinate.set_axislabel(names[coordinate.coord_type], fontsize=9, color=style.INK)
        coordinate.set_ticklabel(size=8, color=style.MUTED, exclude_overlapping=True)
        coordinate.set_ticks(color=style.FRAME, number=4)
        if grid:
            coordinate.grid(True, color="white", alpha=0.35, lw=0.7, ls="--")
    return axes


def mark_sources(
    axes: Any,
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    *,
    names: Sequence[str] = (),
    colour: str = "#56b4e9",
    size: float = 120.0,
) -> Any:
    """Circles at ICRS positions (n,) degrees on axes of `sky_axes`, with names beside them.

    Raises
    ------
    ReadingError : axes without coordinates, positions or names that are not as many.
    """
    if not hasattr(axes, "wcs"):
        raise ReadingError("these axes have no sky coordinates; make them with sky_axes")
    ra, dec = np.atleast_1d(np.asarray(ra_deg, float)), np.atleast_1d(np.asarray(dec_deg, float))
    if ra.shape != dec.shape or len(names) not in (0, len(ra)):
        raise ReadingError(f"{len(ra)} right ascensions, {len(dec)} declinations, {len(names)} names; give one each")
    where = axes.get_transform("icrs")
    view = axes.get_xlim(), axes.get_ylim()
    axes.scatter(ra, dec, transform=where, s=size, facecolors="none", edgecolors=colour, linewidths=1.4)
    for name, x, y in zip(names, ra, dec, strict=False):
        column, row = axes.wcs.celestial.world_to_pixel_values(*_in_frame_of(axes.wcs, x, y))
        shift = {"xytext": (6, 6), "textcoords": "offset points"}
        axes.annotate(name, (column, row), color=colour, fontsize=8.5, annotation_clip=True, **shift)
    axes.set(xlim=view[0], ylim=view[1])
    return axes


def _in_frame_of(wcs: WCS, ra_deg: float, dec_deg: float) -> tuple[float, float]:
    """ICRS degrees as the world coordinates of ``wcs``, in its order of axes."""
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    sky = SkyCoord(ra_deg, dec_deg, unit="deg").transform_to(wcs_to_celestial_frame(wcs))
    pair = sky.spherical.lon.deg, sky.spherical.lat.deg
    return pair if wcs.celestial.wcs.lng == 0 else pair[::-1]

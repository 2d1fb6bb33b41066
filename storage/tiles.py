"""Cut-outs by position from mosaics and survey tiles.

An index of the tiles (their WCS and footprint, read once from the headers) says which tile holds which
source best; cutting then goes tile by tile, each opened once. Positions are ICRS degrees; tiles may be in
any celestial frame and projection that astropy knows.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io.fits import Header
from astropy.nddata import NoOverlapError, overlap_slices
from astropy.wcs import WCS

from skysom.storage.errors import ImageInputError
from skysom.storage.fits import ImageProblem, OpenImage, antialias, celestial_wcs, judge
from skysom.storage.place import Place, place

CYLINDRICAL = ("CAR", "CEA", "MER")
WIDE_DEG = 60.0
"""Tiles with a border point farther from their centre are compared with every source."""


@dataclass(frozen=True)
class Tile:
    """One usable tile: file, shape (H, W), its header without history (the WCS), and its footprint.

    centre : ICRS unit vector (3,). radius_deg : circle about it that holds the tile.
    random_access : one pixel can be read without unpacking the file.
    """

    path: str
    shape: tuple[int, int]
    header: str = field(repr=False)
    unit: str
    pixel_scale_arcsec: float
    centre: tuple[float, float, float]
    radius_deg: float
    random_access: bool

    def wcs(self) -> WCS:
        wcs = _tile_wcs(Header.fromstring(self.header), self.shape)
        if wcs is None:
            raise ImageProblem("no_wcs", f"{self.path} has no celestial WCS")
        return wcs


@dataclass(frozen=True)
class TileIndex:
    """The usable tiles, and (path, status, message) of the others; tile numbers count ``tiles`` from 0."""

    tiles: tuple[Tile, ...]
    problems: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def build(cls, paths: Iterable[str | Place]) -> "TileIndex":
        """Read the headers of ``paths``; an unusable file is recorded in ``problems``.

        Raises
        ------
        ImageInputError : no paths at all.
        """
        tiles, bad = [], []
        for path in paths:
            try:
                tiles.append(_read_tile(place(path)))
            except ImageProblem as problem:
                bad.append((str(path), problem.status, problem.message))
        if not tiles and not bad:
            raise ImageInputError("no image files to cut from; check the folder or glob given to --images")
        return cls(tuple(tiles), tuple(bad))

    @property
    def uncovered_status(self) -> str:
        """Status of a source no tile covers: the cause of the tiles where one cause rules out all."""
        causes = {status for _, status, _ in self.problems}
        return causes.pop() if not self.tiles and len(causes) == 1 else "no_coverage"

    @property
    def pixel_scale_arcsec(self) -> float | None:
        """Median pixel scale of the tiles."""
        return float(np.median([tile.pixel_scale_arcsec for tile in self.tiles])) if self.tiles else None

    @property
    def unit(self) -> str:
        """The brightness unit the tiles share, or "" where they differ."""
        units = {tile.unit for tile in self.tiles}
        return units.pop() if len(units) == 1 else ""

    def tile_of(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
        """Tile number (n,) int64 for positions (n,) in degrees, -1 where no tile covers one.

        Of several tiles the one in which the position is farthest from the edge (arcseconds), among
        those with data at that pixel; gzipped tiles are not unpacked for it and count as having data.
        """
        ra, dec = np.asarray(ra_deg, dtype=np.float64), np.asarray(dec_deg, dtype=np.float64)
        best = np.full(len(ra), -1, dtype=np.int64)
        found = list(self._candidates(ra, dec))
        if not found:
            return best
        source = np.concatenate([rows for _, rows, *_ in found])
        tile = np.concatenate([np.full(len(rows), number) for number, rows, *_ in found])
        margin = np.concatenate([m for _, _, m, *_ in found])
        has_data = np.ones(len(source), dtype=bool)
        shared = np.bincount(source, minlength=len(ra))[source] > 1
        pixel = np.concatenate([p for *_, p in found])
        for number in np.unique(tile[shared]):
            rows = np.flatnonzero(shared & (tile == number))
            has_data[rows] = _pixels_finite(self.tiles[number], pixel[rows])
        order = np.lexsort((tile, -margin, ~has_data, source))
        winners, first = np.unique(source[order], return_index=True)
        best[winners] = tile[order[first]]
        return best

    def _candidates(self, ra: np.ndarray, dec: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """For each tile: number, rows (m,) inside, arcseconds to its edge (m,), pixels (m, 2) y, x."""
        from scipy.spatial import KDTree

        rows = np.flatnonzero(valid_positions(ra, dec))
        if not len(rows):
            return
        tree = KDTree(_unit_vectors(ra[rows], dec[rows]))
        for number, tile in enumerate(self.tiles):
            chord = 2 * np.sin(np.radians(min(tile.radius_deg, 180.0)) / 2) + 1e-9
            near = rows[np.sort(np.asarray(tree.query_ball_point(tile.centre, chord), dtype=np.int64))]
            if not len(near):
                continue
            x, y = to_pixels(tile.wcs(), ra[near], dec[near])
            height, width = tile.shape
            margin = np.minimum.reduce([x + 0.5, width - 0.5 - x, y + 0.5, height - 0.5 - y])
            inside = margin >= 0  # False for NaN: no such position in this projection
            pixel = np.clip(np.rint(np.stack([y, x], axis=1)[inside]), 0, [height - 1, width - 1])
            yield number, near[inside], margin[inside] * tile.pixel_scale_arcsec, pixel.astype(np.int64)


def cut_positions(
    index: TileIndex,
    tile_ids: np.ndarray,
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    side: int,
    pixel_scale_arcsec: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut sources out of their tiles; each tile is opened once.

    Parameters
    ----------
    index, tile_ids : the tiles, and the number (n,) of the one for each source (``index.tile_of``).
    ra_deg, dec_deg : positions (n,), ICRS degrees.
    side : side of the cut-outs in pixels.
    pixel_scale_arcsec : None cuts on the tile's own grid without interpolation: the source lies within
        half a pixel of the centre (side - 1) / 2. A scale reprojects (bilinear, smoothed first where
        pixels grow) to a gnomonic grid with the source exactly at the centre, north towards higher
        rows and east towards lower columns: the same grid for every channel.

    Returns
    -------
    images (n, side, side) float32, NaN = no data (edges are padded with it); status (n,) names;
    coverage (n,) float32, the share of pixels with data.
    """
    ids = np.asarray(tile_ids)
    ra, dec = np.asarray(ra_deg, dtype=np.float64), np.asarray(dec_deg, dtype=np.float64)
    images = np.full((len(ids), side, side), np.nan, dtype=np.float32)
    coverage = np.zeros(len(ids), dtype=np.float32)
    valid = valid_positions(ra, dec)
    status = np.where(valid, index.uncovered_status, "bad_position").astype(object)
    for number in np.unique(ids[valid & (ids >= 0)]):
        rows = np.flatnonzero(valid & (ids == number))
        try:
            with OpenImage(index.tiles[number].path) as image:
                wcs = _tile_wcs(image.header, image.shape)
                if wcs is None:
                    raise ImageProblem("no_wcs", f"{image.path} has no celestial WCS")
                x, y = to_pixels(wcs, ra[rows], dec[rows])
                for i, row in enumerate(rows):
                    try:
                        if pixel_scale_arcsec is None:
                            cut = _cut(image, x[i], y[i], side)
                        else:
                            cut = _reproject(image, wcs, (ra[row], dec[row]), side, pixel_scale_arcsec)
                        images[row] = cut
                        status[row], coverage[row] = judge(cut)
                    except ImageProblem as problem:
                        status[row] = problem.status
        except ImageProblem as problem:
            status[rows] = problem.status
    return images, status, coverage


def valid_positions(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Whether positions (n,) in degrees are on the sky: RA 0..360, Dec -90..90, not NaN."""
    with np.errstate(invalid="ignore"):
        return (ra_deg >= 0) & (ra_deg <= 360) & (np.abs(dec_deg) <= 90)


def to_pixels(wcs: WCS, ra_deg: np.ndarray, dec_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Zero-based pixel positions x, y (n,) float64 of ICRS positions in degrees; NaN where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = wcs.world_to_pixel(SkyCoord(ra_deg, dec_deg, unit="deg", frame="icrs"))
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)


# --- cutting --------------------------------------------------------------------------------------


def _cut(image: OpenImage, x: float, y: float, side: int) -> np.ndarray:
    """The (side, side) pixels about x, y of the native grid, NaN beyond the edges (as Cutout2D, partial)."""
    cut = np.full((side, side), np.nan, dtype=np.float32)
    try:
        there, here = overlap_slices(image.shape, (side, side), (y, x), mode="partial")
    except (NoOverlapError, ValueError) as error:  # ValueError: the position is NaN in this projection
        raise ImageProblem("no_coverage", f"{image.path} does not cover pixel {x}, {y}") from error
    cut[here] = image.read(*there)
    return cut


def _reproject(image: OpenImage, wcs: WCS, position: tuple[float, float], side: int, scale_arcsec: float) -> np.ndarray:
    """The (side, side) gnomonic grid about a position, from the part of the tile that it needs."""
    from reproject import reproject_interp

    target = gnomonic(position, side, scale_arcsec)
    ratio = scale_arcsec / (image.pixel_scale_arcsec or scale_arcsec)
    edge = np.linspace(-0.5, side - 0.5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sky = target.pixel_to_world(*(axis.ravel() for axis in np.meshgrid(edge, edge)))
        x, y = to_pixels(wcs, sky.ra.deg, sky.dec.deg)
        if not (np.isfinite(x).any() and np.isfinite(y).any()):
            raise ImageProblem("no_coverage", f"{image.path} does not cover {position}")
        margin = 2 + 2 * max(ratio - 1, 0)  # room for the interpolation and the smoothing (4 sigma)
        spans = []
        for values, length in ((y, image.shape[0]), (x, image.shape[1])):
            low, high = np.floor(np.nanmin(values) - margin), np.ceil(np.nanmax(values) + margin) + 1
            spans.append(slice(int(np.clip(low, 0, length)), int(np.clip(high, 0, length))))
        rows, columns = spans
        if rows.stop <= rows.start or columns.stop <= columns.start:
            raise ImageProblem("no_coverage", f"{image.path} does not cover {position}")
        part = antialias(image.read(rows, columns), ratio)
        cut = reproject_interp(
            (part, wcs[rows, columns]),
            target,
            shape_out=(side, side),
            order="bilinear",
            return_footprint=False,
        )
    return np.asarray(cut, dtype=np.float32)


def gnomonic(position: tuple[float, float], side: int, scale_arcsec: float) -> WCS:
    """TAN WCS (ICRS) of a (side, side) grid about ``position`` (RA, Dec degrees), north up, east left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = list(position)
    wcs.wcs.crpix = [(side + 1) / 2, (side + 1) / 2]
    wcs.wcs.cdelt = [-scale_arcsec / 3600, scale_arcsec / 3600]
    wcs.wcs.set()
    return wcs


# --- reading tiles --------------------------------------------------------------------------------


def _read_tile(path: Place) -> Tile:
    with OpenImage(path, header_only=True) as image:
        wcs = _tile_wcs(image.header, image.shape)
        if wcs is None or image.pixel_scale_arcsec is None:
            raise ImageProblem("no_wcs", f"{path} has no celestial WCS; positions cannot be found in it")
        header = image.header.copy()
        for key in ("HISTORY", "COMMENT", ""):  # long, and of no use to the WCS
            header.remove(key, ignore_missing=True, remove_all=True)
        centre, radius = _footprint(wcs, image.shape)
        return Tile(
            path=str(path),
            shape=image.shape,
            header=header.tostring(),
            unit=image.unit,
            pixel_scale_arcsec=image.pixel_scale_arcsec,
            centre=centre,
            radius_deg=radius,
            random_access=not image.zipped,
        )


def _tile_wcs(header: Header, shape: tuple[int, int]) -> WCS | None:
    """Celestial WCS under which the centre of the tile is found at its own pixel; None where there is none.

    Cylindrical maps count longitude within 180 degrees of the reference: a tile beyond it would be looked
    for one turn away, so the reference is moved onto the tile (along the equator of the projection).
    """
    wcs = celestial_wcs(header, shape)
    if wcs is None:
        return None
    y, x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = wcs.world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
        if np.allclose(found, (x, y), atol=0.1):
            return wcs
        if not str(wcs.wcs.ctype[0]).endswith(CYLINDRICAL):
            # Off the sky at the centre (a map of much of it) is fine; elsewhere on it is not.
            return None if np.isfinite(found).all() else wcs
        moved = wcs.deepcopy()
        wcs.wcs.bounds_check(False, False)  # else longitudes beyond half a turn are NaN
        centre = wcs.pixel_to_world_values(x, y)
        step = round(x + 1 - moved.wcs.crpix[0])
        longitude = moved.wcs.crval[0] + step * moved.pixel_scale_matrix[0, 0]
        moved.wcs.crpix, moved.wcs.crval = (
            [moved.wcs.crpix[0] + step, moved.wcs.crpix[1]],
            [longitude % 360, moved.wcs.crval[1]],
        )
        moved.wcs.set()
        same = np.allclose(moved.pixel_to_world_values(x, y), centre, atol=1e-9)
        found = moved.world_to_pixel_values(*centre)
    return moved if same and np.allclose(found, (x, y), atol=0.1) else None


def _footprint(wcs: WCS, shape: tuple[int, int]) -> tuple[tuple[float, float, float], float]:
    """Unit vector of the tile's centre and the radius (degrees) about it that holds the tile."""
    ys, xs = (np.linspace(-0.5, length - 0.5, 9) for length in shape)
    x, y = (axis.ravel() for axis in np.meshgrid(xs, ys))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sky = wcs.pixel_to_world(x, y).icrs
    vectors = _unit_vectors(sky.ra.deg, sky.dec.deg)
    centre = vectors[len(vectors) // 2]
    if not np.isfinite(vectors).all():  # corners off the sky: a map of much of it
        return (0.0, 0.0, 1.0), 180.0
    radius = np.degrees(np.arccos(np.clip(vectors @ centre, -1, 1))).max()
    # The border between the samples bulges by less than a tenth for tiles that are not wide.
    return tuple(centre.tolist()), 180.0 if radius > WIDE_DEG else float(1.1 * radius + 1e-3)


def _pixels_finite(tile: Tile, pixels: np.ndarray) -> np.ndarray:
    """Whether the tile has data at pixels (m, 2) y, x; True, unread, for gzipped files."""
    if not tile.random_access:
        return np.ones(len(pixels), dtype=bool)
    try:
        with OpenImage(tile.path) as image:
            return np.array(
                [np.isfinite(image.read(slice(y, y + 1), slice(x, x + 1))).all() for y, x in pixels.tolist()]
            )
    except ImageProblem:  # another tile is better; cutting from this one names the cause
        return np.zeros(len(pixels), dtype=bool)


def _unit_vectors(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)

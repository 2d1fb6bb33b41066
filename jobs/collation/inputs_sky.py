"""How the images of a survey lie on the sky, put into the turns of its mapped components.

Masks are laid on the sky as if north were up and east left in every image, with the source at the centre. That is so
where cut-outs were resampled from mosaics; on the grid of the tiles, and in files as they came, north may be elsewhere.
Their coordinates tell their pixel scale, too, which is compared with that by which the masks are laid on the sky.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skysom.jobs.cutouts import Part, index_tiles, named_file, root_of
from skysom.jobs.errors import ConfigError
from skysom.jobs.progress import Progress, say
from skysom.storage.errors import StorageError
from skysom.storage.place import Place

if TYPE_CHECKING:
    import pyarrow as pa

    from skysom.engine.collation.projection import Frames
    from skysom.storage.survey import Survey

PROBED_FILES = 50
NEGLIGIBLE_PIXELS = 0.5
"""What a turn may move at the edge of the neuron without being taken into account."""
CENTRED_PIXELS = 2.0
"""How far from the centre of its cut-out a source may lie: a pixel for sides that are even, and one more."""


class _Lie(NamedTuple):
    """How images lie on the sky, of one, or (m,) each with one turn for all, too.

    Turn in radians, whether they are mirrored, pixels between centre and source, arcsec a pixel in x and y; NaN where
    it is not told.
    """

    rotation: Any
    mirrored: Any
    off: Any
    scale_x: Any
    scale_y: Any


def seen_on_sky(
    survey: "Survey",
    catalogue: Place,
    rows: np.ndarray,
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    frames: "Frames",
    reach_pixels: float,
    pixel_scale_arcsec: tuple[float, float],
) -> tuple["Frames", list[str]]:
    """Frames in which the images' own turns are taken into account, and notes on what is not known of them.

    Parameters
    ----------
    catalogue : of the survey, with its file names. rows : (m,) int64 of the survey, ascending. ra_deg, dec_deg : (m,)
    of the sources. frames : of these rows. reach_pixels : how far from the centre masks matter. pixel_scale_arcsec : in
    x and y, of the images as they were mapped, by which masks are laid on the sky.

    Raises
    ------
    ConfigError : cut-outs whose sources do not lie at their centre; images that are turned and whose pixels are not
        square.
    """
    parts = [Part.from_dict(values) for values in survey.attrs.get("parts", [])]
    rotation, mirrored = np.zeros(len(rows)), np.zeros(len(rows), bool)
    notes = [] if parts else ["the images were imported: north is taken as up in them, and east as left"]
    for part in parts:
        here = np.arange(*np.searchsorted(rows, [part.start, part.stop]))
        if not len(here) or (not part.named and survey.attrs["resample_arcsec"] is not None):
            continue
        where = (ra_deg[here], dec_deg[here])
        if part.named:
            names = _file_names(catalogue, survey.attrs["filename_column"], rows[here])
            of_row = _Files(root_of(part.images[0]), names, *where)
            found = _of_files(of_row, len(here), reach_pixels, notes)
        else:
            found = _of_tiles(part, *where, notes)
        if found is not None:
            rotation[here], mirrored[here] = np.nan_to_num(found.rotation), found.mirrored
            _check_scale(survey, found, pixel_scale_arcsec, reach_pixels, notes)
    for note in notes:
        say(f"collate: {note}")
    if not (rotation.any() or mirrored.any()):
        return frames, notes
    _check_square(rotation, pixel_scale_arcsec, reach_pixels)
    turned = np.count_nonzero((np.abs(rotation) * reach_pixels > NEGLIGIBLE_PIXELS) | mirrored)
    say(f"collate: north is not up in {turned:,} of {len(rows):,} images as they were mapped; their turns are taken in")
    return frames.seen_through(rotation, mirrored), notes


def _check_square(rotation: np.ndarray, scale: tuple[float, float], reach_pixels: float) -> None:
    """ConfigError where pixels are not square, and turns matter to that: masks are scaled before images are turned."""
    # A turn R and a scaling S of two axes: S R - R S has the norm |S_x - S_y| |sin r|.
    off = np.abs(np.sin(rotation)).max() * reach_pixels * (1 - min(scale) / max(scale))
    if off > NEGLIGIBLE_PIXELS:
        raise ConfigError(
            f"pixels of {scale[0]:g} by {scale[1]:g} arcsec on images that are turned: masks would lie up to {off:.3g} "
            "pixels beside what they were drawn on; resample at ingestion, to one scale (ingest.pixel_scale_arcsec)"
        )


def _check_scale(
    survey: "Survey", found: _Lie, stated: tuple[float, float], reach_pixels: float, notes: list[str]
) -> None:
    """A note where the images' own coordinates have another pixel scale than the masks are laid on the sky with."""
    from skysom.engine.collation.orientation import prepared_pixel_scale

    known = np.isfinite(found.scale_x) & np.isfinite(found.scale_y)
    if not known.any():
        return
    own = np.array([np.median(scale[known]) for scale in (found.scale_x, found.scale_y)])
    resampled = survey.attrs["resample_arcsec"]
    if resampled is not None:  # by one factor, of the geometric mean: see `skysom.storage.fits.pixel_scale`
        own *= resampled / np.sqrt(own.prod())
    chain = [(str(name), dict(values)) for name, values in survey.attrs.get("chain", [])]
    side, channels = survey.attrs["image_side"], len(survey.attrs["channels"])
    mapped = [prepared_pixel_scale(chain, side, channels, float(scale)) for scale in own]
    off = max(abs(one / two - 1) for one, two in zip(stated, mapped, strict=True)) * reach_pixels
    if off > NEGLIGIBLE_PIXELS:
        notes.append(
            f"the images' own coordinates have pixels of {mapped[0]:.4g} by {mapped[1]:.4g} arcsec as they were "
            f"mapped, the masks are laid on the sky with {stated[0]:.4g} by {stated[1]:.4g}: they lie up to {off:.3g} "
            "pixels beside what they were drawn on; correct the survey's scale, or give --pixel-scale"
        )


# --- cut-outs on the grid of tiles ----------------------------------------------------------------


def _of_tiles(part: Part, ra: np.ndarray, dec: np.ndarray, notes: list[str]) -> _Lie | None:
    """How sources that were cut from tiles without resampling lie, (m,)."""
    from skysom.engine.collation.orientation import wcs_orientation

    try:
        tiles = index_tiles(part.images[:1])[0]
        number = tiles.tile_of(ra, dec)
        rotation, off, *scale = (np.full(len(ra), value) for value in (np.nan, 0.0, np.nan, np.nan))
        mirrored = np.zeros(len(ra), bool)
        for tile in np.unique(number[number >= 0]):
            own = np.flatnonzero(number == tile)
            columns = wcs_orientation(tiles.tiles[tile].wcs(), ra[own], dec[own])
            rotation[own], mirrored[own], scale[0][own], scale[1][own] = columns
    except (StorageError, OSError) as error:
        notes.append(f"the tiles cannot be read any more ({error}): north is taken as up in the cut-outs")
        return None
    if (number < 0).any():
        notes.append(f"{np.count_nonzero(number < 0):,} sources lie in no tile: north is taken as up in their cut-outs")
    return _Lie(rotation, mirrored, off, *scale)


# --- cut-outs from files --------------------------------------------------------------------------


class _Files:
    """How the cut-out of a row lies."""

    def __init__(self, root: Place, names: "pa.Array", ra: np.ndarray, dec: np.ndarray) -> None:
        self.root, self.names, self.ra, self.dec = root, names, ra, dec

    def __call__(self, row: int) -> _Lie:
        from skysom.engine.collation.orientation import wcs_orientation
        from skysom.storage.fits import OpenImage
        from skysom.storage.tiles import to_pixels

        unknown, name = _Lie(np.nan, False, np.nan, np.nan, np.nan), str(self.names[row].as_py() or "").strip()
        if not name or not np.isfinite(self.ra[row]):
            return unknown
        try:
            with OpenImage(named_file(self.root, name), header_only=True) as image:
                wcs, shape = image.wcs, image.shape
        except (StorageError, OSError):
            return unknown
        if wcs is None:
            return unknown
        where = self.ra[row : row + 1], self.dec[row : row + 1]
        x, y = to_pixels(wcs, *where)
        rotation, mirrored, *scale = (column[0] for column in wcs_orientation(wcs, *where))
        off = np.hypot(x[0] - (shape[1] - 1) / 2, y[0] - (shape[0] - 1) / 2)
        return _Lie(float(rotation), bool(mirrored), float(off), *map(float, scale))


def _of_files(of_row: Callable[[int], _Lie], count: int, reach_pixels: float, notes: list[str]) -> _Lie | None:
    """How cut-outs read from files lie: some are looked at, and all (m,) where those are not north up."""
    probed = np.unique(np.linspace(0, count - 1, min(count, PROBED_FILES)).astype(int))
    some = _read(of_row, probed)
    rotation, mirrored, off = some[:3]
    known = np.isfinite(rotation)
    if not known.any():
        notes.append("the cut-outs do not tell how they lie on the sky, or are gone: north is taken as up in them")
        return None
    if np.median(off[known]) > CENTRED_PIXELS:
        raise ConfigError(
            f"the sources do not lie at the centres of their cut-outs: of {known.sum()} half are more than "
            f"{np.median(off[known]):.3g} pixels away (up to {CENTRED_PIXELS:g} are taken); masks cannot lie on the "
            "sky about them: give the catalogue the cut-outs were made for, or cut them anew about its positions"
        )
    if not mirrored[known].any() and (np.abs(rotation[known]) * reach_pixels < NEGLIGIBLE_PIXELS).all():
        return some._replace(rotation=0.0, mirrored=False)
    say(f"collate: the cut-outs are not all north up; reading the headers of {count:,}")
    with Progress("headers", "files") as progress:
        found = _read(of_row, np.arange(count), progress)
    known, off = np.isfinite(found.rotation), found.off
    if not known.all():
        notes.append(f"{count - known.sum():,} cut-outs do not tell how they lie on the sky: north is taken as up")
    if (off[known] > CENTRED_PIXELS).any():
        many = np.count_nonzero(off[known] > CENTRED_PIXELS)
        notes.append(f"{many:,} sources lie more than {CENTRED_PIXELS:g} pixels from the centres of their cut-outs")
    return found


def _read(of_row: Callable[[int], _Lie], rows: np.ndarray, progress: Any = None) -> _Lie:
    found = []
    for done, row in enumerate(rows.tolist()):
        found.append(of_row(row))
        if progress is not None:
            progress(done + 1, len(rows))
    return _Lie(*(np.array(column) for column in zip(*found, strict=True)))


def _file_names(catalogue: Place, column: str, rows: np.ndarray) -> "pa.Array":
    """The file name of each of ``rows`` (m,) of the survey's catalogue."""
    import pyarrow.parquet as pq

    from skysom.storage.catalogue import parquet_source

    return pq.read_table(parquet_source(catalogue), columns=[column])[column].combine_chunks().take(rows)

"""How the images of a survey lie on the sky, put into the turns of its mapped components.

Masks are laid on the sky as if north were up and east left in every image, with the source at the centre. That is so
where cut-outs were resampled from mosaics; on the grid of the tiles, and in files as they came, north may be elsewhere.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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


def seen_on_sky(
    survey: "Survey",
    catalogue: Place,
    rows: np.ndarray,
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    frames: "Frames",
    reach_pixels: float,
) -> tuple["Frames", list[str]]:
    """Frames in which the images' own turns are taken into account, and notes on what is not known of them.

    Parameters
    ----------
    catalogue : of the survey, with its file names. rows : (m,) int64 of the survey, ascending. ra_deg, dec_deg : (m,)
    of the sources. frames : of these rows. reach_pixels : how far from the centre masks matter.

    Raises
    ------
    ConfigError : cut-outs whose sources do not lie at their centre.
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
            rotation[here], mirrored[here] = found
    for note in notes:
        say(f"collate: {note}")
    if not (rotation.any() or mirrored.any()):
        return frames, notes
    turned = np.count_nonzero((np.abs(rotation) * reach_pixels > NEGLIGIBLE_PIXELS) | mirrored)
    say(f"collate: north is not up in {turned:,} of {len(rows):,} images as they were mapped; their turns are taken in")
    return frames.seen_through(rotation, mirrored), notes


# --- cut-outs on the grid of tiles ----------------------------------------------------------------


def _of_tiles(part: Part, ra: np.ndarray, dec: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Turn (m,) radians and mirror (m,) of sources cut from tiles without resampling."""
    from skysom.engine.collation.orientation import wcs_orientation

    try:
        tiles = index_tiles(part.images[:1])[0]
        number = tiles.tile_of(ra, dec)
        rotation, mirrored = np.zeros(len(ra)), np.zeros(len(ra), bool)
        for tile in np.unique(number[number >= 0]):
            own = np.flatnonzero(number == tile)
            rotation[own], mirrored[own] = wcs_orientation(tiles.tiles[tile].wcs(), ra[own], dec[own])[:2]
    except (StorageError, OSError) as error:
        notes.append(f"the tiles cannot be read any more ({error}): north is taken as up in the cut-outs")
        return None
    if (number < 0).any():
        notes.append(f"{np.count_nonzero(number < 0):,} sources lie in no tile: north is taken as up in their cut-outs")
    return np.where(np.isfinite(rotation), rotation, 0.0), mirrored


# --- cut-outs from files --------------------------------------------------------------------------


class _Files:
    """Turn (radians), mirror and pixels between centre and source of the cut-out of a row; NaN where it is not told."""

    def __init__(self, root: Place, names: "pa.Array", ra: np.ndarray, dec: np.ndarray) -> None:
        self.root, self.names, self.ra, self.dec = root, names, ra, dec

    def __call__(self, row: int) -> tuple[float, bool, float]:
        from skysom.engine.collation.orientation import wcs_orientation
        from skysom.storage.fits import OpenImage
        from skysom.storage.tiles import to_pixels

        unknown, name = (np.nan, False, np.nan), str(self.names[row].as_py() or "").strip()
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
        rotation, mirrored, _, _ = wcs_orientation(wcs, *where)
        off = np.hypot(x[0] - (shape[1] - 1) / 2, y[0] - (shape[0] - 1) / 2)
        return float(rotation[0]), bool(mirrored[0]), float(off)


def _of_files(
    of_row: Callable[[int], tuple[float, bool, float]], count: int, reach_pixels: float, notes: list[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Turns and mirrors of cut-outs read from files: some are looked at, and all where those are not north up."""
    probed = np.unique(np.linspace(0, count - 1, min(count, PROBED_FILES)).astype(int))
    rotation, mirrored, off = _read(of_row, probed)
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
        return None
    say(f"collate: the cut-outs are not all north up; reading the headers of {count:,}")
    with Progress("headers", "files") as progress:
        rotation, mirrored, off = _read(of_row, np.arange(count), progress)
    known = np.isfinite(rotation)
    if not known.all():
        notes.append(f"{count - known.sum():,} cut-outs do not tell how they lie on the sky: north is taken as up")
    if (off[known] > CENTRED_PIXELS).any():
        many = np.count_nonzero(off[known] > CENTRED_PIXELS)
        notes.append(f"{many:,} sources lie more than {CENTRED_PIXELS:g} pixels from the centres of their cut-outs")
    return np.where(known, rotation, 0.0), mirrored


def _read(
    of_row: Callable[[int], tuple[float, bool, float]], rows: np.ndarray, progress: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = []
    for done, row in enumerate(rows.tolist()):
        found.append(of_row(row))
        if progress is not None:
            progress(done + 1, len(rows))
    rotation, mirrored, off = zip(*found, strict=True)
    return np.array(rotation, np.float64), np.array(mirrored, bool), np.array(off, np.float64)


def _file_names(catalogue: Place, column: str, rows: np.ndarray) -> "pa.Array":
    """The file name of each of ``rows`` (m,) of the survey's catalogue."""
    import pyarrow.parquet as pq

    from skysom.storage.catalogue import parquet_source

    return pq.read_table(parquet_source(catalogue), columns=[column])[column].combine_chunks().take(rows)

"""Cut-outs of catalogue rows: from named files, or by position from mosaics and tiles."""

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from skysom.jobs.config import Config
from skysom.jobs.errors import ConfigError
from skysom.storage import place as places
from skysom.storage.catalogue import parquet_source
from skysom.storage.errors import ImageInputError, PlaceError
from skysom.storage.place import Place, is_remote, place
from skysom.storage.status import CODES, STATUSES
from skysom.storage.survey import Survey

SUFFIXES = (".fits", ".fits.gz", ".fits.fz", ".fit", ".fit.gz")
DEFAULT_SIDE_PIXELS = 150
BEFOREHAND = ("no_file_name", "bad_position", "duplicate_id")
"""Statuses that follow from the catalogue alone."""
PROBED_FILES = 50
"""Files looked at to learn the side of the cut-outs."""


@dataclass(frozen=True)
class Part:
    """Rows [start, stop) that came from one catalogue, with a directory or glob a channel."""

    start: int
    stop: int
    images: tuple[str, ...]
    named: bool
    catalogue_sha256: str

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Part":
        return cls(**{**values, "images": tuple(values["images"])})


def root_of(images: str) -> Place:
    """Directory that file names are relative to: the directory itself, or the fixed prefix of a glob."""
    if is_glob(images):
        return _split_glob(images)[0]
    path = place(images)
    return path if places.is_dir(path) else path.parent


def is_glob(images: str) -> bool:
    """Whether ``images`` is a pattern: a local file or directory may itself be named with [, ? or *."""
    if not glob.has_magic(images):
        return False
    path = place(images)
    return is_remote(path) or not places.exists(path)


def _split_glob(images: str) -> tuple[Place, str]:
    """The fixed prefix of a glob, and the pattern below it."""
    path = place(images)
    pieces = path.parts if isinstance(path, Path) else str(path).split("/")
    fixed = next((i for i, piece in enumerate(pieces[:-1]) if glob.has_magic(piece)), len(pieces) - 1)
    root = Path(*pieces[:fixed]) if isinstance(path, Path) else place("/".join(pieces[:fixed]))
    return root, "/".join(pieces[fixed:])


def named_file(root: Place, name: str) -> Place:
    """The file a catalogue names: relative to ``root``, from the root of the file system, or a URL."""
    from fsspec import available_protocols

    if "://" in name and name.partition("://")[0] in available_protocols():
        return place(name)
    return Path(name) if is_remote(root) and name.startswith("/") else root / name


def image_files(images: str) -> list[Place]:
    """FITS files of a directory (with those below it), a glob, or one file, sorted.

    Raises ImageInputError where there is none.
    """
    if is_glob(images):
        files = places.files_below(*_split_glob(images))
    else:
        path = place(images)
        found = [path] if places.is_file(path) else places.files_below(path)
        files = [p for p in found if p == path or p.name.lower().endswith(SUFFIXES)]
    if not files:
        raise ImageInputError(f"--images {images}: no FITS file there ({', '.join(SUFFIXES)}); check the path or glob")
    return files


@dataclass(frozen=True)
class CutoutReader:
    """Reads the cut-outs of rows of a survey; picklable, so that workers carry it.

    tiles holds, for each part cut by position, one `TileIndex` a channel (None for parts of files).
    """

    survey: Place
    catalogue: Place
    parts: tuple[Part, ...]
    tiles: tuple[tuple[Any, ...] | None, ...]
    side: int
    resample_arcsec: float | None
    filename_column: str

    @property
    def channels(self) -> int:
        """C, the number of channels."""
        return len(self.parts[0].images)

    @cached_property
    def _store(self) -> Survey:
        return Survey(self.survey)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cut-outs (n, C, side, side) float32 with NaN where there is no data, status codes, coverage.

        A row whose catalogue status is not ok is not read and keeps it. A row fails with the status of
        its first failing channel; its images are then NaN.
        """
        table = self._rows(start, stop)
        # Only what the catalogue alone tells: the rest is found again, so that doing a shard twice is the same.
        codes = np.array([CODES[name] if name in BEFOREHAND else 0 for name in table["status"]], np.uint8)
        images = np.full((stop - start, self.channels, self.side, self.side), np.nan, np.float32)
        coverage = np.ones(stop - start, np.float32)
        for part, tiles in zip(self.parts, self.tiles, strict=True):
            rows = np.arange(max(start, part.start), min(stop, part.stop)) - start
            rows = rows[codes[rows] == 0] if len(rows) else rows
            if not len(rows):
                continue
            for channel in range(self.channels):
                if tiles is None:
                    names = [str(table[self.filename_column].iloc[row]).strip() for row in rows]
                    found = self._named(root_of(part.images[channel]), names)
                else:
                    found = self._cut(tiles[channel], start + rows)
                data, status, covered = found
                images[rows, channel] = data
                failed = np.array([CODES[name] for name in status], np.uint8)
                codes[rows] = np.where(codes[rows] == 0, failed, codes[rows])
                coverage[rows] = np.minimum(coverage[rows], covered)
        images[codes != 0] = np.nan
        coverage[codes != 0] = 0
        return images, codes, coverage

    @cached_property
    def _table(self) -> Any:
        """The catalogue, opened once (its footer grows with the survey), and the first row of each row group."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(parquet_source(self.catalogue))
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        return file, np.concatenate([[0], np.cumsum(rows)])

    def _rows(self, start: int, stop: int) -> Any:
        """Catalogue rows [start, stop): only the row groups that hold them are read."""
        file, first = self._table
        columns = [c for c in ("status", self.filename_column) if c in file.schema_arrow.names]
        groups = range(
            int(np.searchsorted(first, start, side="right")) - 1, int(np.searchsorted(first, stop, side="left"))
        )
        table = file.read_row_groups(list(groups), columns=columns)
        return table.slice(start - int(first[groups[0]]), stop - start).to_pandas()

    def _named(self, root: Place, names: Sequence[str]) -> tuple[np.ndarray, list[str], np.ndarray]:
        from skysom.storage.fits import read_cutout

        data = np.full((len(names), self.side, self.side), np.nan, np.float32)
        status, coverage = [], np.zeros(len(names), np.float32)
        for i, name in enumerate(names):
            result = read_cutout(named_file(root, name), self.side, self.resample_arcsec)
            status.append(result.status)
            coverage[i] = result.coverage
            if result.data is not None:
                data[i] = result.data
        return data, status, coverage

    def _cut(self, tiles: Any, rows: np.ndarray) -> tuple[np.ndarray, list[str], np.ndarray]:
        from skysom.storage.tiles import cut_positions

        first, last = int(rows[0]), int(rows[-1]) + 1
        ra = self._store.read("ra_deg", first, last)[rows - first]
        dec = self._store.read("dec_deg", first, last)[rows - first]
        ids = tiles.tile_of(ra, dec)
        data, status, coverage = cut_positions(tiles, ids, ra, dec, self.side, self.resample_arcsec)
        return data, list(status), coverage


def open_reader(output_survey: Place, catalogue: Place) -> CutoutReader:
    """The reader of an ingested survey; tiles are indexed anew."""
    attrs = Survey(output_survey).attrs
    parts = tuple(Part.from_dict(values) for values in attrs["parts"])
    return CutoutReader(
        output_survey,
        catalogue,
        parts,
        tuple(None if part.named else index_tiles(part.images) for part in parts),
        attrs["image_side"],
        attrs["resample_arcsec"],
        attrs["filename_column"],
    )


def index_tiles(images: Sequence[str]) -> tuple[Any, ...]:
    """One tile index a channel."""
    from skysom.storage.tiles import TileIndex

    return tuple(TileIndex.build(image_files(pattern)) for pattern in images)


def probe_files(config: Config, names: Sequence[str | None]) -> tuple[int, float | None]:
    """Side (pixels) and pixel scale (arcsec) of named cut-outs: the most common of the first readable ones.

    Raises ImageInputError where none of them can be read.
    """
    from skysom.storage.fits import read_image

    root = root_of(config.images[0])
    found: Counter[tuple[int, float | None]] = Counter()
    given = [name for name in names if name]
    for name in given[:: max(1, len(given) // PROBED_FILES)]:
        try:
            image = read_image(named_file(root, name))
        except PlaceError:
            raise
        except Exception:
            continue
        scale = image.pixel_scale_arcsec
        found[(max(image.data.shape), None if scale is None else round(scale, 6))] += 1
    if not found:
        example = named_file(root, given[0]) if given else "no name given"
        raise ImageInputError(
            f"none of the files named in column {config.ingest.filename_column!r} can be read under {root} "
            f"(for example {example}); check --images: names are relative to it"
        )
    (side, scale), _ = found.most_common(1)[0]
    wanted = config.ingest.pixel_scale_arcsec
    if wanted is not None and scale is not None and config.ingest.side_pixels is None:
        side = round(side * scale / wanted)
    if side < 2:
        raise ConfigError(f"ingest.pixel_scale_arcsec={wanted} leaves cut-outs of {side} pixels; make it smaller")
    return config.ingest.side_pixels or side, wanted or scale


def probe_tiles(config: Config, tiles: Sequence[Any]) -> tuple[int, float | None, float | None]:
    """Side (pixels), pixel scale (arcsec), and the scale to resample to, for cut-outs by position."""
    scale = tiles[0].pixel_scale_arcsec
    wanted = config.ingest.pixel_scale_arcsec
    # Several channels need one grid: that of the first.
    resample = wanted if wanted is not None or len(tiles) == 1 else scale
    return config.ingest.side_pixels or DEFAULT_SIDE_PIXELS, wanted or scale, resample


def check_images(config: Config) -> None:
    """ConfigError unless every --images names something that is there."""
    if not config.images:
        raise ConfigError("no images: give --images with a directory or glob (once a channel)")
    for pattern in config.images:
        if not places.is_dir(root_of(pattern)):
            raise ConfigError(f"--images {pattern}: there is no directory {root_of(pattern)}")
        if not is_glob(pattern) and not places.exists(place(pattern)):
            raise ConfigError(f"--images {pattern}: there is no such file or directory")


def status_counts(codes: np.ndarray) -> dict[str, int]:
    """How many rows have each status, as plain numbers."""
    return {STATUSES[code]: int(count) for code, count in zip(*np.unique(codes, return_counts=True), strict=True)}

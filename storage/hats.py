"""HATS catalogues: Parquet files by HEALPix pixel, small pixels where the sky is crowded, with the rows just outside.

A catalogue that skysom writes is a collection that `lsdb.open_catalog` opens: the catalogue, and a margin cache beside
it with the rows that lie within some arcseconds of every partition. It carries the number each row had in the file it
came from (`ROW_COLUMN`, no default column); rows without a position stand in `NO_POSITION`, outside the sky.

Format: HATS, an IVOA note (https://www.ivoa.net/documents/Notes/HATS/).
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skysom.storage import place as places
from skysom.storage.errors import CatalogueError
from skysom.storage.hats_partitions import DEEPEST, quiet
from skysom.storage.place import Place
from skysom.storage.table_stream import TableStream, parquet_row_bytes, plain_schema, read_parquet_parts

INDEX_COLUMN = "_healpix_29"
"""Column of every partition: the nested HEALPix pixel of order 29 in which the row lies."""
ROW_COLUMN = "_skysom_row"
"""Column of the row number in the file that a catalogue was made from, int64; of a match, numbers in sky order."""
NO_POSITION = "no_position.parquet"
"""File of a collection with its rows that have no position."""
ORIGIN = "skysom.json"
"""File of a collection that skysom wrote: what it was made of."""


def plain_name(name: str) -> str:
    """A name of letters, digits, ``_``, ``.`` and ``-``: what properties can hold and any reader can open."""
    return re.sub(r"[^\w.-]+", "_", name) or "catalogue"


def open_hats(path: Place, lists: bool = False) -> TableStream:
    """Look at a HATS catalogue, so as to read it in parts: partition after partition, then rows without a position.

    lists : whether columns of lists are kept. The columns are those of the partitions but the pixel.

    Raises
    ------
    CatalogueError : a directory that is no whole HATS catalogue.
    """
    catalogue = read_structure(path)
    files = [partition_file(catalogue, pixel) for pixel in in_order(catalogue)]
    outside = path / NO_POSITION
    files += [outside] if places.is_file(outside) else []
    schema, dropped = plain_schema(catalogue.schema, path, lists)
    kept = [one for one in schema if one.name not in (INDEX_COLUMN, "Norder", "Dir", "Npix")]
    rows = int(catalogue.catalog_info.total_rows or 0)
    if files and files[-1] is outside:
        with pq.ParquetFile(_source(outside)) as file:
            rows += file.metadata.num_rows
    size = int(rows * _row_bytes(files[0], pa.schema(kept))) if files else 0

    def read(names: list[str], part_rows: int) -> Iterator[pa.Table]:
        for file in files:
            yield from read_parquet_parts(file, names, part_rows)

    numbered = ROW_COLUMN in catalogue.schema.names and places.is_file(path / ORIGIN)
    return TableStream(path, pa.schema(kept), rows, size, read, dropped=dropped, numbered=numbered)


def has_row_numbers(path: Place) -> bool:
    """Whether every row of a catalogue has a number of its own in `ROW_COLUMN`: in collections that skysom wrote.

    Whatever else has the column may have been made from one of these, with rows that are there several times.

    Raises
    ------
    CatalogueError : a directory that is no whole HATS catalogue.
    """
    return places.is_file(path / ORIGIN) and ROW_COLUMN in read_structure(path).schema.names


def read_structure(path: Place) -> Any:
    """What hats knows of a catalogue, or of the main one of a collection: properties, partitions, schema.

    Raises
    ------
    CatalogueError : a directory that is no whole HATS catalogue.
    """
    return _structures(path)[0]


def margin_of(path: Place) -> float:
    """Width in arcseconds of the margin that LSDB uses of a catalogue; 0 without one.

    Raises
    ------
    CatalogueError : as `read_structure`, of the margin, too.
    """
    caches = _structures(path)[1:]
    return float(caches[0].catalog_info.margin_threshold) if caches else 0.0


def check_partitions(path: Place, *, ends: bool = False) -> None:
    """See that a catalogue and its margin have a file for each of their partitions.

    ends : look also whether each is whole to its end, where Parquet says what it holds.

    Raises
    ------
    CatalogueError : they have not.
    """
    for catalogue in _structures(path):
        base = places.place(str(catalogue.catalog_base_dir))
        there = {str(file) for file in places.files_below(base)}
        files = [str(partition_file(catalogue, pixel)) for pixel in in_order(catalogue)]
        missing = [file for file in files if file not in there]
        if missing:
            raise CatalogueError(
                f"{path} lacks {len(missing):,} of {len(files):,} files of partitions, such as {missing[0]}; copy "
                "them again, or write the catalogue again"
            )
        for file in files if ends else ():
            try:
                with pq.ParquetFile(_source(places.place(file))):
                    pass
            except (OSError, pa.ArrowException) as error:
                raise CatalogueError(
                    f"{file} is no whole partition of {path} ({error}); copy it again, or write the catalogue again"
                ) from error


@contextmanager
def partitions_readable(*paths: Place) -> Iterator[None]:
    """CatalogueError for what LSDB raises where it reads damaged partitions of one of these catalogues."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "errno", None) not in (None, errno.ENOENT):  # a full disk, say
            raise
        for path in paths:
            check_partitions(path, ends=True)  # names the file, if it can
        raise CatalogueError(
            f"{' or '.join(map(str, paths))} cannot be read ({type(error).__name__}: {error}); write it again"
        ) from error


def _structures(path: Place) -> list[Any]:
    """What hats knows of a catalogue, and of the margin of it that LSDB uses, if there is one."""
    with quiet():
        import hats
        from hats.catalog import CatalogCollection

        try:
            found: Any = hats.read_hats(path)
            if not isinstance(found, CatalogCollection):
                return [found]
            margin = found.default_margin_catalog_dir
            return [found.main_catalog, *([] if margin is None else [hats.read_hats(margin)])]
        except Exception as error:  # whatever a library makes of a damaged directory
            raise CatalogueError(
                f"{path} is no whole HATS catalogue ({type(error).__name__}: {error}); write it again"
            ) from error


def in_order(catalogue: Any) -> list[Any]:
    """Pixels of a catalogue's partitions in the order of their place in the sky."""
    pixels = catalogue.get_healpix_pixels()
    return sorted(pixels, key=lambda pixel: int(pixel.pixel) << 2 * (DEEPEST - int(pixel.order)))


def partition_file(catalogue: Any, pixel: Any) -> Place:
    """The Parquet file of one partition."""
    from hats.io.paths import pixel_catalog_file

    suffix = catalogue.catalog_info.npix_suffix
    if suffix == "/":
        raise CatalogueError(
            f"{catalogue.catalog_path} has partitions of several files each; save it with one file each"
        )
    found = pixel_catalog_file(catalogue.catalog_base_dir, pixel, npix_suffix=suffix)
    return places.place(str(found))


def _row_bytes(file: Place, schema: pa.Schema) -> float:
    with pq.ParquetFile(_source(file), buffer_size=2**20) as opened:
        return parquet_row_bytes(opened, schema)


def _source(file: Place) -> Any:
    from skysom.storage.catalogue import parquet_source

    return parquet_source(file)

"""Writing HATS catalogues partition by partition; what makes the directory a catalogue is written last."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skysom.storage.errors import CatalogueError
from skysom.storage.hats import INDEX_COLUMN, ORIGIN, ROW_COLUMN
from skysom.storage.hats_partitions import DEEPEST, MAP_ORDER, PixelCounts, quiet
from skysom.storage.place import sync_directory

COMPRESSION = 3
"""Level of zstd. That of hats, 15, makes files 4 % smaller in fifteen times the time."""


@dataclass(frozen=True)
class Written:
    """A partition that was written: nested HEALPix pixel and rows."""

    order: int
    pixel: int
    rows: int


def write_partition(base: Path, order: int, pixel: int, table: pa.Table) -> Written:
    """Write one partition of the catalogue in ``base``: on the disk and whole under its name, or not at all.

    table : with `INDEX_COLUMN` first; rows in the order of that column, then of `ROW_COLUMN`.
    """
    from hats.io.file_io import get_parquet_write_table_kwargs
    from hats.io.paths import new_pixel_catalog_file
    from hats.pixel_math import HealpixPixel

    path = Path(str(new_pixel_catalog_file(base, HealpixPixel(order, pixel))))
    beside = path.with_name(path.name + ".partial")
    options = get_parquet_write_table_kwargs(table.schema, write_table_kwargs={"compression_level": COMPRESSION})
    try:
        pq.write_table(table, beside, **options)
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        beside.replace(path)
        sync_directory(path.parent)
    except OSError:  # a full disk, say
        beside.unlink(missing_ok=True)
        raise
    return Written(order, pixel, len(table))


def sorted_by_place(table: pa.Table) -> pa.Table:
    """The rows in the order of their pixel, then of their row number."""
    place = np.lexsort((table[ROW_COLUMN].to_numpy(), table[INDEX_COLUMN].to_numpy()))
    return table.take(pa.array(place))


def finish_catalogue(
    base: Path,
    name: str,
    written: Sequence[Written],
    schema: pa.Schema,
    columns: tuple[str, str],
    *,
    counts: PixelCounts | None = None,
    margin: tuple[float, str] | None = None,
) -> None:
    """Write what makes partitions a catalogue: schema, list of partitions, maps of counts, and the properties last.

    Parameters
    ----------
    columns : those of right ascension and declination.
    counts : rows by pixel, for the maps of a main catalogue.
    margin : of a margin cache: its threshold in arcseconds, and the name of the catalogue it belongs to.

    Raises
    ------
    CatalogueError : the files hold other numbers of rows than were written.
    """
    with quiet():
        from hats.catalog import PartitionInfo
        from hats.io import file_io, paths, write_parquet_metadata
        from hats.io.skymap import write_skymap
        from hats.pixel_math import HealpixPixel

        pixels = [HealpixPixel(one.order, one.pixel) for one in written]
        if pixels:
            # hats makes its table of smallest and largest values from Python numbers, which must fit 64 bits with sign.
            large = any(pa.types.is_uint64(getattr(one.type, "value_type", one.type)) for one in schema)
            rows = write_parquet_metadata(base, create_metadata=True, create_per_partition_stats=not large)
            if rows != (expected := sum(one.rows for one in written)):
                raise CatalogueError(
                    f"the partitions in {base} hold {rows:,} rows, {expected:,} were written; remove "
                    "what was begun (.NAME.join), and make it again"
                )
        else:
            for path in (paths.get_parquet_metadata_pointer(base), paths.get_common_metadata_pointer(base)):
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_metadata(schema, str(path))
        info = PartitionInfo(pixels)
        info.write_to_file(base / "partition_info.csv")
        properties: dict[str, Any] = {"catalog_type": "object"}
        if margin is not None:
            properties = {"catalog_type": "margin", "margin_threshold": margin[0], "primary_catalog": margin[1]}
        if counts is not None:
            chart = counts.chart()
            file_io.write_fits_image(chart, paths.get_point_map_file_pointer(base))
            write_skymap(chart, base)
            properties["skymap_order"] = MAP_ORDER
        _write_properties(base, name, written, info, schema, columns, properties)
    sync_directory(base)


def _write_properties(
    base: Path,
    name: str,
    written: Sequence[Written],
    info: Any,
    schema: pa.Schema,
    columns: tuple[str, str],
    more: dict[str, Any],
) -> None:
    from hats.catalog import TableProperties

    shown = [one for one in schema.names if one not in (INDEX_COLUMN, ROW_COLUMN)]
    plain = not any(set(one) & set(" ,;\n") for one in shown)  # the format separates names with these
    properties = {
        "catalog_name": name,
        "total_rows": sum(one.rows for one in written),
        "ra_column": columns[0],
        "dec_column": columns[1],
        "default_columns": shown if plain else None,
        "healpix_column": INDEX_COLUMN,
        "healpix_order": DEEPEST,
        "npix_suffix": ".parquet",
        "hats_max_rows": max((one.rows for one in written), default=0),
        "moc_sky_fraction": round(float(info.calculate_fractional_coverage()), 5) if written else 0.0,
        "hats_order": int(info.get_highest_order()) if written else 0,
    }
    TableProperties(**properties, **more, **_provenance(base)).to_properties_file(base)


def finish_collection(base: Path, name: str, margins: Sequence[str], origin: dict[str, Any]) -> None:
    """Write what makes a catalogue and its margin caches a collection, and ``origin``, what it was made of, as JSON.

    The file of the origin also says that the numbers in `ROW_COLUMN`, if there are any, are unique.
    """
    with quiet():
        from hats.catalog.dataset.collection_properties import CollectionProperties

        (base / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
        properties: dict[str, Any] = {"obs_collection": name, "hats_primary_table_url": name}
        if margins:
            properties |= {"all_margins": list(margins), "default_margin": margins[0]}
        CollectionProperties(**properties, **_provenance(base)).to_properties_file(base)
    sync_directory(base)


def _provenance(base: Path) -> dict[str, Any]:
    from hats.catalog.dataset.hats_properties import HatsProperties

    return dict(HatsProperties.new_provenance_dict(base, builder=f"skysom v{metadata.version('skysom')}"))

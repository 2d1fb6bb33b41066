"""Where a join is written: Parquet, CSV, FITS, VOTable, or a HATS catalogue; whole, or not at all."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.work import Kind, local_target
from skysom.storage.place import Place, place, sync_directory

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".csv", ".fits", ".vot")


def kind_of(output: str | Place) -> Kind:
    """What a result becomes: a directory of HATS where its name has no suffix."""
    return "file" if place(output).suffix else "directory"


def check_output(output: str | Place, overwrite: bool) -> Path:
    """The path of a result; ConfigError where it cannot be written, before work starts."""
    path = local_target(output, overwrite, kind_of(output))
    if path.suffix not in ("", *SUFFIXES):
        known = ", ".join(SUFFIXES)
        raise ConfigError(f"{path}: unknown format {path.suffix!r}; known are {known}, and no suffix for HATS")
    return path


def write_table(
    table: "pa.Table", output: str | Place, columns: tuple[str, str] | None, *, overwrite: bool = False
) -> None:
    """Write a table that is in memory; see `write_tables`."""
    write_tables([table], table.schema, output, columns, overwrite=overwrite)


def write_tables(
    tables: Iterable["pa.Table"],
    schema: "pa.Schema",
    output: str | Place,
    columns: tuple[str, str] | None,
    *,
    overwrite: bool = False,
) -> int:
    """Write tables of one schema below one another; returns how many rows.

    columns : of positions in degrees, needed for HATS.

    Raises
    ------
    ConfigError : see `check_output`; HATS without columns of positions.
    """
    path = check_output(output, overwrite)
    if not path.suffix and columns is None:
        raise ConfigError(f"{path} would be HATS, which needs positions; name their columns, or write {path}.parquet")
    if path.suffix == ".parquet":
        with _beside(path) as beside:
            return _write_parquet(tables, schema, beside)
    if path.suffix == ".csv":
        with _beside(path) as beside:
            return _write_csv(tables, schema, beside)
    with _beside(path.with_name(path.name + ".parquet"), keep=False) as beside:
        rows = _write_parquet(tables, schema, beside)
        if path.suffix:
            from skysom.storage.table_export import export_sources

            export_sources(beside, path, overwrite=overwrite)
        else:
            from skysom.jobs.joins.hats import HatsOptions, import_hats

            assert columns is not None
            if not rows:
                raise ConfigError(f"no row is left for {path}, and HATS needs one; write a .parquet")
            options = HatsOptions(*columns, margin_arcsec=0)
            import_hats(beside, path, options, overwrite=overwrite)
        return rows


def _write_parquet(tables: Iterable["pa.Table"], schema: "pa.Schema", path: Path) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            rows += len(table)
    return rows


def _write_csv(tables: Iterable["pa.Table"], schema: "pa.Schema", path: Path) -> int:
    import pyarrow as pa
    from pyarrow import csv

    lists = [field.name for field in schema if pa.types.is_nested(field.type)]
    if lists:
        raise ConfigError(f"CSV holds no lists, and {lists[0]!r} has some; write .parquet, or choose columns")
    rows = 0
    with csv.CSVWriter(str(path), schema) as writer:
        for table in tables:
            writer.write_table(table)
            rows += len(table)
    return rows


@contextmanager
def _beside(path: Path, keep: bool = True) -> Iterator[Path]:
    """A hidden file beside, which takes the place of ``path`` when the context ends well (or goes, if not kept).

    No two runs have one of the same name: of those that write one result, the last is kept, whole.
    """
    beside = path.with_name(f".{path.stem}.{uuid4().hex[:12]}.partial{path.suffix}")
    try:
        yield beside
        if keep:
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(path)
            sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)

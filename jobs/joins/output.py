"""Where a join is written: Parquet, CSV, FITS, VOTable, or a HATS catalogue; whole, or not at all."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.work import Kind, check_target, local_target
from skysom.storage.beside import hidden_beside
from skysom.storage.place import Place, place, sync_directory

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".csv", ".fits", ".vot")


def kind_of(output: str | Place) -> Kind:
    """What a result becomes: a directory of HATS where its name has no suffix."""
    return "file" if place(output).suffix else "directory"


def check_output(output: str | Place, overwrite: bool, schema: "pa.Schema | None" = None) -> Path:
    """The path of a result, looked at before work starts.

    schema : the columns, if they are known, to see whether the format can hold them.

    Raises
    ------
    ConfigError, ExportError : it cannot be written, see `local_target`; or columns that its format cannot hold.
    """
    path = local_target(output, overwrite, kind_of(output))
    if path.suffix not in ("", *SUFFIXES):
        known = ", ".join(SUFFIXES)
        raise ConfigError(f"{path}: unknown format {path.suffix!r}; known are {known}, and no suffix for HATS")
    if schema is not None:
        _check_types(path, schema)
    return path


def _check_types(path: Path, schema: "pa.Schema") -> None:
    """ConfigError or ExportError for columns of types that a format cannot hold."""
    import pyarrow as pa

    if path.suffix == ".csv":
        from io import BytesIO

        from pyarrow import csv

        for field in schema:
            try:
                csv.write_csv(pa.schema([field]).empty_table(), BytesIO())
            except pa.ArrowException as error:
                raise ConfigError(
                    f"{path}: column {field.name!r} holds {field.type}, which CSV cannot; write .parquet, or choose "
                    "columns"
                ) from error
    elif path.suffix in (".fits", ".vot"):
        from skysom.storage.table_export import check_type
        from skysom.storage.table_export_fits import MOST_COLUMNS

        if path.suffix == ".fits" and len(schema) > MOST_COLUMNS:
            raise ConfigError(
                f"{path} would have {len(schema)} columns, FITS has at most {MOST_COLUMNS}; write .parquet, or choose "
                "columns"
            )
        for field in schema:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            check_type(path, field.with_type(kind))


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
    path = check_output(output, overwrite, schema)
    assert len(set(schema.names)) == len(schema.names), schema.names
    if not path.suffix and columns is None:
        raise ConfigError(f"{path} would be HATS, which needs positions; name their columns, or write {path}.parquet")
    if path.suffix == ".parquet":
        with _put(path, overwrite) as beside:
            return _write_parquet(tables, schema, beside)
    if path.suffix == ".csv":
        with _put(path, overwrite) as beside:
            return _write_csv(tables, schema, beside)
    with hidden_beside(path, ".parquet") as beside:
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
    from pyarrow import csv

    rows = 0
    with csv.CSVWriter(str(path), schema) as writer:
        for table in tables:
            writer.write_table(table)
            rows += len(table)
    return rows


@contextmanager
def _put(path: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden file beside, which takes the place of ``path`` when the context ends well.

    Of runs that replace one result, the last is kept, whole.

    Raises
    ------
    ConfigError : the result has come to be meanwhile, and is not to be replaced.
    """
    with hidden_beside(path) as beside:
        yield beside
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        check_target(path, overwrite, "file")
        beside.replace(path)
        sync_directory(path.parent)

"""Catalogues part by part, so that one larger than memory can be read: Arrow tables of one schema for the whole file.

Parquet, CSV and FITS tables are read in parts of any number of rows, HATS catalogues partition by partition. A VOTable,
and a FITS table that is gzipped, is unpacked in memory first. Values are those of `catalogue.read_catalogue`, with two
differences that a whole file allows: a column that mixes numbers and texts is text, and a decimal of a CSV file is the
float nearest to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from skysom.storage import place as places
from skysom.storage.catalogue import FORMATS, format_of, parquet_source, read_catalogue
from skysom.storage.errors import CatalogueError, PlaceError
from skysom.storage.place import Place, is_remote, place

PART_ROWS = 250_000
"""Rows of a part, unless another number is asked for."""
SAMPLE_ROWS = 10_000
"""Rows that are read to learn how long texts and lists are."""

HATS_FILES = ("hats.properties", "collection.properties", "properties")
"""Files of which a HATS directory has one at least."""

Reader = Callable[[list[str], int], Iterator[pa.Table]]


@dataclass(frozen=True)
class TableStream:
    """A catalogue that is read in parts.

    path : where it is. schema : of every part; what the file tells of a column (``unit``, ``description``, ``ucd``)
    stands in the metadata of its field. rows : their number, None where only reading would tell. size_bytes : about
    what all of it takes in memory. dropped : columns left out, because they hold arrays, structures or complex numbers.
    numbered : whether `hats.ROW_COLUMN` holds a number of its own for every row (see `hats.has_row_numbers`).
    """

    path: Place
    schema: pa.Schema
    rows: int | None
    size_bytes: int
    read: Reader = field(repr=False)
    dropped: tuple[str, ...] = ()
    numbered: bool = False

    @property
    def units(self) -> dict[str, str]:
        """Units of the columns that have one."""
        return {
            one.name: one.metadata[b"unit"].decode() for one in self.schema if one.metadata and b"unit" in one.metadata
        }

    @property
    def dropped_note(self) -> str:
        """A sentence that names the columns left out; empty without any."""
        names = ", ".join(map(str, self.dropped))
        if not names:
            return ""
        whole = is_hats(self.path) or FORMATS.get(self.path.suffix.lower().lstrip(".")) == "parquet"
        advice = (
            "" if whole else "; of lists, only those in Parquet are kept: give the table as .parquet if there is one"
        )
        return f"{self.path}: columns of arrays, structures or complex numbers are left out: {names}{advice}"

    def parts(self, columns: Sequence[str] | None = None, rows: int = PART_ROWS) -> Iterator[tuple[int, pa.Table]]:
        """The number of its first row and the table, of each part of at most ``rows`` rows.

        Raises
        ------
        CatalogueError : a column that is not there, or a file that turns out to be damaged.
        """
        names = list(self.schema.names if columns is None else dict.fromkeys(columns))
        missing = [name for name in names if name not in self.schema.names]
        if missing:
            there = ", ".join(self.schema.names)
            raise CatalogueError(f"{self.path} has no column {missing[0]!r}; it has {there}")
        schema = pa.schema([self.schema.field(name) for name in names])
        first = 0
        with readable(self.path):
            for part in self.read(names, rows):
                for start in range(0, len(part), rows):
                    piece = part.slice(start, rows)
                    yield first, piece.select(names).cast(schema)
                    first += len(piece)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows (n,), in one piece a column."""
        parts = [part for _, part in self.parts(columns)]
        names = self.schema.names if columns is None else dict.fromkeys(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.concat_tables(parts).combine_chunks() if parts else schema.empty_table()


def open_table(path: str | Place, *, lists: bool = False) -> TableStream:
    """Look at a catalogue, so as to read it in parts; of a CSV file every value is looked at, to learn the types.

    lists : whether columns of lists, of any length or one, are kept, from formats that have them (Parquet, HATS).

    Raises
    ------
    CatalogueError : missing, unknown format, unreadable, no rows, no columns, or two columns of one name.
    """
    path = place(path)
    if is_hats(path):
        from skysom.storage.hats import open_hats

        with readable(path):
            return open_hats(path, lists)
    if not places.is_file(path):
        raise CatalogueError(f"no catalogue at {path}; give a file, or the directory of a HATS catalogue")
    kind = format_of(path, " and HATS")
    with readable(path):
        if kind == "parquet":
            found = _open_parquet(path, lists)
        elif kind == "csv":
            from skysom.storage.csv_stream import open_csv

            found = open_csv(path)
        elif kind == "fits":
            found = _open_fits(path)
        else:
            found = _open_whole(path)
    if not found.schema.names or found.rows == 0:
        raise CatalogueError(
            f"{path} has {found.rows or 0} rows and {len(found.schema.names)} columns; it needs at least one of each"
        )
    return found


def is_hats(path: str | Place) -> bool:
    """Whether a HATS catalogue, or a collection of them, is in this directory."""
    path = place(path)
    return (is_remote(path) or path.is_dir()) and any(places.is_file(path / name) for name in HATS_FILES)


@contextmanager
def readable(path: Place) -> Iterator[None]:
    """CatalogueError for whatever goes wrong in reading a file."""
    try:
        yield
    except (CatalogueError, PlaceError, GeneratorExit, MemoryError):
        raise
    except Exception as error:  # parsers of damaged files raise anything
        raise CatalogueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); check that it is whole and its suffix tells "
            "its format"
        ) from error


def plain_schema(schema: pa.Schema, path: Place, lists: bool) -> tuple[pa.Schema, tuple[str, ...]]:
    """The columns that are read, of types that every part can have, and the names of the others.

    Texts are UTF-8 with 32-bit offsets, lists have 32-bit offsets, too, categories become their values, a column
    without any value is text. Names and metadata of fields stay.
    """
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise CatalogueError(f"{path} has more than one column named {', '.join(map(repr, twice))}; rename one of each")
    kept = [one for one in schema if not pa.types.is_nested(one.type) or (lists and _is_list(one.type))]
    dropped = tuple(name for name in schema.names if name not in {one.name for one in kept})
    return pa.schema([pa.field(one.name, _plain_type(one.type), metadata=_told(one)) for one in kept]), dropped


def _told(one: pa.Field) -> dict[bytes, bytes]:
    """Metadata of a field, but what a Parquet writer noted for itself."""
    return {key: text for key, text in (one.metadata or {}).items() if not key.startswith(b"PARQUET:")}


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and not pa.types.is_nested(kind.value_type)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    return pa.list_(_plain_type(kind.value_type)) if _is_list(kind) else kind


def _with_units(schema: pa.Schema, units: Mapping[str, str]) -> pa.Schema:
    return pa.schema([one.with_metadata({"unit": units[one.name]}) if one.name in units else one for one in schema])


def read_parquet_parts(path: Place, names: list[str] | None, rows: int) -> Iterator[pa.Table]:
    """The rows of a Parquet file, ``rows`` at a time: the named columns, or all."""
    with pq.ParquetFile(parquet_source(path)) as file:
        for batch in file.iter_batches(batch_size=rows, columns=names):
            part = pa.Table.from_batches([batch])
            yield part if names is None else part.select(names)


def parquet_row_bytes(file: pq.ParquetFile, schema: pa.Schema) -> float:
    """What a row of these columns takes in memory, about: texts and lists as in the first `SAMPLE_ROWS`.

    The encoded size in the file tells nothing of it, as a text that is there a million times is stored once.
    """
    fixed = [one for one in schema if _has_width(one.type)]
    size = sum(one.type.bit_width / 8 + 1 / 8 for one in fixed)
    others = pa.schema([one for one in schema if not _has_width(one.type)])
    if others.names and file.metadata.num_rows:
        batch = next(file.iter_batches(batch_size=SAMPLE_ROWS, columns=others.names))
        size += pa.Table.from_batches([batch]).select(others.names).cast(others).nbytes / len(batch)
    return size


def _has_width(kind: pa.DataType) -> bool:
    return pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind)


def _open_parquet(path: Place, lists: bool) -> TableStream:
    with pq.ParquetFile(parquet_source(path), buffer_size=2**20) as file:
        schema, dropped = plain_schema(file.schema_arrow, path, lists)
        rows = file.metadata.num_rows
        size = int(rows * parquet_row_bytes(file, schema))
    return TableStream(
        path, schema, rows, size, lambda names, part: read_parquet_parts(path, names, part), dropped=dropped
    )


def _open_whole(path: Place) -> TableStream:
    frame = read_catalogue(path)
    whole = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    schema, dropped = plain_schema(whole.schema, path, lists=False)

    def read(names: list[str], rows: int) -> Iterator[pa.Table]:
        for start in range(0, len(whole), rows):
            yield whole.select(names).slice(start, rows)

    return TableStream(
        path,
        _with_units(schema, frame.attrs["units"]),
        len(whole),
        whole.nbytes,
        read,
        dropped=(*frame.attrs["dropped_columns"], *dropped),
    )


def _open_fits(path: Place) -> TableStream:
    from skysom.storage.fits import open_data_unit
    from skysom.storage.fits_rows import FitsRows

    def opened(stack: ExitStack) -> FitsRows:
        return FitsRows(*open_data_unit(path, stack, lambda unit: unit.is_table))

    with ExitStack() as stack:
        table = opened(stack)
        schema, _ = plain_schema(table.schema, path, lists=False)
        schema, dropped, rows = _with_units(schema, table.units), table.dropped, table.rows
        size = rows * table.row_bytes

    def read(names: list[str], part: int) -> Iterator[pa.Table]:
        with ExitStack() as stack:
            table = opened(stack)
            for start in range(0, table.rows, part):
                yield table.read(start, min(part, table.rows - start)).select(names)

    return TableStream(path, schema, rows, size, read, dropped=dropped)

"""Tables out: Parquet files as FITS tables, VOTables or DS9 regions, a batch of rows at a time, whole or not at all.

What a column is stands in the metadata of its Arrow field, under ``unit``, ``description`` and ``ucd`` (`described`),
and goes into each format's own place. Lists of numbers stay arrays of any length; lists of text become one text with
``;`` between its entries (a ``;`` within one is written %3B), which every reader understands.
"""

import difflib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skysom.storage import place as places
from skysom.storage.beside import hidden_beside
from skysom.storage.catalogue import NULLABLE, parquet_source
from skysom.storage.errors import CatalogueError
from skysom.storage.fits_export import ExportError
from skysom.storage.place import Place, patiently, place
from skysom.storage.selection import column_names, select

Kind = Literal["fits", "votable", "regions"]
KINDS: dict[str, Kind] = {"fits": "fits", "fit": "fits", "reg": "regions"}
KINDS |= {"vot": "votable", "votable": "votable", "xml": "votable"}
"""Format by suffix."""
BATCH_ROWS = 16_384
"""Rows converted at once: some 30 MB of a wide table."""
LIST_SEPARATOR, ESCAPED_SEPARATOR = ";", "%3B"
COPY_BYTES = 2**24
BUFFER_BYTES = 2**16


def described(name: str, kind: pa.DataType, description: str, unit: str = "", ucd: str = "") -> pa.Field:
    """A field that carries its description, unit (as FITS and VOTable write units) and UCD (UCD1+) in its metadata."""
    texts = {"description": description, "unit": unit, "ucd": ucd}
    return pa.field(name, kind, metadata={key: text for key, text in texts.items() if text})


def text_of(field: pa.Field, key: str) -> str:
    """What the metadata of a field says under ``key``, "" without."""
    return (field.metadata or {}).get(key.encode(), b"").decode()


def export_sources(
    source: str | Place,
    target: str | Place,
    kind: Kind | None = None,
    *,
    where: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write a source table (``sources.parquet``) as a FITS table, a VOTable or DS9 regions; returns how many sources.

    Any Parquet table can be written as FITS or VOTable; regions need the columns of sources and ``components.parquet``
    beside them. Memory is that of a batch of rows, some 0.4 GB for sources, or of a row group where the file is remote;
    for regions and 16 bytes a component.

    Parameters
    ----------
    target : path or URL, in a directory that is there. kind : default by the suffix, see `KINDS`.
    where : only rows for which this expression holds (`skysom.storage.selection`), on columns of one value a row.
    overwrite : replace a file that is there.

    Raises
    ------
    ExportError : an unknown suffix, no such directory, a file that is there, or what the format cannot hold.
    CatalogueError : a table that cannot be read, or an expression that does not fit it.
    """
    target = place(target)
    if kind is None:
        suffix = target.suffix.lower().lstrip(".")
        if suffix not in KINDS:
            raise ExportError(f"{target}: unknown suffix {suffix!r}; use one of .{', .'.join(KINDS)}")
        kind = KINDS[suffix]
    rows = Rows(place(source), where)
    with new_file(target, overwrite) as stream:
        if kind == "fits":
            from skysom.storage.table_export_fits import write_fits

            return write_fits(rows, stream)
        if kind == "votable":
            from skysom.storage.table_export_votable import write_votable

            return write_votable(rows, stream)
        from skysom.storage.table_export_regions import write_regions

        return write_regions(rows, stream)


@dataclass(frozen=True)
class Rows:
    """Rows of a Parquet file for which an expression holds (None: all), in batches, any number of times."""

    path: Place
    where: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table with their metadata; categories are given as their values.

        CatalogueError : no file, or no Parquet.
        """
        with self._file() as file:
            return pa.schema([field.with_type(_plain_type(field.type)) for field in file.schema_arrow])

    @property
    def count(self) -> int:
        """Rows of the file, whatever the expression."""
        with self._file() as file:
            return int(file.metadata.num_rows)

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of the chosen rows with ``columns`` (default all), at most `BATCH_ROWS` rows each."""
        schema = self.schema
        names = schema.names if columns is None else columns
        asked = column_names(self.where) if self.where else []
        for name in asked:
            self._check_asked(name, schema)
        read = list(dict.fromkeys([*names, *asked]))
        with self._file() as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=read, use_threads=False):
                plain = pa.record_batch([_decoded(batch[name], schema.field(name).type) for name in read], names=read)
                if self.where:
                    plain = plain.filter(pa.array(select(_flat_frame(plain), self.where)))
                yield plain.select(names)

    def _check_asked(self, name: str, schema: pa.Schema) -> None:
        """CatalogueError for a column that an expression names and that is not there, or holds lists."""
        flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
        if name in flat:
            return
        near = difflib.get_close_matches(name, flat, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        what = "has lists in its column" if name in schema.names else "has no column"
        raise CatalogueError(
            f"{self.path} {what} {name!r} (the selection {self.where!r}){meant}; columns of one value a row are "
            f"{', '.join(flat)}"
        )

    @contextmanager
    def _file(self) -> Iterator[pq.ParquetFile]:
        # Of a local file a little of each column is held at a time; a remote one is fetched in few large requests.
        options: Any = {"pre_buffer": False, "buffer_size": BUFFER_BYTES} if isinstance(self.path, Path) else {}
        try:
            with pq.ParquetFile(parquet_source(self.path), **options) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            what = f"{self.path} cannot be read as Parquet ({type(error).__name__}: {error})"
            raise CatalogueError(f"{what}; make it again, or check the path") from error


@contextmanager
def new_file(target: Place, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A stream whose content is at ``target`` once the context ends without an error, and nowhere otherwise.

    Raises
    ------
    ExportError : no such directory, a directory of that name, or a file that is there and is not to be replaced.
    """
    if isinstance(target, Path) and not target.absolute().parent.is_dir():
        raise ExportError(f"{target}: there is no folder {target.parent}; make it, or write elsewhere")
    if isinstance(target, Path) and target.is_dir():
        raise ExportError(f"{target} is a directory; give a file in it, or elsewhere")
    _check_new(target, overwrite)
    if not isinstance(target, Path):
        with tempfile.TemporaryDirectory(prefix="skysom-") as folder:
            copy = Path(folder) / target.name
            with copy.open("wb") as stream:
                yield stream
            patiently(target.fs.put_file, str(copy), target.path)
        return
    with hidden_beside(target.absolute()) as beside:
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _check_new(target, overwrite)  # another run may have made it meanwhile
        places.move(beside, target)
    places.sync_directory(target.parent)


def _check_new(target: Place, overwrite: bool) -> None:
    if not overwrite and places.exists(target):
        raise ExportError(f"{target} is there already; write elsewhere, or give --overwrite (in Python overwrite=True)")


# --- columns --------------------------------------------------------------------------------------


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists (of any length, or of one)."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column, or what its lists hold, is text."""
    kind = kind.value_type if is_list(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def joined_texts(column: pa.Array) -> pa.Array:
    """Lists of text as one text each, "" for none: entries between `LIST_SEPARATOR`, itself escaped within them."""
    values = pc.replace_substring(column.flatten(), LIST_SEPARATOR, ESCAPED_SEPARATOR)
    offsets = pa.array(np.concatenate([[0], np.cumsum(list_lengths(column))]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pc.fill_null(values, ""))
    return pc.binary_join(lists, LIST_SEPARATOR)


def list_lengths(column: pa.Array) -> np.ndarray:
    """Entries (n,) int64 of each list, 0 where it is missing."""
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def listed_numbers(name: str, column: pa.Array) -> pa.Array:
    """The numbers of a column of lists, one list after the other; missing ones as NaN.

    Raises
    ------
    ExportError : whole numbers of which some are missing within a list: they have no NaN, and no place in arrays.
    """
    values = column.flatten()
    if not values.null_count:
        return values
    if not pa.types.is_floating(values.type):
        raise ExportError(
            f"column {name!r} has lists of whole numbers of which {values.null_count} are missing; leave the missing "
            "ones out of the lists, or convert them to floating point"
        )
    return pc.fill_null(values, float("nan"))


def check_type(path: Place, field: pa.Field) -> None:
    """ExportError for a column that is neither numbers, truths or text nor lists of them."""
    kind = field.type.value_type if is_list(field.type) else field.type
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or is_text(kind)
    if not plain or (is_list(field.type) and pa.types.is_boolean(kind)):
        raise ExportError(
            f"{path}: column {field.name!r} holds {field.type}; numbers, true/false, text, and lists of numbers or "
            "text can be exported: leave the column out, or convert it"
        )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Type without dictionaries, half floats and fixed or long lists."""
    if is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if is_text(kind):
        return pa.string()
    return pa.float32() if pa.types.is_float16(kind) else kind


def _decoded(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


def _flat_frame(batch: pa.RecordBatch) -> pd.DataFrame:
    """Columns of one value a row, of types that follow from the schema alone."""
    flat = [field.name for field in batch.schema if not pa.types.is_nested(field.type)]
    return pd.DataFrame({name: batch[name].to_pandas(types_mapper=NULLABLE.get) for name in flat})

"""Catalogues in and out: tables of any of four formats become one DataFrame, results go to Parquet.

Nothing in a file is ever executed or fetched, and nothing is dropped or renamed without a record:
``attrs["dropped_columns"]`` names the columns that are no plain column, ``attrs["units"]`` the units given.
"""

import csv
import gzip
import io
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from skysom.storage import place as places
from skysom.storage.errors import CatalogueError, PlaceError
from skysom.storage.fits import open_data_unit
from skysom.storage.place import Place, is_remote, open_binary, place

FORMATS = {"csv": "csv", "parquet": "parquet"} | dict.fromkeys(("fits", "fit"), "fits")
FORMATS |= dict.fromkeys(("vot", "votable", "xml"), "votable")
"""Format by suffix; a further ``.gz`` is allowed for all but Parquet."""

ROW_NUMBER = "row number"
"""Column name that ``source_ids`` reports where no column gives the ids."""

DEGREES = ("", "deg", "degree", "degrees", "degs")


def read_catalogue(path: str | Place) -> pd.DataFrame:
    """Read a CSV, FITS, VOTable or Parquet catalogue; rows and columns keep their order.

    Byte strings become text, integers and booleans with missing values become nullable types, and
    columns that hold arrays are left out (``attrs["dropped_columns"]``).

    Raises
    ------
    CatalogueError : missing, unknown format, unreadable, truncated, no rows, or two columns of one name.
    """
    path = place(path)
    if not places.is_file(path):
        raise CatalogueError(f"no catalogue file at {path}; check the path")
    kind = format_of(path)
    readers = {"csv": _read_csv, "fits": _read_fits, "votable": _read_votable, "parquet": _read_parquet}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = readers[kind](path)
    except (CatalogueError, PlaceError):
        raise
    except Exception as error:  # parsers of damaged files raise anything
        raise CatalogueError(
            f"{path} cannot be read as {kind} ({type(error).__name__}: {error}); "
            "check that the file is whole and its suffix tells its format"
        ) from error
    if table.empty:
        raise CatalogueError(
            f"{path} has {len(table)} rows and {table.shape[1]} columns; it needs at least one of each"
        )
    return table


def source_ids(table: pd.DataFrame, id_column: str | None = None, first_row: int = 0) -> tuple[np.ndarray, str]:
    """Ids (n,) of the rows as an object array of str, and the column they come from.

    ``id_column``, else ``source_id``, else ``name`` (in any case), else the row number
    (``ROW_NUMBER``), counted from ``first_row``. A row whose id is missing gets ``row-<number>``.

    Raises
    ------
    CatalogueError : ``id_column`` is not in the table.
    """
    if id_column is not None:
        column: str | None = required_column(table, id_column, "--id-column")
    else:
        lower = {str(name).lower(): str(name) for name in reversed(list(table.columns))}
        column = next((lower[name] for name in ("source_id", "name") if name in lower), None)
    if column is None:
        return np.array([str(first_row + row) for row in range(len(table))], dtype=object), ROW_NUMBER
    values = table[column]
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Float64").astype("Int64")  # whole numbers, float only for missing ones
    texts = enumerate(_texts(values), start=first_row)
    return np.array([text or f"row-{row}" for row, text in texts], dtype=object), column


def duplicate_rows(ids: Iterable[str]) -> np.ndarray:
    """Whether an earlier row has the same id, (n,) bool."""
    return pd.Series(list(ids), dtype=object).duplicated().to_numpy()


def coordinates(table: pd.DataFrame, ra_column: str, dec_column: str) -> tuple[np.ndarray, np.ndarray]:
    """RA and Dec (n,) float64 in degrees; both NaN in a row where one is missing, no number or off the sky.

    Right ascensions from -180 up to 0 are taken as such of the other convention and get 360 added.

    Raises
    ------
    CatalogueError : a column is absent, sexagesimal, not numeric at all, or in a unit other than degrees.
    """
    ra = _degrees(table, required_column(table, ra_column, "the RA column"))
    dec = _degrees(table, required_column(table, dec_column, "the Dec column"))
    with np.errstate(invalid="ignore"):
        ra = np.where((ra < 0) & (ra >= -180), ra + 360, ra)
        good = (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)
    return np.where(good, ra, np.nan), np.where(good, dec, np.nan)


def file_names(table: pd.DataFrame, column: str) -> np.ndarray | None:
    """Names (n,) as an object array, None where missing or blank; None if the table lacks the column."""
    if column not in table.columns:
        return None
    return np.array([text or None for text in _texts(table[column])], dtype=object)


def add_columns(table: pd.DataFrame, columns: Mapping[str, Any]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Append result columns (n,) to a copy; an input column of such a name becomes ``input_<name>``.

    Returns
    -------
    the table, and the renames {old: new}; renamed columns keep their place.
    """
    taken = {str(name) for name in table.columns} | set(columns)
    renames: dict[str, str] = {}
    for name in columns:
        if name in table.columns:
            new = f"input_{name}"
            while new in taken:
                new = f"input_{new}"
            taken.add(new)
            renames[name] = new
    added = pd.DataFrame(dict(columns), index=table.index)
    result = pd.concat([table.rename(columns=renames), added], axis=1)
    result.attrs = dict(table.attrs)
    return result, renames


def write_catalogue(table: pd.DataFrame, path: str | Place, row_group_rows: int) -> None:
    """Write Parquet with row groups of ``row_group_rows`` rows: complete under its name, or not at all.

    Raises
    ------
    CatalogueError : a column mixes types that Parquet cannot hold.
    """
    path = place(path)
    try:
        arrow = pa.Table.from_pandas(table, preserve_index=False)
    except pa.ArrowException as error:
        raise CatalogueError(
            f"the catalogue cannot be stored as Parquet: {error}; give each column one type"
        ) from error
    if not isinstance(path, Path):
        memory = io.BytesIO()
        pq.write_table(arrow, memory, row_group_size=row_group_rows)
        places.write_atomically(path, memory.getvalue())
        return
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("wb") as stream:
            pq.write_table(arrow, stream, row_group_size=row_group_rows)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    places.sync_directory(path.parent)  # the rename is durable once the folder is


def parquet_source(path: Place) -> Any:
    """What pyarrow reads for a place: the path itself, or a stream that fetches only what is asked for."""
    return open_binary(path) if is_remote(path) else path


def format_of(path: Place, others: str = "") -> str:
    """Format of a catalogue by its suffix, one of the values of ``FORMATS``.

    others : what the message of the error adds to the known suffixes.

    Raises
    ------
    CatalogueError : unknown format.
    """
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    if suffixes and suffixes[-1] == "gz":
        suffixes.pop()
    kind = FORMATS.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise CatalogueError(f"{path.name}: unknown catalogue format; known are .{', .'.join(FORMATS)}{others}")
    return kind


def open_unpacked(path: Place) -> IO[bytes]:
    """Open a file that may be gzipped: a stream of what it holds unpacked, whatever its suffix says.

    Raises
    ------
    FileNotFoundError : it is not there.
    """
    raw = open_binary(path)
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return _Unpacked(raw) if zipped else raw  # type: ignore[return-value]


class _Unpacked(gzip.GzipFile):
    """What a gzipped stream holds; closes the stream, too."""

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__(fileobj=raw)
        self._raw = raw

    def close(self) -> None:
        super().close()
        self._raw.close()


def _read_csv(path: Place) -> pd.DataFrame:
    with open_unpacked(path) as stream:
        start = stream.read(65536)
    if b"\0" in start:
        raise CatalogueError(f"{path} holds binary data, not CSV text; give it the suffix of its format")
    if not start.strip():
        raise CatalogueError(f"{path} is empty")
    first = start.decode("utf-8-sig", errors="replace").lstrip("\r\n").splitlines()[0]
    header = next(csv.reader([first]))
    if len(header) == 1 and re.search(r"[;\t|]", first):
        raise CatalogueError(f"{path} is not separated by commas (it begins {first[:60]!r}); save it as CSV")
    _refuse_duplicates(path, header)
    with open_unpacked(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        table = pd.read_csv(stream, index_col=False, encoding="utf-8-sig", dtype_backend="numpy_nullable")
    table = _keep_leading_zeros(path, table).apply(_plain)
    table.attrs = {"units": {}, "dropped_columns": []}
    return table


def _keep_leading_zeros(path: Place, table: pd.DataFrame) -> pd.DataFrame:
    """Whole-number columns as text where a value begins with a zero: 007 is a name, not 7."""
    whole = [name for name in table.columns if pd.api.types.is_integer_dtype(table[name])]
    if not whole:
        return table
    with open_unpacked(path) as stream:
        raw = pd.read_csv(stream, usecols=whole, dtype="string", encoding="utf-8-sig", keep_default_na=False)
    for name in whole:
        if raw[name].str.match(r"\s*[+-]?0\d").any():
            table[name] = raw[name].str.strip()
    return table


def _read_fits(path: Place) -> pd.DataFrame:
    from astropy.io import fits
    from astropy.table import Table

    with ExitStack() as stack:
        stream, unit = open_data_unit(path, stack, lambda found: found.is_table)
        count = int(unit.header["TFIELDS"])
        _refuse_duplicates(path, [str(unit.header.get(f"TTYPE{n}", f"col{n}")).strip() for n in range(1, count + 1)])
        with fits.open(stream, memmap=False) as hdus:
            return _from_astropy(Table.read(hdus[unit.number], format="fits"))


def _read_votable(path: Place) -> pd.DataFrame:
    from astropy.io.votable import parse_single_table

    with open_unpacked(path) as stream:
        content = stream.read()
    # astropy would fetch the address of a STREAM, and expand entities; neither belongs in a catalogue.
    if b"\0" in content[:200] or re.search(rb"<!(DOCTYPE|ENTITY)|<(\w+:)?STREAM[^>]*\shref", content, re.IGNORECASE):
        raise CatalogueError(f"{path} points outside itself (DOCTYPE, or STREAM with href); save it as one file")
    votable = parse_single_table(io.BytesIO(content), verify="ignore")
    _refuse_duplicates(path, [str(field.name) for field in votable.fields])
    return _from_astropy(votable.to_table(use_names_over_ids=True))


def _from_astropy(table: Any) -> pd.DataFrame:
    """A DataFrame of an astropy table; columns that hold arrays are dropped and named in attrs."""
    dropped = [
        name
        for name in table.colnames
        if len(getattr(table[name], "shape", (0,))) != 1
        or (table[name].dtype.kind == "O" and any(isinstance(v, np.ndarray | list) for v in table[name]))
    ]
    kept = [name for name in table.colnames if name not in dropped]
    units = {name: str(table[name].unit) for name in kept if getattr(table[name], "unit", None) is not None}
    frame = table[kept].to_pandas(index=False).apply(_plain) if kept else pd.DataFrame()
    frame.attrs = {"units": units, "dropped_columns": dropped}
    return frame


def _read_parquet(path: Place) -> pd.DataFrame:
    table = pq.ParquetFile(parquet_source(path)).read()
    _refuse_duplicates(path, table.column_names)
    # Types nullable in pandas when written stay so; others become it only where values are missing.
    stored = {c.get("field_name"): c.get("numpy_type") for c in (table.schema.pandas_metadata or {}).get("columns", [])}
    columns, dropped = {}, []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_nested(column.type):
            dropped.append(name)
            continue
        nullable = column.null_count or str(stored.get(name)) in _NULLABLE_NAMES
        columns[name] = column.to_pandas(types_mapper=NULLABLE.get if nullable else None)
    frame = pd.DataFrame(columns)
    frame.attrs = {"units": {}, "dropped_columns": dropped}
    return frame


NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    **{getattr(pa, f"int{bits}")(): getattr(pd, f"Int{bits}Dtype")() for bits in (8, 16, 32, 64)},
    **{getattr(pa, f"uint{bits}")(): getattr(pd, f"UInt{bits}Dtype")() for bits in (8, 16, 32, 64)},
}
"""Types in pandas of Arrow types whose numpy type cannot miss a value."""

_NULLABLE_NAMES = {str(dtype) for dtype in NULLABLE.values()}


def _plain(column: pd.Series) -> pd.Series:
    """Nullable only where needed: floats hold NaN, and whole columns of integers have no missing values."""
    name = str(column.dtype)
    if isinstance(column.dtype, pd.StringDtype):
        return column.astype("str")
    if name in ("Float32", "Float64") or (name in _NULLABLE_NAMES and not column.isna().any()):
        return column.astype(np.dtype("bool" if name == "boolean" else name.lower()))
    return column


def _texts(values: pd.Series) -> list[str]:
    """Values as text without surrounding blanks, "" where missing."""
    return ["" if missing else str(v).strip() for v, missing in zip(values, values.isna(), strict=True)]


def _refuse_duplicates(path: Place, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CatalogueError(f"{path} has more than one column named {', '.join(map(repr, twice))}; rename one of each")


def required_column(table: pd.DataFrame, name: str, what: str) -> str:
    """``name`` itself; CatalogueError, saying ``what`` it was for, where the table lacks it."""
    if name not in table.columns:
        there = ", ".join(map(str, table.columns))
        raise CatalogueError(f"the catalogue has no column {name!r} ({what}); it has {there}")
    return name


def _degrees(table: pd.DataFrame, column: str) -> np.ndarray:
    """One coordinate (n,) float64, NaN where the value is missing or no number."""
    unit = str(table.attrs.get("units", {}).get(column, ""))
    if unit.lower() not in DEGREES:
        raise CatalogueError(f"column {column!r} is in {unit!r}, degrees are needed; convert it, or name another")
    values = table[column]
    if not pd.api.types.is_numeric_dtype(values):
        text = values.dropna().astype(str)
        sexagesimal = text[text.str.match(r"\s*[+-]?\d+\s*[:hd\s°]\s*\d")]
        if len(sexagesimal):
            raise CatalogueError(
                f"column {column!r} is sexagesimal (such as {sexagesimal.iloc[0]!r}); "
                "give decimal degrees, or name a column that has them"
            )
        numbers = pd.to_numeric(values, errors="coerce")
        if len(text) and numbers.isna().all():
            raise CatalogueError(f"column {column!r} is not numeric (such as {text.iloc[0]!r}); give degrees")
        values = numbers
    return values.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)

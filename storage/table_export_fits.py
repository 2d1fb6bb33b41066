"""A Parquet table as a FITS binary table (FITS standard 4.0, section 7.3), written in one stream after one look.

Lists of numbers are variable-length arrays, whose values lie in the heap after the rows; astropy and TOPCAT read them.
Text has the width of the longest, and goes to the heap only where that would take more than `FIXED_BYTES`: TOPCAT reads
it there as text, too, astropy as single characters. It is ASCII, as FITS asks: others are written as Python escapes.
True/false is logical, but 1/0 in a column where some is missing, because astropy reads that as false.
"""

import shutil
import tempfile
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io import fits

from skysom.storage.fits_export import ExportError
from skysom.storage.place import Place
from skysom.storage.table_export import (
    COPY_BYTES,
    Rows,
    check_type,
    is_list,
    joined_texts,
    list_lengths,
    listed_numbers,
    text_of,
)

BLOCK = 2880
MOST_COLUMNS = 999
FIXED_BYTES = 2**30
"""Most bytes that all entries of a column of text may take, each as wide as the longest."""
LARGEST_OFFSET = 2**31 - 1
"""Of a descriptor of 32 bits (P); a larger heap takes 64 bits (Q)."""
_CODES = {pa.int8(): "I", pa.int16(): "I", pa.int32(): "J", pa.int64(): "K", pa.uint8(): "I", pa.uint16(): "J"}
_CODES |= {pa.uint32(): "K", pa.uint64(): "K", pa.float32(): "E", pa.float64(): "D", pa.bool_(): "L", pa.string(): "A"}
_DTYPES = {"I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "L": "u1", "A": "S"}


@dataclass
class _Column:
    """A column and what a look at all rows finds.

    rows; entries of its longest text or list and of all of them; of whole numbers and truths whether some are missing,
    and of whole numbers whether one is `null`.
    """

    field: pa.Field
    code: str
    rows: int = 0
    longest: int = 0
    entries: int = 0
    missing: bool = False
    least: bool = False

    @property
    def on_heap(self) -> bool:
        if self.code == "A":
            return self.rows * self.longest > FIXED_BYTES
        return is_list(self.field.type)

    @property
    def heap_bytes(self) -> int:
        return self.entries * self.value_dtype.itemsize if self.on_heap else 0

    @property
    def value_dtype(self) -> np.dtype:
        return np.dtype("u1" if self.code == "A" else _DTYPES[self.code])

    @property
    def null(self) -> int | None:
        """What stands for a missing whole number, where some are missing: the least of its type."""
        return int(np.iinfo(_DTYPES[self.code]).min) if self.code in "IJK" else None


def write_fits(rows: Rows, stream: BinaryIO) -> int:
    """Write the rows as an empty primary HDU and a binary table; returns how many there are.

    Raises
    ------
    ExportError : a column that FITS cannot hold, or too many; whole numbers of which some are missing and one is the
        least of its type, which stands for them, or of which some are missing within lists.
    """
    columns = _columns(rows.path, rows.schema)
    count = 0
    for batch in rows.batches():
        count += len(batch)
        for column in columns:
            _look(column, batch[column.field.name])
    for column in columns:
        if column.missing and column.least:
            raise ExportError(
                f"{rows.path}: column {column.field.name!r} has missing numbers, for which {column.null} stands in "
                "FITS, and that number, too; give the missing ones a value of their own, or write a VOTable"
            )
    heap_bytes = sum(column.heap_bytes for column in columns)
    wide = heap_bytes > LARGEST_OFFSET
    dtype = np.dtype([(f"f{i}", _row_type(column, wide)) for i, column in enumerate(columns)])
    stream.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
    stream.write(_header(columns, count, dtype.itemsize, heap_bytes, wide).tostring().encode("ascii"))
    with tempfile.TemporaryFile() as heap:
        for batch in filter(len, rows.batches()):
            table = np.zeros(len(batch), dtype)
            for i, column in enumerate(columns):
                _fill(table[f"f{i}"], column, batch[column.field.name], heap)
            stream.write(table.tobytes())
        heap.seek(0)
        shutil.copyfileobj(heap, stream, COPY_BYTES)
    stream.write(bytes(-(count * dtype.itemsize + heap_bytes) % BLOCK))
    return count


def _columns(path: Place, schema: pa.Schema) -> list[_Column]:
    if not 0 < len(schema) <= MOST_COLUMNS:
        raise ExportError(f"{path} has {len(schema)} columns, a FITS table 1 to {MOST_COLUMNS}; leave some out")
    found = []
    for field in schema:
        check_type(path, field)
        kind = field.type.value_type if is_list(field.type) else field.type
        found.append(_Column(field, _CODES[kind]))
    return found


def _look(column: _Column, values: pa.Array) -> None:
    """Take note of how long its texts or lists are, and of what is missing."""
    column.rows += len(values)
    column.missing |= values.null_count > 0
    if column.code == "L" and values.null_count:
        column.code = "I"
    elif column.code == "A":
        _count(column, pc.fill_null(pc.binary_length(_ascii(values)), 0).to_numpy(zero_copy_only=False))
    elif is_list(values.type):
        _count(column, list_lengths(values))
    elif pa.types.is_signed_integer(values.type):
        column.least |= pc.min(values).as_py() == column.null


def _count(column: _Column, lengths: np.ndarray) -> None:
    column.longest = max(column.longest, int(lengths.max(initial=0)))
    column.entries += int(lengths.sum())


def _row_type(column: _Column, wide: bool) -> object:
    if column.on_heap:
        return (">i8" if wide else ">i4", (2,))
    return f"S{max(column.longest, 1)}" if column.code == "A" else _DTYPES[column.code]


def _header(columns: list[_Column], count: int, row_bytes: int, heap_bytes: int, wide: bool) -> fits.Header:
    header = fits.BinTableHDU().header
    header["NAXIS1"], header["NAXIS2"], header["PCOUNT"] = row_bytes, count, heap_bytes
    header["TFIELDS"] = len(columns)
    header["EXTNAME"] = "SOURCES"
    header["CREATOR"] = ("skysom", "software that wrote this file")
    for number, column in enumerate(columns, 1):
        form = f"{max(column.longest, 1)}A" if column.code == "A" else column.code
        if column.on_heap:
            form = f"1{'Q' if wide else 'P'}{column.code}({column.longest})"
        cards = {
            "TTYPE": column.field.name,
            "TFORM": form,
            "TUNIT": text_of(column.field, "unit"),
            "TUCD": text_of(column.field, "ucd"),
            "TCOMM": text_of(column.field, "description"),
        }
        for key, text in cards.items():
            if text:
                header[f"{key}{number}"] = text.encode("ascii", "backslashreplace").decode()
        if column.null is not None and column.missing and not column.on_heap:
            header[f"TNULL{number}"] = column.null
    return header


def _fill(out: np.ndarray, column: _Column, values: pa.Array, heap: BinaryIO) -> None:
    """Put a column of a batch into its place in the rows, what belongs there onto the heap."""
    if column.code == "A" and not column.on_heap:
        padded = pc.ascii_rpad(pc.fill_null(_ascii(values), ""), out.dtype.itemsize, padding="\0")
        out[:] = np.frombuffer(padded.cast(pa.binary(out.dtype.itemsize)).buffers()[1], out.dtype, len(out))
    elif column.on_heap:
        lengths, content = _heap_content(column, values)
        ends = np.cumsum(lengths) * column.value_dtype.itemsize + heap.tell()
        out[:, 0] = lengths
        out[:, 1] = np.where(lengths > 0, ends - lengths * column.value_dtype.itemsize, 0)
        heap.write(content)
    elif column.code == "L":
        out[:] = np.where(values.to_numpy(zero_copy_only=False), ord("T"), ord("F"))
    else:
        out[:] = _numbers(column, values)


def _heap_content(column: _Column, values: pa.Array) -> tuple[np.ndarray, bytes]:
    """Lengths (n,) of the lists, and all their values one after the other."""
    if column.code == "A":
        texts = pc.fill_null(_ascii(values), "")
        lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
        return lengths, "".join(texts.to_pylist()).encode("ascii")
    return list_lengths(values), _numbers(column, listed_numbers(column.field.name, values)).tobytes()


def _numbers(column: _Column, values: pa.Array) -> np.ndarray:
    """Numbers (n,) in the type of the file; missing ones as `_Column.null` or NaN."""
    whole = column.null is not None
    try:
        wide = values.cast(pa.int64()) if whole else values
        numbers = pc.fill_null(wide, column.null if whole else float("nan")).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise ExportError(f"column {column.field.name!r} holds numbers beyond those of FITS ({error})") from error
    return numbers.astype(column.value_dtype)


def _ascii(values: pa.Array) -> pa.Array:
    """Text in ASCII, lists of it joined."""
    texts = joined_texts(values) if is_list(values.type) else values
    if pc.all(pc.string_is_ascii(texts)).as_py() in (True, None):
        return texts
    plain = [text and text.encode("ascii", "backslashreplace").decode() for text in texts.to_pylist()]
    return pa.array(plain, pa.string())

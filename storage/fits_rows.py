"""Rows of a FITS table as Arrow tables, any range of them at a time, so that a table larger than memory can be read."""

import re
import warnings
from typing import IO, Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.table import Table

from skysom.storage.errors import CatalogueError
from skysom.storage.fits import BLOCK, DataUnit

_DESCRIPTOR = re.compile(r"\s*1?([PQ])")
"""TFORM of a column whose values lie in the heap: a row holds their number and place."""


class FitsRows:
    """A binary or text table in an open stream.

    Attributes: ``rows`` and ``row_bytes``; ``schema`` of what `read` gives; ``units`` of columns that have one;
    ``dropped``, the columns that hold arrays or complex numbers.

    Raises
    ------
    CatalogueError : no rows, or two columns of one name.
    """

    def __init__(self, stream: IO[bytes], unit: DataUnit) -> None:
        header = unit.header
        self.rows, self.row_bytes = int(header["NAXIS2"]), int(header["NAXIS1"])
        heap = int(header.get("PCOUNT", 0))
        self._stream, self._start = stream, unit.end - self.rows * self.row_bytes - heap
        self._header = self._without_heap(header)
        names = [str(header.get(f"TTYPE{n}", f"col{n}")).strip() for n in range(1, int(header["TFIELDS"]) + 1)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise CatalogueError(
                f"the FITS table has more than one column named {', '.join(map(repr, twice))}; rename one of each"
            )
        if not self.rows:
            raise CatalogueError("the FITS table has 0 rows; it needs at least one")
        first = self._table(0, 1)
        self.dropped = tuple(name for name in first.colnames if first[name].ndim != 1 or first[name].dtype.kind == "c")
        self.units = {
            name: str(first[name].unit)
            for name in first.colnames
            if first[name].unit is not None and name not in self.dropped
        }
        self.schema = self.read(0, 1).schema

    def read(self, first: int, count: int) -> pa.Table:
        """Rows ``first`` to ``first + count``: texts without padding, missing values null, NaN as it is."""
        table = self._table(first, count)
        kept = [name for name in table.colnames if name not in self.dropped]
        return pa.table({name: _arrow(table[name]) for name in kept})

    def _table(self, first: int, count: int) -> Table:
        self._stream.seek(self._start + first * self.row_bytes)
        data = self._stream.read(count * self.row_bytes)
        if len(data) < count * self.row_bytes:
            raise CatalogueError(f"the FITS table ends after row {first + len(data) // self.row_bytes} of {self.rows}")
        header = self._header.copy()
        header["NAXIS2"] = count
        padding = b"\0" * (-len(data) % BLOCK)
        kind = fits.TableHDU if header["XTENSION"].strip() == "TABLE" else fits.BinTableHDU
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = header.tostring().encode("ascii") + data + padding
            return Table.read(kind.fromstring(content, uint=True), format="fits")

    @staticmethod
    def _without_heap(header: fits.Header) -> fits.Header:
        """Columns of the heap read as the two numbers that stand in the row; they are dropped."""
        header = header.copy()
        header["PCOUNT"] = 0
        for key in [f"TFORM{n}" for n in range(1, int(header["TFIELDS"]) + 1)]:
            found = _DESCRIPTOR.match(str(header[key]))
            if found:
                header[key] = "2J" if found[1] == "P" else "2K"
        for key in ("THEAP", "CHECKSUM", "DATASUM"):
            header.remove(key, ignore_missing=True)
        return header


def _arrow(column: Any) -> pa.Array:
    """A column (n,) of an astropy table as an Arrow array."""
    mask = np.ma.getmaskarray(column) if hasattr(column, "mask") else None
    values = np.asarray(column)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind in "UO":
        return pa.array(values.astype(object), pa.string(), mask=mask)
    values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "f":
        return pa.array(np.where(mask, np.nan, values).astype(values.dtype) if mask is not None else values)
    return pa.array(values, mask=mask)

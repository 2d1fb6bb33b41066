"""A catalogue that is collated: which columns say where its rows are and what they are called, read in parts."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.jobs.progress import say
from skysom.storage import place as places
from skysom.storage.catalogue import NULLABLE, ROW_NUMBER, coordinates, source_ids
from skysom.storage.errors import CatalogueError
from skysom.storage.place import Place, place
from skysom.storage.table_stream import TableStream, open_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

BLOCK_ROWS = 500_000
"""Rows of a block read by default."""
RA_NAMES = ("ra_deg", "ra", "raj2000", "ra_j2000", "_raj2000")
DEC_NAMES = ("dec_deg", "dec", "dej2000", "dec_j2000", "decj2000", "_dej2000")
"""Columns taken for positions where none is named, in any case of letters; the first that is there."""
HASHED_BYTES = 4 << 30
"""Larger files are told by their length, the time they were changed, and both ends."""
END_BYTES = 16 << 20


@dataclass(frozen=True)
class CatalogueFile:
    """A catalogue file and its columns of positions (degrees) and ids.

    path : CSV, FITS table, VOTable or Parquet. rows : how many. id_column : `ROW_NUMBER` where the rows have no ids.
    row_column : of one that is cut from a larger catalogue, the column that has the rows of that.
    It is read in parts (a VOTable is not), so that it may be larger than memory.
    """

    path: Place
    ra_column: str
    dec_column: str
    id_column: str
    rows: int
    row_column: str | None = None

    @property
    def needed(self) -> list[str]:
        """Columns that `positions` and `ids` read."""
        ids = [] if self.id_column == ROW_NUMBER else [self.id_column]
        return list(dict.fromkeys([self.ra_column, self.dec_column, *ids]))

    def columns(self) -> list[str]:
        """Names of the columns that hold one value a row."""
        return list(_opened(self.path).schema.names)

    @property
    def units(self) -> dict[str, str]:
        """Units of the columns that have one, as the file writes them; none of a catalogue without rows."""
        return dict(_opened(self.path).units) if self.rows else {}

    def blocks(
        self, columns: Sequence[str] | None = None, rows: int = BLOCK_ROWS
    ) -> Iterator[tuple[int, "pd.DataFrame"]]:
        """(first row, table) of consecutive blocks of about ``rows`` rows with ``columns`` (default all).

        The index of a table counts the rows of the catalogue. CatalogueError : a file that cannot be read, or a column
        it has not.
        """
        stream = _opened(self.path)
        for first, part in stream.parts(columns, rows):
            yield first, _frame(part, first, stream.units)

    def read(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """All rows of ``columns`` (default all), index and types as `blocks`."""
        stream = _opened(self.path)
        return _frame(stream.table(columns), 0, stream.units)

    def selected(
        self, columns: Sequence[str], choose: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> "pd.DataFrame":
        """Rows of ``columns`` that ``choose`` picks (places (k,) in a block) by their RA and Dec, indexed by row."""
        import pandas as pd

        stream, parts = _opened(self.path), []
        places = [self.ra_column, self.dec_column]
        for first, part in stream.parts(list(dict.fromkeys([*places, *columns])), BLOCK_ROWS):
            found = choose(*self.positions(_frame(part.select(places), first, stream.units)))
            frame = _frame(part.select(columns).take(found), 0, stream.units)
            parts.append(frame.set_index(pd.Index(first + np.asarray(found, np.int64))))
        return pd.concat([part for part in parts if len(part)] or parts[:1])

    def positions(self, table: "pd.DataFrame") -> tuple[np.ndarray, np.ndarray]:
        """RA and Dec (n,) float64 degrees of a block, NaN in rows that have none; raises as `catalogue.coordinates`."""
        return coordinates(table, self.ra_column, self.dec_column)

    def ids(self, table: "pd.DataFrame", first: int) -> np.ndarray:
        """Ids (n,) object array of text of a block that begins at row ``first``."""
        if self.id_column == ROW_NUMBER:
            return np.array([str(first + row) for row in range(len(table))], object)
        return source_ids(table, self.id_column, first)[0]

    def id_texts(self, table: "pd.DataFrame") -> "pa.LargeStringArray":
        """`ids` of all rows (n,) as an Arrow array, which is made in a tenth of the time and memory."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = pa.Array.from_pandas(table[self.id_column])
        if not (pa.types.is_integer(values.type) or _is_text(values.type)):
            return pa.array(self.ids(table, 0), pa.large_string())
        texts = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
        texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
        empty = np.flatnonzero(pc.equal(pc.fill_null(texts, ""), "").to_numpy(zero_copy_only=False))
        if not len(empty):
            return texts
        named = np.zeros(len(texts), bool)
        named[empty] = True
        return pc.replace_with_mask(
            texts, pa.array(named), pa.array([f"row-{row}" for row in empty], pa.large_string())
        )


def repeated(ids: "pa.LargeStringArray") -> np.ndarray:
    """Whether an earlier row has the same id, (n,) bool; as `catalogue.duplicate_rows`."""
    import pyarrow.compute as pc

    first = pc.index_in(ids, value_set=ids).to_numpy(zero_copy_only=False)
    return np.asarray(first != np.arange(len(ids)))


@dataclass(frozen=True)
class CatalogueChoice:
    """A catalogue as the user names it: a file, and its columns where they are not to be found by their names."""

    path: str | Place
    ra_column: str | None = None
    dec_column: str | None = None
    id_column: str | None = None


def open_catalogue(choice: CatalogueChoice) -> CatalogueFile:
    """Find the columns of positions and ids of a catalogue; a CSV file is read for it once.

    Raises
    ------
    CatalogueError : a file that cannot be read, or a named column it has not.
    ConfigError : no such file; no column of positions is named, and none is known by its name; one for both.
    """
    path = place(choice.path)
    if not places.is_file(path):
        raise ConfigError(f"--catalogue {path}: there is no such file; give a CSV, FITS, VOTable or Parquet file")
    if isinstance(path, Path):
        path = path.absolute()  # workers may run in other folders
    stream = _opened(path)
    columns, rows = list(stream.schema.names), stream.rows or 0
    ra = _column(path, columns, choice.ra_column, RA_NAMES, "--ra-column")
    dec = _column(path, columns, choice.dec_column, DEC_NAMES, "--dec-column")
    if ra == dec:
        raise ConfigError(f"{path}: RA and Dec are both column {ra!r}; name two with --ra-column and --dec-column")
    if choice.id_column is None or choice.id_column == ROW_NUMBER:
        lower = {name.lower(): name for name in reversed(columns)}
        known = next((lower[name] for name in ("source_id", "name") if name in lower), ROW_NUMBER)
        ids = choice.id_column or known
    elif choice.id_column in columns:
        ids = choice.id_column
    else:
        raise CatalogueError(f"{path} has no column {choice.id_column!r} (--id-column); it has {', '.join(columns)}")
    return CatalogueFile(path, ra, dec, ids, rows)


def checked_positions(file: CatalogueFile, table: "pd.DataFrame") -> tuple[np.ndarray, np.ndarray]:
    """RA and Dec (n,) float64 degrees of all rows in ``table``, NaN where there is none, counted in a line.

    Raises
    ------
    CatalogueError : columns that are sexagesimal, not numeric or in another unit than degrees.
    ConfigError : most values are off the sky: they are no degrees.
    """
    found = file.positions(table)
    _judge(file, [_lost(file, table, found[0])])
    return found


def check_positions(file: CatalogueFile) -> None:
    """`checked_positions` of a whole catalogue, block by block; nothing is kept."""
    blocks = file.blocks([file.ra_column, file.dec_column])
    _judge(file, [_lost(file, block, file.positions(block)[0]) for _, block in blocks])


def _lost(file: CatalogueFile, table: "pd.DataFrame", ra: np.ndarray) -> tuple[int, int, str]:
    """Rows without a position, those of them that have numbers off the sky, and an example of the latter."""
    bad = ~np.isfinite(ra)
    if not bad.any():
        return 0, 0, ""
    off = np.flatnonzero(bad & table[[file.ra_column, file.dec_column]].notna().all(axis=1).to_numpy())
    if not len(off):
        return int(bad.sum()), 0, ""
    row = table.iloc[int(off[0])]
    shown = f"{file.ra_column} {row[file.ra_column]}, {file.dec_column} {row[file.dec_column]}"
    return int(bad.sum()), len(off), f", such as row {row.name}: {shown}"


def _judge(file: CatalogueFile, lost: Sequence[tuple[int, int, str]]) -> None:
    bad, off = sum(each[0] for each in lost), sum(each[1] for each in lost)
    if not bad:
        return
    example = next((each[2] for each in lost if each[2]), "")
    if bad == file.rows or 2 * off > file.rows:
        raise ConfigError(
            f"{file.path}: {bad:,} of {file.rows:,} rows have no position in degrees, RA 0 to 360 and Dec -90 to 90"
            f"{example}; name the columns with --ra-column and --dec-column, or convert their units"
        )
    what = f" ({off:,} of them are off the sky{example})" if off else ""
    say(f"collate: {bad:,} of {file.rows:,} rows of {file.path.name} have no position{what}; they are left alone")


def same_file(one: CatalogueFile, other: CatalogueFile) -> bool:
    """Whether two catalogues are one file. ConfigError where it is read by different columns."""
    a, b = one.path, other.path
    same = a.resolve() == b.resolve() if isinstance(a, Path) and isinstance(b, Path) else str(a) == str(b)
    if same and (one.ra_column, one.dec_column) != (other.ra_column, other.dec_column):
        raise ConfigError(
            f"{a} is given twice, with positions in {one.ra_column}, {one.dec_column} and in {other.ra_column}, "
            f"{other.dec_column}; name the same columns, or give a copy"
        )
    return same


def fingerprint(path: Place) -> dict[str, Any]:
    """What tells one content of a file from another: its length and a hash of it.

    Of a file of more than 4 GiB only both ends are hashed, and the time it was changed is taken, too.
    """
    with places.open_binary(path) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if size <= HASHED_BYTES:
            return {"bytes": size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
        digest = hashlib.sha256(stream.read(END_BYTES))
        stream.seek(size - END_BYTES)
        digest.update(stream.read(END_BYTES))
    changed = path.stat().st_mtime
    return {"bytes": size, "sha256_of_both_ends": digest.hexdigest(), "changed": changed}


# --- reading --------------------------------------------------------------------------------------


def _opened(path: Place) -> TableStream:
    """The catalogue as it is read in parts. Of a CSV file all values are looked at for it, so that is kept."""
    path = place(path)
    if isinstance(path, Path) and path.is_file() and ".csv" in path.name.lower():
        state = path.stat()
        return _opened_csv(path, state.st_size, state.st_mtime_ns)
    return open_table(path)


@lru_cache(maxsize=8)
def _opened_csv(path: Path, size: int, changed: int) -> TableStream:
    return open_table(path)


def _column(path: Place, columns: list[str], named: str | None, known: Sequence[str], option: str) -> str:
    if named is not None:
        if named not in columns:
            raise CatalogueError(f"{path} has no column {named!r} ({option}); it has {', '.join(columns)}")
        return named
    lower = {name.lower(): name for name in reversed(columns)}
    found = next((lower[name] for name in known if name in lower), None)
    if found is None:
        raise ConfigError(
            f"{path} has none of the columns {', '.join(known)}; name one with {option}: it has {', '.join(columns)}"
        )
    return found


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _frame(table: "pa.Table", first: int, units: dict[str, str]) -> "pd.DataFrame":
    """Types follow from the schema, whatever values are missing: whole numbers are nullable."""
    import pandas as pd

    index = pd.RangeIndex(first, first + len(table))
    columns = {name: table[name].to_pandas(types_mapper=NULLABLE.get).set_axis(index) for name in table.column_names}
    frame = pd.DataFrame(columns, index=index)
    frame.attrs = {"units": {name: unit for name, unit in units.items() if name in columns}}
    return frame

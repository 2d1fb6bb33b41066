"""Results to the catalogue that a survey began with: its rows and columns as they are, and what skysom found of each.

The catalogue is read in parts, so it may be larger than memory; the columns of results that are carried are in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.columns import chosen_columns, chosen_rows, frame_of, joined_names, position_columns, renamed
from skysom.jobs.progress import Progress, say
from skysom.storage import place as places
from skysom.storage.catalogue import file_names, source_ids
from skysom.storage.hats import ROW_COLUMN
from skysom.storage.place import Place, place
from skysom.storage.table_stream import TableStream, is_hats, open_table

if TYPE_CHECKING:
    import pyarrow as pa

MARK = "duplicate_id"
"""Column that tells rows whose id is there more than once."""
SUFFIX = "_skysom"
HASHED_IDS = 1_000_000
"""Ids that are turned to Python texts at a time."""
NO_RESULTS = ("row", "id", "ra_deg", "dec_deg")
"""Columns of components that say which row of the catalogue they are: the catalogue has them."""


@dataclass(frozen=True)
class ResultsJoined:
    """What joining results gave.

    rows : of the catalogue. matched : of these with a result. unused : results that no row asked for. duplicates : ids
    that are there more than once. written : rows for which ``where`` holds. renamed : columns of results, {old: new}.
    no_id : results without an id, which are of no row. mark : the column `MARK` as the result calls it.
    """

    rows: int
    matched: int
    unused: int
    duplicates: int
    written: int
    renamed: dict[str, str] = field(default_factory=dict)
    no_id: int = 0
    mark: str = MARK

    def __str__(self) -> str:
        text = f"{self.matched:,} of {self.rows:,} rows have results"
        text += ", the others are kept with empty values" if self.matched < self.rows else ""
        text += f"; {self.unused:,} results are of no row" if self.unused else ""
        text += f"; {self.no_id:,} results have no id, and so are of no row" if self.no_id else ""
        text += f"; {self.duplicates:,} ids are there more than once ({self.mark})" if self.duplicates else ""
        return text + (f"; {self.written:,} rows were selected and written" if self.written < self.rows else "")


@dataclass(frozen=True)
class ResultsJoin:
    """What is joined, and how.

    id_column : of the catalogue; by default its source_id or name, or else the row number, as `skysom ingest` does.
    columns : of the results, by default all that skysom made. source_columns : of a collation's ``sources.parquet``,
    for every component of the source. duplicates : "refuse" ids that are there more than once, or "mark" their rows in
    the column `MARK`: then the first row of an id gets its first result, the second one the second, if there is one.
    suffix : of result columns whose name is taken, by the catalogue or by `MARK`. ra, dec : columns of degrees, for an
    output in HATS. where : an expression on columns of the result; only rows for which it holds are written.
    """

    id_column: str | None = None
    columns: Sequence[str] | None = None
    source_columns: Sequence[str] = ()
    duplicates: Literal["refuse", "mark"] = "refuse"
    suffix: str = SUFFIX
    ra: str | None = None
    dec: str | None = None
    where: str | None = None


def join_results(
    results: str | Place,
    catalogue: str | Place,
    output: str | Place,
    settings: ResultsJoin | None = None,
    *,
    overwrite: bool = False,
) -> ResultsJoined:
    """Write a catalogue with the results of its rows, by id: every row stays, in its order, with all its columns (but
    those that `open_table` leaves out, which is said).

    Values and types are those of the results; where a row has none they are missing (integers stay integers).

    Parameters
    ----------
    results : the directory of a survey (its columns of the mapping, status and labels), of a collation (its
        ``components.parquet``: which source each component is in), or any catalogue with ids.
    catalogue : CSV, FITS table, VOTable, Parquet or HATS; may be larger than memory.

    Raises
    ------
    ConfigError : no row with a result, duplicates, columns that are not there. CatalogueError : unreadable files, an
    expression that does not fit.
    """
    from skysom.jobs.joins.output import check_output, write_tables

    settings = settings or ResultsJoin()
    target = check_output(output, overwrite)
    stream = open_table(catalogue, lists=True)
    if stream.dropped_note:
        say(f"join: {stream.dropped_note}")
    positions = None if target.suffix else position_columns(stream, settings.ra, settings.dec, "")
    found, table = _results(place(results), settings)
    if found.null_count:
        table = table.filter(found.is_valid())
    ids = found.drop_null()
    if not len(ids):
        raise ConfigError(f"none of the {len(found):,} results in {results} has an id; a source_id or name tells rows")
    keys = id_columns(stream, settings.id_column)
    lookup = _Lookup(ids, _fractions(stream, keys, settings.id_column))
    counts = lookup.counts_of(stream, keys, settings.id_column)
    twice = _twice(lookup, counts, stream, settings)
    kept = [name for name in stream.schema.names if name != ROW_COLUMN]
    made = joined_names(kept, [MARK] if twice.any() else [], settings.suffix)
    names = joined_names([*kept, *made.values()], table.column_names, settings.suffix)
    if told := renamed(names, made):
        say(f"join: {told}")
    joined = _Joining(stream, kept, keys, settings.id_column, lookup, table, twice, names, made, settings.where)
    chosen_rows(joined.schema.empty_table(), settings.where)  # says what is wrong with it before rows are read
    columns = None if positions is None else (positions.ra, positions.dec)
    written = write_tables(joined.tables(), joined.schema, target, columns, overwrite=overwrite)
    given = int(np.minimum(counts, lookup.rows).sum())
    changed = {old: new for old, new in names.items() if old != new}
    lost = len(found) - len(ids)
    mark = made.get(MARK, MARK)
    return ResultsJoined(lookup.seen, given, len(ids) - given, int(twice.sum()), written, changed, lost, mark)


# --- results --------------------------------------------------------------------------------------


def _results(path: Place, settings: ResultsJoin) -> "tuple[pa.Array, pa.Table]":
    """Ids (n,) of the results as text, missing where they have none, and the columns of them that are carried.

    A survey calls a source without an id after its row, ``row-1``, and so finds it in its own catalogue; a row of any
    other table would be taken for that one.
    """
    import pyarrow as pa

    if places.is_file(path / "components.parquet"):
        stream = open_table(path / "components.parquet", lists=True)
        key, shown = "id", [name for name in stream.schema.names if name not in NO_RESULTS]
    elif places.is_file(path / "catalogue.parquet"):
        stream = open_table(path / "catalogue.parquet", lists=True)
        key, shown = "source_id", _added_by_jobs(path, stream)
    elif places.is_file(path):
        stream = open_table(path, lists=True)
        key, shown = "", list(stream.schema.names)
    else:
        raise ConfigError(
            f"{path} holds no results: no catalogue.parquet (a survey) and no components.parquet (a collation)"
        )
    if settings.source_columns and key != "id":
        raise ConfigError(f"{path} is no collation; columns of sources (--source-column) are those of one")
    chosen = shown if settings.columns is None else chosen_columns(stream, settings.columns, "--column")
    needed = dict.fromkeys([*chosen, *([key] if key else []), *(["source"] if settings.source_columns else [])])
    table = stream.table(list(needed) if key else None)
    if key:
        ids = table[key].cast(pa.string()).combine_chunks()
    else:
        frame = frame_of(table.select(id_columns(stream, None)))
        found, key = source_ids(frame)
        named = file_names(frame, key)  # None where missing or blank; row numbers are no column
        lost = np.array([name is None for name in named]) if named is not None else None
        ids = pa.array(found, pa.string(), mask=lost)
    carried = table.select([name for name in chosen if name != key])
    if settings.source_columns:
        carried = _with_sources(path / "sources.parquet", carried, table["source"], settings.source_columns)
    return ids, carried


def _added_by_jobs(path: Place, stream: TableStream) -> list[str]:
    """Columns of a survey's catalogue that are results: of the mapping, and those that commands derived from it."""
    from skysom.jobs.derived import makers
    from skysom.jobs.results import RESULT_COLUMNS

    derived = makers(path / ".skysom")
    return [name for name in stream.schema.names if name in RESULT_COLUMNS or name in derived]


def _with_sources(path: Place, carried: "pa.Table", source: Any, names: Sequence[str]) -> "pa.Table":
    """Columns of the source that each component is in."""
    import pyarrow.compute as pc

    stream = open_table(path, lists=True)
    table = stream.table(list(dict.fromkeys(["source", *chosen_columns(stream, names, "--source-column")])))
    place_of = pc.index_in(source, value_set=table["source"].combine_chunks())
    for name, new in joined_names(carried.column_names, names, "_source").items():
        carried = carried.append_column(table.schema.field(name).with_name(new), table[name].take(place_of))
    return carried


# --- ids ------------------------------------------------------------------------------------------


class _Lookup:
    """Results by id: ``ids`` (k,) each once, how many ``rows`` (k,) each has, and which. 32 bytes an id besides.

    An id is looked for by its hash of 64 bits, and then compared. ``seen``: rows that `counts_of` has looked at.
    fractions : whether the ids of the catalogue are numbers that are not all whole, see `_fractions`.
    """

    def __init__(self, ids: "pa.Array", fractions: bool = False) -> None:
        import pyarrow.compute as pc

        self._fractions, self.seen = fractions, 0
        encoded = pc.dictionary_encode(ids.fill_null(""))
        self.ids = encoded.dictionary
        number = encoded.indices.to_numpy()
        self.rows = np.bincount(number, minlength=len(self.ids))
        self._order = np.argsort(number, kind="stable")
        self._starts = np.cumsum(self.rows) - self.rows
        self._key = next(key for key in map("{:016d}".format, range(100)) if self._hashed(key))
        self.column, self.example = "", ""

    def _hashed(self, key: str) -> bool:
        """Whether no two ids have the same hash with this key; as good as certain."""
        pieces = [self.ids.slice(start, HASHED_IDS) for start in range(0, len(self.ids), HASHED_IDS)]
        hashes = np.concatenate([_hashes(piece.to_numpy(zero_copy_only=False), key) for piece in pieces])
        self._places = np.argsort(hashes)
        self._hashes = hashes[self._places]
        return bool((self._hashes[1:] != self._hashes[:-1]).all())

    def counts_of(self, stream: TableStream, names: list[str], id_column: str | None) -> np.ndarray:
        """How many rows (k,) of a catalogue have each id."""
        counts = np.zeros(len(self.ids), np.int64)
        with Progress("join: ids", unit="rows") as progress:
            for first, part in stream.parts(names):
                number = self.numbers(part, id_column, first)
                counts += np.bincount(number[number >= 0], minlength=len(self.ids))
                self.seen = first + len(part)
                progress(first + len(part), max(stream.rows or 0, first + len(part)))
        return counts

    def numbers(self, part: "pa.Table", id_column: str | None, first: int) -> np.ndarray:
        """Which of the ids (n,) the rows of a part have, -1 for another; ``part`` has the columns of ids only."""
        import pyarrow as pa

        frame = frame_of(part)
        if self._fractions:  # as objects they are written as they are, even where those of this part are whole
            frame = frame.astype(object)
        texts, self.column = source_ids(frame, id_column, first)
        self.example = str(texts[0])
        hashes = _hashes(texts, self._key)
        place = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        number = np.where(self._hashes[place] == hashes, self._places[place], -1)
        known = np.flatnonzero(number >= 0)
        same = np.asarray(self.ids.take(pa.array(number[known])).to_numpy(zero_copy_only=False) == texts[known])
        number[known[~same]] = -1
        return number

    def taken(self, number: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Rows (n,) of the results, -1 where there is none; ``seen`` (k,) counts the rows of each id, and goes on."""
        known = np.flatnonzero(number >= 0)
        ids = number[known]
        order = np.argsort(ids, kind="stable")
        begins = np.flatnonzero(np.diff(ids[order], prepend=-1))
        lengths = np.diff(begins, append=len(ids))
        occurrence = np.empty(len(ids), np.int64)
        occurrence[order] = np.arange(len(ids)) - np.repeat(begins, lengths)
        occurrence += seen[ids]
        seen += np.bincount(ids, minlength=len(seen))
        rows = np.full(len(number), -1, np.int64)
        there = occurrence < self.rows[ids]
        rows[known[there]] = self._order[self._starts[ids[there]] + occurrence[there]]
        return rows


def _hashes(texts: np.ndarray, key: str) -> np.ndarray:
    from pandas.util import hash_array

    return np.asarray(hash_array(np.asarray(texts, object), hash_key=key, categorize=False))


def id_columns(stream: TableStream, id_column: str | None) -> list[str]:
    """Columns that `source_ids` looks at: the named one, or those it may choose; any where ids are row numbers.

    ConfigError : a column that is not there, or none in HATS, which is in another order than the survey.
    """
    names = [name for name in stream.schema.names if name.lower() in ("source_id", "name")]
    if id_column is not None:
        names = chosen_columns(stream, [id_column], "--id")
    elif not names and is_hats(stream.path):
        raise ConfigError(f"{stream.path} has no column source_id or name; name that of the ids with --id")
    return names or stream.schema.names[:1]


def _fractions(stream: TableStream, keys: list[str], id_column: str | None) -> bool:
    """Whether ids are floating-point numbers and some are not whole; if all are, they are written as integers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = source_ids(frame_of(stream.schema.empty_table().select(keys)), id_column)[1]
    if column not in keys or not pa.types.is_floating(stream.schema.field(column).type):
        return False
    return any(pc.any(pc.not_equal(part[column], pc.floor(part[column]))).as_py() for _, part in stream.parts([column]))


def _twice(lookup: _Lookup, counts: np.ndarray, stream: TableStream, settings: ResultsJoin) -> np.ndarray:
    """Which ids (k,) are there more than once; ConfigError where those are refused, or where no row has a result."""
    if not counts.any():
        raise ConfigError(
            f"no row of {stream.path} has an id of the results, such as {lookup.ids[0].as_py()!r}; the catalogue has "
            f"{lookup.example!r} in {lookup.column!r}: name the column of ids with --id"
        )
    twice = np.asarray((counts > 0) & ((counts > 1) | (lookup.rows > 1)))
    if settings.duplicates == "mark" or not twice.any():
        return twice
    worst = int(np.flatnonzero(twice)[0])
    raise ConfigError(
        f"{int(twice.sum()):,} ids are there more than once, such as {lookup.ids[worst].as_py()!r}: in {counts[worst]} "
        f"rows of {stream.path} and {lookup.rows[worst]} of the results; give --duplicates mark, or make them unique"
    )


# --- joining --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Joining:
    """A catalogue that is read in parts, and what its rows get."""

    stream: TableStream
    kept: list[str]
    keys: list[str]
    id_column: str | None
    lookup: _Lookup
    table: "pa.Table"
    twice: np.ndarray
    names: dict[str, str]
    made: dict[str, str]
    where: str | None

    @property
    def schema(self) -> "pa.Schema":
        """Of the result: the catalogue's columns, those of the results, the mark of duplicates if there are any."""
        import pyarrow as pa

        own = [self.stream.schema.field(name) for name in self.kept]
        added = [one.with_name(self.names[one.name]) for one in self.table.schema]
        return pa.schema([*own, *added, *(pa.field(name, pa.bool_()) for name in self.made.values())])

    def tables(self) -> "Iterator[pa.Table]":
        """The rows of the catalogue that are selected in their order, part by part."""
        import pyarrow as pa

        seen, schema = np.zeros(len(self.lookup.ids), np.int64), self.schema
        with Progress("join: rows", unit="rows") as progress:
            for first, part in self.stream.parts():
                number = self.lookup.numbers(part.select(self.keys), self.id_column, first)
                rows = self.lookup.taken(number, seen)
                taken = self.table.take(pa.array(rows, mask=rows < 0))
                columns = [*part.select(self.kept).columns, *taken.columns]
                if self.made:
                    columns.append(pa.array((number >= 0) & self.twice[np.maximum(number, 0)]))
                joined = pa.Table.from_arrays(columns, schema=schema)
                yield joined.filter(pa.array(chosen_rows(joined, self.where)))
                progress(first + len(part), max(self.stream.rows or 0, first + len(part)))

"""Cross-match by position: one interface, and the same answer, for catalogues in memory and larger than memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.columns import (
    PositionColumns,
    chosen_columns,
    chosen_rows,
    joined_names,
    numeric_schema,
    position_columns,
    renamed,
    with_numeric_positions,
)
from skysom.jobs.joins.pairs import How, Pairs, Positions, check_radius, one_to_one
from skysom.jobs.progress import say
from skysom.storage.hats import INDEX_COLUMN, ROW_COLUMN
from skysom.storage.place import Place
from skysom.storage.selection import column_names
from skysom.storage.table_stream import TableStream, open_table

if TYPE_CHECKING:
    import pyarrow as pa

SEPARATION, RANK = "separation_arcsec", "rank"
LSDB_SEPARATION, LSDB_RANK, ADDED = "_skysom_separation", "_skysom_rank", "_skysom_added"
"""Columns of a match as LSDB carries them, and the suffix of all right columns."""
OWN = "_skysom_"
"""How the names begin that skysom gives to columns while it matches."""
RESERVED = {INDEX_COLUMN, ROW_COLUMN}
"""Columns that HATS catalogues have for themselves; a result has none of them from its sides."""
SMALL_BYTES = 2**29
"""Catalogues that take less in memory, together, are matched in memory."""

Backend = Literal["auto", "astropy", "lsdb"]


@dataclass(frozen=True)
class SkyJoin:
    """What is matched with what.

    radius_arcsec : farthest that rows of a pair are apart. how : "nearest" (a left row with its nearest right row),
    "all" (with all of them, nearest first) or "one-to-one" (closest pairs first, no row twice; see `joins.pairs`).
    keep : "left" keeps left rows without a match, with empty values, "inner" leaves them out. not_self : both sides are
    one catalogue, and a row is not matched with itself. left_ra ... right_dec : columns of degrees, by default those
    known by their names. left_where, right_where : rows for which these expressions do not hold are as if they were not
    in the catalogue. where : only rows of the result for which this holds. right_columns : of the right catalogue that
    the result gets, by default all. suffix : of added columns whose name is taken: the left columns keep theirs, then
    come `SEPARATION` and `RANK`, then the right columns.
    """

    radius_arcsec: float
    how: How = "nearest"
    keep: Literal["left", "inner"] = "left"
    not_self: bool = False
    left_ra: str | None = None
    left_dec: str | None = None
    right_ra: str | None = None
    right_dec: str | None = None
    left_where: str | None = None
    right_where: str | None = None
    where: str | None = None
    right_columns: Sequence[str] | None = None
    suffix: str = "_right"


@dataclass(frozen=True)
class Joined:
    """What a cross-match gave.

    backend : that was used. left, right : rows that were selected. left_lost, right_lost : of these, without a position
    (None where the rows of a HATS catalogue were selected by an expression as they were read, and so not counted).
    matched : left rows with a match. pairs : their rows. rows : of the result, after ``where``. renamed : {old: new},
    of right columns and those that the join makes; where both had one name and lost it, that of the right column.
    """

    backend: str
    left: int | None
    right: int | None
    left_lost: int
    right_lost: int | None
    matched: int
    pairs: int
    rows: int
    renamed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        of = "" if self.left is None else f"of {self.left:,} "
        right = "unknown" if self.right_lost is None else f"{self.right_lost:,}"
        lost = f"; without a position: {self.left_lost:,} left, {right} right"
        return (
            f"{self.matched:,} {of}left rows matched ({self.pairs:,} pairs), with {self.backend}; "
            f"{self.rows:,} rows written" + (lost if self.left_lost or self.right_lost else "")
        )


@dataclass(frozen=True)
class SkyPlan:
    """Settings with everything looked up: columns, their names in the result, and its types.

    names : of right columns in the result. made : of `SEPARATION` and `RANK` in it. schema : of the result.
    """

    settings: SkyJoin
    left: PositionColumns
    right: PositionColumns
    left_columns: tuple[str, ...]
    right_columns: tuple[str, ...]
    names: dict[str, str]
    made: dict[str, str]
    schema: "pa.Schema"

    @classmethod
    def of(cls, left: TableStream, right: TableStream, settings: SkyJoin) -> "SkyPlan":
        """Raises ConfigError or CatalogueError for settings that do not fit the catalogues."""
        import pyarrow as pa

        check_radius(settings.radius_arcsec)
        if settings.how == "one-to-one" and settings.not_self:
            raise ConfigError("one-to-one with not-self would give each pair of a catalogue twice; use nearest or all")
        if settings.not_self and _named(left) != _named(right):
            raise ConfigError(
                f"not-self is for a catalogue with itself, and the sides are {left.path} and {right.path}; give one of "
                "them twice, or leave it out"
            )
        columns = (
            position_columns(left, settings.left_ra, settings.left_dec, "left"),
            position_columns(right, settings.right_ra, settings.right_dec, "right"),
        )
        left_columns = [name for name in left.schema.names if name not in RESERVED]
        _check_own(left, left_columns)
        chosen = chosen_columns(right, settings.right_columns, "--right-column")
        right_columns = [name for name in chosen if name not in RESERVED]
        made = joined_names([*left_columns, *RESERVED], [SEPARATION, RANK], settings.suffix)
        names = joined_names([*left_columns, *RESERVED, *made.values()], right_columns, settings.suffix)
        types = numeric_schema(left.schema, columns[0]), numeric_schema(right.schema, columns[1])
        fields = [types[0].field(name) for name in left_columns]
        fields += [types[1].field(name).with_name(names[name]) for name in right_columns]
        fields += [pa.field(made[SEPARATION], pa.float64()), pa.field(made[RANK], pa.int32())]
        schema = pa.schema(fields)
        for expression, known in (
            (settings.left_where, _usable(left, types[0])),
            (settings.right_where, _usable(right, types[1])),
            (settings.where, schema),
        ):
            chosen_rows(known.empty_table(), expression)  # says what is wrong with it before work starts
        return cls(settings, *columns, tuple(left_columns), tuple(right_columns), names, made, schema)

    @property
    def right_needed(self) -> tuple[str, ...]:
        """Right columns that are read: those of the result, of positions, and of the expression."""
        asked = column_names(self.settings.right_where) if self.settings.right_where else []
        return tuple(dict.fromkeys([*self.right_columns, self.right.ra, self.right.dec, *asked]))

    @property
    def carried(self) -> tuple[str, ...]:
        """What LSDB calls the columns of the result."""
        added = [f"{name}{ADDED}" for name in self.right_columns]
        return (*self.left_columns, *added, LSDB_SEPARATION, LSDB_RANK)

    def unmatched(self, table: "pa.Table", placed: np.ndarray) -> "pa.Table":
        """The result of left rows (n) that no right row can match; placed (n,) : which have a position."""
        import pyarrow as pa

        added = [pa.nulls(len(table), field.type) for field in list(self.schema)[len(self.left_columns) :]]
        return pa.Table.from_arrays([*table.select(self.left_columns).columns, *added], schema=self.schema)

    def tally(self, table: "pa.Table") -> tuple[int, int, int]:
        """Left rows of (part of) a result, those of them with a match, and pairs."""
        rank = table[self.made[RANK]].fill_null(0).to_numpy()
        first = rank <= 1 if self.settings.how == "all" else np.ones(len(rank), bool)
        return int(first.sum()), int((first & (rank > 0)).sum()), int((rank > 0).sum())

    @property
    def renamed(self) -> dict[str, str]:
        return {old: new for old, new in [*self.made.items(), *self.names.items()] if old != new}


def _check_own(stream: TableStream, names: Sequence[str]) -> None:
    """ConfigError for left columns whose names may be those that skysom gives while it matches."""
    own = [name for name in names if name.startswith(OWN) or name.endswith(ADDED)]
    if own:
        raise ConfigError(
            f"{stream.path} has a column {own[0]!r}; names that begin with {OWN} or end in {ADDED} are skysom's own "
            "while it matches: rename it"
        )


def _named(stream: TableStream) -> str:
    """A catalogue's place, the same for every way to write it."""
    return str(stream.path.resolve() if isinstance(stream.path, Path) else stream.path)


def _usable(stream: TableStream, schema: "pa.Schema") -> "pa.Schema":
    """The columns that an expression may name: what `RESERVED` names is none of the user's data."""
    import pyarrow as pa

    hidden = {INDEX_COLUMN} if stream.numbered else RESERVED
    return pa.schema([field for field in schema if field.name not in hidden])


def join_sky(
    left: str | Place,
    right: str | Place,
    settings: SkyJoin,
    output: str | Place,
    *,
    backend: Backend = "auto",
    scheduler: str | None = None,
    overwrite: bool = False,
) -> Joined:
    """Match two catalogues by position and write the left one's rows with what was found.

    The result has the left columns, the right ones, `SEPARATION` and `RANK`. With astropy it is in the order of the
    left catalogue, with LSDB in that of the sky; rows, pairs, separations and ranks are the same.

    Parameters
    ----------
    left, right : CSV, FITS table, VOTable, Parquet or HATS.
    output : .parquet, .csv, .fits, .vot, or a directory without a suffix for HATS.
    backend : "astropy" in memory, "lsdb" partition by partition, "auto" astropy if the catalogues take less than
        SMALL_BYTES together. Memory of "lsdb", measured with 3.7 million pairs: a few of the partitions a thread; with
        "all" 400 bytes for each pair of those, more where rows are long (make the left side HATS of fewer rows a
        partition first, where a crowd makes that much); with one-to-one 190 bytes for every pair within the radius.
    scheduler : of Dask, for "lsdb"; a name for `dask_scheduler`, by default `default_scheduler()`.

    Raises
    ------
    ConfigError, CatalogueError : settings that do not fit, files that cannot be read, or an output that is there.
    """
    from skysom.jobs.joins.output import check_output

    streams = open_table(left, lists=True), open_table(right, lists=True)
    plan = SkyPlan.of(*streams, settings)
    check_output(output, overwrite, plan.schema)
    tell(streams, plan)
    if chosen_backend(streams, backend) == "astropy":
        found = _join_in_memory(*streams, plan, output, overwrite)
    else:
        from skysom.jobs.joins.with_lsdb import join_by_partitions

        found = join_by_partitions(*streams, plan, output, scheduler=scheduler, overwrite=overwrite)
    tell_nothing_found(found, plan)
    return found


def tell(streams: "tuple[TableStream, TableStream]", plan: SkyPlan) -> None:
    """Say which columns are left out, and which get another name."""
    for note in dict.fromkeys(stream.dropped_note for stream in streams):
        if note:
            say(f"join: {note}")
    for stream in streams:
        taken = [name for name in stream.schema.names if name in RESERVED]
        if taken and not stream.numbered:
            say(f"join: {stream.path}: left out, as HATS has its own of the name: {', '.join(taken)}")
    if plan.renamed:
        say(f"join: {renamed(plan.names, plan.made)}")
    sides = [(_named(stream), columns) for stream, columns in zip(streams, (plan.left, plan.right), strict=True)]
    if sides[0] == sides[1] and not plan.settings.not_self and plan.settings.how != "one-to-one":
        say(f"join: both sides are {streams[0].path}, so every row finds itself; give --not-self for other rows only")


def tell_nothing_found(found: Joined, plan: SkyPlan) -> None:
    """Warn where both sides have positions and no two rows are near: one side may not be what it is taken for."""
    sides = (found.left, found.left_lost), (found.right, found.right_lost)
    placed = all(rows is None or rows > (lost or 0) for rows, lost in sides)
    if found.matched or not placed:
        return
    say(
        f"join: WARNING: nothing matched within {plan.settings.radius_arcsec:g} arcsec; are both catalogues of the "
        "same sky, with positions in degrees? "
        f"They were taken from {plan.left.ra!r} and {plan.left.dec!r} of the left, "
        f"{plan.right.ra!r} and {plan.right.dec!r} of the right catalogue (--left-ra, --right-ra ... name others)"
    )


def chosen_backend(streams: "tuple[TableStream, TableStream]", backend: Backend) -> str:
    """The backend that is used, and why; said to the user."""
    size = sum(stream.size_bytes for stream in streams)
    chosen = backend if backend != "auto" else ("astropy" if size <= SMALL_BYTES else "lsdb")
    why = "" if backend != "auto" else f": the catalogues take about {size / 2**20:,.0f} MiB in memory"
    say(f"join: matching with {chosen}{why}")
    return chosen


def _join_in_memory(
    left: TableStream, right: TableStream, plan: SkyPlan, output: str | Place, overwrite: bool
) -> Joined:
    from skysom.jobs.joins.output import write_table

    sides = (
        Side.read(left, plan.left, plan.settings.left_where),
        Side.read(right, plan.right, plan.settings.right_where),
    )
    pairs = _pairs(*sides, plan.settings)
    table = _assembled(*sides, pairs, plan)
    table = table.filter(_mask(chosen_rows(table, plan.settings.where)))
    write_table(table, output, (plan.left.ra, plan.left.dec), overwrite=overwrite)
    lefts = len(np.unique(pairs.left))
    rows, lost = [len(side.table) for side in sides], [side.lost for side in sides]
    return Joined("astropy", rows[0], rows[1], lost[0], lost[1], lefts, len(pairs), len(table), plan.renamed)


def _pairs(left: "Side", right: "Side", settings: SkyJoin) -> Pairs:
    from skysom.jobs.joins.with_astropy import matched_by_astropy

    pairs = matched_by_astropy(
        left.positions, right.positions, settings.radius_arcsec, settings.how, not_self=settings.not_self
    )
    if settings.how != "one-to-one":
        return pairs
    rows = left.positions.row[pairs.left], right.positions.row[pairs.right]
    return pairs.of(one_to_one(pairs.separation_arcsec, *rows))


@dataclass(frozen=True)
class Side:
    """The selected rows of one catalogue; ``where`` (n,) says at which rows of ``table`` the ``positions`` are."""

    table: "pa.Table"
    positions: Positions
    where: np.ndarray

    @property
    def lost(self) -> int:
        """Rows without a position."""
        return len(self.table) - len(self.positions)

    @classmethod
    def read(cls, stream: TableStream, columns: PositionColumns, expression: str | None) -> "Side":
        table = with_numeric_positions(stream.table(), columns)
        rows = table[ROW_COLUMN].to_numpy() if stream.numbered else np.arange(len(table))
        chosen = chosen_rows(table, expression)
        table, rows = table.filter(_mask(chosen)), rows[chosen]
        ra, dec = columns.of(table)
        where = np.flatnonzero(np.isfinite(ra))
        return cls(table, Positions(ra[where], dec[where], rows[where]), where)


def _assembled(left: Side, right: Side, pairs: Pairs, plan: SkyPlan) -> "pa.Table":
    """The result (n rows) in the order of the left rows, then of the ranks."""
    import pyarrow as pa

    i, j = left.where[pairs.left], right.where[pairs.right]
    alone = np.zeros(0, np.int64)
    if plan.settings.keep == "left":
        alone = np.setdiff1d(np.arange(len(left.table)), i)
    place = np.lexsort((np.concatenate([pairs.rank, np.zeros(len(alone))]), np.concatenate([i, alone])))
    missing = np.concatenate([np.zeros(len(i), bool), np.ones(len(alone), bool)])[place]

    def taken(values: Any, fill: Any) -> Any:
        return np.concatenate([values, np.full(len(alone), fill, np.asarray(values).dtype)])[place]

    rights = pa.array(taken(j, 0), mask=missing)
    lefts = pa.array(np.concatenate([i, alone])[place])
    columns = [left.table[name].take(lefts) for name in plan.left_columns]
    columns += [right.table[name].take(rights) for name in plan.right_columns]
    columns += [pa.array(taken(pairs.separation_arcsec, 0.0), mask=missing)]
    columns += [pa.array(taken(pairs.rank, 0), pa.int32(), mask=missing)]
    return pa.Table.from_arrays(columns, schema=plan.schema)


def _mask(rows: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(rows)

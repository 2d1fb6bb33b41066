"""How many rows of one catalogue lie within some radii of each row of another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.columns import chosen_rows, joined_names
from skysom.jobs.joins.pairs import check_radius, counts_within
from skysom.jobs.joins.sky import (
    RESERVED,
    Backend,
    Joined,
    Side,
    SkyJoin,
    SkyPlan,
    chosen_backend,
    tell,
    tell_nothing_found,
)
from skysom.storage.place import Place
from skysom.storage.table_stream import TableStream, open_table

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


@dataclass(frozen=True)
class CountPlan(SkyPlan):
    """A plan for counts: no right columns, but a column ``count_5arcsec`` for every radius, whose names are `made`."""

    radii_arcsec: tuple[float, ...] = ()

    @property
    def counted(self) -> list[str]:
        """What LSDB calls the counts."""
        return [f"_skysom_count_{number}" for number in range(len(self.radii_arcsec))]

    @property
    def carried(self) -> tuple[str, ...]:
        return (*self.left_columns, *self.counted)

    def tally(self, table: "pa.Table") -> tuple[int, int, int]:
        """Left rows, those with a right row within the largest radius, and such pairs."""
        widest = int(np.argmax(self.radii_arcsec))
        counts = table[self.schema.names[len(self.left_columns) + widest]].fill_null(0).to_numpy()
        return len(counts), int((counts > 0).sum()), int(counts.sum())

    def unmatched(self, table: "pa.Table", placed: np.ndarray) -> "pa.Table":
        """Counts of 0, and none for rows without a position."""
        return self.with_counts(table, placed, np.zeros((len(table), len(self.radii_arcsec)), np.int64))

    def with_counts(self, table: "pa.Table", placed: np.ndarray, counts: np.ndarray) -> "pa.Table":
        """The result of left rows (n): counts (n, k), missing where ``placed`` (n,) does not hold."""
        import pyarrow as pa

        added = [pa.array(column, pa.int64(), mask=~placed) for column in counts.T]
        return pa.Table.from_arrays([*table.select(self.left_columns).columns, *added], schema=self.schema)


def join_counts(
    left: str | Place,
    right: str | Place,
    radii_arcsec: Sequence[float],
    output: str | Place,
    settings: SkyJoin | None = None,
    *,
    backend: Backend = "auto",
    scheduler: str | None = None,
    overwrite: bool = False,
) -> Joined:
    """Write the left catalogue with a column ``count_5arcsec`` for each radius: right rows within it.

    A row without a position has no counts. Arguments and errors are those of `join_sky`; of ``settings`` the radius,
    ``how``, ``keep`` and ``right_columns`` have no meaning. With ``not_self`` a row does not count itself. Both
    backends count with the same trees: memory grows with rows, not with pairs.
    """
    from skysom.jobs.joins.output import check_output

    streams = open_table(left, lists=True), open_table(right, lists=True)
    plan = _plan(*streams, tuple(radii_arcsec), settings or SkyJoin(0))
    check_output(output, overwrite, plan.schema)
    tell(streams, plan)
    if chosen_backend(streams, backend) == "astropy":
        found = _count_in_memory(*streams, plan, output, overwrite)
    else:
        from skysom.jobs.joins.with_lsdb import join_by_partitions

        found = join_by_partitions(
            *streams,
            plan,
            output,
            matched=_counted_catalogue,
            claim={"radii": plan.radii_arcsec},
            scheduler=scheduler,
            overwrite=overwrite,
        )
    tell_nothing_found(found, plan)
    return found


def _plan(left: TableStream, right: TableStream, radii: tuple[float, ...], settings: SkyJoin) -> CountPlan:
    import pyarrow as pa

    columns = [f"count_{radius:g}arcsec" for radius in radii]
    if not radii or len(set(columns)) < len(columns):
        raise ConfigError(
            f"radii {', '.join(map(str, radii)) or 'none'}; give one or several that differ in their first six digits"
        )
    for radius in radii:
        check_radius(radius)
    changed = asdict(settings) | {"radius_arcsec": max(radii), "how": "nearest", "keep": "left", "right_columns": ()}
    where, changed["where"] = changed["where"], None
    plan = SkyPlan.of(left, right, SkyJoin(**changed))
    made = joined_names([*plan.left_columns, *RESERVED], columns, settings.suffix)
    fields = [plan.schema.field(name) for name in plan.left_columns]
    schema = pa.schema([*fields, *(pa.field(made[name], pa.int64()) for name in columns)])
    chosen_rows(schema.empty_table(), where)
    return CountPlan(
        SkyJoin(**changed | {"where": where}), plan.left, plan.right, plan.left_columns, (), {}, made, schema, radii
    )


def _count_in_memory(
    left: TableStream, right: TableStream, plan: CountPlan, output: str | Place, overwrite: bool
) -> Joined:
    import pyarrow as pa

    from skysom.jobs.joins.output import write_table

    one = Side.read(left, plan.left, plan.settings.left_where)
    other = Side.read(right, plan.right, plan.settings.right_where)
    counts = np.zeros((len(one.table), len(plan.radii_arcsec)), np.int64)
    counts[one.where] = counts_within(
        one.positions, other.positions, plan.radii_arcsec, not_self=plan.settings.not_self
    )
    placed = np.zeros(len(one.table), bool)
    placed[one.where] = True
    table = plan.with_counts(one.table, placed, counts)
    counted = plan.tally(table)
    table = table.filter(pa.array(chosen_rows(table, plan.settings.where)))
    write_table(table, output, (plan.left.ra, plan.left.dec), overwrite=overwrite)
    rows, matched, found = counted
    return Joined("astropy", rows, len(other.table), one.lost, other.lost, matched, found, len(table), plan.renamed)


def _counted_catalogue(sides: tuple[Place, Place], plan: SkyPlan, _pairs: "Path | None") -> Any:
    """The lazy left catalogue with its counts as LSDB gives it."""
    from skysom.jobs.joins.lsdb_match import SkyCounts
    from skysom.jobs.joins.with_lsdb import brought_together

    assert isinstance(plan, CountPlan)
    return brought_together(sides, plan, SkyCounts(plan))

"""How many rows of one catalogue lie within some radii of each row of another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.columns import chosen_rows, joined_names, renamed
from skysom.jobs.joins.pairs import check_radius, decided
from skysom.jobs.joins.sky import Backend, Joined, Side, SkyJoin, SkyPlan, chosen_backend
from skysom.jobs.progress import say
from skysom.storage.place import Place
from skysom.storage.table_stream import TableStream, open_table

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class CountPlan(SkyPlan):
    """A plan for counts: no right columns, but a column ``count_5arcsec`` for every radius."""

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
    ``how``, ``keep`` and ``right_columns`` have no meaning. With ``not_self`` a row does not count itself.
    """
    from skysom.jobs.joins.output import check_output

    streams = open_table(left, lists=True), open_table(right, lists=True)
    plan = _plan(*streams, tuple(radii_arcsec), settings or SkyJoin(0))
    check_output(output, overwrite)
    if plan.renamed:
        say(f"join: {renamed(plan.names)}")
    if chosen_backend(streams, backend) == "astropy":
        return _count_in_memory(*streams, plan, output, overwrite)
    return _count_by_partitions(*streams, plan, output, scheduler, overwrite)


def _plan(left: TableStream, right: TableStream, radii: tuple[float, ...], settings: SkyJoin) -> CountPlan:
    import pyarrow as pa

    if not radii or len(set(radii)) < len(radii):
        raise ConfigError(
            f"radii {', '.join(f'{radius:g}' for radius in radii) or 'none'}; give one or several different ones"
        )
    for radius in radii:
        check_radius(radius)
    changed = asdict(settings) | {"radius_arcsec": max(radii), "how": "nearest", "keep": "left", "right_columns": ()}
    where, changed["where"] = changed["where"], None
    plan = SkyPlan.of(left, right, SkyJoin(**changed))
    columns = [f"count_{radius:g}arcsec" for radius in radii]
    names = joined_names(plan.left_columns, columns, settings.suffix)
    fields = [plan.schema.field(name) for name in plan.left_columns]
    schema = pa.schema([*fields, *(pa.field(names[name], pa.int64()) for name in columns)])
    chosen_rows(schema.empty_table(), where)
    return CountPlan(
        SkyJoin(**changed | {"where": where}), plan.left, plan.right, plan.left_columns, (), names, schema, radii
    )


def _count_in_memory(
    left: TableStream, right: TableStream, plan: CountPlan, output: str | Place, overwrite: bool
) -> Joined:
    import pyarrow as pa

    from skysom.jobs.joins.output import write_table
    from skysom.jobs.joins.with_astropy import matched_by_astropy

    one = Side.read(left, plan.left, plan.settings.left_where)
    other = Side.read(right, plan.right, plan.settings.right_where)
    pairs = matched_by_astropy(
        one.positions, other.positions, plan.settings.radius_arcsec, "all", not_self=plan.settings.not_self
    )
    table = one.table.select(list(plan.left_columns))
    missing = np.ones(len(table), bool)
    missing[one.where] = False
    for number, radius in enumerate(plan.radii_arcsec):
        within = decided(one.positions, other.positions, pairs.left, pairs.right, radius)
        counts = np.bincount(one.where[within.left], minlength=len(table))
        field = plan.schema.field(len(plan.left_columns) + number)
        table = table.append_column(field, pa.array(counts, field.type, mask=missing))
    counted = plan.tally(table)
    table = table.filter(pa.array(chosen_rows(table, plan.settings.where)))
    write_table(table, output, (plan.left.ra, plan.left.dec), overwrite=overwrite)
    rows, matched, found = counted
    return Joined("astropy", rows, len(other.table), one.lost, other.lost, matched, found, len(table), plan.renamed)


def _count_by_partitions(
    left: TableStream,
    right: TableStream,
    plan: CountPlan,
    output: str | Place,
    scheduler: str | None,
    overwrite: bool,
) -> Joined:
    from skysom.cluster.tables import default_scheduler
    from skysom.jobs.joins.hats import identity
    from skysom.jobs.joins.lsdb_write import Writing
    from skysom.jobs.joins.with_lsdb import as_hats, brought_together, check_sides
    from skysom.jobs.joins.work import WorkFolder
    from skysom.storage.hats_partitions import quiet

    scheduler = scheduler or default_scheduler()
    check_sides(left, right, plan)
    claim = {"left": identity(left.path), "right": identity(right.path), "settings": asdict(plan.settings)}
    with WorkFolder(output, claim | {"radii": plan.radii_arcsec}, overwrite=overwrite) as work:
        sides, ready = as_hats(left, right, plan, work.path, scheduler)
        with quiet():
            from skysom.jobs.joins.lsdb_match import SkyCounts

            assert isinstance(ready, CountPlan)
            return Writing(ready, work, sides, brought_together(sides, ready, SkyCounts(ready))).run(scheduler)

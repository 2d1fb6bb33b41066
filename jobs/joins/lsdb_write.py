"""What LSDB matched, as the result has it: a task a partition, and the file or catalogue that they make."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.cluster.tables import compute_each, dask_scheduler
from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.columns import chosen_rows
from skysom.jobs.joins.sky import LSDB_RANK, Joined, SkyPlan
from skysom.jobs.joins.work import WorkFolder
from skysom.jobs.progress import Progress
from skysom.storage import hats, hats_partitions
from skysom.storage import place as places
from skysom.storage.place import Place, write_atomically
from skysom.storage.table_stream import read_parquet_parts

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

COUNTED = ("order", "pixel", "rows", "left", "matched", "pairs")
"""What a task tells of its partition."""
NO_POSITION_ROWS = 100_000
"""Rows without a position that are read and written at a time."""


def finished(frame: "pd.DataFrame", plan: SkyPlan) -> "pa.Table":
    """A partition as the result has it, with its pixel first, in the order of pixel, left row and rank.

    All rows of it: ``where`` is not looked at.
    """
    import pyarrow as pa

    from skysom.jobs.joins.lsdb_match import table_of

    table = table_of(frame, index=True)
    table = table.filter(pa.array(chosen_rows(table, plan.settings.left_where)))
    if plan.settings.keep == "inner":
        table = table.filter(table[LSDB_RANK].is_valid())
    keys = [table[hats.INDEX_COLUMN].to_numpy()]
    if hats.ROW_COLUMN in table.column_names:
        keys.insert(0, table[hats.ROW_COLUMN].to_numpy())
    if LSDB_RANK in table.column_names:
        keys.insert(0, table[LSDB_RANK].fill_null(0).to_numpy())
    table = table.take(pa.array(np.lexsort(keys))).select([hats.INDEX_COLUMN, *plan.carried])
    return table.rename_columns(_schema(plan).names).cast(_schema(plan))


def finished_frame(frame: "pd.DataFrame", plan: SkyPlan) -> "pd.DataFrame":
    """The rows of `finished` for which ``where`` holds, as LSDB has partitions."""
    import pandas as pd
    import pyarrow as pa

    table = finished(frame, plan)
    table = table.filter(pa.array(chosen_rows(table, plan.settings.where)))
    return table.to_pandas(types_mapper=pd.ArrowDtype).set_index(hats.INDEX_COLUMN).pipe(_plain_index)


def frame_meta(schema: "pa.Schema") -> "pd.DataFrame":
    """An empty partition of what `finished_frame` gives."""
    import pandas as pd
    import pyarrow as pa

    schema = schema.insert(0, pa.field(hats.INDEX_COLUMN, pa.int64()))
    empty = schema.empty_table().to_pandas(types_mapper=pd.ArrowDtype)
    return _plain_index(empty.set_index(hats.INDEX_COLUMN))


def _plain_index(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame.set_axis(frame.index.astype(np.int64), axis=0)


def _schema(plan: SkyPlan) -> "pa.Schema":
    import pyarrow as pa

    return plan.schema.insert(0, pa.field(hats.INDEX_COLUMN, pa.int64()))


def _numbered_schema(plan: SkyPlan) -> "pa.Schema":
    """Of a partition as it is written: with numbers, from which a match of the result can go on."""
    import pyarrow as pa

    return _schema(plan).append(pa.field(hats.ROW_COLUMN, pa.int64()))


def _numbered(table: "pa.Table", first: int) -> "pa.Table":
    """With row numbers that begin at the first pixel of order 29 of the partition: so no two rows have the same."""
    import pyarrow as pa

    return table.append_column(hats.ROW_COLUMN, pa.array(first + np.arange(len(table), dtype=np.int64)))


class Writing:
    """The partitions of a match that are written and those that are not yet."""

    def __init__(self, plan: SkyPlan, work: WorkFolder, sides: tuple[Place, Place], result: Any) -> None:
        self.plan, self.work, self.sides, self.result = plan, work, sides, result
        self.name = hats.plain_name(work.target.stem)
        self.base = work.tree / self.name
        self.known = work.path / "written"

    def run(self, scheduler: str) -> Joined:
        with hats.partitions_readable(*self.sides):
            done = self._partitions(scheduler)
            lost, rows = self._without_position()
        counted = {name: sum(one[name] for one in done) for name in COUNTED[2:]}
        self._finish([one for one in done if one["rows"]])
        right, right_lost = _selected(self.sides[1], self.plan.settings.right_where)
        left, _ = _selected(self.sides[0], self.plan.settings.left_where)
        if self.plan.settings.keep == "left":
            left = counted["left"] + lost
        return Joined(
            "lsdb",
            left,
            right,
            lost,
            right_lost,
            counted["matched"],
            counted["pairs"],
            counted["rows"] + rows,
            self.plan.renamed,
        )

    def _partitions(self, scheduler: str) -> list[dict[str, int]]:
        """What every task told, of this run or one before."""
        import pandas as pd

        self.known.mkdir(exist_ok=True)
        done = [json.loads(path.read_text()) for path in sorted(self.known.glob("*.json"))]
        there = {(one["order"], one["pixel"]) for one in done}
        pixels = [one for one in self.result.get_healpix_pixels() if (int(one.order), int(one.pixel)) not in there]
        if not pixels:
            return done
        meta = pd.DataFrame({name: np.zeros(0, np.int64) for name in COUNTED})
        todo = self.result.partitions[pixels]
        tasks = todo.map_partitions(_write, self.base, self.plan, meta=meta, include_pixel=True).to_delayed()
        total = len(done) + len(tasks)
        with Progress("join: matching", unit="partitions") as progress, dask_scheduler(scheduler):
            progress(len(done), total)

            def on_done(which: int, frame: "pd.DataFrame") -> None:
                one = {name: int(frame[name].iloc[0]) for name in COUNTED}
                path = self.known / f"{one['order']}-{one['pixel']}.json"
                write_atomically(path, json.dumps(one).encode())
                done.append(one)
                progress(len(done), total)

            compute_each(tasks, on_done)
        return done

    def _without_position(self) -> tuple[int, int]:
        """How many left rows have none, and how many of them the result has, in a file of their own."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, made = self.sides[0] / hats.NO_POSITION, self.work.tree / hats.NO_POSITION
        if not places.is_file(path):
            return 0, 0
        lost = rows = 0
        with pq.ParquetWriter(made, _numbered_schema(self.plan).remove(0)) as writer:
            for part in read_parquet_parts(path, None, NO_POSITION_ROWS):
                table = part.filter(pa.array(chosen_rows(part, self.plan.settings.left_where)))
                lost += len(table)
                if self.plan.settings.keep == "left":
                    for field in self.plan.schema:
                        if field.name not in self.plan.left_columns:
                            table = table.append_column(field, pa.nulls(len(table), field.type))
                    table = table.select(self.plan.schema.names).cast(self.plan.schema)
                    table = table.filter(pa.array(chosen_rows(table, self.plan.settings.where)))
                    writer.write_table(_numbered(table, hats_partitions.SKY_PIXELS + rows))
                    rows += len(table)
        if not rows:
            made.unlink()
        return lost, rows

    def _finish(self, done: list[dict[str, int]]) -> None:
        from skysom.jobs.joins.output import write_tables
        from skysom.storage.hats_write import Written, finish_catalogue, finish_collection

        written = sorted((Written(one["order"], one["pixel"], one["rows"]) for one in done), key=_place)
        columns = (self.plan.left.ra, self.plan.left.dec)
        if self.work.target.suffix:
            made = self.work.path / self.work.target.name
            write_tables(self._tables(written), self.plan.schema, made, columns, overwrite=True)
            self.work.publish(made)
            return
        if not written:
            raise ConfigError(f"no row is left for {self.work.target}, and HATS needs one; write a .parquet")
        counts = hats_partitions.PixelCounts()
        for one in written:
            counts = counts.plus(self._read(one, [hats.INDEX_COLUMN])[hats.INDEX_COLUMN].to_numpy())
        finish_catalogue(self.base, self.name, written, _numbered_schema(self.plan), columns, counts=counts)
        settings = self.plan.settings
        origin = {"rows": counts.total, "radius_arcsec": settings.radius_arcsec, "how": settings.how}
        finish_collection(self.work.tree, self.name, [], origin)
        self.work.publish(self.work.tree)

    def _tables(self, written: list[Any]) -> "Iterator[pa.Table]":
        for one in written:
            yield self._read(one, self.plan.schema.names)
        lost = self.work.tree / hats.NO_POSITION
        if lost.exists():
            yield from read_parquet_parts(lost, self.plan.schema.names, NO_POSITION_ROWS)

    def _read(self, one: Any, columns: list[str]) -> "pa.Table":
        import pyarrow.parquet as pq
        from hats.io.paths import pixel_catalog_file
        from hats.pixel_math import HealpixPixel

        path = str(pixel_catalog_file(self.base, HealpixPixel(one.order, one.pixel)))
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)


def _write(frame: "pd.DataFrame", pixel: Any, base: "Path", plan: SkyPlan) -> "pd.DataFrame":
    """Write one partition of the result and count; runs wherever Dask computes."""
    import pandas as pd
    import pyarrow as pa

    from skysom.storage.hats_write import write_partition

    table = finished(frame, plan)
    counted = dict(zip(COUNTED[3:], plan.tally(table), strict=True))
    table = table.filter(pa.array(chosen_rows(table, plan.settings.where)))
    order, number = int(pixel.order), int(pixel.pixel)
    if len(table):
        width = 2 * (hats_partitions.DEEPEST - order)
        if len(table) > 1 << width:
            raise ConfigError(
                f"{len(table):,} rows in a partition of order {order}, too many to number; narrow the radius"
            )
        write_partition(base, order, number, _numbered(table, number << width))
    counted |= {"order": order, "pixel": number, "rows": len(table)}
    return pd.DataFrame({name: np.array([counted[name]], np.int64) for name in COUNTED})


def _place(one: Any) -> int:
    return int(one.pixel) << 2 * (hats_partitions.DEEPEST - int(one.order))


def _selected(path: Place, expression: str | None) -> tuple[int | None, int | None]:
    """Rows of a HATS catalogue, and those of them without a position; None where an expression chooses among them."""
    import pyarrow.parquet as pq

    if expression is not None:
        return None, None
    lost, outside = 0, path / hats.NO_POSITION
    if places.is_file(outside):
        with places.open_binary(outside) as stream, pq.ParquetFile(stream) as file:
            lost = file.metadata.num_rows
    return int(hats.read_structure(path).catalog_info.total_rows or 0) + lost, lost

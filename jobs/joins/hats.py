"""A catalogue to HATS: counted, dealt to the partitions of the sky, written partition by partition; larger than memory.

    work folder:  plan.npz (partitions, counts)   dealt/00012.arrow (a part by partition)   tree/ (the catalogue)

Whatever is done is kept when the run is killed; the result appears at once and whole.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.cluster.tables import compute_each, dask_scheduler, default_scheduler
from skysom.jobs.collation.tables import read_part, stack, write_parts
from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.columns import (
    PositionColumns,
    chosen_columns,
    chosen_rows,
    numeric_schema,
    position_columns,
    with_numeric_positions,
)
from skysom.jobs.joins.work import WorkFolder
from skysom.jobs.progress import Progress, say
from skysom.storage.hats import INDEX_COLUMN, NO_POSITION, ROW_COLUMN, plain_name
from skysom.storage.hats_partitions import PixelCounts, SkyPartitions, margin_order, spatial_index
from skysom.storage.place import Place, is_remote, write_atomically
from skysom.storage.table_stream import HATS_FILES, TableStream, open_table

if TYPE_CHECKING:
    import pyarrow as pa

PARTITION_BYTES = 2**26
"""What a partition takes in memory, about; each thread that joins holds a few of them."""
PARTITION_ROWS = (10_000, 1_000_000)
"""Fewest and most rows of a partition that this makes."""
DEALT_BYTES = 2**27
"""What is read, dealt and written at a time."""
MARGIN_ARCSEC = 60.0


@dataclass(frozen=True)
class HatsOptions:
    """What of a catalogue becomes HATS, and how.

    ra, dec : columns of positions in degrees, by default those known by their names. columns : that are kept, by
    default all. where : an expression on its columns; rows for which it does not hold are left out. margin_arcsec : how
    far around a partition rows are kept beside it; a cross-match may go no farther. 0: none, as for the left side.
    partition_rows : most rows of a partition, by default what takes 64 MiB.
    """

    ra: str | None = None
    dec: str | None = None
    columns: Sequence[str] | None = None
    where: str | None = None
    margin_arcsec: float = MARGIN_ARCSEC
    partition_rows: int | None = None


@dataclass(frozen=True)
class Imported:
    """What became HATS: rows in partitions, rows without a position, rows left out, partitions, rows of the margin."""

    rows: int
    no_position: int
    left_out: int
    partitions: int
    margin_rows: int


def import_hats(
    source: str | Place,
    target: str | Place,
    options: HatsOptions | None = None,
    *,
    scheduler: str | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write a catalogue as HATS, so that `lsdb.open_catalog(target)` opens it.

    Rows of a partition are in the order of their HEALPix pixel, then of the file. Memory: some four times DEALT_BYTES,
    and a few partitions a thread.

    Parameters
    ----------
    source : CSV, FITS table, VOTable, Parquet or HATS; CSV, FITS and Parquet may be larger than memory. Row numbers are
        those of the file, or of a HATS catalogue that skysom wrote (`skysom.storage.hats.has_row_numbers`).
    target : a directory of a file system that is not there yet. A run that was killed goes on where it was.
    scheduler : a name for `dask_scheduler`, by default `default_scheduler()`.

    Raises
    ------
    CatalogueError, ConfigError : a file that cannot be read, columns that are not there or hold no degrees, an
    expression that does not fit them, no row with a position, or a target that is there.
    """
    options = options or HatsOptions()
    stream = open_table(source, lists=True)
    columns = position_columns(stream, options.ra, options.dec, "")
    kept = dict.fromkeys([*chosen_columns(stream, options.columns, "--column"), columns.ra, columns.dec])
    types = numeric_schema(stream.schema, columns)
    chosen_rows(types.empty_table(), options.where)  # says what is wrong with it before work starts
    if stream.dropped_note and options.columns is None:
        say(f"hats: {stream.dropped_note}")
    kept.pop(INDEX_COLUMN, None)
    kept.pop(ROW_COLUMN, None)
    if options.margin_arcsec:
        margin_order(options.margin_arcsec)  # refuses one that is too wide
    scheduler = scheduler or default_scheduler()
    check_scheduler(scheduler)
    claim = {"source": identity(stream.path), "options": asdict(options), "columns": list(kept)}
    with WorkFolder(target, claim, overwrite=overwrite) as work:
        made = _Import(stream, columns, list(kept), options, work)
        return made.run(scheduler)


def check_scheduler(scheduler: str) -> None:
    """SchedulerError for a name that `dask_scheduler` does not know, or where nothing computes."""
    with dask_scheduler(scheduler):
        pass


def identity(path: Place) -> dict[str, Any]:
    """What tells whether a catalogue is still the same."""
    if is_remote(path):
        return {"path": str(path)}
    found = path.absolute()
    if path.is_dir():
        found = next(found / name for name in HATS_FILES if (found / name).exists())
    return {"path": str(path.absolute()), "bytes": found.stat().st_size, "changed_ns": found.stat().st_mtime_ns}


class _Import:
    """One import in its work folder."""

    def __init__(
        self, stream: TableStream, columns: PositionColumns, kept: list[str], options: HatsOptions, work: WorkFolder
    ) -> None:
        self.stream, self.columns, self.kept, self.options, self.work = stream, columns, kept, options, work
        self.name = plain_name(work.target.name)
        self.margin_name = f"{self.name}_margin"
        self.dealt = work.path / "dealt"
        row_bytes = max(stream.size_bytes / (stream.rows or 1), 16)
        self.part_rows = int(np.clip(DEALT_BYTES / row_bytes, 1000, 1_000_000))
        self.partition_rows = options.partition_rows or int(np.clip(PARTITION_BYTES / row_bytes, *PARTITION_ROWS))
        self.schema = self._schema()

    def run(self, scheduler: str) -> Imported:
        found = self._plan()
        partitions, sky = found.partitions, found.partitions.whole_sky()
        parts = self._deal(partitions, sky)
        written = self._write(scheduler, parts, partitions, sky if self.options.margin_arcsec else None)
        self._finish(found, written)
        margin_rows = sum(rows for _, _, rows in written[self.margin_name])
        return Imported(found.rows, found.no_position, found.left_out, len(partitions), margin_rows)

    # --- counting ---------------------------------------------------------------------------------

    def _plan(self) -> "_Plan":
        path = self.work.path / "plan.npz"
        if path.exists():
            return _Plan.load(path)
        counts = PixelCounts()
        no_position = left_out = done = 0
        wanted = list(dict.fromkeys([self.columns.ra, self.columns.dec, *self._named()]))
        with Progress("hats: positions", unit="rows") as progress:
            for _, part in self.stream.parts(wanted, self.part_rows):
                rows = self._chosen(part)
                index = spatial_index(*self.columns.of(part))[rows]
                counts = counts.plus(index[index >= 0])
                no_position += int((index < 0).sum())
                left_out += int((~rows).sum())
                done += len(part)
                progress(done, max(self.stream.rows or 0, done))
        if not counts.total:
            raise ConfigError(
                f"none of {done:,} rows of {self.stream.path} has a position in {self.columns.ra!r}, "
                f"{self.columns.dec!r}{' and is selected' if self.options.where else ''}; name other columns"
            )
        plan = _Plan(SkyPartitions.of_counts(counts, self.partition_rows), counts, no_position, left_out)
        plan.save(path)
        return plan

    def _chosen(self, part: "pa.Table") -> np.ndarray:
        """Rows (n,) bool for which the expression holds: of positions as the numbers that the result has."""
        table = with_numeric_positions(part, self.columns) if self.options.where else part
        return chosen_rows(table, self.options.where)

    def _named(self) -> list[str]:
        from skysom.storage.selection import column_names

        return column_names(self.options.where) if self.options.where else []

    # --- dealing ----------------------------------------------------------------------------------

    def _deal(self, partitions: SkyPartitions, sky: SkyPartitions) -> int:
        """Rows of every part of the source to a file, by partition; returns how many files there are."""
        self.dealt.mkdir(exist_ok=True)
        wanted = list(dict.fromkeys([*self.kept, *self._named(), *self._numbered()]))
        number = 0
        with Progress("hats: dealing", unit="rows") as progress:
            for first, part in self.stream.parts(wanted, self.part_rows):
                path = self.dealt / f"{number:05d}.arrow"
                if not path.exists():
                    self.work.check()
                    self._deal_part(path, first, part, partitions, sky)
                number += 1
                progress(first + len(part), max(self.stream.rows or 0, first + len(part)))
        return number

    def _numbered(self) -> list[str]:
        return [ROW_COLUMN] if self.stream.numbered else []

    def _deal_part(
        self, path: Path, first: int, part: "pa.Table", partitions: SkyPartitions, sky: SkyPartitions
    ) -> None:
        """Numbers of a dealt file: a partition; after those the margin of a piece of the sky; then no position."""
        import pyarrow as pa

        rows = part[ROW_COLUMN].to_numpy() if self.stream.numbered else first + np.arange(len(part))
        index = spatial_index(*self.columns.of(part))
        table = with_numeric_positions(part, self.columns).select(self.kept)
        table = table.add_column(0, INDEX_COLUMN, pa.array(index)).append_column(ROW_COLUMN, pa.array(rows, pa.int64()))
        table = table.cast(self.schema)
        chosen = self._chosen(part)
        inside, outside = np.flatnonzero(chosen & (index >= 0)), np.flatnonzero(chosen & (index < 0))
        numbers = [partitions.of(index[inside]), np.full(len(outside), len(partitions) + len(sky))]
        taken = [inside, outside]
        if self.options.margin_arcsec:
            near, number = sky.near(index[inside], self.options.margin_arcsec)
            numbers.append(len(partitions) + number)
            taken.append(inside[near])
        numbers_of, rows_of = np.concatenate(numbers), np.concatenate(taken)
        place = np.argsort(numbers_of, kind="stable")
        write_parts(path, table.take(pa.array(rows_of[place])), numbers_of[place])

    def _schema(self) -> "pa.Schema":
        import pyarrow as pa

        kept = pa.schema([self.stream.schema.field(name) for name in self.kept])
        ends = pa.field(INDEX_COLUMN, pa.int64()), pa.field(ROW_COLUMN, pa.int64())
        return pa.schema([ends[0], *numeric_schema(kept, self.columns), ends[1]])

    # --- writing ----------------------------------------------------------------------------------

    def _write(
        self, scheduler: str, parts: int, partitions: SkyPartitions, sky: SkyPartitions | None
    ) -> dict[str, list[tuple[int, int, int]]]:
        """Partitions of the catalogue and of its margin that were written, as (order, pixel, rows)."""
        import dask

        tasks = [(self.name, number, one) for number, one in enumerate(_pixels(partitions))]
        if sky is not None:
            tasks += [(self.margin_name, len(partitions) + n, one) for n, one in enumerate(_pixels(sky))]
        known = self.work.path / "written"
        known.mkdir(exist_ok=True)
        written: dict[str, list[tuple[int, int, int]]] = {self.name: [], self.margin_name: []}
        todo = []
        for name, number, pixel in tasks:
            path = known / f"{number}.json"
            if path.exists():
                rows = json.loads(path.read_text())
                written[name] += [(*pixel, rows)] if rows else []
            else:
                todo.append((name, number, pixel))
        write = dask.delayed(_write_partition, pure=False)
        files = [self.dealt / f"{number:05d}.arrow" for number in range(parts)]
        delayed = [write(files, number, self.work.tree / name, pixel) for name, number, pixel in todo]
        with Progress("hats: writing", unit="partitions") as progress, dask_scheduler(scheduler):
            progress(len(tasks) - len(todo), len(tasks))
            done = [len(tasks) - len(todo)]

            def on_done(which: int, rows: int) -> None:
                name, number, pixel = todo[which]
                write_atomically(known / f"{number}.json", json.dumps(rows).encode())
                written[name] += [(*pixel, rows)] if rows else []
                done[0] += 1
                progress(done[0], len(tasks))

            compute_each(delayed, on_done)
        return written

    def _finish(self, plan: "_Plan", written: dict[str, list[tuple[int, int, int]]]) -> None:
        from skysom.storage.hats_write import Written, finish_catalogue, finish_collection

        columns = (self.columns.ra, self.columns.dec)
        if plan.no_position:
            self._write_no_position(len(plan.partitions) + len(plan.partitions.whole_sky()))
        main = [Written(*one) for one in sorted(written[self.name])]
        finish_catalogue(self.work.tree / self.name, self.name, main, self.schema, columns, counts=plan.counts)
        margins = []
        if self.options.margin_arcsec:
            margins.append(self.margin_name)
            cache = [Written(*one) for one in sorted(written[self.margin_name])]
            of = (self.options.margin_arcsec, self.name)
            finish_catalogue(
                self.work.tree / self.margin_name, self.margin_name, cache, self.schema, columns, margin=of
            )
        origin: dict[str, Any] = {"rows": plan.rows, "no_position": plan.no_position, "left_out": plan.left_out}
        origin |= {"source": self.stream.path.name, "where": self.options.where}
        finish_collection(self.work.tree, self.name, margins, origin)
        self.work.publish(self.work.tree)

    def _write_no_position(self, number: int) -> None:
        """The rows that are in no partition, a dealt file at a time."""
        import pyarrow.parquet as pq

        with pq.ParquetWriter(self.work.tree / NO_POSITION, self.schema.remove(0)) as writer:
            for file in sorted(self.dealt.glob("*.arrow")):
                writer.write_table(read_part(file, number).select(self.schema.names[1:]))


@dataclass(frozen=True)
class _Plan:
    """What counting the positions gave: partitions, rows by pixel of `COUNT_ORDER`, and rows that are in none."""

    partitions: SkyPartitions
    counts: PixelCounts
    no_position: int
    left_out: int

    @property
    def rows(self) -> int:
        return self.counts.total

    def save(self, path: Path) -> None:
        import io

        memory = io.BytesIO()
        np.savez(
            memory,
            order=self.partitions.order,
            pixel=self.partitions.pixel,
            counted=self.counts.pixel,
            counts=self.counts.count,
            others=np.array([self.no_position, self.left_out]),
        )
        write_atomically(path, memory.getvalue())

    @classmethod
    def load(cls, path: Path) -> "_Plan":
        with np.load(path) as held:
            counts = PixelCounts(held["counted"], held["counts"])
            return cls(SkyPartitions(held["order"], held["pixel"]), counts, *held["others"].tolist())


def _pixels(partitions: SkyPartitions) -> list[tuple[int, int]]:
    return list(zip(partitions.order.tolist(), partitions.pixel.tolist(), strict=True))


def _write_partition(files: list[Path], number: int, base: Path, pixel: tuple[int, int]) -> int:
    """Gather one partition from the dealt files and write it; returns its rows. Runs wherever Dask computes."""
    from skysom.storage.hats_write import sorted_by_place, write_partition

    table = stack([read_part(file, number) for file in files])
    if len(table):
        write_partition(base, *pixel, sorted_by_place(table))
    return len(table)

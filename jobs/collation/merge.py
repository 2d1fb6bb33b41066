"""Merging: the tables of all boxes, and of an earlier run, into one file each, in an order no box has a part in.

Base rows are cut into ranges, and so are the tables: `sources` by their smallest member, `components` by row, `edges`
by u, `evidence` by count. A range is gathered, sorted and written as one row group; memory is that of one range.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.collation.evidence import evidence_schema
from skysom.jobs.collation.folder import TABLES, CollationFolder
from skysom.jobs.collation.source_table import SourceColumns, number_sources
from skysom.jobs.collation.tables import column, read_part, stack
from skysom.jobs.errors import ConfigError
from skysom.storage.catalogue import parquet_source
from skysom.storage.place import Place, make_directory

if TYPE_CHECKING:
    import pyarrow as pa


SORTED_BY = {"sources": ("source",), "components": ("row",), "edges": ("count", "v", "u"), "evidence": ("count",)}
"""Order of the rows of each table, the last key first."""
OF_ROW = {"sources": "source", "components": "row", "edges": "u", "evidence": "source"}
"""A column with a base row of the island that a row is about."""


@dataclass(frozen=True)
class MergeWork:
    """What is merged. rows : of the base. range_rows : base rows of a range.

    parts : by table and range, the boxes that have rows of it. replaced : (rows,) bool, base rows about whose islands
    the parts are; all other rows are taken from the published tables. None: the parts are about all rows.
    """

    folder: CollationFolder
    columns: SourceColumns
    rows: int
    range_rows: int
    parts: Mapping[str, Mapping[int, Sequence[int]]]
    replaced: np.ndarray | None = None

    @property
    def ranges(self) -> int:
        """How many ranges there are; one at least, which may be empty."""
        return max(1, -(-self.rows // self.range_rows))


def boxes_of_ranges(counts: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, list[int]]]:
    """By table and range the boxes that have rows of it. counts : by box, what `group_box` returns."""
    found: dict[str, dict[int, list[int]]] = {name: {} for name in TABLES}
    for box in sorted(counts):
        for name, ranges in found.items():
            for number in counts[box][name]:
                ranges.setdefault(int(number), []).append(box)
    return found


def smallest_members(work: MergeWork) -> np.ndarray:
    """The smallest member (G,) int64 of every source, ascending.

    Raises
    ------
    AssertionError : a base row that is not in exactly one source.
    """
    before, found = _published_smallest(work), []
    for number in range(work.ranges):
        table = stack(_gathered(work, "components", number, before, ("row", "source")))
        rows, smallest = column(table, "row"), column(table, "source")
        order = np.argsort(rows)
        start = number * work.range_rows
        expected = np.arange(start, min(start + work.range_rows, work.rows))
        if not np.array_equal(rows[order], expected):
            raise AssertionError(f"of base rows {start} on one is in no source, or in more than one")
        found.append(expected[smallest[order] == expected])
    return np.concatenate(found)


def merge_table(work: MergeWork, name: str, smallest: np.ndarray) -> dict[str, int]:
    """Write the merged table of a name, ready to be published; a task.

    Returns its rows and, of sources, how many have several components, how many components the largest has, and under
    ``count_column`` of a label that attaches rows how many have any.

    smallest : (G,) int64, ascending smallest members; the number of a source is the place of its own among them.
    """
    schema, counts = schemas(work.columns)[name], {"rows": 0}
    before = _published_smallest(work) if name == "components" else None
    with _writer(work.folder.merged(f"{name}.parquet"), schema) as writer:
        for number in range(work.ranges):
            table = stack(_gathered(work, name, number, before))
            table = table.take(np.lexsort([column(table, key) for key in SORTED_BY[name]]))
            if name in ("sources", "components"):
                table = number_sources(table, smallest)
            work.folder.check()
            writer.write_table(table, row_group_size=max(1, len(table)))
            counts["rows"] += len(table)
            if name == "sources":
                sizes = column(table, "components")
                counts["several"] = counts.get("several", 0) + int(np.count_nonzero(sizes > 1))
                counts["largest"] = max(counts.get("largest", 0), int(sizes.max(initial=0)))
                for label in work.columns.data_labels:
                    name_of = count_column(work.columns, label)
                    counts[name_of] = counts.get(name_of, 0) + int(np.count_nonzero(column(table, name_of)))
    return counts


def count_column(columns: SourceColumns, label: int) -> str:
    """The column that counts the rows a label attached."""
    return f"{columns.slugs[label]}_count"


def schemas(columns: SourceColumns) -> dict[str, "pa.Schema"]:
    """The schema of every table."""
    import pyarrow as pa

    edges = pa.schema([(name, pa.int64()) for name in ("u", "v", "count", "source")])
    return {
        "sources": columns.schema,
        "components": columns.component_schema,
        "edges": edges,
        "evidence": evidence_schema(columns.slugs),
    }


def _gathered(
    work: MergeWork, name: str, number: int, before: np.ndarray | None, names: Sequence[str] | None = None
) -> "list[pa.Table]":
    """Rows of a range: those of the boxes, and those of the published table that are not replaced.

    ``source`` of sources and components is their smallest member. before : those of the published sources. names : the
    columns wanted, default all.
    """
    import pyarrow as pa

    schema = schemas(work.columns)[name]
    if names is not None:
        schema = pa.schema([schema.field(wanted) for wanted in names])
    boxes = work.parts[name].get(number, ())
    tables = [read_part(work.folder.part(box, name), number, names) for box in boxes]
    if work.replaced is not None:
        with _published(work, name) as file:
            kept = file.read_row_group(number, columns=names, use_threads=False)
        if name == "sources":
            kept = _renumbered(kept, _first_members(kept))
        elif before is not None:
            kept = _renumbered(kept, before[column(kept, "source")])
        tables.append(kept.filter(~work.replaced[column(kept, OF_ROW[name])]))
    return [schema.empty_table(), *(table.cast(schema) for table in tables)]


def _renumbered(table: "pa.Table", source: np.ndarray) -> "pa.Table":
    return table.set_column(table.column_names.index("source"), "source", [source])


def _first_members(table: "pa.Table") -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.list_element(table.column("members"), 0).to_numpy())


def _published_smallest(work: MergeWork) -> np.ndarray | None:
    """Smallest members (G,) int64 of the published sources; None where nothing of them is kept."""
    if work.replaced is None:
        return None
    with _published(work, "sources") as file:
        groups = range(file.metadata.num_row_groups)
        return np.concatenate([_first_members(file.read_row_group(g, columns=["members"])) for g in groups])


@contextmanager
def _published(work: MergeWork, name: str) -> Iterator[Any]:
    """A published table, of one row group a range; ConfigError where it is not that any more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = work.folder.table(name)
    try:
        with pq.ParquetFile(parquet_source(path)) as file:
            if file.metadata.num_row_groups != work.ranges:
                raise ConfigError(f"{path} was changed since it was written; begin again with --redo")
            yield file
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read ({error}); begin again with --redo") from error


@contextmanager
def _writer(path: Place, schema: "pa.Schema") -> Iterator[Any]:
    """A Parquet writer; a local file has its name when it is whole, a remote one is only published then."""
    import pyarrow.parquet as pq

    make_directory(path.parent)
    if not isinstance(path, Path):
        with path.fs.open(path.path, "wb") as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            yield writer
        return
    beside = path.with_name(path.name + ".partial")
    try:
        with beside.open("wb") as stream:
            with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
                yield writer
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError:  # a full disk, say
        beside.unlink(missing_ok=True)
        raise

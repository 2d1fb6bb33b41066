"""Joins by partitions of which one side has no row with a position: nothing to match, so the left rows are copied."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from skysom.jobs.joins.columns import PositionColumns, chosen_rows, with_numeric_positions
from skysom.jobs.joins.output import write_tables
from skysom.jobs.joins.sky import Joined, SkyPlan
from skysom.storage.place import Place
from skysom.storage.selection import column_names
from skysom.storage.table_stream import TableStream, is_hats

if TYPE_CHECKING:
    import pyarrow as pa


def has_positions(left: TableStream, right: TableStream, plan: SkyPlan) -> bool:
    """Whether both sides have a row that is selected and has a position; of HATS this is taken for granted."""
    sides = (left, plan.left, plan.settings.left_where), (right, plan.right, plan.settings.right_where)
    return all(
        is_hats(stream.path)
        or any(placed.any() for _, placed in _selected(stream, columns, where, positions_only=True))
        for stream, columns, where in sides
    )


def join_unmatched(
    left: TableStream, right: TableStream, plan: SkyPlan, output: str | Place, overwrite: bool
) -> Joined:
    """`join_sky` or `join_counts` where nothing can match: part by part, in the order of the left catalogue.

    Raises
    ------
    ConfigError : HATS of no rows, or of none that has a position.
    """
    import pyarrow as pa

    settings, counted = plan.settings, {"left": 0, "left_lost": 0, "right": 0, "right_lost": 0}

    def count(side: str, placed: np.ndarray) -> None:
        counted[side] += len(placed)
        counted[f"{side}_lost"] += int((~placed).sum())

    def tables() -> "Iterator[pa.Table]":
        for table, placed in _selected(left, plan.left, settings.left_where):
            count("left", placed)
            if settings.keep == "left":
                found = plan.unmatched(table, placed)
                yield found.filter(pa.array(chosen_rows(found, settings.where)))

    for _, placed in _selected(right, plan.right, settings.right_where, positions_only=True):
        count("right", placed)
    rows = write_tables(tables(), plan.schema, output, (plan.left.ra, plan.left.dec), overwrite=overwrite)
    return Joined("lsdb", **counted, matched=0, pairs=0, rows=rows, renamed=plan.renamed)


def _selected(
    stream: TableStream, columns: PositionColumns, expression: str | None, *, positions_only: bool = False
) -> "Iterator[tuple[pa.Table, np.ndarray]]":
    """The rows (n) of each part for which an expression holds, and which (n,) of them have a position."""
    import pyarrow as pa

    asked = column_names(expression) if expression else []
    for _, part in stream.parts([columns.ra, columns.dec, *asked] if positions_only else None):
        table = with_numeric_positions(part, columns)
        table = table.filter(pa.array(chosen_rows(table, expression)))
        yield table, np.isfinite(columns.of(table)[0])

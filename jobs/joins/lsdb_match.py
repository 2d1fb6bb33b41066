"""What LSDB calls for every pair of partitions; importing this imports LSDB."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
from lsdb.core.crossmatch.abstract_crossmatch_algorithm import AbstractCrossmatchAlgorithm

from skysom.jobs.joins.columns import PositionColumns, chosen_rows
from skysom.jobs.joins.pairs import Positions, counts_within, matched
from skysom.jobs.joins.sky import LSDB_RANK, LSDB_SEPARATION, SkyPlan
from skysom.storage.hats import ROW_COLUMN

if TYPE_CHECKING:
    from skysom.jobs.joins.counts import CountPlan


COUNT = pd.ArrowDtype(pa.int64())


class SkyMatch(AbstractCrossmatchAlgorithm):
    """The pairs of two partitions, as `joins.pairs` decides them; those of a file of pairs only, if one is given."""

    extra_columns = pd.DataFrame(
        {
            LSDB_SEPARATION: pd.Series(dtype=pd.ArrowDtype(pa.float64())),
            LSDB_RANK: pd.Series(dtype=pd.ArrowDtype(pa.int32())),
        }
    )

    def __init__(self, plan: SkyPlan, pairs: Path | None = None) -> None:
        super().__init__()
        self.plan, self.pairs = plan, pairs

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return (type(self).__name__, repr(self.plan), str(self.pairs))

    def validate(self, left: lsdb.Catalog, right: lsdb.Catalog) -> None:
        """Everything was looked at before; see `with_lsdb`."""

    def perform_crossmatch(self, crossmatch_args: Any) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
        """Places of the matched rows in both partitions, and the columns of the match."""
        plan = self.plan
        left, left_place = rows_of(crossmatch_args.left_df, plan.left, plan.settings.left_where)
        right, right_place = rows_of(crossmatch_args.right_df, plan.right, plan.settings.right_where)
        how = "all" if plan.settings.how == "one-to-one" else plan.settings.how
        found = matched(left, right, plan.settings.radius_arcsec, how, not_self=plan.settings.not_self)
        if self.pairs is not None:
            found = found.of(_among(self.pairs, left.row[found.left], right.row[found.right]))
        columns = {
            LSDB_SEPARATION: pd.Series(found.separation_arcsec, dtype=pd.ArrowDtype(pa.float64())),
            LSDB_RANK: pd.Series(found.rank, dtype=pd.ArrowDtype(pa.int32())),
        }
        return left_place[found.left], right_place[found.right], pd.DataFrame(columns)


class SkyCounts(AbstractCrossmatchAlgorithm):
    """Every left row once, with how many right rows lie within each radius; see `join_counts`."""

    def __init__(self, plan: "CountPlan") -> None:
        super().__init__()
        self.plan = plan
        self.extra_columns = pd.DataFrame({name: pd.Series(dtype=COUNT) for name in plan.counted})

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return (type(self).__name__, repr(self.plan))

    def validate(self, left: lsdb.Catalog, right: lsdb.Catalog) -> None:
        """Everything was looked at before; see `join_counts`."""

    def crossmatch(self, crossmatch_args: Any, how: str, suffixes: tuple[str, str], suffix_method: str = "") -> Any:
        """The left partition with its counts; the right columns, that LSDB expects, are empty."""
        plan, frame, others = self.plan, crossmatch_args.left_df, crossmatch_args.right_df
        left, place = rows_of(frame, plan.left, plan.settings.left_where)
        right, _ = rows_of(others, plan.right, plan.settings.right_where)
        counts = np.zeros((len(frame), len(plan.radii_arcsec)), np.int64)
        counts[place] = counts_within(left, right, plan.radii_arcsec, not_self=plan.settings.not_self)
        columns = {name: pd.Series(counts[:, n], dtype=COUNT) for n, name in enumerate(plan.counted)}
        empty = {
            f"{name}{suffixes[1]}": pd.Series([None] * len(frame), dtype=kind) for name, kind in others.dtypes.items()
        }
        added = pd.DataFrame({**empty, **columns}).set_axis(frame.index, axis=0)
        return type(frame)(pd.concat([pd.DataFrame(frame), added], axis=1))


def rows_of(frame: pd.DataFrame, columns: PositionColumns, expression: str | None) -> tuple[Positions, np.ndarray]:
    """The rows of a partition that are matched, and their places (n,) in it.

    Rows have the numbers of the file they came from, or else those of their order in the sky.
    """
    ra, dec = columns.of(frame)
    good = np.isfinite(ra)
    if expression is not None:
        good &= chosen_rows(table_of(frame), expression)
    place = np.flatnonzero(good)
    if ROW_COLUMN in frame.columns:
        row = frame[ROW_COLUMN].to_numpy(np.int64)
    else:
        row = np.empty(len(frame), np.int64)
        row[np.argsort(frame.index.to_numpy(), kind="stable")] = np.arange(len(frame))
    return Positions(ra[place], dec[place], row[place]), place


def table_of(frame: pd.DataFrame, *, index: bool = False) -> pa.Table:
    """A partition as an Arrow table, with its pixel as the first column if asked for."""
    table = pa.Table.from_pandas(pd.DataFrame(frame), preserve_index=index).replace_schema_metadata(None)
    return table.select([table.column_names[-1], *table.column_names[:-1]]) if index else table


def _among(path: Path, left_row: np.ndarray, right_row: np.ndarray) -> np.ndarray:
    """Places of the pairs that are in a file: a table sorted by left row, in which no left row is there twice."""
    known = np.load(path, mmap_mode="r")
    place = np.minimum(np.searchsorted(known[0], left_row), max(known.shape[1] - 1, 0))
    if not known.shape[1]:
        return np.zeros(0, np.int64)
    return np.flatnonzero((known[0][place] == left_row) & (known[1][place] == right_row))

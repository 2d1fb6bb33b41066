"""The extended catalogue: the input's columns in their order, then the columns a run adds."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skysom.jobs.errors import ConfigError
from skysom.storage import catalogue as tables
from skysom.storage.place import Place

if TYPE_CHECKING:
    import numpy as np

MAPPING_COLUMNS = ("bmu", "bmu_row", "bmu_col", "bmu_depth", "bmu_distance", "angle_deg", "flip")
"""Columns of the latest mapping."""
RESULT_COLUMNS = ("source_id", "status", "coverage", *MAPPING_COLUMNS)
"""Names that belong to results: an input column of such a name becomes input_<name>."""


def extended(table: Any, ids: Any, id_column: str, columns: Mapping[str, Any]) -> Any:
    """``table`` with ``source_id`` (where it is not the input's own) and ``columns`` after its own columns."""
    own = "source_id" if id_column == "source_id" else None
    reserved = dict.fromkeys(name for name in RESULT_COLUMNS if name != own)
    renamed = tables.add_columns(table, reserved)[0].drop(columns=list(reserved))
    first = {} if own else {"source_id": ids}
    return tables.add_columns(renamed, first | dict(columns))[0]


def update_catalogue(path: Place, columns: Mapping[str, Any], row_group_rows: int, *, drop: tuple = ()) -> None:
    """Drop, replace or add result columns, atomically; nothing is written where nothing changes."""
    import pandas as pd

    table = pd.read_parquet(tables.parquet_source(path))
    changed = table.drop(columns=[name for name in drop if name in table.columns and name not in columns])
    for name, values in columns.items():
        changed[name] = values
    if not changed.equals(table):
        tables.write_catalogue(changed, path, row_group_rows)


def write_appended(path: Place, added: Any, row_group_rows: int) -> Place:
    """Write the catalogue with the rows of ``added`` beside it, to be moved into place; returns where.

    Columns only ``added`` has come after the old input columns. CatalogueError where types do not go together.
    """
    import pandas as pd

    before = pd.read_parquet(tables.parquet_source(path))
    table = pd.concat([before, added], ignore_index=True)
    results = [name for name in before.columns if name in RESULT_COLUMNS]
    inputs = [name for name in table.columns if name not in results]
    beside = path.with_name("catalogue.appended.parquet")
    tables.write_catalogue(table[inputs + results], beside, row_group_rows)
    return beside


def summary(statuses: Any) -> str:
    """One line of how many rows are usable, and the causes of the others."""
    import numpy as np

    names, counts = np.unique(statuses, return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    usable = found.pop("ok", 0)
    causes = ", ".join(f"{count:,} {name}" for name, count in sorted(found.items(), key=lambda item: -item[1]))
    return f"{usable:,} of {len(statuses):,} images usable" + (f" ({causes})" if causes else "")


def check_whole(path: Place, source_ids: Any) -> None:
    """ConfigError where the rows of the catalogue are not the images of the store, ``source_ids`` in order."""
    import pyarrow.parquet as pq

    check_rows(path, len(source_ids))
    if "source_id" not in catalogue_columns(path):
        raise ConfigError(f"{path} was changed: it has no column 'source_id' any more; restore it")
    found = pq.read_table(tables.parquet_source(path), columns=["source_id"])["source_id"].to_pylist()
    if [str(value) for value in found] != [str(value) for value in source_ids.tolist()]:
        raise ConfigError(f"{path} was changed: its source_id is not that of the store row by row; restore it")


def check_rows(path: Place, rows: int) -> None:
    """ConfigError where the catalogue has not as many ``rows`` as the store."""
    found = catalogue_rows(path)
    if found != rows:
        raise ConfigError(
            f"the catalogue {path} has {found} rows, the store {rows}; restore it, or, where an append was "
            "interrupted, run the same `skysom ingest --append` again"
        )


def selected_rows(path: Place, where: str, scheduler: str = "threads") -> "np.ndarray":
    """Rows (n,) bool of a catalogue for which an expression holds; see `skysom.cluster.tables.rows_where`.

    ConfigError where it holds for none.
    """
    from skysom.cluster.tables import rows_where

    chosen = rows_where(path, where, scheduler=scheduler)
    if not chosen.any():
        raise ConfigError(f"--where {where!r} selects no row of {path}; change it or leave it out")
    return chosen


def catalogue_columns(path: Place) -> list[str]:
    """Names of the columns of a Parquet file; ConfigError where it cannot be read."""
    return list(_metadata(path).schema.to_arrow_schema().names)


def catalogue_rows(path: Place) -> int:
    """Rows of a Parquet file; ConfigError where it cannot be read."""
    return int(_metadata(path).num_rows)


def _metadata(path: Place) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(tables.parquet_source(path))
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"cannot read {path}: {error}; restore it, or begin again with `--redo ingest`") from None

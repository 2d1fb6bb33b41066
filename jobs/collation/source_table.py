"""The tables of sources and of components: what a collation publishes, from groups and the rows they are made of.

Every function works on the groups of some whole islands, and its result for a group does not depend on the others; so
tables of several parts, one below another, are the table of all. Their schema is fixed by `SourceColumns` alone.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skysom.engine.collation.carried import Carried
from skysom.engine.collation.groups import Groups
from skysom.engine.collation.shapes import group_shapes
from skysom.jobs.collation.source_table_columns import BEST, SourceColumns
from skysom.jobs.collation.source_table_extra import extra_columns
from skysom.jobs.collation.source_table_hosts import (
    Attached,
    Catalogues,
    data_columns,
    flag_columns,
    places_of,
    rows_attached,
    rows_needed,
    texts,
)
from skysom.jobs.collation.source_table_values import best_members, names, positions, sizes_kpc, sums

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SourceColumns", "component_table", "number_sources", "rows_attached", "rows_needed", "source_table"]


def source_table(
    groups: Groups,
    base: "pd.DataFrame",
    carried: Carried,
    catalogues: Catalogues,
    columns: SourceColumns,
    attached: Attached | None = None,
) -> pa.Table:
    """One row a group, in the order of the groups; schema ``columns.schema``.

    ``source`` is the group's smallest row, until `number_sources` counts them. Numbers that are missing are null.

    Parameters
    ----------
    base : indexed by base row, ascending, with columns id, ra_deg, dec_deg (degrees, NaN without a position), status
        (text), neuron (-1 where not mapped), distance, and the flux and redshift columns; all rows of the groups, and
        rows of the base that labels attach.
    carried : the carried pairs of the groups' sources; those of others are not looked at.
    catalogues : of every channel that is not base a table indexed by row, ascending, with id, ra_deg, dec_deg (and the
        redshift, where that of a host is asked for); at least the rows of `rows_needed`.
    attached : what `rows_attached` makes of the same groups and pairs, if it was made already.

    Raises
    ------
    CollationError : rows or columns that are missing. ConfigError : a user's function that fails.
    """
    members = places_of(base, groups.members, "the base")
    count, starts = len(groups), groups.starts
    group = np.repeat(np.arange(count), groups.sizes)
    ra, dec = (_numbers(base, name)[members] for name in ("ra_deg", "dec_deg"))
    fluxes = {name: _numbers(base, name)[members] for name in columns.flux}
    first_flux = next(iter(fluxes.values()), None)
    place = positions(ra, dec, first_flux, group, starts)
    best = best_members(first_flux, groups.members, groups.representative, group, starts)
    ids, status = texts(base["id"]).take(pa.array(members)), texts(base["status"]).take(pa.array(members))
    found: dict[str, Any] = {
        "source": groups.members[starts[:-1]],
        "name": names(place.ra_deg, place.dec_deg, columns.prefix),
        "ra_deg": place.ra_deg,
        "dec_deg": place.dec_deg,
        "position_weighted": place.weighted,
        "components": groups.sizes.astype(np.int32),
        "members": _lists(starts, pa.array(groups.members)),
        "member_ids": _lists(starts, ids),
        "best_component": groups.members[best],
        "best_component_id": ids.take(pa.array(best)),
    }
    for name, values in fluxes.items():
        found[f"{name}_sum"], found[f"{name}_values"] = sums(values, group, count)
    found |= _shape_columns(ra, dec, starts, group)
    found |= _mask_columns(groups, base, columns)
    attached = rows_attached(groups, carried, columns) if attached is None else attached
    hosts, redshift = data_columns(attached, {**catalogues, 0: base}, columns, place.ra_deg, place.dec_deg)
    found |= hosts | flag_columns(groups, carried, columns)
    if columns.redshift and columns.redshift_of == BEST:
        redshift = _numbers(base, columns.redshift)[members][best]
    if redshift is not None:
        found |= {"redshift": redshift, "size_kpc": sizes_kpc(found["size_arcsec"], redshift)}
    found["isolated"] = _isolated(groups, columns)
    found["status"] = pc.if_else(pa.array(groups.representative >= 0), "ok", status.take(pa.array(best)))
    own = [field for field in columns.schema if field.name not in columns.extra_types]
    table = pa.table([_column(found[field.name], field.type) for field in own], schema=pa.schema(own))
    found |= extra_columns(table, base, members, starts, columns)
    return pa.table([_column(found[field.name], field.type) for field in columns.schema], schema=columns.schema)


def component_table(groups: Groups, base: "pd.DataFrame", sources: pa.Table, columns: SourceColumns) -> pa.Table:
    """One row a base row of the groups, ascending; schema ``columns.component_schema``.

    Its ``id`` is that of the base catalogue, so it joins to the published catalogue of components by that column.

    sources : `source_table` of the same groups. base, columns : as there. CollationError : rows that are missing.
    """
    places, group = places_of(base, groups.rows, "the base"), pa.array(groups.group_of)
    best = sources["best_component"].to_numpy()[groups.group_of]
    taken = pa.array(places)
    labels = pa.array([*columns.labels, None], pa.string())
    found = {
        "row": groups.rows,
        "id": texts(base["id"]).take(taken),
        "source": sources["source"].take(group),
        "source_name": sources["name"].take(group),
        "components": sources["components"].take(group),
        "role": pc.if_else(pa.array(best == groups.rows), "best", "member"),
        "ra_deg": _numbers(base, "ra_deg")[places],
        "dec_deg": _numbers(base, "dec_deg")[places],
        "isolated": labels.take(pa.array(groups.isolated % len(labels))),
        "status": texts(base["status"]).take(taken),
    }
    schema = columns.component_schema
    return pa.table([_column(found[field.name], field.type) for field in schema], schema=schema)


def number_sources(table: pa.Table, smallest_rows: np.ndarray) -> pa.Table:
    """Count the sources in a table of sources or components: ``source`` becomes its place in ``smallest_rows``.

    smallest_rows : (G,) int64 ascending, the smallest base row of every source of the collation.
    """
    at = table.schema.get_field_index("source")
    number = np.searchsorted(smallest_rows, table["source"].to_numpy())
    return table.set_column(at, table.schema.field(at), pa.array(number, pa.int64()))


def _shape_columns(ra: np.ndarray, dec: np.ndarray, starts: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    shape = group_shapes(ra, dec, starts)
    several = shape.size_arcsec > 0
    return {
        "size_arcsec": shape.size_arcsec,
        "position_angle_deg": np.where(several, shape.position_angle_deg, np.nan),
        "path_arcsec": shape.path_arcsec,
        "curvature": shape.curvature,
        "path_approximate": shape.approximate,
    }


def _mask_columns(groups: Groups, base: "pd.DataFrame", columns: SourceColumns) -> dict[str, Any]:
    """What is known of the source whose mask was used, which need not be a member."""
    row = groups.representative
    used = np.flatnonzero(row >= 0)
    places = places_of(base, row[used], "the base")
    neuron, distance = np.full(len(groups), -1, np.int32), np.full(len(groups), np.nan, np.float32)
    neuron[used] = base["neuron"].to_numpy()[places]
    distance[used] = base["distance"].to_numpy(dtype=np.float32, na_value=np.nan)[places]
    known = len(columns.neuron_labels)
    labels = pa.array([*(list(texts) for texts in columns.neuron_labels), []], pa.list_(pa.string()))
    return {
        "representative": row,
        "count": groups.representative_count,
        "masks": np.diff(groups.evidence_starts).astype(np.int32),
        "neuron": neuron,
        "distance": distance,
        "neuron_labels": labels.take(pa.array(np.where((neuron < 0) | (neuron >= known), known, neuron))),
    }


def _isolated(groups: Groups, columns: SourceColumns) -> pa.Array:
    """The label that isolated the first member that one did, missing without one."""
    label = np.full(len(groups), -1, np.int64)
    places = np.flatnonzero(groups.isolated >= 0)[::-1]
    label[groups.group_of[places]] = groups.isolated[places]
    return pa.array([*columns.labels, None], pa.string()).take(pa.array(label % (len(columns.labels) + 1)))


def _numbers(base: "pd.DataFrame", name: str) -> np.ndarray:
    return base[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _lists(starts: np.ndarray, values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), values)


def _column(values: Any, kind: pa.DataType) -> Any:
    """A column of its type; NaN is missing."""
    if isinstance(values, np.ndarray):
        return pa.array(values, kind, from_pandas=True)
    return values if values.type == kind else values.cast(kind)

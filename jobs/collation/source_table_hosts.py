"""Rows of catalogues that labels attached to sources, ranked by their distance from the source's position."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from skysom.engine.collation.carried import Carried
from skysom.engine.collation.evidence import AttachedRows, attached_rows, label_flags
from skysom.engine.collation.groups import Groups
from skysom.engine.collation.shapes import ranked_by_separation
from skysom.engine.errors import CollationError
from skysom.jobs.collation.source_table_columns import SourceColumns

if TYPE_CHECKING:
    import pandas as pd

Catalogues = Mapping[int, "pd.DataFrame"]
"""By channel a table with an index of rows, ascending, and the columns id, ra_deg, dec_deg (and the redshift)."""


Attached = Mapping[int, AttachedRows]
"""What labels attached to groups, by label."""


def rows_attached(groups: Groups, carried: Carried, columns: SourceColumns) -> Attached:
    """What every label that attaches rows attached, for `rows_needed` and `source_table`."""
    base = np.array(columns.base_channels)
    return {label: attached_rows(groups, carried, label, columns.actions, base) for label in columns.data_labels}


def rows_needed(attached: Attached, columns: SourceColumns) -> dict[int, np.ndarray]:
    """Rows by channel, ascending int64, of what labels attach: those `source_table` looks up beside the members.

    Channels whose catalogue is the base count as channel 0. attached : of `rows_attached`.
    """
    found: dict[int, list[np.ndarray]] = {}
    for of_label in attached.values():
        channels = _catalogue_of(of_label.channel, columns)
        for channel in _present(channels):
            found.setdefault(channel, []).append(of_label.row[channels == channel])
    return {channel: _distinct(np.concatenate(rows)) for channel, rows in sorted(found.items())}


@dataclass(frozen=True)
class Ranked:
    """What a label attached to G sources, in lists of k rows in all: nearest to the position first, ties by row.

    attached : these lists in that order. separation_arcsec (k,) float64 from the sources' positions; ra_deg, dec_deg
    (k,).
    """

    attached: AttachedRows
    separation_arcsec: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray

    def of_representative(self) -> "Ranked":
        """Those that the representative's mask carries, in the same order."""
        kept = self.attached.by_representative
        columns = (self.separation_arcsec, self.ra_deg, self.dec_deg)
        return Ranked(self.attached.of_representative(), *(column[kept] for column in columns))

    def lists(self, values: "np.ndarray | pa.Array") -> pa.Array:
        """A column of lists of ``values`` (k,)."""
        return pa.ListArray.from_arrays(pa.array(self.attached.starts, pa.int32()), pa.array(values, from_pandas=True))


def data_columns(
    attached: Attached, catalogues: Catalogues, columns: SourceColumns, ra_deg: np.ndarray, dec_deg: np.ndarray
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Columns of all labels that attach rows, and the redshift (G,) of first hosts if that is asked for.

    attached : of `rows_attached`. ra_deg, dec_deg : (G,) positions of the sources.

    Raises
    ------
    CollationError : an attached row that its catalogue's table lacks.
    """
    found: dict[str, Any] = {}
    redshift = None
    for label in columns.data_labels:
        slug = columns.slugs[label]
        union = _ranked(attached[label], catalogues, columns, ra_deg, dec_deg)
        mask = union.of_representative()
        own = mask.attached
        found[f"{slug}_count"] = np.diff(own.starts).astype(np.int32)
        found[f"{slug}_rows"] = mask.lists(own.row)
        found[f"{slug}_ids"] = mask.lists(_ids(own, catalogues, columns))
        found[f"{slug}_separation_arcsec"] = mask.lists(mask.separation_arcsec)
        found[f"{slug}_ra_deg"], found[f"{slug}_dec_deg"] = mask.lists(mask.ra_deg), mask.lists(mask.dec_deg)
        found[f"{slug}_rows_union"] = union.lists(union.attached.row)
        if columns.many_channels(label):
            found[f"{slug}_channels"] = mask.lists(own.channel)
            found[f"{slug}_channels_union"] = union.lists(union.attached.channel)
        if columns.redshift and columns.redshift_of == columns.labels[label]:
            redshift = np.full(len(own), np.nan)
            some = np.flatnonzero(np.diff(own.starts))
            redshift[some] = _looked_up(own, catalogues, columns, columns.redshift)[own.starts[some]]
    return found, redshift


def flag_columns(groups: Groups, carried: Carried, columns: SourceColumns) -> dict[str, pa.Array]:
    """Columns of all labels that set flags, missing where none was set."""
    found = {}
    for label in columns.flag_labels:
        flags = label_flags(groups, carried, label, columns.actions)
        for name, values in (("", flags.representative), ("_union", flags.union)):
            found[f"{columns.slugs[label]}{name}"] = pa.array(values == 1, mask=values < 0)
    return found


def places_of(table: "pd.DataFrame", rows: np.ndarray, what: str) -> np.ndarray:
    """Places (k,) int64 of rows in a table whose index is ascending; CollationError for a row it lacks."""
    index = table.index.to_numpy()
    found = np.searchsorted(index, rows)
    lost = (found == len(index)) | (index[np.minimum(found, len(index) - 1)] != rows) if len(index) else rows >= 0
    if lost.any():
        raise CollationError(
            f"{what}: row {rows[np.argmax(lost)]} is needed for the source table, the {len(index)} rows given lack it; "
            "give the rows of the groups, and those of `rows_needed`"
        )
    return found


def _ranked(
    attached: AttachedRows, catalogues: Catalogues, columns: SourceColumns, ra_deg: np.ndarray, dec_deg: np.ndarray
) -> Ranked:
    """Attached rows with their positions, sorted by distance."""
    ra, dec = (_looked_up(attached, catalogues, columns, name) for name in ("ra_deg", "dec_deg"))
    separation, order = ranked_by_separation(ra, dec, ra_deg, dec_deg, attached.starts, attached.row, attached.channel)
    names = ("channel", "row", "separation_arcsec", "by_representative")
    ordered = replace(attached, **{name: getattr(attached, name)[order] for name in names})
    return Ranked(ordered, separation[order], ra[order], dec[order])


def _catalogue_of(channel: np.ndarray, columns: SourceColumns) -> np.ndarray:
    """Channel (k,) under which each row's catalogue is given."""
    return np.where(np.array(columns.base_channels)[channel], 0, channel) if len(channel) else channel


def _present(channels: np.ndarray) -> list[int]:
    """The channels (k,) that occur, ascending."""
    return np.flatnonzero(np.bincount(channels)).tolist()


def _distinct(values: np.ndarray) -> np.ndarray:
    """Each value once, ascending; several times faster than np.unique, which hashes."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]]


def _looked_up(attached: AttachedRows, catalogues: Catalogues, columns: SourceColumns, name: str) -> np.ndarray:
    """A column of numbers (k,) float64 of the attached rows, NaN where missing."""
    values = np.full(len(attached.row), np.nan)
    channels = _catalogue_of(attached.channel, columns)
    for channel in _present(channels):
        table, own = _table(catalogues, channel, name), channels == channel
        places = places_of(table, attached.row[own], f"channel {channel}")
        values[own] = table[name].to_numpy(dtype=np.float64, na_value=np.nan)[places]
    return values


def _ids(attached: AttachedRows, catalogues: Catalogues, columns: SourceColumns) -> pa.Array:
    """Ids (k,) of the attached rows as text."""
    channels = _catalogue_of(attached.channel, columns)
    parts, places = [], []
    for channel in _present(channels):
        own = np.flatnonzero(channels == channel)
        table = _table(catalogues, channel, "id")
        parts.append(texts(table["id"]).take(pa.array(places_of(table, attached.row[own], f"channel {channel}"))))
        places.append(own)
    if not parts:
        return pa.array([], pa.string())
    return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(places))))


def texts(values: "pd.Series") -> pa.Array:
    """A column as text (n,)."""
    found = pa.Array.from_pandas(values)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return found.cast(pa.string())


def _table(catalogues: Catalogues, channel: int, name: str) -> "pd.DataFrame":
    if channel not in catalogues or name not in catalogues[channel].columns:
        there = list(catalogues[channel].columns) if channel in catalogues else "no table"
        raise CollationError(f"column {name!r} of channel {channel} is needed for the source table, there is {there}")
    return catalogues[channel]

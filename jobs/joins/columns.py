"""Columns of catalogues that are joined: where the rows are, which are taken, what the result calls them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.storage.catalogue import NULLABLE, coordinates
from skysom.storage.selection import column_names, select

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from skysom.storage.table_stream import TableStream

RA_NAMES = ("ra_deg", "ra", "raj2000", "ra_j2000", "_raj2000", "_ra", "ra/deg")
DEC_NAMES = ("dec_deg", "dec", "dej2000", "dec_j2000", "decj2000", "_dej2000", "_dec", "_de", "dec/deg")
"""Columns taken for positions where none is named, in any case of letters; the first that is there."""


@dataclass(frozen=True)
class PositionColumns:
    """Columns of right ascension and declination in degrees, and the units the file gives."""

    ra: str
    dec: str
    units: tuple[tuple[str, str], ...] = ()

    def of(self, table: Any) -> tuple[np.ndarray, np.ndarray]:
        """RA and Dec (n,) float64 degrees of an Arrow table or a DataFrame; both NaN in rows without a position.

        Raises
        ------
        CatalogueError : see `skysom.storage.catalogue.coordinates`.
        """
        names = [self.ra, self.dec]
        frame = frame_of(table.select(names)) if hasattr(table, "column_names") else table[names].copy()
        frame.attrs = {"units": dict(self.units)}
        return coordinates(frame, self.ra, self.dec)


def position_columns(stream: "TableStream", ra: str | None, dec: str | None, side: str) -> PositionColumns:
    """The columns of positions that are named, or else those known by their names.

    side : how the catalogue is called in messages and options, "left", "right" or "" where there is one.

    Raises
    ------
    ConfigError : a column that is not there, none that is known, or one column for both.
    """
    option = f"--{side}-" if side else "--"
    names = stream.schema.names
    found = []
    for given, known, axis in ((ra, RA_NAMES, "ra"), (dec, DEC_NAMES, "dec")):
        if given is not None and given not in names:
            raise ConfigError(f"{stream.path} has no column {given!r} ({option}{axis}); it has {', '.join(names)}")
        lower = {name.lower(): name for name in reversed(names)}
        column = given or next((lower[name] for name in known if name in lower), None)
        if column is None:
            raise ConfigError(
                f"{stream.path} has none of the columns {', '.join(known)}; name that of degrees with {option}{axis}: "
                f"it has {', '.join(names)}"
            )
        found.append(column)
    if found[0] == found[1]:
        raise ConfigError(
            f"{stream.path}: column {found[0]!r} would be both right ascension and declination; "
            f"name two columns of degrees with {option}ra and {option}dec"
        )
    units = tuple((name, stream.units[name]) for name in found if name in stream.units)
    return PositionColumns(found[0], found[1], units)


def numeric_schema(schema: "pa.Schema", columns: PositionColumns) -> "pa.Schema":
    """The schema of what `with_numeric_positions` gives."""
    import pyarrow as pa

    for name in (columns.ra, columns.dec):
        if pa.types.is_string(schema.field(name).type):
            schema = schema.set(schema.get_field_index(name), schema.field(name).with_type(pa.float64()))
    return schema


def with_numeric_positions(table: "pa.Table", columns: PositionColumns) -> "pa.Table":
    """Positions that are text, because some are no numbers, as numbers; the others are missing."""
    import pyarrow as pa

    for name, values in zip((columns.ra, columns.dec), columns.of(table), strict=True):
        if pa.types.is_string(table.schema.field(name).type):
            place = table.column_names.index(name)
            field = table.schema.field(name).with_type(pa.float64())
            table = table.set_column(place, field, pa.array(values, from_pandas=True))
    return table


def frame_of(table: "pa.Table") -> "pd.DataFrame":
    """A DataFrame whose types follow from the schema, whatever values are missing."""
    import pandas as pd

    columns = {
        name: column.to_pandas(types_mapper=NULLABLE.get)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(table)))


def chosen_rows(table: "pa.Table", expression: str | None) -> np.ndarray:
    """Rows (n,) bool for which an expression holds, see `skysom.storage.selection.select`; all without one."""
    if expression is None:
        return np.ones(len(table), bool)
    import pyarrow as pa

    names = column_names(expression)
    there = names if set(names) <= set(table.column_names) else table.column_names  # select says which is not
    table = table.select(there)
    texts = [
        field.name for field in table.schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    return select(frame_of(table).astype(dict.fromkeys(texts, "string")), expression)  # typed in an empty part, too


def joined_names(left: Sequence[str], right: Sequence[str], suffix: str) -> dict[str, str]:
    """Names in the result of the columns that are added to a catalogue: one that is taken gets the suffix, or several.

    left : names that are taken. right : of the added columns, no name twice.

    Raises
    ------
    ConfigError : an empty suffix where one is needed.
    """
    taken = set(left)
    names: dict[str, str] = {}
    for name in right:
        new = name
        while new in taken:
            if not suffix:
                raise ConfigError(f"there would be two columns {name!r}; give --suffix, such as _right")
            new += suffix
        taken.add(new)
        names[name] = new
    return names


def renamed(names: dict[str, str], made: dict[str, str]) -> str:
    """A sentence of which columns were renamed, of a catalogue and of those that the join makes; empty if none."""
    pairs = [f"{old} -> {new}" for old, new in names.items() if old != new]
    pairs += [f"{old} of this join -> {new}" for old, new in made.items() if old != new]
    return f"columns renamed, as there are others of these names: {', '.join(pairs)}" if pairs else ""


def chosen_columns(stream: "TableStream", names: Sequence[str] | None, option: str) -> list[str]:
    """The named columns of a catalogue, all of them by default.

    Raises
    ------
    ConfigError : a column that is not there.
    """
    missing = [name for name in names or () if name not in stream.schema.names]
    if missing:
        there = ", ".join(stream.schema.names)
        raise ConfigError(f"{stream.path} has no column {missing[0]!r} ({option}); it has {there}")
    return list(stream.schema.names if names is None else dict.fromkeys(names))

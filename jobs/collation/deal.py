"""Dealing: the rows of every catalogue to the boxes of the sky, streamed, so that a catalogue may exceed memory."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.collation.sky_boxes import SkyBoxes, partition_sky
from skysom.engine.errors import CollationError
from skysom.jobs.collation.folder import CollationFolder
from skysom.jobs.collation.inputs import CatalogueFile, CollationInputs
from skysom.jobs.collation.publishing import damaged
from skysom.jobs.collation.source_table_columns import BEST, SourceColumns
from skysom.jobs.collation.tables import write_parts
from skysom.jobs.errors import ConfigError
from skysom.storage import place as places
from skysom.storage.catalogue import NULLABLE, ROW_NUMBER, parquet_source
from skysom.storage.place import write_atomically
from skysom.storage.table_stream import open_table, plain_schema, readable

if TYPE_CHECKING:
    import pyarrow as pa

DEALT_ROWS = 500_000
"""Rows that are read, dealt and written at a time."""
SAMPLED_ROWS = 1_000_000
"""Positions that decide where boxes are cut, of all catalogues together."""
EXTRA = "extra:"
"""Before the name of a column of the base that is carried along for the source table."""


_UNMAPPED = (
    ("neuron", -1, np.int32),
    ("angle_rad", 0, np.float32),
    ("flip", 0, np.int8),
    ("distance", np.nan, np.float32),
)
"""What rows without a best unit have."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a catalogue that one task deals: whole row groups of a Parquet file, or all of another file.

    number : of the piece in its catalogue. first, stop : its rows. groups : of the file, None for all of it.
    """

    number: int
    first: int
    stop: int
    groups: tuple[int, ...] | None


@dataclass(frozen=True)
class BaseRows:
    """What the inputs say of the base rows of a piece; arrays (n,) in row order."""

    status: np.ndarray
    matchable: np.ndarray
    rank: np.ndarray
    neuron: np.ndarray
    angle_rad: np.ndarray
    flip: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, inputs: CollationInputs, piece: Piece) -> "BaseRows":
        """Those of a piece; rows that were not mapped have neuron -1."""
        rows, mapped = slice(piece.first, piece.stop), inputs.mapped
        there, count = slice(*np.searchsorted(mapped.row, [piece.first, piece.stop])), piece.stop - piece.first
        status = inputs.status[rows]
        spread = {}
        for name, fill, dtype in _UNMAPPED:
            given = getattr(mapped, name)[there].astype(dtype, copy=False)
            spread[name] = given  # a view, where all rows were mapped
            if len(given) < count:
                spread[name] = np.full(count, fill, dtype)
                spread[name][mapped.row[there] - piece.first] = given
        matchable = replace(inputs, status=status).matchable()
        return cls(status, matchable, inputs.rank[rows], **spread)


TAKEN = frozenset({"id", "ra_deg", "dec_deg", *BaseRows.__dataclass_fields__})
"""Names of columns that a collation makes of every row of the base."""


def pieces_of(catalogue: CatalogueFile) -> list[Piece]:
    """The pieces of a catalogue, in row order.

    Raises
    ------
    ConfigError : it has other rows than when it was opened.
    """
    if not catalogue.path.name.lower().endswith(".parquet"):
        return [Piece(0, 0, catalogue.rows, None)]
    import pyarrow.parquet as pq

    with pq.ParquetFile(parquet_source(catalogue.path)) as file:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if sum(counts) != catalogue.rows:
        raise ConfigError(f"{catalogue.path} has {sum(counts)} rows now, it had {catalogue.rows}; restore it")
    if not catalogue.rows:
        return [Piece(0, 0, 0, ())]
    found: list[Piece] = []
    groups: list[int] = []
    first = stop = 0
    for group, count in enumerate(counts):
        groups.append(group)
        stop += count
        if stop - first >= DEALT_ROWS or group == len(counts) - 1:
            found.append(Piece(len(found), first, stop, tuple(groups)))
            groups, first = [], stop
    return found


def blocks(
    catalogue: CatalogueFile, piece: Piece, columns: Sequence[str]
) -> "Iterator[tuple[int, np.ndarray, np.ndarray, pa.Table]]":
    """(first row, RA, Dec, table of ``columns``) of consecutive blocks of a piece, of `DEALT_ROWS` rows at most.

    A catalogue without rows is one block.
    """
    where, names = [catalogue.ra_column, catalogue.dec_column], list(columns)
    parts, units = _row_groups(catalogue, piece.groups or (), [*where, *names]), dict[str, str]()
    if piece.groups is None:
        stream = open_table(catalogue.path)
        parts, units = (part for _, part in stream.parts([*where, *names], DEALT_ROWS)), stream.units
    first = piece.first
    for part in parts:
        frame = part.select(where).to_pandas(types_mapper=NULLABLE.get)
        frame.attrs["units"] = units
        yield first, *catalogue.positions(frame), part.select(names)
        first += len(part)


def _row_groups(catalogue: CatalogueFile, groups: Sequence[int], names: Sequence[str]) -> "Iterator[pa.Table]":
    """Some row groups of a Parquet file, of the types that `open_table` gives; one empty table for none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = list(dict.fromkeys(names))
    with readable(catalogue.path), pq.ParquetFile(parquet_source(catalogue.path)) as file:
        plain, _ = plain_schema(file.schema_arrow, catalogue.path, lists=False)
        schema = pa.schema([plain.field(name) for name in wanted])
        if not groups:
            yield schema.empty_table()
            return
        for batch in file.iter_batches(DEALT_ROWS, row_groups=list(groups), columns=wanted, use_threads=False):
            yield pa.Table.from_batches([batch]).select(wanted).cast(schema)


def boxes_for(inputs: CollationInputs, rows_per_box: int, folder: CollationFolder) -> SkyBoxes:
    """The boxes of an earlier run, or new ones, cut at quantiles of a sample of all catalogues and kept.

    All catalogues are sampled, so that a box holds about ``rows_per_box`` rows of all of them together, however much
    denser than the base another is.

    Raises
    ------
    ConfigError : those of an earlier run are damaged.
    """
    path = folder.private / "boxes.json"
    try:
        return _kept_boxes(json.loads(places.read_bytes(path)))
    except FileNotFoundError:
        pass
    except (ValueError, RecursionError, LookupError, TypeError, CollationError, IsADirectoryError):
        raise damaged(path) from None
    files = distinct(inputs)
    total = sum(file.rows for file in files.values())
    step = max(1, -(-total // SAMPLED_ROWS))
    ra, dec = np.concatenate([sampled for file in files.values() for sampled in _sample(file, step)], axis=1)
    boxes = partition_sky(ra, dec, max(1, rows_per_box // step))
    write_atomically(path, json.dumps(boxes.to_dict()).encode())
    return boxes


def _kept_boxes(values: Any) -> SkyBoxes:
    """The boxes of `SkyBoxes.to_dict`; ValueError, or what reading them raises, where they are none."""
    boxes = SkyBoxes.from_dict(values)
    for cuts in (boxes.dec_cuts_deg, *boxes.ra_cuts_deg):
        if cuts.ndim != 1 or not np.isfinite(cuts).all() or (np.diff(cuts) <= 0).any():
            raise ValueError("cuts that do not ascend")
    return boxes


def distinct(inputs: CollationInputs) -> dict[int, CatalogueFile]:
    """Catalogues by their channel: the base as channel 0, and those that are not the base."""
    others = {c: file for c, file in enumerate(inputs.catalogues) if c and not inputs.base_channels[c]}
    return {0: inputs.base, **others}


def _sample(catalogue: CatalogueFile, step: int) -> "Iterator[np.ndarray]":
    """Positions (2, k) of every ``step``-th row."""
    for piece in pieces_of(catalogue):
        for first, ra, dec, _ in blocks(catalogue, piece, []):
            yield np.stack([ra, dec])[:, -first % step :: step]


def deal_piece(
    folder: CollationFolder,
    inputs: CollationInputs,
    boxes: SkyBoxes,
    channel: int,
    piece: Piece,
    margin_arcsec: float,
    base: BaseRows | None,
    extra: Sequence[str],
) -> dict[str, int]:
    """Write the rows of a piece by box; a task. Rows near a border are in every box they may matter to.

    base : of a piece of the base, whose rows are each at home in one box; None for other catalogues, whose rows
        without a position are left out. extra : columns to be carried along.

    Returns
    -------
    counts : number of the piece, rows, files written, and rows without a position.
    """
    catalogue = inputs.catalogues[channel]
    ids = [] if catalogue.id_column == ROW_NUMBER else [catalogue.id_column]
    files = lost = 0
    for first, ra, dec, table in blocks(catalogue, piece, list(dict.fromkeys([*ids, *extra]))):
        lost += int(np.isnan(ra).sum())
        own: dict[str, np.ndarray] = {}
        if base is None:
            index, box = boxes.with_margin(ra, dec, margin_arcsec)
        else:
            index, box, own = _base_rows(boxes, ra, dec, margin_arcsec, base, slice(first - piece.first, None), first)
        known = {"row": first + index, "ra_deg": ra[index], "dec_deg": dec[index]} | own
        carried = dict(zip(["id"], ids, strict=False)) | {f"{EXTRA}{name}": name for name in extra}
        rows = _with_columns(known, {new: table.column(name) for new, name in carried.items()}, index)
        folder.check()
        write_parts(folder.dealt(channel, piece.number, files), rows, box)
        files += 1
    return {"piece": piece.number, "rows": piece.stop - piece.first, "files": files, "without_position": lost}


def _base_rows(
    boxes: SkyBoxes, ra: np.ndarray, dec: np.ndarray, margin_arcsec: float, base: BaseRows, part: slice, first: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Which rows go to which box, sorted by box, then row; and their own columns."""
    count = len(ra)
    values = {name: getattr(base, name)[part][:count] for name in base.__dataclass_fields__}
    home = boxes.box_of(ra, dec)
    # Rows that no other can reach are at home anywhere.
    home = np.where(home >= 0, home, (first + np.arange(count)) % boxes.count)
    seen = values["matchable"]
    index, box = boxes.with_margin(np.where(seen, ra, np.nan), dec, margin_arcsec)
    alone = np.flatnonzero(~seen)
    index, box = np.concatenate([index, alone]), np.concatenate([box, home[alone]])
    order = np.lexsort((index, box))
    index, box = index[order], box[order]
    own = {name: array[index] for name, array in values.items()}
    return index, box, own | {"home": home[index] == box}


def _with_columns(known: dict[str, np.ndarray], more: "dict[str, pa.ChunkedArray]", index: np.ndarray) -> "pa.Table":
    """What is known of the dealt rows (k,), and columns (n,) of their block at ``index`` (k,)."""
    import pyarrow as pa

    columns: dict[str, Any] = {name: pa.array(values) for name, values in known.items()}
    taken = pa.array(index)
    return pa.table(columns | {name: values.combine_chunks().take(taken) for name, values in more.items()})


def extra_columns(columns: SourceColumns, channel: int) -> list[str]:
    """Columns of a catalogue that the source table needs beside positions and ids.

    Raises
    ------
    ConfigError : one is called as what is known of every row.
    """
    found = [columns.redshift] if columns.redshift else []
    if channel == 0:
        found = [*columns.flux, *found]
    elif (
        columns.redshift_of == BEST or channel not in columns.label_channels[columns.labels.index(columns.redshift_of)]
    ):
        found = []
    taken = sorted(TAKEN.intersection(found))
    if taken:
        raise ConfigError(
            f"column {taken[0]!r} of a flux or redshift has the name of one that a collation makes "
            f"({', '.join(sorted(TAKEN))}); rename it in the catalogue"
        )
    return list(dict.fromkeys(found))

"""What is done box by box: projecting the masks of its sources, and grouping the islands that are at home in it.

Both are tasks: they read what earlier ones left in the work folder, write whole files, and return a few counts. Doing
one twice gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.collation.carried import Carried
from skysom.engine.collation.grouping import group
from skysom.engine.collation.islands import touching
from skysom.engine.collation.projection import Frames, carried_of_channel
from skysom.jobs.collation.deal import EXTRA
from skysom.jobs.collation.evidence import evidence_table
from skysom.jobs.collation.folder import CollationFolder
from skysom.jobs.collation.inputs import STATUSES, CollationInputs
from skysom.jobs.collation.source_table import SourceColumns, component_table, rows_attached, rows_needed, source_table
from skysom.jobs.collation.tables import column, read_part, stack, write_parts
from skysom.jobs.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from skysom.engine.collation.groups import Groups


PROBED_STEPS = (4096, 64)
"""Where pairs are counted beforehand, every so manieth source is projected."""


@dataclass(frozen=True)
class BoxWork:
    """What every task on a box knows.

    inputs : without the arrays of a value a base row, which were dealt. planes : by channel (N, D, D) uint64.
    reach_arcsec : by channel (N,), how far the masks of neurons reach. files : by channel, the numbers of (piece,
    file) that its rows were dealt to. range_rows : base rows of a range, by which tables are merged. most_pairs :
    carried pairs that a box may have, None for any number.
    """

    folder: CollationFolder
    inputs: CollationInputs
    planes: tuple[np.ndarray, ...]
    reach_arcsec: tuple[np.ndarray, ...]
    files: Mapping[int, Sequence[tuple[int, int]]]
    columns: SourceColumns
    range_rows: int
    most_pairs: int | None = None


# --- projecting -----------------------------------------------------------------------------------


def project_box(work: BoxWork, box: int) -> dict[str, Any]:
    """Find what the masks of the sources of a box carry, and keep it with the rows it is about; a task.

    Returns
    -------
    counts : base rows of the box, sources among them, and carried pairs, together and by channel.

    Raises
    ------
    ConfigError : more carried pairs than memory is allowed for, told before they are gathered.
    """
    inputs, base = work.inputs, _dealt(work, 0, box)
    home = column(base, "home")
    sources = base.filter(home & (column(base, "rank") >= 0))
    target = base.filter(base.column("matchable"))
    parts: list[Carried] = []
    attached = {0: target}
    for channel, of_base in enumerate(inputs.base_channels):
        others = target if of_base else _dealt(work, channel, box)
        parts.append(_carried(work, box, channel, sources, others, sum(map(len, parts))))
        if not of_base:
            attached[channel] = others
    carried = Carried.concatenate(parts)
    ties = touching(carried, inputs.actions, inputs.base_channels)
    work.folder.check()
    of_base, of_others = (_data_bits(work.columns, base) for base in (True, False))
    data = carried.take(carried.bits & np.where(inputs.base_channels[carried.channel], of_base, of_others) != 0)
    for channel, rows in attached.items():
        wanted = np.isin(column(rows, "row"), _rows_of(data, channel, inputs.base_channels))
        write_parts(work.folder.sky(box, f"catalogue-{channel}"), _kept(rows.filter(wanted)))
    write_parts(work.folder.sky(box, "carried"), _as_table(carried))
    write_parts(work.folder.sky(box, "ties"), _arrow(source=ties[0], target=ties[1]))
    own = _kept(base.filter(base.column("home")))
    write_parts(work.folder.sky(box, "base"), own)
    write_parts(work.folder.sky(box, "pairs"), _arrow(pairs=_counts(carried.source, column(own, "row"))))
    counts = {"rows": len(own), "sources": len(sources), "carried": len(carried)}
    return counts | {"carried_by_channel": [len(part) for part in parts]}


def _carried(work: BoxWork, box: int, channel: int, sources: "pa.Table", others: "pa.Table", before: int) -> Carried:
    """What the masks of ``sources`` carry of ``others``. before : pairs of other channels, which are held already.

    Where memory is limited, a few sources are projected first, so that too many pairs are told before they are there.
    """

    def carried_by(some: "pa.Table") -> Carried:
        return carried_of_channel(
            channel,
            column(some, "row"),
            column(some, "ra_deg"),
            column(some, "dec_deg"),
            Frames(*(column(some, name) for name in ("neuron", "angle_rad", "flip"))),
            column(others, "row"),
            column(others, "ra_deg"),
            column(others, "dec_deg"),
            work.planes[channel],
            work.inputs.pixel_scale_arcsec,
            work.inputs.limit_arcsec,
            float32_angles=work.inputs.float32_angles,
            reach_arcsec=work.reach_arcsec[channel],
        )

    if work.most_pairs is None:
        return carried_by(sources)
    for step in PROBED_STEPS:
        probe = np.arange(0, len(sources), step)
        if 1 < len(probe) < len(sources):
            expected = len(carried_by(sources.take(probe))) * len(sources) // len(probe)
            _check_pairs(work, box, before + expected, "about ")
    found = carried_by(sources)
    _check_pairs(work, box, before + len(found))
    return found


def _check_pairs(work: BoxWork, box: int, pairs: int, about: str = "") -> None:
    """ConfigError where a box has more carried pairs than it may."""
    if work.most_pairs is not None and pairs > work.most_pairs:
        raise ConfigError(
            f"masks in box {box} of the sky carry {about}{pairs:,} rows, the memory allowed holds {work.most_pairs:,} "
            "a box; give fewer rows a box, fewer threads or more memory (--memory-gb), or let the masks reach less far"
        )


def _counts(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How often each of ``rows`` (n,), ascending, is among sorted ``values``: (n,) int32."""
    edges = [np.searchsorted(values, rows, side=side) for side in ("left", "right")]
    return (edges[1] - edges[0]).astype(np.int32)


def _rows_of(carried: Carried, channel: int, base_channels: np.ndarray) -> np.ndarray:
    """Rows of a catalogue that are carried, maybe repeatedly; channel 0 stands for all channels of the base."""
    own = base_channels[carried.channel] if channel == 0 else carried.channel == channel
    return carried.row[own]


def _data_bits(columns: SourceColumns, of_base: bool) -> np.uint64:
    """Bits of the labels whose rows are looked up in the base, or in other catalogues."""
    return np.uint64(sum(1 << label for label in columns.data_labels if columns.actions[label].data or not of_base))


def _kept(table: "pa.Table") -> "pa.Table":
    """What grouping needs of rows that were dealt."""
    return table.drop_columns([name for name in ("home", "matchable") if name in table.column_names])


def _dealt(work: BoxWork, channel: int, box: int) -> "pa.Table":
    """Rows of a catalogue in a box and its margin, ascending."""
    files = [work.folder.dealt(channel, piece, number) for piece, number in work.files[channel]]
    return stack(read_part(path, box) for path in files)


# --- grouping -------------------------------------------------------------------------------------


def group_box(work: BoxWork, box: int, rows: np.ndarray, boxes: Sequence[int]) -> dict[str, Any]:
    """Group ``rows`` (n,) int64, sorted: whole islands, whose rows are at home in ``boxes``; a task.

    The tables of their groups are left as those of ``box``, in parts by range of rows.

    Returns
    -------
    counts : rows, groups and, by table, the ranges it has rows in.
    """
    inputs = work.inputs
    base, carried = _of_rows(work, "base", boxes, "row", rows), _of_rows(work, "carried", boxes, "source", rows)
    base = base.sort_by("row")
    carried = Carried(*(column(carried, field.name) for field in fields(Carried))).sorted()
    groups = group(carried, rows, column(base, "rank"), inputs.actions, inputs.base_channels, inputs.corrections)
    _assert_whole(rows, base, groups)
    tables = tables_of(work, groups, base, carried, boxes)
    work.folder.check()
    counts: dict[str, Any] = {"rows": len(rows), "groups": len(groups)}
    for name, (table, key) in tables.items():
        counts[name] = write_parts(work.folder.part(box, name), table, key // work.range_rows)
    return counts


def tables_of(
    work: BoxWork, groups: "Groups", base: "pa.Table", carried: Carried, boxes: Sequence[int]
) -> dict[str, tuple["pa.Table", np.ndarray]]:
    """By name: a table of these groups, sorted by its key (k,) int64, and that key. base : the rows of the groups."""
    columns = work.columns
    used = carried.of_sources(groups.evidence_source)
    attached = rows_attached(groups, used, columns)
    needed = rows_needed(attached, columns)
    catalogues = {channel: _frame(_attached(work, channel, boxes, rows)) for channel, rows in needed.items() if channel}
    strangers = np.setdiff1d(needed.get(0, groups.rows), groups.rows)
    if len(strangers):
        base = stack([base, _attached(work, 0, boxes, strangers)]).sort_by("row")
    known = _frame(base)
    sources = source_table(groups, known, used, catalogues, columns, attached)
    components = component_table(groups, known, sources, columns)
    u, v, count, source = groups.edges()
    neuron = known["neuron"].reindex(groups.rows).to_numpy()
    evidence = evidence_table(groups, carried, neuron, columns.actions, columns.slugs)
    return {
        "sources": (sources, column(sources, "source")),
        "components": (components, groups.rows),
        "edges": (_arrow(u=u, v=v, count=count, source=source), u),
        "evidence": (evidence, column(evidence, "count")),
    }


def _assert_whole(rows: np.ndarray, base: "pa.Table", groups: "Groups") -> None:
    """Every row that was asked for is in exactly one group, and is known; asserted in optimised Python, too."""
    if not np.array_equal(column(base, "row"), rows):
        raise AssertionError("base rows of a box are missing, or there twice")
    if not np.array_equal(np.sort(groups.members), rows):
        raise AssertionError("base rows of a box are not each in exactly one source")


def _of_rows(work: BoxWork, kind: str, boxes: Sequence[int], key: str, rows: np.ndarray) -> "pa.Table":
    """The rows of a kind of table of ``boxes`` whose key is among sorted ``rows``."""
    parts = []
    for box in boxes:
        table = read_part(work.folder.sky(box, kind))
        values = column(table, key)
        place = np.minimum(np.searchsorted(rows, values), len(rows) - 1)
        kept = rows[place] == values
        parts.append(table if kept.all() else table.filter(kept))
    return stack(parts)


def _attached(work: BoxWork, channel: int, boxes: Sequence[int], rows: np.ndarray) -> "pa.Table":
    """``rows`` (k,) int64, ascending, of a catalogue: those that masks of sources in ``boxes`` carry."""
    found = stack(read_part(work.folder.sky(box, f"catalogue-{channel}")) for box in boxes)
    there, first = np.unique(column(found, "row"), return_index=True)
    return found.take(first[np.searchsorted(there, rows)])


def _frame(table: "pa.Table") -> "pd.DataFrame":
    """Rows of a catalogue as a DataFrame that is indexed by row, with ids and statuses as text."""
    import pandas as pd
    import pyarrow as pa

    rows, values = column(table, "row"), {"id": text_ids(table).to_pandas()}
    for name in table.column_names:
        if name == "status":
            values[name] = pa.array(STATUSES).take(table.column(name)).to_pandas()
        elif name not in ("row", "id"):
            values[name.removeprefix(EXTRA)] = table.column(name).to_pandas()
    return pd.DataFrame(values).set_axis(rows)


def text_ids(table: "pa.Table") -> "pa.ChunkedArray":
    """Ids (n,) as text, as `storage.catalogue.source_ids` makes them: stripped, "row-NUMBER" where one is missing, the
    row's number where the catalogue has no ids. Whole numbers that are stored as floats lose their ".0"."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = table.column("row").cast(pa.string())
    if "id" not in table.column_names:
        return rows
    ids = table.column("id")
    if pa.types.is_floating(ids.type):
        whole = pc.fill_null(pc.equal(pc.floor(ids), ids), False)
        numbers = pc.if_else(whole, ids, None).cast(pa.int64()).cast(pa.string())
        ids = pc.if_else(whole, numbers, pc.if_else(pc.is_nan(ids), None, ids).cast(pa.string()))
    ids = pc.utf8_trim_whitespace(ids.cast(pa.string()))
    missing = pc.fill_null(pc.equal(ids, ""), True)
    return pc.if_else(missing, pc.binary_join_element_wise("row", rows, "-"), ids)


def _as_table(carried: Carried) -> "pa.Table":
    return _arrow(**{field.name: getattr(carried, field.name) for field in fields(Carried)})


def _arrow(**columns: np.ndarray) -> "pa.Table":
    import pyarrow as pa

    return pa.table({name: pa.array(values) for name, values in columns.items()})

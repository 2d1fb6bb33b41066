"""The table of masks that were used: what each source's mask linked, and what lay under its labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.collation.carried import Carried
from skysom.engine.collation.evidence import NO_FLAG, used_masks

if TYPE_CHECKING:
    import pyarrow as pa

    from skysom.engine.collation.actions import Action
    from skysom.engine.collation.groups import Groups


def evidence_schema(slugs: Sequence[str]) -> "pa.Schema":
    """Columns of `evidence_table`; slugs : what the columns of each label begin with."""
    import pyarrow as pa

    rows = pa.list_(pa.int64())
    fields = [("count", pa.int64()), ("source", pa.int64()), ("neuron", pa.int32()), ("linked", rows)]
    for slug in slugs:
        fields += [(f"{slug}_rows", rows), (f"{slug}_channels", pa.list_(pa.int8()))]
        fields += [(f"{slug}_separation_arcsec", pa.list_(pa.float32())), (f"{slug}_flag", pa.bool_())]
    return pa.schema(fields)


def evidence_table(
    groups: "Groups", carried: Carried, neuron: np.ndarray, actions: Sequence["Action"], slugs: Sequence[str]
) -> "pa.Table":
    """One row a source whose mask was used, by ascending count.

    Columns: count, source (base row), neuron, linked (base rows that it links at the end); and by label <slug>_rows,
    <slug>_channels (of the catalogues of these rows), <slug>_separation_arcsec, <slug>_flag (none where not set).

    neuron : (n,) int32, of the rows of the groups. slugs : of each label, see `SourceColumns.slugs`.
    """
    import pyarrow as pa

    used = used_masks(groups, carried, actions)
    columns: list[Any] = [
        pa.array(used.count),
        pa.array(used.source),
        pa.array(neuron[np.searchsorted(groups.rows, used.source)]),
        _lists(used.linked_starts, used.linked),
    ]
    for label in range(len(actions)):
        under, flag = used.labels[label], used.flags[:, label]
        columns += [_lists(under.starts, values) for values in (under.row, under.channel, under.separation_arcsec)]
        columns.append(pa.array(flag == 1, mask=flag == NO_FLAG))
    return pa.table(columns, schema=evidence_schema(slugs)).take(np.argsort(used.count))


def _lists(starts: np.ndarray, values: np.ndarray) -> "pa.ListArray":
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), pa.array(values))

"""A part of a collation: its inputs for some rows of the base, with catalogues that are cut from the whole ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.collation.inputs import CatalogueFile, CollationInputs, Mapped
from skysom.jobs.collation.inputs_catalogue import fingerprint

if TYPE_CHECKING:
    from skysom.engine.collation.groups import Corrections


def part_of(inputs: CollationInputs, files: Sequence[CatalogueFile], rows: np.ndarray) -> CollationInputs:
    """The inputs of ``rows`` (k,) of the base, ascending.

    files : catalogues that are cut from those of ``inputs``, one a channel; the first has these rows, in their order.
    Ranks keep their order, corrections stay where all they name are among the rows.
    """
    mapped = inputs.mapped
    there = np.searchsorted(mapped.row, rows)
    there = there[mapped.row[np.minimum(there, len(mapped) - 1)] == rows]
    columns = vars(mapped)
    return replace(
        inputs,
        mapped=Mapped(np.searchsorted(rows, mapped.row[there]), *(columns[n][there] for n in list(columns)[1:])),
        catalogues=tuple(files),
        rank=_ranked(inputs.rank[rows]),
        status=inputs.status[rows],
        corrections=_within(inputs.corrections, rows),
    )


def origin_of_part(inputs: CollationInputs, files: Sequence[CatalogueFile]) -> dict[str, Any]:
    """Plain values by which the inputs of a part can be made again: the whole catalogues, and what the cut ones are."""
    return {
        "part_of": [
            [str(file.path), file.ra_column, file.dec_column, file.id_column, file.rows] for file in inputs.catalogues
        ],
        "part_rows": [file.row_column for file in files],
        "parts": [fingerprint(file.path) for file in files],
    }


def _ranked(rank: np.ndarray) -> np.ndarray:
    """Ranks without gaps, in the same order; -1 stays."""
    used = np.flatnonzero(rank >= 0)
    found = np.full(len(rank), -1, np.int64)
    found[used[np.argsort(rank[used])]] = np.arange(len(used))
    return found


def _within(corrections: "Corrections | None", rows: np.ndarray) -> "Corrections | None":
    """Corrections of rows that are all among sorted ``rows``, by their places in them."""
    from skysom.engine.collation.groups import Corrections

    if corrections is None:
        return None
    place_of = {int(row): number for number, row in enumerate(rows.tolist())}
    together = [group for group in corrections.together if all(row in place_of for row in group)]
    return Corrections(
        tuple(tuple(place_of[row] for row in group) for group in together),
        tuple(place_of[row] for row in corrections.apart if row in place_of),
    )

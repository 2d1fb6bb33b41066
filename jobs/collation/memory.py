"""Bytes a collation needs, before it starts."""

import math
from dataclasses import dataclass

from skysom.jobs.collation.deal import DEALT_ROWS, SAMPLED_ROWS, distinct
from skysom.jobs.collation.folder import TABLES
from skysom.jobs.collation.inputs import CollationInputs
from skysom.jobs.collation.run import range_rows

LOADED_BYTES = 250_000_000
"""Of libraries and compiled loops that are loaded on the way."""
DRIVER_ROW_BYTES = 100
"""Of a base row in the driver: mapping, order and status 34, home 4, islands 12, order of boxes 16, smallest members
and what sorting them takes."""
DEALT_ROW_BYTES = 320
"""Of a row that is dealt: the block, its columns in the order of boxes, and the file."""
BOX_ROW_BYTES = 800
"""Of a row of all catalogues in a box: positions and trees; or the tables of its groups."""
LOOKED_UP_BYTES = 200_000_000
"""Of the pairs that are looked up at a time; carried pairs of a box take their place, where these are no more."""
CARRIED_PAIR_BYTES = 130
"""Of a carried pair that is gathered, sorted and written, 125 as measured; less where it is read and grouped."""
ISLAND_ROW_BYTES = 1_500
"""Of a base row of an island, which is grouped in one piece."""
RANGE_ROW_BYTES = 2_500
"""Of a base row in a range that is merged: its rows of a table, sorted, and encoded."""
SAMPLED_ROW_BYTES = 64


@dataclass(frozen=True)
class Memory:
    """Projected bytes above those of the imported process.

    driver : arrays of a value a base row. tasks : of all that are at work together, with what they load. masks : planes
    of all neurons.
    """

    driver: int
    tasks: int
    masks: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.driver + self.tasks + self.masks


def projected_memory(
    inputs: CollationInputs,
    rows_per_box: int,
    workers: int,
    *,
    boxes: int | None = None,
    island: int = 0,
    pairs: int = 0,
) -> Memory:
    """Peak bytes of a collation; the rows of catalogues that are not the base have no part in it.

    workers : tasks that may be at work in this process; no stage has more of them than boxes, pieces or tables. boxes :
    their number, once it is known. island : base rows of the largest island, and pairs : carried pairs of the tasks
    that are at work together, once they are known.
    """
    rows, masks = inputs.base.rows, inputs.planes.nbytes
    boxed = min(workers, _about_boxes(inputs, rows_per_box) if boxes is None else boxes)
    pieces = -(-max(file.rows for file in inputs.catalogues) // DEALT_ROWS)
    tasks = max(
        min(workers, max(pieces, 1)) * DEALT_ROWS * DEALT_ROW_BYTES,
        boxed * rows_per_box * BOX_ROW_BYTES + max(boxed * LOOKED_UP_BYTES, pairs * CARRIED_PAIR_BYTES),
        min(workers, len(TABLES)) * range_rows(rows) * RANGE_ROW_BYTES,
        SAMPLED_ROWS * SAMPLED_ROW_BYTES,
    )
    return Memory(rows * DRIVER_ROW_BYTES, tasks + island * ISLAND_ROW_BYTES + LOADED_BYTES, 2 * masks)


def pairs_allowed(needed: Memory, allowed_bytes: float, tasks: int) -> int:
    """Carried pairs that a box may have, of which ``tasks`` are at work together; ``needed`` : without any."""
    share = max(0.0, allowed_bytes - needed.total) / tasks
    return int((share + LOOKED_UP_BYTES) // CARRIED_PAIR_BYTES)


def _about_boxes(inputs: CollationInputs, rows_per_box: int) -> int:
    """About how many boxes `partition_sky` will make, one a strip more than are needed at the most."""
    full = max(1, -(-sum(file.rows for file in distinct(inputs).values()) // rows_per_box))
    return full + max(0, round(math.sqrt(full / 2)) - 1)

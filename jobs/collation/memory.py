"""Bytes a collation needs, before it starts."""

from dataclasses import dataclass

from skysom.jobs.collation.deal import DEALT_ROWS, SAMPLED_ROWS
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
PAIR_BYTES = 200_000_000
"""Of the pairs that are looked up at a time."""
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


def projected_memory(inputs: CollationInputs, rows_per_box: int, workers: int, island: int = 0) -> Memory:
    """Peak bytes of a collation; the rows of catalogues that are not the base have no part in it.

    workers : tasks at work in this process. island : base rows of the largest island, once it is known.
    """
    rows, masks = inputs.base.rows, inputs.planes.nbytes
    task = max(
        DEALT_ROWS * DEALT_ROW_BYTES,
        rows_per_box * BOX_ROW_BYTES + PAIR_BYTES,
        range_rows(rows) * RANGE_ROW_BYTES,
    )
    tasks = max(workers * task, SAMPLED_ROWS * SAMPLED_ROW_BYTES) + island * ISLAND_ROW_BYTES
    return Memory(rows * DRIVER_ROW_BYTES, tasks + LOADED_BYTES, 2 * masks)

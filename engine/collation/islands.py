"""Islands: which rows depend on one another, in a few bytes a row.

An island is a connected component of the undirected graph of pairs (source, row whose node it may touch). Nothing that
happens in one is seen in another, so islands may be grouped anywhere, in any company.
"""

from collections.abc import Sequence

import numpy as np

from skysom.engine.collation.actions import Action, node_bits
from skysom.engine.collation.carried import Carried
from skysom.engine.errors import CollationError


class Islands:
    """Union of rows 0..n-1 by pairs, given in any pieces and any order; the answer depends on neither.

    Memory: 4 bytes a row below 2^31 rows, else 8; `roots` makes 8 more.
    """

    def __init__(self, rows: int) -> None:
        self._parent = np.arange(rows, dtype=np.int32 if rows < 2**31 else np.int64)

    def __len__(self) -> int:
        return len(self._parent)

    def join(self, source: np.ndarray, target: np.ndarray) -> None:
        """Put ``source[i]`` and ``target[i]`` (P,) int64 into one island, for every i.

        Raises
        ------
        CollationError : lengths that differ, or a row that is not among 0..n-1.
        """
        from skysom.engine.collation.group_kernels import join_pairs

        source, target = np.ascontiguousarray(source, np.int64), np.ascontiguousarray(target, np.int64)
        if source.shape != target.shape or source.ndim != 1:
            raise CollationError(f"there are {source.shape} sources and {target.shape} rows; give them in pairs")
        for rows in (source, target):
            if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
                raise CollationError(
                    f"rows {rows.min()} to {rows.max()} are tied; there are 0 to {len(self) - 1}: give base rows"
                )
        join_pairs(self._parent, source, target)

    def roots(self) -> np.ndarray:
        """(n,) int64, the smallest row of the island of every row."""
        from skysom.engine.collation.group_kernels import smallest_of_each

        return smallest_of_each(self._parent)


def touching(
    carried: Carried, actions: Sequence[Action], base_channels: Sequence[bool] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs source, row (k,) int64 of base rows that tie islands together: all whose node the source may touch."""
    base = base_flags(carried, base_channels)
    tied = base[carried.channel] & ((carried.bits & node_bits(actions)) != 0) & (carried.source != carried.row)
    return carried.source[tied], carried.row[tied]


def base_flags(carried: Carried, base_channels: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Which channels (C,) hold base rows; CollationError where a pair is of a channel that is not among them."""
    base = np.asarray(base_channels, bool)
    if len(carried) and not 0 <= carried.channel.min() <= carried.channel.max() < len(base):
        raise CollationError(
            f"pairs are of channels {carried.channel.min()} to {carried.channel.max()}, {len(base)} have a catalogue"
        )
    return base

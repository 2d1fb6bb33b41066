"""Islands of the whole sky: which base rows are grouped together, and in which box."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from skysom.engine.collation.groups import Corrections
from skysom.engine.collation.islands import Islands
from skysom.jobs.collation.folder import CollationFolder
from skysom.jobs.collation.tables import column, read_part
from skysom.jobs.errors import ConfigError

COUNTED_ROWS = 1_000_000
"""Rows whose pairs are counted at a time."""


@dataclass(frozen=True, eq=False)
class Sky:
    """Where the n base rows are. home : (n,) int32, the box of each row. roots : (n,) int64, the smallest row of its
    island, which is grouped in that row's box. pairs : (n,) int32, what each row's mask carries."""

    home: np.ndarray
    roots: np.ndarray
    pairs: np.ndarray

    def __len__(self) -> int:
        return len(self.home)

    @cached_property
    def island_sizes(self) -> np.ndarray:
        """(islands,) int64, rows of each island."""
        sizes = np.bincount(self.roots, minlength=1)
        return sizes[sizes > 0]

    @property
    def largest(self) -> int:
        """Rows of the largest island."""
        return int(self.island_sizes.max(initial=0))

    def pairs_at_once(self, tasks: int) -> int:
        """Carried pairs of the ``tasks`` boxes that group most of them; an island is in one box, whole."""
        counts = np.zeros(int(self.home.max(initial=-1)) + 1, np.int64)
        for start in range(0, len(self), COUNTED_ROWS):
            part = slice(start, start + COUNTED_ROWS)
            counts += np.bincount(self.home[self.roots[part]], self.pairs[part], len(counts)).astype(np.int64)
        return int(np.sort(counts)[-tasks:].sum())

    def by_box(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, list[int]]]:
        """Ascending ``rows`` of whole islands by box: the box, its rows, and the boxes in which these are at home."""
        box = self.home[self.roots[rows]]
        order = np.argsort(box, kind="stable")
        starts = np.flatnonzero(np.diff(box[order], prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(order)]):
            own = rows[order[start:stop]]
            yield int(box[order[start]]), own, [int(home) for home in np.unique(self.home[own])]

    def touched(self, rows: np.ndarray, before: Corrections) -> np.ndarray:
        """(n,) bool: the islands of ``rows``, now and as corrections of ``before`` had tied them together."""
        islands = Islands(len(self))
        islands.join(np.arange(len(self)), self.roots)
        islands.join(*before.pairs().T)
        roots = islands.roots()
        marked = np.zeros(len(self), bool)
        marked[roots[rows]] = True
        return marked[roots]


def read_sky(folder: CollationFolder, rows: int, boxes: int, corrections: Corrections | None) -> Sky:
    """Islands and homes of all base rows, from what projecting has left in the boxes.

    Memory: 24 bytes a base row, and the ties of a box.

    Raises
    ------
    ConfigError : a base row that is at home in no box, or in two: the work folder was changed.
    """
    home, pairs, islands = np.full(rows, -1, np.int32), np.zeros(rows, np.int32), Islands(rows)
    for box in range(boxes):
        own = column(read_part(folder.sky(box, "base"), columns=["row"]), "row")
        if len(own) and (own.max() >= rows or (home[own] >= 0).any()):
            raise _changed(folder)
        home[own] = box
        pairs[own] = column(read_part(folder.sky(box, "pairs")), "pairs")
        ties = read_part(folder.sky(box, "ties"))
        islands.join(column(ties, "source"), column(ties, "target"))
    if (home < 0).any():
        raise _changed(folder)
    if corrections is not None:
        islands.join(*corrections.pairs().T)
    return Sky(home, islands.roots(), pairs)


def changed_rows(before: Corrections, now: Corrections) -> np.ndarray:
    """Rows (k,) int64 that one of two corrections names and the other does not in the same way."""
    sets = [{tuple(sorted(set(rows))) for rows in one.together} for one in (before, now)]
    rows = {row for changed in sets[0] ^ sets[1] for row in changed} | (set(before.apart) ^ set(now.apart))
    return np.array(sorted(rows), np.int64)


def _changed(folder: CollationFolder) -> ConfigError:
    return ConfigError(f"{folder.private} was changed: its boxes do not hold every row once; begin again with --redo")

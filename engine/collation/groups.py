"""Groups: which components are one source, whose masks said so, and what a person changed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from skysom.engine.errors import CollationError


def _none(columns: int) -> np.ndarray:
    return np.empty((0, columns), np.int64)


@dataclass(frozen=True, eq=False)
class Groups:
    """The sources of some islands. n base rows, G groups; rows are numbers of base rows unless places are meant.

    rows : (n,) int64, sorted; place i of the arrays (n,) is ``rows[i]``.
    starts (G + 1,), members (n,) int64 : the rows of group g are ``members[starts[g]:starts[g + 1]]``, ascending. Every
        row is in exactly one group; groups are ordered by their smallest row.
    group_of : (n,) int64, the group of every row.
    node : (n,) bool, the row took part: used its mask, was linked, isolated or made a node.
    isolated : (n,) int16, the label by which the row was isolated (of several the last), -1 for none.
    node_bits : (n,) uint64, labels that made the row a node (NODE_ATTACH).
    count : (n,) int64, the rank at which the row used its mask, -1 where it did not.
    self_loop : (n,) bool, the edge of such a row to itself is there at the end.
    clique_starts (n + 1,), clique_members int64 : rows that the mask of the row at a place links at the end, none or
        two and more; every pair of them shares an edge.
    evidence_starts (G + 1,), evidence_source, evidence_count int64 : whose edges (to others or to itself) lie in a
        group at the end, by ascending count; the first is its representative. None for a group without edges.
    by_hand : (h, 2) int64, rows joined by a person.
    user_data (k, 4), user_flags (k, 3) int64 : what users' actions gave: source, label, channel, row; source, label,
        0 or 1. Those of built-in actions follow from the carried pairs (`skysom.engine.collation.evidence`).
    """

    rows: np.ndarray
    starts: np.ndarray
    members: np.ndarray
    group_of: np.ndarray
    node: np.ndarray
    isolated: np.ndarray
    node_bits: np.ndarray
    count: np.ndarray
    self_loop: np.ndarray
    clique_starts: np.ndarray
    clique_members: np.ndarray
    evidence_starts: np.ndarray
    evidence_source: np.ndarray
    evidence_count: np.ndarray
    by_hand: np.ndarray = field(default_factory=lambda: _none(2))
    user_data: np.ndarray = field(default_factory=lambda: _none(4))
    user_flags: np.ndarray = field(default_factory=lambda: _none(3))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def sizes(self) -> np.ndarray:
        """(G,) int64, rows of each group."""
        return np.diff(self.starts)

    @cached_property
    def representative(self) -> np.ndarray:
        """(G,) int64, the row whose mask made the group's edge of smallest count, -1 for a group without edges."""
        return self._first(self.evidence_source)

    @cached_property
    def representative_count(self) -> np.ndarray:
        """(G,) int64, the count of that edge, -1 for a group without edges."""
        return self._first(self.evidence_count)

    @property
    def edge_count(self) -> int:
        """How many edges `edges` lists."""
        linked = np.diff(self.clique_starts)
        return int((linked * (linked - 1) // 2).sum() + self.self_loop.sum() + len(self.by_hand))

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Every edge at the end: u <= v, count and source, each (edge_count,) int64, sorted by u, v, count.

        Edges made by hand have count -1 and source -1. The connected components of these are the groups.
        """
        from skysom.engine.collation.group_kernels import list_edges

        u, v, place = (np.empty(self.edge_count, np.int64) for _ in range(3))
        made = list_edges(self.rows, self.clique_starts, self.clique_members, self.self_loop, u, v, place)
        place[made:] = -1
        u[made:], v[made:] = self.by_hand.T
        count = np.where(place >= 0, self.count[place], -1) if len(place) else place
        source = np.where(place >= 0, self.rows[place], -1) if len(place) else place
        order = np.lexsort((count, v, u))
        return u[order], v[order], count[order], source[order]

    def _first(self, values: np.ndarray) -> np.ndarray:
        found = np.full(len(self), -1, np.int64)
        some = np.diff(self.evidence_starts) > 0
        found[some] = values[self.evidence_starts[:-1][some]]
        return found


@dataclass(frozen=True)
class Corrections:
    """What a person says of groups, done after all masks were used: first rows are taken out, then rows are joined.

    apart : base rows that lose all links to others; each keeps what its own mask carries.
    together : sets of base rows that belong to one source; the groups they are in become one. A row that is also in
        ``apart`` is moved out of its group: together ((2, 3),) and apart (2, 3) cut 2 and 3 out of 0, 1, 2, 3.

    Raises
    ------
    CollationError : a set of fewer than two rows.
    """

    together: tuple[tuple[int, ...], ...] = ()
    apart: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for rows in self.together:
            if len(set(rows)) < 2:
                raise CollationError(f"the rows {list(rows)} are to be put together; name at least two different ones")

    def pairs(self) -> np.ndarray:
        """(h, 2) int64, rows that are joined by hand and so tie their islands together; sorted, each pair once."""
        chains = [sorted(set(rows)) for rows in self.together]
        return np.array(sorted({p for rows in chains for p in pairwise(rows)}), np.int64).reshape(-1, 2)

    def rows(self) -> np.ndarray:
        """All rows named, (k,) int64, sorted and each once."""
        return np.unique(np.array([*self.apart, *(row for rows in self.together for row in rows)], np.int64))

    def of(self, rows: Iterable[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (h, 2) and rows apart (k,) that concern sorted ``rows`` (n,).

        Raises
        ------
        CollationError : a set of which only a part is among ``rows``.
        """
        known, pairs = np.asarray(rows, np.int64), self.pairs()
        inside = np.isin(pairs, known)
        if (inside[:, 0] != inside[:, 1]).any():
            pair = pairs[np.argmax(inside[:, 0] != inside[:, 1])]
            raise CollationError(
                f"rows {pair[0]} and {pair[1]} are to be put together, but only one is among the {len(known)} rows "
                "that are grouped here; tie their islands by `Corrections.pairs`"
            )
        apart = np.array(self.apart, np.int64)
        return pairs[inside.all(axis=1)], np.unique(apart[np.isin(apart, known)])

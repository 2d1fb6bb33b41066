"""The greedy, order-dependent grouping of components into sources, exactly, whatever islands are grouped together.

A source uses its mask when its turn comes, unless it is a node already. What it links becomes a clique of edges that
bear its count, its rank. Edges are only ever destroyed by row, so that it is enough to know of every row from which
count on its edges stand; the graph itself is never made. Time is linear in rows and carried
pairs: 3 seconds for three million rows with ten million pairs at once, half of that in boxes of 300,000 rows. Memory
beside what is given: 135 bytes a row at most with three pairs each, of which 65 are the result.

Source of the rules: specs/pyink.md, section 7; `skysom.engine.collation.reference` has them in plain words.
"""

from collections.abc import Sequence

import numpy as np

from skysom.engine.collation.actions import Action, built_in, label_bits, node_bits
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.groups import Corrections, Groups
from skysom.engine.collation.islands import base_flags, touching
from skysom.engine.errors import CollationError

__all__ = ["Corrections", "Groups", "group", "touching"]

DENSE = 8
"""Places of rows are looked up in a table that has at most so many entries a row, else searched."""


def group(
    carried: Carried,
    rows: np.ndarray,
    rank: np.ndarray,
    actions: Sequence[Action],
    base_channels: Sequence[bool] | np.ndarray,
    corrections: Corrections | None = None,
) -> Groups:
    """Group the base rows of whole islands.

    Parameters
    ----------
    carried : what the masks of these rows carry, and of no others; masks of rows without a rank are not used.
    rows : (n,) int64, sorted: every row of the islands, also those that nothing touches, islands of one row.
    rank : (n,) int64, the place of each row in the global order, -1 for rows that use no mask. Distinct.
    actions : one a label, see `actions_for`. Where one is not built in, `built_in` says so, and sources are taken one
        by one in Python: about 30 microseconds a carried pair.
    base_channels : (C,) bool, channels whose rows are base rows.
    corrections : what a person says; sets of rows that are not among ``rows`` are left out.

    Raises
    ------
    CollationError : rows or ranks that do not fit, a source or a touched row that is not among ``rows``, a channel
        without a catalogue, a user's action that names rows it does not see.
    """
    rows, rank = _checked(rows, rank)
    base = base_flags(carried, base_channels)
    order, (starts, target) = _order(rank), _places(carried, rows, base, node_bits(actions))
    if not built_in(actions):
        from skysom.engine.collation.reference import group_sequentially

        return group_sequentially(carried, rows, rank, actions, base, corrections)
    by_hand, apart = (corrections or Corrections()).of(rows)
    return _group_compiled(rows, rank, order, starts, target, carried.bits, actions, by_hand, apart)


def _group_compiled(
    rows: np.ndarray,
    rank: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    target: np.ndarray,
    labels: np.ndarray,
    actions: Sequence[Action],
    by_hand: np.ndarray,
    apart: np.ndarray,
) -> Groups:
    """`group` with built-in actions: places of the sources by rank, pairs as of `_places` with their bits (P,)."""
    from skysom.engine.collation import group_kernels as kernels

    n = len(rows)
    node, isolated, marks = np.zeros(n, bool), np.full(n, -1, np.int16), np.zeros(n, np.uint64)
    count, alive_from = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    bits = {name: label_bits(actions, name) for name in ("LINK", "ISOLATE", "UNLINK", "NODE_ATTACH")}
    kernels.play(order, rank, starts, target, labels, *bits.values(), node, isolated, marks, count, alive_from)
    taken = np.zeros(n, bool)
    taken[np.searchsorted(rows, apart)] = True
    clique_starts, parent = np.zeros(n + 1, np.int64), np.arange(n, dtype=np.int32)
    clique = np.empty(int(((target >= 0) & ((labels & bits["LINK"]) != 0)).sum()), np.int64)
    given = (rows, starts, target, labels, bits["LINK"], isolated, taken, count, alive_from)
    kernels.link_cliques(*given, clique_starts, clique, parent)
    clique = clique[: clique_starts[-1]]
    kernels.join_pairs(parent, *np.searchsorted(rows, by_hand.T))
    self_loop = (count >= 0) & (alive_from <= count)
    members = _members(parent)
    evidence = _evidence(count, members[2], self_loop, clique_starts, clique)
    return Groups(
        rows,
        members[0],
        rows[members[1]],
        members[2],
        node,
        isolated,
        marks,
        count,
        self_loop,
        clique_starts,
        rows[clique],
        evidence[0],
        rows[evidence[1]],
        count[evidence[1]],
        by_hand,
    )


def _members(parent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds (G + 1,), places by group (n,) and the group of every place (n,)."""
    from skysom.engine.collation.group_kernels import fill_groups, number_groups

    group_of, members = np.empty(len(parent), np.int64), np.empty(len(parent), np.int64)
    starts = np.zeros(number_groups(parent, group_of) + 1, np.int64)
    fill_groups(group_of, starts, members)
    return starts, members, group_of


def _evidence(
    count: np.ndarray, group_of: np.ndarray, self_loop: np.ndarray, clique_starts: np.ndarray, clique: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (G + 1,) and the places of the sources whose edges lie in each group, by ascending count."""
    from skysom.engine.collation.group_kernels import bound_evidence, fill_evidence

    starts = np.zeros(int(group_of.max(initial=-1)) + 2, np.int64)
    bound_evidence(group_of, self_loop, clique_starts, clique, starts)
    found = np.empty(int(starts[-1]), np.int64)
    fill_evidence(group_of, self_loop, clique_starts, clique, count, starts, found)
    return starts, found


def _checked(rows: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, rank = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(rank, np.int64)
    if rows.ndim != 1 or rank.shape != rows.shape:
        raise CollationError(f"there are rows {rows.shape} and ranks {rank.shape}; give one rank a row")
    if len(rows) >= 2**31:
        raise CollationError(f"{len(rows)} rows are grouped at once, at most {2**31 - 1} can be; group fewer islands")
    if (rows[1:] <= rows[:-1]).any():
        raise CollationError("the rows are not sorted, or one is there twice; give them ascending, each once")
    return rows, rank


def _order(rank: np.ndarray) -> np.ndarray:
    """Places (k,) int64 of the rows with a rank, by rank."""
    places = np.flatnonzero(rank >= 0)
    order = places[np.argsort(rank[places])]
    same = rank[order][1:] == rank[order][:-1]
    if same.any():
        raise CollationError(f"two rows have rank {rank[order[np.argmax(same)]]}; every source needs one of its own")
    return order


def _places(carried: Carried, rows: np.ndarray, base: np.ndarray, nodes: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (n + 1,) of the pairs of every row, and the places (P,) int32 of the rows they may touch."""
    from skysom.engine.collation.group_kernels import bound_sources, place_targets

    starts, target = np.empty(len(rows) + 1, np.int64), np.empty(len(carried), np.int32)
    stray = bound_sources(rows, carried.source, starts)
    if stray >= 0:
        raise CollationError(
            f"the pair {stray} is of source {carried.source[stray]}, which is not among the {len(rows)} rows grouped "
            "here, or the pairs are not sorted by source; give whole islands, and pairs as `Carried.sorted`"
        )
    span = int(rows[-1] - rows[0]) + 1 if len(rows) else 0
    table = np.empty(0, np.int32)
    if span <= DENSE * len(rows):
        table = np.full(span, -1, np.int32)
        table[rows - rows[:1]] = np.arange(len(rows))
    stray = place_targets(rows, carried.channel, carried.row, carried.bits, base, nodes, table, target)
    if stray >= 0:
        raise CollationError(
            f"source {carried.source[stray]} may touch row {carried.row[stray]}, which is not among the {len(rows)} "
            "rows grouped here; give whole islands (`touching`, `Islands`)"
        )
    return starts, target

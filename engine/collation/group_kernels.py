"""Compiled loops of the grouping; each works in time linear in rows and carried pairs, and releases the interpreter.

Rows are places 0..n-1 among the rows of a call, ``starts`` (n + 1,) int64 bounds the carried pairs of each, and
``target`` (P,) int32 is the place of the base row of a pair, -1 where it can touch no node. Checked against
`skysom.engine.collation.reference`.
"""

from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


# --- union-find -----------------------------------------------------------------------------------


@njit(**_OPTIONS)
def _root(parent, row):
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@njit(**_OPTIONS)
def _join(parent, one, two):
    """The smaller root becomes the root of both, so that a root is the smallest row of its set."""
    one, two = _root(parent, one), _root(parent, two)
    if one < two:
        parent[two] = one
    elif two < one:
        parent[one] = two


@njit(**_OPTIONS)
def join_pairs(parent, source, target):
    """Join ``source[i]`` and ``target[i]`` for every i; ``parent`` (n,) is changed in place."""
    for i in range(source.size):
        _join(parent, source[i], target[i])


@njit(**_OPTIONS)
def smallest_of_each(parent):
    """(n,) int64, the smallest row of the set of every row; shortens the paths of ``parent`` meanwhile."""
    found = np.empty(parent.size, np.int64)
    for row in range(parent.size):
        parent[row] = _root(parent, row)
        found[row] = parent[row]
    return found


@njit(**_OPTIONS)
def sort_by(key, places):
    """Sort ``places`` (k,) by ``key[places]``, in place and stably: runs are merged, those in order left alone.

    Written out because compiling the sort of the library takes longer than most groupings.
    """
    width = 1
    while width < places.size:
        for first in range(0, places.size - width, 2 * width):
            middle, last = first + width, min(first + 2 * width, places.size)
            if key[places[middle - 1]] <= key[places[middle]]:
                continue
            left, i, j = places[first:middle].copy(), 0, middle
            for place in range(first, last):
                if i < left.size and (j == last or key[left[i]] <= key[places[j]]):
                    places[place] = left[i]
                    i += 1
                else:
                    places[place] = places[j]
                    j += 1
        width *= 2


# --- places ---------------------------------------------------------------------------------------


@njit(**_OPTIONS)
def bound_sources(rows, source, starts):
    """Fill ``starts`` for sorted ``rows`` (n,) and sorted ``source`` (P,); the first pair of no row, or -1."""
    pair = 0
    for place in range(rows.size):
        if pair < source.size and source[pair] < rows[place]:
            return pair
        starts[place] = pair
        while pair < source.size and source[pair] == rows[place]:
            pair += 1
    starts[rows.size] = pair
    return pair if pair < source.size else -1


@njit(**_OPTIONS)
def place_targets(rows, channel, row, bits, base, touching, table, target):
    """Fill ``target``: the place of each row of a base channel with a bit of ``touching``, else -1.

    table : places by row - rows[0], or empty, where rows lie too far apart and are searched. The first pair whose row
    is none of ``rows``, or -1.
    """
    for pair in range(row.size):
        target[pair] = -1
        if not base[channel[pair]] or not bits[pair] & touching:
            continue
        if table.size:
            offset = row[pair] - rows[0]
            place = table[offset] if 0 <= offset < table.size else -1
        else:
            place = np.searchsorted(rows, row[pair])
            place = place if place < rows.size and rows[place] == row[pair] else -1
        if place < 0:
            return pair
        target[pair] = place
    return -1


# --- the events -----------------------------------------------------------------------------------


@njit(**_OPTIONS)
def _highest(bits):
    found = -1
    while bits:
        found += 1
        bits >>= np.uint64(1)
    return found


@njit(**_OPTIONS)
def play(order, rank, starts, target, bits, link, isolate, unlink, attach, node, isolated, marks, count, alive_from):
    """Let the rows of ``order`` (k,) int64, places by ascending rank, use their masks one after the other.

    rank (n,) int64; starts (n + 1,) int64; target (P,) int32 and bits (P,) uint64 of the pairs; link, isolate, unlink,
    attach : uint64, bits of the labels that do so. Nothing is checked. Fills node (n,) bool; isolated (n,) int16,
    the label of the last event that did so, of several the highest; marks (n,) uint64, the bits that attached it;
    count (n,) int64, the rank of a row that used its mask, -1 of others; alive_from (n,) int64: edges of lower counts
    are destroyed.
    """
    seen = np.full(node.size, -1, np.int32)
    isolated_at = np.full(node.size, -1, np.int64)
    for source in order:
        if node[source]:
            continue
        now = rank[source]
        count[source] = now
        for pair in range(starts[source], starts[source + 1]):
            row = target[pair]
            if row < 0:
                continue
            if bits[pair] & isolate:
                label = _highest(bits[pair] & isolate)
                isolated[row] = max(isolated[row], label) if isolated_at[row] == now else label
                isolated_at[row] = alive_from[row] = now
                node[row] = True
            if bits[pair] & attach:
                marks[row] |= bits[pair] & attach
                node[row] = True
        linked, first = 0, -1
        for pair in range(starts[source], starts[source + 1]):
            row = target[pair]
            if row < 0 or not bits[pair] & link or isolated[row] >= 0 or seen[row] == source:
                continue
            seen[row] = source
            linked += 1
            if linked == 1:
                first = row
            else:
                node[row] = node[first] = True
        node[source] = True
        for pair in range(starts[source], starts[source + 1]):
            if target[pair] >= 0 and bits[pair] & unlink:
                alive_from[target[pair]] = now + 1


@njit(**_OPTIONS)
def link_cliques(rows, starts, target, bits, link, isolated, apart, count, alive_from, clique_starts, clique, parent):
    """The rows that each event still links at the end: all pairs of them share an edge of it.

    Fills clique_starts (n + 1,) and ``clique`` (places, ascending within an event; as long as the pairs that link are
    many), and joins each in ``parent``. A row that was ever isolated is in none, nor is one set ``apart`` (n,) by hand.
    """
    seen = np.full(count.size, -1, np.int32)
    for source in range(count.size):
        first = last = clique_starts[source]
        if count[source] >= 0:
            for pair in range(starts[source], starts[source + 1]):
                row = target[pair]
                if row < 0 or not bits[pair] & link or seen[row] == source:
                    continue
                if isolated[row] >= 0 or apart[row] or alive_from[row] > count[source]:
                    continue
                seen[row] = source
                clique[last] = row
                last += 1
        if last - first < 2:
            last = first
        else:
            sort_by(rows, clique[first:last])
            for place in range(first + 1, last):
                _join(parent, clique[first], clique[place])
        clique_starts[source + 1] = last


# --- the groups -----------------------------------------------------------------------------------


@njit(**_OPTIONS)
def number_groups(parent, group_of):
    """Fill group_of (n,) int64, groups numbered by their smallest place; returns how many."""
    groups = 0
    for row in range(parent.size):
        root = _root(parent, row)
        if root == row:
            group_of[row] = groups
            groups += 1
        else:
            group_of[row] = group_of[root]
    return groups


@njit(**_OPTIONS)
def fill_groups(group_of, starts, members):
    """Counting sort of the places by group: starts (G + 1,) and members (n,) int64, ascending within a group."""
    for group in group_of:
        starts[group + 1] += 1
    for group in range(starts.size - 1):
        starts[group + 1] += starts[group]
    place = starts[:-1].copy()
    for row in range(group_of.size):
        members[place[group_of[row]]] = row
        place[group_of[row]] += 1


@njit(**_OPTIONS)
def _linked_group(source, group_of, clique_starts, clique):
    """The group in which the links of an event lie, or -1."""
    first = clique_starts[source]
    return group_of[clique[first]] if clique_starts[source + 1] > first else -1


@njit(**_OPTIONS)
def bound_evidence(group_of, self_loop, clique_starts, clique, starts):
    """Fill starts (G + 1,): how many events have edges in each group, links or the self-loop."""
    for source in range(group_of.size):
        linked, own = _linked_group(source, group_of, clique_starts, clique), group_of[source]
        if linked >= 0:
            starts[linked + 1] += 1
        if self_loop[source] and own != linked:
            starts[own + 1] += 1
    for group in range(starts.size - 1):
        starts[group + 1] += starts[group]


@njit(**_OPTIONS)
def fill_evidence(group_of, self_loop, clique_starts, clique, count, starts, evidence):
    """Fill evidence: the places of the sources whose edges lie in each group, by ascending count."""
    place = starts[:-1].copy()
    for source in range(group_of.size):
        linked, own = _linked_group(source, group_of, clique_starts, clique), group_of[source]
        if linked >= 0:
            evidence[place[linked]] = source
            place[linked] += 1
        if self_loop[source] and own != linked:
            evidence[place[own]] = source
            place[own] += 1
    for group in range(starts.size - 1):
        sort_by(count, evidence[starts[group] : starts[group + 1]])


@njit(**_OPTIONS)
def list_edges(rows, clique_starts, clique_members, self_loop, u, v, place):
    """Fill the edges of every event, the place of its source beside them; returns how many."""
    made = 0
    for source in range(rows.size):
        if self_loop[source]:
            u[made] = v[made] = rows[source]
            place[made] = source
            made += 1
        for one in range(clique_starts[source], clique_starts[source + 1]):
            for two in range(one + 1, clique_starts[source + 1]):
                u[made], v[made], place[made] = clique_members[one], clique_members[two], source
                made += 1
    return made

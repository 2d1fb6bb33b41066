"""Compiled loops that collect what labels attached to groups; the NumPy they are checked against is in the tests."""

from typing import Any

import numpy as np
from numba import njit

from skysom.engine.collation.group_kernels import sort_by

COMPILED_WITH = "00610aafa2ca"
"""Digest of the modules with parts that are compiled in here: numba keeps what it compiled until this file changes."""
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def bound_pairs(source, wanted, begin, end):
    """Fill begin, end (k,) int64: the pairs of each ``wanted`` (k,) among the sorted ``source`` (P,)."""
    for i in range(wanted.size):
        begin[i] = np.searchsorted(source, wanted[i])
        end[i] = begin[i]
        while end[i] < source.size and source[end[i]] == wanted[i]:
            end[i] += 1


@njit(**_OPTIONS)
def pairs_under(source, bits, label, wanted, starts, index):
    """Fill starts (k + 1,) and index: the pairs under ``label`` of each of the sorted ``wanted`` (k,).

    source, bits (P,) : sorted by source; index (P,) int64 has room for all. Returns how many there are.
    """
    pair, made = 0, 0
    for i in range(wanted.size):
        starts[i] = made
        while pair < source.size and source[pair] < wanted[i]:
            pair += 1
        while pair < source.size and source[pair] == wanted[i]:
            if (bits[pair] >> np.uint64(label)) & np.uint64(1):
                index[made] = pair
                made += 1
            pair += 1
    starts[wanted.size] = made
    return made


@njit(**_OPTIONS)
def collect(evidence_starts, begin, end, channel, row, separation, starts, index, nearest, first):
    """Fill the rows of every group from the pairs of its evidence, each once, sorted by channel, then row.

    begin, end (k,) : pairs of each entry of the evidence, sorted by channel, then row, each once.
    Fills starts (G + 1,); index, one of the pairs with that row; nearest, the smallest separation of them; first,
    whether the representative, the first of the evidence, has it. Returns how many rows there are.
    """
    made = 0
    for group in range(evidence_starts.size - 1):
        starts[group] = made
        entries, some = 0, 0
        for entry in range(evidence_starts[group], evidence_starts[group + 1]):
            entries += end[entry] > begin[entry]
            some += end[entry] - begin[entry]
        if some == 0:
            continue
        own = np.empty(some, np.int64)
        filled = 0
        for entry in range(evidence_starts[group], evidence_starts[group + 1]):
            for pair in range(begin[entry], end[entry]):
                own[filled] = pair
                filled += 1
        if entries > 1:
            sort_by(row, own)
            sort_by(channel, own)
        for i in range(some):
            pair = own[i]
            of_first = begin[evidence_starts[group]] <= pair < end[evidence_starts[group]]
            if i and channel[pair] == channel[own[i - 1]] and row[pair] == row[own[i - 1]]:
                nearest[made - 1] = min(nearest[made - 1], separation[pair])
                first[made - 1] |= of_first
            else:
                index[made], nearest[made], first[made] = pair, separation[pair], of_first
                made += 1
    starts[evidence_starts.size - 1] = made
    return made

"""Compiled loops of the feature map: the search of rows against neurons, and sums that no order can change.

Each has a plain counterpart it is tested against: the search in `features.FeatureSearch`, the sums in Python's
`math.fsum`. A block of rows is turned over, (F, rows), so that every step of the search is one vector of rows.
"""

from typing import Any

import numpy as np
from numba import njit

from skysom.engine.features import LARGEST_SQUARE

COMPILED_WITH = "f2ab0499eb9a"
"""Digest of the modules with parts that are compiled in here: numba keeps what it compiled until this file changes."""
BLOCK_ROWS = 256
"""Rows of a block; with some tens of features it stays in the first cache."""

_SCORES: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
_ZERO, _ONE, _TWO, _THREE = (np.float32(i) for i in range(4))
_LARGEST = np.float32(LARGEST_SQUARE)
# Direct sums are the same bit for bit as those of array operations: nothing is fused.
_DIRECT: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_DIRECT)
def match_rows(rows, center, centred, halves, columns, rounding, smallest, bmu, distance):
    """Best-matching unit and distance of every row, into ``bmu`` (B,) int64 and ``distance`` (B,) float32.

    rows (B, F) float32; center (F,), centred (4M, F), halves (4M,) float32, columns (F, N) float64, rounding and
    smallest float32 as `features.FeatureSearch` holds them: N filled up to a multiple of four with neurons whose
    half is infinite. Rows that are not finite get -1 and NaN.
    """
    count, features = rows.shape
    x, norm = np.zeros(features * BLOCK_ROWS, np.float32), np.empty(BLOCK_ROWS, np.float32)
    scores, squared = np.empty(4 * BLOCK_ROWS, np.float32), np.empty(columns.shape[1])
    state, other = np.empty(3 * BLOCK_ROWS, np.float32), np.empty(3 * BLOCK_ROWS, np.float32)
    for first in range(0, count, BLOCK_ROWS):
        size = min(BLOCK_ROWS, count - first)
        _turn_over(rows[first : first + size], center, x, norm)
        state[: 2 * BLOCK_ROWS], state[2 * BLOCK_ROWS :] = np.inf, 0
        for four in range(0, halves.size, 4):
            for i in range(4):
                _score(x, centred[four + i], halves[four + i], scores[i * BLOCK_ROWS : (i + 1) * BLOCK_ROWS])
            _keep_two(scores, np.float32(four), state, other)
            state, other = other, state
        for b in range(size):
            n, margin = np.int64(state[2 * BLOCK_ROWS + b]), state[BLOCK_ROWS + b] - state[b]
            # Rows that are not finite fail this, too.
            if norm[b] < _LARGEST and margin > rounding * (norm[b] + np.float32(4) * halves[n]) + smallest:
                d = _direct_square(rows[first + b], columns, n)
            else:
                n, d = _search_row(rows[first + b], columns, squared)
            bmu[first + b], distance[first + b] = n, np.float32(np.sqrt(d))


@njit(**_SCORES)
def _turn_over(rows, center, x, norm):
    norm[:] = np.float32(0)
    for f in range(center.size):
        column = x[f * BLOCK_ROWS : (f + 1) * BLOCK_ROWS]
        for b in range(rows.shape[0]):
            column[b] = rows[b, f] - center[f]
        for b in range(BLOCK_ROWS):
            norm[b] += column[b] * column[b]


@njit(**_SCORES)
def _score(x, w, half, score):
    """Score (rows,) of a neuron: half - <w, x>, two to five features first and then four at a time."""
    one, two, three, four = BLOCK_ROWS, 2 * BLOCK_ROWS, 3 * BLOCK_ROWS, 4 * BLOCK_ROWS
    rest = (w.size - 2) % 4 + 2 if w.size > 1 else 1
    # Weights beyond the first ``rest`` are not used, but must be inside.
    w0, w1, w2, w3, w4 = w[0], w[1 % rest], w[2 % rest], w[3 % rest], w[4 % rest]
    for b in range(BLOCK_ROWS):
        if rest == 1:
            score[b] = half - w0 * x[b]
        elif rest == 2:
            score[b] = half - (w0 * x[b] + w1 * x[one + b])
        elif rest == 3:
            score[b] = half - (w0 * x[b] + w1 * x[one + b]) - w2 * x[two + b]
        elif rest == 4:
            score[b] = half - (w0 * x[b] + w1 * x[one + b]) - (w2 * x[two + b] + w3 * x[three + b])
        else:
            score[b] = half - w0 * x[b] - (w1 * x[one + b] + w2 * x[two + b]) - (w3 * x[three + b] + w4 * x[four + b])
    for f in range(rest, w.size, 4):
        w0, w1, w2, w3 = w[f], w[f + 1], w[f + 2], w[f + 3]
        y = x[f * one : (f + 4) * one]
        for b in range(BLOCK_ROWS):
            score[b] -= (w0 * y[b] + w1 * y[one + b]) + (w2 * y[two + b] + w3 * y[three + b])


@njit(**_SCORES)
def _keep_two(scores, n, old, new):
    """Fold the scores of neurons n..n+3 into the smallest, the second smallest, and the neuron of the smallest.

    scores (4 rows,); old, new (3 rows,): what is known before and after. Old and new are apart because a store of
    "this or what was there" becomes a masked one, which takes many times longer; neurons are float32, exact below
    2^24, so that one array holds all and the compiler need not doubt that arrays overlap.
    """
    for b in range(BLOCK_ROWS):
        s0, s1 = scores[b], scores[BLOCK_ROWS + b]
        s2, s3 = scores[2 * BLOCK_ROWS + b], scores[3 * BLOCK_ROWS + b]
        low, high, at = (s1, s0, _ONE) if s1 < s0 else (s0, s1, _ZERO)
        low_2, high_2, at_2 = (s3, s2, _THREE) if s3 < s2 else (s2, s3, _TWO)
        best, middle, i = (low_2, low, at_2) if low_2 < low else (low, low_2, at)
        rest = high_2 if high_2 < high else high
        second = rest if rest < middle else middle
        was, was_second, was_at = old[b], old[BLOCK_ROWS + b], old[2 * BLOCK_ROWS + b]
        beaten = was if best < was else best
        second = beaten if beaten < second else second
        new[b] = best if best < was else was
        new[BLOCK_ROWS + b] = second if second < was_second else was_second
        new[2 * BLOCK_ROWS + b] = n + i if best < was else was_at


@njit(**_DIRECT)
def _direct_square(row, columns, n):
    total = 0.0
    for f in range(row.size):
        difference = np.float64(row[f]) - columns[f, n]
        total += difference * difference
    return total


@njit(**_DIRECT)
def _search_row(row, columns, squared):
    """Neuron of the smallest direct sum of squares, the lowest of equal ones, and that sum; (-1, NaN) if not finite."""
    squared[:] = 0.0
    for f in range(row.size):
        if not np.isfinite(row[f]):
            return np.int64(-1), np.nan
        value, column = np.float64(row[f]), columns[f]
        for n in range(squared.size):
            difference = value - column[n]
            squared[n] += difference * difference
    best = np.int64(0)
    for n in range(squared.size):
        if squared[n] < squared[best]:
            best = np.int64(n)
    return best, squared[best]


@njit(**_DIRECT)
def add_exactly(limbs, places, bits):
    """Add float32 values, given by their ``bits`` (B, F) int32, to ``limbs`` (32, N, F) int64, row b to places[b].

    A float32 is an integer below 2^24 times 2^(e - 149), e = 0..253; eight neighbouring e share a limb, to which
    it adds less than 2^31. Rows whose place is negative are left out.
    """
    for b in range(places.size):
        n = places[b]
        if n < 0:
            continue
        for f in range(bits.shape[1]):
            word = bits[b, f]
            exponent, digits = (word >> 23) & 255, np.int64(word & 0x7FFFFF)
            if exponent > 0:
                exponent, digits = exponent - 1, digits | 0x800000
            digits <<= exponent & 7
            limbs[exponent >> 3, n, f] += -digits if word < 0 else digits

"""Compiled loops of the projection: pairs of rows to neuron pixels to label bits.

The plain counterpart is `skysom.engine.collation.projection`, with which they agree bit for bit: both use additions,
products, quotients and roots alone, in the same order, and nothing is fused.
"""

from typing import Any

import numpy as np
from numba import njit

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(inline="always")
def _arctan(tangent, coefficients, small):
    """Inverse tangent by halvings of the angle and the series of the arctan; NaN for infinite."""
    factor = 1.0
    while abs(tangent) > small:
        tangent = tangent / (1.0 + np.sqrt(1.0 + tangent * tangent))
        factor *= 2.0
    square = tangent * tangent
    total = coefficients[-1]
    for k in range(coefficients.size - 2, -1, -1):
        total = coefficients[k] + square * total
    return factor * (tangent * total)


@njit(inline="always")
def _look_up(x, y, i, neuron, cosine, sine, upright, half, planes):
    """Labels at image offsets x, y (pixels) of a neighbour of base row i."""
    side = planes.shape[1]
    column = (x * cosine[i] - y * sine[i]) + half
    row = (x * sine[i] + y * cosine[i]) * upright[i] + half
    # Truncation, as the peer does it: (-1, 0) is pixel 0. NaN fails the test.
    if row > -1.0 and row < side and column > -1.0 and column < side:
        return planes[neuron[i], np.int64(row), np.int64(column)]
    return np.uint64(0)


@njit(**_OPTIONS)
def bits_of_pairs(
    centre, axes, other, base_index, other_index, neuron, cosine, sine, upright, scale, series, small, planes, bits
):
    """Fill ``bits`` (P,) uint64 with the labels of pairs of base rows and rows of a catalogue.

    centre (n, 3), axes (n, 5): the east and north of its tangent plane, other (m, 3) float64; base_index, other_index
    (P,) int64; neuron (n,) int32, cosine, sine and upright (-1 where flipped, else 1) (n,) float64; scale (arcsec a
    pixel in x, in y, and arcsec a radian); series, small of the arctan; planes (N, D, D) uint64.
    """
    half = planes.shape[1] / 2.0
    for p in range(base_index.size):
        i, j = base_index[p], other_index[p]
        if neuron[i] < 0:
            bits[p] = 0
            continue
        dx, dy, dz = other[j, 0] - centre[i, 0], other[j, 1] - centre[i, 1], other[j, 2] - centre[i, 2]
        sideways = dx * axes[i, 0] + dy * axes[i, 1]
        upwards = dx * axes[i, 2] + dy * axes[i, 3] + dz * axes[i, 4]
        forwards = 1.0 + (dx * centre[i, 0] + dy * centre[i, 1] + dz * centre[i, 2])
        level = np.sqrt(forwards * forwards + sideways * sideways)
        east = 2.0 * _arctan(sideways / (forwards + level), series, small) * scale[2]
        north = _arctan(upwards / level, series, small) * scale[2]
        bits[p] = _look_up(-east / scale[0], north / scale[1], i, neuron, cosine, sine, upright, half, planes)


@njit(**_OPTIONS)
def bits_of_offsets(x, y, base_index, neuron, cosine, sine, upright, planes, bits):
    """Fill ``bits`` (P,) uint64 with the labels at image offsets x, y (P,) float64 pixels of base rows."""
    half = planes.shape[1] / 2.0
    for p in range(base_index.size):
        i = base_index[p]
        if neuron[i] < 0:
            bits[p] = 0
        else:
            bits[p] = _look_up(x[p], y[p], i, neuron, cosine, sine, upright, half, planes)

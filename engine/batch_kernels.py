"""Compiled loops of `batch.add_batch`: turned images times coefficients, in fixed point, one tile at a time.

A tile is some orbits of the grid symmetries: places (8, n) int32, pixels of the neuron frame. Images come in
blocks of 32 with the image innermost, so that every tap of the interpolation is a few whole vectors. Nothing is
fused or reordered here: samples are those of `transforms.transform` bit for bit.
"""

from typing import Any

import numpy as np
from numba import njit

from skysom.engine.blocks import BLOCK_IMAGES

COMPILED_WITH = "a955e612cf03"
"""Digest of the modules with parts that are compiled in here: numba keeps what it compiled until this file changes."""
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}

LANES = BLOCK_IMAGES
"""Images of a block, four vectors under AVX2: the compiler makes one loop of them only where there are so many."""


@njit(**_OPTIONS)
def add_tile(images, channel, places, turns, sides, product, runs, pairs, local, rows, sums):
    """Add round(factor * turned image) at ``places`` to one channel of ``sums`` (N, C, D*D) int64.

    images (blocks, C, H*H, 32) float32; places and turns of `batch.tiles`; sides H and D; product of `dihedral`. Added
    are pairs of an image and a neuron, in runs of one block and one base rotation; runs: block, base (runs,), start
    (runs + 1,) int64; pairs: lane, the image's place in its block, ascending in a run, neuron, element (n,) int64 and
    factor (n,) float64. Neurons are those of local (n', 8, n) float64, room for the sums of the tile; rows (n',) int64
    are theirs in ``sums``.
    """
    (image_side, side), (block, base, start), (lane, neuron, element, factor) = sides, runs, pairs
    shape = places.shape
    index, low, right = np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    first, stop, wanted = np.empty(8, np.int64), np.empty(8, np.int64), np.empty(LANES, np.int64)
    sampled, turned = np.empty((shape[1], LANES), np.float32), np.empty((LANES, *shape), np.float32)
    y, x = (places // side).astype(np.float32), (places % side).astype(np.float32)
    local[:] = 0
    for run in range(base.size):
        find_taps(y, x, turns[base[run]], image_side, index, low, right, first, stop)
        if (first == stop).all():
            continue
        some = wanted[: _distinct(lane[start[run] : start[run + 1]], wanted)]
        for g in range(8):
            _sample(images[block[run], channel], index[g], low[g], right[g], first[g], stop[g], image_side, sampled)
            _deal(sampled, some, first[g], stop[g], g, turned)
        for i in range(start[run], start[run + 1]):
            _add_turned(turned[lane[i]], first, stop, product[:, element[i]], factor[i], local[neuron[i]])
    _add_local(local, places, rows, channel, sums)


@njit(**_OPTIONS)
def find_taps(y, x, turn, side, index, low, right, first, stop):
    """`Geometry.taps` of one rotation at places y, x (8, n) float32, bit for bit, into index, low and right (8, n).

    turn (4,) float32, its row of `batch.tiles`; side of the image. Places inside the image are in first..stop (8,)
    int64. Made anew for each block of images: tables for all rotations would come from memory, and no faster.
    """
    cos, sin, half, centre = turn[0], turn[1], turn[2], turn[3]
    zero, last, before = np.float32(0), np.float32(side - 1), np.float32(side - 2)
    for g in range(8):
        for o in range(np.uintp(y.shape[1])):
            up, along = y[g, o] - half, x[g, o] - half
            row = np.float32(np.float64(up * cos) - np.float64(along) * np.float64(sin)) + centre
            column = np.float32(np.float64(up * sin) + np.float64(along) * np.float64(cos)) + centre
            inside = (row >= zero) & (row <= last) & (column >= zero) & (column <= last)
            top, left = min(max(np.trunc(row), zero), before), min(max(np.trunc(column), zero), before)
            index[g, o] = np.int32(top) * np.int32(side) + np.int32(left) if inside else np.int32(-1)
            low[g, o] = row - top if inside else zero
            right[g, o] = column - left if inside else zero
        begin, end = 0, y.shape[1]
        while begin < end and index[g, begin] < 0:
            begin += 1
        while end > begin and index[g, end - 1] < 0:
            end -= 1
        first[g], stop[g] = begin, end


@njit(**_OPTIONS)
def _distinct(lanes, out):
    """Fill ``out`` with the different ones of ascending ``lanes`` (n,); returns how many they are."""
    count = 0
    for lane in lanes:
        if count == 0 or out[count - 1] != lane:
            out[count] = lane
            count += 1
    return count


@njit(**_OPTIONS)
def _sample(plane, index, low, right, first, stop, side, out):
    """Interpolate all images of ``plane`` (H*H, 32) at taps first..stop, in the order of `transforms.rotate`."""
    # Unsigned indices: numba's handling of negative ones would cost more than the interpolation.
    one, below = np.uintp(1), np.uintp(side)
    for o in range(first, stop):
        target = out[o]
        if index[o] < 0:
            target[:] = 0
            continue
        i, fy, fx = np.uintp(index[o]), low[o], right[o]
        cy, cx = np.float32(1) - fy, np.float32(1) - fx
        w00, w01, w10, w11 = cy * cx, cy * fx, fy * cx, fy * fx
        x00, x01, x10, x11 = plane[i], plane[i + one], plane[i + below], plane[i + below + one]
        for b in range(LANES):
            target[b] = ((w00 * x00[b] + w01 * x01[b]) + w10 * x10[b]) + w11 * x11[b]


@njit(**_OPTIONS)
def _deal(sampled, lanes, first, stop, g, turned):
    """Put samples (n, 32) of the images ``lanes`` where each has its own row: turned (32, 8, n)."""
    for lane in lanes:
        target, column = turned[lane, g], np.uintp(lane)
        for o in range(np.uintp(first), np.uintp(stop)):
            target[o] = sampled[o, column]


@njit(**_OPTIONS)
def _add_turned(turned, first, stop, places, factor, local):
    """local (8, n) += round(factor * turned (8, n)), of which each place g takes the samples of ``places[g]``."""
    for g in range(8):
        place = places[g]
        source = turned[place, first[place] : stop[place]]
        target = local[g, first[place] : stop[place]]
        for o in range(source.size):
            # Whole numbers below 2^53 are added exactly, and without a conversion, which AVX2 lacks.
            target[o] += np.rint(np.float64(source[o]) * factor)


@njit(**_OPTIONS)
def _add_local(local, places, rows, channel, sums):
    """Add the sums of a tile to those of the map, each pixel once."""
    # Orbits on an axis or a diagonal name a pixel more than once: all but the first of them are dropped.
    for g in range(1, 8):
        for earlier in range(g):
            for o in range(places.shape[1]):
                if places[earlier, o] == places[g, o]:
                    local[:, g, o] = 0
    for i in range(rows.size):
        target = sums[rows[i], channel]
        for g in range(np.uintp(8)):
            for o in range(np.uintp(places.shape[1])):
                target[np.uintp(places[g, o])] += np.int64(local[i, g, o])

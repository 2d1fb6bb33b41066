"""A compiled loop that works as the peer does, to compare with: no reuse, one difference after another.

Every image is turned into all R F transforms in the neuron's frame, and each is subtracted from each
neuron: differences in float32, squares added in float64 one after another. No fast-math, so that the
compiler keeps that order. One channel.
"""

import math

import numpy as np
from numba import njit

from skysom.engine import Geometry


@njit(cache=True, nogil=True)
def _rotate(image, side, k, rotations, out):
    """Base rotation k > 0 of ``image`` (H, H), bilinear, into ``out`` (D, D)."""
    angle = np.float32(k) * (np.float32(2 * math.pi) / np.float32(rotations))
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    last = image.shape[0] - 1
    half, centre = np.float32(0.5 * (side - 1)), np.float32(0.5 * last)
    one = np.float32(1)
    for r in range(side):
        for c in range(side):
            y, x = np.float32(r) - half, np.float32(c) - half
            sy, sx = y * cos - x * sin + centre, y * sin + x * cos + centre
            if sy < 0 or sy > last or sx < 0 or sx > last:
                out[r, c] = np.float32(0)
                continue
            i, j = min(int(sy), last - 1), min(int(sx), last - 1)
            fy, fx = sy - np.float32(i), sx - np.float32(j)
            upper = (one - fy) * ((one - fx) * image[i, j] + fx * image[i, j + 1])
            out[r, c] = upper + fy * ((one - fx) * image[i + 1, j] + fx * image[i + 1, j + 1])


@njit(cache=True, nogil=True)
def all_transforms(image, rotations, flips, margin, stack):
    """Fill ``stack`` (R * flips, D, D) float32 with the transforms of ``image`` (H, H); R a multiple of 4."""
    side, base = stack.shape[1], rotations // 4
    stack[0] = 0
    for r in range(max(margin, 0), min(side, margin + image.shape[0])):
        for c in range(max(margin, 0), min(side, margin + image.shape[0])):
            stack[0, r, c] = image[r - margin, c - margin]
    for k in range(1, base):
        _rotate(image, side, k, rotations, stack[k])
    for k in range(base, rotations):
        for r in range(side):
            for c in range(side):
                stack[k, r, c] = stack[k - base, side - 1 - c, r]
    if flips == 2:
        for k in range(rotations):
            for r in range(side):
                stack[rotations + k, r] = stack[k, side - 1 - r]


@njit(cache=True, nogil=True)
def best_transforms(stack, neurons, first, stop, squared, transform):
    """Smallest sum of squares (N,) float64 and its transform (N,) over columns first..stop of every row."""
    for n in range(neurons.shape[0]):
        squared[n] = np.inf
        for t in range(stack.shape[0]):
            total = 0.0
            for r in range(first.size):
                for c in range(first[r], stop[r]):
                    difference = stack[t, r, c] - neurons[n, r, c]
                    total += np.float64(difference) * np.float64(difference)
            if total < squared[n]:
                squared[n], transform[n] = total, t


def region_rows(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """First column and the one after the last of the region, for each of the D rows."""
    mask = geometry.region_mask
    first = np.where(mask.any(axis=1), mask.argmax(axis=1), 0)
    return first, first + mask.sum(axis=1)


def peer_match(image: np.ndarray, neurons: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Distances (N,) and best transforms (N,) of ``image`` (H, H) to ``neurons`` (N, D, D), both float32."""
    side = geometry.neuron_side
    stack = np.empty((geometry.transforms, side, side), np.float32)
    all_transforms(image, geometry.rotations, 2 if geometry.flip else 1, geometry.margin, stack)
    squared, transform = np.empty(len(neurons)), np.empty(len(neurons), np.int64)
    best_transforms(stack, neurons, *region_rows(geometry), squared, transform)
    return np.sqrt(squared), transform

"""Compiled loops of the exact search on NumPy arrays.

Each has a plain counterpart it is tested against: sampling in `dihedral.image_spectra`, the minimum in
`exact`, direct distances and turned images in `transforms`. Images of a block are laid out
(C, H*W, B), image innermost, so that every tap of the interpolation is one contiguous vector.
"""

from typing import Any

import numpy as np
from numba import njit

from skysom.engine.blocks import BLOCK_IMAGES, TURNS
from skysom.engine.gather import bilinear, eight_orbits

COMPILED_WITH = "bd7b4057c237"
"""Digest of the modules with parts that are compiled in here: numba keeps what it compiled until this file changes."""
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
# Long float64 sums may be reordered, the same way every time.
_SUMS: dict[str, Any] = {**_OPTIONS, "fastmath": {"contract", "reassoc"}}
# Calls in the inner loops cost as much as the loops; left to itself, the compiler makes some.
_INLINE: dict[str, Any] = {**_OPTIONS, "forceinline": True}
LANES = BLOCK_IMAGES
FEW_ROWS = 8
"""Orbits whose squares are summed in float32 before they go to the float64 sum."""


@njit(**_OPTIONS)
def sample_block(images, index, low, right, weight, inside, complete, product, side, common, scalars, matrices, norms):
    """Sample, transform and square base rotations of a block of 32 images, minus the template ``common``.

    images (C, H*W, 32); index, low, right (k, O, 8); common (C, O); fills scalars (4, C*O, k*32) and matrices
    (C*O, 2, 2, k*32); adds to norms (9, k, 32) float64: orbits that lie partly in the region per
    symmetry in 0..7, complete ones (the same for all) in 8.
    """
    rotations, count, _ = index.shape
    v = np.empty((8, TURNS * LANES), np.float32)
    squares, unused = np.zeros(rotations * LANES, np.float32), np.zeros(rotations * LANES, np.float32)
    for row in range(scalars.shape[1]):
        c, o = row // count, row % count
        sums = squares if o < complete else unused
        # Rotations innermost: neighbouring ones read neighbouring pixels, and fill rows of spectra in long runs.
        for begin in range(0, rotations, TURNS):
            turns, at = min(TURNS, rotations - begin), np.uintp(begin * LANES)
            # Numbers that the compiler knows save a third of the time.
            if turns == TURNS and o < complete:
                _sample_turns(images[c], index, low, right, o, begin, TURNS, side, common[c, o], v)
                _butterfly(v, scalars, matrices, row, at, weight[o], squares, np.uintp(TURNS * LANES))
                continue
            _sample_turns(images[c], index, low, right, o, begin, turns, side, common[c, o], v)
            _butterfly(v, scalars, matrices, row, at, weight[o], sums, np.uintp(turns * LANES))
            if o >= complete:
                for k in range(turns):
                    own = v[:, k * LANES : (k + 1) * LANES]
                    _add_partial_squares(own, inside[o], product, weight[o], norms, begin + k)
        if row % FEW_ROWS == FEW_ROWS - 1 or row == scalars.shape[1] - 1:
            norms[8] += squares.reshape(rotations, LANES)
            squares[:] = 0


@njit(**_INLINE)
def _sample_turns(image, index, low, right, o, begin, turns, side, common, v):
    """Samples (8, turns * 32) of orbit ``o`` at ``turns`` rotations from ``begin``."""
    for k in range(turns):
        at = k * LANES
        for g in range(8):
            tap = index[begin + k, o, g], low[begin + k, o, g], right[begin + k, o, g]
            _sample(image, *tap, side, common, v[g, at : at + LANES], LANES)


@njit(**_INLINE)
def _sample(image, i, fy, fx, side, common, out, lanes):
    """All images at one tap. ``lanes`` are their number: where the compiler knows it, it saves a third of the time."""
    if i < 0:
        out[:] = -common
        return
    # Unsigned indices: numba's handling of negative ones costs as much as the interpolation.
    at, one, below = np.uintp(i), np.uintp(1), np.uintp(side)
    cy, cx = np.float32(1) - fy, np.float32(1) - fx
    w00, w01, w10, w11 = cy * cx, cy * fx, fy * cx, fy * fx
    x00, x01, x10, x11 = image[at], image[at + one], image[at + below], image[at + below + one]
    for b in range(lanes):
        out[b] = (w11 * x11[b] + (w10 * x10[b] + (w00 * x00[b] + w01 * x01[b]))) - common


@njit(**_INLINE)
def _butterfly(v, scalars, matrices, row, at, weight, squares, count):
    """The transform of ``count`` samples v (8, n) of an orbit into columns from ``at``; adds to ``squares`` there."""
    for b in range(count):
        v0, v1, v2, v3, v4, v5, v6, v7 = v[0, b], v[1, b], v[2, b], v[3, b], v[4, b], v[5, b], v[6, b], v[7, b]
        e0, e1, e2, e3 = v0 + v4, v1 + v5, v2 + v6, v3 + v7
        o0, o1, o2, o3 = v0 - v4, v1 - v5, v2 - v6, v3 - v7
        scalars[0, row, at + b] = (e0 + e2) + (e1 + e3)
        scalars[1, row, at + b] = (e0 + e2) - (e1 + e3)
        scalars[2, row, at + b] = (o0 + o2) + (o1 + o3)
        scalars[3, row, at + b] = (o0 + o2) - (o1 + o3)
        matrices[row, 0, 0, at + b] = e0 - e2
        matrices[row, 0, 1, at + b] = e3 - e1
        matrices[row, 1, 0, at + b] = o1 - o3
        matrices[row, 1, 1, at + b] = o0 - o2
        half, rest = (v0 * v0 + v1 * v1) + (v2 * v2 + v3 * v3), (v4 * v4 + v5 * v5) + (v6 * v6 + v7 * v7)
        squares[at + b] += weight * (half + rest)


@njit(**_OPTIONS)
def _add_partial_squares(v, inside, product, weight, norms, k):
    squares = np.empty((8, v.shape[1]))
    for g in range(8):
        for b in range(v.shape[1]):
            squares[g, b] = np.float64(v[g, b] * v[g, b] * weight)
    for h in range(8):
        for g in range(8):
            if inside[g]:
                source = squares[product[g, h]]
                for b in range(v.shape[1]):
                    norms[h, k, b] += source[b]


@njit(**_OPTIONS)
def sample_each(images, index, low, right, weight, inside, complete, product, side, scalars, matrices, norms):
    """`sample_block` with the spectra of every image apart: scalars (B, 4, C*O, k), matrices (B, C*O, 2, 2, k).

    Orbits outermost, so that the rows being filled stay in the first cache.
    """
    channels, _, batch = images.shape
    rotations, count, _ = index.shape
    v, unused = np.empty((8, batch), np.float32), np.zeros(batch)
    one, two = np.empty((4, 1, batch), np.float32), np.empty((1, 2, 2, batch), np.float32)
    for c in range(channels):
        image = images[c]
        for o in range(count):
            row = c * count + o
            for k in range(rotations):
                for g in range(8):
                    _sample(image, index[k, o, g], low[k, o, g], right[k, o, g], side, np.float32(0), v[g], batch)
                _butterfly(v, one, two, 0, 0, weight[o], norms[8, k] if o < complete else unused, batch)
                for b in range(batch):
                    for j in range(4):
                        scalars[b, j, row, k] = one[j, 0, b]
                        matrices[b, row, j // 2, j % 2, k] = two[0, j // 2, j % 2, b]
                if o >= complete:
                    _add_partial_squares(v, inside[o], product, weight[o], norms, k)


@njit(**_OPTIONS)
def sample_one(image, index, low, right, weight, inside, complete, product, side, common, scalars, matrices, norms):
    """`sample_block` of one ``image`` (C, H*W): its float32 samples, transformed and squared in float64.

    Fills scalars (4, C*O, k) and matrices (C*O, 2, 2, k), float32 or float64; adds to norms (9, 1, k) float64.
    """
    rotations, count, _ = index.shape
    v, unused = np.empty((8, rotations)), np.zeros(rotations)
    for c in range(image.shape[0]):
        for o in range(count):
            for k in range(rotations):
                for g in range(8):
                    sample = _interpolate(image[c], index[k, o, g], low[k, o, g], right[k, o, g], side)
                    v[g, k] = sample - common[c, o]
            own = norms[8, 0] if o < complete else unused
            _butterfly(v, scalars, matrices, c * count + o, 0, weight[o], own, rotations)
            if o >= complete:
                _add_partial_squares(v, inside[o], product, weight[o], norms, 0)


@njit(**_OPTIONS)
def _interpolate(plane, i, fy, fx, side):
    if i < 0:
        return np.float32(0)
    # Its context is the compiler's.
    return bilinear(plane[i], plane[i + 1], plane[i + side], plane[i + side + 1], fy, fx)  # type: ignore[call-arg]


@njit(**_OPTIONS)
def minimum_block(scalars, matrices, norms, first, base_rotations, rotations, elements, best, best_t, best_product):
    """Fold the products of a block of rotations into the running minimum over transforms.

    scalars (4, N, k*B), matrices (N, 2, 2, k*B) are parts of -2 <r, w>; norms (8, k, B) float32 are
    |r|^2. best (N, B) float32 holds the smallest |r|^2 - 2 <r, w>, best_t its transform, best_product
    its -2 <r, w>. Equal values keep the lower transform.
    """
    neurons, batch = best.shape
    value = np.empty((8, batch), np.float32)
    for n in range(neurons):
        for k in range(norms.shape[1]):
            _inverse(scalars, matrices, n, k * batch, value)
            for h in elements:
                t = np.int32((h // 4) * rotations + (h % 4) * base_rotations + first + k)
                _keep_smaller(value[h], norms[h, k], t, best[n], best_t[n], best_product[n])


@njit(**_INLINE)
def _keep_smaller(product, norm, t, best, best_t, best_product):
    for b in range(best.size):
        d = norm[b] + product[b]
        better = d < best[b] or (d == best[b] and t < best_t[b])
        best[b] = d if better else best[b]
        best_t[b] = t if better else best_t[b]
        best_product[b] = product[b] if better else best_product[b]


@njit(**_INLINE)
def _inverse(scalars, matrices, n, at, value):
    for b in range(value.shape[1]):
        s0, s1 = scalars[0, n, at + b], scalars[1, n, at + b]
        s2, s3 = scalars[2, n, at + b], scalars[3, n, at + b]
        even, odd = s0 + s1, s0 - s1
        even_flip, odd_flip = s2 + s3, s2 - s3
        m00, m01 = matrices[n, 0, 0, at + b], matrices[n, 0, 1, at + b]
        m10, m11 = matrices[n, 1, 0, at + b], matrices[n, 1, 1, at + b]
        trace, twist = m00 + m11, m10 - m01
        trace_flip, twist_flip = m00 - m11, -(m01 + m10)
        value[0, b] = (even + even_flip) + trace
        value[1, b] = (odd + odd_flip) + twist
        value[2, b] = (even + even_flip) - trace
        value[3, b] = (odd + odd_flip) - twist
        value[4, b] = (even - even_flip) + trace_flip
        value[5, b] = (odd - odd_flip) + twist_flip
        value[6, b] = (even - even_flip) - trace_flip
        value[7, b] = (odd - odd_flip) - twist_flip


@njit(**_OPTIONS)
def all_products(scalars, matrices, rotations_in_block, batch):
    """-2 <h r, w> for every symmetry: (N, 8, k, B) float32 from the products of a block."""
    neurons = scalars.shape[1]
    out = np.empty((neurons, 8, rotations_in_block, batch), np.float32)
    for n in range(neurons):
        for k in range(rotations_in_block):
            _inverse(scalars, matrices, n, k * batch, out[n, :, k, :])
    return out


@njit(**_OPTIONS)
def rotate_frame(image, index, low, right, side, out):
    """Interpolate ``image`` (C, H*W) at taps (D*D,) into ``out`` (C, D*D): one base rotation."""
    for c in range(image.shape[0]):
        for p in range(index.size):
            out[c, p] = _interpolate(image[c], index[p], low[p], right[p], side)


@njit(**_OPTIONS)
def _place(element, y, x, side):
    """Flat pixel of the base rotation that symmetry ``element`` brings to (y, x)."""
    if element >= 4:
        y = side - 1 - y
    for _ in range(element % 4):
        y, x = side - 1 - x, y
    return y * side + x


@njit(**_SUMS)
def square_norm(neuron, places):
    """Sum of squares, float64, of ``neuron`` (C, D*D) at ``places``."""
    total = 0.0
    for c in range(neuron.shape[0]):
        for p in places:
            total += np.float64(neuron[c, p]) * np.float64(neuron[c, p])
    return total


@njit(**_OPTIONS)
def _sample_orbits(plane, index, low, right, side, out):
    """Samples of a plane (H*W,) at taps (O, 8), by place: out (8, O)."""
    count = index.shape[0]
    for first in range(0, count, 8):
        last = min(first + 8, count)
        if last == first + 8 and eight_orbits(plane, np.int64(side), index, low, right, np.int64(first), out):  # type: ignore[call-arg]
            continue
        for o in range(first, last):
            for g in range(8):
                out[g, o] = _interpolate(plane, index[o, g], low[o, g], right[o, g], side)


@njit(**_SUMS)
def direct_sums(images, index, low, right, side, product, share, neurons, row, k, element, unit, out):
    """Direct sums of squares, out (n,) float64, of candidates sorted by (image row, base rotation k).

    images (B, C, H*W); index, low, right (R/4, O, 8); share (8, O) float32 weight of each place, 0 outside the
    region; neurons (N, C, 8, O) float32, weights at the places of the orbits.
    """
    channels, count = images.shape[1], index.shape[1]
    v = np.empty((channels, 8, count), np.float32)
    for i in range(row.size):
        if i == 0 or row[i] != row[i - 1] or k[i] != k[i - 1]:
            for c in range(channels):
                _sample_orbits(images[row[i], c], index[k[i]], low[k[i]], right[k[i]], side, v[c])
        total = 0.0
        for c in range(channels):
            for g in range(8):
                turned, own, weight = v[c, product[g, element[i]]], neurons[unit[i], c, g], share[g]
                for o in range(count):
                    difference = np.float64(turned[o]) - np.float64(own[o])
                    total += difference * difference * np.float64(weight[o])
        out[i] = total


@njit(**_OPTIONS)
def move_neuron(neuron, frame, element, factor, side):
    """neuron -= (neuron - frame turned by ``element``) * factor, in place, (C, D*D) float32."""
    for c in range(neuron.shape[0]):
        for y in range(side):
            for x in range(side):
                w = neuron[c, y * side + x]
                neuron[c, y * side + x] = w - (w - frame[c, _place(element, y, x, side)]) * factor


@njit(**_OPTIONS)
def neuron_spectrum(neuron, pixels, scale, scalars, matrices, n):
    """Group Fourier transform of one neuron (C, D*D) into row n of `dihedral.neuron_spectra`'s arrays.

    pixels (O, 8) int32, scale (O, 8) float32; scalars (4, N, C*O), matrices (N, 2, C*O, 2), whose type is
    that of the sums.
    """
    count = pixels.shape[0]
    v = np.empty(8, scalars.dtype)
    for c in range(neuron.shape[0]):
        for o in range(count):
            for g in range(8):
                v[g] = neuron[c, pixels[o, g]] * scale[o, g]
            e0, e1, e2, e3 = v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]
            o0, o1, o2, o3 = v[0] - v[4], v[1] - v[5], v[2] - v[6], v[3] - v[7]
            row, two = c * count + o, np.float32(2)
            scalars[0, n, row] = (e0 + e2) + (e1 + e3)
            scalars[1, n, row] = (e0 + e2) - (e1 + e3)
            scalars[2, n, row] = (o0 + o2) + (o1 + o3)
            scalars[3, n, row] = (o0 + o2) - (o1 + o3)
            # Stored (i, m): the transpose of the transform, as the product B^T A needs it.
            matrices[n, 0, row, 0] = two * (e0 - e2)
            matrices[n, 0, row, 1] = two * (o1 - o3)
            matrices[n, 1, row, 0] = two * (e3 - e1)
            matrices[n, 1, row, 1] = two * (o0 - o2)


@njit(**_OPTIONS)
def move_map(weights, keep, sums, unit):
    """keep[n] * weights[n] + sums[n] * unit, added in float64, as float32: (N, C, P) all."""
    out = np.empty_like(weights)
    for n in range(weights.shape[0]):
        for c in range(weights.shape[1]):
            for p in range(weights.shape[2]):
                out[n, c, p] = np.float32(keep[n] * np.float64(weights[n, c, p]) + np.float64(sums[n, c, p]) * unit)
    return out


@njit(**_OPTIONS)
def compose_updates(bmu, factors, wanted, move, after, total):
    """Coefficients of an affine batch, from its last image to its first.

    bmu (B,) int64; factors (N, N) float32; wanted (B',) int64 ascending positions whose c goes to move (B', N)
    float64; after (N,) float64, ones that become a; total (N,) float64, to which all f are added.
    """
    at = wanted.size - 1
    for i in range(bmu.size - 1, -1, -1):
        own = factors[bmu[i]]
        if at >= 0 and wanted[at] == i:
            for n in range(after.size):
                move[at, n] = np.float64(own[n]) * after[n]
            at -= 1
        for n in range(after.size):
            after[n] *= 1.0 - np.float64(own[n])
            total[n] += np.float64(own[n])

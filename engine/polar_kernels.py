"""Compiled loops of the polar and the certified search on NumPy arrays.

Images of a block are laid out (C, H*W, B), image innermost. Each loop has a plain counterpart that tests
compare it with: rings in `rings`, steering in `steering`, energies in `energies`.
"""

from typing import Any

import numpy as np
from numba import njit

from skysom.engine.kernels import _sample

COMPILED_WITH = "7ebf20cebcd3"
"""Digest of the modules with parts that are compiled in here: numba keeps what it compiled until this file changes."""
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
# Long sums may be reordered, the same way every time.
_SUMS: dict[str, Any] = {**_OPTIONS, "fastmath": {"contract", "reassoc"}}


@njit(**_OPTIONS)
def sample_rings(images, index, low, right, side, power, out):
    """Sample rings and fold the four quarters of each: what `rings.folded` does.

    images (C, H*W, B); index, low, right (J, A); ``power`` squares the samples. Fills out (4, A/4, C*J, B):
    x0 + x1 + x2 + x3, x0 - x1 + x2 - x3, x0 - x2 and x1 - x3 of the samples a quarter turn apart.
    """
    channels, _, batch = images.shape
    count, angles = index.shape
    quarter = angles // 4
    v = np.empty((4, batch), np.float32)
    # Rings innermost, so that rows are filled one after the other.
    for a in range(quarter):
        for c in range(channels):
            for j in range(count):
                row = c * count + j
                for q in range(4):
                    at = a + q * quarter
                    _sample(images[c], index[j, at], low[j, at], right[j, at], side, np.float32(0), v[q], batch)
                    if power:
                        v[q] *= v[q]
                for b in range(batch):
                    even, odd = v[0, b] + v[2, b], v[1, b] + v[3, b]
                    out[0, a, row, b], out[1, a, row, b] = even + odd, even - odd
                    out[2, a, row, b], out[3, a, row, b] = v[0, b] - v[2, b], v[1, b] - v[3, b]


@njit(**_OPTIONS)
def lag_sums(images, first, second, sums, differences):
    """Sums over channels and quarter turns of products of neighbouring pixels: `energies.lag_products`.

    images (C, H*W, B); first, second (L, 8) int32 pixels; fills sums and differences (L, B).
    """
    channels, _, batch = images.shape
    own, mirrored = np.empty(batch, np.float32), np.empty(batch, np.float32)
    for i in range(first.shape[0]):
        own[:] = 0
        mirrored[:] = 0
        for c in range(channels):
            _add_products(images[c], first[i, :4], second[i, :4], own)
            _add_products(images[c], first[i, 4:], second[i, 4:], mirrored)
        for b in range(batch):
            sums[i, b], differences[i, b] = own[b] + mirrored[b], own[b] - mirrored[b]


@njit(**_OPTIONS)
def _add_products(image, first, second, total):
    for q in range(first.size):
        one, two = image[first[q]], image[second[q]]
        for b in range(total.size):
            total[b] += one[b] * two[b]


@njit(**_OPTIONS)
def partial_norms(images, index, low, right, weight, complete, pattern, patterns, product, side, norms):
    """Add |r|^2 over the orbits that lie partly in the region to norms (8, k, B) float64, per symmetry.

    images (C, H*W, B); index, low, right (k, O, 8) and weight (O,) of all orbits, of which the first ``complete`` are
    left out; pattern (O - complete,) says which of patterns (P, 8) bool each has (`Orbits.partial`).
    """
    channels, _, batch = images.shape
    rotations, count, _ = index.shape
    sample, squares = np.empty(batch, np.float32), np.empty((patterns.shape[0], 8, batch), np.float32)
    for k in range(rotations):
        squares[:] = 0
        for c in range(channels):
            for o in range(complete, count):
                for g in range(8):
                    _sample(images[c], index[k, o, g], low[k, o, g], right[k, o, g], side, np.float32(0), sample, batch)
                    total = squares[pattern[o - complete], g]
                    for b in range(batch):
                        total[b] += sample[b] * sample[b] * weight[o]
        for p in range(patterns.shape[0]):
            for g in range(8):
                if patterns[p, g]:
                    for h in range(8):
                        source = squares[p, product[g, h]]
                        for b in range(batch):
                            norms[h, k, b] += np.float64(source[b])


@njit(**_OPTIONS)
def correlate(products, out):
    """W conj(X) and conj(W X) from the four real products.

    products (M, 2, n, 2, B), parts of W and of X; fills out (F, M, 2, n*B).
    """
    orders, _, neurons, _, batch = products.shape
    for m in range(orders):
        for n in range(neurons):
            at = n * batch
            rr, ri = products[m, 0, n, 0], products[m, 1, n, 0]
            ir, ii = products[m, 0, n, 1], products[m, 1, n, 1]
            for b in range(batch):
                out[0, m, 0, at + b], out[0, m, 1, at + b] = rr[b] + ii[b], ri[b] - ir[b]
            if out.shape[0] == 2:
                for b in range(batch):
                    out[1, m, 0, at + b], out[1, m, 1, at + b] = rr[b] - ii[b], -(ri[b] + ir[b])


@njit(**_SUMS)
def correlate_pairs(neurons, images, unit, image, out):
    """W conj(X) and conj(W X), as `correlate` has them, of some pairs of a neuron and an image.

    neurons (N, M, 2, K), images (B, M, 2, K); unit, image (n,) name the pairs; fills out (n, F, 2 M), real and
    imaginary parts in turn. Pair by pair: no rounding depends on the others.
    """
    orders, rows = neurons.shape[1], neurons.shape[3]
    for p in range(unit.size):
        for m in range(orders):
            own, other = neurons[unit[p], m], images[image[p], m]
            wr, wi, xr, xi = own[0], own[1], other[0], other[1]
            rr, ri, ir, ii = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for j in range(rows):
                rr += wr[j] * xr[j]
                ri += wr[j] * xi[j]
                ir += wi[j] * xr[j]
                ii += wi[j] * xi[j]
            out[p, 0, 2 * m], out[p, 0, 2 * m + 1] = rr + ii, ir - ri
            if out.shape[1] == 2:
                out[p, 1, 2 * m], out[p, 1, 2 * m + 1] = rr - ii, -(ri + ir)


@njit(**_OPTIONS)
def scores_of_pairs(coefficients, zero, two, odd, energies, image, out):
    """|r|^2 - 2 <r, w> of every transform, out (n, F * 4 * k) float32, as `steering.turned` has the <r, w>.

    coefficients (n, F, 2 M) as of `correlate_pairs`; zero, two (M/2, k) and odd (M, 2 k), the transposed matrices of
    `steering.steering`; energies (B, 8, k); image (n,) names them.
    """
    bases = zero.shape[1]
    quarter = zero.shape[0]
    even, uneven, both = np.empty(bases, np.float32), np.empty(bases, np.float32), np.empty(2 * bases, np.float32)
    for p in range(image.size):
        for f in range(coefficients.shape[1]):
            own = coefficients[p, f]
            _weighted_rows(own[:quarter], zero, even)
            _weighted_rows(own[quarter : 2 * quarter], two, uneven)
            _weighted_rows(own[2 * quarter :], odd, both)
            at = 4 * f * bases
            for q in range(4):
                one = both[:bases] if q % 2 == 0 else both[bases:]
                sign = np.float32(1) if q % 3 == 0 else np.float32(-1)
                turned, energy = out[p, at + q * bases : at + (q + 1) * bases], energies[image[p], 4 * f + q]
                if q % 2 == 0:
                    for k in range(bases):
                        turned[k] = energy[k] - 2 * (even[k] + uneven[k] + sign * one[k])
                else:
                    for k in range(bases):
                        turned[k] = energy[k] - 2 * (even[k] - uneven[k] + sign * one[k])


@njit(**_OPTIONS)
def _weighted_rows(weights, rows, out):
    """The sum of ``rows`` (an even number, k) times their ``weights``."""
    out[:] = 0
    for j in range(0, weights.size, 2):
        first, second, one, two = rows[j], rows[j + 1], weights[j], weights[j + 1]
        for k in range(out.size):
            out[k] += one * first[k] + two * second[k]


@njit(**_OPTIONS)
def best_turned(steered, energies, rotations, best, best_t):
    """Least |r|^2 - 2 <r, w> over the flips and base rotations, and its transform, of ``rotations`` a flip.

    steered (F, 4, k, N*B) as of `steering.steer`; energies (8, k, B); fills best (N, B) float32, best_t int32.
    """
    flips, _, bases, _ = steered.shape
    neurons, batch = best.shape
    for n in range(neurons):
        at = n * batch
        best[n] = np.inf
        best_t[n] = 0
        for f in range(flips):
            for k in range(bases):
                even, odd = steered[f, 0, k, at : at + batch], steered[f, 1, k, at : at + batch]
                one, two = steered[f, 2, k, at : at + batch], steered[f, 3, k, at : at + batch]
                e0, e1, e2, e3 = (
                    energies[4 * f, k],
                    energies[4 * f + 1, k],
                    energies[4 * f + 2, k],
                    energies[4 * f + 3, k],
                )
                t = np.int32(f * rotations + k)
                for b in range(batch):
                    plus, minus = even[b] + odd[b], even[b] - odd[b]
                    d0, d2 = e0[b] - 2 * (plus + one[b]), e2[b] - 2 * (plus - one[b])
                    d1, d3 = e1[b] - 2 * (minus - two[b]), e3[b] - 2 * (minus + two[b])
                    half, half_t = (d0, t) if d0 <= d1 else (d1, t + np.int32(bases))
                    rest, rest_t = (d2, t + np.int32(2 * bases)) if d2 <= d3 else (d3, t + np.int32(3 * bases))
                    d, at_t = (half, half_t) if half <= rest else (rest, rest_t)
                    better = d < best[n, b]
                    best[n, b] = d if better else best[n, b]
                    best_t[n, b] = at_t if better else best_t[n, b]

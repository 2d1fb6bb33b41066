"""Direct sums of squares of single transforms: what decides wherever a difference of large numbers must not."""

from functools import lru_cache

import numpy as np

from skysom.engine import dihedral
from skysom.engine.geometry import Geometry

TRIPLES_AT_ONCE = 64
"""Triples whose neurons are brought to the places of the orbits together."""
FRAMES_KEPT = 512
"""Base rotations whose interpolation of a whole frame is kept."""


def direct_distances(
    images: np.ndarray,
    weights: np.ndarray,
    geometry: Geometry,
    rows: np.ndarray,
    neurons: np.ndarray,
    t: np.ndarray,
) -> np.ndarray:
    """Squared distances (n,) float64 of the triples (image row, neuron, transform t), (n,) int64 each.

    images (B, C, H, H), weights (N, C, D, D) float32; differences and squares are float64, over the region.
    """
    table, out = dihedral.orbits(geometry), np.empty(len(rows))
    order = np.argsort(neurons, kind="stable")
    for first in range(0, len(rows), TRIPLES_AT_ONCE):
        some = order[first : first + TRIPLES_AT_ONCE]
        unique, own = np.unique(neurons[some], return_inverse=True)
        out[some] = sums_at_places(images, at_places(weights[unique], table), table, rows[some], own, t[some])
    return out


def at_places(weights: np.ndarray, table: dihedral.Orbits) -> np.ndarray:
    """Weights (N, C, D, D) at the places of the orbits, (N, C, 8, O) float32, contiguous."""
    flat = weights.reshape(*weights.shape[:2], -1)
    return np.take(flat, np.ascontiguousarray(table.pixels.T), axis=2).astype(np.float32, copy=False)


def sums_at_places(
    images: np.ndarray, places: np.ndarray, table: dihedral.Orbits, rows: np.ndarray, neurons: np.ndarray, t: np.ndarray
) -> np.ndarray:
    """`direct_distances` of neurons ``places`` (N, C, 8, O)."""
    from skysom.engine import kernels

    k, element = base_and_element(t, table.geometry)
    order = np.lexsort((k, rows))
    found, out = np.empty(len(rows)), np.empty(len(rows))
    planes = np.ascontiguousarray(images, np.float32).reshape(*images.shape[:2], -1)
    kernels.direct_sums(
        planes, *table.taps, table.geometry.image_side, dihedral.PRODUCT, table.shares, places,
        rows[order], k[order], element[order], neurons[order], found,
    )  # fmt: skip
    out[order] = found
    return out


def base_and_element(t: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Base rotation k and grid symmetry h = 4 f + q of transforms ``t``."""
    flip, turn = np.divmod(t, geometry.rotations)
    quarter, k = np.divmod(turn, geometry.base_rotations)
    return k, 4 * flip + quarter


@lru_cache(maxsize=FRAMES_KEPT)
def frame_taps(geometry: Geometry, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interpolation of the whole neuron frame, arrays (D*D,), for base rotation ``k``."""
    return tuple(geometry.taps(k, np.arange(geometry.neuron_side**2)))  # type: ignore[return-value]

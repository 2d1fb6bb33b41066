"""The U-matrix of a map: how far every neuron is from its neighbours on the lattice, whatever their orientation."""

from typing import Any

import numpy as np

from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Lattice
from skysom.engine.reading.crops import central, reduced
from skysom.engine.transforms import transform

MAX_SIDE, MAX_ROTATIONS, MAX_NEURONS = 32, 72, 4096
"""The U-matrix is for looking at: small pictures and few angles are enough, very large maps go without."""


def u_matrix(weights: np.ndarray, lattice: Lattice, geometry: dict[str, Any], side: int) -> np.ndarray | None:
    """Mean distance (N,) float64 of every neuron to its lattice neighbours; None for very large maps.

    Neighbours may show the same shape at different angles, so a plain difference would draw borders where there
    are none: one is turned (and mirrored, where the map does so) onto the other, at the best of `angles` angles.
    Only neighbours are compared, so the cost grows with the neurons and not with their square.

    Parameters
    ----------
    weights : (N, C, D, D) float32.
    geometry : ``rotations`` and ``flip`` of the map; 360 and True where missing.
    side : central pixels that are compared, reduced to at most 32.

    Returns
    -------
    Distances over a circle and all channels, in units of the reduced pixels; NaN for a neuron without neighbours.
    """
    if len(weights) > MAX_NEURONS:
        return None
    neighbour = lattice.distances() == 1
    count = neighbour.sum(axis=1)
    if not count.any():
        return np.full(len(weights), np.nan)
    small = reduced(central(weights, side), min(side, MAX_SIDE))
    search = Geometry.derive(
        small.shape[-1], angles(geometry), bool(geometry.get("flip", True)), "circular", small.shape[-1]
    )
    # row n holds the neighbours of neuron n, then neurons that are none
    table = np.argsort(~neighbour, axis=1, kind="stable")[:, : count.max()]
    distance = np.zeros(neighbour.shape, np.float32)
    np.put_along_axis(distance, table, _best_distances(small, table, search), axis=1)
    # only the one that is turned is interpolated, so the two ways differ a little
    total = np.where(neighbour, (distance + distance.T) / 2, 0).sum(axis=1, dtype=np.float64)
    return total / np.where(count > 0, count, np.nan)


def angles(geometry: dict[str, Any]) -> int:
    """Angles that are tried: those of the map, at most 72."""
    return min(int(geometry.get("rotations") or MAX_ROTATIONS), MAX_ROTATIONS)


def _best_distances(neurons: np.ndarray, table: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Distances (N, m) float32 of neurons (N, C, s, s) to those in their row of ``table`` (N, m)."""
    count, channels, side = neurons.shape[:3]
    region = np.flatnonzero(geometry.region_mask)

    def inside(planes: np.ndarray) -> np.ndarray:
        return planes.reshape(count, channels, side * side)[:, :, region].reshape(count, -1)

    planes, target = neurons.reshape(-1, side, side), inside(neurons)
    best = np.full(table.shape, np.inf, np.float32)
    for t in range(geometry.transforms):
        turned = inside(transform(planes, t, geometry))
        for column, other in enumerate(table.T):
            difference = turned - target[other]
            squared = np.einsum("np,np->n", difference, difference)
            np.minimum(best[:, column], squared, out=best[:, column])
    return np.sqrt(best)

"""How far members lie from their neurons, at the edge of a map and in its middle, and what that says of its size."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Hexagonal, Lattice
from skysom.engine.reading.agreement import FEW_MEMBERS
from skysom.engine.reading.units import members

NEARLY_EMPTY = 0.1
"""A neuron with less than this share of the mean number of members is nearly empty."""
TOO_MANY_EMPTY = 0.25
"""Share of nearly empty neurons from which a map is called too large."""
CROWDED_EDGE = 1.5
"""Members of an edge neuron over those of a centre neuron, on average, from which the edge is crowded."""
DISPERSED_EDGE = 1.25
"""Dispersion at the edge over that in the centre from which the edge holds what does not fit the map."""


@dataclass(frozen=True)
class NeuronDistances:
    """Distances of the members of each neuron: hits (N,) int64; mean, median, std (N,) float64, NaN without members.

    std is that of the members themselves (divided by their number).
    """

    hits: np.ndarray
    mean: np.ndarray
    median: np.ndarray
    std: np.ndarray


def neuron_distances(bmu: np.ndarray, bmu_distance: np.ndarray, neurons: int) -> NeuronDistances:
    """Statistics of the best distance (n,) of every row by its best unit (n,).

    Rows without a neuron (-1) or a finite distance are left out. ReadingError for lengths that differ, or a neuron
    the map has not.
    """
    from skysom.engine.reading.unit_kernels import member_moments

    distance = np.ascontiguousarray(bmu_distance, np.float32)
    if distance.shape != np.shape(bmu):
        raise ReadingError(f"there are {np.shape(bmu)} best units and {distance.shape} distances; give one each a row")
    own = members(np.where(np.isfinite(distance), bmu, -1), neurons)
    mean, median, std = (np.full(neurons, np.nan) for _ in range(3))
    member_moments(distance, own.start, own.rows, mean, median, std)
    return NeuronDistances(own.hits, mean, median, std)


def edge_neurons(lattice: Lattice) -> np.ndarray:
    """(N,) bool, neurons on the rim of the lattice; none where it is periodic."""
    if lattice.periodic:
        return np.zeros(lattice.size, bool)
    position = lattice.positions()
    if isinstance(lattice, Hexagonal):
        row, column = (position[:, :2] - lattice.radius).T
        return np.maximum(np.maximum(np.abs(row), np.abs(column)), np.abs(row + column)) == lattice.radius
    sides = np.array([lattice.width, lattice.height, lattice.depth])
    rim = ((position == 0) | (position == sides - 1)) & (sides > 1)
    return rim.any(axis=1)


Verdict = Literal["larger", "smaller", "mixed", "keep", "unknown"]


@dataclass(frozen=True)
class SizeAdvice:
    """Whether a map is of a good size, and the numbers behind it; NaN where there is nothing to compare.

    edge_hits, centre_hits : mean members of an edge and of a centre neuron, nearly empty ones left out. edge_spread,
    centre_spread : standard deviation of the distances, averaged over the members of neurons with at least ten.
    edge_median, centre_median : median distance, averaged alike. nearly_empty : share of neurons with less than a
    tenth of the mean members.
    """

    verdict: Verdict
    sentence: str
    edge_hits: float
    centre_hits: float
    edge_spread: float
    centre_spread: float
    edge_median: float
    centre_median: float
    nearly_empty: float


def size_advice(
    lattice: Lattice, distances: NeuronDistances, *, excluded: np.ndarray | None = None, fewest: int = FEW_MEMBERS
) -> SizeAdvice:
    """Advice on the size of a map from how its edge compares with its centre and how many neurons stay empty.

    A map that is too small pushes rare shapes to its edge: edge neurons are crowded (1.5 times the members of a
    centre neuron, nearly empty ones left out), or their members scatter more (1.25 times the dispersion): "larger".
    A map that is too large leaves neurons over: a quarter of them nearly empty: "smaller". Both: "mixed"; neither:
    "keep". With fewer than ten sources a neuron nothing is said ("unknown"); a periodic map has no edge and is judged
    by its empty neurons.

    excluded : (N,) bool, neurons that were left out of the mapping and are left out here.
    """
    kept = np.ones(lattice.size, bool) if excluded is None else ~np.asarray(excluded, bool)
    edge = edge_neurons(lattice)
    groups = (kept & edge, kept & ~edge)
    spread = [_by_members(distances.std, distances.hits, g, fewest) for g in groups]
    median = [_by_members(distances.median, distances.hits, g, fewest) for g in groups]
    mean = float(distances.hits[kept].mean()) if kept.any() else 0.0
    occupied = kept & (distances.hits > 0) & (distances.hits >= NEARLY_EMPTY * mean)
    empty = 1 - float(occupied.sum() / kept.sum()) if mean > 0 else float("nan")
    hits = [float(distances.hits[g & occupied].mean()) if (g & occupied).any() else float("nan") for g in groups]
    strained = []
    if hits[0] > CROWDED_EDGE * hits[1]:
        strained.append(f"edge neurons hold {hits[0] / hits[1]:.1f} times the sources of others")
    if spread[0] > DISPERSED_EDGE * spread[1]:
        ratio = spread[0] / spread[1] if spread[1] else np.inf
        strained.append(f"distances scatter {ratio:.1f} times as much at the edge as in the centre")
    verdict, sentence = _verdict(mean, fewest, strained, empty, periodic=lattice.periodic)
    return SizeAdvice(
        verdict, sentence, hits[0], hits[1], spread[0], spread[1], median[0], median[1], nearly_empty=empty
    )


def _verdict(mean: float, fewest: int, strained: list[str], empty: float, *, periodic: bool) -> tuple[Verdict, str]:
    idle = f"{empty:.0%} of the neurons are nearly empty"
    if mean < fewest:
        return "unknown", f"{mean:.1f} sources a neuron are too few to judge the size of the map; map more of them."
    if strained and empty >= TOO_MANY_EMPTY:
        return "mixed", (
            f"{_capital(' and '.join(strained))}, yet {idle}: the map is not too small but not ordered well; train it "
            "longer or from a wider neighbourhood before changing its size."
        )
    if strained:
        return "larger", f"{_capital(' and '.join(strained))}: shapes are missing; try a larger map."
    if empty >= TOO_MANY_EMPTY:
        return "smaller", f"{_capital(idle)}: the map has more neurons than shapes; try a smaller one."
    beside = "a periodic map has no edge to look at" if periodic else "the edge is like the centre"
    return "keep", f"Few neurons are empty and {beside}: the size suits these sources."


def _by_members(values: np.ndarray, hits: np.ndarray, group: np.ndarray, fewest: int) -> float:
    """Mean of ``values`` over the members of the neurons of a group that have enough of them; NaN without any."""
    used = group & (hits >= fewest)
    return float(np.average(values[used], weights=hits[used])) if used.any() else float("nan")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

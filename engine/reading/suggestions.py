"""Labels and masks suggested for neurons from labelled neurons that look alike, whatever their orientation.

Every suggestion says why: which labelled neurons spoke for it, how alike they are and whether they are neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Cartesian
from skysom.engine.match import Match
from skysom.engine.reading.agreement import adjacent, neighbours
from skysom.engine.reading.crops import central, reduced
from skysom.engine.search import best_match
from skysom.engine.som import Som
from skysom.engine.transforms import transform

MAX_SIDE = 48
"""Neurons are compared reduced to this many pixels a side."""


@dataclass(frozen=True)
class Likeness:
    """A labelled neuron that is like another.

    likeness : 1 for equal images, 0 at the median distance of two neurons and beyond.
    adjacent : whether they are neighbours on the lattice. transform : t that turns this one onto the other.
    """

    neuron: int
    likeness: float
    adjacent: bool
    transform: int


@dataclass(frozen=True)
class Suggestion:
    """A label for a neuron, a score from 0 to 1, and the labelled neurons that spoke for it, the most alike first."""

    neuron: int
    label: str
    score: float
    because: tuple[Likeness, ...]


def suggest_labels(
    som: Som,
    labels: Sequence[Sequence[str]],
    *,
    rotations: int = 72,
    flip: bool = True,
    side: int | None = None,
    voters: int = 5,
    least_score: float = 0.1,
    neurons: Sequence[int] | None = None,
) -> list[Suggestion]:
    """Labels for neurons, by score: the highest first, equal ones by neuron and label.

    The ``voters`` most alike labelled neurons have a vote each, as large as their likeness, and half of it where they
    are not neighbours on the lattice. The score of a label is its share of the votes times the largest vote for it: it
    is high where what is alike agrees, and low where nothing is alike.

    Parameters
    ----------
    labels : N sequences, empty for neurons without labels.
    rotations, flip : under which neurons count as equal; side : of the central pixels that are compared, by default
        those that are inside the neuron at any angle, D / sqrt(2).
    neurons : which get suggestions, by default those without a label. One that has labels gets them from the others,
        so that what disagrees with its surroundings can be looked at again.

    Raises
    ------
    ReadingError : another number of labels than neurons, no label at all, an unknown neuron, less than one voter.
    """
    count = som.lattice.size
    if len(labels) != count:
        raise ReadingError(f"labels are given for {len(labels)} neurons, the map has {count}")
    labelled = np.array([n for n, names in enumerate(labels) if names], np.int64)
    if not len(labelled) or voters < 1:
        raise ReadingError(f"{len(labelled)} neurons have labels and {voters} may vote; both must be at least 1")
    wanted = [n for n in range(count) if not labels[n]] if neurons is None else list(neurons)
    if any(not 0 <= n < count for n in wanted):
        raise ReadingError(f"suggestions are asked for neurons {wanted}; the map has 0..{count - 1}")
    match = _compared(som, labelled, rotations, flip, side)
    likeness = _likeness(match.distance, labelled)
    table = neighbours(som.lattice)
    found: list[Suggestion] = []
    for neuron in wanted:
        order = np.argsort(-likeness[:, neuron], kind="stable")
        order = order[labelled[order] != neuron][:voters]
        near = adjacent(table, labelled[order], np.full(len(order), neuron))
        like = [
            Likeness(int(labelled[row]), float(likeness[row, neuron]), bool(is_near), int(match.transform[row, neuron]))
            for row, is_near in zip(order, near, strict=True)
        ]
        found += [one for one in _voted(neuron, like, labels) if one.score >= least_score]
    return sorted(found, key=lambda one: (-one.score, one.neuron, one.label))


def transferred_mask(mask: np.ndarray, t: int, *, rotations: int = 72, flip: bool = True) -> np.ndarray:
    """A mask (D, D) bool turned by transform ``t`` onto another neuron: where at least half of a pixel is covered.

    t, rotations, flip : of the `Likeness` and of the search that found it. ReadingError for a ``t`` that is none.
    """
    side = mask.shape[-1]
    geometry = Geometry.derive(side, rotations, flip, "circular", side)
    if not 0 <= t < geometry.transforms:
        raise ReadingError(f"transform {t} is none of the {geometry.transforms} of {rotations} rotations, flip {flip}")
    return transform(mask[None].astype(np.float32), t, geometry)[0] >= 0.5


def _compared(som: Som, labelled: np.ndarray, rotations: int, flip: bool, side: int | None) -> Match:
    """Labelled neurons (M) against all (N), on their central pixels."""
    inner = max(int(som.neuron_side / np.sqrt(2)), 2) if side is None else side
    if not 2 <= inner <= som.neuron_side:
        raise ReadingError(f"side is {inner} pixels; neurons of {som.neuron_side} pixels are compared on 2 or more")
    small = reduced(central(som.weights, inner), min(inner, MAX_SIDE))
    row = Som(small, Cartesian(len(small), 1))
    return best_match(small[labelled], row, rotations, flip, "circular", method="exact")


def _likeness(distance: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """(M, N) float64 from distances (M, N): 1 - d / median of the distances between different neurons, at least 0."""
    others = np.ones(distance.shape, bool)
    others[np.arange(len(labelled)), labelled] = False
    typical = float(np.median(distance[others])) if others.any() else 0.0
    if not typical > 0:
        return (distance == 0).astype(np.float64)
    return np.clip(1 - distance / typical, 0, None).astype(np.float64)


def _voted(neuron: int, like: Sequence[Likeness], labels: Sequence[Sequence[str]]) -> list[Suggestion]:
    votes = [one.likeness * (1.0 if one.adjacent else 0.5) for one in like]
    total = sum(votes)
    if total == 0:
        return []
    found = []
    for label in sorted({label for one in like for label in labels[one.neuron]}):
        chosen = [i for i, one in enumerate(like) if label in labels[one.neuron] and votes[i] > 0]
        if chosen:
            share = sum(votes[i] for i in chosen) / total
            score = share * max(votes[i] for i in chosen)
            found.append(Suggestion(neuron, label, score, tuple(like[i] for i in chosen)))
    return found

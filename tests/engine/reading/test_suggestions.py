"""Suggested labels: from what looks alike at any angle, with the reason; and masks turned along."""

import numpy as np
import pytest

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian
from skysom.engine.reading.suggestions import suggest_labels, transferred_mask
from skysom.engine.som import Som

SIDE = 29


def source(kind, angle_deg):
    """A single blob off the centre, or a double, turned by an angle."""
    rows, columns = (np.indices((SIDE, SIDE)) - (SIDE - 1) / 2).astype(np.float64)
    turn = np.deg2rad(angle_deg)
    along, across = columns * np.cos(turn) + rows * np.sin(turn), rows * np.cos(turn) - columns * np.sin(turn)
    lobes = {"double": ((5, 1.0), (-5, 0.6)), "single": ((0, 1.2),)}[kind]
    return sum(peak * np.exp(-((along - at) ** 2 + across**2) / 6) for at, peak in lobes)


@pytest.fixture(scope="module")
def som():
    """A 4 x 4 map: doubles in the first two rows, singles in the others, each at its own angle."""
    rng = np.random.default_rng(2)
    images = [source("double" if n < 8 else "single", 23.0 * n) for n in range(16)]
    weights = np.stack(images)[:, None] + rng.normal(0, 0.01, (16, 1, SIDE, SIDE))
    return Som(weights.astype(np.float32), Cartesian(4, 4))


def test_what_looks_alike_at_another_angle_is_suggested(som):
    labels = [()] * 16
    labels[0], labels[5], labels[10] = ("double",), ("double", "bright"), ("single",)
    found = suggest_labels(som, labels)
    best = {}
    for one in found:
        best.setdefault(one.neuron, one.label)
    assert best == {n: "double" if n < 8 else "single" for n in range(16) if not labels[n]}
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(0.1 <= one.score <= 1 for one in found)
    for one in found:
        assert all(one.label in labels[like.neuron] for like in one.because)
        assert [like.likeness for like in one.because] == sorted((k.likeness for k in one.because), reverse=True)
    by_one = next(one for one in found if one.neuron == 1 and one.label == "double")
    assert {like.neuron: like.adjacent for like in by_one.because} == {0: True, 5: True}


def test_a_neuron_that_disagrees_with_its_like_is_found(som):
    labels = [("double",) if n < 8 else ("single",) for n in range(16)]
    labels[2] = ("single",)
    found = suggest_labels(som, labels, neurons=range(16))
    assert {one.neuron for one in found if one.score > 0.5 and one.label not in labels[one.neuron]} == {2}


def test_a_mask_is_turned_onto_the_neuron_that_is_alike(som):
    labels = [()] * 16
    labels[0] = ("double",)
    like = next(one for one in suggest_labels(som, labels, least_score=0.0) if one.neuron == 5).because[0]
    masks = som.weights[:, 0] > 0.1
    assert np.count_nonzero(transferred_mask(masks[0], like.transform) != masks[5]) <= 0.15 * masks[5].sum()
    assert np.count_nonzero(masks[0] != masks[5]) > 0.5 * masks[5].sum()
    with pytest.raises(ReadingError, match="transform 144"):
        transferred_mask(masks[0], 144)


def test_what_cannot_be_suggested_is_refused(som):
    with pytest.raises(ReadingError, match="0 neurons have labels"):
        suggest_labels(som, [()] * 16)
    with pytest.raises(ReadingError, match="3 neurons, the map has 16"):
        suggest_labels(som, [("a",)] * 3)
    with pytest.raises(ReadingError, match=r"0\.\.15"):
        suggest_labels(som, [("a",)] * 16, neurons=[16])
    with pytest.raises(ReadingError, match="side is 30"):
        suggest_labels(som, [("a",)] * 16, side=30)


def test_equal_neurons_are_alike_and_nothing_else():
    weights = np.zeros((3, 1, 9, 9), np.float32)
    weights[2, 0, 4, 4] = 1
    found = suggest_labels(Som(weights, Cartesian(3, 1)), [("empty",), (), ()])
    assert [(one.neuron, one.label) for one in found] == [(1, "empty")]

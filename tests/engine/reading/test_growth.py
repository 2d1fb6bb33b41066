"""The rule of growing: wide neurons of enough members, and lattices that fit their members."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian, Hexagonal
from skysom.engine.reading.dispersion import neuron_distances
from skysom.engine.reading.growth import child_lattice, neurons_to_grow


def test_wide_neurons_of_enough_members_grow():
    members, mean = np.array([3, 2, 3, 1, 0]), np.array([1, 9, 4, 1, np.nan])  # of all sources: 34 / 9
    assert neurons_to_grow(members, mean, 1.0, 1).tolist() == [1, 2]
    assert neurons_to_grow(members, mean, 1.0, 3).tolist() == [2]
    assert neurons_to_grow(members, mean, 2.0, 1).tolist() == [1]
    assert neurons_to_grow(members, mean, 5.0, 1).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 10)), min_size=1, max_size=40), st.floats(0.1, 3))
def test_the_rule_holds_for_every_neuron(sources, tau):
    bmu, distance = np.array([s[0] for s in sources]), np.array([s[1] for s in sources], np.float32)
    found = neuron_distances(bmu, distance, 6)
    grown = neurons_to_grow(found.hits, found.mean, tau, 2)
    for neuron in range(6):
        own = distance[bmu == neuron].astype(float)
        wide = len(own) >= 2 and own.mean() > tau * distance.mean(dtype=float)
        near = len(own) and np.isclose(own.mean(), tau * distance.mean(dtype=float))
        assert (neuron in grown) == wide or near
    assert set(neurons_to_grow(found.hits, found.mean, tau * 1.5, 2)) <= set(grown)


@given(st.integers(0, 10**7), st.integers(1, 200), st.integers(2, 40), st.integers(2, 40))
def test_a_child_is_no_larger_than_its_parent_and_has_members_enough(members, each, width, height):
    for parent in (Cartesian(width, height), Hexagonal(2 * width + 1, periodic=True)):
        child = child_lattice(parent, members, each)
        assert child.kind == parent.kind
        assert child.periodic == parent.periodic
        smallest = 4 if child.kind == "cartesian" else 7
        assert child.size <= max(members / each, smallest)
        assert child.width <= max(parent.width, parent.height)
    assert child_lattice(Cartesian(10, 10), 500).shape == (5, 5)
    assert child_lattice(Hexagonal(9), 20 * 19).size == 19


def test_what_does_not_fit_is_refused():
    one = np.array([1])
    for members, mean in ((one, [1.0, 2.0]), ([0], [np.nan])):
        with pytest.raises(ReadingError, match="give both of every neuron"):
            neurons_to_grow(np.array(members), np.array(mean), 1, 1)
    for tau, least in ((0, 1), (np.nan, 1), (1, 0)):
        with pytest.raises(ReadingError, match="give numbers above 0"):
            neurons_to_grow(one, one, tau, least)

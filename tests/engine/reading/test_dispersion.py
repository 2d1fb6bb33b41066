"""Distances of the members of neurons, the edge of a map, and advice on its size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian, Hexagonal
from skysom.engine.reading.dispersion import NeuronDistances, edge_neurons, neuron_distances, size_advice


@given(st.integers(0, 50), st.integers(1, 6))
def test_statistics_are_those_of_the_members(rows, neurons):
    rng = np.random.default_rng(rows)
    bmu = rng.integers(-1, neurons, rows).astype(np.int32)
    distance = rng.random(rows).astype(np.float32)
    distance[rng.random(rows) < 0.1] = np.nan
    found = neuron_distances(bmu, distance, neurons)
    for n in range(neurons):
        own = distance[(bmu == n) & np.isfinite(distance)].astype(np.float64)
        assert found.hits[n] == len(own)
        expected = [own.mean(), np.median(own), own.std()] if len(own) else [np.nan] * 3
        np.testing.assert_allclose([found.mean[n], found.median[n], found.std[n]], expected, rtol=1e-12, atol=1e-15)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ReadingError, match=r"\(3,\).*\(2,\)"):
        neuron_distances(np.zeros(3, int), np.zeros(2), 4)


def test_the_edge_of_every_lattice():
    assert edge_neurons(Cartesian(4, 3)).reshape(4, 3).astype(int).tolist() == [
        [1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1],
    ]  # fmt: skip
    assert edge_neurons(Cartesian(5)).astype(int).tolist() == [1, 0, 0, 0, 1]
    assert edge_neurons(Cartesian(3, 3, 3)).sum() == 26
    assert edge_neurons(Hexagonal(5)).sum() == 12
    assert edge_neurons(Hexagonal(1)).all()
    assert not edge_neurons(Cartesian(4, 4, periodic=True)).any()
    assert not edge_neurons(Hexagonal(5, periodic=True)).any()


def with_edge(hits=(50, 50), spread=(1.0, 1.0), side=6, *, empty=0):
    """Statistics of a square map by the values of its (edge, centre) neurons, with empty ones in the centre."""
    edge = edge_neurons(Cartesian(side, side))
    count = np.where(edge, *hits)
    count[np.flatnonzero(~edge)[:empty]] = 0
    std = np.where(count > 0, np.where(edge, *spread), np.nan)
    return NeuronDistances(count, np.where(count > 0, 3.0, np.nan), np.where(count > 0, 2.0, np.nan), std)


@pytest.mark.parametrize(
    ("distances", "verdict", "says"),
    [
        (with_edge(), "keep", "suits"),
        (with_edge(hits=(90, 50)), "larger", "1.8 times the sources"),
        (with_edge(spread=(1.5, 1.0)), "larger", "1.5 times as much"),
        (with_edge(hits=(90, 50), spread=(1.5, 1.0)), "larger", "sources of others and distances"),
        (with_edge(empty=9), "smaller", "25% of the neurons"),
        (with_edge(hits=(90, 90), spread=(2.0, 1.0), empty=9), "mixed", "ordered"),
        (with_edge(hits=(5, 5)), "unknown", "5.0 sources"),
    ],
)
def test_advice_on_the_size(distances, verdict, says):
    found = size_advice(Cartesian(6, 6), distances)
    assert found.verdict == verdict
    assert says in found.sentence


def test_advice_on_a_periodic_map_looks_at_empty_neurons_alone():
    lattice = Cartesian(6, 6, periodic=True)
    kept = size_advice(lattice, with_edge(hits=(90, 50), spread=(2.0, 1.0)))
    assert kept.verdict == "keep"
    assert "periodic" in kept.sentence
    assert np.isnan(kept.edge_hits)
    assert size_advice(lattice, with_edge(empty=12)).verdict == "smaller"


def test_neurons_that_were_left_out_are_not_empty():
    distances = with_edge(empty=9)
    assert size_advice(Cartesian(6, 6), distances, excluded=distances.hits == 0).verdict == "keep"
    few = with_edge(hits=(50, 5), spread=(1.0, 9.0))
    assert np.isnan(size_advice(Cartesian(6, 6), few).centre_spread)

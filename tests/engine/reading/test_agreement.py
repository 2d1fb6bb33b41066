"""Neighbours of every lattice, coherence as pyink counts it, ambiguous neurons, the errors of a map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian, Hexagonal
from skysom.engine.reading.agreement import AgreementSums, adjacent, agreement, neighbours
from skysom.engine.reading.units import best_units, excluded_mask
from skysom.storage import pinkfile

sides = st.integers(1, 5)
lattices = st.one_of(
    st.builds(Cartesian, sides, sides, st.integers(1, 3), st.booleans()),
    st.builds(lambda r, p: Hexagonal(2 * r + 1, periodic=p), st.integers(0, 3), st.booleans()),
)


@pytest.mark.parametrize("folder", ["", "single_channel/"])
def test_coherence_is_that_of_pyink(shared, folder):
    arrays = np.load(shared(f"goldens/pyink/{folder}mapping.npz"))
    found = pinkfile.open_map(shared(f"goldens/pyink/{folder}map.bin"))
    distance, lattice = found.read(0, found.count), Cartesian(*found.som_dims[:2])
    whole = agreement(*best_units(distance, 2), lattice)
    assert whole.coherence == arrays["coherence"]
    assert whole.topographic_error == pytest.approx(1 - arrays["coherence"] / found.count)
    assert whole.quantisation_error == pytest.approx(arrays["bmu_ed"].mean(dtype=np.float64))
    even = agreement(*best_units(distance[::2], 2), lattice)
    assert even.coherence == arrays["coherence_even"]
    excluded = excluded_mask(lattice.size, ~arrays["bmu_mask"].ravel())
    masked = agreement(*best_units(distance, 2, excluded=excluded), lattice)
    assert masked.coherence == arrays["coherence_masked_intended"]


@given(lattices)
def test_neighbours_are_those_one_step_away(lattice):
    table = neighbours(lattice)
    apart = np.abs(lattice.positions()[:, None] - lattice.positions()[None])
    if isinstance(lattice, Hexagonal):
        expected = lattice.distances() == 1
    else:
        if lattice.periodic:
            apart = np.minimum(apart, np.array([lattice.width, lattice.height, lattice.depth]) - apart)
        expected = apart.max(axis=2) == 1
    for n, row in enumerate(table):
        assert row[row >= 0].tolist() == np.flatnonzero(expected[n]).tolist()
        assert (np.diff((row >= 0).astype(int)) <= 0).all()
    first, second = (a.ravel() for a in np.indices(expected.shape))
    assert np.array_equal(adjacent(table, first, second), expected.ravel())
    none = np.full(len(first), -1)
    assert not adjacent(table, first, none).any()
    assert not adjacent(table, none, second).any()


def test_coherence_reaches_across_the_edges_of_a_periodic_map():
    neuron, distance = np.array([[0, 3], [0, 1], [1, 3]]), np.array([[1, 2], [1, 2], [1, 2]], np.float32)
    assert agreement(neuron, distance, Cartesian(1, 4)).coherent.tolist() == [1, 0, 0, 0]
    assert agreement(neuron, distance, Cartesian(1, 4, periodic=True)).coherent.tolist() == [2, 0, 0, 0]


def test_diagonals_are_neighbours_on_a_square_lattice_and_not_on_a_hexagonal_one():
    distance = np.array([[1.0, 2.0]], np.float32)
    assert agreement(np.array([[0, 4]]), distance, Cartesian(3, 3)).coherence == 1
    hexagon = Hexagonal(3)  # rows 1-2, 0-2, 0-1 of axial columns
    place = {tuple(p): n for n, p in enumerate(hexagon.positions()[:, :2].tolist())}
    assert agreement(np.array([[place[0, 1], place[1, 0]]]), distance, hexagon).coherence == 1
    assert agreement(np.array([[place[0, 1], place[1, 2]]]), distance, hexagon).coherence == 0


@given(lattices, st.integers(0, 40), st.integers(1, 5))
def test_blocks_add_up_to_the_whole_and_follow_the_definition(lattice, rows, pieces):
    rng = np.random.default_rng(rows)
    distance = rng.integers(0, 6, (rows, lattice.size)).astype(np.float32)
    distance[rng.random(rows) < 0.2] = np.nan
    neuron, best = best_units(distance, 2)
    whole = agreement(neuron, best, lattice, close_margin=0.3)
    sums = AgreementSums(lattice, close_margin=0.3)
    for part in np.array_split(np.arange(rows), pieces):
        sums.update(neuron[part], best[part])
    streamed = sums.result()
    table = neighbours(lattice)
    coherent = adjacent(table, neuron[:, 0], neuron[:, 1])
    close = (best[:, 1] - best[:, 0] <= 0.3 * best[:, 0].astype(float)) & (neuron[:, 1] >= 0)
    expected = {
        "hits": neuron[:, 0] >= 0,
        "decided": neuron[:, 1] >= 0,
        "coherent": coherent,
        "close": close,
        "ambiguous": (neuron[:, 1] >= 0) & (close | ~coherent),
    }
    for name, which in expected.items():
        counts = np.bincount(neuron[which, 0], minlength=lattice.size)
        assert np.array_equal(getattr(whole, name), counts), name
        assert np.array_equal(getattr(streamed, name), counts), name
    assert streamed.unmapped == whole.unmapped == int((neuron[:, 0] < 0).sum())
    assert streamed.quantisation_error == pytest.approx(whole.quantisation_error, nan_ok=True)
    if whole.mapped:
        assert whole.quantisation_error == pytest.approx(np.nanmean(best[:, 0].astype(float)))


def test_rows_without_two_neurons_are_left_out_of_the_topographic_error():
    neuron = np.array([[0, 1], [0, 2], [1, -1], [-1, -1]])
    distance = np.array([[1, 2], [1, 2], [3, np.nan], [np.nan, np.nan]], np.float32)
    found = agreement(neuron, distance, Cartesian(1, 3))
    assert (found.mapped, found.unmapped, found.coherence) == (3, 1, 1)
    assert found.topographic_error == 0.5
    np.testing.assert_array_equal(found.coherent_share, [0.5, np.nan, np.nan])
    only = agreement(neuron[:, :1], distance[:, :1], Cartesian(1, 3))
    assert np.isnan(only.topographic_error)
    assert only.quantisation_error == pytest.approx(5 / 3)
    assert np.isnan(agreement(neuron[3:], distance[3:], Cartesian(1, 3)).quantisation_error)


def test_a_neuron_is_ambiguous_where_half_of_enough_members_are():
    neuron = np.array([[0, 1]] * 5 + [[0, 2]] * 5 + [[1, 0]] * 9 + [[2, 1]] * 10)
    distance = np.full(neuron.shape, [1.0, 1.5], np.float32)
    distance[-10:] = [1.0, 1.004]
    found = agreement(neuron, distance, Cartesian(1, 3))
    assert found.ambiguous_neurons().tolist() == [0, 2]
    assert found.ambiguous_neurons(share=0.6).tolist() == [2]
    assert found.ambiguous_neurons(fewest=11).tolist() == []
    assert found.close.tolist() == [0, 0, 10]
    np.testing.assert_array_equal(found.ambiguous_share, [0.5, 0, 1])


def test_a_margin_of_nothing_is_a_tie():
    neuron, distance = np.array([[0, 1], [0, 1], [0, 1]]), np.array([[0, 0], [0, 1], [2, 2]], np.float32)
    assert agreement(neuron, distance, Cartesian(2), close_margin=0).close.tolist() == [2, 0]


def test_units_of_another_map_are_refused():
    with pytest.raises(ReadingError, match=r"neuron 9.*4 neurons"):
        agreement(np.array([[9, 1]]), np.ones((1, 2), np.float32), Cartesian(2, 2))
    with pytest.raises(ReadingError, match=r"\(1, 2\).*\(2, 2\)"):
        agreement(np.array([[0, 1]]), np.ones((2, 2), np.float32), Cartesian(2, 2))
    with pytest.raises(ReadingError, match="-1"):
        AgreementSums(Cartesian(2), close_margin=-1)

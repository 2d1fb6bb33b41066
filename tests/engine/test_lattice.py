import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Cartesian, Hexagonal
from skysom.engine.errors import LatticeError
from skysom.engine.lattice import hexagonal_width, lattice_from_dict, lattice_to_dict

sides = st.integers(1, 5)
lattices = st.one_of(
    st.builds(Cartesian, sides, sides, st.integers(1, 3), st.booleans()),
    st.builds(Hexagonal, st.sampled_from([1, 3, 5, 7]), st.booleans()),
)


def neighbours(lattice, neuron):
    return set(np.flatnonzero(lattice.distances()[neuron] == 1).tolist())


def test_cartesian_index_order_is_row_major_with_depth_slowest():
    assert Cartesian(4, 3).positions()[7].tolist() == [2, 1, 0]
    deep = Cartesian(2, 3, 4)
    assert deep.size == 24
    assert deep.shape == (2, 3, 4)
    assert deep.positions()[1 * 6 + 1 * 3 + 2].tolist() == [1, 2, 1]


def test_shapes_and_ranks():
    assert [Cartesian(5).rank, Cartesian(5, 2).rank, Cartesian(5, 1, 2).rank] == [1, 2, 3]
    assert Hexagonal(5).rank == 2


def test_known_neighbours():
    assert neighbours(Cartesian(4, 3), 0) == {1, 3}
    assert neighbours(Cartesian(4, 3), 4) == {1, 3, 5, 7}
    assert neighbours(Cartesian(4, 3, periodic=True), 0) == {1, 2, 3, 9}
    assert neighbours(Cartesian(5, periodic=True), 0) == {1, 4}
    assert neighbours(Cartesian(2, 2, 2), 0) == {1, 2, 4}
    # Rows of 3, 4, 5, 4, 3 cells; 9 is the centre.
    assert neighbours(Hexagonal(5), 0) == {1, 3, 4}
    assert neighbours(Hexagonal(5), 9) == {4, 5, 8, 10, 13, 14}


def test_cartesian_distances_are_euclidean():
    distances = Cartesian(4, 3).distances()
    assert distances[0, 11] == np.float32(np.hypot(3, 2))
    assert Cartesian(10, 10, periodic=True).distances()[0, 99] == np.float32(np.sqrt(2))


def test_hexagonal_cells():
    positions = Hexagonal(5).positions()
    assert positions[:, 0].tolist() == [0] * 3 + [1] * 4 + [2] * 5 + [3] * 4 + [4] * 3
    assert positions[:3, 1].tolist() == [2, 3, 4]
    assert positions[-3:, 1].tolist() == [0, 1, 2]
    assert Hexagonal(5).distances().max() == 4


@pytest.mark.parametrize("width", [3, 5, 7, 9])
def test_periodic_hexagon_has_no_edge(width):
    distances = Hexagonal(width, periodic=True).distances()
    assert (distances == 1).sum(axis=1).tolist() == [6] * len(distances)
    # Every neuron sees the same map: equal numbers of neurons at every distance.
    assert len({tuple(np.sort(row)) for row in distances}) == 1
    assert distances.max() == width // 2


@given(lattices)
def test_distances_are_a_metric(lattice):
    d = lattice.distances()
    assert d.shape == (lattice.size, lattice.size)
    assert d.dtype == np.float32
    assert np.array_equal(d, d.T)
    assert (np.diag(d) == 0).all()
    assert (d + np.eye(len(d)) > 0).all()
    assert (d[:, None, :] <= d[:, :, None] + d[None, :, :] + 1e-5).all()


@given(lattices)
def test_periodic_is_never_farther_and_dict_round_trip(lattice):
    values = lattice_to_dict(lattice)
    assert lattice_from_dict(values) == lattice
    wrapped = lattice_from_dict({**values, "periodic": True})
    flat = lattice_from_dict({**values, "periodic": False})
    assert (wrapped.distances() <= flat.distances()).all()


def test_hexagonal_width_of_a_number_of_neurons():
    assert [hexagonal_width(Hexagonal(w).size) for w in (1, 3, 5, 31)] == [1, 3, 5, 31]
    assert [hexagonal_width(n) for n in (0, 2, 18, 20)] == [None] * 4


def test_errors_name_the_values():
    with pytest.raises(LatticeError, match="odd width, got 4; use 5"):
        Hexagonal(4)
    with pytest.raises(LatticeError, match="-1"):
        Hexagonal(-1)
    with pytest.raises(LatticeError, match=r"\(3, 0, 1\)"):
        Cartesian(3, 0)
    with pytest.raises(LatticeError, match="torus"):
        lattice_from_dict({"kind": "torus"})

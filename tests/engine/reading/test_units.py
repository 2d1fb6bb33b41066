"""Best units, members and worst rows: pyink's arrays, plain NumPy, and blocks against the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian
from skysom.engine.reading.units import (
    Extremes,
    best_units,
    excluded_mask,
    hit_counts,
    keep_best,
    members,
    nth_best,
    spread_kept,
    worst_rows,
)
from skysom.storage import pinkfile

SETS = ["", "single_channel/"]


@pytest.fixture(params=SETS, ids=["two channels", "one channel"])
def golden(request, shared):
    """Distances (n, N), the lattice, and pyink's arrays of one set."""
    folder = shared(f"goldens/pyink/{request.param}mapping.npz").parent
    found = pinkfile.open_map(folder / "map.bin")
    width, height, *_ = found.som_dims
    return found.read(0, found.count), Cartesian(width, height), np.load(folder / "mapping.npz")


def places(lattice, neuron):
    return lattice.positions()[neuron][:, :2]


def test_best_units_are_those_of_pyink(golden):
    distance, lattice, arrays = golden
    for rank, name in enumerate(("bmu", "bmu_N1", "bmu_N2")):
        neuron, found = nth_best(distance, rank)
        assert np.array_equal(places(lattice, neuron), arrays[name])
        if rank < 2:
            assert np.array_equal(found, arrays["bmu_ed" if rank == 0 else "bmu_ed_N1"])
    bmu, best = best_units(distance)
    numbered = np.column_stack([np.arange(len(bmu)), places(lattice, bmu[:, 0])])
    assert np.array_equal(numbered[: len(arrays["bmu_return_idx"])], arrays["bmu_return_idx"])
    assert np.array_equal(places(lattice, bmu[5])[0], arrays["bmu_of_5"])
    assert np.array_equal(best[5], arrays["bmu_ed_of_5"])


def test_counts_members_and_worst_rows_are_those_of_pyink(golden):
    distance, lattice, arrays = golden
    bmu, best = nth_best(distance, 0)
    counts = hit_counts(bmu, lattice.size)
    assert np.array_equal(counts.reshape(arrays["bmu_counts"].shape), arrays["bmu_counts"])
    row, column = arrays["neuron_of_interest"]
    neuron = int(row * lattice.height + column)
    own = members(bmu, lattice.size)
    assert np.array_equal(own.of(neuron), arrays["images_with_bmu"])
    assert np.array_equal(own.hits, counts)
    worst = worst_rows(best, count=10)
    assert np.array_equal(worst, arrays["worst_matches_N10"])
    assert np.array_equal(best[worst], arrays["worst_matches_N10_ed"])
    assert np.array_equal(worst_rows(best, fraction=0.1), arrays["worst_matches_frac0.1"])
    # In a neuron pyink numbers its members; rows of the survey are what it should have said.
    inside = worst_rows(best, count=3, bmu=bmu, neuron=neuron)
    assert np.array_equal(inside, arrays["worst_matches_neuron_N3_global"])
    assert np.array_equal(np.searchsorted(own.of(neuron), inside), arrays["worst_matches_neuron_N3_raw"])


def test_masked_neurons_are_left_out_as_pyink_intended(golden):
    distance, lattice, arrays = golden
    excluded = excluded_mask(lattice.size, ~arrays["bmu_mask"].ravel())
    neuron, best = best_units(distance, 2, excluded=excluded)
    assert np.array_equal(places(lattice, neuron[:, 0]), arrays["bmu_masked_intended"])
    assert np.array_equal(best[:, 0], arrays["bmu_ed_masked_intended"])
    assert np.array_equal(places(lattice, neuron[:, 1]), arrays["bmu_N1_masked_intended"])


def test_no_array_of_pyink_is_forgotten(golden):
    """Those of coherence and labels are compared in test_agreement and test_labels."""
    names = "bmu bmu_N1 bmu_N2 bmu_ed bmu_ed_N1 bmu_return_idx bmu_of_5 bmu_ed_of_5 bmu_counts images_with_bmu"
    names += " worst_matches_N10 worst_matches_N10_ed worst_matches_frac0.1 worst_matches_neuron_N3_raw"
    names += " worst_matches_neuron_N3_global neuron_of_interest bmu_mask bmu_masked_intended bmu_ed_masked_intended"
    names += " bmu_N1_masked_intended coherence coherence_even coherence_masked_intended"
    names += " map_labels_input map_labels_A map_labels_B map_labels_C"
    assert set(golden[2].files) == set(names.split())


def test_rows_and_columns_of_a_map_that_is_not_square(shared):
    """The first lattice index counts to the width: 4 x 2 is an array of shape (4, 2)."""
    found = pinkfile.open_map(shared("goldens/pink/15_nonsquare_4x2/map.bin"))
    assert tuple(found.som_dims) == (4, 2)
    distance = found.read(0, found.count)
    lattice = Cartesian(4, 2)
    bmu = nth_best(distance, 0)[0]
    expected = [np.unravel_index(np.argmin(row), (4, 2)) for row in distance.reshape(-1, 4, 2)]
    assert np.array_equal(places(lattice, bmu), expected)
    assert hit_counts(bmu, 8).reshape(4, 2).sum() == found.count


def plain_units(distance, count, excluded):
    """The definition, row by row."""
    away = np.where(np.isfinite(distance), distance, np.inf)
    away = np.where(excluded, np.inf, away)
    order = np.argsort(away, axis=1, kind="stable")
    found = np.take_along_axis(away, order, axis=1)
    order = np.where(np.isinf(found), -1, order)
    pad = max(count - distance.shape[1], 0)
    order, found = np.pad(order, ((0, 0), (0, pad)), constant_values=-1), np.pad(found, ((0, 0), (0, pad)))
    return order[:, :count], np.where(order < 0, np.nan, found)[:, :count]


distances = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([np.float32(x) for x in (0, 0.5, 1, 1.5, 2, 3, np.nan, np.inf)]),
)


@given(distances, st.integers(1, 10), st.randoms(use_true_random=False))
def test_best_units_against_the_definition(distance, count, random):
    neurons = distance.shape[1]
    excluded = np.array([random.random() < 0.3 for _ in range(neurons)])
    expected = plain_units(distance, count, excluded)
    neuron, found = best_units(distance, count, excluded=excluded)
    assert np.array_equal(neuron, expected[0])
    np.testing.assert_array_equal(found, expected[1])
    # The same neurons kept in any order of their own, as a mapping of the best few holds them.
    order = np.array([random.sample(range(neurons), neurons) for _ in distance])
    kept = np.take_along_axis(distance, order, axis=1)
    other, best = best_units(kept, count, neuron=order, excluded=excluded)
    assert np.array_equal(other, expected[0])
    np.testing.assert_array_equal(best, expected[1])


@given(distances, st.integers(1, 9))
def test_kept_neurons_say_what_all_say(distance, count):
    neurons = distance.shape[1]
    keep = min(count, neurons)
    neuron, kept = keep_best(distance, keep)
    assert neuron.dtype == np.int32
    whole = best_units(distance, keep)
    for found, expected in zip(best_units(kept, keep, neuron=neuron), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
    spread = spread_kept(kept, neuron, neurons)
    mapped = np.isfinite(distance).any(axis=1)
    assert np.isnan(spread[~mapped]).all()
    for found, expected in zip(best_units(spread, keep), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_row_whose_kept_neurons_are_all_left_out_has_none():
    neuron, kept = np.array([[2, 0], [1, 0]], np.int32), np.array([[1, 2], [3, 4]], np.float32)
    excluded = excluded_mask(3, [0, 2])
    found, distance = best_units(kept, 2, neuron=neuron, excluded=excluded)
    assert found.tolist() == [[-1, -1], [1, -1]]
    np.testing.assert_array_equal(distance, [[np.nan, np.nan], [3, np.nan]])


bmus = hnp.arrays(np.int32, st.integers(0, 40), elements=st.integers(-1, 6))


@given(bmus)
def test_members_are_the_rows_of_each_neuron(bmu):
    own = members(bmu, 7)
    for neuron in range(7):
        assert np.array_equal(own.of(neuron), np.flatnonzero(bmu == neuron))
    assert np.array_equal(hit_counts(bmu, 7), own.hits)
    halves = np.array_split(bmu, 3)
    assert np.array_equal(sum(hit_counts(part, 7) for part in halves), own.hits)


values = hnp.arrays(
    np.float32, st.integers(0, 60), elements=st.sampled_from([np.float32(x) for x in (0, 1, 2, 3, 4, np.nan)])
)


@given(values, st.integers(1, 70), st.integers(1, 9), st.booleans())
def test_extremes_of_blocks_are_those_of_the_whole(value, count, pieces, largest):
    kept = Extremes(count, largest=largest)
    blocks = np.array_split(np.arange(len(value)), pieces)
    for which in np.random.default_rng(pieces).permutation(pieces):
        kept.update(blocks[which], value[blocks[which]])
    finite = np.flatnonzero(np.isfinite(value))
    expected = finite[np.argsort(-value[finite] if largest else value[finite], kind="stable")][:count]
    assert np.array_equal(kept.rows, expected)
    np.testing.assert_array_equal(kept.values, value[expected])


def test_worst_rows_without_a_number_are_all_and_a_share_is_of_the_rows_considered():
    distance = np.array([1, 5, np.nan, 3, 4, 2], np.float32)
    bmu = np.array([0, 1, -1, 1, 0, 1])
    assert worst_rows(distance).tolist() == [1, 4, 3, 5, 0]
    assert worst_rows(distance, bmu=bmu, neuron=1).tolist() == [1, 3, 5]
    assert worst_rows(distance, fraction=0.67, bmu=bmu, neuron=1).tolist() == [1, 3]
    assert worst_rows(distance, fraction=0.01).tolist() == [1]
    assert worst_rows(distance, count=9).tolist() == worst_rows(distance).tolist()
    assert worst_rows(np.full(3, np.nan, np.float32), count=2).size == 0
    assert len(worst_rows(np.arange(100, dtype=np.float32), fraction=0.29)) == 29


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: best_units(np.zeros((2, 3)), 0), "0 best neurons"),
        (lambda: best_units(np.zeros(3)), r"shape \(3,\)"),
        (lambda: best_units(np.zeros((2, 3)), neuron=np.zeros((2, 2), int)), r"\(2, 3\).*\(2, 2\)"),
        (lambda: best_units(np.zeros((2, 3)), excluded=np.zeros(4, bool)), r"\(4,\).*\(3,\)"),
        (lambda: best_units(np.zeros((2, 3)), excluded=np.zeros(3)), "float64"),
        (lambda: best_units(np.zeros((1, 1)), neuron=np.array([[7]]), excluded=np.zeros(4, bool)), "neuron 7.*of 4"),
        (lambda: nth_best(np.zeros((2, 3)), -1), "rank -1"),
        (lambda: excluded_mask(4, [4]), r"\[4\].*0 to 3"),
        (lambda: excluded_mask(4, [-1]), r"\[-1\]"),
        (lambda: excluded_mask(4, np.zeros(3, bool)), r"\(3,\).*\(4,\)"),
        (lambda: excluded_mask(4, np.zeros((2, 2), bool)), r"\(2, 2\)"),
        (lambda: excluded_mask(2, [0, 1]), "all 2 neurons"),
        (lambda: keep_best(np.zeros((2, 3)), 4), "4 neurons"),
        (lambda: spread_kept(np.zeros((1, 1)), np.array([[3]]), 3), "reach 3"),
        (lambda: hit_counts(np.array([3]), 3), "neuron 3.*3 neurons"),
        (lambda: members(np.array([0]), 1).of(1), "neuron 1.*0 to 0"),
        (lambda: Extremes(0), "0 rows"),
        (lambda: worst_rows(np.zeros(3), count=1, fraction=0.5), "both"),
        (lambda: worst_rows(np.zeros(3), count=0), "0 rows"),
        (lambda: worst_rows(np.zeros(3), fraction=1.5), "1.5"),
        (lambda: worst_rows(np.zeros(3), neuron=1), "neuron 1.*best units"),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ReadingError, match=says):
        call()


def test_an_empty_choice_of_neurons_is_no_mask():
    assert excluded_mask(4, None) is None
    assert excluded_mask(4, []) is None
    assert excluded_mask(4, np.zeros(4, bool)) is None

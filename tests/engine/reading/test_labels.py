"""Labels on a map: pyink's counts, purity and entropy, majorities, and back to sources."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian
from skysom.engine.reading.labels import (
    LabelSums,
    encode_labels,
    label_counts,
    majority_labels,
    neuron_values,
    transfer,
)
from skysom.engine.reading.units import best_units
from skysom.storage import pinkfile


@pytest.mark.parametrize("folder", ["", "single_channel/"])
def test_label_counts_are_those_of_pyink(shared, folder):
    arrays = np.load(shared(f"goldens/pyink/{folder}mapping.npz"))
    found = pinkfile.open_map(shared(f"goldens/pyink/{folder}map.bin"))
    bmu = best_units(found.read(0, found.count))[0][:, 0]
    counts = label_counts(bmu, arrays["map_labels_input"], found.neurons)
    assert counts.classes == ("A", "B", "C")
    for i, name in enumerate(counts.classes):
        golden = arrays[f"map_labels_{name}"]
        assert np.array_equal(counts.counts[:, i].reshape(golden.shape), golden)
    assert (counts.missing, counts.unmapped) == (0, 0)
    np.testing.assert_allclose(counts.normalised.sum(axis=0), 1)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_labels_are_left_out_and_counted(missing):
    labels = pd.Series(["b", missing, "a", "b", missing, "a"], dtype=object)
    counts = label_counts(np.array([0, 0, 0, 1, -1, -1]), labels, 3)
    assert counts.counts.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert (counts.missing, counts.unmapped) == (1, 1)
    assert counts.class_totals.tolist() == [1, 2]
    assert counts.labelled.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["x", "y", None], ["x", "y"]),
        (pd.array(["y", "x", None]), ["x", "y"]),
        (pd.Categorical(["y", "x", None]), ["x", "y"]),
        ([2.0, 1.0, np.nan], [1.0, 2.0]),
        (pd.array([2, 1, None], dtype="Int64"), [1, 2]),
        (pd.array([True, False, None]), [False, True]),
    ],
)
def test_labels_of_every_kind_are_numbered_in_order(labels, classes):
    codes, found = encode_labels(labels)
    assert found == classes
    assert [classes[code] for code in codes[:2]] == list(labels[:2])
    assert codes[2] == -1


@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_blocks_add_up_to_the_definition(rows, neurons, classes, pieces):
    rng = np.random.default_rng(rows)
    bmu, codes = rng.integers(-1, neurons, rows), rng.integers(-1, classes, rows)
    sums = LabelSums(neurons, range(classes))
    for part in np.array_split(np.arange(rows), pieces):
        sums.update(bmu[part], codes[part])
    found = sums.result()
    for n in range(neurons):
        own = codes[bmu == n]
        share = np.array([np.mean(own[own >= 0] == c) if (own >= 0).any() else np.nan for c in range(classes)])
        np.testing.assert_allclose(found.shares()[n], share)
        np.testing.assert_allclose(found.purity()[n], share.max())
        entropy = -sum(p * np.log2(p) for p in share if p > 0) if (own >= 0).any() else np.nan
        np.testing.assert_allclose(found.entropy_bits()[n], entropy, atol=1e-12)
    assert found.missing == int(((bmu >= 0) & (codes < 0)).sum())
    assert found.unmapped == int(((bmu < 0) & (codes >= 0)).sum())


def test_a_rare_class_counts_for_more_where_classes_are_normalised():
    bmu = np.array([0] * 6 + [1] * 6)
    labels = ["common"] * 4 + ["rare"] * 2 + ["common"] * 6
    counts = label_counts(bmu, labels, 3)
    assert majority_labels(counts).label.tolist() == ["common", "common", None]
    fair = majority_labels(counts, normalised=True)
    assert fair.label.tolist() == ["rare", "common", None]
    np.testing.assert_allclose(fair.share, [1 / (1 + 0.4), 1, np.nan])
    np.testing.assert_allclose(counts.normalised, [[0.4, 1], [0.6, 0], [0, 0]])


def test_a_neuron_with_few_labels_or_no_clear_majority_stays_undecided():
    counts = label_counts(np.array([0, 0, 0, 1, 2, 2]), ["a", "b", "a", "a", "b", "a"], 3)
    assert majority_labels(counts).label.tolist() == ["a", "a", "a"]  # of equals, the first
    assert majority_labels(counts, fewest=2).label.tolist() == ["a", None, "a"]
    assert majority_labels(counts, least_share=0.6).label.tolist() == ["a", "a", None]
    assert majority_labels(counts, fewest=2).count.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["a", None, "c"], "string"),
        ([1, None, 3], "Int64"),
        ([0.5, np.nan, 1.5], "Float64"),
        ([True, None, False], "boolean"),
    ],
)
def test_labels_of_neurons_reach_their_sources(values, dtype):
    column = transfer(np.array([2, -1, 0, 1]), values)
    assert pd.Series(column).isna().tolist() == [False, True, False, True]
    assert (column[0], column[2]) == (values[2], values[0])
    assert pd.array(column).dtype == pd.array(values, dtype=dtype).dtype


def test_undecided_neurons_give_nothing():
    assert pd.isna(transfer(np.array([0, -1]), [None])).all()
    assert len(transfer(np.array([], int), ["a"])) == 0


def test_a_table_of_neurons_by_number_or_by_place():
    lattice = Cartesian(3, 2)
    by_number = pd.DataFrame({"neuron": [5, 0], "label": ["last", None]})
    assert neuron_values(by_number, lattice, "label").tolist() == [None] * 5 + ["last"]
    by_place = pd.DataFrame({"row": [2, 0], "col": [1, 1], "p": [0.5, 0.25]})
    assert neuron_values(by_place, lattice, "p").tolist() == [None, 0.25, None, None, None, 0.5]
    deep = pd.DataFrame({"row": [1], "col": [0], "depth": [1], "label": ["x"]})
    assert neuron_values(deep, Cartesian(2, 2, 2), "label").tolist() == [None] * 6 + ["x", None]
    own = by_number.assign(som_sha256="abc")
    assert neuron_values(own, lattice, "label", som_sha256="abc")[5] == "last"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: label_counts(np.zeros(3, int), ["a", "b"], 1), "2 labels for 3 sources"),
        (lambda: label_counts(np.array([4]), ["a"], 3), "reach 4 of 3"),
        (lambda: label_counts(np.zeros(2, int), [None, None], 3), "all 2 labels are missing"),
        (lambda: label_counts(np.zeros(0, int), [], 3), "all 0 labels"),
        (lambda: majority_labels(label_counts(np.zeros(1, int), ["a"], 1), fewest=0), "at least 0"),
        (lambda: majority_labels(label_counts(np.zeros(1, int), ["a"], 1), least_share=2), "share of 2"),
        (lambda: transfer(np.array([3]), ["a", "b"]), "2 neurons are labelled, a source has neuron 3"),
        (lambda: neuron_values(pd.DataFrame({"neuron": [0]}), Cartesian(2), "label"), "no column 'label'"),
        (
            lambda: neuron_values(pd.DataFrame({"neuron": [7], "x": [1]}), Cartesian(2), "x"),
            r"neuron \(7,\).*2 neurons",
        ),
        (lambda: neuron_values(pd.DataFrame({"neuron": [1, 1], "x": [1, 2]}), Cartesian(2), "x"), "neuron 1 more"),
        (lambda: neuron_values(pd.DataFrame({"row": [0], "col": [5], "x": [1]}), Cartesian(2, 2), "x"), r"\(0, 5\)"),
        (  # of a map of 3 x 2
            lambda: neuron_values(
                pd.DataFrame({"neuron": [2], "row": [1], "col": [0], "x": [1]}), Cartesian(2, 3), "x"
            ),
            r"neuron, row, col \(2, 1, 0\).*not that one",
        ),
        (lambda: neuron_values(pd.DataFrame({"x": [1]}), Cartesian(2, 2), "x"), "give 'neuron'"),
        (lambda: neuron_values(pd.DataFrame({"row": [0], "col": [0], "x": [1]}), Cartesian(2, 2, 2), "x"), "depth"),
        (
            lambda: neuron_values(
                pd.DataFrame({"neuron": [0], "x": [1], "som_sha256": ["aa"]}), Cartesian(2), "x", som_sha256="bb"
            ),
            "hash aa, this map has bb",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ReadingError, match=says):
        call()

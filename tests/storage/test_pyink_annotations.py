"""The peer's annotation file: read as the goldens say, written so that a plain unpickler with its class reads it."""

import json
import os
import pickle
import sys
import types

import numpy as np
import pytest

from skysom.storage.annotation_set import AnnotationError
from skysom.storage.place import place
from skysom.storage.pyink_annotations import PyinkAnnotation, read_pyink_annotations, write_pyink_annotations

FOLDERS = ["goldens/pyink", "goldens/pyink/single_channel"]
PAIRS = (("Related Radio", 2), ("IR Host", 3), ("Sidelobe", 5))


@pytest.fixture
def peer(monkeypatch):
    """Return a stand-in for the peer's module: its class, with nothing in it."""
    package, module = types.ModuleType("pyink"), types.ModuleType("pyink.annotator")
    module.Annotation = type("Annotation", (), {"__module__": "pyink.annotator"})
    monkeypatch.setitem(sys.modules, "pyink", package)
    monkeypatch.setitem(sys.modules, "pyink.annotator", module)
    return module


def annotation(value=6, side=4, channels=2):
    values = np.zeros((side, side), np.int64)
    values[1, 2] = value
    neuron = np.arange(channels * side * side, dtype=np.float32).reshape(channels, side, side)
    return PyinkAnnotation(neuron, {0: values, channels - 1: values[::-1]}, PAIRS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_goldens_are_read(shared, folder):
    found = read_pyink_annotations(shared(f"{folder}/som.bin.results.pkl"))
    masks = np.load(shared(f"{folder}/annotation_masks.npz"))
    labels = json.loads(shared(f"{folder}/labels.json").read_text())
    assert [f"y{y}_x{x}" for y, x in found] == masks.files
    for (y, x), one in found.items():
        assert dict(one.labels) == labels
        expected = masks[f"y{y}_x{x}"]
        assert sorted(one.filters) == list(range(len(expected)))
        assert all(np.array_equal(one.filters[c], expected[c]) for c in one.filters)
        assert one.neuron.shape == expected.shape
        assert (one.clicks, one.lassos) == ({}, {})
    assert "pyink" not in sys.modules


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_written_is_read_here_and_by_the_unpickler(shared, folder, tmp_path, peer):
    found = read_pyink_annotations(shared(f"{folder}/som.bin.results.pkl"))
    path = tmp_path / "som.bin.results.pkl"
    write_pyink_annotations(path, found)
    again = read_pyink_annotations(path)
    with path.open("rb") as file:
        theirs = pickle.load(file)
    with shared(f"{folder}/som.bin.results.pkl").open("rb") as file:
        original = pickle.load(file)
    assert list(again) == list(theirs) == list(found) == list(original)
    for key, one in found.items():
        assert again[key].labels == one.labels
        assert type(theirs[key]) is peer.Annotation
        assert set(vars(theirs[key])) == set(vars(original[key]))
        assert theirs[key].labels == original[key].labels
        theirs[key].clicks[0].append([1, 2, 3, 4])  # as the peer goes on
        assert isinstance(theirs[key].lasso_filters[1], list)
        for neuron in (again[key].neuron, theirs[key].neuron):
            assert neuron.dtype == np.float32
            assert np.array_equal(neuron, original[key].neuron)
        for channel in original[key].filters:
            for filters in (again[key].filters, theirs[key].filters):
                assert filters[channel].dtype == np.int64
                assert np.array_equal(filters[channel], original[key].filters[channel])
                assert filters[channel].flags.writeable


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_files_of_other_python_and_numpy_versions_are_read(tmp_path, peer, protocol):
    made = peer.Annotation()
    vars(made).update(
        neuron=annotation().neuron,
        filters={np.int64(1): annotation().filters[0]},
        clicks={0: [[np.float64(1.5), 2, np.int64(6), 2.0]]},
        lasso_filters={0: [np.ones((4, 4))]},
        labels=list(PAIRS),
    )
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({(np.int64(0), np.int64(3)): made}, protocol))
    (key, found), *others = read_pyink_annotations(path).items()
    assert (key, others, found.labels) == ((0, 3), [], PAIRS)
    assert np.array_equal(found.filters[1], annotation().filters[0])
    assert found.clicks == {0: [[1.5, 2, 6, 2.0]]}
    assert np.array_equal(found.lassos[0][0], np.ones((4, 4)))


def changed(**values):
    state = {"neuron": annotation().neuron, "filters": {0: annotation().filters[0]}, "labels": list(PAIRS)}
    return {name: value for name, value in (state | values).items() if value is not None}


WRONG = {
    "no masks": (changed(filters=None), "lacks .'filters'"),
    "a mask of another size": (changed(filters={0: np.zeros((5, 5), int)}), r"shape \(5, 5\)"),
    "a mask of numbers that are not whole": (changed(filters={0: np.zeros((4, 4))}), "float64"),
    "a mask that is none": (changed(filters={0: [1]}), "type list"),
    "a channel that is not there": (changed(filters={2: np.zeros((4, 4), int)}), "channel 2.*2 channels"),
    "a channel with a name": (changed(filters={"a": np.zeros((4, 4), int)}), "channel 'a'"),
    "masks in a list": (changed(filters=[]), "no dictionary by channel"),
    "a neuron that is none": (changed(neuron=3), "no image"),
    "a neuron of integers": (changed(neuron=np.zeros((2, 4, 4), int)), "no image"),
    "labels twice": (changed(labels=[("a", 2), ("a", 3)]), "same name"),
    "primes twice": (changed(labels=[("a", 2), ("b", 2)]), "same prime"),
    "labels without primes": (changed(labels=["a"]), "names and primes"),
    "labels of another kind": (changed(labels=7), "names and primes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, peer, case):
    state, cause = WRONG[case]
    made = peer.Annotation()
    vars(made).update(state)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({(0, 3): made}))
    with pytest.raises(AnnotationError, match=rf"neuron \(0, 3\): .*{cause}"):
        read_pyink_annotations(tmp_path / "x.pkl")


def test_neurons_with_other_labels_are_refused(tmp_path):
    other = PyinkAnnotation(annotation().neuron, {}, PAIRS[:2])
    write_pyink_annotations(tmp_path / "x.pkl", {(0, 0): annotation(), (0, 1): other})
    with pytest.raises(AnnotationError, match="different lists of labels"):
        read_pyink_annotations(tmp_path / "x.pkl")


def test_no_file_large_files_and_other_pickles_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    for missing in (path, tmp_path):
        with pytest.raises(AnnotationError, match="no annotation file"):
            read_pyink_annotations(missing)
    for value, cause in (([1], "no dictionary"), ({"a": 1}, "pair of lattice indices"), ({(0, 1): 1}, "no annotation")):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(AnnotationError, match=cause):
            read_pyink_annotations(path)
    with pytest.raises(AnnotationError, match="more than the 10"):
        read_pyink_annotations(path, max_bytes=10)
    path.write_bytes(b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with pytest.raises(AnnotationError, match=r"nothing in it was executed: byte 0: it mentions 'os.system'"):
        read_pyink_annotations(path)


def test_truncated_goldens_are_refused(shared, tmp_path):
    whole = shared("goldens/pyink/single_channel/som.bin.results.pkl").read_bytes()
    for part in (0, 1, 5, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.pkl").write_bytes(whole[:part])
        with pytest.raises(AnnotationError, match="nothing in it was executed"):
            read_pyink_annotations(tmp_path / "x.pkl")


def test_files_in_an_object_store(s3):
    where = place(s3) / "x.pkl"
    write_pyink_annotations(where, {(1, 0): annotation()})
    (found,) = read_pyink_annotations(str(where)).values()
    assert np.array_equal(found.filters[1], annotation().filters[1])


def test_a_pipe_is_no_annotation_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AnnotationError, match="no annotation file"):
        read_pyink_annotations(tmp_path / "pipe")

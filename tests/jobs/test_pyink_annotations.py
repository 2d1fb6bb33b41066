"""The peer's annotations to an annotation set and back, on its own map."""

import hashlib
import json

import numpy as np
import pytest

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian
from skysom.jobs.pyink_annotations import annotations_from_pyink, pyink_from_annotations
from skysom.storage.annotation_set import AnnotationError, undo, with_label, with_masks, without_label
from skysom.storage.annotations import load, save
from skysom.storage.pinkfile import open_som
from skysom.storage.pyink_annotations import PyinkAnnotation, read_pyink_annotations, write_pyink_annotations


class Golden:
    """A map of the peer, its annotation file, and the masks it says are in it."""

    def __init__(self, shared, folder):
        som = open_som(shared(f"{folder}/som.bin"))
        self.weights = som.read()
        self.lattice = Cartesian(*som.som_dims[:2])
        self.file = read_pyink_annotations(shared(f"{folder}/som.bin.results.pkl"))
        self.masks = np.load(shared(f"{folder}/annotation_masks.npz"))
        self.primes = json.loads(shared(f"{folder}/labels.json").read_text())
        self.sha256 = hashlib.sha256(self.weights.tobytes()).hexdigest()
        self.channels = ["radio", "infrared"][: self.weights.shape[1]]

    def read(self, **changed):
        values = vars(self) | changed
        return annotations_from_pyink(
            values["file"], values["weights"], values["lattice"], self.channels, self.sha256, author="ada"
        )


@pytest.fixture(params=["goldens/pyink", "goldens/pyink/single_channel"])
def golden(request, shared):
    return Golden(shared, request.param)


def test_every_mask_is_where_the_peer_has_it(golden):
    annotations = golden.read()
    assert list(annotations.labels) == sorted(golden.primes, key=golden.primes.get)
    assert annotations.som_sha256 == golden.sha256
    for n, (first, second, _) in enumerate(golden.lattice.positions()):
        values = golden.masks[f"y{first}_x{second}"]
        for label, prime in golden.primes.items():
            for channel, of_channel in enumerate(values):
                expected = (of_channel != 0) & (of_channel % prime == 0)
                assert np.array_equal(annotations.mask(n, channel, label), expected)
    assert undo(annotations).records == {}


def test_there_and_back_is_the_same_file(golden, tmp_path):
    saved = save(tmp_path / "annotations", golden.read(), author="ada")
    write_pyink_annotations(tmp_path / "x.pkl", pyink_from_annotations(load(tmp_path / "annotations"), golden.weights,
                                                                     golden.lattice))  # fmt: skip
    again = read_pyink_annotations(tmp_path / "x.pkl")
    assert sorted(again) == sorted(golden.file)
    for key, one in again.items():
        assert dict(one.labels) == golden.primes
        assert np.array_equal(one.neuron, golden.file[key].neuron)
        for channel, values in one.filters.items():
            assert np.array_equal(values, golden.masks[f"y{key[0]}_x{key[1]}"][channel])
    assert np.array_equal(golden.read(file=again).planes(), saved.planes())


def test_another_map_is_refused(golden):
    other = golden.weights.copy()
    other[1, 0, 3, 3] += 0.5
    with pytest.raises(AnnotationError, match=r"neuron \(0, 1\) in the file is not the map's.*0\.5"):
        golden.read(weights=other)
    with pytest.raises(AnnotationError, match="shape"):
        golden.read(weights=golden.weights[:, :, 1:, 1:])
    size = golden.lattice.size
    with pytest.raises(AnnotationError, match=r"annotates neuron \(1, 0\).*lattice is"):
        golden.read(lattice=Cartesian(1, size))
    with pytest.raises(AnnotationError, match="no annotated neuron"):
        golden.read(file={})


def small(value, pairs=(("b", 3), ("a", 2)), lattice=(3, 2)):
    """A file of one neuron of a map whose sides differ."""
    weights = np.arange(6 * 16, dtype=np.float32).reshape(6, 1, 4, 4)
    values = np.zeros((4, 4), np.int64)
    values[1, 2] = value
    annotation = PyinkAnnotation(weights[5], {0: values}, pairs)
    return {"found": {(2, 1): annotation}, "weights": weights, "lattice": Cartesian(*lattice)}


def test_positions_are_first_and_second_lattice_index_and_labels_go_by_prime():
    annotations = annotations_from_pyink(**small(3), channels=["a"], som_sha256="0", author="ada")
    assert annotations.labels == ("a", "b")
    assert np.argwhere(annotations.planes()).tolist() == [[5, 0, 1, 2, 0]]
    assert annotations.planes()[5, 0, 1, 2, 0] == 0b10


def test_values_that_are_no_products_are_refused_with_their_place():
    for value, cause in ((1, "no label was chosen"), (7, "7 is left")):
        with pytest.raises(ReadingError, match=rf"neuron \(2, 1\), channel 0: .*{value} at \(1, 2\): .*{cause}"):
            annotations_from_pyink(**small(value), channels=["a"], som_sha256="0", author="ada")


def test_what_the_peer_cannot_hold_is_not_written():
    parts = small(2)
    annotations = annotations_from_pyink(**parts, channels=["a"], som_sha256="0", author="ada")
    for number in range(19):
        annotations = with_label(annotations, f"label {number}", author="ada")
    where = parts["weights"], parts["lattice"]
    with pytest.raises(AnnotationError, match="21 labels for masks, the peer has primes for 20"):
        pyink_from_annotations(annotations, *where)
    annotations = without_label(annotations, "label 18", author="ada")
    full = {(0, 0, label): np.ones((4, 4), bool) for label in annotations.labels[:16]}
    with pytest.raises(ReadingError, match="exceeds"):
        pyink_from_annotations(with_masks(annotations, full, author="ada"), *where)
    with pytest.raises(AnnotationError, match="2 depths"):  # one would be written over the other
        pyink_from_annotations(annotations, parts["weights"], Cartesian(3, 1, 2))
    with pytest.raises(AnnotationError, match="weights have shape"):
        pyink_from_annotations(annotations, parts["weights"][:, :, 1:, 1:], parts["lattice"])
    assert list(pyink_from_annotations(annotations, *where, neurons=[5])) == [(2, 1)]

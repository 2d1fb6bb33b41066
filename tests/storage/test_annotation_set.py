"""Edits of annotations: pure, recorded, undoable; what does not fit the map is refused."""

import numpy as np
import pytest

from skysom.storage import annotation_set
from skysom.storage.annotation_set import (
    AnnotationError,
    new_annotation_set,
    redo,
    undo,
    with_label,
    with_label_renamed,
    with_mask,
    with_masks,
    with_neuron_labels,
    with_note,
    without_label,
)

WHO = {"author": "ada"}
LATTICE = {"kind": "cartesian", "width": 3, "height": 2, "depth": 1, "periodic": False}


def empty():
    return new_annotation_set("ab" * 32, LATTICE, 6, 5, ["radio", "infrared"])


def mask(*pixels):
    made = np.zeros((5, 5), bool)
    for row, column in pixels:
        made[row, column] = True
    return made


def state(annotations):
    """All that is said, as plain values."""
    return annotations.labels, {
        n: (r.labels, r.note, {key: m.tolist() for key, m in r.masks.items()}) for n, r in annotations.records.items()
    }


def edited():
    """A set after one edit of every kind, and the states on the way."""
    steps = [empty()]
    steps.append(with_label(steps[-1], "core", **WHO))
    steps.append(with_label(steps[-1], "lobe", **WHO))
    steps.append(with_mask(steps[-1], 2, 0, "core", mask((1, 1), (2, 2)), **WHO))
    steps.append(with_masks(steps[-1], {(2, 0, "lobe"): mask((2, 2)), (5, 1, "lobe"): mask((0, 4))}, **WHO))
    steps.append(with_neuron_labels(steps[-1], {0: ["FRI"], 3: ["FRII", "bent"]}, **WHO))
    steps.append(with_note(steps[-1], 3, "see the paper", **WHO))
    steps.append(with_label_renamed(steps[-1], "lobe", "tail", **WHO))
    steps.append(without_label(steps[-1], "core", **WHO))
    return steps


def test_edits_leave_what_they_began_from_alone():
    before = edited()
    states = [state(step) for step in before]
    edited()
    assert [state(step) for step in before] == states
    assert states[0] == ((), {})


def test_what_was_said_is_there():
    *_, renamed, last = edited()
    assert renamed.labels == ("core", "tail")
    assert last.labels == ("tail",)
    assert np.array_equal(last.mask(2, 0, "tail"), mask((2, 2)))
    assert not last.mask(2, 1, "tail").any()
    assert last.neuron_labels() == [("FRI",), (), (), ("FRII", "bent"), (), ()]
    assert last.record(3).note == "see the paper"
    whats = [edit.what for edit in last.history]
    assert whats[2] == "mask 'core' on neuron 2, channel radio"
    assert len(whats) == 8
    assert all(edit.author == "ada" and edit.time for edit in last.history)


def test_planes_hold_every_label_of_a_pixel():
    annotations = edited()[4]
    planes = annotations.planes()
    assert planes.shape == (6, 2, 5, 5, 1)
    assert planes[2, 0, 2, 2, 0] == 0b11
    assert planes[2, 0, 1, 1, 0] == 0b01
    assert planes[5, 1, 0, 4, 0] == 0b10
    assert np.count_nonzero(planes) == 3
    assert np.array_equal(annotations.planes([5, 2]), planes[[5, 2]])
    many = empty()
    for number in range(9):
        many = with_label(many, f"label {number}", **WHO)
    many = with_mask(many, 0, 0, "label 8", mask((0, 0)), **WHO)
    assert many.planes()[0, 0, 0, 0].tolist() == [0, 1]


def test_edits_are_undone_and_made_again():
    steps = edited()
    states = [state(step) for step in steps]
    annotations = steps[-1]
    for expected in states[-2::-1]:
        annotations = undo(annotations)
        assert state(annotations) == expected
    with pytest.raises(AnnotationError, match="no edit to undo"):
        undo(annotations)
    for expected in states[1:]:
        annotations = redo(annotations)
        assert state(annotations) == expected
    assert [edit.what for edit in annotations.history] == [edit.what for edit in steps[-1].history]
    with pytest.raises(AnnotationError, match="no undone edit"):
        redo(annotations)
    branched = with_note(undo(annotations), 1, "another way", **WHO)
    with pytest.raises(AnnotationError, match="no undone edit"):
        redo(branched)


def test_old_edits_stay_in_the_history_but_cannot_be_undone(monkeypatch):
    monkeypatch.setattr(annotation_set, "KEPT_EDITS", 3)
    annotations = empty()
    for number in range(5):
        annotations = with_note(annotations, 0, str(number), **WHO)
    assert [edit.before is not None for edit in annotations.history] == [False, False, True, True, True]
    for expected in ("3", "2", "1"):
        annotations = undo(annotations)
        assert annotations.record(0).note == expected
    with pytest.raises(AnnotationError, match="last 3 edits"):
        undo(annotations)


def test_an_empty_mask_removes_it_and_a_given_one_cannot_change_later():
    annotations = with_label(empty(), "core", **WHO)
    drawn = mask((1, 1))
    annotations = with_mask(annotations, 1, 0, "core", drawn, **WHO)
    drawn[:] = True
    assert annotations.mask(1, 0, "core").sum() == 1
    with pytest.raises(ValueError, match="read-only"):
        annotations.mask(1, 0, "core")[:] = True
    assert with_mask(annotations, 1, 0, "core", mask(), **WHO).records == {}


REFUSED = {
    "another size": (lambda a: with_mask(a, 0, 0, "core", np.ones((4, 4), bool), **WHO), r"\(4, 4\) bool.*\(5, 5\)"),
    "another type": (lambda a: with_mask(a, 0, 0, "core", np.ones((5, 5)), **WHO), "float64"),
    "unknown neuron": (lambda a: with_mask(a, 6, 0, "core", mask((1, 1)), **WHO), r"no neuron 6.*0\.\.5"),
    "neuron from behind": (lambda a: with_note(a, -1, "", **WHO), "no neuron -1"),
    "neuron of truth": (lambda a: with_neuron_labels(a, {True: ["a"]}, **WHO), "no neuron True"),
    "unknown channel": (lambda a: with_mask(a, 0, 2, "core", mask((1, 1)), **WHO), "no channel 2"),
    "unknown label": (lambda a: with_mask(a, 0, 0, "halo", mask((1, 1)), **WHO), "no label 'halo'"),
    "empty label": (lambda a: with_label(a, " ", **WHO), "cannot be used"),
    "blanks around": (lambda a: with_neuron_labels(a, {0: ["FRI "]}, **WHO), "blanks"),
    "duplicate label": (lambda a: with_label(a, "core", **WHO), "there already"),
    "renamed to a duplicate": (lambda a: with_label_renamed(a, "core", "core", **WHO), "there already"),
    "duplicate on a neuron": (lambda a: with_neuron_labels(a, {0: ["a", "a"]}, **WHO), "there already"),
    "label to remove": (lambda a: without_label(a, "halo", **WHO), "no label 'halo'"),
    "no author": (lambda a: with_note(a, 0, "x", author=" "), "author is ' '"),
    "endless note": (lambda a: with_note(a, 0, "x" * 20_001, **WHO), "20000 characters"),
    "another map": (lambda a: a.check_map("cd" * 32), "abababab.*cdcdcdcd"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    edit, cause = REFUSED[case]
    with pytest.raises(AnnotationError, match=cause):
        edit(with_label(empty(), "core", **WHO))


def test_a_map_without_pixels_is_refused():
    with pytest.raises(AnnotationError, match="got 6, 0"):
        new_annotation_set("", LATTICE, 6, 0, ["a"])

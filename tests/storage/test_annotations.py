"""Annotation sets kept on disk and in an object store: versions, two editors, kills, damage."""

import base64
import json
import random
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from skysom.storage import annotations as module
from skysom.storage import place as places
from skysom.storage.annotation_set import (
    AnnotationError,
    new_annotation_set,
    redo,
    undo,
    with_label,
    with_mask,
    with_masks,
    with_neuron_labels,
    with_note,
)
from skysom.storage.annotations import AnnotationConflictError, current_version, load, prune, save, versions
from skysom.storage.place import place

SHA = "ab" * 32
LATTICE = {"kind": "cartesian", "width": 2, "height": 2, "depth": 1, "periodic": False}
RANDOM = np.random.default_rng(1)


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """Where the annotations go: on disk, or in an object store."""
    root = place(tmp_path) if request.param == "local" else place(request.getfixturevalue("s3") + "/run")
    return root / "annotations" / "main"


def begun(labels=9):
    """A set of a map of 4 neurons with 2 channels of 20 pixels, with masks of many labels."""
    made = new_annotation_set(SHA, LATTICE, 4, 20, ["radio", "infrared"])
    for number in range(labels):
        made = with_label(made, f"label {number}", author="ada", time="2024-05-01T10:00:00+00:00")
    masks = {(n, c, f"label {p}"): RANDOM.random((20, 20)) < 0.2 for n, c, p in ((0, 0, 0), (0, 1, 8), (3, 0, 3))}
    made = with_masks(made, masks, author="ada") if labels == 9 else made
    return with_neuron_labels(made, {1: ["FRI", "größer"]}, author="ada")


def state(annotations):
    plain = {n: (r.labels, r.note) for n, r in annotations.records.items()}
    edits = [(edit.author, edit.time, edit.what) for edit in annotations.history]
    return annotations.labels, plain, edits, annotations.version, annotations.channels, annotations.lattice


def same(one, other):
    return state(one) == state(other) and np.array_equal(one.planes(), other.planes())


def test_what_is_saved_is_loaded(folder):
    first = save(folder, begun(), author="ada")
    assert first.version == 1
    assert first.saved_by == "ada"
    assert same(load(folder), first)
    assert same(load(str(folder), som_sha256=SHA), first)
    later = load(folder)
    later = with_mask(later, 2, 1, "label 5", np.eye(20, dtype=bool), author="bob")
    later = save(folder, later, author="bob")
    assert same(load(folder), later)
    assert same(load(folder, 1), first)
    found = versions(folder)
    assert [(v.number, v.author) for v in found] == [(1, "ada"), (2, "bob")]
    assert found[1].last_edit == "mask 'label 5' on neuron 2, channel infrared"
    assert found[0].time == first.saved_at


def test_edits_are_undone_and_made_again_after_loading(tmp_path):
    before = save(tmp_path, begun(), author="ada")
    after = with_masks(before, {(0, 0, "label 0"): np.eye(20, dtype=bool), (1, 1, "label 8"): np.eye(20, dtype=bool)},
                       author="ada")  # fmt: skip
    save(tmp_path, after, author="ada")
    back = undo(load(tmp_path))
    assert np.array_equal(back.planes(), before.planes())
    assert back.record(1).labels == ("FRI", "größer")
    save(tmp_path, back, author="ada")
    again = redo(load(tmp_path))
    assert np.array_equal(again.planes(), after.planes())
    for _ in range(len(again.history)):
        again = undo(again)
    assert again.records == {}
    assert again.labels == ()


def test_masks_open_in_xarray(tmp_path):
    saved = save(tmp_path, begun(), author="ada")
    (where,) = [e for e in places.entries(tmp_path / "000001") if e.name.startswith("masks-")]
    with xr.open_zarr(str(where), consolidated=False) as opened:
        assert opened["masks"].dims == ("annotated", "channel", "neuron_y", "neuron_x", "word")
        assert opened["neuron"].values.tolist() == [0, 3]
        assert np.array_equal(opened["masks"].values, saved.planes([0, 3]))


def test_of_two_editors_the_second_is_refused_and_told_who_was_first(folder):
    save(folder, begun(), author="ada")
    hers, his = load(folder), load(folder)
    first = save(folder, with_note(hers, 0, "hers", author="ada"), author="ada")
    with pytest.raises(AnnotationConflictError, match=r"ada saved version 2 .* at .*based on version 1"):
        save(folder, with_note(his, 0, "his", author="bob"), author="bob")
    assert load(folder).record(0).note == "hers"
    with pytest.raises(AnnotationConflictError, match=f"{first.saved_at}"[:10]):
        save(folder, begun(), author="bob")
    third = save(folder, with_note(his, 0, "his", author="bob"), author="bob", expected_version=2)
    assert third.version == 3
    with pytest.raises(AnnotationConflictError, match="has version 3, not 7"):
        save(folder, third, author="bob", expected_version=7)
    names = [entry.name for entry in places.entries(folder)]
    assert names == ["000001", "000002", "000003"]


def test_of_many_who_save_at_the_same_time_one_is_first(folder):
    begin = save(folder, begun(), author="ada")

    def one(who):
        try:
            return save(folder, with_note(begin, 0, who, author=who), author=who).saved_by
        except AnnotationConflictError:
            return None

    with ThreadPoolExecutor(3) as threads:
        winners = [who for who in threads.map(one, ["bob", "eve", "kim"]) if who]
    assert len(winners) == 1
    assert load(folder).saved_by == load(folder).record(0).note == winners[0]
    save(folder, load(folder), author="ada")
    assert [entry.name for entry in places.entries(folder)] == ["000001", "000002", "000003"]


def test_old_versions_can_be_removed(folder):
    annotations = begun()
    for number in range(3):
        annotations = save(folder, with_note(annotations, 0, str(number), author="ada"), author="ada")
    assert prune(folder, keep=2) == [1]
    assert [v.number for v in versions(folder)] == [2, 3]
    assert undo(load(folder)).record(0).note == "1"
    with pytest.raises(AnnotationError, match="no version 1; the current one is 3"):
        load(folder, 1)
    with pytest.raises(AnnotationError, match="keep is 0"):
        prune(folder, keep=0)
    assert save(folder, load(folder), author="ada").version == 4


def test_other_maps_and_places_are_refused(folder):
    with pytest.raises(AnnotationError, match="no annotations at"):
        load(folder)
    assert (current_version(folder), versions(folder), prune(folder, 1)) == (0, [], [])
    saved = save(folder, begun(), author="ada")
    with pytest.raises(AnnotationError, match=r"of the map abab.*this map is cdcd"):
        load(folder, som_sha256="cd" * 32)
    other = new_annotation_set("cd" * 32, LATTICE, 4, 20, ["radio", "infrared"])
    with pytest.raises(AnnotationError, match=r"of the map cdcd.*this map is abab"):
        save(folder, other, author="ada", expected_version=1)
    with pytest.raises(AnnotationError, match="author"):
        save(folder, saved, author="")


def damaged(path, change):
    state = json.loads(places.read_bytes(path))
    change(state)
    places.write_atomically(path, json.dumps(state).encode())


def _cut(mask):
    mask[2] = base64.b64encode(base64.b64decode(mask[2])[:-6]).decode()


DAMAGE = {
    "another format": lambda s: s.update(format_version=2),
    "no label list": lambda s: s.update(labels="ab"),
    "another side": lambda s: s.update(side=21),
    "another neuron": lambda s: s["records"].update({"7": {"labels": [], "note": ""}}),
    "masks elsewhere": lambda s: s["masks"].update(folder="../../000001/masks-ab.zarr"),
    "other masks": lambda s: s["masks"].update(sha256="0"),
    "an edit without words": lambda s: s["history"][0].pop("what"),
    "a mask that is cut off": lambda s: _cut(s["history"][-2]["after"]["records"]["0"]["masks"][0]),
    "a mask of a smaller neuron": lambda s: s["history"][-2]["after"]["records"]["0"]["masks"][0].__setitem__(
        2, base64.b64encode(zlib.compress(b"\xff" * 10)).decode()
    ),
    "a mask that bursts": lambda s: s["history"][-2]["after"]["records"]["0"]["masks"][0].__setitem__(2, "AAAA"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_sentence(tmp_path, case):
    save(tmp_path, begun(), author="ada")
    damaged(tmp_path / "000001" / "state.json", DAMAGE[case])
    with pytest.raises(AnnotationError, match=r"are damaged|this skysom reads"):
        load(tmp_path)


def test_lost_and_flipped_bytes_are_seen(folder):
    save(folder, begun(), author="ada")
    (chunk,) = [path for path in places.files_below(folder) if "masks/c/" in str(path)]
    data = bytearray(places.read_bytes(chunk))
    data[len(data) // 2] ^= 4
    for content in (bytes(data), None):
        places.remove(chunk) if content is None else places.write_atomically(chunk, content)
        with pytest.raises(AnnotationError, match="damaged"):
            load(folder)
    places.write_atomically(folder / "000001" / "state.json", b'{"format"')
    with pytest.raises(AnnotationError, match="damaged"):
        load(folder)


class Killed(Exception):
    """Stands for a kill at a request."""


def _kill_after(patch, left):
    from s3fs import S3FileSystem

    send = S3FileSystem._call_s3

    async def counted(self, method, *args, **named):
        left[0] -= method.startswith(("put", "copy", "delete"))
        if left[0] < 0:  # whoever is dead reads nothing either
            raise Killed
        return await send(self, method, *args, **named)

    patch.setattr(S3FileSystem, "_call_s3", counted)


@pytest.mark.parametrize("requests", [3, 7, pytest.param(8, id="none")])
def test_a_kill_at_any_request_leaves_the_old_version_or_the_new_one(s3, monkeypatch, requests):
    folder = place(s3) / "main"
    first = save(folder, begun(), author="ada")
    second = with_mask(first, 2, 1, "label 5", np.eye(20, dtype=bool), author="bob")
    with monkeypatch.context() as patch:
        _kill_after(patch, [requests])
        if requests < 8:
            with pytest.raises(Killed):
                save(folder, second, author="bob")
        else:
            save(folder, second, author="bob")
    found = load(folder)
    assert same(found, first) if requests < 8 else np.array_equal(found.planes(), second.planes())
    third = save(folder, with_note(found, 3, "again", author="ada"), author="ada")
    assert third.version == found.version + 1
    assert same(load(folder), third)
    below = {path.relative_to(folder / f"{third.version:06d}").parts[0]
             for path in places.files_below(folder / f"{third.version:06d}")}  # fmt: skip
    assert len(below) == 2  # the state, and the masks of nobody else


def kill_a_save(folder, seed):
    """Kill a process that saves at a random moment, wait for its end, and return the last version it began."""
    pick = random.Random(seed)
    saver = Path(__file__).with_name("annotation_saver.py")
    process = subprocess.Popen([sys.executable, str(saver), str(folder)], stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(pick.randint(1, 3))]
    time.sleep(pick.uniform(0, 0.06))
    process.kill()
    lines += process.stdout.read().split()
    process.stdout.close()
    process.wait()
    return int(lines[-1])


def check_after_kill(folder, begun_version):
    """The current version is whole: the last one that was begun, or the one before."""
    found = load(folder)
    assert found.version in (begun_version - 1, begun_version)
    if found.version == 1:  # saved before any was killed
        assert found.records == {}
        return
    assert found.record(0).note == f"version {found.version}"
    number = found.version
    assert found.mask(number % 4, 0, "core")[number % 20].all()
    assert sum(found.mask(number % 4, 0, "core").any(axis=1)) == 1
    assert undo(found).record(0).note == ("" if number == 2 else f"version {number - 1}")


def trial_of_kills(folder, seeds):
    start = with_label(new_annotation_set(SHA, LATTICE, 4, 20, ["radio"]), "core", author="ada")
    save(folder, start, author="ada")
    for seed in seeds:
        check_after_kill(folder, kill_a_save(folder, seed))
    final = save(folder, load(folder), author="ada")
    assert [entry.name for entry in places.entries(folder)] == [f"{n:06d}" for n in range(1, final.version + 1)]


def test_a_killed_save_leaves_the_old_version_or_the_new_one(tmp_path):
    trial_of_kills(tmp_path / "main", range(5))


@pytest.mark.slow
def test_many_killed_saves(tmp_path):
    trial_of_kills(tmp_path / "main", range(100, 130))


def test_a_save_that_was_overtaken_while_it_wrote_is_refused(tmp_path, monkeypatch):
    first = save(tmp_path, begun(), author="ada")
    write = module._write_masks

    def slowly(where, annotations):
        monkeypatch.setattr(module, "_write_masks", write)
        save(tmp_path, with_note(first, 0, "first", author="bob"), author="bob")
        return write(where, annotations)

    monkeypatch.setattr(module, "_write_masks", slowly)
    with pytest.raises(AnnotationConflictError, match="bob saved version 2"):
        save(tmp_path, with_note(first, 0, "second", author="eve"), author="eve")
    assert load(tmp_path).record(0).note == "first"

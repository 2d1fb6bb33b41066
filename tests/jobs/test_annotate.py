"""Annotations of an output: begun, kept, undone, and exchanged with the peer."""

import pickle

import numpy as np
import pytest
import zarr

from skysom.jobs.annotate import annotations_of, save_annotations
from skysom.jobs.cli import main
from skysom.jobs.output import Output
from skysom.storage.annotation_set import with_label, with_mask
from skysom.storage.annotations import AnnotationConflictError


@pytest.fixture
def imported(shared, tmp_path):
    """An output with the peer's map, and the peer's annotations of it."""
    golden = shared("goldens/pyink/single_channel")
    output = tmp_path / "out"
    files = ["--images", str(golden / "images.bin"), "--som", str(golden / "som.bin")]
    assert main(["import-pink", "-o", str(output), *files, "--rotations", "92"]) == 0
    return output, golden


def test_the_peers_annotations_come_in_and_go_out_equal(imported, tmp_path, capsys):
    output, golden = imported
    source, target = golden / "som.bin.results.pkl", tmp_path / "back.pkl"
    assert main(["annotations", "import-pyink", str(output), str(source), "--author", "ada"]) == 0
    found = annotations_of(Output(output))
    masks = np.load(golden / "annotation_masks.npz")
    for first in range(3):
        for second in range(3):
            products = masks[f"y{first}_x{second}"]
            for prime, label in zip((2, 3, 5), found.labels, strict=False):
                expected = (products % prime == 0) & (products > 0)
                assert np.array_equal(found.mask(3 * first + second, 0, label), expected[0])
    assert main(["annotations", "export-pyink", str(output), str(target)]) == 0
    assert main(["annotations", "import-pyink", str(output), str(target)]) == 1
    assert "annotations already" in capsys.readouterr().err


def test_edits_are_kept_listed_and_undone(imported, capsys):
    output, _ = imported
    one = with_label(annotations_of(Output(output)), "host", author="ada")
    mask = np.zeros((one.side, one.side), bool)
    mask[3:5, 4] = True
    saved = save_annotations(Output(output), "main", with_mask(one, 2, 0, "host", mask, author="ada"), "ada")
    assert saved.version == 1
    with pytest.raises(AnnotationConflictError, match="ada"):
        save_annotations(Output(output), "main", one, "grace")
    assert main(["annotations", "undo", str(output), "--author", "grace"]) == 0
    assert not annotations_of(Output(output)).mask(2, 0, "host").any()
    assert main(["annotations", "list", str(output)]) == 0
    assert "grace" in capsys.readouterr().out


def test_a_map_stored_before_checksums_were_is_annotated_too(imported):
    output, _ = imported
    store = zarr.open_group(Output(output).survey, mode="r+")
    known = store["soms/main"].attrs.pop("sha256")
    assert annotations_of(Output(output)).som_sha256 == known


def test_annotations_of_another_map_and_hostile_files_are_refused(imported, shared, tmp_path, capsys):
    output, _ = imported
    other = shared("goldens/pyink/som.bin.results.pkl")
    assert main(["annotations", "import-pyink", str(output), str(other)]) == 1

    class Hostile:
        def __reduce__(self):
            return (__import__("os").system, (f"touch {tmp_path}/owned",))

    (tmp_path / "hostile.pkl").write_bytes(pickle.dumps({(0, 0): Hostile()}))
    assert main(["annotations", "import-pyink", str(output), str(tmp_path / "hostile.pkl")]) == 1
    assert "system" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()
    assert main(["annotations", "list", str(output)]) == 0
    assert main(["annotations", "undo", str(output)]) == 1

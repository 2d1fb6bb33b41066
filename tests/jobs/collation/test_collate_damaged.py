"""Collations whose folder was damaged, is full, or holds what is not theirs."""

import errno
import importlib.util
import json
import resource
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from skysom.cluster.lock import OutputLock
from skysom.jobs.collation import folder as collation_folder
from skysom.jobs.collation import run as collation_run
from skysom.jobs.collation.collate import CollateSettings, collate
from skysom.jobs.collation.folder import PUBLISHED, CollationFolder
from skysom.jobs.errors import ConfigError

_spec = importlib.util.spec_from_file_location("random_skies", Path(__file__).with_name("random_skies.py"))
sys.modules["random_skies"] = skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)


def run(inputs, folder, **chosen):
    return collate(
        inputs, folder, CollateSettings(**({"rows_per_box": 40, "threads": 1} | chosen)), scheduler="threads"
    )


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.parquet"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Inputs, and the folder of their collation in several boxes."""
    folder = tmp_path_factory.mktemp("whole")
    kind = skies.SkyKind(rows=60, other_rows=60, centres=skies.CENTRES[:2], labels=2, spread_arcsec=600.0)
    inputs = skies.make(folder, 5, replace(kind, actions=("LINK", "DATA_ATTACH"), spoiled=False))
    inputs = replace(inputs, limit_arcsec=60.0)
    assert run(inputs, folder / "out")["boxes"] > 2
    return inputs, folder / "out"


# --- published tables -----------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path):
    path.write_bytes(b"")


def grown(path):
    path.write_bytes(path.read_bytes() + b" ")


def without_head(path):
    path.write_bytes(b"    " + path.read_bytes()[4:])


def without_tail(path):
    path.write_bytes(path.read_bytes()[:-200] + bytes(200))


def lost(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, emptied, grown, without_head, without_tail, lost])
@pytest.mark.parametrize("name", ["sources.parquet", "evidence.parquet", "collation.json"])
@pytest.mark.parametrize("corrected", [False, True])
def test_broken_tables_are_merged_again(collated, whole, capsys, damage, name, corrected):
    inputs, folder = collated
    if name == "collation.json" and damage in (without_head, without_tail):
        return
    damage(folder / name)
    if corrected:
        inputs = skies.with_corrections(inputs, [(0, 59)])
    run(inputs, folder)
    said = capsys.readouterr().err
    assert f"{folder / name} " in said
    assert "the tables have to be merged again" in said
    assert "already" not in said
    assert skies.differences(skies.published(folder), skies.expected(inputs)) == []
    assert corrected or bytes_of(folder) == bytes_of(whole[1])
    run(inputs, folder)
    assert "already" in capsys.readouterr().err


def damaged_records(folder):
    """Contents of a record of which something is missing, or is something else."""
    good = json.loads((folder / ".skysom" / "published.json").read_text())
    yield from ("", "{", "[]", "3", "{}", json.dumps({"files": []}), "[" * 100_000)
    for key in good:
        yield json.dumps({name: value for name, value in good.items() if name != key})
        yield json.dumps({**good, key: []})
    yield json.dumps({**good, "corrections": {"together": [3], "apart": []}})
    yield json.dumps({**good, "corrections": {"together": [], "apart": ["0"]}})
    yield json.dumps({**good, "summary": {"sources": 3}})
    yield json.dumps({**good, "bytes": {**good["bytes"], "../taken": 3}})
    yield json.dumps({**good, "bytes": dict.fromkeys(good["bytes"], "3")})


@pytest.mark.parametrize("name", ["published.json", "publishing.json"])
def test_damaged_records_are_told_and_redone(collated, whole, name):
    inputs, folder = collated
    record = folder / ".skysom" / name
    contents = list(damaged_records(folder))
    for content in contents:
        record.write_text(content)
        with pytest.raises(ConfigError, match=rf"{name} is damaged; begin again with --redo"):
            run(inputs, folder)
    assert bytes_of(folder) == bytes_of(whole[1])
    run(inputs, folder, redo=True)
    assert bytes_of(folder) == bytes_of(whole[1])
    record.unlink(missing_ok=True)
    record.mkdir()
    with pytest.raises(ConfigError, match=rf"{name} is damaged; begin again with --redo"):
        run(inputs, folder)
    run(inputs, folder, redo=True)
    assert not CollationFolder(folder).unfinished()
    assert bytes_of(folder) == bytes_of(whole[1])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xf5",
        b'{"dec_cuts_deg": [], "ra_cuts_deg": [], "x": 1}',
        b'{"dec_cuts_deg": [2.0, 1.0], "ra_cuts_deg": [[], [], []]}',
        b'{"dec_cuts_deg": [], "ra_cuts_deg": [["a"]]}',
        b'{"dec_cuts_deg": [], "ra_cuts_deg": [3]}',
        b'{"dec_cuts_deg": {}, "ra_cuts_deg": [[NaN]]}',
        None,
    ],
)
def test_damaged_boxes_are_told_and_redone(collated, content):
    inputs, folder = collated
    boxes = folder / ".skysom" / "boxes.json"
    boxes.unlink()
    boxes.mkdir() if content is None else boxes.write_bytes(content)
    corrected = skies.with_corrections(inputs, [(0, 59)])
    with pytest.raises(ConfigError, match=r"boxes.json is damaged; begin again with --redo"):
        run(corrected, folder)
    run(corrected, folder, redo=True)
    assert skies.differences(skies.published(folder), skies.expected(corrected)) == []


# --- what interrupted runs leave ------------------------------------------------------------------


def test_what_an_interrupted_merge_left_is_cleared(collated, whole, monkeypatch):
    inputs, folder = collated
    corrected = skies.with_corrections(inputs, [(0, 59)])
    with monkeypatch.context() as patched:
        patched.setattr(CollationFolder, "publish", lambda self, record: pytest.fail("stopped"))
        with pytest.raises(BaseException, match="stopped"):
            run(corrected, folder)
    assert (folder / ".skysom" / "merged" / "sources.parquet").is_file()
    run(inputs, folder)
    assert not (folder / ".skysom" / "merged").exists()
    assert not (folder / ".skysom" / "parts").exists()
    assert bytes_of(folder) == bytes_of(whole[1])


def test_a_merge_begins_with_an_empty_folder(collated, whole, monkeypatch):
    inputs, folder = collated
    (folder / "edges.parquet").unlink()
    (folder / ".skysom" / "merged").mkdir()
    (folder / ".skysom" / "merged" / "evidence.parquet").write_text("of another run")
    real = collation_run.merge_table

    def watched(work, name, smallest):
        assert not any("of another" in path.read_text("latin1") for path in folder.rglob("merged/*"))
        return real(work, name, smallest)

    monkeypatch.setattr(collation_run, "merge_table", watched)
    run(inputs, folder)
    assert bytes_of(folder) == bytes_of(whole[1])


@pytest.mark.parametrize("broken", ["merged", "moved"])
def test_files_that_broke_before_they_were_published_are_merged_again(collated, monkeypatch, capsys, broken):
    inputs, folder = collated
    corrected = skies.with_corrections(inputs, [(0, 59)])
    left = 2

    def failing(source, target):
        nonlocal left
        if left == 0:
            raise OSError("killed")
        left -= 1
        source.replace(target)

    with monkeypatch.context() as patched:
        patched.setattr("skysom.storage.place.move", failing)
        with pytest.raises(OSError, match="killed"):
            run(corrected, folder)
    assert CollationFolder(folder).unfinished()
    merged = next((folder / ".skysom" / "merged").glob("*.parquet"))
    moved = next(folder / name for name in PUBLISHED if not (folder / ".skysom" / "merged" / name).exists())
    cut(merged if broken == "merged" else moved)
    run(corrected, folder)
    assert "what was about to be published is merged again" in capsys.readouterr().err
    assert skies.differences(skies.published(folder), skies.expected(corrected)) == []


def test_a_redo_that_was_interrupted_is_still_a_collation(collated, whole, monkeypatch):
    inputs, folder = collated
    with monkeypatch.context() as patched:
        patched.setattr(collation_folder, "write_atomically", lambda path, data: pytest.fail("stopped"))
        with pytest.raises(BaseException, match="stopped"):
            run(inputs, folder, redo=True)
    assert bytes_of(folder) == bytes_of(whole[1])
    run(inputs, folder)
    assert bytes_of(folder) == bytes_of(whole[1])


# --- what cannot be written -----------------------------------------------------------------------


@contextmanager
def largest_file(size):
    """No file of this process may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [500, 2_000, 4_000, 12_000])
def test_files_that_may_not_be_written_are_told(whole, tmp_path, size):
    inputs, _ = whole
    with largest_file(size), pytest.raises(ConfigError) as refused:
        run(inputs, tmp_path / "out")
    assert "File too large; let files there be larger, and run the same command again: what is done is kept" in str(
        refused.value
    )
    assert not list(tmp_path.rglob("*.parquet.partial"))
    run(inputs, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(whole[1])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "No space left on device; free some space there, and run the same command again"),
        (errno.EROFS, "Read-only file system; make it writable, or choose another --output"),
    ],
)
@pytest.mark.parametrize("owner", [(OutputLock, "_acquire"), (collation_run, "merge_table")])
def test_full_and_read_only_disks_are_told(whole, tmp_path, monkeypatch, owner, code, words):
    inputs, _ = whole

    def failing(*_):
        raise OSError(code, "it fails")

    with monkeypatch.context() as patched:
        patched.setattr(*owner, failing)
        with pytest.raises(ConfigError, match=words) as refused:
            run(inputs, tmp_path / "out")
    assert str(refused.value).startswith(f"cannot write to {tmp_path / 'out'}: ")
    run(inputs, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(whole[1])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_directory_in_the_place_of_a_file(collated, whole, name):
    inputs, folder = collated
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ConfigError, match=rf"{name} is a directory, a collation puts a file there; move it away"):
        run(inputs, folder)
    (folder / name).rmdir()
    run(inputs, folder)
    assert bytes_of(folder) == bytes_of(whole[1])


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("redo", [False, True])
def test_files_of_others_are_not_overwritten(whole, tmp_path, name, redo):
    inputs, _ = whole
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"has {name}, and no record of a collation .*; move it away, or choose"):
        run(inputs, tmp_path, redo=redo)
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    run(inputs, tmp_path)
    assert bytes_of(tmp_path) == bytes_of(whole[1])

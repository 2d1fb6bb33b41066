"""Collations that are run again: after a kill, with another configuration, with corrections, beside another run."""

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from skysom.cluster.errors import LockedError
from skysom.engine.collation.actions import actions_for
from skysom.engine.collation.groups import Corrections
from skysom.jobs.collation import boxes as collation_boxes
from skysom.jobs.collation import run as collation_run
from skysom.jobs.collation.collate import CollateSettings, collate
from skysom.jobs.collation.folder import CollationFolder
from skysom.jobs.collation.islands import changed_rows
from skysom.jobs.collation.merge import MergeWork, boxes_of_ranges, smallest_members
from skysom.jobs.collation.source_table import SourceColumns
from skysom.jobs.errors import ConfigError

_spec = importlib.util.spec_from_file_location("random_skies", Path(__file__).with_name("random_skies.py"))
sys.modules["random_skies"] = skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)
KILLED = Path(__file__).with_name("collate_killed.py")


def run(inputs, folder, **chosen):
    return collate(inputs, folder, CollateSettings(**({"rows_per_box": 40} | chosen)), scheduler="threads")


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.parquet"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Inputs, and the folder of their collation in several boxes."""
    folder = tmp_path_factory.mktemp("whole")
    kind = skies.SkyKind(rows=150, other_rows=60, centres=skies.CENTRES[:2], labels=3, spread_arcsec=600.0)
    inputs = skies.make(folder, 5, replace(kind, actions=("LINK", "DATA_ATTACH", "FLAG"), spoiled=False))
    inputs = replace(inputs, limit_arcsec=60.0)
    assert run(inputs, folder / "out")["boxes"] > 3
    return inputs, folder / "out"


@pytest.fixture
def ran(monkeypatch):
    """What tasks ran since the test began: (name, box or None, rows or None)."""
    found = []

    def watch(name, described):
        function = getattr(collation_run, name)

        def watched(*arguments):
            found.append((name, *described(*arguments)))
            return function(*arguments)

        monkeypatch.setattr(collation_run, name, watched)

    watch("deal_piece", lambda folder, inputs, boxes, channel, *more: (channel, None))
    watch("project_box", lambda work, box: (box, None))
    watch("group_box", lambda work, box, rows, boxes: (box, rows.tolist()))
    return found


# --- kills ----------------------------------------------------------------------------------------


def killed(folder, seed, points):
    """Run `collate_killed.py`; the lines it printed."""
    command = [sys.executable, "-W", "error", str(KILLED), str(folder), str(seed), points]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_killed_runs_are_gone_on_with(tmp_path):
    assert len(killed(tmp_path, 1, "0.15,0.45,0.7,0.93")) == 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_runs_killed_at_every_write_are_gone_on_with(tmp_path, seed):
    assert len(killed(tmp_path, seed, "all")) > 100


def test_a_finished_collation_is_not_done_again(collated, ran):
    inputs, folder = collated
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.*") if path.is_file()}
    summary = run(inputs, folder, rows_per_box=7)
    assert ran == []
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.*") if path.is_file()} == before
    assert summary["sources"] == len(pq.read_table(folder / "sources.parquet"))


def test_only_missing_boxes_are_done(collated, ran, monkeypatch):
    """A run that failed in a box goes on with that."""
    inputs, folder = collated
    shutil.rmtree(folder)
    real = collation_run.group_box

    def failing(work, box, rows, boxes):
        if sum(name == "group_box" for name, *_ in ran) > 2:
            raise OSError("the disk is full")
        return real(work, box, rows, boxes)

    monkeypatch.setattr(collation_run, "group_box", failing)
    with pytest.raises(OSError, match="disk"):
        run(inputs, folder, threads=1)
    monkeypatch.setattr(collation_run, "group_box", real)
    done = {box for name, box, _ in ran if name == "group_box"}
    ran.clear()
    summary = run(inputs, folder)
    assert {name for name, *_ in ran} == {"group_box"}
    left = {box for _, box, _ in ran}
    assert len(done) == 3
    assert not left & done
    assert sum(len(rows) for _, _, rows in ran) < 150
    assert summary["components"] == 150


def test_lost_tables_are_made_again_from_what_was_projected(collated, whole, ran):
    inputs, folder = collated
    (folder / "edges.parquet").unlink()
    run(inputs, folder)
    assert {name for name, *_ in ran} == {"group_box"}
    assert bytes_of(folder) == bytes_of(whole[1])


# --- other configurations -------------------------------------------------------------------------


def test_another_configuration_is_refused_and_redone(collated, ran):
    inputs, folder = collated
    before = bytes_of(folder)
    other = replace(inputs, limit_arcsec=30.0, actions=actions_for(inputs.labels, dict.fromkeys(inputs.labels, "PASS")))
    with pytest.raises(ConfigError) as refused:
        run(other, folder)
    message = str(refused.value)
    assert "limit_arcsec: 60.0 there, 30.0 in this run" in message
    assert 'actions.label 0: "LINK" there, "PASS" in this run' in message
    assert "another --output" in message
    assert "--redo" in message
    assert ran == []
    assert bytes_of(folder) == before
    assert run(other, folder, redo=True)["sources"] == 150
    assert skies.differences(skies.published(folder), skies.expected(other)) == []


@pytest.mark.parametrize("change", ["planes", "rank", "angle", "columns"])
def test_every_array_counts_as_configuration(collated, change):
    inputs, folder = collated
    columns = None
    if change == "planes":
        inputs = replace(inputs, planes=inputs.planes ^ np.uint64(1))
    elif change == "rank":
        inputs = replace(inputs, rank=inputs.rank[::-1].copy())
    elif change == "angle":
        inputs = replace(inputs, mapped=replace(inputs.mapped, angle_rad=inputs.mapped.angle_rad + np.float32(0.1)))
    else:
        columns = SourceColumns.of(inputs, prefix="SIM")
    with pytest.raises(ConfigError, match="of another configuration"):
        run(inputs, folder, columns=columns)


def test_boxes_threads_and_corrections_are_no_configuration(collated, whole):
    inputs, folder = collated
    (folder / ".skysom" / "published.json").unlink()
    run(inputs, folder, rows_per_box=3, threads=3)
    assert bytes_of(folder) == bytes_of(whole[1])


def test_folders_that_are_no_collations(tmp_path, whole):
    inputs, _ = whole
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        run(inputs, tmp_path / "file")
    (tmp_path / "survey" / ".skysom").mkdir(parents=True)
    (tmp_path / "survey" / ".skysom" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a survey"):
        run(inputs, tmp_path / "survey")


def test_damaged_work_is_told(collated):
    inputs, folder = collated
    (folder / "edges.parquet").unlink()
    carried = next((folder / ".skysom" / "sky").rglob("carried.arrow"))
    carried.write_bytes(carried.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"carried.arrow of an earlier run cannot be read.*--redo"):
        run(inputs, folder)
    shutil.rmtree(next((folder / ".skysom" / "sky").iterdir()))
    with pytest.raises(ConfigError, match="--redo"):
        run(inputs, folder)
    (folder / ".skysom" / "collation-config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"collation-config.json is damaged; begin again with --redo"):
        run(inputs, folder)
    assert run(inputs, folder, redo=True)["rows"] == 150


def test_two_runs_do_not_share_a_folder(collated):
    inputs, folder = collated
    with CollationFolder(folder).locked(), pytest.raises(LockedError, match="in use by"):
        run(inputs, folder)


def test_a_component_that_is_lost_is_noticed(collated, monkeypatch):
    """What tasks leave is checked as a whole, too."""
    inputs, folder = collated
    (folder / "edges.parquet").unlink()
    real = collation_boxes.tables_of

    def losing(*arguments):
        tables = real(*arguments)
        components, rows = tables["components"]
        return tables | {"components": (components.slice(1), rows[1:])}

    monkeypatch.setattr(collation_boxes, "tables_of", losing)
    with pytest.raises(AssertionError, match="in no source"):
        run(inputs, folder)


# --- corrections ----------------------------------------------------------------------------------


def islands_of(inputs, folder):
    """Island (n,) of every row."""
    sky = collation_run.read_sky(
        CollationFolder(folder), inputs.base.rows, len(list(folder.glob(".skysom/sky/*"))), None
    )
    return sky.roots


def test_corrections_run_only_the_islands_they_touch(collated, ran):
    inputs, folder = collated
    roots = islands_of(inputs, folder)
    sizes = np.bincount(roots)
    large, other = np.argsort(sizes)[-2:]
    inside = np.flatnonzero(roots == large)
    work = {path: path.stat().st_mtime_ns for path in folder.glob(".skysom/sky/*/*")}

    apart = skies.with_corrections(inputs, apart=[int(inside[0])])
    summary = run(apart, folder)
    assert sorted(row for _, _, rows in ran for row in rows) == inside.tolist()
    assert [name for name, *_ in ran] == ["group_box"]
    assert summary["grouped"] == {"rows": len(inside), "islands": 1, "boxes": 1}
    assert skies.differences(skies.published(folder), skies.expected(apart)) == []

    ran.clear()
    joined = skies.with_corrections(inputs, [(int(inside[0]), int(other))], [int(inside[0])])
    run(joined, folder)
    both = np.flatnonzero(np.isin(roots, [large, other]))
    assert sorted(row for _, _, rows in ran for row in rows) == both.tolist()
    assert skies.differences(skies.published(folder), skies.expected(joined)) == []

    ran.clear()
    assert run(joined, folder)["corrections"] == {"together": 1, "apart": 1}
    assert ran == []
    run(inputs, folder)
    assert sorted(row for _, _, rows in ran for row in rows) == both.tolist()
    assert skies.differences(skies.published(folder), skies.expected(inputs)) == []
    assert {path: path.stat().st_mtime_ns for path in folder.glob(".skysom/sky/*/*")} == work


def test_corrected_tables_are_the_bytes_of_a_new_collation(collated, tmp_path):
    inputs, folder = collated
    rng = np.random.default_rng(0)
    for _ in range(4):
        corrected = replace(inputs, corrections=skies.random_corrections(rng, inputs.base.rows))
        run(corrected, folder)
    run(corrected, tmp_path / "new")
    assert bytes_of(folder) == bytes_of(tmp_path / "new")


def test_corrections_changed_before_anything_is_published(collated, monkeypatch):
    inputs, folder = collated
    shutil.rmtree(folder)
    monkeypatch.setattr(collation_run, "smallest_members", lambda work: pytest.fail("stopped"))
    with pytest.raises(BaseException, match="stopped"):
        run(inputs, folder)
    monkeypatch.undo()
    corrected = skies.with_corrections(inputs, [(0, 149)])
    run(corrected, folder)
    assert skies.differences(skies.published(folder), skies.expected(corrected)) == []


def test_corrections_of_rows_that_are_not_there(whole, tmp_path):
    inputs, _ = whole
    with pytest.raises(ConfigError, match="names row 150, the base has rows 0 to 149"):
        run(skies.with_corrections(inputs, [(3, 150)]), tmp_path)


def test_changed_rows():
    one = Corrections(((1, 2), (5, 4)), (9,))
    assert changed_rows(one, Corrections(((4, 5), (2, 1, 2)), (9,))).tolist() == []
    assert changed_rows(one, Corrections(((1, 2, 3),), (8,))).tolist() == [1, 2, 3, 4, 5, 8, 9]


def test_every_row_must_be_in_one_source(whole):
    inputs, folder = whole
    columns = SourceColumns.of(inputs)
    work = MergeWork(CollationFolder(folder), columns, 150, 10**6, boxes_of_ranges({}), np.zeros(150, bool))
    sources = pq.read_table(folder / "sources.parquet")
    assert smallest_members(work).tolist() == [rows[0] for rows in sources["members"].to_pylist()]
    with pytest.raises(AssertionError, match="in no source"):
        smallest_members(replace(work, replaced=np.arange(150) == 7))

"""Pieces of a collation by themselves: tables in parts, dealing in blocks, ids, and the folder that publishes."""

import importlib.util
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skysom.cluster.errors import FencedError
from skysom.jobs.collation import deal as collation_deal
from skysom.jobs.collation.boxes import text_ids
from skysom.jobs.collation.collate import CollateSettings, collate
from skysom.jobs.collation.deal import BaseRows, Piece, boxes_for, pieces_of
from skysom.jobs.collation.folder import TABLES, CollationFolder
from skysom.jobs.collation.inputs import CatalogueFile, Mapped
from skysom.jobs.collation.tables import read_part, stack, write_parts
from skysom.jobs.errors import ConfigError
from skysom.storage.catalogue import ROW_NUMBER, source_ids

_spec = importlib.util.spec_from_file_location("random_skies", Path(__file__).with_name("random_skies.py"))
sys.modules["random_skies"] = skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)


# --- tables in parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_parts_are_read_one_by_one(tmp_path, rows):
    table = pa.table(
        {
            "row": np.arange(rows),
            "text": pa.array([f"J{row}" for row in range(rows)], pa.string()),
            "list": pa.array([[row] * (row % 3) for row in range(rows)], pa.list_(pa.int64())),
        }
    )
    number = np.sort(np.random.default_rng(rows).integers(0, 9, rows))
    assert write_parts(tmp_path / "new" / "table.arrow", table, number) == np.unique(number).tolist()
    parts = [read_part(tmp_path / "new" / "table.arrow", part) for part in range(-1, 10)]
    assert [len(part) for part in parts[1:-1]] == np.bincount(number, minlength=9).tolist()
    assert stack(parts) == table
    few = read_part(tmp_path / "new" / "table.arrow", int(number[0]) if rows else 0, ["list"])
    assert few.column_names == ["list"]
    write_parts(tmp_path / "new" / "table.arrow", table)
    assert read_part(tmp_path / "new" / "table.arrow") == table
    assert not list(tmp_path.rglob("*.partial"))


def test_a_part_that_is_torn_or_lost_is_told(tmp_path):
    path = tmp_path / "table.arrow"
    write_parts(path, pa.table({"row": np.arange(1000)}))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ConfigError, match=r"table.arrow of an earlier run cannot be read.*--redo"):
        read_part(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_part(tmp_path / "none.arrow")


# --- dealing --------------------------------------------------------------------------------------


def test_pieces_are_whole_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(collation_deal, "DEALT_ROWS", 10)
    table = pa.table({"name": [str(row) for row in range(26)], "RA": np.arange(26.0), "DEC": np.zeros(26)})
    pq.write_table(table, tmp_path / "many.parquet", row_group_size=4)
    catalogue = CatalogueFile(tmp_path / "many.parquet", "RA", "DEC", "name", 26)
    pieces = pieces_of(catalogue)
    assert [(piece.first, piece.stop, piece.groups) for piece in pieces] == [
        (0, 12, (0, 1, 2)),
        (12, 24, (3, 4, 5)),
        (24, 26, (6,)),
    ]
    pq.write_table(table, tmp_path / "one.parquet")
    one = replace(catalogue, path=tmp_path / "one.parquet")
    found = list(collation_deal.blocks(one, pieces_of(one)[0], ["name"]))
    assert [(first, len(ra)) for first, ra, _, _ in found] == [(0, 10), (10, 10), (20, 6)]
    assert stack(part for *_, part in found)["name"].to_pylist() == table["name"].to_pylist()
    with pytest.raises(ConfigError, match="has 26 rows now, it had 25; restore it"):
        pieces_of(replace(catalogue, rows=25))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_catalogue_in_small_blocks_is_collated_as_one(tmp_path, monkeypatch, suffix):
    inputs = skies.make(tmp_path, 13, skies.SkyKind(rows=60, other_rows=45), suffix=suffix)
    monkeypatch.setattr(collation_deal, "DEALT_ROWS", 7)
    monkeypatch.setattr(collation_deal, "SAMPLED_ROWS", 20)
    summary = collate(inputs, tmp_path / "out", CollateSettings(rows_per_box=30), scheduler="threads")
    assert summary["boxes"] > 2
    assert skies.differences(skies.published(tmp_path / "out"), skies.expected(inputs)) == []


def test_boxes_are_cut_by_the_rows_of_all_catalogues(tmp_path):
    """Those of an earlier run stay."""
    inputs = skies.make(tmp_path, 0, skies.SkyKind(rows=30, other_rows=900, spread_arcsec=3000.0))
    folder = CollationFolder(tmp_path / "out")
    folder.private.mkdir(parents=True)
    boxes = boxes_for(inputs, 100, folder)
    assert 9 <= boxes.count <= 15
    others = inputs.catalogues[1]
    inside = np.bincount(boxes.box_of(*others.positions(others.read())) + 1)[1:]
    assert inside.max() <= 150
    assert boxes_for(inputs, 1, folder).to_dict() == boxes.to_dict()


def test_base_rows_of_a_piece(tmp_path):
    inputs = skies.make(tmp_path, 0, skies.SkyKind(rows=10))
    some = np.array([1, 3, 4, 8])
    few = Mapped(some, some.astype(np.int32), some / 10, np.ones(4, np.int8), some + 0.5)
    rows = BaseRows.of(replace(inputs, mapped=few), Piece(0, 3, 9, None))
    assert rows.neuron.tolist() == [3, 4, -1, -1, -1, 8]
    assert rows.flip.tolist() == [1, 1, 0, 0, 0, 1]
    assert np.isnan(rows.distance).tolist() == [False, False, True, True, True, False]
    assert rows.matchable.tolist() == inputs.matchable()[3:9].tolist()
    assert rows.rank.tolist() == inputs.rank[3:9].tolist()


@pytest.mark.parametrize(
    "values",
    [
        [" a ", None, "", "b"],
        [3.0, np.nan, 1e3, 2.0],
        pd.array([7, None, 2**53 + 1, 0], "Int64"),
        [1, 2, 3, 2**62],
        pd.Categorical(["x", None, "y ", "x"]).astype(str),
    ],
)
def test_ids_are_those_of_the_catalogue(values):
    frame = pd.DataFrame({"id": pd.Series(values, index=[0, 1, 2, 3])})
    wanted, _ = source_ids(frame, "id")
    table = pa.Table.from_pandas(frame.assign(row=np.arange(4)), preserve_index=False)
    assert text_ids(table).to_pylist() == wanted.tolist()


def test_rows_without_ids_are_called_by_their_number(tmp_path):
    assert text_ids(pa.table({"row": [5, 7]})).to_pylist() == ["5", "7"]
    inputs = skies.make(tmp_path, 0, skies.SkyKind(rows=9))
    nameless = tuple(replace(file, id_column=ROW_NUMBER) for file in inputs.catalogues)
    collate(replace(inputs, catalogues=nameless), tmp_path / "out", scheduler="threads")
    assert skies.published(tmp_path / "out")["components"]["id"].to_pylist() == [str(row) for row in range(9)]


def test_tasks_that_outlive_their_run_write_nothing(tmp_path):
    folder = CollationFolder(tmp_path)
    with folder.locked():
        of_task = pickle.loads(pickle.dumps(folder.of_this_run()))
        of_task.check()
    folder.check()
    with pytest.raises(FencedError, match="has ended and released"):
        replace_guard(of_task).check()
    with folder.locked(), pytest.raises(FencedError, match=r"another run \(epoch 2, this one is 1\)"):
        replace_guard(of_task).check()


def replace_guard(folder):
    """The same folder, with a guard that asks every time."""
    folder.guard = replace(folder.guard, every_s=0.0)
    return folder


def test_columns_of_taken_names_are_refused(tmp_path):
    inputs = skies.make(tmp_path, 0, skies.SkyKind(rows=9))
    for name in ("id", "neuron", "rank", "matchable", "status", "distance", "ra_deg"):
        for columns in ({"redshift_column": name}, {"flux_columns": (name,)}):
            with pytest.raises(
                ConfigError, match=rf"column '{name}' of a flux .* that a collation makes .*; rename it"
            ):
                collate(replace(inputs, **columns), tmp_path / "out", scheduler="threads")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_column_may_have_two_roles(tmp_path, suffix):
    """Right ascension is a flux, and fluxes are ids, of both catalogues."""
    inputs = skies.make(tmp_path, 21, skies.SkyKind(rows=30, spoiled=False, centres=skies.CENTRES[4:]), suffix=suffix)
    catalogues = tuple(replace(file, id_column="flux") for file in inputs.catalogues)
    inputs = replace(inputs, catalogues=catalogues, flux_columns=("RA", "flux"))
    collate(inputs, tmp_path / "out", scheduler="threads")
    table, found = inputs.base.read(), skies.published(tmp_path / "out")
    members = found["sources"]["members"].to_pylist()
    for name in ("RA", "flux"):
        assert found["sources"][f"{name}_sum"].to_pylist() == pytest.approx(
            [table[name][rows].sum() for rows in members]
        )
    assert np.allclose([float(text) for text in found["components"]["id"].to_pylist()], table["flux"])


# --- publishing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", range(6))
def test_tables_are_published_together(tmp_path, monkeypatch, moved):
    """A run that ends after any number of moves is completed by the next one."""
    folder = CollationFolder(tmp_path)
    names = [f"{name}.parquet" for name in TABLES]
    for name in names:
        (tmp_path / name).write_text("old")
    summary = {"sources": 3, "rows": 3, "sources_of_several": 0, "largest_source": 1}
    record = {"corrections": {"together": [], "apart": []}, "summary": summary}
    with folder.locked():
        (folder.private / "merged").mkdir()
        for name in names:
            pq.write_table(pa.table({"row": [1]}), folder.merged(name))
        left = moved

        def failing(source, target):
            nonlocal left
            if left == 0:
                raise OSError("killed")
            left -= 1
            source.replace(target)

        monkeypatch.setattr("skysom.storage.place.move", failing)
        if moved < 5:
            with pytest.raises(OSError, match="killed"):
                folder.publish(record)
        else:
            folder.publish(record)
        assert (folder.published() is None) == (moved < 5)
    assert folder.unfinished() == (moved < 5)
    monkeypatch.undo()
    with folder.locked():
        found = folder.published()
    assert not folder.unfinished()
    assert found["summary"] == summary
    assert all(pq.read_table(tmp_path / name)["row"].to_pylist() == [1] for name in names)
    assert (tmp_path / "collation.json").is_file()
    (tmp_path / names[2]).unlink()
    assert folder.published() is None

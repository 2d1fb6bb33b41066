"""Collations on Dask are the sequential one, whatever the boxes, threads, schedulers, formats and the order of rows."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skysom.engine.collation.actions import Action, Effect, actions_for
from skysom.engine.collation.groups import Corrections
from skysom.jobs.collation.collate import CollateSettings, collate
from skysom.jobs.collation.inputs import STATUSES, Mapped

for _name in ("random_skies",):
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
skies = sys.modules["random_skies"]


def run(inputs, folder, **chosen):
    return collate(inputs, folder, CollateSettings(**chosen), scheduler="threads")


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.parquet"))}


kinds = st.builds(
    skies.SkyKind,
    rows=st.integers(1, 70),
    other_rows=st.integers(1, 50),
    spread_arcsec=st.sampled_from([15.0, 60.0, 200.0]),
    labels=st.integers(0, 6),
    base_channels=st.lists(st.booleans(), max_size=2).map(lambda more: (True, *more)),
    centres=st.lists(st.sampled_from(skies.CENTRES), min_size=1, max_size=2, unique=True).map(tuple),
    spoiled=st.booleans(),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=kinds,
    corrected=st.booleans(),
    rows_per_box=st.integers(1, 100),
    threads=st.integers(1, 3),
)
def test_parallel_is_sequential(tmp_path_factory, seed, kind, corrected, rows_per_box, threads):
    folder = tmp_path_factory.mktemp("sky")
    inputs = skies.make(folder, seed, replace(kind, corrected=corrected and kind.rows >= 4))
    summary = run(inputs, folder / "out", rows_per_box=rows_per_box, threads=threads)
    found, wanted = skies.published(folder / "out"), skies.expected(inputs)
    assert skies.differences(found, wanted) == []
    members = np.sort(np.concatenate([np.zeros(0, int), *found["sources"]["members"].to_pylist()]))
    assert members.tolist() == list(range(kind.rows))
    assert summary["sources"] == len(wanted["sources"])
    assert summary["carried_pairs"] > 0 or kind.rows < 70


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A crowded sky about RA 0 and a pole, and the bytes of its tables when collated in one box on one thread."""
    folder = tmp_path_factory.mktemp("crowded")
    kind = skies.SkyKind(rows=300, other_rows=300, spread_arcsec=150.0, centres=skies.CENTRES[:3], labels=3)
    inputs = skies.make(folder, 11, replace(kind, actions=("LINK", "DATA_ATTACH", "ISOLATE")))
    summary = run(inputs, folder / "whole", rows_per_box=10_000, threads=1)
    assert summary["boxes"] == 1
    assert summary["largest_source"] > 5
    return folder, inputs, bytes_of(folder / "whole")


@pytest.mark.parametrize(("rows_per_box", "threads"), [(9, 2), (40, 1), (250, 4)])
def test_files_are_the_same_bytes_whatever_the_boxes(crowded, tmp_path, rows_per_box, threads):
    _, inputs, wanted = crowded
    summary = run(inputs, tmp_path, rows_per_box=rows_per_box, threads=threads)
    assert summary["boxes"] > 1
    assert bytes_of(tmp_path) == wanted


def test_tables_are_sorted_and_numbered(crowded):
    folder, inputs, _ = crowded
    tables = skies.published(folder / "whole")
    sources = tables["sources"]
    members = sources["members"].to_pylist()
    assert sources["source"].to_pylist() == list(range(len(sources)))
    assert [rows[0] for rows in members] == sorted(rows[0] for rows in members)
    assert all(rows == sorted(rows) for rows in members)
    source_of = {row: number for number, rows in enumerate(members) for row in rows}
    components = tables["components"]
    assert components["row"].to_pylist() == list(range(inputs.base.rows))
    assert components["source"].to_pylist() == [source_of[row] for row in range(inputs.base.rows)]
    edges = tables["edges"].to_pandas()
    assert edges.equals(edges.sort_values(["u", "v", "count"], ignore_index=True))
    assert (edges["u"] <= edges["v"]).all()
    counts = tables["evidence"]["count"].to_pylist()
    assert counts == sorted(set(counts))


def test_order_of_rows_does_not_matter_but_for_their_numbers(crowded, tmp_path):
    """The rows of the other catalogue are shuffled: the same ids are attached."""
    folder, inputs, _ = crowded
    table = pd.read_parquet(inputs.catalogues[1].path)
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = skies.write_catalogue(tmp_path / "shuffled.parquet", table.iloc[order])
    run(replace(inputs, catalogues=(inputs.base, shuffled)), tmp_path / "out", rows_per_box=60)
    found, wanted = (skies.published(path)["sources"] for path in (tmp_path / "out", folder / "whole"))
    slug = "label_1"
    assert sum(map(len, wanted[f"{slug}_ids"].to_pylist())) > 10
    assert found[f"{slug}_ids"].to_pylist() == wanted[f"{slug}_ids"].to_pylist()
    assert found["members"].to_pylist() == wanted["members"].to_pylist()


@pytest.mark.parametrize("suffix", ["csv", "fits", "vot"])
def test_formats_say_the_same(tmp_path, suffix):
    made = {}
    for name in ("parquet", suffix):
        (tmp_path / name).mkdir()
        inputs = skies.make(tmp_path / name, 5, skies.SkyKind(rows=50, centres=skies.CENTRES[:1]), suffix=name)
        run(inputs, tmp_path / name / "out", rows_per_box=30)
        made[name] = skies.published(tmp_path / name / "out")
    assert skies.differences(made[suffix], made["parquet"]) == []
    assert len(made[suffix]["sources"]) < 50


def test_other_stores_hold_the_same_tables(crowded):
    upath = pytest.importorskip("upath")
    _, inputs, wanted = crowded
    folder = upath.UPath("memory://collations/one")
    run(inputs, folder, rows_per_box=200)
    assert {name: (folder / name).read_bytes() for name in wanted} == wanted


# --- skies that are hardly there ------------------------------------------------------------------


def test_one_row(tmp_path):
    inputs = skies.make(tmp_path, 0, skies.SkyKind(rows=1, other_rows=1, spoiled=False))
    assert run(inputs, tmp_path / "out")["sources"] == 1
    assert skies.differences(skies.published(tmp_path / "out"), skies.expected(inputs)) == []


@pytest.mark.parametrize("rows", [0, 30])
def test_empty_catalogues(tmp_path, rows):
    inputs = skies.make(tmp_path, 3, skies.SkyKind(rows=30, other_rows=20))
    none = np.empty(0, np.int64)
    empty = pq.read_table(inputs.catalogues[1].path).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    nothing = replace(inputs.catalogues[1], path=tmp_path / "empty.parquet", rows=0)
    if rows == 0:
        inputs = replace(
            inputs, catalogues=(nothing, nothing), rank=none, status=none, mapped=Mapped(none, none, none, none, none)
        )
    else:
        inputs = replace(inputs, catalogues=(inputs.base, nothing))
    summary = run(inputs, tmp_path / "out", rows_per_box=9)
    assert summary["components"] == rows
    found = skies.published(tmp_path / "out")
    assert [len(found[name]) for name in ("sources", "components")] == [summary["sources"], rows]
    if rows:
        alone = replace(inputs, catalogues=inputs.catalogues[:1], base_channels=np.array([True]))
        alone = replace(alone, planes=inputs.planes[:, :1])
        collated = ["members", "count", "representative", "size_arcsec"]
        assert (
            skies.differences(
                {"sources": found["sources"].select(collated)},
                {"sources": skies.expected(alone)["sources"].select(collated)},
            )
            == []
        )


def test_without_labels_every_component_is_a_source(tmp_path):
    inputs = skies.make(tmp_path, 4, skies.SkyKind(rows=50, labels=0))
    summary = run(inputs, tmp_path / "out", rows_per_box=20)
    assert summary["sources"] == 50
    assert summary["carried_pairs"] == 0
    assert skies.differences(skies.published(tmp_path / "out"), skies.expected(inputs)) == []


def test_a_pair_across_ra_0_and_one_at_the_pole_are_linked(tmp_path):
    ra, dec = np.array([0.0005, 359.9995, 10.0, 190.0]), np.array([5.0, 5.0, 89.9995, 89.9995])
    inputs = skies.make(tmp_path, 0, skies.SkyKind(rows=4, labels=1, spoiled=False, base_channels=(True,)))
    table = pd.DataFrame({"name": list("abcd"), "RA": ra, "DEC": dec, "flux": 1.0, "z": np.nan})
    base = skies.write_catalogue(tmp_path / "four.parquet", table)
    inputs = replace(
        inputs,
        catalogues=(base,),
        planes=np.ones_like(inputs.planes),
        actions=actions_for(inputs.labels, {"label 0": "LINK"}),
        limit_arcsec=30.0,
    )
    summary = run(inputs, tmp_path / "out", rows_per_box=1)
    assert summary["boxes"] > 1
    sources = skies.published(tmp_path / "out")["sources"]
    assert sources["member_ids"].to_pylist() == [["a", "b"], ["c", "d"]]
    assert sources["size_arcsec"].to_pylist() == pytest.approx([3.6 * np.cos(np.radians(5)), 3.6], rel=1e-6)


def test_spoiled_rows_are_sources_with_their_status(tmp_path):
    """Those without a position and repeated ids are never members; the others may be."""
    inputs = skies.make(tmp_path, 8, skies.SkyKind(rows=80, spread_arcsec=20.0, labels=1, actions=("LINK",)))
    inputs = replace(inputs, planes=np.ones_like(inputs.planes))
    summary = run(inputs, tmp_path / "out", rows_per_box=30)
    assert sum(summary["status"].values()) == 80
    components = skies.published(tmp_path / "out")["components"].to_pandas()
    assert components["status"].tolist() == inputs.status_names().tolist()
    alone = ~inputs.matchable()
    assert alone.sum() >= 3
    assert (components["components"][alone] == 1).all()
    others = (inputs.status > 0) & ~alone
    assert (components["components"][others] > 1).any()
    sources = skies.published(tmp_path / "out")["sources"].to_pandas().set_index("source")
    of_alone = sources.loc[components["source"][alone], "status"]
    assert set(of_alone) <= {STATUSES[2], STATUSES[3]}


@pytest.mark.parametrize("spoilt", ["another sky", "radians", None])
def test_a_catalogue_under_no_mask_is_told(tmp_path, capsys, spoilt):
    kind = skies.SkyKind(rows=40, labels=1, actions=("LINK",), centres=skies.CENTRES[4:], spread_arcsec=20.0)
    inputs = skies.make(tmp_path, 17, replace(kind, spoiled=False))
    inputs = replace(inputs, planes=np.ones_like(inputs.planes))
    if spoilt:
        table = pd.read_parquet(inputs.catalogues[1].path)
        moved = np.radians(table[["RA", "DEC"]]) if spoilt == "radians" else table[["RA", "DEC"]] - [0, 40]
        other = skies.write_catalogue(tmp_path / "infrared.parquet", table.assign(RA=moved["RA"], DEC=moved["DEC"]))
        inputs = replace(inputs, catalogues=(inputs.base, other))
    sentence = "channel 1 (infrared.parquet): no row lies under any mask; is it a catalogue of the same sky"
    for _ in range(2):  # a finished one says it, too
        summary, said = run(inputs, tmp_path / "out", rows_per_box=20), capsys.readouterr().err
        assert (f"collate: WARNING: {sentence}" in said) == bool(spoilt)
        assert len(summary["warnings"]) == bool(spoilt)
        assert summary["carried_by_channel"][0] > 40
        assert (summary["carried_by_channel"][1] == 0) == bool(spoilt)
        assert summary["carried_pairs"] == sum(summary["carried_by_channel"])
    assert skies.differences(skies.published(tmp_path / "out"), skies.expected(inputs)) == []


# --- more than one way to act ---------------------------------------------------------------------


def close_ones(island, source, rows):
    """Link what is near, and flag where that is nothing."""
    near = [row for row in rows.get(0, ()) if island.separation_arcsec(0, row) < 30]
    return Effect(link=near) if near else Effect(flag=True)


def test_a_users_action_is_the_same_in_boxes(tmp_path):
    inputs = skies.make(tmp_path, 2, skies.SkyKind(rows=60, labels=2, centres=skies.CENTRES[:1]))
    mine = Action("CLOSE", close_ones, nodes=True, flag=True)
    inputs = replace(inputs, actions=actions_for(inputs.labels, {"label 0": mine, "label 1": "UNLINK"}))
    run(inputs, tmp_path / "out", rows_per_box=15)
    assert skies.differences(skies.published(tmp_path / "out"), skies.expected(inputs)) == []


def test_base_rows_that_a_label_attaches_may_be_of_other_islands(tmp_path):
    kind = skies.SkyKind(rows=60, labels=1, base_channels=(True, True), actions=("DATA_ATTACH",))
    inputs = skies.make(tmp_path, 6, replace(kind, centres=skies.CENTRES[:2], spoiled=False))
    summary = run(inputs, tmp_path / "out", rows_per_box=7)
    assert summary["sources"] == 60
    attached = skies.published(tmp_path / "out")["sources"]["label_0_rows"].to_pylist()
    assert any(row not in (number, None) for number, rows in enumerate(attached) for row in rows)
    assert skies.differences(skies.published(tmp_path / "out"), skies.expected(inputs)) == []


def test_corrections_are_obeyed_from_the_start(tmp_path):
    inputs = skies.make(tmp_path, 9, skies.SkyKind(rows=40))
    inputs = replace(inputs, corrections=Corrections(((0, 39), (5, 6, 7)), (7,)))
    run(inputs, tmp_path / "out", rows_per_box=10)
    found = skies.published(tmp_path / "out")
    source = found["components"]["source"].to_pylist()
    assert source[0] == source[39]
    assert skies.differences(found, skies.expected(inputs)) == []
    assert pa.types.is_list(found["sources"].schema.field("members").type)

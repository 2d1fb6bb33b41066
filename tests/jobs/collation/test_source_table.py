"""The tables of sources and components, against what plain Python and astropy make of each group."""

import importlib.util
import sys
from dataclasses import replace
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.cosmology import Planck18
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine.collation.grouping import group
from skysom.engine.collation.shapes import group_shapes
from skysom.engine.errors import CollationError
from skysom.jobs.collation.source_table import component_table, number_sources, rows_attached, rows_needed, source_table
from skysom.storage.table_export import text_of

_spec = importlib.util.spec_from_file_location("source_table_skies", Path(__file__).with_name("source_table_skies.py"))
assert _spec is not None
assert _spec.loader is not None
skies = importlib.util.module_from_spec(_spec)
sys.modules["source_table_skies"] = skies
_spec.loader.exec_module(skies)

CENTRES = [(0.0, -30.0), (0.0, 90.0), (250.0, -89.99), (120.0, 0.0)]


def tables(sky: Any) -> tuple[pa.Table, pa.Table]:
    sources = source_table(sky.groups, sky.base, sky.carried, {1: sky.infrared}, sky.columns)
    return sources, component_table(sky.groups, sky.base, sources, sky.columns)


# --- the plain reference --------------------------------------------------------------------------


def expected(sky: Any, g: int) -> dict[str, Any]:
    """A source's row, made one value at a time."""
    groups, base = sky.groups, sky.base
    rows = groups.members[groups.starts[g] : groups.starts[g + 1]].tolist()
    members = base.loc[rows]
    evidence = groups.evidence_source[groups.evidence_starts[g] : groups.evidence_starts[g + 1]].tolist()
    first = evidence[0] if evidence else -1
    best = rows[0]
    if first in rows:
        best = first
    if members["Total"].notna().any():
        best = int(members["Total"].idxmax())
    position, weighted = expected_position(members)
    found: dict[str, Any] = {
        "source": rows[0],
        "components": len(rows),
        "members": rows,
        "member_ids": members["id"].tolist(),
        "best_component": best,
        "best_component_id": base.loc[best, "id"],
        "position_weighted": weighted,
        "representative": first,
        "count": groups.count[first] if evidence else -1,
        "masks": len(evidence),
        "neuron": base.loc[first, "neuron"] if evidence else -1,
        "distance": base.loc[first, "distance"] if evidence else None,
        "neuron_labels": list(sky.columns.neuron_labels[base.loc[first, "neuron"]]) if evidence else [],
        "redshift": base.loc[best, "z"],
        "status": "ok" if evidence else base.loc[best, "status"],
    }
    for flux in ("Total", "Peak"):
        found[f"{flux}_values"] = int(members[flux].notna().sum())
        found[f"{flux}_sum"] = members[flux].sum() if found[f"{flux}_values"] else None
    isolated = [label for row in rows if (label := groups.isolated[row]) >= 0]
    found["isolated"] = skies.LABELS[isolated[0]] if isolated else None
    for label in (2, 3, 4):
        value = skies.CHOSEN[skies.LABELS[label]] != "FALSE_ATTACH"
        slug = sky.columns.slugs[label]
        found[slug] = value if evidence and under(sky, first, label) else None
        found[f"{slug}_union"] = value if any(under(sky, source, label) for source in evidence) else None
    for label in (1, 5):
        found |= expected_hosts(sky, label, evidence, position)
    return found | {"position": position}


def expected_position(members: pd.DataFrame) -> tuple[SkyCoord | None, bool]:
    placed = members[members["ra_deg"].notna()]
    if not len(placed):
        return None, False
    weighted = bool((placed["Total"] > 0).all())
    weights = placed["Total"].to_numpy() if weighted else np.ones(len(placed))
    vectors = SkyCoord(placed["ra_deg"], placed["dec_deg"], unit="deg").cartesian.xyz.value
    mean = (vectors * weights).sum(axis=1)
    lon, lat = np.arctan2(mean[1], mean[0]), np.arctan2(mean[2], np.hypot(mean[0], mean[1]))
    return SkyCoord(lon, lat, unit="rad"), weighted


def under(sky: Any, source: int, label: int) -> list[tuple[int, int]]:
    """(channel, row) of what lies under a label of a source's mask."""
    carried = sky.carried
    own = (carried.source == source) & ((carried.bits >> np.uint64(label)) & np.uint64(1) != 0)
    return list(zip(carried.channel[own].tolist(), carried.row[own].tolist(), strict=True))


def expected_hosts(sky: Any, label: int, evidence: list[int], position: SkyCoord | None) -> dict[str, Any]:
    slug = sky.columns.slugs[label]
    catalogues = {0: sky.base, 1: sky.infrared}
    if position is None:  # such a source never uses a mask here
        evidence = []

    def ranked(hosts: set[tuple[int, int]]) -> list[tuple[float, int, int]]:
        if not hosts:
            return []
        found = [catalogues[channel].loc[row, ["ra_deg", "dec_deg"]].tolist() for channel, row in hosts]
        far = SkyCoord(found, unit="deg").separation(position).arcsec
        return sorted((away, row, channel) for away, (channel, row) in zip(far, hosts, strict=True))

    own = ranked(set(under(sky, evidence[0], label)) if evidence else set())
    union = ranked({pair for source in evidence for pair in under(sky, source, label)})
    found = {
        f"{slug}_count": len(own),
        f"{slug}_rows": [row for _, row, _ in own],
        f"{slug}_ids": [str(catalogues[channel].loc[row, "id"]) for _, row, channel in own],
        f"{slug}_separation_arcsec": pytest.approx([far for far, *_ in own], abs=1e-6),
        f"{slug}_ra_deg": [catalogues[channel].loc[row, "ra_deg"] for _, row, channel in own],
        f"{slug}_dec_deg": [catalogues[channel].loc[row, "dec_deg"] for _, row, channel in own],
        f"{slug}_rows_union": [row for _, row, _ in union],
    }
    if label == 5:
        found[f"{slug}_channels"] = [channel for *_, channel in own]
        found[f"{slug}_channels_union"] = [channel for *_, channel in union]
    return found


# --- tests ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6), centre=st.sampled_from(CENTRES))
def test_every_value_of_every_source(seed: int, centre: tuple[float, float]) -> None:
    sky = skies.sky(seed, 25, centre)
    sources, _ = tables(sky)
    assert sources.schema.equals(sky.columns.schema, check_metadata=True)
    shape_names = ("name", "ra_deg", "dec_deg", "size_arcsec", "position_angle_deg", "path_arcsec", "curvature")
    for g, row in enumerate(sources.to_pylist()):
        wanted = expected(sky, g)
        position = wanted.pop("position")
        for name, value in wanted.items():
            missing = value is None or (isinstance(value, float) and np.isnan(value))
            close = isinstance(value, float) and not missing
            assert row[name] == (None if missing else pytest.approx(value, rel=1e-12) if close else value), name
        if position is None:
            assert all(row[name] is None for name in shape_names)
        else:
            found = SkyCoord(row["ra_deg"], row["dec_deg"], unit="deg")
            assert found.separation(position).arcsec < 1e-9
        assert set(row) == {*wanted, *shape_names, "path_approximate", "size_kpc"}


def test_shapes_and_linear_sizes() -> None:
    sky = skies.sky(3)
    sources, _ = tables(sky)
    rows, starts = sky.groups.members, sky.groups.starts
    shape = group_shapes(sky.base["ra_deg"].to_numpy()[rows], sky.base["dec_deg"].to_numpy()[rows], starts)
    size, z = sources["size_arcsec"].to_numpy(), sources["redshift"].to_numpy()
    np.testing.assert_array_equal(size, shape.size_arcsec)
    np.testing.assert_array_equal(sources["path_arcsec"].to_numpy(), shape.path_arcsec)
    angle = sources["position_angle_deg"].to_numpy()
    several = size > 0
    assert 2 < several.sum() < len(sources)
    np.testing.assert_array_equal(angle[several], shape.position_angle_deg[several])
    assert np.isnan(angle[~several]).all()
    good = z > 0
    kpc = (size[good] * u.arcsec * Planck18.kpc_proper_per_arcmin(z[good])).to_value("kpc")
    np.testing.assert_allclose(sources["size_kpc"].to_numpy()[good], kpc, rtol=1e-8)
    assert np.isnan(sources["size_kpc"].to_numpy()[~good]).all()
    assert (z < 0).any()


def test_angles_and_paths_are_those_of_astropy() -> None:
    sky = skies.sky(6, 60)
    sources, _ = tables(sky)
    checked = 0
    for row in sources.to_pylist():
        members = sky.base.loc[row["members"], ["ra_deg", "dec_deg"]].dropna()
        if not 2 <= len(members) <= 6:
            continue
        places = SkyCoord(members["ra_deg"], members["dec_deg"], unit="deg")
        far = places[:, None].separation(places[None, :]).arcsec
        first, second = max(combinations(range(len(places)), 2), key=lambda pair: far[pair])
        between = permutations([k for k in range(len(places)) if k not in (first, second)])
        paths = [sum(far[a, b] for a, b in pairwise([first, *middle, second])) for middle in between]
        assert row["path_arcsec"] == pytest.approx(min(paths), abs=1e-7)
        assert row["size_arcsec"] == pytest.approx(far[first, second], abs=1e-7)
        angle = places[first].position_angle(places[second]).deg
        assert (row["position_angle_deg"] - angle + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)
        checked += len(members) > 2
    assert checked > 1


def test_members_at_one_place_have_no_position_angle() -> None:
    sky = skies.sky(3)
    several = next(row for row in tables(sky)[0].to_pylist() if row["components"] > 2 and row["size_arcsec"])
    base = sky.base.copy()
    base.loc[several["members"], ["ra_deg", "dec_deg"]] = (10.0, 20.0)
    row = tables(replace(sky, base=base))[0].to_pylist()[several_at(sky, several["source"])]
    assert (row["source"], row["size_arcsec"], row["position_angle_deg"]) == (several["source"], 0.0, None)


def several_at(sky: Any, smallest_row: int) -> int:
    """Number of the source whose smallest row this is."""
    return int(sky.groups.group_of[smallest_row])


def test_links_attach_rows_of_other_catalogues() -> None:
    sky = skies.sky(12)
    bits = sky.carried.bits | ((sky.carried.channel == 1) & (sky.carried.row % 3 > 0)).astype(np.uint64)
    carried = replace(sky.carried, bits=bits)
    channels = ((0, 1), *sky.columns.label_channels[1:])
    columns = replace(sky.columns, label_channels=channels, redshift_of="Related radio")
    groups = group(carried, np.arange(len(sky.base)), sky.groups.count, columns.actions, [True, False])
    sky = replace(sky, carried=carried, columns=columns, groups=groups)
    sources, _ = tables(sky)
    own_rows = rows_needed(rows_attached(groups, carried, columns), columns)
    some = 0
    for g, row in enumerate(sources.to_pylist()):
        evidence = groups.evidence_source[groups.evidence_starts[g] : groups.evidence_starts[g + 1]].tolist()
        wanted = [{r for channel, r in under(sky, source, 0) if channel == 1} for source in evidence]
        found = row["related_radio_rows"]
        assert sorted(found) == sorted(wanted[0] if wanted else [])
        assert row["related_radio_count"] == len(found)
        assert row["related_radio_ids"] == [str(sky.infrared.loc[host, "id"]) for host in found]
        assert set(row["related_radio_rows_union"]) == set().union(*wanted) <= set(own_rows[1].tolist())
        assert row["redshift"] == (sky.infrared.loc[found[0], "z"] if found else None)
        some += len(found) > 1
    assert some
    assert "related_radio_channels" not in sources.column_names


def test_the_redshift_of_the_first_host() -> None:
    sky = skies.sky(8, redshift_of="IR host")
    for row in tables(sky)[0].to_pylist():
        hosts = row["ir_host_rows"]
        assert row["redshift"] == (sky.infrared.loc[hosts[0], "z"] if hosts else None)


def test_components_join_to_their_catalogue() -> None:
    sky = skies.sky(5)
    sources, components = tables(sky)
    assert components.schema.equals(sky.columns.component_schema, check_metadata=True)
    assert components["row"].to_pylist() == list(range(len(sky.base)))
    joined = components.to_pandas().merge(sky.base, on="id", how="inner", validate="one_to_one")
    assert len(joined) == len(sky.base)
    assert joined["status_x"].tolist() == sky.base["status"].tolist()
    by_source = {row["source"]: row for row in sources.to_pylist()}
    for row in components.to_pylist():
        source = by_source[row["source"]]
        assert row["row"] in source["members"]
        assert (row["source_name"], row["components"]) == (source["name"], source["components"])
        assert row["role"] == ("best" if row["row"] == source["best_component"] else "member")
        label = sky.groups.isolated[row["row"]]
        assert row["isolated"] == (skies.LABELS[label] if label >= 0 else None)
    assert components["role"].to_pylist().count("best") == len(sources)


def test_parts_one_below_another_are_the_whole() -> None:
    sky = skies.sky(11, 60)
    sources, components = tables(sky)
    smallest = sky.groups.members[sky.groups.starts[:-1]]
    parts: list[tuple[pa.Table, pa.Table]] = []
    carried, island = sky.carried, np.arange(len(sky.base))
    for source, channel, row in zip(carried.source, carried.channel, carried.row, strict=True):
        if channel == 0:
            island[island == island[row]] = island[source]
    assert len(set(island.tolist())) > 3
    rank = np.where(sky.groups.count >= 0, sky.groups.count, -1)
    for islands in np.array_split(np.unique(island), 3):
        rows = np.flatnonzero(np.isin(island, islands))
        own = carried.of_sources(rows)
        groups = group(own, rows, rank[rows], sky.columns.actions, [True, False])
        attached = rows_attached(groups, own, sky.columns)
        needed = rows_needed(attached, sky.columns)
        base = sky.base.loc[np.union1d(rows, needed.get(0, rows))]
        infrared = sky.infrared.loc[needed.get(1, np.zeros(0, int))]
        part = source_table(groups, base, own, {1: infrared}, sky.columns, attached)
        parts.append((part, component_table(groups, base, part, sky.columns)))
    together = pa.concat_tables([part for part, _ in parts]).sort_by("source").combine_chunks()
    assert together.equals(sources.combine_chunks())
    rows = pa.concat_tables([part for _, part in parts]).sort_by("row").combine_chunks()
    assert rows.equals(components.combine_chunks())
    assert number_sources(together, smallest)["source"].to_pylist() == list(range(len(sources)))
    assert number_sources(rows, smallest)["source"].to_pylist() == sky.groups.group_of.tolist()


def test_empty_parts_have_the_same_columns(tmp_path: Path) -> None:
    sky = skies.sky(2)
    none = group(sky.carried.take(slice(0, 0)), np.zeros(0, int), np.zeros(0, int), sky.columns.actions, [True, False])
    empty = source_table(none, sky.base.iloc[:0], sky.carried.take(slice(0, 0)), {}, sky.columns)
    assert empty.schema.equals(sky.columns.schema, check_metadata=True)
    assert len(empty) == len(component_table(none, sky.base.iloc[:0], empty, sky.columns)) == 0
    assert rows_needed(rows_attached(none, sky.carried, sky.columns), sky.columns) == {}
    pq.write_table(empty, tmp_path / "empty.parquet")
    field = pq.read_schema(tmp_path / "empty.parquet").field("size_arcsec")
    assert (text_of(field, "unit"), text_of(field, "ucd")) == ("arcsec", "phys.angSize")
    assert text_of(field, "description") == "largest separation of two members"


def test_neurons_need_no_labels() -> None:
    sky = skies.sky(7)
    columns = replace(sky.columns, neuron_labels=())
    sources = source_table(sky.groups, sky.base, sky.carried, {1: sky.infrared}, columns)
    assert sources["neuron_labels"].to_pylist() == [[]] * len(sources)
    assert sources["neuron"].equals(tables(sky)[0]["neuron"])


def test_without_fluxes_the_mask_chooses_the_best_component() -> None:
    sky = skies.sky(7, flux=(), redshift=None)
    sources, _ = tables(sky)
    assert not {"Total_sum", "redshift", "size_kpc"} & set(sources.column_names)
    chosen = 0
    for row in sources.to_pylist():
        own = row["representative"] in row["members"]
        assert row["best_component"] == (row["representative"] if own else row["members"][0])
        assert not row["position_weighted"]
        chosen += own and row["representative"] != row["members"][0]
    assert chosen > 0


def test_rows_that_are_needed_and_missing() -> None:
    sky = skies.sky(4)
    with pytest.raises(CollationError, match="row 0 is needed"):
        source_table(sky.groups, sky.base.iloc[1:], sky.carried, {1: sky.infrared}, sky.columns)
    needed = rows_needed(rows_attached(sky.groups, sky.carried, sky.columns), sky.columns)
    with pytest.raises(CollationError, match=f"channel 1: row {needed[1][0]} is needed"):
        source_table(sky.groups, sky.base, sky.carried, {1: sky.infrared.drop(needed[1][0])}, sky.columns)
    with pytest.raises(CollationError, match="no table"):
        source_table(sky.groups, sky.base, sky.carried, {}, sky.columns)


def test_what_is_attached_does_not_depend_on_other_pairs() -> None:
    sky = skies.sky(9)
    some = sky.carried.of_sources(sky.groups.evidence_source)
    assert len(some) < len(sky.carried)
    again = source_table(sky.groups, sky.base, some, {1: sky.infrared}, sky.columns)
    assert again.equals(tables(sky)[0])
    assert all(a < b for a, b in pairwise(again["source"].to_pylist()))

"""Cross-match: both backends give the same table, which is astropy's answer, on simulated skies and real catalogues."""

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.hats import HatsOptions, import_hats
from skysom.jobs.joins.sky import SkyJoin, join_sky
from skysom.storage.errors import CatalogueError
from skysom.storage.hats import read_structure
from skysom.storage.hats_partitions import SkyPartitions, spatial_index

BACKENDS = ("astropy", "lsdb")
RA_DEC = ("ra", "dec"), ("ra_right", "dec_right")


def crowd(seed, count=400, width_deg=3.0):
    """Rows about the poles, RA 0 and elsewhere, some doubled, some without a position, in no order."""
    rng = np.random.default_rng(seed)
    ra, dec = [], []
    for centre in [(0, 0), (77, 90), (10, -90), (180, 45), (359.9, 41.8)]:
        away = rng.uniform(0, width_deg, count // 5) ** 3 / width_deg**2 * u.deg
        found = SkyCoord(*centre, unit="deg").directional_offset_by(rng.uniform(0, 360, len(away)) * u.deg, away)
        ra.append(found.ra.deg)
        dec.append(found.dec.deg)
    ra, dec = np.concatenate(ra), np.concatenate(dec)
    ra[:3], dec[:3] = ra[3:6], dec[3:6]
    ra[7], dec[9] = np.nan, np.nan
    place = rng.permutation(len(ra))
    table = pd.DataFrame({"id": np.arange(len(ra)), "ra": ra[place], "dec": dec[place]})
    table["flux"] = rng.lognormal(size=len(ra)).astype(np.float32)
    table["number"] = pd.array(rng.integers(0, 9, len(ra)), dtype="Int16")
    table.loc[::7, "number"] = pd.NA
    table["name"] = [f"J{n:04d}" if n % 11 else None for n in range(len(ra))]
    table["good"] = rng.random(len(ra)) > 0.5
    return table


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory):
    """Two catalogues as Parquet, and as HATS of some twenty partitions each."""
    folder = tmp_path_factory.mktemp("catalogues")
    for name, table in {"left": crowd(1), "right": crowd(2, 700).rename(columns={"flux": "s_code"})}.items():
        table.to_parquet(folder / f"{name}.parquet")
        options = HatsOptions(partition_rows=60, margin_arcsec=1000 if name == "right" else 0)
        import_hats(folder / f"{name}.parquet", folder / name, options)
    return folder


def read(path):
    return pq.read_table(path).sort_by([("id", "ascending"), ("rank", "ascending")])


SETTINGS = [
    SkyJoin(600, where="not good or rank == 1", suffix="_2"),
    SkyJoin(1000, "one-to-one"),
    SkyJoin(300, "all", "inner", left_where="good", right_where="number < 5", where="separation_arcsec > 50"),
    SkyJoin(500, "one-to-one", "inner", left_where="flux > 1", right_where="good", right_columns=("name",)),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: f"{one.how}-{one.radius_arcsec:g}-{one.keep}")
def test_backends_give_the_same_table(tmp_path, catalogues, settings):
    joined, tables = {}, {}
    for backend, ending in (("astropy", ".parquet"), ("astropy", ""), ("lsdb", "")):
        key, path = f"{backend}{ending}", tmp_path / f"{backend}{ending or '-hats.parquet'}"
        sides = catalogues / f"left{ending}", catalogues / f"right{ending}"
        joined[key] = join_sky(*sides, settings, path, backend=backend)
        tables[key] = read(path)
    first = tables["astropy.parquet"]
    assert len(first) > 20
    for key, table in tables.items():
        assert table.schema == first.schema, key
        assert table.equals(first), key
        assert joined[key].pairs == joined["astropy.parquet"].pairs
        assert joined[key].matched == joined["astropy.parquet"].matched
        assert joined[key].rows == len(table)
        assert joined[key].left_lost == joined["astropy.parquet"].left_lost


def test_the_answer_is_that_of_astropy(tmp_path, catalogues):
    left, right = (pd.read_parquet(catalogues / f"{name}.parquet") for name in ("left", "right"))
    good = [table.dropna(subset=["ra", "dec"]) for table in (left, right)]
    coordinates = [SkyCoord(table["ra"], table["dec"], unit="deg") for table in good]
    i, j, separation, _ = search_around_sky(*coordinates, 1000 * u.arcsec)
    expected = sorted(zip(good[0]["id"].iloc[i], good[1]["id"].iloc[j], separation.arcsec, strict=True))
    assert len(expected) > 1000
    nearest, apart, _ = match_coordinates_sky(*coordinates)
    sides = catalogues / "left.parquet", catalogues / "right.parquet"
    for backend in BACKENDS:
        path = tmp_path / f"{backend}.parquet"
        joined = join_sky(*sides, SkyJoin(1000, "all"), path, backend=backend)
        frame = read(path).to_pandas()
        matched = frame.dropna(subset=["separation_arcsec"])
        found = sorted(zip(matched["id"], matched["id_right"].astype(int), matched["separation_arcsec"], strict=True))
        assert [one[:2] for one in found] == [one[:2] for one in expected], backend
        np.testing.assert_allclose([one[2] for one in found], [one[2] for one in expected], rtol=0, atol=1e-9)
        assert joined.left_lost == 2
        assert joined.right_lost == 2
        first = matched[matched["rank"] == 1].set_index("id")["separation_arcsec"]
        near = pd.Series(apart.arcsec, index=good[0]["id"].to_numpy())
        near = near[near <= 1000].sort_index()
        np.testing.assert_allclose(first.sort_index(), near, rtol=0, atol=1e-9)
        found = matched[matched["rank"] == 1].set_index("id").sort_index()[["ra_right", "dec_right"]]
        theirs = good[1][["ra", "dec"]].iloc[nearest].set_index(good[0]["id"].to_numpy()).loc[near.index]
        np.testing.assert_array_equal(found, theirs)  # positions, as astropy takes any of rows at one place


def test_margins_that_others_wrote_are_used(tmp_path, catalogues):
    from skysom.storage.hats_partitions import quiet
    from skysom.storage.table_stream import open_table

    right = pd.read_parquet(catalogues / "right.parquet").dropna(subset=["ra", "dec"])
    with quiet():
        import lsdb

        columns = {"ra_column": "ra", "dec_column": "dec"}
        made = lsdb.from_dataframe(right, **columns, margin_threshold=300, partition_rows=60)
        made.write_catalog(tmp_path / "theirs", catalog_name="theirs", progress_bar=False)
    assert not open_table(tmp_path / "theirs").numbered
    for how in ("nearest", "all"):
        tables = []
        for backend, name in {"astropy": "left.parquet", "lsdb": "left"}.items():
            path = tmp_path / f"{backend}-{how}.parquet"
            join_sky(catalogues / name, tmp_path / "theirs", SkyJoin(300, how), path, backend=backend)
            tables.append(read(path))
        assert tables[0].equals(tables[1])
    matched = tables[0].filter(pa.compute.is_valid(tables[0]["rank"]))
    sides = [spatial_index(matched[ra].to_numpy(), matched[dec].to_numpy()) for ra, dec in RA_DEC]
    with quiet():
        pixels = read_structure(tmp_path / "theirs").get_healpix_pixels()
    orders, numbers = (np.array([getattr(one, name) for one in pixels]) for name in ("order", "pixel"))
    place = np.argsort(numbers << 2 * (29 - orders))
    partitions = SkyPartitions(orders[place], numbers[place])
    assert (partitions.of(sides[0]) != partitions.of(sides[1])).sum() > 20


def test_types_are_kept_and_unmatched_values_are_missing(tmp_path, catalogues):
    join_sky(catalogues / "left.parquet", catalogues / "right.parquet", SkyJoin(100), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    left = pq.read_schema(catalogues / "left.parquet")
    right = pq.read_schema(catalogues / "right.parquet")
    kinds = {name: table.schema.field(name).type for name in table.column_names}
    assert kinds["number"] == left.field("number").type == pa.int16()
    assert kinds["number_right"] == right.field("number").type
    assert kinds["good_right"] == pa.bool_()
    assert kinds["id_right"] == pa.int64()
    assert kinds["s_code"] == pa.float32()
    assert kinds["rank"] == pa.int32()
    alone = table.filter(pa.compute.is_null(table["rank"]))
    assert len(alone) > 10
    for name in ("id_right", "ra_right", "good_right", "s_code", "separation_arcsec"):
        assert alone[name].null_count == len(alone)
    assert table["id"].to_pylist() == list(range(400))  # in the order of the left catalogue


def test_columns_that_both_have_are_renamed_and_told(tmp_path, catalogues, capsys):
    first = tmp_path / "first.parquet"
    joined = join_sky(catalogues / "left.parquet", catalogues / "right.parquet", SkyJoin(100), first)
    assert joined.renamed["ra"] == "ra_right"
    assert "ra -> ra_right" in capsys.readouterr().err
    settings = SkyJoin(100, left_ra="ra", left_dec="dec", right_columns=("id",))
    join_sky(first, catalogues / "right.parquet", settings, tmp_path / "second.parquet")
    names = pq.read_schema(tmp_path / "second.parquet").names
    assert names[-3:] == ["id_right_right", "separation_arcsec_right", "rank_right"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_catalogue_with_itself(tmp_path, catalogues, backend):
    path = catalogues / "left.parquet"
    join_sky(path, path, SkyJoin(500, "all", "inner", not_self=True), tmp_path / "a.parquet", backend=backend)
    found = pq.read_table(tmp_path / "a.parquet").to_pandas()
    pairs = set(zip(found["id"], found["id_right"], strict=True))
    assert len(pairs) == len(found) > 100
    assert all(i != j for i, j in pairs)
    assert {(j, i) for i, j in pairs} == pairs
    assert (found["separation_arcsec"] == 0).sum() >= 6  # rows that are doubled


@pytest.mark.parametrize(
    ("backend", "name"), [("astropy", "a.csv"), ("astropy", "a"), ("lsdb", "a.fits"), ("lsdb", "a")]
)
def test_other_formats_and_hats_hold_the_same(tmp_path, catalogues, backend, name):
    from skysom.storage.table_stream import open_table

    ending = "" if backend == "lsdb" else ".parquet"
    sides = catalogues / f"left{ending}", catalogues / f"right{ending}"
    join_sky(*sides, SkyJoin(600, "all"), tmp_path / name, backend=backend)
    join_sky(*sides, SkyJoin(600, "all"), tmp_path / "b.parquet", backend="astropy")
    table, expected = open_table(tmp_path / name).table().to_pandas(), read(tmp_path / "b.parquet").to_pandas()
    table = table[list(expected.columns)].sort_values(["id", "rank"], ignore_index=True)
    for column in ("id", "ra_right", "rank", "separation_arcsec"):
        np.testing.assert_array_equal(table[column].to_numpy(float), expected[column].to_numpy(float))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "b.parquet"})


def test_lazy_answers_are_those_that_are_written(tmp_path, catalogues):
    from skysom.cluster.tables import dask_scheduler
    from skysom.jobs.joins.with_lsdb import lazy_join
    from skysom.storage.hats_partitions import quiet

    settings = SkyJoin(600, "all", "inner", left_where="good")
    join_sky(catalogues / "left", catalogues / "right", settings, tmp_path / "a.parquet", backend="astropy")
    with quiet(), dask_scheduler("threads"):
        lazy = lazy_join(catalogues / "left", catalogues / "right", settings)
        frame = lazy.to_dask_dataframe()
        assert frame.npartitions > 5
        found = frame.compute().sort_values(["id", "rank"])
        few = lazy.cone_search(0, 0, 3600).compute(progress_bar=False)
    expected = read(tmp_path / "a.parquet").to_pandas()
    assert found["id"].tolist() == expected["id"].tolist()
    assert found["separation_arcsec"].tolist() == expected["separation_arcsec"].tolist()
    assert 0 < len(few) < len(found)
    with pytest.raises(ConfigError, match="one-to-one"):
        lazy_join(catalogues / "left", catalogues / "right", SkyJoin(1, "one-to-one"))
    with pytest.raises(ConfigError, match="join hats"):
        lazy_join(catalogues / "left.parquet", catalogues / "right", SkyJoin(1))


def test_a_killed_join_goes_on_where_it_was(tmp_path, catalogues, monkeypatch, killed_after):
    from skysom.jobs.joins import lsdb_write as join_lsdb_write

    sides = catalogues / "left.parquet", catalogues / "right.parquet"
    join_sky(*sides, SkyJoin(600, "all"), tmp_path / "whole.parquet", backend="lsdb")
    with killed_after(5) as calls:
        join_sky(*sides, SkyJoin(600, "all"), tmp_path / "killed.parquet", backend="lsdb")
    assert not (tmp_path / "killed.parquet").exists()
    left_behind = tmp_path / ".killed.parquet.join"
    assert len(list((left_behind / "written").iterdir())) == 5
    imported = (left_behind / "right" / "collection.properties").stat().st_mtime_ns
    write, done = join_lsdb_write.write_atomically, []

    def watched(path, data):
        assert (left_behind / "right" / "collection.properties").stat().st_mtime_ns == imported
        done.append(path)
        write(path, data)

    monkeypatch.setattr(join_lsdb_write, "write_atomically", watched)
    join_sky(*sides, SkyJoin(600, "all"), tmp_path / "killed.parquet", backend="lsdb")
    assert not left_behind.exists()
    assert done
    assert not {path.name for path in done} & {path.name for path in calls[:5]}
    assert pq.read_table(tmp_path / "killed.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_what_does_not_fit_is_told_before_work_starts(tmp_path, catalogues):
    sides = catalogues / "left.parquet", catalogues / "right.parquet"
    out = tmp_path / "a.parquet"
    with pytest.raises(ConfigError, match="radius of -1"):
        join_sky(*sides, SkyJoin(-1), out)
    with pytest.raises(ConfigError, match=r"no column 'RA2'.*--left-ra"):
        join_sky(*sides, SkyJoin(1, left_ra="RA2"), out)
    with pytest.raises(CatalogueError, match="no column 'nothing'"):
        join_sky(*sides, SkyJoin(1, where="nothing > 1"), out)
    with pytest.raises(ConfigError, match="--right-column"):
        join_sky(*sides, SkyJoin(1, right_columns=("nothing",)), out)
    with pytest.raises(ConfigError, match=r"unknown format '.txt'"):
        join_sky(*sides, SkyJoin(1), tmp_path / "a.txt")
    with pytest.raises(ConfigError, match="one-to-one with not-self"):
        join_sky(*sides, SkyJoin(1, "one-to-one", not_self=True), out)
    with pytest.raises(ConfigError, match=r"margin of .* is 1000 arcsec, the radius 1001"):
        join_sky(catalogues / "left", catalogues / "right", SkyJoin(1001), out, backend="lsdb")
    assert list(tmp_path.iterdir()) == []
    out.touch()
    with pytest.raises(ConfigError, match="--overwrite"):
        join_sky(*sides, SkyJoin(1), out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_catalogues_that_lie_apart(tmp_path, backend):
    for name, dec in (("left", [10.0, 11.0]), ("right", [-40.0, -41.0])):
        pd.DataFrame({"id": [0, 1], "ra": [10.0, 20.0], "dec": dec}).to_csv(tmp_path / f"{name}.csv", index=False)
    sides = tmp_path / "left.csv", tmp_path / "right.csv"
    for how in ("nearest", "one-to-one"):
        found = join_sky(*sides, SkyJoin(1, how, "inner"), tmp_path / f"{how}.parquet", backend=backend)
        assert (found.left, found.matched, found.rows) == (2, 0, 0)
        assert len(pq.read_table(tmp_path / f"{how}.parquet")) == 0
    with pytest.raises(ConfigError, match="no row is left"):
        join_sky(*sides, SkyJoin(1, keep="inner"), tmp_path / "hats", backend=backend)
    assert not (tmp_path / "hats").exists()
    join_sky(*sides, SkyJoin(1), tmp_path / "left.parquet", backend=backend)
    assert pq.read_table(tmp_path / "left.parquet")["rank"].to_pylist() == [None, None]


def test_units_other_than_degrees_are_refused(tmp_path, catalogues):
    from astropy.table import Table

    Table({"ra": [1.0] * u.rad, "dec": [2.0] * u.deg}).write(tmp_path / "radians.fits")
    with pytest.raises(CatalogueError, match="degrees are needed"):
        join_sky(tmp_path / "radians.fits", catalogues / "right.parquet", SkyJoin(1), tmp_path / "a.parquet")

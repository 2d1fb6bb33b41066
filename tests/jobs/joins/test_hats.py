"""Catalogues to HATS: all rows are there once, LSDB opens them, kills cost nothing and show nothing half-written."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from skysom.cluster.errors import LockedError
from skysom.jobs.errors import ConfigError
from skysom.jobs.joins import hats as join_hats
from skysom.jobs.joins.hats import HatsOptions, import_hats
from skysom.jobs.joins.sky import SkyJoin, join_sky
from skysom.storage.errors import CatalogueError
from skysom.storage.hats import NO_POSITION, ROW_COLUMN, margin_of, read_structure
from skysom.storage.hats_partitions import quiet
from skysom.storage.place import place
from skysom.storage.table_stream import open_table


@pytest.fixture
def table():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"name": [f"J{n:03d}" for n in range(300)]})
    frame["RA"], frame["Dec"] = rng.uniform(-180, 180, 300), np.degrees(np.arcsin(rng.uniform(-1, 1, 300)))
    frame["flux"] = rng.lognormal(size=300).astype(np.float32)
    frame["n"] = pd.array(rng.integers(0, 5, 300), dtype="Int64")
    frame.loc[[4, 9], "n"] = pd.NA
    frame.loc[[7, 8], "RA"] = np.nan
    return frame


def opened(path):
    with quiet():
        import lsdb

        catalogue = lsdb.open_catalog(path)
        return catalogue, catalogue.compute(progress_bar=False)


def test_lsdb_opens_what_is_written(tmp_path, table):
    table.to_parquet(tmp_path / "cat.parquet")
    found = import_hats(
        tmp_path / "cat.parquet", tmp_path / "a hats", HatsOptions(partition_rows=30, margin_arcsec=9000)
    )
    assert (found.rows, found.no_position, found.left_out) == (298, 2, 0)
    assert found.partitions > 10
    assert found.margin_rows > 50
    catalogue, frame = opened(tmp_path / "a hats")
    assert list(frame.columns) == list(table.columns)
    assert frame.index.is_monotonic_increasing
    good = table.drop(index=[7, 8])
    assert sorted(frame["name"]) == good["name"].tolist()
    assert str(frame["n"].dtype) == "int64[pyarrow]"
    assert frame["flux"][frame["name"] == "J250"].tolist() == [table["flux"][250]]
    assert margin_of(tmp_path / "a hats") == 9000
    with quiet():
        assert len(catalogue.margin.compute(progress_bar=False)) == found.margin_rows
        inside = catalogue.cone_search(0, 0, 3600 * 30).compute(progress_bar=False)
        from hats.io.validation import is_valid_collection

        assert is_valid_collection(tmp_path / "a hats")
    assert 5 < len(inside) < 60
    lost = pq.read_table(tmp_path / "a hats" / NO_POSITION)
    assert lost["name"].to_pylist() == ["J007", "J008"]
    everything = open_table(tmp_path / "a hats").table().sort_by(ROW_COLUMN)
    assert everything[ROW_COLUMN].to_pylist() == list(range(300))
    assert everything["n"].to_pylist() == [None if pd.isna(n) else n for n in table["n"]]
    assert json.loads((tmp_path / "a hats" / "skysom.json").read_text())["source"] == "cat.parquet"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a hats", "cat.parquet"]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "fits", "vot", "hats"])
def test_every_format_gives_the_same_catalogue(tmp_path, table, monkeypatch, suffix):
    monkeypatch.setattr(join_hats, "DEALT_BYTES", 1)
    table.to_parquet(tmp_path / "cat.parquet")
    options = HatsOptions(partition_rows=60, margin_arcsec=100)
    import_hats(tmp_path / "cat.parquet", tmp_path / "expected", options)
    path = tmp_path / f"cat.{suffix}"
    if suffix == "hats":
        import_hats(tmp_path / "cat.parquet", path, HatsOptions(margin_arcsec=0))
    elif "csv" in suffix:
        table.to_csv(path, index=False)
    else:
        Table.from_pandas(table).write(path, format="fits" if suffix == "fits" else "votable")
    import_hats(path, tmp_path / "found", options)
    expected, found = (open_table(tmp_path / name).table().sort_by(ROW_COLUMN) for name in ("expected", "found"))
    if "csv" in suffix:
        expected = expected.set_column(3, "flux", expected["flux"].cast(pa.float64()))
        np.testing.assert_allclose(found["flux"].to_numpy(), expected["flux"].to_numpy(), rtol=1e-7)
        expected, found = expected.drop_columns(["flux"]), found.drop_columns(["flux"])
    assert found.to_pandas().equals(expected.to_pandas())
    pixels = [read_structure(tmp_path / name).get_healpix_pixels() for name in ("expected", "found")]
    assert pixels[0] == pixels[1]


def test_rows_and_columns_are_chosen_and_text_among_positions_is_none(tmp_path):
    path = tmp_path / "cat.csv"
    path.write_text("id,alpha,delta,x\n1,10,20,1\n2,unknown,20,2\n3,10.5,20,3\n4,10.6,91,4\n")
    found = import_hats(path, tmp_path / "a", HatsOptions("alpha", "delta", ["id"], "x > 1", margin_arcsec=0))
    assert (found.rows, found.no_position, found.left_out, found.margin_rows) == (1, 2, 1, 0)
    table = open_table(tmp_path / "a").table()
    assert table.column_names == ["id", "alpha", "delta", ROW_COLUMN]
    assert table["alpha"].type == pa.float64()
    assert dict(zip(table["id"].to_pylist(), table[ROW_COLUMN].to_pylist(), strict=True)) == {2: 1, 3: 2, 4: 3}
    assert margin_of(tmp_path / "a") == 0


def test_lists_and_odd_names_are_kept(tmp_path):
    table = pa.table({"ra": [1.0, 2.0], "dec": [1.0, 2.0], "members": [[1], [2, 3]], "S1.4 mJy": [1.0, None]})
    pq.write_table(table, tmp_path / "cat.parquet")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=1))
    _, frame = opened(tmp_path / "a")
    assert [list(one) for one in frame["members"]] == [[1], [2, 3]]
    assert frame["S1.4 mJy"].isna().tolist() == [False, True]
    join_sky(tmp_path / "a", tmp_path / "a", SkyJoin(1), tmp_path / "b.parquet", backend="lsdb")
    found = pq.read_table(tmp_path / "b.parquet").sort_by("ra")
    assert found["members_right"].to_pylist() == [[1], [2, 3]]


def test_a_kill_at_any_step_leaves_nothing_to_open_and_costs_no_step(tmp_path, table, monkeypatch):
    table.to_parquet(tmp_path / "cat.parquet")
    options = HatsOptions(partition_rows=60, margin_arcsec=100)
    import_hats(tmp_path / "cat.parquet", tmp_path / "whole", options)
    monkeypatch.setattr(join_hats, "DEALT_BYTES", 1)
    steps = []
    for name in ("write_parts", "write_atomically"):
        monkeypatch.setattr(join_hats, name, killing(getattr(join_hats, name), name, steps))
    killed = 0
    while not (tmp_path / "a").exists():
        try:
            import_hats(tmp_path / "cat.parquet", tmp_path / "a", options)
        except KeyboardInterrupt:
            killed += 1
            assert not (tmp_path / "a").exists()
            with pytest.raises(CatalogueError):
                open_table(tmp_path / "a")
        assert killed < 200
    assert killed > 5
    assert len(steps) == len(set(steps))  # nothing that was finished was done again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "cat.parquet", "whole"]
    tables = [open_table(tmp_path / name).table() for name in ("a", "whole")]
    assert tables[0].equals(tables[1])


def killing(function, name, steps):
    """Every third call is the last of its run, after its work is done."""

    def call(path, *arguments):
        function(path, *arguments)
        steps.append((name, str(path)))
        if len(steps) % 3 == 0:
            raise KeyboardInterrupt

    return call


def test_other_settings_begin_anew_and_two_runs_exclude_one_another(tmp_path, table, monkeypatch, capsys):
    table.to_parquet(tmp_path / "cat.parquet")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(join_hats, "compute_each", killed)
        with pytest.raises(KeyboardInterrupt):
            import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=100))

    def other(*_, **__):
        with pytest.raises(LockedError):
            import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=5))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(join_hats, "compute_each", other)
        with pytest.raises(KeyboardInterrupt):
            import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=100))
    capsys.readouterr()
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=5))
    assert "other settings" in capsys.readouterr().err
    assert margin_of(tmp_path / "a") == 5
    with pytest.raises(ConfigError, match="--overwrite"):
        import_hats(tmp_path / "cat.parquet", tmp_path / "a")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=7), overwrite=True)
    assert margin_of(tmp_path / "a") == 7


def test_a_catalogue_of_others_is_read_and_joined(tmp_path, table):
    good = table.dropna(subset=["RA"]).reset_index(drop=True).assign(RA=lambda one: one["RA"] % 360)
    with quiet():
        import lsdb

        made = lsdb.from_dataframe(good, ra_column="RA", dec_column="Dec", margin_threshold=60, partition_rows=40)
        made.write_catalog(tmp_path / "theirs", catalog_name="theirs", progress_bar=False)
    stream = open_table(tmp_path / "theirs")
    assert stream.rows == 298
    assert ROW_COLUMN not in stream.schema.names
    found = {}
    for backend in ("astropy", "lsdb"):
        path = tmp_path / f"{backend}.parquet"
        join_sky(tmp_path / "theirs", tmp_path / "theirs", SkyJoin(50, "all"), path, backend=backend)
        found[backend] = pq.read_table(path).sort_by([("name", "ascending"), ("rank", "ascending")])
    assert len(found["lsdb"]) == 298
    assert found["astropy"].equals(found["lsdb"])
    for settings, told in ((SkyJoin(50, "one-to-one"), "no row numbers"), (SkyJoin(61), "margin of .* is 60 arcsec")):
        with pytest.raises(ConfigError, match=f"{told}.*skysom join hats"):
            join_sky(tmp_path / "theirs", tmp_path / "theirs", settings, tmp_path / "b.parquet", backend="lsdb")
    import_hats(tmp_path / "theirs", tmp_path / "ours")
    join_sky(tmp_path / "ours", tmp_path / "ours", SkyJoin(50, "one-to-one"), tmp_path / "b.parquet", backend="lsdb")
    assert pq.read_table(tmp_path / "b.parquet")["rank"].to_pylist() == [1] * 298


def test_a_catalogue_in_an_object_store_is_joined(tmp_path, table, s3):
    table.to_parquet(tmp_path / "cat.parquet")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=100, partition_rows=100))
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            (place(s3) / "a" / path.relative_to(tmp_path / "a").as_posix()).write_bytes(path.read_bytes())
    found = []
    for backend in ("astropy", "lsdb"):
        target = tmp_path / f"{backend}.parquet"
        join_sky(tmp_path / "cat.parquet", f"{s3}/a", SkyJoin(50, "one-to-one"), target, backend=backend)
        found.append(pq.read_table(target).sort_by("name"))
    assert found[0]["rank"].null_count == 2
    assert found[0].equals(found[1])


def test_what_cannot_become_hats_is_told(tmp_path, table):
    table.assign(RA=np.nan).to_parquet(tmp_path / "nowhere.parquet")
    with pytest.raises(ConfigError, match=r"none of 300 rows .* has a position in 'RA', 'Dec'"):
        import_hats(tmp_path / "nowhere.parquet", tmp_path / "a")
    table.rename(columns={"RA": "x"}).to_parquet(tmp_path / "cat.parquet")
    with pytest.raises(ConfigError, match=r"none of the columns .* with --ra"):
        import_hats(tmp_path / "cat.parquet", tmp_path / "a")
    with pytest.raises(ConfigError, match="no directory"):
        import_hats(tmp_path / "cat.parquet", tmp_path / "b" / "a", HatsOptions("x", "Dec"))
    with pytest.raises(ConfigError, match="object store"):
        import_hats(tmp_path / "cat.parquet", "memory://bucket/a", HatsOptions("x", "Dec"))
    with pytest.raises(CatalogueError, match="margin of -1"):
        import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions("x", "Dec", margin_arcsec=-1))
    assert not (tmp_path / "a").exists()

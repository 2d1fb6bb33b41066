"""Catalogues to HATS: all rows are there once, LSDB opens them, kills cost nothing and show nothing half-written."""

import json

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

from skysom.cluster.errors import LockedError, SchedulerError
from skysom.jobs.errors import ConfigError
from skysom.jobs.joins import hats as join_hats
from skysom.jobs.joins import lsdb_write
from skysom.jobs.joins.hats import HatsOptions, import_hats
from skysom.jobs.joins.sky import SkyJoin, join_sky
from skysom.storage.errors import CatalogueError
from skysom.storage.hats import NO_POSITION, ROW_COLUMN, margin_of, read_structure
from skysom.storage.hats_partitions import SkyPartitions, quiet, spatial_index
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


@pytest.fixture
def crowd():
    """300 rows within 100" of a pole, of a corner of large pixels, and of RA 0; the last two have no position."""
    rng = np.random.default_rng(5)
    centres = SkyCoord(np.resize([10.0, 90.0, 0.0], 300), np.resize([90.0, 41.8103149, 0.0], 300), unit="deg")
    placed = centres.directional_offset_by(rng.uniform(0, 360, 300) * u.deg, 100 * rng.uniform(0, 1, 300) * u.arcsec)
    frame = pd.DataFrame({"name": [f"J{n:03d}" for n in range(300)], "RA": placed.ra.deg, "Dec": placed.dec.deg})
    frame.loc[[298, 299], "RA"] = np.nan
    return frame


def from_both(left, right, settings, folder):
    """The result with each backend, in one order."""
    found = []
    for backend in ("astropy", "lsdb"):
        target = folder / f"{backend}.parquet"
        join_sky(left, right, settings, target, backend=backend, scheduler="threads", overwrite=True)
        found.append(pq.read_table(folder / f"{backend}.parquet"))
    return [one.sort_by([("name", "ascending"), ("rank", "ascending")]) for one in found]


def test_a_catalogue_of_others_is_read_and_joined(tmp_path, crowd):
    good = crowd.dropna(subset=["RA"]).reset_index(drop=True)
    with quiet():
        import lsdb

        made = lsdb.from_dataframe(good, ra_column="RA", dec_column="Dec", margin_threshold=60, partition_rows=60)
        made.write_catalog(tmp_path / "theirs", catalog_name="theirs", progress_bar=False)
        pixels = made.get_healpix_pixels()
    stream = open_table(tmp_path / "theirs")
    assert stream.rows == 298
    assert not stream.numbered
    astropy, lsdb_ = from_both(tmp_path / "theirs", tmp_path / "theirs", SkyJoin(50, "all"), tmp_path)
    assert astropy.equals(lsdb_)
    pixels = sorted(((int(one.order), int(one.pixel)) for one in pixels), key=lambda one: one[1] << 2 * (29 - one[0]))
    partitions = SkyPartitions(*np.array(pixels).T)
    sides = [
        partitions.of(spatial_index(*(lsdb_[f"{name}{end}"].to_numpy() for name in ("RA", "Dec"))))
        for end in ("", "_right")
    ]
    assert np.count_nonzero(sides[0] != sides[1]) > 500  # found in a margin
    for settings, told in ((SkyJoin(50, "one-to-one"), "no row numbers"), (SkyJoin(61), "margin of .* is 60 arcsec")):
        with pytest.raises(ConfigError, match=f"{told}.*skysom join hats"):
            join_sky(tmp_path / "theirs", tmp_path / "theirs", settings, tmp_path / "b.parquet", backend="lsdb")
    import_hats(tmp_path / "theirs", tmp_path / "ours", HatsOptions(partition_rows=30))
    crowd["Dec"] -= 20 / 3600
    crowd.to_parquet(tmp_path / "moved.parquet")
    astropy, lsdb_ = from_both(tmp_path / "moved.parquet", tmp_path / "ours", SkyJoin(50, "one-to-one"), tmp_path)
    assert astropy.equals(lsdb_)
    assert 200 < len(lsdb_) - lsdb_["rank"].null_count == len(set(lsdb_["name_right"].to_pylist()) - {None})


def test_a_catalogue_of_the_older_layout_is_joined(tmp_path, crowd):
    crowd.to_parquet(tmp_path / "cat.parquet")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=0))
    (tmp_path / "a" / "a" / "hats.properties").unlink()
    astropy, lsdb_ = from_both(tmp_path / "a" / "a", tmp_path / "cat.parquet", SkyJoin(5), tmp_path)
    assert astropy.equals(lsdb_)


def test_a_catalogue_in_an_object_store_is_joined(tmp_path, crowd, s3):
    crowd.to_parquet(tmp_path / "cat.parquet")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=51, partition_rows=20))
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            (place(s3) / "a" / path.relative_to(tmp_path / "a").as_posix()).write_bytes(path.read_bytes())
    crowd.assign(Dec=crowd["Dec"] - 20 / 3600).to_parquet(tmp_path / "moved.parquet")
    astropy, lsdb_ = from_both(tmp_path / "moved.parquet", f"{s3}/a", SkyJoin(50, "one-to-one"), tmp_path)
    assert astropy["rank"].null_count > 2
    assert astropy.equals(lsdb_)


def test_units_stay_and_what_is_left_out_is_said(tmp_path, crowd, capsys):
    made = Table.from_pandas(crowd.astype({"name": str}))
    made["flux"], made["beam"] = np.arange(300.0) * u.mJy, np.zeros((300, 2))
    made["vis"] = np.zeros(300, complex)
    made.write(tmp_path / "cat.fits")
    import_hats(tmp_path / "cat.fits", tmp_path / "a")
    assert "columns of arrays, structures or complex numbers are left out: beam, vis" in capsys.readouterr().err
    assert open_table(tmp_path / "a").units == {"flux": "mJy"}
    for found in from_both(tmp_path / "cat.fits", tmp_path / "a", SkyJoin(5), tmp_path):
        assert [found.schema.field(name).metadata for name in ("flux", "flux_right")] == [{b"unit": b"mJy"}] * 2


def test_expressions_see_positions_that_are_numbers(tmp_path):
    (tmp_path / "cat.csv").write_text("id,ra,dec\n1,10,20\n2,unknown,20\n3,10.5,20\n")
    found = import_hats(tmp_path / "cat.csv", tmp_path / "a", HatsOptions(where="ra > 10.12"))
    assert (found.rows, found.no_position, found.left_out) == (1, 0, 2)
    with pytest.raises(CatalogueError, match="selection"):
        import_hats(tmp_path / "cat.csv", tmp_path / "b", HatsOptions(where="ra > 'x'"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "cat.csv"]


def test_whole_numbers_beyond_those_with_a_sign_are_kept(tmp_path, crowd):
    crowd["id"] = np.arange(300, dtype=np.uint64) + np.uint64(2**63)
    crowd.to_parquet(tmp_path / "cat.parquet")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(partition_rows=60))
    assert sorted(open_table(tmp_path / "a").table()["id"].to_pylist()) == crowd["id"].tolist()
    astropy, lsdb_ = from_both(tmp_path / "cat.parquet", tmp_path / "a", SkyJoin(5), tmp_path)
    assert astropy.equals(lsdb_)


def test_rows_without_a_position_are_never_all_in_memory(tmp_path, crowd, monkeypatch):
    monkeypatch.setattr(join_hats, "DEALT_BYTES", 1)
    monkeypatch.setattr(lsdb_write, "NO_POSITION_ROWS", 400)
    crowd = pd.concat([crowd, *[crowd.iloc[298:]] * 600], ignore_index=True)
    crowd.to_parquet(tmp_path / "cat.parquet")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a")
    join_sky(tmp_path / "a", tmp_path / "a", SkyJoin(5), tmp_path / "b", backend="lsdb")
    for name in ("a", "b"):
        with pq.ParquetFile(tmp_path / name / NO_POSITION) as file:
            assert file.metadata.num_rows == 1202
            assert file.metadata.num_row_groups > 1
            assert file.metadata.row_group(0).num_rows < 1000


def test_a_match_is_numbered_and_other_numbers_are_not_believed(tmp_path, crowd):
    crowd.assign(_skysom_row=7).to_parquet(tmp_path / "cat.parquet")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(partition_rows=40))
    assert sorted(open_table(tmp_path / "a").table()[ROW_COLUMN].to_pylist()) == list(range(300))
    join_sky(tmp_path / "a", tmp_path / "a", SkyJoin(50, "all"), tmp_path / "b", backend="lsdb")
    stream = open_table(tmp_path / "b")
    assert stream.numbered
    numbers = stream.table()[ROW_COLUMN].to_numpy()
    assert len(numbers) == len(np.unique(numbers)) > 1000
    assert (np.diff(numbers) > 0).all()
    astropy, lsdb_ = from_both(tmp_path / "b", tmp_path / "a", SkyJoin(50, "one-to-one"), tmp_path)
    assert astropy.equals(lsdb_)
    assert astropy["rank_right"].null_count == len(numbers) - 298


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


@pytest.mark.parametrize("name", ["a,b", "a\\b", "file:x", "a b"])
def test_odd_names_of_directories_can_be_opened_or_are_refused(tmp_path, crowd, name):
    crowd.to_parquet(tmp_path / "cat.parquet")
    if name == "file:x":
        with pytest.raises(ConfigError, match="reads as a URL"):
            import_hats(tmp_path / "cat.parquet", tmp_path / name)
        return
    import_hats(tmp_path / "cat.parquet", tmp_path / name, HatsOptions(margin_arcsec=5))
    assert len(opened(tmp_path / name)[1]) == 298


def test_refused_imports_leave_nothing(tmp_path, crowd):
    crowd.to_parquet(tmp_path / "cat.parquet")
    with pytest.raises(SchedulerError, match="bogus"):
        import_hats(tmp_path / "cat.parquet", tmp_path / "a", scheduler="bogus")
    with pytest.raises(CatalogueError, match="margin of inf"):
        import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=np.inf))
    sides = tmp_path / "cat.parquet", tmp_path / "cat.parquet"
    with pytest.raises(SchedulerError, match="bogus"):
        join_sky(*sides, SkyJoin(5), tmp_path / "a", backend="lsdb", scheduler="bogus")
    assert [path.name for path in tmp_path.iterdir()] == ["cat.parquet"]


def test_damaged_partitions_are_named(tmp_path, crowd):
    crowd.to_parquet(tmp_path / "cat.parquet")
    import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=60, partition_rows=60))
    margin = sorted((tmp_path / "a" / "a_margin").rglob("Npix*.parquet"))[0]
    held = margin.read_bytes()
    margin.unlink()
    with pytest.raises(CatalogueError, match=rf"lacks 1 of .*{margin.name}"):
        join_sky(tmp_path / "a", tmp_path / "a", SkyJoin(5), tmp_path / "b.csv", backend="lsdb")
    margin.write_bytes(held)
    part = sorted((tmp_path / "a" / "a").rglob("Npix*.parquet"))[-1]
    part.write_bytes(part.read_bytes()[:-100])
    for how in ("all", "one-to-one"):
        with pytest.raises(CatalogueError, match=rf"{part.name} is no whole partition"):
            join_sky(tmp_path / "a", tmp_path / "a", SkyJoin(5, how), tmp_path / "b.csv", backend="lsdb")


def test_a_catalogue_that_lacks_rows_is_never_finished(tmp_path, crowd, monkeypatch):
    crowd.to_parquet(tmp_path / "cat.parquet")

    def lossy(files, number, base, pixel):
        return 1 + write(files, number, base, pixel)

    write = join_hats._write_partition
    monkeypatch.setattr(join_hats, "_write_partition", lossy)
    with pytest.raises(CatalogueError, match=r"298 rows, .* were written"):
        import_hats(tmp_path / "cat.parquet", tmp_path / "a", HatsOptions(margin_arcsec=0))
    assert not (tmp_path / "a").exists()

"""Odd inputs of a cross-match: both backends give one table, or both say what is wrong before work starts."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import Table

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.counts import join_counts
from skysom.jobs.joins.hats import HatsOptions, import_hats
from skysom.jobs.joins.output import write_tables
from skysom.jobs.joins.sky import Joined, SkyJoin, join_sky
from skysom.storage.errors import CatalogueError
from skysom.storage.table_stream import open_table

BACKENDS = ("astropy", "lsdb")


def field(seed, count, width_deg=1.0):
    """Rows in a field about (10, 0), where base pixels of HEALPix do not meet but partitions of any size do."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"id": np.arange(count), "ra": 10 + rng.uniform(0, width_deg, count)})
    return table.assign(dec=rng.uniform(0, width_deg, count), flux=rng.lognormal(size=count))


@pytest.fixture
def sides(tmp_path):
    """Two catalogues as Parquet."""
    for name, seed, count in (("left", 1, 300), ("right", 2, 400)):
        field(seed, count).to_parquet(tmp_path / f"{name}.parquet", index=False)
    return tmp_path / "left.parquet", tmp_path / "right.parquet"


def both(folder, sides, settings, radii=None, suffix=".parquet"):
    """What both backends told, and their table, which is the same."""
    told, tables = [], []
    for backend in BACKENDS:
        path = folder / f"{backend}{suffix}"
        if radii is None:
            told.append(join_sky(*sides, settings, path, backend=backend, overwrite=True))
        else:
            told.append(join_counts(*sides, radii, path, settings, backend=backend, overwrite=True))
        table = pq.read_table(path) if suffix else open_table(path).table()
        table = table.select([name for name in table.column_names if name != "_skysom_row"])
        keys = [(name, "ascending") for name in ("id", "rank") if name in table.column_names]
        tables.append(table.sort_by(keys))
    assert tables[0].schema.equals(tables[1].schema, check_metadata=True)
    assert tables[0].equals(tables[1])
    for name in ("left", "left_lost", "matched", "pairs", "rows"):
        assert getattr(told[0], name) == getattr(told[1], name), name
    return told, tables[0]


# --- row numbers ----------------------------------------------------------------------------------


def test_row_numbers_that_others_have_doubled_are_not_used(tmp_path, sides):
    """As in what LSDB writes of a match of several neighbours: numbers of skysom, each there three times."""
    for name in ("hats", "others"):
        import_hats(sides[0], tmp_path / name, HatsOptions(margin_arcsec=200, partition_rows=60))
    (tmp_path / "others" / "skysom.json").unlink()
    for path in (tmp_path / "others" / "others").rglob("Npix=*.parquet"):
        table = pq.read_table(path)
        numbers = pa.compute.divide(table["_skysom_row"], 3)
        pq.write_table(table.set_column(table.column_names.index("_skysom_row"), "_skysom_row", numbers), path)
    stream = open_table(tmp_path / "others")
    assert len(stream.table()["_skysom_row"].unique()) == 100
    assert not stream.numbered
    mixed = tmp_path / "others", tmp_path / "hats"
    settings = SkyJoin(100, "one-to-one", "inner")
    with pytest.raises(ConfigError, match="no row numbers that skysom gave it"):
        join_sky(*mixed, settings, tmp_path / "a.parquet", backend="lsdb")
    with pytest.raises(CatalogueError, match="no column '_skysom_row'"):
        join_sky(*mixed, SkyJoin(9, left_where="_skysom_row > 3"), tmp_path / "a.parquet", backend="lsdb")
    both(tmp_path, mixed, SkyJoin(200, "all"))
    pq.write_table(stream.table(), tmp_path / "plain.parquet")
    _, found = both(tmp_path, (tmp_path / "plain.parquet", tmp_path / "hats"), settings)
    assert found["id"].to_pylist() == found["id_right"].to_pylist() == list(range(300))
    join_sky(*mixed, settings, tmp_path / "a.parquet", backend="astropy")
    assert pq.read_table(tmp_path / "a.parquet").sort_by("id").equals(found)
    assert "_skysom_row" not in found.column_names


def test_numbers_and_pixels_of_other_catalogues_in_a_file_are_left_out_and_told(tmp_path, sides, capsys):
    for path in sides:
        table = pq.read_table(path)
        numbers = pa.array(np.arange(len(table)) % 7)
        pq.write_table(table.append_column("_healpix_29", numbers).append_column("_skysom_row", numbers), path)
    for how in ("nearest", "one-to-one"):
        _, found = both(tmp_path, sides, SkyJoin(200, how))
        assert found.column_names[:5] == ["id", "ra", "dec", "flux", "id_right"]
    assert f"{sides[0]}: left out, as HATS has its own of the name: _healpix_29, _skysom_row" in capsys.readouterr().err
    both(tmp_path, (sides[0], sides[0]), SkyJoin(200, "all", not_self=True))


# --- not-self -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_not_self_is_for_one_catalogue(tmp_path, sides, backend):
    told = "not-self is for a catalogue with itself, and the sides are .*left.parquet and .*right.parquet"
    with pytest.raises(ConfigError, match=told):
        join_sky(*sides, SkyJoin(9, not_self=True), tmp_path / "a.parquet", backend=backend)
    with pytest.raises(ConfigError, match=told):
        join_counts(*sides, (9.0,), tmp_path / "a.parquet", SkyJoin(0, not_self=True), backend=backend)
    (tmp_path / "link").symlink_to(sides[0])
    sides[0].rename(tmp_path / "moved.parquet")
    (tmp_path / "link").unlink()
    (tmp_path / "link.parquet").symlink_to(tmp_path / "moved.parquet")
    one = tmp_path / "link.parquet", tmp_path / "moved.parquet"
    assert join_sky(*one, SkyJoin(9, not_self=True), tmp_path / "a.parquet", backend=backend).left == 300


def test_counts_of_a_catalogue_with_itself_at_other_positions_are_never_negative(tmp_path, sides):
    table = field(3, 200)
    table["other_dec"] = table["dec"] + np.where(np.arange(200) % 2, 0.5, 1e-4)
    table.to_parquet(sides[0], index=False)
    settings = SkyJoin(0, not_self=True, right_dec="other_dec")
    _, found = both(tmp_path, (sides[0], sides[0]), settings, (5.0, 200.0))
    joined, _ = both(tmp_path, (sides[0], sides[0]), SkyJoin(200, "all", "inner", True, right_dec="other_dec"))
    assert min(found["count_5arcsec"].to_pylist()) == 0
    assert sum(found["count_200arcsec"].to_pylist()) == joined[0].pairs > 20


@pytest.mark.parametrize("how", ["nearest", "all"])
def test_a_catalogue_with_itself_is_told(tmp_path, sides, capsys, how):
    told = f"both sides are {sides[0]}, so every row finds itself; give --not-self"
    join_sky(sides[0], sides[0], SkyJoin(9, how), tmp_path / "a.parquet")
    assert told in capsys.readouterr().err
    join_counts(sides[0], sides[0], (9.0,), tmp_path / "b.parquet")
    assert told in capsys.readouterr().err
    join_sky(sides[0], sides[0], SkyJoin(9, how, not_self=True), tmp_path / "c.parquet")
    join_sky(sides[0], sides[0], SkyJoin(9, "one-to-one"), tmp_path / "d.parquet")
    join_sky(*sides, SkyJoin(9, how), tmp_path / "e.parquet")
    assert "both sides are" not in capsys.readouterr().err


# --- empty sides ----------------------------------------------------------------------------------


NOTHING = {
    "left rows": {"left_where": "id < 0"},
    "right rows": {"right_where": "id < 0"},
    "left positions": {"left_ra": "nowhere"},
    "right positions": {"right_ra": "nowhere"},
}


@pytest.mark.parametrize("keep", ["left", "inner"])
@pytest.mark.parametrize("missing", NOTHING)
def test_a_side_without_rows_or_positions_matches_nothing(tmp_path, sides, missing, keep):
    for path in sides:
        table = pd.read_parquet(path)
        table.assign(nowhere=np.nan).to_parquet(path, index=False)
    told, found = both(tmp_path, sides, SkyJoin(100, keep=keep, where="id > 9", **NOTHING[missing]))
    assert len(found) == (290 if keep == "left" and missing != "left rows" else 0)
    assert found["rank"].null_count == found["flux_right"].null_count == len(found)
    assert told[0].right == told[1].right
    assert told[0].right_lost == told[1].right_lost
    _, counted = both(tmp_path, sides, SkyJoin(0, **NOTHING[missing]), (100.0,))
    expected = [] if missing == "left rows" else [None if missing == "left positions" else 0] * 300
    assert counted["count_100arcsec"].to_pylist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_that_matches_may_still_be_hats(tmp_path, sides, backend):
    settings = SkyJoin(100, right_where="id < 0")
    assert join_sky(*sides, settings, tmp_path / "a", backend=backend).rows == 300
    assert open_table(tmp_path / "a").rows == 300
    with pytest.raises(ConfigError, match="no row is left"):
        join_sky(*sides, SkyJoin(100, keep="inner", right_where="id < 0"), tmp_path / "b", backend=backend)
    import_hats(sides[1], tmp_path / "right", HatsOptions(margin_arcsec=200))
    join_sky(sides[0], tmp_path / "right", settings, tmp_path / "c.parquet", backend=backend)
    assert pq.read_table(tmp_path / "c.parquet")["rank"].null_count == 300


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_matched_where_both_sides_have_positions_is_told(tmp_path, sides, backend, capsys):
    pd.read_parquet(sides[1]).assign(dec=lambda table: table["dec"] - 40).to_parquet(sides[1])
    told = "WARNING: nothing matched within 9 arcsec; are both catalogues of the same sky, with positions in degrees?"
    join_sky(*sides, SkyJoin(9), tmp_path / "a.parquet", backend=backend)
    assert told in capsys.readouterr().err
    join_counts(*sides, (3.0, 9.0), tmp_path / "b.parquet", backend=backend)
    assert told in capsys.readouterr().err
    join_sky(*sides, SkyJoin(9, right_where="id < 0"), tmp_path / "c.parquet", backend=backend)
    join_sky(sides[0], sides[0], SkyJoin(9, where="id < 0"), tmp_path / "d.parquet", backend=backend)
    assert "nothing matched" not in capsys.readouterr().err


# --- columns --------------------------------------------------------------------------------------


def test_positions_that_are_text_are_numbers_in_expressions(tmp_path, sides):
    table = pd.read_parquet(sides[0])
    table["ra"] = [f"{ra:.9f}" if n % 10 else "unknown" for n, ra in enumerate(table["ra"])]
    table.to_csv(tmp_path / "left.csv", index=False)
    csv = tmp_path / "left.csv", sides[1]
    _, found = both(tmp_path, csv, SkyJoin(100, left_where="ra > 10.12 and dec < 0.9"))
    assert 100 < len(found) < 300
    _, other = both(tmp_path, csv, SkyJoin(100, where="ra > 10.12 and dec < 0.9"))
    assert found.equals(other)
    both(tmp_path, (sides[1], tmp_path / "left.csv"), SkyJoin(100, right_where="ra > 10.12"))
    both(tmp_path, csv, SkyJoin(100, left_where="ra > 10.12"), (50.0, 500.0))


@pytest.mark.parametrize("suffix", [".parquet", ""])
def test_units_and_descriptions_are_kept(tmp_path, sides, suffix):
    table = Table.from_pandas(pd.read_parquet(sides[0]))
    table["flux"].unit, table["ra"].unit, table["dec"].unit = "mJy", "deg", "deg"
    table.write(tmp_path / "left.fits")
    right = pq.read_table(sides[1])
    metadata = {"unit": "Jy", "description": "flux density", "ucd": "phot.flux"}
    place = right.column_names.index("flux")
    pq.write_table(right.set_column(place, pa.field("flux", pa.float64(), metadata=metadata), right["flux"]), sides[1])
    _, found = both(tmp_path, (tmp_path / "left.fits", sides[1]), SkyJoin(100), suffix=suffix)
    assert found.schema.field("flux").metadata[b"unit"] == b"mJy"
    assert found.schema.field("ra").metadata[b"unit"] == b"deg"
    assert found.schema.field("flux_right").metadata == {key.encode(): one.encode() for key, one in metadata.items()}
    _, counted = both(tmp_path, (tmp_path / "left.fits", sides[1]), SkyJoin(0), (100.0,), suffix=suffix)
    assert counted.schema.field("flux").metadata[b"unit"] == b"mJy"


def test_units_reach_fits(tmp_path, sides):
    table = Table.from_pandas(pd.read_parquet(sides[0]))
    table["flux"].unit = "mJy"
    table.write(tmp_path / "left.fits")
    for backend in BACKENDS:
        join_sky(tmp_path / "left.fits", sides[1], SkyJoin(100), tmp_path / f"{backend}-out.fits", backend=backend)
        assert Table.read(tmp_path / f"{backend}-out.fits")["flux"].unit == u.mJy


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_that_are_left_out_are_told(tmp_path, sides, backend, capsys):
    table = pq.read_table(sides[0])
    table = table.append_column("box", pa.array([{"x": 1}] * len(table)))
    pq.write_table(table, sides[0])
    join_sky(*sides, SkyJoin(100), tmp_path / "a.parquet", backend=backend)
    assert capsys.readouterr().err.count("left out: box") == 1
    join_counts(sides[0], sides[0], (5.0,), tmp_path / "b.parquet", backend=backend)
    assert capsys.readouterr().err.count("left out: box") == 1
    assert "box" not in pq.read_schema(tmp_path / "a.parquet").names


def test_a_result_may_be_joined_again_on_either_side(tmp_path, sides, capsys):
    """Its rank and separation are columns of the user; those of the new match are others."""
    first = tmp_path / "first.parquet"
    join_sky(*sides, SkyJoin(200, suffix="_wise", right_columns=("id",)), first)
    theirs = pq.read_table(first)
    capsys.readouterr()
    told, found = both(tmp_path, (sides[1], first), SkyJoin(300, "all", where="separation_arcsec > 100"))
    names = ["id_right", "ra_right", "dec_right", "flux_right", "id_wise", "separation_arcsec_right", "rank_right"]
    assert found.column_names == ["id", "ra", "dec", "flux", *names, "separation_arcsec", "rank"]
    renames = {name.removesuffix("_right"): name for name in names if name != "id_wise"}
    assert told[0].renamed == told[1].renamed == renames
    assert "rank -> rank_right" in capsys.readouterr().err
    assert min(found["separation_arcsec"].to_pylist()) > 100  # the new one
    rows = found["id_right"].to_pylist()
    assert found["separation_arcsec_right"].to_pylist() == theirs["separation_arcsec"].take(rows).to_pylist()
    _, found = both(tmp_path, (first, first), SkyJoin(300, "all", "inner"))
    names = ["separation_arcsec_right_right", "rank_right_right", "separation_arcsec_right", "rank_right"]
    assert found.column_names[-4:] == names
    assert "rank -> rank_right_right, separation_arcsec of this join -> separation_arcsec_right" in (
        capsys.readouterr().err
    )
    _, found = both(tmp_path, (first, sides[1]), SkyJoin(0), (100.0,))
    assert found.column_names == [*theirs.column_names, "count_100arcsec"]


@pytest.mark.parametrize("name", ["_skysom_separation", "_skysom_rank", "flux_skysom_added", "_skysom_count_0"])
def test_names_that_matching_needs_are_refused_on_the_left_and_kept_on_the_right(tmp_path, sides, name):
    table = pd.read_parquet(sides[0])
    table.assign(**{name: table["id"]}).to_parquet(tmp_path / "named.parquet", index=False)
    for backend in BACKENDS:
        with pytest.raises(ConfigError, match=rf"named.parquet has a column '{name}'; names that begin with _skysom_"):
            join_sky(tmp_path / "named.parquet", sides[1], SkyJoin(9), tmp_path / "a.parquet", backend=backend)
        with pytest.raises(ConfigError, match=name):
            join_counts(tmp_path / "named.parquet", sides[1], (9.0,), tmp_path / "a.parquet", backend=backend)
    _, found = both(tmp_path, (sides[1], tmp_path / "named.parquet"), SkyJoin(200, "all"))
    assert found[name].to_pylist() == found["id_right"].to_pylist()


def test_right_ascensions_of_360_are_those_of_0(tmp_path):
    pd.DataFrame({"id": [0, 1], "ra": [0.0, 360.0], "dec": [1.0, 2.0]}).to_csv(tmp_path / "left.csv", index=False)
    table = {"id": range(4), "ra": [360.0, 0.0, 360.0, 0.0], "dec": [1.0, 1.0, 1.0, 2.0]}
    pd.DataFrame(table).to_csv(tmp_path / "right.csv", index=False)
    _, found = both(tmp_path, (tmp_path / "left.csv", tmp_path / "right.csv"), SkyJoin(1, "all"))
    assert found["id_right"].to_pylist() == [0, 1, 2, 3]
    assert found["separation_arcsec"].to_pylist() == [0, 0, 0, 0]


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_is_no_directory_and_a_directory_no_file(tmp_path, sides, backend):
    (tmp_path / "file").touch()
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    before = sorted(tmp_path.rglob("*"))
    for name, told in (
        ("file", "is a file, and the result is a directory"),
        ("folder.parquet", "is a directory, and the result is a file"),
        ("theirs", "a directory of other files, no HATS catalogue"),
    ):
        with pytest.raises(ConfigError, match=told):
            join_sky(*sides, SkyJoin(1), tmp_path / name, backend=backend, overwrite=True)
        with pytest.raises(ConfigError, match=told):
            join_counts(*sides, (1.0,), tmp_path / name, backend=backend, overwrite=True)
    with pytest.raises(ConfigError, match="is a file, and the result is a directory"):
        import_hats(sides[0], tmp_path / "file", overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
    for suffix in ("", ".parquet"):
        for radius in (1, 2):
            join_sky(*sides, SkyJoin(radius), tmp_path / f"twice{suffix}", backend=backend, overwrite=True)


def test_two_runs_that_write_one_result_do_not_write_one_file(tmp_path):
    schema, target = pa.schema([("n", pa.int64())]), tmp_path / "a.parquet"

    def first():
        yield pa.table({"n": [1]})
        assert write_tables([pa.table({"n": [5, 6, 7]})], schema, target, None) == 3
        assert pq.read_table(target)["n"].to_pylist() == [5, 6, 7]
        yield pa.table({"n": [2]})

    assert write_tables(first(), schema, target, None, overwrite=True) == 2
    assert pq.read_table(target)["n"].to_pylist() == [1, 2]
    assert list(tmp_path.iterdir()) == [target]


def test_a_count_that_nobody_made_is_unknown():
    told = str(Joined("lsdb", 3, None, 1, None, 2, 2, 3))
    assert told.endswith("without a position: 1 left, unknown right")


def test_no_folder_for_compiled_code_is_no_fault(monkeypatch):
    from numba.core.dispatcher import Dispatcher

    from skysom.jobs.joins.with_lsdb import open_backend

    def refused(self):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(Dispatcher, "enable_caching", refused)
    open_backend()

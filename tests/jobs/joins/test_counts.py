"""Counts of neighbours: both backends, and astropy, count alike."""

import tracemalloc

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord, search_around_sky

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.counts import join_counts
from skysom.jobs.joins.hats import HatsOptions, import_hats
from skysom.jobs.joins.sky import SkyJoin
from skysom.storage.errors import CatalogueError

RADII = (900.0, 100.5, 0.0)


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory):
    """Two catalogues about a pole and RA 0, some rows without a position."""
    folder = tmp_path_factory.mktemp("catalogues")
    for name, seed, count in (("left", 1, 200), ("right", 2, 600)):
        rng = np.random.default_rng(seed)
        ra, dec = rng.uniform(0, 360, count), 90 - rng.exponential(1, count)
        ra[::2], dec[::2] = rng.normal(0, 1, count // 2) % 360, rng.normal(0, 1, count // 2)
        dec[5] = np.nan
        ra[:2], dec[:2] = ra[2:4], dec[2:4]
        table = pd.DataFrame(
            {"id": np.arange(count), "ra": ra, "dec": dec, "count_900arcsec": rng.integers(0, 9, count)}
        )
        table.to_parquet(folder / f"{name}.parquet")
        import_hats(folder / f"{name}.parquet", folder / name, HatsOptions(partition_rows=60, margin_arcsec=1000))
    return folder


def expected(folder, not_self=False, left="left", right="right", chosen=None):
    tables = [pd.read_parquet(folder / f"{name}.parquet") for name in (left, right)]
    if chosen is not None:
        tables[1] = tables[1][chosen(tables[1])]
    good = [table.dropna(subset=["ra", "dec"]) for table in tables]
    sky = [SkyCoord(table["ra"], table["dec"], unit="deg") for table in good]
    found = {}
    for radius in RADII:
        i, j, _, _ = search_around_sky(*sky, radius * u.arcsec)
        one, other = good[0]["id"].to_numpy()[i], good[1]["id"].to_numpy()[j]
        counts = np.bincount(one[one != other] if not_self else one, minlength=len(tables[0]))
        found[radius] = [None if row not in good[0].index else count for row, count in enumerate(counts.tolist())]
    return found


@pytest.mark.parametrize("backend", ["astropy", "lsdb"])
def test_counts_are_those_of_astropy(tmp_path, catalogues, backend):
    ending = "" if backend == "lsdb" else ".parquet"
    sides = catalogues / f"left{ending}", catalogues / f"right{ending}"
    found = join_counts(*sides, RADII, tmp_path / "a.parquet", backend=backend)
    table = pq.read_table(tmp_path / "a.parquet").sort_by("id")
    assert table.column_names[-3:] == ["count_900arcsec_right", "count_100.5arcsec", "count_0arcsec"]
    for name, counts in zip(table.column_names[-3:], expected(catalogues).values(), strict=True):
        assert table[name].to_pylist() == counts
    assert found.pairs == pc_sum(table["count_900arcsec_right"]) > 500
    assert (found.rows, found.left_lost, found.left) == (200, 1, 200)


@pytest.mark.parametrize("backend", ["astropy", "lsdb"])
def test_expressions_and_a_catalogue_with_itself(tmp_path, catalogues, backend):
    ending = "" if backend == "lsdb" else ".parquet"
    left = catalogues / f"right{ending}"
    chosen = SkyJoin(
        0,
        right_where="count_900arcsec > 3",
        where="count_100.5arcsec > 0".replace("count_100.5arcsec", "`count_100.5arcsec`"),
    )
    join_counts(left, left, RADII, tmp_path / "a.parquet", chosen, backend=backend)
    counts = expected(catalogues, False, "right", "right", lambda table: table["count_900arcsec"] > 3)[100.5]
    table = pq.read_table(tmp_path / "a.parquet").sort_by("id")
    assert table["id"].to_pylist() == [row for row, count in enumerate(counts) if count]
    join_counts(left, left, RADII, tmp_path / "b.parquet", SkyJoin(0, not_self=True), backend=backend)
    table = pq.read_table(tmp_path / "b.parquet").sort_by("id")
    others = expected(catalogues, True, "right", "right")
    for name, counts in zip(table.column_names[-3:], others.values(), strict=True):
        assert table[name].to_pylist() == counts
    assert pc_sum(table["count_0arcsec"]) == 4  # two rows are there twice


@pytest.mark.parametrize("backend", ["astropy", "lsdb"])
def test_memory_does_not_grow_with_pairs(tmp_path, backend):
    rng = np.random.default_rng(1)
    for name, count in (("left", 1000), ("right", 20_000)):
        columns = {"ra": 10 + rng.uniform(0, 0.1, count), "dec": rng.uniform(0, 0.1, count)}
        pd.DataFrame(columns).to_parquet(tmp_path / f"{name}.parquet")
    sides = tmp_path / "left.parquet", tmp_path / "right.parquet"
    join_counts(*sides, (1.0,), tmp_path / "a.parquet", backend=backend)  # imports what it needs
    tracemalloc.start()
    found = join_counts(*sides, (600.0,), tmp_path / "b.parquet", backend=backend)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.pairs == 20_000_000
    assert peak < 50e6


def pc_sum(column):
    return sum(value or 0 for value in column.to_pylist())


def test_radii_that_make_no_sense_are_refused(tmp_path, catalogues):
    sides = catalogues / "left.parquet", catalogues / "right.parquet"
    for radii in ((), (5.0, 5.0), (-1.0,)):
        with pytest.raises(ConfigError, match="radi"):
            join_counts(*sides, radii, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"radii 5.0, 5.0000001; give one or several that differ in their first six"):
        join_counts(*sides, (5.0, 5.0000001), tmp_path / "a.parquet")
    with pytest.raises(CatalogueError, match="no column 'x'"):
        join_counts(*sides, (1.0,), tmp_path / "a.parquet", SkyJoin(0, where="x > 1"))
    assert list(tmp_path.iterdir()) == []


def test_killed_counts_of_other_radii_are_not_gone_on_with(tmp_path, catalogues, killed_after):
    sides, out = (catalogues / "left", catalogues / "right"), tmp_path / "a.parquet"
    with killed_after(1):
        join_counts(*sides, (900.0, 100.5), out, backend="lsdb")
    assert (tmp_path / ".a.parquet.join").exists()
    join_counts(*sides, (900.0, 300.0), out, backend="lsdb")
    join_counts(*sides, (900.0, 300.0), tmp_path / "whole.parquet", backend="lsdb")
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not (tmp_path / ".a.parquet.join").exists()

"""Cross-match of real catalogues: both backends find what astropy finds."""

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord, search_around_sky

from skysom.jobs.joins.sky import SkyJoin, join_sky

pytestmark = pytest.mark.realdata


def both(folder, left, right, settings):
    """What both backends tell and write."""
    found = {}
    for backend in ("astropy", "lsdb"):
        path = folder / f"{backend}.parquet"
        joined = join_sky(left, right, settings, path, backend=backend, overwrite=True)
        found[backend] = joined, pq.read_table(path).sort_by([("id", "ascending"), ("rank", "ascending")])
    return found


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """Real catalogues with positions in degrees: a CSV file each."""
    folder, source = tmp_path_factory.mktemp("real"), shared("realdata/catalogues")
    rgz = pd.read_csv(source / "rgz_dr1_claran_full_catalogue.csv")
    place = SkyCoord(
        [f"{n[6:8]} {n[8:10]} {n[10:14]} {n[14:17]} {n[17:19]} {n[19:]}" for n in rgz["first_id"].str[0:21]],
        unit=("hourangle", "deg"),
    )
    rgz.assign(ra=place.ra.deg, dec=place.dec.deg).to_csv(folder / "rgz.csv", index_label="id")
    for name, file in (("fricat", "FRICAT_Table1.csv"), ("config", "CoNFIG_II_full_Table.csv")):
        table = pd.read_csv(source / file)
        place = SkyCoord(table["_RAJ2000"].str.strip(), table["_DEJ2000"].str.strip(), unit=("hourangle", "deg"))
        table.assign(ra=place.ra.deg, dec=place.dec.deg).to_csv(folder / f"{name}.csv", index_label="id")
    mirabest = pd.read_csv(shared("realdata/radio_first_mirabest/mirabest_catalogue.csv"))
    mirabest.to_csv(folder / "mirabest.csv", index_label="id")
    pd.read_csv(source / "RADCAT.csv", index_col=0).to_csv(folder / "radcat.csv", index_label="id")
    return folder


REAL = [("fricat", "rgz", 20, 20), ("config", "rgz", 30, 10), ("mirabest", "rgz", 20, 100), ("rgz", "rgz", 60, 500)]


@pytest.mark.parametrize(("left", "right", "radius", "least"), REAL)
def test_real_catalogues_match_as_with_astropy(tmp_path, real, left, right, radius, least):
    tables = [pd.read_csv(real / f"{name}.csv") for name in (left, right)]
    coordinates = [SkyCoord(table["ra"], table["dec"], unit="deg") for table in tables]
    i, j, separation, _ = search_around_sky(*coordinates, radius * u.arcsec)
    expected = sorted(zip(i.tolist(), j.tolist(), separation.arcsec.tolist(), strict=True))
    assert len(expected) >= least
    columns = {"left_ra": "ra", "left_dec": "dec", "right_ra": "ra", "right_dec": "dec"}
    settings = SkyJoin(radius, "all", "inner", **columns)
    found = both(tmp_path, real / f"{left}.csv", real / f"{right}.csv", settings)
    assert found["astropy"][1].equals(found["lsdb"][1])
    for backend, (joined, table) in found.items():
        rows = sorted(zip(*(table[name].to_pylist() for name in ("id", "id_right", "separation_arcsec")), strict=True))
        assert [row[:2] for row in rows] == [row[:2] for row in expected], backend
        np.testing.assert_allclose([row[2] for row in rows], [row[2] for row in expected], rtol=0, atol=1e-9)
        assert joined.pairs == len(expected)


def test_pairs_of_radcat_that_were_looked_at_by_eye_are_found(tmp_path, shared, real):
    listed = pd.read_csv(shared("realdata/catalogues/threshold_search.csv"))
    known = set(pd.read_csv(real / "radcat.csv")["id"])
    listed = listed[listed["Source1"].isin(known) & listed["Source2"].isin(known)]
    assert len(listed) == 66
    columns = {"left_ra": "RA/deg", "left_dec": "DEC/deg", "right_ra": "RA/deg", "right_dec": "DEC/deg"}
    settings = SkyJoin(270, "all", "inner", not_self=True, right_columns=("id", "Type"), **columns)
    found = both(tmp_path, real / "radcat.csv", real / "radcat.csv", settings)
    assert found["astropy"][1].equals(found["lsdb"][1])
    for _, table in found.values():
        apart = {
            (one["id"], one["id_right"]): one["separation_arcsec"]
            for one in table.select(["id", "id_right", "separation_arcsec"]).to_pylist()
        }
        assert len(apart) == 2 * 73
        for row in listed.itertuples():
            assert (row.Source1, row.Source2) in apart
            assert (row.Source2, row.Source1) in apart
            assert apart[row.Source1, row.Source2] == pytest.approx(row.Distance * 3600, abs=1e-3)

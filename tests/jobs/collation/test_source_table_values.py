"""Positions, names, best components, sums and linear sizes of sources."""

import numpy as np
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.cosmology import Planck18
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine.errors import CollationError
from skysom.jobs.collation.source_table_values import best_members, names, positions, sizes_kpc, sums


def one(ra: list[float], dec: list[float], flux: list[float] | None = None) -> tuple[float, float, bool]:
    """Position of one source."""
    members = len(ra)
    values = None if flux is None else np.array(flux, float)
    found = positions(np.array(ra, float), np.array(dec, float), values, np.zeros(members, int), np.array([0, members]))
    return found.ra_deg[0], found.dec_deg[0], bool(found.weighted[0])


def apart(found: tuple[float, float, bool], ra: float, dec: float) -> float:
    return SkyCoord(*found[:2], unit="deg").separation(SkyCoord(ra, dec, unit="deg")).arcsec


def test_positions_across_the_meridian_and_at_the_poles() -> None:
    assert apart(one([359.99, 0.01], [10.0, 10.0]), 0.0, 10.0) < 1e-3
    assert apart(one([0.0, 90.0, 180.0, 270.0], [89.9] * 4), 0.0, 90.0) < 1e-6
    assert apart(one([30.0, 30.02], [-90.0, -90.0]), 0.0, -90.0) < 1e-6
    for ra in (359.99, 0.0, 360.0, -0.01, 720.5):
        found = one([ra, ra], [0.0, 0.0])
        assert 0 <= found[0] < 360
        assert apart(found, ra, 0.0) < 1e-9


def test_flux_weights_where_all_members_have_one() -> None:
    assert one([10.0, 10.04], [0.0, 0.0], [3.0, 1.0]) == (pytest.approx(10.01), pytest.approx(0), True)
    for bad in (np.nan, -1.0, 0.0, np.inf):
        assert one([10.0, 10.04], [0.0, 0.0], [3.0, bad]) == (pytest.approx(10.02), pytest.approx(0), False)
    tiny, huge = one([10.0, 10.04], [0.0, 0.0], [3e-300, 1e-300]), one([10.0, 10.04], [0.0, 0.0], [3e300, 1e300])
    assert tiny[0] == pytest.approx(10.01)
    assert huge[0] == pytest.approx(10.01)


def test_a_single_position_is_taken_as_it_is() -> None:
    ra, dec = 123.456789012345, -67.89012345678901
    assert one([ra], [dec], [2.0]) == (ra, dec, True)
    assert one([np.nan, ra], [np.nan, dec], [np.nan, 2.0]) == (ra, dec, True)
    assert np.isnan(one([np.nan], [np.nan], [1.0])[:2]).all()
    assert not one([np.nan], [np.nan], [1.0])[2]
    assert one([10.0, 190.0], [0.0, 0.0])[:2] == (10.0, 0.0)  # opposite: no mean direction


def test_names_cut_their_digits_off() -> None:
    ra = np.array([150.0, 188.736, 0.0, 359.99999999, 15 / 3600 * 0.99, 2 / 24000 * 5, 10.0, 0.0])
    dec = np.array([2.0, -12.3456, -0.00001, 89.99999, -90.0, 90.0, np.nan, -0.0])
    assert names(ra, dec).to_pylist() == [
        "J100000.0+020000",
        "J123456.6-122044",
        "J000000.0-000000",
        "J235959.9+895959",
        "J000000.9-900000",
        "J000000.1+900000",
        None,
        "J000000.0+000000",
    ]
    assert names(ra[:1], dec[:1], "VLASS é ").to_pylist() == ["VLASS é J100000.0+020000"]
    assert names(ra[:0], dec[:0]).to_pylist() == []


@settings(deadline=None, max_examples=100)
@given(tenths=st.integers(0, 863_999), arcsec=st.integers(-323_999, 323_999), part=st.floats(0, 0.999))
def test_names_are_never_rounded_up(tenths: int, arcsec: int, part: float) -> None:
    ra, dec = (tenths + part) / 2400, np.sign(arcsec) * (abs(arcsec) + part) / 3600
    (name,) = names(np.array([ra]), np.array([dec])).to_pylist()
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    sign, size = "-" if arcsec < 0 else "+", abs(arcsec)
    time = f"{hours:02d}{minutes:02d}{rest // 10:02d}.{rest % 10}"
    assert name == f"J{time}{sign}{size // 3600:02d}{size // 60 % 60:02d}{size % 60:02d}"


def test_more_names_than_an_array_holds() -> None:
    many = np.broadcast_to(0.0, 2**27)
    with pytest.raises(CollationError, match="134,217,728 names of 16 bytes are more than one array holds"):
        names(many, many)
    with pytest.raises(CollationError, match="shorten the prefix"):
        names(many[: 2**26], many[: 2**26], "of a survey so far ")


def test_best_members() -> None:
    group, starts, rows = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 3, 5, 6]), np.array([4, 5, 9, 6, 7, 8])
    nan = np.nan
    flux = np.array([1.0, 3.0, 3.0, nan, nan, -2.0])
    assert best_members(flux, rows, np.array([4, 7, -1]), group, starts).tolist() == [1, 4, 5]
    assert best_members(None, rows, np.array([9, 100, -1]), group, starts).tolist() == [2, 3, 5]
    zero = np.array([-1.0, 0.0, -3.0, nan, 0.0, nan])
    assert best_members(zero, rows, np.array([4, 6, -1]), group, starts).tolist() == [1, 4, 5]


def test_sums_count_what_they_add() -> None:
    total, many = sums(np.array([1.0, np.nan, 2.5, np.nan, -1.0]), np.array([0, 0, 0, 1, 2]), 4)
    assert pa.array(total, from_pandas=True).to_pylist() == [3.5, None, -1.0, None]
    assert many.tolist() == [2, 0, 1, 0]


def test_linear_sizes_are_those_of_planck18() -> None:
    z = np.concatenate([[0.0], np.geomspace(1e-6, 1000, 300)])
    wanted = (100 * u.arcsec * Planck18.kpc_proper_per_arcmin(z)).to_value("kpc")
    np.testing.assert_allclose(sizes_kpc(np.full(len(z), 100.0), z), wanted, rtol=1e-9, atol=1e-12)
    assert np.isnan(sizes_kpc(np.ones(4), np.array([np.nan, -0.1, 1001.0, np.inf]))).all()

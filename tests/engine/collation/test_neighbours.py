"""Pairs of rows within an angle: against brute force, astropy, and themselves in pieces."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord, search_around_sky
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.collation.neighbours import (
    NeighbourSearch,
    angle_of_chord_arcsec,
    neighbour_pairs,
    neighbour_pieces,
    positions_of_vectors,
    separations_arcsec,
    unit_vectors,
    within_a_turn_deg,
)
from skysom.engine.errors import CollationError

CENTRES = [(0.0, 0.0), (359.999, -45.0), (180.0, 90.0), (77.0, -90.0), (10.0, 89.99), (123.4, 56.7)]
seeds = st.integers(0, 2**32 - 1)


def field(seed, rows, centre=(0.0, 0.0), spread_arcsec=300.0):
    """Positions about a centre, some of them equal."""
    rng = np.random.default_rng(seed)
    around = SkyCoord(*centre, unit="deg").directional_offset_by(
        rng.uniform(0, 360, rows) * u.deg, spread_arcsec * np.sqrt(rng.random(rows)) * u.arcsec
    )
    ra, dec = around.ra.deg, around.dec.deg
    if rows > 3:
        ra[1], dec[1] = ra[0], dec[0]
    return ra, dec


def by_hand(base, other, limit_arcsec):
    """Every pair whose chord is short enough, one by one."""
    chord = (2 * np.sin(0.5 * limit_arcsec * u.arcsec)).value
    pairs = []
    for i, a in enumerate(base):
        for j, b in enumerate(other):
            dx, dy, dz = b - a
            if dx * dx + dy * dy + dz * dz <= chord * chord:
                pairs.append((i, j))
    return pairs


def as_list(pairs):
    return list(zip(*(index.tolist() for index in pairs), strict=True))


def test_vectors_are_those_of_astropy_bit_for_bit():
    rng = np.random.default_rng(1)
    ra = np.concatenate([rng.uniform(-10, 400, 5000), [0, 360, 0, 0, 12]])
    dec = np.concatenate([rng.uniform(-90, 90, 5000), [0, 0, 90, -90, 89.999999]])
    found = unit_vectors(ra, dec)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, SkyCoord(ra, dec, unit="deg").cartesian.xyz.value.T)
    # Neither do they depend on their neighbours in the array.
    np.testing.assert_array_equal(found[7::3], unit_vectors(ra[7::3], dec[7::3]))


@pytest.mark.parametrize("centre", CENTRES)
@given(seed=seeds, rows=st.integers(0, 60), limit=st.sampled_from([1e-6, 5.0, 60.0, 700.0]))
def test_pairs_are_those_of_brute_force_and_astropy(centre, seed, rows, limit):
    ours, theirs = field(seed, rows, centre), field(seed + 1, rows // 2 + 1, centre)
    base, other = unit_vectors(*ours), unit_vectors(*theirs)
    found = neighbour_pairs(base, other, limit)
    assert found[0].dtype == found[1].dtype == np.int64
    assert as_list(found) == by_hand(base, other, limit)
    if rows:
        i, j, separation, _ = search_around_sky(
            SkyCoord(*ours, unit="deg"), SkyCoord(*theirs, unit="deg"), limit * u.arcsec
        )
        order = np.lexsort((j, i))
        np.testing.assert_array_equal(np.stack(found), np.stack([i, j])[:, order])
        np.testing.assert_allclose(separations_arcsec(base, other, *found), separation.arcsec[order], atol=1e-9)


@given(seed=seeds, rows=st.integers(2, 40))
def test_a_row_at_the_limit_is_decided_by_the_two_vectors_alone(seed, rows):
    base, other = unit_vectors(*field(seed, rows)), unit_vectors(*field(seed + 1, rows))
    limit = float(separations_arcsec(base, other, np.array([0]), np.array([1]))[0])  # give or take a rounding
    expected = by_hand(base, other, limit)
    assert as_list(neighbour_pairs(base, other, limit)) == expected
    turned = as_list(neighbour_pairs(other, base, limit))
    assert sorted((i, j) for j, i in turned) == expected
    alone = [(i, j) for i in range(rows) for j in (0, 1) if len(neighbour_pairs(base[[i]], other[[j]], limit)[0])]
    assert alone == [(i, j) for i, j in expected if j < 2]


@given(seed=seeds, rows=st.integers(1, 50), most=st.integers(1, 30))
def test_pieces_are_all_pairs_and_bounded(seed, rows, most):
    base = unit_vectors(*field(seed, 50))
    found = []
    for piece in neighbour_pieces(base, base, 120.0, rows=rows, pairs=most):
        pairs, sources = as_list(piece), set(piece[0].tolist())
        assert pairs == sorted(pairs)
        assert len(sources) <= rows
        assert len(pairs) <= most or len(sources) == 1
        assert sources.isdisjoint(i for i, _ in found)
        found += pairs
    assert sorted(found) == as_list(neighbour_pairs(base, base, 120.0))


def test_a_crowd_is_found_in_small_pieces():
    base = unit_vectors(*field(1, 3000, (200.0, -89.99), 30.0))
    pieces = list(neighbour_pieces(base, base, 60.0, pairs=100_000))
    assert sum(len(i) for i, _ in pieces) == 9_000_000
    assert max(len(i) for i, _ in pieces) <= 100_000


def test_rows_without_a_position_have_no_neighbours():
    ra, dec = np.array([10.0, np.nan, 10.0, 10.0, np.inf]), np.array([5.0, 5.0, np.nan, 5.0, 5.0])
    vectors = unit_vectors(ra, dec)
    assert np.isnan(vectors[[1, 2, 4]]).all()
    assert as_list(neighbour_pairs(vectors, vectors, 1.0)) == [(0, 0), (0, 3), (3, 0), (3, 3)]
    none = unit_vectors([np.nan], [np.nan])
    assert as_list(neighbour_pairs(none, vectors, 1.0)) == as_list(neighbour_pairs(vectors, none, 1.0)) == []


def test_empty_catalogues_have_no_pairs():
    empty, one = np.empty((0, 3)), unit_vectors([1.0], [2.0])
    for base, other in ((empty, one), (one, empty), (empty, empty)):
        found = neighbour_pairs(base, other, 60.0)
        assert as_list(found) == []
        assert found[0].dtype == np.int64


def test_all_of_the_sky_is_within_half_a_turn():
    rng = np.random.default_rng(2)
    vectors = unit_vectors(rng.uniform(0, 360, 20), np.degrees(np.arcsin(rng.uniform(-1, 1, 20))))
    assert len(neighbour_pairs(vectors, vectors, 648_000)[0]) == 400
    assert as_list(neighbour_pairs(vectors, vectors, 0)) == [(i, i) for i in range(20)]


@given(seed=seeds, length=st.sampled_from([1e-200, 1.0, 3e9]))
def test_positions_of_vectors_are_those_of_astropy(seed, length):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, 30), np.degrees(np.arcsin(rng.uniform(-1, 1, 30)))
    found = positions_of_vectors(length * unit_vectors(ra, dec))
    sky = SkyCoord(*unit_vectors(ra, dec).T, representation_type="cartesian").spherical
    np.testing.assert_allclose(found, (sky.lon.deg, sky.lat.deg), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, (ra, dec), rtol=0, atol=1e-12)


def test_no_right_ascension_is_a_whole_turn():
    vectors = np.array([[1, -1e-30, 0], [1, 0, 0], [0, 0, -2], [0, 0, 0], [np.nan, 1, 1], [-1, -0.0, 0]], float)
    ra, dec = positions_of_vectors(vectors)
    np.testing.assert_array_equal(ra, [0, 0, 0, 0, np.nan, 180])
    np.testing.assert_array_equal(dec, [0, 0, -90, 0, np.nan, 0])
    np.testing.assert_array_equal(within_a_turn_deg([-1e-30, 360, -360, 725, -5]), [0, 0, 0, 5, 355])
    assert all(len(found) == 0 for found in positions_of_vectors(np.empty((0, 3))))


def test_angles_of_chords():
    angle = np.array([0.0, 1e-6, 60.0, 3600.0, 324_000.0, 648_000.0])
    np.testing.assert_allclose(angle_of_chord_arcsec(2 * np.sin(np.radians(angle / 7200))), angle, rtol=1e-12)
    np.testing.assert_allclose(angle_of_chord_arcsec(2 + 1e-15), 648_000, rtol=1e-15)
    assert np.isnan(angle_of_chord_arcsec(np.array([np.nan]))).all()


@pytest.mark.parametrize("limit", [-1.0, np.nan, np.inf, 700_000.0])
def test_a_limit_that_is_no_angle_is_refused(limit):
    with pytest.raises(CollationError, match=r"separation limit is .* give 0 to 648,000"):
        neighbour_pairs(np.empty((0, 3)), np.empty((0, 3)), limit)


def test_arrays_that_are_no_positions_are_refused():
    with pytest.raises(CollationError, match="one ra and one dec a row"):
        unit_vectors([1.0, 2.0], [1.0])
    with pytest.raises(CollationError, match=r"give \(n, 3\)"):
        neighbour_pairs(np.zeros((3, 2)), np.zeros((1, 3)), 1.0)
    for make in (positions_of_vectors, NeighbourSearch):
        with pytest.raises(CollationError, match=r"give \(n, 3\)"):
            make(np.zeros(3))
    pieces = NeighbourSearch(np.zeros((1, 3))).pieces(np.zeros(3), 1.0)
    with pytest.raises(CollationError, match=r"give \(n, 3\)"):
        next(pieces)

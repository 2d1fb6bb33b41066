"""Who is matched with whom: trees, astropy and brute force agree, at the poles, across RA 0, with ties."""

import tracemalloc

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord, search_around_sky
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.pairs import (
    Positions,
    check_radius,
    counts_within,
    matched,
    one_to_one,
    separations_arcsec,
)
from skysom.jobs.joins.with_astropy import matched_by_astropy

CENTRES = [(0.0, 0.0), (359.9999, 12.0), (120.0, 90.0), (300.0, -90.0), (45.0, 41.8), (200.0, 89.999)]


def positions(ra, dec, first_row=0):
    return Positions(np.asarray(ra, float), np.asarray(dec, float), first_row + np.arange(len(ra)))


def around(centre, count, width_arcsec, rng):
    """Positions about a centre, some of them doubled."""
    angle, away = rng.uniform(0, 360, count) * u.deg, rng.uniform(0, width_arcsec, count) * u.arcsec
    found = SkyCoord(*centre, unit="deg").directional_offset_by(angle, away)
    ra, dec = found.ra.deg.copy(), found.dec.deg.copy()
    if count > 3:
        ra[-2:], dec[-2:] = ra[:2], dec[:2]
    return positions(ra, dec)


@st.composite
def skies(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centre = draw(st.sampled_from(CENTRES))
    counts = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    return *(around(centre, count, 60, rng) for count in counts), draw(st.sampled_from([0.0, 0.5, 5.0, 40.0]))


def brute_force(left, right, radius, how):
    found = []
    for i in range(len(left)):
        if not len(right):
            continue
        everyone = np.arange(len(right))
        separation = separations_arcsec(left, right, np.full(len(right), i), everyone)
        order = [j for j in np.lexsort((right.row, separation)) if separation[j] <= radius]
        found += [(i, j, separation[j], rank) for rank, j in enumerate(order, start=1)]
    return [one for one in found if how == "all" or one[3] == 1]


@given(skies(), st.sampled_from(["nearest", "all"]))
@settings(deadline=None, max_examples=60)
def test_trees_astropy_and_brute_force_agree(sky, how):
    left, right, radius = sky
    trees, astropy = matched(left, right, radius, how), matched_by_astropy(left, right, radius, how)
    for name in ("left", "right", "separation_arcsec", "rank"):
        assert np.array_equal(getattr(trees, name), getattr(astropy, name)), name
    expected = brute_force(left, right, radius, how)
    assert list(zip(trees.left, trees.right, trees.separation_arcsec, trees.rank, strict=True)) == expected


@given(skies())
@settings(deadline=None, max_examples=40)
def test_pairs_and_separations_are_those_of_astropy(sky):
    left, right, radius = sky
    found = matched(left, right, radius, "all")
    if not len(left) or not len(right):
        assert not len(found)
        return
    coordinates = [SkyCoord(one.ra_deg, one.dec_deg, unit="deg") for one in (left, right)]
    i, j, _, _ = search_around_sky(*coordinates, radius * u.arcsec)
    assert set(zip(found.left, found.right, strict=True)) == set(zip(i, j, strict=True))
    separation = coordinates[0][found.left].separation(coordinates[1][found.right])
    assert np.array_equal(found.separation_arcsec, separation.arcsec)


@given(skies())
@settings(deadline=None, max_examples=40)
def test_one_to_one_takes_the_closest_pairs_that_are_left(sky):
    left, right, radius = sky
    pairs = matched(left, right, radius, "all")
    taken = one_to_one(pairs.separation_arcsec, pairs.left, pairs.right)
    expected, lefts, rights = [], set(), set()
    for place in sorted(range(len(pairs)), key=lambda n: (pairs.separation_arcsec[n], pairs.left[n], pairs.right[n])):
        i, j = pairs.left[place], pairs.right[place]
        if i not in lefts and j not in rights:
            expected.append(place)
            lefts.add(i)
            rights.add(j)
    assert taken.tolist() == sorted(expected)


def test_one_to_one_gives_the_second_nearest_where_the_nearest_is_taken():
    left = positions([10.0, 10.0], [0.0, 2 / 3600])
    right = positions([10.0, 10.0], [0.5 / 3600, 5 / 3600])
    pairs = matched(left, right, 10, "all")
    taken = pairs.of(one_to_one(pairs.separation_arcsec, pairs.left, pairs.right))
    assert list(zip(taken.left, taken.right, taken.rank, strict=True)) == [(0, 0, 1), (1, 1, 2)]


@given(skies(), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_row_is_not_matched_with_itself(sky, by_astropy):
    one, _, radius = sky
    function = matched_by_astropy if by_astropy else matched
    every, others = function(one, one, radius, "all"), function(one, one, radius, "all", not_self=True)
    pairs = set(zip(every.left, every.right, strict=True))
    assert {(i, i) for i in range(len(one))} <= pairs
    assert set(zip(others.left, others.right, strict=True)) == {(i, j) for i, j in pairs if i != j}
    near = function(one, one, radius, "nearest", not_self=True)
    first = others.of(np.flatnonzero(others.rank == 1))
    assert np.array_equal(near.right, first.right)
    assert np.array_equal(near.left, first.left)


@given(skies())
@settings(deadline=None, max_examples=60)
def test_counts_are_numbers_of_pairs(sky):
    left, right, _ = sky
    radii = (0.0, 0.5, 5.0, 40.0)
    counts = counts_within(left, right, radii)
    assert counts.shape == (len(left), 4)
    for number, radius in enumerate(radii):
        pairs = matched(left, right, radius, "all")
        assert counts[:, number].tolist() == np.bincount(pairs.left, minlength=len(left)).tolist()


def test_a_pair_at_the_very_radius_is_decided_alike_everywhere():
    left = positions(np.full(50, 80.0), np.linspace(-89, 89, 50))
    right = positions(left.ra_deg, left.dec_deg + 5 / 3600)
    for radius in (np.nextafter(5, 4), 5.0, np.nextafter(5, 6), 5 + 1e-10, 5 - 1e-10):
        found = [function(left, right, radius, "all") for function in (matched, matched_by_astropy)]
        assert np.array_equal(found[0].left, found[1].left)
        assert np.array_equal(found[0].left, np.flatnonzero(counts_within(left, right, (radius,))[:, 0]))
    assert len(matched(left, right, 5 + 1e-9, "all")) == 50
    assert len(matched(left, right, 5 - 1e-9, "all")) == 0


def test_doubled_positions_are_told_apart_by_their_row():
    left = positions([10.0], [0.0])
    right = Positions(np.full(3, 10.0), np.full(3, 1 / 3600), np.array([7, 2, 5]))
    for function in (matched, matched_by_astropy):
        assert function(left, right, 2, "nearest").right.tolist() == [1]
        assert function(left, right, 2, "all").right.tolist() == [1, 2, 0]


@pytest.mark.parametrize("radius", [-1, np.nan, np.inf, 36_001])
def test_radii_off_the_sky_are_refused(radius):
    with pytest.raises(ConfigError, match="radius"):
        check_radius(radius)


@given(skies(), st.sampled_from(["nearest", "all"]), st.booleans())
@settings(deadline=None, max_examples=30)
def test_pieces_give_the_answer_of_the_whole(sky, how, not_self):
    left, right, radius = sky
    for function in (matched, matched_by_astropy):
        whole = function(left, right, radius, how, not_self=not_self)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("skysom.jobs.joins.pairs.PIECE_PAIRS", 3)
            found = function(left, right, radius, how, not_self=not_self)
        for name in ("left", "right", "separation_arcsec", "rank"):
            assert np.array_equal(getattr(whole, name), getattr(found, name)), name
        assert found.left.dtype == found.right.dtype == np.int64


@pytest.mark.parametrize("function", [matched, matched_by_astropy])
def test_a_tie_far_away_makes_no_pairs_of_others(function):
    """Every left row has two right rows at one place: one row ten arcminutes off, the others upon them."""
    rng = np.random.default_rng(1)
    right = positions(rng.uniform(10, 10.1, 4000).repeat(2), rng.uniform(0, 0.1, 4000).repeat(2))
    left = positions(np.append(right.ra_deg[:4000], 10.05), np.append(right.dec_deg[:4000], -10 / 60))
    matched_by_astropy(left, right, 1, "nearest")  # imports what it needs
    tracemalloc.start()
    found = function(left, right, 3600, "nearest")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.right[:4000].tolist() == (np.arange(4000) // 2 * 2).tolist()
    assert found.separation_arcsec[4000] > 590
    assert peak < 100e6  # all 32 million pairs would take gigabytes


def test_a_right_ascension_of_another_turn_is_the_same_place():
    turned = positions([360, 725.3, -10.3, -1e-20, 0], [5.0] * 5)
    plain = positions(SkyCoord(turned.ra_deg, turned.dec_deg, unit="deg").ra.deg, turned.dec_deg)
    assert turned.ra_deg.tolist() == plain.ra_deg.tolist()
    twins = positions([0.0, 360.0, 0.0], [5.0, 5.0, 5.0])
    for function in (matched, matched_by_astropy):
        assert function(positions([360.0], [5.0]), twins, 1, "all").right.tolist() == [0, 1, 2]
        assert function(positions([360.0], [5.0]), twins, 1, "all").separation_arcsec.tolist() == [0, 0, 0]


@given(skies(), skies())
@settings(deadline=None, max_examples=30)
def test_counts_of_others_leave_out_the_own_row_only_where_it_is_near(one, other):
    """Both sides are one catalogue, whose rows have other positions on the right."""
    count = min(len(one[0]), len(other[1]))
    left, right = (positions(side.ra_deg[:count], side.dec_deg[:count]) for side in (one[0], other[1]))
    counts = counts_within(left, right, (0.5, 40.0), not_self=True)
    for number, radius in enumerate((0.5, 40.0)):
        found = matched(left, right, radius, "all", not_self=True)
        assert counts[:, number].tolist() == np.bincount(found.left, minlength=count).tolist()

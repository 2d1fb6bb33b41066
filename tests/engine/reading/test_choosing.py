"""Choices: seeded, without bias or duplicates, and the same in whatever order and parts rows come."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian, Hexagonal
from skysom.engine.reading.choosing import (
    Strata,
    chosen_rows,
    kmeans_neurons,
    neighbour_counts,
    quantile_strata,
    quotas,
    spaced_neurons,
    value_strata,
)

lattices = st.one_of(
    st.builds(Cartesian, st.integers(1, 7), st.integers(1, 7), st.integers(1, 2), st.booleans()),
    st.builds(Hexagonal, st.sampled_from([1, 3, 5, 7]), st.booleans()),
)


@settings(max_examples=25, deadline=None)
@given(lattices, st.data())
def test_kmeans_neurons_are_different_and_have_hits(lattice, data):
    hits = np.array(data.draw(st.lists(st.integers(0, 5), min_size=lattice.size, max_size=lattice.size)))
    counted = np.flatnonzero(hits)
    if not len(counted):
        with pytest.raises(ReadingError, match="of 0 that have hits"):
            kmeans_neurons(lattice, 1, hits=hits)
        return
    count = data.draw(st.integers(1, min(len(counted), 6)))
    found = kmeans_neurons(lattice, count, hits=hits, seed=3)
    assert len(np.unique(found)) == count
    assert np.isin(found, counted).all()
    assert np.array_equal(found, kmeans_neurons(lattice, count, hits=hits, seed=3))


def test_as_many_clusters_as_neurons_are_all_of_them():
    assert kmeans_neurons(Cartesian(4, 3), 12).tolist() == list(range(12))


def test_centroids_are_rounded_to_the_nearest_neuron_and_not_down():
    """Four heaps of hits in the corners of the last lines: each has its neuron, none is moved to a lower index."""
    lattice = Cartesian(10, 10)
    hits = np.zeros(100)
    corners = [0, 9, 90, 99]
    hits[corners] = 100
    hits[[1, 10, 8, 19, 80, 91, 89, 98]] = 1  # centroids lie a little off the corners, on both sides
    assert kmeans_neurons(lattice, 4, hits=hits).tolist() == corners


def test_hits_draw_the_neurons_to_them():
    hits = np.ones(100)
    hits[:20] = 1000
    assert np.count_nonzero(kmeans_neurons(Cartesian(10, 10), 5, hits=hits, seed=1) < 30) >= 3
    assert np.count_nonzero(kmeans_neurons(Cartesian(10, 10), 5, seed=1) < 30) <= 2


@pytest.mark.parametrize("hits", [np.ones(3), np.full(4, np.nan), np.array([1, 1, 1, -1])])
def test_hits_that_are_none_are_refused(hits):
    with pytest.raises(ReadingError, match="give 4 finite numbers from 0 up"):
        kmeans_neurons(Cartesian(2, 2), 1, hits=hits)


@settings(max_examples=50, deadline=None)
@given(lattices, st.floats(0, 4), st.integers(0, 5), st.integers(1, 8))
def test_spaced_neurons_keep_their_distance(lattice, distance, seed, count):
    try:
        found = spaced_neurons(lattice, count, minimum_distance=distance, seed=seed)
    except ReadingError as error:
        assert str(count) in str(error)  # noqa: PT017
        return
    assert len(np.unique(found)) == count
    apart = lattice.distances()[np.ix_(found, found)][~np.eye(count, dtype=bool)]
    assert (apart >= distance).all()
    assert np.array_equal(found, spaced_neurons(lattice, count, minimum_distance=distance, seed=seed))


def test_spaced_neurons_stop_with_what_fitted():
    with pytest.raises(ReadingError, match=r"of the 5 neurons wanted only 4 were found that are 2 lattice steps"):
        spaced_neurons(Cartesian(3, 3), 5, minimum_distance=2)
    assert spaced_neurons(Cartesian(3, 3), 4, minimum_distance=2).tolist() == [0, 2, 6, 8]
    with pytest.raises(ReadingError, match="only 1 were found"):  # the corners of a torus are neighbours
        spaced_neurons(Cartesian(3, 3, periodic=True), 2, minimum_distance=2)


def test_other_seeds_choose_others():
    lattice = Cartesian(10, 10)
    found = {tuple(spaced_neurons(lattice, 5, seed=seed)) for seed in range(20)}
    assert len(found) == 20


# --- rows -------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(0, 50), min_size=1, max_size=8).map(np.array)


@given(sizes, st.integers(1, 200), st.booleans())
@example(np.array([3, 3, 5, 2, 5]), 17, False)  # strata as large as the others' share
@example(np.array([3, 3, 5, 2, 5]), 18, False)
def test_quotas_of_a_total_are_fair_and_whole(sizes, total, proportional):
    quota = quotas(sizes, total=total, proportional=proportional)
    assert (quota <= sizes).all()
    assert (quota >= 0).all()
    assert quota.sum() == min(total, sizes.sum())
    if proportional:
        assert (np.abs(quota - min(total, sizes.sum()) * sizes / max(sizes.sum(), 1)) < 1).all()
    else:  # whoever has less than another has given all
        short = quota < quota.max() - 1
        assert (quota[short] == sizes[short]).all()


@given(sizes, st.integers(1, 60))
def test_quotas_of_each_stratum(sizes, each):
    assert np.array_equal(quotas(sizes, each=each), np.minimum(sizes, each))


@pytest.mark.parametrize(
    "asked", [{}, {"each": 1, "total": 2}, {"each": 0}, {"total": -1}, {"each": 2, "proportional": True}]
)
def test_quotas_that_say_nothing_or_two_things_are_refused(asked):
    with pytest.raises(ReadingError, match="give one of the two"):
        quotas(np.array([3]), **asked)


@settings(max_examples=50)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60), st.integers(1, 10), st.integers(0, 9), st.randoms())
def test_a_sample_depends_on_seed_and_rows_not_on_their_order(codes, each, seed, random):
    code = np.array(codes)
    strata = Strata(code, ("a", "b", "c", "d"))
    quota = quotas(strata.sizes, each=each)
    chosen = chosen_rows(strata, quota, seed=seed)
    assert np.array_equal(np.bincount(code[chosen], minlength=4), quota)
    assert not chosen[code < 0].any()
    order = list(range(len(code)))
    random.shuffle(order)
    again = chosen_rows(Strata(code[order], strata.names), quota, seed=seed, rows=np.array(order))
    assert np.array_equal(again, chosen[order])
    parts = np.zeros(len(code), bool)  # each stratum by itself
    for number in range(4):
        own = np.flatnonzero(code == number)
        if len(own):
            one = Strata(np.zeros(len(own), np.int64), ("one",))
            parts[own] = chosen_rows(one, quota[[number]], seed=seed, rows=own)
    assert np.array_equal(parts, chosen)


def test_more_rows_and_larger_samples_keep_what_was_chosen():
    code = np.arange(500) % 3
    strata = Strata(code, ("a", "b", "c"))
    small, large = (chosen_rows(strata, np.full(3, size), seed=1) for size in (10, 20))
    assert (large >= small).all()
    assert not np.array_equal(small, chosen_rows(strata, np.full(3, 10), seed=2))


def test_values_are_strata_and_missing_ones_are_in_none():
    found = value_strata(pd.array([12, None, 3, 12], dtype="Int32"))
    assert found.names == ("3", "12")
    assert found.code.tolist() == [1, -1, 0, 1]
    assert found.sizes.tolist() == [1, 2]
    assert found.among(np.array([True, True, True, False])).sizes.tolist() == [1, 1]
    assert value_strata(np.array(["b", None, "a"], object)).code.tolist() == [1, -1, 0]
    assert value_strata(np.array([1.5, np.nan])).code.tolist() == [0, -1]


@given(st.lists(st.floats(width=32) | st.just(float("nan")), min_size=1, max_size=50), st.integers(2, 6))
def test_quantiles_keep_equal_numbers_together_and_their_order(values, quantiles):
    numbers = np.array(values)
    finite = np.isfinite(numbers)
    if not finite.any():
        with pytest.raises(ReadingError, match="of 0 finite values"):
            quantile_strata(numbers, quantiles)
        return
    found = quantile_strata(numbers, quantiles)
    assert (found.code[~finite] == -1).all()
    assert len(found.names) <= quantiles
    assert (found.sizes > 0).all()
    order = np.argsort(numbers[finite], kind="stable")
    ordered = found.code[finite][order]
    assert (np.diff(ordered) >= 0).all()
    assert (np.diff(ordered)[np.diff(numbers[finite][order]) == 0] == 0).all()


def test_quantiles_of_different_numbers_are_equal_in_size():
    found = quantile_strata(np.arange(100.0), 4)
    assert found.sizes.tolist() == [25, 25, 25, 25]
    assert found.names[0] == "0 to <25"


# --- the sky ----------------------------------------------------------------------------------------


def separations_arcsec(ra_deg, dec_deg):
    """Every separation by Vincenty's formula, as astropy has it."""
    from astropy import units
    from astropy.coordinates import SkyCoord

    sky = SkyCoord(ra_deg, dec_deg, unit="deg")
    return sky[:, None].separation(sky[None, :]).to_value(units.arcsec)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(0.0, 0.0), (10.0, 90.0), (359.9999, -90.0), (0.0, 60.0), (180.0, -45.0)]),
    st.integers(0, 100),
    st.sampled_from([5.0, 60.0, 3600.0, 200_000.0]),
)
def test_neighbours_are_those_within_the_radius_anywhere_on_the_sky(centre, seed, radius):
    rng = np.random.default_rng(seed)
    spread = radius / 3600 * 1.5
    dec = np.clip(centre[1] + rng.uniform(-spread, spread, 60), -90, 90)
    ra = (centre[0] + rng.uniform(-spread, spread, 60) / max(np.cos(np.radians(centre[1])), 1e-3)) % 360
    apart = separations_arcsec(ra, dec)
    near = np.abs(apart - radius) > 1e-6 * radius  # none at the very edge
    expected = (apart <= radius).sum(axis=1) - 1
    found = neighbour_counts(ra, dec, radius)
    assert np.array_equal(found[near.all(axis=1)], expected[near.all(axis=1)])
    assert np.array_equal(found, neighbour_counts(ra, dec, radius, at_once=7))


def test_sources_without_a_position_have_no_count_and_count_for_none():
    ra, dec = np.array([0.0, 359.9999, np.nan, 0.0001]), np.array([0.0, 0.0, 0.0, np.nan])
    assert neighbour_counts(ra, dec, 1.0).tolist() == [1, 1, -1, -1]
    assert neighbour_counts(ra[2:], dec[2:], 1.0).tolist() == [-1, -1]
    assert neighbour_counts(np.zeros(3), np.zeros(3), 0.1).tolist() == [2, 2, 2]
    for radius in (0, -1, np.nan, 1e9):
        with pytest.raises(ReadingError, match="the radius is"):
            neighbour_counts(ra, dec, radius)

"""Boxes of the sky: each position in one, each neighbour in the margin, and nothing found depends on them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.collation.neighbours import neighbour_pairs, separations_arcsec, unit_vectors
from skysom.engine.collation.sky_boxes import SkyBoxes, partition_sky
from skysom.engine.errors import CollationError

skies = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 200),
    st.sampled_from(["everywhere", "north", "south", "meridian", "one place"]),
)


def sky(seed, rows, kind):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, rows), np.degrees(np.arcsin(rng.uniform(-1, 1, rows)))
    if kind in ("north", "south"):
        dec = (90 - 0.5 * rng.random(rows) ** 2) * (1 if kind == "north" else -1)
    elif kind == "meridian":
        ra, dec = rng.normal(0, 0.5, rows) % 360, rng.normal(-30, 0.5, rows)
    elif kind == "one place":
        ra, dec = np.full(rows, 12.0), np.full(rows, 34.0)
    return ra, dec


@given(skies, st.integers(1, 50))
def test_each_position_lies_in_exactly_one_box(where, per_box):
    ra, dec = sky(*where)
    boxes = partition_sky(ra, dec, per_box)
    everywhere = sky(where[0] + 1, 300, "everywhere")
    for positions in ((ra, dec), everywhere, ([0.0, 360.0, -1e-20, 359.99], [90.0, -90.0, 0.0, 12.0])):
        box = boxes.box_of(*positions)
        assert box.dtype == np.int32
        assert ((box >= 0) & (box < boxes.count)).all()
    index, box = boxes.with_margin(ra, dec, 0.0)
    assert set(zip(range(len(ra)), boxes.box_of(ra, dec).tolist(), strict=True)) <= set(
        zip(index.tolist(), box.tolist(), strict=True)
    )


def test_boxes_are_of_about_the_size_asked_for():
    ra, dec = sky(3, 20_000, "everywhere")
    counts = np.bincount(partition_sky(ra, dec, 500).box_of(ra, dec))
    assert 40 <= len(counts) <= 60
    assert counts.min() > 200
    assert counts.max() <= 600


def test_a_whole_turn_is_no_turn():
    ra, dec = sky(4, 500, "everywhere")
    ra = np.floor(ra * 1024) / 1024  # so that turns are exact
    boxes = partition_sky(ra, dec, 20)
    np.testing.assert_array_equal(boxes.box_of(ra, dec), boxes.box_of(ra - 360, dec))
    np.testing.assert_array_equal(boxes.box_of([0.0], [5.0]), boxes.box_of([360.0], [5.0]))


@given(skies, st.integers(1, 30), st.sampled_from([0.0, 1.0, 60.0, 3600.0, 36_000.0, 400_000.0, 648_000.0]))
def test_the_margin_of_a_box_holds_all_neighbours_of_its_rows_once(where, per_box, margin):
    ra, dec = sky(*where)
    ra[len(ra) // 2 :] = (ra[: len(ra) - len(ra) // 2] + margin / 3600 / 2) % 360
    boxes = partition_sky(ra, dec, per_box)
    index, box = boxes.with_margin(ra, dec, margin)
    assert index.dtype == np.int64
    assert box.dtype == np.int32
    held = list(zip(box.tolist(), index.tolist(), strict=True))
    assert held == sorted(set(held))
    vectors = unit_vectors(ra, dec)
    i, j = neighbour_pairs(vectors, vectors, margin)
    needed = set(zip(boxes.box_of(ra, dec)[i].tolist(), j.tolist(), strict=True))
    assert needed <= set(held)


def test_the_margin_is_no_wider_than_it_must_be():
    ra, dec = sky(6, 20_000, "everywhere")
    boxes = partition_sky(ra, dec, 500)
    index, _ = boxes.with_margin(ra, dec, 60.0)
    # 50 boxes have some 50 * 4 * 29 degrees of border, two arcminutes wide, of 41,253 square degrees.
    assert 20_000 < len(index) < 20_000 * (1 + 3 * 200 * 29 / 30 / 41_253)
    polar = np.abs(dec) > 89
    alone, _ = boxes.with_margin(ra[~polar], dec[~polar], 0.0)
    assert len(alone) == (~polar).sum() + len(boxes.dec_cuts_deg) + sum(len(cuts) for cuts in boxes.ra_cuts_deg)


@given(skies, st.integers(1, 60), st.sampled_from([5.0, 600.0, 20_000.0]))
def test_pairs_found_box_by_box_are_those_found_at_once(where, per_box, limit):
    ra, dec = sky(*where)
    other_ra, other_dec = sky(where[0] + 1, 150, where[2])
    boxes = partition_sky(ra, dec, per_box)
    base, other = unit_vectors(ra, dec), unit_vectors(other_ra, other_dec)
    own = boxes.box_of(ra, dec)
    index, box = boxes.with_margin(other_ra, other_dec, limit)
    pairs = []
    for number in range(boxes.count):
        rows, near = np.flatnonzero(own == number), index[box == number]
        i, j = neighbour_pairs(base[rows], other[near], limit)
        pairs += zip(rows[i].tolist(), near[j].tolist(), strict=True)
    expected = neighbour_pairs(base, other, limit)
    assert sorted(pairs) == list(zip(*(side.tolist() for side in expected), strict=True))


def test_positions_that_are_none_lie_in_no_box():
    boxes = partition_sky([1.0, np.nan, 2.0, 3.0], [1.0, 2.0, np.nan, 4.0], 1)
    bad_ra, bad_dec = [np.nan, 1.0, 1.0, np.inf, 1.0], [1.0, np.nan, 91.0, 0.0, -np.inf]
    np.testing.assert_array_equal(boxes.box_of(bad_ra, bad_dec), np.full(5, -1))
    assert len(boxes.with_margin(bad_ra, bad_dec, 60.0)[0]) == 0


def test_without_positions_the_sky_is_one_box():
    boxes = partition_sky([], [], 10)
    assert boxes.count == 1
    assert boxes.box_of([5.0], [5.0]).tolist() == [0]
    assert [part.tolist() for part in boxes.with_margin([5.0, 6.0], [5.0, 90.0], 1e6)] == [[0, 1], [0, 0]]


def test_plain_values_bring_the_same_boxes_back():
    ra, dec = sky(5, 1000, "everywhere")
    boxes = partition_sky(ra, dec, 30)
    again = SkyBoxes.from_dict(json.loads(json.dumps(boxes.to_dict())))
    assert again.count == boxes.count
    np.testing.assert_array_equal(again.box_of(ra, dec), boxes.box_of(ra, dec))
    np.testing.assert_array_equal(again.with_margin(ra, dec, 99.0), boxes.with_margin(ra, dec, 99.0))


def test_the_margin_reaches_across_the_meridian_and_the_pole():
    boxes = SkyBoxes(np.array([80.0]), (np.array([90.0, 180.0, 270.0]), np.array([120.0, 240.0])))
    index, box = boxes.with_margin([0.001, 359.999, 45.0], [10.0, 10.0, 89.999], 10.0)
    found = list(zip(index.tolist(), box.tolist(), strict=True))
    assert found == [(0, 0), (1, 0), (0, 3), (1, 3), (2, 4), (2, 5), (2, 6)]
    here, there = unit_vectors([45.0], [89.999]), unit_vectors([225.0], [89.999])
    assert separations_arcsec(here, there, np.array([0]), np.array([0]))[0] < 10


def test_what_makes_no_boxes_is_refused():
    with pytest.raises(CollationError, match="boxes of 0 rows"):
        partition_sky([1.0], [1.0], 0)
    with pytest.raises(CollationError, match="margin is nan"):
        partition_sky([1.0], [1.0], 1).with_margin([1.0], [1.0], np.nan)
    with pytest.raises(CollationError, match="make 2 strips"):
        SkyBoxes(np.array([0.0]), (np.empty(0),))
    with pytest.raises(CollationError, match="one ra and one dec a row"):
        partition_sky([1.0], [1.0, 2.0], 1)

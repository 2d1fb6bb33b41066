"""Folds: every source tested once a repeat, classes in shares, and a split on the sky that separates."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord, search_around_sky
from astropy.units import deg

from skysom.engine.errors import ReadingError
from skysom.engine.reading.folds import CELL_SIDES, check_classes, class_codes, merge_rare, sky_cells, split_folds

RNG = np.random.default_rng(4)
LABELS = RNG.choice(["a", "b", "c"], 300, p=[0.5, 0.3, 0.2])
POSITION = RNG.uniform(0, 360, 300), np.degrees(np.arcsin(RNG.uniform(-1, 1, 300)))


def test_every_source_is_tested_once_a_repeat_and_never_learned_from_then():
    folds = split_folds(LABELS, 5, 3, seed=1)
    assert [fold.repeat for fold in folds] == [0] * 5 + [1] * 5 + [2] * 5
    for repeat in range(3):
        tested = np.concatenate([fold.test for fold in folds if fold.repeat == repeat])
        assert np.array_equal(np.sort(tested), np.arange(300))
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        assert abs((LABELS[fold.test] == "c").sum() - (LABELS == "c").sum() / 5) <= 1


def test_seeds_decide():
    def tests(seed):
        return [fold.test.tolist() for fold in split_folds(LABELS, 5, 2, seed=seed)]

    assert tests(1) == tests(1) != tests(2)
    assert tests(1)[:5] != tests(1)[5:]


@pytest.mark.parametrize("apart", [0.5, 2.0, 5.0])
def test_a_split_on_the_sky_separates(apart):
    # Pairs across 0 h, near the poles and across borders of cells are among them.
    ra, dec = (np.concatenate([values, values + shift]) for values, shift in zip(POSITION, (0.3, 0.0), strict=True))
    ra[:20], dec[:20] = np.linspace(359, 361, 20) % 360, 10.0
    dec[20:40] = np.linspace(89, 90, 20)
    labels = np.concatenate([LABELS, LABELS])
    sky = SkyCoord(ra * deg, dec * deg)
    folds = split_folds(labels, 5, 2, seed=3, position_deg=(ra, dec), apart_deg=apart)
    assert sum(len(fold.test) for fold in folds) == 2 * len(labels)
    for fold in folds:
        assert not len(search_around_sky(sky[fold.train], sky[fold.test], 0.999 * apart * deg)[0])
        assert len(fold.train) > 0.5 * len(labels)


def test_sources_side_by_side_over_a_border_are_not_both_learned_from_and_tested():
    ra, dec = np.repeat(np.arange(0, 360, 3.0), 2), np.tile([4.999, 5.001], 120)
    labels = np.tile(["a", "b"], 120)
    assert len(np.unique(sky_cells(ra, dec, CELL_SIDES))) > 5
    for fold in split_folds(labels, 5, 1, position_deg=(ra, dec), apart_deg=1.0):
        assert not set(ra[fold.train]) & set(ra[fold.test])


def test_sky_cells_are_about_square_and_cover_the_sky():
    cells = sky_cells(*POSITION, 20.0)
    for cell in np.unique(cells):
        inside = SkyCoord(POSITION[0][cells == cell] * deg, POSITION[1][cells == cell] * deg)
        assert (inside.separation(inside[0]) < 2 * 20 * deg).all()
    poles = sky_cells([0, 360, -360, 0, 360], [90, 90, 90, -90, -90], 10.0)
    assert poles.tolist() == [poles[0]] * 3 + [0, 0]
    assert np.unique(sky_cells(*POSITION, 180.0)).tolist() == [0, 1]


def test_rare_classes_are_merged_when_asked():
    labels = np.array(["a"] * 9 + ["b"] * 8 + ["c"] * 3 + ["d"] * 2)
    merged = merge_rare(labels, 5)
    assert np.array_equal(np.unique(merged, return_counts=True)[1], [9, 8, 5])
    check_classes(merged, 5)
    assert merge_rare(labels, 2).tolist() == labels.tolist()
    assert set(merge_rare(labels, 9, "b").tolist()) == {"a", "b"}  # b itself is rare


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: split_folds(np.array(["a"] * 20 + ["b"] * 9), 10), "'b' has 9 .* 10 folds need 10"),
        (lambda: split_folds(np.array(["a"] * 20 + ["b"] * 3), 2), "'b' has 3 .* need 4"),
        (lambda: split_folds(np.array(["a"] * 20), 5), "only 'a'"),
        (lambda: split_folds(np.array([], str), 5), "none"),
        (lambda: split_folds(LABELS, 1), "1 folds"),
        (lambda: split_folds(LABELS, 5, 0), "0 times"),
        (lambda: split_folds(LABELS, 5, apart_deg=1.0), "no positions"),
        (lambda: split_folds(LABELS, 5, position_deg=POSITION, apart_deg=0.0), "0.0 degrees"),
        (lambda: split_folds(LABELS, 5, position_deg=POSITION, apart_deg=30.0), r"\d sky cells .* 5 folds"),
        (lambda: split_folds(LABELS, 5, position_deg=(POSITION[0], POSITION[1] * np.nan), apart_deg=1.0), "300 of 300"),
        (lambda: merge_rare(np.array(["other"] * 9 + ["b"]), 5), "'other', which is a class"),
    ],
)
def test_refused(call, words):
    with pytest.raises(ReadingError, match=words):
        call()


def test_a_class_in_one_place_is_refused_by_a_split_on_the_sky():
    labels = np.where(np.arange(300) < 30, "rare", "common")
    ra = np.where(labels == "rare", 100.0, POSITION[0])
    dec = np.where(labels == "rare", 10.0, POSITION[1])
    with pytest.raises(ReadingError, match="leaves 0 of class 'rare'"):
        split_folds(labels, 5, position_deg=(ra, dec), apart_deg=2.0)


def test_codes_are_of_sorted_classes():
    classes, codes = class_codes(np.array(["b", "a", "b"], object))
    assert classes == ("a", "b")
    assert codes.tolist() == [1, 0, 1]

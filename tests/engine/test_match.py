import array_api_strict
import numpy as np
import pytest

from skysom.engine import Geometry
from skysom.engine.errors import ShapeError
from skysom.engine.match import Match, as_match, check_shapes, empty_match, finite_images, joined


@pytest.mark.parametrize("xp", [np, array_api_strict])
def test_a_match_of_squared_distances(xp):
    squared = xp.asarray([[4.0, 1.0, 1.0], [9.0, 16.0, 25.0]], dtype=xp.float64)
    transform = xp.asarray([[5, 6, 7], [8, 9, 10]])
    found = as_match(squared, transform, xp.asarray([True, False]), xp=xp)
    assert found.distance.dtype == found.bmu_distance.dtype == xp.float32
    assert found.transform.dtype == found.bmu.dtype == xp.int64
    assert found.exact.dtype == xp.bool
    np.testing.assert_array_equal(np.asarray(found.distance), [[2, 1, 1], [np.nan] * 3])
    np.testing.assert_array_equal(np.asarray(found.transform), [[5, 6, 7], [0, 0, 0]])
    np.testing.assert_array_equal(np.asarray(found.bmu), [1, 0])  # the lowest index of equal ones
    np.testing.assert_array_equal(np.asarray(found.bmu_distance), [1, np.nan])
    np.testing.assert_array_equal(np.asarray(found.exact), [[True] * 3, [False] * 3])
    some = xp.asarray([[True, False, True], [False, False, True]])
    found = as_match(squared, transform, xp.asarray([True, True]), some, xp=xp)
    np.testing.assert_array_equal(np.asarray(found.exact), np.asarray(some))


@pytest.mark.parametrize("xp", [np, array_api_strict])
def test_matches_are_joined_in_order(xp):
    squared = np.random.default_rng(0).random((7, 4))
    whole = as_match(xp.asarray(squared), xp.zeros((7, 4), dtype=xp.int64), xp.ones(7, dtype=xp.bool), xp=xp)
    parts = [
        as_match(xp.asarray(part), xp.zeros(part.shape, dtype=xp.int64), xp.ones(len(part), dtype=xp.bool), xp=xp)
        for part in (squared[:3], squared[3:6], squared[6:])
    ]
    found = joined([*parts, empty_match(4, xp=xp)], xp=xp)
    for name in Match.__dataclass_fields__:
        assert getattr(found, name).dtype == getattr(whole, name).dtype
        np.testing.assert_array_equal(np.asarray(getattr(found, name)), np.asarray(getattr(whole, name)))


def test_images_that_are_not_finite_become_blank():
    images = np.ones((4, 2, 3, 3), np.float32)
    images[1, 1, 2, 2], images[2, 0] = np.nan, -np.inf
    kept = images.copy()
    images.flags.writeable = False
    found, finite = finite_images(images, xp=np)
    assert finite.tolist() == [True, False, False, True]
    assert not found[[1, 2]].any()
    assert (found[[0, 3]] == 1).all()
    np.testing.assert_array_equal(images, kept)


@pytest.mark.parametrize(
    ("images", "weights", "named"),
    [
        ((2, 1, 9, 8), (4, 1, 12, 12), "9, 8"),
        ((2, 3, 8, 8), (4, 1, 12, 12), "2, 3, 8, 8"),
        ((2, 1, 8, 8), (4, 1, 12, 13), "12, 13"),
        ((2, 8, 8), (4, 1, 12, 12), "2, 8, 8"),
    ],
)
def test_shapes_that_do_not_fit_are_named(images, weights, named):
    geometry = Geometry.derive(8, 4)
    check_shapes((0, 1, 8, 8), (4, 1, 12, 12), geometry)
    with pytest.raises(ShapeError, match=rf"\({named}|{named}\)"):
        check_shapes(images, weights, geometry)

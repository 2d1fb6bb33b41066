"""The U-matrix: differences of neighbours whatever their orientation, as the search has them."""

import numpy as np
import pytest

from skysom.engine import Cartesian, Hexagonal, Som, best_match
from skysom.engine.reading.crops import central, reduced
from skysom.engine.reading.u_matrix import MAX_NEURONS, u_matrix


def shapes(count, side, channels=1):
    """(count, channels, side, side) float32 pictures of ellipses of random orientation and length."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle, long = rng.uniform(0, np.pi, (2, count, 1, 1))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    image = np.exp(-(along**2) / (2 + 10 * long) - across**2 / 3)
    return np.repeat(image[:, None], channels, axis=1).astype(np.float32)


def test_it_ignores_orientation_and_wraps_where_periodic():
    bar = shapes(1, 32)[0]
    other = np.zeros_like(bar)
    other[:, 10:14, 20:24] = 3.0
    weights = np.stack([bar, np.rot90(bar, axes=(1, 2)), bar[:, ::-1], other])
    geometry = {"rotations": 360, "flip": True}
    open_ = u_matrix(weights, Cartesian(1, 4), geometry, 32)
    closed = u_matrix(weights, Cartesian(1, 4, periodic=True), geometry, 32)
    assert open_[:2] == pytest.approx([0, 0], abs=1e-3)
    assert open_[3] > 1
    assert closed[0] == pytest.approx(open_[3] / 2, rel=1e-3)
    assert np.isnan(u_matrix(weights[:1], Cartesian(1), geometry, 32)).all()


def test_it_is_that_of_the_search():
    weights = shapes(9, 32, 2)
    lattice = Hexagonal(3)
    found = u_matrix(weights[:7], lattice, {"rotations": 36, "flip": True}, 32)
    match = best_match(weights[:7], Som(weights[:7], lattice), 36, True, "circular", 32)
    distance, neighbour = (match.distance + match.distance.T) / 2, lattice.distances() == 1
    np.testing.assert_allclose(found, [distance[i, neighbour[i]].mean() for i in range(7)], rtol=1e-4)


def test_a_large_map_is_compared_in_small_and_a_very_large_one_not_at_all():
    assert np.isfinite(u_matrix(shapes(64, 100), Cartesian(8, 8), {"rotations": 8}, 70)).all()
    assert u_matrix(np.zeros((MAX_NEURONS + 1, 1, 2, 2), np.float32), Cartesian(MAX_NEURONS + 1), {}, 2) is None


def test_the_middle_and_the_small_image():
    image = np.arange(36, dtype=np.float32).reshape(1, 1, 6, 6)
    assert np.array_equal(central(image, 2)[0, 0], [[14, 15], [20, 21]])
    assert central(image, 9).shape == (1, 1, 6, 6)
    np.testing.assert_allclose(reduced(image, 3)[0, 0], image[0, 0].reshape(3, 2, 3, 2).mean(axis=(1, 3)))
    assert np.array_equal(reduced(image, 6), image)

"""Shares of the channels: they add up to the distances, and weights move them as they should."""

import numpy as np
import pytest

from skysom.engine import Cartesian, Geometry, Som, best_match
from skysom.engine.errors import ReadingError
from skysom.engine.reading.weighing import even_weights, weigh

GEOMETRY = Geometry.derive(12, 8, region="circular")
RNG = np.random.default_rng(3)
IMAGES = (RNG.random((40, 2, 12, 12)) ** 3 * np.array([1, 0.2])[:, None, None]).astype(np.float32)
SIDE = GEOMETRY.neuron_side
NEURONS = (RNG.random((5, 2, SIDE, SIDE)) ** 3 * np.array([1, 0.2])[:, None, None]).astype(np.float32)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.25, 0.75)])
def test_squares_of_the_channels_add_up_to_those_of_the_search(weights):
    found = weigh(IMAGES, NEURONS, GEOMETRY, weights)
    scale = np.array(weights, np.float32)[:, None, None]
    match = best_match(
        IMAGES * scale, Som(NEURONS * scale, Cartesian(5)), 8, True, "circular", GEOMETRY.region_side, "reference"
    )
    np.testing.assert_allclose(found.squared.sum(axis=1), match.bmu_distance**2, rtol=1e-5)
    assert np.array_equal(found.bmu, match.bmu)
    assert found.share.sum() == pytest.approx(1)
    assert found.median_share.sum() == pytest.approx(1)


def test_a_heavier_channel_has_a_larger_share_and_a_common_factor_none():
    before, after, twice = (weigh(IMAGES, NEURONS, GEOMETRY, w) for w in ((1, 1), (1, 4), (2, 2)))
    assert after.share[1] > before.share[1]
    np.testing.assert_allclose(twice.share, before.share, rtol=1e-5)
    np.testing.assert_allclose(twice.squared, 4 * before.squared, rtol=1e-5)


def test_even_weights_make_the_shares_equal():
    found = weigh(IMAGES, NEURONS, GEOMETRY, (1, 1))
    assert found.share[0] > 0.9
    weights = even_weights(found)
    assert weights.sum() == pytest.approx(1)
    after = weigh(IMAGES, NEURONS, GEOMETRY, weights)
    assert abs(after.share - 0.5).max() < 0.1
    for _ in range(4):  # units and transforms change with the weights
        after = weigh(IMAGES, NEURONS, GEOMETRY, even_weights(after))
    np.testing.assert_allclose(after.share, 0.5, atol=0.01)
    empty = weigh(IMAGES * [[[1]], [[0]]], NEURONS * np.float32([[[1]], [[0]]]), GEOMETRY, (1, 1))
    with pytest.raises(ReadingError, match=r"channels \[1\] have no share"):
        even_weights(empty)


@pytest.mark.parametrize("weights", [(1,), (1, 2, 3), (1, 0), (1, -1), (1, np.nan)])
def test_other_weights_are_refused(weights):
    with pytest.raises(ReadingError, match="give 2 finite numbers above 0"):
        weigh(IMAGES, NEURONS, GEOMETRY, weights)

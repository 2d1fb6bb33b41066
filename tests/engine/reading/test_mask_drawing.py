"""Masks drawn by rule: flood fills above a threshold, and polygons."""

import numpy as np
import pytest
from scipy import ndimage

from skysom.engine.errors import ReadingError
from skysom.engine.reading.mask_drawing import flood_mask, lasso_mask, scripted_masks, threshold


def neuron(*sources, side=21):
    """A faint slope with bright discs (row, column, radius, brightness)."""
    rows, columns = np.indices((side, side))
    image = rows * 1e-3
    for row, column, radius, bright in sources:
        image = np.where((rows - row) ** 2 + (columns - column) ** 2 <= radius**2, bright, image)
    return image.astype(np.float32)


TWO = neuron((6, 6, 2, 5.0), (14, 15, 2, 7.0))


def test_a_flood_is_the_connected_region_above_so_many_deviations():
    for sigma in (0.5, 2.0):
        least = sigma * np.std(TWO, dtype=np.float64)
        assert threshold(TWO, sigma) == pytest.approx(least, rel=1e-12)
        labels, _ = ndimage.label(least < TWO, structure=np.ones((3, 3)))
        for seed in ((6, 6), (14.4, 15.4)):
            row, column = (int(axis + 0.5) for axis in seed)
            assert np.array_equal(flood_mask(TWO, seed, sigma), labels == labels[row, column])


def test_pixels_that_touch_at_a_corner_are_connected():
    image = np.zeros((8, 8))
    image[2, 2] = image[3, 3] = image[6, 6] = 1.0
    assert np.array_equal(np.argwhere(flood_mask(image, (2, 2))), [[2, 2], [3, 3]])


def test_a_click_below_the_threshold_does_not_flood_the_background():
    with pytest.raises(ReadingError, match="background would be filled"):
        flood_mask(TWO, (0, 0))
    with pytest.raises(ReadingError, match="outside"):
        flood_mask(TWO, (0, 20.6))
    with pytest.raises(ReadingError, match="constant"):
        flood_mask(np.ones((5, 5)), (2, 2))
    with pytest.raises(ReadingError, match="sigma is 0"):
        flood_mask(TWO, (6, 6), 0)


def test_scripted_masks_begin_at_the_brightest_or_the_most_central_pixel():
    central = neuron((10, 9, 1, 5.0), (2, 2, 1, 9.0))
    neurons = np.stack([TWO, central, np.zeros_like(TWO), np.full_like(TWO, np.nan)])
    brightest, middle = scripted_masks(neurons), scripted_masks(neurons, seed="central")
    assert np.array_equal(brightest[0], flood_mask(TWO, (14, 15)))
    assert np.array_equal(brightest[1], flood_mask(central, (2, 2)))
    assert np.array_equal(middle[1], flood_mask(central, (10, 9)))
    assert not brightest[2:].any()
    with pytest.raises(ReadingError, match="'darkest'"):
        scripted_masks(neurons, seed="darkest")


def test_missing_pixels_are_in_no_mask():
    holed = np.where(TWO == 5, TWO, np.nan)
    holed[0, 0] = 0.0
    assert np.array_equal(scripted_masks(holed[None])[0], TWO == 5)


SQUARE = np.array([(4.8, 4.8), (4.8, 9.2), (9.2, 9.2), (9.2, 4.8)])  # rows and columns


@pytest.mark.parametrize("closed", [False, True])
def test_a_lasso_takes_the_pixels_inside_however_it_was_drawn(closed):
    expected = np.zeros((20, 20), bool)
    expected[5:10, 5:10] = True
    wide = np.zeros((20, 20), bool)
    wide[4:11, 4:11] = True
    for vertices in (SQUARE, SQUARE[::-1]):
        drawn = np.vstack([vertices, vertices[:1]]) if closed else vertices
        assert np.array_equal(lasso_mask(drawn, 20, margin_px=0), expected)
        assert np.array_equal(lasso_mask(drawn, 20, margin_px=0.9), wide)
    narrow = [(2, 1), (2, 8), (3.4, 8), (3.4, 1)]
    assert set(np.argwhere(lasso_mask(narrow, 12, margin_px=0.2))[:, 0]) == {2, 3}


def test_a_lasso_follows_the_peers_rule():
    """The peer's: centres within a matplotlib path of radius 1, here for a path that goes counter-clockwise."""
    from matplotlib.path import Path

    rng = np.random.default_rng(3)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    x, y = 10 + 6 * np.cos(angle), 10 + 5 * np.sin(angle)
    pixels = [(column, row) for row in range(20) for column in range(20)]
    peers = Path(np.stack([x, y], axis=1)).contains_points(pixels, radius=1).reshape(20, 20)
    assert np.array_equal(lasso_mask(np.stack([y, x], axis=1), 20), peers)
    assert np.array_equal(lasso_mask(np.stack([y, x], axis=1)[::-1], 20), peers)


def test_a_lasso_needs_three_vertices():
    with pytest.raises(ReadingError, match="at least three"):
        lasso_mask([(1, 1), (2, 2)], 20)
    with pytest.raises(ReadingError, match="finite"):
        lasso_mask([(1, 1), (2, 2), (np.nan, 3)], 20)

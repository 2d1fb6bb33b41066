"""Masks as one word a pixel, and how far from a source they reach."""

import numpy as np
import pytest

from skysom.engine.collation import Frames, bits_of_offsets, label_planes, mask_reach_arcsec
from skysom.engine.errors import CollationError
from skysom.engine.reading.masks import pack


def test_bits_of_labels():
    masks = np.zeros((64, 1, 1, 2, 2), bool)
    masks[0, 0, 0, 0, 1] = masks[63, 0, 0, 0, 1] = masks[9, 0, 0, 1, 0] = True
    planes = label_planes(pack(masks), 64)
    assert planes.shape == (1, 1, 2, 2)
    assert planes.dtype == np.uint64
    assert planes[0, 0].tolist() == [[0, 1 + 2**63], [2**9, 0]]
    assert label_planes(pack(masks), 9)[0, 0].tolist() == [[0, 1], [0, 0]]
    assert not label_planes(np.zeros((1, 1, 2, 2, 0), np.uint8), 0).any()


def test_planes_that_are_none_are_refused():
    with pytest.raises(CollationError, match="have 65 labels; at most 64"):
        label_planes(np.zeros((1, 1, 2, 2, 9), np.uint8), 65)
    with pytest.raises(CollationError, match="W = 2 words or more"):
        label_planes(np.zeros((1, 1, 2, 2, 1), np.uint8), 9)


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("float32_angles", [False, True])
def test_no_label_is_met_beyond_the_reach_and_some_just_within(side, float32_angles):
    rng = np.random.default_rng(9)
    planes = np.zeros((side * side, side, side), np.uint64)
    planes.reshape(side * side, -1)[np.arange(side * side), np.arange(side * side)] = 1  # one pixel each
    reach = mask_reach_arcsec(planes, 2.0)
    turn = rng.uniform(0, 2 * np.pi, (len(planes), 400))
    for share, expected in ((1.0, False), (0.93, True)):
        x, y = (share * reach[:, None] / 2.0 * wave(turn) for wave in (np.cos, np.sin))
        index = np.repeat(np.arange(len(planes)), 400)
        frames = Frames(np.arange(len(planes)), rng.uniform(0, 6, len(planes)), rng.integers(0, 2, len(planes)))
        bits = bits_of_offsets(x.ravel(), y.ravel(), index, frames, planes, float32_angles=float32_angles)
        assert bits.reshape(len(planes), 400).any(axis=1).mean() == pytest.approx(float(expected), abs=0.2 * expected)


def test_planes_of_several_channels_reach_as_far_as_any():
    planes = np.zeros((2, 2, 7, 7), np.uint64)
    planes[0, 0, 3, 3] = planes[0, 1, 3, 5] = 1
    one = mask_reach_arcsec(planes[:, 1], 1.5)
    np.testing.assert_array_equal(mask_reach_arcsec(planes, 1.5), one)
    np.testing.assert_allclose(one, [1.5 * np.hypot(0.5, 2.5), 0], rtol=1e-5)

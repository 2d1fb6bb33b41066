import math

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Geometry
from skysom.engine.transforms import squared_distances, transform, transform_stack

F = np.float32
sides = st.tuples(st.integers(2, 12), st.integers(1, 16))


def pictures(channels, side, seed=0):
    return np.random.default_rng(seed).random((channels, side, side)).astype(F)


@given(sides)
def test_transform_zero_copies_with_floor_margins(pair):
    image_side, side = pair
    image = pictures(2, image_side)
    margin = abs(side - image_side) // 2
    expected = np.zeros((2, side, side), F)
    if side >= image_side:
        expected[:, margin : margin + image_side, margin : margin + image_side] = image
    else:
        expected = image[:, margin : margin + side, margin : margin + side]
    assert np.array_equal(transform(image, 0, Geometry(image_side, side, 1, rotations=8)), expected)


@given(sides, st.sampled_from([4, 8, 12]))
def test_quarter_turns_and_flips_are_permutations(pair, rotations):
    geometry = Geometry(*pair, 1, rotations=rotations)
    image, base = pictures(1, pair[0]), rotations // 4
    stack = transform_stack(image, geometry)
    assert stack.shape == (2 * rotations, 1, pair[1], pair[1])
    for k in range(base):
        for q in range(4):
            turned = np.rot90(stack[k], -q, axes=(1, 2))
            assert np.array_equal(stack[k + q * base], turned)
            assert np.array_equal(stack[rotations + k + q * base], turned[:, ::-1])


def plain_rotation(image, side, k, rotations):
    """Section 3 of the specification pixel by pixel; coordinates in float32 with one fused operation."""
    image_side = len(image)
    angle = float(F(k) * (F(2 * math.pi) / F(rotations)))
    cos, sin = F(math.cos(angle)), F(math.sin(angle))
    out = [[0.0] * side for _ in range(side)]
    for r in range(side):
        for c in range(side):
            y, x = F(r) - F((side - 1) / 2), F(c) - F((side - 1) / 2)
            sr = F(float(y * cos) - float(x) * float(sin)) + F((image_side - 1) / 2)
            sc = F(float(y * sin) + float(x) * float(cos)) + F((image_side - 1) / 2)
            if sr < 0 or sr > image_side - 1 or sc < 0 or sc > image_side - 1:
                continue
            i, j = int(sr), int(sc)
            fr, fc = float(sr) - i, float(sc) - j
            below, right = min(i + 1, image_side - 1), min(j + 1, image_side - 1)
            out[r][c] = (
                (1 - fr) * (1 - fc) * float(image[i, j])
                + (1 - fr) * fc * float(image[i, right])
                + fr * (1 - fc) * float(image[below, j])
                + fr * fc * float(image[below, right])
            )
    return np.array(out)


@given(sides, st.sampled_from([8, 12, 16, 360]), st.data())
def test_bilinear_rotation_equals_a_plain_loop(pair, rotations, data):
    k = data.draw(st.integers(1, rotations // 4 - 1))
    image_side, side = pair
    image = pictures(2, image_side, seed=k)
    found = transform(image, k, Geometry(image_side, side, 1, rotations=rotations))
    for c in range(2):
        np.testing.assert_allclose(found[c], plain_rotation(image[c], side, k, rotations), rtol=0, atol=3e-7)


def test_rotation_is_clockwise_with_row_zero_on_top():
    image = np.zeros((1, 9, 9), F)
    image[0, 1, 4] = 1  # twelve o'clock
    geometry = Geometry.derive(9, 8)
    row, column = np.unravel_index(transform(image, 1, geometry)[0].argmax(), (13, 13))
    assert row < 6 < column, "half past one after an eighth of a turn"


def test_squared_distances_are_sums_over_region_and_channels():
    geometry = Geometry.derive(6, 4, region="circular", region_side=5)
    image = pictures(3, 6)
    weights = np.random.default_rng(1).random((2, 3, 9, 9)).astype(F)
    found = squared_distances(image, weights, geometry)
    assert found.shape == (2, 8)
    t, n, total = 6, 1, 0.0
    turned = transform(image, t, geometry)
    for c in range(3):
        for y, x in np.argwhere(geometry.region_mask):
            total += (float(turned[c, y, x]) - float(weights[n, c, y, x])) ** 2
    assert found[n, t] == pytest.approx(total, rel=1e-12)


def test_any_array_namespace():
    geometry, xp = Geometry.derive(6, 12), array_api_strict
    image = pictures(2, 6)
    weights = pictures(6, 9).reshape(3, 2, 9, 9)
    strict = squared_distances(xp.asarray(image), xp.asarray(weights), geometry, xp=xp)
    np.testing.assert_allclose(np.asarray(strict), squared_distances(image, weights, geometry), rtol=1e-6)

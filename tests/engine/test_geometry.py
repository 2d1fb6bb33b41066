import math

import numpy as np
import pytest

from skysom.engine import Geometry
from skysom.engine.errors import GeometryError


@pytest.mark.parametrize(
    ("image_side", "rotations", "region", "neuron_side", "region_side"),
    [
        (32, 360, "quadratic", 46, 22),
        (31, 8, "quadratic", 44, 21),
        (150, 360, "quadratic", 213, 106),
        (150, 360, "circular", 213, 150),
        (32, 1, "quadratic", 32, 32),
        (32, 1, "circular", 32, 32),
        (32, 4, "circular", 46, 32),
    ],
)
def test_default_sides(image_side, rotations, region, neuron_side, region_side):
    geometry = Geometry.derive(image_side, rotations, region=region)
    assert (geometry.neuron_side, geometry.region_side) == (neuron_side, region_side)


@pytest.mark.parametrize(("side", "pixels"), [(150, 17692), (32, 812)])
def test_even_disc_has_the_pixels_of_the_specification(side, pixels):
    mask = Geometry.derive(side, 4, region="circular").region_mask
    assert mask.sum() == pixels
    cropped = Geometry.derive(side, 1, region="circular").region_mask
    assert np.array_equal(cropped, cropped[::-1])
    assert np.array_equal(cropped, cropped.T)


def rounded(value: float) -> int:
    """Half away from zero."""
    return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)


@pytest.mark.parametrize("neuron_side", [15, 16])
@pytest.mark.parametrize("side", range(2, 16))
def test_disc_row_by_row(side, neuron_side):
    mask = Geometry(9, neuron_side, side, "circular", 4).region_mask
    expected = np.zeros_like(mask)
    offset, radius = int(0.5 * (neuron_side - side)), side // 2
    for i in range(side):
        square = 2 * radius * (i + 0.5) - (i + 0.5) ** 2
        if square >= 0:
            columns = range(
                rounded(neuron_side // 2 - math.sqrt(square)), rounded(neuron_side // 2 + math.sqrt(square))
            )
            expected[offset + i, list(columns)] = True
    assert np.array_equal(mask, expected)
    if side % 2:
        assert not mask[offset + side - 1].any(), "the last row of an odd disc is empty"


@pytest.mark.parametrize(("neuron_side", "side"), [(9, 4), (9, 5), (10, 4), (10, 5), (7, 7)])
def test_square_region_sits_half_a_pixel_low_when_it_must(neuron_side, side):
    rows, columns = np.nonzero(Geometry(6, neuron_side, side).region_mask)
    first = (neuron_side - side) // 2
    assert rows.min() == columns.min() == first
    assert rows.max() == columns.max() == first + side - 1
    assert rows.size == side**2


def test_transform_indices_cover_every_transform_once():
    for geometry in (Geometry.derive(9, 12), Geometry.derive(9, 8, flip=False), Geometry.derive(9, 1)):
        every = [geometry.transform_index(h, k) for h in geometry.elements for k in range(geometry.base_rotations)]
        assert sorted(every) == list(range(geometry.transforms))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"rotations": 6}, ["6", "multiple of 4"]),
        ({"rotations": 0}, ["0"]),
        ({"rotations": -4}, ["-4"]),
        ({"region": "hexagon"}, ["hexagon", "circular"]),
        ({"neuron_side": 20}, ["22", "20", "region"]),
        ({"region_side": 50}, ["50", "46"]),
        ({"region_side": 0}, ["0"]),
        ({"neuron_side": 0}, ["0"]),
        ({"image_side": 1}, ["1"]),
    ],
)
def test_errors_name_the_values(arguments, named):
    with pytest.raises(GeometryError) as caught:
        Geometry.derive(**{"image_side": 32, **arguments})
    for text in named:
        assert text in str(caught.value)


def test_disc_without_pixels():
    with pytest.raises(GeometryError, match="side 1"):
        _ = Geometry(4, 6, 1, "circular").region_mask


@pytest.mark.parametrize("neuron_side", [15, 16])
@pytest.mark.parametrize("inner_side", range(1, 13))
@pytest.mark.parametrize("side", [5, 8, 13])
def test_a_ring_is_a_disc_without_a_smaller_one(side, inner_side, neuron_side):
    disc = Geometry(9, neuron_side, side, "circular", 4).region_mask
    if inner_side >= side:
        with pytest.raises(GeometryError, match=rf"{inner_side} pixels.*annular.*{side}"):
            Geometry(9, neuron_side, side, "annular", 4, inner_side=inner_side)
        return
    hole = np.zeros_like(disc)
    if inner_side > 1:  # a disc of one pixel has none
        hole = Geometry(9, neuron_side, inner_side, "circular", 4).region_mask
    geometry = Geometry(9, neuron_side, side, "annular", 4, inner_side=inner_side)
    if (hole | ~disc).all():  # an odd disc is as large as the even one before it
        with pytest.raises(GeometryError, match="no pixel"):
            _ = geometry.region_mask
        return
    assert np.array_equal(geometry.region_mask, disc & ~hole)


def test_default_sides_of_a_ring():
    geometry = Geometry.derive(32, 8, region="annular", inner_side=10)
    assert (geometry.neuron_side, geometry.region_side, geometry.inner_side) == (46, 32, 10)
    mask = geometry.region_mask
    assert mask.sum() == 812 - Geometry(32, 46, 10, "circular", 4).region_mask.sum()
    assert not mask[18:28, 23].any()
    assert mask[10, 23]


@pytest.mark.parametrize(
    ("region", "inner_side"),
    [
        ("annular", 0),
        ("annular", -2),
        ("annular", 32),
        ("annular", 40),
        ("circular", 4),
        ("circular", -4),
        ("circular", 40),
        ("quadratic", 3),
        ("quadratic", 100),
    ],
)
def test_only_a_ring_has_an_inner_side_and_it_lies_within(region, inner_side):
    with pytest.raises(GeometryError, match=rf"inner side is {inner_side} pixels.*{region}"):
        Geometry.derive(32, 8, region=region, inner_side=inner_side)

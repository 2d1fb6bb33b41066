"""Bit planes: any number of labels a pixel, and the peer's products of primes, exactly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skysom.engine.errors import ReadingError
from skysom.engine.reading.masks import (
    LARGEST_PRODUCT,
    PRIMES,
    empty_planes,
    labels_in,
    pack,
    plane,
    planes_from_products,
    products_from_planes,
    unpack,
    with_pixels,
    with_plane,
)

RANDOM = np.random.default_rng(1)


@pytest.mark.parametrize("labels", [1, 8, 9, 40])
def test_planes_hold_any_number_of_labels_a_pixel(labels):
    masks = RANDOM.random((labels, 2, 3, 5, 5)) < 0.3
    planes = pack(masks)
    assert planes.shape == (2, 3, 5, 5, math.ceil(labels / 8))
    assert np.array_equal(unpack(planes, labels), masks)
    assert all(np.array_equal(plane(planes, p), masks[p]) for p in range(labels))
    pixel = planes[1, 2, 3, 4]
    assert labels_in(pixel) == tuple(np.flatnonzero(masks[:, 1, 2, 3, 4]))
    assert labels_in(planes) == tuple(np.flatnonzero(masks.any(axis=(1, 2, 3, 4))))


def test_a_label_is_set_added_and_cleared_and_the_others_stay():
    planes = pack(RANDOM.random((11, 6, 6)) < 0.5)
    mask = RANDOM.random((6, 6)) < 0.5
    for label in (0, 7, 8, 10):
        others = [p for p in range(11) if p != label]
        put = with_plane(planes, label, mask)
        assert np.array_equal(plane(put, label), mask)
        assert np.array_equal(unpack(put, 11)[others], unpack(planes, 11)[others])
        assert np.array_equal(plane(with_pixels(planes, label, mask), label), plane(planes, label) | mask)
        assert np.array_equal(plane(with_pixels(planes, label, mask, clear=True), label), plane(planes, label) & ~mask)
    assert not empty_planes((2, 2), 3).any()


def test_masks_that_do_not_fit_are_refused():
    planes = empty_planes((4, 4), 3)
    with pytest.raises(ReadingError, match=r"shape \(3, 3\).*\(4, 4\)"):
        with_plane(planes, 0, np.ones((3, 3), bool))
    with pytest.raises(ReadingError, match="no label 8"):
        plane(planes, 8)
    with pytest.raises(ReadingError, match="9 labels need 2"):
        unpack(planes, 9)


@settings(deadline=None, max_examples=50)
@given(
    masks=st.integers(1, 15).flatmap(lambda labels: arrays(bool, (labels, 3, 4))),
    primes=st.permutations(PRIMES[:15]),
)
def test_planes_and_products_of_primes_are_one_to_one(masks, primes):
    """The 15 smallest primes together stay below 2^63, so every set of 15 labels has a product."""
    labels = len(masks)
    planes = pack(masks)
    values = products_from_planes(planes, primes)
    for row, column in np.ndindex(3, 4):
        present = [primes[p] for p in range(labels) if masks[p, row, column]]
        assert int(values[row, column]) == (math.prod(present) if present else 0)
    assert np.array_equal(planes_from_products(values, primes[:labels]), planes)


def test_a_product_that_the_peer_cannot_hold_is_refused():
    assert math.prod(PRIMES[:15]) < LARGEST_PRODUCT < math.prod(PRIMES[:16])
    with pytest.raises(ReadingError, match="exceeds 2\\^63 - 1"):
        products_from_planes(pack(np.ones((16, 2, 2), bool)), PRIMES)
    with pytest.raises(ReadingError, match="label 20 has no prime"):
        products_from_planes(pack(np.arange(21)[:, None] == 20), PRIMES)


@pytest.mark.parametrize(
    ("value", "cause"),
    [(1, "no label was chosen"), (7, "7 is left after dividing"), (4, "prime 2 more than once"), (-6, "not negative"),
     (2 * 3 * 73, "73 is left")],
)  # fmt: skip
def test_values_that_are_no_products_are_refused_with_their_pixel(value, cause):
    values = np.zeros((3, 3), np.int64)
    values[0, 0], values[1, 2] = 6, value
    with pytest.raises(ReadingError, match=cause) as raised:
        planes_from_products(values, (2, 3, 5))
    assert f"{value} at (1, 2)" in str(raised.value)


def test_other_types_and_primes_are_refused():
    with pytest.raises(ReadingError, match="float64"):
        planes_from_products(np.zeros((2, 2)), (2,))
    with pytest.raises(ReadingError, match="must differ"):
        planes_from_products(np.zeros((2, 2), int), (2, 2))
    with pytest.raises(ReadingError, match="among"):
        products_from_planes(empty_planes((2, 2), 1), (4,))


@pytest.mark.parametrize("folder", ["goldens/pyink", "goldens/pyink/single_channel"])
def test_the_peers_masks_are_converted_exactly(shared, folder):
    masks = np.load(shared(f"{folder}/annotation_masks.npz"))
    for name in masks.files:
        values = masks[name]
        planes = planes_from_products(values, (2, 3, 5))
        assert np.array_equal(plane(planes, 0), (values != 0) & (values % 2 == 0))
        assert np.array_equal(products_from_planes(planes, (2, 3, 5)), values)

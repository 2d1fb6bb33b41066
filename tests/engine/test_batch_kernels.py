"""The sums of a batch, against the transforms of the plain reference: equal to the last bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Geometry, batch_kernels
from skysom.engine.batch import IMAGES_AT_ONCE, NEURONS_AT_ONCE, add_batch, empty_sums, fixed_point_scale, tiles
from skysom.engine.errors import ShapeError
from skysom.engine.transforms import transform

geometries = st.builds(
    lambda image_side, neuron_side, rotations, flip: Geometry(
        image_side, neuron_side, 1, rotations=rotations, flip=flip
    ),
    st.integers(2, 14),
    st.integers(1, 22),
    st.sampled_from([1, 4, 8, 12, 40]),
    st.booleans(),
)
BENCHMARK = Geometry.derive(150)


def random_batch(geometry, images, neurons, channels, seed, moved=0.7):
    """Images and coefficients of both signs, and transforms; some coefficients are zero or too small to count."""
    rng = np.random.default_rng(seed)
    shown = rng.normal(size=(images, channels, geometry.image_side, geometry.image_side)).astype(np.float32)
    transforms = rng.integers(0, geometry.transforms, (images, neurons))
    move = rng.random((images, neurons)) ** 4 * (rng.random((images, neurons)) < moved)
    move *= rng.choice([1, -1], move.shape) / np.maximum(move.sum(axis=0), 1)
    move[rng.random(move.shape) < 0.1] = 9e-9
    return shown, transforms, move


def sums_of(batch, geometry, scale):
    images, _, move = batch
    side = geometry.neuron_side
    sums = empty_sums((move.shape[1], images.shape[1], side, side))
    add_batch(sums, *batch, geometry, scale)
    return sums


def reference_sums(batch, geometry, scale):
    images, transforms, move = batch
    side = geometry.neuron_side
    sums = empty_sums((move.shape[1], images.shape[1], side, side))
    for image, own, factors in zip(images, transforms, move, strict=True):
        for t in np.unique(own):
            moved = np.flatnonzero((own == t) & (np.abs(factors) >= 1e-8))
            turned = transform(image, int(t), geometry).reshape(1, len(image), -1).astype(float)
            sums[moved] += np.rint(turned * (factors[moved, None, None] * scale)).astype(np.int64)
    return sums


def scale_of(batch):
    return fixed_point_scale(float(np.abs(batch[0]).max()), np.ones((1, 1)))


@given(geometries, st.integers(1, 70), st.integers(1, 12), st.integers(1, 3), st.sampled_from([0.05, 0.7]))
def test_sums_are_those_of_the_reference_bit_for_bit(geometry, images, neurons, channels, moved):
    batch = random_batch(geometry, images, neurons, channels, images, moved)
    scale = scale_of(batch)
    assert np.array_equal(sums_of(batch, geometry, scale), reference_sums(batch, geometry, scale))


@pytest.mark.parametrize(("neuron_side", "rotations"), [(14, 8), (15, 8), (10, 1), (6, 4)])
def test_more_images_and_neurons_than_are_taken_at_once(neuron_side, rotations):
    geometry = Geometry(10, neuron_side, 1, rotations=rotations)
    batch = random_batch(geometry, IMAGES_AT_ONCE + 40, NEURONS_AT_ONCE + 20, 1, 1)
    scale = scale_of(batch)
    assert np.array_equal(sums_of(batch, geometry, scale), reference_sums(batch, geometry, scale))


def test_sums_of_the_benchmark_are_those_of_the_reference_bit_for_bit():
    batch = random_batch(BENCHMARK, 2, 5, 2, 2)
    scale = scale_of(batch)
    assert np.array_equal(sums_of(batch, BENCHMARK, scale), reference_sums(batch, BENCHMARK, scale))


@given(geometries, st.integers(0, 100), st.data())
def test_order_and_division_of_images_change_no_bit(geometry, seed, data):
    batch = random_batch(geometry, 45, 4, 2, seed)
    scale = scale_of(batch)
    whole = sums_of(batch, geometry, scale)
    order = np.random.default_rng(seed).permutation(45)
    cuts = sorted(data.draw(st.lists(st.integers(0, 45), max_size=4)))
    parts = [[array[part] for array in batch] for part in np.split(order, cuts)]
    assert np.array_equal(sum(sums_of(part, geometry, scale) for part in parts), whole)


def test_sums_that_are_there_stay():
    geometry = Geometry.derive(9, 8)
    batch = random_batch(geometry, 5, 3, 1, 3)
    whole = np.random.default_rng(0).integers(-9, 9, (3, 1, geometry.neuron_side**2))
    before = whole.copy()
    add_batch(whole, *batch, geometry, 2.0**40)
    assert np.array_equal(whole - before, sums_of(batch, geometry, 2.0**40))


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_arrays_that_are_views_or_read_only_are_taken(kind):
    geometry = Geometry.derive(9, 8)
    images, transforms, move = random_batch(geometry, 12, 3, 2, 4)
    whole = sums_of((images[::2], transforms[::2], move[::2]), geometry, 2.0**40)
    images.flags.writeable = False
    views = images[::2], transforms.astype(kind)[::2], move[::2]
    assert np.array_equal(sums_of(views, geometry, 2.0**40), whole)


def test_sums_as_large_as_may_be_are_exact():
    geometry = Geometry(2, 2, 1, rotations=1, flip=False)
    images, move = np.ones((3000, 1, 2, 2), np.float32), np.random.default_rng(5).random((3000, 1)) ** 8 + 1e-3
    move /= move.sum()
    batch = images, np.zeros((3000, 1), int), move
    scale = scale_of(batch)
    exact = sum(round(c * scale) for c in move[:, 0].tolist())
    assert 2**51 < exact < 2**53
    assert sums_of(batch, geometry, scale).tolist() == [[[exact] * 4]]


@given(geometries)
def test_taps_are_those_of_the_geometry_bit_for_bit(geometry):
    check_taps(geometry, range(geometry.base_rotations))


def test_taps_of_the_benchmark_are_those_of_the_geometry_bit_for_bit():
    check_taps(BENCHMARK, [0, 1, 44, 45, 89])


def check_taps(geometry, bases):
    side = geometry.neuron_side
    pixels = np.resize(np.arange(side**2), (8, -(-(side**2) // 8)))
    y, x = (pixels // side).astype(np.float32), (pixels % side).astype(np.float32)
    index, shares = np.empty(pixels.shape, np.int32), np.empty((2, *pixels.shape), np.float32)
    first, stop = np.empty(8, np.int64), np.empty(8, np.int64)
    turns, _ = tiles(geometry)
    for k in bases:
        batch_kernels.find_taps(y, x, turns[k], geometry.image_side, index, *shares, first, stop)
        for found, expected in zip((index, *shares), geometry.taps(k, pixels), strict=True):
            assert np.array_equal(found, expected)
        for row, begin, end in zip(index >= 0, first, stop, strict=True):
            filled = np.flatnonzero(row)
            assert (begin, end) == ((filled[0], filled[-1] + 1) if len(filled) else (begin, begin))


@given(geometries)
def test_tiles_hold_every_pixel_that_a_rotation_fills(geometry):
    _, parts = tiles(geometry)
    side = geometry.neuron_side
    orbits = np.concatenate([np.sort(places, axis=0) for places in parts], axis=1)
    assert len(np.unique(orbits[0])) == orbits.shape[1]
    covered = np.isin(np.arange(side**2), orbits)
    for k in range(geometry.base_rotations):
        filled = geometry.taps(k, np.arange(side**2)).index >= 0
        # Quarter turns and flips of it are then covered too, as orbits are whole.
        assert covered[filled].all()


def test_corners_that_no_rotation_fills_are_left_out():
    _, parts = tiles(BENCHMARK)
    assert len(np.unique(np.concatenate(parts, axis=1))) < 0.8 * BENCHMARK.neuron_side**2


@pytest.mark.parametrize("wrong", [{"images": 4}, {"channels": 2}, {"neurons": 4}, {"geometry": Geometry.derive(8, 8)}])
def test_arrays_that_do_not_fit_are_refused(wrong):
    geometry, sizes = Geometry.derive(9, 8), {"images": 5, "channels": 1, "neurons": 3, "geometry": None} | wrong
    images, transforms, move = random_batch(geometry, 5, 3, 1, 6)
    sums = empty_sums((sizes["neurons"], sizes["channels"], geometry.neuron_side, geometry.neuron_side))
    with pytest.raises(ShapeError, match=r"sums, images, transforms and coefficients have shapes"):
        add_batch(sums, images[: sizes["images"]], transforms, move, sizes["geometry"] or geometry, 1.0)

"""Images turned onto neurons and back: against the search, and against the peer's outputs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import rotate

from skysom.engine import Cartesian, Geometry, Som, best_match
from skysom.engine.errors import ReadingError
from skysom.engine.reading import frames
from skysom.engine.transforms import transform
from skysom.storage import pinkfile

SETS = {"goldens/pyink": (200, 96), "goldens/pyink/single_channel": (80, 92)}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def blob(side, row, column, width=2.0):
    y, x = np.mgrid[:side, :side]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2)).astype(np.float32)


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(y * image).sum(), (x * image).sum()]) / image.sum()


# --- as the search does it ------------------------------------------------------------------------


@pytest.mark.parametrize(("image_side", "neuron_side"), [(12, 17), (13, 18), (12, 18), (13, 13)])
@pytest.mark.parametrize("rotations", [1, 8, 60])
def test_every_transform_is_the_searchs_own(image_side, neuron_side, rotations):
    geometry = Geometry(image_side, neuron_side, 3, rotations=rotations)
    image = noise(2, image_side, image_side)
    t = np.arange(geometry.transforms)
    found = frames.to_neuron_frame(np.repeat(image[None], len(t), axis=0), t, geometry)
    assert found.dtype == np.float32
    for k in t:
        assert np.array_equal(found[k], transform(image, int(k), geometry))


@pytest.mark.parametrize("region", ["quadratic", "circular"])
def test_the_distance_to_the_neuron_is_the_bmu_distance(region):
    images, som = noise(9, 2, 16, 16), Som(noise(6, 2, 23, 23, seed=1), Cartesian(3, 2))
    geometry = Geometry.derive(16, 24, True, region)
    match = best_match(images, som, rotations=24, region=region)
    bmu = match.bmu
    t = match.transform[np.arange(9), bmu]
    difference = frames.to_neuron_frame(images, t, geometry) - som.weights[bmu]
    distance = np.sqrt((difference[..., geometry.region_mask].astype(np.float64) ** 2).sum(axis=(1, 2)))
    np.testing.assert_allclose(distance, match.bmu_distance, rtol=2e-6)


@given(st.integers(0, 119), st.sampled_from([(12, 17), (13, 18), (14, 20), (9, 9)]))
@settings(max_examples=60, deadline=None)
def test_the_pixel_map_says_where_the_search_samples(t, sides):
    geometry = Geometry(*sides, 3, rotations=60)
    rows, columns = np.mgrid[: sides[0], : sides[0]].astype(np.float32)
    # a bilinear sample of a plane a + b row + c column is its value at the sampled position
    sampled = frames.to_neuron_frame(np.stack([rows, columns, np.ones_like(rows)])[None], t, geometry)[0]
    inside = sampled[2] > 0.5
    position = frames.transform_pixel_map(t, geometry)(np.stack(np.mgrid[: sides[1], : sides[1]], axis=-1))
    np.testing.assert_allclose(np.moveaxis(sampled[:2], 0, -1)[inside], position[inside], atol=2e-5)


@pytest.mark.parametrize("sides", [(12, 17), (12, 18)])
def test_quarter_turns_come_back_exactly(sides):
    geometry = Geometry(*sides, 3, rotations=8)
    images, t = noise(8, 1, 12, 12), np.array([0, 2, 4, 6, 8, 10, 12, 14])
    there = frames.to_neuron_frame(images, t, geometry)
    for order in (0, 1):
        assert np.array_equal(frames.to_image_frame(there, t, geometry, order=order), images)
    np.testing.assert_allclose(frames.to_image_frame(there, t, geometry, order=3), images, atol=1e-5)


@given(st.integers(0, 119))
@settings(max_examples=30, deadline=None)
def test_a_blob_returns_to_its_place(t):
    geometry = Geometry(31, 44, 3, rotations=60)
    image = blob(31, 12.0, 18.0)
    there = frames.to_neuron_frame(image[None], t, geometry)
    back = frames.to_image_frame(there, t, geometry)[0]
    assert np.abs(centroid(back) - centroid(image)).max() < 0.05
    position = frames.transform_pixel_map(t, geometry).inverse()(np.array([12.0, 18.0]))
    np.testing.assert_allclose(centroid(there[0]), position, atol=0.06)


def test_angles_and_flips_of_transforms():
    geometry = Geometry(12, 17, 3, rotations=8)
    angle, flip = frames.angle_and_flip([0, 1, 9, 15], geometry)
    np.testing.assert_allclose(angle, np.array([0, 1, 1, 7]) * math.pi / 4, rtol=1e-6)
    assert flip.tolist() == [0, 0, 1, 1]


# --- the peer's outputs ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SETS)
def peer(request, shared):
    folder, (count, rotations) = shared(request.param), SETS[request.param]
    images = pinkfile.open_data(folder / "images.bin").read(0, count)
    som = pinkfile.open_som(folder / "som.bin").read()
    distance = pinkfile.open_map(folder / "map.bin").read(0, count)
    with np.load(folder / "spatial_transform.npz") as file:
        golden = dict(file)
    turns = np.array([golden[f"transform_{j}"] for j in range(len(golden["sel"]))])
    return images, som, distance, golden, turns[:, 1], turns[:, 0].astype(int), rotations


def test_images_in_the_neurons_frame_equal_the_peers(peer):
    images, _, _, golden, angle, flip, _ = peer
    found = frames.image_to_neuron(images[golden["sel"]], angle, flip, order=3)
    for j, image in enumerate(found):
        np.testing.assert_allclose(image, golden[f"forward_{j}"], rtol=0, atol=1e-5)


def test_neurons_in_the_images_frame_equal_the_peers(peer):
    _, som, distance, golden, angle, flip, _ = peer
    bmu = distance[golden["sel"]].argmin(axis=1)
    found = frames.neuron_to_image(som[bmu], angle, flip, order=3)
    for j, neuron in enumerate(found):
        np.testing.assert_allclose(neuron, golden[f"reverse_neuron_{j}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [0, 1])
def test_a_fixed_angle_equals_the_peers(peer, flip):
    images, golden, name = peer[0], peer[3], f"fixed_flip{flip}_ang0.7"
    for function, key in ((frames.image_to_neuron, name), (frames.neuron_to_image, f"{name}_rev")):
        np.testing.assert_allclose(function(images[0], 0.7, flip, order=3), golden[key], rtol=0, atol=1e-5)


def test_trimmed_neurons_equal_the_peers_but_for_its_half_pixel(peer):
    """Where the parities agree nothing differs; 58 -> 41 pixels the peer crops half a pixel too far up and left."""
    images, som, distance, golden, angle, flip, _ = peer
    turned = frames.neuron_to_image(som[distance[golden["sel"]].argmin(axis=1)], angle, flip, order=3)
    side, full = images.shape[-1], som.shape[-1]
    first = (full - side) // 2
    found = frames.trimmed(turned, side)
    for j, neuron in enumerate(found):
        crop = turned[j][:, first : first + side, first : first + side]
        np.testing.assert_allclose(crop, golden[f"reverse_neuron_trim_{j}"], rtol=0, atol=1e-5)
        if (full - side) % 2 == 0:
            assert np.array_equal(neuron, crop)
            continue
        near = [turned[j][:, a : a + side, b : b + side] for a in (first, first + 1) for b in (first, first + 1)]
        np.testing.assert_allclose(neuron, np.mean(near, axis=0), atol=1e-6)


def test_the_distance_that_was_mapped_is_that_of_the_turned_image(peer):
    images, som, distance, golden, angle, flip, rotations = peer
    geometry = Geometry.derive(images.shape[-1], rotations, True, "circular", som.shape[-1])
    rotation = np.rint(angle * rotations / (2 * np.pi)).astype(int)
    turned = frames.to_neuron_frame(images[golden["sel"]], flip * rotations + rotation, geometry)
    if images.shape[1] == 2:
        # With channels the peer reads a map shifted by one float, and counts the first channel twice.
        shifted = np.concatenate([[0], som.ravel()[:-1]]).reshape(som.shape)
        turned, som = turned[:, [0, 0]], shifted[:, [0, 0]]
    difference = (turned - som[distance[golden["sel"]].argmin(axis=1)])[..., geometry.region_mask]
    found = np.sqrt((difference.astype(np.float64) ** 2).sum(axis=(1, 2)))
    np.testing.assert_allclose(found, [golden[f"ed2_check_{j}"] for j in range(len(found))], rtol=1e-5)


# --- at any angle ---------------------------------------------------------------------------------


@given(st.floats(-7, 7), st.sampled_from([0, 1]), st.sampled_from([1, 3]))
@settings(max_examples=30, deadline=None)
def test_turns_are_those_of_scipy(angle, flip, order):
    """But for sources that rounding of the angle puts outside: scipy blanks those edges."""
    image = noise(15, 12)
    there = frames.pixel_map(angle, flip, image.shape, image.shape)
    turned = rotate(image, -math.degrees(angle), reshape=False, order=order)
    found = frames.image_to_neuron(image, angle, flip, order=order)
    assert_equal_inside(found, turned[::-1] if flip else turned, there)
    back = rotate(image[::-1] if flip else image, math.degrees(angle), reshape=False, order=order)
    assert_equal_inside(frames.neuron_to_image(image, angle, flip, order=order), back, there.inverse())


def assert_equal_inside(found, expected, source):
    position = source(np.stack(np.mgrid[: found.shape[0], : found.shape[1]], axis=-1))
    last = np.array(found.shape) - 1
    edge = ((np.abs(position) < 2e-4) | (np.abs(position - last) < 2e-4)).any(axis=-1)
    np.testing.assert_allclose(found[~edge], expected[~edge], atol=1e-5)


def test_general_angles_agree_with_the_search():
    geometry = Geometry(13, 18, 3, rotations=60)
    images, t = noise(4, 2, 13, 13), np.array([7, 22, 71, 119])
    found = frames.image_to_neuron(images, *frames.angle_and_flip(t, geometry), side=18)
    np.testing.assert_allclose(found, frames.to_neuron_frame(images, t, geometry), atol=2e-5)


def test_an_angle_in_single_precision_keeps_the_edges():
    image = noise(20, 20) + 1
    for k in range(4):
        angle = np.float32(k * np.pi / 2)
        np.testing.assert_allclose(frames.image_to_neuron(image, angle, 0), np.rot90(image, -k), atol=1e-4)


def test_leading_shapes_and_single_numbers():
    stack = noise(3, 2, 10, 10)
    angle, flip = np.array([0.1, 0.2, 0.3]), np.array([0, 1, 0])
    found = frames.image_to_neuron(stack, angle, flip)
    assert found.shape == stack.shape
    assert np.array_equal(found[:, 0], frames.image_to_neuron(stack[:, 0], angle, flip))
    assert np.array_equal(found[1], frames.image_to_neuron(stack[1], 0.2, 1))
    assert np.array_equal(found[1, 0], frames.image_to_neuron(stack[1, 0], 0.2, 1))
    assert frames.image_to_neuron(stack, angle, flip, side=14).shape == (3, 2, 14, 14)


def test_masks_keep_their_type_and_values():
    mask = np.zeros((1, 21, 21), np.uint32)
    mask[0, 4:9, 6:15] = 2**31 + 5
    back = frames.neuron_to_image(mask, 0.6, 1, order=0, side=15)
    assert back.dtype == np.uint32
    assert set(np.unique(back)) == {0, 2**31 + 5}
    boolean = frames.neuron_to_image(mask > 0, 0.6, 1, order=0)
    assert boolean.dtype == bool
    assert abs(int(boolean.sum()) - 45) <= 6
    exact = Geometry(15, 21, 3, rotations=8)
    t = np.array([3])
    shown = frames.to_image_frame(mask[None], t, exact, order=0)[0, 0]
    where = np.argwhere(shown > 0)
    there = np.rint(frames.transform_pixel_map(3, exact).inverse()(where)).astype(int)
    assert (mask[0][tuple(there.T)] > 0).all()


@pytest.mark.parametrize("order", [0, 1, 3])
def test_what_lies_outside_may_be_missing(order):
    image = noise(11, 11) + 1
    zero, missing = (
        frames.image_to_neuron(image, 0.7, 1, order=order, side=17, outside=value) for value in (0, np.nan)
    )
    assert np.array_equal(zero == 0, np.isnan(missing))
    assert np.array_equal(zero, np.nan_to_num(missing))
    assert 100 < (zero > 0).sum() < 17**2


def test_missing_pixels_stay_missing_and_stay_few():
    image = noise(1, 21, 21)
    image[0, 3:6, 5:8] = np.nan
    for order in (0, 1, 3):
        found = frames.image_to_neuron(image, 0.5, 0, order=order)
        assert 4 <= np.isnan(found).sum() <= 14


# --- trimming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("full", "side"), [(21, 15), (21, 14), (20, 14), (20, 13)])
def test_trimming_keeps_the_centre(full, side, order):
    neuron = blob(full, (full - 1) / 2, (full - 1) / 2)
    found = frames.trimmed(neuron, side, order=order)
    np.testing.assert_allclose(centroid(found), (side - 1) / 2, atol=1e-5)


def test_the_default_side_and_exact_crops():
    neurons = noise(2, 3, 213, 213)
    assert frames.trimmed(neurons).shape == (2, 3, 150, 150)
    assert np.array_equal(frames.trimmed(neurons, 151), neurons[..., 31:182, 31:182])
    assert np.array_equal(frames.trimmed(neurons, 213), neurons)
    assert frames.trimmed(neurons > 0.5, 150, order=0).dtype == bool


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: frames.to_neuron_frame(np.zeros((1, 9, 9)), 0, g), r"\(1, 9, 9\).*12, 12"),
        (lambda g: frames.to_neuron_frame(np.zeros((1, 12, 12)), -1, g), "unmapped"),
        (lambda g: frames.to_neuron_frame(np.zeros((1, 12, 12)), 16, g), "0 to 15"),
        (lambda g: frames.to_neuron_frame(np.zeros((2, 12, 12)), [1, 2, 3], g), "for 2 images"),
        (lambda g: frames.to_neuron_frame(np.zeros((1, 12, 12)), [0.5], g), "integers"),
        (lambda g: frames.to_image_frame(np.zeros((1, 12, 12)), 0, g), "17, 17"),
        (lambda g: frames.image_to_neuron(np.zeros((2, 5, 5)), [0.1], [0, 1]), "for 2 images"),
        (lambda g: frames.image_to_neuron(np.zeros((2, 5, 5)), [0.1, np.nan], [0, 1]), "not finite"),
        (lambda g: frames.image_to_neuron(np.zeros((5, 5)), 0.1, 2), "0 or 1"),
        (lambda g: frames.image_to_neuron(np.zeros((5, 5)), 0.1, 0, order=2), "order 2"),
        (lambda g: frames.image_to_neuron(np.zeros(5), 0.1, 0), r"\(5,\)"),
        (lambda g: frames.image_to_neuron(np.zeros((5, 5), complex), 0.1, 0), "complex"),
        (lambda g: frames.image_to_neuron(np.zeros((5, 5)), 0.1, 0, side=0), "side of 0"),
        (lambda g: frames.trimmed(np.zeros((5, 5)), 6), "from 1 to 5"),
        (lambda g: frames.trimmed(np.zeros((5, 4))), r"\(5, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ReadingError, match=message):
        call(Geometry(12, 17, 3, rotations=8))

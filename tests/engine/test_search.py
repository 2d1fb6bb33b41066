import warnings

import array_api_strict
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from skysom.engine import Cartesian, Geometry, Som, best_match
from skysom.engine import exact as exact_module
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.errors import EngineError, GeometryError, ShapeError
from skysom.engine.exact import Search
from skysom.engine.transforms import transform, transform_stack

KINDS = ("noise", "smooth", "near", "round", "constant", "zero")


def pictures(kind, shape, rng):
    """Images (B, C, H, H) float32 of one kind."""
    images = rng.random(shape, np.float32)
    if kind in ("smooth", "near"):
        images = gaussian_filter(images, (0, 0, 2, 2))
    if kind == "round":
        y = np.arange(shape[-1]) - (shape[-1] - 1) / 2
        images[:] = np.exp(-(y[:, None] ** 2 + y**2) / 8)
    if kind == "constant":
        images[:] = images[0, 0, 0, 0]
    return np.zeros(shape, np.float32) if kind == "zero" else images


def weights_for(kind, images, geometry, neurons, rng):
    side = geometry.neuron_side
    weights = rng.random((neurons, images.shape[1], side, side), np.float32)
    if kind in ("near", "round"):
        for n in range(neurons):
            t = int(rng.integers(geometry.transforms))
            noise = np.float32(1e-3) * rng.standard_normal(weights.shape[1:], np.float32)
            weights[n] = transform(images[n % len(images)], t, geometry) + noise
    return weights


@st.composite
def searches(draw, rotations=(1, 4, 8, 12), kinds=KINDS, largest=16):
    """A geometry, images and a map."""
    image_side = draw(st.integers(2, largest))
    neuron_side = draw(st.one_of(st.none(), st.integers(1, 2 * largest)))
    region_side = draw(st.one_of(st.none(), st.integers(2, 2 * largest)))
    region, flip = draw(st.sampled_from(["quadratic", "circular", "annular"])), draw(st.booleans())
    inner = draw(st.integers(1, largest)) if region == "annular" else 0
    turns = draw(st.sampled_from(rotations))
    try:
        geometry = Geometry.derive(image_side, turns, flip, region, neuron_side, region_side, inner)
        _ = geometry.region_mask
    except GeometryError:
        assume(False)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), image_side, image_side)
    kind, neurons = draw(st.sampled_from(kinds)), draw(st.integers(1, 6))
    images = pictures(kind, shape, rng)
    return geometry, images, weights_for(kind, images, geometry, neurons, rng)


def match(geometry, images, weights, method="exact", lattice=None):
    som = Som(weights, lattice or Cartesian(weights.shape[0]))
    sides = {"region_side": geometry.region_side, "inner_side": geometry.inner_side}
    return best_match(images, som, geometry.rotations, geometry.flip, geometry.region, method=method, **sides)


def assert_equal_to_reference(geometry, images, weights):
    found = match(geometry, images, weights)
    wanted = match(geometry, images, weights, "reference")
    assert found.distance.dtype == np.float32
    assert found.transform.dtype == found.bmu.dtype == np.int64
    # Rounding of the samples, relative to their size, is all that near-perfect matches are left with.
    size = np.sqrt((weights[..., geometry.region_mask].astype(float) ** 2).sum(axis=(1, 2)))
    np.testing.assert_array_less(np.abs(found.distance - wanted.distance), 5e-6 * wanted.distance + 3e-7 * size + 1e-30)
    np.testing.assert_array_equal(found.bmu_distance, found.distance[np.arange(len(images)), found.bmu])
    # Another choice than the reference's is one that it, too, finds equally good.
    for b, n in np.argwhere(found.transform != wanted.transform):
        turned = transform(images[b], int(found.transform[b, n]), geometry)
        chosen = (turned - weights[n]).astype(float)[:, geometry.region_mask]
        best = wanted.distance[b, n].astype(float)
        assert (chosen**2).sum() <= best**2 * (1 + 1e-5) + 2e-6 * size[n] ** 2
    for b in np.flatnonzero(found.bmu != wanted.bmu):
        assert wanted.distance[b, found.bmu[b]] <= wanted.bmu_distance[b] * (1 + 1e-6) + 1e-9


@given(searches())
def test_exact_equals_reference(case):
    assert_equal_to_reference(*case)


@given(searches(kinds=("near", "round"), largest=10))
def test_exact_equals_reference_for_near_perfect_matches(case):
    assert_equal_to_reference(*case)


def test_exact_equals_reference_for_360_rotations():
    rng = np.random.default_rng(3)
    for image_side, region, kind in ((9, "quadratic", "near"), (12, "circular", "smooth"), (6, "circular", "near")):
        geometry = Geometry.derive(image_side, 360, True, region)
        images = pictures(kind, (2, 1, image_side, image_side), rng)
        assert_equal_to_reference(geometry, images, weights_for(kind, images, geometry, 4, rng))


def test_the_rounding_of_products_does_not_pick_a_worse_transform():
    # 360 rotations of four pixels differ by less than products of float32 can tell apart.
    geometry = Geometry.derive(6, 360, True, "circular", 32, 4)
    rng = np.random.default_rng(11)
    images = pictures("near", (3, 1, 6, 6), rng)
    weights = weights_for("near", images, geometry, 6, rng)
    found, wanted = match(geometry, images, weights), match(geometry, images, weights, "reference")
    np.testing.assert_allclose(found.distance, wanted.distance, rtol=1e-4)
    assert np.array_equal(found.bmu, wanted.bmu)


@pytest.fixture
def work(monkeypatch):
    """Count direct sums, and pairs searched again in float64, while searching."""
    count = {"direct": 0, "double": 0}
    direct, double = exact_module.direct_distances, exact_module.double_transforms

    def counted_direct(*arguments):
        count["direct"] += len(arguments[3])
        return direct(*arguments)

    def counted_double(image, weights, neurons, table):
        count["double"] += len(neurons)
        return double(image, weights, neurons, table)

    monkeypatch.setattr(exact_module, "direct_distances", counted_direct)
    monkeypatch.setattr(exact_module, "double_transforms", counted_double)
    return count


@pytest.mark.parametrize("region", ["quadratic", "circular"])
@pytest.mark.parametrize("background", [0.5, -3, 100])
def test_a_background_all_share_costs_and_changes_nothing(background, region, work):
    geometry = Geometry.derive(16, 24, True, region)
    rng = np.random.default_rng(8)
    images = pictures("noise", (3, 2, 16, 16), rng)
    weights = rng.random((7, 2, geometry.neuron_side, geometry.neuron_side), np.float32)
    images, weights = images + np.float32(background), weights + np.float32(background)
    assert_equal_to_reference(geometry, images, weights)
    assert work["double"] == 0
    if region == "quadratic":  # a disc leaves turned images, where the background stays
        assert work["direct"] <= 2 * len(images)  # the best-matching units


@pytest.mark.parametrize("region", ["quadratic", "circular"])
def test_images_that_all_are_nearly_neurons_cost_one_direct_sum_each(region, work):
    geometry = Geometry.derive(15, 40, True, region)
    rng = np.random.default_rng(9)
    images = pictures("round", (3, 1, 15, 15), rng)
    images[2] = gaussian_filter(rng.random((1, 15, 15), np.float32), (0, 2, 2))
    # More neurons than are made in float64 at a time; some much brighter, so that not all share a template.
    turned = [transform(images[n % 3], int(rng.integers(80)), geometry) for n in range(38)]
    weights = np.stack(turned) + np.float32(1e-4) * rng.standard_normal((38, *turned[0].shape), np.float32)
    weights[::5] += 3
    assert_equal_to_reference(geometry, images, weights)
    found, wanted = match(geometry, images, weights), match(geometry, images, weights, "reference")
    np.testing.assert_allclose(found.distance, wanted.distance, rtol=1e-4)
    assert work["double"] > 0
    assert work["direct"] <= 2 * len(images) * len(weights)


def test_neurons_on_two_backgrounds_are_exact():
    geometry = Geometry.derive(12, 12)
    rng = np.random.default_rng(10)
    images = rng.random((4, 1, 12, 12), np.float32)
    images[2:] += 50
    weights = rng.random((9, 1, geometry.neuron_side, geometry.neuron_side), np.float32)
    weights[5:] += 50
    assert_equal_to_reference(geometry, images, weights)


def test_equal_transforms_of_a_perfect_match_are_the_lowest():
    geometry = Geometry.derive(8, 4)
    image = np.full((1, 1, 8, 8), 0.3, np.float32)
    weights = np.full((3, 1, 12, 12), 0.3, np.float32)
    weights[1:] = 7
    found = match(geometry, image, weights)
    assert found.transform[0].tolist() == [0, 0, 0]
    assert found.distance[0, 0] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e15])
def test_a_neuron_that_is_not_finite_harms_no_other(bad):
    geometry = Geometry.derive(8, 8)
    rng = np.random.default_rng(0)
    images, weights = rng.random((4, 1, 8, 8), np.float32), rng.random((5, 1, 12, 12), np.float32)
    weights[2, 0, 5, 5] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, wanted = match(geometry, images, weights), match(geometry, images, weights, "reference")
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(found.distance[:, others], wanted.distance[:, others], rtol=5e-6)


def test_reference_equals_a_plain_minimum():
    geometry = Geometry.derive(7, 8, region="circular")
    rng = np.random.default_rng(0)
    images, weights = rng.random((2, 2, 7, 7), np.float32), rng.random((3, 2, 10, 10), np.float32)
    found = match(geometry, images, weights, "reference")
    for b in range(2):
        stack = transform_stack(images[b], geometry)
        for n in range(3):
            sums = [((turned - weights[n])[:, geometry.region_mask] ** 2).sum() for turned in stack]
            assert found.transform[b, n] == int(np.argmin(sums))
            assert found.distance[b, n] == pytest.approx(np.sqrt(min(sums)), rel=1e-5)
    assert np.array_equal(found.bmu, found.distance.argmin(axis=1))


@pytest.mark.parametrize("rotations", [4, 12])
@pytest.mark.parametrize(
    ("image_side", "neuron_side", "region_side", "region"),
    [
        (8, 12, 6, "quadratic"),
        (9, 13, 5, "quadratic"),  # an odd square is symmetric, an odd disc is not
        (8, 6, 4, "quadratic"),
        (8, 12, 8, "circular"),
        (12, 12, 12, "circular"),
        (8, 6, 4, "circular"),
    ],
)
def test_turning_or_flipping_an_image_changes_nothing(image_side, neuron_side, region_side, region, rotations):
    geometry = Geometry(image_side, neuron_side, region_side, region, rotations)
    rng = np.random.default_rng(5)
    images = rng.random((2, 2, image_side, image_side), np.float32)
    weights = rng.random((4, 2, neuron_side, neuron_side), np.float32)
    plain = match(geometry, images, weights).distance
    for turns in range(4):
        turned = np.rot90(images, turns, axes=(2, 3))
        for view in (turned, turned[:, :, ::-1]):
            np.testing.assert_allclose(match(geometry, view, weights).distance, plain, rtol=1e-6)


def test_it_is_the_transform_that_is_found():
    geometry = Geometry.derive(16, 12)
    image = gaussian_filter(np.random.default_rng(2).random((1, 16, 16), np.float32), (0, 1, 1))
    found = match(geometry, image[None], transform_stack(image, geometry))
    assert found.transform[0].tolist() == list(range(24))
    np.testing.assert_allclose(found.distance, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("region", "rotations", "side"), [("quadratic", 12, 12), ("circular", 8, 11), ("quadratic", 1, 9)]
)
def test_company_changes_nothing_and_place_no_more_than_rounding(region, rotations, side):
    geometry = Geometry.derive(side, rotations, region=region)
    rng = np.random.default_rng(7)
    images = rng.random((BLOCK_IMAGES + 5, 2, side, side), np.float32)
    weights = rng.random((37, 2, geometry.neuron_side, geometry.neuron_side), np.float32)
    weights[3] = transform(images[4], 0, geometry)
    images[9] = np.nan
    together = match(geometry, images, weights)
    for rows in ([0], [0, 1, 2], list(range(31)), list(range(33))):  # in the places they have together
        part = match(geometry, images[rows], weights)
        for name in ("distance", "transform", "bmu", "bmu_distance"):
            np.testing.assert_array_equal(getattr(part, name), getattr(together, name)[rows])
    # The kernels of some processors round a column of a matrix product by its place: jobs keep images in theirs.
    for rows in ([4], [31], [36], [3, 36, 17], list(range(36, -1, -1))):
        part = match(geometry, images[rows], weights)
        for name in ("transform", "bmu"):
            np.testing.assert_array_equal(getattr(part, name), getattr(together, name)[rows])
        for name in ("distance", "bmu_distance"):
            np.testing.assert_allclose(getattr(part, name), getattr(together, name)[rows], rtol=3e-7)


@given(searches(rotations=(1, 8), kinds=("noise", "near"), largest=8))
def test_array_api_strict_agrees_with_numpy(case):
    geometry, images, weights = case
    strict = match(geometry, array_api_strict.asarray(images), array_api_strict.asarray(weights))
    plain = match(geometry, images, weights)
    size = np.sqrt((weights[..., geometry.region_mask].astype(float) ** 2).sum(axis=(1, 2)))
    difference = np.abs(np.asarray(strict.distance) - plain.distance)
    np.testing.assert_array_less(difference, 5e-6 * plain.distance + 3e-7 * size + 1e-30)
    assert strict.distance.dtype == array_api_strict.float32
    assert strict.transform.dtype == strict.bmu.dtype == array_api_strict.int64


def test_array_api_strict_reference():
    geometry = Geometry.derive(6, 4)
    rng = np.random.default_rng(0)
    images, weights = rng.random((2, 1, 6, 6), np.float32), rng.random((3, 1, 9, 9), np.float32)
    strict = match(geometry, array_api_strict.asarray(images), array_api_strict.asarray(weights), "reference")
    np.testing.assert_allclose(np.asarray(strict.distance), match(geometry, images, weights).distance, rtol=2e-6)


def test_read_only_and_strided_inputs_are_accepted_and_left_alone():
    geometry = Geometry.derive(8, 8)
    rng = np.random.default_rng(0)
    images, weights = rng.random((40, 1, 8, 8), np.float32), rng.random((4, 1, 12, 12), np.float32)
    wanted = match(geometry, images, weights)
    locked = np.asfortranarray(images), np.asfortranarray(weights)
    for array in locked:
        array.flags.writeable = False
    found = match(geometry, *locked)
    assert np.array_equal(found.distance, wanted.distance)
    assert np.array_equal(locked[0], images)
    assert np.array_equal(locked[1], weights)
    assert np.array_equal(match(geometry, images.astype(np.float64), weights).distance, wanted.distance)


@pytest.mark.parametrize("method", ["exact", "reference"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_with_nan_harms_no_other(method, bad):
    geometry = Geometry.derive(8, 8)
    rng = np.random.default_rng(0)
    images, weights = rng.random((4, 1, 8, 8), np.float32), rng.random((5, 1, 12, 12), np.float32)
    wanted = match(geometry, images, weights, method)
    # One whole image, and one pixel that no transform brings into the region.
    images[1], images[3, 0, 0, 0] = bad, bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = match(geometry, images, weights, method)
    assert np.isnan(found.distance[[1, 3]]).all()
    assert np.isnan(found.bmu_distance[[1, 3]]).all()
    assert not found.transform[[1, 3]].any()
    assert not found.bmu[[1, 3]].any()
    for name in ("distance", "transform", "bmu", "bmu_distance"):
        np.testing.assert_array_equal(getattr(found, name)[[0, 2]], getattr(wanted, name)[[0, 2]])


def test_ties_go_to_the_lowest_transform_and_neuron():
    geometry = Geometry.derive(8, 8)
    image = np.zeros((1, 1, 8, 8), np.float32)
    found = match(geometry, image, np.ones((3, 1, 12, 12), np.float32))
    assert found.transform.tolist() == [[0, 0, 0]]
    assert found.bmu.tolist() == [0]


@pytest.mark.parametrize("method", ["exact", "reference"])
def test_no_images(method):
    found = match(
        Geometry.derive(8, 4), np.zeros((0, 1, 8, 8), np.float32), np.zeros((3, 1, 12, 12), np.float32), method
    )
    assert found.distance.shape == found.transform.shape == (0, 3)
    assert found.bmu.shape == found.bmu_distance.shape == (0,)


def test_images_without_a_channel_axis():
    rng = np.random.default_rng(0)
    images = rng.random((3, 8, 8), np.float32)
    som = Som(rng.random((4, 1, 12, 12), np.float32), Cartesian(2, 2))
    assert np.array_equal(best_match(images, som, 8).distance, best_match(images[:, None], som, 8).distance)


@pytest.mark.parametrize(
    ("shape", "named"),
    [((2, 8, 9), ["(2, 8, 9)"]), ((8, 8), ["(8, 8)"]), ((2, 3, 8, 8), ["3 channels", "1"])],
)
def test_shape_errors_name_the_values(shape, named):
    som = Som(np.zeros((4, 1, 12, 12), np.float32), Cartesian(2, 2))
    with pytest.raises(ShapeError) as caught:
        best_match(np.zeros(shape, np.float32), som)
    for text in named:
        assert text in str(caught.value)


def test_maps_that_do_not_fit():
    with pytest.raises(EngineError, match=r"4 neurons.*6"):
        Som(np.zeros((4, 1, 12, 12), np.float32), Cartesian(2, 3))
    with pytest.raises(ShapeError, match=r"\(4, 12, 12\)"):
        Som(np.zeros((4, 12, 12), np.float32), Cartesian(2, 2))
    som = Som(np.zeros((4, 1, 12, 12), np.float32), Cartesian(2, 2))
    with pytest.raises(EngineError, match="fast"):
        best_match(np.zeros((1, 8, 8), np.float32), som, method="fast")
    with pytest.raises(GeometryError, match=r"22.*12"):
        best_match(np.zeros((1, 32, 32), np.float32), som)


def test_a_block_of_the_wrong_shape_never_reaches_the_compiled_loops():
    search = Search(np.zeros((4, 1, 12, 12), np.float32), Geometry.derive(8, 4))
    with pytest.raises(ShapeError, match="33"):
        search(np.zeros((BLOCK_IMAGES + 1, 1, 8, 8), np.float32))
    with pytest.raises(ShapeError, match=r"9, 9"):
        search(np.zeros((1, 1, 9, 9), np.float32))
    with pytest.raises(ShapeError, match=r"13, 13"):
        Search(np.zeros((4, 1, 13, 13), np.float32), Geometry.derive(8, 4))


@pytest.mark.parametrize("turns", [1, 7])
@pytest.mark.parametrize("region", ["quadratic", "circular"])
def test_any_number_of_rotations_a_block_finds_the_same(turns, region, monkeypatch):
    geometry, rng = Geometry.derive(16, 80, region=region), np.random.default_rng(0)
    images = rng.random((3, 2, 16, 16), np.float32)
    weights = rng.random((4, 2, geometry.neuron_side, geometry.neuron_side), np.float32)
    search = exact_module.Search(weights, geometry)
    wanted, rows = search(images), 2 * len(search.table)
    monkeypatch.setattr(exact_module, "PANEL_BYTES", 32 * 32 * rows * turns)
    assert exact_module.block_rotations(geometry, rows, 4) == turns
    found = search(images)
    np.testing.assert_array_equal(found.transform, wanted.transform)
    np.testing.assert_allclose(found.distance, wanted.distance, rtol=1e-6)
    plain = best_match(images, Som(weights, Cartesian(4)), 80, region=region, method="reference")
    np.testing.assert_array_equal(found.bmu, plain.bmu)
    np.testing.assert_allclose(found.distance, plain.distance, rtol=5e-6)


def test_no_images_alone():
    geometry = Geometry.derive(16, 8)
    search = exact_module.Search(np.ones((2, 1, geometry.neuron_side, geometry.neuron_side), np.float32), geometry)
    assert search(np.zeros((0, 1, 16, 16), np.float32), alone=True).distance.shape == (0, 2)

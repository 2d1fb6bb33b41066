import warnings

import array_api_strict
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from skysom.engine import Cartesian, Geometry, Som, best_match
from skysom.engine import certified as certified_module
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.calibration import calibrate
from skysom.engine.certified import DEFAULT_MARGIN, Calibration, CertifiedSearch
from skysom.engine.direct import direct_distances
from skysom.engine.errors import EngineError, GeometryError, ShapeError
from skysom.engine.exact import Search
from skysom.engine.match import Match
from skysom.engine.transforms import squared_distances, transform

KINDS = ("noise", "signed", "smooth", "near", "neuron", "round", "constant", "blank")


def pictures(kind, shape, rng):
    """Images (B, C, H, H) float32 of one kind."""
    images = rng.random(shape, np.float32)
    if kind == "signed":
        images -= np.float32(0.5)
    if kind in ("smooth", "near"):
        images = gaussian_filter(images, (0, 0, 2, 2))
    if kind == "round":
        y = np.arange(shape[-1]) - (shape[-1] - 1) / 2
        images[:] = np.exp(-(y[:, None] ** 2 + y**2) / 8)
    if kind == "constant":
        images[:] = images[0, 0, 0, 0]
    return np.zeros(shape, np.float32) if kind == "blank" else images


def weights_for(kind, images, geometry, neurons, rng):
    side = geometry.neuron_side
    weights = rng.random((neurons, images.shape[1], side, side), np.float32)
    if kind in ("near", "neuron", "round"):
        for n in range(neurons):
            weights[n] = transform(images[n % len(images)], int(rng.integers(geometry.transforms)), geometry)
        if kind == "near":
            weights += np.float32(1e-3) * rng.standard_normal(weights.shape, np.float32)
    return weights


@st.composite
def searches(draw, rotations=(1, 4, 8, 12, 20), largest=20, smallest=4, batches=(1, 3, 32), neurons=(1, 3, 17)):
    """A geometry, images and a map."""
    image_side = draw(st.integers(smallest, largest))
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
    shape = (draw(st.sampled_from(batches)), draw(st.integers(1, 3)), image_side, image_side)
    kind = draw(st.sampled_from(KINDS))
    images = pictures(kind, shape, rng)
    return geometry, images, weights_for(kind, images, geometry, draw(st.sampled_from(neurons)), rng)


def sources(count, side, rng, noise=0.05):
    """Two lobes each, which end well within the image, and noise: (B, 1, H, H)."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    images = np.zeros((count, 1, side, side), np.float32)
    for image in images:
        angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(0.04, 0.06) * side
        for sign, height in ((1, 1.0), (-1, rng.uniform(0.3, 1))):
            reach = sign * rng.uniform(0.08, 0.2) * side
            distance = (x - reach * np.cos(angle)) ** 2 + (y - reach * np.sin(angle)) ** 2
            image += (height * np.exp(-distance / (2 * width**2))).astype(np.float32)
    return images + np.float32(noise) * rng.standard_normal(images.shape, np.float32)


@pytest.fixture(scope="module")
def survey():
    """A geometry, 64 images and a map of 20 other sources, of which the default margin is far wider than needed."""
    geometry, rng = Geometry.derive(40, 48, region="circular"), np.random.default_rng(4)
    images, prototypes = sources(64, 40, rng), sources(20, 40, rng, noise=0.0)
    return geometry, images, np.stack([transform(image, 0, geometry) for image in prototypes])


def sizes(weights, geometry):
    """|w| over the region, (N,) float64."""
    return np.sqrt((weights[..., geometry.region_mask].astype(float) ** 2).sum(axis=(1, 2)))


def wide_enough(geometry, images, weights, *, everywhere=False):
    """A margin that reaches the exact best match of every image, or of every image and neuron."""
    search = CertifiedSearch(weights, geometry)
    if geometry.base_rotations == 1:
        return DEFAULT_MARGIN
    wanted = search.exact(images)
    block = np.zeros((BLOCK_IMAGES, *images.shape[1:]), np.float32)
    block[: len(images)] = images
    asked = np.zeros((len(weights), BLOCK_IMAGES), bool)
    asked[:, : len(images)] = True if everywhere else np.arange(len(weights))[:, None] == wanted.bmu
    scored = search.score(block, np.arange(BLOCK_IMAGES) < len(images), asked)
    scored = scored.pairs(np.flatnonzero(asked[scored.neuron, scored.image]))
    chosen = wanted.transform[scored.image, scored.neuron]
    score = search.values(scored)[np.arange(len(chosen)), chosen]
    lowest = search.values(scored).min(axis=1) if everywhere else scored.lowest[scored.image]
    scale = np.maximum(search.scale(scored.level)[scored.image], 1e-30)
    return max(DEFAULT_MARGIN, 1.5 * float(((score - lowest) / scale).max(initial=0)))


def assert_best_matches_are(found, wanted, geometry, images, weights):
    """The best-matching units of ``found`` are those of ``wanted``, up to rounding of equally good ones."""
    rows, size = np.arange(len(images)), sizes(weights, geometry)
    assert found.distance.dtype == found.bmu_distance.dtype == np.float32
    assert found.transform.dtype == found.bmu.dtype == np.int64
    assert found.exact.dtype == np.bool
    scale = 5e-6 * wanted.bmu_distance + 3e-7 * size[wanted.bmu] + 1e-30
    np.testing.assert_array_less(np.abs(found.bmu_distance - wanted.bmu_distance), scale)
    for b in np.flatnonzero(found.bmu != wanted.bmu):
        rival = wanted.distance[b, found.bmu[b]]
        assert rival <= wanted.bmu_distance[b] * (1 + 5e-6) + 3e-7 * size.max()
    np.testing.assert_array_equal(found.bmu, found.distance.argmin(axis=1))
    np.testing.assert_array_equal(found.bmu_distance, found.distance[rows, found.bmu])
    assert found.exact[rows, found.bmu].all()
    # It is the distance at the transform that is named.
    for b in rows[:4]:
        turned = transform(images[b], int(found.transform[b, found.bmu[b]]), geometry)
        difference = (turned - weights[found.bmu[b]])[:, geometry.region_mask].astype(float)
        assert found.bmu_distance[b] == pytest.approx(np.sqrt((difference**2).sum()), rel=2e-6, abs=3e-7 * size.max())


@given(searches())
def test_the_best_match_is_that_of_the_exact_search(case):
    geometry, images, weights = case
    search = CertifiedSearch(weights, geometry, wide_enough(*case))
    found, effort = search.examine(images)
    assert_best_matches_are(found, search.exact(images), *case)
    assert effort.candidates.shape == effort.neurons.shape == effort.depth.shape == effort.fallback.shape
    assert (effort.depth <= 1 + 1e-6).all()
    if geometry.base_rotations > 1:
        assert ((effort.candidates > 0) | effort.fallback).all()
        assert (effort.neurons <= effort.candidates).all()


@given(searches(rotations=(4, 8, 12), largest=9, batches=(1, 3), neurons=(1, 3)))
def test_the_best_match_is_that_of_the_reference(case):
    geometry, images, weights = case
    som = Som(weights, Cartesian(len(weights)))
    calibration = Calibration(wide_enough(*case), 0.0, 1, 1.0, 1.0)
    arguments = (images, som, geometry.rotations, geometry.flip, geometry.region, geometry.region_side)
    inner = geometry.inner_side
    found = best_match(*arguments, method="certified", calibration=calibration, inner_side=inner)
    assert_best_matches_are(found, best_match(*arguments, method="reference", inner_side=inner), *case)


@given(searches(rotations=(8, 12), largest=10, batches=(3,), neurons=(3,)))
def test_direct_sums_are_those_of_the_reference(case):
    geometry, images, weights = case
    images.flags.writeable = False
    places = (np.arange(3), np.arange(3), np.arange(geometry.transforms))
    row, neuron, transform_index = (part.reshape(-1) for part in np.meshgrid(*places, indexing="ij"))
    order = np.random.default_rng(0).permutation(len(row))
    found = direct_distances(images, weights, geometry, row[order], neuron[order], transform_index[order])
    wanted = np.stack([squared_distances(image, weights, geometry) for image in images]).reshape(-1)[order]
    scale = 2e-6 * np.sqrt(wanted) + 3e-7 * sizes(weights, geometry).max() + 1e-30
    np.testing.assert_array_less(np.abs(np.sqrt(found) - np.sqrt(wanted)), scale)


def test_the_default_margin_finds_the_sources_of_a_survey(survey):
    geometry, images, weights = survey
    som = Som(weights, Cartesian(20))
    found = best_match(images, som, 48, True, "circular", method="certified")
    wanted = best_match(images, som, 48, True, "circular", method="exact")
    assert_best_matches_are(found, wanted, *survey)
    assert wanted.exact.all()
    assert not found.exact.all()
    # The other distances are those of the scores.
    error = np.abs(found.distance.astype(float) ** 2 - wanted.distance.astype(float) ** 2)
    bright = np.sqrt((images.astype(float) ** 2).sum(axis=(1, 2, 3)) * (sizes(weights, geometry) ** 2).mean())
    assert (error.max(axis=1) < DEFAULT_MARGIN * bright).all()


def test_what_a_survey_costs(survey):
    geometry, images, weights = survey
    _, effort = CertifiedSearch(weights, geometry).examine(images[:32])
    assert not effort.fallback.any()
    assert effort.depth.max() < 0.5
    assert (effort.neurons < len(weights)).all()
    assert effort.candidates.max() < 0.2 * geometry.transforms * len(weights)


@given(searches(rotations=(8, 12), neurons=(3, 17), batches=(1, 4)), st.sampled_from([2, 5, 16, 17, 40]))
def test_the_distances_of_as_many_neurons_as_asked_for_are_exact(case, count):
    geometry, images, weights = case
    margin = max(wide_enough(*case), wide_enough(*case, everywhere=True))
    search = CertifiedSearch(weights, geometry, margin, exact_neurons=count)
    found, effort = search.examine(images)
    wanted = search.exact(images)
    assert_best_matches_are(found, wanted, *case)
    assert (found.exact.sum(axis=1) >= min(count, len(weights))).all()
    scale = 5e-6 * (wanted.distance + sizes(weights, geometry)) + 1e-30
    assert (np.abs(found.distance - wanted.distance) <= scale)[found.exact].all()
    # They are the neurons of the best scores: none that is not exact lies well below one that is, but for the margin.
    plain = CertifiedSearch(weights, geometry, margin).examine(images)[0]
    assert (plain.exact <= found.exact)[~effort.fallback].all()
    if count >= len(weights):
        assert found.exact.all()


def test_the_k_exact_neurons_of_a_survey_are_the_k_nearest(survey):
    geometry, images, weights = survey
    search = CertifiedSearch(weights, geometry, exact_neurons=4)
    found, wanted = search(images[:32]), search.exact(images[:32])
    nearest = np.sort(wanted.distance, axis=1)[:, :4]
    exact = np.sort(np.where(found.exact, found.distance, np.inf), axis=1)[:, :4]
    np.testing.assert_allclose(exact[:, 0], nearest[:, 0], rtol=5e-6)
    assert np.mean(np.abs(exact - nearest) <= 5e-6 * nearest) > 0.9  # near ties may order otherwise


@given(searches(rotations=(8, 12), batches=(3,), neurons=(3, 17)), st.integers(0, 2**31))
def test_turned_copies_are_found_at_their_angle(case, seed):
    geometry, _, _ = case
    rng = np.random.default_rng(seed)
    images = gaussian_filter(rng.random((3, 1, geometry.image_side, geometry.image_side), np.float32), (0, 0, 1, 1))
    t = rng.integers(geometry.transforms, size=3)
    weights = np.stack([transform(image, int(k), geometry) for image, k in zip(images, t, strict=True)])
    assume(sizes(weights, geometry).min() > 0)
    found = CertifiedSearch(weights, geometry, wide_enough(geometry, images, weights))(images)
    size = sizes(weights, geometry)
    assert (found.bmu_distance <= 3e-7 * size.max()).all()


def test_the_first_of_equal_neurons_wins(survey):
    geometry, images, weights = survey
    weights = np.concatenate([weights, weights])[np.random.default_rng(0).permutation(40)]
    search = CertifiedSearch(weights, geometry)
    found, wanted = search(images[:32]), search.exact(images[:32])
    assert np.array_equal(found.bmu, wanted.bmu)
    for b in range(32):
        equal = [n for n in range(40) if np.array_equal(weights[n], weights[found.bmu[b]])]
        assert found.bmu[b] == min(equal)
    assert np.array_equal(found.distance.argmin(axis=1), found.bmu)


@pytest.mark.parametrize("exact_neurons", [1, 3])
def test_blank_images_are_nearest_to_the_faintest_neuron(survey, exact_neurons):
    geometry, images, weights = survey
    weights = weights.copy()
    weights[7] *= np.float32(0.01)
    images = images[:5].copy()
    images[[1, 4]] = 0
    search = CertifiedSearch(weights, geometry, exact_neurons=exact_neurons)
    found, wanted = search(images), search.exact(images)
    assert found.bmu[[1, 4]].tolist() == [7, 7]
    np.testing.assert_allclose(found.bmu_distance, wanted.bmu_distance, rtol=2e-6)
    assert found.transform[[1, 4], 7].tolist() == [0, 0]


def test_an_empty_map_and_empty_images(survey):
    geometry, images, weights = survey
    search = CertifiedSearch(np.zeros_like(weights), geometry)
    both = images[:2].copy()
    both[1] = 0
    found, wanted = search(both), search.exact(both)
    assert found.bmu.tolist() == wanted.bmu.tolist() == [0, 0]
    np.testing.assert_allclose(found.bmu_distance, wanted.bmu_distance, rtol=2e-6)


def test_what_lies_outside_the_region_does_not_count():
    geometry = Geometry(24, 34, 8, "quadratic", 24)
    rng = np.random.default_rng(0)
    images = np.zeros((3, 1, 24, 24), np.float32)
    images[:, :, 0], images[:, :, :, -1] = 5, 3  # a bright frame
    images[1, 0, 12, 12] = 1e-3
    weights = rng.random((6, 1, 34, 34), np.float32)
    found, wanted = CertifiedSearch(weights, geometry)(images), Search(weights, geometry)(images)
    assert np.array_equal(found.bmu, wanted.bmu)
    np.testing.assert_allclose(found.bmu_distance, wanted.bmu_distance, rtol=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_harms_no_other(survey, bad):
    geometry, images, weights = survey
    search = CertifiedSearch(weights, geometry, exact_neurons=2)
    wanted = search(images[:6])
    images = images[:6].copy()
    images[1], images[3, 0, 0, 0] = bad, bad
    found, effort = search.examine(images)
    good, rows = [0, 2, 4, 5], [1, 3]
    for name in Match.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name)[good], getattr(wanted, name)[good])
    assert np.isnan(found.distance[rows]).all()
    assert np.isnan(found.bmu_distance[rows]).all()
    assert not found.transform[rows].any()
    assert not found.bmu[rows].any()
    assert not effort.candidates[rows].any()
    assert not effort.fallback.any()
    only = search(images[rows])
    assert np.isnan(only.distance).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e15])
def test_a_neuron_that_is_not_finite_harms_no_other(survey, bad):
    geometry, images, weights = survey
    weights = weights[:6].copy()
    weights[2, 0, 28, 28] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = CertifiedSearch(weights, geometry)
        found, wanted = search(images[:5]), search.exact(images[:5])
    assert np.array_equal(found.bmu, wanted.bmu)
    others = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(found.distance[:, others], wanted.distance[:, others], rtol=0.03)
    if bad == 1e15:
        np.testing.assert_allclose(found.bmu_distance, wanted.bmu_distance, rtol=2e-6)


@pytest.mark.parametrize("background", [100.0, 1e4])
@pytest.mark.parametrize("region", ["quadratic", "circular"])
def test_a_large_background_is_left_to_the_exact_search(background, region):
    geometry, rng = Geometry.derive(24, 24, region=region), np.random.default_rng(3)
    images = sources(4, 24, rng) + np.float32(background)
    weights = np.stack([transform(image, 0, geometry) for image in sources(5, 24, rng)])
    weights += np.float32(background)
    search = CertifiedSearch(weights, geometry)
    found, wanted = search(images), search.exact(images)
    np.testing.assert_allclose(found.bmu_distance, wanted.bmu_distance, rtol=1e-5)
    assert np.array_equal(found.bmu, wanted.bmu)


@pytest.mark.parametrize("scale", [1e-20, 1e-17, 1e-12, 1e-6, 1e6, 1e15])
def test_units_do_not_matter(survey, scale):
    geometry, images, weights = survey
    images, scaled = images[:8], np.float32(scale)
    plain = CertifiedSearch(weights, geometry)(images)
    search = CertifiedSearch(weights * scaled, geometry)
    found = search(images * scaled)
    assert_best_matches_are(found, search.exact(images * scaled), geometry, images * scaled, weights * scaled)
    if scale >= 1e-17:
        assert np.array_equal(found.bmu, plain.bmu)
        np.testing.assert_allclose(found.bmu_distance / scaled, plain.bmu_distance, rtol=2e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-9, 1e3])
def test_images_of_other_units_than_the_map(scale):
    """The neurons are equally bright, so that the faint images still choose between them by their shape."""
    geometry, rng = Geometry.derive(40, 48, region="circular"), np.random.default_rng(4)
    images = sources(8, 40, rng) * np.float32(scale)
    weights = np.stack([transform(image, 0, geometry) for image in sources(6, 40, rng, noise=0.0)])
    weights /= sizes(weights, geometry)[:, None, None, None].astype(np.float32)
    margin = wide_enough(geometry, images, weights)
    search = CertifiedSearch(weights, geometry, margin)
    assert_best_matches_are(search(images), search.exact(images), geometry, images, weights)


@pytest.mark.parametrize("amplitude", [1e-5, 1e-6])
def test_a_pixel_that_only_some_rotations_see(amplitude):
    """|T x|^2 of the others is a difference of large numbers, and all there is where neurons are faint."""
    geometry, rng = Geometry.derive(64), np.random.default_rng(4)
    images = rng.normal(0, 0.01, (32, 1, 64, 64)).astype(np.float32)
    images[np.arange(32), 0, *rng.integers(8, 14, (2, 32))] = 1e3  # near a corner of the region
    y, x = np.indices((geometry.neuron_side,) * 2) - (geometry.neuron_side - 1) / 2
    centres, widths = rng.normal(0, 6, (12, 2)), rng.uniform(1.5, 4, 12)
    shapes = zip(centres, widths, strict=True)
    weights = np.stack([np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * width**2)) for (a, b), width in shapes])[:, None]
    weights *= amplitude * 1e3 / sizes(weights, geometry)[:, None, None, None]
    weights = weights.astype(np.float32)
    search = CertifiedSearch(weights, geometry)
    match, exact = search(images), search.exact(images)
    np.testing.assert_allclose(match.bmu_distance, exact.bmu_distance, rtol=1e-5)


@pytest.mark.parametrize("method", ["exact", "certified", "reference"])
def test_the_order_of_memory_does_not_matter(method):
    """Cut-outs with channels last, one of them with NaN, in a full block."""
    geometry, rng = Geometry.derive(16, 12), np.random.default_rng(0)
    images = rng.random((32, 16, 16, 3), np.float32)
    images[5, 3, 3, 1] = np.nan
    weights = rng.random((4, geometry.neuron_side, geometry.neuron_side, 3), np.float32)
    last = images.transpose(0, 3, 1, 2), weights.transpose(0, 3, 1, 2)
    first = tuple(np.ascontiguousarray(array) for array in last)
    found, wanted = (best_match(x, Som(w, Cartesian(2, 2)), rotations=12, method=method) for x, w in (last, first))
    for name in ("distance", "transform", "bmu", "bmu_distance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_company_does_not_matter(survey):
    geometry, images, weights = survey
    search, block = CertifiedSearch(weights, geometry), images[:32]
    together, order = search(block), np.random.default_rng(1).permutation(32)
    shuffled = search(np.ascontiguousarray(block[order]))
    for rows, found in ((order, shuffled), ([5], search(block[5:6])), (range(7), search(block[:7]))):
        for name in ("bmu", "bmu_distance"):
            np.testing.assert_array_equal(getattr(found, name), getattr(together, name)[list(rows)])
        np.testing.assert_allclose(found.distance, together.distance[list(rows)], rtol=1e-5)


@pytest.mark.parametrize("neurons", [1, 4])
def test_depth_is_where_the_best_match_lies_in_the_margin(neurons):
    """White noise, which rings follow badly. The score is that of the transform, not the best of its neuron."""
    geometry, rng = Geometry.derive(16, 24), np.random.default_rng(5)
    images, weights = (rng.standard_normal((n, 1, side, side), np.float32) for n, side in ((32, 16), (neurons, 23)))
    margin = 2 * wide_enough(geometry, images, weights)
    search = CertifiedSearch(weights, geometry, margin)
    found, effort = search.examine(images)
    assert effort.depth.min() == 0
    assert 0.01 < effort.depth.max() < 0.5
    deepest = int(effort.depth.argmax())
    # The same match lies deeper in a narrower margin, and beyond a still narrower one.
    half = CertifiedSearch(weights, geometry, margin * float(effort.depth[deepest]) * 1.05)
    assert half.examine(images)[1].depth[deepest] == pytest.approx(1 / 1.05, rel=1e-2)
    less = CertifiedSearch(weights, geometry, margin * float(effort.depth[deepest]) * 0.95)
    assert less(images).bmu_distance[deepest] > found.bmu_distance[deepest]


def test_images_left_to_the_exact_search(survey, monkeypatch):
    geometry, images, weights = survey
    search, images = CertifiedSearch(weights, geometry), images[:12]
    plain, effort = search.examine(images)
    limit = int(np.median(effort.candidates))
    monkeypatch.setattr(certified_module, "MOST_CANDIDATES", limit)
    found, left = search.examine(images)
    assert np.array_equal(left.fallback, effort.candidates > limit)
    assert left.fallback.any()
    assert not left.fallback.all()
    assert found.exact[left.fallback].all()
    for row in np.flatnonzero(left.fallback):
        alone = search.exact(images[row : row + 1], alone=True)
        for name in Match.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(found, name)[row], getattr(alone, name)[0])
    rest = ~left.fallback
    for name in Match.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name)[rest], getattr(plain, name)[rest])
    np.testing.assert_array_equal(found.bmu, plain.bmu)
    np.testing.assert_allclose(found.bmu_distance, plain.bmu_distance, rtol=1e-6)
    monkeypatch.setattr(certified_module, "MOST_CANDIDATES", 0)
    assert search.examine(images)[1].fallback.all()


def test_candidates_are_found_in_any_number_of_pieces(survey, monkeypatch):
    geometry, images, weights = survey
    search = CertifiedSearch(weights, geometry, margin=0.5)
    wanted = search(images[:32])
    monkeypatch.setattr(certified_module, "PAIRS_AT_ONCE", 7)
    found = search(images[:32])
    for name in ("bmu", "bmu_distance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_read_only_strided_and_other_inputs_are_accepted_and_left_alone(survey):
    geometry, images, weights = survey
    wanted = CertifiedSearch(weights, geometry)(images[:32])
    locked = np.asfortranarray(images[:32]), np.asfortranarray(weights)
    kept = [array.copy() for array in locked]
    for array in locked:
        array.flags.writeable = False
    found = CertifiedSearch(locked[1], geometry)(locked[0])
    views = CertifiedSearch(weights[::-1][::-1], geometry)(np.repeat(images[:32], 2, axis=3)[..., ::2])
    double = CertifiedSearch(weights.astype(float), geometry)(images[:32].astype(float))
    for other in (found, views, double):
        for name in Match.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(other, name), getattr(wanted, name))
    for array, copy in zip(locked, kept, strict=True):
        assert np.array_equal(array, copy)


@pytest.mark.parametrize("rotations", [1, 4, 8])
def test_no_images_and_one(rotations):
    geometry, rng = Geometry.derive(12, rotations), np.random.default_rng(0)
    weights = rng.random((17, 2, geometry.neuron_side, geometry.neuron_side), np.float32)
    search = CertifiedSearch(weights, geometry)
    found, effort = search.examine(np.zeros((0, 2, 12, 12), np.float32))
    assert found.distance.shape == found.transform.shape == found.exact.shape == (0, 17)
    assert found.bmu.shape == found.bmu_distance.shape == effort.candidates.shape == effort.fallback.shape == (0,)
    image = rng.random((1, 2, 12, 12), np.float32)
    assert search(image).distance.shape == (1, 17)
    som = Som(weights, Cartesian(17))
    none = best_match(image[:0], som, rotations, method="certified")
    assert none.distance.shape == none.exact.shape == (0, 17)


@pytest.mark.parametrize("count", [33, 64, 65])
def test_blocks_of_more_than_32_images_are_made_of_less(survey, count):
    geometry, images, weights = survey
    images = np.concatenate([images, images[:1]])[:count]
    search = CertifiedSearch(weights, geometry)
    with pytest.raises(ShapeError, match=rf"{count}.*32"):
        search(images)
    found = best_match(images, Som(weights, Cartesian(20)), 48, True, "circular", method="certified")
    parts = [search(images[first : first + 32]) for first in range(0, count, 32)]
    np.testing.assert_array_equal(found.bmu_distance, np.concatenate([part.bmu_distance for part in parts]))


@pytest.mark.parametrize("rotations", [1, 4])
def test_nothing_is_ranked_where_nothing_is_interpolated(rotations):
    geometry, rng = Geometry.derive(12, rotations), np.random.default_rng(0)
    weights = rng.random((5, 1, geometry.neuron_side, geometry.neuron_side), np.float32)
    images = rng.random((7, 1, 12, 12), np.float32)
    search = CertifiedSearch(weights, geometry)
    found, effort = search.examine(images)
    wanted = Search(weights, geometry)(images)
    for name in Match.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.exact.all()
    assert not effort.fallback.any()


def test_wrong_arguments_are_named(survey):
    geometry, images, weights = survey
    for margin in (0, -0.1, np.inf, np.nan):
        with pytest.raises(EngineError, match=r"margin is .*positive"):
            CertifiedSearch(weights, geometry, margin)
    with pytest.raises(EngineError, match="exact_neurons 0"):
        CertifiedSearch(weights, geometry, exact_neurons=0)
    with pytest.raises(ShapeError, match=r"39, 39"):
        CertifiedSearch(weights, geometry)(images[:1, :, :39, :39])
    with pytest.raises(ShapeError, match=r"2, 40, 40"):
        CertifiedSearch(weights, geometry)(np.zeros((1, 2, 40, 40), np.float32))
    with pytest.raises(GeometryError, match=r"30.*multiple of 4"):
        CertifiedSearch(weights, geometry, band=30)


@pytest.mark.parametrize("method", ["certified", "polar"])
def test_other_namespaces_are_refused_and_searched_exactly_by_default(survey, method):
    _, images, weights = survey
    strict = array_api_strict.asarray(images[:2]), Som(array_api_strict.asarray(weights[:3]), Cartesian(3))
    with pytest.raises(EngineError, match=rf"{method} search runs on NumPy arrays, not Array; use 'exact'"):
        best_match(*strict, 8, True, "circular", method=method)
    found = best_match(*strict, 8, True, "circular")
    wanted = best_match(images[:2], Som(weights[:3], Cartesian(3)), 8, True, "circular", method="exact")
    np.testing.assert_allclose(np.asarray(found.distance), wanted.distance, rtol=5e-6)


def test_a_calibration_makes_certified_the_default(survey):
    _, images, weights = survey
    som, options = Som(weights, Cartesian(20)), (48, True, "circular")
    assert best_match(images[:3], som, *options).exact.all()
    found = best_match(images[:3], som, *options, calibration=calibrate(som, images, *options))
    assert not found.exact.all()
    assert found.exact[np.arange(3), found.bmu].all()


@pytest.mark.parametrize("amplitude", [0.0, 1e-6])
def test_neurons_that_nothing_has_reached_do_not_narrow_the_margin(survey, amplitude):
    geometry, images, weights = survey
    dark = np.concatenate([weights, np.repeat(weights * np.float32(amplitude), 2, axis=0)])
    one, two = CertifiedSearch(weights, geometry), CertifiedSearch(dark, geometry)
    assert two.brightness == one.brightness
    assert (two.examine(images[:32])[1].candidates >= one.examine(images[:32])[1].candidates).all()


def test_a_neuron_that_is_not_finite_is_what_the_exact_search_says_for_any_number_of_exact_neurons(survey):
    geometry, images, weights = survey
    broken = weights.copy()
    broken[3] = np.nan
    wanted = Search(broken, geometry)(images[:4], alone=True).bmu
    for count in (1, 3):
        np.testing.assert_array_equal(CertifiedSearch(broken, geometry, exact_neurons=count)(images[:4]).bmu, wanted)


def test_a_blank_image_is_left_to_the_exact_search(survey):
    geometry, images, weights = survey
    search, blank = CertifiedSearch(weights, geometry), np.zeros_like(images[:1])
    found, effort = search.examine(np.concatenate([blank, images[:2]]))
    wanted = search.exact(blank, alone=True)
    assert effort.fallback.tolist() == [True, False, False]
    np.testing.assert_array_equal(found.transform[0], wanted.transform[0])
    np.testing.assert_array_equal(found.distance[0], wanted.distance[0])

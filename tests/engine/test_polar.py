import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import chisquare

from skysom.engine import Cartesian, Geometry, Som, best_match
from skysom.engine.blocks import BLOCK_IMAGES, image_innermost, padded
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.exact import Search
from skysom.engine.match import Match
from skysom.engine.polar import PART_NEURONS, PolarSearch, Scores, amplitudes
from skysom.engine.rings import rings
from skysom.engine.transforms import transform, transform_stack

geometries = st.builds(
    lambda side, rotations, flip, region, odd: Geometry.derive(
        side, rotations, flip, region, 2 * side - odd, inner_side=side // 3 if region == "annular" else 0
    ),
    st.integers(8, 16),
    st.sampled_from([4, 8, 12]),
    st.booleans(),
    st.sampled_from(["quadratic", "circular", "annular"]),
    st.integers(0, 1),
)


def pictures(*shape, seed=0, blur=0.0):
    images = np.random.default_rng(seed).random(shape).astype(np.float32)
    return gaussian_filter(images, (0, 0, blur, blur)) if blur else images


def ellipses(side, angles, long=4.5, short=2.5):
    """(B, 1, side, side) elongated sources at angles in radians."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    cos, sin = (part(np.asarray(angles))[:, None, None, None] for part in (np.cos, np.sin))
    along, across = x * cos + y * sin, y * cos - x * sin
    return np.exp(-(along**2) / (2 * long**2) - across**2 / (2 * short**2)).astype(np.float32)


@given(geometries, st.integers(1, 3), st.sampled_from([1, 5, 17]), st.integers(1, 4))
def test_turning_or_flipping_an_image_changes_no_distance(geometry, channels, neurons, batch):
    images = pictures(batch, channels, geometry.image_side, geometry.image_side)
    weights = pictures(neurons, channels, geometry.neuron_side, geometry.neuron_side, seed=1)
    search = PolarSearch(weights, geometry)
    plain = search(images)
    assert plain.distance.shape == plain.transform.shape == (batch, neurons)
    assert not plain.exact.any()
    np.testing.assert_array_equal(plain.bmu, plain.distance.argmin(axis=1))
    np.testing.assert_array_equal(plain.bmu_distance, plain.distance.min(axis=1))
    assert (plain.transform >= 0).all()
    assert (plain.transform < geometry.transforms).all()
    scale = np.sqrt((images.astype(float) ** 2).sum(axis=(1, 2, 3)))[:, None] ** 2 + search.scores.norms
    for turns in range(4):
        turned = np.rot90(images, turns, axes=(2, 3))
        for view in (turned, turned[:, :, ::-1]) if geometry.flip else (turned,):
            found = search(view).distance.astype(float)
            np.testing.assert_array_less(np.abs(found**2 - plain.distance.astype(float) ** 2), 1e-5 * scale)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(
    ("region", "side", "neuron_side"),
    [("quadratic", 40, 56), ("circular", 40, 56), ("annular", 40, 56), ("quadratic", 41, 57), ("circular", 41, 41)],
)
def test_the_angle_of_a_turned_copy_is_found(region, side, neuron_side, flip):
    inner = 6 if region == "annular" else 0
    region_side = 28 if region == "quadratic" else 40
    geometry = Geometry.derive(side, 36, flip, region, neuron_side, region_side, inner)
    image = pictures(1, 2, side, side, seed=3, blur=2.0)[0]
    y = np.arange(side) - (side - 1) / 2
    image *= np.exp(-(y[:, None] ** 2 + y**2) / 60).astype(np.float32)  # it ends within the region
    t = np.arange(0, geometry.transforms, 5)
    weights = np.stack([transform(image, int(k), geometry) for k in t])
    found = PolarSearch(weights, geometry)(image[None])
    assert found.transform[0].tolist() == t.tolist()
    size = np.sqrt((weights.astype(float) ** 2).sum(axis=(1, 2, 3)))
    assert (found.distance[0] < 0.05 * size).all()


@pytest.mark.parametrize("flip", [True, False])
def test_a_single_rotation(flip):
    """R = 1 has no quarter turns: a turned copy is another source."""
    geometry = Geometry.derive(20, 1, flip)
    y = np.arange(20) - 9.5
    image = pictures(1, 1, 20, 20, seed=3, blur=1.5) * np.exp(-(y[:, None] ** 2 + y**2) / 30).astype(np.float32)
    views = [np.rot90(image, turns, axes=(2, 3)) for turns in range(4)]
    weights = np.concatenate([*views, *(view[:, :, ::-1] for view in views)])
    search = PolarSearch(np.ascontiguousarray(weights), geometry)
    found, wanted = search(image), Search(weights, geometry)(image)
    assert (found.transform < geometry.transforms).all()
    alike = wanted.distance[0] < 1e-6
    assert alike.sum() == (2 if flip else 1)
    assert (found.distance[0][alike] < 0.2 * found.distance[0][~alike].min()).all()
    assert np.array_equal(found.transform[0][alike], wanted.transform[0][alike])


def test_it_ranks_nearly_as_the_exact_search_does():
    geometry, rng = Geometry.derive(40, 48), np.random.default_rng(2)
    prototypes = ellipses(57, np.zeros(12), 2.0 + 0.4 * np.arange(12)[:, None, None, None])
    images = ellipses(40, rng.uniform(0, 7, 32), rng.uniform(2, 6, (32, 1, 1, 1)))
    polar, exact = PolarSearch(prototypes, geometry)(images), Search(prototypes, geometry)(images)
    chosen = exact.distance[np.arange(32), polar.bmu]
    size = np.sqrt((images.astype(float) ** 2).sum(axis=(1, 2, 3)))
    assert (chosen - exact.bmu_distance < 0.02 * size).all()
    assert np.mean(polar.bmu == exact.bmu) > 0.9
    np.testing.assert_allclose(polar.distance, exact.distance, atol=0.03 * size.max())


def angles_in_bins(method, images, weights, geometry):
    """How many best angles, modulo a quarter turn, fall into each of nine equal bins."""
    som = Som(weights, Cartesian(len(weights)))
    found = best_match(images, som, geometry.rotations, geometry.flip, geometry.region, method=method)
    k = found.transform[np.arange(len(images)), found.bmu] % geometry.base_rotations
    return np.bincount(k * 9 // geometry.base_rotations, minlength=9)


def noisy_sources(count, side, beam, noise, rng):
    """Sources at random angles; a beam (sigma in pixels) makes the noise that of a radio map, none makes it white."""
    angles, sky = rng.uniform(0, 2 * np.pi, count), rng.standard_normal((count, 1, side, side), np.float32)
    sky = gaussian_filter(sky, (0, 0, beam, beam)) if beam else sky
    return ellipses(side, angles, 5.0, 3.0) + sky * np.float32(noise / sky.std())


@pytest.mark.parametrize("neurons", [1, 3])
@pytest.mark.parametrize("noise", [0.3, 0.8])
@pytest.mark.parametrize(("region", "neuron_side"), [("quadratic", 68), ("circular", 68), ("quadratic", 69)])
def test_best_angles_of_noisy_sources_are_isotropic(region, neuron_side, noise, neurons):
    """Those of the exact search are not: it prefers the angles at which interpolation damps the noise."""
    geometry = Geometry.derive(48, 72, True, region, neuron_side)
    images = noisy_sources(600, 48, 0.0, noise, np.random.default_rng(1))
    longer = 5.0 + np.arange(neurons)[:, None, None, None]
    weights = ellipses(neuron_side, 0.3 * np.arange(neurons), longer, 3.0)
    polar, exact = (angles_in_bins(method, images, weights, geometry) for method in ("polar", "exact"))
    assert chisquare(polar).pvalue > 1e-3
    assert chisquare(exact).pvalue < 1e-6
    assert exact.max() > 1.4 * 600 / 9 > polar.max()


def test_best_angles_in_the_noise_of_a_radio_map_are_isotropic():
    geometry = Geometry.derive(48, 72, region="circular")
    images = noisy_sources(600, 48, 1.1, 0.8, np.random.default_rng(1))
    weights = ellipses(68, [0.0], 5.0, 3.0)
    polar, exact = (angles_in_bins(method, images, weights, geometry) for method in ("polar", "exact"))
    assert chisquare(polar).pvalue > 1e-3
    assert chisquare(exact).pvalue < 1e-6


@pytest.mark.parametrize("region", ["quadratic", "circular"])
def test_the_energy_of_a_source_is_that_of_the_turned_sources(region):
    geometry = Geometry.derive(48, 24, True, region)
    images = ellipses(48, [0.2, 0.9], 4.0, 3.0)  # they end within the region
    search = PolarSearch(np.zeros((1, 1, 68, 68), np.float32), geometry)
    found = search.energies(image_innermost(padded(images)[0]))
    assert found.shape == (8, 6, BLOCK_IMAGES)
    for b, image in enumerate(images):
        turned = transform_stack(image, geometry)[..., geometry.region_mask].astype(float)
        np.testing.assert_allclose(found[..., b].reshape(-1), (turned**2).sum(axis=(1, 2)), rtol=2e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_that_is_not_finite_harms_no_other(bad):
    geometry = Geometry.derive(12, 8)
    images, weights = pictures(4, 1, 12, 12), pictures(5, 1, 17, 17, seed=1)
    search = PolarSearch(weights, geometry)
    wanted = search(images)
    images[1], images[3, 0, 0, 0] = bad, bad
    found = search(images)
    assert np.isnan(found.distance[[1, 3]]).all()
    assert np.isnan(found.bmu_distance[[1, 3]]).all()
    assert not found.transform[[1, 3]].any()
    assert not found.bmu[[1, 3]].any()
    for name in Match.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name)[[0, 2]], getattr(wanted, name)[[0, 2]])


def test_read_only_images_doubles_and_blocks():
    geometry = Geometry.derive(12, 8)
    images, weights = pictures(40, 2, 12, 12), pictures(17, 2, 17, 17, seed=1)
    wanted = best_match(images, Som(weights, Cartesian(17)), 8, method="polar")
    locked = np.asfortranarray(images[:32]), np.asfortranarray(weights)
    for array in locked:
        array.flags.writeable = False
    search = PolarSearch(locked[1], geometry)
    for found in (search(locked[0]), search(images[:32].astype(float))):
        np.testing.assert_array_equal(found.distance, wanted.distance[:32])
    np.testing.assert_array_equal(locked[0], images[:32])
    assert search(images[:0]).distance.shape == (0, 17)
    one = search(images[5:6])
    np.testing.assert_allclose(one.distance[0], wanted.distance[5], rtol=1e-5)
    with pytest.raises(ShapeError, match=r"33.*32"):
        search(images[:33])
    with pytest.raises(ShapeError, match=r"11, 11"):
        search(images[:1, :, :11, :11])
    with pytest.raises(EngineError, match="list"):
        PolarSearch([], geometry)


def test_parts_of_a_map_hold_all_neurons():
    geometry = Geometry.derive(12, 8)
    weights = pictures(2 * PART_NEURONS + 3, 1, 17, 17)
    scores = Scores(weights, geometry)
    inner = image_innermost(padded(pictures(3, 1, 12, 12))[0])
    energies = np.zeros((8, 2, BLOCK_IMAGES), np.float32)
    parts = list(scores(scores.spectra(inner), energies))
    assert [part.first for part in parts] == [0, PART_NEURONS, 2 * PART_NEURONS]
    assert sum(len(part.best) for part in parts) == len(weights)
    inside = weights[..., geometry.region_mask].astype(float)
    np.testing.assert_allclose(scores.norms, (inside**2).sum(axis=(1, 2)), rtol=1e-12)
    at = PART_NEURONS + 4
    single = Scores(weights[at : at + 1], geometry, scores.table.band)
    alone = next(iter(single(single.spectra(inner), energies)))
    np.testing.assert_allclose(alone.best[0], parts[1].best[4], rtol=1e-4)


@given(st.integers(6, 20), st.sampled_from(["quadratic", "circular"]), st.integers(1, 3), st.sampled_from([4, 16]))
def test_amplitudes_do_not_change_with_quarter_turns_and_flips(side, region, channels, band):
    geometry = Geometry.derive(side, 8, region=region)
    images = pictures(3, channels, side, side)
    found = amplitudes(images, geometry, band)
    assert found.shape == (3, channels, len(rings(geometry, band)), band)
    assert found.dtype == np.float32
    for turns in range(4):
        turned = np.rot90(images, turns, axes=(2, 3))
        for view in (turned, turned[:, :, ::-1]):
            np.testing.assert_allclose(amplitudes(view, geometry, band), found, atol=2e-6)


def test_amplitudes_nearly_do_not_change_with_any_turn():
    geometry = Geometry.derive(48, 8)
    angles = np.radians([0, 7, 13, 30, 45, 61])
    found = amplitudes(ellipses(48, angles, 6.0, 3.0), geometry)
    np.testing.assert_allclose(found[1:], np.broadcast_to(found[:1], found[1:].shape), atol=1e-2 * found.max())
    other = amplitudes(ellipses(48, [0.0], 4.0, 3.0), geometry)
    assert np.abs(other - found[:1]).max() > 0.05 * found.max()


def test_amplitudes_are_the_size_of_the_waves_on_a_ring():
    geometry, band = Geometry.derive(60, 8), 8
    radii = rings(geometry, band).radii
    y, x = np.mgrid[:60, :60] - 29.5
    image = 2 + 3 * np.cos(2 * np.arctan2(y, x) + 0.4) * (np.hypot(x, y) > 3)
    found = amplitudes(image[None, None].astype(np.float32), geometry, band)[0, 0]
    ring = int(np.searchsorted(radii, 15))
    assert found[ring, 0] == pytest.approx(2, rel=1e-2)
    assert found[ring, 2] == pytest.approx(1.5, rel=1e-2)
    assert np.delete(found[ring], [0, 2]).max() < 0.02


def test_amplitudes_of_images_with_nan_of_none_and_of_another_side():
    geometry, images = Geometry.derive(12, 8), pictures(4, 2, 12, 12)
    wanted = amplitudes(images, geometry)
    spoilt = images.copy()
    spoilt[2, 1, 3, 3] = np.nan
    spoilt.flags.writeable = False
    found = amplitudes(spoilt, geometry)
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(found[[0, 1, 3]], wanted[[0, 1, 3]], atol=1e-6)
    assert amplitudes(images[:0], geometry).shape == (0, *wanted.shape[1:])
    for shape in ((2, 1, 13, 13), (2, 12, 12), (2, 1, 12, 13)):
        with pytest.raises(ShapeError, match="12, 12"):
            amplitudes(np.zeros(shape, np.float32), geometry)


@pytest.mark.parametrize("method", ["certified", "exact", "polar", "reference"])
def test_channel_weights_are_factors_on_squared_differences(method):
    images, weights = pictures(5, 3, 10, 10), pictures(4, 3, 15, 15, seed=1)
    scale = np.sqrt(np.array([0.5, 2, 7], np.float32)).reshape(1, 3, 1, 1)
    found = best_match(images, Som(weights, Cartesian(4)), 8, method=method, channel_weights=[0.5, 2, 7])
    by_hand = best_match(images * scale, Som(weights * scale, Cartesian(4)), 8, method=method)
    for name in Match.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(by_hand, name))
    ones = best_match(images, Som(weights, Cartesian(4)), 8, method=method, channel_weights=(1, 1, 1))
    plain = best_match(images, Som(weights, Cartesian(4)), 8, method=method)
    np.testing.assert_array_equal(ones.distance, plain.distance)


@pytest.mark.parametrize("method", ["certified", "exact", "polar", "reference"])
def test_a_weight_of_zero_ignores_a_channel(method):
    images, weights = pictures(5, 2, 10, 10), pictures(4, 2, 15, 15, seed=1)
    found = best_match(images, Som(weights, Cartesian(4)), 8, method=method, channel_weights=[1, 0])
    only = best_match(images[:, :1], Som(weights[:, :1], Cartesian(4)), 8, method=method)
    np.testing.assert_array_equal(found.bmu, only.bmu)
    np.testing.assert_allclose(found.distance, only.distance, rtol=2e-4 if method == "polar" else 5e-6)


@pytest.mark.parametrize("bad", [[1], [1, 2, 3], [1, -1], [np.nan, 1], [np.inf, 1], [[1, 2]]])
def test_channel_weights_that_cannot_be(bad):
    with pytest.raises(ShapeError, match="give 2 numbers"):
        best_match(pictures(1, 2, 10, 10), Som(pictures(4, 2, 15, 15), Cartesian(4)), 8, channel_weights=bad)

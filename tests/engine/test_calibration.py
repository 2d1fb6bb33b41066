import csv
import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine import Cartesian, Geometry, Som, best_match
from skysom.engine.calibration import LEAST_MARGIN, SAFETY, calibrate, needed_margin
from skysom.engine.certified import Calibration, CertifiedSearch
from skysom.engine.errors import EngineError, GeometryError, ShapeError
from skysom.engine.match import Match
from skysom.engine.transforms import transform


@pytest.fixture(scope="module")
def noise():
    """White noise on the pixels, which rings follow badly, and a map of the same: it needs a wide margin."""
    rng = np.random.default_rng(5)
    return rng.standard_normal((40, 1, 16, 16), np.float32), Som(
        rng.standard_normal((9, 1, 23, 23), np.float32), Cartesian(3, 3)
    )


def settings_of(geometry):
    return geometry.rotations, geometry.flip, geometry.region, geometry.region_side


def test_the_margin_is_several_times_what_the_sample_needed(noise):
    images, som = noise
    found = calibrate(som, images, 24)
    assert found.needed > LEAST_MARGIN
    assert found.margin == SAFETY * found.needed
    assert found.images == 40
    assert found.miss_limit == pytest.approx(1 - 0.05 ** (1 / 40))
    assert 0 < found.agreement < 1
    wider = calibrate(som, images, 24, safety=5.0)
    assert wider == replace(found, margin=5 * found.needed)


@given(
    st.sampled_from(["quadratic", "circular", "annular"]),
    st.sampled_from([8, 12, 20]),
    st.booleans(),
    st.integers(6, 16),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
def test_a_sample_searched_with_its_own_margin_is_exact(region, rotations, flip, side, channels, seed):
    inner = side // 3 if region == "annular" else 0
    geometry, rng = Geometry.derive(side, rotations, flip, region, inner_side=inner), np.random.default_rng(seed)
    images = rng.random((5, channels, side, side), np.float32)
    som = Som(rng.random((4, channels, geometry.neuron_side, geometry.neuron_side), np.float32), Cartesian(4))
    found = calibrate(som, images, *settings_of(geometry), inner_side=inner)
    assert found.needed >= 0
    assert found.margin == max(SAFETY * found.needed, LEAST_MARGIN)
    assert 0 <= found.agreement <= 1
    certified = best_match(images, som, *settings_of(geometry), calibration=found, inner_side=inner)
    exact = best_match(images, som, *settings_of(geometry), method="exact", inner_side=inner)
    np.testing.assert_array_equal(certified.bmu, exact.bmu)
    np.testing.assert_allclose(certified.bmu_distance, exact.bmu_distance, rtol=5e-6)


def test_needed_is_the_reach_of_the_deepest_best_match(noise):
    images, som = noise
    geometry = Geometry.derive(16, 24)
    margin = calibrate(som, images[:32], 24).margin
    search = CertifiedSearch(som.weights, geometry, margin)
    shares, agree = needed_margin(search, images[:32], search.exact(images[:32]))
    assert shares.shape == agree.shape == (32,)
    match, effort = search.examine(images[:32])
    assert not effort.fallback.any()
    # The depth of a search is the same share, as a part of its margin.
    np.testing.assert_allclose(effort.depth * margin, shares, atol=1e-4)
    assert match.exact.any()


def test_the_shallowest_margin_that_reaches_the_best_match_is_the_needed_one(noise):
    """Just above ``needed`` the image is answered as by the exact search; well below it is not."""
    images, som = noise
    geometry = Geometry.derive(16, 24)
    search = CertifiedSearch(som.weights, geometry)
    exact = search.exact(images[:32])
    shares, _ = needed_margin(search, images[:32], exact)
    deepest = int(shares.argmax())
    image, wanted = images[deepest : deepest + 1], exact.bmu_distance[deepest]
    above = CertifiedSearch(som.weights, geometry, float(shares[deepest]) * 1.01)(image).bmu_distance[0]
    below = CertifiedSearch(som.weights, geometry, float(shares[deepest]) * 0.5)(image).bmu_distance[0]
    assert above == pytest.approx(wanted, rel=2e-6)
    assert below > wanted * (1 + 1e-5)


def test_a_sample_that_needs_nothing_gets_the_least_margin():
    rng = np.random.default_rng(1)
    weights = rng.random((3, 1, 17, 17), np.float32)
    still = Som(weights, Cartesian(3))
    found = calibrate(still, rng.random((6, 1, 12, 12), np.float32), 4)
    assert found == Calibration(LEAST_MARGIN, 0.0, 6, pytest.approx(1 - 0.05 ** (1 / 6)), 1.0)
    blank = calibrate(Som(weights, Cartesian(3)), np.zeros((2, 1, 12, 12), np.float32), 8)
    assert (blank.margin, blank.needed) == (LEAST_MARGIN, 0)


def test_images_with_nan_do_not_count(noise):
    images, som = noise
    wanted = calibrate(som, images, 24)
    spoilt = np.concatenate([images[:7], np.full_like(images[:3], np.nan), images[7:]])
    spoilt[8] = np.inf
    spoilt = np.concatenate([spoilt, np.full((40, 1, 16, 16), np.nan, np.float32)])  # whole blocks of it, too
    spoilt.flags.writeable = False
    found = calibrate(som, spoilt, 24)
    assert (found.images, found.miss_limit) == (wanted.images, wanted.miss_limit)
    assert found.needed == pytest.approx(wanted.needed, rel=1e-3)
    assert found.agreement == wanted.agreement


def test_samples_of_one_channel_and_of_doubles(noise):
    images, som = noise
    wanted = calibrate(som, images, 24)
    assert calibrate(som, images[:, 0], 24) == wanted
    assert calibrate(som, images.astype(float), 24) == wanted


def test_errors(noise):
    images, som = noise
    for safety in (0.99, 0, -1):
        with pytest.raises(EngineError, match=f"safety is {safety}"):
            calibrate(som, images, 24, safety=safety)
    with pytest.raises(EngineError, match="no finite image"):
        calibrate(som, np.full((2, 1, 16, 16), np.nan, np.float32), 24)
    for rotations in (4, 24):
        with pytest.raises(EngineError, match="no finite image"):
            calibrate(som, images[:0], rotations)
    with pytest.raises(ShapeError, match="2 channels"):
        calibrate(som, np.zeros((2, 2, 16, 16), np.float32), 24)
    with pytest.raises(GeometryError, match="inner side is 0"):
        calibrate(som, images, 24, region="annular")


@pytest.fixture(scope="module")
def first_cutouts(shared):
    """112 distinct FIRST sources, 75 by 75 pixels, scaled to a peak of 1."""
    folder = shared("realdata/radio_first_mirabest")
    with (folder / "mirabest_catalogue.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # comment cards of these files hold characters FITS forbids
        images = np.stack([fits.getdata(folder / row["filename"]) for row in rows[:: len(rows) // 112][:112]])
    images = images.astype(np.float32).reshape(112, 1, 75, 2, 75, 2).mean(axis=(3, 5))
    return images / images.max(axis=(1, 2, 3), keepdims=True)


@pytest.mark.realdata
@pytest.mark.parametrize("region", ["quadratic", "circular"])
def test_first_sources_with_a_calibrated_margin(first_cutouts, region):
    geometry = Geometry.derive(75, 120, True, region)
    weights = np.stack([transform(image, 0, geometry) for image in first_cutouts[::7]])
    rest = np.delete(first_cutouts, np.s_[::7], axis=0)
    som = Som(weights, Cartesian(4, 4))
    assert (len(som.weights), len(rest)) == (16, 96)
    calibration = calibrate(som, rest[::2], *settings_of(geometry))
    assert calibration.images == 48
    found = best_match(rest, som, *settings_of(geometry), calibration=calibration)
    exact = best_match(rest, som, *settings_of(geometry), method="exact")
    for name in ("bmu", "bmu_distance"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=2e-6)
    rows = np.arange(96)
    assert found.exact[rows, found.bmu].all()
    assert np.array_equal(found.transform[rows, found.bmu], exact.transform[rows, exact.bmu])
    assert not np.all([np.array_equal(getattr(found, n), getattr(exact, n)) for n in Match.__dataclass_fields__])


def test_channel_weights_scale_what_is_calibrated():
    rng = np.random.default_rng(0)
    geometry = Geometry.derive(20, 16)
    weights = rng.random((6, 2, geometry.neuron_side, geometry.neuron_side), np.float32)
    images = rng.random((8, 2, 20, 20), np.float32)
    scale = np.sqrt(np.array([2.0, 0.25], np.float32)).reshape(1, 2, 1, 1)
    lattice = Cartesian(6)
    wanted = calibrate(Som(weights * scale, lattice), images * scale, 16)
    assert calibrate(Som(weights, lattice), images, 16, channel_weights=[2.0, 0.25]) == wanted

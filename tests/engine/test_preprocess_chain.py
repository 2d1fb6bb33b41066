"""Whole chains: failures, independence of the images, real cut-outs."""

import csv
import warnings

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skysom.engine.preprocess import STEPS, Batch, label_islands, preprocess

COMMON = [
    ("noise", {}),
    ("signal_to_noise_mask", {"threshold": 3.0}),
    ("islands", {}),
    ("transfer", {"function": "sqrt"}),
    ("min_max", {}),
    ("circular_mask", {}),
]
QUICK = [
    ("block_mean", {"max_side": 96}),
    ("circular_mask", {}),
    ("noise", {}),
    ("signal_to_noise_mask", {"threshold": 3.0}),
    ("islands", {"minimum_pixels": 3}),
    ("central_islands", {"radius_fraction": 0.25}),
    ("transfer", {"function": "sqrt"}),
    ("min_max", {}),
]
EVERYTHING = [
    ("fill_nan", {}),
    ("block_mean", {"max_side": 24}),
    ("noise", {"method": "histogram"}),
    ("signal_to_noise_mask", {"threshold": 2.0, "channels": (0,)}),
    ("islands", {"minimum_pixels": 2, "channels": (0,)}),
    ("central_islands", {"radius_fraction": 0.5, "keep": "brightest", "channels": (0,)}),
    ("convex_hull", {"smoothing_sigma": 1.0}),
    ("square_mask", {}),
    ("transfer", {"function": "asinh"}),
    ("min_max", {"per": "island"}),
    ("gaussian_weight", {}),
    ("channel_weights", {"weights": (0.9, 0.1)}),
    ("physical_scale", {"kpc_side": 200.0}),
]


def good_image(side=48, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return (rng.normal(size=(side, side)) + 60 * np.exp(-((x - 3) ** 2 + y**2) / 12)).astype(np.float32)


def survey(channels=1):
    """Good images beside one of each kind of bad data; returns images and expected status."""
    side = 48
    empty = np.random.default_rng(1).normal(size=(side, side)).clip(-2, 2)
    flat = np.zeros((side, side))
    flat[20:24, 20:24] = 1  # more than half the pixels the same: no noise
    infinite = good_image(seed=5)
    infinite[30:, 10] = np.inf
    gaps = good_image(seed=6)
    gaps[:, :9] = np.nan
    rows = {
        "ok": [good_image(seed=2), infinite, gaps, good_image(seed=3) * 1e30, good_image(seed=4) * 1e-30],
        "all_nan": [np.full((side, side), np.nan)],
        "constant": [np.full((side, side), 7.0), np.zeros((side, side))],
        "empty_mask": [empty],
        "no_noise": [flat],
    }
    images = np.stack([image for group in rows.values() for image in group])
    status = [cause for cause, group in rows.items() for _ in group]
    return np.repeat(images[:, None], channels, axis=1).astype(np.float32), status


def test_every_cause_of_failure():
    images, expected = survey()
    before = images.copy()
    batch = preprocess(images, COMMON)
    assert batch.status.tolist() == expected
    np.testing.assert_array_equal(images, before)
    assert batch.images.dtype == np.float32
    assert np.isfinite(batch.images).all()
    assert not batch.images[~batch.ok].any()
    assert not batch.images[~batch.mask].any()
    for image in batch.images[batch.ok]:
        assert image.max() == 1
        assert image.min() == 0


def test_redshift_failures():
    z = [0.1, np.nan, 0.0, -1.0, np.inf]
    batch = preprocess(np.stack([good_image()[None]] * 5), [("physical_scale", {})], redshift=z, pixel_scale_arcsec=1.8)
    assert batch.status.tolist() == ["ok"] + ["bad_redshift"] * 4


def test_constant_after_masking():
    image = np.zeros((1, 1, 9, 9), dtype=np.float32)
    image[0, 0, 0, 0] = 1
    assert preprocess(image, [("circular_mask", {})]).status[0] == "constant"
    assert preprocess(image, [("circular_mask", {}), ("min_max", {})]).status[0] == "constant"
    missing = np.full((1, 1, 9, 9), np.nan, dtype=np.float32)
    missing[0, 0, 0, :2] = 1, 2
    assert preprocess(missing, [("circular_mask", {"scale": 0.2})]).status[0] == "empty_mask"


def test_one_bad_channel_fails_the_image():
    images = np.stack([good_image(), np.full((48, 48), np.nan)])[None]
    assert preprocess(images, []).status[0] == "all_nan"


def test_the_first_cause_is_kept_and_no_image_is_fine():
    images, _ = survey()
    assert preprocess(images[:0], COMMON).images.shape == (0, 1, 48, 48)
    batch = preprocess(images, [*COMMON, ("circular_mask", {"radius_pixels": 0.1})])
    assert set(batch.status.tolist()) == {"empty_mask", "all_nan", "constant", "no_noise"}


@pytest.mark.parametrize(("chain", "channels"), [(COMMON, 1), (QUICK, 1), (EVERYTHING, 2)])
def test_an_image_does_not_depend_on_the_others(chain, channels):
    images, _ = survey(channels)
    redshift = np.linspace(0.05, 0.5, len(images))
    together = preprocess(images, chain, redshift=redshift, pixel_scale_arcsec=1.8)
    assert together.ok.sum() >= 3
    for row in range(len(images)):
        alone = preprocess(images[row : row + 1], chain, redshift=redshift[row : row + 1], pixel_scale_arcsec=1.8)
        assert alone.status[0] == together.status[row]
        np.testing.assert_array_equal(alone.images[0], together.images[row])
        np.testing.assert_array_equal(alone.mask[0], together.mask[row])
    reverse = preprocess(images[::-1], chain, redshift=redshift[::-1], pixel_scale_arcsec=1.8)
    np.testing.assert_array_equal(reverse.images[::-1], together.images)


pixels = hnp.arrays(
    np.float32,
    (2, 1, 9, 9),
    elements=st.floats(-100, 100, width=32) | st.just(float("nan")) | st.just(float("inf")),
)


@settings(deadline=None, max_examples=60)
@given(pixels, st.sampled_from([COMMON, QUICK, [("min_max", {})], [("transfer", {"function": "log"})]]))
def test_any_pixels_give_finite_images_and_a_status(images, chain):
    batch = preprocess(images, chain)
    assert np.isfinite(batch.images).all()
    assert not batch.images[~batch.mask].any()
    assert not batch.images[~batch.ok].any()
    assert not batch.mask[~batch.ok].any()
    if chain[-1][0] == "min_max":
        assert batch.images.min() >= 0
        assert batch.images.max() <= 1


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.floats(1e-6, 1e6),
    st.sampled_from(["mad", "std", "histogram"]),
)
def test_noise_scales_with_the_image(seed, factor, method):
    images = good_image(seed=seed).astype(np.float64)[None, None]
    one, other = (STEPS["noise"](Batch.start(x), method=method).noise[0, 0] for x in (images, images * factor))
    # The histogram's bins move by rounding: its fit changes in steps of a pixel from one bin to the next.
    assert other == pytest.approx(one * factor, rel=2e-2 if method == "histogram" else 1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 3), st.booleans())
def test_a_turned_or_mirrored_image_gives_the_turned_result(seed, turns, mirror):
    image = good_image(seed=seed)
    moved = np.rot90(image, turns)[:: -1 if mirror else 1]
    result = preprocess(np.stack([image, moved])[:, None], QUICK).images[:, 0]
    np.testing.assert_allclose(result[1], np.rot90(result[0], turns)[:: -1 if mirror else 1], atol=1e-6)


@pytest.fixture(scope="module")
def first_cutouts(shared):
    folder = shared("realdata/radio_first_mirabest")
    with (folder / "mirabest_catalogue.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # comment cards of these files hold characters FITS forbids
        images = np.stack([fits.getdata(folder / row["filename"]) for row in rows[::8]])
    return images[:, None].astype(np.float32), np.array([float(row["size_arcsec"]) for row in rows[::8]])


@pytest.mark.realdata
def test_first_cutouts_keep_their_source_and_lose_the_noise(first_cutouts):
    images, size_arcsec = first_cutouts
    batch = preprocess(images, QUICK, pixel_scale_arcsec=1.8)
    assert batch.images.shape == (100, 1, 75, 75)
    assert batch.pixel_scale_arcsec == 3.6
    assert batch.ok.sum() >= 98
    # FIRST: 0.15 mJy/beam. A block mean lowers it little, neighbouring pixels are correlated.
    assert 0.9e-4 < np.median(preprocess(images, QUICK[:1] + QUICK[2:3]).noise) < 1.6e-4
    kept = batch.mask[:, 0].sum(axis=(1, 2))[batch.ok]
    assert kept.min() >= 3
    assert np.median(kept) < 0.03 * 75 * 75  # nearly all of an image is empty sky
    brightest = preprocess(images, QUICK[:2]).images.max(axis=(1, 2, 3))
    peaks = np.where(batch.mask, preprocess(images, QUICK[:2]).images, 0).max(axis=(1, 2, 3))
    assert (peaks == brightest)[batch.ok].mean() > 0.9  # it is the source that is kept
    y, x = np.mgrid[:75, :75] - 37.0
    extent = np.array([2 * np.hypot(y, x)[m[0]].max() * 3.6 for m in batch.mask[batch.ok]])
    assert np.corrcoef(extent, size_arcsec[batch.ok])[0, 1] > 0.6
    assert label_islands(batch.mask[batch.ok][:, 0]).max() < 2.5 * batch.ok.sum()

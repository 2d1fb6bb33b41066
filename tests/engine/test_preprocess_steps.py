"""Each preprocessing step on images small enough to know the answer."""

import inspect
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import closing as skimage_closing

from skysom.engine.errors import PreprocessError, ShapeError
from skysom.engine.preprocess import (
    STEPS,
    Batch,
    balanced_weights,
    clipped_noise,
    label_islands,
    output_side,
    preprocess,
)
from skysom.engine.preprocess.masking import disc, square
from skysom.engine.preprocess.segmentation import close_gaps

Chain = list[tuple[str, dict[str, Any]]]


def image_of(side=21, *, seed=3, sources=(((10, 10), 50.0),), noise=1.0, width=1.5):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = rng.normal(scale=noise, size=(side, side))
    for (row, column), peak in sources:
        image += peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
    return image[None, None].astype(np.float32)


def run(name, images, before=(), **parameters):
    batch = Batch.start(images)
    for other, options in before:
        batch = STEPS[other](batch, **options)
    return STEPS[name](batch, **parameters)


def test_steps_can_be_configured_by_inspection():
    for name, function in STEPS.items():
        signature = inspect.signature(function)
        first, *others = signature.parameters.values()
        assert first.name == "batch"
        assert all(p.kind is p.KEYWORD_ONLY and p.annotation is not p.empty for p in others), name
        assert len((function.__doc__ or "").splitlines()[0]) > 20, name


@pytest.mark.parametrize("method", ["mad", "std"])
def test_clipped_noise_against_a_plain_loop(method):
    rng = np.random.default_rng(0)
    rows = rng.normal(5, 2, size=(4, 997))
    rows[:, :40] += 300
    rows[2, 100:500] = np.nan
    expected = []
    for row in rows:
        values = row[np.isfinite(row)]
        for last in (False, False, False, True):
            centre = np.median(values)
            spread = 1.4826 * np.median(np.abs(values - centre)) if method == "mad" else np.std(values)
            if not last:
                values = values[np.abs(values - centre) < 3 * spread]
        expected.append(spread)
    np.testing.assert_allclose(clipped_noise(rows, method=method), expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["mad", "std", "histogram"])
def test_noise_is_found_beside_a_source(method):
    found = run("noise", image_of(101, noise=2.5, sources=(((50, 40), 900.0),)), method=method)
    assert found.noise[0, 0] == pytest.approx(2.5, rel=0.1)


def test_noise_leaves_padding_out():
    image = image_of(60, noise=1.0)
    image[..., :40] = 0
    assert run("noise", image).status[0] == "no_noise"
    assert run("noise", image, ignore_zeros=True).noise[0, 0] == pytest.approx(1.0, rel=0.15)


def test_signal_to_noise_mask():
    batch = run("signal_to_noise_mask", image_of(), [("noise", {})], threshold=5.0)
    np.testing.assert_array_equal(batch.mask, batch.images > 5 * batch.noise[0, 0])


def test_noise_must_be_estimated_and_is_forgotten():
    with pytest.raises(PreprocessError, match="put a 'noise' step before"):
        run("signal_to_noise_mask", image_of())
    for name in ("transfer", "min_max", "gaussian_weight", "block_mean"):
        parameters = {"max_side": 10} if name == "block_mean" else {}
        with pytest.raises(PreprocessError, match="put a 'noise' step before"):
            run("signal_to_noise_mask", image_of(), [("noise", {}), (name, parameters)])


def test_closing_is_that_of_scikit_image():
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random((12, 17)) < 0.3
        np.testing.assert_array_equal(close_gaps(mask), skimage_closing(mask))


def test_labels_number_all_islands_of_a_stack():
    mask = np.zeros((2, 8, 8), dtype=bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 6:, 6:] = mask[1, 0, 0] = True
    labels = label_islands(mask, closing=False)
    assert labels.max() == 3
    assert labels[0, 0, 0] == labels[0, 1, 1] == 1
    assert labels[0, 7, 7] == 2
    assert labels[1, 0, 0] == 3
    assert label_islands(mask, closing=False, minimum_pixels=3).max() == 1


def test_islands_drops_small_ones_and_adds_no_pixel():
    image = image_of(sources=(((10, 10), 50.0),), noise=0.5)
    image[0, 0, 2, 2] = 40
    before: Chain = [("noise", {}), ("signal_to_noise_mask", {})]
    batch = run("islands", image, before, minimum_pixels=5)
    assert batch.mask[0, 0, 10, 10]
    assert not batch.mask[0, 0, 2, 2]
    assert not (batch.mask & ~run("signal_to_noise_mask", image, before[:1]).mask).any()
    assert run("islands", image, before, minimum_pixels=1).mask[0, 0, 2, 2]


def test_central_islands():
    sources = (((15, 10), 40.0), ((15, 20), 90.0), ((4, 26), 300.0))
    before: Chain = [("noise", {}), ("signal_to_noise_mask", {"threshold": 5.0})]
    image = image_of(31, sources=sources)
    both = run("central_islands", image, before, radius_pixels=6.0)
    assert both.mask[0, 0, 15, [10, 20]].all()
    assert not both.mask[0, 0, 4, 26]
    one = run("central_islands", image, before, radius_fraction=0.2, keep="brightest")
    assert one.mask[0, 0, 15, 20]
    assert not one.mask[0, 0, 15, 10]
    assert run("central_islands", image, before, radius_pixels=1.0).status[0] == "empty_mask"


@pytest.mark.parametrize(
    ("function", "expected"),
    [("log", [-1, 0, 2]), ("sqrt", [0.1**0.5, 1, 10]), ("linear", [0.1, 1, 100])],
)
def test_transfer(function, expected):
    image = np.zeros((1, 1, 2, 2), dtype=np.float32)
    image[0, 0] = np.array([[-1, 0.1], [1, 100]])
    batch = run("transfer", image, function=function)
    np.testing.assert_allclose(batch.images[batch.mask][-3:], expected, rtol=1e-6)
    assert batch.mask[0, 0, 0, 0] == (function == "linear")


def test_transfer_asinh_is_in_units_of_the_noise():
    batch = run("transfer", image_of(), [("noise", {})], function="asinh", softening=2.0)
    source = run("noise", image_of())
    np.testing.assert_allclose(batch.images, np.arcsinh(source.images / (2 * source.noise[0, 0])), rtol=1e-5)
    assert batch.mask.all()


def test_min_max_per_island():
    image = np.zeros((1, 1, 9, 9), dtype=np.float32)
    image[0, 0, 1, 1:4] = [10, 20, 30]
    image[0, 0, 7, 4:8] = [100, 500, 900, 300]
    image[0, 0, 4, 8] = 7
    image[image == 0] = np.nan
    batch = run("min_max", image, per="island")
    np.testing.assert_allclose(batch.images[0, 0, 1, 1:4], [0, 0.5, 1])
    np.testing.assert_allclose(batch.images[0, 0, 7, 4:8], [0, 0.5, 1, 0.25])
    assert batch.images[0, 0, 4, 8] == 0


def test_min_max_of_everything_or_of_the_mask():
    image = image_of(30)
    before = [("circular_mask", {"radius_pixels": 4.0})]
    inside = run("min_max", image, before)
    assert inside.images[inside.mask].min() == 0
    assert inside.images[inside.mask].max() == 1
    everything = run("min_max", image, before, inside_mask=False)
    assert everything.images.min() == 0
    assert everything.images.max() == 1


@pytest.mark.parametrize("side", [8, 9, 48, 41])
def test_masks_are_centred_and_of_the_right_side(side):
    for mask in (disc(side, 3.2), square(side, 4), square(side, 5)):
        np.testing.assert_array_equal(mask, np.rot90(mask))
        np.testing.assert_array_equal(mask, mask[::-1])
    assert square(side, 4).any(axis=0).sum() == (4 if side % 2 == 0 else 5)
    assert square(side, 5).any(axis=0).sum() == (5 if side % 2 else 6)
    assert square(side, 1000).all()
    default = run("circular_mask", image_of(side))
    np.testing.assert_array_equal(default.mask[0, 0], disc(side, side / 2))
    width = int(run("square_mask", image_of(side)).mask[0, 0].any(axis=0).sum())
    assert width <= side / np.sqrt(2) < width + 2


def test_gaussian_weight():
    image = np.full((1, 1, 21, 21), 3.0, dtype=np.float32)
    image[0, 0, 0, 0] = 4
    batch = run("gaussian_weight", image, fwhm_fraction=10 / 21)
    assert batch.images[0, 0, 10, 10] == 3
    assert batch.images[0, 0, 10, 15] == pytest.approx(1.5, rel=1e-3)
    narrow = run("gaussian_weight", image, sigma_pixels=1.0)
    assert narrow.images[0, 0, 11, 10] == pytest.approx(3 * np.exp(-0.5), rel=1e-5)


def test_convex_hull_masks_the_other_channel():
    radio = image_of(31, sources=(((15, 9), 80.0), ((15, 21), 80.0)))
    infrared = image_of(31, seed=4, sources=(((15, 15), 60.0), ((3, 3), 900.0)))
    images = np.concatenate([radio, infrared], axis=1)
    before: Chain = [("noise", {}), ("signal_to_noise_mask", {"threshold": 5.0})]
    batch = run("convex_hull", images, before)
    assert batch.mask[0, 1, 15, 15]
    assert not batch.mask[0, 1, 3, 3]
    before = [("noise", {}), ("signal_to_noise_mask", {"threshold": 5.0, "channels": (0,)})]
    plain, wide, strict = (
        run("convex_hull", images, before, **options).mask[0, 1].sum()
        for options in ({}, {"smoothing_sigma": 1.5}, {"threshold": 30.0})
    )
    assert strict < plain < wide


def test_channel_weights():
    images = np.concatenate([image_of(), image_of(seed=9)], axis=1)
    batch = run("channel_weights", images, weights=(0.95, 0.05))
    np.testing.assert_allclose(batch.images[0, 1], images[0, 1] * np.float32(0.05))
    weights = balanced_weights([[1, 10], [2, 30], [3, 20], [np.nan, 1]])
    assert weights == pytest.approx((10 / 11, 1 / 11))
    with pytest.raises(PreprocessError, match="above 0"):
        balanced_weights([[1, 0], [2, 0]])


def test_fill_nan_makes_pixels_data():
    image = image_of()
    image[0, 0, :3] = np.nan
    batch = run("fill_nan", image, value=2.0)
    assert batch.mask.all()
    assert (batch.images[0, 0, :3] == 2).all()
    assert not preprocess(image, []).images[0, 0, :3].any()


def test_block_mean_ignores_missing_pixels():
    image = np.arange(36, dtype=np.float32).reshape(1, 1, 6, 6)
    image[0, 0, 0, 0] = image[0, 0, 4, 4] = image[0, 0, 4, 5] = image[0, 0, 5, 4] = image[0, 0, 5, 5] = np.nan
    batch = run("block_mean", image, max_side=3)
    assert batch.images[0, 0, 0, 0] == pytest.approx((1 + 6 + 7) / 3)
    assert batch.images[0, 0, 1, 1] == pytest.approx((14 + 15 + 20 + 21) / 4)
    assert not batch.mask[0, 0, 2, 2]


@pytest.mark.parametrize("side", [96, 97, 150, 151, 192, 256, 300, 41])
def test_block_mean_keeps_the_centre(side):
    image = np.zeros((1, 1, side, side), dtype=np.float32)
    y = np.arange(side) - (side - 1) / 2
    image[0, 0] = y[:, None]
    steps = [("block_mean", {"max_side": 96})]
    batch = preprocess(image, steps, pixel_scale_arcsec=2.0)
    new = output_side(steps, side)
    factor = -(-side // 96)
    assert batch.images.shape[-1] == new <= 96
    assert batch.pixel_scale_arcsec == 2.0 * factor
    assert abs(batch.images[0, 0, :, 0].mean()) <= (0.5 if factor % 2 == 0 and side % 2 else 1e-5)


def test_physical_scale_brings_sources_to_the_same_size():
    from astropy.cosmology import Planck18

    z = np.array([0.05, 0.2])
    kpc = np.asarray(Planck18.kpc_proper_per_arcmin(z).to_value("kpc/arcmin")) / 60
    separation = 150 / (kpc * 1.8)  # two lobes 150 kpc apart, in pixels of 1.8 arcsec
    side = 200
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    images = np.stack([sum(np.exp(-((x - s * d / 2) ** 2 + y**2) / 18) for s in (-1, 1)) for d in separation])[:, None]
    steps = [("physical_scale", {"kpc_side": 300.0, "side_pixels": 60})]
    batch = preprocess(images, steps, redshift=z, pixel_scale_arcsec=1.8)
    assert output_side(steps, side) == 60
    assert batch.pixel_scale_arcsec is None
    for image in batch.images[:, 0]:
        peaks = [ndimage.center_of_mass(half)[1] for half in (image[:, :30], image[:, 30:])]
        assert peaks[1] + 30 - peaks[0] == pytest.approx(30, abs=0.2)  # 150 of 300 kpc


def test_physical_scale_of_an_image_too_small_for_it():
    steps = [("physical_scale", {"kpc_side": 2000.0})]
    batch = preprocess(image_of(51), steps, redshift=[0.1], pixel_scale_arcsec=1.8)
    assert 0 < batch.mask.sum() < 51 * 51 / 10
    assert batch.mask[0, 0, 25, 25]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("noise", {"method": "median"}, "use one of mad, std, histogram"),
        ("noise", {"clip_threshold": 0.0}, "above 0"),
        ("noise", {"clip_rounds": -1}, "0 or more"),
        ("circular_mask", {"radius_pixels": 4.0, "scale": 0.5}, "give one of them"),
        ("circular_mask", {"scale": -1.0}, "above 0"),
        ("square_mask", {"side_pixels": 0}, "above 0"),
        ("min_max", {"per": "island", "inside_mask": False}, "inside the mask only"),
        ("transfer", {"function": "cube"}, "use one of linear"),
        ("channel_weights", {"weights": (1.0, 2.0)}, "2 weights for 1 channels"),
        ("channel_weights", {"weights": (0.0,)}, "not all 0"),
        ("channel_weights", {}, "needs weights"),
        ("convex_hull", {}, "no channel to mask"),
        ("islands", {"channels": (1,)}, "have 0 to 0"),
        ("islands", {"minimum": 3}, "has no parameter minimum; it takes minimum_pixels"),
        ("fill_nan", {"value": float("nan")}, "finite"),
        ("block_mean", {"max_side": 0}, "above 0"),
        ("physical_scale", {}, "redshifts is missing"),
        ("sharpen", {}, "there is no step 'sharpen'"),
    ],
)
def test_bad_parameters_are_refused(name, parameters, message):
    with pytest.raises(PreprocessError, match=message):
        preprocess(image_of(), [(name, parameters)])


@pytest.mark.parametrize("shape", [(5, 5), (2, 5, 5), (1, 1, 5, 6), (1, 0, 5, 5)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match="shape"):
        preprocess(np.ones(shape), [])
    with pytest.raises(ShapeError, match="one value an image"):
        preprocess(image_of(), [], redshift=[1, 2])

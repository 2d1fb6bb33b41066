"""Features of sources: what they are, that turns do not change them, and what is refused."""

from dataclasses import asdict

import numpy as np
import pytest

from skysom.engine import Geometry
from skysom.engine.errors import ReadingError, ShapeError
from skysom.engine.polar import amplitudes
from skysom.engine.reading.features import (
    FeatureSettings,
    amplitude_features,
    distance_features,
    feature_matrix,
    feature_names,
    ring_bins,
)

GEOMETRY = Geometry.derive(21, 8, True, "circular")


def images(count, channels=1):
    return np.random.default_rng(2).random((count, channels, 21, 21)).astype(np.float32)


def test_transforms_of_distances():
    distance = np.array([[1, 2, 4], [np.nan] * 3], np.float32)
    np.testing.assert_allclose(distance_features(distance)[0], np.log([1, 2, 4]), rtol=1e-6)
    assert np.array_equal(distance_features(distance, "plain")[0], [1, 2, 4])
    assert np.array_equal(distance_features(distance[:, ::-1], "relative")[0], [4, 2, 1])
    for transform in ("log", "plain", "relative"):
        assert np.isnan(distance_features(distance, transform)[1]).all()


@pytest.mark.parametrize("transform", ["log", "plain", "relative"])
@pytest.mark.parametrize("row", [[0, 2, 4], [0, 0, 0], [0, 0, 3]])
def test_an_image_that_became_a_neuron_has_finite_features(transform, row):
    assert np.isfinite(distance_features(np.array([row], np.float32), transform)).all()


def test_excluded_neurons_have_no_column_and_are_not_the_best():
    distance = np.array([[1, 2, 4]], np.float32)
    assert np.array_equal(distance_features(distance, "relative", excluded=(0,)), [[1, 2]])
    mask = np.array([False, True, False])
    assert np.array_equal(distance_features(distance, "plain", excluded=mask), [[1, 4]])


def test_amplitudes_are_means_over_rings_and_no_quarter_turn_or_flip_changes_them():
    given = images(70, 2)
    found = amplitude_features(given, GEOMETRY, orders=4, ring_pixels=3.0)
    bins, radii = ring_bins(GEOMETRY, 4, 3.0)
    sizes = amplitudes(given, GEOMETRY, 4)
    wanted = np.stack([sizes[:, :, bins == k].mean(axis=2) for k in range(len(radii))], axis=2)
    np.testing.assert_allclose(found, np.sqrt(wanted).reshape(70, -1), rtol=1e-5, atol=1e-7)
    for turned in (np.rot90(given, axes=(2, 3)), given[:, :, ::-1], np.rot90(given, 2, axes=(2, 3))[:, :, ::-1]):
        np.testing.assert_allclose(amplitude_features(turned.copy(), GEOMETRY, orders=4, ring_pixels=3.0), found, 1e-4)


def test_an_image_with_nan_has_no_amplitudes():
    given = images(3)
    given[1, 0, 4, 4] = np.nan
    found = amplitude_features(given, GEOMETRY)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize(
    "settings",
    [
        FeatureSettings(),
        FeatureSettings("plain", 4, 1.0, (1, 3)),
        FeatureSettings(None),
        FeatureSettings("relative", 0),
    ],
)
def test_names_and_blocks_are_of_the_columns(settings):
    distance = np.random.default_rng(0).random((5, 6)).astype(np.float32) + 1
    matrix = feature_matrix(settings, GEOMETRY, distance, images(5, 2))
    names, blocks = feature_names(settings, GEOMETRY, neurons=6, channels=2)
    assert matrix.shape == (5, len(names)) == (5, len(blocks))
    assert len(set(names)) == len(names)
    assert FeatureSettings.from_dict(asdict(settings)) == settings
    if settings.transform is not None:
        kept = [n for n in range(6) if n not in settings.excluded]
        assert [name for name, block in zip(names, blocks, strict=True) if block == 0] == [
            name for name in names if name.endswith(tuple(f"distance_{n}" for n in kept))
        ]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FeatureSettings("cubic"), "'cubic'"),
        (lambda: FeatureSettings(orders=6), "multiple of 4"),
        (lambda: FeatureSettings(ring_pixels=0.0), "above 0"),
        (lambda: FeatureSettings(None, 0), "neither"),
        (lambda: FeatureSettings.from_dict({"transform": "log"}), "damaged"),
        (lambda: distance_features(np.zeros(3)), r"\(3,\)"),
        (lambda: distance_features(np.zeros((2, 3)), "cubic"), "'cubic'"),
        (lambda: distance_features(np.zeros((2, 3)), excluded=(3,)), "0 to 2"),
        (lambda: feature_matrix(FeatureSettings(), GEOMETRY, None, images(1)), "not given"),
        (lambda: feature_matrix(FeatureSettings(), GEOMETRY, np.ones((1, 2))), "no images"),
        (lambda: feature_matrix(FeatureSettings(), GEOMETRY, np.ones((2, 2)), images(1)), "2 rows .* 1 images"),
    ],
)
def test_refused(call, words):
    with pytest.raises(ReadingError, match=words):
        call()


def test_images_of_another_side_are_refused():
    with pytest.raises(ShapeError, match="21"):
        amplitude_features(np.zeros((1, 1, 20, 20), np.float32), GEOMETRY)
